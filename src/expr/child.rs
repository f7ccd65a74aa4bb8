//! Owns one worker process as the pool sees it: starting it, asking it, and finding out what it died of.
//!
//! Promises that a worker is killed when it is dropped, sees nothing of our environment, and can make us wait or
//! allocate no more than the limits say.

use std::{io, path::PathBuf, process::Stdio, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

use super::{EvalError, Settings, wire, worker::SUBCOMMAND};

/// What a worker may take to start, and to read and compile a request, beside what its size allows.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Reading, decoding and parsing are bounded by the size of the body, so they have a time of their own: a slow machine
/// must not turn a large body into a runaway.
const LOAD_TIME_PER_MIB: Duration = Duration::from_millis(400);

/// What an answer may have beside its outputs: error texts are far shorter.
const ANSWER_SLACK_BYTES: u64 = 64 * 1024;

/// Of what a dying worker wrote to its standard error.
const LAST_WORDS_BYTES_MAX: u64 = 1024;

/// How much mimalloc reserves at once, in KiB. Its usual 1 GiB counts as used address space, and what lies in it escapes
/// the memory limit.
const ARENA: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "32768");

/// For a worker whose pipes are closed to be gone.
const EXIT_LIMIT: Duration = Duration::from_secs(2);

/// Signals that somebody else sent to a worker, for example a service manager to every process of the service. As
/// [`std::process::ExitStatus`] prints them.
const ASKED_TO_END: [&str; 3] = ["SIGTERM", "SIGINT", "SIGHUP"];

/// Why a worker has to go.
pub(super) enum Lost {
    /// It did not take the request.
    BeforeBegin(io::Error),
    /// It went while it evaluated.
    Dead(io::Error),
    /// The evaluation took too long.
    Late,
}

/// One worker process. Dropping it kills it.
pub(super) struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
    last_words: ChildStderr,
    /// Time at work so far.
    pub(super) busy: Duration,
}

impl Worker {
    pub(super) async fn start(settings: &Settings) -> Result<Self, EvalError> {
        let unavailable = |what: String| EvalError::Unavailable(what);
        let program = settings.program.clone().map_or_else(this_binary, Ok).map_err(|e| unavailable(e.to_string()))?;
        let mut command = Command::new(&program);
        command
            .arg(SUBCOMMAND)
            .arg(settings.memory_limit.to_string())
            // Nothing of our environment: secrets are in it.
            .env_clear()
            .env(ARENA.0, ARENA.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: ^C in a terminal is meant for the server, which drains and then ends its workers.
            .process_group(0)
            .kill_on_drop(true);
        // In a task of the runtime: whoever asks may be a thread of low priority, which a process would inherit.
        let spawned =
            tokio::spawn(async move { command.spawn() }).await.map_err(|error| unavailable(error.to_string()))?;
        let mut child = spawned.map_err(|error| unavailable(format!("{}: {error}", program.display())))?;
        let (Some(requests), Some(answers), Some(last_words)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(unavailable("a worker came without its pipes".into()));
        };
        let mut worker = Self { child, requests, answers, last_words, busy: Duration::ZERO };
        match timeout(START_LIMIT, worker.read_frame(wire::MAGIC.len() as u64)).await {
            Ok(Ok((wire::READY, magic))) if magic == wire::MAGIC => Ok(worker),
            Ok(Ok(_)) => Err(unavailable(format!("{} is no expression worker of this version", program.display()))),
            Ok(Err(error)) => Err(unavailable(format!("a worker did not start: {error}"))),
            Err(_) => Err(unavailable("a worker did not start in time".into())),
        }
    }

    pub(super) async fn ask(
        &mut self,
        head: &[u8],
        body: &[u8],
        settings: &Settings,
    ) -> Result<Result<Vec<Bytes>, EvalError>, Lost> {
        let began = Instant::now();
        let answer_max = settings.output_limit.saturating_add(ANSWER_SLACK_BYTES);
        let loading = async {
            self.requests.write_all(&wire::frame_head(0, head.len() + body.len())?).await?;
            self.requests.write_all(head).await?;
            self.requests.write_all(body).await?;
            self.read_frame(answer_max).await
        };
        let mib = u32::try_from(body.len() >> 20).unwrap_or(u32::MAX);
        let load_limit = START_LIMIT + LOAD_TIME_PER_MIB.saturating_mul(mib);
        let (mut tag, mut payload) = match timeout(load_limit, loading).await {
            Ok(frame) => frame.map_err(Lost::BeforeBegin)?,
            Err(_) => return Err(Lost::Late),
        };
        if tag == wire::BEGUN {
            (tag, payload) = match timeout(settings.time_limit, self.read_frame(answer_max)).await {
                Ok(frame) => frame.map_err(Lost::Dead)?,
                Err(_) => return Err(Lost::Late),
            };
        }
        self.busy += began.elapsed();
        wire::read_answer(tag, payload).map_err(Lost::Dead)
    }

    async fn read_frame(&mut self, bytes_max: u64) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; wire::FRAME_HEAD_BYTES];
        self.answers.read_exact(&mut head).await?;
        let (tag, length) = wire::read_frame_head(head);
        if length as u64 > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer is too long"));
        }
        let mut payload = vec![0; length];
        self.answers.read_exact(&mut payload).await?;
        Ok((tag, payload))
    }

    /// What a worker that failed us died of.
    pub(super) async fn autopsy(mut self, error: &io::Error, settings: &Settings) -> EvalError {
        // If its pipes are closed it is ending. If it answered nonsense it has to be ended.
        let ending = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        let status = match timeout(if ending { EXIT_LIMIT } else { Duration::ZERO }, self.child.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            _ => error.to_string(),
        };
        let _dead_already = self.child.start_kill();
        let mut words = Vec::new();
        let mut last_words = (&mut self.last_words).take(LAST_WORDS_BYTES_MAX);
        let _cut_short = timeout(EXIT_LIMIT, last_words.read_to_end(&mut words)).await;
        let words = String::from_utf8_lossy(&words);
        if words.contains("memory allocation") {
            EvalError::TooLarge(settings.memory_limit)
        } else if words.contains("overflowed its stack") {
            EvalError::Failed("the expression recursed too deeply".into())
        } else if ASKED_TO_END.iter().any(|signal| status.contains(signal)) {
            EvalError::Unavailable(format!("somebody ended a worker ({status})"))
        } else {
            EvalError::Failed(format!("the expression ended its worker process ({status})"))
        }
    }
}

/// The running binary. On Linux by its magic link, which also works after an upgrade has replaced the file.
fn this_binary() -> io::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() { Ok(link) } else { std::env::current_exe() }
}
