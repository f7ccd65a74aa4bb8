//! A log that does as it is told, an upstream that answers by path, and a front door between them.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hmac::Mac as _;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};

use super::super::*;
use crate::{
    clock::{Clock, ManualClock, Timestamp},
    event::{Event, EventId, Pos, Seq},
    expr::{Evaluator, Expr, Settings},
    jitter::Jitter,
    keys::{Keys, Resolver},
    log::{
        AckLane, Acked, Append, AppendError, Appended, DedupeKey, Done, Entry, Follower, Kind, Log, LogStats, NewEntry,
        ReadError, entry::decode_event,
    },
    routing::{
        DedupeRule, KeySelector, Limits, Live, OnDuplicate, PathPattern, Reply, Source, Table, TableParts, WaitPolicy,
    },
    verify::{Algorithm, Encoding, HmacSettings, Secret, Verifier},
};

pub(super) const MAX_BODY: usize = 1 << 20;
const SECRET: &[u8] = b"a secret of the tests";

/// What the log does with an append.
#[derive(Clone, Copy)]
pub(super) enum Behaviour {
    Accept,
    Refuse(AppendError),
    Hold,
    Duplicate { body_differs: bool },
}

/// Parts, entry and key of an append.
type Recorded = (Vec<NewEntry>, NewEntry, Option<DedupeKey>);

/// A log in memory that records what was appended and answers as told.
pub(super) struct FakeLog {
    behaviour: Mutex<Behaviour>,
    appended: Mutex<Vec<Recorded>>,
    held: Mutex<Vec<(Done, Acked)>>,
    older: Mutex<Result<Option<(EventId, bool)>, ()>>,
    next: AtomicU64,
}

pub(super) fn id(seq: Seq) -> EventId {
    EventId { time: Timestamp::from_millis(1_000_000), pos: Pos { partition: 0, seq } }
}

impl FakeLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            behaviour: Mutex::new(Behaviour::Accept),
            appended: Mutex::default(),
            held: Mutex::default(),
            older: Mutex::new(Ok(None)),
            next: AtomicU64::new(0),
        })
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub(super) fn remember(&self, older: Result<Option<(EventId, bool)>, ()>) {
        *self.older.lock().unwrap() = older;
    }

    pub(super) fn answer_held(&self) {
        Done::answer_all(self.held.lock().unwrap().drain(..));
    }

    pub(super) fn appended(&self) -> usize {
        self.appended.lock().unwrap().len()
    }

    pub(super) fn key(&self, index: usize) -> Option<DedupeKey> {
        self.appended.lock().unwrap()[index].2
    }

    pub(super) fn parts(&self, index: usize) -> Vec<Bytes> {
        self.appended.lock().unwrap()[index].0.iter().map(|part| part.payload.clone()).collect()
    }

    pub(super) fn event(&self, index: usize) -> Event {
        let appended = self.appended.lock().unwrap();
        let (parts, entry, _) = &appended[index];
        assert!(parts.iter().all(|part| part.kind == Kind::Part));
        let id = id(index as Seq);
        let refs = (0..parts.len() as Seq).collect();
        let payload = entry.payload.clone();
        decode_event(&Entry { pos: id.pos, time: id.time, kind: entry.kind, refs, payload }).unwrap()
    }
}

impl Log for FakeLog {
    fn append(&self, append: Append) {
        let Append { parts, entry, dedupe, done, .. } = append;
        let seq = self.next.fetch_add(1, Ordering::SeqCst);
        self.appended.lock().unwrap().push((parts, entry, dedupe));
        match *self.behaviour.lock().unwrap() {
            Behaviour::Accept => done.answer(Ok(Appended::Appended(id(seq)))),
            Behaviour::Refuse(error) => done.answer(Err(error)),
            Behaviour::Hold => self.held.lock().unwrap().push((done, Ok(Appended::Appended(id(seq))))),
            Behaviour::Duplicate { body_differs } => {
                done.answer(Ok(Appended::Duplicate { first: id(0), body_differs }));
            }
        }
    }

    fn append_all(&self, batch: Vec<Append>) {
        batch.into_iter().for_each(|append| self.append(append));
    }

    fn seen(&self, _key: &mut DedupeKey, _now: Timestamp) -> Result<Option<(EventId, bool)>, ReadError> {
        self.older.lock().unwrap().map_err(|()| ReadError::Missing(0))
    }

    fn fingerprint(&self, source: &str, key: &[u8]) -> u128 {
        let fold = |sum: u128, byte: &u8| (sum ^ u128::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        key.iter().fold(source.as_bytes().iter().fold(7, fold), fold)
    }

    fn forget(&self, _fingerprint: u128) {}

    fn read(&self, seq: Seq) -> Result<Entry, ReadError> {
        Err(ReadError::Missing(seq))
    }

    fn scan(&self, _from: Seq, _bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        Ok(Vec::new())
    }

    fn scan_back(&self, _before: Seq) -> Result<Vec<Entry>, ReadError> {
        Ok(Vec::new())
    }

    fn end(&self) -> Seq {
        self.next.load(Ordering::SeqCst)
    }

    fn log_id(&self) -> u128 {
        1
    }

    fn expire(&self, _before: Seq) {}

    fn follow(&self, _follower: Arc<dyn Follower>) {}

    fn stats(&self) -> LogStats {
        LogStats::default()
    }

    fn writable(&self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// An upstream that answers 203, is unreachable or never answers, by the end of the path.
struct FakeProxy;

impl Proxy for FakeProxy {
    fn expect(&self, _: &WaitPolicy, _: Option<u128>) -> Option<Expected> {
        None
    }

    fn first_answer(&self, _: EventId) -> Awaiting {
        Box::pin(std::future::ready(None))
    }

    fn keep(&self, _: EventId, _: Kept) {}

    fn forward(&self, request: SafeRequest) -> Forwarding {
        Box::pin(async move {
            let event = request.event;
            if event.path.ends_with("/unreachable") {
                return Err(ProxyError::Unreachable("connection refused".to_owned()));
            }
            if event.path.ends_with("/late") {
                std::future::pending::<()>().await;
            }
            let body = Full::from(format!("from upstream: {} {}", event.method, event.path));
            let mut response = Response::new(body.map_err(Into::into).boxed());
            *response.status_mut() = StatusCode::NON_AUTHORITATIVE_INFORMATION;
            Ok(response)
        })
    }
}

/// Remembers what was reported.
#[derive(Default)]
struct Reports(Mutex<Vec<(EventId, bool, OnDuplicate)>>);

impl DuplicateSink for Reports {
    fn duplicate(&self, first: EventId, body_differs: bool, on_duplicate: OnDuplicate) {
        self.0.lock().unwrap().push((first, body_differs, on_duplicate));
    }
}

/// A front door with sources for every case.
pub(super) struct Door {
    pub(super) gate: Arc<Gate>,
    pub(super) ingress: Arc<Ingress>,
    pub(super) caller: Arc<Caller>,
    pub(super) log: Arc<FakeLog>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) time: Arc<ManualClock>,
    pub(super) live: Live,
    reports: Arc<Reports>,
    pub(super) quarantine: Arc<Quarantine>,
    spool: tempfile::TempDir,
}

impl Door {
    pub(super) fn open() -> Self {
        Self::with_limits(|_| {})
    }

    /// Call inside a runtime: the lane runs on it.
    pub(super) fn with_limits(change: impl FnOnce(&mut Limits)) -> Self {
        Self::with(change, Timestamp::from_millis(1_000_000), |_, _| None)
    }

    /// With keys from outside, at this time.
    pub(super) fn with_keys(now: Timestamp, keys: impl FnOnce(&Clock, &Arc<Metrics>) -> Keys) -> Self {
        Self::with(|_| {}, now, |clock, metrics| Some(keys(clock, metrics)))
    }

    fn with(
        change: impl FnOnce(&mut Limits),
        now: Timestamp,
        keys: impl FnOnce(&Clock, &Arc<Metrics>) -> Option<Keys>,
    ) -> Self {
        let (log, metrics, reports) = (FakeLog::new(), Arc::new(Metrics::default()), Arc::new(Reports::default()));
        let (clock, time) = Clock::manual(now);
        let (live, spool) = (Live::new(table(sources(), change)), tempfile::tempdir().unwrap());
        let quarantine = Quarantine::open(&spool.path().join("quarantine"), metrics.clone()).unwrap();
        let quarantine = Arc::new(quarantine);
        let ingress = Ingress::open(Setup {
            live: live.clone(),
            log: log.clone(),
            clock: clock.clone(),
            jitter: Jitter::seeded(1),
            evaluator: Evaluator::start(Settings::standard()),
            keys: keys(&clock, &metrics).unwrap_or_else(|| nothing(&clock, &metrics)),
            metrics: metrics.clone(),
            proxy: Arc::new(FakeProxy),
            duplicates: reports.clone(),
            quarantine: quarantine.clone(),
            spool_dir: spool.path().join("spool"),
            sequence_file: spool.path().join("sequences.json"),
            tenant_file: spool.path().join("tenants.json"),
        })
        .unwrap();
        let lane = AckLane::new();
        tokio::spawn(lane.clone().run());
        let gate = Gate::new(ingress.clone(), lane);
        let caller = Arc::new(Caller::new(Some("192.0.2.1:1234".parse().unwrap()), false));
        Self { gate, ingress, caller, log, metrics, clock, time, live, reports, quarantine, spool }
    }

    pub(super) fn reported(&self) -> Vec<(EventId, bool, OnDuplicate)> {
        self.reports.0.lock().unwrap().clone()
    }

    /// Bytes charged for memory and spool.
    pub(super) fn used(&self) -> (u64, u64) {
        (self.ingress.memory.used(), self.ingress.spool_budget.used())
    }

    pub(super) fn spooled_files(&self) -> usize {
        std::fs::read_dir(self.spool.path().join("spool")).unwrap().count()
    }
}

fn nothing(clock: &Clock, metrics: &Arc<Metrics>) -> Keys {
    Keys::new(Arc::new(Resolver), clock.clone(), metrics.clone(), None)
}

/// A body that comes as the test sends it, and ends when the sender is dropped.
pub(super) struct Trickle(tokio::sync::mpsc::Receiver<Bytes>);

impl Trickle {
    pub(super) fn new() -> (tokio::sync::mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        (sender, Self(receiver))
    }
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// The signature that the source `signed` wants.
pub(super) fn signed(body: &[u8]) -> String {
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

pub(super) fn table(sources: Vec<Arc<Source>>, change: impl FnOnce(&mut Limits)) -> Table {
    let mut limits = Limits {
        max_connections: 10,
        handshake_timeout: Duration::from_secs(10),
        header_timeout: Duration::from_secs(10),
        max_header_bytes: 64 << 10,
        body_idle_timeout: Duration::from_secs(30),
        body_min_rate: 1024,
        idle_timeout: Duration::from_secs(75),
        body_memory: 16 << 20,
        spool_size: 16 << 20,
        trusted_proxies: Vec::new(),
        quarantine: crate::routing::QuarantinePolicy {
            max_size: 1 << 20,
            max_body: 64 << 10,
            rate: 20,
            total_rate: 1 << 20,
            unmatched: crate::routing::Unmatched::Refuse,
        },
    };
    change(&mut limits);
    Table::new(TableParts {
        generation: 7,
        hash: "h".to_owned(),
        sources,
        routes: Vec::new(),
        upstreams: HashMap::new(),
        limits,
    })
}

pub(super) fn source(name: &str, path: &str) -> Source {
    Source {
        max_body: MAX_BODY as u64,
        reply_timeout: Duration::from_secs(10),
        ..Source::new(name, PathPattern::parse(path).unwrap())
    }
}

/// The verifier of the source `signed`.
pub(super) fn verifier() -> Verifier {
    let hmac = HmacSettings {
        algorithm: Algorithm::Sha256,
        header: "x-signature".to_owned(),
        encoding: Encoding::Hex,
        prefix: String::new(),
        template: None,
        timestamp: None,
        secrets: vec![Secret::new("env:SECRET", SECRET.to_vec())],
    };
    Verifier::hmac(hmac).unwrap()
}

fn sources() -> Vec<Arc<Source>> {
    let expr = |text| KeySelector::Expr(Expr::compile(text).unwrap());
    let own = Reply {
        status: StatusCode::from_u16(299).unwrap(),
        headers: HeaderMap::from_iter([("x-own".parse().unwrap(), "yes".parse().unwrap())]),
        body: Bytes::from_static(b"thanks"),
    };
    vec![
        Arc::new(source("open", "/open")),
        Arc::new(source("tree", "/tree/*")),
        Arc::new(Source { record_safe: false, ..source("unrecorded", "/unrecorded") }),
        Arc::new(Source { reply: Some(own), ..source("replies", "/replies") }),
        Arc::new(Source { methods: Some(vec![Method::POST]), verifier: verifier(), ..source("signed", "/signed") }),
        Arc::new(Source {
            dedupe: Some(DedupeRule {
                key: expr(".id"),
                window: Duration::from_secs(3_600),
                on_duplicate: OnDuplicate::Revive,
            }),
            event_type: Some(expr(".type")),
            types: vec!["paid".into()],
            ..source("keyed", "/keyed")
        }),
    ]
}
