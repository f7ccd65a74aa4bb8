//! Owns a decision of routing that waits for its filters: for operators, whose questions may take the time.

use bytes::Bytes;

use crate::{
    agenda::plan::{Decision, NoAnswer, Routes, Verdict, input},
    event::{Body, Event},
    expr::Evaluator,
};

/// Where routes send an event. Must be called on a blocking thread of a runtime.
///
/// # Errors
/// Why that can't be told now, in words.
pub(super) fn decide(routes: &Routes, evaluator: &Evaluator, event: &Event, body: &[u8]) -> Result<Decision, String> {
    let mut with_body = event.clone();
    with_body.body = Body::Inline(Bytes::copy_from_slice(body));
    let later = |why: &str| Err(format!("the routes' filters can't be evaluated now: {why}"));
    let questions = match routes.plan(&with_body, evaluator, &[]) {
        Verdict::Decided(decision) => return Ok(decision),
        Verdict::Later(why) => return later(&why),
        Verdict::Ask(questions) => questions,
    };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
    let mut answers = Vec::with_capacity(questions.len());
    for index in questions {
        let Some(when) = routes.table.routes.get(index).and_then(|route| route.when.as_ref()) else { continue };
        let asked = input(&with_body, body);
        let answer = handle.block_on(evaluator.eval(when, &asked)).map(|output| output.truthy());
        answers.push((index, answer.map_err(NoAnswer::from)));
    }
    match routes.plan(&with_body, evaluator, &answers) {
        Verdict::Decided(decision) => Ok(decision),
        Verdict::Later(why) => later(&why),
        Verdict::Ask(_) => later("they need the pool of evaluators again"),
    }
}
