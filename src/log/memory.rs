//! Owns the in-memory engine: the same promises as the one on disk, except that it forgets everything when it ends.
//!
//! For tests and simulations. It commits when it is told to ([`MemoryLog::commit`]), so that a simulation decides
//! what a crash takes away; in `automatic` form every append commits at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::{
    Append, AppendError, Appended, BATCH_APPENDS_MAX, BATCH_BYTES_MAX, Class, DedupeKey, ENTRY_BYTES_MAX, Entry,
    Follower, Kind, Log, LogStats, ReadError, dedupe,
};
use crate::{
    clock::Timestamp,
    event::{EventId, Pos, Seq},
};

/// The engine. Cheap to share behind an `Arc`.
pub struct MemoryLog {
    state: Mutex<State>,
    follower: OnceLock<Arc<dyn Follower>>,
    automatic: bool,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    keys: HashMap<u128, (EventId, Timestamp, u64)>,
    /// Each is one decision.
    waiting: Vec<Vec<Append>>,
    next_seq: Seq,
    last_time: Timestamp,
    refuse: Option<AppendError>,
}

impl MemoryLog {
    /// Every append commits at once, on the caller's thread.
    #[must_use]
    pub fn automatic() -> Arc<Self> {
        Self::new(true)
    }

    /// Appends wait for [`MemoryLog::commit`].
    #[must_use]
    pub fn stepped() -> Arc<Self> {
        Self::new(false)
    }

    fn new(automatic: bool) -> Arc<Self> {
        let state = Mutex::new(State { next_seq: 1 << 20, ..State::default() });
        Arc::new(Self { state, follower: OnceLock::new(), automatic })
    }

    /// A log with the same durable entries, as a restart after a crash finds it: what waited is lost, and sequence
    /// numbers jump.
    #[must_use]
    pub fn after_crash(&self) -> Arc<Self> {
        let old = self.lock();
        let next_seq = (old.next_seq / (1 << 20) + 1) << 20;
        let state = State {
            entries: old.entries.clone(),
            keys: old.keys.clone(),
            next_seq,
            last_time: old.last_time,
            ..State::default()
        };
        Arc::new(Self { state: Mutex::new(state), follower: OnceLock::new(), automatic: self.automatic })
    }

    /// Refuses every append of a new event with this from now on, or accepts again.
    pub fn refuse(&self, error: Option<AppendError>) {
        self.lock().refuse = error;
    }

    /// Commits what waits: gives positions, tells the follower, answers.
    pub fn commit(&self) {
        let (mut acks, mut told) = (Vec::new(), Vec::new());
        let mut state = self.lock();
        for batch in std::mem::take(&mut state.waiting) {
            if let Some(error) = state.refusal(&batch) {
                acks.extend(batch.into_iter().map(|append| (append.done, Err(error))));
                continue;
            }
            for Append { parts, entry, dedupe, time, done, .. } in batch {
                if let Some((first, body_differs)) = dedupe.and_then(|key| state.duplicate(&key, time)) {
                    acks.push((done, Ok(Appended::Duplicate { first, body_differs })));
                    continue;
                }
                state.last_time = state.last_time.max(time);
                let refs =
                    parts.into_iter().map(|part| state.push(part.kind, part.payload, Vec::new(), &mut told)).collect();
                let seq = state.push(entry.kind, entry.payload, refs, &mut told);
                let id = EventId { time: state.last_time, pos: Pos { partition: 0, seq } };
                if let Some(key) = dedupe {
                    state.keys.insert(key.fingerprint, (id, key.expires_at, key.body));
                }
                acks.push((done, Ok(Appended::Appended(id))));
            }
        }
        drop(state);
        for (done, acked) in acks {
            done.answer(acked);
        }
        if let Some(follower) = self.follower.get().filter(|_| !told.is_empty()) {
            follower.committed(told);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, kind: Kind, payload: bytes::Bytes, refs: Vec<Seq>, told: &mut Vec<Entry>) -> Seq {
        let seq = self.next_seq;
        self.next_seq += 1;
        let entry = Entry { pos: Pos { partition: 0, seq }, time: self.last_time, kind, refs, payload };
        self.entries.push(entry.clone());
        told.push(entry);
        seq
    }

    fn refusal(&self, batch: &[Append]) -> Option<AppendError> {
        let payloads = batch.iter().map(|append| append.entry.payload.len());
        let bytes: usize = payloads.clone().sum();
        let is_too_large = payloads.max().is_some_and(|largest| largest > ENTRY_BYTES_MAX)
            || (batch.len() > 1 && bytes > BATCH_BYTES_MAX)
            || batch.len() > BATCH_APPENDS_MAX;
        match batch.first()?.class {
            Class::Event if self.refuse.is_some() => self.refuse,
            _ => is_too_large.then_some(AppendError::TooLarge),
        }
    }

    fn duplicate(&self, key: &DedupeKey, now: Timestamp) -> Option<(EventId, bool)> {
        let (first, expires_at, body) = self.keys.get(&key.fingerprint)?;
        (*expires_at > now).then_some((*first, *body != key.body))
    }
}

impl Log for MemoryLog {
    fn append(&self, append: Append) {
        self.append_all(vec![append]);
    }

    fn append_all(&self, batch: Vec<Append>) {
        self.lock().waiting.push(batch);
        if self.automatic {
            self.commit();
        }
    }

    fn seen(&self, key: &mut DedupeKey, now: Timestamp) -> Result<Option<(EventId, bool)>, ReadError> {
        Ok(self.lock().duplicate(key, now))
    }

    fn fingerprint(&self, source: &str, key: &[u8]) -> u128 {
        dedupe::fingerprint(&[7; 16], source, key)
    }

    fn forget(&self, fingerprint: u128) {
        self.lock().keys.remove(&fingerprint);
    }

    fn read(&self, seq: Seq) -> Result<Entry, ReadError> {
        let state = self.lock();
        let index = state.entries.binary_search_by_key(&seq, |entry| entry.pos.seq);
        index.ok().and_then(|index| state.entries.get(index).cloned()).ok_or(ReadError::Missing(seq))
    }

    fn scan(&self, from: Seq, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        let state = self.lock();
        let start = state.entries.partition_point(|entry| entry.pos.seq < from);
        let mut bytes = 0;
        let entries = state.entries.iter().skip(start).take_while(|entry| {
            let fits = bytes < bytes_max;
            bytes += entry.payload.len() + 32;
            fits
        });
        Ok(entries.cloned().collect())
    }

    fn scan_back(&self, before: Seq) -> Result<Vec<Entry>, ReadError> {
        let state = self.lock();
        let end = state.entries.partition_point(|entry| entry.pos.seq < before);
        Ok(state.entries.iter().take(end).skip(end.saturating_sub(100)).cloned().collect())
    }

    fn end(&self) -> Seq {
        self.lock().entries.last().map_or(0, |entry| entry.pos.seq + 1)
    }

    fn log_id(&self) -> u128 {
        7
    }

    fn expire(&self, before: Seq) {
        self.lock().entries.retain(|entry| entry.pos.seq >= before);
    }

    fn follow(&self, follower: Arc<dyn Follower>) {
        let _second = self.follower.set(follower);
    }

    fn stats(&self) -> LogStats {
        let state = self.lock();
        let first = state.entries.first();
        LogStats {
            bytes: state.entries.iter().map(|entry| entry.payload.len() as u64).sum(),
            limit: u64::MAX,
            segments: 1,
            oldest_at: first.map(|entry| entry.time),
            first_seq: first.map_or(0, |entry| entry.pos.seq),
            next_seq: state.next_seq,
            ..LogStats::default()
        }
    }

    fn writable(&self) -> Result<(), AppendError> {
        self.lock().refuse.map_or(Ok(()), Err)
    }
}
