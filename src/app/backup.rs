//! Owns the moment of a backup, and the log of a stopped instance that is imported into.
//!
//! Promises that everything stored before the moment stands in files that do not change any more. Who copies them is the
//! command line: the server need not be allowed to write elsewhere.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    admin::{Import, ImportError, import, is_in_log, wire},
    clock::Clock,
    config::StoreSettings,
    event::EventId,
    log::{
        Log as _, QueueLimits,
        sled::{Settings, SledLog},
    },
    state::{Offline, State},
    telemetry::Metrics,
};

/// How long sealing may take. A segment of 64 MiB takes seconds; a disk that is busy has its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is looked whether all is sealed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a backup consists of; with `now` after everything stored so far was sealed.
///
/// # Errors
/// Why that is not so, in words.
pub(super) fn point(log: &SledLog, clock: &Clock, now: bool) -> Result<wire::BackupPoint, String> {
    let data = log.directory();
    let data = std::fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    let mut point = wire::BackupPoint { data: data.display().to_string(), end: log.end(), segments: Vec::new() };
    if !now {
        return Ok(point);
    }
    let until = clock.elapsed() + PATIENCE;
    // A new segment would only take what room is left.
    log.room()?;
    log.roll();
    loop {
        let segments = log.segments();
        // Segments that met a full disk are counted, but not listed.
        let whole = segments.len() as u64 == log.stats().segments;
        if whole && segments.iter().all(|segment| segment.sealed || segment.first_seq >= point.end) {
            let sealed = segments.iter().filter(|segment| segment.sealed);
            point.segments = sealed.map(|segment| format!("{:08}.seg", segment.number)).collect();
            return Ok(point);
        }
        log.room()?;
        if clock.elapsed() > until {
            return Err("the active segment is not sealed yet: the disk is busy; try again".to_owned());
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// The settings of a log by its configuration.
pub(super) fn log_settings(store: &StoreSettings) -> Settings {
    Settings {
        directory: store.path.clone(),
        segment_bytes: store.segment_bytes,
        max_size: store.max_size,
        reserve: store.reserve,
        queue: QueueLimits {
            appends: store.queue_events,
            bytes: usize::try_from(store.queue_bytes).unwrap_or(usize::MAX),
        },
        barrier: Settings::sync_data(),
    }
}

/// The log of a stopped instance, to import into. Nobody else can use the directory meanwhile.
pub struct OfflineImport {
    log: SledLog,
    /// What was carried forward stands elsewhere than its id says.
    state: State,
    clock: Clock,
}

impl OfflineImport {
    /// Opens the log of a data directory, by its configuration.
    ///
    /// # Errors
    /// The log's own, so that a held lock can be told apart.
    pub fn open(data: &Path, store: &StoreSettings) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let settings = Settings { directory: data.to_owned(), ..log_settings(store) };
        let log = SledLog::open(settings, Arc::new(Metrics::default()), clock.clone())?;
        let state = Offline::open(&data.join("state"), &log)?.state;
        Ok(Self { log, state, clock })
    }

    /// Imports lines of an export.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn import(&self, deliver: bool, lines: &[u8]) -> Result<wire::Imported, ImportError> {
        let knows = |id: EventId| {
            let at = self.state.stored_at(id.pos.seq).map_err(|error| error.to_string())?;
            is_in_log(&self.log, id, at)
        };
        import(&self.log, &Import { now: self.clock.now(), generation: 0, deliver, knows: &knows }, lines)
    }
}

impl Drop for OfflineImport {
    fn drop(&mut self) {
        self.log.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{Compiled, Reads as _, export, fake::Fake, wire::Filters},
        config,
        log::{
            Append, Class, Done, Kind, NewEntry,
            entry::{Carried, encode_carried},
        },
    };

    fn append(log: &SledLog, kind: Kind, payload: bytes::Bytes) {
        let (done, answer) = Done::channel();
        let entry = NewEntry { kind, payload };
        let (class, time) = (Class::Upkeep, Clock::system().now());
        log.append(Append { parts: Vec::new(), entry, dedupe: None, class, time, done });
        answer.blocking_recv().unwrap().unwrap();
    }

    #[test]
    fn an_event_that_was_carried_forward_is_not_imported_into_its_own_log_again() {
        let fake = Fake::default();
        let id = fake.accept("stripe", b"1");
        let accepted = fake.log().read(id.pos.seq).unwrap().payload;
        let mut line = Vec::new();
        export(&fake, &Compiled::new(Filters::default(), &fake).unwrap(), false, &mut |reply| {
            let wire::ExportReply::Event(event) = reply else { panic!("{reply:?}") };
            serde_json::to_writer(&mut line, &event).unwrap();
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        let home = tempfile::tempdir().unwrap();
        let config = config::quick("127.0.0.1:0", "http://127.0.0.1:1", home.path()).unwrap().config;
        let stopped = OfflineImport::open(home.path(), &config.store).unwrap();
        for _ in 0..3 {
            append(&stopped.log, Kind::Accepted, accepted.clone());
        }
        let carried = Carried { id, history: vec![("default".into(), 0)], accepted };
        append(&stopped.log, Kind::Carried, encode_carried(&carried));
        drop(stopped);
        let stopped = OfflineImport::open(home.path(), &config.store).unwrap();
        let told = stopped.import(true, &line).unwrap();
        assert_eq!((told.imported, told.known), (0, 1));
    }
}
