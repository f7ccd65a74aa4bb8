//! Owns what an upstream may be besides one request for each event: several events in one request, lines of a file.
//!
//! Promises that every value was checked by its constructor. Writing and sending are `delivery`'s business.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// The most events that go in one batch.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// The most bytes of one batch.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// What stands for the time in a file's name.
pub const TIME_MARK: &str = "{time}";

/// Why a setting makes no policy. The messages name the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// No event at all, or too many.
    #[error("max_items is {0}: from 1 to {max}", max = BATCH_EVENTS_MAX)]
    Items(usize),
    /// No byte at all, or too many.
    #[error("max_size must lie between 1B and 16MiB: a batch is held in memory")]
    Bytes,
    /// Waiting for ever.
    #[error("max_wait is longer than 60s: events would wait for others that may never come; use \"1s\"")]
    Wait,
    /// The name is always the same.
    #[error("has no {mark} in its file name, or more than one: every finished file needs a name of its own, such as \"/var/log/stagepost/events-{mark}.ndjson\"", mark = TIME_MARK)]
    Time,
    /// A directory.
    #[error("names no directory: write the whole path, such as \"/var/log/stagepost/events-{mark}.ndjson\"", mark = TIME_MARK)]
    Directory,
    /// Files without an end.
    #[error("size is below 1KiB: there would be a file for every few events; use \"64MiB\"")]
    RotateSize,
    /// Files without an end.
    #[error("every is shorter than 1s: there would be a file for every few events; use \"1h\"")]
    RotateEvery,
}

/// How events are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Events, at most.
    pub max_items: usize,
    /// Bytes, at most; an event that is larger goes alone.
    pub max_bytes: usize,
    /// How long the first event waits for others.
    pub max_wait: Duration,
    /// How they stand in the body.
    pub format: BatchFormat,
}

/// How events stand in the body of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFormat {
    /// One JSON value a line.
    Ndjson,
    /// One JSON array.
    Array,
}

impl BatchPolicy {
    /// A policy from its settings.
    ///
    /// # Errors
    /// [`SinkError`] if it holds nothing, does not fit into memory, or waits for ever.
    pub fn new(max_items: usize, max_bytes: u64, max_wait: Duration, format: BatchFormat) -> Result<Self, SinkError> {
        if !(1..=BATCH_EVENTS_MAX).contains(&max_items) {
            return Err(SinkError::Items(max_items));
        }
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        if !(1..=BATCH_BYTES_MAX).contains(&max_bytes) {
            return Err(SinkError::Bytes);
        }
        if max_wait > Duration::from_secs(60) {
            return Err(SinkError::Wait);
        }
        Ok(Self { max_items, max_bytes, max_wait, format })
    }
}

/// Events as lines of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePolicy {
    /// Where the files stand.
    pub directory: PathBuf,
    /// Their names: what stands before the time.
    pub before: Box<str>,
    /// And behind it.
    pub behind: Box<str>,
    /// What a line holds.
    pub content: Content,
    /// A file that has so many bytes is finished.
    pub rotate_bytes: u64,
    /// A file that is so old is finished.
    pub rotate_every: Duration,
    /// How lines are stored.
    pub compression: Compression,
}

/// What a line of a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// An object: id, time, source, type, method, path, query and body.
    Event,
    /// The body alone.
    Body,
}

/// How lines are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// One zstd frame for each batch; frames one after the other are a valid file.
    Zstd,
}

impl FilePolicy {
    /// A policy from its settings.
    ///
    /// # Errors
    /// [`SinkError`] if the path says no directory or not where the time stands, or a file would hold next to nothing.
    pub fn new(
        path: &Path,
        content: Content,
        (rotate_bytes, rotate_every): (u64, Duration),
        compression: Compression,
    ) -> Result<Self, SinkError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (before, behind) = name.split_once(TIME_MARK).ok_or(SinkError::Time)?;
        if behind.contains(TIME_MARK)
            || path.parent().is_some_and(|parent| parent.to_string_lossy().contains(TIME_MARK))
        {
            return Err(SinkError::Time);
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).ok_or(SinkError::Directory)?;
        if rotate_bytes < 1024 {
            return Err(SinkError::RotateSize);
        }
        if rotate_every < Duration::from_secs(1) {
            return Err(SinkError::RotateEvery);
        }
        let (directory, before, behind) = (directory.to_owned(), before.into(), behind.into());
        Ok(Self { directory, before, behind, content, rotate_bytes, rotate_every, compression })
    }

    /// The path as configured.
    #[must_use]
    pub fn pattern(&self) -> PathBuf {
        self.directory.join(format!("{}{TIME_MARK}{}", self.before, self.behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_hold_nothing_too_much_or_wait_for_ever_are_refused() {
        let new = |items, bytes, wait| BatchPolicy::new(items, bytes, Duration::from_secs(wait), BatchFormat::Ndjson);
        assert!(new(1, 1, 0).is_ok() && new(10_000, 16 << 20, 60).is_ok());
        assert_eq!(new(0, 1, 0), Err(SinkError::Items(0)));
        assert_eq!(new(10_001, 1, 0), Err(SinkError::Items(10_001)));
        assert_eq!(new(1, 0, 0), Err(SinkError::Bytes));
        assert_eq!(new(1, (16 << 20) + 1, 0), Err(SinkError::Bytes));
        assert_eq!(new(1, 1, 61), Err(SinkError::Wait));
    }

    #[test]
    fn a_path_says_once_where_the_time_stands_and_in_which_directory() {
        let hour = Duration::from_secs(3600);
        let new = |path: &str, rotate| FilePolicy::new(path.as_ref(), Content::Event, rotate, Compression::None);
        let policy = new("/var/log/e-{time}.ndjson", (1024, hour)).unwrap();
        assert_eq!((&*policy.before, &*policy.behind), ("e-", ".ndjson"));
        assert_eq!(policy.pattern(), Path::new("/var/log/e-{time}.ndjson"));
        for path in ["/var/log/e.ndjson", "/var/{time}/e-{time}.ndjson", "/var/log/{time}-{time}", "/var/{time}/x"] {
            assert_eq!(new(path, (1024, hour)), Err(SinkError::Time), "{path}");
        }
        assert_eq!(new("e-{time}", (1024, hour)), Err(SinkError::Directory));
        assert_eq!(new("/e-{time}", (1023, hour)), Err(SinkError::RotateSize));
        assert_eq!(new("/e-{time}", (1024, Duration::from_millis(999))), Err(SinkError::RotateEvery));
    }
}
