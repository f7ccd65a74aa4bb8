//! Owns the worker process: reads requests from its standard input, evaluates one at a time, answers on its standard
//! output.
//!
//! Promises to take no more memory and CPU than it was given, to leave no core file (bodies are in it), and to end as
//! soon as its parent does, even in the middle of an evaluation: one thread does nothing but read.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    process::ExitCode,
    sync::mpsc,
    thread,
};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{
    EvalError,
    bind::{self, Body},
    decode::decode_body,
    program::{self, Program, STACK_BYTES},
    wire,
};

/// The hidden subcommand. Its one argument is the memory limit in bytes.
pub(super) const SUBCOMMAND: &str = "expr-worker";

/// Address space beside what expressions may use and what is mapped at the start: the evaluator's stack, the
/// allocator's reserve.
const BASE_BYTES: u64 = 256 << 20;

/// The unit of `/proc/self/statm` where pages are smallest; larger pages only make the limit tighter.
const PAGE_BYTES: u64 = 4096;

/// CPU seconds of one process. The parent retires workers long before; this ends one whose parent does not.
const CPU_SECONDS: u64 = 60;

/// Compiled programs that are kept. When there are more, all are dropped: configurations have a few dozen.
const PROGRAMS_MAX: usize = 256;

/// The whole life of a worker process. For `main`, when the first argument is `expr-worker`.
#[must_use]
pub fn worker_main() -> ExitCode {
    // A panic is an answer, not a message: nobody reads standard error while the worker lives.
    std::panic::set_hook(Box::new(|_| {}));
    let memory = std::env::args().nth(2).and_then(|bytes| bytes.parse::<u64>().ok());
    if let Err(error) = confine(memory) {
        let _unheard = writeln!(io::stderr(), "limits: {error}");
        return ExitCode::FAILURE;
    }
    let (requests, queue) = mpsc::sync_channel(1);
    let evaluator = thread::Builder::new().name("expr".into()).stack_size(STACK_BYTES).spawn(move || serve(&queue));
    if evaluator.is_err() || send(wire::READY, wire::MAGIC).is_err() {
        return ExitCode::FAILURE;
    }
    let mut input = io::stdin().lock();
    while let Ok(frame) = read_frame(&mut input) {
        if requests.send(frame).is_err() {
            return ExitCode::FAILURE;
        }
    }
    // End of input: the parent is gone or has let go. Returning ends the evaluation as well.
    ExitCode::SUCCESS
}

fn confine(memory: Option<u64>) -> io::Result<()> {
    let limit = |resource, value| setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    limit(Resource::Core, 0)?;
    limit(Resource::Cpu, CPU_SECONDS)?;
    if let Some(memory) = memory {
        limit(Resource::As, memory.saturating_add(BASE_BYTES).saturating_add(mapped_bytes()))?;
    }
    Ok(())
}

/// Address space in use, which an allocator may have reserved generously; 0 if the system does not say.
fn mapped_bytes() -> u64 {
    let pages = |statm: String| statm.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    std::fs::read_to_string("/proc/self/statm").ok().and_then(pages).map_or(0, |pages| pages.saturating_mul(PAGE_BYTES))
}

fn read_frame(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; wire::FRAME_HEAD_BYTES];
    input.read_exact(&mut head)?;
    let (_, length) = wire::read_frame_head(head);
    let mut frame = vec![0; length];
    input.read_exact(&mut frame)?;
    Ok(frame)
}

fn send(tag: u8, payload: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(&wire::frame_head(tag, payload.len())?)?;
    output.write_all(payload)?;
    output.flush()
}

/// Evaluates what comes, until the reader is gone or nobody takes the answers.
fn serve(queue: &mpsc::Receiver<Vec<u8>>) {
    let mut programs = Programs(HashMap::new());
    while let Ok(frame) = queue.recv() {
        let (tag, payload) = wire::answer(&programs.evaluate(frame));
        if send(tag, &payload).is_err() {
            return;
        }
    }
}

struct Programs(HashMap<String, Program>);

impl Programs {
    fn evaluate(&mut self, frame: Vec<u8>) -> Result<Vec<Bytes>, EvalError> {
        let failed = |error: &dyn std::fmt::Display| EvalError::Failed(error.to_string());
        let request = wire::read_request(frame).map_err(|error| failed(&error))?;
        let input = request.input();
        let program = self.program(&request.text).map_err(|error| failed(&error))?;
        let decoded = decode_body(input.headers, input.body, request.bounds.decoded)?;
        let value = Body::of(input.headers, &decoded).read()?;
        let variables = bind::variables(program.uses, &input, &decoded);
        send(wire::BEGUN, &[]).map_err(|error| failed(&error))?;
        program.run(variables, value, request.bounds.output)
    }

    fn program(&mut self, text: &str) -> Result<&Program, super::CompileError> {
        if !self.0.contains_key(text) {
            if self.0.len() >= PROGRAMS_MAX {
                self.0.clear();
            }
            let (program, _) = program::compile(text)?;
            self.0.insert(text.to_owned(), program);
        }
        self.0.get(text).ok_or_else(|| super::CompileError { message: "the compiled program is gone".into() })
    }
}
