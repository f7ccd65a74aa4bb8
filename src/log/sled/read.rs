//! Owns reading: by position, forwards and backwards, through a small cache of decoded blocks.
//!
//! A failed read is never taken for "empty": damage comes back as an error that names the sequence numbers, and the
//! caller goes on behind them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use super::{Active, OpenSegment, SegmentError, Segments, Shared};
use crate::{
    event::Seq,
    log::{Entry, ReadError, frame, segment::Sealed},
};

/// Decoded blocks that are kept, of about 256 KiB each.
const CACHE_BLOCKS: usize = 24;

type Block = Arc<Vec<Entry>>;

/// The last blocks that were read. Bounded; the least recently used goes first.
#[derive(Default)]
pub(super) struct Cache(Mutex<VecDeque<Block>>);

impl Cache {
    fn find(&self, seq: Seq) -> Option<Block> {
        self.find_by(|block| holds(block, seq))
    }

    /// Sealing merges frames into larger blocks: a frame that was read before it is no substitute for its block.
    fn find_block(&self, block: &crate::log::segment::Block) -> Option<Block> {
        let same = |entries: &[Entry]| entries.first().is_some_and(|first| first.pos.seq == block.first_seq);
        self.find_by(|entries| entries.len() == block.entries as usize && same(entries))
    }

    fn find_by(&self, wanted: impl Fn(&[Entry]) -> bool) -> Option<Block> {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = blocks.iter().position(|block| wanted(block))?;
        let block = blocks.remove(index)?;
        blocks.push_back(block.clone());
        Some(block)
    }

    fn keep(&self, block: &Block) {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= CACHE_BLOCKS {
            blocks.pop_front();
        }
        blocks.push_back(block.clone());
    }
}

fn holds(block: &[Entry], seq: Seq) -> bool {
    block.first().is_some_and(|first| first.pos.seq <= seq) && block.last().is_some_and(|last| seq <= last.pos.seq)
}

/// Where a position is to be looked for.
enum Place {
    Sealed(Arc<Sealed>),
    Open(Arc<OpenSegment>, Seq),
    /// Not to be read now.
    Repairing(u64),
}

impl Segments {
    /// The first segment that may hold `seq` or something after it. For an open segment, its end too.
    fn at(&self, seq: Seq) -> Option<Place> {
        let found = self.readable_at(seq);
        let number = match &found {
            Some(Place::Sealed(sealed)) => sealed.number,
            Some(Place::Open(open, _)) => open.active.number,
            _ => u64::MAX,
        };
        let repairing = self.repairing.iter().find(|segment| seq < self.limit_of(segment.number));
        match repairing.filter(|segment| segment.number < number) {
            Some(segment) => Some(Place::Repairing(segment.number)),
            None => found,
        }
    }

    fn readable_at(&self, seq: Seq) -> Option<Place> {
        let sealed = self.sealed.get(self.sealed.partition_point(|sealed| sealed.end() <= seq));
        let after = self.open.partition_point(|open| open.first_seq <= seq);
        // A segment that could not be sealed yet may be older than sealed ones.
        for open in self.open.iter().skip(after.saturating_sub(1)) {
            if sealed.is_some_and(|sealed| sealed.number < open.active.number) {
                break;
            }
            let limit = self.limit_of(open.active.number);
            if seq < limit {
                return Some(Place::Open(open.clone(), limit));
            }
        }
        sealed.map(|sealed| Place::Sealed(sealed.clone()))
    }

    fn before(&self, seq: Seq) -> Vec<Place> {
        let open = self.open.iter().filter(|open| open.first_seq < seq).map(|open| {
            let limit = self.limit_of(open.active.number).min(seq);
            (open.active.number, Place::Open(open.clone(), limit))
        });
        let sealed = self.sealed.iter().filter(|sealed| sealed.first_seq() < seq);
        let sealed = sealed.map(|sealed| (sealed.number, Place::Sealed(sealed.clone())));
        let repairing = self.repairing.iter().filter(|segment| segment.first_seq < seq);
        let repairing = repairing.map(|segment| (segment.number, Place::Repairing(segment.number)));
        let mut places: Vec<(u64, Place)> = open.chain(sealed).chain(repairing).collect();
        places.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        places.into_iter().map(|(_, place)| place).collect()
    }

    /// The first sequence number that no longer belongs to an open segment.
    pub(super) fn limit_of(&self, number: u64) -> Seq {
        let open = self.open.iter().find(|other| other.active.number > number).map(|next| next.first_seq);
        let sealed = self.sealed.iter().find(|other| other.number > number).map(|next| next.first_seq());
        let repairing = self.repairing.iter().find(|other| other.number > number).map(|next| next.first_seq);
        open.into_iter().chain(sealed).chain(repairing).min().unwrap_or(Seq::MAX)
    }

    /// The first sequence number that is stored.
    pub(super) fn first_seq(&self) -> Option<Seq> {
        let sealed = self.sealed.first().map(|sealed| sealed.first_seq());
        let repairing = self.repairing.first().map(|segment| segment.first_seq);
        sealed.into_iter().chain(self.open.first().map(|open| open.first_seq)).chain(repairing).min()
    }
}

impl Shared {
    pub(super) fn read(&self, seq: Seq) -> Result<Entry, ReadError> {
        if seq >= self.end.load(Ordering::Acquire) {
            return Err(ReadError::Missing(seq));
        }
        let block = self.block_from(seq)?.ok_or(ReadError::Missing(seq))?;
        let index = block.binary_search_by_key(&seq, |entry| entry.pos.seq).map_err(|_| ReadError::Missing(seq))?;
        block.get(index).cloned().ok_or(ReadError::Missing(seq))
    }

    pub(super) fn scan(&self, from: Seq, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        let end = self.end.load(Ordering::Acquire);
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, from);
        while bytes < bytes_max && next < end {
            let block = match self.block_from(next) {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(_) if !found.is_empty() => break,
                Err(error) => return Err(error),
            };
            let start = block.partition_point(|entry| entry.pos.seq < next);
            for entry in block.iter().skip(start).take_while(|entry| entry.pos.seq < end) {
                bytes += entry.payload.len() + 32;
                found.push(entry.clone());
            }
            match block.last() {
                Some(last) => next = last.pos.seq + 1,
                None => break,
            }
        }
        Ok(found)
    }

    pub(super) fn scan_back(&self, before: Seq) -> Result<Vec<Entry>, ReadError> {
        let before = before.min(self.end.load(Ordering::Acquire));
        for place in self.segments.load().before(before) {
            // Past the cache: whoever goes back through everything needs a block once, and must not push out what
            // deliveries are reading.
            let block = match place {
                Place::Sealed(sealed) => match sealed.block_before(before) {
                    Some(block) => sealed.read(block, self.partition)?,
                    None => continue,
                },
                Place::Open(open, limit) => {
                    match open.active.frame_at(limit.min(before).saturating_sub(1)).map_err(|error| io(&open, error))? {
                        Some(bytes) => self.decoded(&open.active, &bytes)?,
                        None => continue,
                    }
                }
                Place::Repairing(number) => return Err(self.repairing(number)),
            };
            let found: Vec<Entry> = block.into_iter().take_while(|entry| entry.pos.seq < before).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The block that holds `seq`, or the first one after it.
    fn block_from(&self, seq: Seq) -> Result<Option<Block>, ReadError> {
        if let Some(block) = self.cache.find(seq) {
            return Ok(Some(block));
        }
        let mut seq = seq;
        loop {
            match self.segments.load().at(seq) {
                None => return Ok(None),
                Some(Place::Repairing(number)) => return Err(self.repairing(number)),
                Some(Place::Sealed(sealed)) => match sealed.block_at(seq) {
                    Some(block) => return self.sealed_block(&sealed, block).map(Some),
                    None => seq = sealed.end(),
                },
                Some(Place::Open(open, limit)) => {
                    let frame = frame_holding(&open.active, seq).map_err(|error| io(&open, error))?;
                    let first = frame.as_deref().and_then(super::active::first_seq_of);
                    match frame {
                        Some(bytes) if first.is_some_and(|first| first < limit) => {
                            return self.open_block(&open.active, &bytes).map(Some);
                        }
                        _ if limit == Seq::MAX => return Ok(None),
                        _ => seq = limit,
                    }
                }
            }
        }
    }

    /// It passes: readers try again.
    fn repairing(&self, number: u64) -> ReadError {
        let file = self.log_directory().join(format!("{number:08}")).display().to_string();
        let what = "the disk was full; the segment is being opened again, try again soon";
        ReadError::Io { file, source: std::io::Error::new(std::io::ErrorKind::ResourceBusy, what) }
    }

    fn sealed_block(&self, sealed: &Sealed, block: &crate::log::segment::Block) -> Result<Block, ReadError> {
        if let Some(cached) = self.cache.find_block(block) {
            return Ok(cached);
        }
        let entries = Arc::new(sealed.read(block, self.partition)?);
        self.cache.keep(&entries);
        Ok(entries)
    }

    fn open_block(&self, active: &Active, bytes: &[u8]) -> Result<Block, ReadError> {
        let entries = Arc::new(self.decoded(active, bytes)?);
        self.cache.keep(&entries);
        Ok(entries)
    }

    fn decoded(&self, active: &Active, bytes: &[u8]) -> Result<Vec<Entry>, ReadError> {
        match frame::decode(bytes, self.partition) {
            Ok(entries) => Ok(entries),
            Err(frame::Damaged) => {
                let first = super::active::first_seq_of(bytes).unwrap_or(0);
                let next = active.frame_from(first.saturating_add(1)).ok().flatten();
                let last = next.as_deref().and_then(super::active::first_seq_of).unwrap_or(first + 1) - 1;
                Err(ReadError::Damaged { file: active.path().display().to_string(), first, last: last.max(first) })
            }
        }
    }
}

/// The frame that holds `seq`, else the first one after it.
fn frame_holding(active: &Active, seq: Seq) -> Result<Option<Vec<u8>>, SegmentError> {
    if let Some(bytes) = active.frame_at(seq)?
        && !frame::Header::read(&bytes).is_ok_and(|header| header.end() <= seq)
    {
        return Ok(Some(bytes));
    }
    active.frame_from(seq)
}

fn io(open: &OpenSegment, error: SegmentError) -> ReadError {
    let source = match error {
        SegmentError::Io { source, .. } => source,
        other => std::io::Error::other(other),
    };
    ReadError::Io { file: open.active.path().display().to_string(), source }
}
