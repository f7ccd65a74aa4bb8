//! Power cuts on the log, simulated: whatever was written since the last barrier reached the disk in part.
//!
//! The barrier hook copies the log's files right after each sync (what is durable) and right before the next one
//! (what was written since). An image takes every sector of every file from one of the two at random, cuts lengths
//! between the two, and may lose files that appeared in between. Everything acknowledged before the cut must be read
//! back from every image, byte for byte.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use stagepost::{
    clock::{Clock, Timestamp},
    jitter::Jitter,
    log::{
        Append, Appended, Class, Done, Kind, Log, NewEntry, QueueLimits, ReadError,
        sled::{Barrier, Settings, SledLog, append_and_wait},
    },
    telemetry::Metrics,
};

const SECTOR: usize = 512;

/// Files below a directory and their bytes.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What the disk held for sure, what it held perhaps, and what had been acknowledged by then.
struct Cut {
    durable: Files,
    later: Files,
    acknowledged: Vec<(u64, Bytes)>,
}

#[derive(Default)]
struct Recorder {
    durable: Files,
    acknowledged: Vec<(u64, Bytes)>,
    cuts: Vec<Cut>,
}

fn read_tree(root: &Path, below: &Path, files: &mut Files) {
    for entry in fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => read_tree(root, &path, files),
            // A file may vanish between the listing and the reading: then it was not there.
            _ => files.extend(fs::read(root.join(&path)).ok().map(|bytes| (path, bytes))),
        }
    }
}

fn settings(directory: &Path, barrier: Barrier) -> Settings {
    let queue = QueueLimits::standard();
    Settings { directory: directory.into(), segment_bytes: 200_000, max_size: 1 << 40, reserve: 0, queue, barrier }
}

fn open(directory: &Path, barrier: Barrier) -> SledLog {
    let (clock, _) = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    SledLog::open(settings(directory, barrier), Arc::new(Metrics::default()), clock).unwrap()
}

/// Appends for a while and records cuts. `synced` false pretends that the barrier does nothing.
fn record(seed: u64, appends: usize, synced: bool) -> Vec<Cut> {
    let directory = tempfile::tempdir().unwrap();
    let recorder: Arc<Mutex<Recorder>> = Arc::default();
    let random = Jitter::seeded(seed);
    let barrier: Barrier = {
        let (recorder, root, random) = (recorder.clone(), directory.path().to_path_buf(), random.clone());
        Arc::new(move |file| {
            let mut recorder = recorder.lock().unwrap();
            // Only the committer's own syncs say that everything acknowledged so far is durable.
            if std::thread::current().name() == Some("committer") && random.next_u64() % 8 == 0 {
                let mut later = Files::new();
                read_tree(&root, Path::new("log"), &mut later);
                let cut = Cut { durable: recorder.durable.clone(), later, acknowledged: recorder.acknowledged.clone() };
                recorder.cuts.push(cut);
            }
            if synced {
                file.sync_data()?;
                let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                let below = path.strip_prefix(fs::canonicalize(&root)?).unwrap().to_path_buf();
                recorder.durable.insert(below, fs::read(path)?);
            }
            Ok(())
        })
    };
    let log = open(directory.path(), barrier);
    read_tree(directory.path(), Path::new("log"), &mut recorder.lock().unwrap().durable);
    for number in 0..appends {
        let length = match random.next_u64() % 10 {
            0 => random.next_u64() % 60_000,
            _ => random.next_u64() % 2_000,
        };
        let mut payload = format!("{number:08} ").into_bytes();
        payload.extend(std::iter::repeat_with(|| random.next_u64() as u8).take(length as usize));
        let payload = Bytes::from(payload);
        let acked = append_and_wait(
            &log,
            Append {
                parts: Vec::new(),
                entry: NewEntry { kind: Kind::Accepted, payload: payload.clone() },
                dedupe: None,
                class: Class::Event,
                time: Timestamp::from_millis(1_700_000_000_000),
                done: Done::nobody(),
            },
        );
        let Ok(Appended::Appended(id)) = acked else { panic!("not appended: {acked:?}") };
        recorder.lock().unwrap().acknowledged.push((id.pos.seq, payload));
    }
    log.close();
    drop(log);
    std::mem::take(&mut recorder.lock().unwrap().cuts)
}

/// One possible disk after the cut.
fn image(cut: &Cut, random: &Jitter, root: &Path) {
    let directory = |path: &Path| path.parent().unwrap_or(Path::new("")).to_path_buf();
    let ending = |path: &Path| path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_owned();
    for (path, later) in &cut.later {
        let durable = cut.durable.get(path).or_else(|| cut.durable.get(&unfinished(path)));
        let gone = random.next_u64().is_multiple_of(2);
        let bytes = match durable {
            // Sealed files are synced before their rename, and the rename before the directory goes.
            _ if ending(path) == "seg" && gone && untouched(cut, &path.with_extension("")) => {
                continue;
            }
            _ if ending(path) == "seg" => later.clone(),
            Some(durable) => mix(durable, later, random),
            // Files of a segment that is not yet renamed, snapshots, temporary files: anything may be left of them.
            None if gone => continue,
            None => mix(&[], later, random),
        };
        write(root, path, &bytes);
    }
    // Deletions since the last sync may not have reached the disk, file by file.
    for (path, durable) in &cut.durable {
        let sealed = cut.later.contains_key(&directory(path).with_extension("seg"));
        if !cut.later.contains_key(path) && sealed && random.next_u64().is_multiple_of(2) {
            write(root, path, durable);
        }
    }
}

/// Whether nothing of a segment's directory has been deleted yet: until then the rename of its file may be lost.
fn untouched(cut: &Cut, directory: &Path) -> bool {
    let mut durable = cut.durable.keys().filter(|path| path.parent() == Some(directory)).peekable();
    durable.peek().is_some()
        && durable.all(|path| cut.later.contains_key(path))
        && cut.later.contains_key(&directory.join("conf"))
}

/// Where a segment's file stood before the segment got its number.
fn unfinished(path: &Path) -> PathBuf {
    let directory = path.parent().unwrap_or(Path::new(""));
    directory.with_extension("new").join(path.file_name().unwrap_or_default())
}

fn write(root: &Path, path: &Path, bytes: &[u8]) {
    let target = root.join(path);
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::write(target, bytes).unwrap();
}

fn mix(durable: &[u8], later: &[u8], random: &Jitter) -> Vec<u8> {
    let (short, long) = (durable.len().min(later.len()), durable.len().max(later.len()));
    let length = match random.next_u64() % 3 {
        0 => durable.len(),
        1 => later.len(),
        _ => short + (random.next_u64() as usize) % (long - short + 1),
    };
    let mut mixed = vec![0; length];
    let weight = random.next_u64() % 5;
    for (index, sector) in mixed.chunks_mut(SECTOR).enumerate() {
        let source = if random.next_u64() % 4 < weight { later } else { durable };
        let from = source.get(index * SECTOR..).unwrap_or_default();
        let known = from.len().min(sector.len());
        sector[..known].copy_from_slice(&from[..known]);
    }
    mixed
}

/// What is lost or altered in an image.
fn check(cut: &Cut, root: &Path) -> Result<(), String> {
    let (clock, _) = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let log = SledLog::open(settings(root, Settings::sync_data()), Arc::new(Metrics::default()), clock)
        .map_err(|error| format!("can't be opened: {error}"))?;
    let mut stored = BTreeMap::new();
    let mut from = 0;
    loop {
        match log.scan(from, 1 << 20) {
            Ok(entries) => {
                let Some(last) = entries.last() else { break };
                from = last.pos.seq + 1;
                stored.extend(entries.into_iter().map(|entry| (entry.pos.seq, entry.payload)));
            }
            Err(ReadError::Damaged { last, .. }) => from = last + 1,
            Err(error) => return Err(error.to_string()),
        }
    }
    match cut.acknowledged.iter().find(|(seq, payload)| stored.get(seq) != Some(payload)) {
        Some((seq, _)) => Err(format!("sequence {seq} is lost or altered")),
        None => Ok(()),
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_any_image_of_a_power_cut() {
    let images = crate::count("STAGEPOST_CRASH_IMAGES", 150);
    let (mut done, mut seed) = (0, 1);
    while done < images {
        for cut in record(seed, 300, true) {
            for variant in 0..4 {
                let root = tempfile::tempdir().unwrap();
                let random = Jitter::seeded(seed * 1_000 + variant);
                image(&cut, &random, root.path());
                if let Err(what) = check(&cut, root.path()) {
                    panic!("seed {seed}, variant {variant}, {} acknowledged: {what}", cut.acknowledged.len());
                }
                done += 1;
            }
        }
        seed += 1;
    }
}

#[test]
fn the_images_notice_a_barrier_that_does_nothing() {
    let cuts = record(1, 100, false);
    let lost = cuts.iter().filter(|cut| cut.acknowledged.len() > 20).filter(|cut| {
        let root = tempfile::tempdir().unwrap();
        image(cut, &Jitter::seeded(1), root.path());
        check(cut, root.path()).is_err()
    });
    assert!(lost.count() > 0, "a log that never syncs passed the crash images: they prove nothing");
}
