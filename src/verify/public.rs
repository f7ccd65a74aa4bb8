//! Owns public keys: Ed25519 (RFC 8032) and ECDSA over P-256 with SHA-256 (FIPS 186), checked by `ring`.
//!
//! Promises that a key of another size or curve is refused when the configuration is read.

use base64::Engine as _;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};

use super::grammar::BASE64;

/// What stands before the point in the SPKI of a P-256 key (RFC 5480): two object ids and the frame of the bits.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A point that is not compressed begins with 4 and has 65 bytes.
const POINT_BYTES: usize = 65;

/// A key that checks signatures over whole messages.
#[derive(Clone)]
pub(super) enum PublicKey {
    Ed25519([u8; 32]),
    P256([u8; POINT_BYTES]),
}

impl PublicKey {
    /// The 32 bytes of an Ed25519 key.
    pub(super) fn ed25519(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::Ed25519)
    }

    /// A P-256 key as base64 of its SPKI, with or without PEM armour.
    pub(super) fn p256_spki(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let bare: String = text
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .flat_map(str::chars)
            .filter(|letter| !letter.is_ascii_whitespace())
            .collect();
        let der = BASE64.decode(bare).ok()?;
        let point: [u8; POINT_BYTES] = der.strip_prefix(&SPKI_P256)?.try_into().ok()?;
        (point.first() == Some(&4)).then_some(Self::P256(point))
    }

    /// Whether the signature is this key's over the whole message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
            }
        }
    }
}
