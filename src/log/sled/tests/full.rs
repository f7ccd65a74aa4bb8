//! Tests of a full disk: once, for long, and while the segment that met it is opened again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{Scratch, payloads, text, wait_until_sealed};
use crate::{
    clock::Timestamp,
    log::{
        Append, AppendError, Class, Done, Kind, Log, NewEntry, ReadError,
        contract::{append, id},
        sled::append_and_wait,
    },
};

/// A large undelivered event, as the janitor appends it again.
fn carried(body: &'static [u8]) -> Append {
    Append {
        parts: vec![NewEntry { kind: Kind::Part, payload: body.into() }],
        entry: NewEntry { kind: Kind::Carried, payload: "carried".into() },
        dedupe: None,
        class: Class::Upkeep,
        time: Timestamp::from_millis(1_700_000_000_000),
        done: Done::nobody(),
    }
}

#[test]
fn a_full_store_still_takes_the_large_undelivered_events_that_keep_old_segments_from_going() {
    let mut scratch = Scratch::default();
    scratch.settings.reserve = u64::MAX;
    let log = scratch.open();
    while log.writable().is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(append(&*log, "new", &[b"part"], None), Err(AppendError::Full));
    let first = id(append_and_wait(&*log, carried(b"one")));
    assert_eq!(log.read(first.pos.seq).unwrap().refs.len(), 1);
    assert_eq!(append(&*log, "new", &[b"part"], None), Err(AppendError::Full));
}

#[test]
fn a_full_disk_moves_the_log_to_a_new_segment_and_loses_nothing() {
    let mut scratch = Scratch::default();
    let full = Arc::new(AtomicBool::new(false));
    let fail = full.clone();
    scratch.settings.barrier = Arc::new(move |file| match fail.swap(false, Ordering::SeqCst) {
        true => Err(std::io::Error::from_raw_os_error(28)),
        false => file.sync_data(),
    });
    let log = scratch.open();
    for number in 0..100 {
        id(append(&*log, text(number), &[], None));
    }
    full.store(true, Ordering::SeqCst);
    id(append(&*log, text(100), &[], None));
    log.set_full(false);
    for number in 101..200 {
        id(append(&*log, text(number), &[], None));
    }
    wait_until_sealed(&log, 1);
    assert_eq!(payloads(&*log), (0..200).map(text).collect::<Vec<_>>());
    log.close();
    drop(log);
    assert_eq!(payloads(&*scratch.open()), (0..200).map(text).collect::<Vec<_>>());
}

#[test]
fn a_disk_without_any_room_refuses_until_there_is_some_and_never_poisons() {
    let mut scratch = Scratch::default();
    let full = Arc::new(AtomicBool::new(false));
    let fail = full.clone();
    scratch.settings.barrier = Arc::new(move |file| match fail.load(Ordering::SeqCst) {
        true => Err(std::io::Error::from_raw_os_error(28)),
        false => file.sync_data(),
    });
    let log = scratch.open();
    let mut stored = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            stored.push(text(round * 100 + number));
            id(append(&*log, text(round * 100 + number), &[], None));
            log.set_full(false);
        }
        full.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(append(&*log, "no room", &[], None), Err(AppendError::Full));
            log.set_full(false);
        }
        assert!(!log.is_poisoned());
        full.store(false, Ordering::SeqCst);
    }
    stored.push(b"room".to_vec());
    id(append(&*log, "room", &[], None));
    wait_until_sealed(&log, 3);
    assert_eq!(payloads(&*log), stored);
    log.close();
    drop(log);
    assert_eq!(payloads(&*scratch.open()), stored);
}

#[test]
fn what_is_being_repaired_after_a_full_disk_is_unreadable_for_a_while_and_not_missing() {
    // Sealed before its repair came up, a segment needs none.
    assert!((0..100).any(|_| a_repair_was_met()));
}

/// Fills the disk once and looks at what is being repaired, unless nothing had to be.
fn a_repair_was_met() -> bool {
    let mut scratch = Scratch::default();
    let full = Arc::new(AtomicBool::new(false));
    let fail = full.clone();
    scratch.settings.barrier = Arc::new(move |file| {
        let committer = std::thread::current().name() == Some("committer");
        match committer && fail.swap(false, Ordering::SeqCst) {
            true => Err(std::io::Error::from_raw_os_error(28)),
            false => file.sync_data(),
        }
    });
    let log = scratch.open();
    id(append(&*log, text(0), &[], None));
    log.roll();
    wait_until_sealed(&log, 1);
    let ids: Vec<_> = (1..5).map(|number| id(append(&*log, text(number), &[], None))).collect();
    // A reader that takes its time.
    let reading = log.shared.segments.load_full();
    full.store(true, Ordering::SeqCst);
    id(append(&*log, text(5), &[], None));
    loop {
        let segments = log.shared.segments.load();
        if !segments.repairing.is_empty() {
            break;
        }
        if segments.sealed.len() == 2 {
            return false;
        }
        drop(segments);
        std::thread::yield_now();
    }
    let read = log.read(ids[2].pos.seq);
    assert!(matches!(read, Err(ReadError::Io { .. })), "{read:?} {:?}", log.shared.segments.load().repairing);
    assert!(matches!(log.scan(ids[0].pos.seq, 1), Err(ReadError::Io { .. })));
    assert!(matches!(log.scan_back(ids[3].pos.seq), Err(ReadError::Io { .. })));
    assert_eq!(log.scan(0, 1).unwrap().len(), 1, "what is not being repaired is read");
    assert_eq!(log.scan_back(log.end()).unwrap().len(), 1, "what is not being repaired is read");
    drop(reading);
    wait_until_sealed(&log, 2);
    assert_eq!(payloads(&*log), (0..6).map(text).collect::<Vec<_>>());
    true
}
