//! Owns the settings of the layers that have no settings type of their own: plain, validated values.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{files::Pattern, problem::Problem, subscribers::SubscribersSettings, tls::Certificates};
use crate::{
    alert, keys,
    routing::{Listener, Privacy, Table, Upstream},
    verify::Secret,
};

/// A configuration as loaded: the values, what to warn about, and what to watch.
pub struct Loaded {
    /// The settings that stay with the app and are compared on reload.
    pub config: Config,
    /// The routing table, to be put into [`crate::routing::Live`]. Its generation is 0.
    pub table: Table,
    /// Doubtful, not wrong.
    pub warnings: Vec<Problem>,
    /// Every file that was read: configuration, includes, certificates, keys, `file:` secrets.
    pub files: Vec<PathBuf>,
    /// The patterns of `include`: what else is a file of the configuration once it is there.
    pub patterns: Vec<Pattern>,
}

/// The settings of every layer but routing.
pub struct Config {
    /// In the order they stand; at least one.
    pub listen: Vec<ListenSettings>,
    /// `[store]`.
    pub store: StoreSettings,
    /// `[admin]`.
    pub admin: AdminSettings,
    /// `[diagnostics]`.
    pub diagnostics: DiagnosticsSettings,
    /// How to stop.
    pub shutdown: ShutdownSettings,
    /// `[privacy]`.
    pub privacy: Privacy,
    /// `[subscribers]`.
    pub subscribers: SubscribersSettings,
    /// `[keys]`; None if no source fetches keys.
    pub keys: Option<keys::Settings>,
    /// `[alerts]`.
    pub alerts: AlertSettings,
    /// `[traces]`; None: nothing is traced.
    pub traces: Option<TraceSettings>,
    /// SHA-256 of the effective configuration, hex.
    pub hash: String,
    pub(super) printed: String,
    pub(super) values: BTreeMap<String, String>,
}

/// A listening address.
#[derive(Clone)]
pub struct ListenSettings {
    /// As configured: `0.0.0.0:8443`, `unix:/path`, `systemd:NAME`.
    pub address: String,
    /// Ready to listen on.
    pub listener: Listener,
    /// The certificates in use, renewed by reload; None without TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Whether clients are asked for a certificate.
    pub client_ca: bool,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// What of its TLS can't change while it listens.
    pub(super) fixed: String,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The data directory.
    pub path: PathBuf,
    /// Counts from the last settlement.
    pub retention: Duration,
    /// The same for dead deliveries.
    pub dead_retention: Duration,
    /// Bytes of the whole store.
    pub max_size: u64,
    /// What happens at `max_size`.
    pub when_full: WhenFull,
    /// Bytes of disk that stay free for settlements and commands.
    pub reserve: u64,
    /// Bytes after which a segment is sealed.
    pub segment_bytes: u64,
    /// Small events that may wait for the next commit.
    pub queue_events: usize,
    /// Bytes of events that may wait for the next commit.
    pub queue_bytes: u64,
}

/// What happens when the store has reached its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest settled segments go first, even before their retention.
    Reclaim,
    /// New events are answered 503.
    Refuse,
}

/// `[admin]`.
#[derive(Clone)]
pub struct AdminSettings {
    /// What the CLI talks to; mode 0660.
    pub socket: PathBuf,
    /// Its group; None: the process's own.
    pub socket_group: Option<String>,
    /// Page, API, metrics, health; None: not served over TCP.
    pub address: Option<SocketAddr>,
    /// First attempts of an upstream may wait so long before jobs to it pause.
    pub job_lag: Duration,
    /// TLS of that address; None: plain.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The certificates in use, renewed by reload.
    pub(super) certificates: Option<Arc<Certificates>>,
    /// So many wrong tokens a client may show in this time.
    pub failed_logins: (u64, Duration),
    /// A session of the web page ends so long after its last use.
    pub session_timeout: Duration,
    /// Who may do what there.
    pub tokens: Vec<TokenSettings>,
}

/// `[admin.token.NAME]`.
#[derive(Clone)]
pub struct TokenSettings {
    /// Its name, as the audit trail shows it.
    pub name: String,
    /// What it may do.
    pub role: TokenRole,
    /// What is sent.
    pub secret: Secret,
    /// Only events of these; None: of all.
    pub sources: Option<Vec<Box<str>>>,
    /// Only deliveries to these; None: to all.
    pub upstreams: Option<Vec<Box<str>>>,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// See everything but credentials.
    View,
    /// Everything.
    Operate,
}

/// `[diagnostics]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiagnosticsSettings {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// How lines are written.
    pub format: Format,
    /// Which requests get a line.
    pub access: Access,
}

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Which requests get a line of diagnostics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// None.
    Off,
    /// The refused.
    Refused,
    /// Each.
    All,
}

/// `[alerts]`, without the destinations, which are upstreams.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertSettings {
    /// How often figures are looked at.
    pub every: Duration,
    /// The rules.
    pub engine: alert::Settings,
}

/// `[traces]`.
#[derive(Clone)]
pub struct TraceSettings {
    /// Where spans go, with credentials.
    pub collector: Arc<Upstream>,
    /// The share of the traces that are begun here, 0 to 1.
    pub sample: f64,
    /// Spans that may wait.
    pub queue: usize,
}

/// How the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// Between the failing readiness and the closing of the listeners.
    pub delay: Duration,
    /// How long begun requests may take after that.
    pub timeout: Duration,
}
