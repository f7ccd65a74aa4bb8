//! Every rule raises and resolves once, on a clock that stands still until it is moved.

use std::{sync::Arc, time::Duration};

use super::{
    Aged, Counted, DiskRule, Engine, Figures, LatencyRule, News, Notice, Plain, Rule, Rules, Saved, Settings, Severity,
    Shared, SilenceRule, SourceFigures, Space, UpstreamFigures,
};
use crate::clock::{Clock, ManualClock, Timestamp};

const STEP: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn settings() -> Settings {
    let warning = Severity::Warning;
    let counted = |threshold| Some(Counted { severity: warning, threshold, window: 10 * MINUTE });
    let shared = |share| Some(Shared { severity: warning, share, minimum: 20, window: 10 * MINUTE });
    let aged = |age| Some(Aged { severity: warning, age });
    Settings {
        repeat: 4 * HOUR,
        settle: 2 * MINUTE,
        max_per_hour: 60,
        rules: Rules {
            failures: counted(5),
            dead: Some(Counted { severity: warning, threshold: 1, window: DAY }),
            errors: shared(0.2),
            refusals: shared(0.5),
            backlog: aged(15 * MINUTE),
            latency: Some(LatencyRule {
                severity: warning,
                factor: 3.0,
                floor: Duration::from_millis(100),
                window: 5 * MINUTE,
                minimum: 20,
            }),
            silence: Some(SilenceRule { severity: warning, factor: 2.0, floor: 30 * MINUTE, learn: 2 * DAY }),
            duplicates: shared(0.5),
            stale: counted(5),
            hold: aged(DAY),
            disk: Some(DiskRule { info: 0.7, warning: 0.85, critical: 0.95, full_soon: 6 * HOUR }),
            breaker: aged(10 * MINUTE),
            reload: Some(Plain { severity: warning }),
            unavailable: counted(1),
        },
    }
}

/// An engine with a clock, one upstream `u`, one source `s` and the store.
struct Rig {
    engine: Engine,
    clock: Clock,
    hand: Arc<ManualClock>,
    figures: Figures,
}

impl Rig {
    fn new() -> Self {
        let (clock, hand) = Clock::manual(Timestamp::from_millis(1_767_323_045_000));
        let figures = Figures {
            upstreams: vec![UpstreamFigures { name: "u".into(), ..UpstreamFigures::default() }],
            sources: vec![SourceFigures { name: "s".into(), ..SourceFigures::default() }],
            spaces: vec![Space { name: "store", used: 0, limit: 1_000_000 }],
            ..Figures::default()
        };
        Self { engine: Engine::new(settings(), Saved::default(), clock.steady()), clock, hand, figures }
    }

    fn upstream(&mut self) -> &mut UpstreamFigures {
        &mut self.figures.upstreams[0]
    }

    fn source(&mut self) -> &mut SourceFigures {
        &mut self.figures.sources[0]
    }

    /// Lets time pass; `more` is what happens in each step. Gives what was told.
    fn run(&mut self, time: Duration, mut more: impl FnMut(&mut Figures)) -> Vec<Notice> {
        let mut told = Vec::new();
        for _ in 0..time.as_secs() / STEP.as_secs() {
            self.hand.advance(STEP);
            more(&mut self.figures);
            told.extend(self.engine.step(self.clock.steady(), &self.figures));
        }
        told
    }

    /// The same, in short.
    fn told(&mut self, time: Duration, more: impl FnMut(&mut Figures)) -> Vec<(News, Rule)> {
        self.run(time, more).into_iter().map(|notice| (notice.news, notice.alert.rule)).collect()
    }

    fn quiet(&mut self, time: Duration) -> Vec<(News, Rule)> {
        self.told(time, |_| {})
    }

    fn set(&mut self, change: impl FnOnce(&mut Rules)) {
        let mut settings = settings();
        change(&mut settings.rules);
        self.engine.configure(settings);
    }

    fn restart(&mut self, down: Duration) {
        let saved = self.engine.save(self.clock.steady()).unwrap();
        self.hand.advance(down);
        self.engine = Engine::new(settings(), serde_json::from_slice(&saved).unwrap(), self.clock.steady());
        for upstream in &mut self.figures.upstreams {
            (upstream.attempted, upstream.failed, upstream.latency) = (0, 0, Default::default());
        }
        for source in &mut self.figures.sources {
            *source = SourceFigures { name: source.name.clone(), ..SourceFigures::default() };
        }
        self.figures.unavailable = 0;
    }
}

fn raised(rule: Rule) -> Vec<(News, Rule)> {
    vec![(News::Raised, rule)]
}

fn resolved(rule: Rule) -> Vec<(News, Rule)> {
    vec![(News::Resolved, rule)]
}

#[test]
fn five_failures_in_ten_minutes_raise_once_and_the_end_of_them_resolves_once() {
    let mut rig = Rig::new();
    rig.quiet(HOUR);
    rig.upstream().failed += 4;
    assert_eq!(rig.quiet(MINUTE), []);
    rig.upstream().failed += 1;
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Failures));
    assert_eq!(rig.told(HOUR, |figures| figures.upstreams[0].failed += 1), []);
    // Few are neither: nothing flaps.
    assert_eq!(rig.quiet(8 * MINUTE), []);
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Failures));
    assert_eq!(rig.engine.standing(), []);
}

#[test]
fn what_stands_is_told_again_on_a_schedule() {
    let mut rig = Rig::new();
    rig.figures.reload_failed = true;
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Reload));
    assert_eq!(rig.quiet(4 * HOUR), [(News::Repeated, Rule::Reload)]);
    assert_eq!(rig.quiet(4 * HOUR), [(News::Repeated, Rule::Reload)]);
    rig.figures.reload_failed = false;
    assert_eq!(rig.quiet(MINUTE), []);
    assert_eq!(rig.quiet(2 * MINUTE), resolved(Rule::Reload));
}

#[test]
fn what_comes_back_before_it_has_settled_is_the_same_alert() {
    let mut rig = Rig::new();
    rig.figures.reload_failed = true;
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Reload));
    for failed in [false, true, false, true, false, true] {
        rig.figures.reload_failed = failed;
        assert_eq!(rig.quiet(MINUTE), []);
    }
}

#[test]
fn a_new_dead_letter_raises_and_its_replay_or_a_day_without_another_resolves() {
    let mut rig = Rig::new();
    rig.upstream().dead = 7;
    // Those that were there before are known.
    assert_eq!(rig.quiet(MINUTE), []);
    rig.upstream().dead = 9;
    let told = rig.run(MINUTE, |_| {});
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].alert.text, "upstream u: 2 deliveries were given up and can be replayed");
    rig.upstream().dead = 0;
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Dead));
    rig.upstream().dead = 1;
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Dead));
    let later = rig.quiet(25 * HOUR);
    assert_eq!(later.last(), Some(&(News::Resolved, Rule::Dead)));
    assert_eq!(later.iter().filter(|(news, _)| *news == News::Repeated).count(), 6);
}

#[test]
fn a_share_of_errors_raises_with_enough_attempts_and_falls_again() {
    let mut rig = Rig::new();
    rig.set(|rules| rules.failures = None);
    rig.quiet(HOUR);
    rig.upstream().attempted += 10;
    rig.upstream().failed += 10;
    assert_eq!(rig.quiet(MINUTE), []);
    let some = |failed| {
        move |figures: &mut Figures| {
            figures.upstreams[0].attempted += 10;
            figures.upstreams[0].failed += failed;
        }
    };
    assert_eq!(rig.told(15 * MINUTE, some(3)), raised(Rule::Errors));
    assert_eq!(rig.told(HOUR, some(1)).len(), 0);
    assert_eq!(rig.told(HOUR, some(0)), resolved(Rule::Errors));
}

#[test]
fn refused_requests_of_a_source_raise_and_fall_again() {
    let mut rig = Rig::new();
    rig.quiet(HOUR);
    assert_eq!(rig.told(HOUR, |figures| figures.sources[0].refused += 2), raised(Rule::Refusals));
    assert_eq!(rig.told(HOUR, |figures| figures.sources[0].heard += 2), resolved(Rule::Refusals));
}

#[test]
fn a_backlog_raises_at_its_age_and_falls_at_half_of_it() {
    let mut rig = Rig::new();
    rig.upstream().oldest = Some(14 * MINUTE);
    assert_eq!(rig.quiet(MINUTE), []);
    rig.upstream().oldest = Some(15 * MINUTE);
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Backlog));
    rig.upstream().oldest = Some(10 * MINUTE);
    assert_eq!(rig.quiet(HOUR), []);
    rig.upstream().oldest = Some(MINUTE);
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Backlog));
}

#[test]
fn a_latency_raises_against_its_own_baseline_and_falls_when_it_is_usual_again() {
    let mut rig = Rig::new();
    // Up to 50 ms, then up to 1 s.
    let usual = |figures: &mut Figures| figures.upstreams[0].latency[8] += 1;
    let slow = |figures: &mut Figures| figures.upstreams[0].latency[12] += 1;
    assert_eq!(rig.told(20 * MINUTE, usual), []);
    // Too little is known yet, and a single slow window of few attempts says nothing.
    assert_eq!(rig.told(2 * HOUR, usual), []);
    assert_eq!(rig.told(HOUR, slow), raised(Rule::Latency));
    assert_eq!(rig.told(HOUR, usual), resolved(Rule::Latency));
}

#[test]
fn below_its_floor_no_latency_is_worth_an_alert() {
    let mut rig = Rig::new();
    assert_eq!(rig.told(2 * HOUR, |figures| figures.upstreams[0].latency[0] += 1), []);
    assert_eq!(rig.told(2 * HOUR, |figures| figures.upstreams[0].latency[8] += 1), []);
}

/// One event every ten minutes from 8 to 20 o'clock.
fn office_hours(now: Timestamp, figures: &mut Figures) {
    let second_of_day = now.as_millis() / 1000 % 86_400;
    if (28_800..72_000).contains(&second_of_day) && second_of_day % 600 < STEP.as_secs() {
        figures.sources[0].heard += 1;
    }
}

#[test]
fn a_source_is_silent_when_it_is_so_for_longer_than_its_rhythm_knows() {
    let mut rig = Rig::new();
    let clock = rig.clock.clone();
    // Nights of twelve hours are part of the rhythm.
    assert_eq!(rig.told(5 * DAY, |figures| office_hours(clock.steady(), figures)), []);
    let told = rig.run(DAY + 6 * HOUR, |_| {});
    assert_eq!(told.iter().filter(|notice| notice.news == News::Raised).count(), 1);
    assert!(told[0].alert.text.starts_with("source s: nothing has come for 24 hours; usual are at most 12 hours"));
    assert_eq!(rig.told(DAY, |figures| office_hours(clock.steady(), figures)).last(), resolved(Rule::Silence).last());
}

#[test]
fn a_busy_source_is_missed_after_the_floor_and_one_that_never_sent_never() {
    let mut rig = Rig::new();
    assert_eq!(rig.quiet(3 * DAY), []);
    assert_eq!(rig.told(2 * DAY, |figures| figures.sources[0].heard += 1), []);
    rig.engine = Engine::new(settings(), Saved::default(), rig.clock.steady());
    assert_eq!(rig.told(2 * DAY, |figures| figures.sources[0].heard += 1), []);
    assert_eq!(rig.quiet(29 * MINUTE), []);
    assert_eq!(rig.quiet(2 * MINUTE), raised(Rule::Silence));
    rig.restart(2 * HOUR);
    assert_eq!(rig.quiet(HOUR), []);
    rig.source().heard = 1;
    assert_eq!(rig.told(10 * MINUTE, |figures| figures.sources[0].heard += 1), resolved(Rule::Silence));
}

#[test]
fn a_surge_of_duplicates_raises_and_falls_again() {
    let mut rig = Rig::new();
    rig.quiet(HOUR);
    let heard = |duplicates| {
        move |figures: &mut Figures| {
            figures.sources[0].heard += 4;
            figures.sources[0].duplicates += duplicates;
        }
    };
    assert_eq!(rig.told(HOUR, heard(0)), []);
    assert_eq!(rig.told(HOUR, heard(3)), raised(Rule::Duplicates));
    assert_eq!(rig.told(HOUR, heard(0)), resolved(Rule::Duplicates));
}

#[test]
fn genuine_requests_that_come_too_late_raise_and_fall_again() {
    let mut rig = Rig::new();
    rig.quiet(HOUR);
    rig.source().stale += 5;
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Stale));
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Stale));
}

#[test]
fn a_hold_is_forgotten_after_a_day_and_a_restart_does_not_begin_the_day_again() {
    let mut rig = Rig::new();
    rig.upstream().is_held = true;
    assert_eq!(rig.quiet(23 * HOUR), []);
    rig.restart(MINUTE);
    assert_eq!(rig.quiet(2 * HOUR), raised(Rule::Hold));
    rig.upstream().is_held = false;
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Hold));
}

#[test]
fn a_disk_that_fills_is_told_at_each_of_its_levels_and_once_when_it_has_room_again() {
    let mut rig = Rig::new();
    rig.figures.spaces[0].used = 690_000;
    assert_eq!(rig.quiet(2 * HOUR), []);
    rig.set(|rules| rules.disk.as_mut().unwrap().full_soon = Duration::ZERO);
    let mut levels = Vec::new();
    for used in [700_000, 690_000, 849_000, 851_000, 849_000, 951_000, 990_000, 940_000] {
        rig.figures.spaces[0].used = used;
        levels.extend(rig.run(MINUTE, |_| {}).into_iter().map(|notice| (notice.news, notice.alert.severity)));
    }
    assert_eq!(
        levels,
        [(News::Raised, Severity::Info), (News::Worsened, Severity::Warning), (News::Worsened, Severity::Critical)]
    );
    rig.figures.spaces[0].used = 690_000;
    assert_eq!(rig.quiet(HOUR), []);
    rig.figures.spaces[0].used = 100_000;
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Disk));
}

#[test]
fn a_disk_that_will_be_full_soon_is_told_before_it_is() {
    let mut rig = Rig::new();
    rig.figures.spaces[0].used = 520_000;
    assert_eq!(rig.quiet(2 * HOUR), []);
    // Full in less than two hours.
    assert_eq!(rig.told(30 * MINUTE, |figures| figures.spaces[0].used += 200), raised(Rule::Disk));
    rig.figures.spaces[0].used = 400_000;
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Disk));
}

#[test]
fn an_open_breaker_raises_after_ten_minutes_and_its_closing_resolves() {
    let mut rig = Rig::new();
    rig.upstream().is_cut_off = true;
    assert_eq!(rig.quiet(9 * MINUTE), []);
    assert_eq!(rig.quiet(2 * MINUTE), raised(Rule::Breaker));
    rig.upstream().is_cut_off = false;
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Breaker));
}

#[test]
fn a_503_of_ours_raises_and_its_end_resolves() {
    let mut rig = Rig::new();
    rig.quiet(HOUR);
    rig.figures.unavailable += 1;
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Unavailable));
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Unavailable));
}

#[test]
fn a_restart_raises_nothing_twice_and_resolves_nothing_by_forgetting() {
    let mut rig = Rig::new();
    rig.quiet(HOUR);
    rig.upstream().failed += 5;
    rig.upstream().dead = 1;
    assert_eq!(rig.quiet(MINUTE).len(), 2);
    rig.restart(MINUTE);
    assert_eq!(rig.quiet(5 * MINUTE), []);
    assert_eq!(rig.engine.standing().len(), 2);
    // After a whole window without failures it is true that there are none.
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Failures));
    rig.restart(MINUTE);
    rig.upstream().dead = 0;
    assert_eq!(rig.quiet(HOUR), resolved(Rule::Dead));
}

#[test]
fn what_is_not_configured_any_more_is_resolved_and_forgotten() {
    let mut rig = Rig::new();
    rig.upstream().oldest = Some(HOUR);
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Backlog));
    rig.figures.upstreams.clear();
    assert_eq!(rig.quiet(MINUTE), resolved(Rule::Backlog));
    let saved = String::from_utf8(rig.engine.save(rig.clock.steady()).unwrap()).unwrap();
    assert!(saved.contains(r#""upstreams":{},"sources":{"s""#), "{saved}");
    rig.figures.reload_failed = true;
    assert_eq!(rig.quiet(MINUTE), raised(Rule::Reload));
    rig.engine.configure(Settings { rules: Rules::default(), ..settings() });
    assert_eq!(rig.quiet(MINUTE), resolved(Rule::Reload));
}

#[test]
fn a_notice_says_what_whom_and_since_when() {
    let mut rig = Rig::new();
    rig.upstream().oldest = Some(HOUR);
    let notice = rig.run(STEP, |_| {}).remove(0);
    let payload = notice.payload("host1");
    assert_eq!(payload["type"], "alert.raised");
    assert_eq!(payload["data"]["upstream"], "u");
    assert_eq!(payload["data"]["source"], serde_json::Value::Null);
    assert_eq!(
        payload["data"]["text"],
        "[warning] raised on host1: upstream u: the oldest delivery has been waiting for 60 minutes"
    );
    assert_ne!(notice.key(), Notice { news: News::Resolved, ..notice.clone() }.key());
}
