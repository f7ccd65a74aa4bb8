//! Owns the metric handles of a routing table: resolved once when a table comes into force, then only counted.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, atomic::AtomicUsize},
};

use super::{
    cache::{Cache, Caches},
    sequence::{Sequence, Sequences},
    upgrade::Upgrades,
};
use crate::{
    clock::Clock,
    routing::{Source, Table},
    telemetry::{Counter, Metrics, RequestResult, SourceMetrics},
    tenant::{Standing, Tenants},
};

/// A routing table with the metric handles of its sources.
pub(super) struct Doors {
    pub(super) table: Arc<Table>,
    by_source: HashMap<usize, Arc<Door>, nohash::Build>,
}

/// The metric handles of one source.
pub(super) struct Door {
    pub(super) metrics: Arc<SourceMetrics>,
    /// Types that the configuration names.
    named: HashMap<Box<str>, Arc<Counter>>,
    other: Arc<Counter>,
    sequence: Option<Arc<Sequence>>,
    /// What is used up, if anything is limited.
    standing: Option<Arc<Standing>>,
    /// Answers that are kept.
    cache: Option<Arc<Cache>>,
    /// Connections that are upgraded.
    upgrades: Arc<AtomicUsize>,
}

/// What outlives a table.
pub(super) struct Stands<'a> {
    pub(super) metrics: &'a Metrics,
    pub(super) sequences: &'a Sequences,
    pub(super) tenants: &'a Tenants,
    pub(super) caches: &'a Caches,
    pub(super) upgrades: &'a Upgrades,
    pub(super) clock: &'a Clock,
}

impl Doors {
    pub(super) fn new(table: Arc<Table>, stands: &Stands<'_>) -> Self {
        let door = |source: &Arc<Source>| {
            let counts = source.numbering.as_ref().is_some_and(|numbering| numbering.consecutive);
            let sequence = counts.then(|| stands.sequences.of(&source.name));
            let limited = source.rate.is_some() || source.tenants.is_some();
            let standing = limited.then(|| stands.tenants.of(&source.name));
            let metrics = stands.metrics.source(&source.name);
            let cache = source.cache.as_ref();
            let cache = cache.map(|policy| stands.caches.of(&source.name, policy, stands.clock, &metrics.cache));
            let upgrades = stands.upgrades.of(&source.name);
            if let Some(sequence) = &sequence {
                sequence.show(&metrics);
            }
            (key(source), Arc::new(Door { standing, cache, upgrades, ..Door::new(metrics, &source.types, sequence) }))
        };
        let by_source = table.sources.iter().map(door).collect();
        stands.caches.keep(|name| table.source(name).is_some_and(|source| source.cache.is_some()));
        Self { table, by_source }
    }

    /// The door of a source of this table.
    pub(super) fn door(&self, source: &Arc<Source>) -> Option<&Arc<Door>> {
        self.by_source.get(&key(source))
    }
}

impl Door {
    fn new(metrics: Arc<SourceMetrics>, types: &[Box<str>], sequence: Option<Arc<Sequence>>) -> Self {
        let (named, other) = {
            let mut events = metrics.events.lock().unwrap_or_else(PoisonError::into_inner);
            let mut counter = |name: &str| events.entry(name.into()).or_default().clone();
            (types.iter().map(|name| (name.clone(), counter(name))).collect(), counter("other"))
        };
        Self { metrics, named, other, sequence, standing: None, cache: None, upgrades: Arc::default() }
    }

    /// What is used up of the source's limits.
    pub(super) fn standing(&self) -> Option<&Standing> {
        self.standing.as_deref()
    }

    /// How many connections are upgraded.
    pub(super) fn upgrades(&self) -> Arc<AtomicUsize> {
        self.upgrades.clone()
    }

    /// The answers that are kept for equal requests.
    pub(super) fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }

    /// Counts what became of a request.
    pub(super) fn count(&self, result: RequestResult) {
        if let Some(counter) = self.metrics.requests.get(result as usize) {
            counter.inc();
        }
    }

    /// Notes the number that the sender gave an accepted event.
    pub(super) fn note_number(&self, number: &str) {
        if let (Some(sequence), Ok(number)) = (&self.sequence, number.parse()) {
            sequence.note(number, &self.metrics);
        }
    }

    /// Counts an accepted event by its type.
    pub(super) fn count_type(&self, event_type: Option<&str>) {
        event_type.and_then(|name| self.named.get(name)).unwrap_or(&self.other).inc();
    }
}

/// The address of a source: a key as long as the table that holds it is alive.
fn key(source: &Arc<Source>) -> usize {
    Arc::as_ptr(source).addr()
}

/// Hashes an address by spreading its bits once: no stranger chooses it.
mod nohash {
    use std::hash::{BuildHasherDefault, Hasher};

    pub(super) type Build = BuildHasherDefault<Spread>;

    #[derive(Default)]
    pub(super) struct Spread(u64);

    impl Hasher for Spread {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.write_usize(usize::from(*byte));
            }
        }

        fn write_usize(&mut self, number: usize) {
            self.0 = (self.0 ^ number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }

        fn finish(&self) -> u64 {
            self.0
        }
    }
}
