//! Owns the dedupe keys that have left the table: at most eight sorted runs on disk.
//!
//! ```text
//! name   = OLDEST-NEWEST-FROM-TO.run: the publications it is made of and the stretch of the log, 16 hex digits each
//! record = fingerprint 16, seq u64, time and partition u64, expires_at 6, body u64, kind u8         47 bytes
//! meta   = latest expires_at u64, shadows u64
//! ```
//!
//! Kind 0 is a key, kind 2 a key that was forgotten, kind 1 both: forgotten, then accepted again. Kinds 1 and 2 are
//! *shadows*: older runs may still hold the key with a window that lasts, so a shadow is kept, expired or not, until
//! it is merged into the oldest run. Merged runs are neighbours in age, so that the newest record always wins.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{Frozen, Slot};
use crate::{
    clock::Timestamp,
    event::{EventId, Seq},
    log::{
        DedupeKey,
        disk::{private_directory, sync_directory_of},
        run::{Run, RunError, merge_by},
    },
};

/// The most runs that are alive after [`Runs::tidy`] and the next publication. Runs with a damaged block come on top
/// until they expire, and nothing is merged while the keys of a run that can't be opened are read from the log again.
pub const RUNS_MAX: usize = 8;

const RECORD_BYTES: usize = 47;
const LIVE: u8 = 0;
const LIVE_AGAIN: u8 = 1;
const FORGOTTEN: u8 = 2;

/// The runs of dedupe keys of one store. Shared by all threads; look-ups take no lock unless something was
/// forgotten a short while ago, and then a read lock for one hash look-up.
pub struct Runs {
    directory: PathBuf,
    /// Newest first.
    members: ArcSwap<Vec<Arc<Member>>>,
    version: AtomicU64,
    /// Keys forgotten since they were last frozen, and how often.
    forgotten: RwLock<HashMap<u128, u32>>,
    forgotten_keys: AtomicUsize,
    writer: Mutex<Writer>,
}

/// What only one thread at a time may do: publish and tidy.
struct Writer {
    next: u64,
    /// Runs that could not be opened. They are set aside once their stretch of the log has been published again.
    damaged: Vec<(PathBuf, Name)>,
}

struct Member {
    run: Run,
    name: Name,
    expires_at: u64,
    shadows: u64,
    /// A block could not be read in a merge: left alone until it expires.
    broken: AtomicBool,
}

/// What a run's file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    oldest: u64,
    newest: u64,
    from: Seq,
    to: Seq,
}

impl Name {
    fn parse(path: &Path) -> Option<Self> {
        let text = path.file_name()?.to_str()?.strip_suffix(".run")?;
        let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let name = Self { oldest: parts.next()??, newest: parts.next()??, from: parts.next()??, to: parts.next()?? };
        (parts.next().is_none() && name.oldest <= name.newest).then_some(name)
    }

    fn path(self, directory: &Path) -> PathBuf {
        directory.join(format!("{:016x}-{:016x}-{:016x}-{:016x}.run", self.oldest, self.newest, self.from, self.to))
    }

    fn contains(self, other: Self) -> bool {
        self.oldest <= other.oldest && other.newest <= self.newest
    }
}

impl Member {
    fn open(path: &Path, name: Name) -> Result<Self, RunError> {
        Self::new(Run::open(path)?, name)
    }

    fn new(run: Run, name: Name) -> Result<Self, RunError> {
        let numbers: &[[u8; 8]] = run.meta().as_chunks().0;
        let ([expires_at, shadows], RECORD_BYTES) = (numbers, run.record_len()) else {
            let file = run.path().display().to_string();
            return Err(RunError::Damaged { file, what: "its meta is not that of dedupe keys" });
        };
        let (expires_at, shadows) = (u64::from_le_bytes(*expires_at), u64::from_le_bytes(*shadows));
        Ok(Self { run, name, expires_at, shadows, broken: AtomicBool::new(false) })
    }

    fn expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now.as_millis()
    }
}

impl Runs {
    /// Opens the runs in `directory`, which is made if need be, and clears away what a crash has left there.
    /// Returns the sequence number from which the log must be read again into the table (accepted events and
    /// forgotten keys, in order), and the files that are damaged: what they held is in that stretch of the log, as
    /// far as the log still has it.
    ///
    /// # Errors
    /// [`RunError::Io`] if the directory or a file can't be read, [`RunError::Format`] if a newer version wrote it.
    pub fn open(directory: &Path, now: Timestamp) -> Result<(Self, Seq, Vec<PathBuf>), RunError> {
        let failed = |source| io("opening", directory, source);
        private_directory(directory).map_err(failed)?;
        // A merged run's name may not have reached the disk when the process ended, nor may this directory's: what
        // follows removes what the merged run was made of.
        for path in [directory.join("."), directory.to_owned()] {
            sync_directory_of(&path).map_err(failed)?;
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(|source| io("removing", &path, source))?;
            } else if let Some(name) = Name::parse(&path) {
                found.push((path, name));
            }
        }
        // A merged run comes before the runs it was made of: they are leftovers if it is sound, and its
        // replacement if it is not.
        found.sort_by_key(|(_, name)| (std::cmp::Reverse(name.newest), name.oldest));
        let next = found.first().map_or(0, |(_, name)| name.newest.saturating_add(1));
        let (mut members, mut damaged) = (Vec::<Arc<Member>>::new(), Vec::new());
        for (path, name) in found {
            if members.iter().any(|member| member.name.contains(name)) {
                fs::remove_file(&path).map_err(|source| io("removing", &path, source))?;
                continue;
            }
            match Member::open(&path, name) {
                Ok(member) => members.push(Arc::new(member)),
                Err(RunError::Damaged { .. }) => damaged.push((path, name)),
                Err(error) => return Err(error),
            }
        }
        let covered = covered(&members, &damaged);
        let paths = damaged.iter().map(|(path, _)| path.clone()).collect();
        let runs = Self {
            directory: directory.to_owned(),
            members: ArcSwap::from_pointee(members),
            version: AtomicU64::new(0),
            forgotten: RwLock::default(),
            forgotten_keys: AtomicUsize::new(0),
            writer: Mutex::new(Writer { next, damaged }),
        };
        runs.drop_expired(now);
        Ok((runs, covered, paths))
    }

    /// The version to carry in an append. Read it *before* [`Self::seen`].
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The first event with this key and whether its body differs, if the runs know it and its window lasts.
    ///
    /// # Errors
    /// [`RunError`]; the key may or may not be known then, so the request can't be accepted.
    pub fn seen(&self, key: &DedupeKey, now: Timestamp) -> Result<Option<(EventId, bool)>, RunError> {
        // First what is forgotten, then the runs: a publication that moves the fact from here to a run does it in
        // the other order.
        if self.is_forgotten(key.fingerprint) {
            return Ok(None);
        }
        let bytes = key.fingerprint.to_be_bytes();
        for member in self.members.load().iter().filter(|member| member.shadows > 0 || !member.expired(now)) {
            if let Some(record) = member.run.get(&bytes)? {
                // A forgotten key's record has a window that ended in 1970.
                return Ok(decode(&record, &member.run)?.answer(key.body, now));
            }
        }
        Ok(None)
    }

    fn is_forgotten(&self, fingerprint: u128) -> bool {
        self.forgotten_keys.load(Ordering::Acquire) > 0
            && self.forgotten.read().unwrap_or_else(PoisonError::into_inner).contains_key(&fingerprint)
    }

    /// Hides a key in all runs there are. The committer calls it together with [`super::Table::forget`], which
    /// bounds how many are kept here.
    pub fn forget(&self, fingerprint: u128) {
        let mut forgotten = self.forgotten.write().unwrap_or_else(PoisonError::into_inner);
        let times = forgotten.entry(fingerprint).or_default();
        *times = times.saturating_add(1);
        self.forgotten_keys.store(forgotten.len(), Ordering::Release);
    }

    /// Writes a frozen table to a new run and makes it findable. Returns the version for
    /// [`super::Table::published`]. Blocks on the disk; for the background thread.
    ///
    /// # Errors
    /// [`RunError`]; nothing has changed then, try again with the same table.
    pub fn publish(&self, frozen: &Frozen, now: Timestamp) -> Result<u64, RunError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = &*frozen.0;
        let name = Name { oldest: writer.next, newest: writer.next, from: contents.from, to: contents.to };
        let mut records = Vec::with_capacity(contents.keys.len() + contents.forgotten.len());
        for (fingerprint, slot) in &contents.keys {
            let again = contents.forgotten.contains_key(fingerprint);
            if again || now.as_millis() < slot.expires_at {
                records.push(encode(*fingerprint, *slot, if again { LIVE_AGAIN } else { LIVE }));
            }
        }
        let gone = Slot { time_and_partition: 0, seq: 0, expires_at: 0, body: 0 };
        let only_forgotten = contents.forgotten.keys().filter(|fingerprint| !contents.keys.contains_key(fingerprint));
        records.extend(only_forgotten.map(|fingerprint| encode(*fingerprint, gone, FORGOTTEN)));
        records.sort_unstable();
        let expires_at = contents.keys.values().map(|slot| slot.expires_at).max().unwrap_or(0);
        let shadows = contents.forgotten.len() as u64;
        let member = self.write(name, expires_at, shadows, records.into_iter().map(Ok))?;
        writer.next = writer.next.saturating_add(1);

        let mut members = vec![Arc::new(member)];
        members.extend(self.members.load().iter().cloned());
        self.members.store(Arc::new(members));
        self.unhide(&contents.forgotten);
        writer
            .damaged
            .retain(|(path, name)| name.to > contents.to || fs::rename(path, path.with_extension("damaged")).is_err());
        Ok(self.version.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// What a run says from now on need not be hidden here any more, unless it was forgotten once more since.
    fn unhide<S>(&self, written: &HashMap<u128, u32, S>) {
        if written.is_empty() {
            return;
        }
        let mut forgotten = self.forgotten.write().unwrap_or_else(PoisonError::into_inner);
        for (fingerprint, times) in written {
            if let Some(left) = forgotten.get_mut(fingerprint) {
                *left = left.saturating_sub(*times);
                if *left == 0 {
                    forgotten.remove(fingerprint);
                }
            }
        }
        self.forgotten_keys.store(forgotten.len(), Ordering::Release);
    }

    /// Deletes runs that have expired and merges others until there is room for one more publication within
    /// [`RUNS_MAX`]. Look-ups go on meanwhile. Call it after each publication, on the background thread.
    ///
    /// # Errors
    /// [`RunError`]; all runs are served as before then. A run with a damaged block is left out of later merges.
    pub fn tidy(&self, now: Timestamp) -> Result<(), RunError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.drop_expired(now);
        // The name of a merged run spans its neighbours: it must not swallow a damaged run that lies between them
        // before its keys are published again.
        while writer.damaged.is_empty() && self.members.load().len() >= RUNS_MAX {
            let members = self.members.load_full();
            let Some((start, end)) = choose(&members) else { break };
            let Some(chosen) = members.get(start..end) else { break };
            let merged = Arc::new(self.merge(chosen, end == members.len(), now)?);
            let mut kept: Vec<_> = members.iter().take(start).cloned().collect();
            kept.push(merged);
            kept.extend(members.iter().skip(end).cloned());
            self.members.store(Arc::new(kept));
            for old in chosen {
                // The merged run contains it: if this fails, the next start deletes it.
                let _leftover = fs::remove_file(old.run.path());
            }
        }
        Ok(())
    }

    /// The sequence number before which all keys are in runs: until then the log is not needed to find them again.
    #[must_use]
    pub fn covered(&self) -> Seq {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        covered(&self.members.load(), &writer.damaged)
    }

    /// How many runs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.load().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size of all runs in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.members.load().iter().map(|member| member.run.bytes()).sum()
    }

    /// Deletes expired runs, oldest first, but never the newest: its name says how far the log is covered. A run
    /// with shadows goes only when nothing older is left.
    fn drop_expired(&self, now: Timestamp) {
        let members = self.members.load_full();
        let mut kept: Vec<Arc<Member>> = Vec::new();
        let mut gone = Vec::new();
        for (index, member) in members.iter().enumerate().rev() {
            if index > 0 && member.expired(now) && (member.shadows == 0 || kept.is_empty()) {
                gone.push(member.run.path().to_owned());
            } else {
                kept.push(member.clone());
            }
        }
        if gone.is_empty() {
            return;
        }
        kept.reverse();
        self.members.store(Arc::new(kept));
        for path in gone {
            // If this fails the next start opens the file once more and drops it again.
            let _leftover = fs::remove_file(path);
        }
    }

    fn merge(&self, chosen: &[Arc<Member>], with_oldest: bool, now: Timestamp) -> Result<Member, RunError> {
        let name = Name {
            oldest: chosen.iter().map(|member| member.name.oldest).min().unwrap_or(0),
            newest: chosen.iter().map(|member| member.name.newest).max().unwrap_or(0),
            from: chosen.iter().map(|member| member.name.from).min().unwrap_or(0),
            to: chosen.iter().map(|member| member.name.to).max().unwrap_or(0),
        };
        let expires_at = chosen.iter().map(|member| member.expires_at).max().unwrap_or(0);
        let shadows = if with_oldest { 0 } else { chosen.iter().map(|member| member.shadows).sum() };
        let runs: Vec<&Run> = chosen.iter().map(|member| &member.run).collect();
        let records = merge_by(&runs, move |equal| combine(equal, with_oldest, now));
        let merged = self.write(name, expires_at, shadows, records);
        if let Err(RunError::Damaged { file, .. }) = &merged {
            for member in chosen.iter().filter(|member| member.run.path().display().to_string() == *file) {
                member.broken.store(true, Ordering::Relaxed);
            }
        }
        merged
    }

    fn write(
        &self,
        name: Name,
        expires_at: u64,
        shadows: u64,
        records: impl Iterator<Item = Result<impl AsRef<[u8]>, RunError>>,
    ) -> Result<Member, RunError> {
        let meta = [expires_at.to_le_bytes(), shadows.to_le_bytes()].concat();
        Member::new(Run::write(&name.path(&self.directory), RECORD_BYTES, true, &meta, records)?, name)
    }
}

/// Where the log must be read from, given the runs that are sound and those that are not.
fn covered(members: &[Arc<Member>], damaged: &[(PathBuf, Name)]) -> Seq {
    let end = members.iter().map(|member| member.name.to).max().unwrap_or(0);
    damaged.iter().map(|(_, name)| name.from).fold(end, Seq::min)
}

/// Makes one record of all with the same key, newest first.
fn combine(equal: &mut [Vec<u8>], with_oldest: bool, now: Timestamp) -> Option<Vec<u8>> {
    let over_a_shadow = equal.iter().skip(1).any(|older| older.last() != Some(&LIVE));
    let mut newest = equal.first_mut().map(std::mem::take)?;
    let expired = parse(&newest).is_none_or(|slot| slot.expires_at <= now.as_millis());
    let kind = newest.last_mut()?;
    if with_oldest {
        if *kind == FORGOTTEN || expired {
            return None;
        }
        *kind = LIVE;
        return Some(newest);
    }
    if *kind == LIVE && over_a_shadow {
        *kind = LIVE_AGAIN;
    }
    (*kind != LIVE || !expired).then_some(newest)
}

/// The neighbours that cost the least to merge: the smallest pair, and beside it whatever is no larger than the sum
/// so far. Each record is rewritten about as often as the number of runs doubles.
fn choose(members: &[Arc<Member>]) -> Option<(usize, usize)> {
    let size = |index: usize| {
        let member = members.get(index)?;
        (!member.broken.load(Ordering::Relaxed)).then_some(member.run.len())
    };
    let pairs = (0..members.len()).filter_map(|start| Some((size(start)?.saturating_add(size(start + 1)?), start)));
    let (mut sum, mut start) = pairs.min()?;
    let mut end = start + 2;
    loop {
        let before = start.checked_sub(1).and_then(size).filter(|next| *next <= sum);
        let after = size(end).filter(|next| *next <= sum);
        match (before, after) {
            (Some(next), _) => (sum, start) = (sum.saturating_add(next), start - 1),
            (None, Some(next)) => (sum, end) = (sum.saturating_add(next), end + 1),
            (None, None) => return Some((start, end)),
        }
    }
}

fn encode(fingerprint: u128, slot: Slot, kind: u8) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    let expires_at = slot.expires_at.min(0xFFFF_FFFF_FFFF).to_le_bytes();
    let parts: [&[u8]; 6] = [
        &fingerprint.to_be_bytes(),
        &slot.seq.to_le_bytes(),
        &slot.time_and_partition.to_le_bytes(),
        expires_at.first_chunk::<6>().map_or(&[], |six| six),
        &slot.body.to_le_bytes(),
        &[kind],
    ];
    for (to, from) in record.iter_mut().zip(parts.iter().copied().flatten()) {
        *to = *from;
    }
    record
}

fn decode(record: &[u8], run: &Run) -> Result<Slot, RunError> {
    let damaged = || RunError::Damaged { file: run.path().display().to_string(), what: "a record of a dedupe key" };
    parse(record).ok_or_else(damaged)
}

fn parse(record: &[u8]) -> Option<Slot> {
    let number = |at: usize, length: usize| {
        let bytes = record.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    Some(Slot {
        seq: number(16, 8)?,
        time_and_partition: number(24, 8)?,
        expires_at: number(32, 6)?,
        body: number(38, 8)?,
    })
}

fn io(doing: &'static str, path: &Path, source: std::io::Error) -> RunError {
    RunError::Io { doing, file: path.display().to_string(), source }
}
