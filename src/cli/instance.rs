//! Owns the seam to the engine and to the configuration, and the way from the command line to an instance.
//!
//! Promises the look-up of the contract: `--socket`, `--data`, `--config` and the places where a configuration is
//! looked for, else `./stagepost-data`.

use std::path::{Path, PathBuf};

use super::{
    Exit, Failure,
    args::{RunArgs, Where},
    ask::{Capture, Explained, SampleAsk, Sampled},
};
use crate::admin::{FilterError, Reads, wire::Imported};

/// The socket's name inside a data directory, if the configuration does not say otherwise.
const SOCKET_NAME: &str = "admin.sock";

/// The data directory of `run` without a configuration.
const DEFAULT_DATA: &str = "stagepost-data";

/// What the command line needs from the rest of the program.
pub trait Host {
    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// Why it could not begin, or why it ended.
    fn run(&self, args: &RunArgs) -> Result<(), Failure>;

    /// Loads and checks the configuration.
    ///
    /// # Errors
    /// All problems, one a line, with [`Exit::Config`].
    fn check(&self, config: Option<&Path>) -> Result<Checked, Failure>;

    /// Where the instance of a configuration has its socket and its data; None if no file was named and none was
    /// found in the places where one is looked for.
    ///
    /// # Errors
    /// The configuration does not tell where the socket is. Nothing else that may be wrong with it matters here.
    fn locate(&self, config: Option<&Path>) -> Result<Option<Located>, Failure>;

    /// Opens the directory of a stopped instance for reading. Its configuration, if none is named the one that is found,
    /// says what is hidden and which routes there are.
    ///
    /// # Errors
    /// [`Exit::Busy`] if a process has it, [`Exit::Io`] if it can't be read.
    fn offline(&self, data: &Path, config: Option<&Path>) -> Result<Box<dyn Reads>, Failure>;

    /// Checks the stored log, and repairs what can be repaired if `repair` is set.
    ///
    /// # Errors
    /// As for [`Host::offline`]; damage is not an error but in the report.
    fn verify(&self, data: &Path, repair: bool) -> Result<VerifyReport, Failure>;

    /// Opens the directory of a stopped instance to import into.
    ///
    /// # Errors
    /// As for [`Host::offline`].
    fn importer(&self, _data: &Path, _config: Option<&Path>) -> Result<Box<dyn Importer>, Failure> {
        Err(without_engine())
    }

    /// Says why a captured request would be refused by a source of the configuration.
    ///
    /// # Errors
    /// The configuration can't be read or is wrong, or has no such source.
    fn explain_request(&self, _config: Option<&Path>, _source: &str, _request: &Capture) -> Result<Explained, Failure> {
        Err(without_engine())
    }

    /// Makes a sample of the events of a source of the configuration.
    ///
    /// # Errors
    /// As for [`Host::explain_request`]; or its scheme can't be signed for.
    fn sample(&self, _config: Option<&Path>, _ask: &SampleAsk) -> Result<Sampled, Failure> {
        Err(without_engine())
    }
}

/// What takes the lines of an export.
pub trait Importer {
    /// Imports lines.
    ///
    /// # Errors
    /// Why it can't go on; what was imported before stays.
    fn import(&self, deliver: bool, lines: &[u8]) -> Result<Imported, Failure>;
}

/// A configuration that may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// What an operator should look at all the same.
    pub warnings: Vec<String>,
    /// The effective configuration with each retry timetable, as TOML; secrets as references.
    pub effective: String,
}

/// Where an instance has its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The operators' socket.
    pub socket: PathBuf,
    /// The data directory; None if the configuration does not tell.
    pub data: Option<PathBuf>,
}

/// What a check of the stored log found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// Segments read.
    pub segments: u64,
    /// Entries read.
    pub entries: u64,
    /// Events among them.
    pub events: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// What was repaired, one sentence each.
    pub repaired: Vec<String>,
}

/// One damaged place.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The file or directory.
    pub file: String,
    /// What is wrong, in words.
    pub what: String,
    /// The ids of events that are lost or in doubt, as far as they are known.
    pub ids: Vec<String>,
}

/// A host without engine or configuration: it can talk to instances and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOnly;

impl Host for SocketOnly {
    fn run(&self, _: &RunArgs) -> Result<(), Failure> {
        Err(without_engine())
    }
    fn check(&self, _: Option<&Path>) -> Result<Checked, Failure> {
        Err(without_engine())
    }
    fn locate(&self, config: Option<&Path>) -> Result<Option<Located>, Failure> {
        config.map_or(Ok(None), |_| Err(without_engine()))
    }
    fn offline(&self, _: &Path, _: Option<&Path>) -> Result<Box<dyn Reads>, Failure> {
        Err(Failure::new(Exit::NotRunning, "no instance is running there"))
    }
    fn verify(&self, _: &Path, _: bool) -> Result<VerifyReport, Failure> {
        Err(without_engine())
    }
}

fn without_engine() -> Failure {
    Failure::usage("this program only talks to running instances: use --socket or --data")
}

/// A filter that means nothing in the directory of a stopped instance.
pub(super) fn wrong_filter(error: &FilterError) -> Failure {
    match error {
        FilterError::Route(_) => Failure::usage(format!("{error}; --config FILE names the one it is looked up in")),
        _ => Failure::usage(error.to_string()),
    }
}

/// An instance, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) socket: PathBuf,
    /// None if only the socket is known.
    pub(super) data: Option<PathBuf>,
    /// If it was named.
    config: Option<PathBuf>,
}

impl Instance {
    /// Finds the instance that is meant.
    pub(super) fn find(place: &Where, host: &dyn Host) -> Result<Self, Failure> {
        if let Some(data) = &place.data {
            let socket = place.socket.clone().unwrap_or_else(|| data.join(SOCKET_NAME));
            return Ok(Self { socket, data: Some(data.clone()), config: None });
        }
        if let Some(socket) = &place.socket {
            return Ok(Self { socket: socket.clone(), data: None, config: None });
        }
        let usual = || Located { socket: Path::new(DEFAULT_DATA).join(SOCKET_NAME), data: Some(DEFAULT_DATA.into()) };
        let Located { socket, data } = host.locate(place.config.as_deref())?.unwrap_or_else(usual);
        Ok(Self { socket, data, config: place.config.clone() })
    }

    /// Opens the directory to import into it, since no instance answers.
    pub(super) fn importer(&self, host: &dyn Host, why: Failure) -> Result<Box<dyn Importer>, Failure> {
        match &self.data {
            Some(data) if data.is_dir() => host.importer(data, self.config.as_deref()),
            _ => Err(why),
        }
    }

    /// Opens the directory, since no instance answers.
    pub(super) fn offline(&self, host: &dyn Host, why: Failure) -> Result<Box<dyn Reads>, Failure> {
        match &self.data {
            Some(data) if why.exit == Exit::NotRunning && data.is_dir() => host.offline(data, self.config.as_deref()),
            _ => Err(why),
        }
    }
}
