//! Owns `stagepost export`: events as lines of JSON, from a running instance or from the directory of a stopped one.

use std::{io::Write, ops::ControlFlow};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Exit, Failure, Host, Terminal,
    args::ExportArgs,
    client::Client,
    instance::{Instance, wrong_filter},
    print::escaped,
};
use crate::admin::{
    Compiled, Reads, export as exported,
    wire::{Export, ExportReply},
};

/// One line of the answer. The events are handed on as they are.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Event(Box<RawValue>),
    Note(String),
    Failed(String),
}

pub(super) fn export(args: &ExportArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let filters = args.filters.resolve(terminal.now)?;
    let instance = Instance::find(&args.place, host)?;
    let asked = Export { filters, hide_credentials: args.hide_credentials };
    let mut exit = Exit::Done;
    let answered = Client::new(&instance.socket)?.lines("/v1/export", &asked, &mut |line| match line {
        Line::Event(event) => Ok(writeln!(terminal.out, "{}", event.get())?),
        Line::Note(note) => {
            exit = exit.noted(&note);
            told(terminal.err, &note)
        }
        Line::Failed(why) => Err(Failure::new(Exit::Io, why)),
    });
    match answered {
        Err(why) if why.exit == Exit::NotRunning => {
            let reads = instance.offline(host, why)?;
            offline(&*reads, asked, terminal)
        }
        answered => answered.map(|()| exit),
    }
}

fn offline(reads: &dyn Reads, asked: Export, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let wanted = Compiled::new(asked.filters, reads).map_err(|error| wrong_filter(&error))?;
    let (mut exit, mut failed) = (Exit::Done, None);
    let read = exported(reads, &wanted, asked.hide_credentials, &mut |reply| {
        let written = match reply {
            ExportReply::Event(event) => match serde_json::to_string(&event) {
                Ok(json) => writeln!(terminal.out, "{json}").map_err(Failure::from),
                Err(error) => Err(Failure::new(Exit::Io, error.to_string())),
            },
            ExportReply::Note(note) => {
                exit = exit.noted(&note);
                told(terminal.err, &note)
            }
            ExportReply::Failed(why) => Err(Failure::new(Exit::Io, why)),
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                failed = Some(failure);
                ControlFlow::Break(())
            }
        }
    });
    read.map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
    failed.map_or(Ok(exit), Err)
}

fn told(err: &mut dyn Write, note: &str) -> Result<(), Failure> {
    Ok(writeln!(err, "stagepost: {}", escaped(note))?)
}
