//! Owns what a crash left: files without their names.
//!
//! Promises that a file ends with its last whole line or its last whole frame, and that a file somebody is writing is
//! not touched. What stands before was on disk before its events counted as delivered: it is never cut.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _},
    path::Path,
};

use super::{UNFINISHED, writer::publish};
use crate::routing::{Compression, FilePolicy};

/// Finishes every unfinished file of the policy. Gives how many got their names.
pub(super) fn all(policy: &FilePolicy) -> io::Result<u64> {
    let mut finished = 0;
    for entry in fs::read_dir(&policy.directory)? {
        let unfinished = entry?.path();
        let name = unfinished.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(name) = name.strip_suffix(UNFINISHED).filter(|name| is_ours(policy, name)) else { continue };
        finished += u64::from(one(policy, &unfinished, &policy.directory.join(name))?);
    }
    Ok(finished)
}

/// Whether it is a name of the policy's with a time where the mark stands.
fn is_ours(policy: &FilePolicy, name: &str) -> bool {
    let time = name.strip_prefix(&*policy.before).and_then(|rest| rest.strip_suffix(&*policy.behind));
    time.is_some_and(|time| {
        time.len() == "20260102T030405678Z".len()
            && time.char_indices().all(|(at, letter)| match at {
                8 => letter == 'T',
                18 => letter == 'Z',
                _ => letter.is_ascii_digit(),
            })
    })
}

fn one(policy: &FilePolicy, unfinished: &Path, finished: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().read(true).write(true).open(unfinished)?;
    if file.try_lock().is_err() {
        return Ok(false);
    }
    let good = match policy.compression {
        Compression::None => whole_lines(&file)?,
        Compression::Zstd => whole_frames(&file)?,
    };
    let length = file.metadata()?.len();
    if good < length {
        tracing::warn!(file = %unfinished.display(), cut = length - good, "an unfinished line of a file of events is cut off");
    }
    if good == 0 {
        fs::remove_file(unfinished)?;
        return Ok(false);
    }
    file.set_len(good)?;
    file.sync_all()?;
    publish(&policy.directory, unfinished, finished)?;
    Ok(true)
}

/// Bytes up to the end of the last line before the first NUL: JSON has none, but what a power cut left unwritten reads
/// as zeros.
fn whole_lines(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let (mut good, mut at) = (0, 0_u64);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(good);
        }
        let end = memchr::memchr(0, bytes);
        let sound = end.and_then(|end| bytes.get(..end)).unwrap_or(bytes);
        if let Some(newline) = memchr::memrchr(b'\n', sound) {
            good = at + newline as u64 + 1;
        }
        if end.is_some() {
            return Ok(good);
        }
        let read = bytes.len();
        at += read as u64;
        reader.consume(read);
    }
}

/// Bytes up to the end of the last frame that decodes, checksum included. Decoded in pieces.
fn whole_frames(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut piece = vec![0; 64 * 1024];
    loop {
        let good = reader.stream_position()?;
        if reader.fill_buf()?.is_empty() {
            return Ok(good);
        }
        let mut decoder = zstd::stream::read::Decoder::with_buffer(&mut reader)?.single_frame();
        loop {
            match decoder.read(&mut piece) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_of_the_disk(&error) => return Err(error),
                Err(_broken) => return Ok(good),
            }
        }
    }
}

/// Whether reading failed, rather than decoding.
fn is_of_the_disk(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}
