//! Owns the routes about what is configured and stored: sources, routes, upstreams, segments, the configuration, and the
//! audit trail.

use http::{HeaderValue, StatusCode, header};

use super::{Answer, Call, Content, PAGES, Refusal, Route, TRAIL, json, of};
use crate::admin::{
    audit::{AuditFilter, audited},
    wire::{AuditedPage, Configuration, Routes, Segments, Sources, Upstream, Upstreams},
};

pub(super) const ROUTES: &[Route] = &[
    Route::get("/v1/sources", "sources", "Where requests come in, and how many have.", sources)
        .gives(Content::Json(of::<Sources>)),
    Route::get("/v1/routes", "routes", "Which events go where.", all_routes).gives(Content::Json(of::<Routes>)),
    Route::get("/v1/upstreams", "upstreams", "Where events are forwarded to, in figures.", upstreams)
        .gives(Content::Json(of::<Upstreams>)),
    Route::get("/v1/upstreams/{name}", "upstream", "One upstream.", upstream).gives(Content::Json(of::<Upstream>)),
    Route::get("/v1/segments", "segments", "The stored stretches of the log.", segments)
        .whole()
        .gives(Content::Json(of::<Segments>)),
    Route::get("/v1/config", "config", "The active configuration, secrets as references.", config)
        .whole()
        .gives(Content::Json(of::<Configuration>)),
    Route::get("/v1/audit", "audit", "What operators did, newest first.", trail)
        .whole()
        .query(&[TRAIL, PAGES])
        .gives(Content::Json(of::<AuditedPage>)),
];

fn sources(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&Sources { sources: call.ports.sources() }))
}

fn all_routes(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&Routes { routes: call.ports.routes() }))
}

fn upstreams(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&Upstreams { upstreams: call.ports.status().upstreams }))
}

fn upstream(call: &Call) -> Result<Answer, Refusal> {
    let name = call.variable(0);
    let found = call.ports.status().upstreams.into_iter().find(|upstream| upstream.name == name);
    let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("no upstream is named {name:?}"));
    Ok(json(&found.ok_or_else(missing)?))
}

fn segments(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&Segments { segments: call.ports.segments() }))
}

fn config(call: &Call) -> Result<Answer, Refusal> {
    let config = call.ports.configuration();
    let mut answer = json(&config);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", config.hash)) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    Ok(answer)
}

fn trail(call: &Call) -> Result<Answer, Refusal> {
    let wanted = AuditFilter {
        since: call.time("since"),
        until: call.time("until"),
        actor: call.text("actor").map(str::to_owned),
        action: call.text("action").map(str::to_owned),
    };
    Ok(json(&audited(&*call.ports, &wanted, call.cursor(), call.limit())?))
}
