//! Owns the evaluator: what runs on the caller's thread, and the pool of worker processes for the rest.
//!
//! Promises that an evaluation that is late, too large or crashes its worker costs that worker, which is killed and
//! replaced, and nobody else's evaluation. A worker never has more than one request; a request that is given up (its
//! future is dropped) takes its worker along. Expressions that ran away lately share a slow lane of half the workers, so
//! that a stream of bodies made to trip one of them can't keep the others waiting.

use std::{
    io,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::{
    EvalError, Expr, INLINE_BODY_BYTES_MAX, Input, Output, Tier,
    bind::{self, Body},
    decode::{decode_body, is_encoded},
    program::Program,
    wire,
    worker::SUBCOMMAND,
};

/// What a worker may take to start, and to read and compile a request, beside what its size allows.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Reading, decoding and parsing are bounded by the size of the body, so they have a time of their own: a slow machine
/// must not turn a large body into a runaway.
const LOAD_TIME_PER_MIB: Duration = Duration::from_millis(400);

/// A worker is retired after so much time at work: its CPU limit counts its whole life.
const RETIRE_AFTER: Duration = Duration::from_secs(20);

/// A worker that had a larger body is retired at once: it keeps its memory otherwise.
const RETIRE_BODY_BYTES: usize = 4 << 20;

/// What an answer may have beside its outputs: error texts are far shorter.
const ANSWER_SLACK_BYTES: u64 = 64 * 1024;

/// Of what a dying worker wrote to its standard error.
const LAST_WORDS_BYTES_MAX: u64 = 1024;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker processes at most; they are started when first needed. At least 1.
    pub workers: usize,
    /// The longest evaluation, from the moment the worker has read the body.
    pub time_limit: Duration,
    /// What an evaluation may use, in bytes of a worker's address space.
    pub memory_limit: u64,
    /// The outputs of one evaluation, in bytes.
    pub output_limit: u64,
    /// The largest body after undoing `Content-Encoding`, in bytes.
    pub decoded_limit: u64,
    /// Evaluations that run or wait for a worker; more are refused with [`EvalError::Unavailable`].
    pub queue_limit: usize,
    /// What is run as `PROGRAM expr-worker`; None: this very binary, even after its file was replaced.
    pub program: Option<PathBuf>,
}

impl Settings {
    /// The defaults of the documentation: 2 workers, 250 ms, 512 MiB, outputs of 10 MiB, decoded bodies of 25 MiB, a
    /// queue of 1,024.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            workers: 2,
            time_limit: Duration::from_millis(250),
            memory_limit: 512 << 20,
            output_limit: 10 << 20,
            decoded_limit: 25 << 20,
            queue_limit: 1024,
            program: None,
        }
    }
}

/// Evaluates expressions. Cheap to clone; all clones share the pool. Dropping the last clone kills the workers.
#[derive(Clone)]
pub struct Evaluator(Arc<Pool>);

struct Pool {
    settings: Settings,
    idle: Mutex<Vec<Worker>>,
    /// One for each worker.
    lane: Semaphore,
    /// What suspects need before they may queue for a worker.
    slow_lane: Semaphore,
    /// Running and waiting.
    queued: AtomicUsize,
}

impl Evaluator {
    /// An evaluator; workers are started when they are needed, inside the runtime that then evaluates.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let workers = settings.workers.max(1);
        Self(Arc::new(Pool {
            idle: Mutex::new(Vec::with_capacity(workers)),
            lane: Semaphore::new(workers),
            slow_lane: Semaphore::new((workers / 2).max(1)),
            queued: AtomicUsize::new(0),
            settings,
        }))
    }

    /// Evaluates at once if the expression can't run away; None if it needs the pool: it is not
    /// [inline](Expr::is_inline), or the body is too large or too tangled to be worked through on the caller's thread.
    #[must_use]
    pub fn now(&self, expr: &Expr, input: &Input<'_>) -> Option<Result<Output, EvalError>> {
        match &expr.0.tier {
            Tier::Pool => None,
            Tier::Plain(plain) => {
                if !plain.needs_body() || !is_encoded(input.headers) {
                    return Some(plain.eval(input, input.body));
                }
                match decode_small(input, INLINE_BODY_BYTES_MAX)? {
                    Ok(decoded) => Some(plain.eval(input, &decoded)),
                    Err(error) => Some(Err(error)),
                }
            }
            Tier::Inline { program, body_bytes_max } => {
                if input.body.len() > *body_bytes_max {
                    return None;
                }
                match decode_small(input, *body_bytes_max)? {
                    Ok(decoded) => self.0.run_here(program, input, &decoded),
                    Err(error) => Some(Err(error)),
                }
            }
        }
    }

    /// Evaluates, in the pool if need be. Cancel-safe: a dropped evaluation is stopped.
    ///
    /// Under tokio's paused test clock deadlines pass while the worker works; evaluate inline expressions there.
    ///
    /// # Errors
    /// [`EvalError`]; [`EvalError::Unavailable`] if the queue is full or no worker can be started.
    pub async fn eval(&self, expr: &Expr, input: &Input<'_>) -> Result<Output, EvalError> {
        if let Some(result) = self.now(expr, input) {
            return result;
        }
        let pool = &*self.0;
        let _place = pool.queue()?;
        let _slow = if expr.is_suspect() { Some(permit(&pool.slow_lane).await?) } else { None };
        let _worker = permit(&pool.lane).await?;
        let result = pool.run_apart(expr.text(), input).await;
        expr.note(&result);
        result.map(|values| Output { values })
    }
}

async fn permit(lane: &Semaphore) -> Result<SemaphorePermit<'_>, EvalError> {
    lane.acquire().await.map_err(|_| EvalError::Unavailable("the evaluator is shutting down".into()))
}

/// The body without its encoding, if that is quick; None if the pool has to do it.
fn decode_small<'a>(input: &Input<'a>, bytes_max: usize) -> Option<Result<std::borrow::Cow<'a, [u8]>, EvalError>> {
    if input.body.len() > bytes_max && is_encoded(input.headers) {
        return None;
    }
    match decode_body(input.headers, input.body, bytes_max as u64) {
        // Perhaps only too large for this thread.
        Err(EvalError::TooLarge(limit)) if limit == bytes_max as u64 => None,
        decoded => Some(decoded),
    }
}

/// A place in the queue, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    fn run_here(&self, program: &Program, input: &Input<'_>, decoded: &[u8]) -> Option<Result<Output, EvalError>> {
        let body = Body::of(input.headers, decoded);
        if !body.is_light() {
            return None;
        }
        let run = |value| {
            let variables = bind::variables(program.uses, input, decoded);
            program.run(variables, value, self.settings.output_limit).map(|values| Output { values })
        };
        Some(body.read().and_then(run))
    }

    fn queue(&self) -> Result<Place<'_>, EvalError> {
        let place = Place(&self.queued);
        if self.queued.fetch_add(1, Ordering::Relaxed) >= self.settings.queue_limit {
            return Err(EvalError::Unavailable(format!("{} evaluations wait already", self.settings.queue_limit)));
        }
        Ok(place)
    }

    async fn run_apart(&self, text: &str, input: &Input<'_>) -> Result<Vec<Bytes>, EvalError> {
        let bounds = wire::Bounds { output: self.settings.output_limit, decoded: self.settings.decoded_limit };
        let head = wire::request_head(text, input, bounds);
        // A worker that died while it was idle (an operator's kill, the kernel short of memory) is nobody's fault: the
        // next one gets the request. A fresh one that dies is.
        while let Some(mut worker) = self.pop_idle() {
            match worker.ask(&head, input.body, &self.settings).await {
                Err(Lost::BeforeBegin(_)) => {}
                end => return self.conclude(worker, end, input.body.len()).await,
            }
        }
        let mut worker = Worker::start(&self.settings).await?;
        let end = worker.ask(&head, input.body, &self.settings).await;
        self.conclude(worker, end, input.body.len()).await
    }

    async fn conclude(
        &self,
        worker: Worker,
        end: Result<Result<Vec<Bytes>, EvalError>, Lost>,
        body_bytes: usize,
    ) -> Result<Vec<Bytes>, EvalError> {
        match end {
            Ok(result) => {
                if worker.busy < RETIRE_AFTER && body_bytes <= RETIRE_BODY_BYTES {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
                }
                result
            }
            Err(Lost::Late) => {
                Err(EvalError::TooSlow(u64::try_from(self.settings.time_limit.as_millis()).unwrap_or(u64::MAX)))
            }
            Err(Lost::BeforeBegin(error) | Lost::Dead(error)) => Err(worker.autopsy(&error, &self.settings).await),
        }
    }

    fn pop_idle(&self) -> Option<Worker> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Why a worker has to go.
enum Lost {
    /// It did not take the request.
    BeforeBegin(io::Error),
    /// It went while it evaluated.
    Dead(io::Error),
    /// The evaluation took too long.
    Late,
}

/// One worker process. Dropping it kills it.
struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
    last_words: ChildStderr,
    /// Time at work so far.
    busy: Duration,
}

impl Worker {
    async fn start(settings: &Settings) -> Result<Self, EvalError> {
        let unavailable = |what: String| EvalError::Unavailable(what);
        let program = settings.program.clone().map_or_else(this_binary, Ok).map_err(|e| unavailable(e.to_string()))?;
        let mut child = Command::new(&program)
            .arg(SUBCOMMAND)
            .arg(settings.memory_limit.to_string())
            // Nothing of our environment: secrets are in it.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| unavailable(format!("{}: {error}", program.display())))?;
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

    async fn ask(
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

    /// What a dead worker died of.
    async fn autopsy(mut self, error: &io::Error, settings: &Settings) -> EvalError {
        // It is dead, or is killed here, so that its standard error ends.
        let _dead_already = self.child.start_kill();
        let mut words = Vec::new();
        let mut last_words = (&mut self.last_words).take(LAST_WORDS_BYTES_MAX);
        let _cut_short = timeout(START_LIMIT, last_words.read_to_end(&mut words)).await;
        let words = String::from_utf8_lossy(&words);
        if words.contains("memory allocation") {
            EvalError::TooLarge(settings.memory_limit)
        } else if words.contains("overflowed its stack") {
            EvalError::Failed("the expression recursed too deeply".into())
        } else {
            EvalError::Failed(format!("the expression ended its worker process ({error})"))
        }
    }
}

/// The running binary. On Linux by its magic link, which also works after an upgrade has replaced the file.
fn this_binary() -> io::Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && link.exists() { Ok(link) } else { std::env::current_exe() }
}
