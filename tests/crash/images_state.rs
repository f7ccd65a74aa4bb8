//! The state's directory as crashes leave it: of another age than the log, with files cut, missing or left over.
//!
//! A history is written to a log with checkpoints in between; each checkpoint's directory is kept. Whatever image of
//! the state stands beside whatever length of the log, the state that is opened must say of every delivery what the
//! log alone says: never ahead of it, nothing forgotten.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method};
use stagepost::{
    clock::Timestamp,
    event::{Change, Reason, Scheme, Seq},
    jitter::Jitter,
    log::{
        Append, Class, Done, Kind, Log, NewEntry,
        entry::{self, Accepting, Attempted, Planned, PlannedEvent},
        memory::MemoryLog,
    },
    state::{Key, State, StateError, Store, replay},
};

/// One checkpoint's files, as they stood on disk.
type Files = Vec<(String, Vec<u8>)>;

/// The log at some time, its events, and the files of the state then.
type Age = (Arc<MemoryLog>, Vec<Seq>, Files);

fn append(log: &MemoryLog, kind: Kind, payload: Bytes) -> Seq {
    let entry = NewEntry { kind, payload };
    let time = Timestamp::from_millis(1_700_000_000_000);
    log.append(Append { parts: Vec::new(), entry, dedupe: None, class: Class::Upkeep, time, done: Done::nobody() });
    log.end() - 1
}

fn accept(log: &MemoryLog) -> Seq {
    let accepting = Accepting {
        received_at: Timestamp::ZERO,
        source: "app",
        event_type: None,
        method: &Method::POST,
        scheme: Scheme::Http,
        path: "/",
        query: None,
        headers: &HeaderMap::new(),
        client: "127.0.0.1",
        proxy: None,
        captures: &[],
        verification_scheme: "none",
        verification_secret: None,
        config_generation: 1,
        dedupe: None,
        extras: None,
        body: Some(&[Bytes::from_static(b"{}")]),
        body_length: 2,
    };
    append(log, Kind::Accepted, accepting.encode())
}

/// Some events in every state, told apart by `random`.
fn live(log: &MemoryLog, events: &mut Vec<Seq>, random: &Jitter) {
    for _ in 0..40 {
        let event = accept(log);
        events.push(event);
        if random.next_u64().is_multiple_of(8) {
            continue;
        }
        let targets = vec![PlannedEvent { event, targets: vec![0, 1], ignored: false }];
        let planned =
            Planned { generation: 1, upstreams: vec!["a".into(), "b".into()], events: targets, priorities: vec![] };
        append(log, Kind::Planned, entry::encode_planned(&planned));
    }
    for _ in 0..40 {
        let event = events[random.next_u64() as usize % events.len()];
        let change = match random.next_u64() % 4 {
            0 => Change::Delivered,
            1 => Change::Die(Reason::new("refused")),
            2 => Change::Hold(Reason::new("operator")),
            _ => Change::Retry(Timestamp::from_millis(1_700_000_060_000)),
        };
        let attempted =
            Attempted { event, upstream: "a".into(), attempt: None, change, previous: None, replays: None, turn: None };
        append(log, Kind::Attempted, entry::encode_attempted(&attempted));
    }
}

fn files(directory: &Path) -> Files {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Files = names.map(|name| (name.clone(), fs::read(directory.join(&name)).unwrap())).collect();
    files.sort();
    files
}

/// What a state says of everything, in a form that can be compared.
fn said(state: &State, events: &[Seq]) -> Result<Vec<String>, StateError> {
    let of = |event: &Seq| {
        let record = |name| state.id(name).map(|id| state.record(Key::new(*event, id))).transpose();
        let (a, b) = (record("a")?.flatten(), record("b")?.flatten());
        Ok(format!("{event} {} {a:?} {b:?}", state.unplanned().contains(*event)))
    };
    events.iter().map(of).collect()
}

/// What an opened image says, as the relay opens it: the last checkpoint if it fits, then the log; all anew as soon as
/// something of it can't be read.
fn said_by_image(directory: &Path, log: &MemoryLog, events: &[Seq]) -> Vec<String> {
    let (mut store, mut state) = Store::open(directory, log.log_id(), log.end()).unwrap();
    assert!(state.next <= log.end(), "the state is ahead of the log");
    let replayed = replay(&mut state, log, &mut |_| {}).is_ok();
    if let (true, Ok(said)) = (replayed, said(&state, events)) {
        return said;
    }
    store.clear().unwrap();
    said_by_log(log, events)
}

fn said_by_log(log: &MemoryLog, events: &[Seq]) -> Vec<String> {
    let mut state = State::new(log.log_id());
    replay(&mut state, log, &mut |_| {}).unwrap();
    said(&state, events).unwrap()
}

#[test]
fn a_state_of_any_age_and_in_any_condition_says_what_the_log_says() {
    for seed in 0..crate::count("STAGEPOST_CRASH_STATES", 10) as u64 {
        let random = Jitter::seeded(seed);
        let directory = tempfile::tempdir().unwrap();
        let log = MemoryLog::automatic();
        let (mut store, mut state) = Store::open(directory.path(), log.log_id(), log.end()).unwrap();
        // Ages: the log's length by then, the events, and the checkpoint's files.
        let (mut events, mut ages) = (Vec::<Seq>::new(), Vec::<Age>::new());
        for _ in 0..5 {
            live(&log, &mut events, &random);
            replay(&mut state, &*log, &mut |_| {}).unwrap();
            let written = store.write(state.freeze(0)).unwrap();
            state.layers_mut().written(written.runs);
            ages.push((log.after_crash(), events.clone(), files(directory.path())));
        }
        for (log, events, _) in &ages {
            let expected = said_by_log(log, events);
            for (age, (.., files)) in ages.iter().enumerate() {
                for damage in 0..6 {
                    let image = tempfile::tempdir().unwrap();
                    let victim = random.next_u64() as usize % files.len();
                    for (index, (name, bytes)) in files.iter().enumerate() {
                        let cut = match damage {
                            1 if index == victim => continue,
                            2 if name == "MANIFEST" => continue,
                            3 if index == victim => random.next_u64() as usize % bytes.len(),
                            _ => bytes.len(),
                        };
                        let mut bytes = bytes[..cut].to_vec();
                        if damage == 4 && index == victim {
                            let at = random.next_u64() as usize % bytes.len();
                            bytes[at] ^= 1 << (random.next_u64() % 8);
                        }
                        fs::write(image.path().join(name), bytes).unwrap();
                    }
                    if damage == 5 {
                        fs::write(image.path().join("MANIFEST.tmp"), b"half").unwrap();
                        fs::write(image.path().join("00000000000000ff.run"), b"half").unwrap();
                    }
                    let said = said_by_image(image.path(), log, events);
                    assert_eq!(said, expected, "seed {seed}, checkpoint {age}, damage {damage}");
                }
            }
        }
    }
}
