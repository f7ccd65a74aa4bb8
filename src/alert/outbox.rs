//! Owns what is to be told: the limit of notices, and those that are not published yet.
//!
//! Promises that of each severity at most so many notices are told in an hour, and at its end as one how many there were
//! besides; that an alert of which nobody heard is not said to be over, and one that was told is, whatever the limit;
//! and that what waits is saved with what stands, so that after a crash it is published under the keys that it had
//! before. At most [`UNTOLD_MAX`] wait; beyond, the oldest is given up and counted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use serde_json::Value;

use super::{
    notice::{News, Notice, Withheld},
    rules::{Rule, Severity},
};
use crate::clock::Timestamp;

/// Notices that wait for the log.
pub const UNTOLD_MAX: usize = 256;

/// In which notices are counted.
const HOUR: Duration = Duration::from_secs(3600);

/// Something to be published.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// About an alert.
    Notice(Notice),
    /// How many notices there were besides.
    Withheld(Withheld),
}

impl Told {
    /// The type of the event.
    #[must_use]
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Notice(notice) => notice.news.event_type(),
            Self::Withheld(_) => Withheld::TYPE,
        }
    }

    /// What is the same for the same event and for no other: what is published twice is a duplicate.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Notice(notice) => notice.key(),
            Self::Withheld(withheld) => withheld.key(),
        }
    }

    /// The body of the event. `node` is the host's name.
    #[must_use]
    pub fn payload(&self, node: &str) -> Value {
        match self {
            Self::Notice(notice) => notice.payload(node),
            Self::Withheld(withheld) => withheld.payload(node),
        }
    }
}

/// What became of what was handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Are to be published.
    pub told: u64,
    /// Beyond the limit.
    pub withheld: u64,
    /// Given up, since too many wait.
    pub dropped: u64,
}

/// Notices of one severity in an hour.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct Hour {
    since: Timestamp,
    told: u64,
    withheld: BTreeMap<Rule, u64>,
}

/// What waits to be published, and how much was.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Outbox {
    /// By severity.
    hours: [Hour; Severity::ALL.len()],
    /// Alerts that were raised and never told. Not more than stand.
    unheard: BTreeSet<(Rule, Box<str>)>,
    waiting: VecDeque<Told>,
}

impl Outbox {
    /// Takes what is news now (steady time), at most `max_per_hour` of a severity.
    pub fn take(&mut self, now: Timestamp, max_per_hour: u64, notices: Vec<Notice>) -> Taken {
        let mut taken = Taken::default();
        for severity in Severity::ALL {
            let Some(hour) = self.hours.get_mut(severity as usize).filter(|hour| now.since(hour.since) >= HOUR) else {
                continue;
            };
            let Hour { since, withheld: rules, .. } = std::mem::take(hour);
            if !rules.is_empty() {
                self.waiting.push_back(Told::Withheld(Withheld { severity, rules, since, at: now }));
                taken.told += 1;
            }
        }
        for notice in notices {
            let (rule, severity) = (notice.alert.rule, notice.alert.severity);
            let alert = (rule, notice.alert.subject.clone());
            let is_told = match notice.news {
                News::Resolved if self.unheard.remove(&alert) => continue,
                News::Resolved => true,
                News::Raised | News::Worsened | News::Repeated => self.has_room(now, max_per_hour, severity, rule),
            };
            if !is_told {
                taken.withheld += 1;
                if notice.news == News::Raised {
                    self.unheard.insert(alert);
                }
                continue;
            }
            self.unheard.remove(&alert);
            self.waiting.push_back(Told::Notice(notice));
            taken.told += 1;
        }
        while self.waiting.len() > UNTOLD_MAX {
            self.waiting.pop_front();
            taken.dropped += 1;
        }
        taken
    }

    /// Whether one more fits into its hour; it is counted either way.
    fn has_room(&mut self, now: Timestamp, max_per_hour: u64, severity: Severity, rule: Rule) -> bool {
        let Some(hour) = self.hours.get_mut(severity as usize) else { return true };
        if hour.told == 0 {
            hour.since = now;
        }
        if hour.told >= max_per_hour {
            *hour.withheld.entry(rule).or_default() += 1;
            return false;
        }
        hour.told += 1;
        true
    }

    /// What is to be published, oldest first.
    #[must_use]
    pub fn waiting(&self) -> Vec<Told> {
        self.waiting.iter().cloned().collect()
    }

    /// The oldest so many are published.
    pub fn published(&mut self, count: usize) {
        self.waiting.drain(..count.min(self.waiting.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::notice::Alert, *};

    const START: Timestamp = Timestamp::from_millis(1_767_323_045_000);

    fn notice(news: News, subject: &str, severity: Severity, at: Timestamp) -> Notice {
        let text = format!("upstream {subject}: it fails");
        Notice {
            news,
            alert: Alert { rule: Rule::Failures, subject: subject.into(), severity, since: START, text },
            at,
        }
    }

    /// The words of what waits; it is published.
    fn published(outbox: &mut Outbox) -> Vec<String> {
        let waiting = outbox.waiting();
        outbox.published(waiting.len());
        let word = |told: &Told| match told {
            Told::Notice(notice) => format!("{} {}", notice.news.event_type(), notice.alert.subject),
            Told::Withheld(withheld) => format!("{} {}", told.event_type(), withheld.rules[&Rule::Failures]),
        };
        waiting.iter().map(word).collect()
    }

    #[test]
    fn beyond_the_limit_of_an_hour_the_others_are_told_of_as_one_at_its_end() {
        let mut outbox = Outbox::default();
        let raised = |count: u64, at| -> Vec<Notice> {
            (0..count).map(|n| notice(News::Raised, &format!("u{n}"), Severity::Warning, at)).collect()
        };
        assert_eq!(outbox.take(START, 2, raised(100, START)), Taken { told: 2, withheld: 98, dropped: 0 });
        assert_eq!(published(&mut outbox), ["alert.raised u0", "alert.raised u1"]);
        // What is worse has a limit of its own.
        let worse = notice(News::Raised, "w", Severity::Critical, START);
        assert_eq!(outbox.take(START, 2, vec![worse]).told, 1);
        assert_eq!(published(&mut outbox), ["alert.raised w"]);
        let before = START.after(HOUR - Duration::from_millis(1));
        assert_eq!(outbox.take(before, 2, raised(1, before)), Taken { told: 0, withheld: 1, dropped: 0 });
        let after = START.after(HOUR);
        assert_eq!(outbox.take(after, 2, Vec::new()).told, 1);
        let [Told::Withheld(withheld)] = &outbox.waiting()[..] else { panic!("{:?}", outbox.waiting()) };
        assert_eq!((withheld.rules[&Rule::Failures], withheld.since, withheld.at), (99, START, after));
        let body = withheld.payload("relay-1");
        assert_eq!((&body["type"], &body["data"]["count"]), (&"alert.withheld".into(), &99.into()));
        assert_eq!(
            body["data"]["text"],
            "[warning] withheld on relay-1: 99 more in an hour (99 failures); `stagepost alerts` lists what stands"
        );
        outbox.published(1);
        // The next hour begins with its first notice, and a calm one says nothing.
        let later = after.after(HOUR / 2);
        assert_eq!(outbox.take(later, 2, raised(2, later)).told, 2);
        assert_eq!(outbox.take(after.after(HOUR), 2, raised(1, later)), Taken { told: 0, withheld: 1, dropped: 0 });
        published(&mut outbox);
        assert_eq!(outbox.take(later.after(HOUR), 2, Vec::new()).told, 1);
        published(&mut outbox);
        assert_eq!(outbox.take(later.after(HOUR * 3), 2, Vec::new()), Taken::default());
    }

    #[test]
    fn what_was_told_is_over_whatever_the_limit_and_what_was_not_is_not() {
        let mut outbox = Outbox::default();
        let of = |news, subject: &str| notice(news, subject, Severity::Warning, START);
        outbox.take(
            START,
            1,
            vec![of(News::Raised, "heard"), of(News::Raised, "unheard"), of(News::Repeated, "heard")],
        );
        outbox.take(START, 1, vec![of(News::Resolved, "heard"), of(News::Resolved, "unheard")]);
        assert_eq!(published(&mut outbox), ["alert.raised heard", "alert.resolved heard"]);
        // It is heard of when it is told again in time.
        outbox.take(START, 1, vec![of(News::Raised, "again")]);
        let later = START.after(HOUR);
        outbox.take(later, 1, vec![of(News::Repeated, "again"), of(News::Resolved, "again")]);
        assert_eq!(published(&mut outbox), ["alert.withheld 3", "alert.repeated again", "alert.resolved again"]);
    }

    #[test]
    fn what_waits_is_the_same_after_a_crash_and_has_the_same_key() {
        let mut outbox = Outbox::default();
        let raised = |subject: &str| notice(News::Raised, subject, Severity::Critical, START);
        outbox.take(START, 1, vec![raised("a"), raised("b")]);
        outbox.take(START.after(HOUR), 1, Vec::new());
        let saved = serde_json::to_string(&outbox).unwrap();
        let again: Outbox = serde_json::from_str(&saved).unwrap();
        let keys = |outbox: &Outbox| -> Vec<String> { outbox.waiting().iter().map(Told::key).collect() };
        assert_eq!((keys(&again).len(), keys(&again)), (2, keys(&outbox)));
        assert_eq!(again.waiting(), outbox.waiting());
    }

    #[test]
    fn more_than_the_log_is_waited_for_with_are_given_up_oldest_first() {
        let mut outbox = Outbox::default();
        let many = (0..UNTOLD_MAX + 3).map(|n| notice(News::Raised, &format!("u{n}"), Severity::Info, START)).collect();
        assert_eq!(outbox.take(START, 10_000, many).dropped, 3);
        assert_eq!(published(&mut outbox)[0], "alert.raised u3");
    }
}
