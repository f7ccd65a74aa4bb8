//! Owns the test form of the ports: a log in memory and states that are set by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{
    access::{Role, Scope, Token, Tokens},
    logins::LoginLimit,
    ports::{DeliveryView, EventView, PlannedFor, Ports, Predicate, QueueCount, Reads, RouteFilter},
    privacy::HiddenNames,
    wire,
};
pub(crate) use crate::event::{Reason, Status};
use crate::{
    clock::Timestamp,
    event::{Attempt, Change, DeliveryState, Event, EventId, Outcome, Pos, Scheme, Sent, Seq},
    log::{
        Append, AppendError, DedupeKey, Follower, Kind, Log, LogStats, ReadError,
        entry::{self, Accepting, Attempted, Carried, Command, Entry, Planned, PlannedEvent, Target},
    },
    quarantine::{Judgement, Purpose, Quarantine},
};

const START: u64 = 1_767_323_045_678;

#[derive(Default)]
pub(crate) struct FakeLog {
    entries: Mutex<BTreeMap<Seq, Entry>>,
    damaged: Mutex<BTreeSet<Seq>>,
}

impl FakeLog {
    fn push(&self, kind: Kind, payload: Bytes) -> Seq {
        let mut entries = self.entries.lock().unwrap();
        let seq = entries.last_key_value().map_or(1, |(last, _)| last + 1);
        let time = Timestamp::from_millis(START + seq);
        entries.insert(seq, Entry { pos: Pos { partition: 0, seq }, time, kind, refs: Vec::new(), payload });
        seq
    }

    fn check(&self, first: Seq, last: Seq) -> Result<(), ReadError> {
        match self.damaged.lock().unwrap().range(first..=last).next_back() {
            Some(seq) => Err(ReadError::Damaged { file: "0001.seg".into(), first: *seq, last: *seq }),
            None => Ok(()),
        }
    }
}

impl Log for FakeLog {
    fn append(&self, append: Append) {
        append.done.answer(Err(AppendError::Closed));
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
        self.check(seq, seq)?;
        self.entries.lock().unwrap().get(&seq).cloned().ok_or(ReadError::Missing(seq))
    }
    fn scan(&self, from: Seq, _: usize) -> Result<Vec<Entry>, ReadError> {
        let found: Vec<Entry> = self.entries.lock().unwrap().range(from..).take(3).map(|(_, e)| e.clone()).collect();
        if let Some(last) = found.last() {
            self.check(from, last.pos.seq)?;
        }
        Ok(found)
    }
    fn scan_back(&self, before: Seq) -> Result<Vec<Entry>, ReadError> {
        let entries = self.entries.lock().unwrap();
        let mut found: Vec<Entry> = entries.range(..before).rev().take(2).map(|(_, e)| e.clone()).collect();
        found.reverse();
        if let Some(first) = found.first() {
            self.check(first.pos.seq, before.saturating_sub(1))?;
        }
        Ok(found)
    }
    fn end(&self) -> Seq {
        self.entries.lock().unwrap().last_key_value().map_or(1, |(last, _)| last + 1)
    }
    fn log_id(&self) -> u128 {
        1
    }
    fn expire(&self, _: Seq) {}
    fn follow(&self, _: Arc<dyn Follower>) {}
    fn stats(&self) -> LogStats {
        let first_seq = self.entries.lock().unwrap().first_key_value().map_or(1, |(first, _)| *first);
        LogStats { first_seq, next_seq: self.end(), ..LogStats::default() }
    }
    fn writable(&self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// The ports, by hand.
#[derive(Default)]
pub(crate) struct Fake {
    log: Arc<FakeLog>,
    /// Events whose states were asked for.
    pub(crate) asked: std::sync::atomic::AtomicUsize,
    views: Mutex<BTreeMap<(Seq, Box<str>), DeliveryView>>,
    deleted: Mutex<BTreeSet<Seq>>,
    carried: Mutex<BTreeMap<Seq, Seq>>,
    commands: Mutex<Vec<Command>>,
    turn: Mutex<()>,
    pub(crate) jobs: Mutex<Vec<wire::Job>>,
    pub(crate) quarantine: Option<Arc<Quarantine>>,
    metrics: Arc<crate::telemetry::Metrics>,
    questions: super::quiet::Questions,
    /// How many were asked for.
    secrets: std::sync::atomic::AtomicU8,
    /// The state can't be read now.
    pub(crate) rebuilding: std::sync::atomic::AtomicBool,
}

pub(crate) fn delivery(upstream: &str, status: Status) -> DeliveryView {
    DeliveryView {
        upstream: upstream.into(),
        status,
        attempts: 1,
        last: None,
        due: None,
        in_flight: false,
        waits_for: None,
    }
}

impl Fake {
    pub(crate) fn clock(&self) -> Timestamp {
        Timestamp::from_millis(START)
    }

    pub(crate) fn commands(&self) -> Vec<Command> {
        self.commands.lock().unwrap().clone()
    }

    pub(crate) fn event(&self, id: EventId) -> Event {
        crate::log::read_event(&*self.log, id.pos.seq).unwrap()
    }

    pub(crate) fn accept(&self, source: &str, body: &[u8]) -> EventId {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("relay.example"));
        headers.insert("x-kind", HeaderValue::from_static("test"));
        headers.insert("authorization", HeaderValue::from_static("Bearer sesame"));
        headers.insert("x-bytes", HeaderValue::from_bytes(b"\xff").unwrap());
        let payload = Accepting {
            received_at: self.clock(),
            source,
            event_type: Some("invoice.paid"),
            method: &Method::POST,
            scheme: Scheme::Https,
            path: "/hooks/stripe",
            query: Some("a=1"),
            headers: &headers,
            client: "192.0.2.7",
            proxy: None,
            captures: &[("tenant".into(), "acme".into())],
            verification_scheme: "stripe",
            verification_secret: Some("env:STRIPE_SECRET"),
            config_generation: 1,
            dedupe: None,
            extras: None,
            body: Some(&[Bytes::copy_from_slice(body)]),
            body_length: body.len() as u64,
        }
        .encode();
        let seq = self.log.push(Kind::Accepted, payload);
        self.log.read(seq).unwrap().id()
    }

    pub(crate) fn plan(&self, events: &[(EventId, &[&str])]) {
        let mut planned = Planned { generation: 1, ..Planned::default() };
        for (id, upstreams) in events {
            let targets = upstreams.iter().map(|name| {
                planned.upstreams.push((*name).into());
                planned.upstreams.len() as u32 - 1
            });
            let targets = targets.collect();
            planned.events.push(PlannedEvent { event: id.pos.seq, targets, ignored: false });
        }
        self.log.push(Kind::Planned, entry::encode_planned(&planned));
    }

    pub(crate) fn attempt(
        &self,
        id: EventId,
        upstream: &str,
        number: u32,
        status: Option<u16>,
        previous: Option<Seq>,
    ) -> Seq {
        let delivered = status.is_some_and(|status| status < 300);
        let attempt = Attempt {
            number,
            at: self.clock(),
            outcome: if delivered { Outcome::Delivered } else { Outcome::Deferred },
            status,
            error: status.is_none().then(|| "connection refused".into()),
            latency_ms: 12,
            excerpt: Bytes::from_static(b"ok"),
            sent: Sent { url: "http://127.0.0.1:3000/hooks/stripe".into(), sha256: None, signed: None },
        };
        let change = if delivered { Change::Delivered } else { Change::Retry(self.clock()) };
        self.attempted(id, upstream, Some(attempt), change, previous)
    }

    pub(crate) fn die(&self, id: EventId, upstream: &str, reason: Reason) -> Seq {
        self.attempted(id, upstream, None, Change::Die(reason), None)
    }

    fn attempted(
        &self,
        id: EventId,
        upstream: &str,
        attempt: Option<Attempt>,
        change: Change,
        previous: Option<Seq>,
    ) -> Seq {
        let attempted = Attempted {
            event: id.pos.seq,
            upstream: upstream.into(),
            attempt,
            change,
            previous,
            replays: None,
            turn: None,
        };
        self.log.push(Kind::Attempted, entry::encode_attempted(&attempted))
    }

    /// Sets the record of a delivery.
    pub(crate) fn set(&self, id: EventId, view: DeliveryView) {
        self.views.lock().unwrap().insert((id.pos.seq, view.upstream.clone()), view);
    }

    pub(crate) fn delete(&self, id: EventId) {
        self.deleted.lock().unwrap().insert(id.pos.seq);
    }

    pub(crate) fn damage(&self, seq: Seq) {
        self.log.damaged.lock().unwrap().insert(seq);
    }

    /// Appends the event again and forgets the original.
    pub(crate) fn carry(&self, id: EventId, upstreams: &[&str]) {
        let accepted = self.log.entries.lock().unwrap().remove(&id.pos.seq).unwrap().payload;
        let history = upstreams.iter().map(|name| ((*name).into(), 0)).collect();
        let seq = self.log.push(Kind::Carried, entry::encode_carried(&Carried { id, history, accepted }));
        self.carried.lock().unwrap().insert(id.pos.seq, seq);
    }
}

impl Reads for Fake {
    fn log(&self) -> Arc<dyn Log> {
        self.log.clone()
    }
    fn now(&self) -> Timestamp {
        self.clock()
    }
    fn views(&self, events: &[PlannedFor]) -> Result<Vec<EventView>, String> {
        if self.rebuilding.load(std::sync::atomic::Ordering::SeqCst) {
            return Err("it is being rebuilt".into());
        }
        self.asked.fetch_add(events.len(), std::sync::atomic::Ordering::SeqCst);
        let records = self.views.lock().unwrap();
        let view = |planned: &PlannedFor| EventView {
            deliveries: planned
                .upstreams
                .iter()
                .chain(
                    records
                        .keys()
                        .filter(|key| planned.upstreams.is_empty() && key.0 == planned.event)
                        .map(|key| &key.1),
                )
                .map(|name| {
                    let key = (planned.event, name.clone());
                    records.get(&key).cloned().unwrap_or_else(|| delivery(name, Status::Delivered))
                })
                .collect(),
            planned: false,
            deleted: self.deleted.lock().unwrap().contains(&planned.event),
            duplicates: 0,
            body_differs: 0,
        };
        Ok(events.iter().map(view).collect())
    }
    fn records(
        &self,
        state: DeliveryState,
        upstream: Option<&str>,
        after: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<Target>, String> {
        let records = self.views.lock().unwrap();
        let all = records.iter().filter(|(_, view)| view.status.state() == state);
        let all = all.map(|((event, name), _)| Target { event: *event, upstream: name.clone() });
        let all = all.filter(|target| upstream.is_none_or(|wanted| wanted == &*target.upstream));
        let mut all: Vec<Target> = all.filter(|target| after.is_none_or(|after| target.event > after)).collect();
        if let Some(last) = all.get(limit.saturating_sub(1)).map(|target| target.event) {
            all.retain(|target| target.event <= last);
        }
        Ok(all)
    }
    /// All that was set by hand is young.
    fn queue(&self, states: &[DeliveryState], since: &[Timestamp]) -> Result<QueueCount, String> {
        let mut upstreams: BTreeMap<Box<str>, Vec<u64>> = BTreeMap::new();
        for ((_, name), view) in &*self.views.lock().unwrap() {
            let ages = upstreams.entry(name.clone()).or_insert_with(|| vec![0; since.len() + 1]);
            *ages.last_mut().unwrap() += u64::from(states.contains(&view.status.state()));
        }
        Ok(QueueCount { upstreams: upstreams.into_iter().collect(), unplanned: 0 })
    }
    fn stored_at(&self, event: Seq) -> Result<Option<Seq>, String> {
        Ok(self.carried.lock().unwrap().get(&event).copied())
    }
    fn carried(&self, before: Seq, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        let carried = self.carried.lock().unwrap();
        Ok(carried.range(..before).rev().take(limit).map(|(event, at)| (*event, *at)).collect())
    }
    fn filter(&self, expression: &str) -> Result<Predicate, String> {
        if expression == "(" {
            return Err("unexpected end".into());
        }
        let expression = expression.to_owned();
        Ok(Box::new(move |_, body| match expression.as_str() {
            "error" => Err("cannot index".into()),
            "slow" => Err(format!("{}250 ms", super::ports::TOO_SLOW)),
            text => Ok(body == text.as_bytes()),
        }))
    }
    fn route(&self, name: &str) -> Option<RouteFilter> {
        (name == "paid").then(|| RouteFilter { takes: Box::new(|_, _| Ok(true)), to: vec!["billing".into()] })
    }
    fn decoded(&self, _: &Event, body: Bytes) -> Bytes {
        body
    }
    fn hidden_names(&self) -> HiddenNames {
        HiddenNames { headers: vec![HeaderName::from_static("x-customer")], parameters: vec!["customer".into()] }
    }
    fn masked(&self, _: &Event, body: Bytes) -> Result<Bytes, String> {
        match &body[..] {
            b"sesame" => Ok(Bytes::from_static(b"[hidden]")),
            b"undecodable" => Err("it can't be decoded".into()),
            _ => Ok(body),
        }
    }
    fn masked_beginning(&self, body: Bytes) -> Option<Bytes> {
        (body != "sesame" && body != "undecodable").then_some(body)
    }
    fn quarantine(&self) -> Arc<Quarantine> {
        let empty = || Arc::new(Quarantine::open_for_reading(std::path::Path::new("/nowhere")));
        self.quarantine.clone().unwrap_or_else(empty)
    }
    fn audited(&self, before: Option<Seq>, limit: usize) -> Result<Vec<(Seq, Seq)>, String> {
        let entries = self.log.entries.lock().unwrap();
        let commands = entries.values().rev().filter(|entry| entry.kind == Kind::Command).map(|entry| entry.pos.seq);
        let commands = commands.filter(|seq| before.is_none_or(|before| *seq < before));
        Ok(commands.take(limit).map(|seq| (seq, seq)).collect())
    }
    fn config_hash(&self, _: u64) -> Option<String> {
        Some("c0ffee".into())
    }

    fn routed(&self, _: &Event, _: &[u8]) -> Result<Vec<Box<str>>, String> {
        Ok(vec!["today".into()])
    }
}

impl Ports for Fake {
    fn tokens(&self) -> Arc<Tokens> {
        let limit = LoginLimit { count: 3, per: std::time::Duration::from_secs(60) };
        let part = || Scope::new(Some(vec!["stripe".into()]), Some(vec!["billing".into()]));
        let token = |name, role, scope| Token::new(name, role, scope, format!("secret of {name}").as_bytes());
        let tokens = vec![
            token("ops", Role::Operate, Scope::default()),
            token("eyes", Role::View, Scope::default()),
            token("part", Role::Operate, part()),
            token("glimpse", Role::View, part()),
        ];
        Arc::new(Tokens::new(tokens, limit))
    }
    fn metered(&self) -> Arc<crate::telemetry::Metrics> {
        self.metrics.clone()
    }
    fn questions(&self) -> &super::quiet::Questions {
        &self.questions
    }
    fn steady(&self) -> Timestamp {
        self.clock()
    }
    fn status(&self) -> wire::Status {
        let upstream =
            |name: &str| wire::Upstream { name: name.into(), breaker: "closed".into(), ..Default::default() };
        let target = |url: &str, state: &str| wire::UpstreamTarget {
            url: url.into(),
            state: state.into(),
            ..wire::UpstreamTarget::default()
        };
        let targets =
            vec![target("http://a:1/base", "unhealthy"), target("http://b:1", "up"), target("http://c:1", "drained")];
        let crm = wire::Upstream { targets, ..upstream("crm") };
        wire::Status { upstreams: vec![upstream("billing"), crm], ..wire::Status::default() }
    }
    fn reload(&self, _: Option<std::time::Duration>) -> Result<wire::Reloaded, wire::ReloadRefused> {
        Err(wire::ReloadRefused { problems: vec!["stagepost.toml:3: source.stripe: no path".into()] })
    }
    fn command(&self, command: Command) -> Result<(), String> {
        self.log.push(Kind::Command, entry::encode_command(&command, self.clock()));
        self.commands.lock().unwrap().push(command);
        Ok(())
    }
    fn command_at(&self, command: Command) -> Result<Seq, String> {
        let mut commands = self.commands.lock().unwrap();
        commands.push(command);
        Ok(commands.len() as Seq)
    }
    fn jobs(&self) -> Result<Vec<wire::Job>, String> {
        Ok(self.jobs.lock().unwrap().clone())
    }
    fn rehearse(&self, _: &str, _: Option<(crate::log::entry::Fault, std::time::Duration)>) -> bool {
        true
    }
    /// Judges by the body: a number is admitted under it, `known` is a duplicate, `ping` no event.
    fn judge(&self, event: &Event, purpose: Purpose) -> Result<Judgement, String> {
        let crate::event::Body::Inline(body) = &event.body else { return Err("a body in parts".into()) };
        let text = std::str::from_utf8(body).unwrap_or_default();
        let id = |seq| EventId { time: self.clock(), pos: Pos { partition: 0, seq } };
        Ok(match (text, text.parse()) {
            (_, Ok(seq)) if purpose == Purpose::Admit => Judgement::Admitted(id(seq)),
            (_, Ok(_)) => Judgement::Taken,
            ("known", _) if purpose == Purpose::Admit => Judgement::Duplicate(id(1)),
            ("known", _) => Judgement::Taken,
            ("ping", _) => Judgement::NoEvent,
            _ => Judgement::Refused("bad_signature"),
        })
    }
    fn blocked_keys(&self, _upstream: Option<&str>) -> Result<Vec<wire::BlockedKey>, String> {
        Ok(Vec::new())
    }
    fn refused(&self, after: u64) -> Vec<wire::Refused> {
        let one = wire::Refused {
            number: 1,
            at: self.clock(),
            reason: "bad_signature".into(),
            source: Some("stripe".into()),
            client: "192.0.2.7".into(),
            method: "POST".into(),
            path: "/hooks/\u{1b}[2J".into(),
            size: 5,
            status: 401,
        };
        if after < 1 { vec![one] } else { Vec::new() }
    }
    fn subscribers(&self) -> Result<Vec<wire::Subscriber>, String> {
        let one = |upstream: String| wire::Subscriber { upstream, ..Default::default() };
        Ok(self.subscribed().registered.keys().map(|name| one(name.to_string())).collect())
    }
    /// What the commands so far say.
    fn subscribed(&self) -> crate::state::Subscribed {
        let mut state = crate::state::State::new(1);
        for (seq, command) in (0..).zip(self.commands()) {
            let payload = entry::encode_json(&command);
            let pos = Pos { partition: 0, seq };
            let entry = Entry { pos, time: self.clock(), kind: Kind::Command, refs: Vec::new(), payload };
            state.apply(&entry, &mut |_| {}).unwrap();
        }
        state.subscribed()
    }
    fn check_subscriber(&self, registration: &entry::Registration, _: bool) -> Result<(), String> {
        if registration.url.contains("10.0.0.1") { Err("url: leads to 10.0.0.1".into()) } else { Ok(()) }
    }
    fn subscribers_turn(&self) -> std::sync::MutexGuard<'_, ()> {
        self.turn.lock().unwrap()
    }
    fn subscriber_refused(&self) {}
    fn secret_bytes(&self) -> Option<[u8; 32]> {
        let before = self.secrets.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Some([before.wrapping_add(7); 32])
    }
    fn sources(&self) -> Vec<wire::Source> {
        let source = |name: &str| wire::Source { name: name.into(), path: "/x".into(), ..Default::default() };
        vec![source("stripe"), source("other")]
    }
    fn routes(&self) -> Vec<wire::Route> {
        let route = |name: &str, to: &str| wire::Route { name: name.into(), to: vec![to.into()], ..Default::default() };
        vec![route("paid", "billing"), route("all", "crm")]
    }
    fn segments(&self) -> Vec<wire::Segment> {
        vec![wire::Segment::default()]
    }
    fn configuration(&self) -> wire::Configuration {
        wire::Configuration { hash: "c0ffee".into(), ..Default::default() }
    }
    fn upstreams(&self) -> Vec<Box<str>> {
        vec!["billing".into(), "crm".into()]
    }
    fn generation(&self) -> u64 {
        1
    }
    fn backup_point(&self, _: bool) -> Result<wire::BackupPoint, String> {
        Ok(wire::BackupPoint::default())
    }
    fn trial(&self, _: Option<&std::path::Path>) -> Result<Box<dyn super::ports::Trial>, Vec<String>> {
        Err(vec!["stagepost.toml:3: source.stripe: no path".into()])
    }
    fn alerts(&self) -> Vec<wire::Alert> {
        vec![wire::Alert {
            rule: "failures".into(),
            severity: "warning".into(),
            subject: "billing".into(),
            upstream: Some("billing".into()),
            source: None,
            since: self.clock(),
            text: "upstream billing: 5 in 10 minutes: attempts failed".into(),
        }]
    }
    fn test_alert(&self, to: &str) -> Result<String, String> {
        if to == "ops" { Ok("01KDYAK3SF0000000000000001".into()) } else { Err(format!("no destination {to:?}")) }
    }
    fn metrics(&self) -> String {
        self.metrics.render()
    }
    fn ready(&self) -> Result<(), String> {
        Err("the log is full".into())
    }
}
