//! Owns the routes about the instance as a whole: probes, metrics, figures, its configuration, the document that
//! describes all routes.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use super::{Answer, Call, Content, NUMBERS, PROBATION, Refusal, Route, UPSTREAM, json, of, openapi, text, typed};
use crate::{
    admin::{
        reload::reload_noted,
        wire::{BlockedKey, Refused, ReloadRefused, Reloaded, Status},
    },
    telemetry::Metrics,
};

pub(super) const ROUTES: &[Route] = &[
    Route::get("/livez", "live", "Whether the process lives.", live).probe(),
    Route::get("/readyz", "ready", "Whether new events can be stored.", ready).probe(),
    Route::get("/metrics", "metrics", "The metrics in the text format of Prometheus.", metrics).probe(),
    Route::get("/v1/openapi.json", "openapi", "This document.", document).gives(Content::Document),
    Route::get("/v1/status", "status", "Upstreams, the store, the quarantine, in figures.", status)
        .gives(Content::Json(of::<Status>)),
    Route::get("/v1/refused", "refused", "The last 1,000 refused requests, oldest first.", refused)
        .query(&[NUMBERS])
        .gives(Content::Json(of::<Vec<Refused>>)),
    Route::get("/v1/keys", "keys", "Keys whose first delivery keeps others waiting (order_by).", keys)
        .query(&[UPSTREAM])
        .gives(Content::Json(of::<Vec<BlockedKey>>)),
    Route::post("/v1/reload", "reload", "Applies the configuration as it stands on disk, whole or not at all.", reload)
        .whole()
        .query(&[PROBATION])
        .gives(Content::Json(of::<Reloaded>)),
];

fn live(_: &Call) -> Result<Answer, Refusal> {
    Ok(text(StatusCode::OK, "ok\n"))
}

fn ready(call: &Call) -> Result<Answer, Refusal> {
    Ok(match call.ports.ready() {
        Ok(()) => text(StatusCode::OK, "ready\n"),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    })
}

fn metrics(call: &Call) -> Result<Answer, Refusal> {
    Ok(typed(StatusCode::OK, Metrics::CONTENT_TYPE, call.ports.metrics().into()))
}

fn document(_: &Call) -> Result<Answer, Refusal> {
    Ok(json(&openapi::document()))
}

fn status(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&call.ports.status()))
}

fn refused(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&call.ports.refused(call.number("after").unwrap_or(0))))
}

fn keys(call: &Call) -> Result<Answer, Refusal> {
    call.ports.blocked_keys(call.text("upstream")).map(|keys| json(&keys)).map_err(Refusal::unavailable)
}

/// With `If-Match` only if the active configuration is the one that its hash names.
fn reload(call: &Call) -> Result<Answer, Refusal> {
    if let Some(wanted) = call.headers.get(header::IF_MATCH) {
        let active = call.ports.status().config.hash;
        if !names(wanted, &active) {
            let title = "another configuration became active since; look at it first";
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, title));
        }
    }
    let probation = call.number("probation_ms").map(Duration::from_millis);
    match reload_noted(&*call.ports, &call.caller, probation) {
        Ok(reloaded) => Ok(json(&reloaded)),
        Err(ReloadRefused { problems }) => {
            let title = "the configuration was not applied; the one before is still active";
            Err(Refusal::new(StatusCode::CONFLICT, title).with_details(problems))
        }
    }
}

/// Whether an `If-Match` names this hash.
fn names(wanted: &HeaderValue, hash: &str) -> bool {
    let wanted = wanted.to_str().unwrap_or_default();
    wanted.split(',').any(|tag| matches!(tag.trim(), "*"))
        || wanted.split(',').any(|tag| tag.trim().trim_matches('"') == hash)
}
