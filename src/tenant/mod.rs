//! Owns what senders have used up of what a source allows them, and the counting that finds loops.
//!
//! Promises bounded memory whatever senders call themselves, no tenant's name in a metric, and no clock of its own.
//! Deliberately absent: finding the tenant in a request, answers and stored events, which are ingress's.

mod bucket;
mod ledger;
mod loops;
mod save;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

pub use bucket::Bucket;
pub use ledger::{Charge, Charged, Exceeded, LEVELS, Ledger, Receipt};
pub use loops::{Bounces, EVENT_ID, HOPS, ORIGIN, SLOTS, hops};
pub use save::SAVE_EVERY;

/// Thousandths in a unit: costs need not be whole.
const UNIT: u64 = 1000;

/// The longest name of a tenant, in bytes; a request with a longer one has no tenant.
pub const TENANT_BYTES_MAX: usize = 256;

/// What an event may cost at most.
pub const COST_MAX: f64 = 1e9;

/// What an event costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units(u64);

impl Units {
    /// What an event costs unless something else is said.
    pub const ONE: Self = Self(UNIT);

    /// A cost as an expression gave it: a number from 0 to [`COST_MAX`], rounded up to a thousandth; more than that is
    /// that. None for what is no such number: it counts as one, so that nobody sends for nothing by sending nonsense.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let number: f64 = text.parse().ok()?;
        if !number.is_finite() || number < 0.0 {
            return None;
        }
        Some(Self((number.min(COST_MAX) * UNIT as f64).ceil() as u64))
    }
}

/// What is used up, for every source that limits it.
pub struct Tenants {
    file: PathBuf,
    sources: Mutex<BTreeMap<Arc<str>, Arc<Standing>>>,
    /// What bounced, of all sources.
    pub bounces: Bounces,
}

/// How one source stands.
#[derive(Debug, Default)]
pub struct Standing {
    /// Its own rate.
    pub bucket: Bucket,
    /// Its tenants.
    pub ledger: Ledger,
}

impl Tenants {
    /// What the last process wrote to `file`.
    #[must_use]
    pub fn open(file: PathBuf) -> Self {
        let known = save::read(&file).unwrap_or_else(|error| {
            tracing::warn!(%error, "what tenants have spent today can't be read: their budgets begin anew");
            BTreeMap::new()
        });
        let standing = |saved| Arc::new(Standing { ledger: Ledger::restored(saved), ..Standing::default() });
        let sources = known.iter().map(|(source, saved)| (source.as_str().into(), standing(saved))).collect();
        Self { file, sources: Mutex::new(sources), bounces: Bounces::default() }
    }

    /// How a configured source stands; it outlives a reload. Never call with a name from outside.
    #[must_use]
    pub fn of(&self, source: &Arc<str>) -> Arc<Standing> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).entry(source.clone()).or_default().clone()
    }

    /// Writes what was spent today, if that changed since it was last written. Blocks on the disk.
    ///
    /// # Errors
    /// When the file can't be written; then the next process knows what it said before.
    pub fn save(&self) -> io::Result<()> {
        let sources: Vec<(Arc<str>, Arc<Standing>)> = {
            let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            sources.iter().map(|(source, standing)| (source.clone(), standing.clone())).collect()
        };
        let changed = sources.iter().filter(|(_, standing)| standing.ledger.changes()).count();
        if changed == 0 {
            return Ok(());
        }
        let all = sources.iter().map(|(source, standing)| (source.to_string(), standing.ledger.saved()));
        save::write(&self.file, all.filter(|(_, saved)| !saved.spent.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        clock::Timestamp,
        routing::{Over, TenantLimit},
    };

    const NOON: Timestamp = Timestamp::from_millis(20_000 * 86_400_000 + 43_200_000);

    fn charge(limit: &TenantLimit) -> Charge<'_> {
        let elapsed = Duration::from_secs(1);
        Charge { tenant: 1, named: false, limit, cost: Units::ONE, tenants_max: 10, elapsed, now: NOON }
    }

    #[test]
    fn costs_are_numbers_in_thousandths() {
        let most = COST_MAX as u64 * UNIT;
        let cases = [("1", 1000), ("0", 0), ("0.0001", 1), ("2.5", 2500), ("1e3", 1_000_000), ("1e300", most)];
        for (text, expected) in cases {
            assert_eq!(Units::of(text), Some(Units(expected)), "{text}");
        }
        for text in ["", "-1", "NaN", "inf", "true", "a", "null"] {
            assert_eq!(Units::of(text), None, "{text}");
        }
    }

    #[test]
    fn what_was_spent_is_known_to_the_next_process_and_damage_means_nothing_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tenants.json");
        let limit = TenantLimit { rate: None, budget: Some(2), over: Over::Reject };
        let first = Tenants::open(file.clone());
        first.save().unwrap();
        assert!(!file.exists(), "nothing was spent");
        assert_eq!(first.of(&"app".into()).ledger.charge(&charge(&limit)).exceeded, None);
        first.save().unwrap();
        let second = Tenants::open(file.clone());
        let app = second.of(&"app".into());
        assert_eq!(app.ledger.charge(&charge(&limit)).exceeded, None);
        assert!(app.ledger.charge(&charge(&limit)).exceeded.is_some());
        assert_eq!(second.of(&"other".into()).ledger.charge(&charge(&limit)).exceeded, None);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(Tenants::open(file).of(&"app".into()).ledger.tenants(), 0);
    }
}
