//! Owns the readiness probe: it really writes, at most once a second, and asks no upstream.

use std::{
    fs::File,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{clock::Clock, log::Log};

/// Between two writes.
const EVERY: Duration = Duration::from_secs(1);

/// Whether new events can be stored.
pub(super) struct Probe {
    log: Arc<dyn Log>,
    clock: Clock,
    file: PathBuf,
    /// When it was written last, and what came of it.
    last: Mutex<Option<(Duration, Result<(), String>)>>,
    stopping: AtomicBool,
}

impl Probe {
    pub(super) fn new(log: Arc<dyn Log>, clock: Clock, file: PathBuf) -> Self {
        Self { log, clock, file, last: Mutex::default(), stopping: AtomicBool::new(false) }
    }

    /// From now on the process is not ready any more.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(super) fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err("shutting down".into());
        }
        self.log.writable().map_err(|error| error.to_string())?;
        let now = self.clock.elapsed();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, result)) if now.saturating_sub(*at) < EVERY => result.clone(),
            _ => {
                let result = self.write().map_err(|error| format!("the data directory can't be written: {error}"));
                *last = Some((now, result.clone()));
                result
            }
        }
    }

    fn write(&self) -> std::io::Result<()> {
        let mut file = File::create(&self.file)?;
        file.write_all(b"ready\n")?;
        file.sync_data()
    }
}
