//! Power cuts on the log, simulated: whatever was written since the last barrier reached the disk in part.
//!
//! Everything acknowledged before the cut must be read back from every image, byte for byte; of a batch all or nothing,
//! acknowledged or not. Which images there are
//! is said in `disk.rs`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

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

use crate::disk::{Cut, Image, Recorder};

/// A sequence number and what was stored under it.
type Stored = (u64, Bytes);

fn open(directory: &Path, barrier: Barrier) -> Result<SledLog, String> {
    let (clock, _) = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let settings = Settings {
        directory: directory.into(),
        segment_bytes: 200_000,
        max_size: 1 << 40,
        reserve: 0,
        queue: QueueLimits::standard(),
        barrier,
    };
    SledLog::open(settings, Arc::new(Metrics::default()), clock).map_err(|error| format!("can't be opened: {error}"))
}

/// Appends for a while and records cuts. `synced` false pretends that the barrier does nothing.
fn record(seed: u64, appends: usize, synced: bool) -> Vec<Cut<Stored>> {
    let directory = tempfile::tempdir().unwrap();
    let recorder = Recorder::new(directory.path(), seed);
    let random = Jitter::seeded(seed);
    let log = open(directory.path(), recorder.barrier(synced)).unwrap();
    recorder.begin();
    for number in 0..appends {
        if number % 8 == 7 {
            for stored in append_batch(&log, number, &random) {
                recorder.acknowledge(stored);
            }
            continue;
        }
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
        recorder.acknowledge((id.pos.seq, payload));
    }
    log.close();
    recorder.cuts()
}

/// A batch of a few entries, small or with a part. Each payload says how many there are.
fn append_batch(log: &SledLog, number: usize, random: &Jitter) -> Vec<Stored> {
    let count = 2 + random.next_u64() as usize % 20;
    let (mut batch, mut payloads, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..count {
        let mut payload = format!("batch {number:08} {count:04} {index:04} ").into_bytes();
        payload.extend(std::iter::repeat_with(|| random.next_u64() as u8).take(random.next_u64() as usize % 3_000));
        let payload = Bytes::from(payload);
        let parts = match random.next_u64() % 30 {
            0 => vec![NewEntry { kind: Kind::Part, payload: vec![7; 30_000].into() }],
            _ => Vec::new(),
        };
        let (done, answer) = Done::channel();
        let entry = NewEntry { kind: Kind::Accepted, payload: payload.clone() };
        let time = Timestamp::from_millis(1_700_000_000_000);
        batch.push(Append { parts, entry, dedupe: None, class: Class::Event, time, done });
        payloads.push(payload);
        answers.push(answer);
    }
    log.append_all(batch);
    let ids = answers.into_iter().map(|answer| match answer.blocking_recv().unwrap() {
        Ok(Appended::Appended(id)) => id.pos.seq,
        other => panic!("not appended: {other:?}"),
    });
    ids.zip(payloads).collect()
}

/// A batch of which only a part is stored.
fn torn_batch<'a>(stored: impl Iterator<Item = &'a Bytes>) -> Option<String> {
    let mut found: BTreeMap<&[u8], usize> = BTreeMap::new();
    for payload in stored.filter(|payload| payload.starts_with(b"batch ")) {
        *found.entry(&payload[..19]).or_default() += 1;
    }
    let whole = |name: &[u8]| std::str::from_utf8(&name[15..]).unwrap().parse::<usize>().unwrap();
    let torn = found.into_iter().find(|(name, count)| whole(name) != *count)?;
    Some(format!("of {} only {} are stored", String::from_utf8_lossy(torn.0), torn.1))
}

/// What is lost or altered in an image.
fn check(acknowledged: &[Stored], root: &Path) -> Result<(), String> {
    let log = open(root, Settings::sync_data())?;
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
    match acknowledged.iter().find(|(seq, payload)| stored.get(seq) != Some(payload)) {
        Some((seq, _)) => Err(format!("sequence {seq} is lost or altered")),
        None => torn_batch(stored.values()).map_or(Ok(()), Err),
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_any_image_of_a_power_cut() {
    let images = crate::count("STAGEPOST_CRASH_IMAGES", 150);
    let (mut done, mut seed) = (0, crate::count("STAGEPOST_CRASH_SEED", 1) as u64);
    while done < images {
        for cut in record(seed, 300, true) {
            for variant in 0..4 {
                let root = tempfile::tempdir().unwrap();
                let image = Image::of(&cut, &Jitter::seeded(seed * 1_000 + variant));
                image.write(root.path());
                if let Err(what) = check(&cut.acknowledged, root.path()) {
                    image.fail(&format!("seed {seed}, variant {variant}: {what}"));
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
        Image::of(cut, &Jitter::seeded(1)).write(root.path());
        check(&cut.acknowledged, root.path()).is_err()
    });
    assert!(lost.count() > 0, "a log that never syncs passed the crash images: they prove nothing");
}
