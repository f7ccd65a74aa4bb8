//! Owns the hashes of the configurations that were active in a data directory: what events say of theirs is a generation.
//!
//! Promises that a hash is durable before the first event that names its generation. The newest [`KEPT`] are kept. What
//! can't be read or written is only not told: nothing depends on it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// How many are kept: a start and each reload makes one.
const KEPT: usize = 1_000;

/// The file in the data directory: a line for each, with generation and hash.
const FILE: &str = "configurations";

/// Generations with their hashes, the newest last.
pub(super) struct Hashes {
    file: PathBuf,
    known: Vec<(u64, String)>,
}

impl Hashes {
    /// Those of a data directory. Blocks on the file system.
    pub(super) fn open(data: &Path) -> Self {
        let file = data.join(FILE);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let line = |line: &str| {
            let (generation, hash) = line.split_once(' ')?;
            Some((generation.parse().ok()?, hash.to_owned()))
        };
        Self { known: text.lines().filter_map(line).collect(), file }
    }

    /// Adds one. Blocks on the file system.
    pub(super) fn note(&mut self, generation: u64, hash: &str) {
        self.known.push((generation, hash.to_owned()));
        self.known.drain(..self.known.len().saturating_sub(KEPT));
        if let Err(error) = self.write() {
            tracing::warn!(%error, file = %self.file.display(), "later it can't be told which configuration events had");
        }
    }

    /// The hash of a generation.
    pub(super) fn of(&self, generation: u64) -> Option<&str> {
        self.known.iter().rev().find(|(known, _)| *known == generation).map(|(_, hash)| hash.as_str())
    }

    fn write(&self) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        let text: String = self.known.iter().map(|(generation, hash)| format!("{generation} {hash}\n")).collect();
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_outlive_the_process_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let mut hashes = Hashes::open(directory.path());
        assert_eq!(hashes.of(1), None);
        for generation in 1..=KEPT as u64 + 1 {
            hashes.known.push((generation, format!("h{generation}")));
        }
        hashes.note(5_000, "last");
        let again = Hashes::open(directory.path());
        assert_eq!((again.of(5_000), again.of(2), again.of(3)), (Some("last"), None, Some("h3")));
        fs::write(directory.path().join(FILE), "7 seven\nnonsense\n8 ei").unwrap();
        assert_eq!(Hashes::open(directory.path()).of(7), Some("seven"));
    }
}
