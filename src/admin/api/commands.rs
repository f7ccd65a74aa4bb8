//! Owns the routes by which operators change deliveries and upstreams.

use super::{Answer, Call, Content, Refusal, Route, json, of};
use crate::admin::{
    act::act,
    drain::drain,
    rehearse::rehearse,
    wire::{Act, Acted, Drain, Draining, Rehearse, Rehearsed},
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
];

fn acted(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&act(&*call.ports, &call.json::<Act>()?, &call.caller)?))
}

fn rehearsed(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&rehearse(&*call.ports, &call.json::<Rehearse>()?, &call.caller)?))
}

fn drained(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&drain(&*call.ports, &call.json::<Drain>()?, &call.caller)?))
}
