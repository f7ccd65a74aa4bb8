//! Owns the figures: what each one sets up, what it waits for, what it prints.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::Arc,
    time::Duration,
};

use stagepost::{
    clock::{Clock, Timestamp},
    event::{EventId, Pos},
    log::{
        DedupeKey,
        dedupe::{Runs, Table},
    },
};

use crate::{
    Options, Target, load,
    load::{Load, Pace, Report},
    pause, print,
    relay::{self, Home, Relay, verified, wait},
    requests::{Random, Requests},
    upstream::{self, Receipts},
};

pub const PATH: &str = "/hooks/figures";
pub const CONNECTIONS: u64 = 64;

/// A source whose events go nowhere.
pub fn stored_only() -> String {
    format!("[source.figures]\npath = \"{PATH}\"\n{}\n[[route]]\nname = \"none\"\nto = []\n", verified())
}

/// A source whose events go to one upstream.
fn forwarded_to(address: std::net::SocketAddr, upstream: &str) -> String {
    format!(
        "[source.figures]\npath = \"{PATH}\"\nto = [\"up\"]\n{}\n[upstream.up]\nurl = \"http://{address}\"\n{upstream}\n",
        verified()
    )
}

pub fn load(home: &Home, clock: &Clock, pace: Pace) -> Load {
    let requests = Arc::new(Requests::to(PATH));
    Load {
        to: home.address,
        requests,
        connections: CONNECTIONS,
        pace,
        first: 0,
        count: u64::MAX / 2,
        clock: clock.clone(),
    }
}

pub fn seconds(options: &Options, standard: u64) -> Duration {
    Duration::from_secs(options.seconds.unwrap_or(standard))
}

/// Acks a second of 64 connections that wait for each answer.
pub fn peak(home: &Home, clock: &Clock, first: u64, duration: Duration) -> Report {
    let running = Load { first, ..load(home, clock, Pace::Closed) }.start();
    pause(duration);
    all_accepted(running.stop())
}

/// What the machine itself adds: the same load sent straight to an upstream that answers at once.
fn noise(name: &str, clock: &Clock, rate: f64, seconds: u64) {
    let to = upstream::answering(listener(), Receipts::new(0, clock));
    let requests = Arc::new(Requests::to(PATH));
    let clock = clock.clone();
    let (connections, pace) = (CONNECTIONS, Pace::Fixed(rate));
    let running = Load { to, requests, connections, pace, first: 0, count: u64::MAX / 2, clock }.start();
    pause(Duration::from_secs(seconds));
    let report = all_accepted(running.stop());
    for (quantile, word) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
        let about = format!("{name}: {word} at {rate:.0}/s without the relay (the machine)");
        print(&about, report.quantile_ms(quantile), "ms", Target::None);
    }
}

fn all_accepted(report: Report) -> Report {
    if report.refused + report.broken > 0 {
        println!("  {} requests were refused and {} connections broke", report.refused, report.broken);
    }
    report
}

pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Memory of a fresh process and size of the program.
pub fn idle(options: &Options) {
    let home = Home::new(options, &stored_only());
    let relay = home.start();
    pause(Duration::from_secs(3));
    print("idle: resident memory of a fresh process", relay.memory_mb("VmRSS"), "MB", Target::AtMost(25.0));
    relay.stop();
    let stripped = tempfile::NamedTempFile::new().unwrap();
    match Command::new("strip").arg("-o").arg(stripped.path()).arg(relay::binary()).status() {
        Ok(status) if status.success() => {
            let bytes = stripped.path().metadata().unwrap().len();
            print("idle: size of the stripped program", bytes as f64 / 1e6, "MB", Target::AtMost(25.0));
        }
        other => println!("idle: the program can't be stripped ({other:?}); install binutils"),
    }
}

/// Latency of acks at half of the peak, alone and beside large uploads.
pub fn ack_latency(options: &Options) {
    let clock = Clock::system();
    let home = Home::new(options, &stored_only());
    let relay = home.start();
    let peak = peak(&home, &clock, 0, Duration::from_secs(5));
    print("ack-latency: peak, 64 connections", peak.rate(), "/s", Target::None);
    let rate = options.rate.unwrap_or(peak.rate() / 2.0);

    noise("ack-latency", &clock, rate, 10);
    let (seals, checkpoints) = (relay.metric("stagepost_seals_total"), relay.metric("stagepost_checkpoints_total"));
    let running = load(&home, &clock, Pace::Fixed(rate)).start();
    let done = || {
        let seals = relay.metric("stagepost_seals_total") - seals;
        (seals, relay.metric("stagepost_checkpoints_total") - checkpoints)
    };
    let began = clock.elapsed();
    let enough = || done().0 >= 3.0 && done().1 >= 3.0 || clock.elapsed() - began > Duration::from_secs(300);
    let marks = watch(&relay, seconds(options, 60), enough);
    let (seals, checkpoints) = done();
    let report = all_accepted(running.stop());
    if options.timeline {
        timeline("acked", &report.longest_us, &marks);
    }
    let about =
        format!("at {rate:.0}/s for {:.0} s, {seals} seals, {checkpoints} checkpoints", report.elapsed.as_secs_f64());
    print(&format!("ack-latency: p50 {about}"), report.quantile_ms(0.5), "ms", Target::None);
    print(&format!("ack-latency: p99 {about}"), report.quantile_ms(0.99), "ms", Target::None);
    print(&format!("ack-latency: p99.9 {about}"), report.quantile_ms(0.999), "ms", Target::AtMost(15.0));
    print("ack-latency: longest", report.quantile_ms(1.0), "ms", Target::None);

    let large = Arc::new(Requests::large(PATH, 10 << 20));
    let uploads = Load { requests: large, connections: 1, ..load(&home, &clock, Pace::Closed) }.start();
    let running = load(&home, &clock, Pace::Fixed(rate)).start();
    pause(seconds(options, 20));
    let (report, uploads) = (all_accepted(running.stop()), all_accepted(uploads.stop()));
    let about = format!("at {rate:.0}/s beside {:.1} uploads of 10 MiB/s", uploads.rate());
    print(&format!("ack-latency: p50 {about}"), report.quantile_ms(0.5), "ms", Target::None);
    print(&format!("ack-latency: p99 {about}"), report.quantile_ms(0.99), "ms", Target::AtMost(5.0));
    print("ack-latency: CPU of the relay so far", relay.cpu_seconds(), "s", Target::None);
}

/// Receipt to delivery.
pub fn delivery_latency(options: &Options) {
    let clock = Clock::system();
    let rate = options.rate.unwrap_or(5_000.0);
    let duration = seconds(options, 30);
    let receipts = Receipts::new((rate * (duration.as_secs_f64() + 60.0)) as u64, &clock);
    let home = Home::new(options, &forwarded_to(upstream::answering(listener(), receipts.clone()), ""));
    let relay = home.start();
    noise("delivery-latency", &clock, rate, 5);
    let delivered = deliveries(load(&home, &clock, Pace::Fixed(rate)), &receipts, &relay, (duration, options.timeline));
    print(&format!("delivery-latency: p50 at {rate:.0}/s"), load::quantile_ms(&delivered, 0.5), "ms", Target::None);
    print(
        &format!("delivery-latency: p99 at {rate:.0}/s"),
        load::quantile_ms(&delivered, 0.99),
        "ms",
        Target::AtMost(10.0),
    );
    print("delivery-latency: p90", load::quantile_ms(&delivered, 0.9), "ms", Target::None);
    print("delivery-latency: p99.9", load::quantile_ms(&delivered, 0.999), "ms", Target::None);
    print(
        "delivery-latency: CPU of the relay for each second",
        relay.cpu_seconds() / duration.as_secs_f64(),
        "s",
        Target::None,
    );
}

/// Sends at a fixed rate and gives the time from due to delivered of each request, ascending.
fn deliveries(load: Load, receipts: &Receipts, relay: &Relay<'_>, watched: (Duration, bool)) -> Vec<u32> {
    let (before, first) = (receipts.count(), load.first);
    let running = load.start();
    let marks = watch(relay, watched.0, || true);
    let report = all_accepted(running.stop());
    for (quantile, word) in [(0.5, "p50"), (0.99, "p99")] {
        print(&format!("  of the acks: {word}"), report.quantile_ms(quantile), "ms", Target::None);
    }
    wait("the last deliveries", || receipts.count() >= before + report.accepted());
    let (mut found, mut longest) = (Vec::new(), Vec::new());
    for number in first..receipts.numbers() {
        let Some(at) = receipts.at_us(number) else { continue };
        let latency = u32::try_from(at.saturating_sub(report.due_us(number))).unwrap_or(u32::MAX);
        found.push(latency);
        load::note_longest(&mut longest, report.tenth(number), latency);
    }
    found.sort_unstable();
    if watched.1 {
        timeline("acked", &report.longest_us, &marks);
        timeline("delivered", &longest, &marks);
    }
    found
}

/// Notes in which tenths of a second segments were sealed and checkpoints written, for a while and until it is done.
fn watch(relay: &Relay<'_>, at_least: Duration, done: impl Fn() -> bool) -> Vec<(usize, &'static str)> {
    let clock = Clock::system();
    let counters = || ["stagepost_seals_total", "stagepost_checkpoints_total"].map(|name| relay.metric(name));
    let (mut before, mut marks) = (counters(), Vec::new());
    while clock.elapsed() < at_least || !done() {
        pause(Duration::from_millis(50));
        let now = counters();
        for (index, word) in ["seal", "checkpoint"].into_iter().enumerate() {
            if now[index] > before[index] {
                marks.push((clock.elapsed().as_millis() as usize / 100, word));
            }
        }
        before = now;
    }
    marks
}

/// Prints every tenth of a second in which something took longer than 10 ms, or a seal or checkpoint ended.
fn timeline(what: &str, longest_us: &[u32], marks: &[(usize, &str)]) {
    for (tenth, longest) in longest_us.iter().enumerate() {
        let words: Vec<&str> = marks.iter().filter(|(at, _)| *at == tenth).map(|(_, word)| *word).collect();
        if *longest > 10_000 || !words.is_empty() {
            println!(
                "  {:6.1} s  {what} after {:7.1} ms  {}",
                tenth as f64 / 10.0,
                f64::from(*longest) / 1000.0,
                words.join(" ")
            );
        }
    }
}

/// Bytes on disk for each byte sent, once sealed.
pub fn disk(options: &Options) {
    let clock = Clock::system();
    for (name, pace, duration) in
        [("at 10/s", Pace::Fixed(10.0), seconds(options, 60)), ("at peak", Pace::Closed, Duration::from_secs(10))]
    {
        let receipts = Receipts::new(0, &clock);
        let home = Home::new(options, &forwarded_to(upstream::answering(listener(), receipts.clone()), ""));
        let relay = home.start();
        let running = load(&home, &clock, pace).start();
        pause(duration);
        let report = all_accepted(running.stop());
        wait("the last deliveries", || receipts.count() >= report.accepted());
        relay.stop();
        // A start seals what the process before it wrote.
        let relay = home.start();
        wait("the seals", || home.bytes("log", |name| name.ends_with(".seg")) > 0 && open_directories(&home) <= 2);
        relay.stop();
        let sealed = home.bytes("log", |name| name.ends_with(".seg"));
        let all = home.bytes("", |_| true);
        let about = format!("{name}, {} events delivered", report.accepted());
        print(
            &format!("disk: sealed log ÷ request bytes {about}"),
            sealed as f64 / report.bytes as f64,
            "",
            Target::AtMost(0.35),
        );
        print("disk: whole data directory less the 64 MiB reserve", all as f64 / 1e6 - 67.1, "MB", Target::None);
    }
}

/// Segments that are not sealed: the active one and the one prepared.
fn open_directories(home: &Home) -> usize {
    let entries = std::fs::read_dir(home.data().join("log")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).count()
}

/// A restart after `kill -9` with many undelivered events.
pub fn restart(options: &Options) {
    let clock = Clock::system();
    let address = relay::free_address();
    let home = Home::new(options, &forwarded_to(address, ""));
    let before = home.start();
    let running = load(&home, &clock, Pace::Closed).start();
    // The worst point lies just before a checkpoint: note how far they are apart, and kill shortly before the next.
    let (mut checkpoints, mut last, mut apart) = (0.0, clock.elapsed(), Duration::ZERO);
    loop {
        let (now, count) = (clock.elapsed(), before.metric("stagepost_checkpoints_total"));
        if count > checkpoints {
            (checkpoints, last, apart) = (count, now, now - last);
        }
        if running.acked() >= options.events && checkpoints >= 2.0 && now - last > apart.mul_f64(0.85) {
            break;
        }
        pause(Duration::from_millis(20));
    }
    let since = clock.elapsed() - last;
    let memory = before.memory_mb("VmHWM");
    before.kill();
    let report = running.stop();
    println!(
        "restart: {} undelivered, {:.0} MB sent, {:.0} MB on disk, killed {:.1} s after a checkpoint (they were {:.1} s apart)",
        report.accepted(),
        report.bytes as f64 / 1e6,
        home.bytes("log", |_| true) as f64 / 1e6,
        since.as_secs_f64(),
        apart.as_secs_f64()
    );
    print("restart: resident at most before the kill", memory, "MB", Target::AtMost(200.0));

    let receipts = Receipts::new(0, &clock);
    upstream::answering(TcpListener::bind(address).unwrap(), receipts.clone());
    let began = clock.elapsed();
    let relay = home.spawn();
    let requests = Requests::to(PATH);
    wait("the first request to be accepted", || accepted(&home, &requests));
    print(
        "restart: until the first request is accepted",
        (clock.elapsed() - began).as_secs_f64(),
        "s",
        Target::AtMost(2.0),
    );
    print("restart: resident then", relay.memory_mb("VmRSS"), "MB", Target::None);
    wait("the first delivery", || receipts.count() > 0);
    print("restart: until the first delivery", (clock.elapsed() - began).as_secs_f64(), "s", Target::AtMost(10.0));
    print("restart: resident at most until then", relay.memory_mb("VmHWM"), "MB", Target::AtMost(200.0));
    let all = report.accepted();
    let mut seen = 0;
    while receipts.count() < all && (receipts.count() > seen || clock.elapsed() - began < Duration::from_secs(30)) {
        seen = receipts.count();
        pause(Duration::from_secs(5));
    }
    let drained = (clock.elapsed() - began).as_secs_f64();
    print(
        &format!("restart: delivered within {drained:.0} s"),
        receipts.count() as f64,
        "",
        Target::AtLeast(all as f64),
    );
    print("restart: resident at most while draining", relay.memory_mb("VmHWM"), "MB", Target::AtMost(200.0));
}

/// Whether a request is accepted now.
fn accepted(home: &Home, requests: &Requests) -> bool {
    let mut request = Vec::new();
    requests.write(u64::MAX / 2, &mut request);
    let Ok(mut stream) = TcpStream::connect(home.address) else { return false };
    let mut answer = [0; 12];
    stream.write_all(&request).and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer.get(9) == Some(&b'2')
}

/// Acks with and without live dedupe keys.
pub fn dedupe(options: &Options) {
    let clock = Clock::system();
    let sections = format!("{}\n[source.figures.dedupe]\nheader = \"X-Number\"\n", stored_only_source());
    let (without, with) = (Home::new(options, &sections), Home::new(options, &sections));
    let began = clock.elapsed();
    fill(&with, options.keys, &clock);
    println!("dedupe: {} keys written in {:.0} s", options.keys, (clock.elapsed() - began).as_secs_f64());
    let (none, many) = (without.start(), with.start());
    let (mut rates, mut sums) = ([0.0, 0.0], [0.0_f64, 0.0]);
    let resident = [none.memory_mb("VmRSS"), many.memory_mb("VmRSS")];
    let rounds = 4;
    for round in 0..rounds {
        for (index, home) in [&without, &with].into_iter().enumerate() {
            rates[index] = peak(home, &clock, round * 1_000_000_000, seconds(options, 5)).rate();
            sums[index] += rates[index];
        }
    }
    let unwanted =
        |relay: &Relay<'_>| relay.metric("stagepost_duplicates_total") + relay.metric("stagepost_without_key_total");
    assert!(unwanted(&none) + unwanted(&many) == 0.0, "every request must bring a key of its own");
    let keys = options.keys;
    print("dedupe: acks/s without keys", sums[0] / rounds as f64, "/s", Target::None);
    print(&format!("dedupe: acks/s with {keys} live keys"), sums[1] / rounds as f64, "/s", Target::None);
    print("dedupe: ratio", sums[1] / sums[0], "", Target::AtLeast(0.8));
    print("dedupe: resident more at the start", resident[1] - resident[0], "MB", Target::AtMost(300.0));
    let after = many.memory_mb("VmRSS") - none.memory_mb("VmRSS");
    print("dedupe: resident more after the load", after, "MB", Target::AtMost(300.0));
    let most = many.memory_mb("VmHWM") - none.memory_mb("VmHWM");
    print("dedupe: resident at most more", most, "MB", Target::AtMost(300.0));
    print("dedupe: runs on disk", with.bytes("dedupe", |_| true) as f64 / 1e6, "MB", Target::None);
    // The runs that were written here claim a stretch of the log that these processes don't have.
    many.kill();
    none.kill();
}

fn stored_only_source() -> String {
    format!("[[route]]\nname = \"none\"\nto = []\n[source.figures]\npath = \"{PATH}\"\n{}\n", verified())
}

/// Writes live keys as the relay would have, had it accepted so many requests before.
fn fill(home: &Home, keys: u64, clock: &Clock) {
    let now = clock.now();
    let (runs, covered, _) = Runs::open(&home.data().join("dedupe"), now).unwrap();
    let mut table = Table::new(covered);
    let mut random = Random(13);
    for number in 0..keys {
        // Below the first number that a new log gives.
        let pos = Pos { partition: 0, seq: number * 1_000_000 / keys.max(1) };
        let expires_at: Timestamp = now.after(Duration::from_secs(3600));
        let key = DedupeKey { fingerprint: random.bits(128), expires_at, body: random.next(), runs_version: 0 };
        table.insert(&key, EventId { time: now, pos });
        table.commit();
        if table.full() || number + 1 == keys {
            let Some(frozen) = table.take_frozen() else { continue };
            let version = runs.publish(&frozen, now).unwrap();
            table.published(&frozen, version);
            runs.tidy(now).unwrap();
        }
    }
}

/// A healthy upstream beside many that hang and one that comes back.
pub fn fairness(options: &Options) {
    let clock = Clock::system();
    let rate = options.rate.unwrap_or(500.0);
    let duration = seconds(options, 20);
    let numbers = (2.0 * rate * (duration.as_secs_f64() + 60.0)) as u64;
    let receipts = Receipts::new(numbers, &clock);
    let up = upstream::answering(listener(), receipts.clone());
    let hanging = upstream::hanging(listener());
    let dead = relay::free_address();
    let retries = 100_000;
    let hung: Vec<String> = (0..100).map(|number| format!("hung-{number}")).collect();
    let upstreams: String =
        hung.iter().map(|name| format!("[upstream.{name}]\nurl = \"http://{hanging}\"\ntimeout = \"10m\"\n")).collect();
    let sections = format!(
        "[source.healthy]\npath = \"/hooks/healthy\"\nto = [\"healthy\"]\n{v}\n\
         [source.hung]\npath = \"/hooks/hung\"\nto = {hung:?}\n{v}\n\
         [source.dead]\npath = \"/hooks/dead\"\nto = [\"dead\"]\n{v}\n\
         [upstream.healthy]\nurl = \"http://{up}\"\n{upstreams}\
         [upstream.dead]\nurl = \"http://{dead}\"\nbreaker = {{ failures = 1000000 }}\n\
         retry = {{ schedule = [\"30s\"], jitter = 1.0, give_up_after = \"1h\" }}\n",
        v = verified()
    );
    let home = Home::new(options, &sections);
    let relay = home.start();
    let to = |path: &str, pace| Load { requests: Arc::new(Requests::to(path)), ..load(&home, &clock, pace) };
    let healthy = |first| Load { first, ..to("/hooks/healthy", Pace::Fixed(rate)) };
    let alone = deliveries(healthy(0), &receipts, &relay, (duration, options.timeline));
    let (p50, p99) = (load::quantile_ms(&alone, 0.5), load::quantile_ms(&alone, 0.99));
    print(&format!("fairness: p50 alone at {rate:.0}/s"), p50, "ms", Target::None);
    print(&format!("fairness: p99 alone at {rate:.0}/s"), p99, "ms", Target::None);

    Load { count: 200, ..to("/hooks/hung", Pace::Closed) }.start().finish();
    let began = clock.elapsed();
    let sent = all_accepted(Load { count: retries, ..to("/hooks/dead", Pace::Closed) }.start().finish());
    wait("a first attempt of each for the dead upstream", || {
        relay.metric("stagepost_attempts_total{upstream=\"dead\",outcome=\"deferred\"}") >= sent.accepted() as f64
    });
    print("fairness: until each had a first attempt", (clock.elapsed() - began).as_secs_f64(), "s", Target::None);
    let in_flight = relay.metric("stagepost_in_flight{upstream=\"hung-");
    let drained = Receipts::new(0, &clock);
    upstream::answering(TcpListener::bind(dead).unwrap(), drained.clone());
    // The retries are due between 30 and 60 s after their first attempts.
    wait("the first retries", || drained.count() > 0);
    let (count, began) = (drained.count(), clock.elapsed());
    let beside = deliveries(healthy(numbers / 2), &receipts, &relay, (duration, options.timeline));
    let drain_rate = (drained.count() - count) as f64 / (clock.elapsed() - began).as_secs_f64();
    let rest = clock.elapsed();
    wait("the last retries", || drained.count() >= sent.accepted());
    print("fairness: until the last retry, after that", (clock.elapsed() - rest).as_secs_f64(), "s", Target::None);
    let beside_p99 = load::quantile_ms(&beside, 0.99);
    let about = format!("beside {in_flight} hanging attempts and {drain_rate:.0} retries/s");
    print(&format!("fairness: p50 {about}"), load::quantile_ms(&beside, 0.5), "ms", Target::None);
    print(&format!("fairness: p99 {about}"), beside_p99, "ms", Target::AtMost(2.0 * p99));
    print("fairness: p99 ÷ p99 alone", beside_p99 / p99, "", Target::AtMost(2.0));
    print("fairness: resident at most", relay.memory_mb("VmHWM"), "MB", Target::None);
}
