//! Owns the answers of upstreams that are kept for equal requests, in memory, for each source apart.
//!
//! Promises: all answers of a source, and those that are being recorded, take at most its `max_size`; the one that was
//! asked for longest ago goes first. A key is being asked for once: whoever else wants it can wait for that. What is kept
//! has come to its end and is given out only until its time is over, to requests that are equal in every header that the
//! answer says it varies by. Deliberately absent: what the key is (that is `cached`), disk.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::watch;

use super::{proxy::Passed, reply::ReplyBody};
use crate::{
    clock::{Clock, Timestamp},
    event::EventId,
    routing::CachePolicy,
    telemetry::CacheMetrics,
};

/// What a kept answer takes besides its body and headers, in bytes: its places in the indexes.
const ENTRY_BYTES: u64 = 512;
/// What a header takes besides its name and value, in bytes.
const HEADER_BYTES: u64 = 64;

/// SHA-256 of what makes two requests equal.
pub(super) type Key = [u8; 32];

/// The caches of all sources; they outlive reloads that leave their key alone.
#[derive(Default)]
pub(super) struct Caches(Mutex<HashMap<Box<str>, Arc<Cache>>>);

/// The kept answers of one source.
pub(super) struct Cache {
    key: Box<str>,
    clock: Clock,
    metrics: Arc<CacheMetrics>,
    inner: Mutex<Inner>,
}

struct Inner {
    ttl: Duration,
    bytes_max: u64,
    entry_bytes_max: u64,
    kept: HashMap<Key, Kept>,
    by_use: BTreeMap<u64, Key>,
    by_end: BTreeMap<(Timestamp, u64), Key>,
    asked_for: HashMap<Key, watch::Receiver<()>>,
    /// Of what is kept or being recorded.
    bytes: u64,
    turn: u64,
}

struct Kept {
    answer: Arc<Known>,
    bytes: u64,
    /// The turn in which it was last asked for.
    used: u64,
    /// Its place in the order of ends.
    end: (Timestamp, u64),
}

/// An answer that is kept.
pub(super) struct Known {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whose answer it was; None if that event is not stored.
    pub(super) event: Option<EventId>,
    /// What the request must have as well.
    vary: Vec<(HeaderName, Vec<HeaderValue>)>,
    /// Steady time.
    since: Timestamp,
    until: Timestamp,
}

/// What a look found.
pub(super) enum Found {
    Kept(Arc<Known>),
    /// Somebody asks the upstream already: closed when that is over.
    Asked(watch::Receiver<()>),
    Nothing(Flight),
}

/// Somebody is about to ask the upstream; over when it is dropped.
pub(super) struct Flight {
    cache: Arc<Cache>,
    key: Key,
    /// Others wait for it.
    leads: Option<watch::Sender<()>>,
}

/// Counts as waiting until it is dropped.
pub(super) struct Waiting(Arc<CacheMetrics>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.add(-1);
    }
}

impl Caches {
    /// The cache of a source. A key that has changed begins anew; new limits hold at once.
    pub(super) fn of(
        &self,
        source: &str,
        policy: &CachePolicy,
        clock: &Clock,
        metrics: &Arc<CacheMetrics>,
    ) -> Arc<Cache> {
        let mut caches = lock(&self.0);
        if let Some(cache) = caches.get(source).filter(|cache| *cache.key == *policy.key.text()) {
            cache.adopt(policy);
            return cache.clone();
        }
        let inner = Inner {
            ttl: policy.ttl,
            bytes_max: policy.max_bytes,
            entry_bytes_max: policy.max_entry_bytes,
            kept: HashMap::new(),
            by_use: BTreeMap::new(),
            by_end: BTreeMap::new(),
            asked_for: HashMap::new(),
            bytes: 0,
            turn: 0,
        };
        let (key, metrics) = (policy.key.text().into(), metrics.clone());
        metrics.bytes.set(0);
        metrics.entries.set(0);
        let cache = Arc::new(Cache { key, clock: clock.clone(), metrics, inner: Mutex::new(inner) });
        caches.insert(source.into(), cache.clone());
        cache
    }

    /// Forgets the caches of sources that have none any more.
    pub(super) fn keep(&self, mut has_one: impl FnMut(&str) -> bool) {
        lock(&self.0).retain(|source, cache| {
            let stays = has_one(source);
            if !stays {
                cache.metrics.bytes.set(0);
                cache.metrics.entries.set(0);
            }
            stays
        });
    }
}

impl Cache {
    /// Looks for an answer. Who finds nothing asks the upstream, and is known to do so.
    pub(super) fn look(self: &Arc<Self>, key: Key, request: &HeaderMap) -> Found {
        let mut inner = lock(&self.inner);
        if let Some(known) = inner.find(&key, request, self.clock.steady()) {
            return Found::Kept(known);
        }
        if let Some(over) = inner.asked_for.get(&key) {
            return Found::Asked(over.clone());
        }
        let (leads, over) = watch::channel(());
        inner.asked_for.insert(key, over);
        Found::Nothing(Flight { cache: self.clone(), key, leads: Some(leads) })
    }

    /// Looks once more, after waiting. Who finds nothing now asks the upstream without anybody waiting for it.
    pub(super) fn look_again(self: &Arc<Self>, key: Key, request: &HeaderMap) -> Result<Arc<Known>, Flight> {
        let found = lock(&self.inner).find(&key, request, self.clock.steady());
        found.ok_or_else(|| Flight { cache: self.clone(), key, leads: None })
    }

    /// Somebody waits for what is asked for, until this is dropped.
    pub(super) fn waits(&self) -> Waiting {
        self.metrics.waiting.add(1);
        Waiting(self.metrics.clone())
    }

    /// How long ago the answer was given.
    pub(super) fn age(&self, known: &Known) -> Duration {
        self.clock.steady().since(known.since)
    }

    fn adopt(&self, policy: &CachePolicy) {
        let mut inner = lock(&self.inner);
        (inner.ttl, inner.bytes_max, inner.entry_bytes_max) = (policy.ttl, policy.max_bytes, policy.max_entry_bytes);
        let evicted = inner.make_room(0);
        self.told(&inner, evicted);
    }

    /// Takes room for a piece of an answer. False if there is none, whatever is evicted.
    fn grow(&self, bytes: u64) -> bool {
        let mut inner = lock(&self.inner);
        let evicted = inner.make_room(bytes);
        let fits = inner.bytes.saturating_add(bytes) <= inner.bytes_max;
        if fits {
            inner.bytes += bytes;
        }
        self.told(&inner, evicted);
        fits
    }

    fn give_back(&self, bytes: u64) {
        let mut inner = lock(&self.inner);
        inner.bytes = inner.bytes.saturating_sub(bytes);
        self.told(&inner, 0);
    }

    /// Keeps an answer whose room was taken.
    fn keep(&self, key: Key, draft: &mut Draft) {
        let now = self.clock.steady();
        let mut inner = lock(&self.inner);
        inner.end_all(now);
        inner.remove(&key);
        let bytes = std::mem::take(&mut draft.taken);
        let answer = Arc::new(Known {
            status: draft.status,
            headers: std::mem::take(&mut draft.headers),
            body: std::mem::take(&mut draft.body).freeze(),
            event: draft.event,
            vary: std::mem::take(&mut draft.vary),
            since: now,
            until: now.after(inner.ttl),
        });
        let used = inner.next_turn();
        let end = (answer.until, used);
        inner.by_use.insert(used, key);
        inner.by_end.insert(end, key);
        inner.kept.insert(key, Kept { answer, bytes, used, end });
        self.told(&inner, 0);
    }

    fn told(&self, inner: &Inner, evicted: u64) {
        self.metrics.evictions.add(evicted);
        self.metrics.bytes.set(i64::try_from(inner.bytes).unwrap_or(i64::MAX));
        self.metrics.entries.set(i64::try_from(inner.kept.len()).unwrap_or(i64::MAX));
    }
}

impl Inner {
    fn find(&mut self, key: &Key, request: &HeaderMap, now: Timestamp) -> Option<Arc<Known>> {
        let used = self.next_turn();
        let kept = self.kept.get_mut(key)?;
        let known = kept.answer.clone();
        if now >= known.until {
            self.remove(key);
            return None;
        }
        if !known.vary.iter().all(|(name, values)| request.get_all(name).iter().eq(values)) {
            return None;
        }
        let before = std::mem::replace(&mut kept.used, used);
        self.by_use.remove(&before);
        self.by_use.insert(used, *key);
        Some(known)
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.by_use.remove(&kept.used);
            self.by_end.remove(&kept.end);
            self.bytes = self.bytes.saturating_sub(kept.bytes);
        }
    }

    /// Lets go of what is over.
    fn end_all(&mut self, now: Timestamp) {
        while let Some((&(until, _), &key)) = self.by_end.first_key_value()
            && now >= until
        {
            self.remove(&key);
        }
    }

    /// Lets go of what was asked for longest ago until so many bytes fit. Gives how many answers that took.
    fn make_room(&mut self, bytes: u64) -> u64 {
        let mut evicted = 0;
        while self.bytes.saturating_add(bytes) > self.bytes_max
            && let Some((_, &key)) = self.by_use.first_key_value()
        {
            self.remove(&key);
            evicted += 1;
        }
        evicted
    }
}

impl Flight {
    /// Passes an answer on and keeps it when it has come to its end, if it is one to be kept.
    pub(super) fn record(
        self,
        answer: Response<Passed>,
        request: &HeaderMap,
        event: Option<EventId>,
    ) -> Response<ReplyBody> {
        let vary = vary(answer.headers(), request);
        let is_too_long =
            answer.body().size_hint().exact().is_some_and(|length| length > lock(&self.cache.inner).entry_bytes_max);
        let (true, Some(vary), false) = (is_to_be_kept(&answer), vary, is_too_long) else {
            self.cache.metrics.not_kept.inc();
            return answer.map(ReplyBody::passed);
        };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let draft = Draft { flight: self, status, headers, vary, event, body: BytesMut::new(), taken: 0 };
        answer.map(|body| ReplyBody::passed(Recording::new(body, draft).boxed()))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.leads.is_some() {
            lock(&self.cache.inner).asked_for.remove(&self.key);
        }
    }
}

/// Whether an answer is one for others as well: a whole 2xx that does not say otherwise and hands out no cookie.
fn is_to_be_kept(answer: &Response<Passed>) -> bool {
    let headers = answer.headers();
    let directives = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut words =
        directives.flat_map(|value| value.split(',')).map(|word| word.split('=').next().unwrap_or("").trim());
    let is_private = words.any(|word| ["no-store", "private"].iter().any(|not| word.eq_ignore_ascii_case(not)));
    answer.status().is_success()
        && answer.status() != StatusCode::PARTIAL_CONTENT
        && !is_private
        && !headers.contains_key(header::SET_COOKIE)
}

/// The request's headers that the answer varies by, with their values. None if it varies by more than headers.
fn vary(answer: &HeaderMap, request: &HeaderMap) -> Option<Vec<(HeaderName, Vec<HeaderValue>)>> {
    let mut named = Vec::new();
    for value in answer.get_all(header::VARY) {
        for name in value.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name != "*")?;
            let values = request.get_all(&name).iter().cloned().collect();
            named.push((name, values));
        }
    }
    Some(named)
}

/// An answer that is being passed on, as far as it has come.
struct Draft {
    flight: Flight,
    status: StatusCode,
    headers: HeaderMap,
    vary: Vec<(HeaderName, Vec<HeaderValue>)>,
    event: Option<EventId>,
    body: BytesMut,
    /// Room that it has in the cache, in bytes.
    taken: u64,
}

impl Draft {
    /// Takes what an answer needs besides its body.
    fn begin(&mut self) -> bool {
        let fields = self.headers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64 + HEADER_BYTES);
        let varied = self.vary.iter().flat_map(|(_, values)| values);
        let varied = varied.map(|value| value.len() as u64 + HEADER_BYTES);
        let bytes = ENTRY_BYTES + fields.chain(varied).sum::<u64>();
        self.take(bytes)
    }

    fn add(&mut self, piece: &Bytes) -> bool {
        let longest = lock(&self.flight.cache.inner).entry_bytes_max;
        let fits = (self.body.len() + piece.len()) as u64 <= longest && self.take(piece.len() as u64);
        if fits {
            self.body.extend_from_slice(piece);
        }
        fits
    }

    fn take(&mut self, bytes: u64) -> bool {
        let fits = self.flight.cache.grow(bytes);
        if fits {
            self.taken += bytes;
        }
        fits
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.flight.cache.metrics.not_kept.inc();
            self.flight.cache.give_back(self.taken);
        }
    }
}

/// The body of an answer that is kept when it has come to its end.
struct Recording {
    body: Passed,
    draft: Option<Draft>,
}

impl Recording {
    fn new(body: Passed, mut draft: Draft) -> Self {
        let fits = draft.begin();
        if !fits {
            draft.flight.cache.metrics.not_kept.inc();
        }
        let mut recording = Self { body, draft: fits.then_some(draft) };
        recording.look_for_end();
        recording
    }

    fn look_for_end(&mut self) {
        if self.body.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(mut draft) = self.draft.take() {
            let cache = draft.flight.cache.clone();
            cache.keep(draft.flight.key, &mut draft);
        }
    }
}

impl Body for Recording {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(None) => this.finish(),
            Poll::Ready(Some(Err(_))) => this.draft = None,
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(draft), Some(piece)) = (&mut this.draft, frame.data_ref())
                    && !draft.add(piece)
                {
                    this.draft = None;
                }
                this.look_for_end();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::{clock::ManualClock, expr::Expr};

    const MINUTE: Duration = Duration::from_secs(60);

    struct Rig {
        caches: Caches,
        clock: Clock,
        time: Arc<ManualClock>,
        metrics: Arc<CacheMetrics>,
    }

    impl Rig {
        fn new() -> Self {
            let (clock, time) = Clock::manual(Timestamp::from_millis(1_000_000));
            Self { caches: Caches::default(), clock, time, metrics: Arc::default() }
        }

        fn cache(&self, key: &str, max_bytes: u64, max_entry_bytes: u64) -> Arc<Cache> {
            let policy = CachePolicy { key: Expr::compile(key).unwrap(), ttl: MINUTE, max_bytes, max_entry_bytes };
            self.caches.of("s", &policy, &self.clock, &self.metrics)
        }

        fn small(&self) -> Arc<Cache> {
            self.cache(".", 4096, 1024)
        }
    }

    fn key(number: u8) -> Key {
        [number; 32]
    }

    fn answer(body: &'static str) -> Response<Passed> {
        Response::new(Full::from(body).map_err(|never| match never {}).boxed())
    }

    fn flight(cache: &Arc<Cache>, number: u8) -> Flight {
        match cache.look(key(number), &HeaderMap::new()) {
            Found::Nothing(flight) => flight,
            Found::Kept(_) | Found::Asked(_) => panic!("{number} is there"),
        }
    }

    async fn give(cache: &Arc<Cache>, number: u8, answer: Response<Passed>, request: &HeaderMap) {
        let passed = flight(cache, number).record(answer, request, None);
        passed.into_body().collect().await.unwrap();
    }

    fn kept(cache: &Arc<Cache>, number: u8) -> Option<Arc<Known>> {
        cache.look_again(key(number), &HeaderMap::new()).ok()
    }

    #[tokio::test]
    async fn what_came_to_its_end_is_kept_for_its_time_and_what_broke_off_is_not() {
        let rig = Rig::new();
        let cache = rig.small();
        give(&cache, 1, answer("one"), &HeaderMap::new()).await;
        assert_eq!(&kept(&cache, 1).unwrap().body[..], b"one");
        let begun = flight(&cache, 2).record(answer("two"), &HeaderMap::new(), None);
        drop(begun);
        assert!(kept(&cache, 2).is_none());
        rig.time.advance(MINUTE - Duration::from_millis(1));
        assert!(kept(&cache, 1).is_some());
        rig.time.advance(Duration::from_millis(1));
        assert!(kept(&cache, 1).is_none());
        assert_eq!((rig.metrics.not_kept.get(), lock(&cache.inner).bytes), (1, 0));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_for_others_is_passed_on_and_not_kept() {
        let rig = Rig::new();
        let cache = rig.small();
        let with = |name: &'static str, value: &'static str| {
            let mut answer = answer("x");
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
            answer
        };
        let of_status = |status: u16| {
            let mut answer = answer("x");
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            answer
        };
        for (number, answer) in (1..).zip([
            of_status(404),
            of_status(302),
            of_status(206),
            with("set-cookie", "a=1"),
            with("cache-control", "max-age=5, Private=\"x\""),
            with("cache-control", "NO-STORE"),
            with("vary", "Accept, *"),
        ]) {
            give(&cache, number, answer, &HeaderMap::new()).await;
            assert!(kept(&cache, number).is_none(), "{number}");
        }
        assert_eq!(rig.metrics.not_kept.get(), 7);
        give(&cache, 9, of_status(201), &HeaderMap::new()).await;
        assert_eq!(kept(&cache, 9).unwrap().status, 201);
    }

    #[tokio::test]
    async fn an_answer_that_varies_is_for_requests_with_the_same_headers_only() {
        let cache = Rig::new().small();
        let request = |value| HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
        let mut varied = answer("zipped");
        varied.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        give(&cache, 1, varied, &request("gzip")).await;
        assert!(cache.look_again(key(1), &request("gzip")).is_ok());
        assert!(cache.look_again(key(1), &request("br")).is_err() && kept(&cache, 1).is_none());
    }

    #[tokio::test]
    async fn all_answers_together_keep_to_the_limit_and_the_one_not_asked_for_goes_first() {
        let rig = Rig::new();
        let cache = rig.cache(".", 3 * (ENTRY_BYTES + 100), 200);
        let hundred: &'static str = Box::leak("x".repeat(100).into_boxed_str());
        for number in 1..=3 {
            give(&cache, number, answer(hundred), &HeaderMap::new()).await;
        }
        assert!(kept(&cache, 1).is_some());
        give(&cache, 4, answer(hundred), &HeaderMap::new()).await;
        let there: Vec<u8> = (1..=4).filter(|number| kept(&cache, *number).is_some()).collect();
        assert_eq!(there, [1, 3, 4]);
        assert_eq!((rig.metrics.evictions.get(), rig.metrics.entries.get()), (1, 3));
        assert!(rig.metrics.bytes.get() as u64 <= 3 * (ENTRY_BYTES + 100));
        // What is being recorded counts as well, and one that is too long on its own evicts nobody.
        let too_long: &'static str = Box::leak("x".repeat(201).into_boxed_str());
        give(&cache, 5, answer(too_long), &HeaderMap::new()).await;
        assert_eq!((rig.metrics.entries.get(), rig.metrics.not_kept.get()), (3, 1));
        // A smaller limit holds at once.
        let cache = rig.cache(".", ENTRY_BYTES + 100, 200);
        assert_eq!(rig.metrics.entries.get(), 1);
        assert!(kept(&cache, 4).is_some());
    }

    #[tokio::test]
    async fn who_wants_what_is_asked_for_can_wait_and_finds_it_afterwards() {
        let cache = Rig::new().small();
        let flight = flight(&cache, 1);
        let Found::Asked(mut over) = cache.look(key(1), &HeaderMap::new()) else { panic!("it is asked for") };
        let passed = flight.record(answer("one"), &HeaderMap::new(), None);
        assert!(over.has_changed().is_ok(), "it is not over");
        passed.into_body().collect().await.unwrap();
        while over.changed().await.is_ok() {}
        assert!(kept(&cache, 1).is_some());
        // One that led to nothing lets the next ask.
        drop(self::flight(&cache, 2));
        drop(self::flight(&cache, 2));
    }

    #[tokio::test]
    async fn a_reload_keeps_what_is_known_unless_the_key_is_another() {
        let rig = Rig::new();
        give(&rig.small(), 1, answer("one"), &HeaderMap::new()).await;
        assert!(kept(&rig.small(), 1).is_some());
        assert!(kept(&rig.cache(".a", 4096, 1024), 1).is_none());
        rig.caches.keep(|_| false);
        assert!(lock(&rig.caches.0).is_empty() && rig.metrics.entries.get() == 0);
    }
}
