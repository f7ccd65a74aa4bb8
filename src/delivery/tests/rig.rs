//! Owns what the tests of the engine work with: a log that records, signals that record, upstreams that follow a
//! script. Nothing here sleeps; everything waits for a condition.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};

use crate::{
    clock::{Clock, Timestamp},
    delivery::{Deps, Engine, Resolve, Signals, System},
    event::{Body, Event, EventId, Job, Pos, Scheme, Seq, Verification},
    expr::Evaluator,
    jitter::Jitter,
    log::{
        Append, AppendError, Appended, DedupeKey, Entry, Follower, Kind, Log, LogStats, ReadError,
        entry::{Attempted, decode_attempted},
    },
    routing::{
        BreakerPolicy, CLOUDEVENT_TYPE, CloudEvents, CloudEventsMode, Handshake, Limits, Live, RetryPolicy, Route,
        Schedule, Table, TableParts, Target, Upstream,
    },
    telemetry::Metrics,
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the value in a watch channel satisfies the condition.
async fn until<T: Clone>(receiver: &watch::Receiver<T>, condition: impl FnMut(&T) -> bool) -> T {
    let mut receiver = receiver.clone();
    let seen = tokio::time::timeout(PATIENCE, receiver.wait_for(condition)).await;
    seen.expect("the condition was never met").expect("the sender lives").clone()
}

/// A log that keeps `attempted` entries, and parts that the test put there.
pub(crate) struct FakeLog {
    next: AtomicU64,
    attempted: watch::Sender<Vec<(Seq, Attempted)>>,
    pub(crate) parts: Mutex<HashMap<Seq, Bytes>>,
    /// What the next appends are answered instead of being done.
    pub(crate) refusals: Mutex<Vec<AppendError>>,
}

impl FakeLog {
    pub(crate) async fn wait(&self, count: usize) -> Vec<Attempted> {
        let all = until(&self.attempted.subscribe(), |all| all.len() >= count).await;
        all.into_iter().map(|(_, attempted)| attempted).collect()
    }

    pub(crate) fn seqs(&self) -> Vec<Seq> {
        self.attempted.borrow().iter().map(|(seq, _)| *seq).collect()
    }
}

impl Log for FakeLog {
    fn append(&self, append: Append) {
        if let Some(refusal) = self.refusals.lock().unwrap().pop() {
            return append.done.answer(Err(refusal));
        }
        let seq = self.next.fetch_add(1, Ordering::SeqCst);
        let attempted = decode_attempted(&append.entry.payload).unwrap();
        let pos = Pos { partition: 0, seq };
        append.done.answer(Ok(Appended::Appended(EventId { time: append.time, pos })));
        self.attempted.send_modify(|all| all.push((seq, attempted)));
    }
    fn append_all(&self, batch: Vec<Append>) {
        batch.into_iter().for_each(|append| self.append(append));
    }
    fn seen(&self, _: &mut DedupeKey, _: Timestamp) -> Result<Option<(EventId, bool)>, ReadError> {
        Ok(None)
    }
    fn fingerprint(&self, _: &str, _: &[u8]) -> u128 {
        0
    }
    fn forget(&self, _: u128) {}
    fn read(&self, seq: Seq) -> Result<Entry, ReadError> {
        let payload = self.parts.lock().unwrap().get(&seq).cloned().ok_or(ReadError::Missing(seq))?;
        Ok(Entry { pos: Pos { partition: 0, seq }, time: Timestamp::ZERO, kind: Kind::Part, refs: Vec::new(), payload })
    }
    fn scan(&self, _: Seq, _: usize) -> Result<Vec<Entry>, ReadError> {
        Ok(Vec::new())
    }
    fn scan_back(&self, _: Seq) -> Result<Vec<Entry>, ReadError> {
        Ok(Vec::new())
    }
    fn end(&self) -> Seq {
        self.next.load(Ordering::SeqCst)
    }
    fn log_id(&self) -> u128 {
        0
    }
    fn expire(&self, _: Seq) {}
    fn follow(&self, _: Arc<dyn Follower>) {}
    fn stats(&self) -> LogStats {
        LogStats::default()
    }
    fn writable(&self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// What the engine said, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Window(String, usize),
    Returned(Seq, String),
    Paused(String, bool),
}

pub(crate) struct FakeSignals(watch::Sender<Vec<Said>>);

impl FakeSignals {
    pub(crate) async fn wait(&self, expected: &Said) -> Vec<Said> {
        until(&self.0.subscribe(), |said| said.contains(expected)).await
    }

    pub(crate) fn clear(&self) {
        self.0.send_modify(Vec::clear);
    }

    pub(crate) fn said(&self) -> Vec<Said> {
        self.0.borrow().clone()
    }
}

impl Signals for FakeSignals {
    fn window(&self, upstream: &str, window: usize) {
        self.0.send_modify(|said| said.push(Said::Window(upstream.into(), window)));
    }
    fn returned(&self, event: Seq, upstream: &str) {
        self.0.send_modify(|said| said.push(Said::Returned(event, upstream.into())));
    }
    fn paused(&self, upstream: &str, paused: bool) {
        self.0.send_modify(|said| said.push(Said::Paused(upstream.into(), paused)));
    }
}

/// An engine on the test's own runtime.
pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) log: Arc<FakeLog>,
    pub(crate) signals: Arc<FakeSignals>,
    pub(crate) live: Live,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
}

pub(crate) fn rig(upstreams: Vec<Upstream>, routes: Vec<Route>) -> Rig {
    rig_on(&[tokio::runtime::Handle::current()], upstreams, routes)
}

/// An engine on shards of its own.
pub(crate) fn rig_on(shards: &[tokio::runtime::Handle], upstreams: Vec<Upstream>, routes: Vec<Route>) -> Rig {
    rig_with((shards, Clock::system()), Arc::new(System), upstreams, routes)
}

/// An engine with a clock and a resolver of the test's own.
pub(crate) fn rig_with(
    (shards, clock): (&[tokio::runtime::Handle], Clock),
    resolver: Arc<dyn Resolve>,
    upstreams: Vec<Upstream>,
    routes: Vec<Route>,
) -> Rig {
    let log = Arc::new(FakeLog {
        next: AtomicU64::new(1_000_000),
        attempted: watch::Sender::new(Vec::new()),
        parts: Mutex::default(),
        refusals: Mutex::default(),
    });
    let signals = Arc::new(FakeSignals(watch::Sender::new(Vec::new())));
    let live = Live::new(table(upstreams, routes));
    let metrics = Arc::<Metrics>::default();
    let deps = Deps {
        clock: clock.clone(),
        jitter: Jitter::none(),
        log: log.clone(),
        live: live.clone(),
        evaluator: evaluator(),
        resolver,
        metrics: metrics.clone(),
        signals: signals.clone(),
        node: "test".into(),
    };
    let engine = Engine::start(deps, shards);
    Rig { engine, log, signals, live, clock, metrics }
}

/// Evaluates inline what can be; its pool has no program to run.
pub(crate) fn evaluator() -> Evaluator {
    let program = Some("/nonexistent/stagepost".into());
    Evaluator::start(crate::expr::Settings { program, ..crate::expr::Settings::standard() })
}

impl Rig {
    pub(crate) fn job(&self, seq: Seq, upstream: &str) -> Job {
        job(Arc::new(event(seq)), upstream, self.clock.steady())
    }

    pub(crate) fn dispatch(&self, seqs: impl IntoIterator<Item = Seq>, upstream: &str) {
        seqs.into_iter().for_each(|seq| self.engine.dispatch(self.job(seq, upstream)));
    }
}

pub(crate) fn job(event: Arc<Event>, upstream: &str, planned_at: Timestamp) -> Job {
    Job {
        event,
        upstream: upstream.into(),
        number: 1,
        replays: 0,
        new_keys: 0,
        original: false,
        planned_at,
        paused: Duration::ZERO,
        previous: None,
        turn: None,
    }
}

/// A stored event: `POST /hooks/app?x=1%202`.
pub(crate) fn event(seq: Seq) -> Event {
    let mut headers = HeaderMap::new();
    for (name, value) in [("host", "public.example"), ("content-type", "text/plain"), ("x-kind", "one")] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Event {
        id: EventId { time: Timestamp::from_millis(1_767_323_045_678), pos: Pos { partition: 0, seq } },
        received_at: Timestamp::from_millis(1_767_323_045_678),
        source: "app".into(),
        event_type: None,
        method: Method::POST,
        scheme: Scheme::Https,
        path: "/hooks/app".into(),
        query: Some("x=1%202".into()),
        headers,
        client: "192.0.2.7".into(),
        proxy: None,
        captures: Vec::new(),
        verification: Verification { scheme: "none".into(), secret: None },
        config_generation: 1,
        dedupe: None,
        extras: None,
        body: Body::Inline(Bytes::from_static(b"{\"a\":1}")),
    }
}

/// An upstream that gives up patience early, for tests of failures.
pub(crate) fn upstream(name: &str, target: Target) -> Upstream {
    Upstream {
        timeout: PATIENCE,
        connect_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        retry: RetryPolicy {
            schedule: Schedule::Steps(vec![Duration::from_secs(7)]),
            jitter: 0.0,
            give_up_after: Some(Duration::from_secs(3600)),
            retry_after_max: Duration::from_secs(3600),
        },
        breaker: BreakerPolicy { failures: 5, error_rate: None, cool_down: Duration::from_secs(3600) },
        concurrency: 8,
        ..Upstream::new(name, target)
    }
}

/// What an upstream that gets CloudEvents in binary mode has.
pub(crate) fn cloudevents(handshake: Option<Handshake>) -> CloudEvents {
    CloudEvents {
        mode: CloudEventsMode::Binary,
        source: None,
        default_type: CLOUDEVENT_TYPE.into(),
        subject: None,
        handshake,
    }
}

pub(crate) fn table(upstreams: Vec<Upstream>, routes: Vec<Route>) -> Table {
    Table::new(TableParts {
        generation: 1,
        hash: String::new(),
        sources: Vec::new(),
        routes,
        upstreams: upstreams.into_iter().map(|upstream| ((&*upstream.name).into(), Arc::new(upstream))).collect(),
        limits: Limits {
            max_connections: 1,
            handshake_timeout: PATIENCE,
            header_timeout: PATIENCE,
            max_header_bytes: 1,
            body_idle_timeout: PATIENCE,
            body_min_rate: 1,
            idle_timeout: PATIENCE,
            body_memory: 1,
            spool_size: 1,
            trusted_proxies: Vec::new(),
            quarantine: crate::routing::QuarantinePolicy {
                max_size: 1 << 20,
                max_body: 64 << 10,
                rate: 20,
                total_rate: 1 << 20,
                unmatched: crate::routing::Unmatched::Refuse,
            },
        },
    })
}

/// What a scripted upstream does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Writes these bytes and waits for the next request.
    Say(String),
    /// Closes without a word.
    Close,
    /// Writes these bytes and then nothing, for ever.
    SayAndHang(String),
    /// Writes these bytes and then body bytes without end.
    SayWithoutEnd(String),
}

pub(crate) fn say(status: &str, headers: &str, body: &str) -> Act {
    Act::Say(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
}

pub(crate) fn ok() -> Act {
    say("200 OK", "", "fine")
}

/// A peer that follows a script: the last act repeats.
pub(crate) struct Peer {
    pub(crate) target: Target,
    requests: watch::Sender<Vec<String>>,
    connections: Arc<AtomicU64>,
}

impl Peer {
    pub(crate) async fn requests(&self, count: usize) -> Vec<String> {
        until(&self.requests.subscribe(), |all| all.len() >= count).await
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Starts a scripted peer. `acts` are shared by all of its connections, in order of requests.
pub(crate) async fn peer(acts: Vec<Act>) -> Peer {
    peer_at("127.0.0.1:0", acts).await.unwrap()
}

/// The same, where the test wants it.
pub(crate) async fn peer_at(address: &str, acts: Vec<Act>) -> std::io::Result<Peer> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr().unwrap();
    let peer = Peer {
        target: Target::Http(format!("http://{address}/").parse().unwrap()),
        requests: watch::Sender::new(Vec::new()),
        connections: Arc::default(),
    };
    let (requests, connections) = (peer.requests.clone(), peer.connections.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream, acts.clone(), requests.clone()));
        }
    });
    Ok(peer)
}

/// Follows the script on one connection.
pub(crate) async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    acts: Vec<Act>,
    requests: watch::Sender<Vec<String>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let mut number = 0;
        requests.send_modify(|all| {
            number = all.len();
            all.push(request);
        });
        let act = acts.get(number).or(acts.last()).cloned().unwrap();
        let (text, then) = match &act {
            Act::Say(text) | Act::SayAndHang(text) | Act::SayWithoutEnd(text) => (&**text, &act),
            Act::Close => ("", &act),
        };
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        match then {
            Act::Say(_) => {}
            Act::Close => return,
            Act::SayAndHang(_) => std::future::pending().await,
            Act::SayWithoutEnd(_) => while stream.write_all(&[b'x'; 8192]).await.is_ok() {},
        }
    }
}

/// One request with a declared length; head and body as text.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}
