//! Owns the commit frame: the entries of one commit, encoded together, compressed together, checked together.
//!
//! The same bytes stand in the active segment (cut into parts) and in sealed segments (as blocks):
//!
//! ```text
//! frame  = version u8, codec u8, first_seq u64, base_time u64, entries u32, raw_length u32, stored_length u32,
//!          crc32c u32 (of the 34 header bytes with this field zero, then of `stored`), stored
//! stored = raw, compressed by codec (0 as it is, 1 LZ4 block, 2 zstd)
//! raw    = per entry: kind u8, time - base_time varint, refs varint, each ref varint, length varint, payload
//! ```
//!
//! Integers are big-endian, varints LEB128. Entries of a frame have consecutive sequence numbers. Decoding damaged
//! bytes gives an error, never a panic and never other bytes than were written.

use std::cell::RefCell;

use bytes::Bytes;

use super::{
    Entry, Kind,
    entry::{Reader, Writer},
};
use crate::{
    clock::Timestamp,
    event::{Pos, Seq},
};

/// A frame closes when its raw entries reach this many bytes (one entry may go beyond).
pub const FRAME_RAW_BYTES: usize = 256 * 1024;
/// A frame closes at this many entries.
pub const FRAME_ENTRIES: u32 = 512;
/// Bytes of the frame header.
pub const HEADER_BYTES: usize = 34;
/// No frame claims more raw bytes than this: a larger claim is damage.
const RAW_BYTES_MAX: usize = 4 * 1024 * 1024;
const VERSION: u8 = 1;

/// How the entries of a frame are compressed. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    Plain = 0,
    /// LZ4 block format.
    Lz4 = 1,
    /// Zstandard at this crate's chosen level.
    Zstd = 2,
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged frame")]
pub struct Damaged;

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sequence number of the first entry.
    pub first_seq: Seq,
    /// Time that the entries' times are counted from.
    pub base_time: Timestamp,
    /// How many entries.
    pub entries: u32,
    /// Bytes before compression.
    pub raw_length: u32,
    /// Bytes after the header.
    pub stored_length: u32,
    codec: u8,
    crc: u32,
}

impl Header {
    /// Reads a header; what follows it is not checked yet.
    ///
    /// # Errors
    /// [`Damaged`] if this can't be a header of this format.
    pub fn read(bytes: &[u8]) -> Result<Self, Damaged> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Damaged)?;
        let [version, codec, rest @ ..] = head;
        let (first_seq, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let (base_time, rest) = rest.split_first_chunk().ok_or(Damaged)?;
        let mut words = [0_u32; 4];
        for (word, chunk) in words.iter_mut().zip(rest.chunks_exact(4)) {
            *word = u32::from_be_bytes(chunk.try_into().map_err(|_| Damaged)?);
        }
        let [entries, raw_length, stored_length, crc] = words;
        let first_seq = u64::from_be_bytes(*first_seq);
        let sane = *version == VERSION
            && entries > 0
            && raw_length as usize <= RAW_BYTES_MAX
            && stored_length as usize <= RAW_BYTES_MAX
            && first_seq.checked_add(u64::from(entries)).is_some();
        if !sane {
            return Err(Damaged);
        }
        let base_time = Timestamp::from_millis(u64::from_be_bytes(*base_time));
        Ok(Self { first_seq, base_time, entries, raw_length, stored_length, codec: *codec, crc })
    }

    /// The length of the whole frame.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.stored_length as usize
    }

    /// The sequence number after the last entry.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.first_seq + u64::from(self.entries)
    }
}

/// Collects the entries of one frame.
pub struct Builder {
    raw: Writer,
    first_seq: Seq,
    base_time: Timestamp,
    entries: u32,
}

impl Builder {
    /// An empty frame; the times of its entries must not lie before `base_time`.
    #[must_use]
    pub fn new(first_seq: Seq, base_time: Timestamp) -> Self {
        Self::reusing(Vec::with_capacity(FRAME_RAW_BYTES / 2), first_seq, base_time)
    }

    /// As [`Builder::new`], with the memory of an earlier frame.
    #[must_use]
    pub fn reusing(mut memory: Vec<u8>, first_seq: Seq, base_time: Timestamp) -> Self {
        memory.clear();
        Self { raw: Writer(memory), first_seq, base_time, entries: 0 }
    }

    /// Adds an entry with the next sequence number.
    pub fn push(&mut self, kind: Kind, time: Timestamp, refs: &[Seq], payload: &[u8]) {
        self.raw.0.push(kind as u8);
        self.raw.number(time.as_millis().saturating_sub(self.base_time.as_millis()));
        self.raw.number(refs.len() as u64);
        for seq in refs {
            self.raw.number(*seq);
        }
        self.raw.bytes(payload);
        self.entries += 1;
    }

    /// Whether the frame should be closed before anything else is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries >= FRAME_ENTRIES || self.raw.0.len() >= FRAME_RAW_BYTES
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The sequence number that the next entry gets.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.first_seq + u64::from(self.entries)
    }

    /// The sequence number of the first entry.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// Gives the memory of an unfinished frame back.
    #[must_use]
    pub fn into_memory(self) -> Vec<u8> {
        self.raw.0
    }

    /// Raw bytes so far.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.raw.0.len()
    }

    /// Closes the frame: compresses, checksums, appends it to `out` and gives the memory back for the next one.
    pub fn finish(self, compressor: &mut Compressor, out: &mut Vec<u8>) -> Vec<u8> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let codec = compressor.compress(&self.raw.0, out);
        let stored = out.len() - start - HEADER_BYTES;
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.extend_from_slice(&[VERSION, codec as u8]);
        head.extend_from_slice(&self.first_seq.to_be_bytes());
        head.extend_from_slice(&self.base_time.as_millis().to_be_bytes());
        for word in [self.entries as usize, self.raw.0.len(), stored, 0] {
            head.extend_from_slice(&u32::try_from(word).unwrap_or(u32::MAX).to_be_bytes());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), out.get(start + HEADER_BYTES..).unwrap_or_default());
        if let Some(tail) = head.last_chunk_mut::<4>() {
            *tail = crc.to_be_bytes();
        }
        if let Some(place) = out.get_mut(start..start + HEADER_BYTES) {
            place.copy_from_slice(&head);
        }
        self.raw.0
    }
}

/// A compressor with its context, kept from frame to frame.
pub struct Compressor {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// A compressor for a codec; `level` is zstd's.
    #[must_use]
    pub fn new(codec: Codec, level: i32) -> Self {
        let zstd = if codec == Codec::Zstd { zstd::bulk::Compressor::new(level).ok() } else { None };
        Self { codec, zstd }
    }

    /// Appends the compressed bytes, or the raw ones where that is smaller, and says which.
    fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Codec {
        let start = out.len();
        let written = match self.codec {
            Codec::Plain => None,
            Codec::Lz4 => {
                out.resize(start + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
                out.get_mut(start..).and_then(|room| lz4_flex::block::compress_into(raw, room).ok())
            }
            Codec::Zstd => {
                out.resize(start + zstd::zstd_safe::compress_bound(raw.len()), 0);
                let zstd = self.zstd.as_mut();
                zstd.zip(out.get_mut(start..)).and_then(|(zstd, room)| zstd.compress_to_buffer(raw, room).ok())
            }
        };
        match written {
            Some(length) if length < raw.len() => {
                out.truncate(start + length);
                self.codec
            }
            _ => {
                out.truncate(start);
                out.extend_from_slice(raw);
                Codec::Plain
            }
        }
    }
}

thread_local! {
    /// zstd's context is 160 KB: made once for each thread that reads.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn decompress_zstd(stored: &[u8], raw_length: usize) -> Result<Vec<u8>, Damaged> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = zstd::bulk::Decompressor::new().ok();
        }
        let decompressor = kept.as_mut().ok_or(Damaged)?;
        decompressor.decompress(stored, raw_length).map_err(|_| Damaged)
    })
}

/// Checks a frame and gives its raw bytes.
fn open(frame: &[u8]) -> Result<(Header, Bytes), Damaged> {
    let header = check(frame)?;
    let stored = frame.get(HEADER_BYTES..header.frame_bytes()).ok_or(Damaged)?;
    let raw_length = header.raw_length as usize;
    let raw = match header.codec {
        0 => Bytes::copy_from_slice(stored),
        1 => lz4_flex::block::decompress(stored, raw_length).map_err(|_| Damaged)?.into(),
        2 => decompress_zstd(stored, raw_length)?.into(),
        _ => return Err(Damaged),
    };
    if raw.len() == raw_length { Ok((header, raw)) } else { Err(Damaged) }
}

/// Checks a frame, header and checksum, without decompressing it.
///
/// # Errors
/// [`Damaged`].
pub fn check(frame: &[u8]) -> Result<Header, Damaged> {
    let header = Header::read(frame)?;
    let stored = frame.get(HEADER_BYTES..header.frame_bytes()).ok_or(Damaged)?;
    let mut head = *frame.first_chunk::<HEADER_BYTES>().ok_or(Damaged)?;
    if let Some(crc) = head.last_chunk_mut::<4>() {
        *crc = [0; 4];
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(&head), stored);
    if sum == header.crc { Ok(header) } else { Err(Damaged) }
}

/// Decodes a frame. Payloads share one allocation.
///
/// # Errors
/// [`Damaged`].
pub fn decode(frame: &[u8], partition: u16) -> Result<Vec<Entry>, Damaged> {
    let (header, raw) = open(frame)?;
    let mut from = Reader(raw);
    (0..u64::from(header.entries))
        .map(|index| decode_entry(&mut from, &header, Pos { partition, seq: header.first_seq + index }).ok_or(Damaged))
        .collect()
}

fn decode_entry(from: &mut Reader, header: &Header, pos: Pos) -> Option<Entry> {
    let kind = Kind::from_u8(*from.take(1)?.first()?)?;
    let time = Timestamp::from_millis(header.base_time.as_millis().checked_add(from.number()?)?);
    let refs = (0..from.count()?).map(|_| from.number()).collect::<Option<_>>()?;
    Some(Entry { pos, time, kind, refs, payload: from.slice()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(codec: Codec, payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut builder = Builder::new(1 << 20, Timestamp::from_millis(1_000));
        for (index, payload) in payloads.iter().enumerate() {
            let refs: Vec<Seq> = (0..index as u64 % 3).collect();
            builder.push(Kind::Accepted, Timestamp::from_millis(1_000 + index as u64), &refs, payload);
        }
        let mut out = b"before".to_vec();
        builder.finish(&mut Compressor::new(codec, 1), &mut out);
        out.split_off(6)
    }

    proptest! {
        #[test]
        fn entries_survive_a_frame_in_every_codec(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..40),
            codec in prop::sample::select(vec![Codec::Plain, Codec::Lz4, Codec::Zstd]),
        ) {
            let bytes = frame(codec, &payloads);
            let entries = decode(&bytes, 3).unwrap();
            prop_assert_eq!(entries.len(), payloads.len());
            for (index, (entry, payload)) in entries.iter().zip(&payloads).enumerate() {
                prop_assert_eq!(&entry.payload[..], &payload[..]);
                prop_assert_eq!(entry.pos, Pos { partition: 3, seq: (1 << 20) + index as u64 });
                prop_assert_eq!(entry.refs.len(), index % 3);
            }
            prop_assert_eq!(check(&bytes).unwrap().frame_bytes(), bytes.len());
        }

        #[test]
        fn a_flipped_bit_is_always_noticed(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..5),
            codec in prop::sample::select(vec![Codec::Plain, Codec::Lz4, Codec::Zstd]),
            place in any::<prop::sample::Index>(),
        ) {
            let mut bytes = frame(codec, &payloads);
            let bit = place.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes, 0).is_err());
            prop_assert!(check(&bytes).is_err());
        }
    }

    #[test]
    fn a_truncated_frame_is_damaged() {
        let bytes = frame(Codec::Zstd, &[vec![7; 5000]]);
        assert!((0..bytes.len()).all(|length| decode(&bytes[..length], 0).is_err()));
    }
}
