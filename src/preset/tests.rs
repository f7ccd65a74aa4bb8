//! Tests of the table: every row compiles, and the names are those of the contract.

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
