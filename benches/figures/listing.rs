//! Listings of a long log: the newest 50 of all events, a search through a million of them, and what both do to the
//! acknowledgements meanwhile.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use stagepost::clock::Clock;

use crate::{
    Options, Target,
    figures::{load, peak, seconds, stored_only},
    load::{Load, Pace},
    pause, print,
    relay::{Home, wait},
};

/// Events that a search goes through.
const SEARCHED: u64 = 1_000_000;

/// Listings and searches that are timed.
const TIMES: usize = 5;

pub fn listing(options: &Options) {
    let clock = Clock::system();
    let home = Home::new(options, &stored_only());
    let relay = home.start();
    let running = Load { count: options.events, ..load(&home, &clock, Pace::Closed) }.start();
    let report = running.finish();
    println!("listing: {} events, {:.0} MB on disk", report.accepted(), home.bytes("log", |_| true) as f64 / 1e6);
    wait("everything to be planned", || relay.metric("stagepost_pending") == 0.0);
    let resident = relay.memory_mb("VmRSS");

    let timed = |path: &str, body: &str| {
        let mut longest = Duration::ZERO;
        for _ in 0..TIMES {
            let began = clock.elapsed();
            let answer = ask(&home, path, body);
            longest = longest.max(clock.elapsed() - began);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:.400}");
        }
        longest.as_secs_f64()
    };
    let all = r#"{"filters":{},"limit":50,"follow":false}"#;
    print("listing: the newest 50", timed("/v1/log", all) * 1000.0, "ms", Target::AtMost(100.0));
    print("listing: a page of the API", timed("/v1/events?limit=50", "") * 1000.0, "ms", Target::AtMost(100.0));
    // No event has it: all of them are searched.
    let text = r#"{"filters":{"grep":"nothing has this text"},"limit":50,"follow":false}"#;
    let per_million = SEARCHED as f64 / options.events.max(1) as f64;
    let search = timed("/v1/log", text) * per_million;
    print("listing: a search for a text, for each 1,000,000 events", search, "s", Target::AtMost(3.0));
    let source = r#"{"filters":{"state":"dead"},"limit":50,"follow":false}"#;
    print("listing: a search by state, all events", timed("/v1/log", source), "s", Target::AtMost(3.0));
    print("listing: resident more after all that", relay.memory_mb("VmRSS") - resident, "MB", Target::None);

    let resident = relay.memory_mb("VmRSS");
    let began = clock.elapsed();
    let (bytes, most) = export(&home, || relay.memory_mb("VmRSS"));
    let rate = bytes as f64 / 1e6 / (clock.elapsed() - began).as_secs_f64();
    print("listing: an export of all events", rate, "MB/s", Target::None);
    print("listing: resident more at the most during that", most - resident, "MB", Target::AtMost(16.0));

    // What a reader who searches without a pause does to the acknowledgements, at half of the peak.
    let first = options.events;
    let duration = seconds(options, 10);
    let half = options.rate.unwrap_or_else(|| peak(&home, &clock, first, Duration::from_secs(3)).rate() / 2.0);
    let measured = |first: u64| {
        let running = Load { first, ..load(&home, &clock, Pace::Fixed(half)) }.start();
        pause(duration);
        running.stop().quantile_ms(0.99)
    };
    let alone = measured(first * 2 + 10_000_000);
    let over = std::sync::atomic::AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                ask(&home, "/v1/log", all);
                ask(&home, "/v1/log", text);
            }
        });
        let beside = measured(first * 3 + 20_000_000);
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        beside
    });
    print("listing: ack p99 at half of the peak, alone", alone, "ms", Target::None);
    print("listing: the same beside endless searches ÷ alone", beside / alone, "", Target::AtMost(2.0));
}

/// Reads a whole export and throws it away. Gives its bytes, and the largest of the samples taken meanwhile.
fn export(home: &Home, sample: impl Fn() -> f64) -> (usize, f64) {
    let mut stream = asked(home, "/v1/export", r#"{"filters":{}}"#);
    let (mut bytes, mut most, mut next, mut chunk) = (0, 0.0_f64, 0, vec![0; 1 << 16]);
    loop {
        let read = stream.read(&mut chunk).unwrap();
        if read == 0 {
            return (bytes, most);
        }
        bytes += read;
        if bytes >= next {
            (most, next) = (most.max(sample()), bytes + (16 << 20));
        }
    }
}

/// Asks on the operators' socket: POST if there is a body.
fn ask(home: &Home, path: &str, body: &str) -> String {
    let mut answer = Vec::new();
    asked(home, path, body).read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn asked(home: &Home, path: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(home.data().join("admin.sock")).unwrap();
    let method = if body.is_empty() { "GET" } else { "POST" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: figures\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}
