//! What stands on disk, and when.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::*;
use crate::routing::{Compression, Content};

const HOUR: Duration = Duration::from_secs(3600);
const T: Timestamp = Timestamp::from_millis(1_767_323_045_678);

struct Rig {
    directory: TempDir,
    files: Files,
    policy: Arc<FilePolicy>,
}

fn rig(size: u64, compression: Compression) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e-{time}.ndjson");
    let policy = FilePolicy::new(&path, Content::Event, (size, HOUR), compression).unwrap();
    Rig { directory, files: Files::default(), policy: Arc::new(policy) }
}

fn at(seconds: u64) -> Now {
    let later = Duration::from_secs(seconds);
    Now { wall: T.after(later), steady: Timestamp::from_millis(1_000).after(later) }
}

impl Rig {
    fn write(&self, lines: &str, now: Now) -> PathBuf {
        let url = self.files.write(&self.policy, lines.as_bytes(), now).unwrap();
        url.strip_prefix("file://").unwrap().into()
    }

    /// Names and contents, sorted.
    fn all(&self) -> Vec<(String, Vec<u8>)> {
        let mut all: Vec<(String, Vec<u8>)> = fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        all.sort();
        all
    }

    /// What a process that died left, seen by the next one.
    fn recover(&self) {
        Files::default().recover(&self.policy).unwrap();
    }
}

#[test]
fn a_file_has_its_name_only_when_it_is_whole() {
    let rig = rig(1 << 20, Compression::None);
    let path = rig.write("1\n", at(0));
    assert_eq!(path, rig.directory.path().join("e-20260102T030405678Z.ndjson"));
    assert!(!path.exists());
    assert_eq!(rig.all(), [("e-20260102T030405678Z.ndjson.part".to_owned(), b"1\n".to_vec())]);
    assert_eq!(rig.write("2\n", at(1)), path);
    assert_eq!(rig.files.due(), Some(at(3600).steady));
    rig.files.finish_old(at(3599).steady, false).unwrap();
    assert!(!path.exists());
    rig.files.finish_old(at(3600).steady, false).unwrap();
    assert_eq!(rig.all(), [("e-20260102T030405678Z.ndjson".to_owned(), b"1\n2\n".to_vec())]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
    assert_eq!((rig.files.take_finished(), rig.files.due(), rig.files.open_bytes()), (1, None, 0));
}

#[test]
fn a_batch_that_comes_late_or_does_not_fit_begins_another_file() {
    let rig = rig(1024, Compression::None);
    let line = format!("{}\n", "x".repeat(599));
    let first = rig.write(&line, at(0));
    let second = rig.write(&line, at(1));
    assert!(first.exists() && !second.exists() && first != second);
    let third = rig.write("late\n", at(3601));
    assert!(second.exists() && !third.exists());
    let large = rig.write(&line.repeat(2), at(3602));
    assert!(third.exists() && large.exists(), "a file that is full is finished at once");
}

#[test]
fn two_files_of_the_same_millisecond_have_different_names() {
    let rig = rig(1024, Compression::None);
    let line = format!("{}\n", "x".repeat(2000));
    let paths: std::collections::BTreeSet<PathBuf> = (0..5).map(|_| rig.write(&line, at(0))).collect();
    assert_eq!(paths.len(), 5);
    assert!(rig.all().iter().all(|(_, bytes)| bytes.len() == 2001));
}

#[test]
fn what_a_crash_left_ends_with_its_last_whole_line() {
    for (left, kept) in [
        (&b"1\n2\n3"[..], &b"1\n2\n"[..]),
        (b"1\n2\n", b"1\n2\n"),
        (b"1\n2\n3\0\0\0\n\n4\n", b"1\n2\n"),
        (b"1", b""),
        (b"", b""),
    ] {
        let rig = rig(1 << 20, Compression::None);
        let part = rig.directory.path().join("e-20260102T030405678Z.ndjson.part");
        fs::write(&part, left).unwrap();
        fs::write(rig.directory.path().join("e-other.ndjson.part"), "not ours").unwrap();
        rig.recover();
        let mut expected = vec![("e-other.ndjson.part".to_owned(), b"not ours".to_vec())];
        if !kept.is_empty() {
            expected.insert(0, ("e-20260102T030405678Z.ndjson".to_owned(), kept.to_vec()));
        }
        assert_eq!(rig.all(), expected, "{left:?}");
    }
}

#[test]
fn a_file_that_is_being_written_is_not_recovered() {
    let rig = rig(1 << 20, Compression::None);
    let path = rig.write("1\n", at(0));
    rig.recover();
    rig.write("2\n", at(0));
    rig.files.finish_old(at(0).steady, true).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"1\n2\n");
}

fn unpacked(path: &Path) -> String {
    String::from_utf8(zstd::decode_all(fs::File::open(path).unwrap()).unwrap()).unwrap()
}

#[test]
fn compressed_batches_are_frames_of_one_file_and_a_torn_frame_is_cut_off() {
    let rig = rig(1 << 20, Compression::Zstd);
    let lines = |from: u32| (from..from + 1000).map(|number| format!("{number}\n")).collect::<String>();
    rig.write(&lines(0), at(0));
    let path = rig.write(&lines(1000), at(1));
    let part = rig.directory.path().join("e-20260102T030405678Z.ndjson.part");
    let whole = fs::read(&part).unwrap();
    drop(rig.files);
    fs::remove_file(&part).unwrap();
    let lines_torn = lines(2000);
    let third = writer::packed(Compression::Zstd, lines_torn.as_bytes()).unwrap();
    for torn in [0, 1, 5, third.len() / 2, third.len() - 1] {
        let mut file = fs::File::create(&part).unwrap();
        file.write_all(&whole).unwrap();
        file.write_all(&third[..torn]).unwrap();
        drop(file);
        Files::default().recover(&rig.policy).unwrap();
        assert_eq!(unpacked(&path), lines(0) + &lines(1000), "{torn} bytes of the third frame");
        fs::remove_file(&path).unwrap();
    }
    let mut flipped = [&whole[..], &third].concat();
    let last = flipped.len() - 20;
    flipped[last] ^= 1;
    fs::write(&part, flipped).unwrap();
    Files::default().recover(&rig.policy).unwrap();
    assert_eq!(unpacked(&path), lines(0) + &lines(1000));
}

#[test]
fn a_directory_that_is_gone_is_an_error_and_its_return_is_noticed() {
    let rig = rig(1 << 20, Compression::None);
    rig.write("1\n", at(0));
    let moved = rig.directory.path().with_extension("moved");
    fs::rename(rig.directory.path(), &moved).unwrap();
    assert!(rig.files.write(&rig.policy, b"2\n", at(1)).is_err());
    fs::rename(&moved, rig.directory.path()).unwrap();
    let path = rig.write("2\n", at(2));
    rig.files.finish_old(at(2).steady, true).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"2\n");
}
