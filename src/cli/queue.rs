//! Owns `stagepost queue`: what waits, by upstream and age.

use super::{
    Exit, Failure, Host, Terminal,
    args::QueueArgs,
    client::Client,
    instance::Instance,
    print::{escaped, table},
};
use crate::admin::{
    queue,
    wire::{Queue, QueueRow},
};

pub(super) fn queue(args: &QueueArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let state = args.state.as_deref();
    queue::which(state).map_err(Failure::usage)?;
    let query = state.map_or_else(String::new, |state| format!("?state={state}"));
    let queue = match Client::new(&instance.socket)?.get(&format!("/v1/queue{query}")) {
        Err(why) if why.exit == Exit::NotRunning => {
            let reads = instance.offline(host, why)?;
            queue::queue(&*reads, state).map_err(|why| Failure::new(Exit::Io, why))?
        }
        answered => answered?,
    };
    if args.json {
        let json = serde_json::to_string(&queue).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
        return Ok(Exit::Done);
    }
    page(&queue, terminal)?;
    Ok(Exit::Done)
}

fn page(queue: &Queue, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let mut head: Vec<String> = vec!["UPSTREAM".into(), "TOTAL".into()];
    head.extend(queue.bounds_s.iter().map(|bound| (bound / 60).to_string()));
    head.push(format!("{}+", queue.bounds_s.last().map_or(0, |bound| bound / 60)));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let row = |name: String, total: u64, ages: &[u64]| {
        [name, total.to_string()].into_iter().chain(ages.iter().map(ToString::to_string)).collect::<Vec<String>>()
    };
    let sum = |of: &dyn Fn(&QueueRow) -> u64| queue.rows.iter().map(of).sum();
    let ages: Vec<u64> =
        (0..=queue.bounds_s.len()).map(|at| sum(&|row| row.ages.get(at).copied().unwrap_or(0))).collect();
    let mut rows = vec![row("TOTAL".to_owned(), sum(&|row| row.total), &ages)];
    rows.extend(queue.rows.iter().map(|one| row(escaped(&one.upstream), one.total, &one.ages)));
    table(terminal.out, &head, &rows)?;
    if queue.unplanned > 0 {
        writeln!(terminal.out, "{} events are not routed yet", queue.unplanned)?;
    }
    Ok(())
}
