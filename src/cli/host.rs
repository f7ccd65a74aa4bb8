//! Owns the seam's real side: the command line on top of the engine and the configuration.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Exit, Failure,
    args::RunArgs,
    ask::{Capture, Explained, SampleAsk, Sampled},
    instance::{Checked, Damage, Host, Importer, Located, VerifyReport},
    sources,
};
use crate::{
    admin::{Reads, wire::Imported},
    app::{App, Ended, OfflineImport, OfflineReads, Origin, RunOptions, StartError},
    clock::Clock,
    config::{self, Access, DiagnosticsSettings, Problems},
    log::{
        disk::LockError,
        sled::{
            OpenError,
            offline::{repair, verify},
        },
    },
    telemetry::diagnostics,
};

/// The program's own host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Engine;

/// What operators have asked for and still blocks when the process has stopped is waited for no longer.
const LINGER: Duration = Duration::from_secs(5);

impl Host for Engine {
    fn run(&self, args: &RunArgs) -> Result<(), Failure> {
        let origin = match (&args.listen, &args.to) {
            (Some(listen), Some(to)) => {
                let data = args.data.clone().unwrap_or_else(|| "stagepost-data".into());
                Origin::CommandLine { listen: listen.clone(), to: to.clone(), data }
            }
            _ => Origin::File(find(args.config.as_deref())?.ok_or_else(no_config)?),
        };
        let loaded = origin.load().map_err(|problems| match &origin {
            Origin::File(path) => refused(path, &problems),
            Origin::CommandLine { .. } => Failure::usage(lines(&problems)),
        })?;
        start_diagnostics(&loaded.config.diagnostics)?;
        for warning in &loaded.warnings {
            tracing::warn!(%warning, "configuration");
        }
        end_on_panic();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("main").enable_all().build()?;
        let ended = to_the_end(runtime, LINGER, async {
            let listen: Vec<String> = loaded.config.listen.iter().map(|listen| listen.address.clone()).collect();
            let app = App::start(loaded, origin, RunOptions { watch: args.watch }).map_err(not_started)?;
            let bound: Vec<String> = app.addresses().iter().map(ToString::to_string).collect();
            tracing::info!(listen = listen.join(", "), bound = bound.join(", "), "serving");
            app.serve().await.map_err(Failure::from)
        })?;
        match ended {
            Ended::Cleanly => Ok(()),
            Ended::Poisoned => Err(Failure::new(
                Exit::Io,
                "the log could not be written: nothing was acknowledged since; check the disk, then start again",
            )),
        }
    }

    fn check(&self, config: Option<&Path>) -> Result<Checked, Failure> {
        let path = find(config)?.ok_or_else(no_config)?;
        let loaded = config::load(&path).map_err(|problems| refused(&path, &problems))?;
        let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        Ok(Checked { path, warnings, effective: config::effective(&loaded.config).to_owned() })
    }

    fn locate(&self, config: Option<&Path>) -> Result<Option<Located>, Failure> {
        let Some(path) = find(config)? else { return Ok(None) };
        let found = config::locate(&path).map_err(|problems| refused(&path, &problems))?;
        Ok(Some(Located { socket: found.socket, data: found.data }))
    }

    fn offline(&self, data: &Path, config: Option<&Path>) -> Result<Box<dyn Reads>, Failure> {
        let outline = config_of(data, config).map(|path| config::outline(&path));
        let opened = OfflineReads::open(data, outline);
        opened.map(|reads| Box::new(reads) as Box<dyn Reads>).map_err(|error| not_opened(&error))
    }

    fn importer(&self, data: &Path, config: Option<&Path>) -> Result<Box<dyn Importer>, Failure> {
        match OfflineImport::open(data, &config::store_of(config_of(data, config).as_deref())) {
            Ok(log) => Ok(Box::new(Offline(log))),
            Err(error) => Err(not_opened(&error)),
        }
    }

    fn verify(&self, data: &Path, wants_repair: bool) -> Result<VerifyReport, Failure> {
        let clock = Clock::system();
        let repaired = if wants_repair { repair(data).map_err(|error| not_opened(&error.into()))? } else { Vec::new() };
        let report = verify(data, clock).map_err(|error| not_opened(&error.into()))?;
        let damage = report.damaged.into_iter().map(|stretch| Damage {
            file: stretch.file,
            what: format!("sequences {} to {} can't be read", stretch.seqs.0, stretch.seqs.1),
            ids: stretch.events.iter().map(ToString::to_string).collect(),
        });
        Ok(VerifyReport {
            segments: report.segments,
            entries: report.entries,
            events: report.events,
            bytes: report.bytes,
            damage: damage.collect(),
            repaired,
        })
    }

    fn explain_request(&self, config: Option<&Path>, source: &str, request: &Capture) -> Result<Explained, Failure> {
        sources::explain(&find(config)?.ok_or_else(no_config)?, source, request)
    }

    fn sample(&self, config: Option<&Path>, ask: &SampleAsk) -> Result<Sampled, Failure> {
        sources::sample(&find(config)?.ok_or_else(no_config)?, ask)
    }
}

struct Offline(OfflineImport);

impl Importer for Offline {
    fn import(&self, deliver: bool, lines: &[u8]) -> Result<Imported, Failure> {
        self.0.import(deliver, lines).map_err(|error| Failure::new(Exit::Io, error.to_string()))
    }
}

/// The configuration file that is meant; None if none was named and none is found.
fn find(explicit: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    match config::find(explicit, &|name| std::env::var(name).ok()) {
        Ok(path) => Ok(Some(path)),
        Err(error) if explicit.is_some() || std::env::var_os("STAGEPOST_CONFIG").is_some() => {
            Err(Failure::new(Exit::Config, error.to_string()))
        }
        Err(_) => Ok(None),
    }
}

/// The configuration file of a data directory: the one that was named, or the one that is found by itself if its data
/// are these.
fn config_of(data: &Path, named: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = named {
        return Some(path.to_owned());
    }
    let path = find(None).ok().flatten()?;
    let theirs = config::locate(&path).ok()?.data?;
    (std::fs::canonicalize(theirs).ok()? == std::fs::canonicalize(data).ok()?).then_some(path)
}

fn no_config() -> Failure {
    Failure::new(
        Exit::Config,
        "no configuration: give --config FILE, or --listen ADDR --to URL to serve without one\n\
         looked for $STAGEPOST_CONFIG, ./stagepost.toml and /etc/stagepost/stagepost.toml",
    )
}

/// A file that is not allowed to be read is another matter than one that is wrong.
pub(super) fn refused(path: &Path, problems: &Problems) -> Failure {
    let denied = std::fs::File::open(path).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    Failure::new(if denied { Exit::Permission } else { Exit::Config }, lines(problems))
}

fn lines(problems: &Problems) -> String {
    problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn not_started(error: StartError) -> Failure {
    not_opened(&error.into())
}

/// The exit code of an error is that of its deepest known cause.
fn not_opened(error: &anyhow::Error) -> Failure {
    let open = |error: &OpenError| match error {
        OpenError::Lock(LockError::Busy { .. }) => Exit::Busy,
        OpenError::Segment(crate::log::sled::SegmentError::Damaged { .. }) => Exit::Damage,
        _ => Exit::Io,
    };
    let denied = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    });
    let exit = match (error.downcast_ref::<OpenError>(), error.downcast_ref::<StartError>()) {
        _ if denied => Exit::Permission,
        (Some(error), _) | (_, Some(StartError::Log(error))) => open(error),
        _ => Exit::Io,
    };
    Failure::new(exit, told(error))
}

/// An error with its causes; a cause that stands in its effect's own words is not repeated.
fn told(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        match said.as_str() {
            "" => said = cause,
            before if before.ends_with(&cause) => {}
            before => said = format!("{before}: {cause}"),
        }
    }
    said
}

/// Runs a future to its end; what still blocks a thread of the runtime then has `linger`.
fn to_the_end<T>(runtime: tokio::runtime::Runtime, linger: Duration, work: impl Future<Output = T>) -> T {
    let ended = runtime.block_on(work);
    runtime.shutdown_timeout(linger);
    ended
}

fn start_diagnostics(settings: &DiagnosticsSettings) -> Result<(), Failure> {
    let access = match settings.access {
        Access::Off => "off",
        Access::Refused => "info",
        Access::All => "debug",
    };
    let format = match settings.format {
        config::Format::Text => diagnostics::Format::Text,
        config::Format::Json => diagnostics::Format::Json,
    };
    diagnostics::init(&format!("{},access={access}", settings.level), format)
        .map_err(|error| Failure::new(Exit::Config, error.to_string()))
}

/// A panic in any stage ends the process, so that it recovers instead of limping; except where panics of sled over
/// damaged files, and of the jq interpreter over a stranger's body, are caught.
fn end_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if crate::log::sled::panic_is_expected() || crate::expr::panic_is_expected() {
            return;
        }
        before(info);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blocks_a_thread_does_not_keep_the_process_from_ending() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (release, blocked) = std::sync::mpsc::sync_channel::<()>(1);
        let ended = to_the_end(runtime, Duration::from_millis(10), async move {
            drop(tokio::task::spawn_blocking(move || blocked.recv()));
            7
        });
        assert_eq!(ended, 7);
        drop(release);
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_twice() {
        let cause = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let open = OpenError::Lock(LockError::Io { path: "/d/LOCK".into(), source: cause() });
        assert_eq!(told(&open.into()), "/d/LOCK: permission denied");
        let other = anyhow::Error::new(cause()).context("opening the state");
        assert_eq!(told(&other), "opening the state: permission denied");
    }
}
