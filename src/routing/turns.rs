//! Owns how an upstream's attempts are divided: priorities of first attempts, the shares of retries and replays.

/// How soon the first attempt of a delivery is made, compared with the others of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    /// Sixteen turns of twenty-one.
    High = 0,
    /// Four turns of twenty-one; the only ones there are if no route has a priority.
    Normal = 1,
    /// One turn of twenty-one.
    Low = 2,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];
}

/// A share of an upstream's attempts, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// Why a number is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must lie between 0.001 and 1: it is the share of the upstream's attempts while others wait, and with none at all they would never be made"
)]
pub struct NoShare;

impl Share {
    /// All attempts.
    pub const WHOLE: u32 = 1_000_000;

    /// One eighth: what retries get at the most while first attempts wait.
    pub const RETRIES: Self = Self(Self::WHOLE / 8);

    /// One of thirty-two: what replays get at the most while others wait.
    pub const REPLAYS: Self = Self(Self::WHOLE / 32);

    /// From a fraction.
    ///
    /// # Errors
    /// [`NoShare`] outside of 0.001 to 1.
    pub fn new(fraction: f64) -> Result<Self, NoShare> {
        if !(0.001..=1.0).contains(&fraction) {
            return Err(NoShare);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        Ok(Self((fraction * f64::from(Self::WHOLE)).round() as u32))
    }

    /// In millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

/// How an upstream's attempts are divided while there is more to send than it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnPolicy {
    /// The most that retries get while first attempts wait.
    pub retries: Share,
    /// The most that replays get while anything else waits.
    pub replays: Share,
}

impl TurnPolicy {
    /// One eighth for retries, one of thirty-two for replays.
    #[must_use]
    pub const fn standard() -> Self {
        Self { retries: Share::RETRIES, replays: Share::REPLAYS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_more_than_nothing_and_at_most_all() {
        assert_eq!(Share::new(0.125), Ok(Share::RETRIES));
        assert_eq!(Share::new(1.0 / 32.0), Ok(Share::REPLAYS));
        for wrong in [0.0, -1.0, 1.1, f64::NAN] {
            assert_eq!(Share::new(wrong), Err(NoShare));
        }
    }
}
