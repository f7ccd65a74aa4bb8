//! Owns a log in memory for the tests of `state` and `agenda`: entries in a vector, committed at once.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::{
    clock::Timestamp,
    event::{Attempt, Change, EventId, Extras, Job, Outcome, Pos, Scheme, Sent, Seq},
    log::{
        Append, AppendError, Appended, DedupeKey, Entry, Follower, Kind, Log, LogStats, NewEntry, ReadError,
        entry::{
            self, Accepting, Action, Attempted, Command, Planned, PlannedEvent, Registration, SigningSecret,
            StoredSecret,
        },
    },
};

/// A log in memory. Every append is durable at once, under the time that was set last.
#[derive(Default)]
pub(crate) struct TestLog {
    entries: Mutex<Vec<Entry>>,
    follower: Mutex<Option<Arc<dyn Follower>>>,
    time: AtomicU64,
    first: AtomicU64,
    /// So many reads fail as they do when the system does not read, and how many did.
    failing: AtomicU64,
    failed: AtomicU64,
    /// No stretch of it can be read.
    unreadable: std::sync::atomic::AtomicBool,
    /// So many entries of this kind are refused as on a full disk, every second one after a while.
    refusing: Mutex<Option<(Kind, u64)>>,
}

/// Sequence numbers have gaps.
const STRIDE: u64 = 3;

impl TestLog {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Refuses the next entries of a kind, as on a full disk.
    pub(crate) fn refuse(&self, kind: Kind, count: u64) {
        *self.refusing.lock().unwrap() = Some((kind, count));
    }

    pub(crate) fn at(&self, time: Timestamp) {
        self.time.store(time.as_millis(), Ordering::SeqCst);
    }

    /// Appends without telling the follower.
    pub(crate) fn put(&self, kind: Kind, payload: Bytes) -> Seq {
        self.put_with(kind, payload, Vec::new())
    }

    fn put_with(&self, kind: Kind, payload: Bytes, refs: Vec<Seq>) -> Seq {
        let mut entries = self.entries.lock().unwrap();
        let seq = entries.last().map_or(0, |last| last.pos.seq + STRIDE);
        let time = Timestamp::from_millis(self.time.load(Ordering::SeqCst));
        entries.push(Entry { pos: Pos { partition: 0, seq }, time, kind, refs, payload });
        seq
    }

    pub(crate) fn put_all(&self, entries: Vec<NewEntry>) {
        for entry in entries {
            self.put(entry.kind, entry.payload);
        }
    }

    pub(crate) fn accept(&self, source: &str) -> Seq {
        self.put(Kind::Accepted, accepted(source, &Method::POST, b"{}"))
    }

    /// Accepts a request about which the door had something to say.
    pub(crate) fn accept_noticed(&self, source: &str, extras: &Extras) -> Seq {
        self.put(Kind::Accepted, accepting(source, &Method::POST, 2, Some(b"{}"), Some(extras)))
    }

    /// Accepts a request whose body stands in a part of its own.
    pub(crate) fn accept_large(&self, source: &str, body: &'static [u8]) -> Seq {
        let part = self.put(Kind::Part, Bytes::from_static(body));
        self.accept_with_part(source, body.len() as u64, part)
    }

    /// Accepts a request whose body stands (or does not) in that part.
    pub(crate) fn accept_with_part(&self, source: &str, length: u64, part: Seq) -> Seq {
        let payload = accepting(source, &Method::POST, length, None, None);
        let seq = self.put_with(Kind::Accepted, payload, vec![part]);
        let entry = self.all().pop().unwrap();
        if let Some(follower) = &*self.follower.lock().unwrap() {
            follower.committed(vec![entry]);
        }
        seq
    }

    /// The next reads fail for a reason that passes.
    pub(crate) fn fail_reads(&self, count: u64) {
        self.failing.store(count, Ordering::SeqCst);
    }

    /// From now on no stretch of it can be read.
    pub(crate) fn fail_scans(&self) {
        self.unreadable.store(true, Ordering::SeqCst);
    }

    /// How many reads failed.
    pub(crate) fn failed_reads(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    pub(crate) fn plan(&self, event: Seq, upstreams: &[&str]) -> Seq {
        let planned = Planned {
            generation: 1,
            upstreams: upstreams.iter().map(|name| (*name).into()).collect(),
            events: vec![PlannedEvent { event, targets: (0..upstreams.len() as u32).collect(), ignored: false }],
            priorities: vec![],
        };
        self.put(Kind::Planned, entry::encode_planned(&planned))
    }

    pub(crate) fn attempt(&self, event: Seq, upstream: &str, number: u32, change: Change) -> Seq {
        self.put(Kind::Attempted, attempted(event, upstream, number, change))
    }

    /// What the engine writes when a job's attempt is over.
    pub(crate) fn settle(&self, job: &Job, change: Change) -> Seq {
        let settled = Attempted {
            event: job.event.id.pos.seq,
            upstream: (&*job.upstream).into(),
            attempt: Some(attempt(job.number, &change)),
            change,
            previous: job.previous,
            replays: Some(job.replays),
            turn: job.turn.as_deref().cloned(),
        };
        self.put(Kind::Attempted, entry::encode_attempted(&settled))
    }

    pub(crate) fn command(&self, action: Action) -> Seq {
        self.put(Kind::Command, entry::encode_json(&Command::new("uid 0 (root)", action)))
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    /// Another log with only the first so many entries.
    pub(crate) fn cut(&self, entries: usize) -> Arc<Self> {
        let log = Self::new();
        *log.entries.lock().unwrap() = self.all().into_iter().take(entries).collect();
        log
    }
}

/// A subscriber of the topic `orders`.
pub(crate) fn registration(name: &str) -> Registration {
    let secret = StoredSecret::new("literal:whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    Registration {
        topic: "orders".into(),
        name: name.into(),
        url: "https://app.example/hook".into(),
        types: Vec::new(),
        when: None,
        secrets: vec![SigningSecret { secret, until_ms: None }],
        rate: None,
        since_ms: 1_000,
        by: "me".into(),
    }
}

pub(crate) fn accepted(source: &str, method: &Method, body: &'static [u8]) -> Bytes {
    accepting(source, method, body.len() as u64, Some(body), None)
}

fn accepting(
    source: &str,
    method: &Method,
    body_length: u64,
    body: Option<&'static [u8]>,
    extras: Option<&Extras>,
) -> Bytes {
    let body = body.map(|body| [Bytes::from_static(body)]);
    Accepting {
        received_at: Timestamp::from_millis(1),
        source,
        event_type: None,
        method,
        scheme: Scheme::Http,
        path: "/hooks",
        query: None,
        headers: &HeaderMap::new(),
        client: "127.0.0.1",
        proxy: None,
        captures: &[],
        verification_scheme: "none",
        verification_secret: None,
        config_generation: 1,
        dedupe: None,
        extras,
        body: body.as_ref().map(|body| &body[..]),
        body_length,
    }
    .encode()
}

/// An `attempted` entry; number 0 means a change without an attempt.
pub(crate) fn attempted(event: Seq, upstream: &str, number: u32, change: Change) -> Bytes {
    let attempt = (number > 0).then(|| attempt(number, &change));
    let upstream = upstream.into();
    entry::encode_attempted(&Attempted { event, upstream, attempt, change, previous: None, replays: None, turn: None })
}

fn attempt(number: u32, change: &Change) -> Attempt {
    Attempt {
        number,
        at: Timestamp::ZERO,
        outcome: if *change == Change::Delivered { Outcome::Delivered } else { Outcome::Deferred },
        status: Some(503),
        error: None,
        latency_ms: 1,
        excerpt: Bytes::new(),
        sent: Sent { url: "http://127.0.0.1/".into(), sha256: None, signed: None },
    }
}

impl Log for TestLog {
    fn append(&self, append: Append) {
        if let Some((kind, left)) = &mut *self.refusing.lock().unwrap()
            && append.entry.kind == *kind
            && *left > 0
        {
            *left -= 1;
            let refuse = move || append.done.answer(Err(AppendError::Full));
            return if *left % 2 == 0 { drop(std::thread::spawn(refuse)) } else { refuse() };
        }
        let seq = self.put(append.entry.kind, append.entry.payload);
        let entry = self.read(seq).unwrap();
        let id = entry.id();
        if let Some(follower) = &*self.follower.lock().unwrap() {
            follower.committed(vec![entry]);
        }
        append.done.answer(Ok(Appended::Appended(id)));
    }

    fn append_all(&self, batch: Vec<Append>) {
        batch.into_iter().for_each(|append| self.append(append));
    }

    fn seen(&self, _key: &mut DedupeKey, _now: Timestamp) -> Result<Option<(EventId, bool)>, ReadError> {
        Ok(None)
    }

    fn fingerprint(&self, _source: &str, _key: &[u8]) -> u128 {
        0
    }

    fn forget(&self, _fingerprint: u128) {}

    fn read(&self, seq: Seq) -> Result<Entry, ReadError> {
        let one_less = |left: u64| left.checked_sub(1);
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            self.failed.fetch_add(1, Ordering::SeqCst);
            let source = std::io::Error::other("the disk does not answer");
            return Err(ReadError::Io { file: "00000001.seg".into(), source });
        }
        let entries = self.entries.lock().unwrap();
        let found = entries.binary_search_by_key(&seq, |entry| entry.pos.seq).map_err(|_| ReadError::Missing(seq))?;
        Ok(entries[found].clone())
    }

    fn scan(&self, from: Seq, bytes_max: usize) -> Result<Vec<Entry>, ReadError> {
        if self.unreadable.load(Ordering::SeqCst) {
            let source = std::io::Error::other("the disk does not answer");
            return Err(ReadError::Io { file: "00000001.seg".into(), source });
        }
        let from = from.max(self.first.load(Ordering::SeqCst));
        let entries = self.entries.lock().unwrap();
        let start = entries.partition_point(|entry| entry.pos.seq < from);
        let mut bytes = 0;
        let within = entries[start..].iter().take_while(|entry| {
            let fits = bytes == 0 || bytes + entry.payload.len() <= bytes_max;
            bytes += entry.payload.len();
            fits
        });
        Ok(within.cloned().collect())
    }

    fn scan_back(&self, before: Seq) -> Result<Vec<Entry>, ReadError> {
        Ok(self.all().into_iter().filter(|entry| entry.pos.seq < before).collect())
    }

    fn end(&self) -> Seq {
        self.entries.lock().unwrap().last().map_or(0, |last| last.pos.seq + 1)
    }

    fn log_id(&self) -> u128 {
        7
    }

    fn expire(&self, before: Seq) {
        self.first.store(before, Ordering::SeqCst);
        self.entries.lock().unwrap().retain(|entry| entry.pos.seq >= before);
    }

    fn follow(&self, follower: Arc<dyn Follower>) {
        *self.follower.lock().unwrap() = Some(follower);
    }

    fn stats(&self) -> LogStats {
        LogStats { first_seq: self.first.load(Ordering::SeqCst), next_seq: self.end(), ..LogStats::default() }
    }

    fn writable(&self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// A job that has nothing to do yet.
pub(crate) fn empty_job() -> crate::state::Job {
    let spec = crate::log::entry::JobSpec {
        filters: "{}".into(),
        to: None,
        new_key: false,
        original: false,
        interval_us: None,
        first: 1,
        before: 1,
    };
    crate::state::Job {
        id: 1,
        actor: "me".into(),
        started_at: Timestamp::ZERO,
        spec,
        progress: Default::default(),
        ended: None,
        stored_at: 1,
    }
}
