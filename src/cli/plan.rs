//! Owns `stagepost plan`: what a configuration would change for requests that are stored, for people and for pipes.

use serde_json::Value;
use similar::TextDiff;

use super::{
    Exit, Failure, Host, Terminal,
    args::PlanArgs,
    client::Client,
    instance::Instance,
    print::{escaped, escaped_bytes},
};
use crate::admin::wire::{Difference, PlanAsk, PlanEvent, PlanReply, PlanSummary, Text};

/// Lines around a change of a body.
const CONTEXT: usize = 2;

pub(super) fn plan(args: &PlanArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let file = args.file.as_ref().map(|file| {
        let absolute = std::fs::canonicalize(file)
            .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", file.display())))?;
        let text = absolute.into_os_string().into_string();
        text.map_err(|path| Failure::usage(format!("{}: the path is no text", path.display())))
    });
    let ask = PlanAsk { file: file.transpose()?, filters: args.filters.resolve(terminal.now)?, limit: args.count };
    let instance = Instance::find(&args.place, host)?;
    let mut exit = Exit::Done;
    let mut summary = None;
    let mut failed = None;
    Client::new(&instance.socket)?.lines("/v1/plan", &ask, &mut |reply: PlanReply| {
        if args.json {
            let json = serde_json::to_string(&reply).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
            writeln!(terminal.out, "{json}")?;
        }
        match reply {
            PlanReply::Event(event) if !args.json => tell(&event, terminal)?,
            PlanReply::Note(note) => {
                exit = if note.starts_with("warning: ") { exit } else { Exit::Partly };
                writeln!(terminal.err, "stagepost: {}", escaped(&note))?;
            }
            PlanReply::Summary(told) => summary = Some(told),
            PlanReply::Failed(why) => failed = Some(why),
            PlanReply::Event(_) => {}
        }
        Ok(())
    })?;
    match (failed, summary) {
        (Some(why), _) => Err(Failure::new(Exit::Io, why)),
        (None, None) => Err(Failure::new(Exit::Io, "the answer broke off")),
        (None, Some(_)) if args.json => Ok(exit),
        (None, Some(summary)) => {
            conclude(&summary, terminal)?;
            Ok(exit)
        }
    }
}

fn tell(event: &PlanEvent, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    writeln!(terminal.out, "{}  {}  {}", event.id, event.received_at, escaped(&event.source))?;
    for difference in &event.differences {
        let line = |what: String| format!("  {what}");
        let or = |text: &Option<String>, none: &str| text.as_deref().map_or_else(|| none.to_owned(), escaped);
        let told = match difference {
            Difference::Source { before, after } => {
                line(format!("source: {} -> {}", or(before, "none"), or(after, "none")))
            }
            Difference::Door { before, after } => {
                line(format!("at the door: {} -> {}", or(before, "taken"), or(after, "taken")))
            }
            Difference::Added { upstream } => line(format!("{}: would get it", escaped(upstream))),
            Difference::Removed { upstream } => line(format!("{}: would not get it any more", escaped(upstream))),
            Difference::Unsent { upstream, before, after } => {
                line(format!("{}: {} -> {}", escaped(upstream), or(before, "sent"), or(after, "sent")))
            }
            Difference::Target { upstream, before, after } => {
                line(format!("{}: {} -> {}", escaped(upstream), escaped(before), escaped(after)))
            }
            Difference::Headers { upstream, names } => {
                line(format!("{}: other headers: {}", escaped(upstream), escaped(&names.join(", "))))
            }
            Difference::Body { upstream, before, after, cut } => {
                let cut = if *cut { " (the beginnings)" } else { "" };
                writeln!(terminal.out, "  {}: another body{cut}", escaped(upstream))?;
                body(before, after, terminal)?;
                continue;
            }
        };
        writeln!(terminal.out, "{told}")?;
    }
    Ok(())
}

/// The difference of two bodies; JSON is laid out first, so that what is the same stands in lines of its own.
fn body(before: &Text, after: &Text, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let lines = |text: &Text| {
        let bytes = text.bytes();
        let pretty = serde_json::from_slice::<Value>(&bytes).ok();
        let pretty = pretty.and_then(|value| serde_json::to_string_pretty(&value).ok());
        let mut text = pretty.unwrap_or_else(|| {
            let raw: Vec<String> = bytes.split(|byte| *byte == b'\n').map(escaped_bytes).collect();
            raw.join("\n")
        });
        text.push('\n');
        text
    };
    let (before, after) = (lines(before), lines(after));
    let diff = TextDiff::from_lines(&before, &after);
    for line in diff.unified_diff().context_radius(CONTEXT).to_string().lines() {
        writeln!(terminal.out, "    {}", escaped(line))?;
    }
    Ok(())
}

fn conclude(summary: &PlanSummary, terminal: &mut Terminal<'_>) -> Result<(), Failure> {
    let PlanSummary { hash, events, different, .. } = summary;
    writeln!(terminal.out, "configuration {}: {different} of {events} requests would fare otherwise", escaped(hash))?;
    for (count, what) in [
        (summary.refused, "would be refused that are taken today"),
        (summary.taken, "would be taken that are refused today"),
        (summary.moved, "would be another source's, or none's"),
        (summary.rerouted, "would reach other upstreams"),
        (summary.changed, "would be sent as another request"),
        (summary.unverified, "could not be verified again (items of batches, secrets in paths, keys to be fetched)"),
    ] {
        if count > 0 {
            writeln!(terminal.out, "  {count} {what}")?;
        }
    }
    writeln!(terminal.out, "Nothing has become active.")?;
    Ok(())
}
