//! Owns the tests of runs: every record found, nothing else, and damage never taken for data.

use std::{collections::BTreeMap, fs};

use proptest::prelude::*;

use super::*;

const RECORD: usize = 24;

fn record(key: u128, value: u64) -> Vec<u8> {
    [&key.to_be_bytes()[..], &value.to_le_bytes()].concat()
}

fn write(path: &Path, filter: bool, records: &BTreeMap<u128, u64>) -> Run {
    let records = records.iter().map(|(key, value)| Ok(record(*key, *value)));
    Run::write(path, RECORD, filter, b"meta", records).unwrap()
}

fn spread(count: u64) -> BTreeMap<u128, u64> {
    (1..=count).map(|n| (u128::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835), n)).collect()
}

fn all(run: &Run) -> Vec<Vec<u8>> {
    run.range(&[0; 16]).map(Result::unwrap).collect()
}

#[test]
fn every_record_is_found_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    for (filter, count) in [(false, 0), (true, 0), (true, 1), (true, 2), (false, 169), (true, 170), (true, 5_000)] {
        let records = spread(count);
        let path = directory.path().join("a.run");
        write(&path, filter, &records);
        let run = Run::open(&path).unwrap();
        assert_eq!((run.len(), run.meta(), run.record_len()), (count, &b"meta"[..], RECORD));
        assert_eq!(run.bytes(), fs::metadata(&path).unwrap().len());
        for (key, value) in &records {
            assert_eq!(run.get(&key.to_be_bytes()).unwrap(), Some(record(*key, *value)));
            let absent = key.wrapping_add(1);
            assert_eq!(run.get(&absent.to_be_bytes()).unwrap().is_some(), records.contains_key(&absent));
        }
        assert_eq!(run.get(&[0; 16]).unwrap(), None);
        assert_eq!(run.get(&[0xFF; 16]).unwrap(), None);
        assert_eq!(all(&run).len() as u64, count);
    }
}

#[test]
fn keys_that_share_their_first_half_and_records_longer_than_a_page_work() {
    let directory = tempfile::tempdir().unwrap();
    for length in [16, 100, 4_092, 4_093, 10_000] {
        let path = directory.path().join("a.run");
        let records = (0..300_u128).map(|n| {
            let mut record = (n << 1).to_be_bytes().to_vec();
            record.resize(length, n as u8);
            record
        });
        let run = Run::write(&path, length, true, &[], records.clone().map(Ok)).unwrap();
        assert_eq!(all(&run), records.clone().collect::<Vec<_>>());
        for record in records {
            assert_eq!(run.get(record.first_chunk().unwrap()).unwrap(), Some(record));
        }
        assert_eq!(run.get(&3_u128.to_be_bytes()).unwrap(), None);
        let from: Vec<_> = run.range(&301_u128.to_be_bytes()).map(Result::unwrap).collect();
        assert_eq!(from.len(), 149);
        assert_eq!(from[0][..16], 302_u128.to_be_bytes());
    }
}

#[test]
fn a_filter_keeps_absent_keys_from_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.run");
    let blocks = write(&path, true, &spread(2_000)).firsts.len();
    // Every block is destroyed: only a look-up that reads can notice.
    let mut bytes = fs::read(&path).unwrap();
    for byte in &mut bytes[PAGE..PAGE + blocks * PAGE] {
        *byte ^= 0x55;
    }
    fs::write(&path, bytes).unwrap();
    let run = Run::open(&path).unwrap();
    let reads = (1..=2_000_u128).filter(|n| run.get(&(n << 77 | n).to_be_bytes()).is_err()).count();
    assert!(reads <= 2, "{reads} of 2,000 absent keys were read for");
}

#[test]
fn broken_rules_are_refused_and_leave_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.run");
    let (one, two) = (record(1, 0), record(2, 0));
    let unsorted = [two.clone(), one.clone()];
    let twice = [one.clone(), one.clone()];
    let short = [one[..20].to_vec()];
    for records in [&unsorted[..], &twice, &short] {
        let refused = Run::write(&path, RECORD, true, &[], records.iter().map(Ok));
        assert!(matches!(refused, Err(RunError::Refused { .. })));
    }
    let none = || std::iter::empty::<Result<Vec<u8>, RunError>>();
    assert!(matches!(Run::write(&path, 15, true, &[], none()), Err(RunError::Refused { .. })));
    assert!(matches!(Run::write(&path, 16, true, &[0; 65_537], none()), Err(RunError::Refused { .. })));
    let failing = [Ok(one), Err(RunError::damaged(&path, "an input"))];
    assert!(matches!(Run::write(&path, RECORD, true, &[], failing.into_iter()), Err(RunError::Damaged { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_flipped_bit_or_a_lost_end_is_damage_and_never_wrong_data() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.run");
    let records = spread(400);
    write(&path, true, &records);
    let sound = fs::read(&path).unwrap();
    let check = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let outcome = Run::open(&path).and_then(|run| {
            for (key, value) in &records {
                if run.get(&key.to_be_bytes())? != Some(record(*key, *value)) {
                    return Ok(());
                }
            }
            run.range(&[0; 16]).collect::<Result<Vec<_>, _>>().map(drop)
        });
        assert!(matches!(outcome, Err(RunError::Damaged { .. })), "{what}: {outcome:?}");
    };
    let blocks_end = PAGE * 4;
    let everywhere = (0..sound.len()).step_by(61).chain(0..24).chain(PAGE - 4..PAGE + 40);
    for at in everywhere.chain(blocks_end - 5..blocks_end + 80).chain(sound.len() - TRAILER_BYTES..sound.len()) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        check(&bytes, &format!("bit {} of byte {at}", at % 8));
    }
    for length in (0..sound.len()).step_by(509) {
        check(&sound[..length], &format!("cut at {length}"));
    }
}

#[test]
fn the_format_is_that_of_every_run_written_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.run");
    write(&path, false, &spread(3_000));
    assert_eq!(crc32c::crc32c(&fs::read(&path).unwrap()), 3_842_278_982);
}

#[test]
fn a_file_of_a_newer_format_is_not_called_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.run");
    write(&path, false, &spread(3));
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    let crc = crc32c::crc32c(&bytes[..PAGE - 4]);
    bytes[PAGE - 4..PAGE].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Run::open(&path), Err(RunError::Format { version: 9, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_is_the_union_in_which_the_newest_wins(
        layers in prop::collection::vec(prop::collection::btree_map(0_u128..400, any::<u64>(), 0..300), 0..5),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::new();
        let mut runs = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            expected.extend(layer.clone());
            runs.insert(0, write(&directory.path().join(format!("{index}.run")), index % 2 == 0, layer));
        }
        expected.retain(|_, value| *value % 3 != 0);
        let newest_first: Vec<&Run> = runs.iter().collect();
        let value = |record: &[u8]| u64::from_le_bytes(*record.last_chunk().unwrap());
        let merged: Vec<_> =
            merge(&newest_first, move |record| value(record) % 3 != 0).map(Result::unwrap).collect();
        let expected: Vec<_> = expected.iter().map(|(key, value)| record(*key, *value)).collect();
        prop_assert_eq!(merged, expected);
    }
}
