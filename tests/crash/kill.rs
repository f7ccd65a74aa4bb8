//! Real processes killed under load: `kill -9` at random moments, restart on the same directory, again and again.
//!
//! Senders give every request a key and a body of its own and repeat it until it is acknowledged; an upstream in
//! this process notes what it is handed and now and then refuses. After the last restart everything acknowledged
//! must be in the log with its SHA-256, must have been delivered with its own body, and a request sent again must be
//! recognised as a duplicate. Segments are small, so that seals and checkpoints fall into the kills.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};
use stagepost::{clock::Clock, jitter::Jitter};

/// Threads that send at once.
const SENDERS: u64 = 6;

/// No condition may take longer, however slow the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a waiter rests between two looks.
const LOOK: Duration = Duration::from_millis(1);

const CONFIG: &str = r#"
[[listen]]
address = "unix:in.sock"

[store]
path = "data"
segment_size = "1MiB"
reserve = "0B"

[diagnostics]
level = "warn"

[source.app]
path = "/hooks/app"
to = ["app"]

[source.app.dedupe]
header = "X-Key"
window = "1d"

[upstream.app]
url = "unix:app.sock"

[upstream.app.retry]
schedule = ["100ms"]
give_up_after = "1h"

[upstream.app.breaker]
failures = 1000
cool_down = "100ms"
"#;

/// A body and what is known of it.
#[derive(Clone, PartialEq, Eq)]
struct Sent {
    key: String,
    sha256: String,
}

/// What senders and upstream saw, and how far things have got.
#[derive(Default)]
struct Witness {
    /// By event id: what was acknowledged.
    acknowledged: Mutex<BTreeMap<String, Sent>>,
    /// By event id: SHA-256 of the bodies that arrived.
    arrived: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// What should never happen, in words.
    wrong: Mutex<Vec<String>>,
    acks: AtomicU64,
    arrivals: AtomicU64,
    /// Nobody sends any more.
    sent: AtomicBool,
    /// The upstream's work is done.
    over: AtomicBool,
}

impl Witness {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

/// Waits until a condition holds; says what did not come otherwise.
fn wait_until(what: &str, details: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let clock = Clock::system();
    let deadline = clock.steady().after(DEADLINE);
    while !condition() {
        assert!(clock.steady() < deadline, "{what} did not come: {}", details());
        thread::park_timeout(LOOK);
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// One HTTP/1.1 message: its first line, its headers in lower case, its body.
struct Message {
    first: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn read_message(from: &mut impl BufRead) -> io::Result<Message> {
    let mut first = String::new();
    if from.read_line(&mut first)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Message { first, headers, body })
}

/// The upstream: notes ids and bodies, and answers 503 to one request in ten.
fn serve_upstream(listener: UnixListener, witness: &Arc<Witness>) {
    listener.set_nonblocking(true).unwrap();
    while !witness.over.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                let witness = witness.clone();
                stream.set_nonblocking(false).unwrap();
                thread::spawn(move || serve_connection(&stream, &witness));
            }
            Err(_) => thread::park_timeout(LOOK),
        }
    }
}

fn serve_connection(stream: &UnixStream, witness: &Witness) {
    let mut from = BufReader::new(stream);
    let mut to = stream;
    while let Ok(request) = read_message(&mut from) {
        let number = witness.arrivals.fetch_add(1, Ordering::SeqCst);
        let Some(id) = request.headers.get("stagepost-event-id").cloned() else {
            witness.wrong(format!("a request without an id: {}", request.first));
            return;
        };
        let refused = number % 10 == 9;
        if !refused {
            witness.arrived.lock().unwrap().entry(id).or_default().insert(hex_sha256(&request.body));
        }
        let status = if refused { "503 Service Unavailable" } else { "200 OK" };
        if to.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// One sender: a request with a body of its own, again and again until it is acknowledged, then the next.
fn send_all(sender: u64, seed: u64, socket: &Path, witness: &Witness) {
    let random = Jitter::seeded(seed ^ (sender << 32));
    let mut connection = None;
    for number in 0.. {
        let (key, body) = (format!("{sender}-{number}"), body(sender, number, &random));
        let sent = Sent { key, sha256: hex_sha256(&body) };
        let id = loop {
            if witness.sent.load(Ordering::SeqCst) {
                return;
            }
            match post(&mut connection, socket, &sent.key, &body) {
                Some((202 | 200, id, _)) => break id,
                Some((503 | 429, ..)) | None => thread::park_timeout(LOOK),
                Some((status, ..)) => return witness.wrong(format!("a request was answered {status}")),
            }
        };
        if let Some(other) = witness.acknowledged.lock().unwrap().insert(id.clone(), sent.clone()) {
            witness.wrong(format!("id {id} was given to the keys {} and {}", other.key, sent.key));
        }
        witness.acks.fetch_add(1, Ordering::SeqCst);
    }
}

/// Mostly small, some of a few parts in sled, a few so large that they are spooled.
fn body(sender: u64, number: u64, random: &Jitter) -> Vec<u8> {
    let length = match random.next_u64() % 40 {
        0 => 260_000 + random.next_u64() % 300_000,
        1..10 => random.next_u64() % 30_000,
        _ => random.next_u64() % 2_000,
    };
    let mut body = format!("{{\"sender\":{sender},\"number\":{number},\"fill\":\"").into_bytes();
    while (body.len() as u64) < length {
        body.extend_from_slice(format!("{:016x}", random.next_u64()).as_bytes());
    }
    body.extend_from_slice(b"\"}");
    body
}

/// One request: status, event id and whether it was a duplicate. None if there was no whole answer.
fn post(
    connection: &mut Option<BufReader<UnixStream>>,
    socket: &Path,
    key: &str,
    body: &[u8],
) -> Option<(u16, String, bool)> {
    let answer = exchange(connection, socket, key, body);
    if answer.is_none() {
        *connection = None;
    }
    answer
}

fn exchange(
    connection: &mut Option<BufReader<UnixStream>>,
    socket: &Path,
    key: &str,
    body: &[u8],
) -> Option<(u16, String, bool)> {
    if connection.is_none() {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        *connection = Some(BufReader::new(stream));
    }
    let stream = connection.as_mut()?;
    let head = format!(
        "POST /hooks/app HTTP/1.1\r\nHost: app\r\nX-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: \
         {}\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all(head.as_bytes()).ok()?;
    stream.get_mut().write_all(body).ok()?;
    let answer = read_message(stream).ok()?;
    let status = answer.first.split(' ').nth(1)?.parse().ok()?;
    let id = answer.headers.get("stagepost-event-id").cloned().unwrap_or_default();
    Some((status, id, answer.headers.contains_key("stagepost-duplicate")))
}

/// The relay and its directory.
struct Relay {
    directory: PathBuf,
    child: Option<Child>,
}

impl Relay {
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stagepost"));
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let diagnostics = File::options().create(true).append(true).open(self.directory.join("diagnostics")).unwrap();
        let mut command = self.command();
        command.args(["run", "--config", "stagepost.toml"]);
        command.stdout(Stdio::null()).stderr(diagnostics);
        self.child = Some(command.spawn().unwrap());
    }

    /// `kill -9`. The relay must have been alive until then.
    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        assert!(child.try_wait().unwrap().is_none(), "the relay ended by itself: {}", self.diagnostics());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What it said last.
    fn diagnostics(&self) -> String {
        let said = fs::read_to_string(self.directory.join("diagnostics")).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// SHA-256 by id, as `stagepost log` shows them.
    fn stored(&self) -> BTreeMap<String, String> {
        let mut command = self.command();
        command.args(["log", "--config", "stagepost.toml", "--json", "-n", "100000000"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut stored = BTreeMap::new();
        for line in output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            stored.insert(text("id"), text("sha256"));
        }
        stored
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Lets the relay run until a random moment: while it recovers, after so many answers, or after so many deliveries.
fn wait_for_a_random_moment(random: &Jitter, witness: &Witness, relay: &Relay) {
    let counters = || (witness.acks.load(Ordering::SeqCst), witness.arrivals.load(Ordering::SeqCst));
    let (acks, arrivals) = counters();
    let (more_acks, more_arrivals) = match random.next_u64() % 5 {
        0 => (0, 0),
        1 => (1 + random.next_u64() % 20, 0),
        2 => (0, 1 + random.next_u64() % 300),
        _ => (1 + random.next_u64() % 800, 0),
    };
    wait_until(
        "a moment to kill",
        || relay.diagnostics(),
        || {
            let (now_acks, now_arrivals) = counters();
            now_acks >= acks + more_acks && now_arrivals >= arrivals + more_arrivals
        },
    );
    // The moment itself is random: nothing waits for anything here.
    thread::park_timeout(Duration::from_micros(random.next_u64() % 50_000));
}

#[test]
fn everything_acknowledged_survives_kills_under_load_and_is_delivered_unaltered() {
    let kills = crate::count("STAGEPOST_CRASH_KILLS", 4);
    let seed = crate::count("STAGEPOST_CRASH_SEED", 1) as u64;
    let random = Jitter::seeded(seed);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("stagepost.toml"), CONFIG).unwrap();
    let socket = directory.path().join("in.sock");
    let witness: Arc<Witness> = Arc::default();
    let upstream = {
        let (listener, witness) = (UnixListener::bind(directory.path().join("app.sock")).unwrap(), witness.clone());
        thread::spawn(move || serve_upstream(listener, &witness))
    };
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (socket, witness) = (socket.clone(), witness.clone());
            thread::spawn(move || send_all(sender, seed, &socket, &witness))
        })
        .collect();

    let mut relay = Relay { directory: directory.path().to_owned(), child: None };
    for _ in 0..kills {
        relay.start();
        wait_for_a_random_moment(&random, &witness, &relay);
        relay.kill();
    }
    relay.start();

    // The last instance accepts, and delivers all that was ever acknowledged.
    let acks = witness.acks.load(Ordering::SeqCst);
    wait_until(
        "an answer after the last restart",
        || relay.diagnostics(),
        || witness.acks.load(Ordering::SeqCst) > acks,
    );
    let left = || {
        let (acknowledged, arrived) = (witness.acknowledged.lock().unwrap(), witness.arrived.lock().unwrap());
        acknowledged.keys().filter(|id| !arrived.contains_key(*id)).cloned().collect::<Vec<_>>()
    };
    witness.sent.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().unwrap();
    }
    let waiting = || format!("{} events wait, among them {:?}: {}", left().len(), left().first(), relay.diagnostics());
    wait_until("the delivery of everything acknowledged", waiting, || left().is_empty());
    witness.over.store(true, Ordering::SeqCst);
    upstream.join().unwrap();

    let acknowledged = witness.acknowledged.lock().unwrap().clone();
    let arrived = witness.arrived.lock().unwrap().clone();
    assert!(acknowledged.len() >= kills, "only {} requests were acknowledged: nothing is proved", acknowledged.len());
    let stored = relay.stored();
    for (id, sent) in &acknowledged {
        assert_eq!(stored.get(id), Some(&sent.sha256), "what the log has of {id}");
        assert_eq!(arrived[id], BTreeSet::from([sent.sha256.clone()]), "what arrived of {id}");
    }
    recognises_what_it_has_seen(&socket, &acknowledged);
    relay.kill();
    assert_eq!(relay.stored().len(), stored.len(), "the stopped instance's log is as long as the running one's");
    let wrong = witness.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
    eprintln!("{kills} kills, {} acknowledged, {} stored: nothing is missing", acknowledged.len(), stored.len());
}

/// Keys from before the kills still count: a request sent again gets the first one's id.
fn recognises_what_it_has_seen(socket: &Path, acknowledged: &BTreeMap<String, Sent>) {
    let mut connection = None;
    for (id, sent) in acknowledged.iter().step_by(acknowledged.len() / 50 + 1) {
        let answer = post(&mut connection, socket, &sent.key, b"another body");
        assert_eq!(answer, Some((200, id.clone(), true)), "the key {} was sent again", sent.key);
    }
}
