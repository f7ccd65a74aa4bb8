//! Owns the program under test: its directory, its configuration, its process and what it says about itself.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use crate::{Options, pause, requests::SECRET};

/// How long anything that should come within seconds is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a relay lives, before and after its process.
pub struct Home {
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
    pub address: SocketAddr,
    admin: SocketAddr,
}

/// A running relay.
pub struct Relay<'a> {
    home: &'a Home,
    child: Child,
}

impl Home {
    /// A new directory with a configuration: `sections` stands below the common part. The sources in it share the
    /// verifier that [`verified`] gives.
    pub fn new(options: &Options, sections: &str) -> Self {
        let base = std::env::var_os("BENCH_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let mut directory = tempfile::Builder::new().prefix("figures.").tempdir_in(base).unwrap();
        directory.disable_cleanup(options.keep);
        let path = directory.path().canonicalize().unwrap();
        let home = Self { directory: Some(directory), path, address: free_address(), admin: free_address() };
        let segment = options.segment.as_ref().map(|size| format!("segment_size = \"{size}\"")).unwrap_or_default();
        let text = format!(
            "[[listen]]\naddress = \"{}\"\n[store]\npath = \"{}\"\n{segment}\n[admin]\naddress = \"{}\"\n\
             [diagnostics]\nlevel = \"error\"\naccess = \"off\"\n{sections}",
            home.address,
            home.data().display(),
            home.admin
        );
        fs::write(home.path.join("stagepost.toml"), text).unwrap();
        home
    }

    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where pages, probes and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Starts the program and waits until it is ready.
    pub fn start(&self) -> Relay<'_> {
        let mut relay = self.spawn();
        wait("the relay to be ready", || {
            assert!(relay.child.try_wait().unwrap().is_none(), "the relay has ended");
            self.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        relay
    }

    /// Starts the program without waiting.
    pub fn spawn(&self) -> Relay<'_> {
        let config = self.path.join("stagepost.toml");
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(config).env("FIGURES_SECRET", SECRET);
        Relay { home: self, child: command.spawn().expect("build the release binary first") }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: figures\r\nConnection: close\r\n\r\n").as_bytes())
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Bytes of the files below a directory whose names fit.
    pub fn bytes(&self, below: &str, fits: impl Fn(&str) -> bool) -> u64 {
        let mut sum = 0;
        let mut directories = vec![self.data().join(below)];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    directories.push(entry.path());
                } else if fits(&entry.file_name().to_string_lossy()) {
                    sum += metadata.len();
                }
            }
        }
        sum
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            let kept = directory.path().to_owned();
            drop(directory);
            if kept.exists() {
                println!("kept {}", kept.display());
            }
        }
    }
}

impl Relay<'_> {
    /// The sum of the samples whose name and labels begin so.
    pub fn metric(&self, prefix: &str) -> f64 {
        let answer = self.home.get("/metrics").unwrap_or_default();
        let lines = answer.lines().filter(|line| line.starts_with(prefix));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A figure of the process's memory in MB (10^6), such as `VmRSS`.
    pub fn memory_mb(&self, name: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib: f64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN);
        kib * 1024.0 / 1e6
    }

    /// CPU seconds the process has used.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its orderly end.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The verifier of all sources here.
pub fn verified() -> &'static str {
    "verify = { scheme = \"hmac\", algorithm = \"sha256\", header = \"X-Signature\", encoding = \"hex\", \
     secrets = [\"env:FIGURES_SECRET\"] }"
}

/// The program's file.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("STAGEPOST_BINARY").map_or_else(|| "target/release/stagepost".into(), PathBuf::from);
    Path::new(&path).canonicalize().unwrap_or(path)
}

/// An address that nobody listens on.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Polls until it is so.
pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = stagepost::clock::Clock::system();
    while !is_so() {
        assert!(clock.elapsed() < PATIENCE, "waited too long for {what}");
        pause(Duration::from_millis(2));
    }
}

/// Takes as many file descriptors as the system allows, for this process and its children.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
