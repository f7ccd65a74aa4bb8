//! Measures what `benches/compare.sh` does not: latencies, disk, restart, dedupe, fairness and the idle process, each
//! against its target, with the program itself as a separate process.
//!
//! ```text
//! cargo build --release && cargo bench --bench figures -- all
//! cargo bench --bench figures -- ack-latency | delivery-latency | disk | restart | dedupe | fairness | order | proxy |
//! listing | watching | idle
//! ```
//!
//! Options: `--seconds N` (how long a figure is measured at least), `--events N` (restart, listing), `--keys N` (dedupe),
//! `--rate N` (requests a second instead of half of the peak), `--segment SIZE` (store.segment_size), `--keep` (leaves
//! the data directory), `--timeline` (prints when latencies were long, and when segments and checkpoints ended). The binary is `$STAGEPOST_BINARY` or `target/release/stagepost`; data goes below
//! `$BENCH_DIR` or `target`.
//!
//! Load generator, upstream and the program share the machine. Latencies of a fixed rate count from the moment at
//! which a request was due to be sent, so that a stall is charged to every request that it delays; tokio's timer
//! adds up to a millisecond to them.

#![expect(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench"
)]

mod figures;
mod listing;
mod load;
mod order;
mod relay;
mod requests;
mod upstream;
mod waiting;
mod watching;

use std::time::Duration;

/// What the command line says.
pub struct Options {
    pub seconds: Option<u64>,
    pub events: u64,
    pub keys: u64,
    pub rate: Option<f64>,
    pub segment: Option<String>,
    pub keep: bool,
    pub timeline: bool,
}

type Measure = fn(&Options);

const FIGURES: [(&str, Measure); 11] = [
    ("idle", figures::idle),
    ("ack-latency", figures::ack_latency),
    ("delivery-latency", figures::delivery_latency),
    ("disk", figures::disk),
    ("restart", figures::restart),
    ("dedupe", figures::dedupe),
    ("fairness", figures::fairness),
    ("order", order::order),
    ("proxy", waiting::proxy),
    ("listing", listing::listing),
    ("watching", watching::watching),
];

fn main() {
    let mut options = Options {
        seconds: None,
        events: 1_000_000,
        keys: 1_000_000,
        rate: None,
        segment: None,
        keep: false,
        timeline: false,
    };
    let mut chosen = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> u64 {
            let value = arguments.next().unwrap_or_default().replace('_', "");
            value.parse().unwrap_or_else(|_| panic!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--seconds" => options.seconds = Some(number()),
            "--events" => options.events = number(),
            "--keys" => options.keys = number(),
            "--rate" => options.rate = Some(number() as f64),
            "--segment" => options.segment = arguments.next(),
            "--timeline" => options.timeline = true,
            "--keep" => options.keep = true,
            // What cargo itself passes.
            "--bench" => {}
            name => chosen.push(name.to_owned()),
        }
    }
    let known = |name: &String| name == "all" || FIGURES.iter().any(|(figure, _)| figure == name);
    if chosen.is_empty() || !chosen.iter().all(known) {
        let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        eprintln!("name the figures to measure: all, or any of {}", names.join(", "));
        return;
    }
    relay::raise_file_limit();
    for (name, measure) in FIGURES {
        if chosen.iter().any(|chosen| chosen == "all" || chosen == name) {
            measure(&options);
        }
    }
}

/// One line of the result.
pub fn print(figure: &str, measured: f64, unit: &str, target: Target) {
    let (sign, bound, met) = match target {
        Target::AtMost(bound) => ("at most", bound, measured <= bound),
        Target::AtLeast(bound) => ("at least", bound, measured >= bound),
        Target::None => return println!("{figure:<78} {measured:>11.3} {unit}"),
    };
    let verdict = if met { "met" } else { "MISSED" };
    println!("{figure:<78} {measured:>11.3} {unit:<4} target {sign} {bound} {unit}: {verdict}");
}

/// What a figure is held against.
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// Lets the machinery run for a while.
pub fn pause(duration: Duration) {
    let clock = stagepost::clock::Clock::system();
    while let Some(left) = duration.checked_sub(clock.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
