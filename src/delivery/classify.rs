//! Owns what an answer or a failure means: the outcome, what it says about the upstream's health, and when to come
//! back.
//!
//! Promises the table of the contract, section 3, and nothing else: pure functions, time as an argument. What
//! follows for the delivery is decided by `settle`, what follows for the upstream by `breaker`.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::policy::Decided;
use crate::{
    clock::Timestamp,
    event::{Outcome, Reason},
};

/// What is shown of a `Location`, in characters: it becomes part of an entry of the log.
const LOCATION_CHARS_MAX: usize = 400;

/// What an attempt says about the upstream's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It works: it took the request, or refused this payload with reason.
    Alive,
    /// It says nothing: asked to come back later, for example.
    Unknown,
    /// It answered, but not as a working endpoint; counts once for an event.
    Failing,
    /// It could not be reached or did not answer in time; counts always.
    Unreachable,
}

/// What an attempt means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// For the delivery.
    pub(crate) outcome: Outcome,
    /// For the breaker.
    pub(crate) health: Health,
    /// The refusal speaks of the endpoint, not of the payload: it is taken back if it opens the breaker.
    pub(crate) endpoint: bool,
    /// When the upstream wants to be asked again, already cut to the policy's maximum. Never zero.
    pub(crate) retry_after: Option<Duration>,
    /// The whole upstream is held back for `retry_after`, not only this delivery.
    pub(crate) hold_upstream: bool,
    /// In words, for the attempt and for the reason of a dead delivery. None if delivered.
    pub(crate) words: Option<Box<str>>,
    /// The reason code if the delivery dies of it.
    pub(crate) code: &'static str,
    /// What the operator's own rules say, in place of the outcome's usual consequence.
    pub(crate) decided: Option<Decided>,
}

impl Judgement {
    /// A failure that says nothing about the upstream as a whole.
    pub(crate) fn excuse(&mut self, excused: bool) {
        if excused && self.health != Health::Alive {
            self.health = Health::Unknown;
            self.hold_upstream = false;
        }
    }

    /// The reason of a delivery that dies of this answer.
    pub(crate) fn reason(&self) -> Reason {
        match &self.words {
            Some(words) => Reason::with(self.code, words),
            None => Reason::new(self.code),
        }
    }
}

/// The settings that an answer is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Every refusal is a deferral.
    pub(crate) soft_bounce: bool,
    /// The longest `Retry-After` that is honoured.
    pub(crate) retry_after_max: Duration,
}

/// Judges an answer by its status and headers. `now` is wall time, for `Retry-After` dates.
pub(crate) fn answer(status: StatusCode, headers: &HeaderMap, rules: Rules, now: Timestamp) -> Judgement {
    if status.is_success() {
        return Judgement {
            outcome: Outcome::Delivered,
            health: Health::Alive,
            endpoint: false,
            retry_after: None,
            hold_upstream: false,
            words: None,
            code: "refused",
            decided: None,
        };
    }
    let deferred = matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error();
    let endpoint = status.is_redirection() || matches!(status.as_u16(), 401 | 403 | 404 | 405 | 407 | 421);
    let retry_after =
        if deferred { retry_after(headers, now).map(|wait| wait.min(rules.retry_after_max)) } else { None }
            .filter(|wait| !wait.is_zero());
    let health = match status.as_u16() {
        429 if retry_after.is_some() => Health::Unknown,
        _ if deferred || endpoint => Health::Failing,
        _ => Health::Alive,
    };
    Judgement {
        outcome: if deferred || rules.soft_bounce { Outcome::Deferred } else { Outcome::Refused },
        health,
        endpoint,
        retry_after,
        hold_upstream: retry_after.is_some() && matches!(status.as_u16(), 429 | 503),
        words: Some(words(status, headers)),
        code: if status.is_redirection() { "redirect" } else { "refused" },
        decided: None,
    }
}

/// Judges an attempt that got no answer.
pub(crate) fn no_answer(words: Box<str>) -> Judgement {
    Judgement {
        outcome: Outcome::Deferred,
        health: Health::Unreachable,
        endpoint: false,
        retry_after: None,
        hold_upstream: false,
        words: Some(words),
        code: "refused",
        decided: None,
    }
}

/// Judges lines that are on disk.
pub(crate) fn written() -> Judgement {
    Judgement { outcome: Outcome::Delivered, health: Health::Alive, words: None, ..no_answer(Box::default()) }
}

/// Judges lines that could not be written: nothing is wrong with them.
pub(crate) fn unwritable(words: Box<str>) -> Judgement {
    Judgement { code: "unwritable", ..no_answer(words) }
}

/// `404 Not Found`, `302 Found, Location: https://elsewhere/`.
fn words(status: StatusCode, headers: &HeaderMap) -> Box<str> {
    let mut words = status.as_u16().to_string();
    if let Some(phrase) = status.canonical_reason() {
        words.push(' ');
        words.push_str(phrase);
    }
    if status.is_redirection()
        && let Some(location) = headers.get(header::LOCATION)
    {
        // A query that is sent on may hold the sender's credentials.
        let location = String::from_utf8_lossy(location.as_bytes());
        let place = location.split_inclusive(['?', '#']).next().unwrap_or_default();
        words.push_str(", Location: ");
        words.extend(place.chars().take(LOCATION_CHARS_MAX));
        words.push_str(if place.ends_with(['?', '#']) { "…" } else { "" });
    }
    words.into()
}

/// `Retry-After` in either form (RFC 9110 section 10.2.3); None if it is absent or neither.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean "for ever"; the policy's maximum cuts it.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(u64::try_from(date.as_millis()).ok()?).since(now))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const RULES: Rules = Rules { soft_bounce: false, retry_after_max: Duration::from_secs(3600) };

    fn judge(status: u16, headers: &[(&'static str, &'static str)], rules: Rules) -> Judgement {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        // Sun, 06 Nov 1994 08:49:37 GMT
        answer(StatusCode::from_u16(status).unwrap(), &headers, rules, Timestamp::from_millis(784_111_777_000))
    }

    #[test]
    fn every_status_has_the_outcome_of_the_contract() {
        for status in 200..600 {
            let judged = judge(status, &[], RULES);
            let expected = match status {
                200..300 => Outcome::Delivered,
                408 | 425 | 429 | 500.. => Outcome::Deferred,
                _ => Outcome::Refused,
            };
            assert_eq!(judged.outcome, expected, "{status}");
        }
    }

    #[test]
    fn endpoint_answers_count_for_the_breaker_and_payload_answers_never_do() {
        for status in [301, 302, 307, 401, 403, 404, 405, 407, 421] {
            let judged = judge(status, &[], RULES);
            assert!(judged.endpoint && judged.health == Health::Failing, "{status}");
        }
        let payload = [400, 406, 409, 410, 411, 412, 413, 414, 415, 416, 417, 422, 428, 431, 451];
        for status in payload {
            let judged = judge(status, &[], RULES);
            assert!(!judged.endpoint && judged.health == Health::Alive, "{status}");
        }
        for status in [408, 425, 500, 502, 503, 504] {
            assert_eq!(judge(status, &[], RULES).health, Health::Failing, "{status}");
        }
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_cut() {
        let cases = [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", None),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("-5", None),
            ("soon", None),
        ];
        for (text, seconds) in cases {
            for status in [429, 503] {
                let judged = judge(status, &[("retry-after", text)], RULES);
                assert_eq!(judged.retry_after, seconds.map(Duration::from_secs), "{text}");
                assert_eq!(judged.hold_upstream, seconds.is_some());
            }
        }
        assert!(!judge(500, &[("retry-after", "7")], RULES).hold_upstream);
        assert_eq!(judge(404, &[("retry-after", "7")], RULES).retry_after, None);
    }

    #[test]
    fn too_many_requests_counts_as_a_failure_only_without_a_time_to_come_back() {
        assert_eq!(judge(429, &[], RULES).health, Health::Failing);
        assert_eq!(judge(429, &[("retry-after", "7")], RULES).health, Health::Unknown);
        assert_eq!(judge(503, &[("retry-after", "7")], RULES).health, Health::Failing);
    }

    #[test]
    fn a_redirect_is_refused_and_shows_where_it_points() {
        let judged = judge(302, &[("location", "https://elsewhere/")], RULES);
        assert_eq!(judged.reason().to_string(), "redirect: 302 Found, Location: https://elsewhere/");
    }

    #[test]
    fn what_a_redirect_says_of_a_query_is_not_repeated() {
        for (location, expected) in [("/x?token=sesame", "/x?…"), ("/x#access_token=sesame", "/x#…"), ("/x?", "/x?…")]
        {
            let judged = judge(302, &[("location", location)], RULES);
            assert_eq!(judged.reason().to_string(), format!("redirect: 302 Found, Location: {expected}"));
        }
    }

    #[test]
    fn a_location_of_any_length_fits_into_the_log() {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_bytes(&[0xff; 300_000]).unwrap())]);
        let judged = answer(StatusCode::FOUND, &headers, RULES, Timestamp::ZERO);
        assert!(judged.words.unwrap().len() < 2_000);
    }

    #[test]
    fn soft_bounce_turns_refusals_into_deferrals_and_leaves_the_breaker_its_view() {
        let soft = Rules { soft_bounce: true, ..RULES };
        assert_eq!(judge(400, &[], soft).outcome, Outcome::Deferred);
        assert_eq!(judge(400, &[], soft).health, Health::Alive);
        assert_eq!(judge(404, &[], soft).outcome, Outcome::Deferred);
        assert_eq!(judge(404, &[], soft).health, Health::Failing);
        assert_eq!(judge(204, &[], soft).outcome, Outcome::Delivered);
    }
}
