//! Owns the page of jobs: replays of many deliveries, how far they are, and ending one.

use http::StatusCode;
use maud::{Markup, html};

use super::{
    Page,
    ask::Ask,
    frame::Reply,
    parts::{age, count, hidden, marks, scroll, size, state},
};
use crate::{
    admin::{
        api::Refusal,
        jobs::cancel,
        wire::{Filters, Job},
    },
    clock::Timestamp,
};

pub(super) const PAGES: &[Page] = &[
    Page::get("/jobs", list).whole(),
    Page::post("/jobs/confirm", confirm).whole(),
    Page::post("/jobs", done).whole(),
];

fn list(ask: &Ask) -> Result<Reply, Refusal> {
    let now = ask.ports.now();
    let jobs = ask.ports.jobs().map_err(Refusal::unavailable)?;
    let table = html! {
        table {
            caption { "Newest first" }
            thead { tr {
                th scope="col" { "Job" }
                th scope="col" { "State" }
                th scope="col" { "Through" }
                th.number scope="col" { "Deliveries" }
                th.number scope="col" { "Size" }
                th scope="col" { "Begun" }
                th scope="col" { "By" }
                th scope="col" { "Which" }
                @if ask.operates() { th scope="col" { span.unseen { "Actions" } } }
            } }
            tbody { @for job in jobs.iter().rev() { (row(ask, job, now)) } }
        }
    };
    let main = html! {
        h1 { "Jobs" }
        p { "Replays of many deliveries. They wait while live traffic lags." }
        div data-live="jobs" {
            @if jobs.is_empty() { p.empty { "There is none." } } @else { (scroll("Jobs", &table)) }
        }
    };
    Ok(Reply::page("Jobs", "/jobs", main))
}

fn row(ask: &Ask, job: &Job, now: Timestamp) -> Markup {
    let percent = job.progress.clamp(0.0, 1.0) * 100.0;
    html! {
        tr {
            th.id scope="row" { (job.id) }
            td { (state(&job.state)) @if let Some(why) = &job.why { div.calm { (why) } } }
            td {
                meter min="0" max="100" value=(format!("{percent:.0}")) aria-label={ "How far " (job.id) " is" } {}
                " " (format!("{percent:.0}")) " %"
            }
            td.number { (count(job.deliveries)) @if job.skipped > 0 { div.calm { (count(job.skipped)) " left alone" } } }
            td.number { (size(job.bytes)) }
            td { (age(job.started_at, now)) @if let Some(ended) = job.ended_at { div.calm { "ended " (age(ended, now)) } } }
            td { (job.actor) }
            td.path { (which(&job.filters)) @if let Some(to) = &job.to { " to " (to) } }
            @if ask.operates() {
                td {
                    @if job.ended_at.is_none() {
                        form method="post" action="/jobs/confirm" {
                            (marks(ask, "/jobs"))
                            (hidden("job", &job.id))
                            button.danger type="submit" aria-label={ "Cancel " (job.id) } { "cancel…" }
                        }
                    }
                }
            }
        }
    }
}

/// Filters in words.
fn which(filters: &Filters) -> String {
    let given = serde_json::to_value(filters).unwrap_or_default();
    let given = given.as_object().into_iter().flatten();
    let words: Vec<String> = given.filter_map(|(name, value)| Some(format!("{name} {}", value.as_str()?))).collect();
    if words.is_empty() { "all".to_owned() } else { words.join(", ") }
}

fn confirm(ask: &Ask) -> Result<Reply, Refusal> {
    let id = ask.form.get("job").unwrap_or_default();
    let title = format!("Cancel the job {id}?");
    let main = html! {
        h1 { (title) }
        p { "What it has made due stays due." }
        form.confirm method="post" action="/jobs" {
            (marks(ask, "/jobs"))
            (hidden("job", id))
            div.buttons { button.main.danger type="submit" { "Cancel the job" } a href="/jobs" { "Let it go on" } }
        }
    };
    Ok(Reply::page(title, "/jobs", main))
}

fn done(ask: &Ask) -> Result<Reply, Refusal> {
    let id = ask.form.get("job").unwrap_or_default();
    let job = cancel(&*ask.ports, id, &ask.caller)?;
    let job = job.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, format!("there is no job {id:?}")))?;
    ask.tell(vec![format!("The job {} is {}.", job.id, job.state)]);
    Ok(Reply::See("/jobs".to_owned()))
}
