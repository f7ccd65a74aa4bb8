//! Owns `stagepost log`: the listing, of a running instance or of the directory of a stopped one.

use std::ops::ControlFlow;

use super::{
    Exit, Failure, Host, Terminal,
    args::LogArgs,
    client::Client,
    instance::{Instance, wrong_filter},
    print::{escaped, state},
    units,
};
use crate::admin::{
    Compiled, Reads, Seq, listed,
    wire::{Delivery, Line, Query, Reply},
};

pub(super) fn log(args: &LogArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let filters = args.filters.resolve(terminal.now)?;
    let instance = Instance::find(&args.place, host)?;
    let query = Query { filters, limit: args.count, follow: args.follow };
    let mut printer = Printer { terminal, json: args.json, exit: Exit::Done, headed: false };
    let client = Client::new(&instance.socket)?;
    match client.lines("/v1/log", &query, &mut |reply| printer.reply(reply)) {
        Err(why) if why.exit == Exit::NotRunning && !args.follow => {
            let reads = instance.offline(host, why)?;
            offline(&*reads, query, &mut printer)?;
        }
        answered => answered?,
    }
    Ok(printer.exit)
}

fn offline(reads: &dyn Reads, query: Query, printer: &mut Printer<'_, '_>) -> Result<(), Failure> {
    let wanted = Compiled::new(query.filters, reads).map_err(|error| wrong_filter(&error))?;
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut failed = None;
    let read = listed(reads, &wanted, Seq::MAX, limit, &mut |reply| match printer.reply(reply) {
        Ok(()) => ControlFlow::Continue(()),
        Err(failure) => {
            failed = Some(failure);
            ControlFlow::Break(())
        }
    });
    read.map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
    failed.map_or(Ok(()), Err)
}

struct Printer<'a, 't> {
    terminal: &'a mut Terminal<'t>,
    json: bool,
    exit: Exit,
    headed: bool,
}

impl Printer<'_, '_> {
    fn reply(&mut self, reply: Reply) -> Result<(), Failure> {
        match reply {
            Reply::Event(line) if self.json => {
                let json = serde_json::to_string(&line).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
                writeln!(self.terminal.out, "{json}")?;
            }
            Reply::Event(line) => {
                if self.terminal.out_is_terminal && !self.headed {
                    writeln!(self.terminal.out, "{}", heading())?;
                    self.headed = true;
                }
                writeln!(self.terminal.out, "{}", row(&line, self.terminal.out_is_terminal))?;
            }
            Reply::Note(note) => {
                self.exit = self.exit.noted(&note);
                writeln!(self.terminal.err, "stagepost: {}", escaped(&note))?;
            }
            Reply::Failed(why) => return Err(Failure::new(Exit::Io, why)),
        }
        // A follower's reader wants each line when it is there.
        Ok(self.terminal.out.flush()?)
    }
}

fn heading() -> String {
    format!(
        "{:<24}  {:<26}  {:<9}  {:<16}  {:<24}  {:>9}  DELIVERIES",
        "RECEIVED", "ID", "STATE", "SOURCE", "TYPE", "SIZE"
    )
}

fn row(line: &Line, colours: bool) -> String {
    let deliveries: Vec<String> = line.deliveries.iter().map(|found| delivery(found, colours)).collect();
    let text = format!(
        "{}  {:<26}  {}  {:<16}  {:<24}  {:>9}  {}",
        line.received_at,
        escaped(&line.id),
        state(&line.state, 9, colours),
        escaped(&line.source),
        escaped(line.event_type.as_deref().unwrap_or("-")),
        units::size(line.size),
        deliveries.join(", "),
    );
    text.trim_end().to_owned()
}

fn delivery(found: &Delivery, colours: bool) -> String {
    let word = state(&found.state, 0, colours);
    let upstream = escaped(&found.upstream);
    match &found.reason {
        Some(reason) => format!("{upstream} {word} ({}x, {})", found.attempts, escaped(reason)),
        None if found.attempts > 1 => format!("{upstream} {word} ({}x)", found.attempts),
        None => format!("{upstream} {word}"),
    }
}
