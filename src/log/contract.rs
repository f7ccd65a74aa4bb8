//! Owns the suite that every engine behind the log's seam must pass. Each test is one promise of [`Log`].

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{
    Acked, Append, AppendError, Appended, BATCH_APPENDS_MAX, BATCH_BYTES_MAX, Class, DedupeKey, Done, ENTRY_BYTES_MAX,
    Entry, Follower, Kind, Log, NewEntry, ReadError, memory::MemoryLog, sled::tests::Scratch,
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

/// Payload, parts and key of one append of a batch.
type Piece<'a> = (Bytes, &'a [Bytes], Option<DedupeKey>);

fn append_all(log: &dyn Log, batch: &[Piece<'_>]) -> Vec<Acked> {
    let (appends, answers): (Vec<Append>, Vec<_>) = batch
        .iter()
        .map(|(payload, parts, dedupe)| {
            let (done, answer) = Done::channel();
            let parts = parts.iter().map(|part| NewEntry { kind: Kind::Part, payload: part.clone() }).collect();
            let entry = NewEntry { kind: Kind::Accepted, payload: payload.clone() };
            (Append { parts, entry, dedupe: *dedupe, class: Class::Event, time: T, done }, answer)
        })
        .unzip();
    log.append_all(appends);
    answers.into_iter().map(|answer| answer.blocking_recv().unwrap_or(Err(AppendError::Closed))).collect()
}

#[derive(Default)]
struct Calls(Mutex<Vec<Vec<Bytes>>>);

impl Follower for Calls {
    fn committed(&self, entries: Vec<Entry>) {
        self.0.lock().unwrap().push(entries.into_iter().map(|entry| entry.payload).collect());
    }
}

fn a_batch_is_stored_in_order_and_told_at_once(log: Arc<dyn Log>) {
    let calls = Arc::new(Calls::default());
    log.follow(calls.clone());
    // More bytes than a frame has room for, and more entries.
    let payloads: Vec<Bytes> = (0..1_500_u32).map(|n| Bytes::from(n.to_be_bytes().repeat(300))).collect();
    let batch: Vec<Piece<'_>> = payloads.iter().map(|payload| (payload.clone(), &[][..], None)).collect();
    let ids: Vec<EventId> = append_all(&*log, &batch).into_iter().map(id).collect();
    assert!(ids.windows(2).all(|pair| pair[0].pos.seq + 1 == pair[1].pos.seq));
    for (id, payload) in ids.iter().zip(&payloads) {
        assert_eq!(log.read(id.pos.seq).unwrap().payload, payload);
    }
    while calls.0.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(*calls.0.lock().unwrap(), [payloads]);
    log.append_all(Vec::new());
}

fn a_known_key_leaves_out_only_its_own_append_of_a_batch(log: Arc<dyn Log>) {
    let later = Timestamp::from_millis(T.as_millis() + 1000);
    let first = id(append(&*log, "old", &[], Some(key(1, 1, later))));
    let piece = |text: &'static str, key: Option<DedupeKey>| (Bytes::from_static(text.as_bytes()), &[][..], key);
    let answers = append_all(
        &*log,
        &[
            piece("a", Some(key(2, 2, later))),
            piece("old", Some(key(1, 1, later))),
            piece("b", Some(key(2, 3, later))),
            piece("c", None),
        ],
    );
    let a = id(answers[0]);
    assert_eq!(answers[1], Ok(Appended::Duplicate { first, body_differs: false }));
    assert_eq!(answers[2], Ok(Appended::Duplicate { first: a, body_differs: true }));
    let stored: Vec<Bytes> = everything(&*log).into_iter().map(|entry| entry.payload).collect();
    assert_eq!(stored, ["old", "a", "c"]);
    let again = append_all(&*log, &[piece("a", Some(key(2, 2, later))), piece("old", Some(key(1, 1, later)))]);
    assert!(again.iter().all(|answer| matches!(answer, Ok(Appended::Duplicate { body_differs: false, .. }))));
    assert_eq!(everything(&*log).len(), 3);
}

fn a_batch_with_parts_keeps_them_before_its_entries(log: Arc<dyn Log>) {
    let parts: Vec<Bytes> = (0..5_u8).map(|n| Bytes::from(vec![n; 100_000])).collect();
    let pieces: Vec<Piece<'_>> = vec![
        (Bytes::from_static(b"one"), &parts[..3], None),
        (Bytes::from_static(b"two"), &[], None),
        (Bytes::from_static(b"three"), &parts[3..], None),
    ];
    let ids: Vec<EventId> = append_all(&*log, &pieces).into_iter().map(id).collect();
    for (id, (payload, parts, _)) in ids.iter().zip(&pieces) {
        let entry = log.read(id.pos.seq).unwrap();
        assert_eq!(entry.payload, payload);
        let stored: Vec<Bytes> = entry.refs.iter().map(|seq| log.read(*seq).unwrap().payload).collect();
        assert_eq!(stored, *parts);
    }
}

fn a_batch_that_is_too_large_is_refused_whole(log: Arc<dyn Log>) {
    let later = Timestamp::from_millis(T.as_millis() + 1000);
    let fits = (Bytes::from_static(b"fits"), &[][..], Some(key(1, 1, later)));
    let of = |bytes: usize| (Bytes::from(vec![1; bytes]), &[][..], None);
    let refused =
        |batch: Vec<Piece<'_>>| append_all(&*log, &batch).iter().all(|answer| *answer == Err(AppendError::TooLarge));
    assert!(refused(vec![fits.clone(), of(ENTRY_BYTES_MAX + 1)]));
    assert!(refused(vec![of(BATCH_BYTES_MAX / 7 + 1); 7]));
    assert!(refused(vec![of(1); BATCH_APPENDS_MAX + 1]));
    assert_eq!(everything(&*log).len(), 0);
    let ids = append_all(&*log, &[fits, of(ENTRY_BYTES_MAX)]);
    assert!(ids.into_iter().map(id).count() == 2, "the key of a refused batch is not known");
    let largest = vec![of(BATCH_BYTES_MAX / BATCH_APPENDS_MAX); BATCH_APPENDS_MAX];
    assert!(append_all(&*log, &largest).into_iter().map(id).count() == BATCH_APPENDS_MAX);
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
    a_batch_is_stored_in_order_and_told_at_once,
    a_known_key_leaves_out_only_its_own_append_of_a_batch,
    a_batch_with_parts_keeps_them_before_its_entries,
    a_batch_that_is_too_large_is_refused_whole,
);
