//! Owns the process under test: starts it, reads its diagnostics, talks to it through its own command line, ends it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Request, Response, exchange, wait_for, wait_until};

/// The program.
pub const BINARY: &str = env!("CARGO_BIN_EXE_stagepost");

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub bytes: Vec<u8>,
}

impl Output {
    /// Standard output as JSON objects, one a line.
    pub fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
    }

    /// Standard output as one JSON object.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Itself, if the command ended with 0.
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// A command of the program, free of what the environment of the tests might tell it.
fn command(directory: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(directory).env_remove("STAGEPOST_CONFIG").env_remove("NOTIFY_SOCKET");
    command
}

/// Runs the program in a directory.
pub fn cli(directory: &Path, args: &[&str]) -> Output {
    cli_with_input(directory, args, "")
}

/// The same with standard input.
pub fn cli_with_input(directory: &Path, args: &[&str], input: &str) -> Output {
    let mut child = command(directory)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes it.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        bytes: output.stdout,
    }
}

/// A relay in a directory of its own.
pub struct Relay {
    directory: Arc<TempDir>,
    data: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// A listening socket to pass on as systemd does, with its name.
    passed: Option<(String, OwnedFd)>,
    /// The largest file that the process may write, in KiB.
    file_limit: Option<u64>,
    process: Option<Process>,
}

struct Process {
    child: Child,
    diagnostics: Arc<Mutex<String>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Relay {
    /// A relay with this configuration, serving. A listener on a free port and `store.path` are added.
    pub fn start(config: &str) -> Self {
        let mut relay = Self::stopped(config);
        relay.run();
        relay
    }

    /// The same, not yet running.
    pub fn stopped(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        Self::within(Arc::new(directory), data, config)
    }

    /// A relay whose data stand somewhere else than in its own directory.
    pub fn with_data(data: &Path, config: &str) -> Self {
        Self::within(Arc::new(tempfile::tempdir().unwrap()), data.to_owned(), config)
    }

    fn within(directory: Arc<TempDir>, data: PathBuf, config: &str) -> Self {
        let arguments = vec!["run".to_owned(), "--config".to_owned(), "stagepost.toml".to_owned()];
        let relay =
            Self { directory, data, arguments, environment: Vec::new(), passed: None, file_limit: None, process: None };
        relay.configure(config);
        relay
    }

    /// A relay without a configuration file.
    pub fn zero_config(to: &str) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let data = directory.path().join("stagepost-data");
        let arguments = ["run", "--listen", "127.0.0.1:0", "--to", to].map(str::to_owned).to_vec();
        let mut relay =
            Self { directory, data, arguments, environment: Vec::new(), passed: None, file_limit: None, process: None };
        relay.run();
        relay
    }

    /// Sets a variable of the environment for the next start.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Passes a listening socket on at the next start, as systemd does.
    pub fn pass_socket(&mut self, name: &str, socket: impl Into<OwnedFd>) {
        self.passed = Some((name.to_owned(), socket.into()));
    }

    /// Lets every write beyond so many KiB of a file fail from the next start on, or none.
    pub fn limit_files(&mut self, kib: Option<u64>) {
        self.file_limit = kib;
    }

    /// Adds an argument to the next start.
    pub fn argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// Writes the configuration; what runs does not know it yet.
    pub fn configure(&self, config: &str) {
        let listen = if config.contains("[[listen]]") { "" } else { "[[listen]]\naddress = \"127.0.0.1:0\"\n" };
        let store = if config.contains("[store]") {
            config.replace("[store]", &format!("[store]\npath = \"{}\"", self.data.display()))
        } else {
            format!("[store]\npath = \"{}\"\n{config}", self.data.display())
        };
        self.write("stagepost.toml", format!("{listen}{store}"));
    }

    /// Writes a file into the relay's directory.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.directory().join(name), text).unwrap();
    }

    /// The directory it runs in.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts the process and waits until it serves.
    pub fn run(&mut self) {
        self.spawn();
        wait_until("the relay serves", || {
            let diagnostics = self.diagnostics();
            let serves = diagnostics.lines().any(|line| line.contains("serving") && line.contains("bound"));
            assert!(serves || self.is_running(), "it ended:\n{diagnostics}");
            serves
        });
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let (mut command, stdin) = match (&self.passed, self.file_limit) {
            (None, None) => (command(self.directory()), Stdio::null()),
            (None, Some(kib)) => {
                // The signal is ignored, so that the write fails; POSIX counts in blocks of 512 bytes.
                let mut command = Command::new("sh");
                let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", 2 * kib);
                command.args(["-c", &script, BINARY]).current_dir(self.directory()).env_remove("NOTIFY_SOCKET");
                (command, Stdio::null())
            }
            (Some((name, socket)), _) => {
                // A shell moves the socket from standard input to where systemd puts it, and knows its own pid.
                let mut command = Command::new("sh");
                let script = "export LISTEN_PID=$$; exec 3<&0 </dev/null; exec \"$0\" \"$@\"";
                command.args(["-c", script, BINARY]).current_dir(self.directory());
                command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
                (command, socket.try_clone().unwrap().into())
            }
        };
        let mut child = command
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let diagnostics = Arc::new(Mutex::new(String::new()));
        let lines = diagnostics.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = lines.lock().unwrap();
                lines.push_str(&line);
                lines.push('\n');
            }
        });
        self.process = Some(Process { child, diagnostics, reader: Some(reader) });
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the relay runs")
    }

    /// Whether the process is alive.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.child.try_wait().unwrap().is_none())
    }

    /// What the process has said so far.
    pub fn diagnostics(&self) -> String {
        self.process().diagnostics.lock().unwrap().clone()
    }

    /// Waits until the process has said something.
    pub fn wait_for_diagnostics(&self, part: &str) {
        wait_until(&format!("diagnostics say {part:?}"), || self.diagnostics().contains(part));
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process().child.id()
    }

    /// The TCP addresses it listens on.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let diagnostics = self.diagnostics();
        let after =
            ["bound=\"", "\"bound\":\""].iter().find_map(|name| diagnostics.split_once(name)).map(|(_, after)| after);
        let bound = after.and_then(|after| after.split('"').next()).unwrap_or("");
        bound.split(", ").filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect()
    }

    /// The first of them.
    pub fn address(&self) -> SocketAddr {
        *self.addresses().first().expect("it listens on TCP")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process().child), signal).unwrap();
    }

    /// Waits until the process has ended by itself: its exit code and what it said.
    pub fn wait(&mut self) -> (i32, String) {
        wait_until("the relay ends", || !self.is_running());
        let mut process = self.process.take().unwrap();
        let status = process.child.wait().unwrap();
        process.reader.take().unwrap().join().unwrap();
        let said = process.diagnostics.lock().unwrap().clone();
        (status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)), said)
    }

    /// Ends it in order: SIGTERM; gives its exit code.
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait().0
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Stops and starts it.
    pub fn restart(&mut self) {
        assert_eq!(self.stop(), 0);
        self.run();
    }

    /// Runs a command for this relay's data directory.
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut all = args.to_vec();
        let data = self.data.display().to_string();
        all.extend(["--data", &data]);
        cli(self.directory(), &all)
    }

    /// Runs a command for this relay's configuration file.
    pub fn cli_by_config(&self, args: &[&str]) -> Output {
        let mut all = args.to_vec();
        all.extend(["--config", "stagepost.toml"]);
        cli(self.directory(), &all)
    }

    /// Starts a command for this relay's data directory that goes on until the test ends.
    pub fn follow(&self, args: &[&str]) -> Follower {
        let mut child = command(self.directory())
            .args(args)
            .arg("--data")
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Follower { child, out }
    }

    /// Asks on the operators' socket.
    pub fn ask_admin(&self, path: &str) -> Response {
        let stream = UnixStream::connect(self.data.join("admin.sock")).unwrap();
        exchange(stream, &Request::get(path)).unwrap()
    }

    /// The value of a metric, by its whole name with labels; 0 if it is not told.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.ask_admin("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// Sends a request; the answer.
    pub fn send(&self, request: &Request) -> Response {
        let stream = std::net::TcpStream::connect(self.address()).unwrap();
        exchange(stream, request).unwrap()
    }

    /// Posts a body; the id of the accepted event.
    pub fn accept(&self, path: &str, body: impl AsRef<[u8]>) -> String {
        let answer = self.send(&Request::post(path, body));
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("stagepost-event-id").unwrap().to_owned()
    }

    /// All events, newest first.
    pub fn events(&self) -> Vec<Value> {
        self.cli(&["log", "--json", "-n", "10000"]).done().lines()
    }

    /// `show --json`.
    pub fn show(&self, id: &str) -> Value {
        self.cli(&["show", id, "--json"]).done().json()
    }

    /// Waits until an event is in a state; gives it as `show --json` does.
    pub fn wait_for_state(&self, id: &str, state: &str) -> Value {
        let mut last = Value::Null;
        let clock = stagepost::clock::Clock::system();
        let start = clock.elapsed();
        wait_for("the state of an event", || {
            last = self.show(id);
            let late = clock.elapsed() - start > super::PATIENCE / 2;
            assert!(!late || last["state"] == state, "{id} should become {state}: {last:#}");
            (last["state"] == state).then(|| last.clone())
        })
    }

    /// What `status --json` tells about an upstream.
    pub fn upstream(&self, name: &str) -> Value {
        let status = self.cli(&["status", "--json"]).done().json();
        let all = status["upstreams"].as_array().unwrap().clone();
        all.into_iter().find(|upstream| upstream["name"] == name).unwrap_or(Value::Null)
    }
}

/// A command that follows.
pub struct Follower {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Follower {
    /// Its next line; waits for it.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "the command ended");
        line
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let _gone = process.child.kill();
        let _gone = process.child.wait();
        if thread::panicking() {
            eprintln!("--- diagnostics of the relay\n{}---", process.diagnostics.lock().unwrap());
        }
    }
}
