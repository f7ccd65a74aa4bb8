//! Owns the routes about alerts: what stands, and trying a destination.

use super::{Answer, Call, Content, Refusal, Route, json, of};
use crate::admin::wire::{Alert, TestAlert, TestedAlert};

pub(super) const ROUTES: &[Route] = &[
    Route::get("/v1/alerts", "alerts", "The alerts that stand, the worst first.", alerts)
        .gives(Content::Json(of::<Vec<Alert>>)),
    Route::post("/v1/alerts/test", "test_alert", "Sends a test to one destination of alerts.", tested)
        .whole()
        .takes(of::<TestAlert>)
        .gives(Content::Json(of::<TestedAlert>)),
];

fn alerts(call: &Call) -> Result<Answer, Refusal> {
    Ok(json(&call.ports.alerts()))
}

fn tested(call: &Call) -> Result<Answer, Refusal> {
    let TestAlert { to } = call.json()?;
    call.note("test alert", &to)?;
    call.ports.test_alert(&to).map(|id| json(&TestedAlert { id })).map_err(Refusal::bad)
}
