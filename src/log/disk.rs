//! Owns what the log asks of the file system besides reading and writing: the lock of a data directory, its
//! identity, the reserve, free space, and syncing directories.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, FlockOperation};

/// Bytes kept aside so that a full disk can be put in order.
pub const RESERVE_BYTES: u64 = 64 * 1024 * 1024;

/// Makes a directory that only its owner may enter, with its parents, unless it is there: stored requests have
/// credentials in them, whatever the umask. The parents are left to the umask, since the operators' socket may lie
/// there.
///
/// # Errors
/// What the system said.
pub fn private_directory(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// A new directory among the system's temporary files that only its owner may enter, removed when dropped. Nothing
/// that another user put there is ever used.
pub struct Temporary(PathBuf);

impl Temporary {
    /// Makes it.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(name: &str) -> io::Result<Self> {
        /// Names that are tried.
        const NAMES: u32 = 1_000;
        let (parent, pid) = (std::env::temp_dir(), std::process::id());
        for number in 0..NAMES {
            let path = parent.join(format!("{name}-{pid}-{number}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{} is full of directories named {name}: remove them", parent.display())))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}

/// Who may use a data directory at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// One server.
    Exclusive,
    /// Offline readers, together.
    Shared,
}

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{path} is in use by process {pid}: stop it, or use another store.path")]
    Busy {
        /// The directory.
        path: String,
        /// The holder, 0 if unknown.
        pid: u32,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A held lock; given back when dropped, or when the process ends however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its effect")] File);

impl Lock {
    /// Takes the lock of a data directory without waiting.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(directory: &Path, access: Access) -> Result<Self, LockError> {
        let path = directory.join("LOCK");
        let io = |source| LockError::Io { path: path.display().to_string(), source };
        let mut file = match access {
            Access::Exclusive => {
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?
            }
            Access::Shared => File::open(&path).map_err(io)?,
        };
        let operation = match access {
            Access::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Access::Shared => FlockOperation::NonBlockingLockShared,
        };
        if let Err(error) = rustix::fs::flock(&file, operation) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(io(error.into()));
            }
            let mut holder = String::new();
            let _unreadable = file.take(16).read_to_string(&mut holder);
            let pid = holder.trim().parse().unwrap_or(0);
            return Err(LockError::Busy { path: directory.display().to_string(), pid });
        }
        if access == Access::Exclusive {
            // For people and error messages only: a full disk must not keep the server from starting.
            let _unnamed = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        }
        Ok(Self(file))
    }
}

/// What makes a store itself: its log's identity and the key of its fingerprints. Written once, at creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Tells this log from every other.
    pub log_id: u128,
    /// Keys the fingerprints of dedupe keys and bodies.
    pub fingerprint_key: [u8; 16],
}

const IDENTITY_MAGIC: &[u8; 16] = b"STAGEPOST-LOG-1\n";

impl Identity {
    /// Reads the identity of a data directory, or gives it one.
    ///
    /// # Errors
    /// `InvalidData` if the file is damaged, or what the system said.
    pub fn open_or_create(directory: &Path) -> io::Result<Self> {
        let path = directory.join("IDENTITY");
        match Self::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut random = [0_u8; 32];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let mut bytes = IDENTITY_MAGIC.to_vec();
        bytes.extend_from_slice(&random);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        let temporary = path.with_extension("tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_directory_of(&path)?;
        Self::open(directory)
    }

    /// Reads the identity of a data directory.
    ///
    /// # Errors
    /// `NotFound` if there is none, `InvalidData` if it is damaged, or what the system said.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("IDENTITY");
        let bytes = fs::read(&path)?;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(wrong)?;
        let random = body.strip_prefix(IDENTITY_MAGIC).ok_or_else(wrong)?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) || random.len() != 32 {
            return Err(wrong());
        }
        let (id, key) = random.split_at(16);
        Ok(Self {
            log_id: u128::from_be_bytes(id.try_into().map_err(|_| wrong())?),
            fingerprint_key: key.try_into().map_err(|_| wrong())?,
        })
    }
}

/// Makes an entry of a directory durable: fsync of the directory that holds `path`.
///
/// # Errors
/// What the system said.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Bytes that an unprivileged process may still write to the file system of `path`.
///
/// # Errors
/// What the system said.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that a directory tree occupies on disk.
#[must_use]
pub fn used_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let kind = entry.file_type().ok()?;
            if kind.is_dir() { Some(used_bytes(&entry.path())) } else { Some(entry.metadata().ok()?.blocks() * 512) }
        })
        .sum()
}

/// A preallocated file that is given back when a full disk must be put in order.
pub struct Reserve(PathBuf);

impl Reserve {
    /// The reserve of a data directory, not yet there.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        Self(directory.join("reserve"))
    }

    /// Allocates it, if it is not there and there is room for it twice.
    ///
    /// # Errors
    /// What the system said; `StorageFull` if there is no room.
    pub fn fill(&self) -> io::Result<()> {
        if fs::metadata(&self.0).is_ok_and(|meta| meta.len() == RESERVE_BYTES) {
            return Ok(());
        }
        let directory = self.0.parent().unwrap_or(Path::new("."));
        if free_bytes(directory)? < 2 * RESERVE_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = File::create(&self.0)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES).or_else(|error| match error {
            rustix::io::Errno::OPNOTSUPP => Ok(()),
            other => Err(other),
        })?;
        Ok(())
    }

    /// Gives its room back.
    pub fn release(&self) {
        let _absent = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_stored_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("data/log");
        private_directory(&log).unwrap();
        private_directory(&log).unwrap();
        assert_eq!(mode(&log), 0o700);
        assert!(private_directory(&log.join("x")).is_ok() && private_directory(Path::new("/dev/null")).is_err());
        Identity::open_or_create(&log).unwrap();
        assert_eq!(mode(&log.join("IDENTITY")), 0o600);
    }

    #[test]
    fn a_temporary_directory_is_new_private_and_removed() {
        let one = Temporary::new("stagepost-test").unwrap();
        let other = Temporary::new("stagepost-test").unwrap();
        assert_ne!(one.path(), other.path(), "what is there already is never used");
        assert_eq!(mode(one.path()), 0o700);
        fs::write(one.path().join("file"), "x").unwrap();
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_server_is_told_who_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let held = Lock::take(directory.path(), Access::Exclusive).unwrap();
        let refused = Lock::take(directory.path(), Access::Exclusive).unwrap_err();
        assert!(matches!(refused, LockError::Busy { pid, .. } if pid == std::process::id()), "{refused}");
        assert!(Lock::take(directory.path(), Access::Shared).is_err());
        drop(held);
        let _one = Lock::take(directory.path(), Access::Shared).unwrap();
        let _two = Lock::take(directory.path(), Access::Shared).unwrap();
        assert!(Lock::take(directory.path(), Access::Exclusive).is_err());
    }

    #[test]
    fn an_identity_is_made_once_and_damage_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let made = Identity::open_or_create(directory.path()).unwrap();
        assert_eq!(Identity::open_or_create(directory.path()).unwrap(), made);
        let path = directory.path().join("IDENTITY");
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(Identity::open_or_create(directory.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
