//! Power cuts on the dedupe keys, simulated: the log and the runs of older keys, cut at any moment of a publication, a
//! merge, a seal or the expiry of a segment.
//!
//! Every key that was acknowledged before the cut must still name its first event until the last millisecond of its
//! window and not longer, whether it comes from a run, from the log, or from both.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method};
use stagepost::{
    clock::{Clock, Timestamp},
    event::{EventId, Scheme},
    jitter::Jitter,
    log::{
        Append, Appended, Class, DedupeKey, Done, Kind, Log, NewEntry, QueueLimits,
        entry::Accepting,
        sled::{Barrier, Settings, SledLog, append_and_wait},
    },
    telemetry::Metrics,
};

use crate::disk::{Cut, Image, Recorder};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A key and the event that was the first with it.
type First = (DedupeKey, EventId);

fn open(directory: &Path, barrier: Barrier) -> Result<SledLog, String> {
    let (clock, _) = Clock::manual(NOW);
    let settings = Settings {
        directory: directory.into(),
        segment_bytes: 500,
        max_size: 1 << 40,
        reserve: 0,
        queue: QueueLimits::standard(),
        barrier,
    };
    SledLog::open(settings, Arc::new(Metrics::default()), clock).map_err(|error| format!("can't be opened: {error}"))
}

/// Asks the older keys and appends, as the front door does.
fn accept(log: &SledLog, mut key: DedupeKey, now: Timestamp) -> Appended {
    if let Some((first, body_differs)) = log.seen(&mut key, now).unwrap() {
        return Appended::Duplicate { first, body_differs };
    }
    let accepting = Accepting {
        received_at: now,
        source: "app",
        event_type: None,
        method: &Method::POST,
        scheme: Scheme::Http,
        path: "/",
        query: None,
        headers: &HeaderMap::new(),
        client: "127.0.0.1",
        proxy: None,
        captures: &[],
        verification_scheme: "none",
        verification_secret: None,
        config_generation: 1,
        extras: None,
        dedupe: Some((key.fingerprint, key.expires_at, key.body)),
        body: Some(&[Bytes::from_static(b"{}")]),
        body_length: 2,
    };
    let entry = NewEntry { kind: Kind::Accepted, payload: accepting.encode() };
    let append =
        Append { parts: Vec::new(), entry, dedupe: Some(key), class: Class::Event, time: now, done: Done::nobody() };
    append_and_wait(log, append).unwrap()
}

fn record(seed: u64, keys: u64) -> Vec<Cut<First>> {
    let directory = tempfile::tempdir().unwrap();
    let recorder = Recorder::new(directory.path(), seed);
    let random = Jitter::seeded(seed);
    let log = open(directory.path(), recorder.barrier(true)).unwrap();
    recorder.begin();
    for number in 0..keys {
        let window = Duration::from_millis(1 + random.next_u64() % 1_000_000);
        let (fingerprint, body) = (log.fingerprint("app", &number.to_be_bytes()), random.next_u64());
        let key = DedupeKey { fingerprint, expires_at: NOW.after(window), body, runs_version: 0 };
        match accept(&log, key, NOW) {
            Appended::Appended(id) => recorder.acknowledge((key, id)),
            other => panic!("{other:?}"),
        }
        if number % 50 == 49 {
            // What has expired in the log may still count here.
            let sealed = log.segments().into_iter().filter(|segment| segment.sealed).map(|segment| segment.end);
            log.expire(sealed.max().unwrap_or(0));
        }
    }
    log.close();
    recorder.cuts()
}

/// A key that is not what it was.
fn check(acknowledged: &[First], root: &Path) -> Result<(), String> {
    let log = open(root, Arc::new(|_| Ok(())))?;
    for (key, first) in acknowledged {
        let asked = (accept(&log, *key, key.expires_at.before(Duration::from_millis(1))), Ok::<_, String>(()));
        let (Appended::Duplicate { first: named, body_differs: false }, Ok(())) = asked else {
            return Err(format!("the key of {} is forgotten: {:?}", first.pos.seq, asked.0));
        };
        if named != *first {
            return Err(format!("the key of {} names {} instead", first.pos.seq, named.pos.seq));
        }
    }
    for (key, first) in acknowledged.iter().rev().take(20) {
        if !matches!(accept(&log, *key, key.expires_at), Appended::Appended(_)) {
            return Err(format!("the key of {} outlives its window", first.pos.seq));
        }
    }
    Ok(())
}

#[test]
fn every_acknowledged_key_is_a_duplicate_to_the_end_of_its_window_in_any_image_of_a_power_cut() {
    let images = crate::count("STAGEPOST_CRASH_IMAGES_DEDUPE", 60);
    let (mut done, mut seed) = (0, crate::count("STAGEPOST_CRASH_SEED", 1) as u64);
    while done < images {
        for cut in record(seed, 500) {
            for variant in 0..2 {
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
