//! Owns `stagepost backup`: sealed segments and what belongs to them, linked or copied while the instance runs.
//!
//! Promises that the directory is a data directory at every moment at which it is complete: what is derived from the log
//! is copied first, so that it is never ahead of it; a file has its name when it is durable. Segments that expire
//! meanwhile are no hole: what counted of them was carried, and the list is asked for again. Nothing is written to a
//! directory that is not empty and not an earlier backup, or that a process uses.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Exit, Failure, Host, Terminal, args::BackupArgs, client::Client, instance::Instance, units};
use crate::{
    admin::wire::{BackupAsk, BackupPoint},
    log::disk::{Access, Lock, LockError, private_directory, sync_directory_of},
};

/// What a backup consists of. An instance that was started on one leaves more.
const PARTS: [&str; 6] = ["IDENTITY", "LOCK", "log", "state", "dedupe", "configurations"];

/// How often the list is asked for again because a segment expired.
const TRIES: u32 = 20;

/// How often a directory that changes while it is copied is copied again.
const SNAPSHOT_TRIES: u32 = 10;

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Told {
    segments: usize,
    linked: u64,
    copied: u64,
    kept: u64,
    bytes: u64,
}

pub(super) fn backup(args: &BackupArgs, host: &dyn Host, terminal: &mut Terminal<'_>) -> Result<Exit, Failure> {
    let instance = Instance::find(&args.place, host)?;
    let client = Client::new(&instance.socket)?;
    let before: BackupPoint = client.get("/v1/backup")?;
    let data = PathBuf::from(&before.data);
    let mut work = Work { data, to: args.directory.clone(), copy: args.copy, told: Told::default() };
    let _lock = work.begin()?;
    work.snapshot("dedupe", None)?;
    work.snapshot("state", Some("MANIFEST"))?;
    let mut done = false;
    for _ in 0..TRIES {
        let asked = BackupAsk { to: Some(args.directory.display().to_string()) };
        let point: BackupPoint = client.post("/v1/backup", &asked)?;
        if work.segments(&point)? {
            done = true;
            break;
        }
    }
    if !done {
        return Err(Failure::new(Exit::Io, "segments expire faster than they can be copied: try again"));
    }
    work.hashes()?;
    let told = work.told;
    if args.json {
        let json = serde_json::to_string(&told).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
    } else {
        let Told { segments, linked, copied, kept, bytes } = told;
        let size = units::size(bytes);
        writeln!(terminal.out, "{segments} segments, {size}: {linked} linked, {copied} copied, {kept} there before")?;
    }
    Ok(Exit::Done)
}

struct Work {
    data: PathBuf,
    to: PathBuf,
    copy: bool,
    told: Told,
}

impl Work {
    /// Makes the directory and locks it, unless it holds something else or is in use.
    fn begin(&self) -> Result<Lock, Failure> {
        self.is_elsewhere()?;
        let busy = |error| match error {
            LockError::Busy { pid, .. } => {
                let told = format!("{} is in use by process {pid}: name another directory", self.to.display());
                Failure::new(Exit::Busy, told)
            }
            LockError::Io { source, .. } => named(&self.to.join("LOCK"), &source),
        };
        if self.to.join("LOCK").exists() {
            // Only looked at, for now: it may be somebody else's.
            Lock::take(&self.to, Access::Shared).map_err(busy)?;
        }
        let (own, theirs) = (self.data.join("IDENTITY"), self.to.join("IDENTITY"));
        let identity = fs::read(&own).map_err(|error| named(&own, &error))?;
        let is_new = match fs::read(&theirs) {
            Ok(known) if known == identity => false,
            Ok(_) => {
                let told = format!("{} has the backup of another instance: name another directory", self.to.display());
                return Err(Failure::usage(told));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(named(&theirs, &error)),
        };
        self.holds_nothing_else(is_new)?;
        private_directory(&self.to).map_err(|error| named(&self.to, &error))?;
        // Who reads a stopped instance locks this file, and so does who serves it.
        let lock = Lock::take(&self.to, Access::Exclusive).map_err(busy)?;
        let log = self.to.join("log");
        private_directory(&log).map_err(|error| named(&log, &error))?;
        if is_new {
            self.place(&own, &theirs, true)?;
        }
        Ok(lock)
    }

    /// Refuses the data directory itself, one inside it and one that contains it.
    fn is_elsewhere(&self) -> Result<(), Failure> {
        let canonical = |path: &Path| fs::canonicalize(path).map_err(|error| named(path, &error));
        let data = canonical(&self.data)?;
        let absolute = std::path::absolute(&self.to).map_err(|error| named(&self.to, &error))?;
        // It need not be there yet: what counts is where it will be.
        let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let rest = absolute.strip_prefix(there).unwrap_or(Path::new(""));
        let to = canonical(there)?.join(rest);
        if to.starts_with(&data) || data.starts_with(&to) {
            let (to, data) = (self.to.display(), data.display());
            return Err(Failure::usage(format!("{to} is, contains or is in the data directory {data}: name another")));
        }
        Ok(())
    }

    /// Refuses a directory with anything in it that is not of a backup.
    fn holds_nothing_else(&self, is_new: bool) -> Result<(), Failure> {
        let names = |path: &Path| match fs::read_dir(path) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
                .map_err(|error| named(path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(named(path, &error)),
        };
        let refused = |name: &str, why: &str| {
            Err(Failure::usage(format!("{} holds {name}: {why}; name a new directory", self.to.display())))
        };
        // What an interrupted backup left.
        let whole = |name: &str| name.strip_suffix(".tmp").unwrap_or(name).to_owned();
        for name in names(&self.to)? {
            match PARTS.contains(&&*whole(&name)) {
                true if is_new && !matches!(&*whole(&name), "IDENTITY" | "LOCK" | "log") => {
                    return refused(&name, "it is no backup of this instance");
                }
                true => {}
                false if is_new => return refused(&name, "it is no backup of this instance"),
                false => return refused(&name, "an instance has run on this backup since"),
            }
        }
        match names(&self.to.join("log"))?.into_iter().find(|name| is_new || !whole(name).ends_with(".seg")) {
            Some(name) => refused(&format!("log/{name}"), "an instance writes there, or has written"),
            None => Ok(()),
        }
    }

    /// Copies a directory of files that never change themselves, as it is at one moment. `head`, if there is one, names
    /// those that count. What can't be had is derived again by the next start.
    fn snapshot(&self, name: &str, head: Option<&str>) -> Result<(), Failure> {
        let (from, to) = (self.data.join(name), self.to.join(name));
        for _ in 0..SNAPSHOT_TRIES {
            let fresh = self.to.join(format!("{name}.tmp"));
            remove(&fresh)?;
            private_directory(&fresh).map_err(|error| named(&fresh, &error))?;
            if self.copied_whole(&from, &fresh, head)? {
                remove(&to)?;
                fs::rename(&fresh, &to).map_err(|error| named(&to, &error))?;
                return Ok(());
            }
            remove(&fresh)?;
        }
        remove(&to)
    }

    /// False if it changed meanwhile.
    fn copied_whole(&self, from: &Path, to: &Path, head: Option<&str>) -> Result<bool, Failure> {
        let read = |name: &str| fs::read(from.join(name));
        let heading = head.map(read).transpose();
        let names = || -> io::Result<Vec<_>> {
            let mut names: Vec<_> =
                fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            Ok(names)
        };
        let (Ok(heading), Ok(before)) = (heading, names()) else { return Ok(false) };
        for name in before.iter().filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "run")) {
            match self.link_or_copy(&from.join(name), &to.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                placed => placed.map_err(|error| named(&to.join(name), &error))?,
            };
        }
        let same = match (head, &heading) {
            (Some(head), Some(bytes)) => {
                let path = to.join(head);
                fs::write(&path, bytes).map_err(|error| named(&path, &error))?;
                read(head).is_ok_and(|now| now == *bytes)
            }
            _ => names().is_ok_and(|now| now == before),
        };
        Ok(same)
    }

    /// Links or copies the segments of a list, and removes what is not in it. False if one of them has expired.
    fn segments(&mut self, point: &BackupPoint) -> Result<bool, Failure> {
        let log = self.to.join("log");
        self.told = Told { segments: point.segments.len(), ..Told::default() };
        for name in &point.segments {
            let (from, to) = (self.data.join("log").join(name), log.join(name));
            let length = match fs::metadata(&from) {
                Ok(meta) => meta.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(named(&from, &error)),
            };
            self.told.bytes += length;
            if fs::metadata(&to).is_ok_and(|known| known.len() == length) {
                self.told.kept += 1;
                continue;
            }
            match self.link_or_copy(&from, &to) {
                Ok(true) => self.told.linked += 1,
                Ok(false) => self.told.copied += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(named(&to, &error)),
            }
        }
        for entry in fs::read_dir(&log).map_err(|error| named(&log, &error))? {
            let path = entry.map_err(|error| named(&log, &error))?.path();
            let listed = path.file_name().and_then(|name| name.to_str());
            if !listed.is_some_and(|name| point.segments.iter().any(|known| known == name)) {
                remove(&path)?;
            }
        }
        sync_directory_of(&log.join(".")).map_err(|error| named(&log, &error))?;
        Ok(true)
    }

    /// What tells the configuration of an event. An instance that an older version served has none.
    fn hashes(&self) -> Result<(), Failure> {
        let (own, theirs) = (self.data.join("configurations"), self.to.join("configurations"));
        if own.exists() { self.place(&own, &theirs, true) } else { Ok(()) }
    }

    /// True if it was linked.
    fn link_or_copy(&self, from: &Path, to: &Path) -> io::Result<bool> {
        if !self.copy {
            let _absent = fs::remove_file(to);
            match fs::hard_link(from, to) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                // Another file system, or a foreign owner.
                Err(_) => {}
            }
        }
        let mut name = to.as_os_str().to_owned();
        name.push(".tmp");
        let partial = PathBuf::from(name);
        let _absent = fs::remove_file(&partial);
        fs::copy(from, &partial)?;
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, to)?;
        Ok(false)
    }

    fn place(&self, from: &Path, to: &Path, copy: bool) -> Result<(), Failure> {
        let work = Self { copy, data: self.data.clone(), to: self.to.clone(), told: Told::default() };
        work.link_or_copy(from, to).map(drop).map_err(|error| named(to, &error))
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(path, &error)),
        _ => Ok(()),
    }
}

fn named(path: &Path, error: &io::Error) -> Failure {
    let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Io };
    let hint = if exit == Exit::Permission { ": run it as the user of the service" } else { "" };
    Failure::new(exit, format!("{}: {error}{hint}", path.display()))
}
