//! Owns what is known about each target: failures, ejection, health. Pure: time and policy are arguments.

use std::{sync::Arc, time::Duration};

use super::TargetView;
use crate::{
    clock::Timestamp,
    delivery::{client::Shared, names::Names},
    routing::{Balance, HealthCheck, Targets},
    telemetry::{Gauge, TargetMetrics, UpstreamMetrics},
};

/// The targets of one upstream.
pub(crate) struct Pool {
    names: Arc<Names>,
    adopted: Option<Arc<Targets>>,
    /// Urls that an operator took out, configured or not.
    drained: Vec<Box<str>>,
    /// In the order of the members of `adopted`.
    known: Vec<Known>,
    /// Where the last turn went.
    last: usize,
    /// All are tried, because none is up.
    panic: bool,
    panic_metric: Option<Arc<Gauge>>,
    /// Somebody asks these targets about their health.
    watched: bool,
}

struct Known {
    url: Arc<str>,
    metrics: Arc<TargetMetrics>,
    protocol: Arc<Shared>,
    /// In a row.
    failures: u32,
    ejected_until: Option<Timestamp>,
    /// For how long the last time.
    ejected_for: Duration,
    /// Times in a row.
    ejections: u32,
    unhealthy: bool,
    /// By an operator.
    drained: bool,
    /// The last attempt got a good answer.
    good: bool,
    /// Answers to health checks in a row that speak against `unhealthy`.
    against: u32,
}

/// What changed for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Ejected(Duration),
    Unhealthy,
    Healthy,
}

impl Known {
    fn new(url: Arc<str>, metrics: Arc<TargetMetrics>, names: &Arc<Names>) -> Self {
        metrics.up.set(1);
        Self {
            url,
            metrics,
            protocol: Arc::new(Shared::new(names.clone())),
            failures: 0,
            ejected_until: None,
            ejected_for: Duration::ZERO,
            ejections: 0,
            unhealthy: false,
            drained: false,
            good: false,
            against: 0,
        }
    }

    fn is_ejected(&self, now: Timestamp) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    fn is_up(&self, now: Timestamp) -> bool {
        !self.drained && !self.unhealthy && !self.is_ejected(now)
    }

    fn show(&self, now: Timestamp) {
        self.metrics.up.set(i64::from(self.is_up(now)));
        self.metrics.drained.set(i64::from(self.drained));
    }
}

impl Pool {
    pub(crate) fn new(names: Arc<Names>) -> Self {
        Self {
            names,
            adopted: None,
            drained: Vec::new(),
            known: Vec::new(),
            last: 0,
            panic: false,
            panic_metric: None,
            watched: false,
        }
    }

    /// Takes the targets over, with what is known of those that stay. True if they are others than before.
    pub(crate) fn adopt(&mut self, targets: Option<&Arc<Targets>>, metrics: &UpstreamMetrics) -> bool {
        let same = match (&self.adopted, targets) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        if same {
            return false;
        }
        let mut before = std::mem::take(&mut self.known);
        let members = targets.map(|targets| targets.members.as_slice()).unwrap_or_default();
        for member in members {
            let known = before.iter().position(|known| known.url == member.url).map(|at| before.swap_remove(at));
            let fresh = || Known::new(member.url.clone(), metrics.target(&member.url), &self.names);
            let mut known = known.unwrap_or_else(fresh);
            known.drained = self.drained.contains(&Box::from(&*known.url));
            if targets.is_some_and(|targets| targets.health.is_none()) {
                // Nobody would ever find it healthy again.
                known.unhealthy = false;
            }
            self.known.push(known);
        }
        metrics.keep_targets(|url| members.iter().any(|member| *member.url == *url));
        self.panic_metric = Some(metrics.panic.clone());
        if members.is_empty() {
            self.panic = false;
            metrics.panic.set(0);
        }
        self.adopted = targets.cloned();
        self.watched = false;
        true
    }

    /// These get no new attempts from now on, and no others are kept from them.
    pub(crate) fn drain(&mut self, urls: &[Box<str>]) {
        self.drained = urls.to_vec();
        for known in &mut self.known {
            known.drained = urls.contains(&Box::from(&*known.url));
        }
    }

    /// Whether none is left.
    pub(crate) fn is_drained(&self) -> bool {
        !self.known.is_empty() && self.known.iter().all(|known| known.drained)
    }

    /// The targets, if they want to be asked about their health and nobody does.
    pub(crate) fn take_unwatched(&mut self) -> Option<Arc<Targets>> {
        let targets = self.adopted.as_ref().filter(|targets| targets.health.is_some() && !self.watched)?;
        self.watched = true;
        Some(targets.clone())
    }

    /// Whether these are the targets of now.
    pub(crate) fn is_adopted(&self, targets: &Arc<Targets>) -> bool {
        self.adopted.as_ref().is_some_and(|adopted| Arc::ptr_eq(adopted, targets))
    }

    /// Shows who is up now. Gives when the next ejection ends.
    pub(crate) fn tick(&self, now: Timestamp) -> Option<Timestamp> {
        self.known.iter().for_each(|known| known.show(now));
        self.known.iter().filter_map(|known| known.ejected_until).filter(|until| *until > now).min()
    }

    /// The index of the next target, and whether panic began or ended with it. Targets that nothing is known of (a
    /// reload is under way) are taken for good.
    pub(crate) fn choose(
        &mut self,
        targets: &Targets,
        now: Timestamp,
        except: Option<&str>,
    ) -> Option<(usize, Option<bool>)> {
        let count = targets.members.len();
        let turn = |from: usize| (1..=count).map(move |step| (from + step) % count.max(1));
        let is_up = |index: usize| {
            let member = targets.members.get(index)?;
            let up = self.known_at(index, &member.url).is_none_or(|known| known.is_up(now));
            (up && except != Some(&*member.url)).then_some(index)
        };
        let may_be = |index: &usize| {
            let member = targets.members.get(*index);
            member.is_some_and(|member| self.known_at(*index, &member.url).is_none_or(|known| !known.drained))
        };
        let load = |index: &usize| {
            let url = targets.members.get(*index).map(|member| &*member.url).unwrap_or_default();
            self.known_at(*index, url).map_or(0, |known| known.metrics.in_flight.get())
        };
        let best = |candidates: &mut dyn Iterator<Item = usize>| match targets.balance {
            Balance::RoundRobin => candidates.next(),
            Balance::LeastInFlight => candidates.min_by_key(load),
        };
        let up = best(&mut turn(self.last).filter_map(is_up));
        let index = match (up, except) {
            (Some(index), _) => index,
            (None, Some(_)) => return None,
            (None, None) => best(&mut turn(self.last).filter(may_be))?,
        };
        self.last = index;
        if except.is_some() {
            return Some((index, None));
        }
        let panic = up.is_none();
        let began = (std::mem::replace(&mut self.panic, panic) != panic).then_some(panic);
        if began.is_some()
            && let Some(metric) = &self.panic_metric
        {
            metric.set(i64::from(panic));
        }
        Some((index, began))
    }

    fn known_at(&self, index: usize, url: &str) -> Option<&Known> {
        let here = self.known.get(index).filter(|known| *known.url == *url);
        here.or_else(|| self.known.iter().find(|known| *known.url == *url))
    }

    /// What attempts at a target share. One that is gone by a reload has figures that nobody sees.
    pub(crate) fn shared(&self, index: usize, url: &str) -> (Arc<TargetMetrics>, Arc<Shared>) {
        let known = self.known_at(index, url).map(|known| (known.metrics.clone(), known.protocol.clone()));
        known.unwrap_or_else(|| (Arc::default(), Arc::new(Shared::new(self.names.clone()))))
    }

    /// Whether another target than this one works: it is up, and its last attempt got a good answer.
    pub(crate) fn has_better(&self, url: &str, now: Timestamp) -> bool {
        self.known.iter().any(|known| *known.url != *url && known.good && known.is_up(now))
    }

    /// Takes note of an attempt.
    pub(crate) fn observe(&mut self, url: &str, is_failure: bool, now: Timestamp) -> Option<Standing> {
        let targets = self.adopted.clone()?;
        let in_use = self.known.iter().filter(|known| !known.drained);
        let (ejected, count) =
            in_use.fold((0, 0), |(ejected, count), known| (ejected + usize::from(known.is_ejected(now)), count + 1));
        let is_room = ejected < targets.eject.ejected_max(count);
        let known = self.known.iter_mut().find(|known| *known.url == *url)?;
        known.good = !is_failure;
        if known.is_ejected(now) {
            // It was under way when the target was ejected, or all are tried.
            return None;
        }
        if !is_failure {
            known.failures = 0;
            let is_lasting = known.ejected_until.is_none_or(|until| now.since(until) >= known.ejected_for);
            if is_lasting {
                known.ejections = 0;
            }
            return None;
        }
        known.failures = known.failures.saturating_add(1);
        if known.failures < targets.eject.failures || !is_room {
            return None;
        }
        known.failures = 0;
        known.ejections = known.ejections.saturating_add(1);
        known.ejected_for = targets.eject.time_of(known.ejections);
        known.ejected_until = Some(now.after(known.ejected_for));
        known.metrics.ejections.inc();
        known.show(now);
        Some(Standing::Ejected(known.ejected_for))
    }

    /// Takes note of an answer to a health check.
    pub(crate) fn checked(
        &mut self,
        url: &str,
        is_good: bool,
        policy: &HealthCheck,
        now: Timestamp,
    ) -> Option<Standing> {
        let known = self.known.iter_mut().find(|known| *known.url == *url)?;
        if is_good != known.unhealthy {
            known.against = 0;
            return None;
        }
        known.against = known.against.saturating_add(1);
        let (enough, standing) = match known.unhealthy {
            true => (policy.healthy, Standing::Healthy),
            false => (policy.unhealthy, Standing::Unhealthy),
        };
        if known.against < enough {
            return None;
        }
        known.against = 0;
        known.unhealthy = !known.unhealthy;
        known.show(now);
        Some(standing)
    }

    pub(crate) fn views(&self, now: Timestamp) -> Vec<TargetView> {
        let view = |known: &Known| TargetView {
            url: known.url.clone(),
            state: match () {
                () if known.drained => "drained",
                () if known.unhealthy => "unhealthy",
                () if known.is_ejected(now) => "ejected",
                () => "up",
            },
            in_flight: usize::try_from(known.metrics.in_flight.get()).unwrap_or(0),
            ejected_until: known.ejected_until.filter(|until| now < *until),
        };
        self.known.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        routing::{EjectPolicy, Member, Target, Upstream},
    };

    const T: Timestamp = Timestamp::from_millis(1_000_000);

    fn targets(count: usize, balance: Balance, max: f64) -> Arc<Targets> {
        let member = |index| {
            let url = format!("http://t{index}");
            let target = Target::Http(url.parse().unwrap());
            Member { url: url.into(), upstream: Arc::new(Upstream::new("u", target)) }
        };
        let eject = EjectPolicy::new(3, Duration::from_secs(30), max).unwrap();
        Arc::new(Targets::new((0..count).map(member).collect(), balance, None, eject).unwrap())
    }

    fn names() -> Arc<Names> {
        Names::new(Arc::new(crate::delivery::System), Clock::system(), Arc::default())
    }

    fn pool(targets: &Arc<Targets>) -> (Pool, UpstreamMetrics) {
        let (mut pool, metrics) = (Pool::new(names()), UpstreamMetrics::default());
        assert!(pool.adopt(Some(targets), &metrics) && !pool.adopt(Some(targets), &metrics));
        (pool, metrics)
    }

    fn turns(pool: &mut Pool, targets: &Targets, now: Timestamp, count: usize) -> Vec<usize> {
        (0..count).map(|_| pool.choose(targets, now, None).unwrap().0).collect()
    }

    fn fail(pool: &mut Pool, target: usize, times: usize, now: Timestamp) -> Option<Standing> {
        (0..times).filter_map(|_| pool.observe(&format!("http://t{target}"), true, now)).last()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn targets_take_turns_and_an_ejected_one_is_left_out_until_its_time_is_over() {
        let targets = targets(3, Balance::RoundRobin, 0.5);
        let (mut pool, metrics) = pool(&targets);
        assert_eq!(turns(&mut pool, &targets, T, 4), [1, 2, 0, 1]);
        assert_eq!(fail(&mut pool, 1, 2, T), None);
        assert_eq!(fail(&mut pool, 1, 1, T), Some(Standing::Ejected(s(30))));
        assert_eq!(metrics.target("http://t1").up.get(), 0);
        assert_eq!(turns(&mut pool, &targets, T, 4), [2, 0, 2, 0]);
        let back = T.after(s(30));
        assert_eq!(pool.tick(T), Some(back));
        assert_eq!(turns(&mut pool, &targets, back, 3), [1, 2, 0]);
        assert_eq!((pool.tick(back), metrics.target("http://t1").up.get()), (None, 1));
    }

    #[test]
    fn a_success_between_failures_ejects_nobody() {
        let targets = targets(2, Balance::RoundRobin, 0.5);
        let (mut pool, _) = pool(&targets);
        for _ in 0..10 {
            assert_eq!(fail(&mut pool, 0, 2, T), None);
            assert_eq!(pool.observe("http://t0", false, T), None);
        }
    }

    #[test]
    fn a_target_is_better_if_it_is_up_and_its_last_answer_was_good() {
        let targets = targets(2, Balance::RoundRobin, 0.5);
        let (mut pool, _) = pool(&targets);
        assert!(!pool.has_better("http://t0", T), "nothing is known of the other");
        pool.observe("http://t1", false, T);
        assert!(pool.has_better("http://t0", T) && !pool.has_better("http://t1", T));
        fail(&mut pool, 1, 1, T);
        assert!(!pool.has_better("http://t0", T));
        pool.observe("http://t1", false, T);
        pool.known[1].unhealthy = true;
        assert!(!pool.has_better("http://t0", T));
    }

    #[test]
    fn no_more_than_the_share_is_ejected_at_once_and_never_the_last() {
        let targets = targets(4, Balance::RoundRobin, 0.5);
        let (mut pool, _) = pool(&targets);
        for target in 0..4 {
            let ejected = fail(&mut pool, target, 50, T);
            assert_eq!(ejected.is_some(), target < 2, "{target}");
        }
        assert_eq!(turns(&mut pool, &targets, T, 4), [2, 3, 2, 3]);
        // As soon as there is room the next failure ejects.
        assert!(fail(&mut pool, 3, 1, T.after(s(30))).is_some());
    }

    #[test]
    fn each_ejection_soon_after_the_last_is_longer_and_a_good_time_forgets_them() {
        let targets = targets(2, Balance::RoundRobin, 0.5);
        let (mut pool, _) = pool(&targets);
        assert_eq!(fail(&mut pool, 0, 3, T), Some(Standing::Ejected(s(30))));
        let back = T.after(s(30));
        pool.observe("http://t0", false, back);
        assert_eq!(fail(&mut pool, 0, 3, back), Some(Standing::Ejected(s(60))));
        let later = back.after(s(120));
        pool.observe("http://t0", false, later);
        assert_eq!(fail(&mut pool, 0, 3, later), Some(Standing::Ejected(s(30))));
    }

    #[test]
    fn without_a_target_that_is_up_all_are_tried_and_the_metric_says_so() {
        let targets = targets(2, Balance::RoundRobin, 0.5);
        let (mut pool, metrics) = pool(&targets);
        pool.known.iter_mut().for_each(|known| known.unhealthy = true);
        assert_eq!(pool.choose(&targets, T, None), Some((1, Some(true))));
        assert_eq!(pool.choose(&targets, T, None), Some((0, None)));
        assert_eq!((metrics.panic.get(), pool.choose(&targets, T, Some("http://t0"))), (1, None));
        pool.known[1].unhealthy = false;
        assert_eq!(pool.choose(&targets, T, None), Some((1, Some(false))));
        assert_eq!(metrics.panic.get(), 0);
    }

    #[test]
    fn least_in_flight_takes_the_one_with_the_fewest() {
        let targets = targets(3, Balance::LeastInFlight, 0.5);
        let (mut pool, metrics) = pool(&targets);
        for (target, attempts) in [(0, 2), (1, 1), (2, 5)] {
            metrics.target(&format!("http://t{target}")).in_flight.set(attempts);
        }
        assert_eq!(turns(&mut pool, &targets, T, 2), [1, 1]);
        metrics.target("http://t1").in_flight.set(2);
        assert_eq!(turns(&mut pool, &targets, T, 2), [0, 1], "of equals one after the other");
    }

    #[test]
    fn a_drained_target_gets_no_attempt_even_if_no_other_is_up_and_the_last_stops_all() {
        let targets = targets(3, Balance::RoundRobin, 0.9);
        let (mut pool, metrics) = pool(&targets);
        pool.drain(&["http://t1".into()]);
        assert_eq!(turns(&mut pool, &targets, T, 3), [2, 0, 2]);
        assert!(fail(&mut pool, 0, 3, T).is_some());
        assert_eq!(fail(&mut pool, 2, 9, T), None, "of those that are left one is never ejected");
        pool.known[2].unhealthy = true;
        let panic = turns(&mut pool, &targets, T, 4);
        assert!(!panic.contains(&1) && panic.contains(&0) && panic.contains(&2), "{panic:?}");
        assert_eq!(pool.choose(&targets, T, Some("http://t0")), None);
        assert_eq!(pool.views(T)[1].state, "drained");
        pool.tick(T);
        assert_eq!((metrics.target("http://t1").up.get(), metrics.target("http://t1").drained.get()), (0, 1));

        pool.drain(&["http://t0".into(), "http://t1".into(), "http://t2".into()]);
        assert!(pool.is_drained() && pool.choose(&targets, T, None).is_none());
        // A reload changes nothing about it; what comes is not drained.
        let four = super::tests::targets(4, Balance::RoundRobin, 0.9);
        assert!(pool.adopt(Some(&four), &metrics) && !pool.is_drained());
        assert_eq!(turns(&mut pool, &four, T, 2), [3, 3]);
        pool.drain(&[]);
        assert_eq!(turns(&mut pool, &four, T.after(s(60)), 3), [0, 1, 2]);
    }

    #[test]
    fn health_changes_after_so_many_answers_in_a_row() {
        let policy = HealthCheck {
            path: "/".into(),
            every: s(1),
            timeout: s(1),
            healthy: 2,
            unhealthy: 3,
            status: vec![(200, 299)],
        };
        let targets = targets(2, Balance::RoundRobin, 0.5);
        let (mut pool, metrics) = pool(&targets);
        let mut check = |is_good| pool.checked("http://t0", is_good, &policy, T);
        assert_eq!([false, false, true, false, false].map(&mut check), [None; 5]);
        assert_eq!(check(false), Some(Standing::Unhealthy));
        assert_eq!(metrics.target("http://t0").up.get(), 0);
        assert_eq!([true, false, true].map(&mut check), [None; 3]);
        assert_eq!(check(true), Some(Standing::Healthy));
        assert_eq!(metrics.target("http://t0").up.get(), 1);
    }

    #[test]
    fn a_reload_keeps_what_is_known_of_targets_that_stay_and_forgets_the_others() {
        let three = targets(3, Balance::RoundRobin, 0.5);
        let (mut pool, metrics) = pool(&three);
        assert!(fail(&mut pool, 1, 3, T).is_some());
        let two = targets(2, Balance::RoundRobin, 0.5);
        assert!(pool.adopt(Some(&two), &metrics));
        assert_eq!(turns(&mut pool, &two, T, 3), [0, 0, 0]);
        let shown: Vec<&str> = pool.views(T).iter().map(|view| view.state).collect();
        assert_eq!(shown, ["up", "ejected"]);
        assert_eq!(metrics.targets().len(), 2);
        // An attempt that still has the old configuration may end without harm.
        assert_eq!(pool.observe("http://t2", true, T), None);
        assert!(pool.adopt(None, &metrics) && metrics.targets().is_empty());
    }
}
