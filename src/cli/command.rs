//! Owns the commands that change something: what is asked of the instance, the question to the operator, the answer
//! in words.

use std::{collections::HashSet, time::Duration};

use super::{
    Exit, Failure, Host, Terminal,
    args::{HoldArgs, ReplayArgs, SelectArgs, Transform},
    client::Client,
    instance::Instance,
    print::escaped,
    units,
};
use crate::admin::{
    EventId, IdError,
    wire::{Act, Acted, Status, Verb},
};

/// A replay or an expiry of more than this many deliveries is asked about.
pub(super) const REPLAY_UNASKED_MAX: u64 = 100;

/// How often it is looked whether an upstream is quiet.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn replay(args: &ReplayArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let asked = asked(Verb::Replay, &args.select, terminal)?;
    let asked = Act {
        to: args.to.clone(),
        interval_us: args.rate,
        new_key: args.new_key,
        original: args.transform == Transform::Original,
        job: args.job,
        ..asked
    };
    command(asked, &args.select, host, terminal)
}

pub(super) fn hold(args: &HoldArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let mut asked = asked(Verb::Hold, &args.select, terminal)?;
    asked.for_ms = args.for_ms;
    asked.reason = asked.filters.reason.take();
    let Some(wait_ms) = args.wait else { return command(asked, &args.select, host, terminal) };
    let whole = asked.filters.only_upstream().filter(|_| asked.ids.is_empty() && !asked.all && !asked.dry_run);
    let Some(upstream) = whole.map(str::to_owned) else {
        return Err(Failure::usage("--wait goes with --upstream and nothing else: it waits for the whole upstream"));
    };
    match command(asked, &args.select, host, terminal)? {
        Exit::Done => until_quiet(&upstream, wait_ms, &args.select, host, terminal),
        other => Ok(other),
    }
}

/// Waits until no attempt to an upstream is under way.
fn until_quiet(
    upstream: &str,
    wait_ms: u64,
    args: &SelectArgs,
    host: &dyn Host,
    terminal: &mut Terminal<'_>,
) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let looks = wait_ms / u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(1);
    for look in 0..=looks {
        let status: Status = client.get("/v1/status")?;
        let under_way = status.upstreams.iter().find(|one| one.name == upstream).map_or(0, |one| one.in_flight);
        if under_way == 0 {
            writeln!(terminal.err, "nothing is under way to {}", escaped(upstream))?;
            return Ok(Exit::Done);
        }
        if look == looks {
            writeln!(terminal.err, "{under_way} attempts to {} are still under way", escaped(upstream))?;
        } else {
            client.pause(LOOK_EVERY);
        }
    }
    Ok(Exit::Partly)
}

pub(super) fn release(args: &SelectArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let mut asked = asked(Verb::Release, args, terminal)?;
    asked.reason = asked.filters.reason.take();
    command(asked, args, host, terminal)
}

pub(super) fn resolve(args: &SelectArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let mut asked = asked(Verb::Resolve, args, terminal)?;
    asked.reason = asked.filters.reason.take();
    command(asked, args, host, terminal)
}

pub(super) fn expire(args: &SelectArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let mut asked = asked(Verb::Expire, args, terminal)?;
    asked.reason = asked.filters.reason.take();
    command(asked, args, host, terminal)
}

pub(super) fn requeue(args: &SelectArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    command(asked(Verb::Requeue, args, terminal)?, args, host, terminal)
}

pub(super) fn delete(args: &SelectArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    command(asked(Verb::Delete, args, terminal)?, args, host, terminal)
}

fn asked(verb: Verb, args: &SelectArgs, terminal: &mut Terminal<'_>) -> Result<Act, Failure> {
    Ok(Act {
        verb,
        ids: ids(&args.ids, terminal)?,
        filters: args.filters.resolve(terminal.now)?,
        all: args.all,
        to: None,
        interval_us: None,
        new_key: false,
        original: false,
        job: false,
        for_ms: None,
        reason: None,
        dry_run: args.dry_run,
        before: None,
    })
}

/// The ids, those from standard input in place of `-`: the first word of each line, or the `id` of a JSON object.
pub(super) fn ids(given: &[String], terminal: &mut Terminal<'_>) -> Result<Vec<String>, Failure> {
    let mut ids = Vec::new();
    for id in given {
        if id != "-" {
            ids.push(id.clone());
            continue;
        }
        let mut line = String::new();
        while terminal.input.read_line(&mut line)? > 0 {
            ids.extend(id_of(&line));
            line.clear();
        }
        // Nobody can answer a question on the stream that the ids came from.
        terminal.in_is_terminal = false;
        if ids.is_empty() {
            return Err(Failure::usage("standard input has no ids"));
        }
    }
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    Ok(ids)
}

/// The events that an id means, or that standard input names in place of `-`.
pub(super) fn event_ids(given: &str, terminal: &mut Terminal<'_>) -> Result<Vec<EventId>, Failure> {
    let ids = ids(&[given.to_owned()], terminal)?;
    ids.iter().map(|id| id.parse().map_err(|error: IdError| Failure::usage(error.to_string()))).collect()
}

/// Does something with each event; of several, those that are not stored are named and the others are taken.
pub(super) fn each(
    ids: &[EventId],
    terminal: &mut Terminal<'_>,
    act: &mut dyn FnMut(EventId, &mut Terminal<'_>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let (mut missing, mut exit) = (0, Exit::Done);
    for id in ids {
        match act(*id, terminal) {
            Ok(Exit::Done) => {}
            Ok(_) => exit = Exit::Partly,
            Err(why) if why.exit == Exit::NoSuchId && ids.len() > 1 => {
                missing += 1;
                writeln!(terminal.err, "stagepost: {}", escaped(&why.message))?;
            }
            Err(why) => return Err(why),
        }
    }
    Ok(match missing {
        0 => exit,
        all if all == ids.len() => Exit::NoSuchId,
        _ => Exit::Partly,
    })
}

fn id_of(line: &str) -> Option<String> {
    let line = line.trim();
    if line.starts_with('{') {
        let object: serde_json::Value = serde_json::from_str(line).ok()?;
        return object.get("id")?.as_str().map(str::to_owned);
    }
    line.split_whitespace().next().map(str::to_owned)
}

fn command(asked: Act, args: &SelectArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    if asked.ids.is_empty() && asked.filters.is_empty() && !asked.all {
        let verb = asked.verb.as_str();
        return Err(Failure::usage(format!("{verb} needs an id or a filter; --all says everything on purpose")));
    }
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let mut asked = asked;
    let may_ask = matches!(asked.verb, Verb::Delete | Verb::Replay | Verb::Expire) && !asked.dry_run;
    if may_ask && !args.yes {
        let counted: Acted = client.post("/v1/act", &Act { dry_run: true, ..asked.clone() })?;
        let asks = counted.count > 0 && (asked.verb == Verb::Delete || counted.count > REPLAY_UNASKED_MAX);
        if asks && !confirmed(asked.verb, &counted, terminal)? {
            writeln!(terminal.err, "nothing was changed")?;
            return Ok(Exit::Partly);
        }
        asked.before = Some(counted.before);
    }
    let acted: Acted = client.post("/v1/act", &asked)?;
    if args.json {
        let json = serde_json::to_string(&acted).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
    } else {
        tell(&asked, &acted, terminal)?;
    }
    Ok(exit(&asked, &acted))
}

fn confirmed(verb: Verb, counted: &Acted, terminal: &mut Terminal<'_>) -> Result<bool, Failure> {
    let what = format!("{} {}", verb.as_str(), things(verb, counted));
    if !terminal.in_is_terminal {
        return Err(Failure::usage(format!("this would {what}: say --yes, since nobody can be asked")));
    }
    write!(terminal.err, "{what}? [y/N] ")?;
    terminal.err.flush()?;
    let mut answer = String::new();
    terminal.input.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn things(verb: Verb, acted: &Acted) -> String {
    let plural = |count: u64, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
    let events = plural(acted.events, "event", "events");
    match verb {
        Verb::Delete => plural(acted.count, "event", "events"),
        _ => format!("{} of {events}", plural(acted.count, "delivery", "deliveries")),
    }
}

/// Says which and how many.
fn tell(asked: &Act, acted: &Acted, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let would = if acted.dry_run { "would be " } else { "" };
    let done = match asked.verb {
        Verb::Replay => "due again",
        Verb::Hold => "held",
        Verb::Release => "released",
        Verb::Resolve => "resolved",
        Verb::Delete => "deleted",
        Verb::Expire => "given up",
        Verb::Requeue => "due now",
    };
    if let Some(job) = &acted.job {
        let job = escaped(job);
        writeln!(
            terminal.out,
            "job {job} replays them: `stagepost job {job}` tells how far it is, `stagepost cancel {job}` ends it"
        )?;
        return Ok(());
    }
    if let Some(upstream) = &acted.upstream {
        let upstream = escaped(upstream);
        let what = if asked.verb == Verb::Hold { "what waits and what will come" } else { "what waits goes on" };
        writeln!(terminal.out, "upstream {upstream} {would}{done}: {what} ({} deliveries wait)", acted.count)?;
        return Ok(());
    }
    for (id, upstream) in &acted.sample {
        writeln!(terminal.out, "{}  {}", escaped(id), escaped(upstream.as_deref().unwrap_or("")))?;
    }
    let named = acted.sample.len() as u64;
    if acted.count > named && named > 0 {
        writeln!(terminal.out, "… and {} more", acted.count - named)?;
    }
    match acted.count {
        0 => writeln!(terminal.out, "nothing to {} matches", asked.verb.as_str())?,
        _ => writeln!(terminal.out, "{} {would}{done}", things(asked.verb, acted))?,
    }
    if acted.dry_run && asked.verb == Verb::Replay && acted.count > 0 {
        let time = acted.estimate_s.map_or("no estimate: its upstreams were not tried yet".to_owned(), |seconds| {
            format!("about {}", units::span(Duration::from_secs(seconds)))
        });
        writeln!(terminal.out, "{} of bodies, {time}", units::size(acted.bytes))?;
    }
    for id in &acted.missing {
        writeln!(terminal.err, "no event {} is stored", escaped(id))?;
    }
    for text in &acted.skipped {
        writeln!(terminal.err, "left alone: {}", escaped(text))?;
    }
    if acted.truncated {
        writeln!(terminal.err, "there is more than one command takes: run it again")?;
    }
    Ok(())
}

fn exit(asked: &Act, acted: &Acted) -> Exit {
    let missing = usize::try_from(acted.missing_count).unwrap_or(usize::MAX);
    if missing > 0 && missing >= asked.ids.len() {
        return Exit::NoSuchId;
    }
    if missing > 0 || acted.truncated || !acted.skipped.is_empty() { Exit::Partly } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_first_word_of_a_line_or_the_id_of_an_object() {
        assert_eq!(id_of("ABC stripe dead\n").as_deref(), Some("ABC"));
        assert_eq!(id_of(r#"{"id":"ABC","source":"x"}"#).as_deref(), Some("ABC"));
        assert_eq!(id_of("\n"), None);
        assert_eq!(id_of("{\"x\":1}"), None);
    }
}
