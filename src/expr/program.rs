//! Owns compiling jq with `jaq` and running a compiled program to the end.
//!
//! Promises that a program sees its input and the variables of `bind` only: what reads the environment, the clock or other
//! files, and what ends the process, is not defined. Bounds nothing but the output: `safe` and the pool do the rest.

use std::{
    cell::Cell,
    fmt::{self, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
};

use bytes::Bytes;
use jaq_core::{
    Compiler, Ctx, Exn, Filter, Vars,
    data::JustLut,
    load::{self, Arena, File, Loader, lex, parse::Term},
};
use jaq_json::Val;

use super::{CompileError, EvalError, TEXT_BYTES_MAX, bind, json::Sink, plain::Plain, safe};

/// Stack for compiling and for evaluating in a worker: both recurse with the nesting of the text. Only touched pages
/// cost memory.
pub(super) const STACK_BYTES: usize = 128 << 20;

/// What would let an expression look beyond the request or end the process.
const WITHHELD: [&str; 4] = ["env", "now", "halt", "halt_error"];

/// The longest error message that is kept: messages quote values, and values are as large as bodies.
const MESSAGE_BYTES_MAX: usize = 300;

type Data = JustLut<Val>;

/// A compiled program. Immutable, shared by all threads.
pub(super) struct Program {
    filter: Filter<Data>,
    /// Which variables the text names: the others are bound to null.
    pub(super) uses: bind::Uses,
}

/// What the text of a program lets us promise about its cost.
pub(super) enum Shape {
    Plain(Plain),
    Linear { body_bytes_max: usize },
    Unbounded,
}

/// Compiles on a thread with a deep stack, so that a deeply nested text can't overflow the caller's.
pub(super) fn compile_apart(text: &str) -> Result<(Program, Shape), CompileError> {
    let trouble = |what: &str| CompileError { message: format!("the expression can't be compiled: {what}") };
    thread::scope(|scope| {
        thread::Builder::new()
            .name("expr-compile".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || caught(|| compile(text)))
            .map_err(|error| trouble(&error.to_string()))?
            .join()
            .ok()
            .flatten()
            .ok_or_else(|| trouble("the compiler panicked"))?
    })
}

/// Compiles on this thread, which needs a stack of [`STACK_BYTES`].
pub(super) fn compile(text: &str) -> Result<(Program, Shape), CompileError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(CompileError {
            message: format!("the expression is longer than {TEXT_BYTES_MAX} bytes: shorten it"),
        });
    }
    let arena = Arena::default();
    let defs =
        jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs()).filter(|def| !WITHHELD.contains(&def.name));
    let funs = jaq_core::funs::<Data>()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs())
        .filter(|(name, ..)| !WITHHELD.contains(name));
    let modules = Loader::new(defs)
        .load(&arena, File { code: text, path: () })
        .map_err(|errors| CompileError { message: load_message(text, &errors) })?;
    // Parsed a second time, as a term alone: that also refuses `import … as $x`, which the loader lets through.
    let term: Term<&str> = load::parse(text, |parser| parser.term())
        .ok_or_else(|| CompileError { message: "modules and imports are not supported".into() })?;
    let filter = Compiler::default()
        .with_funs(funs)
        .with_global_vars(bind::NAMES)
        .compile(modules)
        .map_err(|errors| CompileError { message: undefined_message(text, &errors) })?;
    let shape = match Plain::of(&term) {
        Some(plain) => Shape::Plain(plain),
        None => safe::body_bytes_max(&term).map_or(Shape::Unbounded, |body_bytes_max| Shape::Linear { body_bytes_max }),
    };
    Ok((Program { filter, uses: bind::Uses::of(text) }, shape))
}

impl Program {
    /// Runs to the end.
    pub(super) fn run(&self, variables: Vec<Val>, input: Val, output_limit: u64) -> Result<Vec<Bytes>, EvalError> {
        let run = || {
            let mut sink = Sink::new(output_limit);
            let ctx = Ctx::<Data>::new(&self.filter.lut, Vars::new(variables));
            for value in self.filter.id.run((ctx, input)) {
                sink.push(&value.map_err(|exception| EvalError::Failed(failure(exception)))?)?;
            }
            Ok(sink.into_values())
        };
        caught(run).unwrap_or_else(|| Err(EvalError::Failed("the expression made the interpreter panic".into())))
    }
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs something of the interpreter's; None if it panicked.
fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    let before = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    CATCHING.set(before);
    result.ok()
}

/// Whether this thread is about to catch a panic of the interpreter: the process's panic hook must let it pass then,
/// or a stranger's body could end the process.
#[must_use]
pub fn panic_is_expected() -> bool {
    CATCHING.get()
}

fn failure(exception: Exn<'_, Val>) -> String {
    let mut message = Short(String::new());
    match exception.get_err() {
        // `error("text")` is a message, not a quoted value.
        Ok(error) => match error.into_val() {
            Val::TStr(text) => {
                let _cut = message.write_str(&String::from_utf8_lossy(text.get(..1024).unwrap_or(&text)));
            }
            other => {
                let _cut = write!(message, "{other}");
            }
        },
        Err(_) => message.0.push_str("the expression left by `break` without its label"),
    }
    message.0
}

/// Text that stops growing at [`MESSAGE_BYTES_MAX`].
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() + character.len_utf8() > MESSAGE_BYTES_MAX {
                self.0.push('…');
                return Err(fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}

type Errors<'a, E> = Vec<(File<&'a str, ()>, E)>;

fn load_message(text: &str, errors: &Errors<'_, load::Error<&str>>) -> String {
    let first = errors.first().map(|(_, error)| error);
    match first {
        Some(load::Error::Lex(all)) => match all.first() {
            Some((expected, rest)) => place(text, rest, &format!("expected {}", lex::Expect::as_str(expected))),
            None => "not jq".into(),
        },
        Some(load::Error::Parse(all)) => match all.first() {
            Some((expected, found)) => place(text, found, &format!("expected {}", expected.as_str())),
            None => "not jq".into(),
        },
        Some(load::Error::Io(_)) => "modules and imports are not supported".into(),
        None => "not jq".into(),
    }
}

fn undefined_message(text: &str, errors: &Errors<'_, Vec<(&str, jaq_core::compile::Undefined)>>) -> String {
    match errors.iter().find_map(|(_, all)| all.first()) {
        Some((name, kind @ jaq_core::compile::Undefined::Filter(arity))) => {
            place(text, name, &format!("undefined {} {name}/{arity}", kind.as_str()))
        }
        Some((name, kind)) => place(text, name, &format!("undefined {} {name}", kind.as_str())),
        None => "not jq".into(),
    }
}

/// The message with line and column of `part`, which is a piece of `text` or empty for its end.
fn place(text: &str, part: &str, message: &str) -> String {
    let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    let before = if part.is_empty() { text } else { text.get(..start).unwrap_or(text) };
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    format!("{message} at line {line}, column {column}")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_panic_of_the_interpreter_is_announced_to_the_hook_as_one_that_is_caught() {
        let (here, seen) = (thread::current().id(), Arc::new(Mutex::new(Vec::new())));
        let (before, told) = (std::panic::take_hook(), seen.clone());
        std::panic::set_hook(Box::new(move |info| match thread::current().id() == here {
            true => told.lock().unwrap().push(panic_is_expected()),
            false => before(info),
        }));
        assert_eq!(caught(|| panic!("the interpreter's fault")).map(|(): ()| ()), None);
        assert_eq!(*seen.lock().unwrap(), [true]);
        assert!(!panic_is_expected(), "the next panic of this thread is ours");
        assert_eq!(caught(|| 1), Some(1));
    }
}
