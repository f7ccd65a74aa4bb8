//! Owns the files that large bodies wait in until they are verified.
//!
//! Promises that a spooled body has no name: its file is unlinked before its first byte is written, so that neither
//! a crash nor a forger leaves anything behind. Files are only touched on blocking threads.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use crate::log::{PART_BYTES, disk::private_directory};

/// The spool directory.
pub(super) struct Spool {
    dir: PathBuf,
    next: AtomicU64,
}

/// A body being spooled.
pub(super) struct Spooled {
    file: File,
    length: u64,
}

impl Spool {
    /// Makes the directory and removes what a crash may have left between making and unlinking a file.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        private_directory(&dir)?;
        for left_over in std::fs::read_dir(&dir)? {
            std::fs::remove_file(left_over?.path())?;
        }
        Ok(Self { dir, next: AtomicU64::new(0) })
    }

    /// A new file without a name, with its first piece.
    pub(super) async fn begin(&self, first: Vec<u8>) -> io::Result<(Spooled, Vec<u8>)> {
        let path = self.dir.join(format!("body-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        blocking(move || Ok(Spooled { file: unnamed(&path)?, length: 0 })).await?.write(first).await
    }
}

impl Spooled {
    /// Appends a piece; gives the emptied buffer back for the next.
    pub(super) async fn write(mut self, mut piece: Vec<u8>) -> io::Result<(Self, Vec<u8>)> {
        blocking(move || {
            self.file.write_all(&piece)?;
            self.length += piece.len() as u64;
            piece.clear();
            Ok((self, piece))
        })
        .await
    }

    /// Reads the body back, in pieces of [`PART_BYTES`]; the space is free again afterwards.
    pub(super) async fn read(mut self) -> io::Result<Vec<Bytes>> {
        blocking(move || {
            self.file.seek(SeekFrom::Start(0))?;
            let mut parts = Vec::new();
            let mut left = usize::try_from(self.length).map_err(io::Error::other)?;
            while left > 0 {
                let mut part = vec![0; left.min(PART_BYTES)];
                self.file.read_exact(&mut part)?;
                left -= part.len();
                parts.push(part.into());
            }
            Ok(parts)
        })
        .await
    }
}

fn unnamed(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|stopped| Err(io::Error::other(stopped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spooled_body_has_no_name_and_comes_back_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("body-9"), "left over").unwrap();
        let spool = Spool::open(dir.path().to_owned()).unwrap();
        let body: Vec<u8> = (0..PART_BYTES + 10).map(|n| n as u8).collect();
        let (spooled, buffer) = spool.begin(body[..1_000].to_vec()).await.unwrap();
        assert!(buffer.is_empty());
        let (spooled, _) = spooled.write(body[1_000..].to_vec()).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(spooled.length, body.len() as u64);
        let parts = spooled.read().await.unwrap();
        assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), [PART_BYTES, 10]);
        assert_eq!(parts.concat(), body);
    }
}
