//! Owns randomness: for spreading load in time, seeded in tests, from the operating system in production; and, apart from
//! that, bytes for secrets.
//!
//! [`Jitter`] is not for secrets: the generator is SplitMix64 (Steele, Lea, Flood 2014), fast and predictable on purpose.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A shared source of jitter. Clones draw from the same sequence.
#[derive(Clone)]
pub struct Jitter(Option<Arc<AtomicU64>>);

impl Jitter {
    /// Seeded by the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self::seeded(RandomState::new().hash_one(0x5354_4147_u32))
    }

    /// A fixed sequence, for simulations that must be repeatable.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(seed))))
    }

    /// No jitter at all, for tests of timetables: every draw is zero.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// The next 64 bits.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        let Some(state) = &self.0 else { return 0 };
        let mut z = state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A duration between zero and `most`, inclusive, to the millisecond.
    #[must_use]
    pub fn up_to(&self, most: Duration) -> Duration {
        let span = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1).saturating_add(1);
        Duration::from_millis(self.next_u64() % span)
    }
}

/// Bytes that nobody can guess, from the operating system. None if it has none to give.
#[must_use]
pub fn secret_bytes() -> Option<[u8; 32]> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_sequence_and_no_jitter_gives_zero() {
        let (one, two) = (Jitter::seeded(7), Jitter::seeded(7));
        assert!((0..100).all(|_| one.next_u64() == two.next_u64()));
        assert_ne!(secret_bytes(), secret_bytes());
        assert_eq!(Jitter::none().up_to(Duration::from_secs(5)), Duration::ZERO);
        assert!((0..1000).all(|_| one.up_to(Duration::from_millis(3)) <= Duration::from_millis(3)));
    }
}
