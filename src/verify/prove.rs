//! Owns the two small things that the front door does with secrets itself: proving to a provider that we have one, and
//! comparing a token with ours.

use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::Secret;

/// HMAC-SHA256 of a message under a secret, as some providers want it for an answer to their challenge.
///
/// Whoever calls this for a stranger must see to it that the message can be no request that the same secret signs.
#[must_use]
pub fn hmac_sha256(secret: &Secret, message: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length; the error exists for other algorithms")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).expect("a key of any length fits");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The reference of the secret that equals what was given, if one does. Every secret is compared, in time that depends
/// neither on where they differ nor on their lengths.
#[must_use]
pub fn matching<'s>(secrets: &'s [Secret], given: &[u8]) -> Option<&'s Arc<str>> {
    let given = Sha256::digest(given);
    let mut matched = u32::MAX;
    let mut open = subtle::Choice::from(1);
    for (index, secret) in (0_u32..).zip(secrets) {
        let same = Sha256::digest(secret.expose()).ct_eq(&given);
        matched.conditional_assign(&index, same & open);
        open &= !same;
    }
    let secret = secrets.get(usize::try_from(matched).ok()?)?;
    Some(secret.reference())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_the_hmac_of_rfc_4231() {
        let proof = hmac_sha256(&Secret::new("env:K", b"Jefe".to_vec()), b"what do ya want for nothing?");
        assert_eq!(hex::encode(proof), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_token_equals_one_of_several_secrets_or_none() {
        let secrets = [Secret::new("env:NEW", b"new".to_vec()), Secret::new("env:OLD", b"old".to_vec())];
        assert_eq!(matching(&secrets, b"new").map(|name| &**name), Some("env:NEW"));
        assert_eq!(matching(&secrets, b"old").map(|name| &**name), Some("env:OLD"));
        for wrong in [&b""[..], b"ne", b"newer", b"NEW"] {
            assert!(matching(&secrets, wrong).is_none());
        }
        assert!(matching(&[], b"").is_none());
    }
}
