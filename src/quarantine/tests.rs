//! The ring on a real directory, and the thread before it.

use std::{fs, path::PathBuf};

use http::{HeaderMap, HeaderValue, Method};

use super::*;
use crate::{event::Scheme, log::entry::Accepting};

const BOUNDS: Bounds = Bounds { max_size: 64 << 20, rate: 1_000_000, total_rate: 1 << 40 };

fn at(n: u64) -> Timestamp {
    Timestamp::from_millis(1_767_323_045_678 + n)
}

fn keep(n: u64, body: &[u8]) -> Keep {
    let mut headers = HeaderMap::new();
    headers.insert("x-signature", HeaderValue::from_bytes(b"no \xff good").unwrap());
    let accepted = Accepting {
        received_at: at(n),
        source: "stripe",
        event_type: None,
        method: &Method::POST,
        scheme: Scheme::Https,
        path: "/hooks/stripe",
        query: Some("a=1"),
        headers: &headers,
        client: "192.0.2.7",
        proxy: None,
        captures: &[],
        verification_scheme: "stripe",
        verification_secret: None,
        config_generation: 3,
        dedupe: None,
        extras: None,
        body: Some(&[Bytes::copy_from_slice(body)]),
        body_length: body.len() as u64,
    };
    Keep { received_at: at(n), reason: "bad_signature", status: 401, accepted: accepted.encode() }
}

struct Rig {
    directory: tempfile::TempDir,
    metrics: Arc<Metrics>,
    quarantine: Quarantine,
}

impl Rig {
    fn new() -> Self {
        let (directory, metrics) = (tempfile::tempdir().unwrap(), Arc::new(Metrics::default()));
        let quarantine = Quarantine::open(&directory.path().join("quarantine"), metrics.clone()).unwrap();
        Self { directory, metrics, quarantine }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("quarantine")
    }

    /// Ends it and starts it again.
    fn restarted(self) -> Self {
        self.quarantine.close();
        let metrics = Arc::new(Metrics::default());
        let quarantine = Quarantine::open(&self.path(), metrics.clone()).unwrap();
        Self { directory: self.directory, metrics, quarantine }
    }

    /// Keeps some, past queue and rates.
    fn fill(&self, count: u64, body: &dyn Fn(u64) -> Vec<u8>, max_size: u64) {
        for n in 0..count {
            self.quarantine.ring().keep(&keep(n, &body(n)), max_size).unwrap();
        }
    }

    fn bodies(&self) -> Vec<String> {
        let read = |id: EventId| match self.quarantine.read(id).unwrap().event.body {
            crate::event::Body::Inline(body) => String::from_utf8_lossy(&body).into_owned(),
            crate::event::Body::Parts { .. } => panic!("a body in parts"),
        };
        self.quarantine.ids().into_iter().map(read).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path()) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn bytes_on_disk(&self) -> u64 {
        self.files().iter().map(|file| fs::metadata(file).unwrap().len()).sum()
    }

    fn drops(&self, why: QuarantineDrop) -> u64 {
        self.metrics.quarantine_drop(why).get()
    }
}

fn numbered(n: u64) -> Vec<u8> {
    n.to_string().into_bytes()
}

#[test]
fn a_request_is_kept_as_it_was_received_under_an_id_of_its_own() {
    let rig = Rig::new();
    assert!(rig.files().is_empty(), "nothing is made before there is something to keep");
    rig.quarantine.keep(keep(5, b"\x00body\xff"), &BOUNDS, at(0));
    rig.quarantine.close();
    let ids = rig.quarantine.ids();
    assert_eq!(ids.len(), 1);
    assert!(ids[0].is_quarantined());
    assert_eq!(ids[0].to_string().parse(), Ok(ids[0]));
    let kept = rig.quarantine.read(ids[0]).unwrap();
    assert_eq!((&*kept.reason, kept.status, kept.event.received_at), ("bad_signature", 401, at(5)));
    assert_eq!(
        (&*kept.event.source, &*kept.event.path, kept.event.query.as_deref()),
        ("stripe", "/hooks/stripe", Some("a=1"))
    );
    assert_eq!(kept.event.headers["x-signature"].as_bytes(), b"no \xff good");
    assert!(matches!(&kept.event.body, crate::event::Body::Inline(body) if body == &b"\x00body\xff"[..]));
    assert_eq!(kept.event.id, ids[0]);
    assert_eq!(rig.metrics.quarantine_entries.get(), 1);
    assert_eq!(rig.metrics.quarantine_bytes.get() as u64, rig.bytes_on_disk());
    let other = EventId { time: at(6), ..ids[0] };
    assert!(matches!(rig.quarantine.read(other), Err(KeptError::NoSuch(_))));
}

#[test]
fn what_is_kept_and_what_is_removed_survive_a_restart() {
    let rig = Rig::new();
    rig.fill(5, &numbered, 1 << 20);
    let ids = rig.quarantine.ids();
    assert_eq!(rig.quarantine.remove(&[ids[1], ids[3], ids[3]]).unwrap(), 2);
    assert_eq!(rig.quarantine.remove(&[ids[1]]).unwrap(), 0, "it is gone already");
    let rig = rig.restarted();
    assert_eq!(rig.bodies(), ["0", "2", "4"]);
    assert_eq!(rig.quarantine.ids(), [ids[0], ids[2], ids[4]]);
    rig.fill(1, &numbered, 1 << 20);
    let newest = *rig.quarantine.ids().last().unwrap();
    assert!(newest > ids[4], "an id is given out twice, or out of order");
    assert_eq!(rig.drops(QuarantineDrop::Damaged), 0);

    let all = rig.quarantine.ids();
    assert_eq!(rig.quarantine.remove(&all).unwrap(), 4);
    assert_eq!((rig.quarantine.figures(), rig.files().len()), (Figures::default(), 0));
    assert!(rig.restarted().quarantine.ids().is_empty());
}

#[test]
fn the_oldest_make_room_and_the_files_never_exceed_the_limit() {
    let rig = Rig::new();
    let max_size = 1 << 20;
    let body = |n: u64| [numbered(n), vec![b'.'; (n as usize * 7_919) % 20_000]].concat();
    for n in 0..500 {
        rig.quarantine.ring().keep(&keep(n, &body(n)), max_size).unwrap();
        assert!(rig.bytes_on_disk() <= max_size);
    }
    let ids = rig.quarantine.ids();
    assert!(ids.len() > 80 && ids.len() < 120, "{}", ids.len());
    assert_eq!(ids.last().unwrap().time, at(499));
    assert!(ids.windows(2).all(|pair| pair[1].pos.seq == pair[0].pos.seq + 1), "what is left has no holes");
    assert_eq!(rig.quarantine.figures().bytes, rig.bytes_on_disk());
    let rig = rig.restarted();
    assert_eq!(rig.quarantine.ids(), ids);
    rig.fill(1, &|_| vec![b'x'; 200 << 10], 600 << 10);
    assert!(rig.bytes_on_disk() <= 600 << 10, "a smaller ring is smaller with the next request");
}

#[test]
fn a_request_larger_than_the_ring_is_dropped_and_counted() {
    let rig = Rig::new();
    rig.quarantine.keep(keep(0, &[b'x'; 100_000]), &Bounds { max_size: 50_000, ..BOUNDS }, at(0));
    rig.quarantine.close();
    assert_eq!((rig.quarantine.ids().len(), rig.drops(QuarantineDrop::Unwritable)), (0, 1));
}

#[test]
fn a_directory_that_can_not_be_used_drops_requests_and_stops_nobody() {
    let (directory, metrics) = (tempfile::tempdir().unwrap(), Arc::new(Metrics::default()));
    let path = directory.path().join("quarantine");
    fs::write(&path, "a file").unwrap();
    let quarantine = Quarantine::open(&path, metrics.clone()).unwrap();
    quarantine.keep(keep(0, b"x"), &BOUNDS, at(0));
    quarantine.close();
    assert_eq!(metrics.quarantine_drop(QuarantineDrop::Unwritable).get(), 1);
    quarantine.keep(keep(0, b"x"), &BOUNDS, at(0));
    assert_eq!(metrics.quarantine_drop(QuarantineDrop::Busy).get(), 1, "closed");
}

#[test]
fn a_torn_end_is_cut_off_and_written_on() {
    let rig = Rig::new();
    rig.fill(3, &numbered, 1 << 20);
    let file = rig.files().remove(0);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let rig = rig.restarted();
    assert_eq!(rig.bodies(), ["0", "1"]);
    assert_eq!(rig.drops(QuarantineDrop::Damaged), 1);
    rig.fill(1, &|_| b"new".to_vec(), 1 << 20);
    let rig = rig.restarted();
    assert_eq!(rig.bodies(), ["0", "1", "new"]);
    assert_eq!(rig.drops(QuarantineDrop::Damaged), 0);
}

#[test]
fn a_damaged_file_is_dropped_and_the_others_are_kept() {
    let rig = Rig::new();
    rig.fill(40, &|n| [numbered(n), vec![b'.'; 10_000]].concat(), 1 << 20);
    let files = rig.files();
    assert!(files.len() > 3);
    let before = rig.quarantine.ids().len();
    fs::write(&files[0], vec![0; 50_000]).unwrap();
    fs::write(&files[1], b"").unwrap();
    fs::write(rig.path().join("not a ring"), b"left alone").unwrap();
    let rig = rig.restarted();
    let left = rig.quarantine.ids();
    assert!(left.len() < before && !left.is_empty());
    assert!(left.iter().all(|id| rig.quarantine.read(*id).is_ok()));
    assert_eq!(rig.drops(QuarantineDrop::Damaged), 1);
    assert!(!files[0].exists() && !files[1].exists() && rig.path().join("not a ring").exists());
}

#[test]
fn no_flipped_bit_is_taken_for_a_request() {
    let rig = Rig::new();
    rig.fill(2, &numbered, 1 << 20);
    let file = rig.files().remove(0);
    let whole = fs::read(&file).unwrap();
    let ids = rig.quarantine.ids();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &flipped).unwrap();
        let read = Quarantine::open_for_reading(&rig.path());
        let intact: Vec<EventId> = read.ids().into_iter().filter(|id| read.read(*id).is_ok()).collect();
        assert!(intact.is_empty() || intact == ids[..1] || intact == ids[1..], "bit {bit}: {intact:?}");
        assert_eq!(fs::read(&file).unwrap(), flipped, "reading changes nothing");
    }
}

#[test]
fn a_damaged_request_can_be_deleted() {
    let rig = Rig::new();
    rig.fill(2, &numbered, 1 << 20);
    let file = rig.files().remove(0);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let ids = rig.quarantine.ids();
    assert!(matches!(rig.quarantine.read(ids[1]), Err(KeptError::Damaged(_))));
    assert_eq!(rig.quarantine.remove(&ids[1..]).unwrap(), 1);
    assert_eq!(rig.restarted().bodies(), ["0"]);
}

#[test]
fn what_waits_to_be_written_is_bounded_and_the_rest_is_counted() {
    let rig = Rig::new();
    let held = rig.quarantine.ring();
    let large = keep(0, &vec![b'x'; 256 << 10]);
    for _ in 0..100 {
        rig.quarantine.keep(large.clone(), &BOUNDS, at(0));
    }
    assert!(rig.quarantine.waiting.load(Ordering::Relaxed) <= QUEUE_BYTES_MAX);
    let busy = rig.drops(QuarantineDrop::Busy);
    assert!((69..=70).contains(&busy), "{busy}");
    for n in 0..2 * QUEUE_MAX as u64 {
        rig.quarantine.keep(Keep { accepted: Bytes::new(), ..keep(n, b"") }, &BOUNDS, at(0));
    }
    assert!(rig.drops(QuarantineDrop::Busy) > busy);
    drop(held);
    rig.quarantine.close();
    assert_eq!(rig.quarantine.waiting.load(Ordering::Relaxed), 0);
}

#[test]
fn clients_and_all_together_have_a_rate() {
    let rig = Rig::new();
    let bounds = Bounds { rate: 2, total_rate: 1_000, ..BOUNDS };
    let taken = (0..100).filter(|_| rig.quarantine.takes("192.0.2.1", &bounds, at(0))).count() as u64;
    assert_eq!((taken, rig.drops(QuarantineDrop::Rate)), (2 * BURST_S, 0), "whoever asks knows whether it is lost");
    let large = keep(0, &[b'x'; 6_000]);
    rig.quarantine.keep(large.clone(), &bounds, at(0));
    rig.quarantine.keep(large, &bounds, at(0));
    rig.quarantine.close();
    assert_eq!((rig.quarantine.ids().len(), rig.drops(QuarantineDrop::Rate)), (1, 1));
}

#[test]
fn no_more_requests_are_remembered_than_there_is_memory_for() {
    let rig = Rig::new();
    for n in 0..ENTRIES_MAX as u64 + 10 {
        rig.quarantine.ring().keep(&Keep { accepted: Bytes::new(), ..keep(n, b"") }, 64 << 20).unwrap();
    }
    let ids = rig.quarantine.ids();
    assert_eq!((ids.len(), ids[0].time), (ENTRIES_MAX, at(10)));
    assert_eq!(rig.restarted().quarantine.ids(), ids);
}
