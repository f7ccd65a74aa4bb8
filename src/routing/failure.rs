//! Owns what an upstream's failures and answers lead to, where the operator says it differs from the contract's table.
//!
//! Promises that every row can match something that no row before it takes. Deliberately absent: what an answer says about
//! the upstream's health, which stays with its status.

use std::{sync::Arc, time::Duration};

use crate::{expr::Expr, schema::Schema};

/// The most rows of an upstream.
pub const FAILURE_ROWS_MAX: usize = 64;

/// What answers mean for a delivery.
#[derive(Clone, Debug, Default)]
pub struct AnswerPolicy {
    /// Tried in order; the first that matches decides.
    pub failures: Vec<FailureRow>,
    /// What a 2xx answer must satisfy.
    pub accept: Option<Accept>,
    /// The upstream that gets the event in place of this one if the answer is not accepted; None: a person judges it.
    pub fallback: Option<Box<str>>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct FailureRow {
    /// Which statuses, or which kinds of silence.
    pub class: FailureSet,
    /// And only if this is true of the answer.
    pub when: Option<Expr>,
    /// What follows.
    pub action: FailureAction,
}

/// What follows from a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureAction {
    /// It is tried again, after so long in place of the timetable's delay; patience ends as always.
    Retry(Option<Duration>),
    /// It is given up.
    Dead,
    /// It waits until an operator lets it go.
    Hold,
    /// It goes to this upstream in place of this one.
    Divert(Box<str>),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// No connection.
    Connect,
    /// No connection, or no answer, in time.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The connection broke.
    Broken,
}

impl NoAnswer {
    /// All of them with their words.
    pub const ALL: [(&str, Self); 4] =
        [("connect", Self::Connect), ("timeout", Self::Timeout), ("tls", Self::Tls), ("broken", Self::Broken)];
}

/// A set of statuses and kinds of silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureSet {
    /// First and last status of each range.
    statuses: Vec<(u16, u16)>,
    silences: Vec<NoAnswer>,
}

/// What a 2xx answer must satisfy.
#[derive(Clone, Debug)]
pub enum Accept {
    /// jq that is true.
    Expr(Expr),
    /// A JSON Schema.
    Schema(Arc<Schema>),
}

impl AnswerPolicy {
    /// Whether it looks into bodies of answers.
    #[must_use]
    pub fn reads_bodies(&self) -> bool {
        self.accept.is_some() || self.failures.iter().any(|row| row.when.is_some())
    }

    /// The upstreams that may get an event in place of this one.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        let diverted = self.failures.iter().filter_map(|row| match &row.action {
            FailureAction::Divert(to) => Some(&**to),
            _ => None,
        });
        diverted.chain(self.fallback.as_deref())
    }
}

impl FailureSet {
    /// Every failure: all statuses but 2xx, and every silence.
    #[must_use]
    pub fn all() -> Self {
        Self { statuses: Self::every_status(), silences: NoAnswer::ALL.map(|(_, silence)| silence).to_vec() }
    }

    /// All statuses but 2xx.
    #[must_use]
    pub fn any_answer() -> Self {
        Self { statuses: Self::every_status(), silences: Vec::new() }
    }

    fn every_status() -> Vec<(u16, u16)> {
        vec![(100, 199), (300, 599)]
    }

    /// Adds `429`, `5xx` or `400-404`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn add_status(&mut self, text: &str) -> Result<(), String> {
        let number = |text: &str| text.parse::<u16>().ok().filter(|status| (100..=599).contains(status));
        let range = match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(class), _) => number(&format!("{class}00")).map(|first| (first, first + 99)),
            (None, Some((first, last))) => number(first).zip(number(last)).filter(|(first, last)| first <= last),
            (None, None) => number(text).map(|status| (status, status)),
        };
        let range = range.ok_or_else(|| {
            format!("\"{text}\" is no status; write \"429\", \"5xx\" or \"400-404\", from 100 to 599")
        })?;
        self.statuses.push(range);
        Ok(())
    }

    /// Adds a kind of silence.
    pub fn add_silence(&mut self, silence: NoAnswer) {
        self.silences.push(silence);
    }

    /// Whether it has an answer of this status.
    #[must_use]
    pub fn has_status(&self, status: u16) -> bool {
        self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    /// Whether it has this kind of silence.
    #[must_use]
    pub fn has_silence(&self, silence: NoAnswer) -> bool {
        self.silences.contains(&silence)
    }

    /// Whether everything in it is in one of the others.
    #[must_use]
    pub fn is_within(&self, others: &[&Self]) -> bool {
        (100..600).filter(|status| self.has_status(*status)).all(|status| others.iter().any(|o| o.has_status(status)))
            && self.silences.iter().all(|silence| others.iter().any(|other| other.has_silence(*silence)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(texts: &[&str]) -> FailureSet {
        let mut set = FailureSet::default();
        texts.iter().for_each(|text| set.add_status(text).unwrap());
        set
    }

    #[test]
    fn statuses_are_numbers_classes_and_ranges() {
        let set = statuses(&["429", "5xx", "400-404"]);
        for (status, has) in
            [(399, false), (400, true), (404, true), (405, false), (429, true), (500, true), (599, true)]
        {
            assert_eq!(set.has_status(status), has, "{status}");
        }
        for wrong in ["", "42", "600", "xx", "6xx", "404-400", "4x", "400-", "-5"] {
            assert!(FailureSet::default().add_status(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_set_that_others_cover_together_is_found() {
        let (low, high) = (statuses(&["400-449"]), statuses(&["450-499"]));
        assert!(statuses(&["4xx"]).is_within(&[&low, &high]));
        assert!(!statuses(&["4xx", "500"]).is_within(&[&low, &high]));
        assert!(!FailureSet::all().is_within(&[&FailureSet::any_answer()]));
        assert!(statuses(&["404"]).is_within(&[&FailureSet::any_answer()]));
    }
}
