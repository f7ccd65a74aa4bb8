//! Owns how a proof becomes a verifier: keys decoded, header names made, the configured URL taken in.
//!
//! Promises that what can't work is refused here, with the key of the configuration and the remedy, and that no message
//! holds a secret.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use http::HeaderName;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    Algorithm, Encoding, SECRETS_MAX, Secret, SettingsError, Verifier,
    grammar::{self, BASE64, DIGEST_BYTES, Kind, SIGNATURES_MAX, SignatureRule, Written},
    graph::GraphRecipe,
    mac::Mac,
    mailgun::MailgunRecipe,
    plan::{Grammar, KeyForm, Part, Plan, Primitive, Proof, TimestampPlace},
    public::PublicKey,
    recipe::{Checker, Field, Key, Piece, Recipe},
    timestamp::{Place, TimestampRule},
    twilio::TwilioRecipe,
    url::PublicUrl,
};

/// How old or new a timestamp may be where neither the provider nor the configuration says.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// What the configuration says about a source whose scheme is known.
#[derive(Default)]
pub struct PresetSettings {
    /// Any of them may have signed.
    pub secrets: Vec<Secret>,
    /// The URL as registered with the provider.
    pub public_url: Option<String>,
    /// In place of the scheme's own.
    pub tolerance: Option<Duration>,
    /// In place of the scheme's own, as far as it has another.
    pub algorithm: Option<Algorithm>,
}

/// What a secret that is used should be, in words; for warnings. Never the secret itself.
pub type Advice = String;

impl Verifier {
    /// Makes the verifier of a scheme that is written down. `name` is the scheme's own.
    ///
    /// # Errors
    /// A [`SettingsError`] that names its field and the remedy.
    pub fn of(name: &'static str, proof: &Proof, settings: PresetSettings) -> Result<Self, SettingsError> {
        if settings.algorithm.is_some() && settings.algorithm != proof.other_algorithm() {
            return Err(SettingsError::OtherAlgorithm { scheme: name, other: proof.other_algorithm() });
        }
        if settings.tolerance.is_some_and(|tolerance| tolerance.is_zero()) {
            return Err(SettingsError::PresetTolerance);
        }
        if settings.secrets.is_empty() && matches!(proof, Proof::BearerIfSet) {
            return Ok(Self::open(name));
        }
        check_count(&settings.secrets)?;
        let url = public_url(name, proof, settings.public_url.as_deref())?;
        match proof {
            Proof::BearerIfSet => bearer(name, settings.secrets),
            Proof::Plan(plan) => {
                let plan = match (settings.algorithm, &plan.instead) {
                    (Some(_), Some((_, other))) => other,
                    _ => plan,
                };
                recipe(name, plan, &settings, url.as_ref()).map(|recipe| Self::recipe(Arc::new(recipe)))
            }
            Proof::Twilio => {
                let algorithm = settings.algorithm.unwrap_or(Algorithm::Sha1);
                let url = url.ok_or(SettingsError::NoPublicUrl(name))?;
                Ok(Self::special(Arc::new(TwilioRecipe::new(name, algorithm, &settings.secrets, url))))
            }
            Proof::Mailgun => {
                let tolerance = settings.tolerance.unwrap_or(TOLERANCE);
                Ok(Self::special(Arc::new(MailgunRecipe::new(name, &settings.secrets, tolerance))))
            }
            Proof::Outside(_) => Err(SettingsError::NoSecretScheme(name)),
            Proof::GraphClientState => Ok(Self::special(Arc::new(GraphRecipe::new(name, settings.secrets)))),
        }
    }

    /// The secret stands in `Authorization: Basic` as `user:password`.
    ///
    /// # Errors
    /// A [`SettingsError`] that names its field and the remedy.
    pub fn basic(secrets: Vec<Secret>) -> Result<Self, SettingsError> {
        equal("basic", http::header::AUTHORIZATION, "Basic ", Written::PlainBase64, KeyForm::UserPassword, secrets)
    }

    /// The secret stands in `Authorization: Bearer`.
    ///
    /// # Errors
    /// A [`SettingsError`] that names its field and the remedy.
    pub fn bearer(secrets: Vec<Secret>) -> Result<Self, SettingsError> {
        bearer("bearer", secrets)
    }

    /// The secret stands in a header of its own.
    ///
    /// # Errors
    /// A [`SettingsError`] that names its field and the remedy.
    pub fn token(header: &str, secrets: Vec<Secret>) -> Result<Self, SettingsError> {
        let name = header.parse().map_err(|_| SettingsError::Header(header.to_owned()))?;
        equal("token", name, "", Written::Plain, KeyForm::Text, secrets)
    }
}

/// What is unusual about secrets, in words that name the reference and never the value.
#[must_use]
pub fn advice(proof: &Proof, secrets: &[Secret]) -> Vec<Advice> {
    let Proof::Plan(Plan { key: KeyForm::StandardWebhooks { min, max }, .. }) = proof else { return Vec::new() };
    let odd = secrets.iter().filter_map(|secret| {
        let text = secret.expose().strip_prefix(b"whsec_")?;
        let length = BASE64.decode(text).ok().map(Zeroizing::new)?.len();
        let usual = if min == max { min.to_string() } else { format!("{min} to {max}") };
        let reference = secret.reference();
        let message = format!("the secret {reference} has {length} bytes after whsec_, the provider's have {usual}");
        (!(*min..=*max).contains(&length)).then_some(message)
    });
    odd.collect()
}

fn check_count(secrets: &[Secret]) -> Result<(), SettingsError> {
    match secrets.len() {
        0 => Err(SettingsError::NoSecrets),
        many if many > SECRETS_MAX => Err(SettingsError::TooManySecrets(many)),
        _ => Ok(()),
    }
}

/// A secret that stands in a path is compared as it is sent: nothing is decoded.
pub(super) fn check_path_secrets(secrets: &[Secret]) -> Result<(), SettingsError> {
    check_count(secrets)?;
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let dots = |text: &[u8]| matches!(text, b"." | b"..");
    let odd = secrets.iter().find(|secret| !secret.expose().iter().all(fits) || dots(secret.expose()));
    odd.map_or(Ok(()), |secret| {
        let remedy = "can't stand in a path as it is: use letters, digits, - . _ and ~";
        Err(SettingsError::SecretForm { reference: secret.reference().clone(), remedy })
    })
}

fn public_url(name: &'static str, proof: &Proof, text: Option<&str>) -> Result<Option<PublicUrl>, SettingsError> {
    if !proof.needs_public_url() {
        return Ok(None);
    }
    let text = text.ok_or(SettingsError::NoPublicUrl(name))?;
    PublicUrl::parse(text).map(Some).map_err(SettingsError::PublicUrl)
}

fn bearer(name: &'static str, secrets: Vec<Secret>) -> Result<Verifier, SettingsError> {
    equal(name, http::header::AUTHORIZATION, "Bearer ", Written::Plain, KeyForm::Text, secrets)
}

fn equal(
    scheme: &'static str,
    name: HeaderName,
    prefix: &str,
    encoding: Written,
    form: KeyForm,
    secrets: Vec<Secret>,
) -> Result<Verifier, SettingsError> {
    check_count(&secrets)?;
    let keys = secrets.iter().map(|secret| key(Primitive::Equal, form, secret)).collect::<Result<_, _>>()?;
    let recipe = Recipe {
        scheme,
        keys,
        signature: SignatureRule {
            name,
            grammar: grammar::Grammar::Whole { prefix: prefix.as_bytes().into(), kind: Kind::Mac },
            encoding,
            mac_bytes: DIGEST_BYTES,
            public_bytes: 0..=0,
        },
        timestamp: None,
        before: Box::default(),
        after: Box::default(),
        url: None,
        fallback: None,
    };
    Ok(Verifier::recipe(Arc::new(recipe)))
}

fn recipe(
    scheme: &'static str,
    plan: &Plan,
    settings: &PresetSettings,
    url: Option<&PublicUrl>,
) -> Result<Recipe, SettingsError> {
    let fallback = match plan.renamed {
        Some(rename) => Some(Arc::new(named(scheme, plan, settings, url, rename)?)),
        None => None,
    };
    Ok(Recipe { fallback, ..named(scheme, plan, settings, url, ("", ""))? })
}

/// The recipe with the headers of the plan, or with those whose names begin otherwise.
fn named(
    scheme: &'static str,
    plan: &Plan,
    settings: &PresetSettings,
    url: Option<&PublicUrl>,
    (from, to): (&str, &str),
) -> Result<Recipe, SettingsError> {
    let name = |header: &str| -> Result<HeaderName, SettingsError> {
        let renamed = header.strip_prefix(from).map_or_else(|| header.to_owned(), |rest| [to, rest].concat());
        renamed.parse().map_err(|_| SettingsError::Header(renamed))
    };
    let (mut before, mut after, mut past_body) = (Vec::new(), Vec::new(), false);
    for part in plan.signed {
        let piece = match part {
            Part::Body => {
                past_body = true;
                continue;
            }
            Part::Text(text) => Piece::Literal(text.as_bytes().into()),
            Part::Timestamp => Piece::Field(Field::Timestamp),
            Part::Method => Piece::Field(Field::Method),
            Part::Url => Piece::Field(Field::Url),
            Part::HubSpotUrl => Piece::Field(Field::HubSpotUrl),
            Part::Header(header) => Piece::Field(Field::Id(name(header)?)),
        };
        if past_body { after.push(piece) } else { before.push(piece) }
    }
    let timestamp = match &plan.timestamp {
        None => None,
        Some(timestamp) => Some(TimestampRule {
            place: match timestamp.place {
                TimestampPlace::Header(header) => Place::Header(name(header)?),
                TimestampPlace::SignatureField => Place::SignatureField,
                TimestampPlace::Json(path) => Place::Json(path),
            },
            unit: timestamp.unit,
            tolerance_ms: millis(settings.tolerance.unwrap_or(timestamp.tolerance)),
        }),
    };
    let keys = settings.secrets.iter().map(|secret| key(plan.primitive, plan.key, secret));
    Ok(Recipe {
        scheme,
        keys: keys.collect::<Result<_, _>>()?,
        signature: signature(plan, name)?,
        timestamp,
        before: before.into(),
        after: after.into(),
        url: url.cloned(),
        fallback: None,
    })
}

fn signature(
    plan: &Plan,
    name: impl Fn(&str) -> Result<HeaderName, SettingsError>,
) -> Result<SignatureRule, SettingsError> {
    let header = plan.signature.header;
    let kind = match plan.primitive {
        Primitive::Ed25519 | Primitive::EcdsaP256 => Kind::Public,
        Primitive::Hmac(_) | Primitive::SecretFirstHash | Primitive::Equal => Kind::Mac,
    };
    let (first, grammar) = match plan.signature.grammar {
        Grammar::Whole { prefix } => {
            (name(header)?, grammar::Grammar::Whole { prefix: prefix.as_bytes().into(), kind })
        }
        Grammar::Pairs { separator, wanted, timestamp } => {
            let timestamp = timestamp.map(|key| key.as_bytes().into());
            (name(header)?, grammar::Grammar::Pairs { separator, wanted: wanted.as_bytes().into(), timestamp })
        }
        Grammar::Versions { mac, public } => {
            let (mac, public) = (mac.as_bytes().into(), public.as_bytes().into());
            (name(header)?, grammar::Grammar::Versions { mac, public })
        }
        Grammar::Family => {
            let others = (2..=SIGNATURES_MAX).map(|number| name(&format!("{header}{number}")));
            (name(&format!("{header}1"))?, grammar::Grammar::Family { others: others.collect::<Result<_, _>>()? })
        }
    };
    let encoding = match (plan.primitive, plan.signature.encoding) {
        (Primitive::Equal, Encoding::Base64) => Written::PlainBase64,
        (Primitive::Equal, _) => Written::Plain,
        (_, Encoding::Hex) => Written::LowerHex,
        (_, other) => Written::Encoded(other),
    };
    Ok(SignatureRule {
        name: first,
        grammar,
        encoding,
        mac_bytes: match plan.primitive {
            Primitive::Hmac(algorithm) => algorithm.output_bytes(),
            _ => DIGEST_BYTES,
        },
        public_bytes: if plan.primitive == Primitive::EcdsaP256 { 8..=72 } else { 64..=64 },
    })
}

/// Decodes a key from the form in which it is handed out.
fn key(primitive: Primitive, form: KeyForm, secret: &Secret) -> Result<Key, SettingsError> {
    let reference = secret.reference().clone();
    let text = secret.expose();
    let refuse = |remedy: &'static str| SettingsError::SecretForm { reference: reference.clone(), remedy };
    let mac = |key: &[u8]| match primitive {
        Primitive::Hmac(algorithm) => Checker::Mac(Mac::new(algorithm, key)),
        Primitive::SecretFirstHash => Checker::Mac(Mac::secret_first(key)),
        _ => Checker::Equal(Sha256::digest(key).into(), secret.clone()),
    };
    let checker = match form {
        KeyForm::Text => mac(text),
        KeyForm::Ascii { min, max } => {
            let fits = (min..=max).contains(&text.len()) && text.iter().all(|byte| matches!(byte, b' '..=b'~'));
            fits.then(|| mac(text))
                .ok_or_else(|| refuse("is not of 10 to 100 ASCII characters: the provider takes no other"))?
        }
        KeyForm::Word { max } => {
            let fits = text.len() <= max && text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            let remedy = "may only have letters, digits, _ and -, at most 256: the provider takes no other";
            fits.then(|| mac(text)).ok_or_else(|| refuse(remedy))?
        }
        KeyForm::StandardWebhooks { .. } => {
            let remedy = "is neither whsec_ nor whpk_ and base64: paste it as the provider shows it, prefix included";
            match (base64_after(b"whsec_", text), base64_after(b"whpk_", text)) {
                (Some(key), _) => mac(&key),
                (_, Some(key)) => PublicKey::ed25519(&key).map(Checker::Public).ok_or_else(|| {
                    refuse(
                        "is no Ed25519 key: after whpk_ it needs base64 of 32 bytes, paste it as the provider shows it",
                    )
                })?,
                (None, None) => return Err(refuse(remedy)),
            }
        }
        KeyForm::WhsecOrText if text.starts_with(b"whsec_") => {
            let remedy = "has no base64 after whsec_: paste it as the provider shows it";
            mac(&base64_after(b"whsec_", text).ok_or_else(|| refuse(remedy))?)
        }
        KeyForm::WhsecOrText => mac(text),
        KeyForm::UserPassword if text.contains(&b':') => mac(text),
        KeyForm::UserPassword => return Err(refuse("has no colon: write it as user:password")),
        KeyForm::Hex => hex::decode(text)
            .ok()
            .and_then(|key| PublicKey::ed25519(&key))
            .map(Checker::Public)
            .ok_or_else(|| refuse("is no public key: it needs 64 hex digits, paste it as the provider shows it"))?,
        KeyForm::Spki => PublicKey::p256_spki(text).map(Checker::Public).ok_or_else(|| {
            refuse("is no P-256 public key in base64 (it begins with MFkw): paste it as the provider shows it")
        })?,
    };
    Ok(Key { reference, checker, secret: secret.clone() })
}

/// What stands after the prefix, decoded; None if it is not there, not base64, or empty.
pub(super) fn base64_after(prefix: &[u8], text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let decoded = Zeroizing::new(BASE64.decode(text.strip_prefix(prefix)?).ok()?);
    (!decoded.is_empty()).then_some(decoded)
}

pub(super) fn millis(tolerance: Duration) -> u64 {
    u64::try_from(tolerance.as_millis()).unwrap_or(u64::MAX)
}
