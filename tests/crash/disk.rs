//! Owns the disk after a power cut: what was recorded of a log's files, and every image the file system may have left.
//!
//! The barrier hook keeps the bytes of a file right after its sync (what is durable) and, now and then, looks at the
//! whole store (what was written since). An [`Image`] takes every sector of every file from one of the two at
//! random, cuts lengths between the two, and loses or brings back names. What may be lost is not a matter of taste; the
//! order of syncs in the code says it:
//!
//! | step | on disk for sure when it is done | until then |
//! |---|---|---|
//! | `Active::create`: files of `N.new/`, fdatasync of `conf` and `db`, fsync of `N.new/` | both files | anything or nothing of them |
//! | rename `N.new/` → `N/`, fsync of `log/` | the name `N/`, before anything is acknowledged from it | either name; it is empty |
//! | opening it again: sled writes `db` and `snap.*` | nothing more | `db` as synced or as written; `snap.*` torn or gone: sled then reads all of `db` |
//! | a commit: fdatasync of `N/db` | all it acknowledges | the last commits in part |
//! | a seal: `N.seg.tmp`, fsync of the file | its bytes | anything of them |
//! | rename to `N.seg`, fsync of `log/` | the name `N.seg` | `N.seg.tmp`, whole, and `N/` **untouched** |
//! | `N/` → `N.gone/`, its files are shortened and unlinked, fsync of `log/` | that it is gone | either name, any part of its files |
//! | a run of dedupe keys: `X.run.tmp`, fsync of the file | its bytes | anything of them |
//! | rename to `X.run`, fsync of `dedupe/` | the name | `X.run.tmp`, whole; all runs that it was merged from are **untouched** |
//! | unlinking these | nothing | any of them is back |
//!
//! So there is no image without `N.seg` once anything of `N/` is shortened or unlinked, nor one without a merged run once
//! one of its sources is unlinked: `sync_directory_of` in `segment::seal` and `Run::write` forbids them. A model that
//! allows them (or a look at the directories while the sealer is at work in them, which sees neither the file that
//! is not yet renamed nor the directory that is already gone) reports losses that no power cut can cause. Therefore
//! the look is repeated until no name changed meanwhile.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use stagepost::{jitter::Jitter, log::sled::Barrier};

const SECTOR: usize = 512;

/// Looks at the directories before they must have stood still once.
const LOOKS: usize = 10_000;

/// Files below a data directory and their bytes.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What the disk held for sure, what it held perhaps, and what had been acknowledged by then.
pub(crate) struct Cut<A> {
    durable: Files,
    later: Files,
    /// In the order of the acknowledgements.
    pub(crate) acknowledged: Vec<A>,
}

/// Records what one log does to one directory.
pub(crate) struct Recorder<A> {
    root: PathBuf,
    random: Jitter,
    recording: Mutex<Recording<A>>,
}

struct Recording<A> {
    durable: Files,
    acknowledged: Vec<A>,
    cuts: Vec<Cut<A>>,
}

impl<A: Clone + Send + 'static> Recorder<A> {
    pub(crate) fn new(root: &Path, seed: u64) -> Arc<Self> {
        let recording = Recording { durable: Files::new(), acknowledged: Vec::new(), cuts: Vec::new() };
        let root = fs::canonicalize(root).unwrap();
        Arc::new(Self { root, random: Jitter::seeded(seed ^ 0xC0FF_EE00), recording: Mutex::new(recording) })
    }

    /// A barrier that syncs, records, and now and then cuts right before. `synced` false pretends to sync.
    pub(crate) fn barrier(self: &Arc<Self>, synced: bool) -> Barrier {
        let recorder = self.clone();
        Arc::new(move |file| {
            let mut recording = recorder.recording.lock().unwrap();
            recorder.cut_now_and_then(&mut recording, 8);
            if synced {
                file.sync_data()?;
                let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                let below = path.strip_prefix(&recorder.root).unwrap().to_path_buf();
                recording.durable.insert(below, fs::read(path)?);
            }
            Ok(())
        })
    }

    /// All that is there now is durable: the log was opened.
    pub(crate) fn begin(&self) {
        self.recording.lock().unwrap().durable = settled(&self.root);
    }

    /// Notes what was acknowledged, and cuts now and then: the sealer may be anywhere.
    pub(crate) fn acknowledge(&self, what: A) {
        let mut recording = self.recording.lock().unwrap();
        recording.acknowledged.push(what);
        self.cut_now_and_then(&mut recording, 16);
    }

    fn cut_now_and_then(&self, recording: &mut Recording<A>, one_in: u64) {
        if !self.random.next_u64().is_multiple_of(one_in) {
            return;
        }
        let later = settled(&self.root);
        let runs = later.iter().filter(|(path, _)| has_ending(path, "run"));
        recording.durable.extend(runs.map(|(path, bytes)| (path.clone(), bytes.clone())));
        let (durable, acknowledged) = (recording.durable.clone(), recording.acknowledged.clone());
        recording.cuts.push(Cut { durable, later, acknowledged });
    }

    pub(crate) fn cuts(&self) -> Vec<Cut<A>> {
        std::mem::take(&mut self.recording.lock().unwrap().cuts)
    }
}

/// The files of a store at one moment, though its threads go on: names never come back once they are gone, so what was
/// the same before and after the reading was so in between.
fn settled(root: &Path) -> Files {
    for _ in 0..LOOKS {
        let mut before = Vec::new();
        names(root, Path::new("log"), &mut before);
        names(root, Path::new("dedupe"), &mut before);
        let read = |path: &PathBuf| Some((path.clone(), fs::read(root.join(path)).ok()?));
        let Some(files) = before.iter().map(read).collect::<Option<Files>>() else { continue };
        let mut after = Vec::new();
        names(root, Path::new("log"), &mut after);
        names(root, Path::new("dedupe"), &mut after);
        before.sort();
        after.sort();
        if before == after {
            return files;
        }
    }
    panic!("the directories never stood still");
}

fn names(root: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => names(root, &path, found),
            _ => found.push(path),
        }
    }
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found == ending)
}

/// What became of one file.
enum Fate {
    /// As it was written last.
    Later,
    /// Sectors of both: how many of which.
    Mixed { later: usize, sectors: usize },
    /// Its name had not reached the disk.
    Lost,
    /// It had not got its last name yet.
    Unrenamed(PathBuf),
    /// Its deletion had not reached the disk.
    Back,
}

/// One possible disk after a cut, and how each file of it came about.
pub(crate) struct Image<'a, A> {
    cut: &'a Cut<A>,
    files: Files,
    fates: BTreeMap<&'a Path, Fate>,
}

impl<'a, A> Image<'a, A> {
    /// Draws one.
    pub(crate) fn of(cut: &'a Cut<A>, random: &Jitter) -> Self {
        let mut image = Self { cut, files: Files::new(), fates: BTreeMap::new() };
        for (path, later) in &cut.later {
            image.draw(path, later, random);
        }
        for (path, durable) in &cut.durable {
            let settled = cut.later.contains_key(path) || image.files.contains_key(path);
            if !settled && cut.may_be_back(path) && random.next_u64().is_multiple_of(2) {
                image.put(path, durable.clone(), Fate::Back);
            }
        }
        image
    }

    fn draw(&mut self, path: &'a Path, later: &[u8], random: &Jitter) {
        let coin = random.next_u64().is_multiple_of(2);
        if has_ending(path, "seg") || has_ending(path, "run") {
            if coin && self.cut.rename_may_be_lost(path) {
                let mut unrenamed = path.as_os_str().to_owned();
                unrenamed.push(".tmp");
                self.files.insert(unrenamed.clone().into(), later.to_vec());
                self.fates.insert(path, Fate::Unrenamed(unrenamed.into()));
                for source in self.cut.sources(path).unwrap_or_default() {
                    self.put(source, self.cut.durable[source].clone(), Fate::Back);
                }
            } else {
                self.put(path, later.to_vec(), Fate::Later);
            }
            return;
        }
        match self.cut.durable_of(path) {
            // Files of a segment that is not yet renamed, snapshots, temporary files: anything may be left of them.
            None if coin => {
                self.fates.insert(path, Fate::Lost);
            }
            durable => {
                let (bytes, fate) = mix(durable.map_or(&[], Vec::as_slice), later, random);
                self.put(path, bytes, fate);
            }
        }
    }

    fn put(&mut self, path: &'a Path, bytes: Vec<u8>, fate: Fate) {
        self.files.insert(path.into(), bytes);
        self.fates.insert(path, fate);
    }

    /// Writes it to a directory.
    pub(crate) fn write(&self, root: &Path) {
        for (path, bytes) in &self.files {
            let target = root.join(path);
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, bytes).unwrap();
        }
    }

    /// Ends the test with everything that explains a failure; with `STAGEPOST_CRASH_DUMP` set to a directory the
    /// image is kept there.
    pub(crate) fn fail(&self, what: &str) -> ! {
        if let Some(kept) = std::env::var_os("STAGEPOST_CRASH_DUMP") {
            self.write(Path::new(&kept));
        }
        panic!("{} acknowledged: {what}\n{self}", self.cut.acknowledged.len());
    }
}

impl<A> Display for Image<'_, A> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let length = |files: &Files, path: &Path| files.get(path).map_or("-".into(), |bytes| bytes.len().to_string());
        writeln!(out, "{:<70} {:>9} {:>9} {:>9}  what became of it", "file", "durable", "written", "image")?;
        for (path, fate) in &self.fates {
            let durable = self.cut.durable_of(path).map_or("-".into(), |bytes| bytes.len().to_string());
            let (later, image) = (length(&self.cut.later, path), length(&self.files, path));
            let fate = match fate {
                Fate::Later => "as written".into(),
                Fate::Mixed { later, sectors } => format!("{later} of {sectors} sectors as written, else as durable"),
                Fate::Lost => "its name was lost".into(),
                Fate::Unrenamed(name) => format!("still called {}", name.display()),
                Fate::Back => "its deletion was lost".into(),
            };
            writeln!(out, "{:<70} {durable:>9} {later:>9} {image:>9}  {fate}", path.display().to_string())?;
        }
        Ok(())
    }
}

impl<A> Cut<A> {
    /// What is durable of a file, also if its segment had another name when it was synced.
    fn durable_of(&self, path: &Path) -> Option<&Vec<u8>> {
        let named = |ending: Option<&str>| {
            let directory = path.parent().unwrap_or(Path::new(""));
            let directory = ending.map_or(directory.with_extension(""), |ending| directory.with_extension(ending));
            directory.join(path.file_name().unwrap_or_default())
        };
        // A segment is `N.new`, then `N`, then `N.gone`.
        self.durable
            .get(path)
            .or_else(|| has_ending(path.parent()?, "gone").then(|| self.durable.get(&named(None)))?)
            .or_else(|| self.durable.get(&named(Some("new"))))
    }

    fn rename_may_be_lost(&self, path: &Path) -> bool {
        if has_ending(path, "run") {
            return self.sources(path).is_some();
        }
        // Nothing of its directory is shortened or deleted.
        let directory = path.with_extension("");
        let mut durable = self.durable.iter().filter(|(path, _)| path.parent() == Some(&directory)).peekable();
        durable.peek().is_some()
            && durable.all(|(path, bytes)| self.later.get(path).is_some_and(|later| later.len() >= bytes.len()))
    }

    /// The runs that a merged one was made of, all of them: where these are still there, it need not be. (They are
    /// gone by the time of most cuts; a sealer that was a little slower would have left them.) A run that was merely
    /// published is as good as lost while its keys are in the log as well.
    fn sources(&self, merged: &Path) -> Option<Vec<&Path>> {
        let (mut next, newest) = publications(merged)?;
        let mut sources = Vec::new();
        while next <= newest {
            let runs = self.durable.keys().filter_map(|path| Some((path, publications(path)?)));
            let (path, (_, to)) = runs
                .filter(|(path, (from, to))| *path != merged && *from == next && *to <= newest)
                .max_by_key(|(_, (_, to))| *to)?;
            sources.push(path.as_path());
            next = to + 1;
        }
        Some(sources)
    }

    /// Whether a file's deletion may not have reached the disk.
    fn may_be_back(&self, path: &Path) -> bool {
        if has_ending(path, "run") {
            return publications(path).is_some();
        }
        let directory = path.parent().unwrap_or(Path::new(""));
        !has_ending(directory, "new") && self.later.contains_key(&directory.with_extension("seg"))
    }
}

/// The publications a run is made of.
fn publications(path: &Path) -> Option<(u64, u64)> {
    let mut parts = path.file_stem()?.to_str()?.split('-').map(|part| u64::from_str_radix(part, 16).ok());
    Some((parts.next()??, parts.next()??))
}

fn mix(durable: &[u8], later: &[u8], random: &Jitter) -> (Vec<u8>, Fate) {
    let (short, long) = (durable.len().min(later.len()), durable.len().max(later.len()));
    let length = match random.next_u64() % 3 {
        0 => durable.len(),
        1 => later.len(),
        _ => short + (random.next_u64() as usize) % (long - short + 1),
    };
    let mut mixed = vec![0; length];
    let (weight, mut taken) = (random.next_u64() % 5, 0);
    for (index, sector) in mixed.chunks_mut(SECTOR).enumerate() {
        let as_written = random.next_u64() % 4 < weight;
        taken += usize::from(as_written);
        let source = if as_written { later } else { durable };
        let from = source.get(index * SECTOR..).unwrap_or_default();
        let known = from.len().min(sector.len());
        sector[..known].copy_from_slice(&from[..known]);
    }
    let sectors = length.div_ceil(SECTOR);
    (mixed, Fate::Mixed { later: taken, sectors })
}
