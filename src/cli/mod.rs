//! Owns the command line: parsing, finding the instance, asking it, printing, and the exit status.
//!
//! Promises the exit codes of the contract, tables for people and one JSON object a line with `--json`, and that
//! nothing that came from outside reaches a terminal unescaped. What needs the engine stands behind [`Host`].
//! Deliberately absent: any decision about deliveries; the instance makes them.

mod alerts;
mod args;
pub mod ask;
mod audit;
mod backup;
mod client;
mod command;
mod diagnose;
mod drill;
mod exit;
mod export;
mod host;
mod import;
mod init;
mod instance;
mod jobs;
mod keys;
mod log;
mod manual;
mod plan;
mod print;
mod quarantine;
mod queue;
mod recipes;
mod send;
mod show;
mod simple;
mod sources;
mod status;
mod subscriber;
mod top;
mod units;

use std::{
    ffi::OsString,
    io::{self, BufRead, IsTerminal as _, Write},
    process::ExitCode,
};

pub use args::RunArgs;
use args::{Cli, Verb};
use clap::Parser as _;
pub use exit::{Exit, Failure};
pub use host::Engine;
pub use instance::{Checked, Damage, Host, Importer, Located, SocketOnly, VerifyReport};

use crate::admin::{Clock, Timestamp};

/// What a command speaks through, and what it knows about the other end.
pub struct Terminal<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// A person reads standard output.
    pub out_is_terminal: bool,
    /// A person can answer questions.
    pub in_is_terminal: bool,
    /// Wall time, for ages and for times such as `10m`.
    pub now: Timestamp,
}

/// Runs the command line of the process, the program's name first.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>, host: &dyn Host) -> ExitCode {
    // Not locked: while the server runs, diagnostics of its threads go to the same streams.
    let (out_is_terminal, in_is_terminal) = (io::stdout().is_terminal(), io::stdin().is_terminal());
    let terminal = Terminal {
        out: &mut io::BufWriter::new(io::stdout()),
        err: &mut io::stderr(),
        input: &mut io::BufReader::new(io::stdin()),
        out_is_terminal,
        in_is_terminal,
        now: Clock::system().now(),
    };
    run(args, host, terminal).into()
}

/// Runs a command line; the testable form of [`main`].
pub fn run(args: impl IntoIterator<Item = OsString>, host: &dyn Host, mut terminal: Terminal<'_>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for; everything else is a wrong command line.
            let wrong = error.use_stderr();
            let stream: &mut dyn Write = if wrong { terminal.err } else { terminal.out };
            let _told = write!(stream, "{error}").and_then(|()| stream.flush());
            return if wrong { Exit::Usage } else { Exit::Done };
        }
    };
    let done = dispatch(&cli.verb, host, &mut terminal);
    let flushed = terminal.out.flush().map_err(Failure::from);
    match done.and_then(|exit| flushed.map(|()| exit)) {
        Ok(exit) => exit,
        Err(failure) => {
            for line in failure.message.lines() {
                let _told = writeln!(terminal.err, "stagepost: {}", print::escaped(line));
            }
            let _told = terminal.err.flush();
            failure.exit
        }
    }
}

/// Whether a command line means something, the program's name first: it is parsed and nothing is run. For whoever
/// writes command lines down and wants to know that they are still right.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parses(args: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    match Cli::try_parse_from(args) {
        Err(error) if error.use_stderr() => Err(error.to_string()),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn dispatch(verb: &Verb, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    match verb {
        Verb::Run(args) => host.run(args).map(|()| Exit::Done),
        Verb::Check(args) => simple::check(args, host, terminal),
        Verb::Reload(args) => simple::reload(args, host, terminal),
        Verb::Alerts(args) => alerts::alerts(args, host, terminal),
        Verb::Status(args) => status::status(args, host, terminal),
        Verb::Log(args) => log::log(args, host, terminal),
        Verb::Show(args) => show::show(args, host, terminal),
        Verb::Explain(args) => simple::explain(args, host, terminal),
        Verb::Replay(args) => command::replay(args, host, terminal),
        Verb::Hold(args) => command::hold(args, host, terminal),
        Verb::Release(args) => command::release(args, host, terminal),
        Verb::Resolve(args) => command::resolve(args, host, terminal),
        Verb::Expire(args) => command::expire(args, host, terminal),
        Verb::Requeue(args) => command::requeue(args, host, terminal),
        Verb::Jobs(args) => jobs::jobs(args, host, terminal),
        Verb::Job(args) => jobs::job(args, host, terminal),
        Verb::Cancel(args) => jobs::cancel(args, host, terminal),
        Verb::Delete(args) => command::delete(args, host, terminal),
        Verb::Rehearse(args) => simple::rehearse(args, host, terminal),
        Verb::Drain(args) => simple::drain(args, host, terminal),
        Verb::Undrain(args) => simple::undrain(args, host, terminal),
        Verb::Keys(args) => keys::keys(args, host, terminal),
        Verb::Subscriber(args) => subscriber::subscriber(&args.verb, host, terminal),
        Verb::Top(args) => top::top(args, host, terminal),
        Verb::Queue(args) => queue::queue(args, host, terminal),
        Verb::Refused(args) => simple::refused(args, host, terminal),
        Verb::Quarantine(args) => quarantine::quarantine(args, host, terminal),
        Verb::Audit(args) => audit::audit(args, host, terminal),
        Verb::Verify(args) => simple::verify(args, host, terminal),
        Verb::VerifySignature(args) => diagnose::verify_signature(args, host, terminal),
        Verb::Send(args) => send::send(args, host, terminal),
        Verb::Plan(args) => plan::plan(args, host, terminal),
        Verb::Init(args) => init::init(args, host, terminal),
        Verb::Bench(args) => drill::bench(args, terminal),
        Verb::Torture(args) => drill::torture(args, terminal),
        Verb::Export(args) => export::export(args, host, terminal),
        Verb::Import(args) => import::import(args, host, terminal),
        Verb::Backup(args) => backup::backup(args, host, terminal),
        Verb::Completions(args) => manual::completions(args, terminal),
        Verb::Man(args) => manual::man(args, terminal),
    }
}

#[cfg(test)]
mod tests;
