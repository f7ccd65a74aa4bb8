//! Tests of what only the engine on disk promises: recovery, sealing, damage, a full queue of segments, a failed sync.

mod full;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Settings, SledLog, offline};
use crate::{
    clock::{Clock, Timestamp},
    log::{
        AppendError, Log, ReadError,
        contract::{append, id},
    },
    telemetry::Metrics,
};

/// A directory that goes with the test.
pub(crate) struct Scratch {
    directory: tempfile::TempDir,
    settings: Settings,
}

impl Default for Scratch {
    fn default() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            directory: directory.path().into(),
            segment_bytes: 64 << 20,
            max_size: 1 << 40,
            reserve: 0,
            queue: crate::log::QueueLimits::standard(),
            barrier: Settings::sync_data(),
        };
        Self { directory, settings }
    }
}

impl Scratch {
    pub(crate) fn open(&self) -> Arc<SledLog> {
        let (clock, _) = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        Arc::new(SledLog::open(self.settings.clone(), Arc::new(Metrics::default()), clock).unwrap())
    }

    fn log_files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.path().join("log")).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.to_str().unwrap().ends_with(ending));
        files.sort();
        files
    }
}

fn payloads(log: &dyn Log) -> Vec<Vec<u8>> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        match log.scan(from, 1 << 20) {
            Ok(some) => {
                let Some(last) = some.last() else { return all };
                from = last.pos.seq + 1;
                all.extend(some.into_iter().map(|entry| entry.payload.to_vec()));
            }
            Err(ReadError::Damaged { last, .. }) => from = last + 1,
            Err(other) => panic!("{other}"),
        }
    }
}

fn text(number: u32) -> Vec<u8> {
    format!("{number:08}").repeat(200).into_bytes()
}

fn wait_until_sealed(log: &SledLog, segments: usize) {
    while log.segments().iter().filter(|segment| segment.sealed).count() < segments {
        std::thread::yield_now();
    }
}

#[test]
fn everything_acknowledged_is_there_after_a_restart_and_numbers_jump() {
    let scratch = Scratch::default();
    let mut last = 0;
    for round in 0..4_u32 {
        let log = scratch.open();
        assert_eq!(payloads(&*log).len(), round as usize * 50);
        for number in 0..50 {
            let id = id(append(&*log, text(round * 50 + number), &[], None));
            assert!(id.pos.seq > last);
            last = id.pos.seq;
        }
        log.close();
    }
    let log = scratch.open();
    assert_eq!(payloads(&*log), (0..200).map(text).collect::<Vec<_>>());
    assert!(log.end() > last && log.end() % super::SEQ_STRIDE == 0);
}

#[test]
fn segments_roll_are_sealed_and_stay_readable_in_order() {
    let mut scratch = Scratch::default();
    scratch.settings.segment_bytes = 20_000;
    let log = scratch.open();
    let mut ids = Vec::new();
    for number in 0..2_000_u32 {
        ids.push(id(append(&*log, text(number), &[], None)));
    }
    log.roll();
    wait_until_sealed(&log, 2);
    assert_eq!(payloads(&*log), (0..2_000).map(text).collect::<Vec<_>>());
    for (number, id) in (0..).zip(&ids).step_by(97) {
        assert_eq!(log.read(id.pos.seq).unwrap().payload, text(number));
    }
    assert!(!scratch.log_files(".seg").is_empty());
    let half = ids[1_000].pos.seq;
    log.expire(half);
    while log.segments()[0].end <= half {
        std::thread::yield_now();
    }
    assert!(log.read(ids[1_999].pos.seq).is_ok());
}

#[test]
fn a_segment_is_read_backwards_whole_also_when_its_frames_were_read_before_it_was_sealed() {
    let scratch = Scratch::default();
    let log = scratch.open();
    let ids: Vec<_> = (0..5).map(|number| id(append(&*log, text(number), &[], None))).collect();
    for id in &ids {
        log.read(id.pos.seq).unwrap();
    }
    log.roll();
    wait_until_sealed(&log, 1);
    let (mut found, mut before) = (Vec::new(), log.end());
    loop {
        let entries = log.scan_back(before).unwrap();
        let Some(first) = entries.first() else { break };
        before = first.pos.seq;
        found.extend(entries.iter().rev().map(|entry| entry.pos.seq));
    }
    assert_eq!(found, ids.iter().rev().map(|id| id.pos.seq).collect::<Vec<_>>());
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_costs_one_block_and_names_it() {
    let scratch = Scratch::default();
    let log = scratch.open();
    let ids: Vec<_> = (0..1_000).map(|number| id(append(&*log, text(number), &[], None))).collect();
    log.roll();
    wait_until_sealed(&log, 1);
    log.close();
    drop(log);
    let file = &scratch.log_files(".seg")[0];
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(file, bytes).unwrap();

    let log = scratch.open();
    let (mut lost, mut served) = (0, 0);
    for (number, id) in (0..).zip(&ids) {
        match log.read(id.pos.seq) {
            Ok(entry) => {
                assert_eq!(entry.payload, text(number));
                served += 1;
            }
            Err(ReadError::Damaged { first, last, .. }) => {
                assert!((first..=last).contains(&id.pos.seq));
                lost += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(lost > 0 && served > 500, "{lost} lost, {served} served");
    assert_eq!(payloads(&*log).len(), served);
}

/// Bytes that can't be compressed, different for each number.
fn noise(number: u64, length: usize) -> &'static [u8] {
    let mut state = number + 1;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    next.take(length).collect::<Vec<_>>().leak()
}

#[test]
fn the_parts_of_a_large_body_stand_in_the_segment_of_its_event() {
    let mut scratch = Scratch::default();
    scratch.settings.segment_bytes = 200_000;
    let log = scratch.open();
    let whole = |number: u64| [0, 1, 2].map(|part| noise(number * 3 + part, 60_000));
    let mut stored = Vec::new();
    // The next segment is used once it is ready, however long that takes.
    while stored.len() < 40 || log.segments().len() <= 3 {
        let number = stored.len() as u64;
        stored.push(id(append(&*log, text(number as u32), &whole(number), None)));
    }
    log.close();
    let segments = log.segments();
    for id in stored {
        let entry = log.read(id.pos.seq).unwrap();
        let segment = segments.iter().find(|segment| (segment.first_seq..segment.end).contains(&id.pos.seq)).unwrap();
        assert!(entry.refs.iter().all(|part| *part >= segment.first_seq), "{:?} of {}", entry.refs, id.pos.seq);
    }
}

#[test]
fn a_body_that_lost_a_part_is_named_before_and_after_a_repair() {
    let scratch = Scratch::default();
    let log = scratch.open();
    id(append(&*log, text(0), &[], None));
    let parts = [0, 1, 2, 3].map(|part| noise(part, 200_000));
    let large = id(append(&*log, text(1), &parts, None));
    id(append(&*log, text(2), &[], None));
    let lost = log.read(large.pos.seq).unwrap().refs[1];
    log.roll();
    wait_until_sealed(&log, 1);
    log.close();
    drop(log);
    let file = scratch.log_files(".seg").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let piece = &parts[1][100_000..100_032];
    let at = bytes.windows(piece.len()).position(|window| window == piece).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();

    let directory = scratch.directory.path();
    let check = || offline::verify(directory, Clock::manual(Timestamp::from_millis(1)).0).unwrap().damaged;
    let found = check();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!((found[0].seqs.0..=found[0].seqs.1).contains(&lost) && found[0].events.contains(&large), "{found:?}");
    assert_eq!(offline::repair(directory).unwrap().len(), 1);
    let found = check();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!((found[0].seqs.0..=found[0].seqs.1).contains(&lost) && found[0].events == [large], "{found:?}");
}

#[test]
fn a_damaged_index_is_rebuilt_from_the_blocks() {
    let scratch = Scratch::default();
    let log = scratch.open();
    for number in 0..1_000 {
        id(append(&*log, text(number), &[], None));
    }
    log.roll();
    wait_until_sealed(&log, 1);
    log.close();
    drop(log);
    let file = &scratch.log_files(".seg")[0];
    let mut bytes = fs::read(file).unwrap();
    let end = bytes.len();
    bytes[end - 40] ^= 4;
    fs::write(file, bytes).unwrap();
    let log = scratch.open();
    assert_eq!(log.recovered.salvaged.len(), 1);
    assert_eq!(payloads(&*log), (0..1_000).map(text).collect::<Vec<_>>());
}

#[test]
fn a_kill_at_any_step_of_sealing_loses_and_doubles_nothing() {
    let scratch = Scratch::default();
    let log = scratch.open();
    for number in 0..300 {
        id(append(&*log, text(number), &[], None));
    }
    log.close();
    drop(log);
    let directory = scratch.log_files("1").pop().unwrap();
    let sealed = directory.with_extension("seg");
    let whole = {
        let copy = Scratch::default();
        copy_tree(&scratch.directory.path().join("log"), &copy.directory.path().join("log"));
        let log = copy.open();
        wait_until_sealed(&log, 1);
        log.close();
        fs::read(copy.directory.path().join("log").join(sealed.file_name().unwrap())).unwrap()
    };
    let steps: [(&str, &[u8]); 5] = [
        ("seg.tmp", &whole[..whole.len() / 3]),
        ("seg.tmp", &whole),
        ("seg", &[]),
        ("seg", &whole[..whole.len() - 5]),
        ("seg", &whole),
    ];
    for (extension, bytes) in steps {
        let image = Scratch::default();
        copy_tree(&scratch.directory.path().join("log"), &image.directory.path().join("log"));
        let name = directory.with_extension(extension);
        fs::write(image.directory.path().join("log").join(name.file_name().unwrap()), bytes).unwrap();
        let log = image.open();
        assert_eq!(payloads(&*log), (0..300).map(text).collect::<Vec<_>>(), "{extension} {}", bytes.len());
        log.close();
        assert!(image.log_files(".tmp").is_empty());
    }
}

#[test]
fn a_failed_sync_poisons_the_log_and_a_restart_finds_what_was_acknowledged() {
    let mut scratch = Scratch::default();
    let broken = Arc::new(AtomicBool::new(false));
    let fail = broken.clone();
    scratch.settings.barrier = Arc::new(move |file| match fail.load(Ordering::SeqCst) {
        true => Err(std::io::Error::from_raw_os_error(5)),
        false => file.sync_data(),
    });
    let log = scratch.open();
    id(append(&*log, "kept", &[], None));
    broken.store(true, Ordering::SeqCst);
    assert_eq!(append(&*log, "lost", &[], None), Err(AppendError::Poisoned));
    broken.store(false, Ordering::SeqCst);
    assert_eq!(append(&*log, "refused", &[], None), Err(AppendError::Poisoned));
    assert_eq!(log.writable(), Err(AppendError::Poisoned));
    assert_eq!(log.end(), id_end(&*log));
    log.close();
    drop(log);
    let log = scratch.open();
    assert_eq!(payloads(&*log)[0], b"kept");
    id(append(&*log, "works again", &[], None));
}

fn id_end(log: &dyn Log) -> u64 {
    log.scan(0, 1 << 20).unwrap().last().unwrap().pos.seq + 1
}

#[test]
fn no_value_ever_reaches_the_directory_that_sled_does_not_sync() {
    let scratch = Scratch::default();
    let log = scratch.open();
    for number in 0..40_u32 {
        let mut seed = u64::from(number) + 1;
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as u8
        });
        id(append(&*log, noise.take(200_000).collect::<Vec<u8>>(), &[], None));
    }
    for directory in scratch.log_files("1").iter().filter(|path| path.is_dir()) {
        let blobs = fs::read_dir(directory.join("blobs")).map_or(0, Iterator::count);
        assert_eq!(blobs, 0);
    }
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn what_was_queued_while_a_sync_failed_is_not_acknowledged_by_the_next_sync() {
    let mut scratch = Scratch::default();
    let (armed, at_barrier, go_on) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (fail, reached, released) = (armed.clone(), at_barrier.clone(), go_on.clone());
    scratch.settings.barrier = Arc::new(move |file| {
        if std::thread::current().name() == Some("committer") && fail.swap(false, Ordering::SeqCst) {
            reached.store(true, Ordering::SeqCst);
            while !released.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            return Err(std::io::Error::from_raw_os_error(5));
        }
        file.sync_data()
    });
    let log = scratch.open();
    armed.store(true, Ordering::SeqCst);
    let (first, second) = (queue(&*log, "first"), {
        while !at_barrier.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        queue(&*log, "second")
    });
    go_on.store(true, Ordering::SeqCst);
    assert_eq!(first.blocking_recv().unwrap(), Err(AppendError::Poisoned));
    assert_eq!(second.blocking_recv().unwrap(), Err(AppendError::Poisoned));
}

#[test]
fn a_segment_that_can_not_be_sealed_yet_is_read_and_hides_nothing_and_is_sealed_later() {
    let mut scratch = Scratch::default();
    scratch.settings.segment_bytes = 20_000;
    let log = scratch.open();
    let number = log.segments().last().unwrap().number;
    // Nothing can be written where the first segment's file would be.
    let obstacle = scratch.directory.path().join("log").join(format!("{number:08}.seg.tmp"));
    fs::create_dir(&obstacle).unwrap();
    let mut ids = Vec::new();
    for number in 0..2_000_u32 {
        ids.push(id(append(&*log, text(number), &[], None)));
    }
    assert!(log.segments().len() > 3);
    assert_eq!(payloads(&*log).len(), 2_000);
    assert_eq!(log.read(ids[0].pos.seq).unwrap().payload, text(0));
    assert_eq!(log.stats().first_seq, ids[0].pos.seq);
    fs::remove_dir(&obstacle).unwrap();
    wait_until_sealed(&log, 3);
    assert_eq!(log.read(ids[0].pos.seq).unwrap().payload, text(0));
    assert_eq!(payloads(&*log).len(), 2_000);
}

#[test]
fn the_last_trace_of_used_numbers_never_expires() {
    let scratch = Scratch::default();
    let log = scratch.open();
    let before = id(append(&*log, "only", &[], None)).pos.seq;
    log.roll();
    wait_until_sealed(&log, 1);
    log.expire(u64::MAX);
    log.close();
    drop(log);
    assert!(id(append(&*scratch.open(), "next", &[], None)).pos.seq > before);
}

fn queue(log: &dyn Log, payload: &'static str) -> tokio::sync::oneshot::Receiver<crate::log::Acked> {
    let (done, answer) = crate::log::Done::channel();
    let payload = bytes::Bytes::from_static(payload.as_bytes());
    log.append(crate::log::Append {
        parts: Vec::new(),
        entry: crate::log::NewEntry { kind: crate::log::Kind::Accepted, payload },
        dedupe: None,
        class: crate::log::Class::Event,
        time: Timestamp::from_millis(1_700_000_000_000),
        done,
    });
    answer
}

#[test]
fn a_committer_that_waits_for_its_next_segment_leaves_room_in_the_queue_of_the_sealer() {
    let mut scratch = Scratch::default();
    scratch.settings.segment_bytes = 1;
    let go_on = Arc::new(AtomicBool::new(false));
    let released = go_on.clone();
    scratch.settings.barrier = Arc::new(move |file| {
        while std::thread::current().name() == Some("sealer") && !released.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        file.sync_data()
    });
    let log = scratch.open();
    for number in 0..200 {
        id(append(&*log, text(number), &[], None));
    }
    let room = log.shared.work.try_send(super::sealer::Work::Expire(0)).is_ok();
    go_on.store(true, Ordering::SeqCst);
    assert!(room);
}

#[test]
fn work_that_finds_the_queue_of_the_sealer_full_is_done_all_the_same() {
    use super::sealer::Work;
    let mut scratch = Scratch::default();
    let (hold, is_held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (wait, waits) = (hold.clone(), is_held.clone());
    scratch.settings.barrier = Arc::new(move |file| {
        while std::thread::current().name() == Some("sealer") && wait.load(Ordering::SeqCst) {
            waits.store(true, Ordering::SeqCst);
            std::thread::yield_now();
        }
        file.sync_data()
    });
    let log = scratch.open();
    let shared = &log.shared;
    while shared.prepared.lock().unwrap().is_none() {
        std::thread::yield_now();
    }
    hold.store(true, Ordering::SeqCst);
    let _prepared = shared.prepared.lock().unwrap().take();
    shared.hand_over(Work::Prepare);
    while !is_held.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    while shared.work.try_send(Work::Expire(0)).is_ok() {}
    let mut table = crate::log::dedupe::Table::new(shared.runs.covered());
    table.passed(shared.runs.covered() + 1);
    let (before, frozen) = (shared.runs.covered(), table.take_frozen().unwrap());
    shared.hand_over(Work::Publish(frozen));
    hold.store(false, Ordering::SeqCst);
    while shared.runs.covered() == before {
        std::thread::yield_now();
    }
}

#[test]
fn sealing_goes_on_behind_a_frame_whose_first_part_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let active = super::Active::open(directory.path(), 1).unwrap();
    let mut compressor = crate::log::frame::Compressor::new(crate::log::frame::Codec::Plain, 1);
    let mut frame = |first_seq| {
        let mut builder = crate::log::frame::Builder::new(first_seq, Timestamp::from_millis(1));
        builder.push(crate::log::Kind::Accepted, Timestamp::from_millis(1), &[], &[0xFF; 20_000]);
        let mut out = Vec::new();
        builder.finish(&mut compressor, &mut out);
        out
    };
    active.insert(10, &frame(10)).unwrap();
    // Under the number 11 stands what is left of a frame: it claims to begin far behind.
    active.insert(11, &frame(11)[8_000..]).unwrap();
    active.insert(12, &frame(12)).unwrap();
    let path = directory.path().join("00000001.seg");
    let (sealed, _) = super::sealer::seal_segment(&active, &path, u64::MAX, 0, &|| ()).unwrap();
    let firsts: Vec<u64> = sealed.unwrap().blocks().iter().map(|block| block.first_seq).collect();
    assert_eq!(firsts, [10, 12]);
}

#[test]
fn what_was_read_before_a_segment_was_sealed_is_found_after_it() {
    let log = Scratch::default().open();
    // One commit each, so that sealing merges many small frames into one block.
    let ids: Vec<_> = (0..20).map(|number| id(append(&*log, text(number), &[], None))).collect();
    assert_eq!(log.read(ids[0].pos.seq).unwrap().pos, ids[0].pos, "its frame is in the cache now");
    log.roll();
    wait_until_sealed(&log, 1);
    for id in &ids {
        assert_eq!(log.read(id.pos.seq).unwrap().pos, id.pos);
        assert_eq!(log.scan(id.pos.seq, 1).unwrap().first().map(|entry| entry.pos), Some(id.pos));
        assert_eq!(log.scan_back(id.pos.seq + 1).unwrap().last().map(|entry| entry.pos), Some(id.pos));
    }
}

/// Accepts an event with a dedupe key whose window is 30 days.
fn keyed(log: &dyn Log, key: &str) -> crate::log::Acked {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let dedupe = crate::log::DedupeKey {
        fingerprint: log.fingerprint("app", key.as_bytes()),
        expires_at: now.after(std::time::Duration::from_secs(30 * 86_400)),
        body: 0,
        runs_version: 0,
    };
    let accepting = crate::log::entry::Accepting {
        received_at: now,
        source: "app",
        event_type: None,
        method: &http::Method::POST,
        scheme: crate::event::Scheme::Http,
        path: "/",
        query: None,
        headers: &http::HeaderMap::new(),
        client: "127.0.0.1",
        proxy: None,
        captures: &[],
        verification_scheme: "none",
        verification_secret: None,
        config_generation: 1,
        extras: None,
        dedupe: Some((dedupe.fingerprint, dedupe.expires_at, dedupe.body)),
        body: Some(&[bytes::Bytes::from_static(b"{}")]),
        body_length: 2,
    };
    append(log, accepting.encode(), &[], Some(dedupe))
}

#[test]
fn a_segment_does_not_expire_before_its_dedupe_keys_are_written_elsewhere() {
    let scratch = Scratch::default();
    let log = scratch.open();
    let runs = scratch.directory.path().join("dedupe");
    // The keys can't be written.
    fs::remove_dir(&runs).unwrap();
    fs::write(&runs, "in the way").unwrap();
    let first = id(keyed(&*log, "key"));
    for round in 1..=2 {
        id(append(&*log, text(round), &[], None));
        log.roll();
        wait_until_sealed(&log, round as usize);
    }
    log.expire(u64::MAX);
    log.close();
    drop(log);
    fs::remove_file(&runs).unwrap();
    let log = scratch.open();
    assert_eq!(keyed(&*log, "key"), Ok(crate::log::Appended::Duplicate { first, body_differs: false }));
}

#[test]
fn the_directory_of_a_sealed_segment_is_gone_after_a_while_or_with_the_next_start() {
    let scratch = Scratch::default();
    let log = scratch.open();
    id(append(&*log, text(1), &[], None));
    log.roll();
    wait_until_sealed(&log, 1);
    while !scratch.log_files("00000001").is_empty() || !scratch.log_files(".gone").is_empty() {
        std::thread::yield_now();
    }
    log.close();
    drop(log);
    // What a start finds under this name is never looked at.
    let leftover = scratch.directory.path().join("log/00000007.gone");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("db"), "half of it").unwrap();
    let log = scratch.open();
    assert_eq!(payloads(&*log), [text(1)]);
    assert!(!leftover.exists());
}
