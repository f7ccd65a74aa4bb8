//! Owns the question whether an upstream wants to be sent events: the handshake of HTTP 1.1 Web Hooks for Event
//! Delivery, section 4, from the sender's side.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md>. Promises that the question is asked by
//! a task of its own, one at a time, over a connection of its own, to addresses that the upstream's guard takes; that
//! each ends by the upstream's time-out; that a permission lasts until an answer takes it back or a reload asks
//! something else; and that without one the upstream waits as before a closed gate. Deliberately absent: permission by callback
//! (`WebHook-Request-Callback`), and permissions that outlive the process.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use tokio::{sync::Notify, time::sleep};

use super::{
    client::{Client, Failure, MakeRequest, Shared},
    lane::{Lane, lock},
    names::Names,
    request,
};
use crate::{
    clock::Timestamp,
    jitter::Jitter,
    routing::{self, PaceRate, Upstream},
    telemetry::UpstreamMetrics,
};

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
const AGENT: HeaderValue = HeaderValue::from_static("stagepost-handshake");

/// The time in which an allowed rate counts.
const MINUTE: Duration = Duration::from_secs(60);
/// Between a question without a permission and the next; doubles each time …
const ASKED_AGAIN: Duration = Duration::from_secs(5);
/// … up to this.
const ASKED_AGAIN_MAX: Duration = Duration::from_secs(3600);
/// Between a permission and the next question.
const RENEWED: Duration = Duration::from_secs(24 * 3600);

/// The permission of one upstream.
#[derive(Default)]
pub(crate) struct Handshake {
    state: Mutex<State>,
    /// Rung when an answer to the question under way would not count any more.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Whom to ask; None: nobody.
    upstream: Option<Arc<Upstream>>,
    /// Goes up when earlier questions don't count any more.
    turn: u64,
    /// A task asks.
    is_asking: bool,
    standing: Standing,
    /// Questions without a permission, in a row.
    failures: u32,
    /// When it is asked next (steady time).
    again: Timestamp,
}

/// What is known of the permission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Nothing yet.
    #[default]
    Asked,
    Granted(Option<PaceRate>),
    Refused(Arc<str>),
    Unanswered(Arc<str>),
}

/// What the gates must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    /// It is missing, and asked for again then (steady time).
    pub(crate) missing_until: Option<Timestamp>,
    /// It is for so many attempts; None: any number.
    pub(crate) rate: Option<PaceRate>,
}

/// What became of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Granted(Option<PaceRate>),
    /// It answered, and not with a permission.
    Refused(Box<str>),
    /// No answer, or one that says nothing about the permission.
    Nothing(Box<str>),
}

impl Handshake {
    /// What stands between jobs and their attempts.
    fn permission(&self) -> Permission {
        let state = lock(&self.state);
        match (&state.upstream, &state.standing) {
            (None, _) => Permission { missing_until: None, rate: None },
            (_, Standing::Granted(rate)) => Permission { missing_until: None, rate: *rate },
            _ => Permission { missing_until: Some(state.again), rate: None },
        }
    }

    /// For operators; None if nobody is asked.
    pub(crate) fn words(&self) -> Option<Arc<str>> {
        let state = lock(&self.state);
        state.upstream.as_ref()?;
        Some(match &state.standing {
            Standing::Asked => "asked".into(),
            Standing::Granted(_) => "granted".into(),
            Standing::Refused(words) => format!("refused: {words}").into(),
            Standing::Unanswered(words) => format!("unanswered: {words}").into(),
        })
    }

    /// Takes the upstream of this configuration over. What was permitted to the same question stays; anything else is
    /// asked at once. True if somebody must begin to ask.
    fn adopt(&self, upstream: Option<&Arc<Upstream>>, now: Timestamp, metrics: &UpstreamMetrics) -> bool {
        let wanted = upstream.filter(|upstream| upstream.handshake().is_some());
        let mut state = lock(&self.state);
        let is_kept = match (&state.upstream, wanted) {
            (None, None) => return false,
            (Some(before), Some(wanted)) if Arc::ptr_eq(before, wanted) => return false,
            (Some(before), Some(wanted)) => {
                matches!(state.standing, Standing::Granted(_)) && asks_the_same(before, wanted)
            }
            _ => false,
        };
        state.upstream = wanted.cloned();
        if is_kept {
            return false;
        }
        (state.standing, state.failures, state.again) = (Standing::Asked, 0, now);
        state.turn += 1;
        state.show(metrics);
        self.changed.notify_waiters();
        wanted.is_some() && !std::mem::replace(&mut state.is_asking, true)
    }

    /// Whoever asks stops.
    pub(crate) fn retire(&self) {
        self.adopt(None, Timestamp::ZERO, &UpstreamMetrics::default());
    }

    /// Whom to ask, and in which turn. None ends whoever asks.
    fn whom(&self) -> Option<(Arc<Upstream>, u64)> {
        let mut state = lock(&self.state);
        state.is_asking = state.upstream.is_some();
        Some((state.upstream.clone()?, state.turn))
    }

    /// Takes note of what became of a question. Gives how long it is until the next.
    fn heard(&self, turn: u64, said: Said, now: Timestamp, jitter: &Jitter, metrics: &UpstreamMetrics) -> Duration {
        let mut state = lock(&self.state);
        if turn != state.turn {
            return Duration::ZERO;
        }
        let result = match &said {
            Said::Granted(_) => 0,
            Said::Refused(_) => 1,
            Said::Nothing(_) => 2,
        };
        metrics.handshakes.get(result).into_iter().for_each(|count| count.inc());
        let before = std::mem::take(&mut state.standing);
        state.standing = match (said, &before) {
            (Said::Granted(rate), _) => Standing::Granted(rate),
            (Said::Refused(words), _) => Standing::Refused(words.into()),
            // What was permitted is not taken back by silence.
            (Said::Nothing(_), Standing::Granted(rate)) => Standing::Granted(*rate),
            (Said::Nothing(words), _) => Standing::Unanswered(words.into()),
        };
        state.failures = if result == 0 { 0 } else { state.failures.saturating_add(1) };
        let pause = pause(state.failures);
        let pause = pause.saturating_add(jitter.up_to(pause / 10));
        state.again = now.after(pause);
        state.show(metrics);
        state.tell(&before);
        pause
    }
}

impl State {
    fn show(&self, metrics: &UpstreamMetrics) {
        metrics.permitted.set(match (&self.upstream, &self.standing) {
            (None, _) => 0,
            (_, Standing::Granted(_)) => 2,
            _ => 1,
        });
    }

    /// Says what has changed.
    fn tell(&self, before: &Standing) {
        let upstream = self.upstream.as_ref().map(|upstream| &*upstream.name).unwrap_or_default();
        match &self.standing {
            same if same == before => {}
            Standing::Asked => {}
            Standing::Granted(None) => tracing::info!(upstream, "the upstream permits deliveries"),
            Standing::Granted(Some(rate)) => {
                let a_minute = rate.count;
                tracing::info!(upstream, a_minute, "the upstream permits deliveries at a rate");
            }
            Standing::Refused(reason) => {
                tracing::warn!(upstream, reason = &**reason, "the upstream does not permit deliveries, they wait");
            }
            Standing::Unanswered(reason) => {
                tracing::warn!(upstream, reason = &**reason, "the upstream was asked in vain for its permission");
            }
        }
    }
}

/// How long it is until the next question, without jitter.
fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => RENEWED,
        Some(doubled) => ASKED_AGAIN.saturating_mul(1 << doubled.min(16)).min(ASKED_AGAIN_MAX),
    }
}

/// Whether the answer to the one question is that to the other.
fn asks_the_same(one: &Upstream, other: &Upstream) -> bool {
    one.target == other.target
        && one.path == other.path
        && one.host == other.host
        && one.handshake() == other.handshake()
        && one.pace.rate == other.pace.rate
}

impl Lane {
    /// The upstream's permission; asks for it if nobody does. Called by the steward only.
    pub(super) fn permission(self: &Arc<Self>, upstream: &Arc<Upstream>) -> Permission {
        if self.handshake.adopt(Some(upstream), self.env.clock.steady(), &self.metrics) {
            tokio::spawn(ask(self.clone()));
        }
        self.handshake.permission()
    }
}

/// Asks for as long as somebody must be asked.
async fn ask(lane: Arc<Lane>) {
    let handshake = &lane.handshake;
    loop {
        let mut changed = pin!(handshake.changed.notified());
        let Some((upstream, turn)) = handshake.whom() else { return };
        let Some(policy) = upstream.handshake() else { return };
        let question = Question { upstream: &upstream, policy };
        let said = tokio::select! {
            // Nothing is lost with it: the answer would not count.
            () = &mut changed => continue,
            said = question.ask(&lane.names) => said,
        };
        let pause = handshake.heard(turn, said, lane.env.clock.steady(), &lane.env.jitter, &lane.metrics);
        lane.ring();
        tokio::select! {
            // Both are cancel-safe: the loop looks again.
            () = &mut changed => {}
            () = sleep(pause) => {}
        }
    }
}

/// One question.
struct Question<'a> {
    upstream: &'a Arc<Upstream>,
    policy: &'a routing::Handshake,
}

impl Question<'_> {
    async fn ask(&self, names: &Arc<Names>) -> Said {
        let (mut client, shared) = (Client::default(), Shared::new(names.clone()));
        // The body says nothing; the connection goes with the client.
        match client.begin(self, self.upstream, &shared).await {
            Ok(answer) => judge(answer.status(), answer.headers(), &self.policy.origin),
            Err(Failure::Unsendable(words)) => Said::Refused(words),
            Err(failure) => Said::Nothing(failure.to_string().into()),
        }
    }
}

impl MakeRequest for Question<'_> {
    fn make(&self, http2: bool) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::OPTIONS;
        let (path, host) = (request::own_path(self.upstream), request::own_host(self.upstream));
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, AGENT);
        for (name, value) in &self.upstream.headers {
            headers.insert(name, value.clone());
        }
        headers.insert(REQUEST_ORIGIN, self.policy.origin.clone());
        if let Some(rate) = self.upstream.pace.rate {
            headers.insert(REQUEST_RATE, HeaderValue::from(a_minute(rate)));
        }
        *request.uri_mut() = if http2 {
            Uri::builder().scheme("https").authority(host.as_bytes()).path_and_query(path).build()?
        } else {
            headers.insert(header::HOST, host);
            Uri::try_from(path)?
        };
        Ok(request)
    }
}

/// The requests a minute of a rate: a whole number above zero, as the specification wants it.
fn a_minute(rate: PaceRate) -> u64 {
    let requests = u128::from(rate.count) * MINUTE.as_nanos() / rate.per.as_nanos().max(1);
    u64::try_from(requests).unwrap_or(u64::MAX).max(1)
}

/// What an answer means. An answer that speaks of a trouble that passes says nothing about the permission.
fn judge(status: StatusCode, headers: &HeaderMap, origin: &HeaderValue) -> Said {
    let code = status.as_u16();
    let refused = |words: String| Said::Refused(words.into());
    if status.is_server_error() || matches!(code, 408 | 425 | 429) {
        return Said::Nothing(format!("it answered {code}").into());
    }
    if !status.is_success() {
        return refused(format!("it answered {code}"));
    }
    let mut allowed = headers.get_all(ALLOWED_ORIGIN).iter().map(HeaderValue::as_bytes).map(<[u8]>::trim_ascii);
    match (allowed.next(), allowed.next()) {
        (None, _) => return refused(format!("it answered {code} without {ALLOWED_ORIGIN}")),
        (Some(name), None) if name == b"*" || name.eq_ignore_ascii_case(origin.as_bytes()) => {}
        _ => return refused(format!("it answered {code} with a {ALLOWED_ORIGIN} that does not name this sender")),
    }
    match headers.get(ALLOWED_RATE).map(|value| value.as_bytes().trim_ascii()) {
        None | Some(b"*") => Said::Granted(None),
        Some(text) => {
            let digits = Some(text).filter(|text| !text.is_empty() && text.iter().all(u8::is_ascii_digit));
            // A number that is too large to be read is as good as none.
            let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()).map(|digits| digits.parse::<u64>());
            match number {
                None | Some(Ok(0)) => {
                    refused(format!("its {ALLOWED_RATE} is neither a number above zero nor an asterisk"))
                }
                Some(count) => Said::Granted(PaceRate::new(count.unwrap_or(u64::MAX), MINUTE, None).ok()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{delivery::tests::rig, routing::Target};

    const T: Timestamp = Timestamp::from_millis(1_000_000);
    const US: HeaderValue = HeaderValue::from_static("us.example");

    fn answered(status: u16, headers: &[(&'static str, &'static str)]) -> Said {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::from_iter(headers), &US)
    }

    fn rate(count: u64) -> Option<PaceRate> {
        Some(PaceRate::new(count, MINUTE, None).unwrap())
    }

    fn upstream(origin: &'static str, headers: &[(&'static str, &'static str)]) -> Arc<Upstream> {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let handshake = routing::Handshake { origin: HeaderValue::from_static(origin) };
        Arc::new(Upstream {
            headers: headers.collect(),
            cloudevents: Some(rig::cloudevents(Some(handshake))),
            ..rig::upstream("u", Target::Http("http://up.example:81/base".parse().unwrap()))
        })
    }

    #[test]
    fn only_an_answer_that_names_the_sender_or_everybody_is_a_permission() {
        const ORIGIN: &str = "webhook-allowed-origin";
        for status in [200, 204] {
            assert_eq!(answered(status, &[(ORIGIN, "*")]), Said::Granted(None));
            assert_eq!(answered(status, &[(ORIGIN, " US.example ")]), Said::Granted(None));
        }
        for (status, headers) in [
            (200, &[][..]),
            (200, &[(ORIGIN, "")]),
            (200, &[(ORIGIN, "them.example")]),
            (200, &[(ORIGIN, "us.example, them.example")]),
            (200, &[("webhook-allowed-rate", "*")]),
            (302, &[(ORIGIN, "*")]),
            (403, &[(ORIGIN, "*")]),
            (405, &[]),
        ] {
            assert!(matches!(answered(status, headers), Said::Refused(_)), "{status} {headers:?}");
        }
        for status in [408, 429, 500, 503] {
            assert!(matches!(answered(status, &[(ORIGIN, "*")]), Said::Nothing(_)), "{status}");
        }
    }

    #[test]
    fn an_allowed_rate_is_a_number_a_minute_or_none_and_what_is_neither_is_a_refusal() {
        let rated = |text| answered(200, &[("webhook-allowed-origin", "*"), ("webhook-allowed-rate", text)]);
        assert_eq!(rated("*"), Said::Granted(None));
        assert_eq!(rated(" 120 "), Said::Granted(rate(120)));
        assert_eq!(rated("1"), Said::Granted(rate(1)));
        for endless in ["99999999999", "99999999999999999999999999"] {
            assert_eq!(rated(endless), Said::Granted(None), "{endless}");
        }
        for odd in ["0", "", "-1", "+5", "1.5", "many"] {
            assert!(matches!(rated(odd), Said::Refused(_)), "{odd}");
        }
        assert_eq!(a_minute(PaceRate::new(200, Duration::from_secs(1), None).unwrap()), 12_000);
        assert_eq!(a_minute(PaceRate::new(1, Duration::from_secs(3600), None).unwrap()), 1);
    }

    #[test]
    fn without_a_permission_the_pauses_double_up_to_an_hour_and_with_one_it_is_a_day() {
        let pauses: Vec<u64> = (0..20).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(pauses[..6], [86_400, 5, 10, 20, 40, 80]);
        assert!(pauses[11..].iter().all(|pause| *pause == 3600), "{pauses:?}");
    }

    #[test]
    fn a_permission_outlives_silence_but_neither_a_refusal_nor_another_question() {
        let (handshake, metrics, still) = (Handshake::default(), UpstreamMetrics::default(), Jitter::none());
        let said = |turn, said| handshake.heard(turn, said, T, &still, &metrics);
        let nothing = || Said::Nothing("it answered 503".into());
        let missing = || handshake.permission().missing_until.is_some();
        let first = upstream("us.example", &[]);
        assert!(handshake.adopt(Some(&first), T, &metrics) && !handshake.adopt(Some(&first), T, &metrics));
        assert_eq!(handshake.permission().missing_until, Some(T), "being asked");
        let (_, turn) = handshake.whom().unwrap();
        assert_eq!(said(turn, nothing()).as_secs(), 5);
        assert_eq!(handshake.permission().missing_until, Some(T.after(ASKED_AGAIN)));
        assert_eq!(handshake.words().as_deref(), Some("unanswered: it answered 503"));
        assert_eq!(said(turn, Said::Granted(rate(6))).as_secs(), 86_400);
        assert_eq!(said(turn, nothing()).as_secs(), 5);
        assert_eq!(handshake.permission(), Permission { missing_until: None, rate: rate(6) });
        assert_eq!((metrics.permitted.get(), metrics.handshakes[2].get()), (2, 2));

        let token = upstream("us.example", &[("authorization", "new")]);
        assert!(!handshake.adopt(Some(&token), T, &metrics) && !missing(), "the question is the same");
        let other = upstream("others.example", &[]);
        assert!(!handshake.adopt(Some(&other), T, &metrics) && missing(), "whoever asks goes on with another");
        said(turn, Said::Granted(None));
        assert!(missing(), "the answer to what is not asked any more does not count");
        let (_, turn) = handshake.whom().unwrap();
        said(turn, Said::Granted(None));
        assert!(!missing());
        said(turn, Said::Refused("it answered 410".into()));
        assert!(missing() && metrics.permitted.get() == 1);
        let token = upstream("others.example", &[("authorization", "new")]);
        handshake.adopt(Some(&token), T, &metrics);
        assert_eq!(handshake.words().as_deref(), Some("asked"), "a reload asks at once what was refused");

        handshake.retire();
        assert!(!missing() && handshake.words().is_none() && handshake.whom().is_none());
        assert!(handshake.adopt(Some(&first), T, &metrics), "the next begins anew");
    }

    #[test]
    fn the_question_goes_to_the_url_with_the_configured_headers_and_without_a_body() {
        let mut one = Upstream::clone(&upstream("us.example", &[("authorization", "Bearer x")]));
        one.pace.rate = Some(PaceRate::new(10, Duration::from_secs(1), None).unwrap());
        let one = Arc::new(one);
        let question = Question { upstream: &one, policy: one.handshake().unwrap() };
        let request = question.make(false).unwrap();
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::OPTIONS, "/base"));
        for (name, value) in [
            ("host", "up.example:81"),
            ("authorization", "Bearer x"),
            ("webhook-request-origin", "us.example"),
            ("webhook-request-rate", "600"),
        ] {
            assert_eq!(request.headers()[name], value);
        }
        assert_eq!(question.make(true).unwrap().uri(), "https://up.example:81/base");
    }
}
