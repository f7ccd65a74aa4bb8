//! Owns where the commands of operators stand in the log, so that the audit trail is listed without searching for them.
//!
//! Promises the newest [`AUDITED_MAX`], each under its own number even after it was carried: when its segment goes, what
//! it says is appended again as a record without effect. Deliberately absent: what the commands say; that is read from
//! the log.

use std::collections::VecDeque;

use super::State;
use crate::{
    event::Seq,
    log::{
        Kind, Log, NewEntry,
        entry::{self, Action, Command},
    },
};

/// The most commands that are known and kept: of older ones the log is the only record, as long as it has them.
pub const AUDITED_MAX: usize = 10_000;

/// Records carried at once.
const CARRIED_AT_ONCE: usize = 256;

/// Where commands stand: own number and place, the numbers ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit(VecDeque<(Seq, Seq)>);

impl Audit {
    /// Takes note of a command that stands at `at`. What the relay does by itself is left out, unless it says from where.
    pub(super) fn note(&mut self, at: Seq, command: &Command) {
        let own = match command.action {
            Action::Past { seq, .. } => seq,
            _ if command.piece > 0 || (command.origin.is_none() && command.actor == "relay") => return,
            _ => at,
        };
        self.put(own, at);
    }

    /// Takes in a place.
    pub(super) fn put(&mut self, own: Seq, at: Seq) {
        match self.0.binary_search_by_key(&own, |(own, _)| *own) {
            Ok(index) => {
                if let Some(known) = self.0.get_mut(index) {
                    known.1 = at;
                }
            }
            Err(0) if self.0.len() >= AUDITED_MAX => {}
            Err(index) => {
                self.0.insert(index, (own, at));
                if self.0.len() > AUDITED_MAX {
                    self.0.pop_front();
                }
            }
        }
    }

    /// Forgets what stands before `first`.
    pub(super) fn forget(&mut self, first: Seq) {
        self.0.retain(|(_, at)| *at >= first);
    }

    /// All of them: own number and place.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (Seq, Seq)> {
        self.0.iter().copied()
    }

    /// What must be appended again before the log before `before` goes, and whether there is more of it. What can't be
    /// read goes with its segment.
    pub(super) fn carry(&self, log: &dyn Log, before: Seq) -> (Vec<NewEntry>, bool) {
        let old = self.iter().filter(|(_, at)| *at < before);
        let mut carried: Vec<NewEntry> =
            old.filter_map(|(own, at)| past(log, own, at)).take(CARRIED_AT_ONCE + 1).collect();
        let is_more = carried.len() > CARRIED_AT_ONCE;
        carried.truncate(CARRIED_AT_ONCE);
        (carried, is_more)
    }
}

/// The record of a command, without its effect.
fn past(log: &dyn Log, own: Seq, at: Seq) -> Option<NewEntry> {
    let entry = log.read(at).ok().filter(|entry| entry.kind == Kind::Command)?;
    let command: Command = entry::decode_json(&entry.payload)?;
    let action = match &command.action {
        Action::Past { .. } => command.action.clone(),
        action => Action::Past {
            seq: own,
            at_ms: entry.time.as_millis(),
            was: action.word().into(),
            targets: command.targets(),
            count: command.count(),
        },
    };
    let payload = entry::encode_json(&Command { action, piece: 0, total: 0, ..command });
    Some(NewEntry { kind: Kind::Command, payload })
}

impl State {
    /// Where commands of operators stand, newest first, those before `before`, at most `limit`: own number and place.
    #[must_use]
    pub fn audited(&self, before: Option<Seq>, limit: usize) -> Vec<(Seq, Seq)> {
        let newest_first = self.audit.0.iter().rev().copied();
        newest_first.filter(|(own, _)| before.is_none_or(|before| *own < before)).take(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(actor: &str) -> Command {
        Command::new(actor, Action::ReleaseUpstream { upstream: "a".into() })
    }

    #[test]
    fn operators_are_remembered_and_the_relay_only_if_it_says_from_where() {
        let mut audit = Audit::default();
        audit.note(1, &command("uid 0 (root)"));
        audit.note(2, &command("relay"));
        audit.note(3, &Command { piece: 1, ..command("uid 0 (root)") });
        audit.note(4, &Command { origin: Some("subscribers".into()), ..command("relay") });
        let past = Action::Past { seq: 1, at_ms: 0, was: "hold".into(), targets: Vec::new(), count: 1 };
        audit.note(9, &Command::new("uid 0 (root)", past));
        assert_eq!(audit.iter().collect::<Vec<_>>(), [(1, 9), (4, 4)]);
        audit.forget(5);
        assert_eq!(audit.iter().collect::<Vec<_>>(), [(1, 9)]);
    }

    #[test]
    fn beyond_the_bound_the_oldest_are_forgotten_and_do_not_come_back() {
        let mut audit = Audit::default();
        for seq in 0..=AUDITED_MAX as u64 {
            audit.put(seq, seq);
        }
        assert_eq!((audit.iter().len(), audit.iter().next()), (AUDITED_MAX, Some((1, 1))));
        audit.put(0, 20_000);
        assert_eq!(audit.iter().next(), Some((1, 1)));
        audit.put(1, 20_001);
        assert_eq!(audit.iter().next(), Some((1, 20_001)));
    }
}
