//! Owns the pace of one upstream: the configured rate, the one it permitted, what its answers allow, and the number of
//! attempts at once where that adapts.
//!
//! Promises that an attempt begins only if all of them let it, that a reload keeps what was used up, and that an
//! upstream without any of these costs a look at four options. Pure: time is an argument.

use std::time::Duration;

use http::StatusCode;

use super::{
    adapt::{Adapt, Load, Start},
    allowance::Allowance,
    bucket::Bucket,
    classify::{Health, Judgement},
    client::{Answer, Failure},
    ratelimit::{self, Quota},
};
use crate::{
    clock::Timestamp,
    routing::{self, PaceRate, RateHeaders, Upstream, waiting},
};

/// What holds an upstream back for a while; the words are those of `status --json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
    /// Its configured rate.
    Rate,
    /// What its answers said about its limits.
    RateHeaders,
    /// It asked for a pause (`Retry-After`).
    RetryAfter,
    /// It has not permitted deliveries (yet).
    Handshake,
    /// The rate that it permitted.
    AllowedRate,
}

impl Throttle {
    /// The word used in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::RateHeaders => "rate_headers",
            Self::RetryAfter => "retry_after",
            Self::Handshake => "handshake",
            Self::AllowedRate => "allowed_rate",
        }
    }
}

/// What an attempt told about the pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    pub(crate) load: Load,
    pub(crate) latency: Duration,
    pub(crate) quota: Option<Quota>,
}

impl News {
    /// What an attempt tells. A 429 that says only in its rate headers when there is room again asks for a pause until
    /// then, like one with `Retry-After`: its judgement is completed.
    pub(crate) fn of(
        result: &Result<Answer, Failure>,
        latency: Duration,
        judged: &mut Judgement,
        upstream: &Upstream,
        now: Timestamp,
    ) -> Self {
        let quota = match (result, upstream.pace.headers) {
            (Ok(answer), RateHeaders::Follow) => ratelimit::read(&answer.headers, now),
            _ => None,
        };
        let load = match result {
            Err(_) => Load::Silence,
            Ok(answer) => match answer.status.as_u16() {
                429 | 503 | 504 => Load::Refused,
                500.. => Load::Unsaid,
                _ => Load::Carried,
            },
        };
        let is_too_many = result.as_ref().is_ok_and(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS);
        if let Some(Quota { remaining: 0, reset }) = quota
            && is_too_many
            && judged.retry_after.is_none()
        {
            judged.retry_after = Some(reset.min(upstream.retry.retry_after_max)).filter(|wait| !wait.is_zero());
            judged.hold_upstream = judged.retry_after.is_some();
            if judged.hold_upstream {
                judged.health = Health::Unknown;
            }
        }
        Self { load, latency, quota }
    }
}

/// The pace of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    rate: Option<Bucket>,
    /// What the handshake permitted.
    permitted: Option<Bucket>,
    allowance: Option<Allowance>,
    adapt: Option<Adapt>,
    /// Attempts under way that the last window allowed for.
    room: usize,
}

impl Pace {
    /// Goes on by these settings. A rate that is new begins without a token.
    pub(crate) fn configure(&mut self, policy: &routing::Pace, now: Duration) {
        go_on(&mut self.rate, policy.rate, now);
        match (&mut self.adapt, policy.least) {
            (Some(adapt), Some(least)) => adapt.set_least(least),
            (before, least) => *before = least.map(|least| Adapt::new(least, now)),
        }
        if policy.headers == RateHeaders::Ignore {
            self.allowance = None;
        }
    }

    /// Goes on by the rate that the upstream permitted; None: any.
    pub(crate) fn permit(&mut self, rate: Option<PaceRate>, now: Duration) {
        go_on(&mut self.permitted, rate, now);
    }

    /// Nothing but the concurrency bounds it, and that does not adapt.
    pub(crate) fn is_fixed(&self) -> bool {
        self.rate.is_none() && self.permitted.is_none() && self.allowance.is_none() && self.adapt.is_none()
    }

    /// Attempts at once.
    pub(crate) fn limit(&self, concurrency: usize) -> usize {
        self.adapt.as_ref().map_or(concurrency, |adapt| adapt.limit(concurrency))
    }

    /// What keeps the next attempt from beginning now, and until when: [`Duration::MAX`] until an attempt ends.
    pub(crate) fn throttle(&self, in_flight: usize, now: Duration) -> Option<(Throttle, Duration)> {
        let rate = self.rate.as_ref().map(|bucket| (Throttle::Rate, bucket.next(now)));
        let permitted = self.permitted.as_ref().map(|bucket| (Throttle::AllowedRate, bucket.next(now)));
        let told = self.allowance.as_ref().map(|told| (Throttle::RateHeaders, told.next(in_flight, now)));
        let latest = rate.into_iter().chain(permitted).chain(told).max_by_key(|(_, until)| *until);
        latest.filter(|(_, until)| *until > now)
    }

    /// Lets an attempt begin, if the rates do.
    pub(crate) fn take(&mut self, in_flight: usize, now: Duration) -> bool {
        if self.rate.is_none() && self.permitted.is_none() && self.allowance.is_none() {
            return true;
        }
        if self.throttle(in_flight, now).is_some() {
            return false;
        }
        if let Some(told) = &mut self.allowance {
            told.take(now);
        }
        let mut buckets = self.permitted.iter_mut().chain(&mut self.rate);
        buckets.all(|bucket| bucket.take(now))
    }

    /// An attempt that was let begin sent nothing.
    pub(crate) fn put_back(&mut self, now: Duration) {
        for bucket in self.permitted.iter_mut().chain(&mut self.rate) {
            bucket.put_back(now);
        }
        if let Some(told) = &mut self.allowance {
            told.put_back(now);
        }
    }

    /// What an attempt that begins now, as one of so many, shows when it ends.
    pub(crate) fn start(&self, at_once: usize) -> Start {
        self.adapt.as_ref().map_or_else(Start::default, |adapt| adapt.start(at_once))
    }

    /// Takes note of how an attempt ended; `under_way` are the others. Whether it was refused because of the number
    /// of attempts at once, which says nothing about the upstream's health.
    pub(crate) fn observe(
        &mut self,
        news: &News,
        start: Start,
        upstream: &Upstream,
        under_way: usize,
        now: Duration,
    ) -> bool {
        if news.quota.is_some() || self.allowance.is_some() {
            let (before, longest) = (self.allowance.take(), upstream.retry.retry_after_max);
            self.allowance = Allowance::heed(before, news.quota, under_way, longest, now);
        }
        let Some(adapt) = &mut self.adapt else { return false };
        adapt.observe(start, news.load, news.latency, upstream.concurrency, now);
        news.load == Load::Refused && adapt.excuses(start)
    }

    /// Attempts a second, if anything bounds them.
    pub(crate) fn per_second(&self, now: Duration) -> Option<f64> {
        let rates = self.rate.iter().chain(&self.permitted).map(|bucket| bucket.rate().per_second());
        let told = self.allowance.as_ref().map(|told| told.per_second(now));
        rates.chain(told).reduce(f64::min)
    }

    /// Jobs that the engine takes from the agenda, of which an attempt holds so many: those that have room at so many
    /// attempts at once, but hardly more than what may begin soon and what is under way.
    pub(crate) fn window(&mut self, limit: usize, in_flight: usize, events_each: usize, now: Duration) -> usize {
        let window = routing::Pace::window(limit, events_each);
        let Some(rate) = self.per_second(now) else { return window };
        let waiting = waiting(rate);
        // In steps, so that not every attempt that begins or ends is told to the agenda.
        let step = (waiting / 4).max(2);
        if in_flight > self.room || in_flight + 2 * step < self.room {
            self.room = in_flight.next_multiple_of(step);
        }
        window.min(waiting.saturating_add(self.room).saturating_mul(events_each))
    }
}

/// Goes on at another rate, or at none. One that is new begins without a token.
fn go_on(bucket: &mut Option<Bucket>, rate: Option<PaceRate>, now: Duration) {
    match (bucket, rate) {
        (Some(bucket), Some(rate)) if bucket.rate() == rate => {}
        (Some(bucket), Some(rate)) => bucket.change(rate, now),
        (before, rate) => *before = rate.map(|rate| Bucket::empty(rate, now)),
    }
}
