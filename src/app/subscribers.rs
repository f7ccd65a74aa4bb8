//! Owns the live table: the configuration's own, with the subscribers that the log says were registered at run time.
//!
//! Promises that a table is swapped before what comes after in the log is planned; that the configuration wins over a
//! registration of the same name; and that a registration that can't be used any more is kept, off, with the reason.
//! Deliberately absent: deciding who may register, which is `admin`'s.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use super::notices::Notices;
use crate::{
    alert,
    clock::{Clock, Timestamp},
    config::{self, AskedSubscriber, SubscribersSettings},
    delivery::{Engine, Resolve},
    log::{Log, entry::Registration},
    routing::{Live, Subscriber, Table, Target, TlsClient, Upstream, topic_of},
    state::{Subscribed, Subscriber as Registered},
    telemetry::Metrics,
};

/// Looking up the name of a subscriber that registers.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The live table and what it is composed of.
pub(super) struct Subscribers {
    live: Live,
    clock: Clock,
    metrics: Arc<Metrics>,
    resolver: Arc<dyn Resolve>,
    /// The machine's certificate authorities, loaded for the first `https` subscriber.
    tls: OnceLock<Result<Arc<TlsClient>, String>>,
    engine: OnceLock<Engine>,
    parts: Mutex<Parts>,
    notices: Mutex<Notices>,
    turn: Mutex<()>,
}

struct Parts {
    /// The configuration's own.
    base: Table,
    settings: SubscribersSettings,
    /// What the log says.
    known: Subscribed,
    /// What registrations were made into, each with the number of secrets that count.
    made: HashMap<Box<str>, (Registration, usize, Subscriber)>,
    /// Registrations that can't be used, and why.
    off: BTreeMap<Box<str>, String>,
    /// When the next secret stops signing.
    expires: Option<Timestamp>,
}

impl Subscribers {
    /// The configuration's table, before anything is known from the log.
    pub(super) fn new(
        live: Live,
        base: Table,
        settings: SubscribersSettings,
        clock: Clock,
        metrics: Arc<Metrics>,
        log: Arc<dyn Log>,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        metrics.subscribers_limit.set(i64::try_from(settings.max).unwrap_or(i64::MAX));
        let parts = Parts {
            base,
            settings,
            known: Subscribed::default(),
            made: HashMap::new(),
            off: BTreeMap::new(),
            expires: None,
        };
        Self {
            live,
            clock,
            notices: Mutex::new(Notices::new(log, metrics.clone())),
            metrics,
            resolver,
            tls: OnceLock::new(),
            engine: OnceLock::new(),
            parts: Mutex::new(parts),
            turn: Mutex::default(),
        }
    }

    /// The engine is there: it looks at the table, which may have changed since it started.
    pub(super) fn attach(&self, engine: Engine) {
        let _parts = self.parts();
        engine.configure();
        let _first = self.engine.set(engine);
    }

    /// What the log says has changed.
    pub(super) fn changed(&self, known: Subscribed) {
        let mut parts = self.parts();
        parts.known = known;
        self.compose(&mut parts);
    }

    /// The table of the configuration, without those that were registered at run time.
    pub(super) fn base(&self) -> Table {
        self.parts().base.clone()
    }

    /// Another configuration. Gives what it means for those that were registered at run time.
    pub(super) fn reconfigure(&self, base: Table, settings: SubscribersSettings) -> Vec<String> {
        let mut parts = self.parts();
        self.metrics.subscribers_limit.set(i64::try_from(settings.max).unwrap_or(i64::MAX));
        (parts.base, parts.settings) = (base, settings);
        // Secrets may be new.
        parts.made.clear();
        let before = std::mem::take(&mut parts.off);
        self.compose(&mut parts);
        let newly = parts.off.iter().filter(|(name, why)| before.get(*name) != Some(why));
        newly.map(|(name, why)| format!("warning: subscriber {name} is off: {why}; its deliveries are held")).collect()
    }

    /// Lets secrets go whose overlap has ended.
    pub(super) fn tick(&self) {
        let mut parts = self.parts();
        if parts.expires.is_some_and(|expires| expires <= self.clock.now()) {
            self.compose(&mut parts);
        }
        drop(parts);
        self.notices().again(self.clock.now());
    }

    /// Whoever registers, changes or carries subscribers forward does it alone.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the log says, and which registrations can't be used.
    pub(super) fn known(&self) -> (Subscribed, BTreeMap<Box<str>, String>) {
        let parts = self.parts();
        (parts.known.clone(), parts.off.clone())
    }

    /// The subscribers of the configuration: names of their upstreams, and where they lead to.
    pub(super) fn configured(&self) -> Vec<(Box<str>, String)> {
        let parts = self.parts();
        let all = parts.base.upstreams.iter().filter(|(name, _)| topic_of(name).is_some());
        let mut all: Vec<_> = all.map(|(name, upstream)| (name.clone(), shown(upstream))).collect();
        all.sort();
        all
    }

    /// Whether somebody could be registered like this; if it is new, also whether there is room and where it leads to.
    /// Blocks on name look-ups.
    pub(super) fn check(&self, registration: &Registration, is_new: bool) -> Result<(), String> {
        let (target, guard) = {
            let mut parts = self.parts();
            let made = self.make(registration, &mut parts)?;
            if !is_new {
                return Ok(());
            }
            room_for(registration, &parts)?;
            let mut table = parts.base.clone();
            table.subscribe(std::slice::from_ref(&made)).map_err(|why| format!("when: {why}"))?;
            (made.upstream.target.clone(), made.upstream.guard.clone())
        };
        let (Target::Http(uri) | Target::Https(uri)) = target else { return Ok(()) };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let addresses = self.look_up(&host, uri.port_u16().unwrap_or(default))?;
        let refused = addresses.iter().find_map(|address| Some((address.ip(), guard.as_ref()?.refusal(address.ip())?)));
        match refused {
            _ if addresses.is_empty() => Err(format!("url: {host} has no address")),
            Some((address, why)) => Err(format!(
                "url: {host} leads to {address}, which is {why}; public addresses are taken, and those in subscribers.allow"
            )),
            None => Ok(()),
        }
    }

    fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let handle = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let asking = self.resolver.resolve(host, port);
        match handle.block_on(async { tokio::time::timeout(LOOKUP_TIMEOUT, asking).await }) {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(format!("url: {host} can't be looked up: {error}")),
            Err(_late) => Err(format!("url: {host} can't be looked up within {} s", LOOKUP_TIMEOUT.as_secs())),
        }
    }

    fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the table and swaps it in.
    fn compose(&self, parts: &mut Parts) {
        let (mut off, mut on) = (BTreeMap::new(), Vec::new());
        let registered = parts.known.registered.clone();
        for (name, Registered { registration, .. }) in &*registered {
            match usable(registration, &parts.base).and_then(|()| self.make(registration, parts)) {
                Ok(subscriber) => on.push(subscriber),
                Err(why) => drop(off.insert(name.clone(), why)),
            }
        }
        parts.made.retain(|name, _| registered.contains_key(name));
        let mut table = parts.base.clone();
        if table.subscribe(&on).is_err() {
            // Some condition is too much for an expression together with that of a route.
            on.retain(|one| {
                let tried = parts.base.clone().subscribe(std::slice::from_ref(one));
                let Err(why) = tried else { return true };
                off.insert((&*one.upstream.name).into(), format!("when: {why}"));
                false
            });
            table = parts.base.clone();
            if let Err(why) = table.subscribe(&on) {
                tracing::error!(%why, "subscribers of run time can't be used");
                table = parts.base.clone();
                off.extend(on.drain(..).map(|one| ((&*one.upstream.name).into(), why.to_string())));
            }
        }
        for (name, _) in parts.known.closed.iter().filter(|(_, closed)| closed.disabled.is_some()) {
            table.silence(name);
        }
        let members: Vec<(&str, &str)> = on.iter().map(|one| (&*one.upstream.name, &*one.topic)).collect();
        self.metrics.group_upstreams(&members);
        let now = self.clock.now();
        let ends = registered.values().flat_map(|one| &one.registration.secrets).filter_map(|secret| secret.until_ms);
        parts.expires = ends.map(Timestamp::from_millis).filter(|end| *end > now).min();
        parts.off = off;
        self.count(parts);
        self.live.swap(table);
        if let Some(engine) = self.engine.get() {
            engine.configure();
        }
        self.notices().tell(&parts.known, &parts.base, now);
    }

    /// Sets the gauges, in the order of their labels.
    fn count(&self, parts: &Parts) {
        let mut counts = [0_i64; 4];
        let [active, paused, disabled, off] = &mut counts;
        for name in parts.known.registered.keys() {
            let slot = match name {
                name if parts.off.contains_key(name) => &mut *off,
                name if parts.known.disabled(name).is_some() => &mut *disabled,
                name if parts.known.held.contains(name) => &mut *paused,
                _ => &mut *active,
            };
            *slot += 1;
        }
        for (gauge, count) in self.metrics.subscribers.iter().zip(counts) {
            gauge.set(count);
        }
    }

    /// The subscriber that a registration means, made anew only if it has changed: its connections are kept.
    fn make(&self, registration: &Registration, parts: &mut Parts) -> Result<Subscriber, String> {
        let (name, now) = (registration.upstream(), self.clock.now().as_millis());
        let secrets = registration.secrets.iter().filter(|secret| secret.until_ms.is_none_or(|until| until > now));
        let secrets: Vec<&str> = secrets.map(|secret| secret.secret.expose()).collect();
        if let Some((of, count, made)) = parts.made.get(&name)
            && (of, *count) == (registration, secrets.len())
        {
            return Ok(made.clone());
        }
        let asked = AskedSubscriber {
            topic: &registration.topic,
            name: &registration.name,
            url: &registration.url,
            types: &registration.types,
            when: registration.when.as_deref(),
            secrets: &secrets,
            rate: registration.rate.as_deref(),
        };
        let tls = || self.tls.get_or_init(config::run_time_tls).clone();
        let made = config::run_time_subscriber(&asked, &parts.settings, tls)?;
        parts.made.insert(name, (registration.clone(), secrets.len(), made.clone()));
        Ok(made)
    }
}

/// Whether a registration has a place in a configuration.
fn usable(registration: &Registration, base: &Table) -> Result<(), String> {
    if base.upstreams.contains_key(&registration.upstream()) {
        return Err("the configuration has a subscriber of this name".to_owned());
    }
    if !base.topics.iter().any(|topic| topic.name == registration.topic) {
        return Err(format!("the configuration has no topic {:?}", registration.topic));
    }
    Ok(())
}

/// Whether one more may be registered.
fn room_for(registration: &Registration, parts: &Parts) -> Result<(), String> {
    usable(registration, &parts.base)?;
    let (registered, max) = (&parts.known.registered, parts.settings.max);
    if registered.contains_key(&registration.upstream()) {
        return Err(format!("{} is registered already; remove it before", registration.upstream()));
    }
    if registered.len() >= max {
        return Err(format!("{max} subscribers are registered, and subscribers.max allows no more"));
    }
    let topic = parts.base.topics.iter().find(|topic| topic.name == registration.topic);
    let most = topic.map_or(0, |topic| topic.max_subscribers);
    let all = registered.keys().chain(parts.base.upstreams.keys());
    let count = all.filter(|name| topic_of(name) == Some(&*registration.topic)).count();
    if count >= most {
        return Err(format!(
            "topic {} has {count} subscribers, and its max_subscribers allows no more",
            registration.topic
        ));
    }
    Ok(())
}

/// Where it leads to. What alerts go to may have a credential in its path: only its address is told.
fn shown(upstream: &Upstream) -> String {
    let is_secret = upstream.hides_url || topic_of(&upstream.name) == Some(alert::TOPIC);
    match &upstream.target {
        Target::Http(uri) | Target::Https(uri) if is_secret => {
            let (scheme, host) = (uri.scheme_str().unwrap_or("https"), uri.host().unwrap_or_default());
            let port = uri.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("{scheme}://{host}{port}/…")
        }
        Target::Http(uri) | Target::Https(uri) => uri.to_string(),
        Target::Unix(path) => format!("unix:{}", path.display()),
        Target::File(_) => "files".to_owned(),
        Target::Objects(_) => "objects".to_owned(),
        Target::Command(_) => "a program".to_owned(),
    }
}

#[cfg(test)]
#[path = "subscribers_tests.rs"]
pub(super) mod tests;
