//! Tests of the table: every row compiles; its scheme takes what the provider signs and nothing else.

mod matrix;
mod sender;
mod special;
mod vectors;

use super::*;

#[test]
fn every_row_compiles_and_has_a_name_of_its_own() {
    let mut names: Vec<&str> = all().map(|preset| preset.name).collect();
    for preset in all() {
        for plan in preset.dedupe.iter().chain(&preset.event_type).chain(preset.numbering.as_ref().map(|n| &n.key)) {
            plan.selector().unwrap_or_else(|error| panic!("{}: {plan}: {error}", preset.name));
        }
        assert_eq!(preset.methods().len(), preset.methods.len(), "{}", preset.name);
        assert_eq!(preset.reply().is_none(), preset.answer == Answer::Id, "{}", preset.name);
        assert!(!preset.title.is_empty(), "{}", preset.name);
        assert_eq!(find(preset.name).map(|found| found.name), Some(preset.name));
    }
    names.sort_unstable();
    let all_names = names.len();
    names.dedup();
    assert_eq!(names.len(), all_names);
}

#[test]
fn a_window_by_the_body_is_short_and_any_other_outlasts_the_retries() {
    fn has_body_hash(plan: &KeyPlan) -> bool {
        matches!(plan, KeyPlan::BodyHash)
    }
    for preset in all() {
        match &preset.dedupe {
            Some(plan) if has_body_hash(plan) => assert!(preset.window <= BODY_WINDOW, "{}", preset.name),
            Some(_) => {
                assert!(preset.retries_for.is_none_or(|retries| retries <= preset.window), "{}", preset.name);
            }
            None => {}
        }
    }
}

/// One row of the table in docs/configuration.md.
fn documented(preset: &Preset) -> String {
    let shown = |plan: &Option<KeyPlan>| plan.as_ref().map_or_else(|| "–".to_owned(), |plan| format!("`{plan}`"));
    let answer = match preset.answer {
        Answer::Id => "202, id".to_owned(),
        Answer::Fixed { status, body: "", .. } => status.to_string(),
        Answer::Fixed { status, content_type, .. } => format!("{status}, {content_type}"),
    };
    let url = if preset.proof.needs_public_url() { "needed" } else { "–" };
    let window = match preset.window.as_secs() {
        _ if preset.dedupe.is_none() => "–".to_owned(),
        seconds if seconds.is_multiple_of(DAY) => format!("{} d", seconds / DAY),
        seconds => format!("{} h", seconds / HOUR),
    };
    let (name, title) = (preset.name, preset.title);
    let (dedupe, kind) = (shown(&preset.dedupe), shown(&preset.event_type));
    format!("| `{name}` | {title} | {dedupe} | {window} | {kind} | {answer} | {url} |")
}

#[test]
fn the_reference_has_every_preset_with_what_it_brings() {
    let reference = include_str!("../../../docs/configuration.md");
    let missing: Vec<String> = all().map(documented).filter(|row| !reference.contains(row.as_str())).collect();
    assert!(missing.is_empty(), "not in docs/configuration.md:\n{}", missing.join("\n"));
}
