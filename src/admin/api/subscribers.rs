//! Owns the routes about subscribers.

use super::{Answer, Call, Content, Refusal, Route, json, of};
use crate::admin::{
    subscribers::{SubscriberError, pause, resume, rotate, subscribe, subscribers, unsubscribe},
    wire::{PauseSubscriber, RotateSecret, Subscribe, SubscriberDone, Subscribers},
};

pub(super) const ROUTES: &[Route] = &[
    Route::get("/v1/subscribers", "subscribers", "Who gets what is published under topics.", listed)
        .whole()
        .gives(Content::Json(of::<Subscribers>)),
    Route::post("/v1/subscribers", "subscribe", "Registers a subscriber; a refusal is recorded.", added)
        .whole()
        .takes(of::<Subscribe>)
        .gives(Content::Json(of::<SubscriberDone>)),
    Route::post("/v1/subscribers/{topic}/{name}/pause", "pause_subscriber", "Holds what is for a subscriber.", paused)
        .whole()
        .takes(of::<PauseSubscriber>)
        .gives(Content::Json(of::<SubscriberDone>)),
    Route::post(
        "/v1/subscribers/{topic}/{name}/resume",
        "resume_subscriber",
        "Lets a paused or disabled subscriber go on.",
        resumed,
    )
    .whole()
    .gives(Content::Json(of::<SubscriberDone>)),
    Route::post("/v1/subscribers/{topic}/{name}/remove", "unsubscribe", "Removes a subscriber.", removed)
        .whole()
        .gives(Content::Json(of::<SubscriberDone>)),
    Route::post(
        "/v1/subscribers/{topic}/{name}/rotate-secret",
        "rotate_subscriber_secret",
        "Gives a subscriber another signing secret; the old one signs as well for a time.",
        rotated,
    )
    .whole()
    .takes(of::<RotateSecret>)
    .gives(Content::Json(of::<SubscriberDone>)),
];

fn listed(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&Subscribers { subscribers: subscribers(&*call.ports)? }))
}

fn added(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&subscribe(&*call.ports, &call.json::<Subscribe>()?, &call.caller)?))
}

fn paused(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&pause(&*call.ports, &upstream(call), &call.json::<PauseSubscriber>()?, &call.caller)?))
}

fn resumed(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&resume(&*call.ports, &upstream(call), &call.caller)?))
}

fn removed(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&unsubscribe(&*call.ports, &upstream(call), &call.caller)?))
}

fn rotated(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&rotate(&*call.ports, &upstream(call), &call.json::<RotateSecret>()?, &call.caller)?))
}

/// The upstream that the subscriber is.
fn upstream(call: &Call) -> String {
    format!("{}/{}", call.variable(0), call.variable(1))
}

impl From<SubscriberError> for Refusal {
    fn from(error: SubscriberError) -> Self {
        let status = match error {
            SubscriberError::Usage(_) => http::StatusCode::BAD_REQUEST,
            SubscriberError::NoSuch(_) => http::StatusCode::NOT_FOUND,
            SubscriberError::Refused(_) => http::StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
