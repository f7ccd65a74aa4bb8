//! Owns `stagepost bench` and `stagepost torture`: which directory, and how their findings are told.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::{
    Exit, Failure, Terminal,
    args::{BenchArgs, TortureArgs},
    print::escaped,
};
use crate::drill::{
    DrillError, Scratch,
    bench::{Spread, bench as measure},
    torture::{Plan, torture as kill},
};

impl From<DrillError> for Failure {
    fn from(error: DrillError) -> Self {
        let exit = match &error {
            DrillError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Io,
        };
        Self::new(exit, error.to_string())
    }
}

/// A fresh directory below the one that was named, which must not be a log's own.
fn scratch(below: &Path, drill: &str) -> Result<Scratch, Failure> {
    if below.join("IDENTITY").exists() {
        let below = below.display();
        return Err(Failure::usage(format!(
            "{below} holds a log; --dir takes a directory beside it, on the same disk: {below}/.."
        )));
    }
    Ok(Scratch::new(below, drill)?)
}

fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::new(Exit::Io, format!("finding this program: {error}")))
}

pub(super) fn bench(args: &BenchArgs, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    if args.for_ms == 0 {
        return Err(Failure::usage("--for 0s measures nothing: take a second or more"));
    }
    let scratch = scratch(&args.dir, "bench")?;
    let figures = measure(&program()?, &scratch, Duration::from_millis(args.for_ms), usize::from(args.senders))?;
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    if args.json {
        let spread = |spread: Spread| {
            json!({
                "count": spread.count,
                "p50_us": micros(spread.p50),
                "p99_us": micros(spread.p99),
                "longest_us": micros(spread.longest),
            })
        };
        let line = json!({
            "sync": spread(figures.sync),
            "alone": spread(figures.alone),
            "together": spread(figures.together),
            "senders": args.senders,
            "acks_per_second": figures.acks_per_second.round(),
            "recovery_ms": u64::try_from(figures.recovery.as_millis()).unwrap_or(u64::MAX),
        });
        writeln!(terminal.out, "{line}")?;
        return Ok(Exit::Done);
    }
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    writeln!(terminal.out, "{:<44} {:>10} {:>10} {:>10}", "", "p50", "p99", "longest")?;
    for (name, spread) in [
        ("disk: 4 KiB overwritten and synced".to_owned(), figures.sync),
        ("acknowledgement, one sender".to_owned(), figures.alone),
        (format!("acknowledgement, {} senders at once", args.senders), figures.together),
    ] {
        let (p50, p99, longest) = (ms(spread.p50), ms(spread.p99), ms(spread.longest));
        writeln!(terminal.out, "{name:<44} {p50:>10} {p99:>10} {longest:>10}")?;
    }
    writeln!(terminal.out, "acknowledged a second, {} senders: {:.0}", args.senders, figures.acks_per_second)?;
    writeln!(terminal.out, "from a start after kill -9 to the first acknowledgement: {}", ms(figures.recovery))?;
    writeln!(terminal.out, "Senders and relay shared this machine; bodies of 1 KiB, stored and not forwarded.")?;
    Ok(Exit::Done)
}

pub(super) fn torture(args: &TortureArgs, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let mut scratch = scratch(&args.dir, "torture")?;
    let seed = args.seed.unwrap_or_else(|| terminal.now.as_millis());
    let (told, err) = (std::io::stderr().is_terminal(), &mut *terminal.err);
    let progress = |killed: u64, acknowledged: u64| {
        if told {
            // Progress is a courtesy: whoever closed the stream does not want it.
            let _told = write!(err, "\rkilled {killed} of {}, {acknowledged} acknowledged", args.kills);
        }
    };
    let verdict = kill(&program()?, &scratch, Plan::new(args.kills, seed), progress);
    if told {
        writeln!(terminal.err)?;
    }
    let verdict = verdict.inspect_err(|_| scratch.keep())?;
    let good = verdict.faults.is_empty();
    if !good {
        scratch.keep();
    }
    if args.json {
        let line = json!({
            "kills": verdict.kills,
            "acknowledged": verdict.acknowledged,
            "stored": verdict.stored,
            "repeated": verdict.repeated,
            "faults": verdict.faults,
            "seed": seed,
        });
        writeln!(terminal.out, "{line}")?;
    } else {
        writeln!(
            terminal.out,
            "killed {} times: {} requests acknowledged, {} stored, {} delivered more than once",
            verdict.kills, verdict.acknowledged, verdict.stored, verdict.repeated
        )?;
        for fault in &verdict.faults {
            writeln!(terminal.out, "  {}", escaped(fault))?;
        }
        let last = if good { "passed: nothing acknowledged was lost or altered" } else { "FAILED" };
        writeln!(terminal.out, "{last}")?;
    }
    if !good {
        writeln!(terminal.err, "kept for a look: {} (seed {seed})", scratch.path().display())?;
    }
    Ok(if good { Exit::Done } else { Exit::Damage })
}
