//! Owns the load generator: keep-alive connections on threads of their own, as fast as answers come or at a fixed rate.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use stagepost::clock::Clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::requests::Requests;

/// What is sent.
#[derive(Clone)]
pub struct Load {
    pub to: SocketAddr,
    pub requests: Arc<Requests>,
    pub connections: u64,
    pub pace: Pace,
    /// The number of the first request.
    pub first: u64,
    /// So many requests at most.
    pub count: u64,
    pub clock: Clock,
}

/// How fast.
#[derive(Clone, Copy)]
pub enum Pace {
    /// Each connection sends as soon as it has its answer.
    Closed,
    /// Requests a second, whatever the answers do.
    Fixed(f64),
}

/// A load under way.
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Samples>>,
}

struct Shared {
    load: Load,
    began: Duration,
    stop: AtomicBool,
    next: AtomicU64,
    acked: AtomicU64,
}

#[derive(Default)]
struct Samples {
    latencies_us: Vec<u32>,
    /// The longest of each tenth of a second.
    longest_us: Vec<u32>,
    bytes: u64,
    refused: u64,
    broken: u64,
}

/// What a load came to.
pub struct Report {
    /// Of accepted requests, ascending.
    pub latencies_us: Vec<u32>,
    /// The longest of each tenth of a second.
    pub longest_us: Vec<u32>,
    /// Bytes of heads and bodies sent.
    pub bytes: u64,
    /// Answers that were no 2xx.
    pub refused: u64,
    /// Connections that ended.
    pub broken: u64,
    pub elapsed: Duration,
    shared: Arc<Shared>,
}

impl Load {
    /// Begins to send, on two threads.
    pub fn start(self) -> Running {
        let began = self.clock.elapsed();
        let next = AtomicU64::new(self.first);
        let shared = Arc::new(Shared { load: self, began, stop: false.into(), next, acked: 0.into() });
        let threads = (0..2.min(shared.load.connections))
            .map(|thread| {
                let shared = shared.clone();
                std::thread::spawn(move || send(&shared, thread))
            })
            .collect();
        Running { shared, threads }
    }
}

impl Running {
    /// Requests accepted so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Ends it after the answers that are still to come.
    pub fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all requests are answered.
    pub fn finish(self) -> Report {
        let mut all = Samples::default();
        for thread in self.threads {
            all.add(thread.join().unwrap());
        }
        all.latencies_us.sort_unstable();
        let elapsed = self.shared.load.clock.elapsed() - self.shared.began;
        let Samples { latencies_us, longest_us, bytes, refused, broken } = all;
        Report { latencies_us, longest_us, bytes, refused, broken, elapsed, shared: self.shared }
    }
}

impl Report {
    pub fn accepted(&self) -> u64 {
        self.latencies_us.len() as u64
    }

    pub fn rate(&self) -> f64 {
        self.accepted() as f64 / self.elapsed.as_secs_f64()
    }

    /// When a request was due at a fixed rate, in microseconds of the clock.
    pub fn due_us(&self, number: u64) -> u64 {
        self.shared.due(number).as_micros() as u64
    }

    /// The tenth of a second of the load in which a request was due.
    pub fn tenth(&self, number: u64) -> usize {
        (self.due_us(number) - self.shared.began.as_micros() as u64) as usize / 100_000
    }

    /// A quantile of the latencies in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        quantile_ms(&self.latencies_us, quantile)
    }
}

/// A quantile of ascending microseconds, in milliseconds.
pub fn quantile_ms(sorted_us: &[u32], quantile: f64) -> f64 {
    let rank = (sorted_us.len() as f64 * quantile).ceil() as usize;
    sorted_us.get(rank.saturating_sub(1)).map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
}

impl Samples {
    fn add(&mut self, other: Self) {
        self.latencies_us.extend(other.latencies_us);
        for (tenth, longest) in other.longest_us.into_iter().enumerate() {
            note_longest(&mut self.longest_us, tenth, longest);
        }
        self.bytes += other.bytes;
        self.refused += other.refused;
        self.broken += other.broken;
    }
}

impl Shared {
    fn due(&self, number: u64) -> Duration {
        match self.load.pace {
            Pace::Fixed(rate) => self.began + Duration::from_secs_f64((number - self.load.first) as f64 / rate),
            Pace::Closed => self.load.clock.elapsed(),
        }
    }
}

fn send(shared: &Arc<Shared>, thread: u64) -> Samples {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let lanes = (0..shared.load.connections).filter(|lane| lane % 2 == thread);
        let tasks: Vec<_> = lanes.map(|lane| tokio::spawn(connection(shared.clone(), lane))).collect();
        let mut all = Samples::default();
        for task in tasks {
            all.add(task.await.unwrap());
        }
        all
    })
}

async fn connection(shared: Arc<Shared>, lane: u64) -> Samples {
    let mut samples = Samples::default();
    if exchange_all(&shared, lane, &mut samples).await.is_err() {
        samples.broken += 1;
    }
    samples
}

async fn exchange_all(shared: &Shared, lane: u64, samples: &mut Samples) -> io::Result<()> {
    let load = &shared.load;
    let mut stream = TcpStream::connect(load.to).await?;
    stream.set_nodelay(true)?;
    let (mut out, mut input) = (Vec::new(), Vec::new());
    for turn in 0.. {
        let number = match load.pace {
            Pace::Closed => shared.next.fetch_add(1, Ordering::Relaxed),
            Pace::Fixed(_) => load.first + lane + turn * load.connections,
        };
        if number >= load.first + load.count {
            break;
        }
        let due = shared.due(number);
        let early = due.saturating_sub(load.clock.elapsed());
        if !early.is_zero() {
            tokio::time::sleep(early).await;
        }
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        load.requests.write(number, &mut out);
        stream.write_all(&out).await?;
        let status = answer(&mut stream, &mut input).await?;
        let latency = load.clock.elapsed() - due;
        samples.bytes += out.len() as u64;
        if status == b'2' {
            let latency = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
            samples.latencies_us.push(latency);
            note_longest(&mut samples.longest_us, (due - shared.began).as_millis() as usize / 100, latency);
            shared.acked.fetch_add(1, Ordering::Relaxed);
        } else {
            samples.refused += 1;
        }
    }
    Ok(())
}

/// Notes a latency in its tenth of a second.
pub fn note_longest(longest_us: &mut Vec<u32>, tenth: usize, latency: u32) {
    if longest_us.len() <= tenth {
        longest_us.resize(tenth + 1, 0);
    }
    longest_us[tenth] = longest_us[tenth].max(latency);
}

/// Reads one answer; gives the first digit of its status.
async fn answer(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<u8> {
    input.clear();
    loop {
        if let Some(end) = memchr::memmem::find(input, b"\r\n\r\n")
            && input.len() >= end + 4 + content_length(&input[..end])
        {
            return Ok(input[9]);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The length that a head declares; 0 if it declares none.
pub fn content_length(head: &[u8]) -> usize {
    number(head, "content-length:").unwrap_or(0) as usize
}

/// The number in a header of a head.
pub fn number(head: &[u8], name: &str) -> Option<u64> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let line =
        lines.find(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes())))?;
    std::str::from_utf8(&line[name.len()..]).ok()?.trim().parse().ok()
}
