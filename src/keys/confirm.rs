//! Owns confirming SNS subscriptions: a request to the address that a verified message names, tried a few times.
//!
//! When [`PENDING_MAX`] are under way no other is begun, and its sender is told to come back. A confirmation that
//! fails for good is told in diagnostics; a new one has to be requested at SNS.

use std::{collections::HashSet, time::Duration};

use tokio::time::{sleep, timeout};

use super::{Keys, KeysError, fetch};
use crate::verify::Place;

/// Confirmations under way at once.
pub const PENDING_MAX: usize = 16;

/// How long to wait before each try: SNS keeps a token for three days, an operator looks sooner.
pub const CONFIRM_WAITS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_secs(2),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

/// The addresses that are being asked.
#[derive(Default)]
pub(super) struct Pending(HashSet<Place>);

#[cfg(test)]
impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Keys {
    /// Begins to confirm a subscription, if nobody does already. Returns at once; how it ended is told in diagnostics.
    ///
    /// # Errors
    /// [`KeysError::Busy`] when too many are under way, [`KeysError::Off`] when the configuration fetches nothing.
    pub fn confirm(&self, topic: &str, place: Place) -> Result<(), KeysError> {
        if self.0.settings.load().is_none() {
            return Err(KeysError::Off(place.shown()));
        }
        {
            let mut pending = self.0.pending();
            if pending.0.contains(&place) {
                return Ok(());
            }
            if pending.0.len() >= PENDING_MAX {
                return Err(KeysError::Busy(place.shown()));
            }
            pending.0.insert(place.clone());
        }
        let (keys, topic) = (self.clone(), topic.to_owned());
        tokio::spawn(async move {
            let end = End { keys, place };
            match end.keys.ask_to_confirm(&end.place).await {
                Ok(()) => tracing::info!(topic, "the SNS subscription is confirmed"),
                Err(error) => tracing::error!(
                    topic,
                    %error,
                    "the SNS subscription could not be confirmed; request a new confirmation at SNS"
                ),
            }
        });
        Ok(())
    }

    async fn ask_to_confirm(&self, place: &Place) -> Result<(), KeysError> {
        let mut last = KeysError::Off(place.shown());
        for round in 0.. {
            let Some(settings) = self.0.settings.load_full() else { break };
            let Some(wait) = settings.confirm_waits.get(round) else { break };
            sleep(*wait).await;
            let asked = timeout(settings.timeout, fetch::ask(place, &settings, &*self.0.dial)).await;
            match asked.unwrap_or_else(|_late| Err(KeysError::Late(place.shown(), settings.timeout))) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "a subscription is not confirmed yet");
                    last = error;
                }
            }
        }
        Err(last)
    }
}

/// Takes the address from the list, however its task ends.
struct End {
    keys: Keys,
    place: Place,
}

impl Drop for End {
    fn drop(&mut self) {
        self.keys.0.pending().0.remove(&self.place);
    }
}
