//! Owns the drill that measures: how long the disk takes to make a write durable, how many requests a second are
//! acknowledged and how soon, and how long a killed relay takes to acknowledge again.
//!
//! Senders and relay share the machine, as a sidecar and its application do, so that the figures are what this machine
//! gives, not what the relay could do alone. Bodies are distinct, about 1 KiB of JSON; no request is forwarded.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{
    DrillError, LOOK, Scratch, doing,
    exchange::{Answer, Sender},
    relay::Relay,
};
use crate::{clock::Clock, jitter::Jitter};

/// Bytes of one write whose sync is measured: what a small commit is.
const WRITE_BYTES: usize = 4096;

/// Writes that a file has room for before it is begun anew.
const ROOM_WRITES: usize = 256;

/// Writes that are measured at most.
const WRITES_MAX: usize = 1000;

/// Bytes of random text in a body.
const FILL_BYTES: usize = 960;

/// A relay that does not answer for so long never will.
const PATIENCE: Duration = Duration::from_secs(120);

const CONFIGURATION: &str = r#"
[[listen]]
address = "unix:in.sock"

[store]
path = "data"

[diagnostics]
level = "warn"

[source.app]
path = "/hooks/app"

[source.app.dedupe]
header = "X-Key"
window = "1d"

[[route]]
name = "discarded"
source = "app"
to = []
"#;

/// Some latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many were measured.
    pub count: usize,
    /// Half of them are not longer.
    pub p50: Duration,
    /// 99 of 100 are not longer.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Spread {
    fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |share: usize| {
            let index = (latencies.len() * share).div_ceil(100).saturating_sub(1);
            latencies.get(index).copied().unwrap_or_default()
        };
        Self { count: latencies.len(), p50: at(50), p99: at(99), longest: at(100) }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// 4 KiB written over what a file has already, and the system's word that they are on the disk: what an
    /// acknowledgement waits for at the least. A file that grows is slower, since its length is synced as well.
    pub sync: Spread,
    /// One sender, one request after the other.
    pub alone: Spread,
    /// Many senders at once.
    pub together: Spread,
    /// Acknowledgements a second of those.
    pub acks_per_second: f64,
    /// From the start of the process that follows a `kill -9` to its first acknowledgement.
    pub recovery: Duration,
}

/// Measures in a directory of its own, each load for `time`, `senders` at once.
///
/// # Errors
/// The disk or the relay did not do its work.
pub fn bench(program: &Path, scratch: &Scratch, time: Duration, senders: usize) -> Result<Figures, DrillError> {
    let sync = measure_syncs(scratch, time)?;
    let socket = scratch.socket("in.sock")?;
    let mut relay = Relay::new(program, scratch, CONFIGURATION)?;
    relay.start()?;
    first_acknowledgement(&relay, &socket, "warm")?;
    let alone = Spread::of(load(&socket, time, 1, "alone")?.0);
    let (latencies, took) = load(&socket, time, senders, "together")?;
    let acks_per_second = latencies.len() as f64 / took.as_secs_f64();
    let together = Spread::of(latencies);
    relay.kill()?;
    let clock = Clock::system();
    let begun = clock.steady();
    relay.start()?;
    first_acknowledgement(&relay, &socket, "again")?;
    let recovery = clock.steady().since(begun);
    relay.kill()?;
    Ok(Figures { sync, alone, together, acks_per_second, recovery })
}

fn measure_syncs(scratch: &Scratch, time: Duration) -> Result<Spread, DrillError> {
    let path = scratch.path().join("sync");
    let mut file = File::create(&path).map_err(doing("making a file to write to"))?;
    for _ in 0..ROOM_WRITES {
        file.write_all(&[0; WRITE_BYTES]).map_err(doing("writing to the disk"))?;
    }
    file.sync_all().map_err(doing("syncing to the disk"))?;
    let clock = Clock::system();
    let end = clock.steady().after(time);
    let mut latencies = Vec::with_capacity(WRITES_MAX);
    while latencies.len() < WRITES_MAX && clock.steady() < end {
        if latencies.len() % ROOM_WRITES == 0 {
            file.rewind().map_err(doing("writing to the disk"))?;
        }
        let begun = clock.elapsed();
        file.write_all(&[0x5a; WRITE_BYTES]).map_err(doing("writing to the disk"))?;
        file.sync_data().map_err(doing("syncing to the disk"))?;
        latencies.push(clock.elapsed().saturating_sub(begun));
    }
    std::fs::remove_file(&path).map_err(doing("removing a file"))?;
    Ok(Spread::of(latencies))
}

/// Waits until the relay acknowledges a request.
fn first_acknowledgement(relay: &Relay, socket: &Path, key: &str) -> Result<(), DrillError> {
    let clock = Clock::system();
    let deadline = clock.steady().after(PATIENCE);
    let mut sender = Sender::new(socket);
    while !sender.post(key, b"{}").is_some_and(|answer| matches!(answer.status, 200 | 202)) {
        if clock.steady() >= deadline {
            return Err(relay.complaint("no request was acknowledged"));
        }
        thread::park_timeout(LOOK);
    }
    Ok(())
}

/// Latencies of acknowledgements, and how long it took altogether.
fn load(socket: &Path, time: Duration, senders: usize, name: &str) -> Result<(Vec<Duration>, Duration), DrillError> {
    let over = AtomicBool::new(false);
    let clock = Clock::system();
    let begun = clock.steady();
    let results: Vec<Result<Vec<Duration>, DrillError>> = thread::scope(|scope| {
        let running: Vec<_> = (0..senders)
            .map(|number| {
                let (over, name) = (&over, format!("{name}-{number}"));
                scope.spawn(move || send_all(socket, &name, number as u64, over))
            })
            .collect();
        let end = begun.after(time);
        while clock.steady() < end && !running.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::park_timeout(LOOK);
        }
        over.store(true, Ordering::SeqCst);
        let broken = || Err(DrillError::Relay("a sender ended".into()));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| broken())).collect()
    });
    let took = clock.steady().since(begun);
    let mut latencies = Vec::new();
    for result in results {
        latencies.append(&mut result?);
    }
    Ok((latencies, took))
}

fn send_all(socket: &Path, name: &str, seed: u64, over: &AtomicBool) -> Result<Vec<Duration>, DrillError> {
    let (clock, random) = (Clock::system(), Jitter::seeded(seed));
    let mut sender = Sender::new(socket);
    let mut latencies = Vec::new();
    let mut number = 0_u64;
    while !over.load(Ordering::SeqCst) {
        let mut body = format!("{{\"sender\":\"{name}\",\"number\":{number},\"fill\":\"").into_bytes();
        while body.len() < FILL_BYTES {
            body.extend_from_slice(format!("{:08x} event ", random.next_u64() >> 32).as_bytes());
        }
        body.extend_from_slice(b"\"}");
        let begun = clock.elapsed();
        match sender.post(&format!("{name}-{number}"), &body) {
            Some(Answer { status: 202, .. }) => latencies.push(clock.elapsed().saturating_sub(begun)),
            Some(Answer { status, .. }) => return Err(DrillError::Relay(format!("a request was answered {status}"))),
            None => return Err(DrillError::Relay("a request was not answered".into())),
        }
        number += 1;
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_what_was_measured() {
        assert_eq!(Spread::of(Vec::new()), Spread::default());
        let spread = Spread::of((1..=200).rev().map(Duration::from_millis).collect());
        let ms = Duration::from_millis;
        assert_eq!(spread, Spread { count: 200, p50: ms(100), p99: ms(198), longest: ms(200) });
    }
}
