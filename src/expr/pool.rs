//! Owns the evaluator: what runs on the caller's thread, and the pool of worker processes for the rest.
//!
//! Promises that an evaluation that is late, too large or crashes its worker costs that worker, which is killed and
//! replaced, and nobody else's evaluation. A worker never has more than one request; a request that is given up (its
//! future is dropped) takes its worker along. Expressions that ran away lately share a slow lane of half the workers, so
//! that a stream of bodies made to trip one of them can't keep the others waiting.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    EvalError, Expr, INLINE_BODY_BYTES_MAX, Input, Output, Tier,
    bind::{self, Body},
    child::{Lost, Worker},
    decode::{decode_body, is_encoded},
    program::Program,
    wire,
};

/// A worker is retired after so much time at work: its CPU limit counts its whole life.
const RETIRE_AFTER: Duration = Duration::from_secs(20);

/// A worker that had a larger body is retired at once: it keeps its memory otherwise.
const RETIRE_BODY_BYTES: usize = 4 << 20;

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
    /// Stopped at a limit so far.
    stopped: AtomicU64,
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
            stopped: AtomicU64::new(0),
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
                    return plain.eval(input, input.body);
                }
                match decode_small(input, INLINE_BODY_BYTES_MAX)? {
                    Ok(decoded) => plain.eval(input, &decoded),
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

    /// How many evaluations were stopped at a limit since the start.
    #[must_use]
    pub fn stopped(&self) -> u64 {
        self.0.stopped.load(Ordering::Relaxed)
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
        if matches!(result, Err(EvalError::TooSlow(_) | EvalError::TooLarge(_))) {
            pool.stopped.fetch_add(1, Ordering::Relaxed);
        }
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
