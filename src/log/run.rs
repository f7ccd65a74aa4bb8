//! Owns sorted flat runs: immutable files of fixed-size records, sorted by their first 16 bytes.
//!
//! Promises that a finished run is complete (written under another name, synced, renamed), that a flipped bit or a
//! lost end is an error and never wrong data, and that a look-up costs at most one read of one block. Everything a
//! look-up needs besides that block is in memory: 16 bytes a block and, if asked for, a filter of 18 bits a record.
//! Absent on purpose: mapping the file into memory, any lock, any change to a finished run.
//!
//! ```text
//! file    = header, block*, footer, trailer
//! header  = magic "STPRUN\0\0", version u32, record_len u32, zeros, crc u32               4096 bytes
//! block   = record*, zeros, crc u32 (of the block's number and bytes)                     a multiple of 4096 bytes
//! footer  = count u64, meta_len u32, meta, first key of each block, filters, see `run/filter.rs`
//! trailer = footer_len u64, version u32, footer_crc u32, crc u32, magic "STPRUNE\0"       28 bytes
//! ```
//!
//! Numbers are little-endian; keys are compared as bytes, so a number used as a key is big-endian. Checksums are
//! CRC32C. Records of a block are packed; as many fit as 4096 bytes hold, at least one.

mod filter;
mod merge;
#[cfg(test)]
mod tests;
mod write;

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

pub use merge::{merge, merge_by};

use self::filter::Filters;
use super::ReadError;

/// The longest record, in bytes. The shortest is its key: 16 bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// The most that a run's meta may hold, in bytes.
pub const META_BYTES_MAX: usize = 64 * 1024;

const KEY_BYTES: usize = 16;
const PAGE: usize = 4096;
const CRC_BYTES: usize = 4;
const TRAILER_BYTES: usize = 28;
const FORMAT_VERSION: u32 = 1;
const HEADER_MAGIC: &[u8; 8] = b"STPRUN\0\0";
const TRAILER_MAGIC: &[u8; 8] = b"STPRUNE\0";

/// The most that an iterator reads at once, in bytes.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Why a run can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Bytes on disk are not what was written.
    #[error("the run {file} is damaged: {what}")]
    Damaged {
        /// The file.
        file: String,
        /// Which part of it.
        what: &'static str,
    },
    /// The operating system failed.
    #[error("{doing} the run {file}: {source}")]
    Io {
        /// What was being done, as in "reading".
        doing: &'static str,
        /// The file.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is sound, but of a format this version does not know.
    #[error("the run {file} has format {version}: it was written by a newer version, run that one")]
    Format {
        /// The file.
        file: String,
        /// The format's number.
        version: u32,
    },
    /// What was to be written breaks the rules of a run; the file was not made.
    #[error("the run {file} can't be written: {what}")]
    Refused {
        /// The file.
        file: String,
        /// The broken rule.
        what: &'static str,
    },
}

impl RunError {
    fn damaged(path: &Path, what: &'static str) -> Self {
        Self::Damaged { file: path.display().to_string(), what }
    }

    fn refused(path: &Path, what: &'static str) -> Self {
        Self::Refused { file: path.display().to_string(), what }
    }

    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = path.display().to_string();
        move |source| Self::Io { doing, file, source }
    }

    /// A file that ends too early is damaged; every other failure is the system's.
    fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::damaged(path, "it ends too early"),
            _ => Self::io("reading", path)(source),
        }
    }
}

impl From<RunError> for ReadError {
    /// Runs know no sequence numbers, so damage is told as an input error that names the file.
    fn from(error: RunError) -> Self {
        match error {
            RunError::Io { file, source, .. } => Self::Io { file, source },
            RunError::Damaged { ref file, .. }
            | RunError::Format { ref file, .. }
            | RunError::Refused { ref file, .. } => {
                Self::Io { file: file.clone(), source: io::Error::new(io::ErrorKind::InvalidData, error.to_string()) }
            }
        }
    }
}

/// An open run. Reading needs no lock and moves no cursor: share it between threads as you like.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    file: File,
    shape: Shape,
    count: u64,
    bytes: u64,
    meta: Vec<u8>,
    /// The first key of each block.
    firsts: Vec<u128>,
    filters: Option<Filters>,
}

/// How records lie in blocks; follows from the record's length alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    record_len: usize,
    records_in_block: usize,
    block_bytes: usize,
}

impl Shape {
    fn new(record_len: usize) -> Option<Self> {
        if !(KEY_BYTES..=RECORD_BYTES_MAX).contains(&record_len) {
            return None;
        }
        let records_in_block = ((PAGE - CRC_BYTES) / record_len).max(1);
        let block_bytes = (records_in_block * record_len + CRC_BYTES).next_multiple_of(PAGE);
        Some(Self { record_len, records_in_block, block_bytes })
    }

    fn blocks(self, count: u64) -> u64 {
        count.div_ceil(self.records_in_block as u64)
    }

    fn offset(self, block: usize) -> u64 {
        PAGE as u64 + block as u64 * self.block_bytes as u64
    }

    /// The bytes that a block's last four are the checksum of, if they are.
    fn checked(self, block: usize, bytes: &[u8]) -> Option<&[u8]> {
        let (content, stored) = bytes.split_at_checked(self.block_bytes - CRC_BYTES)?;
        (u32_at(stored)? == block_crc(block, content)).then_some(content)
    }
}

impl Run {
    /// Opens a finished run. Reads the header and the footer, not the blocks.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if a checksum of header or footer is wrong, [`RunError::Format`], [`RunError::Io`].
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let file = File::open(path).map_err(RunError::io("opening", path))?;
        let bytes = file.metadata().map_err(RunError::io("opening", path))?.len();
        let shape = read_header(path, &file)?;
        let (footer_bytes, footer_crc) = read_trailer(path, &file, bytes)?;
        let start = (bytes - TRAILER_BYTES as u64)
            .checked_sub(footer_bytes)
            .ok_or_else(|| RunError::damaged(path, "the trailer does not fit the file"))?;

        let mut footer = Checked { file: &file, at: start, left: footer_bytes, crc: 0 };
        let wrong = || RunError::damaged(path, "the footer");
        let count = footer.u64().map_err(RunError::read(path))?;
        let blocks = shape.blocks(count);
        let expected = blocks.checked_mul(shape.block_bytes as u64).and_then(|all| all.checked_add(PAGE as u64));
        if expected != Some(start) {
            return Err(wrong());
        }
        let meta_len = footer.u32().map_err(RunError::read(path))? as usize;
        if meta_len > META_BYTES_MAX {
            return Err(wrong());
        }
        let meta = footer.slice(meta_len).map_err(RunError::read(path))?;
        let keys = footer.slice(usize::try_from(blocks).map_err(|_| wrong())? * KEY_BYTES);
        let keys = keys.map_err(RunError::read(path))?;
        let firsts: Vec<u128> = keys.as_chunks().0.iter().map(|key| u128::from_be_bytes(*key)).collect();
        drop(keys);
        let filters = Filters::read(&mut footer, blocks).map_err(RunError::read(path))?;
        if footer.left != 0 || footer.crc != footer_crc {
            return Err(wrong());
        }
        Ok(Self { path: path.to_owned(), file, shape, count, bytes, meta, firsts, filters })
    }

    /// The record with this key. Reads at most one block, and none for most absent keys of a run with a filter.
    ///
    /// # Errors
    /// [`RunError::Damaged`] if the block is not what was written, [`RunError::Io`].
    pub fn get(&self, key: &[u8; 16]) -> Result<Option<Vec<u8>>, RunError> {
        let number = u128::from_be_bytes(*key);
        let candidates = match &self.filters {
            None => 0..self.firsts.len(),
            Some(filters) => match filters.candidates(number, &self.firsts) {
                Some(blocks) => blocks,
                None => return Ok(None),
            },
        };
        let start = candidates.start;
        let within = self.firsts.get(candidates).unwrap_or_default().partition_point(|first| *first <= number);
        let Some(block) = (start + within).checked_sub(1) else { return Ok(None) };
        if self.shape.block_bytes == PAGE {
            let mut page = [0; PAGE];
            self.find_in_block(block, &mut page, key)
        } else {
            self.find_in_block(block, &mut vec![0; self.shape.block_bytes], key)
        }
    }

    fn find_in_block(&self, block: usize, buffer: &mut [u8], key: &[u8; 16]) -> Result<Option<Vec<u8>>, RunError> {
        self.file.read_exact_at(buffer, self.shape.offset(block)).map_err(RunError::read(&self.path))?;
        let records = self.records(block, buffer)?;
        let (mut low, mut high) = (0, records.len() / self.shape.record_len);
        while low < high {
            let middle = low.midpoint(high);
            let Some(record) = records.get(middle * self.shape.record_len..(middle + 1) * self.shape.record_len) else {
                break;
            };
            match record.get(..KEY_BYTES).map(|found| found.cmp(key)) {
                Some(std::cmp::Ordering::Equal) => return Ok(Some(record.to_vec())),
                Some(std::cmp::Ordering::Less) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(None)
    }

    /// The records in a block that was read, without padding and checksum.
    fn records<'a>(&self, block: usize, bytes: &'a [u8]) -> Result<&'a [u8], RunError> {
        let damaged = || RunError::damaged(&self.path, "a block of records");
        let content = self.shape.checked(block, bytes).ok_or_else(damaged)?;
        let before = block as u64 * self.shape.records_in_block as u64;
        let here = self.count.saturating_sub(before).min(self.shape.records_in_block as u64) as usize;
        content.get(..here * self.shape.record_len).ok_or_else(damaged)
    }

    /// All records with a key of at least `from`, in ascending order. An error ends the iterator.
    #[must_use]
    pub fn range(&self, from: &[u8; 16]) -> RunIter<'_> {
        let block = self.firsts.partition_point(|first| *first <= u128::from_be_bytes(*from)).saturating_sub(1);
        RunIter { run: self, block, buffer: Vec::new(), at: 0, next_blocks: 1, skip_below: Some(*from) }
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The length of a record in bytes.
    #[must_use]
    pub fn record_len(&self) -> usize {
        self.shape.record_len
    }

    /// What the writer stored beside the records.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// The size of the file in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The records of a run from some key on; reads one block first, then up to 64 KiB at a time.
#[derive(Debug)]
pub struct RunIter<'a> {
    run: &'a Run,
    block: usize,
    buffer: Vec<u8>,
    at: usize,
    next_blocks: usize,
    skip_below: Option<[u8; 16]>,
}

impl RunIter<'_> {
    /// Reads the next blocks and leaves only their records in the buffer.
    fn fill(&mut self) -> Result<(), RunError> {
        let shape = self.run.shape;
        let blocks = self.next_blocks.min(self.run.firsts.len() - self.block);
        let mut raw = vec![0; blocks * shape.block_bytes];
        self.run.file.read_exact_at(&mut raw, shape.offset(self.block)).map_err(RunError::read(&self.run.path))?;
        self.buffer.clear();
        self.at = 0;
        for bytes in raw.chunks_exact(shape.block_bytes) {
            let records = self.run.records(self.block, bytes)?;
            self.buffer.extend_from_slice(records);
            self.block += 1;
        }
        self.next_blocks = (self.next_blocks * 2).min((READ_BYTES_MAX / shape.block_bytes).max(1));
        Ok(())
    }
}

impl Iterator for RunIter<'_> {
    type Item = Result<Vec<u8>, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(record) = self.buffer.get(self.at..self.at + self.run.shape.record_len) else {
                if self.block >= self.run.firsts.len() {
                    return None;
                }
                if let Err(error) = self.fill() {
                    self.block = self.run.firsts.len();
                    self.buffer.clear();
                    return Some(Err(error));
                }
                continue;
            };
            self.at += self.run.shape.record_len;
            if self.skip_below.is_some_and(|from| record.get(..KEY_BYTES) < Some(&from)) {
                continue;
            }
            self.skip_below = None;
            return Some(Ok(record.to_vec()));
        }
    }
}

/// Reads a stretch of the file front to back and sums it up. Never reads or allocates past the stretch.
struct Checked<'a> {
    file: &'a File,
    at: u64,
    left: u64,
    crc: u32,
}

impl Checked<'_> {
    fn slice(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length as u64 > self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let Some(into) = into.get_mut(..most) else { return Ok(0) };
        let read = self.file.read_at(into, self.at)?;
        self.crc = crc32c::crc32c_append(self.crc, into.get(..read).unwrap_or_default());
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

fn read_header(path: &Path, file: &File) -> Result<Shape, RunError> {
    let mut header = [0; PAGE];
    file.read_exact_at(&mut header, 0).map_err(RunError::read(path))?;
    let damaged = || RunError::damaged(path, "the header");
    let (content, crc) = header.split_at(PAGE - CRC_BYTES);
    if !content.starts_with(HEADER_MAGIC) || u32_at(crc) != Some(crc32c::crc32c(content)) {
        return Err(damaged());
    }
    let version = content.get(8..).and_then(u32_at).ok_or_else(damaged)?;
    if version != FORMAT_VERSION {
        return Err(RunError::Format { file: path.display().to_string(), version });
    }
    let record_len = content.get(12..).and_then(u32_at).ok_or_else(damaged)?;
    Shape::new(record_len as usize).ok_or_else(damaged)
}

/// The footer's length and checksum.
fn read_trailer(path: &Path, file: &File, bytes: u64) -> Result<(u64, u32), RunError> {
    let damaged = || RunError::damaged(path, "the trailer");
    let start = bytes.checked_sub(TRAILER_BYTES as u64).filter(|start| *start >= PAGE as u64).ok_or_else(damaged)?;
    let mut trailer = Checked { file, at: start, left: TRAILER_BYTES as u64, crc: 0 };
    let mut read = || -> io::Result<_> {
        let (footer_bytes, version, footer_crc) = (trailer.u64()?, trailer.u32()?, trailer.u32()?);
        let expected = trailer.crc;
        Ok((footer_bytes, version, footer_crc, expected, trailer.u32()?, trailer.slice(TRAILER_MAGIC.len())?))
    };
    let (footer_bytes, version, footer_crc, expected, crc, magic) = read().map_err(RunError::read(path))?;
    if crc != expected || magic != TRAILER_MAGIC || version != FORMAT_VERSION {
        return Err(damaged());
    }
    Ok((footer_bytes, footer_crc))
}

fn block_crc(block: usize, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&(block as u64).to_le_bytes()), content)
}

fn u32_at(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}
