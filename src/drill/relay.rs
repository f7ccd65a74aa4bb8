//! Owns the scratch directory of a drill and the relay that runs in it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{DrillError, doing};

/// Paths of Unix sockets are shorter (`sun_path` of unix(7), with its end).
const SOCKET_BYTES_MAX: usize = 108;

/// A fresh directory below one that the operator names. Removed when it is dropped, unless it is kept.
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes it. Its name has the process id, so that no two drills share one.
    ///
    /// # Errors
    /// It can't be made there.
    pub fn new(below: &Path, drill: &str) -> Result<Self, DrillError> {
        let below = fs::canonicalize(below).map_err(doing("finding the directory for the drill"))?;
        let path = below.join(format!("stagepost-{drill}-{}", std::process::id()));
        fs::create_dir(&path).map_err(doing("making a directory for the drill"))?;
        Ok(Self { path, keep: false })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A socket in it.
    ///
    /// # Errors
    /// The path is longer than the system takes for a socket.
    pub(super) fn socket(&self, name: &str) -> Result<PathBuf, DrillError> {
        let path = self.path.join(name);
        match path.as_os_str().len() {
            ..SOCKET_BYTES_MAX => Ok(path),
            _ => Err(DrillError::Relay(format!(
                "{} is too long a path for a socket: choose another --dir on the same disk",
                path.display()
            ))),
        }
    }

    /// Leaves it where it is.
    pub const fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep {
            let _left_for_the_operator = fs::remove_dir_all(&self.path);
        }
    }
}

/// The relay: the same program, as a process of its own.
pub(super) struct Relay {
    program: PathBuf,
    directory: PathBuf,
    child: Option<Child>,
}

impl Relay {
    /// Writes the configuration; starts nothing.
    ///
    /// # Errors
    /// It can't be written.
    pub(super) fn new(program: &Path, scratch: &Scratch, configuration: &str) -> Result<Self, DrillError> {
        fs::write(scratch.path.join("stagepost.toml"), configuration).map_err(doing("writing the configuration"))?;
        Ok(Self { program: program.to_owned(), directory: scratch.path.clone(), child: None })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// # Errors
    /// The process can't be made.
    pub(super) fn start(&mut self) -> Result<(), DrillError> {
        let diagnostics = File::options().create(true).append(true).open(self.directory.join("diagnostics"));
        let mut command = self.command();
        command.args(["run", "--config", "stagepost.toml"]).stdout(Stdio::null());
        command.stderr(diagnostics.map_err(doing("opening the file for diagnostics"))?);
        self.child = Some(command.spawn().map_err(doing("starting the relay"))?);
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It was not alive until then: that is a finding of its own.
    pub(super) fn kill(&mut self) -> Result<(), DrillError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let ended = child.try_wait().map_err(doing("looking after the relay"))?;
        if let Some(status) = ended {
            return Err(self.complaint(&format!("the relay ended by itself ({status})")));
        }
        child.kill().map_err(doing("killing the relay"))?;
        child.wait().map_err(doing("waiting for the relay's end"))?;
        Ok(())
    }

    /// An error with what the relay said last.
    pub(super) fn complaint(&self, what: &str) -> DrillError {
        let said = fs::read_to_string(self.directory.join("diagnostics")).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let last = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n");
        DrillError::Relay(format!("{what}; it said:\n{last}"))
    }

    /// SHA-256 of bodies by event id, as `stagepost log` shows them, running or stopped.
    ///
    /// # Errors
    /// The log can't be read.
    pub(super) fn stored(&self) -> Result<BTreeMap<String, String>, DrillError> {
        let mut command = self.command();
        command.args(["log", "--config", "stagepost.toml", "--json", "-n", "1000000000"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(doing("reading the log"))?;
        let mut stored = BTreeMap::new();
        if let Some(out) = child.stdout.take() {
            for line in BufReader::new(out).lines() {
                let line = line.map_err(doing("reading the log"))?;
                let event: serde_json::Value = serde_json::from_str(&line)
                    .map_err(|error| DrillError::Relay(format!("a line of the log is no JSON: {error}")))?;
                let text =
                    |key: &str| event.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
                stored.insert(text("id"), text("sha256"));
            }
        }
        let output = child.wait_with_output().map_err(doing("reading the log"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(DrillError::Relay(format!("the log can't be read: {said}")));
        }
        Ok(stored)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}
