//! Owns the figure of senders who wait for the upstream's answer: what the relay adds to the latency of nginx
//! `proxy_pass`, which stores nothing.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use stagepost::clock::Clock;

use crate::{
    Options, Target,
    figures::{CONNECTIONS, PATH, listener, load, seconds},
    load::{Load, Pace, Report},
    pause, print,
    relay::{Home, free_address, verified, wait},
    requests::Requests,
    upstream::{self, Receipts},
};

/// Both are measured in turns, since the machine is not the same at every moment.
const ROUNDS: u32 = 3;

/// Median latency at a fixed rate, of the relay and of nginx before the same upstream.
pub fn proxy(options: &Options) {
    let clock = Clock::system();
    let (rate, duration) = (options.rate.unwrap_or(1_000.0), seconds(options, 5));
    let upstream = upstream::answering(listener(), Receipts::new(0, &clock));
    let sections = format!(
        "[source.figures]\npath = \"{PATH}\"\nmode = \"proxy\"\nto = [\"up\"]\n{}\n[upstream.up]\nurl = \"http://{upstream}\"\n",
        verified()
    );
    let home = Home::new(options, &sections);
    let relay = home.start();
    let Some(nginx) = Nginx::before(upstream) else {
        println!("proxy: nginx is not installed; there is nothing to compare with");
        return;
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..u64::from(ROUNDS) {
        let first = round * 1_000_000;
        ours.push(measured(Load { first, ..load(&home, &clock, Pace::Fixed(rate)) }, duration).quantile_ms(0.5));
        let requests = Arc::new(Requests::to(PATH));
        let (connections, pace) = (CONNECTIONS, Pace::Fixed(rate));
        let to_nginx =
            Load { to: nginx.address, requests, connections, pace, first, count: u64::MAX / 2, clock: clock.clone() };
        theirs.push(measured(to_nginx, duration).quantile_ms(0.5));
    }
    let median = |of: &mut Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of[of.len() / 2]
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    print(&format!("proxy: p50 of nginx proxy_pass at {rate:.0}/s"), theirs, "ms", Target::None);
    print("proxy: p50 of the relay, stored before it is forwarded", ours, "ms", Target::None);
    print("proxy: what the relay adds", ours - theirs, "ms", Target::AtMost(1.5));
    relay.stop();
}

fn measured(load: Load, duration: Duration) -> Report {
    let running = load.start();
    pause(duration);
    let report = running.stop();
    assert_eq!((report.refused, report.broken), (0, 0), "every request is answered");
    report
}

/// nginx in a directory of its own, ended with this value.
struct Nginx {
    process: Child,
    address: SocketAddr,
    _home: tempfile::TempDir,
}

impl Nginx {
    fn before(upstream: SocketAddr) -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let (path, address) = (home.path().display(), free_address());
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {path}/{name};"))
            .concat();
        let config = format!(
            "worker_processes auto; daemon off; pid {path}/pid; error_log {path}/error;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; {temporary}\n\
             upstream up {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}\n\
             server {{ listen {address} backlog=4096;\n\
             location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
        );
        fs::write(home.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg(home.path().join("error")).arg("-c").arg(home.path().join("nginx.conf"));
        let process = command.spawn().ok()?;
        wait("nginx to listen", || std::net::TcpStream::connect(address).is_ok());
        Some(Self { process, address, _home: home })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers when it is asked, not when it is killed.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ended = self.process.wait();
    }
}
