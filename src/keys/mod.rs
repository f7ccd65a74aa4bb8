//! Owns documents with public keys that stand elsewhere: gets them, keeps them, gets them again in time. Confirms SNS
//! subscriptions, which is the same kind of request.
//!
//! Promises that only a [`Place`](crate::verify::Place) is asked, over TLS, without following redirects, within a time and a size; that one
//! place is asked once at a time, however many requests wait; that what could not be had is an error of ours and never
//! a verdict about the request; that everything here is bounded. A document is used as long as its `Cache-Control`
//! says, within bounds; past that it is used for [`GRACE`] while it is asked for again, so that a provider's outage
//! refuses nobody at once. An unknown key id asks again at most once in [`KID_EVERY`]. Deliberately absent: trust, which
//! is `verify`'s.

mod cache;
mod confirm;
mod fetch;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use confirm::{CONFIRM_WAITS, PENDING_MAX};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use rustls_pki_types::TrustAnchor;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::watch,
};

use self::{
    cache::{Cache, Look},
    confirm::Pending,
};
use crate::{
    clock::Clock,
    telemetry::Metrics,
    verify::{DocumentError, KeyDocument, Wanted},
};

/// How long a document is used past its time while it can't be had anew.
pub const GRACE: Duration = Duration::from_secs(60 * 60);
/// How often an unknown key id may ask for a key set again.
pub const KID_EVERY: Duration = Duration::from_secs(60);
/// How long a failure is the answer for all who ask for the same place.
pub const FAILED_FOR: Duration = Duration::from_secs(10);
/// The least time that a document is used, whatever its `Cache-Control` says.
pub const FRESH_MIN: Duration = Duration::from_secs(5 * 60);
/// How many places that gave no document are remembered.
pub const FAILURES_MAX: usize = 64;
/// How many places without a document are asked in a minute, all senders together: their addresses come from outside.
pub const NEW_PER_MINUTE: u32 = 60;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How documents are got.
#[derive(Clone)]
pub struct Settings {
    /// For the connections; offers HTTP/1.1.
    pub tls: Arc<rustls::ClientConfig>,
    /// Who may have issued signing certificates.
    pub anchors: Arc<[TrustAnchor<'static>]>,
    /// Certificates, in DER form, that may lie between a signing certificate and an anchor. Not trusted for that.
    pub issuers: Arc<[Vec<u8>]>,
    /// For one document, from the look-up of the name to the last byte.
    pub timeout: Duration,
    /// The longest time that a document is used before it is asked for again.
    pub refresh: Duration,
    /// Documents that are kept; the one that was not used for longest goes first.
    pub max_documents: usize,
    /// Documents that are got at once; a request that needs one more is answered 503.
    pub max_fetches: usize,
    /// How long to wait before each try to confirm a subscription; as many tries as there are entries.
    pub confirm_waits: Arc<[Duration]>,
}

/// Opens connections: by the machine's resolver, or by a test's own rule.
pub trait Dial: Send + Sync + 'static {
    /// Connects to a port of a host.
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> Dialled<'a>;
}

/// A connection to come.
pub type Dialled<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// The machine's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolver;

impl Dial for Resolver {
    fn dial<'a>(&'a self, host: &'a str, port: u16) -> Dialled<'a> {
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
            for address in lookup_host((host, port)).await?.take(ADDRESSES_MAX) {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

/// Why a document can't be had. Never the fault of who waits for it. Fit for diagnostics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// No connection, no TLS, no answer.
    #[error("{0} can't be reached: {1}")]
    Unreachable(String, String),
    /// No whole answer in time.
    #[error("{0} did not answer within {1:?}")]
    Late(String, Duration),
    /// Another status than 200; redirects are not followed.
    #[error("{0} answered {1}")]
    Status(String, u16),
    /// What came is of no use.
    #[error("the document at {0} is of no use: {1}")]
    Unusable(String, DocumentError),
    /// Too many are got already.
    #[error("{0} was not asked: too many documents are being got, or were in the last minute")]
    Busy(String),
    /// The configuration fetches nothing.
    #[error("{0} was not asked: no source of the configuration fetches keys")]
    Off(String),
}

/// What came of asking a place.
type Outcome = Result<Arc<KeyDocument>, KeysError>;

/// The documents of the process. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    dial: Arc<dyn Dial>,
    clock: Clock,
    metrics: Arc<Metrics>,
    settings: ArcSwapOption<Settings>,
    cache: Mutex<Cache>,
    pending: Mutex<Pending>,
}

impl Keys {
    /// Nothing is asked before somebody wants it. None: nothing is fetched at all.
    #[must_use]
    pub fn new(dial: Arc<dyn Dial>, clock: Clock, metrics: Arc<Metrics>, settings: Option<Settings>) -> Self {
        Self(Arc::new(Inner {
            dial,
            clock,
            metrics,
            settings: ArcSwapOption::new(settings.map(Arc::new)),
            cache: Mutex::default(),
            pending: Mutex::default(),
        }))
    }

    /// Takes new settings, for what is asked from now on. Documents stay.
    pub fn configure(&self, settings: Option<Settings>) {
        self.0.settings.store(settings.map(Arc::new));
    }

    /// The document, at once if it is kept. Cancel-safe: who stops waiting stops nothing.
    ///
    /// # Errors
    /// [`KeysError`]; the same for everybody who asks within [`FAILED_FOR`].
    pub async fn get(&self, wanted: &Wanted) -> Result<Arc<KeyDocument>, KeysError> {
        let Some(settings) = self.0.settings.load_full() else {
            return Err(KeysError::Off(wanted.place.shown()));
        };
        let look = self.0.cache().look(wanted, self.0.clock.steady(), &settings);
        let mut waiting = match look {
            Look::Ready(outcome) => return outcome,
            Look::Wait(waiting) => waiting,
            Look::Fetch { tell, old: Some(document) } => {
                self.start(wanted, settings, tell);
                return Ok(document);
            }
            Look::Fetch { tell, old: None } => {
                let waiting = tell.subscribe();
                self.start(wanted, settings, tell);
                waiting
            }
        };
        // A task that ends without telling was stopped with its runtime.
        let stopped = || KeysError::Unreachable(wanted.place.shown(), "the process is stopping".to_owned());
        let outcome = waiting.wait_for(Option::is_some).await.map_err(|_closed| stopped())?.clone();
        outcome.unwrap_or_else(|| Err(stopped()))
    }

    /// Gets a document, in a task that ends with the timeout at the latest.
    fn start(&self, wanted: &Wanted, settings: Arc<Settings>, tell: watch::Sender<Option<Outcome>>) {
        let (inner, wanted) = (self.0.clone(), wanted.clone());
        tokio::spawn(async move {
            let got = fetch::document(&wanted, &settings, &*inner.dial, inner.clock.now()).await;
            let counter = if got.is_ok() { &inner.metrics.keys_fetched } else { &inner.metrics.keys_not_fetched };
            counter.inc();
            match &got {
                Ok(_) => tracing::info!(place = wanted.place.shown(), "keys were fetched"),
                Err(error) => tracing::warn!(%error, "keys are unavailable"),
            }
            let (steady, now) = (inner.clock.steady(), inner.clock.now());
            let outcome = inner.cache().settle(&wanted.place, got, steady, now, &settings);
            tell.send_replace(Some(outcome));
        });
    }
}

impl Inner {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
