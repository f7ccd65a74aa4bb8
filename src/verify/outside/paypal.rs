//! Owns PayPal's webhooks: what its certificate signs.
//!
//! The signed text holds the CRC-32 of the body and not the body: whoever has one genuine request can make another
//! body with the same CRC-32 and the same headers. Freshness and the event's id bound what that is good for; it stays
//! a weaker assurance than an HMAC over the body.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderName;

use super::{KeyDocument, Outside, Place, Publisher, Reason, Signed, Wanted, document::Digest, fresh, only};
use crate::{
    clock::Timestamp,
    verify::{Head, Refusal, Verifier},
};

const ALGORITHM: HeaderName = HeaderName::from_static("paypal-auth-algo");
const CERTIFICATE: HeaderName = HeaderName::from_static("paypal-cert-url");
const ID: HeaderName = HeaderName::from_static("paypal-transmission-id");
const SIGNATURE: HeaderName = HeaderName::from_static("paypal-transmission-sig");
const TIME: HeaderName = HeaderName::from_static("paypal-transmission-time");

/// How far a transmission's time may lie in the future.
const FUTURE: Duration = Duration::from_secs(5 * 60);

/// What the configuration says about a `paypal` source.
pub struct PayPalSettings {
    /// PayPal's id of the webhook, which is signed.
    pub webhook_id: String,
    /// How old a transmission may be.
    pub tolerance: Duration,
    /// Pinned certificates; None: they are fetched.
    pub pinned: Option<Arc<KeyDocument>>,
}

pub(in crate::verify) struct PayPal {
    webhook_id: String,
    tolerance: Duration,
    pub(super) pinned: Option<Arc<KeyDocument>>,
}

impl Verifier {
    /// Checks webhooks of PayPal: scheme `paypal`.
    #[must_use]
    pub fn paypal(settings: PayPalSettings) -> Self {
        let PayPalSettings { webhook_id, tolerance, pinned } = settings;
        Self::outside(Outside::PayPal(PayPal { webhook_id, tolerance, pinned }))
    }
}

impl PayPal {
    /// The signed text up to the checksum.
    pub(super) fn begin(&self, head: &Head<'_>, now: Timestamp) -> Result<Signed, Refusal> {
        let malformed = Refusal::MalformedSignature;
        let header = |name: &HeaderName| only(head.headers, name, Refusal::MissingSignature, malformed);
        let signature = STANDARD.decode(header(&SIGNATURE)?).map_err(|_| malformed)?;
        if header(&ALGORITHM)? != "SHA256withRSA" {
            return Err(Reason::OtherAlgorithm.into());
        }
        let (id, time) = (header(&ID)?, header(&TIME)?);
        let sent = Timestamp::parse_rfc3339(time).ok_or(Refusal::MalformedTimestamp)?;
        let skew_ms = Some(fresh(sent, now, self.tolerance, FUTURE)?);
        if id.contains('|') {
            return Err(Refusal::MalformedSignedHeader);
        }
        let place = Place::certificate(Publisher::PayPal, header(&CERTIFICATE)?).ok_or(Reason::KeyAddress)?;
        let message = format!("{id}|{time}|{}|", self.webhook_id).into_bytes();
        let wanted = Wanted { publisher: Publisher::PayPal, place, kid: None };
        Ok(Signed { digest: Digest::Sha256, kid: None, message, signature, skew_ms, wanted })
    }
}

/// Completes the signed text.
pub(super) fn read(signed: &mut Signed, body: &[u8]) {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    signed.message.extend_from_slice(crc.sum().to_string().as_bytes());
}
