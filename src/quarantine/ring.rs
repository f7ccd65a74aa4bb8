//! Owns the files of the quarantine: pieces that are appended to and, when there are too many bytes, removed whole, the
//! oldest first.
//!
//! A piece is at most a sixteenth of the ring (or one record, if that is larger). The places of all requests are held
//! in memory, 48 bytes each, at most [`ENTRIES_MAX`]. Removals are records of their own behind what they remove.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Figures, Keep,
    record::{self, HEAD_BYTES, Head, Kind},
};
use crate::{
    clock::Timestamp,
    event::EventId,
    log::disk::{RESERVE_BYTES, free_bytes, private_directory},
};

/// Requests at most; beyond, the oldest are forgotten.
pub const ENTRIES_MAX: usize = 100_000;

/// The oldest such part of the ring goes at once.
pub const PIECES: u64 = 16;

/// Ids in one record of removals.
const REMOVED_AT_ONCE: usize = 4_096;

/// The ending of a piece's name; before it stands its number, in order of age.
const ENDING: &str = "ring";

/// Who opens the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The serving process.
    Write,
    /// Somebody who changes nothing.
    Read,
}

/// The files, and where in them the requests stand.
pub(super) struct Ring {
    directory: PathBuf,
    pieces: VecDeque<Piece>,
    slots: VecDeque<Slot>,
    next_number: u64,
    next_piece: u64,
    last_time: Timestamp,
    bytes: u64,
    damaged: u64,
}

struct Piece {
    number: u64,
    file: Arc<File>,
    length: u64,
    /// Requests in it that are still there.
    live: u64,
}

/// Where a request stands.
#[derive(Clone, Copy)]
struct Slot {
    id: EventId,
    piece: u64,
    offset: u64,
}

/// A request that can be read without the ring.
pub(super) struct Place {
    file: Arc<File>,
    offset: u64,
    id: EventId,
}

impl Place {
    /// The payload; empty (which is no request) if it is not what was written.
    pub(super) fn read(&self) -> io::Result<Bytes> {
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact_at(&mut head, self.offset)?;
        let Some(head) = Head::decode(&head).filter(|head| head.id == self.id) else { return Ok(Bytes::new()) };
        let mut payload = vec![0; head.length as usize];
        self.file.read_exact_at(&mut payload, self.offset + HEAD_BYTES as u64)?;
        Ok(if head.fits(&payload) { payload.into() } else { Bytes::new() })
    }
}

impl Ring {
    /// Reads the places of what is there. Pieces that can't be read are removed by the serving process; of a damaged one
    /// only what stands before the damage is left.
    pub(super) fn open(directory: &Path, mode: Mode) -> Self {
        let mut ring = Self {
            directory: directory.to_owned(),
            pieces: VecDeque::new(),
            slots: VecDeque::new(),
            next_number: 1,
            next_piece: 1,
            last_time: Timestamp::ZERO,
            bytes: 0,
            damaged: 0,
        };
        for number in numbers(directory) {
            ring.next_piece = number + 1;
            if let Err(error) = ring.load(number, mode) {
                ring.damaged += 1;
                tracing::warn!(piece = number, %error, "a file of the quarantine can't be read and is dropped");
                if mode == Mode::Write {
                    let _absent = fs::remove_file(ring.path(number));
                }
            }
        }
        ring.forget_beyond(ENTRIES_MAX);
        ring
    }

    fn load(&mut self, number: u64, mode: Mode) -> io::Result<()> {
        let is_written = mode == Mode::Write;
        let file = OpenOptions::new().read(true).write(is_written).open(self.path(number))?;
        let there = file.metadata()?.len();
        self.pieces.push_back(Piece { number, file: Arc::new(file.try_clone()?), length: 0, live: 0 });
        let intact = match self.scan(number, &file, there) {
            Ok(intact) => intact,
            Err(error) => {
                self.slots.retain(|slot| slot.piece != number);
                self.pieces.pop_back();
                return Err(error);
            }
        };
        if intact < there {
            self.damaged += 1;
            tracing::warn!(piece = number, at = intact, "a file of the quarantine is damaged: the rest is dropped");
        }
        if intact == 0 {
            self.pieces.pop_back();
            return if is_written { fs::remove_file(self.path(number)) } else { Ok(()) };
        }
        if is_written && intact < there {
            file.set_len(intact)?;
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.length = intact;
        }
        self.bytes += intact;
        Ok(())
    }

    /// Takes up the records of a piece up to the first that is not intact; how far that is.
    fn scan(&mut self, number: u64, file: &File, there: u64) -> io::Result<u64> {
        let mut from = BufReader::new(file);
        let mut offset = 0;
        while offset + HEAD_BYTES as u64 <= there {
            let mut head = [0; HEAD_BYTES];
            from.read_exact(&mut head)?;
            let Some(head) = Head::decode(&head) else { break };
            let next = offset + HEAD_BYTES as u64 + u64::from(head.length);
            if next > there {
                break;
            }
            match head.kind {
                Kind::Kept if head.id.pos.seq < self.next_number => break,
                Kind::Kept => {
                    from.seek_relative(i64::from(head.length))?;
                    self.add(Slot { id: head.id, piece: number, offset });
                }
                Kind::Removed => {
                    let mut payload = vec![0; head.length as usize];
                    from.read_exact(&mut payload)?;
                    let Some(numbers) = Some(payload).filter(|payload| head.fits(payload)) else { break };
                    self.drop_numbers(record::removed(numbers.into()).unwrap_or_default());
                }
            }
            offset = next;
        }
        Ok(offset)
    }

    /// Appends a request; how many older ones were pushed out for it.
    pub(super) fn keep(&mut self, keep: &Keep, max_size: u64) -> io::Result<u64> {
        let time = self.last_time.max(keep.received_at);
        let id = record::id(time, self.next_number);
        let payload = record::payload(keep);
        let (piece, offset, pushed_out) = self.append(Kind::Kept, id, &payload, max_size)?;
        self.add(Slot { id, piece, offset });
        Ok(pushed_out + self.forget_beyond(ENTRIES_MAX))
    }

    /// Removes requests, with a record that says so; how many there were.
    pub(super) fn remove(&mut self, ids: &[EventId]) -> io::Result<u64> {
        let mut ids: Vec<EventId> = ids.iter().copied().filter(|id| self.index(*id).is_some()).collect();
        ids.sort_unstable_by_key(|id| id.pos.seq);
        ids.dedup();
        let count = ids.len() as u64;
        if ids.len() < self.slots.len() {
            for some in ids.chunks(REMOVED_AT_ONCE) {
                let last = record::id(self.last_time, self.next_number);
                self.append(Kind::Removed, last, &record::removal(some), u64::MAX)?;
                self.drop_numbers(some.iter().map(|id| id.pos.seq).collect());
            }
        } else {
            self.slots.clear();
            self.pieces.iter_mut().for_each(|piece| piece.live = 0);
        }
        // A removal stands behind what it removes, so only the oldest pieces may go.
        while self.pieces.front().is_some_and(|piece| piece.live == 0)
            && (self.pieces.len() > 1 || self.slots.is_empty())
        {
            self.drop_oldest();
        }
        Ok(count)
    }

    /// The ids of what is there, oldest first.
    pub(super) fn ids(&self) -> Vec<EventId> {
        self.slots.iter().map(|slot| slot.id).collect()
    }

    /// Where a request stands.
    pub(super) fn find(&self, id: EventId) -> Option<Place> {
        let slot = self.slots.get(self.index(id)?)?;
        let piece = self.pieces.iter().find(|piece| piece.number == slot.piece)?;
        Some(Place { file: piece.file.clone(), offset: slot.offset, id })
    }

    /// The figures of now.
    pub(super) fn figures(&self) -> Figures {
        Figures { count: self.slots.len() as u64, bytes: self.bytes }
    }

    /// How many files were found damaged since this was asked last.
    pub(super) fn take_damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// Where an id is among the slots.
    fn index(&self, id: EventId) -> Option<usize> {
        let index = self.slots.binary_search_by_key(&id.pos.seq, |slot| slot.id.pos.seq).ok()?;
        self.slots.get(index).filter(|slot| slot.id == id).map(|_| index)
    }

    fn add(&mut self, slot: Slot) {
        self.next_number = slot.id.pos.seq.saturating_add(1);
        self.last_time = self.last_time.max(slot.id.time);
        if let Some(piece) = self.pieces.back_mut() {
            piece.live += 1;
        }
        self.slots.push_back(slot);
    }

    /// Appends a record: the piece, the offset, and how many requests were pushed out.
    fn append(&mut self, kind: Kind, id: EventId, payload: &[u8], max_size: u64) -> io::Result<(u64, u64, u64)> {
        let record = record::encode(kind, id, payload).ok_or_else(|| io::Error::other("it is too large"))?;
        let length = record.len() as u64;
        if length > max_size {
            return Err(io::Error::other("it is larger than quarantine.max_size"));
        }
        private_directory(&self.directory)?;
        // A removal makes room, so it is written as long as there is any.
        if kind == Kind::Kept && free_bytes(&self.directory)? < 2 * RESERVE_BYTES + length {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut pushed_out = 0;
        while self.bytes + length > max_size && !self.pieces.is_empty() {
            pushed_out += self.drop_oldest();
        }
        let is_full = |piece: &Piece| piece.length + length > max_size / PIECES;
        if self.pieces.back().is_none_or(is_full) {
            self.begin_piece()?;
        }
        let piece = self.pieces.back_mut().ok_or_else(|| io::Error::other("there is no file to write to"))?;
        let offset = piece.length;
        if let Err(error) = piece.file.write_all_at(&record, offset) {
            // What was begun is no record; what can't even be cut off is overwritten by the next.
            let _uncut = piece.file.set_len(offset);
            return Err(error);
        }
        piece.length += length;
        self.bytes += length;
        Ok((piece.number, offset, pushed_out))
    }

    fn begin_piece(&mut self) -> io::Result<()> {
        let number = self.next_piece;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(self.path(number))?;
        self.next_piece += 1;
        self.pieces.push_back(Piece { number, file: Arc::new(file), length: 0, live: 0 });
        Ok(())
    }

    /// Removes the oldest piece; how many requests went with it.
    fn drop_oldest(&mut self) -> u64 {
        let Some(piece) = self.pieces.pop_front() else { return 0 };
        let _absent = fs::remove_file(self.path(piece.number));
        self.bytes = self.bytes.saturating_sub(piece.length);
        while self.slots.front().is_some_and(|slot| slot.piece == piece.number) {
            self.slots.pop_front();
        }
        piece.live
    }

    /// Forgets the oldest requests until so many are left; their bytes go with their piece.
    fn forget_beyond(&mut self, entries_max: usize) -> u64 {
        let mut forgotten = 0;
        while self.slots.len() > entries_max {
            let Some(slot) = self.slots.pop_front() else { break };
            self.count_down(slot.piece);
            forgotten += 1;
        }
        forgotten
    }

    fn drop_numbers(&mut self, mut numbers: Vec<u64>) {
        /// So few are looked up one by one.
        const FEW: usize = 16;
        let mut gone = Vec::new();
        if numbers.len() <= FEW {
            for number in numbers {
                let at = self.slots.binary_search_by_key(&number, |slot| slot.id.pos.seq);
                gone.extend(at.ok().and_then(|at| self.slots.remove(at)).map(|slot| slot.piece));
            }
            return gone.into_iter().for_each(|piece| self.count_down(piece));
        }
        numbers.sort_unstable();
        self.slots.retain(|slot| {
            let stays = numbers.binary_search(&slot.id.pos.seq).is_err();
            if !stays {
                gone.push(slot.piece);
            }
            stays
        });
        gone.into_iter().for_each(|piece| self.count_down(piece));
    }

    fn count_down(&mut self, number: u64) {
        if let Some(piece) = self.pieces.iter_mut().find(|piece| piece.number == number) {
            piece.live = piece.live.saturating_sub(1);
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:08}.{ENDING}"))
    }
}

/// The numbers of the pieces in a directory, ascending.
fn numbers(directory: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()?.strip_suffix(ENDING)?.strip_suffix('.')?.parse().ok()
    };
    let mut numbers: Vec<u64> = entries.flatten().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}
