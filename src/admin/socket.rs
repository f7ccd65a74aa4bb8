//! Owns the Unix socket of the operators: its file, its mode, and who speaks through it.
//!
//! Promises that the file belongs to the running instance only (a stale one is removed, a live one never), that
//! nobody outside owner and group can connect, and that a peer's name is only for the record, never for a decision.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Gid, chown};
use tokio::net::UnixListener;

/// Owner and group may read and write.
const MODE: u32 = 0o660;

/// Why the socket can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("{0} is in use: another instance is running")]
    InUse(PathBuf),
    /// There is something else.
    #[error("{0} is no socket: remove it, or choose another admin.socket")]
    NotASocket(PathBuf),
    /// No such group.
    #[error("there is no group {0:?}: create it, or change admin.socket_group")]
    NoGroup(String),
    /// The operating system said no.
    #[error("opening the admin socket {path}: {source}")]
    Io {
        /// The socket's file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Opens the socket, mode 0660, for `group` if one is given. Must be called in a tokio runtime.
///
/// # Errors
/// See [`SocketError`].
pub fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener, SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    let group = group.map(|name| group_id(name).ok_or_else(|| SocketError::NoGroup(name.to_owned()))).transpose()?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        // Only a refused connection says that nobody listens; a full backlog or a missing permission does not.
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io)?,
            _ => return Err(SocketError::InUse(path.to_owned())),
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(io)?;
    if let Some(group) = group {
        chown(path, None, Some(Gid::from_raw(group))).map_err(|error| io(error.into()))?;
    }
    Ok(listener)
}

/// `uid 1000 (alice)`, or `uid 1000` if the number has no name here.
#[must_use]
pub fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    match name_in(&passwd, uid) {
        Some(name) => format!("uid {uid} ({name})"),
        None => format!("uid {uid}"),
    }
}

fn name_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then_some(name)
    })
}

fn group_id(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| id_in(&fs::read_to_string("/etc/group").unwrap_or_default(), name))
}

fn id_in(group: &str, wanted: &str) -> Option<u32> {
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        number.parse().ok().filter(|_| name == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_from_the_files_text() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";
        assert_eq!(name_in(passwd, 1000), Some("alice"));
        assert_eq!(name_in(passwd, 7), None);
        assert_eq!(id_in("ops:x:44:alice\nwww:x:33:", "ops"), Some(44));
        assert_eq!(id_in("ops:x:44:alice", "alice"), None);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = bind(&path, None).unwrap();
        assert!(matches!(bind(&path, None), Err(SocketError::InUse(_))));
        drop(first);
        let _second = bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(bind(&file, None), Err(SocketError::NotASocket(_))));
        assert!(matches!(bind(&dir.path().join("x"), Some("no such group")), Err(SocketError::NoGroup(_))));
    }
}
