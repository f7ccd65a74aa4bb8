//! Owns `[subscribers]`, the rules for subscribers that are registered at run time, and what such a subscriber is made of.
//!
//! Promises that it can't be made without the guard, and that what is wrong is said without repeating a secret. Looking
//! its name up is the caller's business.

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{
    door::networks,
    reader::{Section, quoted},
    server::as_usize,
    source::{chain, valid_name},
    tls, units, upstream,
};
use crate::{
    expr::Expr,
    routing::{
        HostPolicy, PaceRate, PathEdit, PublicOnly, SignPolicy, Subscriber, Target, TlsClient, Types, Upstream,
        subscriber_name,
    },
    verify::SecretRef,
};

/// How long a subscriber may fail before it is disabled.
const DISABLE_AFTER: &str = "5d";

/// The most subscribers that may be registered at run time: each is an upstream.
const REGISTERED_MAX: u64 = 10_000;

/// `[subscribers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribersSettings {
    /// Networks that their names may lead to although they are not public.
    pub allow: Vec<IpNet>,
    /// How many may be registered at run time.
    pub max: usize,
    /// After so long without a success one is disabled; None: never.
    pub disable_after: Option<Duration>,
}

/// Reads the section.
pub(super) fn read(section: Section<'_>) -> SubscribersSettings {
    let allow = networks(&section, "allow").unwrap_or_else(|| {
        section.print("allow", "[]");
        Vec::new()
    });
    let max = as_usize(section.count("max", 1_000, 0..=REGISTERED_MAX));
    let disable_after = patience_of(&section, Some(DISABLE_AFTER));
    section.finish();
    SubscribersSettings { allow, max, disable_after }
}

/// `disable_after`: a duration, or `"off"`.
pub(super) fn patience_of(section: &Section<'_>, default: Option<&str>) -> Option<Duration> {
    let written = section.expanded("disable_after");
    let text = written.as_deref().or(default)?;
    let parsed = match text {
        "off" => Some(Duration::ZERO),
        text => section.accept("disable_after", units::parse_duration(text)),
    };
    let after = parsed.filter(|after| !after.is_zero());
    section.print("disable_after", &quoted(&after.map_or_else(|| "off".to_owned(), units::show_duration)));
    after
}

/// What somebody asks for who registers a subscriber.
#[expect(missing_docs, reason = "the names of the configuration's keys")]
pub struct AskedSubscriber<'a> {
    pub topic: &'a str,
    pub name: &'a str,
    pub url: &'a str,
    /// Empty for every type.
    pub types: &'a [Box<str>],
    pub when: Option<&'a str>,
    /// References; files by their whole path.
    pub secrets: &'a [&'a str],
    pub rate: Option<&'a str>,
}

/// The certificate authorities of the machine, to be loaded once for all of them.
///
/// # Errors
/// Why they can't be read.
pub fn run_time_tls() -> Result<Arc<TlsClient>, String> {
    let config = tls::client(tls::native_roots()?, None)?;
    Ok(Arc::new(TlsClient { config: Arc::new(config), server_name: None }))
}

/// Makes a subscriber: an upstream under the defaults of `[upstream.NAME]` that sends to exactly its url, behind a guard.
///
/// # Errors
/// What is wrong with what was asked for, in words.
pub fn run_time_subscriber(
    asked: &AskedSubscriber<'_>,
    settings: &SubscribersSettings,
    tls: impl FnOnce() -> Result<Arc<TlsClient>, String>,
) -> Result<Subscriber, String> {
    valid_name(asked.name)?;
    let guard = PublicOnly { allow: settings.allow.clone() };
    let (target, path) = place(asked.url, &guard).map_err(|why| format!("url: {why}"))?;
    let types = match asked.types {
        [] => None,
        types => Some(Types::new(types.iter().cloned()).map_err(|why| format!("type: {why}"))?),
    };
    let when = asked.when.map(Expr::compile).transpose().map_err(|why| format!("when: is no valid jq: {why}"))?;
    let mut secrets = Vec::with_capacity(asked.secrets.len());
    for text in asked.secrets {
        let reference = SecretRef::parse(text).map_err(|why| format!("secret: {why}"))?;
        if reference.file().is_some_and(Path::is_relative) {
            return Err("secret: file: needs the whole path of the file here".to_owned());
        }
        secrets.push(reference.resolve(Path::new("/")).map_err(|why| format!("secret: {}", chain(&why)))?);
    }
    let sign = SignPolicy::standard_webhooks(&secrets).map_err(|why| format!("secret: {why}"))?;
    let name = subscriber_name(asked.topic, asked.name);
    let tls = matches!(target, Target::Https(_)).then(tls).transpose()?;
    let mut upstream = Upstream::new(&name, target);
    if let Some(rate) = asked.rate {
        let (count, per) = units::parse_pace(rate).map_err(|why| format!("rate: {why}"))?;
        upstream.pace.rate = Some(PaceRate::new(count, per, None).map_err(|why| format!("rate: {why}"))?);
    }
    let upstream = Upstream {
        tls,
        host: HostPolicy::Upstream,
        path: PathEdit { strip_prefix: None, path: Some(path) },
        sign: Some(sign),
        guard: Some(guard),
        disable_after: settings.disable_after,
        ..upstream
    };
    Ok(Subscriber { topic: asked.topic.into(), types, when, upstream: Arc::new(upstream) })
}

/// Where a url leads to, and with which path.
fn place(url: &str, guard: &PublicOnly) -> Result<(Target, Box<str>), String> {
    if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err("begins neither with https:// nor with http://".to_owned());
    }
    let target = upstream::http_target(url)?;
    let (Target::Http(uri) | Target::Https(uri)) = &target else { return Err("is no url".to_owned()) };
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    if is_disguised(host) {
        return Err("writes an address as a number; write it as 192.0.2.1".to_owned());
    }
    if let Some((address, why)) = host.parse().ok().and_then(|address| Some((address, guard.refusal(address)?))) {
        return Err(format!(
            "leads to {address}, which is {why}; public addresses are taken, and those in subscribers.allow"
        ));
    }
    let path = if uri.path().is_empty() { "/" } else { uri.path() };
    let mut parts = http::uri::Parts::default();
    (parts.scheme, parts.authority) = (uri.scheme().cloned(), uri.authority().cloned());
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    let whole = http::Uri::from_parts(parts).map_err(|_| "is no url".to_owned())?;
    let target = if matches!(target, Target::Https(_)) { Target::Https(whole) } else { Target::Http(whole) };
    Ok((target, path.into()))
}

/// Whether a host's name ends in a number but is no address as it is usually written: `127.1`, `0x7f000001`,
/// `2130706433`, `0177.0.0.1`. What looks names up takes these for addresses.
fn is_disguised(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_hex = last.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case("0x"));
    let ends_in_number = !last.is_empty() && (last.bytes().all(|byte| byte.is_ascii_digit()) || is_hex);
    ends_in_number && !host.contains(':') && host.parse::<Ipv4Addr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "literal:whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn settings(allow: &[&str]) -> SubscribersSettings {
        let allow = allow.iter().map(|network| network.parse().unwrap()).collect();
        SubscribersSettings { allow, max: 10, disable_after: Some(Duration::from_secs(9)) }
    }

    fn asked(url: &str) -> AskedSubscriber<'_> {
        AskedSubscriber { topic: "orders", name: "crm", url, types: &[], when: None, secrets: &[SECRET], rate: None }
    }

    fn made(asked: &AskedSubscriber<'_>) -> Result<Subscriber, String> {
        run_time_subscriber(asked, &settings(&["10.0.0.0/8"]), || Err("no TLS here".into()))
    }

    #[test]
    fn a_subscriber_sends_to_its_url_behind_a_guard_with_its_own_host() {
        let types = ["invoice.*".into()];
        let all = AskedSubscriber {
            types: &types,
            when: Some(".amount > 1"),
            rate: Some("10/s"),
            ..asked("http://crm.example:8080/hook/in")
        };
        let subscriber = made(&all).unwrap();
        let upstream = &subscriber.upstream;
        assert_eq!(&*upstream.name, "orders/crm");
        assert_eq!(upstream.target, Target::Http("http://crm.example:8080/".parse().unwrap()));
        assert_eq!(upstream.path.path.as_deref(), Some("/hook/in"));
        assert!(matches!(upstream.host, HostPolicy::Upstream) && upstream.sign.is_some());
        assert!(upstream.guard.as_ref().is_some_and(|guard| guard.allow.len() == 1) && upstream.tls.is_none());
        assert!(upstream.pace.rate.is_some() && subscriber.types.is_some() && subscriber.when.is_some());
        assert_eq!(upstream.disable_after, Some(Duration::from_secs(9)));
        assert_eq!(made(&asked("https://crm.example")).err().as_deref(), Some("no TLS here"));
    }

    #[test]
    fn what_leads_to_no_public_address_in_any_writing_is_refused() {
        for (url, why) in [
            ("http://127.0.0.1/", "127.0.0.1, which is loopback"),
            ("http://[::1]/", "::1, which is loopback"),
            ("http://[::ffff:192.168.0.1]/", "which is private"),
            ("http://[::ffff:a00:1]:80/", ""),
            ("http://169.254.169.254/latest/meta-data", "which is link-local"),
            ("http://2130706433/", "as a number"),
            ("http://0177.0.0.1/", "as a number"),
            ("http://0x7f.0.0.1/", "as a number"),
            ("http://0x7f000001/", "as a number"),
            ("http://127.1/", "as a number"),
            ("http://127.0.0.1./", "127.0.0.1, which is loopback"),
            ("http://127.1./", "as a number"),
            ("http://public.example@127.0.0.1/", "holds a user or a password"),
            ("http://u:hunter2@public.example/", "holds a user or a password"),
            ("http://public.example/?token=a", "has a query"),
            ("unix:/run/app.sock", "begins neither"),
            ("ftp://public.example/", "begins neither"),
            ("http://", "no url"),
            ("http:///x", "no url"),
        ] {
            let said = made(&asked(url)).err();
            if why.is_empty() {
                assert_eq!(said, None, "{url} is allowed");
                continue;
            }
            let said = said.unwrap_or_else(|| panic!("{url} is taken"));
            assert!(said.contains(why) && said.starts_with("url: ") && !said.contains("hunter2"), "{url}: {said}");
        }
    }

    #[test]
    fn everything_else_that_is_wrong_is_named_and_no_secret_is_repeated() {
        let url = "http://crm.example/";
        let wrong = ["a*b".into()];
        let plain = asked(url);
        for (asked, why) in [
            (AskedSubscriber { name: "a/b", ..asked(url) }, "is no name"),
            (AskedSubscriber { types: &wrong, ..asked(url) }, "type: takes names"),
            (AskedSubscriber { when: Some("("), ..asked(url) }, "when: is no valid jq"),
            (AskedSubscriber { rate: Some("fast"), ..asked(url) }, "rate: "),
            (AskedSubscriber { secrets: &["hunter2"], ..asked(url) }, "secret: this is not a reference"),
            (AskedSubscriber { secrets: &["literal:whsec_hunter2"], ..asked(url) }, "secret: "),
            (AskedSubscriber { secrets: &["file:key"], ..asked(url) }, "needs the whole path"),
            (AskedSubscriber { secrets: &["env:NOT_THERE_AT_ALL"], ..asked(url) }, "is not set"),
        ] {
            let said = made(&asked).err().unwrap_or_else(|| panic!("{why}: it is taken"));
            assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
        }
        assert!(made(&plain).is_ok());
    }
}
