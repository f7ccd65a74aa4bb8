//! Owns the files of a configuration: reading them, following `include`, merging them into one tree.
//!
//! Promises that a file is read once, in a stable order (an including file before the included, those of one pattern
//! by name). At most [`FILES_MAX`] files of [`FILE_BYTES_MAX`] bytes each.

use std::{
    collections::{BTreeSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    context::Context,
    interpolate::interpolate,
    problem::Place,
    tree::{self, Table, Value},
};

/// The most files of one configuration.
const FILES_MAX: usize = 1000;

/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a file and all it includes. Problems are recorded; what could be read is returned.
pub(super) fn read(cx: &Context<'_>, path: &Path) -> Table {
    let mut merged = Table::default();
    let mut seen = BTreeSet::new();
    let whole = Place { file: Arc::from(path), line: 0 };
    let mut waiting = VecDeque::from([(path.to_owned(), whole)]);
    while let Some((path, named_at)) = waiting.pop_front() {
        if !seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            continue;
        }
        if seen.len() > FILES_MAX {
            cx.problem(&named_at, "include", format!("more than {FILES_MAX} files; check the pattern"));
            break;
        }
        cx.watch(&path);
        match text(&path) {
            Ok(text) => add(cx, &text, &Arc::from(path), &mut merged, &mut waiting),
            Err(error) => {
                let key = if named_at.line == 0 { "" } else { "include" };
                cx.problem(&named_at, key, format!("{} can't be read: {error}", path.display()));
            }
        }
    }
    merged
}

/// Parses one text into the tree; what it includes is put at the end of the queue.
pub(super) fn add(
    cx: &Context<'_>,
    text: &str,
    file: &Arc<Path>,
    merged: &mut Table,
    waiting: &mut VecDeque<(PathBuf, Place)>,
) {
    let (mut table, problems) = tree::parse(text, file);
    if !problems.is_empty() {
        problems.into_iter().for_each(|problem| cx.problem(&problem.place, &problem.key, problem.message));
        // What else is wrong with it may be wrong for this reason only.
        merged.merge(table, "", 0, &mut Vec::new());
        return;
    }
    if let Some(at) = table.0.iter().position(|entry| entry.name == "include") {
        let entry = table.0.remove(at);
        let patterns = match &entry.node.value {
            Value::List(nodes) => nodes.as_slice(),
            _ => std::slice::from_ref(&entry.node),
        };
        for node in patterns {
            let found = match &node.value {
                Value::Text(pattern) => interpolate(pattern, cx.env()).and_then(|pattern| matching(cx, file, &pattern)),
                other => Err(format!("takes a list of strings, not {}", other.kind())),
            };
            match found {
                Ok(files) => waiting.extend(files.into_iter().map(|file| (file, node.place.clone()))),
                Err(message) => cx.problem(&node.place, "include", message),
            }
        }
    }
    let mut problems = Vec::new();
    merged.merge(table, "", 0, &mut problems);
    problems.into_iter().for_each(|problem| cx.problem(&problem.place, &problem.key, problem.message));
}

/// Files of a directory whose names fit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    directory: PathBuf,
    /// A `*` stands for any characters; hidden files are left out.
    name: String,
}

impl Pattern {
    /// The files there are now, by name. Blocks on the file system.
    ///
    /// # Errors
    /// Why the directory can't be listed, in words.
    pub fn files(&self) -> Result<Vec<PathBuf>, String> {
        let Self { directory, name } = self;
        let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let failed = |error: io::Error| format!("{} can't be listed: {error}", listed.display());
        let entries = match fs::read_dir(listed) {
            Ok(entries) => entries,
            // A directory for additions that nobody has made yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let found = entry.file_name().to_string_lossy().into_owned();
            if !found.starts_with('.') && fits(name, &found) && !entry.path().is_dir() {
                files.push(directory.join(found));
            }
        }
        files.sort();
        Ok(files)
    }
}

/// The files that an entry of `include` stands for.
fn matching(cx: &Context<'_>, file: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let whole = file.parent().unwrap_or(Path::new("")).join(pattern);
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let directory = whole.parent().unwrap_or(Path::new("")).to_owned();
    if directory.to_string_lossy().contains('*') {
        return Err(format!("\"{pattern}\": a * may only stand in the last part, as in \"conf.d/*.toml\""));
    }
    if !name.contains('*') {
        return Ok(vec![whole]);
    }
    let pattern = Pattern { directory, name };
    let files = pattern.files();
    cx.watch_pattern(pattern);
    files
}

/// Whether a name fits a pattern of literal text and `*`.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        match name.split_once(part) {
            Some((_, after)) => name = after,
            None => return false,
        }
    }
    name.ends_with(last)
}

fn text(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {size} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_of_a_name() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml~", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("*", "x", true),
            ("10-*-*.toml", "10-a-b.toml", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
