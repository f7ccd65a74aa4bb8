//! Owns the keys of an upstream's `retry` and `breaker`, and the timetable that is printed with them.

use std::time::Duration;

use super::{reader::Section, units};
use crate::{
    jitter::Jitter,
    routing::{BreakerPolicy, ErrorRate, RetryPolicy, Schedule, Share, TIMETABLE_ROWS_MAX},
};

/// So many attempts of a policy are added up to see how long it lasts.
const ATTEMPTS_SUMMED_MAX: usize = 10_000;

/// `[upstream.NAME.retry]`: two forms of one policy, and the share of the attempts that retries get. Refuses one that outlives the events it is for.
pub(super) fn retry(section: Section<'_>, retention: Duration) -> (Option<RetryPolicy>, Option<Share>) {
    let standard = RetryPolicy::standard();
    let written = section.words("schedule");
    let is_exponential = ["first", "factor", "max", "attempts"].map(|key| section.has(key)).contains(&true);
    if written.is_some() && is_exponential {
        section.problem("schedule", "stands beside first, factor, max or attempts; keep one of the two forms");
    }
    let schedule = if is_exponential {
        Schedule::Exponential {
            first: section.duration("first", "1s"),
            factor: section.number("factor", 2.0, 1.0..=1000.0),
            max: section.duration("max", "1h"),
            attempts: section.optional_count("attempts", 1..=1_000_000).and_then(|count| u32::try_from(count).ok()),
        }
    } else {
        let steps = match &written {
            Some(words) => words.iter().filter_map(|(word, _)| section.duration_of("schedule", word)).collect(),
            None => match &standard.schedule {
                Schedule::Steps(steps) => steps.clone(),
                Schedule::Exponential { .. } => Vec::new(),
            },
        };
        section.print_words("schedule", steps.iter().map(|step| units::show_duration(*step)));
        Schedule::Steps(steps)
    };
    let jitter = section.number("jitter", standard.jitter, 0.0..=1.0);
    let ends_by_itself = match &schedule {
        Schedule::Steps(_) => written.is_some(),
        Schedule::Exponential { attempts, .. } => attempts.is_some(),
    };
    let give_up_after = if ends_by_itself || section.has("give_up_after") {
        section.optional_duration("give_up_after")
    } else {
        Some(section.duration("give_up_after", "5d"))
    };
    let retry_after_max = section.duration("retry_after_max", "1h");
    let share = section.number("share", 0.125, 0.001..=1.0);
    let share = section.accept("share", Share::new(share));
    let policy = section.accept("", RetryPolicy::new(schedule, jitter, give_up_after, retry_after_max));
    if let Some(policy) = &policy {
        let span = policy.give_up_after.unwrap_or_else(|| longest(policy));
        if span > retention {
            section.problem(
                "give_up_after",
                format!(
                    "deliveries are tried for {}, longer than store.retention ({}) keeps their events; shorten it or \
                     raise store.retention",
                    units::show_duration(span),
                    units::show_duration(retention)
                ),
            );
        }
        note_timetable(&section, policy);
    }
    section.finish();
    (policy, share)
}

/// How long a policy that ends by itself lasts, without jitter.
fn longest(policy: &RetryPolicy) -> Duration {
    let none = Jitter::none();
    (1..)
        .map_while(|made| policy.delay_after(made, &none))
        .take(ATTEMPTS_SUMMED_MAX)
        .fold(Duration::ZERO, Duration::saturating_add)
}

/// Prints when the attempts of a delivery are made if all fail at once.
fn note_timetable(section: &Section<'_>, policy: &RetryPolicy) {
    let offsets = policy.timetable();
    section.note("attempts after planning, if each fails at once, without jitter and Retry-After:");
    for row in offsets.chunks(10) {
        section.note(&format!("  {}", row.iter().copied().map(clock_like).collect::<Vec<_>>().join(" ")));
    }
    let goes_on = if offsets.len() == TIMETABLE_ROWS_MAX { "and so on, " } else { "" };
    let end = match policy.give_up_after {
        Some(after) => format!("dead {} after planning", units::show_duration(after)),
        None => "dead after the last".to_owned(),
    };
    section.note(&format!("  {goes_on}{end}"));
}

/// `2h36m5s`: for people, not for reading back.
fn clock_like(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let mut text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if duration.subsec_millis() > 0 {
        text.push_str(&format!("{}ms", duration.subsec_millis()));
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `[upstream.NAME.breaker]`.
pub(super) fn breaker(section: Section<'_>) -> Option<BreakerPolicy> {
    let failures = section.count("failures", 5, 1..=1_000_000);
    let rate = section.optional_number("error_rate", 0.0..=1.0);
    let error_rate = match rate {
        Some(share) => {
            let window = section.duration("window", "60s");
            let min_requests = section.count("min_requests", 20, 1..=1_000_000);
            section.accept("error_rate", ErrorRate::new(share, window, u32::try_from(min_requests).unwrap_or(u32::MAX)))
        }
        None => {
            for key in ["window", "min_requests"] {
                if section.has(key) {
                    section.problem(key, "has no effect without error_rate; add error_rate = 0.5 or remove it");
                }
            }
            None
        }
    };
    let cool_down = section.duration("cool_down", "60s");
    let policy = BreakerPolicy::new(u32::try_from(failures).unwrap_or(u32::MAX), error_rate, cool_down);
    let policy = section.accept("", policy);
    section.finish();
    policy
}
