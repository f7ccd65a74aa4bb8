//! Owns the routes of what moves many events: the queue, jobs, export, import, and the moment of a backup.

use http::StatusCode;

use super::{Answer, Call, Content, DELIVER, QUEUE, Refusal, Route, json, of, send, streamed};
use crate::{
    admin::{
        export::export,
        filter::Compiled,
        import::{Import, ImportError, LINE_BYTES_MAX, import, is_stored},
        jobs, queue,
        wire::{BackupPoint, Export, ExportReply, Imported, Importing, Job, Queue},
    },
    log::AppendError,
};

/// Events of an export that wait for their reader: each may be large.
const EXPORT_LINES: usize = 2;

pub(super) const ROUTES: &[Route] = &[
    Route::get("/v1/queue", "queue", "How much waits, by upstream and age.", queued)
        .query(&[QUEUE])
        .gives(Content::Json(of::<Queue>)),
    Route::get("/v1/jobs", "jobs", "Replays of many deliveries, under way and ended.", all_jobs)
        .whole()
        .gives(Content::Json(of::<Vec<Job>>)),
    Route::post("/v1/jobs/{id}/cancel", "job_cancel", "Ends a job; what it made due stays due.", cancelled)
        .whole()
        .gives(Content::Json(of::<Job>)),
    Route::post("/v1/export", "export", "Streams events with bodies, deliveries and attempts, oldest first.", exported)
        .whole()
        .takes(of::<Export>)
        .gives(Content::Lines(of::<ExportReply>)),
    Route::post("/v1/import", "import", "Stores exported events, one a line.", imported)
        .whole()
        .query(&[DELIVER])
        .takes(of::<Importing>)
        .at_most(LINE_BYTES_MAX)
        .gives(Content::Json(of::<Imported>)),
    Route::get("/v1/backup", "backup_place", "Where the data are.", place)
        .whole()
        .gives(Content::Json(of::<BackupPoint>)),
    Route::post("/v1/backup", "backup", "Seals everything stored so far and tells what a backup consists of.", point)
        .whole()
        .gives(Content::Json(of::<BackupPoint>)),
];

fn queued(call: &Call) -> Result<Answer, Refusal> {
    if call.caller.scope.limits_sources() {
        return Err(Refusal::forbidden("the queue is counted for all sources: this token is limited to some"));
    }
    queue::queue(&*call.ports, call.text("state")).map(|queue| json(&queue)).map_err(Refusal::unavailable)
}

fn all_jobs(call: &Call) -> Result<Answer, Refusal> {
    call.ports.jobs().map(|jobs| json(&jobs)).map_err(Refusal::unavailable)
}

fn cancelled(call: &Call) -> Result<Answer, Refusal> {
    let id = call.variable(0);
    match jobs::cancel(&*call.ports, id, &call.caller)? {
        Some(job) => Ok(json(&job)),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no job {id:?}"))),
    }
}

fn exported(call: &Call) -> Result<Answer, Refusal> {
    let Export { filters, hide_credentials: hide } = call.json()?;
    let wanted = Compiled::new(filters, &*call.ports)?;
    call.note("export", if hide { "without credentials" } else { "with credentials" })?;
    let ports = call.ports.clone();
    streamed(call, EXPORT_LINES, move |lines| {
        if let Err(error) = export(&*ports, &wanted, hide, &mut |reply| send(lines, &reply)) {
            let _gone = send(lines, &ExportReply::Failed(error.to_string()));
        }
    })
}

/// What the answer counts as imported is durable.
fn imported(call: &Call) -> Result<Answer, Refusal> {
    let ports = &*call.ports;
    let knows = |id| is_stored(ports, id);
    let deliver = call.flag("deliver");
    let how = Import { now: ports.now(), generation: ports.generation(), deliver, knows: &knows };
    let told = import(&*ports.log(), &how, &call.body).map_err(|error| match error {
        ImportError::Read(error) => error.into(),
        ImportError::Append(AppendError::Full) => {
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, AppendError::Full.to_string())
        }
        error => Refusal::unavailable(error.to_string()),
    })?;
    if told.imported > 0 {
        let how = if deliver { "to be delivered" } else { "only stored" };
        let command = call.caller.noted("import", vec![how.into()], told.imported);
        ports.command(command).map_err(Refusal::unavailable)?;
    }
    Ok(json(&told))
}

fn place(call: &Call) -> Result<Answer, Refusal> {
    call.ports.backup_point(false).map(|point| json(&point)).map_err(Refusal::unavailable)
}

fn point(call: &Call) -> Result<Answer, Refusal> {
    call.note("backup", "begun")?;
    call.ports.backup_point(true).map(|point| json(&point)).map_err(Refusal::unavailable)
}
