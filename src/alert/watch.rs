//! Owns what the rules remember of one upstream, one source and one space, and how they judge its figures.

use std::time::Duration;

use super::{
    baseline::{Baseline, Compared},
    engine::{SourceFigures, Space, UpstreamFigures},
    rhythm::Rhythm,
    rules::{Aged, Counted, DiskRule, LatencyRule, Rule, Rules, Severity, Shared},
    window::Window,
};
use crate::clock::Timestamp;

/// What a rule says about its subject.
#[derive(Debug, PartialEq)]
pub(super) enum Level {
    /// An alert.
    Over(Severity, String),
    /// Neither: an alert that stands goes on, another is not raised.
    Between,
    /// The same, and an alert that stands says this from now on.
    Still(String),
    /// All is well.
    Under,
}

/// Hears what each rule says.
pub(super) type Say<'a> = &'a mut dyn FnMut(Rule, Level);

/// Growth of a space is measured over this time …
const GROWTH: Duration = Duration::from_secs(3600);

/// … of which at least so much must have been seen.
const GROWTH_MIN: Duration = Duration::from_secs(600);

/// An alert about space ends so much below its share.
const SPACE_GAP: f64 = 0.03;

/// Room is never said to be used up soon below this share.
const SOON_SHARE_MIN: f64 = 0.5;

/// An upstream.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct UpstreamWatch {
    dead: Dead,
    baseline: Baseline,
    held_since: Option<Timestamp>,
    #[serde(skip)]
    open_since: Option<Timestamp>,
    #[serde(skip)]
    failures: Window,
    #[serde(skip)]
    attempted: Window,
    #[serde(skip)]
    failed: Window,
}

impl UpstreamWatch {
    pub(super) fn judge(&mut self, now: Timestamp, figures: &UpstreamFigures, rules: &Rules, say: Say<'_>) {
        let failed = figures.failed;
        if let Some(rule) = &rules.failures {
            let level = counted(&mut self.failures, now, failed, rule, "attempts failed");
            say(Rule::Failures, level);
        }
        if let Some(rule) = &rules.dead {
            say(Rule::Dead, self.dead.judge(now, figures.dead, rule));
        }
        if let Some(rule) = &rules.errors {
            let windows = (&mut self.failed, &mut self.attempted);
            let level = shared(windows, now, (failed, figures.attempted), rule, "of the attempts fail");
            say(Rule::Errors, level);
        }
        if let Some(rule) = &rules.backlog {
            let level = match figures.oldest {
                Some(age) if age >= rule.age => {
                    Level::Over(rule.severity, format!("the oldest delivery has been waiting for {}", spoken(age)))
                }
                Some(age) if age >= rule.age / 2 => Level::Between,
                _ => Level::Under,
            };
            say(Rule::Backlog, level);
        }
        if let Some(rule) = &rules.latency {
            say(Rule::Latency, latency(self.baseline.compare(now, &figures.latency, rule), rule));
        }
        if let Some(rule) = &rules.hold {
            say(Rule::Hold, lasting(&mut self.held_since, figures.is_held, now, rule, "deliveries have been held"));
        }
        if let Some(rule) = &rules.breaker {
            let level = lasting(&mut self.open_since, figures.is_cut_off, now, rule, "it has been cut off");
            say(Rule::Breaker, level);
        }
    }
}

/// Deliveries that died beyond those that are known.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Dead {
    /// Those that nobody is told about (any more).
    known: Option<u64>,
    last: u64,
    newest: Timestamp,
}

impl Dead {
    /// New ones are told until they are replayed or deleted, or until a whole window brought no further one.
    fn judge(&mut self, now: Timestamp, dead: u64, rule: &Counted) -> Level {
        let known = self.known.get_or_insert(dead);
        if dead > self.last {
            self.newest = now;
        }
        self.last = dead;
        if now.since(self.newest) >= rule.window {
            *known = dead;
        }
        *known = dead.min(*known);
        match dead - *known {
            0 => Level::Under,
            new if new >= rule.threshold => {
                let what = if new == 1 { "delivery was" } else { "deliveries were" };
                Level::Over(rule.severity, format!("{new} {what} given up and can be replayed"))
            }
            _ => Level::Between,
        }
    }
}

/// A source.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct SourceWatch {
    rhythm: Option<Rhythm>,
    #[serde(skip)]
    refused: Window,
    #[serde(skip)]
    requests: Window,
    #[serde(skip)]
    duplicates: Window,
    #[serde(skip)]
    heard: Window,
    #[serde(skip)]
    stale: Window,
}

impl SourceWatch {
    pub(super) fn judge(&mut self, now: Timestamp, figures: &SourceFigures, rules: &Rules, say: Say<'_>) {
        if let Some(rule) = &rules.refusals {
            let windows = (&mut self.refused, &mut self.requests);
            let counters = (figures.refused, figures.refused + figures.heard);
            say(Rule::Refusals, shared(windows, now, counters, rule, "of the requests are refused"));
        }
        if let Some(rule) = &rules.silence {
            let rhythm = self.rhythm.get_or_insert_with(|| Rhythm::new(now));
            let level = rhythm.listen(now, figures.heard, rule).map_or(Level::Under, |silent| {
                let (silence, usual) = (spoken(now.since(silent.last)), spoken(silent.usual));
                Level::Over(rule.severity, format!("nothing has come for {silence}; usual are at most {usual}"))
            });
            say(Rule::Silence, level);
        }
        if let Some(rule) = &rules.duplicates {
            let windows = (&mut self.duplicates, &mut self.heard);
            let counters = (figures.duplicates, figures.heard);
            say(Rule::Duplicates, shared(windows, now, counters, rule, "of the events came before"));
        }
        if let Some(rule) = &rules.stale {
            let what = "genuine requests came too long after they were signed, or before it: whose clock is wrong?";
            say(Rule::Stale, counted(&mut self.stale, now, figures.stale, rule, what));
        }
    }

    /// The time in which the relay was not running is nobody's silence.
    pub(super) fn resume(&mut self, stopped: Timestamp, now: Timestamp) {
        if let Some(rhythm) = &mut self.rhythm {
            rhythm.resume(stopped, now);
        }
    }
}

/// What counts events of one kind for the whole relay.
#[derive(Debug, Default)]
pub(super) struct PartWatch {
    pub(super) counted: Window,
}

/// A space that fills.
#[derive(Debug, Default)]
pub(super) struct SpaceWatch(Window);

impl SpaceWatch {
    pub(super) fn judge(&mut self, now: Timestamp, space: &Space, rule: &DiskRule) -> Level {
        let used = space.used as f64 / space.limit.max(1) as f64;
        let full_in = self.full_in(now, space).filter(|_| used >= SOON_SHARE_MIN);
        let is_soon = full_in.is_some_and(|full_in| full_in <= rule.full_soon);
        let severity = match used {
            _ if used >= rule.critical => Some(Severity::Critical),
            _ if used >= rule.warning || is_soon => Some(Severity::Warning),
            _ if used >= rule.info => Some(Severity::Info),
            _ => None,
        };
        let Some(severity) = severity else {
            let calm = used < rule.info - SPACE_GAP && full_in.is_none_or(|full_in| full_in > rule.full_soon * 2);
            return if calm { Level::Under } else { Level::Between };
        };
        let soon = full_in.map(|full_in| format!(", and at the pace of the last hour full in {}", spoken(full_in)));
        Level::Over(severity, format!("{:.0} % are used{}", used * 100.0, soon.unwrap_or_default()))
    }

    /// When it is full at the pace of the last hour.
    fn full_in(&mut self, now: Timestamp, space: &Space) -> Option<Duration> {
        self.0.grown(now, space.used, GROWTH);
        let (then, before) = self.0.oldest()?;
        // A reading from before the hour holds until its beginning.
        let seen = now.since(then.max(now.before(GROWTH))).as_secs_f64();
        let grown = space.used.saturating_sub(before) as f64;
        if seen < GROWTH_MIN.as_secs_f64() || grown <= 0.0 {
            return None;
        }
        let left = space.limit.saturating_sub(space.used) as f64;
        Duration::try_from_secs_f64(left / (grown / seen)).ok()
    }
}

/// So many in a window; over again at half of it.
pub(super) fn counted(window: &mut Window, now: Timestamp, total: u64, rule: &Counted, what: &str) -> Level {
    let count = window.grown(now, total, rule.window);
    match count {
        _ if count >= rule.threshold => {
            Level::Over(rule.severity, format!("{count} in {}: {what}", spoken(rule.window)))
        }
        _ if count >= rule.threshold.div_ceil(2) || !window.is_full(now, rule.window) => Level::Between,
        _ => Level::Under,
    }
}

/// A share of what happens; over again at half of it.
fn shared(
    (some, all): (&mut Window, &mut Window),
    now: Timestamp,
    totals: (u64, u64),
    rule: &Shared,
    what: &str,
) -> Level {
    let (some_now, all_now) = (some.grown(now, totals.0, rule.window), all.grown(now, totals.1, rule.window));
    let share = some_now as f64 / all_now.max(1) as f64;
    let enough = all_now >= rule.minimum;
    let text = || format!("{:.0} % {what} ({some_now} of {all_now} in {})", share * 100.0, spoken(rule.window));
    match () {
        () if enough && share >= rule.share => Level::Over(rule.severity, text()),
        () if enough && share >= rule.share / 2.0 => Level::Still(text()),
        // Few may only mean that the process is young.
        () if !enough && !all.is_full(now, rule.window) => Level::Between,
        () => Level::Under,
    }
}

/// A state that lasts.
fn lasting(since: &mut Option<Timestamp>, is_so: bool, now: Timestamp, rule: &Aged, what: &str) -> Level {
    if !is_so {
        *since = None;
        return Level::Under;
    }
    let lasts = now.since(*since.get_or_insert(now));
    if lasts < rule.age {
        return Level::Between;
    }
    Level::Over(rule.severity, format!("{what} for {}", spoken(lasts)))
}

fn latency(compared: Compared, rule: &LatencyRule) -> Level {
    match compared {
        Compared::Slow { p95_us, usual_us } => {
            let text = format!("p95 is {:.0} ms; usual are {:.0} ms", p95_us / 1000.0, usual_us / 1000.0);
            Level::Over(rule.severity, text)
        }
        Compared::Slower => Level::Between,
        Compared::Usual | Compared::Unknown => Level::Under,
    }
}

/// `3 days`, `2 hours`, `15 minutes`, `40 seconds`: rounded down.
pub(super) fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    let (count, unit) = match seconds {
        172_800.. => (seconds / 86_400, "day"),
        7_200.. => (seconds / 3_600, "hour"),
        120.. => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
