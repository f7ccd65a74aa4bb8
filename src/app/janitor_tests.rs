//! Tests of the janitor over a log on disk.

use std::{fs, sync::Arc};

use super::*;
use crate::{
    agenda::{Deps, Dispatch, Settings},
    app::subscribers::tests::composed,
    event::Job,
    expr::{Evaluator, Settings as Expressions},
    log::{
        Appended, QueueLimits,
        entry::{Action, Command},
        sled,
    },
    state::{Keep, testing::accepted},
    telemetry::Metrics,
};

const NOW: crate::clock::Timestamp = crate::clock::Timestamp::from_millis(1_700_000_000_000);

/// Sends nothing.
struct Nowhere;

impl Dispatch for Nowhere {
    fn dispatch(&self, _job: Job) {}
}

/// A janitor of a directory that goes with the test.
struct Rig {
    directory: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Rig {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        Self { directory: tempfile::tempdir().unwrap(), runtime }
    }

    fn open(&self) -> Work {
        let (subscribers, live, metrics) =
            composed("[upstream.up]\nurl = 'http://127.0.0.1:9'\n[[route]]\nname = 'all'\nto = ['up']\n");
        let (clock, _) = Clock::manual(NOW);
        let settings = sled::Settings {
            directory: self.directory.path().into(),
            segment_bytes: 64 << 20,
            max_size: 1 << 40,
            reserve: 0,
            queue: QueueLimits::standard(),
            barrier: sled::Settings::sync_data(),
        };
        let log = Arc::new(SledLog::open(settings, Arc::new(Metrics::default()), clock.clone()).unwrap());
        let keep = Keep { settled: Duration::from_secs(1), dead: Duration::from_secs(1 << 20) };
        let deps = Deps {
            log: log.clone(),
            live,
            evaluator: Evaluator::start(Expressions::standard()),
            clock: clock.clone(),
            metrics,
            dispatch: Arc::new(Nowhere),
            runtime: self.runtime.handle().clone(),
        };
        let agenda = Agenda::start(Settings::standard(self.directory.path().join("state"), keep), deps).unwrap();
        let store = StoreSettings {
            path: self.directory.path().into(),
            retention: Duration::from_secs(1),
            dead_retention: Duration::from_secs(1 << 20),
            max_size: 1 << 40,
            when_full: WhenFull::Refuse,
            reserve: 0,
            segment_bytes: 64 << 20,
            queue_events: 1,
            queue_bytes: 1,
        };
        let (pass, paused_until) = (Cell::new(None), Cell::default());
        Work { log, agenda, subscribers: Arc::new(subscribers), clock, store, pass, paused_until }
    }

    /// Flips a bit in the middle of the only sealed segment.
    fn damage(&self) {
        let files = fs::read_dir(self.directory.path().join("log")).unwrap().map(|file| file.unwrap().path());
        let file = files.into_iter().find(|file| file.extension().is_some_and(|ending| ending == "seg")).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&file, bytes).unwrap();
    }
}

fn put(work: &Work, kind: Kind, payload: bytes::Bytes) -> Seq {
    let answer = work.append(Vec::new(), NewEntry { kind, payload });
    match answer.blocking_recv().unwrap().unwrap() {
        Appended::Appended(id) => id.pos.seq,
        Appended::Duplicate { .. } => panic!("nothing here has a key"),
    }
}

/// Seals what there is, and gives the end of it.
fn seal(work: &Work) -> Seq {
    work.log.roll();
    loop {
        if let Some(sealed) = work.log.segments().iter().find(|segment| segment.sealed) {
            return sealed.end;
        }
        std::thread::yield_now();
    }
}

fn close(work: &Work) {
    work.agenda.stop();
    work.log.close();
}

#[test]
fn a_damaged_block_of_what_is_undelivered_keeps_nothing_else_from_going() {
    let rig = Rig::new();
    let work = rig.open();
    let body: &'static [u8] = Vec::leak(b"{\"n\":\"0123456789abcdef\"}".repeat(64));
    let event = || put(&work, Kind::Accepted, accepted("shop", &http::Method::POST, body));
    let events: Vec<Seq> = (0..800).map(|_| event()).collect();
    work.agenda.applied(*events.last().unwrap()).unwrap();
    while !work.agenda.upstreams().unwrap().iter().any(|upstream| upstream.waiting == 800) {
        std::thread::yield_now();
    }
    work.agenda.applied(work.log.end() - 1).unwrap();
    seal(&work);
    close(&work);
    drop(work);
    rig.damage();

    let work = rig.open();
    let before = work.log.segments()[0].end;
    let sum = work.let_go(before).unwrap();
    assert!(sum.events > 400 && sum.events < 800, "{}", sum.events);
    while work.log.segments()[0].first_seq < before {
        std::thread::yield_now();
    }
    let views = work.agenda.view(&events).unwrap();
    assert_eq!(views.iter().filter(|view| view.stored_at >= before).count() as u64, sum.events);
    close(&work);
}

#[test]
fn a_hold_is_said_again_until_it_stands_after_what_goes() {
    let rig = Rig::new();
    let work = rig.open();
    put(&work, Kind::Accepted, accepted("shop", &http::Method::POST, b"{}"));
    let action = Action::HoldUpstream { upstream: "up".into(), until_ms: None, reason: None };
    work.agenda.command(&Command::new("me", action)).unwrap().wait().unwrap();
    let before = seal(&work);
    work.let_go(before).unwrap();
    let held = work.agenda.upstreams().unwrap().into_iter().find_map(|upstream| upstream.hold).unwrap();
    assert!(held.seq >= before);
    close(&work);
}
