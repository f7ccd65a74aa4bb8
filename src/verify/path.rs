//! Owns the scheme `path`: a secret that is a segment of the URL's path.
//!
//! Promises a comparison in constant time over all secrets. Deliberately absent: hiding the segment from logs and from
//! upstreams, which is the business of whoever handles the path; [`super::Verifier::secret_segment`] says where it is.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::{CannotSign, Head, PATH_SCHEME, Refusal, Resigning, Sample, Secret, Signed, Special, Started, Verified};
use crate::clock::Timestamp;

/// A source whose path holds a secret.
pub(super) struct PathRecipe {
    /// Which segment, from 0.
    segment: usize,
    secrets: Box<[Secret]>,
    digests: Box<[[u8; 32]]>,
}

impl PathRecipe {
    pub(super) fn new(segment: usize, secrets: Vec<Secret>) -> Self {
        let digests = secrets.iter().map(|secret| Sha256::digest(secret.expose()).into()).collect();
        Self { segment, secrets: secrets.into(), digests }
    }

    /// The secret that stands in a path.
    fn key(&self, path: &str) -> Option<&Secret> {
        self.secret(path.strip_prefix('/')?.split('/').nth(self.segment)?)
    }

    /// The secret that a segment is.
    fn secret(&self, presented: &str) -> Option<&Secret> {
        let presented = Sha256::digest(presented.as_bytes());
        let mut matched = u32::MAX;
        let mut open = Choice::from(1);
        for (index, digest) in (0_u32..).zip(&self.digests) {
            let same = presented.as_slice().ct_eq(digest);
            matched.conditional_assign(&index, same & open);
            open &= !same;
        }
        usize::try_from(matched).ok().and_then(|index| self.secrets.get(index))
    }
}

impl Special for PathRecipe {
    fn scheme(&self) -> &'static str {
        PATH_SCHEME
    }

    fn references(&self) -> Vec<&Arc<str>> {
        self.secrets.iter().map(Secret::reference).collect()
    }

    fn secret_segment(&self) -> Option<usize> {
        Some(self.segment)
    }

    fn is_path_secret(&self, segment: &str) -> bool {
        self.secret(segment).is_some()
    }

    fn can_sign(&self) -> bool {
        true
    }

    fn resigning(&self) -> Resigning {
        Resigning::Nothing
    }

    fn sign<'s>(&self, sample: &Sample<'s>) -> Result<Signed<'s>, CannotSign> {
        let secret = self.secrets.first().and_then(|secret| std::str::from_utf8(secret.expose()).ok());
        let secret = secret.ok_or(CannotSign::PrivateKey(self.scheme()))?;
        let segments = sample.path.split('/').enumerate();
        // The path begins with a slash, so that its first segment is the second piece.
        let path: Vec<&str> =
            segments.map(|(index, segment)| if index == self.segment + 1 { secret } else { segment }).collect();
        Ok(Signed { path: path.join("/"), ..sample.with_headers(Vec::new()) })
    }

    fn begin(&self, head: &Head<'_>, _now: Timestamp) -> Result<Started, Refusal> {
        let secret = self.key(head.path).ok_or(Refusal::UnknownPath)?;
        let secret = Some(secret.reference().clone());
        Ok(Started::Decided(Verified { scheme: self.scheme(), secret, skew_ms: None }))
    }
}
