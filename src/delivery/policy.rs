//! Owns the operator's own rules for answers: the rows of `failure`, and what a 2xx answer must satisfy.
//!
//! Promises that an upstream without such rules costs nothing here; that an expression which may run away runs in the pool
//! of workers; and that an answer which can't be judged is not accepted. What an answer says about the upstream's health
//! stays with its status.

use super::{
    classify::Judgement,
    client::{Answer, Cut, Failure},
};
use crate::{
    clock::Timestamp,
    event::{Outcome, Reason},
    expr::{Evaluator, Expr, Input, decode_body},
    routing::{Accept, AnswerPolicy, FailureAction, FailureRow, NoAnswer},
};

/// The most bytes that an encoded answer is decoded to for its schema.
const DECODED_BYTES_MAX: u64 = 16 << 20;

/// What the rules decided, in place of the contract's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// By a row.
    Row(FailureAction),
    /// Nothing was sent: it is rehearsed how the upstream fails.
    Rehearsed,
    /// The answer is not accepted.
    NotAccepted {
        /// Where the event goes then; None: a person judges.
        fallback: Option<Box<str>>,
    },
}

/// Lets the rules look at a judged attempt.
pub(crate) async fn apply(
    policy: &AnswerPolicy,
    result: &Result<Answer, Failure>,
    judged: &mut Judgement,
    evaluator: &Evaluator,
) {
    for (index, row) in policy.failures.iter().enumerate() {
        match matches(row, result, evaluator).await {
            Ok(false) => {}
            Ok(true) => return decide(row.action.clone(), judged),
            Err(why) => {
                let words = judged.words.get_or_insert_default();
                *words = format!("{words} (failure[{}].when: {why})", index + 1).into();
            }
        }
    }
    let (Some(accept), Ok(answer)) = (&policy.accept, result) else { return };
    if !answer.status.is_success() {
        return;
    }
    if let Some(why) = unacceptable(accept, answer, evaluator).await {
        judged.outcome = Outcome::Degraded;
        judged.words = Some(why.into());
        judged.decided = Some(Decided::NotAccepted { fallback: policy.fallback.clone() });
    }
}

fn decide(action: FailureAction, judged: &mut Judgement) {
    judged.outcome = match &action {
        FailureAction::Retry(_) => Outcome::Deferred,
        FailureAction::Dead | FailureAction::Hold | FailureAction::Divert(_) => Outcome::Refused,
    };
    // Only what died is made pending again when the breaker opens.
    judged.endpoint &= action == FailureAction::Dead;
    if judged.words.is_none() {
        judged.words = Some("a row of failure took the answer".into());
    }
    judged.decided = Some(Decided::Row(action));
}

async fn matches(row: &FailureRow, result: &Result<Answer, Failure>, evaluator: &Evaluator) -> Result<bool, String> {
    let answer = match result {
        Ok(answer) => answer,
        Err(failure) => return Ok(silence(failure).is_some_and(|silence| row.class.has_silence(silence))),
    };
    if !row.class.has_status(answer.status.as_u16()) {
        return Ok(false);
    }
    match &row.when {
        None => Ok(true),
        Some(when) => truth(when, answer, evaluator).await,
    }
}

/// What kind of silence a failure is.
fn silence(failure: &Failure) -> Option<NoAnswer> {
    Some(match failure {
        Failure::Connect(words) if is_tls(words) => NoAnswer::Tls,
        Failure::Connect(_) | Failure::AddressRefused(_) => NoAnswer::Connect,
        Failure::ConnectLate(_) | Failure::Late(_) => NoAnswer::Timeout,
        Failure::Broken(_) | Failure::Program(_) => NoAnswer::Broken,
        Failure::Unsendable(_) => return None,
    })
}

/// What rustls says of a failed handshake; its errors reach us as words.
fn is_tls(words: &str) -> bool {
    ["certificate", "handshake", "tls", "alert"].iter().any(|word| words.to_ascii_lowercase().contains(word))
}

/// Why an answer is not accepted; None if it is.
async fn unacceptable(accept: &Accept, answer: &Answer, evaluator: &Evaluator) -> Option<String> {
    if let Some(cut) = &answer.cut {
        return Some(match cut {
            Cut::Longer => "the answer is longer than max_reply, so that it can't be judged".to_owned(),
            other => other.to_string(),
        });
    }
    match accept {
        Accept::Expr(expr) => match truth(expr, answer, evaluator).await {
            Ok(true) => None,
            Ok(false) => Some("the answer does not satisfy accept".to_owned()),
            Err(why) => Some(format!("accept can't be evaluated: {why}")),
        },
        Accept::Schema(schema) => match decode_body(&answer.headers, &answer.body, DECODED_BYTES_MAX) {
            Ok(body) => {
                schema.check(&body).err().map(|violation| format!("the answer violates the schema: {violation}"))
            }
            Err(why) => Some(why.to_string()),
        },
    }
}

async fn truth(expr: &Expr, answer: &Answer, evaluator: &Evaluator) -> Result<bool, String> {
    evaluator.eval(expr, &input(answer)).await.map(|output| output.truthy()).map_err(|error| error.to_string())
}

/// The text that an expression finds in an answer; None if it finds none, or fails.
pub(super) async fn text_of(expr: &Expr, answer: &Answer, evaluator: &Evaluator) -> Option<String> {
    let output = evaluator.eval(expr, &input(answer)).await.ok()?;
    output.scalar().map(std::borrow::Cow::into_owned)
}

/// What an expression sees of an answer: the status stands where a request has its method.
fn input(answer: &Answer) -> Input<'_> {
    Input {
        body: &answer.body,
        headers: &answer.headers,
        query: None,
        path: "",
        captures: &[],
        method: answer.status.as_str(),
        source: "",
        id: None,
        received_at: Timestamp::ZERO,
    }
}

/// The reason with which a delivery is settled that is not accepted, or that goes elsewhere.
pub(crate) fn diverted(to: &str, judged: &Judgement) -> Reason {
    Reason::with("diverted", format!("to {to}: {}", judged.words.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::{
        delivery::classify::{self, Rules},
        expr::Settings,
        routing::FailureSet,
    };

    fn answered(status: u16, body: &'static str) -> Result<Answer, Failure> {
        let status = StatusCode::from_u16(status).unwrap();
        Ok(Answer { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()), cut: None })
    }

    async fn judged(policy: &AnswerPolicy, result: &Result<Answer, Failure>) -> Judgement {
        let rules = Rules { soft_bounce: false, retry_after_max: std::time::Duration::from_secs(60) };
        let mut judged = match result {
            Ok(answer) => classify::answer(answer.status, &answer.headers, rules, Timestamp::ZERO),
            Err(failure) => classify::no_answer(failure.to_string().into()),
        };
        apply(policy, result, &mut judged, &Evaluator::start(Settings::standard())).await;
        judged
    }

    fn row(statuses: &[&str], when: Option<&str>, action: FailureAction) -> FailureRow {
        let mut class = FailureSet::default();
        statuses.iter().for_each(|status| class.add_status(status).unwrap());
        FailureRow { class, when: when.map(|text| Expr::compile(text).unwrap()), action }
    }

    #[tokio::test]
    async fn the_first_row_that_matches_decides_and_without_one_the_table_of_the_contract() {
        let mut broken = FailureSet::default();
        broken.add_silence(NoAnswer::Broken);
        let policy = AnswerPolicy {
            failures: vec![
                row(&["4xx"], Some(".code == \"later\""), FailureAction::Retry(None)),
                row(&["400-499"], Some("$status == 409"), FailureAction::Hold),
                row(&["5xx"], None, FailureAction::Divert("b".into())),
                FailureRow { class: broken, when: None, action: FailureAction::Dead },
            ],
            ..AnswerPolicy::default()
        };
        let decided = |judged: Judgement| match judged.decided {
            Some(Decided::Row(action)) => Some(action),
            _ => None,
        };
        let cases = [
            (answered(400, r#"{"code":"later"}"#), Some(FailureAction::Retry(None)), Outcome::Deferred),
            (answered(409, "not json"), Some(FailureAction::Hold), Outcome::Refused),
            (answered(404, "{}"), None, Outcome::Refused),
            (answered(503, ""), Some(FailureAction::Divert("b".into())), Outcome::Refused),
            (answered(200, ""), None, Outcome::Delivered),
            (Err(Failure::Broken("gone".into())), Some(FailureAction::Dead), Outcome::Refused),
            (Err(Failure::Connect("refused".into())), None, Outcome::Deferred),
        ];
        for (result, action, outcome) in cases {
            let judged = judged(&policy, &result).await;
            assert_eq!(judged.outcome, outcome);
            assert_eq!(decided(judged), action);
        }
    }

    #[tokio::test]
    async fn a_good_answer_that_does_not_satisfy_accept_can_t_be_judged_or_is_cut_is_degraded() {
        let policy =
            AnswerPolicy { accept: Some(Accept::Expr(Expr::compile(".ok").unwrap())), ..AnswerPolicy::default() };
        for (body, outcome) in [
            (r#"{"ok":true}"#, Outcome::Delivered),
            (r#"{"ok":false}"#, Outcome::Degraded),
            ("no json", Outcome::Degraded),
            ("[1]", Outcome::Degraded),
        ] {
            assert_eq!(judged(&policy, &answered(200, body)).await.outcome, outcome, "{body}");
        }
        assert_eq!(judged(&policy, &answered(500, "{}")).await.outcome, Outcome::Deferred);
        let Ok(whole) = answered(200, r#"{"ok":true}"#) else { unreachable!() };
        let cut = judged(&policy, &Ok(Answer { cut: Some(Cut::Longer), ..whole })).await;
        assert_eq!(cut.outcome, Outcome::Degraded);
        assert!(cut.words.unwrap().contains("max_reply"));
    }

    #[tokio::test]
    async fn a_schema_names_the_place_of_what_is_wrong() {
        let schema = crate::schema::Schema::compile(br#"{"required": ["id"]}"#).unwrap();
        let accept = Some(Accept::Schema(std::sync::Arc::new(schema)));
        let policy = AnswerPolicy { accept, fallback: Some("b".into()), ..AnswerPolicy::default() };
        assert_eq!(judged(&policy, &answered(200, r#"{"id":1}"#)).await.outcome, Outcome::Delivered);
        let wrong = judged(&policy, &answered(200, "{}")).await;
        assert_eq!(wrong.decided, Some(Decided::NotAccepted { fallback: Some("b".into()) }));
        assert!(wrong.words.unwrap().starts_with("the answer violates the schema: /: "));
    }
}
