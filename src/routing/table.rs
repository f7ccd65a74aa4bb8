//! Owns the table itself: one configuration as immutable, validated values. Looking sources up is `index`'s, comparing
//! routes is `changes`'s business.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, Uri};

use super::{
    AnswerPolicy, BatchPolicy, BreakerPolicy, CachePolicy, ChallengeRule, CloudEvents, FilePolicy, Guard, Handshake,
    HeaderEdit, HostPolicy, ItemRule, Lookup, LoopRule, Numbering, ObjectPolicy, OrderPolicy, Pace, PathEdit,
    PathPattern, Priority, QuarantinePolicy, Rate, Reply, RetryPolicy, SchemaRule, SignPolicy, SplitRule, Targets,
    TenantRule, Topic, TurnPolicy, Types, UpgradePolicy, WaitPolicy,
    index::{self, Index},
};
use crate::{
    expr::{Expr, Mask},
    verify::{Signer, Verifier},
};

/// Pairs of headers by which our own signatures are told; every request is asked for them.
const OWN_MARKS_MAX: usize = 16;

/// Signers that one request is compared with: each costs a hash over its body.
const OWN_SIGNERS_MAX: usize = 64;

/// One configuration, validated and compiled. Made by [`Table::new`].
#[derive(Clone)]
pub struct Table {
    /// Counts configurations since the process started; stored with plans. Set by the app when it activates the table.
    pub generation: u64,
    /// SHA-256 of the effective configuration, hex.
    pub hash: String,
    /// In the order of precedence of the contract.
    pub sources: Vec<Arc<Source>>,
    /// All that match apply.
    pub routes: Vec<Route>,
    /// By name.
    pub upstreams: HashMap<Box<str>, Arc<Upstream>>,
    /// Limits of the front door.
    pub limits: Limits,
    /// What routes and the relay itself publish under; empty at first, see [`Table::declare`].
    pub topics: Vec<Topic>,
    /// Who gets copies of what an upstream answered, by that upstream's name; empty at first.
    pub shadows: HashMap<Box<str>, Vec<Arc<Upstream>>>,
    /// The headers of ids and signatures that our own requests carry, each pair once.
    own_marks: Vec<(HeaderName, HeaderName)>,
    index: Index,
}

/// What a table is made of; the fields are those of [`Table`].
#[expect(missing_docs, reason = "documented at the table")]
pub struct TableParts {
    pub generation: u64,
    pub hash: String,
    pub sources: Vec<Arc<Source>>,
    pub routes: Vec<Route>,
    pub upstreams: HashMap<Box<str>, Arc<Upstream>>,
    pub limits: Limits,
}

/// A source: where requests come in and from whom.
pub struct Source {
    /// Its name.
    pub name: Arc<str>,
    /// Lower case, without port; None takes any.
    pub host: Option<Box<str>>,
    /// Which paths.
    pub pattern: PathPattern,
    /// Which methods; None takes all but TRACE and CONNECT.
    pub methods: Option<Vec<Method>>,
    /// Who checks.
    pub verifier: Verifier,
    /// None: nothing is deduplicated.
    pub dedupe: Option<DedupeRule>,
    /// Where the event type stands.
    pub event_type: Option<KeySelector>,
    /// Types that are counted under their own name; any other is `other`.
    pub types: Vec<Box<str>>,
    /// A batch becomes one event for each item.
    pub split: Option<SplitRule>,
    /// What is asked of bodies, or of items.
    pub schema: Option<SchemaRule>,
    /// In place of the default answer.
    pub reply: Option<Reply>,
    /// Bytes.
    pub max_body: u64,
    /// Safe methods are stored as well as proxied.
    pub record_safe: bool,
    /// Senders wait for an upstream's answer; None: they are answered when the event is durable.
    pub wait: Option<WaitPolicy>,
    /// GET requests may become WebSocket connections; None: never.
    pub upgrade: Option<UpgradePolicy>,
    /// Answers of upstreams are kept for equal requests; None: each request is sent on.
    pub cache: Option<Arc<CachePolicy>>,
    /// How long a sender of a safe method, or one who waits, waits for the upstream.
    pub reply_timeout: Duration,
    /// Requests that the verifier refuses are kept apart for the operator.
    pub quarantine: bool,
    /// What must hold besides the verifier; None: nothing.
    pub guard: Option<Guard>,
    /// What the provider asks before it sends events; None: nothing is a challenge.
    pub challenge: Option<ChallengeRule>,
    /// Where the items of a batch stand.
    pub items: Option<ItemRule>,
    /// How its events are numbered.
    pub numbering: Option<Numbering>,
    /// How many requests it takes; None: any number.
    pub rate: Option<Rate>,
    /// Whose events they are and what each may send; None: nobody is told apart.
    pub tenants: Option<TenantRule>,
    /// When a request is a loop; None: never.
    pub loops: Option<LoopRule>,
}

impl Source {
    /// A source with the defaults of the contract: any method, unverified, nothing deduplicated or kept apart, 10 MiB.
    #[must_use]
    pub fn new(name: &str, pattern: PathPattern) -> Self {
        Self {
            name: name.into(),
            host: None,
            pattern,
            methods: None,
            verifier: Verifier::none(),
            dedupe: None,
            event_type: None,
            types: Vec::new(),
            split: None,
            schema: None,
            reply: None,
            max_body: 10 << 20,
            record_safe: true,
            wait: None,
            upgrade: None,
            cache: None,
            reply_timeout: Duration::from_secs(30),
            quarantine: false,
            guard: None,
            challenge: None,
            items: None,
            numbering: None,
            rate: None,
            tenants: None,
            loops: Some(LoopRule::standard()),
        }
    }
}

/// Where a key or type stands.
#[derive(Clone, Debug)]
pub enum KeySelector {
    /// In a header.
    Header(HeaderName),
    /// By jq.
    Expr(Expr),
    /// The body itself: its SHA-256, hex.
    BodyHash,
    /// All of these, each quoted, so that no two lists look alike; none if one is missing.
    Joined(Vec<KeySelector>),
    /// The first of these that is there.
    FirstOf(Vec<KeySelector>),
    /// The first, or both with a dot between them if the second is there: `TYPE` or `TYPE.ACTION`. A second that is
    /// [`BATCH`](super::BATCH) stands alone.
    Dotted(Box<[KeySelector; 2]>),
    /// The keys of the items of a batch, whatever their order; none if one lacks its key.
    Items(Arc<ItemRule>),
    /// The type that the items of a batch have in common, or [`BATCH`](super::BATCH).
    ItemTypes(Arc<ItemRule>),
    /// The ids of the notifications of a Salesforce message, whatever their order.
    Notifications,
}

/// How a source deduplicates.
#[derive(Clone, Debug)]
pub struct DedupeRule {
    /// Where the key stands.
    pub key: KeySelector,
    /// How long the first acceptance counts.
    pub window: Duration,
    /// What a resend does to a dead delivery.
    pub on_duplicate: OnDuplicate,
}

/// What a resend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDuplicate {
    /// Makes a dead delivery due again.
    Revive,
    /// Nothing.
    Ignore,
    /// Is accepted as an event of its own.
    Accept,
}

/// A route: which events go where, when, changed how.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name (a source's own `to` makes one named after the source).
    pub name: Arc<str>,
    /// None: all sources.
    pub sources: Option<Vec<Box<str>>>,
    /// None: always.
    pub when: Option<Expr>,
    /// None: every type.
    pub types: Option<Types>,
    /// The topic it publishes under: its subscribers get the events as well, see [`Table::subscribe`].
    pub topic: Option<Box<str>>,
    /// Upstream names; empty discards on purpose.
    pub to: Vec<Box<str>>,
    /// The body that is sent.
    pub transform: Option<Expr>,
    /// Headers that are sent.
    pub headers: HeaderEdit,
    /// The path that is sent.
    pub path: PathEdit,
    /// The method that is sent.
    pub method: Option<Method>,
    /// One delivery of a key at a time; None: in no order.
    pub order: Option<Arc<OrderPolicy>>,
    /// How soon first attempts are made.
    pub priority: Priority,
}

impl Route {
    /// A route that takes every event of every source, changes nothing and leads to these upstreams.
    #[must_use]
    pub fn new(name: &str, to: Vec<Box<str>>) -> Self {
        Self {
            name: name.into(),
            sources: None,
            when: None,
            types: None,
            topic: None,
            to,
            transform: None,
            headers: HeaderEdit::default(),
            path: PathEdit::default(),
            method: None,
            order: None,
            priority: Priority::Normal,
        }
    }
}

/// An upstream: where and how events are forwarded.
#[derive(Clone)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Where; the first of several.
    pub target: Target,
    /// If there are several.
    pub targets: Option<Arc<Targets>>,
    /// Added to each request, secrets resolved (values are marked sensitive).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For `https`.
    pub tls: Option<Arc<TlsClient>>,
    /// To the response head.
    pub timeout: Duration,
    /// To the connection.
    pub connect_timeout: Duration,
    /// Between bytes of the answer.
    pub idle_timeout: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
    /// When to pause.
    pub breaker: BreakerPolicy,
    /// Attempts at once, at most.
    pub concurrency: usize,
    /// How fast, besides.
    pub pace: Pace,
    /// Which Host.
    pub host: HostPolicy,
    /// Which path (a route's own edit comes first).
    pub path: PathEdit,
    /// Every refusal is a deferral.
    pub soft_bounce: bool,
    /// Bytes of an answer that is handed back to a sender, or judged.
    pub max_reply: usize,
    /// How its attempts are divided between first attempts, retries and replays.
    pub turns: TurnPolicy,
    /// Several events in one request or one write; None: each goes alone. A file always has one.
    pub batch: Option<BatchPolicy>,
    /// What its failures and answers lead to; None: what the contract says.
    pub answers: Option<AnswerPolicy>,
    /// How requests are signed; None: automatically, see [`RESIGN_AFTER`](super::RESIGN_AFTER).
    pub sign: Option<SignPolicy>,
    /// Whether events become CloudEvents; None: they go as requests.
    pub cloudevents: Option<CloudEvents>,
    /// How long the addresses of its name are good for; zero: for one connection.
    pub dns_refresh: Duration,
    /// Its url is a secret: what is recorded of an attempt says nothing but the host.
    pub hides_url: bool,
    /// Which addresses its name may lead to; None: any.
    pub guard: Option<super::PublicOnly>,
    /// After so long without a success it is disabled; None: never.
    pub disable_after: Option<Duration>,
    /// What its good answers become; None: nothing.
    pub publish: Option<super::PublishPolicy>,
    /// Its dead deliveries are told of; None: they are not.
    pub notify: Option<super::NotifyPolicy>,
    /// It gets copies and no deliveries; None: it is an upstream like any other.
    pub shadow: Option<super::ShadowPolicy>,
}

impl Upstream {
    /// An upstream with the defaults of the contract: no credentials, no TLS, the request's own path and `Host`.
    #[must_use]
    pub fn new(name: &str, target: Target) -> Self {
        Self {
            name: name.into(),
            target,
            targets: None,
            headers: Vec::new(),
            tls: None,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(30),
            retry: RetryPolicy::standard(),
            breaker: BreakerPolicy::standard(),
            concurrency: 64,
            pace: Pace::standard(),
            host: HostPolicy::Preserve,
            path: PathEdit::default(),
            soft_bounce: false,
            max_reply: 1 << 20,
            turns: TurnPolicy::standard(),
            batch: None,
            answers: None,
            sign: None,
            cloudevents: None,
            dns_refresh: Duration::from_secs(30),
            hides_url: false,
            guard: None,
            disable_after: None,
            publish: None,
            notify: None,
            shadow: None,
        }
    }

    /// How it is asked for its permission; None: it is not.
    #[must_use]
    pub fn handshake(&self) -> Option<&Handshake> {
        self.cloudevents.as_ref()?.handshake.as_ref()
    }
}

/// An upstream's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `http://host:port/base`.
    Http(Uri),
    /// `https://host:port/base`.
    Https(Uri),
    /// `unix:/run/app.sock`.
    Unix(PathBuf),
    /// Lines of files; see [`Upstream::batch`].
    File(Arc<FilePolicy>),
    /// Objects of a store; see [`Upstream::batch`].
    Objects(Arc<ObjectPolicy>),
    /// A program that is started for each attempt: its path, and its arguments. It gets the body on standard input.
    Command(Arc<[Box<str>]>),
}

/// TLS towards an upstream, already loaded.
pub struct TlsClient {
    /// Roots, client certificate, ALPN.
    pub config: Arc<rustls::ClientConfig>,
    /// The name to ask for and to check the certificate against; None: the target's host.
    pub server_name: Option<rustls_pki_types::ServerName<'static>>,
}

/// TLS of a listener, already loaded.
pub struct TlsServer {
    /// Certificates by SNI, client CA, ALPN.
    pub config: Arc<rustls::ServerConfig>,
}

/// A listening address. Changes need a restart, its certificates do not.
#[derive(Clone)]
pub enum Listener {
    /// `host:port`.
    Tcp {
        /// The address.
        address: SocketAddr,
        /// None: plain.
        tls: Option<Arc<TlsServer>>,
    },
    /// `unix:/path`.
    Unix(PathBuf),
    /// `systemd:NAME`.
    Systemd {
        /// The socket's `FileDescriptorName`.
        name: String,
        /// None: plain.
        tls: Option<Arc<TlsServer>>,
    },
}

/// Limits of the front door; each has a config key under `[server]`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, all listeners together.
    pub max_connections: usize,
    /// TLS handshake.
    pub handshake_timeout: Duration,
    /// Header block, from the first byte to the last.
    pub header_timeout: Duration,
    /// Header block in bytes.
    pub max_header_bytes: usize,
    /// Silence inside a body.
    pub body_idle_timeout: Duration,
    /// Bytes a second a body must average after the first idle timeout's worth of time.
    pub body_min_rate: u64,
    /// Between requests of a connection.
    pub idle_timeout: Duration,
    /// Bytes of bodies in memory at once, all connections together.
    pub body_memory: u64,
    /// Bytes of spooled bodies at once.
    pub spool_size: u64,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// What is kept of refused requests (`[quarantine]`).
    pub quarantine: QuarantinePolicy,
}

/// What is hidden when stored requests are shown.
#[derive(Clone, Debug, Default)]
pub struct Privacy {
    /// Header names, lower case, besides the built-in list.
    pub hide_headers: Vec<HeaderName>,
    /// Names of parameters in queries, besides the built-in list.
    pub hide_query: Vec<Box<str>>,
    /// What is hidden in bodies.
    pub hide: Vec<Mask>,
}

/// A source found for a request.
#[derive(Clone)]
pub struct Matched {
    /// The source.
    pub source: Arc<Source>,
    /// What its pattern captured.
    pub captures: Vec<(Box<str>, Box<str>)>,
}

impl Table {
    /// Puts the sources in their order and builds the index. Of two sources with the same host and conflicting
    /// patterns (see [`PathPattern::conflicts`]) only the first is ever found: the configuration refuses such a pair.
    #[must_use]
    pub fn new(parts: TableParts) -> Self {
        let TableParts { generation, hash, mut sources, routes, upstreams, limits } = parts;
        sources.sort_by(|one, other| index::precedence(one, other));
        let index = Index::new(&sources);
        let (topics, shadows, own_marks) = (Vec::new(), HashMap::new(), Vec::new());
        let mut table =
            Self { generation, hash, sources, routes, upstreams, limits, topics, shadows, own_marks, index };
        table.note_marks();
        table
    }

    /// Notes by which headers our own signatures are told. To be called when upstreams were added.
    pub(super) fn note_marks(&mut self) {
        let mut marks: Vec<(HeaderName, HeaderName)> = Vec::new();
        for upstream in self.upstreams.values() {
            let Some(SignPolicy::Own(signer)) = &upstream.sign else { continue };
            let Some((id, signature)) = signer.marks() else { continue };
            if marks.len() < OWN_MARKS_MAX && !marks.iter().any(|known| (&known.0, &known.1) == (id, signature)) {
                marks.push((id.clone(), signature.clone()));
            }
        }
        self.own_marks = marks;
    }

    /// The headers of ids and signatures that our own requests carry.
    #[must_use]
    pub fn own_marks(&self) -> &[(HeaderName, HeaderName)] {
        &self.own_marks
    }

    /// Who signs what is sent for events of a source, at most [`OWN_SIGNERS_MAX`].
    pub fn signers(&self, source: &str) -> impl Iterator<Item = &Signer> {
        let routes = self.routes.iter().filter(move |route| route.takes(source));
        let signers = routes.flat_map(|route| &route.to).filter_map(|name| {
            match self.upstreams.get(name).and_then(|upstream| upstream.sign.as_ref()) {
                Some(SignPolicy::Own(signer)) => Some(signer),
                _ => None,
            }
        });
        signers.take(OWN_SIGNERS_MAX)
    }

    /// The source of this name.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&Arc<Source>> {
        self.sources.iter().find(|source| *source.name == *name)
    }

    /// Finds the source for a host (without port, any case) and a path as received: host before no host, exact
    /// before subtree, longer first. The whole order is that of [`PathPattern::precedence`] inside a host.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Lookup<Matched> {
        self.index.find(host, path)
    }
}
