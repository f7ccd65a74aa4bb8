//! Owns the file in which today's spending outlives the process: `DATA/tenants.json`.
//!
//! Promises that what an orderly end wrote is exact at the next start, and that a crash forgets at most what was spent
//! since the file was last written ([`SAVE_EVERY`]). It is replaced by a rename and never synced: it must not stand in
//! the way of the log's barrier. So a power cut may leave an older file, or a damaged one: that is said in the
//! diagnostics, and today's budgets begin anew. Rates are not kept: a restart is worth one burst.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// How often spending is written, if it changed.
pub const SAVE_EVERY: Duration = Duration::from_secs(10);

/// The most that is read of the file, in bytes: more than a million tenants.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The day's spending of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// Days since the epoch.
    pub(super) day: u64,
    /// By the keyed fingerprint of the tenant's name, in thousandths of a unit.
    pub(super) spent: Vec<(u128, u64)>,
}

/// As it is written: fingerprints as hexadecimal text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    day: u64,
    spent: BTreeMap<String, u64>,
}

/// What was written last, by source; nothing if there is no file.
pub(super) fn read(file: &Path) -> io::Result<BTreeMap<String, Saved>> {
    let mut text = String::new();
    match fs::File::open(file) {
        Ok(opened) => opened.take(FILE_BYTES_MAX).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let written: BTreeMap<String, Written> = serde_json::from_str(&text)?;
    let read = written.into_iter().map(|(source, written)| {
        let spent = written.spent.iter().map(|(tenant, spent)| Some((u128::from_str_radix(tenant, 16).ok()?, *spent)));
        let spent = spent.collect::<Option<Vec<_>>>().ok_or(io::ErrorKind::InvalidData)?;
        Ok((source, Saved { day: written.day, spent }))
    });
    read.collect()
}

/// Replaces the file.
pub(super) fn write(file: &Path, all: impl Iterator<Item = (String, Saved)>) -> io::Result<()> {
    let written = all.map(|(source, saved)| {
        let spent = saved.spent.into_iter().map(|(tenant, spent)| (format!("{tenant:032x}"), spent)).collect();
        (source, Written { day: saved.day, spent })
    });
    let written: BTreeMap<String, Written> = written.collect();
    let fresh = file.with_extension("new");
    fs::write(&fresh, serde_json::to_vec(&written)?)?;
    fs::rename(fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tenants.json");
        assert_eq!(read(&file).unwrap(), BTreeMap::new());
        let saved = Saved { day: 20_000, spent: vec![(1, 5), (u128::MAX, u64::MAX)] };
        write(&file, [("app".to_owned(), saved.clone())].into_iter()).unwrap();
        assert_eq!(read(&file).unwrap(), BTreeMap::from([("app".to_owned(), saved)]));
        for damage in ["", "{", "[]", r#"{"app":{"day":1}}"#, r#"{"app":{"day":1,"spent":{"xyz":1}}}"#] {
            fs::write(&file, damage).unwrap();
            assert!(read(&file).is_err(), "{damage}");
        }
    }
}
