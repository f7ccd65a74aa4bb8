//! Owns the sealer: the thread that does the log's slow work, so that the committer never waits for it.
//!
//! It makes segments ahead of need, turns finished ones into flat files, writes older dedupe keys, deletes expired
//! segments, and watches space once a second.

use std::{
    cell::{Cell, RefCell},
    fs,
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    Active, OpenSegment, Repairing, SegmentError, Shared,
    leftover::{Leftovers, STEP_EVERY},
};
use crate::{
    clock::Timestamp,
    event::Seq,
    log::{
        dedupe::Frozen,
        disk::{self, Reserve},
        segment::{self, Sealed},
    },
};

/// How often space is watched.
const TICK: Duration = Duration::from_secs(1);

/// How often it is looked whether somebody still reads from a segment.
const READER_LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long sealing works before it gives way, …
const WORK_SLICE: Duration = Duration::from_millis(2);
/// … for how many times as long, …
const PAUSE_SHARE: u32 = 4;
/// … and how long at the most.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// With more unsealed segments than this (the active one included) it no longer gives way.
const SEALING_BEHIND: usize = 3;

/// What the sealer is asked to do.
pub(super) enum Work {
    /// Make the next segment ahead of need.
    Prepare,
    /// Seal the finished segments.
    Seal,
    /// Reopen a segment that met a full disk, then seal it.
    Repair(Arc<OpenSegment>),
    /// Delete a segment from which nothing was ever acknowledged.
    Discard(Arc<OpenSegment>),
    /// Write older dedupe keys.
    Publish(Frozen),
    /// Delete segments that end at or before this.
    Expire(Seq),
    /// Finish the active segment now.
    Roll,
    /// No more work.
    End,
}

pub(super) struct Sealer {
    pub(super) shared: Arc<Shared>,
    pub(super) work: Receiver<Work>,
    /// Keys whose run could not be written; tried again every second.
    pub(super) unpublished: Cell<Option<Frozen>>,
    /// When the current slice of sealing began.
    pub(super) working_since: Cell<Duration>,
    /// Directories of sealed segments that are being deleted.
    pub(super) leftovers: RefCell<Leftovers>,
}

impl Sealer {
    pub(super) fn run(self) {
        crate::log::yield_to_others();
        self.watch_space();
        let mut watched = self.shared.clock.elapsed();
        loop {
            let deleting = !self.leftovers.borrow().is_empty();
            match self.work.recv_timeout(if deleting { STEP_EVERY } else { TICK }) {
                Ok(Work::End) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(work) => self.do_work(work),
                Err(RecvTimeoutError::Timeout) if deleting => {
                    self.leftovers.borrow_mut().step();
                    if self.shared.clock.elapsed().saturating_sub(watched) < TICK {
                        continue;
                    }
                    self.try_again();
                }
                Err(RecvTimeoutError::Timeout) => self.try_again(),
            }
            self.do_late_work();
            watched = self.shared.clock.elapsed();
            if let Some(frozen) = self.unpublished.take() {
                self.publish(frozen);
            }
            self.watch_space();
        }
        self.leftovers.borrow_mut().finish();
    }

    /// What the queue had no room for.
    fn do_late_work(&self) {
        let late = std::mem::take(&mut *self.shared.late.lock().unwrap_or_else(PoisonError::into_inner));
        late.into_iter().for_each(|work| self.do_work(work));
    }

    /// What did not work a while ago.
    fn try_again(&self) {
        self.reopen();
        self.seal_finished();
    }

    fn do_work(&self, work: Work) {
        match work {
            Work::Prepare => {
                self.shared.prepare_asked.store(false, Ordering::SeqCst);
                self.prepare();
            }
            Work::Seal => self.seal_finished(),
            Work::Repair(open) => self.repair(open),
            Work::Discard(open) => self.discard(open),
            Work::Publish(frozen) => self.publish(frozen),
            Work::Expire(before) => self.expire(before),
            Work::Roll => {
                self.prepare();
                self.shared.roll_asked.store(true, Ordering::SeqCst);
                self.shared.queue.knock();
            }
            Work::End => {}
        }
    }

    fn prepare(&self) {
        let shared = &self.shared;
        let _making = shared.making.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.prepared.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let segments = shared.segments.load();
        let last = segments.open.last().map(|open| open.active.number);
        let number = last.or(segments.sealed.last().map(|sealed| sealed.number)).unwrap_or(0) + 1;
        match Active::create(&shared.log_directory(), number, &shared.settings.barrier) {
            Ok(active) => *shared.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(active),
            Err(error) => tracing::warn!(%error, "the next segment can't be made yet; the active one grows on"),
        }
    }

    /// Seals all finished segments, oldest first. What can't be sealed now is tried again every second; newer ones
    /// wait for it, so that sealed segments are always older than open ones.
    fn seal_finished(&self) {
        loop {
            let segments = self.shared.segments.load_full();
            let Some((_, finished)) = segments.open.split_last() else { return };
            let Some(open) = finished.first().cloned() else { return };
            if segments.repairing.first().is_some_and(|older| older.number < open.active.number) {
                return;
            }
            drop(segments);
            if !self.seal(&open) {
                return;
            }
        }
    }

    fn seal(&self, open: &Arc<OpenSegment>) -> bool {
        let limit = self.shared.segments.load().limit_of(open.active.number);
        let path = self.shared.log_directory().join(format!("{:08}.seg", open.active.number));
        let result = seal_segment(&open.active, &path, limit, self.shared.partition, &|| self.give_way());
        match result {
            Ok((sealed, damaged)) => {
                for seq in damaged {
                    tracing::error!(seq, segment = open.active.number, "a damaged frame could not be sealed");
                }
                self.replace(open, sealed);
                self.shared.metrics.seals.inc();
                true
            }
            Err(error) => {
                tracing::error!(%error, segment = open.active.number, "sealing did not work; it is tried again");
                false
            }
        }
    }

    /// Sealing works a fifth of the time, in slices of milliseconds, so that neither the cores nor the disk are taken
    /// from the commits for long; without pauses when segments come faster than that.
    fn give_way(&self) {
        let worked = self.shared.clock.elapsed().saturating_sub(self.working_since.get());
        if worked < WORK_SLICE {
            return;
        }
        let behind = self.shared.segments.load().open.len() > SEALING_BEHIND;
        if !behind && !self.shared.closing.load(Ordering::SeqCst) {
            std::thread::park_timeout(PAUSE_MAX.min(worked * PAUSE_SHARE));
        }
        self.working_since.set(self.shared.clock.elapsed());
    }

    /// Readers see the file from now on; the directory goes once nobody reads from it any more.
    fn replace(&self, open: &Arc<OpenSegment>, sealed: Option<Sealed>) {
        let sealed = sealed.map(Arc::new);
        self.shared.change_segments(|segments| {
            segments.open.retain(|other| !Arc::ptr_eq(other, open));
            if let Some(sealed) = &sealed {
                let place = segments.sealed.partition_point(|other| other.number < sealed.number);
                segments.sealed.insert(place, sealed.clone());
            }
        });
        // The file is durable under its name: `seal` has synced the directory.
        self.leftovers.borrow_mut().add(open);
    }

    /// Takes a segment that met a full disk away from the readers, who are told to come again, and opens it anew.
    fn repair(&self, broken: Arc<OpenSegment>) {
        let number = broken.active.number;
        if !self.shared.segments.load().open.iter().any(|open| Arc::ptr_eq(open, &broken)) {
            // It could be sealed as it is.
            return;
        }
        let first_time = Timestamp::from_millis(broken.first_time.load(Ordering::Relaxed));
        let repairing = Repairing { number, first_seq: broken.first_seq, first_time };
        self.shared.change_segments(|segments| {
            segments.open.retain(|other| !Arc::ptr_eq(other, &broken));
            let place = segments.repairing.partition_point(|other| other.number < number);
            segments.repairing.insert(place, repairing);
        });
        // sled locks its file: whoever still reads from the old handle must be done first.
        while Arc::strong_count(&broken) > 1 {
            std::thread::park_timeout(READER_LOOK_EVERY);
        }
        drop(broken);
        self.reopen();
        self.seal_finished();
    }

    /// Opens what is being repaired. While there is no room for that, it is tried again every second.
    fn reopen(&self) {
        let repairing = self.shared.segments.load().repairing.clone();
        for Repairing { number, first_seq, first_time } in repairing {
            match Active::open(&self.shared.log_directory(), number) {
                Ok(active) => {
                    let open = Arc::new(OpenSegment { active, first_seq, first_time: first_time.as_millis().into() });
                    self.shared.change_segments(|segments| {
                        segments.repairing.retain(|other| other.number != number);
                        let place = segments.open.partition_point(|other| other.active.number < number);
                        segments.open.insert(place, open.clone());
                    });
                }
                Err(error) if error.is_full() => {
                    tracing::warn!(%error, segment = number, "no room to open a segment; its events wait");
                    return;
                }
                Err(error) => return self.shared.poison(&error),
            }
        }
    }

    /// Nothing was acknowledged from it: it never was.
    fn discard(&self, broken: Arc<OpenSegment>) {
        self.shared.change_segments(|segments| segments.open.retain(|other| !Arc::ptr_eq(other, &broken)));
        self.leftovers.borrow_mut().add(&broken);
    }

    fn publish(&self, frozen: Frozen) {
        let now = self.shared.clock.now();
        match self.shared.runs.publish(&frozen, now) {
            Ok(version) => {
                self.shared.published.lock().unwrap_or_else(PoisonError::into_inner).push((frozen, version));
                self.shared.queue.knock();
            }
            Err(error) => {
                tracing::warn!(%error, "dedupe keys stay in memory: their run can't be written");
                self.unpublished.set(Some(frozen));
                return;
            }
        }
        if let Err(error) = self.shared.runs.tidy(now) {
            tracing::warn!(%error, "runs of dedupe keys can't be merged; look-ups get slower");
        }
    }

    fn expire(&self, before: Seq) {
        let segments = self.shared.segments.load_full();
        // No holes: what is older and not sealed yet keeps all that is newer. And something must stay to tell the
        // next start which numbers were used.
        let open = segments.open.first().map_or(0, |open| open.active.number);
        let oldest_open = segments.repairing.first().map_or(open, |segment| segment.number.min(open));
        // Nor before its dedupe keys are elsewhere.
        let before = before.min(self.shared.runs.covered());
        let used_in_open = segments.open.iter().any(|open| !open.active.is_empty());
        let stays = segments.sealed.last().filter(|_| !used_in_open).map(|sealed| sealed.number);
        let goes =
            |sealed: &Sealed| sealed.end() <= before && sealed.number < oldest_open && Some(sealed.number) != stays;
        for sealed in segments.sealed.iter().take_while(|sealed| goes(sealed)) {
            self.shared.change_segments(|segments| {
                segments.sealed.retain(|other| other.number != sealed.number);
            });
            if let Err(error) = fs::remove_file(sealed.path()) {
                tracing::warn!(%error, file = %sealed.path().display(), "an expired segment can't be deleted");
            }
            // One after the other on disk too, so that a power cut leaves no hole.
            let _failed = disk::sync_directory_of(sealed.path());
        }
    }

    /// Keeps the figures and the two reasons to refuse new events: the budget and the disk.
    fn watch_space(&self) {
        let shared = &self.shared;
        let directory = &shared.settings.directory;
        let bytes = disk::used_bytes(&directory.join("log"))
            + disk::used_bytes(&directory.join("dedupe"))
            + disk::used_bytes(&directory.join("state"));
        shared.bytes.store(bytes, Ordering::Relaxed);
        shared.metrics.store_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        shared.metrics.store_limit_bytes.set(i64::try_from(shared.settings.max_size).unwrap_or(i64::MAX));
        let Ok(free) = disk::free_bytes(directory) else { return };
        let full = bytes >= shared.settings.max_size || free < shared.settings.reserve;
        if shared.full.swap(full, Ordering::SeqCst) != full {
            if full {
                tracing::error!(bytes, free, "the store is full: new events are refused with 503; settlements go on");
            } else {
                tracing::info!(bytes, free, "the store has room again");
            }
        }
        if !full {
            let _no_room_yet = Reserve::of(directory).fill();
        }
    }
}

/// Writes a segment's frames before `limit` to a flat file, and gives way to others after each. None if there are none.
pub(super) fn seal_segment(
    active: &Active,
    path: &std::path::Path,
    limit: Seq,
    partition: u16,
    give_way: &dyn Fn(),
) -> Result<(Option<Sealed>, Vec<Seq>), SegmentError> {
    let mut frames = active
        .frames()
        .take_while(|frame| match frame {
            Ok((first_seq, _)) => *first_seq < limit,
            Err(_) => true,
        })
        .map(|frame| {
            give_way();
            frame.map(|(_, bytes)| bytes).map_err(std::io::Error::other)
        })
        .peekable();
    if frames.peek().is_none() {
        return Ok((None, Vec::new()));
    }
    segment::seal(path, active.number, partition, frames)
        .map(|(sealed, damaged)| (Some(sealed), damaged))
        .map_err(|source| SegmentError::Io { path: path.display().to_string(), source })
}
