//! Owns sealed segments: flat files that are written once, never changed, and read without locks.
//!
//! ```text
//! file    = "STAGEPOST-SEG-1\n", block*, ids, index, trailer
//! block   = "SPB1", frame                                                  (see the frame module)
//! ids     = zstd of (per event: distance of sequence numbers varint, distance of times varint), crc32c u32
//! index   = per block: offset u64, length u32, first_seq u64, entries u32, base_time u64
//! trailer = index offset u64, blocks u32, last_time u64, ids length u32,
//!           crc32c u32 (of index and the fields before), "STAGEEND"
//! ```
//!
//! A file without a valid trailer is no segment: it is thrown away while its sled directory still stands. A flipped
//! bit costs one block, whose events are reported by id (the ids stand apart from the blocks for that purpose);
//! everything else is served.

pub mod retention;
mod seal;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

pub use seal::{Sealing, seal};

use super::{Entry, ReadError, entry::Reader, frame};
use crate::{
    clock::Timestamp,
    event::{EventId, Pos, Seq},
};

const MAGIC: &[u8; 16] = b"STAGEPOST-SEG-1\n";
const BLOCK_MAGIC: &[u8; 4] = b"SPB1";
const END_MAGIC: &[u8; 8] = b"STAGEEND";
const INDEX_BYTES: usize = 32;
const TRAILER_BYTES: usize = 36;
const FIELD_BYTES: usize = 24;
/// No segment's list of ids is larger than this when it is decompressed.
const IDS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Where a block stands and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    offset: u64,
    length: u32,
    /// Sequence number of its first entry.
    pub first_seq: Seq,
    /// How many entries.
    pub entries: u32,
    /// Time of its first entry, or a little before.
    pub base_time: Timestamp,
}

impl Block {
    /// The sequence number after its last entry.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.first_seq + u64::from(self.entries)
    }
}

/// An open sealed segment. Its index lies in memory: 32 bytes for each block of about 256 KiB raw.
#[derive(Debug)]
pub struct Sealed {
    file: File,
    path: PathBuf,
    /// The segment's number.
    pub number: u64,
    blocks: Vec<Block>,
    /// Offset and length of the ids.
    ids: (u64, u64),
    /// Bytes on disk.
    pub bytes: u64,
    /// Time of its last entry.
    pub last_time: Timestamp,
}

impl Sealed {
    /// Opens a sealed segment and checks its trailer and index; blocks are checked when they are read.
    ///
    /// # Errors
    /// `InvalidData` if the file is no complete segment, or what the system said.
    pub fn open(path: &Path, number: u64) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut head = [0; MAGIC.len()];
        let short = (MAGIC.len() + TRAILER_BYTES) as u64;
        if bytes < short {
            return Err(wrong("too short for a segment"));
        }
        file.read_exact_at(&mut head, 0)?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, bytes - TRAILER_BYTES as u64)?;
        let (fields, end) = trailer.split_at(TRAILER_BYTES - END_MAGIC.len());
        let number_at = |from: usize, length: usize| {
            fields
                .get(from..from + length)
                .unwrap_or_default()
                .iter()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let (offset, count, last_time) = (number_at(0, 8), number_at(8, 4), number_at(12, 8));
        let (ids_length, crc) = (number_at(20, 4), number_at(FIELD_BYTES, 4));
        let index_bytes = count * INDEX_BYTES as u64;
        if head != *MAGIC || end != END_MAGIC || offset.checked_add(index_bytes) != Some(bytes - TRAILER_BYTES as u64) {
            return Err(wrong("no valid trailer"));
        }
        let mut index = vec![0; usize::try_from(index_bytes).map_err(|_| wrong("index too large"))?];
        file.read_exact_at(&mut index, offset)?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&index), fields.get(..FIELD_BYTES).unwrap_or_default());
        if u64::from(sum) != crc {
            return Err(wrong("the index is damaged"));
        }
        let blocks = index.chunks_exact(INDEX_BYTES).filter_map(Block::read).collect::<Vec<_>>();
        if blocks.len() as u64 != count || blocks.is_empty() {
            return Err(wrong("the index is empty"));
        }
        let ids = (offset.saturating_sub(ids_length), ids_length);
        Ok(Self { file, path: path.into(), number, blocks, bytes, last_time: Timestamp::from_millis(last_time), ids })
    }

    /// Opens a segment whose trailer or index is damaged by walking its blocks; what can't be walked over is lost
    /// and the sequence numbers are missing from then on. None if no block is left.
    ///
    /// # Errors
    /// What the system said.
    pub fn salvage(path: &Path, number: u64) -> io::Result<Option<Self>> {
        let bytes = std::fs::read(path)?;
        let mut blocks: Vec<Block> = Vec::new();
        let mut last_time = Timestamp::ZERO;
        let mut offset = 0;
        while let Some(found) = bytes.get(offset..).and_then(|rest| memchr::memmem::find(rest, BLOCK_MAGIC)) {
            offset += found;
            let frame = bytes.get(offset + BLOCK_MAGIC.len()..).unwrap_or_default();
            match frame::check(frame) {
                Ok(header) if blocks.last().is_none_or(|last| last.end() <= header.first_seq) => {
                    let length = BLOCK_MAGIC.len() + header.frame_bytes();
                    last_time = last_time.max(header.base_time);
                    blocks.push(Block {
                        offset: offset as u64,
                        length: u32::try_from(length).map_err(io::Error::other)?,
                        first_seq: header.first_seq,
                        entries: header.entries,
                        base_time: header.base_time,
                    });
                    offset += length;
                }
                _ => offset += 1,
            }
        }
        let file = File::open(path)?;
        let whole = Self { file, path: path.into(), number, blocks, bytes: bytes.len() as u64, last_time, ids: (0, 0) };
        Ok((!whole.blocks.is_empty()).then_some(whole))
    }

    /// Its first sequence number.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.blocks.first().map_or(0, |block| block.first_seq)
    }

    /// The sequence number after its last.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.blocks.last().map_or(0, Block::end)
    }

    /// Time of its first entry, or a little before.
    #[must_use]
    pub fn first_time(&self) -> Timestamp {
        self.blocks.first().map_or(Timestamp::ZERO, |block| block.base_time)
    }

    /// Its blocks, in order.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first block that holds `seq` or something after it.
    #[must_use]
    pub fn block_at(&self, seq: Seq) -> Option<&Block> {
        self.blocks.get(self.blocks.partition_point(|block| block.end() <= seq))
    }

    /// The last block that holds something before `seq`.
    #[must_use]
    pub fn block_before(&self, seq: Seq) -> Option<&Block> {
        self.blocks.get(self.blocks.partition_point(|block| block.first_seq < seq).checked_sub(1)?)
    }

    /// The ids of the events that stand (or stood) in this segment, read from their own place in the file. None if
    /// that place is damaged too.
    #[must_use]
    pub fn event_ids(&self, partition: u16) -> Option<Vec<EventId>> {
        let mut bytes = vec![0; usize::try_from(self.ids.1).ok()?];
        self.file.read_exact_at(&mut bytes, self.ids.0).ok()?;
        let (packed, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(packed) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut from = Reader(zstd::bulk::decompress(packed, IDS_BYTES_MAX).ok()?.into());
        let (mut seq, mut time, mut ids) = (0, 0, Vec::new());
        while !from.0.is_empty() {
            seq += from.number()?;
            time += from.number()?;
            ids.push(EventId { time: Timestamp::from_millis(time), pos: Pos { partition, seq } });
        }
        Some(ids)
    }

    /// The frames of all blocks that are intact, for rewriting a damaged segment.
    #[must_use]
    pub fn raw_frames(&self) -> Vec<Vec<u8>> {
        let read = |block: &Block| {
            let mut bytes = vec![0; block.length as usize];
            self.file.read_exact_at(&mut bytes, block.offset).ok()?;
            let frame = bytes.strip_prefix(BLOCK_MAGIC)?;
            frame::check(frame).ok().map(|_| frame.to_vec())
        };
        self.blocks.iter().filter_map(read).collect()
    }

    /// Reads and checks one block.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] with the block's sequence numbers, or the system's error.
    pub fn read(&self, block: &Block, partition: u16) -> Result<Vec<Entry>, ReadError> {
        let file = || self.path.display().to_string();
        let mut bytes = vec![0; block.length as usize];
        self.file.read_exact_at(&mut bytes, block.offset).map_err(|source| ReadError::Io { file: file(), source })?;
        let damaged = || ReadError::Damaged { file: file(), first: block.first_seq, last: block.end() - 1 };
        let frame = bytes.strip_prefix(BLOCK_MAGIC).ok_or_else(damaged)?;
        let entries = frame::decode(frame, partition).map_err(|_| damaged())?;
        let matches = entries.len() == block.entries as usize
            && entries.first().is_some_and(|entry| entry.pos.seq == block.first_seq);
        if matches { Ok(entries) } else { Err(damaged()) }
    }
}

impl Block {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (offset, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (first_seq, rest) = rest.split_first_chunk()?;
        let (entries, rest) = rest.split_first_chunk()?;
        Some(Self {
            offset: u64::from_be_bytes(*offset),
            length: u32::from_be_bytes(*length),
            first_seq: u64::from_be_bytes(*first_seq),
            entries: u32::from_be_bytes(*entries),
            base_time: Timestamp::from_millis(u64::from_be_bytes(*rest.first_chunk()?)),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.first_seq.to_be_bytes());
        out.extend_from_slice(&self.entries.to_be_bytes());
        out.extend_from_slice(&self.base_time.as_millis().to_be_bytes());
    }
}
