//! Owns the message authentication codes: HMAC (RFC 2104) over the SHA family, with the key worked in beforehand.
//!
//! Promises that a request costs no key schedule: a keyed state is copied, not computed. Deliberately without
//! `Debug`: a keyed state is as good as the key.

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::{Choice, ConstantTimeEq as _};

/// The longest signature of any algorithm here, in bytes.
pub(super) const SIGNATURE_BYTES_MAX: usize = 64;

/// The hash an HMAC is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA-1, for senders that know nothing better; still unforgeable as an HMAC.
    Sha1,
}

impl Algorithm {
    /// How long its signatures are, in bytes.
    #[must_use]
    pub const fn output_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
        }
    }
}

/// A keyed state.
#[derive(Clone)]
pub(super) enum Mac {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
    Sha1(Hmac<Sha1>),
}

impl Mac {
    /// Works the key in.
    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(keyed(key)),
            Algorithm::Sha384 => Self::Sha384(keyed(key)),
            Algorithm::Sha512 => Self::Sha512(keyed(key)),
            Algorithm::Sha1 => Self::Sha1(keyed(key)),
        }
    }

    pub(super) fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Sha256(mac) => mac.update(piece),
            Self::Sha384(mac) => mac.update(piece),
            Self::Sha512(mac) => mac.update(piece),
            Self::Sha1(mac) => mac.update(piece),
        }
    }

    /// Whether it equals the signature, in time that does not depend on where they differ.
    pub(super) fn equals(self, signature: &[u8]) -> Choice {
        match self {
            Self::Sha256(mac) => mac.finalize().into_bytes().as_slice().ct_eq(signature),
            Self::Sha384(mac) => mac.finalize().into_bytes().as_slice().ct_eq(signature),
            Self::Sha512(mac) => mac.finalize().into_bytes().as_slice().ct_eq(signature),
            Self::Sha1(mac) => mac.finalize().into_bytes().as_slice().ct_eq(signature),
        }
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length; the error exists for other algorithms")]
fn keyed<M: hmac::Mac + hmac::digest::KeyInit>(key: &[u8]) -> M {
    <M as hmac::Mac>::new_from_slice(key).expect("a key of any length fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(algorithm: Algorithm, key: &[u8], message: &[u8], expected: &str) {
        let mut mac = Mac::new(algorithm, key);
        mac.update(message);
        let expected = hex::decode(expected).unwrap();
        assert_eq!(expected.len(), algorithm.output_bytes());
        assert!(bool::from(mac.equals(&expected)), "{algorithm:?}");
    }

    #[test]
    fn the_vectors_of_rfc_4231_and_rfc_2202_hold() {
        let case_1: (&[u8], &[u8]) = (&[0x0b; 20], b"Hi There");
        let case_2: (&[u8], &[u8]) = (b"Jefe", b"what do ya want for nothing?");
        let cases = [
            (Algorithm::Sha256, case_1, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (Algorithm::Sha256, case_2, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                Algorithm::Sha384,
                case_1,
                "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
            ),
            (
                Algorithm::Sha512,
                case_1,
                "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4\
                 be9d914eeb61f1702e696c203a126854",
            ),
            (Algorithm::Sha1, case_1, "b617318655057264e28bc0b6fb378c8ef146be00"),
        ];
        for (algorithm, (key, message), expected) in cases {
            check(algorithm, key, message, expected);
        }
    }
}
