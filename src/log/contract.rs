//! Owns the suite that every engine behind the log's seam must pass. Each test is one promise of [`Log`].

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{
    Acked, Append, AppendError, Appended, Class, DedupeKey, Done, ENTRY_BYTES_MAX, Entry, Follower, Kind, Log,
    NewEntry, ReadError, memory::MemoryLog, sled::tests::Scratch,
};
use crate::{clock::Timestamp, event::EventId};

const T: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(crate) fn append(
    log: &dyn Log,
    payload: impl Into<Bytes>,
    parts: &[&'static [u8]],
    dedupe: Option<DedupeKey>,
) -> Acked {
    let (done, answer) = Done::channel();
    let part = |bytes: &&'static [u8]| NewEntry { kind: Kind::Part, payload: Bytes::from_static(bytes) };
    log.append(Append {
        parts: parts.iter().map(part).collect(),
        entry: NewEntry { kind: Kind::Accepted, payload: payload.into() },
        dedupe,
        class: Class::Event,
        time: T,
        done,
    });
    answer.blocking_recv().unwrap_or(Err(AppendError::Closed))
}

pub(crate) fn id(acked: Acked) -> EventId {
    match acked {
        Ok(Appended::Appended(id)) => id,
        other => panic!("not appended: {other:?}"),
    }
}

fn key(fingerprint: u128, body: u64, expires_at: Timestamp) -> DedupeKey {
    DedupeKey { fingerprint, expires_at, body, runs_version: 0 }
}

fn everything(log: &dyn Log) -> Vec<Entry> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let some = log.scan(from, 1000).unwrap();
        let Some(last) = some.last() else { return all };
        from = last.pos.seq + 1;
        all.extend(some);
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<(u64, Bytes)>>);

impl Follower for Heard {
    fn committed(&self, entries: Vec<Entry>) {
        self.0.lock().unwrap().extend(entries.into_iter().map(|entry| (entry.pos.seq, entry.payload)));
    }
}

fn what_is_appended_is_read_in_order_and_told_in_order(log: Arc<dyn Log>) {
    let heard = Arc::new(Heard::default());
    log.follow(heard.clone());
    let ids: Vec<EventId> = (0..500_u32).map(|n| id(append(&*log, n.to_be_bytes().to_vec(), &[], None))).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    let all = everything(&*log);
    assert_eq!(all.iter().map(Entry::id).collect::<Vec<_>>(), ids);
    assert_eq!(log.end(), ids.last().unwrap().pos.seq + 1);
    let told = |heard: &Heard| heard.0.lock().unwrap().clone();
    while told(&heard).len() < 500 {
        std::thread::yield_now();
    }
    assert!(told(&heard).iter().zip(&all).all(|(told, entry)| told.0 == entry.pos.seq && told.1 == entry.payload));
    for (n, id) in (0_u32..).zip(&ids) {
        assert_eq!(&log.read(id.pos.seq).unwrap().payload[..], &n.to_be_bytes());
    }
    assert!(matches!(log.read(log.end()), Err(ReadError::Missing(_))));
    let (mut back, mut before) = (Vec::new(), log.end());
    loop {
        let some = log.scan_back(before).unwrap();
        let Some(first) = some.first() else { break };
        before = first.pos.seq;
        back.extend(some.into_iter().rev());
    }
    assert_eq!(back.len(), 500);
    assert!(back.windows(2).all(|pair| pair[0].pos > pair[1].pos));
}

fn an_equal_key_inside_its_window_is_a_duplicate(log: Arc<dyn Log>) {
    let later = Timestamp::from_millis(T.as_millis() + 1);
    let first = id(append(&*log, "one", &[], Some(key(1, 10, later))));
    let again = append(&*log, "one", &[], Some(key(1, 10, later)));
    assert_eq!(again, Ok(Appended::Duplicate { first, body_differs: false }));
    let other = append(&*log, "two", &[], Some(key(1, 11, later)));
    assert_eq!(other, Ok(Appended::Duplicate { first, body_differs: true }));
    id(append(&*log, "three", &[], Some(key(2, 10, later))));
    assert_eq!(everything(&*log).len(), 2);
    let expired = id(append(&*log, "four", &[], Some(key(3, 10, T))));
    let fresh = id(append(&*log, "four", &[], Some(key(3, 10, T))));
    assert!(fresh > expired);
    log.forget(1);
    assert!(id(append(&*log, "one", &[], Some(key(1, 10, later)))) > first);
}

fn parts_stand_before_the_entry_that_refers_to_them(log: Arc<dyn Log>) {
    let whole = id(append(&*log, "head", &[b"aaa", b"bb", b"c"], None));
    let entry = log.read(whole.pos.seq).unwrap();
    let parts: Vec<Bytes> = entry.refs.iter().map(|seq| log.read(*seq).unwrap().payload).collect();
    assert_eq!(parts, ["aaa", "bb", "c"]);
    assert!(entry.refs.iter().all(|seq| *seq < whole.pos.seq));
}

fn an_entry_that_is_too_large_is_refused_alone(log: Arc<dyn Log>) {
    assert_eq!(append(&*log, vec![0; ENTRY_BYTES_MAX + 1], &[], None), Err(AppendError::TooLarge));
    let largest = id(append(&*log, vec![1; ENTRY_BYTES_MAX], &[], None));
    assert_eq!(log.read(largest.pos.seq).unwrap().payload.len(), ENTRY_BYTES_MAX);
}

fn concurrent_equal_keys_are_accepted_once(log: Arc<dyn Log>) {
    let later = Timestamp::from_millis(T.as_millis() + 1000);
    let accepted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..50_u128 {
                    if let Ok(Appended::Appended(_)) = append(&*log, "x", &[], Some(key(n, 0, later))) {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(accepted.load(Ordering::Relaxed), 50);
}

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod in_memory {
            use super::*;
            $(#[test] fn $promise() { super::$promise(MemoryLog::automatic()); })*
        }
        mod on_disk {
            use super::*;
            $(#[test] fn $promise() { let scratch = Scratch::default(); super::$promise(scratch.open()); })*
        }
    };
}

contract!(
    what_is_appended_is_read_in_order_and_told_in_order,
    an_equal_key_inside_its_window_is_a_duplicate,
    parts_stand_before_the_entry_that_refers_to_them,
    an_entry_that_is_too_large_is_refused_alone,
    concurrent_equal_keys_are_accepted_once,
);
