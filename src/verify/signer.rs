//! Owns the signing of what we send with secrets of our own: as Standard Webhooks says, or under headers and by a
//! template of the operator's choice, which is the mirror of the `hmac` scheme.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>. Promises that an
//! `hmac` source with the same settings, or one of the preset `standard-webhooks`, takes what is signed here; that keys
//! are worked in beforehand and a request costs one hash for each secret; and that the body is not copied. Deliberately
//! absent: private keys (`v1a`).

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    Algorithm, CannotSign, Encoding, Head, HmacSettings, SECRETS_MAX, Secret, SettingsError, TimestampSettings,
    TimestampUnit,
    compile::base64_after,
    grammar::{BASE64, Grammar, SIGNATURES_MAX, SignatureRule, Written},
    mac::Mac,
    recipe::{Checker, Field, Key, Piece, Recipe},
    sign::{encode, value},
    timestamp::{Place, TimestampRule},
};
use crate::clock::Timestamp;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How long the decoded secrets of Standard Webhooks are, in bytes.
const STANDARD_SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Signs requests. Cheap to clone; deliberately without `Debug`, as it holds keys.
#[derive(Clone)]
pub struct Signer(Arc<Inner>);

struct Inner {
    recipe: Recipe,
    /// Where the event's id goes.
    id: Option<HeaderName>,
    /// The references of the secrets, with commas.
    references: Box<str>,
    /// Whether headers of the request are signed that are not made here.
    signs_headers: bool,
}

/// What the configuration says about a signature of one's own form.
pub struct SignerSettings {
    /// Which hash.
    pub algorithm: Algorithm,
    /// The header that carries the signature.
    pub header: String,
    /// How the signature is written.
    pub encoding: Encoding,
    /// What stands before it, for example `sha256=`; empty for nothing.
    pub prefix: String,
    /// What is signed, see [`HmacSettings::template`]. None: the body alone.
    pub template: Option<String>,
    /// Where the time of the attempt goes.
    pub timestamp: Option<StampHeader>,
    /// Where the event's id goes.
    pub id: Option<IdHeader>,
    /// One secret.
    pub secrets: Vec<Secret>,
}

/// The header that carries the time of an attempt.
pub struct StampHeader {
    /// Its name.
    pub header: String,
    /// What it counts.
    pub unit: TimestampUnit,
}

/// The header that carries the event's id.
pub struct IdHeader {
    /// Its name.
    pub header: String,
}

/// A request as it will be sent.
pub struct Outgoing<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    /// As far as [`Signer::signs_headers`].
    pub headers: HeaderMap,
    /// Its body.
    pub body: &'a [u8],
    /// The event's id: the same for every attempt.
    pub id: &'a str,
    /// When the attempt begins.
    pub now: Timestamp,
}

impl Signer {
    /// Signs as Standard Webhooks says, with each of the secrets: `whsec_` and base64, or the text as it stands.
    ///
    /// # Errors
    /// [`SettingsError`] if there are no secrets or too many, or one is of another form.
    pub fn standard_webhooks(secrets: &[Secret]) -> Result<Self, SettingsError> {
        match secrets.len() {
            0 => return Err(SettingsError::NoSecrets),
            many if many > SECRETS_MAX.min(SIGNATURES_MAX) => return Err(SettingsError::TooManySecrets(many)),
            _ => {}
        }
        let keys = secrets.iter().map(standard_key).collect::<Result<_, _>>()?;
        let full_stop = || Piece::Literal(b".".as_slice().into());
        let recipe = Recipe {
            scheme: "standard-webhooks",
            keys,
            signature: SignatureRule {
                name: WEBHOOK_SIGNATURE,
                grammar: Grammar::Versions { mac: b"v1".as_slice().into(), public: b"v1a".as_slice().into() },
                encoding: Written::Encoded(Encoding::Base64),
                mac_bytes: Algorithm::Sha256.output_bytes(),
                public_bytes: 64..=64,
            },
            timestamp: Some(TimestampRule {
                place: Place::Header(WEBHOOK_TIMESTAMP),
                unit: TimestampUnit::Seconds,
                tolerance_ms: 0,
            }),
            before: Box::new([
                Piece::Field(Field::Id(WEBHOOK_ID)),
                full_stop(),
                Piece::Field(Field::Timestamp),
                full_stop(),
            ]),
            after: Box::default(),
            url: None,
            fallback: None,
        };
        Ok(Self::of(recipe, Some(WEBHOOK_ID)))
    }

    /// Signs as the settings say.
    ///
    /// # Errors
    /// The first [`SettingsError`], which names its field and the remedy.
    pub fn custom(settings: SignerSettings) -> Result<Self, SettingsError> {
        if settings.secrets.len() > 1 {
            return Err(SettingsError::OneSignature(settings.secrets.len()));
        }
        let id: Option<HeaderName> = match settings.id {
            Some(IdHeader { header }) => Some(header.parse().map_err(|_| SettingsError::IdHeader(header))?),
            None => None,
        };
        let recipe = HmacSettings {
            algorithm: settings.algorithm,
            header: settings.header,
            encoding: settings.encoding,
            prefix: settings.prefix,
            template: settings.template,
            timestamp: settings.timestamp.map(|stamp| TimestampSettings {
                header: stamp.header,
                unit: stamp.unit,
                // What is signed is always fresh.
                tolerance: Duration::from_secs(1),
            }),
            secrets: settings.secrets,
        }
        .compile()?;
        let stamp = recipe.timestamp.as_ref().and_then(TimestampRule::header);
        if id.is_some() && (id.as_ref() == Some(&recipe.signature.name) || id.as_ref() == stamp) {
            return Err(SettingsError::SharedIdHeader);
        }
        Ok(Self::of(recipe, id))
    }

    fn of(recipe: Recipe, id: Option<HeaderName>) -> Self {
        let references: Vec<&str> = recipe.keys.iter().map(|key| &*key.reference).collect();
        let references = references.join(", ").into();
        let stamp = recipe.timestamp.as_ref().and_then(TimestampRule::header);
        let signs_headers = recipe.before.iter().chain(&recipe.after).any(|piece| match piece {
            Piece::Field(Field::Header(name)) => Some(name) != stamp && Some(name) != id.as_ref(),
            _ => false,
        });
        Self(Arc::new(Inner { recipe, id, references, signs_headers }))
    }

    /// Where the event's id goes.
    pub(super) fn id_header(&self) -> Option<&HeaderName> {
        self.0.id.as_ref()
    }

    pub(super) fn recipe(&self) -> &Recipe {
        &self.0.recipe
    }

    /// What the signatures are called: `standard-webhooks` or `hmac`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.0.recipe.scheme
    }

    /// The references of its secrets, with commas; never a value.
    #[must_use]
    pub fn references(&self) -> &str {
        &self.0.references
    }

    /// Whether it signs headers that it does not make itself: those have to be there when it signs.
    #[must_use]
    pub fn signs_headers(&self) -> bool {
        self.0.signs_headers
    }

    /// The headers of one attempt, each to be set in place of all of the same name.
    ///
    /// # Errors
    /// [`CannotSign`] if a header that is signed is missing or stands there twice, or the id can't be signed.
    pub fn sign(&self, mut request: Outgoing<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, CannotSign> {
        let recipe = &self.0.recipe;
        let mut made = Vec::with_capacity(3);
        let mut set = |name: &HeaderName, text: &[u8], headers: &mut HeaderMap| {
            let value = value(name, text, false)?;
            headers.insert(name.clone(), value.clone());
            made.push((name.clone(), value));
            Ok(())
        };
        if let Some(name) = &self.0.id {
            set(name, request.id.as_bytes(), &mut request.headers)?;
        }
        let stamp = recipe.timestamp.as_ref().map(|rule| rule.unit.write(request.now));
        if let (Some(TimestampRule { place: Place::Header(name), .. }), Some(text)) = (&recipe.timestamp, &stamp) {
            set(name, text.as_bytes(), &mut request.headers)?;
        }
        let head = Head { method: request.method, path: request.path, query: request.query, headers: &request.headers };
        let stamp = stamp.as_deref().map(str::as_bytes);
        let mut written = Vec::with_capacity(recipe.keys.len() * 48);
        for key in &recipe.keys {
            let Checker::Mac(mac) = &key.checker else { continue };
            let mut mac = mac.clone();
            let signed = |pieces: &[Piece], mac: &mut Mac| {
                for piece in pieces {
                    mac.update(&recipe.bytes_of(piece, &head, stamp).map_err(|_refusal| missing(piece, recipe))?);
                }
                Ok(())
            };
            signed(&recipe.before, &mut mac)?;
            mac.update(request.body);
            signed(&recipe.after, &mut mac)?;
            let text = encode(recipe.signature.encoding, mac.finish().as_slice());
            match &recipe.signature.grammar {
                Grammar::Versions { mac: version, .. } => {
                    if !written.is_empty() {
                        written.push(b' ');
                    }
                    written.extend_from_slice(version);
                    written.push(b',');
                }
                Grammar::Whole { prefix, .. } => written.extend_from_slice(prefix),
                // No signer is made with these.
                Grammar::Pairs { .. } | Grammar::Family { .. } => {}
            }
            written.extend_from_slice(text.as_bytes());
        }
        made.push((recipe.signature.name.clone(), value(&recipe.signature.name, &written, false)?));
        Ok(made)
    }

    /// What is unusual about secrets for Standard Webhooks, in words that name the reference and never the value.
    #[must_use]
    pub fn advice(secrets: &[Secret]) -> Vec<String> {
        let odd = secrets.iter().filter_map(|secret| {
            let (text, reference) = (secret.expose(), secret.reference());
            match text.strip_prefix(b"whsec_") {
                Some(coded) => {
                    let length = BASE64.decode(coded).ok().map(zeroize::Zeroizing::new)?.len();
                    let usual = STANDARD_SECRET_BYTES.contains(&length);
                    (!usual)
                        .then(|| format!("the secret {reference} has {length} bytes after whsec_; 24 to 64 are usual"))
                }
                None => Some(format!(
                    "the secret {reference} does not begin with whsec_: its text itself is the key; if it is base64, \
                     write whsec_ before it, since most receivers decode it"
                )),
            }
        });
        odd.collect()
    }
}

/// The error about a piece that the request lacks.
fn missing(piece: &Piece, recipe: &Recipe) -> CannotSign {
    match piece {
        Piece::Field(Field::Header(name) | Field::Id(name)) => CannotSign::Header(name.clone()),
        _ => CannotSign::Header(recipe.signature.name.clone()),
    }
}

fn standard_key(secret: &Secret) -> Result<Key, SettingsError> {
    let reference = secret.reference().clone();
    let text = secret.expose();
    let refuse = |remedy| Err(SettingsError::SecretForm { reference: reference.clone(), remedy });
    let mac = if text.starts_with(b"whsec_") {
        match base64_after(b"whsec_", text) {
            Some(key) => Mac::new(Algorithm::Sha256, &key),
            None => return refuse("has no base64 after whsec_: make one with openssl rand -base64 32"),
        }
    } else if text.starts_with(b"whsk_") || text.starts_with(b"whpk_") {
        return refuse(
            "is half of a key pair, with which requests are not signed here: use one that begins with whsec_",
        );
    } else {
        Mac::new(Algorithm::Sha256, text)
    };
    Ok(Key { reference, checker: Checker::Mac(mac), secret: secret.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::verify::Verifier;

    fn secret(text: &str) -> Secret {
        Secret::new("env:K", text.as_bytes().to_vec())
    }

    fn outgoing<'a>(body: &'a [u8], id: &'a str, now: Timestamp) -> Outgoing<'a> {
        Outgoing { method: &Method::POST, path: "/in", query: None, headers: HeaderMap::new(), body, id, now }
    }

    fn header<'a>(made: &'a [(HeaderName, HeaderValue)], name: &str) -> &'a str {
        made.iter().find(|(known, _)| known == name).unwrap().1.to_str().unwrap()
    }

    #[test]
    fn the_published_vector_of_standard_webhooks_is_made() {
        // From the tests of the reference implementations.
        let signer = Signer::standard_webhooks(&[secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]).ok().unwrap();
        let now = Timestamp::from_millis(1_614_265_330_500);
        let made = signer.sign(outgoing(br#"{"test": 2432232314}"#, "msg_p5jXN8AQM9LWM0D4loKWxJek", now)).unwrap();
        assert_eq!(header(&made, "webhook-id"), "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(header(&made, "webhook-timestamp"), "1614265330");
        assert_eq!(header(&made, "webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_secret_signs_so_that_either_side_may_rotate_first() {
        let (old, new) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a raw one");
        let now = Timestamp::from_millis(1_700_000_000_000);
        let both = Signer::standard_webhooks(&[secret(new), secret(old)]).ok().unwrap();
        let made = both.sign(outgoing(b"x", "e1", now)).unwrap();
        let signatures: Vec<&str> = header(&made, "webhook-signature").split(' ').collect();
        for (index, only) in [new, old].into_iter().enumerate() {
            let one = Signer::standard_webhooks(&[secret(only)]).ok().unwrap().sign(outgoing(b"x", "e1", now)).unwrap();
            assert_eq!(signatures[index], header(&one, "webhook-signature"));
        }
        assert_eq!((signatures.len(), both.references()), (2, "env:K, env:K"));
    }

    #[test]
    fn what_can_not_work_is_refused_and_what_is_odd_is_said_without_the_value() {
        let refused = |text| Signer::standard_webhooks(&[secret(text)]).err().unwrap().to_string();
        assert!(refused("whsec_!hunter2").contains("env:K has no base64"));
        assert!(refused("whsk_hunter2").contains("key pair"));
        assert!(Signer::standard_webhooks(&[]).is_err());
        let many: Vec<Secret> = (0..=SECRETS_MAX).map(|_| secret("x")).collect();
        assert!(Signer::standard_webhooks(&many).is_err());
        let advice = Signer::advice(&[
            secret("hunter2"),
            secret("whsec_aHVudGVyMg=="),
            secret(&format!("whsec_{}", "A".repeat(32))),
        ]);
        assert_eq!(advice.len(), 2);
        assert!(advice.iter().all(|text| text.contains("env:K") && !text.contains("hunter2")), "{advice:?}");
        let two = custom("X-S", None, None, None, vec![secret("a"), secret("b")]);
        assert_eq!(two.err().unwrap().field(), "secrets");
        let shared = custom("X-S", None, None, Some("x-s"), vec![secret("a")]);
        assert_eq!(shared.err().unwrap().field(), "id.header");
    }

    fn custom(
        header: &str,
        template: Option<&str>,
        stamp: Option<&str>,
        id: Option<&str>,
        secrets: Vec<Secret>,
    ) -> Result<Signer, SettingsError> {
        Signer::custom(SignerSettings {
            algorithm: Algorithm::Sha256,
            header: header.into(),
            encoding: Encoding::Hex,
            prefix: String::new(),
            template: template.map(Into::into),
            timestamp: stamp.map(|header| StampHeader { header: header.into(), unit: TimestampUnit::Seconds }),
            id: id.map(|header| IdHeader { header: header.into() }),
            secrets,
        })
    }

    #[test]
    fn a_header_that_is_signed_and_not_there_is_named() {
        let signer = custom("X-S", Some("{header:x-kind}.{body}"), None, Some("X-Id"), vec![secret("a")]).ok().unwrap();
        assert!(signer.signs_headers());
        let refused = signer.sign(outgoing(b"", "e", Timestamp::ZERO)).err().unwrap();
        assert!(refused.to_string().contains("x-kind"), "{refused}");
        let own = custom("X-S", Some("{header:x-id}.{body}"), None, Some("X-Id"), vec![secret("a")]).ok().unwrap();
        assert!(!own.signs_headers() && own.sign(outgoing(b"", "e", Timestamp::ZERO)).is_ok());
    }

    fn settings_parts() -> impl Strategy<Value = (usize, usize, String, Vec<usize>, Option<usize>, bool)> {
        (
            0..4_usize,
            0..3_usize,
            "[a-z0-9]{0,8}=?",
            proptest::collection::vec(0..6_usize, 0..5),
            prop::option::of(0..3_usize),
            any::<bool>(),
        )
    }

    proptest! {
        #[test]
        fn whatever_is_signed_is_taken_by_a_source_with_the_same_settings(
            (algorithm, encoding, prefix, pieces, unit, with_id) in settings_parts(),
            key in proptest::collection::vec(any::<u8>(), 1..80),
            body in proptest::collection::vec(any::<u8>(), 0..300),
            path in "/[a-z%2F/]{0,20}",
            query in prop::option::of("[a-z=&%]{0,20}"),
            now_ms in 1_000_000_000_000_u64..2_000_000_000_000,
        ) {
            let algorithm = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512, Algorithm::Sha1][algorithm];
            let encoding = [Encoding::Hex, Encoding::Base64, Encoding::Base64Url][encoding];
            let unit = unit.map(|unit| [TimestampUnit::Seconds, TimestampUnit::Milliseconds, TimestampUnit::Rfc3339][unit]);
            let words = ["{method}", "{path}", "{query}", "{header:x-kind}", "lit{{eral}}", "{header:x-event}"];
            let mut template: String = pieces.iter().map(|piece| words[*piece]).filter(|word| with_id || *word != words[5]).collect();
            if unit.is_some() {
                template.push_str("{timestamp}.");
            }
            template.push_str("{body}{path}");
            let secret = || Secret::new("env:K", key.clone());
            let signer = Signer::custom(SignerSettings {
                algorithm, encoding, prefix: prefix.clone(), header: "X-Sig".into(), template: Some(template.clone()),
                timestamp: unit.map(|unit| StampHeader { header: "X-At".into(), unit }),
                id: with_id.then(|| IdHeader { header: "X-Event".into() }),
                secrets: vec![secret()],
            }).ok().unwrap();
            let verifier = Verifier::hmac(HmacSettings {
                algorithm, encoding, prefix, header: "X-Sig".into(), template: Some(template),
                timestamp: unit.map(|unit| TimestampSettings { header: "X-At".into(), unit, tolerance: Duration::from_secs(1) }),
                secrets: vec![secret()],
            }).ok().unwrap();
            let now = Timestamp::from_millis(now_ms);
            let mut headers = HeaderMap::new();
            headers.insert("x-kind", HeaderValue::from_static("kind"));
            let query = query.as_deref();
            let made = signer.sign(Outgoing {
                method: &Method::PUT, path: &path, query, headers: headers.clone(), body: &body, id: "EV1", now,
            }).unwrap();
            for (name, value) in made {
                headers.insert(name, value);
            }
            let mut check = verifier.begin(&Head { method: &Method::PUT, path: &path, query, headers: &headers }, now).ok().unwrap();
            check.update(&body);
            prop_assert!(check.finish(&body).is_ok());
        }
    }
}
