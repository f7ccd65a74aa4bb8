//! Owns the watch over files that a configuration was made from.
//!
//! It looks every two seconds at size, time and identity of each file instead of asking the kernel for changes: that
//! also sees renames, symbolic links that are switched over, and network file systems.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often it looks.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// Device, inode, size and time of a file; None if it is not there.
type Mark = Option<(u64, u64, u64, i64, i64)>;

/// The files as they were when the configuration was read.
pub(super) struct Watched(BTreeMap<PathBuf, Mark>);

/// What has changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Nothing.
    Nothing,
    /// Only certificates, keys or secrets.
    Material,
    /// The configuration's own text.
    Text,
}

impl Watched {
    pub(super) fn new(files: &[PathBuf]) -> Self {
        Self(files.iter().map(|file| (file.clone(), mark(file))).collect())
    }

    /// The files.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn changed(&self) -> Changed {
        let changed = self.0.iter().filter(|(file, before)| mark(file) != **before).map(|(file, _)| file);
        changed.fold(Changed::Nothing, |worst, file| match worst {
            Changed::Text => Changed::Text,
            _ if file.extension().is_some_and(|ending| ending == "toml") => Changed::Text,
            _ => Changed::Material,
        })
    }
}

fn mark(file: &Path) -> Mark {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_changed_secret_and_a_changed_text_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let (text, secret) = (directory.path().join("stagepost.toml"), directory.path().join("secret"));
        fs::write(&text, "a").unwrap();
        fs::write(&secret, "a").unwrap();
        let watched = Watched::new(&[text.clone(), secret.clone()]);
        assert_eq!(watched.changed(), Changed::Nothing);
        let renewed = directory.path().join("renewed");
        fs::write(&renewed, "a").unwrap();
        fs::rename(&renewed, &secret).unwrap();
        assert_eq!(watched.changed(), Changed::Material);
        fs::remove_file(&text).unwrap();
        assert_eq!(watched.changed(), Changed::Text);
    }
}
