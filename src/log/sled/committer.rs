//! Owns the committer: the one thread that decides about duplicates, encodes, inserts, crosses the barrier and only
//! then answers.
//!
//! A turn takes all small appends that wait and (now and then) one part of a large body, makes frames of them, and pays for one
//! barrier. While the disk is busy with it, the next turn's appends gather. A full disk is put in order and the turn
//! repeated in a new segment, or refused as long as there is no room; any other write error poisons the log: never sync again and call it success.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{OpenSegment, SegmentError, Shared, active::Active, sealer::Work};
use crate::{
    clock::Timestamp,
    event::{EventId, Pos, Seq},
    log::{
        Acked, Append, AppendError, Appended, Class, Done, ENTRY_BYTES_MAX, Entry, Kind, NewEntry, PART_BYTES,
        dedupe::Table,
        disk::Reserve,
        frame::{Builder, Codec, Compressor, FRAME_RAW_BYTES},
        queue::{Taken, Work as Queued},
    },
};

/// Compression of commit frames: zstd at its fastest, so that sled writes and the sealer copies a quarter of the
/// bytes. Measured with distinct bodies, see ARCHITECTURE.md.
const FRAME_CODEC: Codec = Codec::Zstd;
const FRAME_LEVEL: i32 = 1;
/// While small appends come, a part of a large body is followed by so many times its own duration without one: uploads
/// take a fifth of the committer's time, and small appends rarely wait behind one.
const LARGE_PAUSE: u32 = 4;
/// How long the committer waits for work before it shows that it lives.
const BEAT: Duration = Duration::from_secs(1);

pub(super) struct Committer {
    shared: Arc<Shared>,
    table: Table,
    open: Arc<OpenSegment>,
    next_seq: Seq,
    last_time: Timestamp,
    /// Bytes stored in the active segment.
    stored: u64,
    compressor: Compressor,
    raw: Vec<u8>,
    frames: Vec<u8>,
    /// The turn's small appends.
    small: Vec<Append>,
    /// The turn's batches.
    batches: Vec<Vec<Append>>,
    /// The active segment met a full disk: nothing can be written to it any more.
    stuck: bool,
    /// A segment was finished while older keys were still being written.
    freeze_due: bool,
    /// The large body whose parts are being committed.
    large: Option<Large>,
    /// While small appends wait, no further part before this time (of the clock's own scale).
    large_after: Duration,
}

/// A large body on its way: its parts are committed one a turn.
struct Large {
    /// One append, or several that are one decision.
    batch: Vec<Append>,
    /// Positions of the parts of each.
    committed: Vec<Vec<Seq>>,
}

impl Large {
    fn new(batch: Vec<Append>) -> Self {
        let committed = batch.iter().map(|_| Vec::new()).collect();
        Self { batch, committed }
    }

    /// Whether some of its parts are committed.
    fn has_begun(&self) -> bool {
        self.committed.iter().any(|parts| !parts.is_empty())
    }

    /// The parts that are still to be committed: whose, and which.
    fn missing(&self) -> impl Iterator<Item = (usize, &NewEntry)> {
        let each = self.batch.iter().zip(&self.committed).enumerate();
        each.flat_map(|(whose, (append, done))| append.parts.iter().skip(done.len()).map(move |part| (whose, part)))
    }
}

/// One turn's frames and everything that waits for them.
#[derive(Default)]
struct Turn {
    entries: Vec<Entry>,
    /// First sequence number and length of each frame.
    frames: Vec<(Seq, usize)>,
    acks: Vec<(Done, Acked)>,
    end: Seq,
    last_time: Timestamp,
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        table: Table,
        open: Arc<OpenSegment>,
        next_seq: Seq,
        last_time: Timestamp,
    ) -> Self {
        // What was read back from the log at the start belongs into a run.
        let freeze_due = table.is_behind();
        Self {
            shared,
            table,
            open,
            next_seq,
            last_time,
            stored: 0,
            compressor: Compressor::new(FRAME_CODEC, FRAME_LEVEL),
            raw: Vec::new(),
            frames: Vec::new(),
            small: Vec::new(),
            batches: Vec::new(),
            stuck: false,
            freeze_due,
            large: None,
            large_after: Duration::ZERO,
        }
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            self.shared.beats.fetch_add(1, Ordering::Relaxed);
            let idle = self.large.is_none();
            let timeout = if idle { BEAT } else { self.large_after.saturating_sub(self.shared.clock.elapsed()) };
            match self.shared.queue.take(std::mem::take(&mut self.small), idle, timeout) {
                Taken::Closed if idle => return,
                Taken::Closed => {}
                Taken::Work(Queued { small, batches, large }) => {
                    (self.small, self.batches) = (small, batches);
                    self.large = self.large.take().or(large.map(Large::new));
                }
            }
            if self.shared.poisoned.load(Ordering::SeqCst) {
                // What was queued while the write failed: never sync again and call it success.
                self.poison_waiting();
                continue;
            }
            self.forget();
            if !self.small.is_empty() || !self.batches.is_empty() || self.large.is_some() {
                self.turn();
            }
            self.tend_table();
            self.roll_if_due();
        }
    }

    fn turn(&mut self) {
        let mut turn = Turn { end: self.next_seq, last_time: self.last_time, ..Turn::default() };
        self.frames.clear();
        let (begun, small) = (self.shared.clock.elapsed(), self.small.len() + self.batches.len());
        let parts = self.encode(&mut turn);
        if turn.frames.is_empty() {
            Done::answer_all(turn.acks.into_iter());
            return;
        }
        if let Err(error) = self.store(&turn) {
            self.table.rollback();
            if error.is_full() {
                Done::answer_all(turn.acks.into_iter().map(|(done, _)| (done, Err(AppendError::Full))));
                return;
            }
            self.shared.poison(&error);
            Done::answer_all(turn.acks.into_iter().map(|(done, _)| (done, Err(AppendError::Poisoned))));
            self.poison_waiting();
            return;
        }
        self.table.commit();
        if self.open.first_time.load(Ordering::Relaxed) == 0 {
            self.open.first_time.store(turn.last_time.as_millis(), Ordering::Relaxed);
        }
        self.next_seq = turn.end;
        self.last_time = turn.last_time;
        self.shared.end.store(turn.end, Ordering::Release);
        self.shared.metrics.commit_entries.observe_number(turn.entries.len() as u64);
        Done::answer_all(turn.acks.into_iter());
        if let (false, Some(large)) = (parts.is_empty(), &mut self.large) {
            for (whose, seq) in parts {
                large.committed.get_mut(whose).into_iter().for_each(|committed| committed.push(seq));
            }
            let now = self.shared.clock.elapsed();
            let pause = if small > 0 { now.saturating_sub(begun) * LARGE_PAUSE } else { Duration::ZERO };
            self.large_after = now + pause;
        }
        if let Some(follower) = self.shared.follower.get() {
            follower.committed(turn.entries);
        }
    }

    /// Encodes the turn's frames. Gives the positions of parts of large bodies among them, and whose they are.
    fn encode(&mut self, turn: &mut Turn) -> Vec<(usize, Seq)> {
        let mut builder = Builder::reusing(std::mem::take(&mut self.raw), self.next_seq, turn.last_time);
        let mut small = std::mem::take(&mut self.small);
        for append in small.drain(..) {
            if let Some(append) = self.admit(append, turn, builder.next_seq()) {
                self.put(&mut builder, turn, append, Vec::new());
                builder = self.close_if_full(builder, turn, false);
            }
        }
        self.small = small;
        for batch in std::mem::take(&mut self.batches) {
            let refs = batch.iter().map(|_| Vec::new()).collect();
            builder = self.encode_batch(builder, turn, batch, refs);
        }
        let (mut builder, parts) = self.encode_large(builder, turn);
        builder = self.close_if_full(builder, turn, true);
        turn.end = builder.next_seq();
        self.raw = builder.into_memory();
        parts
    }

    /// A batch, in one frame: that is what a crash leaves whole or not at all.
    fn encode_batch(
        &mut self,
        mut builder: Builder,
        turn: &mut Turn,
        batch: Vec<Append>,
        refs: Vec<Vec<Seq>>,
    ) -> Builder {
        let older = match batch.iter().map(|append| self.look_up(append)).collect::<Result<Vec<_>, _>>() {
            Ok(older) => older,
            Err(error) => {
                Done::answer_all(batch.into_iter().map(|append| (append.done, Err(error))));
                return builder;
            }
        };
        let bytes: usize = batch.iter().map(|append| append.entry.payload.len()).sum();
        if builder.raw_bytes() + bytes > FRAME_RAW_BYTES {
            builder = self.close_if_full(builder, turn, true);
        }
        for ((append, refs), older) in batch.into_iter().zip(refs).zip(older) {
            // An earlier one of the batch may have the same key.
            let earlier = append.dedupe.as_ref().and_then(|key| self.table.check(key, append.time));
            if let Some((first, body_differs)) = earlier.or(older) {
                turn.acks.push((append.done, Ok(Appended::Duplicate { first, body_differs })));
                continue;
            }
            self.note_key(&append, turn, builder.next_seq());
            self.put(&mut builder, turn, append, refs);
        }
        self.close_if_full(builder, turn, false)
    }

    /// Some parts of the first large body; or the entries themselves, once all of their parts are durable.
    fn encode_large(&mut self, mut builder: Builder, turn: &mut Turn) -> (Builder, Vec<(usize, Seq)>) {
        let mut parts = Vec::new();
        let is_new = |large: &Large| large.batch.first().is_some_and(|append| append.class == Class::Event);
        if self.shared.full.load(Ordering::Relaxed) && self.large.as_ref().is_some_and(is_new) {
            // The reserve is for upkeep, not for the parts of an event that will be refused. What is carried forward
            // is upkeep: without it no old segment could go, and the store would stay full.
            let refused = self.large.take().map(|large| large.batch).unwrap_or_default();
            Done::answer_all(refused.into_iter().map(|append| (append.done, Err(AppendError::Full))));
            return (builder, parts);
        }
        let waits = !turn.acks.is_empty() && self.shared.clock.elapsed() < self.large_after;
        let Some(large) = self.large.as_ref().filter(|_| !waits) else { return (builder, parts) };
        let mut bytes = 0;
        for (whose, part) in large.missing() {
            bytes += part.payload.len();
            if bytes > PART_BYTES && !parts.is_empty() {
                break;
            }
            let seq = builder.next_seq();
            let time = large.batch.first().map_or(turn.last_time, |append| append.time);
            turn.last_time = turn.last_time.max(time);
            builder.push(part.kind, turn.last_time, &[], &part.payload);
            turn.entries.push(Entry {
                pos: Pos { partition: self.shared.partition, seq },
                time: turn.last_time,
                kind: Kind::Part,
                refs: Vec::new(),
                payload: part.payload.clone(),
            });
            parts.push((whose, seq));
        }
        if !parts.is_empty() {
            return (builder, parts);
        }
        if let Some(Large { batch, committed }) = self.large.take() {
            builder = self.encode_batch(builder, turn, batch, committed);
        }
        (builder, parts)
    }

    /// Places an entry in the frame and its answer in the turn.
    fn put(&self, builder: &mut Builder, turn: &mut Turn, append: Append, refs: Vec<Seq>) {
        let entry = place(&append, builder.next_seq(), self.shared.partition, turn, refs);
        builder.push(entry.kind, entry.time, &entry.refs, &entry.payload);
        turn.acks.push((append.done, Ok(Appended::Appended(entry.id()))));
        turn.entries.push(entry);
    }

    fn close_if_full(&mut self, builder: Builder, turn: &mut Turn, last: bool) -> Builder {
        if builder.is_empty() || !(last || builder.is_full()) {
            return builder;
        }
        let (first_seq, next_seq, start) = (builder.first_seq(), builder.next_seq(), self.frames.len());
        let memory = builder.finish(&mut self.compressor, &mut self.frames);
        turn.frames.push((first_seq, self.frames.len() - start));
        Builder::reusing(memory, next_seq, turn.last_time)
    }

    /// Size, room and dedupe. None if the append was answered already or will be with the turn.
    fn admit(&mut self, append: Append, turn: &mut Turn, seq: Seq) -> Option<Append> {
        match self.look_up(&append) {
            Err(error) => {
                append.done.answer(Err(error));
                None
            }
            Ok(Some((first, body_differs))) => {
                turn.acks.push((append.done, Ok(Appended::Duplicate { first, body_differs })));
                None
            }
            Ok(None) => {
                self.note_key(&append, turn, seq);
                Some(append)
            }
        }
    }

    /// Size and room; the first event with the same key, if there is one.
    fn look_up(&self, append: &Append) -> Result<Option<(EventId, bool)>, AppendError> {
        match append.class {
            _ if append.entry.payload.len() > ENTRY_BYTES_MAX => return Err(AppendError::TooLarge),
            Class::Event if self.shared.full.load(Ordering::Relaxed) => return Err(AppendError::Full),
            _ => {}
        }
        let Some(key) = &append.dedupe else { return Ok(None) };
        if self.table.overfull() {
            return Err(AppendError::Busy);
        }
        let first = self.table.check(key, append.time);
        if first.is_some() || !self.table.outdated(key.runs_version) {
            return Ok(first);
        }
        self.shared.runs.seen(key, append.time).map_err(|error| {
            tracing::error!(%error, "a run of dedupe keys can't be read; the request is refused");
            AppendError::Busy
        })
    }

    fn note_key(&mut self, append: &Append, turn: &Turn, seq: Seq) {
        if let Some(key) = &append.dedupe {
            let time = turn.last_time.max(append.time);
            self.table.insert(key, EventId { time, pos: Pos { partition: self.shared.partition, seq } });
        }
    }

    /// Inserts the turn's frames and crosses the barrier; on a full disk, in a new segment.
    ///
    /// # Errors
    /// If the disk stays full nothing was stored, and the next turn tries again; everything else is for ever.
    fn store(&mut self, turn: &Turn) -> Result<(), SegmentError> {
        if !self.stuck {
            match self.write(turn) {
                Err(error) if error.is_full() => {
                    tracing::error!(%error, "the disk is full: new events are refused with 503 until there is room");
                    self.stuck = true;
                }
                other => return other,
            }
        }
        self.move_on(turn)
    }

    fn write(&mut self, turn: &Turn) -> Result<(), SegmentError> {
        let mut rest = &self.frames[..];
        for (first_seq, length) in &turn.frames {
            let (frame, after) = rest.split_at_checked(*length).unwrap_or((rest, &[]));
            self.open.active.insert(*first_seq, frame)?;
            rest = after;
        }
        let began = self.shared.clock.elapsed();
        self.open.active.barrier(&self.shared.settings.barrier)?;
        self.shared.metrics.fsync.observe(self.shared.clock.elapsed().saturating_sub(began));
        self.stored += self.frames.len() as u64;
        self.shared.written.fetch_add(self.frames.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// sled remembers a full disk until it is reopened, and reopening needs room: releases the reserve, moves on to
    /// a new segment and repeats the turn there. The sealer repairs and seals the old one, or deletes it if nothing was
    /// ever acknowledged from it. Both segments may hold frames under the same numbers then; those of the old one
    /// were never acknowledged, and it ends for all readers where the new one begins.
    fn move_on(&mut self, turn: &Turn) -> Result<(), SegmentError> {
        let shared = self.shared.clone();
        shared.full.store(true, Ordering::SeqCst);
        Reserve::of(&shared.settings.directory).release();
        let making = shared.making.lock().unwrap_or_else(PoisonError::into_inner);
        let prepared = shared.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let next = match prepared {
            Some(active) => active,
            None => Active::create(&shared.log_directory(), self.open.active.number + 1, &shared.settings.barrier)?,
        };
        let (broken, acknowledged) = (self.open.clone(), self.stored > 0);
        self.enter(next, turn.frames.first().map_or(self.next_seq, |(seq, _)| *seq));
        drop(making);
        let written = self.write(turn);
        self.stuck = written.as_ref().is_err_and(SegmentError::is_full);
        shared.hand_over(if acknowledged { Work::Repair(broken) } else { Work::Discard(broken) });
        written
    }

    fn enter(&mut self, active: Active, first_seq: Seq) {
        let open = Arc::new(OpenSegment { active, first_seq, first_time: 0.into() });
        self.open = open.clone();
        self.stored = 0;
        self.shared.change_segments(|segments| segments.open.push(open.clone()));
    }

    /// Not between the parts of a large body and the entry that refers to them: segments go one by one, and what counts in
    /// one that goes is found by its entry alone.
    fn roll_if_due(&mut self) {
        if self.large.as_ref().is_some_and(Large::has_begun) {
            return;
        }
        let asked = self.shared.roll_asked.swap(false, Ordering::SeqCst) && self.stored > 0;
        if !asked && self.stored < self.shared.settings.segment_bytes {
            return;
        }
        // While the sealer makes one there is none to be had, and it need not be waited for.
        let shared = self.shared.clone();
        let making = shared.making.try_lock().ok();
        let mut prepared = shared.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = making.is_some().then(|| prepared.take()).flatten() else {
            self.shared.roll_asked.fetch_or(asked, Ordering::SeqCst);
            self.shared.ask_to_prepare();
            return;
        };
        drop(prepared);
        self.enter(next, self.next_seq);
        drop(making);
        self.freeze_table();
        self.shared.ask_to_prepare();
        self.shared.hand_over(Work::Seal);
    }

    fn forget(&mut self) {
        let mut forgotten = self.shared.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        for fingerprint in forgotten.drain(..) {
            self.table.forget(fingerprint);
            self.shared.runs.forget(fingerprint);
        }
    }

    /// Moves older dedupe keys out of memory.
    fn tend_table(&mut self) {
        let published = std::mem::take(&mut *self.shared.published.lock().unwrap_or_else(PoisonError::into_inner));
        for (frozen, version) in published {
            self.table.published(&frozen, version);
        }
        if self.table.full() || (self.freeze_due && !self.table.is_frozen()) {
            self.freeze_table();
        }
    }

    /// Hands the committed keys to the sealer, so that the next start need not read the log before this point.
    fn freeze_table(&mut self) {
        self.table.passed(self.next_seq);
        // One generation at a time: the next one follows as soon as this one is published.
        self.freeze_due = self.table.is_frozen();
        if let Some(frozen) = self.table.take_frozen() {
            self.shared.hand_over(Work::Publish(frozen));
        }
    }

    fn poison_waiting(&mut self) {
        let large = self.large.take().map(|large| large.batch);
        let waiting = self.small.drain(..).chain(self.batches.drain(..).flatten()).chain(large.into_iter().flatten());
        for append in waiting {
            append.done.answer(Err(AppendError::Poisoned));
        }
    }
}

fn place(append: &Append, seq: Seq, partition: u16, turn: &mut Turn, refs: Vec<Seq>) -> Entry {
    turn.last_time = turn.last_time.max(append.time);
    Entry {
        pos: Pos { partition, seq },
        time: turn.last_time,
        kind: append.entry.kind,
        refs,
        payload: append.entry.payload.clone(),
    }
}
