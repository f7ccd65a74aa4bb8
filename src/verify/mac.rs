//! Owns the message authentication codes: HMAC (RFC 2104) over the SHA family, and the plain hash that begins with the
//! secret which old senders use instead; with the key worked in beforehand.
//!
//! Promises that a request costs no key schedule: a keyed state is copied, not computed. Deliberately without
//! `Debug`: a keyed state is as good as the key.

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The longest code of any algorithm here, in bytes.
const TAG_BYTES_MAX: usize = 64;

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
    /// As the configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sha1 => "sha1",
        }
    }

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
    /// SHA-256 of the secret and the message. Open to length extension by whoever has one signed message; only for
    /// senders that have nothing else.
    SecretFirst(Sha256),
}

/// A finished code.
pub(super) struct Tag {
    bytes: [u8; TAG_BYTES_MAX],
    length: usize,
}

impl Tag {
    fn of(bytes: &[u8]) -> Self {
        let mut tag = Self { bytes: [0; TAG_BYTES_MAX], length: 0 };
        if let Some(room) = tag.bytes.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            tag.length = bytes.len();
        }
        tag
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
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

    /// Begins a plain SHA-256 with the secret.
    pub(super) fn secret_first(secret: &[u8]) -> Self {
        Self::SecretFirst(Sha256::new_with_prefix(secret))
    }

    pub(super) fn update(&mut self, piece: &[u8]) {
        match self {
            Self::Sha256(mac) => mac.update(piece),
            Self::Sha384(mac) => mac.update(piece),
            Self::Sha512(mac) => mac.update(piece),
            Self::Sha1(mac) => mac.update(piece),
            Self::SecretFirst(hash) => hash.update(piece),
        }
    }

    /// The code. Compare it in constant time.
    pub(super) fn finish(self) -> Tag {
        match self {
            Self::Sha256(mac) => Tag::of(&mac.finalize().into_bytes()),
            Self::Sha384(mac) => Tag::of(&mac.finalize().into_bytes()),
            Self::Sha512(mac) => Tag::of(&mac.finalize().into_bytes()),
            Self::Sha1(mac) => Tag::of(&mac.finalize().into_bytes()),
            Self::SecretFirst(hash) => Tag::of(&hash.finalize()),
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
        assert_eq!(mac.finish().as_slice(), expected, "{algorithm:?}");
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
