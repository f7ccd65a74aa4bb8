//! Owns the commands about subscribers: who may register, what is recorded, and what is told.
//!
//! Promises that a registration is durable and used when it is answered, that one that is refused is recorded with the
//! reason, and that a generated secret is told once. Deliberately absent: how a subscriber is made.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    access::Caller,
    act::{short, within},
    ports::Ports,
    wire::{PauseSubscriber, RotateSecret, Subscribe, Subscriber, SubscriberDone},
};
use crate::{
    log::entry::{Action, Registration, SigningSecret, StoredSecret, Written},
    state::Subscribed,
};

/// What stands before a secret of Standard Webhooks.
const SECRET_PREFIX: &str = "whsec_";

/// How a secret looks that stands in the log itself.
const LITERAL: &str = "literal:";

/// Secrets that sign at once: the new one, and old ones whose overlap has not ended.
pub const SECRETS_AT_ONCE: usize = 4;

/// The longest text that a registration may have, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Types in one registration.
const TYPES_MAX: usize = 100;

/// Why a command about a subscriber was not done.
#[derive(Debug, thiserror::Error)]
pub enum SubscriberError {
    /// It can't be, and why.
    #[error("{0}")]
    Usage(String),
    /// There is none of this name.
    #[error("no subscriber {0} was registered at run time")]
    NoSuch(String),
    /// Not now.
    #[error("{0}")]
    Refused(String),
}

/// All subscribers, by name.
///
/// # Errors
/// [`SubscriberError::Refused`].
pub fn subscribers(ports: &dyn Ports) -> Result<Vec<Subscriber>, SubscriberError> {
    ports.subscribers().map_err(SubscriberError::Refused)
}

/// Registers one.
///
/// # Errors
/// [`SubscriberError`]. A refusal is recorded.
pub fn subscribe(ports: &dyn Ports, asked: &Subscribe, caller: &Caller) -> Result<SubscriberDone, SubscriberError> {
    let texts = [&asked.topic, &asked.name, &asked.url].into_iter().chain(&asked.types);
    let texts = texts.chain(&asked.when).chain(&asked.secret).chain(&asked.rate);
    let too_long = asked.types.len() > TYPES_MAX || texts.map(String::len).any(|length| length > TEXT_BYTES_MAX);
    if too_long {
        let why = format!("a registration has texts of at most {TEXT_BYTES_MAX} bytes and at most {TYPES_MAX} types");
        return Err(SubscriberError::Usage(why));
    }
    let _turn = ports.subscribers_turn();
    let (secret, shown) = secret(ports, asked.secret.as_deref())?;
    let registration = Registration {
        topic: (&*asked.topic).into(),
        name: (&*asked.name).into(),
        url: (&*asked.url).into(),
        types: asked.types.iter().map(|text| (&**text).into()).collect(),
        when: asked.when.as_deref().map(Into::into),
        secrets: vec![SigningSecret { secret, until_ms: None }],
        rate: asked.rate.as_deref().map(Into::into),
        since_ms: ports.now().as_millis(),
        by: caller.name.to_string(),
    };
    let upstream = registration.upstream();
    if let Err(why) = ports.check_subscriber(&registration, true) {
        let url = without_credentials(&asked.url).into();
        let refused = Action::RefuseSubscriber { upstream: upstream.clone(), url, why: why.clone() };
        command(ports, caller, refused)?;
        ports.subscriber_refused();
        return Err(SubscriberError::Usage(format!("subscriber {upstream} is refused: {why}")));
    }
    let registration = Box::new(registration);
    command(ports, caller, Action::PutSubscriber { written: Written::Added, registration, streak: None })?;
    done(ports, &upstream, shown)
}

/// Gives one another secret.
///
/// # Errors
/// [`SubscriberError`].
pub fn rotate(
    ports: &dyn Ports,
    upstream: &str,
    asked: &RotateSecret,
    caller: &Caller,
) -> Result<SubscriberDone, SubscriberError> {
    within("overlap_ms (--overlap)", Some(asked.overlap_ms)).map_err(SubscriberError::Usage)?;
    let _turn = ports.subscribers_turn();
    let mut registration = registered(&ports.subscribed(), upstream)?;
    let (secret, shown) = secret(ports, asked.secret.as_deref())?;
    let now = ports.now().as_millis();
    let until = now.saturating_add(asked.overlap_ms);
    let mut secrets = vec![SigningSecret { secret, until_ms: None }];
    for old in registration.secrets.drain(..) {
        let until_ms = Some(old.until_ms.map_or(until, |earlier| earlier.min(until)));
        secrets.push(SigningSecret { until_ms, ..old });
    }
    secrets.retain(|secret| secret.until_ms.is_none_or(|until| until > now));
    secrets.truncate(SECRETS_AT_ONCE);
    registration.secrets = secrets;
    ports.check_subscriber(&registration, false).map_err(SubscriberError::Usage)?;
    let registration = Box::new(registration);
    command(ports, caller, Action::PutSubscriber { written: Written::SecretRotated, registration, streak: None })?;
    done(ports, upstream, shown)
}

/// Holds what waits and what will come for one.
///
/// # Errors
/// [`SubscriberError`].
pub fn pause(
    ports: &dyn Ports,
    upstream: &str,
    asked: &PauseSubscriber,
    caller: &Caller,
) -> Result<SubscriberDone, SubscriberError> {
    named(ports, upstream)?;
    let usage = SubscriberError::Usage;
    within("for_ms (--for)", asked.for_ms).and_then(|()| short(asked.reason.as_deref())).map_err(usage)?;
    let until_ms = asked.for_ms.map(|ms| ports.now().as_millis().saturating_add(ms));
    let action = Action::HoldUpstream { upstream: upstream.into(), until_ms, reason: asked.reason.clone() };
    command(ports, caller, action)?;
    done(ports, upstream, None)
}

/// Lets one go on that is paused, or that was disabled.
///
/// # Errors
/// [`SubscriberError`].
pub fn resume(ports: &dyn Ports, upstream: &str, caller: &Caller) -> Result<SubscriberDone, SubscriberError> {
    let _turn = ports.subscribers_turn();
    named(ports, upstream)?;
    let known = ports.subscribed();
    if known.disabled(upstream).is_some() {
        command(ports, caller, Action::EnableSubscriber { upstream: upstream.into() })?;
    }
    command(ports, caller, Action::ReleaseUpstream { upstream: upstream.into() })?;
    done(ports, upstream, None)
}

/// Removes one; what it has not got dies.
///
/// # Errors
/// [`SubscriberError`].
pub fn unsubscribe(ports: &dyn Ports, upstream: &str, caller: &Caller) -> Result<SubscriberDone, SubscriberError> {
    let _turn = ports.subscribers_turn();
    registered(&ports.subscribed(), upstream)?;
    command(ports, caller, Action::RemoveSubscriber { upstream: upstream.into() })?;
    Ok(SubscriberDone { subscriber: None, secret: None })
}

/// How the secrets of a registration are shown.
#[must_use]
pub fn shown_secrets(registration: &Registration) -> Vec<String> {
    let shown = |secret: &SigningSecret| match secret.secret.expose() {
        text if text.starts_with(LITERAL) => "generated".to_owned(),
        text => text.to_owned(),
    };
    registration.secrets.iter().map(shown).collect()
}

fn registered(known: &Subscribed, upstream: &str) -> Result<Registration, SubscriberError> {
    let found = known.registered.get(upstream).map(|found| found.registration.clone());
    found.ok_or_else(|| SubscriberError::NoSuch(upstream.to_owned()))
}

/// Also one of the configuration.
fn named(ports: &dyn Ports, upstream: &str) -> Result<Subscriber, SubscriberError> {
    let found = subscribers(ports)?.into_iter().find(|found| found.upstream == upstream);
    found.ok_or_else(|| SubscriberError::NoSuch(upstream.to_owned()))
}

fn command(ports: &dyn Ports, caller: &Caller, action: Action) -> Result<(), SubscriberError> {
    ports.command(caller.command(action)).map_err(SubscriberError::Refused)
}

fn done(ports: &dyn Ports, upstream: &str, secret: Option<String>) -> Result<SubscriberDone, SubscriberError> {
    Ok(SubscriberDone { subscriber: Some(named(ports, upstream)?), secret })
}

/// The secret to be stored, and the text of it if it was generated.
fn secret(ports: &dyn Ports, asked: Option<&str>) -> Result<(StoredSecret, Option<String>), SubscriberError> {
    match asked {
        Some(text) if text.starts_with(LITERAL) => {
            let why =
                "secret: write env:NAME, file:/path or credential:NAME, or leave it out and take the generated one";
            Err(SubscriberError::Usage(why.to_owned()))
        }
        Some(text) => Ok((StoredSecret::new(text), None)),
        None => {
            let bytes =
                ports.secret_bytes().ok_or_else(|| SubscriberError::Refused("no randomness is to be had".into()))?;
            let text = format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes));
            Ok((StoredSecret::new(&format!("{LITERAL}{text}")), Some(text)))
        }
    }
}

/// A url as it may be recorded.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let hidden = if host == authority { "" } else { "…@" };
    format!("{scheme}{}{hidden}{host}{path}", if scheme.is_empty() { "" } else { "://" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::Fake;

    fn asked(name: &str, url: &str) -> Subscribe {
        Subscribe {
            topic: "orders".into(),
            name: name.into(),
            url: url.into(),
            types: Vec::new(),
            when: None,
            secret: None,
            rate: None,
        }
    }

    #[test]
    fn a_registration_is_recorded_with_its_actor_and_a_generated_secret_is_told_once() {
        let fake = Fake::default();
        let told = subscribe(&fake, &asked("crm", "https://a.example"), &Caller::local("me")).unwrap();
        let secret = told.secret.unwrap();
        assert!(secret.starts_with("whsec_") && secret.len() > 40);
        let commands = fake.commands();
        let Action::PutSubscriber { written: Written::Added, registration, .. } = &commands[0].action else { panic!() };
        assert_eq!((&*registration.by, registration.secrets[0].secret.expose()), ("me", &*format!("literal:{secret}")));
        assert_eq!(shown_secrets(registration), ["generated"]);
        assert!(!format!("{commands:?}").contains(&secret));
        let mut own = asked("other", "https://a.example");
        own.secret = Some("env:KEY".into());
        assert_eq!(subscribe(&fake, &own, &Caller::local("me")).unwrap().secret, None);
        own.secret = Some("literal:whsec_hunter2".into());
        let why = subscribe(&fake, &own, &Caller::local("me")).err().unwrap().to_string();
        assert!(why.contains("env:NAME") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn a_refused_registration_is_recorded_with_the_reason_and_without_credentials() {
        let fake = Fake::default();
        let why = subscribe(&fake, &asked("bad", "http://u:hunter2@10.0.0.1/x?token=hunter2"), &Caller::local("me"))
            .err()
            .unwrap();
        assert_eq!(why.to_string(), "subscriber orders/bad is refused: url: leads to 10.0.0.1");
        let commands = fake.commands();
        assert!(!format!("{commands:?}").contains("hunter2"), "{commands:?}");
        let Action::RefuseSubscriber { upstream, url, .. } = &commands[0].action else { panic!("{commands:?}") };
        assert_eq!((&**upstream, &**url), ("orders/bad", "http://…@10.0.0.1/x"));
        let long = asked("long", &"x".repeat(TEXT_BYTES_MAX + 1));
        assert!(matches!(subscribe(&fake, &long, &Caller::local("me")), Err(SubscriberError::Usage(_))));
    }

    #[test]
    fn a_rotation_keeps_the_old_secret_for_the_overlap_and_few_at_once() {
        let fake = Fake::default();
        subscribe(&fake, &asked("crm", "https://a.example"), &Caller::local("me")).unwrap();
        let secrets = |fake: &Fake| registered(&fake.subscribed(), "orders/crm").unwrap().secrets;
        for _ in 0..9 {
            let told =
                rotate(&fake, "orders/crm", &RotateSecret { secret: None, overlap_ms: 5_000 }, &Caller::local("me"))
                    .unwrap();
            assert!(told.secret.is_some());
        }
        let kept = secrets(&fake);
        assert_eq!((kept.len(), kept[0].until_ms), (SECRETS_AT_ONCE, None));
        assert_eq!(kept[1].until_ms, Some(fake.clock().as_millis() + 5_000));
        rotate(
            &fake,
            "orders/crm",
            &RotateSecret { secret: Some("env:KEY".into()), overlap_ms: 0 },
            &Caller::local("me"),
        )
        .unwrap();
        assert_eq!(secrets(&fake).len(), 1);
        let unknown = rotate(&fake, "orders/x", &RotateSecret { secret: None, overlap_ms: 0 }, &Caller::local("me"));
        assert!(matches!(unknown, Err(SubscriberError::NoSuch(_))));
    }

    #[test]
    fn a_subscriber_is_paused_resumed_and_removed_by_commands() {
        let fake = Fake::default();
        subscribe(&fake, &asked("crm", "https://a.example"), &Caller::local("me")).unwrap();
        pause(&fake, "orders/crm", &PauseSubscriber { for_ms: Some(10), reason: None }, &Caller::local("me")).unwrap();
        resume(&fake, "orders/crm", &Caller::local("me")).unwrap();
        unsubscribe(&fake, "orders/crm", &Caller::local("me")).unwrap();
        let did: Vec<String> = fake.commands().iter().map(|command| format!("{:?}", command.action)).collect();
        assert!(did[1].starts_with("HoldUpstream") && did[2].starts_with("ReleaseUpstream"), "{did:?}");
        assert!(did[3].starts_with("RemoveSubscriber"), "{did:?}");
        assert!(matches!(unsubscribe(&fake, "orders/crm", &Caller::local("me")), Err(SubscriberError::NoSuch(_))));
        assert!(matches!(
            pause(&fake, "orders/x", &PauseSubscriber::default(), &Caller::local("me")),
            Err(SubscriberError::NoSuch(_))
        ));
    }
}
