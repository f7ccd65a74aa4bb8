//! Owns the audit trail: what operators did, newest first, from the places that the state remembers.
//!
//! Promises one read of the log for each entry that is looked at, and that one that can't be read becomes a note.

use super::{
    ports::{QueryError, Reads},
    wire::{Audited, AuditedPage, job_id},
};
use crate::{
    clock::Timestamp,
    event::{EventId, Pos, Seq},
    log::{
        Entry, Kind, ReadError,
        entry::{self, Action, Command},
    },
};

/// Places asked for at once.
const AT_ONCE: usize = 500;

/// What is wanted of the audit trail. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Done then or later.
    pub since: Option<Timestamp>,
    /// Done before.
    pub until: Option<Timestamp>,
    /// A part of the actor's name.
    pub actor: Option<String>,
    /// What was done, in a word.
    pub action: Option<String>,
}

impl AuditFilter {
    fn takes(&self, audited: &Audited) -> bool {
        self.until.is_none_or(|until| audited.at < until)
            && self.since.is_none_or(|since| audited.at >= since)
            && self.actor.as_deref().is_none_or(|actor| audited.actor.contains(actor))
            && self.action.as_deref().is_none_or(|action| audited.action == action)
    }
}

/// What operators did, newest first, before `after` (where an earlier page ended); at most `limit`.
///
/// # Errors
/// [`QueryError`]; damage is noted and stepped over.
pub fn audited(
    reads: &dyn Reads,
    wanted: &AuditFilter,
    after: Option<Seq>,
    limit: usize,
) -> Result<AuditedPage, QueryError> {
    let (log, mut before, mut page) = (reads.log(), after, AuditedPage::default());
    loop {
        let places = reads.audited(before, AT_ONCE).map_err(QueryError::State)?;
        let Some((oldest, _)) = places.last() else { return Ok(page) };
        before = Some(*oldest);
        for (own, at) in places {
            let audited = match log.read(at) {
                Ok(entry) => read(own, &entry),
                Err(error @ (ReadError::Damaged { .. } | ReadError::Format(_))) => {
                    page.notes.push(error.to_string());
                    None
                }
                // Its segment has just gone.
                Err(ReadError::Missing(_)) => None,
                Err(error) => return Err(error.into()),
            };
            let Some(audited) = audited else { continue };
            // Times of the log do not go back.
            if wanted.since.is_some_and(|since| audited.at < since) {
                return Ok(page);
            }
            if wanted.takes(&audited) {
                page.entries.push(audited);
            }
            if page.entries.len() >= limit {
                page.next = Some(format!("{own:x}"));
                return Ok(page);
            }
        }
    }
}

fn read(own: Seq, entry: &Entry) -> Option<Audited> {
    let command: Command = (entry.kind == Kind::Command).then(|| entry::decode_json(&entry.payload)).flatten()?;
    let at = match command.action {
        Action::Past { at_ms, .. } => Timestamp::from_millis(at_ms),
        _ => entry.time,
    };
    let until = match command.action {
        Action::HoldUpstream { until_ms, .. } | Action::Hold { until_ms, .. } => until_ms.map(Timestamp::from_millis),
        _ => None,
    };
    let said = match &command.action {
        Action::HoldUpstream { reason, .. }
        | Action::Hold { reason, .. }
        | Action::Resolve { reason, .. }
        | Action::DrainTarget { reason, .. } => reason.clone(),
        Action::RefuseSubscriber { why, .. } | Action::DisableSubscriber { why, .. } => Some(why.clone()),
        Action::Rehearse { fault, for_ms, .. } => Some(format!("{fault} for {} s", for_ms / 1_000)),
        _ => None,
    };
    Some(Audited {
        id: EventId { time: at, pos: Pos { seq: own, ..entry.pos } }.to_string(),
        at,
        action: command.action.word().to_owned(),
        targets: match &command.action {
            Action::StartJob { id, .. } => vec![job_id(id.unwrap_or(own))],
            Action::EndJob { job, .. } => vec![job_id(*job)],
            _ => command.targets().into_iter().map(Into::into).collect(),
        },
        count: command.count(),
        until,
        actor: command.actor,
        origin: command.origin,
        asked: command.asked,
        reason: command.reason.or(said),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::fake::*, *};
    use crate::admin::{Caller, Ports as _};

    #[test]
    fn the_trail_comes_newest_first_in_pages_and_by_actor() {
        let fake = Fake::default();
        for (name, target) in [("alice", "one"), ("bob", "two"), ("alice", "three")] {
            fake.command(Caller::local(name).noted("reveal", vec![target.into()], 1)).unwrap();
        }
        let targets = |page: &AuditedPage| page.entries.iter().map(|e| e.targets[0].clone()).collect::<Vec<_>>();
        let all = AuditFilter::default();
        let first = audited(&fake, &all, None, 2).unwrap();
        assert_eq!(targets(&first), ["three", "two"]);
        let after = u64::from_str_radix(first.next.as_deref().unwrap(), 16).unwrap();
        let second = audited(&fake, &all, Some(after), 2).unwrap();
        assert_eq!((targets(&second), second.next), (vec!["one".to_owned()], None));
        let alice = AuditFilter { actor: Some("alice".into()), ..all.clone() };
        let hers = audited(&fake, &alice, None, 9).unwrap();
        assert_eq!(targets(&hers), ["three", "one"]);
        assert_eq!(hers.entries[0].origin.as_deref(), Some("socket"));
        let later = AuditFilter { since: Some(Timestamp::from_millis(u64::MAX)), ..all };
        assert!(audited(&fake, &later, None, 9).unwrap().entries.is_empty());
    }

    #[test]
    fn a_job_is_named_where_it_begins_and_where_it_is_ended() {
        let fake = Fake::default();
        let job = crate::state::testing::empty_job();
        let start = Action::StartJob { id: None, spec: job.spec, progress: job.progress, started_ms: 1 };
        fake.command(Caller::local("me").command(start)).unwrap();
        let (seq, _) = fake.audited(None, 1).unwrap()[0];
        let end = Action::EndJob { job: seq, end: crate::log::entry::JobEnd::Cancelled, why: None };
        fake.command(Caller::local("me").command(end)).unwrap();
        let page = audited(&fake, &AuditFilter::default(), None, 9).unwrap();
        let targets: Vec<&[String]> = page.entries.iter().map(|entry| &*entry.targets).collect();
        assert_eq!(targets, [[job_id(seq)], [job_id(seq)]]);
    }
}
