//! Owns `stagepost jobs`, `job` and `cancel`: replays of many deliveries, as they go on.

use super::{
    Exit, Failure, Host, Terminal,
    args::{JobArgs, JobsArgs},
    client::Client,
    instance::Instance,
    print::{escaped, table},
    units,
};
use crate::admin::{
    rate,
    wire::{Job, job_seq},
};

pub(super) fn jobs(args: &JobsArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let mut jobs: Vec<Job> = Client::new(&instance.socket)?.get("/v1/jobs")?;
    jobs.retain(|job| args.all || job.ended_at.is_none());
    if args.json {
        for job in &jobs {
            writeln!(terminal.out, "{}", json(job)?)?;
        }
        return Ok(Exit::Done);
    }
    if jobs.is_empty() {
        writeln!(terminal.out, "no job is under way")?;
        return Ok(Exit::Done);
    }
    let row = |job: &Job| {
        vec![
            escaped(&job.id),
            escaped(&job.state),
            percent(job),
            job.deliveries.to_string(),
            units::size(job.bytes),
            job.started_at.to_string(),
            escaped(&job.actor),
            escaped(job.why.as_deref().unwrap_or("")),
        ]
    };
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    table(terminal.out, &["JOB", "STATE", "DONE", "DELIVERIES", "BYTES", "STARTED", "BY", "WHY"], &rows)?;
    Ok(Exit::Done)
}

pub(super) fn job(args: &JobArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let client = (Instance::find(&args.place, host)?, name(args)?);
    let jobs: Vec<Job> = Client::new(&client.0.socket)?.get("/v1/jobs")?;
    let Some(job) = jobs.into_iter().find(|job| job.id == client.1) else {
        return Err(Failure::new(Exit::NoSuchId, format!("there is no job {:?}", args.job)));
    };
    told(&job, args.json, terminal)
}

pub(super) fn cancel(args: &JobArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let (instance, id) = (Instance::find(&args.place, host)?, name(args)?);
    let job: Job = Client::new(&instance.socket)?.post(&format!("/v1/jobs/{id}/cancel"), &())?;
    told(&job, args.json, terminal)
}

fn name(args: &JobArgs) -> Result<&str, Failure> {
    match job_seq(&args.job) {
        Some(_) => Ok(&args.job),
        None => Err(Failure::usage(format!("{:?} is no name of a job: `stagepost jobs` shows them", args.job))),
    }
}

fn told(job: &Job, as_json: bool, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    if as_json {
        writeln!(terminal.out, "{}", json(job)?)?;
        return Ok(Exit::Done);
    }
    let out = &mut *terminal.out;
    let why = job.why.as_deref().map_or(String::new(), |why| format!(": {}", escaped(why)));
    writeln!(out, "job {} is {}{why}", escaped(&job.id), escaped(&job.state))?;
    let filters = serde_json::to_value(&job.filters).unwrap_or_default();
    let given = filters.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let given: Vec<String> = given.map(|(name, value)| escaped(&format!("--{name} {value}"))).collect();
    let to = job.to.as_deref().map_or(String::new(), |to| format!(" to {}", escaped(to)));
    writeln!(out, "replay {}{to}, begun at {} by {}", given.join(" "), job.started_at, escaped(&job.actor))?;
    if let Some(interval) = job.interval_us {
        writeln!(out, "at most {}", rate(interval))?;
    }
    if job.original {
        writeln!(out, "bodies as they were received")?;
    }
    let size = units::size(job.bytes);
    writeln!(out, "{} of the log, {} deliveries of {} events, {size}", percent(job), job.deliveries, job.events)?;
    if job.skipped > 0 {
        writeln!(out, "{} events were left alone: the diagnostics name them", job.skipped)?;
    }
    Ok(Exit::Done)
}

fn percent(job: &Job) -> String {
    format!("{:.0} %", job.progress * 100.0)
}

fn json(job: &Job) -> Result<String, Failure> {
    serde_json::to_string(job).map_err(|error| Failure::new(Exit::Io, error.to_string()))
}
