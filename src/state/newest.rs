//! Owns the newest delivered version of each key of one upstream.
//!
//! Promises a bound of [`NEWEST_MAX`] keys; beyond it the key that was delivered longest ago is forgotten, and its next
//! event is sent whatever its version. What the log has let go is forgotten, too, so that a state rebuilt from the log is
//! the same.

use std::collections::{BTreeMap, HashMap};

use crate::event::{Seq, Version};

/// The most keys that are remembered for one upstream.
pub const NEWEST_MAX: usize = 100_000;

/// The newest versions, by the hash of the key.
#[derive(Clone, Debug, Default)]
pub struct Newest {
    versions: HashMap<u64, (Seq, Version)>,
    /// The same keys by the entry that delivered them.
    by_entry: BTreeMap<Seq, u64>,
}

impl Newest {
    /// The newest delivered version of a key.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<&Version> {
        self.versions.get(&key).map(|(_, version)| version)
    }

    /// Keys that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether no key is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// An entry says that an event of this version was delivered. An older one (a replay from before) changes nothing;
    /// one that can't be compared takes the place of what was known.
    pub fn note(&mut self, key: u64, version: &Version, entry: Seq) {
        if self.get(key).is_some_and(|newest| version.is_older_than(newest)) {
            return;
        }
        if let Some((before, _)) = self.versions.insert(key, (entry, version.clone())) {
            self.by_entry.remove(&before);
        }
        self.by_entry.insert(entry, key);
        while self.versions.len() > NEWEST_MAX {
            let Some((_, oldest)) = self.by_entry.pop_first() else { break };
            self.versions.remove(&oldest);
        }
    }

    /// Forgets what stood in the log before `first`.
    pub fn forget(&mut self, first: Seq) {
        while self.by_entry.first_key_value().is_some_and(|(entry, _)| *entry < first) {
            let Some((_, key)) = self.by_entry.pop_first() else { break };
            self.versions.remove(&key);
        }
    }

    /// All of them by entry: entry, key, version.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, u64, &Version)> {
        self.by_entry.iter().filter_map(|(entry, key)| Some((*entry, *key, self.get(*key)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64) -> Version {
        Version::Number(number.to_string().into())
    }

    #[test]
    fn the_newest_is_kept_and_beyond_the_bound_the_key_delivered_longest_ago_is_forgotten() {
        let mut newest = Newest::default();
        for key in 0..NEWEST_MAX as u64 {
            newest.note(key, &number(5), 100 + key);
        }
        newest.note(0, &number(7), 1_000_000);
        newest.note(0, &number(6), 1_000_001);
        assert_eq!(newest.get(0), Some(&number(7)));
        newest.note(u64::MAX, &number(1), 1_000_002);
        assert_eq!((newest.len(), newest.get(1), newest.get(0)), (NEWEST_MAX, None, Some(&number(7))));
        newest.forget(1_000_000);
        assert_eq!(newest.len(), 2, "what the log has let go is forgotten");
    }
}
