//! Owns the tests of dedupe: windows, batches that fail, publications, merges, forgetting, damage.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    event::Seq,
    log::{DedupeKey, run::RunError},
};

const HOUR: Duration = Duration::from_secs(3_600);

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn key(number: u64, expires_at: u64) -> DedupeKey {
    let fingerprint = fingerprint(&[7; 16], "shop", &number.to_le_bytes());
    DedupeKey { fingerprint, expires_at: at(expires_at), body: number, runs_version: 0 }
}

fn id(seq: Seq) -> EventId {
    EventId { time: at(1_000 + seq), pos: Pos { partition: 3, seq } }
}

fn open(directory: &Path) -> (Runs, Table) {
    let (runs, covered, damaged) = Runs::open(directory, at(0)).unwrap();
    assert!(damaged.is_empty());
    (runs, Table::new(covered))
}

/// Commits the keys and moves them into a run.
fn publish(runs: &Runs, table: &mut Table, keys: impl IntoIterator<Item = (u64, Seq)>) {
    for (number, seq) in keys {
        table.insert(&key(number, u64::from(u32::MAX)), id(seq));
    }
    table.commit();
    let frozen = table.take_frozen().unwrap();
    let version = runs.publish(&frozen, at(0)).unwrap();
    table.published(&frozen, version);
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_fingerprint_depends_on_the_store_the_source_and_the_key_and_not_on_their_concatenation() {
    let base = fingerprint(&[1; 16], "ab", b"c");
    assert_eq!(base, fingerprint(&[1; 16], "ab", b"c"));
    for other in
        [fingerprint(&[2; 16], "ab", b"c"), fingerprint(&[1; 16], "a", b"bc"), fingerprint(&[1; 16], "ab", b"d")]
    {
        assert_ne!(base, other);
    }
}

#[test]
fn the_window_ends_exactly_at_its_millisecond_in_the_table_and_in_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    let first = key(1, 5_000);
    let other_body = DedupeKey { body: 99, expires_at: at(9_000), ..first };
    table.insert(&first, id(4));
    table.commit();
    assert_eq!(table.check(&first, at(4_999)), Some((id(4), false)));
    assert_eq!(table.check(&other_body, at(4_999)), Some((id(4), true)));
    assert_eq!(table.check(&other_body, at(5_000)), None);
    let frozen = table.take_frozen().unwrap();
    let version = runs.publish(&frozen, at(0)).unwrap();
    table.published(&frozen, version);
    assert_eq!(table.check(&first, at(1)), None);
    assert_eq!(runs.seen(&other_body, at(4_999)).unwrap(), Some((id(4), true)));
    assert_eq!(runs.seen(&first, at(5_000)).unwrap(), None);
}

#[test]
fn a_key_of_a_batch_that_fails_was_never_there_and_what_it_replaced_is_back() {
    let mut table = Table::new(0);
    table.insert(&key(1, 100), id(1));
    table.commit();
    table.insert(&key(1, 900), id(2));
    table.insert(&key(1, 950), id(3));
    table.insert(&key(2, 900), id(4));
    assert_eq!(table.check(&key(2, 900), at(200)), Some((id(4), false)));
    assert!(table.take_frozen().is_none());
    table.rollback();
    assert_eq!(table.check(&key(2, 900), at(200)), None);
    assert_eq!(table.check(&key(1, 900), at(200)), None);
    assert_eq!(table.check(&key(1, 900), at(99)), Some((id(1), false)));
    assert_eq!(table.len(), 1);
}

#[test]
fn fingerprints_and_records_are_those_of_every_store_before() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    assert_eq!(fingerprint(&[7; 16], "shop", b"evt_1"), 337_189_234_572_735_561_000_787_972_671_964_855_981);
    publish(&runs, &mut table, [(1, 2)]);
    let path = directory.path().join("0000000000000000-0000000000000000-0000000000000000-0000000000000003.run");
    let bytes = fs::read(path).unwrap();
    assert_eq!(
        hex::encode(&bytes[4_096..4_096 + 47]),
        "886bcf3dcc80586e33c9926616262b8d02000000000000000300ea0300000000ffffffff0000010000000000000000"
    );
}

#[test]
fn a_full_table_asks_to_be_frozen_once_and_takes_new_keys_meanwhile() {
    let mut table = Table::new(0);
    for number in 0..TABLE_KEYS_FULL as u64 {
        assert!(!table.full());
        let key = DedupeKey { fingerprint: u128::from(number) << 64, expires_at: at(9), body: 0, runs_version: 0 };
        table.insert(&key, id(number));
    }
    table.commit();
    assert!(table.full() && !table.overfull());
    let frozen = table.take_frozen().unwrap();
    assert!(!table.full() && table.take_frozen().is_none());
    table.insert(&key(1, 100), id(1 << 30));
    table.commit();
    assert_eq!(table.len(), TABLE_KEYS_FULL + 1);
    table.published(&frozen, 1);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_look_up_that_began_before_a_publication_is_repeated_by_the_committer() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    let key = key(1, 9_000);
    table.insert(&key, id(7));
    table.commit();
    let frozen = table.take_frozen().unwrap();

    // Given a request that asks the runs just before the key arrives there.
    let early = runs.version();
    assert_eq!(runs.seen(&key, at(1)).unwrap(), None);
    // When the run is published, the key is in both places; nothing need be repeated yet.
    let version = runs.publish(&frozen, at(0)).unwrap();
    assert!(!table.outdated(early));
    assert_eq!(table.check(&key, at(1)), Some((id(7), false)));
    // And when it has left the table, the committer knows that the request's look-up was too early.
    table.published(&frozen, version);
    assert_eq!(table.check(&key, at(1)), None);
    assert!(table.outdated(early));
    assert_eq!(runs.seen(&key, at(1)).unwrap(), Some((id(7), false)));
    // While a look-up with the new version has seen the run.
    assert!(!table.outdated(runs.version()));
}

#[test]
fn a_failed_publication_changes_nothing_and_can_be_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("dedupe");
    let (runs, mut table) = open(&place);
    table.insert(&key(1, 9_000), id(7));
    table.commit();
    let frozen = table.take_frozen().unwrap();
    fs::remove_dir(&place).unwrap();
    assert!(matches!(runs.publish(&frozen, at(0)), Err(RunError::Io { .. })));
    assert_eq!((runs.version(), runs.len()), (0, 0));
    assert!(table.check(&key(1, 0), at(1)).is_some());
    fs::create_dir(&place).unwrap();
    runs.publish(&frozen, at(0)).unwrap();
    assert_eq!(runs.seen(&key(1, 0), at(1)).unwrap(), Some((id(7), false)));
}

#[test]
fn at_most_eight_runs_are_alive_and_every_key_is_still_found() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    for round in 0..40 {
        publish(&runs, &mut table, (round * 10..round * 10 + 10).map(|number| (number, number)));
        assert!(runs.len() <= RUNS_MAX);
        runs.tidy(at(0)).unwrap();
        assert!(files(directory.path()).len() < RUNS_MAX);
    }
    drop(runs);
    let (runs, covered, _) = Runs::open(directory.path(), at(0)).unwrap();
    assert_eq!(covered, 400);
    for number in 0..400 {
        assert_eq!(runs.seen(&key(number, 0), at(1)).unwrap(), Some((id(number), false)));
    }
    assert_eq!(runs.seen(&key(400, 0), at(1)).unwrap(), None);
}

#[test]
fn expired_runs_are_deleted_except_the_newest_which_says_how_far_the_log_is_covered() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    for round in 0..3 {
        publish(&runs, &mut table, [(round, round)]);
    }
    runs.tidy(at(u64::from(u32::MAX)).after(HOUR)).unwrap();
    assert_eq!((runs.len(), files(directory.path()).len()), (1, 1));
    drop(runs);
    assert_eq!(Runs::open(directory.path(), at(0)).unwrap().1, 3);
}

#[test]
fn a_forgotten_key_stays_forgotten_when_the_newer_run_expires_and_after_merges() {
    for in_one_run in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (runs, mut table) = open(directory.path());
        // The oldest run is large: merges of the newer ones leave it alone.
        publish(&runs, &mut table, (1..100).map(|number| (number, number)));
        let forgotten = key(1, 0);
        table.forget(forgotten.fingerprint);
        runs.forget(forgotten.fingerprint);
        assert_eq!(runs.seen(&forgotten, at(1)).unwrap(), None);
        if !in_one_run {
            publish(&runs, &mut table, []);
            assert_eq!(runs.seen(&forgotten, at(1)).unwrap(), None);
        }
        // Accepted again, with a window that ends long before the first one would have.
        table.insert(&key(1, 50), id(110));
        publish(&runs, &mut table, []);
        assert_eq!(runs.seen(&forgotten, at(49)).unwrap(), Some((id(110), false)));
        for round in 200..230 {
            publish(&runs, &mut table, [(round, round)]);
            runs.tidy(at(if round < 207 { 49 } else { 60 })).unwrap();
            assert_eq!(runs.seen(&forgotten, at(60)).unwrap(), None);
            assert!(runs.seen(&key(2, 0), at(60)).unwrap().is_some());
        }
    }
}

#[test]
fn a_key_that_is_forgotten_while_its_run_is_written_is_not_found_in_that_run() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    let key = key(1, 9_000);
    let forget = |table: &mut Table| {
        table.forget(key.fingerprint);
        runs.forget(key.fingerprint);
    };
    forget(&mut table);
    table.insert(&key, id(1));
    table.commit();
    let frozen = table.take_frozen().unwrap();
    forget(&mut table);
    let version = runs.publish(&frozen, at(0)).unwrap();
    assert_eq!((runs.seen(&key, at(1)).unwrap(), table.check(&key, at(1))), (None, None));
    table.published(&frozen, version);
    publish(&runs, &mut table, []);
    assert_eq!((runs.seen(&key, at(1)).unwrap(), table.check(&key, at(1))), (None, None));
}

#[test]
fn what_a_crash_leaves_behind_is_cleared_away() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    for round in 0..8 {
        publish(&runs, &mut table, [(round, round)]);
    }
    let inputs: Vec<_> =
        files(directory.path()).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect();
    runs.tidy(at(0)).unwrap();
    let merged = files(directory.path());
    drop(runs);
    for (path, bytes) in inputs {
        fs::write(path, bytes).unwrap();
    }
    fs::write(directory.path().join("half.run.tmp"), b"half").unwrap();
    fs::write(directory.path().join("notes.txt"), b"not ours").unwrap();
    let (runs, covered, damaged) = Runs::open(directory.path(), at(0)).unwrap();
    assert_eq!((covered, damaged.len(), files(directory.path()).len()), (8, 0, merged.len() + 1));
    assert!((0..8).all(|number| runs.seen(&key(number, 0), at(1)).unwrap().is_some()));
}

#[test]
fn a_damaged_block_is_an_error_for_its_keys_and_keeps_nothing_else_from_being_merged() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    publish(&runs, &mut table, [(0, 0)]);
    flip(&files(directory.path())[0], 4_096 + 20);
    for round in 1..30 {
        publish(&runs, &mut table, [(round, round)]);
        let _reported_once = runs.tidy(at(0));
        assert!(runs.len() <= RUNS_MAX + 1);
    }
    assert!(matches!(runs.seen(&key(0, 0), at(1)), Err(RunError::Damaged { .. })));
    assert!((1..30).all(|number| runs.seen(&key(number, 0), at(1)).unwrap().is_some()));
}

#[test]
fn a_run_that_can_not_be_opened_is_read_from_the_log_again_and_then_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let (runs, mut table) = open(directory.path());
    for round in 0..3 {
        publish(&runs, &mut table, [(round, round)]);
    }
    drop(runs);
    let broken = files(directory.path())[1].clone();
    flip(&broken, fs::metadata(&broken).unwrap().len() as usize - 40);
    let (runs, covered, damaged) = Runs::open(directory.path(), at(0)).unwrap();
    assert_eq!((covered, damaged), (1, vec![broken.clone()]));
    let mut table = Table::new(covered);
    publish(&runs, &mut table, [(1, 1), (2, 2)]);
    assert!((0..3).all(|number| runs.seen(&key(number, 0), at(1)).unwrap().is_some()));
    assert!(!broken.exists() && broken.with_extension("damaged").exists());
    drop(runs);
    assert_eq!(Runs::open(directory.path(), at(0)).unwrap().1, 3);
}

#[derive(Clone, Debug)]
enum Step {
    Accept { number: u64, window_ms: u64, durable: bool },
    Forget(u64),
    Pass(u64),
    Freeze,
    Publish,
    Leave,
    Tidy,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let accept = (0..25_u64, 1..4_000_u64, prop::bool::weighted(0.9))
        .prop_map(|(number, window_ms, durable)| Step::Accept { number, window_ms, durable });
    let step = prop_oneof![
        12 => accept,
        2 => (0..25_u64).prop_map(Step::Forget),
        4 => (1..500_u64).prop_map(Step::Pass),
        4 => Just(Step::Freeze),
        4 => Just(Step::Publish),
        4 => Just(Step::Leave),
        2 => Just(Step::Tidy),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..150)
}

/// What the log would hold: the key of an accepted event, or a key that was forgotten.
enum Logged {
    Accepted(DedupeKey),
    Forgotten(u128),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_and_runs_together_answer_like_one_map_whatever_happens_in_between(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let (mut runs, mut table) = open(directory.path());
        let mut model: HashMap<u128, (EventId, u64, u64)> = HashMap::new();
        let mut log: Vec<Logged> = Vec::new();
        let (mut now, mut frozen, mut published) = (0_u64, None::<Frozen>, None::<u64>);
        for step in steps {
            match step {
                Step::Accept { number, window_ms, durable } => {
                    let key = DedupeKey { body: now % 2, ..key(number, now + window_ms) };
                    let known = runs.seen(&key, at(now)).unwrap().or_else(|| table.check(&key, at(now)));
                    let expected = model
                        .get(&key.fingerprint)
                        .filter(|(_, expires_at, _)| now < *expires_at)
                        .map(|(first, _, body)| (*first, *body != key.body));
                    prop_assert_eq!(known, expected);
                    if known.is_none() {
                        let first = id(log.len() as u64);
                        table.insert(&key, first);
                        if durable {
                            table.commit();
                            model.insert(key.fingerprint, (first, now + window_ms, key.body));
                            log.push(Logged::Accepted(key));
                        } else {
                            table.rollback();
                        }
                    }
                }
                Step::Forget(number) => {
                    let fingerprint = key(number, 0).fingerprint;
                    model.remove(&fingerprint);
                    log.push(Logged::Forgotten(fingerprint));
                    table.forget(fingerprint);
                    table.passed(log.len() as u64);
                    runs.forget(fingerprint);
                }
                Step::Pass(ms) => now += ms,
                Step::Freeze if frozen.is_none() => frozen = table.take_frozen(),
                Step::Publish if published.is_none() => {
                    published = frozen.as_ref().map(|frozen| runs.publish(frozen, at(now)).unwrap());
                }
                Step::Leave => {
                    if let Some(version) = published.take() {
                        table.published(&frozen.take().unwrap(), version);
                    }
                }
                Step::Freeze | Step::Publish => {}
                Step::Tidy => {
                    runs.tidy(at(now)).unwrap();
                    prop_assert!(runs.len() < RUNS_MAX);
                }
                Step::Crash => {
                    (frozen, published) = (None, None);
                    drop(runs);
                    let (opened, covered, damaged) = Runs::open(directory.path(), at(now)).unwrap();
                    prop_assert!(damaged.is_empty() && covered <= log.len() as u64);
                    (runs, table) = (opened, Table::new(covered));
                    for (seq, logged) in log.iter().enumerate().skip(covered as usize) {
                        match logged {
                            Logged::Accepted(key) => table.insert(key, id(seq as u64)),
                            Logged::Forgotten(fingerprint) => {
                                table.forget(*fingerprint);
                                runs.forget(*fingerprint);
                            }
                        }
                        table.commit();
                        table.passed(seq as u64 + 1);
                    }
                }
            }
        }
    }
}
