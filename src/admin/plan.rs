//! Owns `stagepost plan`: a configuration tried against stored requests, newest first.
//!
//! Promises that nothing becomes active and nothing is written, that memory is bounded whatever is asked for, and that
//! what can't be read or told becomes a note. How one request fares is [`Trial`]'s.

use std::{ops::ControlFlow, path::Path};

use super::{
    filter::Compiled,
    find::Found,
    list::{Item, newest},
    ports::{Compared, Ports, Trial},
    privacy::Hidden,
    wire::{Difference, PlanAsk, PlanEvent, PlanReply, PlanSummary},
};
use crate::{event::Seq, log::read_body};

/// Tries a configuration and gives what would be different, then the summary. Returns early if nobody reads on.
pub(super) fn plan(
    ports: &dyn Ports,
    trial: &dyn Trial,
    wanted: &Compiled,
    limit: u64,
    emit: &mut dyn FnMut(PlanReply) -> ControlFlow<()>,
) {
    let mut summary = PlanSummary { hash: trial.hash().to_owned(), ..PlanSummary::default() };
    let mut go_on =
        trial.warnings().iter().try_for_each(|warning| emit(PlanReply::Note(format!("warning: {warning}"))));
    if go_on.is_continue() && limit > 0 {
        let read = newest(ports, wanted, Seq::MAX, &mut |item| {
            go_on = match item {
                Item::Note(note) => emit(PlanReply::Note(note)),
                Item::Event(found) => one(ports, trial, &found, &mut summary, emit),
            };
            if summary.events >= limit { ControlFlow::Break(()) } else { go_on }
        });
        if let Err(error) = read {
            let _nobody_reads = emit(PlanReply::Failed(error.to_string()));
            return;
        }
    }
    if go_on.is_continue() {
        let _nobody_reads = emit(PlanReply::Summary(summary));
    }
}

/// The configuration that is asked for.
///
/// # Errors
/// Its problems.
pub(super) fn trial(ports: &dyn Ports, ask: &PlanAsk) -> Result<Box<dyn Trial>, Vec<String>> {
    let file = ask.file.as_deref().map(Path::new);
    match file {
        Some(file) if !file.is_absolute() => Err(vec![format!("{}: the path must be absolute", file.display())]),
        _ => ports.trial(file),
    }
}

fn one(
    ports: &dyn Ports,
    trial: &dyn Trial,
    found: &Found,
    summary: &mut PlanSummary,
    emit: &mut dyn FnMut(PlanReply) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let event = &found.event;
    let body = match read_body(&*ports.log(), event) {
        Ok(body) => body,
        Err(error) => return emit(PlanReply::Note(format!("{}: {error}", event.id))),
    };
    let Compared { mut differences, unverified } = match trial.compare(event, &body) {
        Ok(compared) => compared,
        Err(why) => return emit(PlanReply::Note(format!("{}: {why}", event.id))),
    };
    count(summary, &differences, unverified);
    if differences.is_empty() {
        return ControlFlow::Continue(());
    }
    let hidden = Hidden::new(ports, false);
    differences.iter_mut().for_each(|difference| hide(&hidden, difference));
    emit(PlanReply::Event(PlanEvent {
        id: event.id.to_string(),
        source: event.source.to_string(),
        received_at: event.received_at,
        differences,
    }))
}

/// What is hidden when the request is shown is hidden in what would be sent.
fn hide(hidden: &Hidden<'_>, difference: &mut Difference) {
    match difference {
        Difference::Target { before, after, .. } => {
            for url in [before, after] {
                *url = hidden.sent(url);
            }
        }
        Difference::Body { before, after, .. } => {
            for body in [before, after] {
                *body = hidden.beginning(body.bytes().into_owned().into());
            }
        }
        _ => {}
    }
}

fn count(summary: &mut PlanSummary, differences: &[Difference], unverified: bool) {
    let any = |is: fn(&Difference) -> bool| u64::from(differences.iter().any(is));
    summary.events += 1;
    summary.different += u64::from(!differences.is_empty());
    summary.refused += any(|one| matches!(one, Difference::Door { before: None, .. }));
    summary.taken += any(|one| matches!(one, Difference::Door { after: None, .. }));
    summary.moved += any(|one| matches!(one, Difference::Source { .. }));
    summary.rerouted += any(|one| matches!(one, Difference::Added { .. } | Difference::Removed { .. }));
    summary.changed += any(|one| {
        use Difference::{Body, Headers, Target, Unsent};
        matches!(one, Body { .. } | Headers { .. } | Target { .. } | Unsent { .. })
    });
    summary.unverified += u64::from(unverified);
}
