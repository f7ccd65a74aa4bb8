//! Owns the operators' questions about the quarantine: listing, showing, judging again, deleting.
//!
//! Promises that a listing holds one request in memory at a time, that what can't be read becomes a note, and that a
//! request leaves the quarantine only after it is durable in the log, or because somebody deleted it. A crash between
//! the two leaves it in both; the source's dedupe key is what recognises it then.

use std::ops::ControlFlow;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{
    access::Caller,
    act::in_words,
    filter::{Compiled, FilterError, StatusFilter},
    ports::{Ports, Reads},
    privacy::{Hidden, shown_body},
    wire::{self, Acted, Discard, Filters, Pick, QuarantineReply, Quarantined, Recheck, Rechecked},
};
use crate::{
    event::{Body, Event, EventId, IdError},
    log::entry::Command,
    quarantine::{Judgement, Kept, KeptError, Purpose, Quarantine},
};

/// Ids named in an answer.
const NAMED_MAX: usize = 100;

/// Requests named in an answer.
const SAMPLE: usize = 20;

/// The state that a request in quarantine is shown with.
pub const QUARANTINED: &str = "quarantined";

/// Filters on what is kept, ready to be asked.
pub struct Wanted {
    compiled: Compiled,
    status: Option<StatusFilter>,
    reason: Option<String>,
}

impl Wanted {
    /// Checks and compiles.
    ///
    /// # Errors
    /// See [`FilterError`]; what only events and deliveries have is one.
    pub fn new(mut filters: Filters, reads: &dyn Reads) -> Result<Self, FilterError> {
        let event_only = [
            ("upstream", &filters.upstream),
            ("route", &filters.route),
            ("type", &filters.event_type),
            ("state", &filters.state),
        ];
        if let Some((name, _)) = event_only.into_iter().find(|(_, given)| given.is_some()) {
            return Err(FilterError::NotInQuarantine(name));
        }
        let parse = |text: String| StatusFilter::parse(&text).ok_or(FilterError::Status(text));
        let status = filters.status.take().map(parse).transpose()?;
        let reason = filters.reason.take();
        Ok(Self { compiled: Compiled::new(filters, reads)?, status, reason })
    }

    fn takes(&self, kept: &Kept, reads: &dyn Reads) -> Result<bool, String> {
        let body = || Ok(body_of(&kept.event));
        Ok(reads.scope().takes_kept(&kept.event.source)
            && self.status.is_none_or(|wanted| wanted.matches(kept.status))
            && self.reason.as_deref().is_none_or(|wanted| kept.reason.contains(wanted))
            && self.compiled.takes_event(&kept.event)
            && self.compiled.takes_content(&kept.event, &body, reads)?)
    }
}

/// Why a body in quarantine is not shown.
#[derive(Debug, thiserror::Error)]
pub enum KeptBodyError {
    /// It can't be read.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// It can't be told what to hide in it.
    #[error("{0}: reveal it")]
    Unknown(String),
}

/// One step through what was picked.
enum Picked {
    /// A request.
    Kept(Box<Kept>),
    /// An id that leads nowhere.
    Missing(String),
    /// One that can't be read, with its id, or an expression that failed.
    Note(EventId, String),
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum QuarantineError {
    /// It says nothing, or too much.
    #[error("{0}")]
    Usage(String),
    /// Not an id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A filter means nothing.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// It can't be written to the log that it is done.
    #[error("it can't be recorded: {0}")]
    Unrecorded(String),
    /// The files could not be changed.
    #[error("the quarantine can't be written: {0}")]
    Io(#[from] std::io::Error),
}

/// Gives the newest requests that are wanted, newest first, at most `limit`.
pub fn kept_listed(
    reads: &dyn Reads,
    wanted: &Wanted,
    limit: usize,
    emit: &mut dyn FnMut(QuarantineReply) -> ControlFlow<()>,
) {
    kept_listed_before(reads, wanted, u64::MAX, limit, emit);
}

/// The same, of those with numbers below `before`.
pub(super) fn kept_listed_before(
    reads: &dyn Reads,
    wanted: &Wanted,
    before: u64,
    limit: usize,
    emit: &mut dyn FnMut(QuarantineReply) -> ControlFlow<()>,
) {
    let (quarantine, mut left) = (reads.quarantine(), limit);
    let newest_first = quarantine.ids().into_iter().rev().filter(|id| id.pos.seq < before);
    if left == 0 {
        return;
    }
    let _ended = walk(reads, &quarantine, newest_first, wanted, &mut |picked| {
        let is_kept = matches!(picked, Picked::Kept(_));
        emit(match picked {
            Picked::Kept(kept) => QuarantineReply::Kept(line(&kept)),
            // Pushed out meanwhile.
            Picked::Missing(_) => return ControlFlow::Continue(()),
            Picked::Note(_, note) => QuarantineReply::Note(note),
        })?;
        left -= usize::from(is_kept);
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
}

/// The account of one request, in the form of an event's.
///
/// # Errors
/// See [`KeptError`].
pub fn quarantined_show(reads: &dyn Reads, id: EventId, reveal: bool) -> Result<wire::Show, KeptError> {
    let kept = read(reads, id)?;
    let event = &kept.event;
    let hides = Hidden::new(reads, reveal);
    let (headers, mut hidden) = hides.headers(&event.headers);
    let query = event.query.as_deref().map(|query| hides.query(query, &mut hidden).into_owned());
    let line = line(&kept);
    Ok(wire::Show {
        event: wire::Line {
            imported: None,
            id: line.id,
            received_at: line.received_at,
            source: event.source.to_string(),
            event_type: None,
            method: line.method,
            path: line.path,
            size: line.size,
            sha256: line.sha256,
            state: QUARANTINED.to_owned(),
            deliveries: Vec::new(),
            parent: None,
            item: None,
            tenant: None,
            violation: None,
            tags: Vec::new(),
        },
        query,
        headers,
        client: line.client,
        verification: wire::Verification {
            scheme: event.verification.scheme.to_string(),
            result: line.reason,
            secret: None,
        },
        schema_version: None,
        answered: Some(kept.status.to_string()),
        cached: None,
        duplicates: 0,
        body_differs: 0,
        config: reads.config_hash(event.config_generation),
        scheme: event.scheme.as_str().to_owned(),
        planned: false,
        hidden,
        body_lost: None,
    })
}

/// The body of one request, as it was received, or as it may be shown.
///
/// # Errors
/// See [`KeptBodyError`].
pub fn quarantined_body(reads: &dyn Reads, id: EventId, reveal: bool) -> Result<Bytes, KeptBodyError> {
    let event = read(reads, id)?.event;
    shown_body(reads, &event, body_of(&event), reveal).map_err(KeptBodyError::Unknown)
}

/// A request that the caller may see.
fn read(reads: &dyn Reads, id: EventId) -> Result<Kept, KeptError> {
    let kept = reads.quarantine().read(id)?;
    if reads.scope().takes_kept(&kept.event.source) { Ok(kept) } else { Err(KeptError::NoSuch(id)) }
}

/// What a command is about, checked.
pub(super) struct Selected {
    wanted: Wanted,
    ids: Vec<EventId>,
    by_name: bool,
}

impl Selected {
    /// What was picked; nothing said is everything.
    pub(super) fn new(ports: &dyn Ports, pick: &Pick) -> Result<Self, QuarantineError> {
        let by_name = !pick.ids.is_empty();
        let ids = match by_name {
            false => ports.quarantine().ids(),
            true => pick.ids.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        };
        Ok(Self { wanted: Wanted::new(pick.filters.clone(), ports)?, ids, by_name })
    }

    /// For `recheck`: to be admitted takes more than nothing said.
    ///
    /// # Errors
    /// See [`QuarantineError`].
    pub(super) fn to_recheck(ports: &dyn Ports, asked: &Recheck) -> Result<Self, QuarantineError> {
        if asked.admit && asked.pick.is_empty() {
            return Err(needs("recheck --admit"));
        }
        Self::new(ports, &asked.pick)
    }

    /// Shows each, oldest first or as they were named.
    fn each(self, ports: &dyn Ports, visit: &mut dyn FnMut(Picked) -> ControlFlow<()>) {
        let _ended = walk(ports, &ports.quarantine(), self.ids.into_iter(), &self.wanted, &mut |picked| match picked {
            // Pushed out meanwhile: nobody asked for it by name.
            Picked::Missing(_) if !self.by_name => ControlFlow::Continue(()),
            picked => visit(picked),
        });
    }
}

/// A command about what was picked, for the record.
pub(super) fn recorded(caller: &Caller, what: &str, pick: &Pick) -> Command {
    let targets = pick.ids.iter().take(SAMPLE).map(|id| id.as_str().into()).collect();
    let asked = in_words(&[], &pick.filters, pick.all, None);
    Command { asked, ..caller.noted(what, targets, pick.ids.len() as u64) }
}

fn needs(command: &str) -> QuarantineError {
    QuarantineError::Usage(format!("{command} needs an id or a filter; --all says everything on purpose"))
}

/// Judges requests again, and takes those that pass into the log if they are to be admitted. `caller` is named in the
/// diagnostics.
pub(super) fn recheck(
    ports: &dyn Ports,
    selected: Selected,
    admit: bool,
    caller: &Caller,
    emit: &mut dyn FnMut(QuarantineReply) -> ControlFlow<()>,
) {
    let purpose = if admit { Purpose::Admit } else { Purpose::Recheck };
    let quarantine = ports.quarantine();
    let mut admitted = 0_u64;
    selected.each(ports, &mut |picked| match picked {
        Picked::Missing(id) => emit(QuarantineReply::Missing(id)),
        Picked::Note(_, note) => emit(QuarantineReply::Note(note)),
        Picked::Kept(kept) => {
            // Not for longer than this one: whoever reads the answer may be slow.
            let no_other_admits = admit.then(|| quarantine.one_admits());
            if admit && matches!(quarantine.read(kept.event.id), Err(KeptError::NoSuch(_))) {
                return emit(QuarantineReply::Missing(kept.event.id.to_string()));
            }
            let judgement = match ports.judge(&kept.event, purpose) {
                Ok(judgement) => judgement,
                Err(error) => {
                    drop(no_other_admits);
                    let _ended = emit(QuarantineReply::Failed(error));
                    return ControlFlow::Break(());
                }
            };
            let mut stays = None;
            if matches!(judgement, Judgement::Admitted(_) | Judgement::Duplicate(_)) {
                admitted += 1;
                stays = quarantine.remove(&[kept.event.id]).err();
            }
            drop(no_other_admits);
            if let Some(error) = stays {
                let note = format!("{}: it is in the log, but stays in quarantine as well: {error}", kept.event.id);
                emit(QuarantineReply::Note(note))?;
            }
            emit(QuarantineReply::Judged(rechecked(&kept, judgement)))
        }
    });
    if admit {
        tracing::info!(actor = &*caller.name, admitted, "requests were admitted from quarantine");
        // How many were asked for stands in an entry of its own, from before.
        if let Err(error) = ports.command(caller.noted("quarantine_admitted", Vec::new(), admitted)) {
            let _ended = emit(QuarantineReply::Note(format!("how many were admitted can't be recorded: {error}")));
        }
    }
}

/// Deletes requests, the unreadable included. `caller` is named in the diagnostics.
///
/// # Errors
/// See [`QuarantineError`]; nothing was done then.
pub(super) fn delete(ports: &dyn Ports, asked: &Discard, caller: &Caller) -> Result<Acted, QuarantineError> {
    if asked.pick.is_empty() {
        return Err(needs("delete"));
    }
    let (quarantine, mut acted, mut ids) = (ports.quarantine(), Acted::default(), Vec::new());
    Selected::new(ports, &asked.pick)?.each(ports, &mut |picked| {
        match picked {
            Picked::Kept(kept) => ids.push(kept.event.id),
            // By id, or with everything: then it does not matter that it can't be read.
            Picked::Note(id, _) if asked.pick.filters.is_empty() => ids.push(id),
            Picked::Note(_, note) if acted.skipped.len() < NAMED_MAX => acted.skipped.push(note),
            Picked::Note(..) => {}
            Picked::Missing(id) => {
                acted.missing_count += 1;
                if acted.missing.len() < NAMED_MAX {
                    acted.missing.push(id);
                }
            }
        }
        ControlFlow::Continue(())
    });
    acted.sample = ids.iter().take(SAMPLE).map(|id| (id.to_string(), None)).collect();
    if !asked.dry_run {
        let command = Command { total: ids.len() as u64, ..recorded(caller, "quarantine_delete", &asked.pick) };
        ports.command(command).map_err(QuarantineError::Unrecorded)?;
    }
    acted.count = if asked.dry_run { ids.len() as u64 } else { quarantine.remove(&ids)? };
    acted.events = acted.count;
    acted.dry_run = asked.dry_run;
    if !asked.dry_run {
        tracing::info!(actor = &*caller.name, deleted = acted.count, "requests were deleted from quarantine");
    }
    Ok(acted)
}

/// Shows each of these that is wanted, until it is told to stop. One that went away meanwhile is missing.
fn walk(
    reads: &dyn Reads,
    quarantine: &Quarantine,
    ids: impl Iterator<Item = EventId>,
    wanted: &Wanted,
    visit: &mut dyn FnMut(Picked) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for id in ids {
        visit(match quarantine.read(id) {
            Err(KeptError::NoSuch(_)) => Picked::Missing(id.to_string()),
            // Nobody knows whose it is.
            Err(_) if !reads.scope().is_whole() => Picked::Missing(id.to_string()),
            Ok(kept) if !reads.scope().takes_kept(&kept.event.source) => Picked::Missing(id.to_string()),
            Err(error) => Picked::Note(id, error.to_string()),
            Ok(kept) => match wanted.takes(&kept, reads) {
                Ok(true) => Picked::Kept(Box::new(kept)),
                Ok(false) => continue,
                Err(error) => Picked::Note(id, format!("{id}: {error}")),
            },
        })?;
    }
    ControlFlow::Continue(())
}

fn line(kept: &Kept) -> Quarantined {
    let event = &kept.event;
    Quarantined {
        id: event.id.to_string(),
        received_at: event.received_at,
        source: source(event),
        method: event.method.as_str().to_owned(),
        path: event.path.to_string(),
        size: event.body.length(),
        sha256: hex::encode(Sha256::digest(body_of(event))),
        reason: kept.reason.to_string(),
        status: kept.status,
        client: event.client.to_string(),
    }
}

fn rechecked(kept: &Kept, judgement: Judgement) -> Rechecked {
    let (result, why, event) = match judgement {
        Judgement::Taken => ("verified", None, None),
        Judgement::Admitted(id) => ("admitted", None, Some(id)),
        Judgement::Duplicate(first) => ("duplicate", None, Some(first)),
        Judgement::NoEvent => ("no_event", None, None),
        Judgement::Refused(why) => ("refused", Some(why.to_owned()), None),
    };
    Rechecked {
        id: kept.event.id.to_string(),
        received_at: kept.event.received_at,
        source: source(&kept.event),
        reason: kept.reason.to_string(),
        result: result.to_owned(),
        why,
        event: event.map(|id| id.to_string()),
    }
}

fn source(event: &Event) -> Option<String> {
    Some(event.source.to_string()).filter(|name| !name.is_empty())
}

/// The body; what is kept has it in one piece.
fn body_of(event: &Event) -> Bytes {
    match &event.body {
        Body::Inline(bytes) => bytes.clone(),
        Body::Parts { .. } => Bytes::new(),
    }
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
pub(crate) mod tests;
