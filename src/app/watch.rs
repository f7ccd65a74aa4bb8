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

use crate::config::Pattern;

/// How often it looks.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// Device, inode, size and time of a file; None if it is not there.
type Mark = Option<(u64, u64, u64, i64, i64)>;

/// The files as they were when the configuration was read, and which there were of each pattern.
pub(super) struct Watched {
    files: BTreeMap<PathBuf, Mark>,
    patterns: Vec<(Pattern, Vec<PathBuf>)>,
}

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
    pub(super) fn new(files: &[PathBuf], patterns: &[Pattern]) -> Self {
        let patterns = patterns.iter().map(|pattern| (pattern.clone(), found(pattern))).collect();
        Self { files: files.iter().map(|file| (file.clone(), mark(file))).collect(), patterns }
    }

    /// The same as it is now; files that have come since belong to it.
    pub(super) fn again(&self) -> Self {
        let patterns: Vec<_> = self.patterns.iter().map(|(pattern, _)| (pattern.clone(), found(pattern))).collect();
        let files = self.files.keys().chain(patterns.iter().flat_map(|(_, files)| files));
        Self { files: files.map(|file| (file.clone(), mark(file))).collect(), patterns }
    }

    pub(super) fn changed(&self) -> Changed {
        if self.patterns.iter().any(|(pattern, before)| found(pattern) != *before) {
            return Changed::Text;
        }
        let changed = self.files.iter().filter(|(file, before)| mark(file) != **before).map(|(file, _)| file);
        changed.fold(Changed::Nothing, |worst, file| match worst {
            Changed::Text => Changed::Text,
            _ if file.extension().is_some_and(|ending| ending == "toml") => Changed::Text,
            _ => Changed::Material,
        })
    }
}

/// What can't be listed is as if it had no files: a reload says why.
fn found(pattern: &Pattern) -> Vec<PathBuf> {
    pattern.files().unwrap_or_default()
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
        let watched = Watched::new(&[text.clone(), secret.clone()], &[]);
        assert_eq!(watched.changed(), Changed::Nothing);
        let renewed = directory.path().join("renewed");
        fs::write(&renewed, "a").unwrap();
        fs::rename(&renewed, &secret).unwrap();
        assert_eq!(watched.changed(), Changed::Material);
        fs::remove_file(&text).unwrap();
        assert_eq!(watched.changed(), Changed::Text);
    }

    #[test]
    fn a_file_that_comes_or_goes_among_the_included_is_a_changed_text() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("stagepost.toml");
        fs::write(&config, "include = ['d/*.toml']\n[[listen]]\naddress = '127.0.0.1:0'\n").unwrap();
        let loaded = crate::config::load(&config).unwrap();
        let watched = Watched::new(&loaded.files, &loaded.patterns);
        assert_eq!(watched.changed(), Changed::Nothing);
        let new = directory.path().join("d/new.toml");
        fs::create_dir(directory.path().join("d")).unwrap();
        fs::write(directory.path().join("d/note.txt"), "").unwrap();
        assert_eq!(watched.changed(), Changed::Nothing);
        fs::write(&new, "nonsense = 1").unwrap();
        assert_eq!(watched.changed(), Changed::Text);
        let refused = watched.again();
        assert_eq!(refused.changed(), Changed::Nothing);
        fs::write(&new, "").unwrap();
        assert_eq!(refused.changed(), Changed::Text, "mended");
        fs::remove_file(&new).unwrap();
        assert_eq!(refused.changed(), Changed::Text);
    }
}
