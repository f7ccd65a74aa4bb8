//! Owns sealing: a finished active segment becomes one flat file.
//!
//! Small frames (few senders) are merged and compressed again in blocks of 256 KiB raw, because a frame of one
//! entry compresses badly; frames that are large enough are taken over as they are, because at peak rate there is
//! no CPU to spare. Until the rename the sled directory is the truth; after it, the file.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{BLOCK_MAGIC, Block, END_MAGIC, MAGIC, Sealed};
use crate::{
    clock::Timestamp,
    event::Seq,
    log::{
        Kind,
        entry::Writer,
        frame::{self, Builder, Codec, Compressor, FRAME_RAW_BYTES, Header},
    },
};

/// Frames of at least this many raw bytes are taken over without compressing them again.
const GOOD_FRAME_RAW_BYTES: u32 = 16 * 1024;
/// The file is synced each time it has grown by this much: one large sync at the end would make commits wait for all
/// of it.
const SYNC_BYTES: u64 = 512 * 1024;
/// Level of the blocks that are compressed anew.
const ZSTD_LEVEL: i32 = 3;

/// A segment file being written under a temporary name.
pub struct Sealing {
    out: BufWriter<File>,
    temporary: PathBuf,
    offset: u64,
    blocks: Vec<Block>,
    merging: Option<Builder>,
    compressor: Compressor,
    partition: u16,
    last_time: Timestamp,
    ids: Writer,
    last_id: (Seq, u64),
    synced: u64,
}

/// Writes all `frames` (in order) as the segment `path`: temporary file, fsync, rename, fsync of the directory.
/// Damaged frames are left out; the first sequence number of each is returned.
///
/// # Errors
/// What the system said; nothing stands at `path` then.
pub fn seal(
    path: &Path,
    number: u64,
    partition: u16,
    frames: impl Iterator<Item = io::Result<Vec<u8>>>,
) -> io::Result<(Sealed, Vec<Seq>)> {
    let mut sealing = Sealing::begin(path, partition)?;
    let mut damaged = Vec::new();
    for frame in frames {
        let frame = frame?;
        match frame::check(&frame) {
            Ok(header) => sealing.take(&header, &frame)?,
            Err(_) => damaged.extend(Header::read(&frame).ok().map(|header| header.first_seq)),
        }
    }
    Ok((sealing.finish(path, number)?, damaged))
}

impl Sealing {
    fn begin(path: &Path, partition: u16) -> io::Result<Self> {
        let temporary = path.with_extension("seg.tmp");
        let mut out = BufWriter::with_capacity(256 * 1024, File::create(&temporary)?);
        out.write_all(MAGIC)?;
        Ok(Self {
            out,
            temporary,
            offset: MAGIC.len() as u64,
            blocks: Vec::new(),
            merging: None,
            compressor: Compressor::new(Codec::Zstd, ZSTD_LEVEL),
            partition,
            last_time: Timestamp::ZERO,
            ids: Writer(Vec::new()),
            last_id: (0, 0),
            synced: 0,
        })
    }

    fn take(&mut self, header: &Header, frame: &[u8]) -> io::Result<()> {
        let entries = frame::decode(frame, self.partition).map_err(io::Error::other)?;
        for entry in &entries {
            self.last_time = self.last_time.max(entry.time);
            if matches!(entry.kind, Kind::Accepted | Kind::Carried) {
                let (seq, time) = (entry.pos.seq, entry.time.as_millis());
                self.ids.number(seq - self.last_id.0);
                self.ids.number(time.saturating_sub(self.last_id.1));
                self.last_id = (seq, time.max(self.last_id.1));
            }
        }
        if header.raw_length >= GOOD_FRAME_RAW_BYTES {
            self.close_block()?;
            return self.write_block(frame);
        }
        for entry in entries {
            let fits = self.merging.as_ref().is_some_and(|block| {
                block.next_seq() == entry.pos.seq && block.raw_bytes() + entry.payload.len() < FRAME_RAW_BYTES
            });
            if !fits {
                self.close_block()?;
            }
            let block = self.merging.get_or_insert_with(|| Builder::new(entry.pos.seq, entry.time));
            block.push(entry.kind, entry.time, &entry.refs, &entry.payload);
        }
        Ok(())
    }

    fn close_block(&mut self) -> io::Result<()> {
        let Some(block) = self.merging.take() else { return Ok(()) };
        let mut frame = Vec::with_capacity(FRAME_RAW_BYTES / 2);
        block.finish(&mut self.compressor, &mut frame);
        self.write_block(&frame)
    }

    fn write_block(&mut self, frame: &[u8]) -> io::Result<()> {
        let header = Header::read(frame).map_err(io::Error::other)?;
        let length = BLOCK_MAGIC.len() + frame.len();
        self.out.write_all(BLOCK_MAGIC)?;
        self.out.write_all(frame)?;
        self.blocks.push(Block {
            offset: self.offset,
            length: u32::try_from(length).map_err(io::Error::other)?,
            first_seq: header.first_seq,
            entries: header.entries,
            base_time: header.base_time,
        });
        self.offset += length as u64;
        if self.offset >= self.synced + SYNC_BYTES {
            self.out.flush()?;
            self.out.get_ref().sync_data()?;
            self.synced = self.offset;
        }
        Ok(())
    }

    fn finish(mut self, path: &Path, number: u64) -> io::Result<Sealed> {
        self.close_block()?;
        let mut index = Vec::with_capacity(self.blocks.len() * super::INDEX_BYTES);
        for block in &self.blocks {
            block.write(&mut index);
        }
        let mut ids = zstd::bulk::compress(&self.ids.0, ZSTD_LEVEL)?;
        ids.extend_from_slice(&crc32c::crc32c(&ids).to_be_bytes());
        self.offset += ids.len() as u64;
        let mut trailer = self.offset.to_be_bytes().to_vec();
        trailer.extend_from_slice(&u32::try_from(self.blocks.len()).map_err(io::Error::other)?.to_be_bytes());
        trailer.extend_from_slice(&self.last_time.as_millis().to_be_bytes());
        trailer.extend_from_slice(&u32::try_from(ids.len()).map_err(io::Error::other)?.to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&index), &trailer);
        trailer.extend_from_slice(&crc.to_be_bytes());
        trailer.extend_from_slice(END_MAGIC);
        self.out.write_all(&ids)?;
        self.out.write_all(&index)?;
        self.out.write_all(&trailer)?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&self.temporary, path)?;
        crate::log::disk::sync_directory_of(path)?;
        Sealed::open(path, number)
    }
}
