//! Owns `stagepost quarantine`: what was refused and kept, listed, judged again, admitted, deleted.

use std::ops::ControlFlow;

use super::{
    Exit, Failure, Host, Terminal,
    args::{QuarantineArgs, QuarantineListArgs, QuarantineVerb, RecheckArgs, SelectArgs},
    client::Client,
    command::{REPLAY_UNASKED_MAX, ids},
    instance::Instance,
    print::escaped,
    show, units,
};
use crate::admin::{
    Wanted, kept_listed,
    wire::{Acted, Discard, Pick, QuarantineReply, Quarantined, Query, Recheck, Rechecked},
};

pub(super) fn quarantine(args: &QuarantineArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    match &args.verb {
        None => list(&args.list, host, terminal),
        Some(QuarantineVerb::List(args)) => list(args, host, terminal),
        Some(QuarantineVerb::Show(args)) => show::quarantined(args, host, terminal),
        Some(QuarantineVerb::Recheck(args)) => recheck(args, host, terminal),
        Some(QuarantineVerb::Delete(args)) => delete(args, host, terminal),
    }
}

fn list(args: &QuarantineListArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let query = Query { filters: args.filters.resolve(terminal.now)?, limit: args.count, follow: false };
    let instance = Instance::find(&args.place, host)?;
    let mut printer = Printer::new(terminal, args.json);
    match Client::new(&instance.socket)?.lines("/v1/quarantine/list", &query, &mut |reply| printer.reply(reply)) {
        Err(why) if why.exit == Exit::NotRunning => {
            let reads = instance.offline(host, why)?;
            let wanted = Wanted::new(query.filters, &*reads).map_err(|error| Failure::usage(error.to_string()))?;
            let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
            let mut failed = None;
            kept_listed(&*reads, &wanted, limit, &mut |reply| match printer.reply(reply) {
                Ok(()) => ControlFlow::Continue(()),
                Err(failure) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
            });
            failed.map_or(Ok(()), Err)?;
        }
        answered => answered?,
    }
    Ok(printer.exit)
}

fn recheck(args: &RecheckArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let select = &args.select;
    let pick = pick(select, terminal)?;
    let admit = args.admit && !select.dry_run;
    if admit && pick.is_empty() {
        return Err(needs("recheck --admit"));
    }
    let instance = Instance::find(&select.place, host)?;
    let client = Client::new(&instance.socket)?;
    let mut asked = Recheck { pick, admit: false };
    if admit && !select.yes {
        let mut count = 0;
        client.lines("/v1/quarantine/recheck", &asked, &mut |reply| {
            count += u64::from(matches!(reply, QuarantineReply::Judged(judged) if judged.result == "verified"));
            Ok(())
        })?;
        if count > REPLAY_UNASKED_MAX && !confirmed(&format!("admit {count} requests"), terminal)? {
            return Ok(Exit::Partly);
        }
    }
    asked.admit = admit;
    let mut printer = Printer::new(terminal, select.json);
    client.lines("/v1/quarantine/recheck", &asked, &mut |reply| printer.reply(reply))?;
    printer.sum(admit)?;
    Ok(printer.exit_of(asked.pick.ids.len()))
}

fn delete(args: &SelectArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let pick = pick(args, terminal)?;
    if pick.is_empty() {
        return Err(needs("delete"));
    }
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let mut asked = Discard { pick, dry_run: true };
    let mut acted: Acted = client.post("/v1/quarantine/delete", &asked)?;
    if !args.dry_run {
        if acted.count > 0 && !args.yes && !confirmed(&format!("delete {} requests", acted.count), terminal)? {
            return Ok(Exit::Partly);
        }
        asked.dry_run = false;
        acted = client.post("/v1/quarantine/delete", &asked)?;
    }
    if args.json {
        writeln!(terminal.out, "{}", json(&acted)?)?;
    } else {
        let would = if acted.dry_run { "would be " } else { "" };
        writeln!(terminal.out, "{} {would}deleted", requests(acted.count))?;
        for id in &acted.missing {
            writeln!(terminal.err, "no request {} is in quarantine", escaped(id))?;
        }
        for text in &acted.skipped {
            writeln!(terminal.err, "left alone: {}", escaped(text))?;
        }
    }
    let missing = usize::try_from(acted.missing_count).unwrap_or(usize::MAX);
    Ok(match missing {
        0 if acted.skipped.is_empty() => Exit::Done,
        some if some >= asked.pick.ids.len() && some > 0 => Exit::NoSuchId,
        _ => Exit::Partly,
    })
}

fn pick(args: &SelectArgs, terminal: &mut Terminal<'_>) -> Result<Pick, Failure> {
    Ok(Pick { ids: ids(&args.ids, terminal)?, filters: args.filters.resolve(terminal.now)?, all: args.all })
}

fn needs(command: &str) -> Failure {
    Failure::usage(format!("{command} needs an id or a filter; --all says everything on purpose"))
}

fn confirmed(what: &str, terminal: &mut Terminal<'_>) -> Result<bool, Failure> {
    if !terminal.in_is_terminal {
        return Err(Failure::usage(format!("this would {what}: say --yes, since nobody can be asked")));
    }
    write!(terminal.err, "{what}? [y/N] ")?;
    terminal.err.flush()?;
    let mut answer = String::new();
    terminal.input.read_line(&mut answer)?;
    let is_yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !is_yes {
        writeln!(terminal.err, "nothing was changed")?;
    }
    Ok(is_yes)
}

fn requests(count: u64) -> String {
    format!("{count} {}", if count == 1 { "request" } else { "requests" })
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Exit::Io, error.to_string()))
}

/// Prints replies as they come, and counts them.
struct Printer<'a, 't> {
    terminal: &'a mut Terminal<'t>,
    json: bool,
    headed: bool,
    exit: Exit,
    passed: u64,
    refused: u64,
    missing: usize,
}

impl<'a, 't> Printer<'a, 't> {
    fn new(terminal: &'a mut Terminal<'t>, json: bool) -> Self {
        Self { terminal, json, headed: false, exit: Exit::Done, passed: 0, refused: 0, missing: 0 }
    }

    fn reply(&mut self, reply: QuarantineReply) -> Result<(), Failure> {
        match reply {
            QuarantineReply::Kept(kept) if self.json => writeln!(self.terminal.out, "{}", json(&kept)?)?,
            QuarantineReply::Kept(kept) => {
                if self.terminal.out_is_terminal && !self.headed {
                    writeln!(self.terminal.out, "{}", heading())?;
                    self.headed = true;
                }
                writeln!(self.terminal.out, "{}", row(&kept))?;
            }
            QuarantineReply::Judged(judged) => {
                self.passed += u64::from(matches!(judged.result.as_str(), "verified" | "admitted" | "duplicate"));
                self.refused += u64::from(judged.result == "refused");
                let line = if self.json { json(&judged)? } else { sentence(&judged) };
                writeln!(self.terminal.out, "{line}")?;
            }
            QuarantineReply::Missing(id) => {
                self.missing += 1;
                writeln!(self.terminal.err, "no request {} is in quarantine", escaped(&id))?;
            }
            QuarantineReply::Note(note) => {
                self.exit = Exit::Partly;
                writeln!(self.terminal.err, "stagepost: {}", escaped(&note))?;
            }
            QuarantineReply::Failed(why) => return Err(Failure::new(Exit::Io, why)),
        }
        Ok(())
    }

    fn sum(&mut self, admit: bool) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        let passed = if admit { "in the log now" } else { "would be taken now" };
        let (took, refused) = (requests(self.passed), self.refused);
        Ok(writeln!(self.terminal.out, "{took} {passed}, {refused} still refused")?)
    }

    fn exit_of(&self, named: usize) -> Exit {
        match self.missing {
            0 if self.refused == 0 => self.exit,
            some if some > 0 && some >= named => Exit::NoSuchId,
            _ => Exit::Partly,
        }
    }
}

fn heading() -> String {
    format!(
        "{:<24}  {:<26}  {:<6}  {:<20}  {:<16}  {:>9}  CLIENT, REQUEST",
        "RECEIVED", "ID", "STATUS", "REASON", "SOURCE", "SIZE"
    )
}

fn row(kept: &Quarantined) -> String {
    format!(
        "{}  {:<26}  {:<6}  {:<20}  {:<16}  {:>9}  {}, {}",
        kept.received_at,
        escaped(&kept.id),
        kept.status,
        escaped(&kept.reason),
        escaped(kept.source.as_deref().unwrap_or("-")),
        units::size(kept.size),
        escaped(&kept.client),
        escaped(&format!("{} {}", kept.method, kept.path)),
    )
}

fn sentence(judged: &Rechecked) -> String {
    let then = format!(
        "{}  {:<16}  {:<20}",
        escaped(&judged.id),
        escaped(judged.source.as_deref().unwrap_or("-")),
        escaped(&judged.reason)
    );
    let event = escaped(judged.event.as_deref().unwrap_or_default());
    let now = match judged.result.as_str() {
        "verified" => "would be taken now".to_owned(),
        "admitted" => format!("admitted as {event}"),
        "duplicate" => format!("is a duplicate of {event}"),
        "no_event" => "is answered on the spot and is no event".to_owned(),
        _ => format!("still refused: {}", escaped(judged.why.as_deref().unwrap_or("-"))),
    };
    format!("{then}  {now}")
}
