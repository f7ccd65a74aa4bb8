//! Owns the commands that ask one question: check, reload, explain, rehearse, drain, refused, verify.

use std::time::Duration;

use super::{
    Exit, Failure, Host, Terminal,
    args::{CheckArgs, DrainArgs, ExplainArgs, RefusedArgs, RehearseArgs, ReloadArgs, UndrainArgs, VerifyArgs},
    client::Client,
    command::{each, event_ids},
    instance::Instance,
    print::{Columns, escaped, escaped_lines},
    units,
};
use crate::admin::wire::{Drain, Draining, Fault, Refused, Rehearse, Rehearsed, Reloaded};

/// How often a follower of refused requests asks.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

pub(super) fn check(args: &CheckArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let checked = host.check(args.config.as_deref())?;
    for warning in &checked.warnings {
        writeln!(terminal.err, "warning: {}", escaped(warning))?;
    }
    match args.print {
        true => write!(terminal.out, "{}", escaped_lines(&checked.effective))?,
        false => writeln!(terminal.out, "{} is valid", escaped(&checked.path.display().to_string()))?,
    }
    Ok(Exit::Done)
}

pub(super) fn reload(args: &ReloadArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let probation = args.probation.map_or_else(String::new, |ms| format!("?probation_ms={ms}"));
    let reloaded: Reloaded = Client::new(&instance.socket)?.post(&format!("/v1/reload{probation}"), &())?;
    for message in &reloaded.messages {
        writeln!(terminal.err, "{}", escaped(message))?;
    }
    let change = match reloaded.changed {
        true => "is active now",
        // The hash does not depend on what references lead to.
        false => "is unchanged; the secrets and certificates that it refers to were read again",
    };
    writeln!(terminal.out, "configuration {} {change}", escaped(&reloaded.hash))?;
    if let Some(until) = reloaded.probation_until {
        writeln!(terminal.out, "on probation until {until}: `stagepost status` says so as long as it is")?;
    }
    Ok(Exit::Done)
}

pub(super) fn explain(args: &ExplainArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let ids = event_ids(&args.id, terminal)?;
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let mut between = "";
    each(&ids, terminal, &mut |id, terminal| {
        let sentences: Vec<String> = client.get(&format!("/v1/events/{id}/explain"))?;
        write!(terminal.out, "{between}")?;
        between = "\n";
        for sentence in sentences {
            writeln!(terminal.out, "{}", escaped(&sentence))?;
        }
        Ok(Exit::Done)
    })
}

pub(super) fn rehearse(args: &RehearseArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let fault = match args.status {
        Some(status) => Some(Fault::Status(status)),
        None if args.hang => Some(Fault::Hang),
        None => args.reset.then_some(Fault::Reset),
    };
    let instance = Instance::find(&args.place, host)?;
    let asked = Rehearse { upstream: args.upstream.clone(), fault, for_ms: args.for_ms };
    let told: Rehearsed = Client::new(&instance.socket)?.post("/v1/rehearse", &asked)?;
    let upstream = escaped(&told.upstream);
    match (told.until, fault) {
        _ if args.json => {
            let json = serde_json::to_string(&told).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
            writeln!(terminal.out, "{json}")?;
        }
        (Some(until), Some(fault)) => {
            writeln!(terminal.out, "attempts of {upstream} fail until {until} ({fault}): nothing is sent to it")?;
        }
        _ if told.ended => writeln!(terminal.out, "the rehearsal of {upstream} is over")?,
        _ => writeln!(terminal.out, "no rehearsal of {upstream} is under way")?,
    }
    Ok(Exit::Done)
}

pub(super) fn drain(args: &DrainArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let asked = Drain { force: args.force, reason: args.reason.clone(), ..asked_of(&args.target, false) };
    draining(&asked, &args.target, host, terminal)
}

pub(super) fn undrain(args: &UndrainArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    draining(&asked_of(args, true), args, host, terminal)
}

fn asked_of(args: &UndrainArgs, undo: bool) -> Drain {
    Drain { upstream: args.upstream.clone(), target: args.url.clone(), undo, force: false, reason: None }
}

fn draining(asked: &Drain, args: &UndrainArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let told: Draining = Client::new(&instance.socket)?.post("/v1/drain", asked)?;
    let (target, upstream) = (escaped(&told.target), escaped(&told.upstream));
    match (told.drained, told.changed) {
        _ if args.json => {
            let json = serde_json::to_string(&told).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
            writeln!(terminal.out, "{json}")?;
        }
        (true, true) => writeln!(
            terminal.out,
            "{target} gets no new attempts of {upstream}; {} under way, other targets that work: {}",
            told.in_flight, told.left
        )?,
        (true, false) => writeln!(terminal.out, "{target} of {upstream} is drained already")?,
        (false, true) => writeln!(terminal.out, "{target} gets attempts of {upstream} again")?,
        (false, false) => writeln!(terminal.out, "{target} of {upstream} is not drained")?,
    }
    Ok(Exit::Done)
}

pub(super) fn refused(args: &RefusedArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let mut after = 0;
    let mut columns = Columns::new(&["AT", "STATUS", "REASON", "SOURCE", "CLIENT", "READ", "REQUEST"]);
    loop {
        let page: Vec<Refused> = client.get(&format!("/v1/refused?after={after}"))?;
        after = page.last().map_or(after, |last| last.number);
        if args.json {
            for one in &page {
                let json = serde_json::to_string(one).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
                writeln!(terminal.out, "{json}")?;
            }
        } else if !args.follow || !page.is_empty() {
            columns.rows(terminal.out, &page.iter().map(refused_row).collect::<Vec<_>>())?;
        }
        terminal.out.flush()?;
        if !args.follow {
            return Ok(Exit::Done);
        }
        client.pause(FOLLOW_EVERY);
    }
}

fn refused_row(one: &Refused) -> Vec<String> {
    vec![
        one.at.to_string(),
        one.status.to_string(),
        escaped(&one.reason),
        escaped(one.source.as_deref().unwrap_or("-")),
        escaped(&one.client),
        units::size(one.size),
        escaped(&format!("{} {}", one.method, one.path)),
    ]
}

pub(super) fn verify(args: &VerifyArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let Some(data) = &instance.data else {
        return Err(Failure::usage("verify reads the data directory: name it with --data, or its --config"));
    };
    let report = host.verify(data, args.repair)?;
    let damaged = !report.damage.is_empty();
    if args.json {
        let json = serde_json::to_string(&report).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
        return Ok(if damaged { Exit::Damage } else { Exit::Done });
    }
    for damage in &report.damage {
        writeln!(terminal.out, "{}: {}", escaped(&damage.file), escaped(&damage.what))?;
        for id in &damage.ids {
            writeln!(terminal.out, "  {}", escaped(id))?;
        }
    }
    for sentence in &report.repaired {
        writeln!(terminal.out, "{}", escaped(sentence))?;
    }
    writeln!(
        terminal.out,
        "{} segments, {} entries, {} events, {}: {}",
        report.segments,
        report.entries,
        report.events,
        units::size(report.bytes),
        if damaged { "damage found" } else { "no damage" },
    )?;
    Ok(if damaged { Exit::Damage } else { Exit::Done })
}
