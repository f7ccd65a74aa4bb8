//! Owns how what an upstream gets is signed, beyond the signature that the sender made.

use std::time::Duration;

use crate::verify::{Secret, SettingsError, Signer};

/// Without a rule of its own an upstream gets dated signatures of known providers made anew once an attempt begins so
/// long after the event came: before that the sender's own is fresh enough for every provider's tolerance.
pub const RESIGN_AFTER: Duration = Duration::from_secs(60);

/// How requests to an upstream are signed. No policy at all is the automatic one, see [`RESIGN_AFTER`].
#[derive(Clone)]
pub enum SignPolicy {
    /// The sender's signature goes on as it came, whatever its age.
    Never,
    /// In the scheme of the event's source, whatever the age of the sender's signature.
    Source,
    /// With secrets of our own.
    Own(Signer),
}

impl SignPolicy {
    /// As Standard Webhooks says, with each of the secrets.
    ///
    /// # Errors
    /// See [`Signer::standard_webhooks`].
    pub fn standard_webhooks(secrets: &[Secret]) -> Result<Self, SettingsError> {
        Signer::standard_webhooks(secrets).map(Self::Own)
    }
}
