//! What operators who watch cost the acknowledgements: the web page open and following, a listing that follows, and traces.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use stagepost::clock::Clock;

use crate::{
    Options, Target,
    figures::{listener, peak, seconds, stored_only},
    pause, print,
    relay::Home,
    requests::SECRET,
    upstream::{self, Receipts},
};

/// Measurements of which the middle one counts.
const ROUNDS: u64 = 3;

/// Requests that one measurement sends at the most: numbers are used once.
const NUMBERS: u64 = 100_000_000;

pub fn watching(options: &Options) {
    let clock = Clock::system();
    let duration = seconds(options, 10);
    let token = "[admin.token.ops]\nrole = \"operate\"\nsecret = \"env:FIGURES_SECRET\"\n";
    let sink = upstream::answering(listener(), Receipts::new(0, &clock));
    let plain = Home::new(options, &format!("{}{token}", stored_only()));
    let traced = Home::new(options, &format!("{}[traces]\nendpoint = \"http://{sink}/v1/traces\"\n", stored_only()));
    let (mut watched_ratios, mut traced_ratios) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = round * 3 * NUMBERS;
        let relay = plain.start();
        let alone = peak(&plain, &clock, first, duration).rate();
        let over = AtomicBool::new(false);
        let follower = follow(&plain);
        let (beside, seen) = std::thread::scope(|scope| {
            let lines = scope.spawn(|| BufReader::new(&follower).lines().map_while(Result::ok).count());
            let pages = scope.spawn(|| browse(plain.admin(), &clock, &over));
            let rate = peak(&plain, &clock, first + NUMBERS, duration).rate();
            over.store(true, Ordering::SeqCst);
            follower.shutdown(std::net::Shutdown::Both).unwrap();
            (rate, (lines.join().unwrap(), pages.join().unwrap()))
        });
        println!("  alone {alone:.0}/s, watched {beside:.0}/s: {} lines followed, {} pages drawn", seen.0, seen.1);
        watched_ratios.push(beside / alone);
        relay.stop();

        let relay = traced.start();
        let rate = peak(&traced, &clock, first + 2 * NUMBERS, duration).rate();
        let spans = |result| relay.metric(&format!("stagepost_spans_total{{result=\"{result}\"}}"));
        println!(
            "  with traces {rate:.0}/s: {} spans exported, {} overflowed, {} refused",
            spans("exported"),
            spans("overflowed"),
            spans("refused")
        );
        traced_ratios.push(rate / alone);
        relay.stop();
    }
    print("watching: acks with the page and a listing following ÷ alone", middle(watched_ratios), "", Target::None);
    print("watching: acks with a trace of every request ÷ without", middle(traced_ratios), "", Target::None);
}

fn middle(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// `stagepost log -f`.
fn follow(home: &Home) -> UnixStream {
    let mut stream = UnixStream::connect(home.data().join("admin.sock")).unwrap();
    let body = r#"{"filters":{},"limit":50,"follow":true}"#;
    let head = format!("POST /v1/log HTTP/1.1\r\nHost: figures\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Two visitors: the tail of the events every 2 s, the overview and the upstreams every 5 s. Gives the pages drawn.
fn browse(admin: SocketAddr, clock: &Clock, over: &AtomicBool) -> usize {
    let (mut drawn, mut tail) = (0, "/tail/events".to_owned());
    let login = ask(
        admin,
        &format!("POST /login HTTP/1.1\r\nContent-Length: {}\r\n", 6 + SECRET.len()),
        &format!("token={SECRET}"),
    );
    let cookie = line_after(&login.unwrap(), "set-cookie: ").split(';').next().unwrap_or_default().to_owned();
    let mut due = [(Duration::from_secs(2), clock.elapsed()), (Duration::from_secs(5), clock.elapsed())];
    while !over.load(Ordering::SeqCst) {
        for (number, (every, next)) in due.iter_mut().enumerate() {
            if clock.elapsed() < *next {
                continue;
            }
            *next = clock.elapsed() + *every;
            let paths = if number == 0 { vec![tail.clone()] } else { vec!["/".to_owned(), "/upstreams".to_owned()] };
            for path in paths {
                let answer = ask(admin, &format!("GET {path} HTTP/1.1\r\nCookie: {cookie}\r\n"), "").unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer:.300}");
                drawn += 1;
                if let Some((_, after)) = answer.split_once("\"next\":\"") {
                    tail = after.split('"').next().unwrap_or_default().replace("\\u0026", "&");
                }
            }
        }
        pause(Duration::from_millis(20));
    }
    drawn
}

fn ask(admin: SocketAddr, head: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    let more = "Host: figures\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n";
    stream.write_all(format!("{head}{more}{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn line_after<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default()
}
