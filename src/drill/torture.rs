//! Owns the drill that kills: `kill -9` at random moments under load, restart in the same directory, again and again.
//!
//! Senders give every request a key and a body of its own and repeat it until it is acknowledged; an upstream in this
//! process notes what it is handed and refuses one request in ten. After the last restart everything acknowledged must
//! be in the log with its SHA-256, must have arrived with its own body, and a request that is sent again must be
//! recognised. Segments are small, so that seals and checkpoints fall into the kills. What this can't show is a power
//! cut: a killed process leaves what it wrote to the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{
    DrillError, LOOK, Scratch, doing,
    exchange::{Answer, Sender, read_message},
    relay::Relay,
};
use crate::{
    clock::{Clock, Timestamp},
    jitter::Jitter,
};

/// Threads that send at once.
const SENDERS: u64 = 6;

/// Threads that may serve connections of the relay to its upstream.
const CONNECTIONS_MAX: u64 = 256;

/// Faults that are told one by one.
const FAULTS_TOLD: usize = 20;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often the relay is killed.
    pub kills: u64,
    /// Repeats bodies and moments, as far as the machine's timing lets it.
    pub seed: u64,
    /// Nothing that must come takes longer.
    pub patience: Duration,
}

impl Plan {
    /// With a patience that fits any machine.
    #[must_use]
    pub const fn new(kills: u64, seed: u64) -> Self {
        Self { kills, seed, patience: Duration::from_secs(120) }
    }
}

const CONFIGURATION: &str = r#"
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

/// What the drill found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How often the relay was killed.
    pub kills: u64,
    /// Requests that were acknowledged.
    pub acknowledged: u64,
    /// Events in the log at the end; what was stored but not yet acknowledged when a kill came is among them.
    pub stored: u64,
    /// Bodies that arrived more than once: an attempt whose outcome was not yet stored when a kill came is repeated.
    pub repeated: u64,
    /// What should never happen, in words; at most [`FAULTS_TOLD`] are told, and how many more there were.
    pub faults: Vec<String>,
}

/// A request and what is known of its body.
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
    /// By event id: SHA-256 of the bodies that arrived, and how often.
    arrived: Mutex<BTreeMap<String, (BTreeSet<String>, u64)>>,
    wrong: Mutex<Vec<String>>,
    acks: AtomicU64,
    arrivals: AtomicU64,
    connections: AtomicU64,
    /// Nobody sends any more.
    sent: AtomicBool,
    /// The upstream's work is done.
    over: AtomicBool,
}

impl Witness {
    fn wrong(&self, what: String) {
        let mut wrong = locked(&self.wrong);
        match wrong.len() {
            ..FAULTS_TOLD => wrong.push(what),
            FAULTS_TOLD => wrong.push("and more".into()),
            _ => {}
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the drill in a directory of its own. `progress` is told the number of kills and of acknowledgements so far.
///
/// # Errors
/// The drill could not be made, or the relay died by itself: nothing is proved then. Losses are no error, they are in
/// the verdict.
pub fn torture(
    program: &Path,
    scratch: &Scratch,
    plan: Plan,
    mut progress: impl FnMut(u64, u64),
) -> Result<Verdict, DrillError> {
    let witness = Witness::default();
    let listener = UnixListener::bind(scratch.socket("app.sock")?).map_err(doing("opening the upstream's socket"))?;
    listener.set_nonblocking(true).map_err(doing("opening the upstream's socket"))?;
    let socket = scratch.socket("in.sock")?;
    thread::scope(|scope| {
        // Whatever happens, the relay ends and the threads are told to end before the scope waits for them.
        let end = Ending(&witness);
        let mut relay = Relay::new(program, scratch, CONFIGURATION)?;
        scope.spawn(|| serve(scope, &listener, &witness));
        for sender in 0..SENDERS {
            let (socket, witness) = (&socket, &witness);
            scope.spawn(move || send_all(sender, plan.seed, socket, witness));
        }
        let random = Jitter::seeded(plan.seed);
        for kill in 1..=plan.kills {
            relay.start()?;
            wait_for_a_random_moment(&random, &witness, &relay, plan.patience)?;
            relay.kill()?;
            progress(kill, witness.acks.load(Ordering::SeqCst));
        }
        relay.start()?;
        // The last instance accepts, and delivers all that was ever acknowledged.
        let acks = witness.acks.load(Ordering::SeqCst);
        let answered = || witness.acks.load(Ordering::SeqCst) > acks;
        wait_until(&relay, plan.patience, "no request was acknowledged after the last restart", answered)?;
        witness.sent.store(true, Ordering::SeqCst);
        let nothing_left = || {
            let (acknowledged, arrived) = (locked(&witness.acknowledged), locked(&witness.arrived));
            acknowledged.keys().all(|id| arrived.contains_key(id))
        };
        let delivered = wait_until(&relay, plan.patience, "not everything acknowledged was delivered", nothing_left);
        drop(end);
        judge(&mut relay, &socket, &witness, plan.kills, delivered)
    })
}

/// Ends senders and upstream.
struct Ending<'a>(&'a Witness);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.sent.store(true, Ordering::SeqCst);
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// Compares what was acknowledged with what is stored and what arrived.
fn judge(
    relay: &mut Relay,
    socket: &Path,
    witness: &Witness,
    kills: u64,
    delivered: Result<(), DrillError>,
) -> Result<Verdict, DrillError> {
    if let Err(error) = delivered {
        witness.wrong(error.to_string());
    }
    let acknowledged = locked(&witness.acknowledged).clone();
    let arrived = locked(&witness.arrived).clone();
    let stored = relay.stored()?;
    for (id, sent) in &acknowledged {
        match stored.get(id) {
            Some(sha256) if *sha256 == sent.sha256 => {}
            Some(_) => witness.wrong(format!("{id} was acknowledged and is stored with another body")),
            None => witness.wrong(format!("{id} was acknowledged and is not in the log")),
        }
        match arrived.get(id) {
            Some((bodies, _)) if *bodies == BTreeSet::from([sent.sha256.clone()]) => {}
            Some(_) => witness.wrong(format!("{id} was delivered with another body")),
            None => witness.wrong(format!("{id} was acknowledged and never delivered")),
        }
    }
    // Keys from before the kills still count: a request that is sent again gets the first one's id.
    let mut again = Sender::new(socket);
    for (id, sent) in acknowledged.iter().step_by(acknowledged.len() / 50 + 1) {
        let known = Answer { status: 200, id: id.clone(), duplicate: true };
        if again.post(&sent.key, b"another body") != Some(known) {
            witness.wrong(format!("{id} was sent again and not recognised"));
        }
    }
    relay.kill()?;
    if relay.stored()?.len() != stored.len() {
        witness.wrong("the log of the stopped instance is not the one of the running instance".into());
    }
    let repeated = arrived.values().filter(|(_, times)| *times > 1).count() as u64;
    Ok(Verdict {
        kills,
        acknowledged: acknowledged.len() as u64,
        stored: stored.len() as u64,
        repeated,
        faults: locked(&witness.wrong).clone(),
    })
}

/// Waits until a condition holds.
fn wait_until(
    relay: &Relay,
    patience: Duration,
    otherwise: &str,
    condition: impl Fn() -> bool,
) -> Result<(), DrillError> {
    let clock = Clock::system();
    let deadline: Timestamp = clock.steady().after(patience);
    while !condition() {
        if clock.steady() >= deadline {
            return Err(relay.complaint(&format!("{otherwise} within {} s", patience.as_secs())));
        }
        thread::park_timeout(LOOK);
    }
    Ok(())
}

/// Lets the relay run until a random moment: while it recovers, after so many answers, or after so many deliveries.
fn wait_for_a_random_moment(
    random: &Jitter,
    witness: &Witness,
    relay: &Relay,
    patience: Duration,
) -> Result<(), DrillError> {
    let counters = || (witness.acks.load(Ordering::SeqCst), witness.arrivals.load(Ordering::SeqCst));
    let (acks, arrivals) = counters();
    let (more_acks, more_arrivals) = match random.next_u64() % 5 {
        0 => (0, 0),
        1 => (1 + random.next_u64() % 20, 0),
        2 => (0, 1 + random.next_u64() % 300),
        _ => (1 + random.next_u64() % 800, 0),
    };
    wait_until(relay, patience, "the relay took and delivered nothing", || {
        let (now_acks, now_arrivals) = counters();
        now_acks >= acks + more_acks && now_arrivals >= arrivals + more_arrivals
    })?;
    // The moment itself is random: nothing waits for anything here.
    thread::park_timeout(Duration::from_micros(random.next_u64() % 50_000));
    Ok(())
}

/// The upstream: notes ids and bodies.
fn serve<'scope>(scope: &'scope thread::Scope<'scope, '_>, listener: &UnixListener, witness: &'scope Witness) {
    while !witness.over.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) if witness.connections.load(Ordering::SeqCst) < CONNECTIONS_MAX => {
                witness.connections.fetch_add(1, Ordering::SeqCst);
                scope.spawn(move || {
                    let _ended = serve_connection(&stream, witness);
                    witness.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
            Ok(_) => {}
            Err(_) => thread::park_timeout(LOOK),
        }
    }
}

fn serve_connection(stream: &UnixStream, witness: &Witness) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut from = BufReader::new(stream);
    let mut to = stream;
    loop {
        let request = read_message(&mut from)?;
        let number = witness.arrivals.fetch_add(1, Ordering::SeqCst);
        let Some(id) = request.headers.get("stagepost-event-id").cloned() else {
            witness.wrong(format!("a request arrived without an id: {}", request.first.trim_end()));
            return Ok(());
        };
        let refused = number % 10 == 9;
        if !refused {
            let mut arrived = locked(&witness.arrived);
            let (bodies, times) = arrived.entry(id).or_default();
            bodies.insert(hex::encode(Sha256::digest(&request.body)));
            *times += 1;
        }
        let status = if refused { "503 Service Unavailable" } else { "200 OK" };
        to.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    }
}

/// One sender: a request with a body of its own, again and again until it is acknowledged, then the next.
fn send_all(sender: u64, seed: u64, socket: &Path, witness: &Witness) {
    let random = Jitter::seeded(seed ^ (sender << 32));
    let mut connection = Sender::new(socket);
    for number in 0_u64.. {
        let body = body(sender, number, &random);
        let sent = Sent { key: format!("{sender}-{number}"), sha256: hex::encode(Sha256::digest(&body)) };
        let id = loop {
            if witness.sent.load(Ordering::SeqCst) {
                return;
            }
            match connection.post(&sent.key, &body) {
                Some(Answer { status: 200 | 202, id, .. }) => break id,
                Some(Answer { status: 429 | 503, .. }) | None => thread::park_timeout(LOOK),
                Some(Answer { status, .. }) => return witness.wrong(format!("a request was answered {status}")),
            }
        };
        if let Some(other) = locked(&witness.acknowledged).insert(id.clone(), sent.clone()) {
            witness.wrong(format!("{id} was given to the keys {} and {}", other.key, sent.key));
        }
        witness.acks.fetch_add(1, Ordering::SeqCst);
    }
}

/// Mostly small, some of a few kilobytes, a few so large that they are spooled.
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
