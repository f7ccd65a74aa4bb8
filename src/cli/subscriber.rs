//! Owns `stagepost subscriber`: what is asked of the instance, and how it is told.

use super::{
    Exit, Failure, Host, Terminal,
    args::{
        JsonArgs, SubscriberAddArgs, SubscriberNameArgs, SubscriberPauseArgs, SubscriberRotateArgs, SubscriberVerb,
    },
    client::Client,
    instance::Instance,
    print::{escaped, table},
};
use crate::admin::{
    for_ever,
    wire::{PauseSubscriber, RotateSecret, Subscribe, Subscriber, SubscriberDone, Subscribers},
};

const PATH: &str = "/v1/subscribers";

pub(super) fn subscriber(verb: &SubscriberVerb, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    match verb {
        SubscriberVerb::Add(args) => add(args, host, terminal),
        SubscriberVerb::List(args) => list(args, host, terminal),
        SubscriberVerb::Pause(args) => pause(args, host, terminal),
        SubscriberVerb::Resume(args) => resume(args, host, terminal),
        SubscriberVerb::Remove(args) => remove(args, host, terminal),
        SubscriberVerb::RotateSecret(args) => rotate(args, host, terminal),
    }
}

fn add(args: &SubscriberAddArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let asked = Subscribe {
        topic: args.whom.topic.clone(),
        name: args.whom.name.clone(),
        url: args.url.clone(),
        types: args.types.clone(),
        when: args.when.clone(),
        secret: args.secret.clone(),
        rate: args.rate.clone(),
    };
    let instance = Instance::find(&args.whom.place, host)?;
    let done: SubscriberDone = Client::new(&instance.socket)?.post(PATH, &asked)?;
    tell(&args.whom, &done, "gets what is published from now on", terminal)
}

fn pause(args: &SubscriberPauseArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let asked = PauseSubscriber { for_ms: args.for_ms, reason: args.reason.clone() };
    let instance = Instance::find(&args.whom.place, host)?;
    let done: SubscriberDone = Client::new(&instance.socket)?.post(&path(&args.whom, "/pause")?, &asked)?;
    tell(&args.whom, &done, "is paused: what comes for it waits", terminal)
}

fn resume(args: &SubscriberNameArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let done: SubscriberDone = Client::new(&instance.socket)?.post(&path(args, "/resume")?, &())?;
    tell(args, &done, "goes on", terminal)
}

fn remove(args: &SubscriberNameArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let done: SubscriberDone = Client::new(&instance.socket)?.post(&path(args, "/remove")?, &())?;
    tell(args, &done, "is removed; what it has not got is dead", terminal)
}

fn rotate(args: &SubscriberRotateArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let asked = RotateSecret { secret: args.secret.clone(), overlap_ms: args.overlap_ms };
    let instance = Instance::find(&args.whom.place, host)?;
    let done: SubscriberDone = Client::new(&instance.socket)?.post(&path(&args.whom, "/rotate-secret")?, &asked)?;
    tell(&args.whom, &done, "is signed with the new secret", terminal)
}

/// Names that could stand in a path otherwise than as a name are none.
fn path(whom: &SubscriberNameArgs, verb: &str) -> Result<String, Failure> {
    for name in [&whom.topic, &whom.name] {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(fits) {
            return Err(Failure::usage(format!("{name:?} is no name; names have letters, digits, _, - and .")));
        }
    }
    Ok(format!("{PATH}/{}/{}{verb}", whom.topic, whom.name))
}

fn tell(
    whom: &SubscriberNameArgs,
    done: &SubscriberDone,
    what: &str,
    terminal: &mut Terminal<'_>,
) -> Result<Exit, Failure> {
    if whom.json {
        let json = serde_json::to_string(done).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
        return Ok(Exit::Done);
    }
    let (topic, name) = (escaped(&whom.topic), escaped(&whom.name));
    match done.subscriber.as_ref().filter(|now| now.state == "off") {
        Some(off) => {
            let why = escaped(off.why.as_deref().unwrap_or_default());
            writeln!(terminal.out, "subscriber {topic}/{name} is off: {why}")?;
        }
        None => writeln!(terminal.out, "subscriber {topic}/{name} {what}")?,
    }
    if let Some(secret) = &done.secret {
        writeln!(terminal.out, "secret (shown once): {}", escaped(secret))?;
    }
    Ok(Exit::Done)
}

fn list(args: &JsonArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let Subscribers { subscribers: all } = Client::new(&instance.socket)?.get(PATH)?;
    if args.json {
        for one in &all {
            let json = serde_json::to_string(one).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
            writeln!(terminal.out, "{json}")?;
        }
        return Ok(Exit::Done);
    }
    if all.is_empty() {
        writeln!(terminal.out, "there are no subscribers")?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let head = ["TOPIC", "NAME", "STATE", "FROM", "PENDING", "DEAD", "FAILURES", "WANTS", "URL", "WHY"];
    table(terminal.out, &head, &rows)?;
    Ok(Exit::Done)
}

fn row(one: &Subscriber) -> Vec<String> {
    let state = match one.paused_until.filter(|until| one.state == "paused" && !for_ever(*until)) {
        Some(until) => format!("paused until {until}"),
        None => escaped(&one.state),
    };
    let failures = one.failing_since.map_or("-".to_owned(), |since| format!("{} since {since}", one.failures));
    let mut wants: Vec<String> = one.types.iter().map(|text| escaped(text)).collect();
    wants.extend(one.when.as_deref().map(escaped));
    wants.extend(one.rate.as_deref().map(|rate| format!("at most {}", escaped(rate))));
    vec![
        escaped(&one.topic),
        escaped(&one.name),
        state,
        escaped(&one.origin),
        one.pending.to_string(),
        one.dead.to_string(),
        failures,
        if wants.is_empty() { "-".to_owned() } else { wants.join(" ") },
        escaped(&one.url),
        escaped(one.why.as_deref().unwrap_or("-")),
    ]
}
