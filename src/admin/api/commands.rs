//! Owns the routes by which operators change deliveries and upstreams.

use http::StatusCode;

use super::{Answer, Call, Content, LINES_MAX, Refusal, Route, json, of, send, streamed};
use crate::admin::{
    act::act,
    drain::drain,
    filter::Compiled,
    plan::{plan, trial},
    rehearse::rehearse,
    wire::{Act, Acted, Drain, Draining, PlanAsk, PlanReply, Rehearse, Rehearsed},
};

pub(super) const ROUTES: &[Route] = &[
    Route::post("/v1/act", "act", "Replays, holds, releases, resolves or deletes, by id or by filter.", acted)
        .takes(of::<Act>)
        .gives(Content::Json(of::<Acted>)),
    Route::post("/v1/rehearse", "rehearse", "Lets an upstream's attempts fail for a time, or ends that.", rehearsed)
        .takes(of::<Rehearse>)
        .gives(Content::Json(of::<Rehearsed>)),
    Route::post("/v1/drain", "drain", "Takes one target of an upstream out, or in again.", drained)
        .takes(of::<Drain>)
        .gives(Content::Json(of::<Draining>)),
    Route::post("/v1/plan", "plan", "Tries a configuration against stored requests; nothing becomes active.", planned)
        .whole()
        .takes(of::<PlanAsk>)
        .gives(Content::Lines(of::<PlanReply>)),
];

fn acted(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&act(&*call.ports, &call.json::<Act>()?, &call.caller)?))
}

/// The file is read by the server: only on the operators' socket may one be named.
fn planned(call: &Call) -> Result<Answer, Refusal> {
    let ask: PlanAsk = call.json()?;
    let wanted = Compiled::new(ask.filters.clone(), &*call.ports)?;
    if ask.file.is_some() && !call.caller.is_local() {
        return Err(Refusal::forbidden(
            "a file can be named on the operators' socket only; leave it out, or use the CLI",
        ));
    }
    let trial = trial(&*call.ports, &ask).map_err(|problems| {
        Refusal::new(StatusCode::CONFLICT, "the configuration is not valid").with_details(problems)
    })?;
    // It shows bodies as they are, hidden values included.
    call.note("plan", trial.hash())?;
    let ports = call.ports.clone();
    streamed(call, LINES_MAX, move |lines| plan(&*ports, &*trial, &wanted, ask.limit, &mut |reply| send(lines, &reply)))
}

fn rehearsed(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&rehearse(&*call.ports, &call.json::<Rehearse>()?, &call.caller)?))
}

fn drained(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&drain(&*call.ports, &call.json::<Drain>()?, &call.caller)?))
}
