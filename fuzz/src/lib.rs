//! Owns what the fuzzers run: for each reader of what senders write, a function that takes any bytes, and the requests
//! it begins with. `fuzz_targets/` hands them to libFuzzer; `tests/fuzz.rs` runs them on any toolchain, in a short form.
//!
//! Promises that a function panics only if the code under test does, or breaks what it promises: that nothing is
//! accepted which nobody signed, that pieces of a body make no difference, and what a second, simpler reader says.

// In the tests of the project, where this is a module, not every item is used.
#![allow(dead_code, reason = "each program uses the targets that it runs")]

pub mod documents;
pub mod forms;
pub mod genuine;
pub mod headers;
pub mod salesforce;
pub mod timestamps;
pub mod tokens;

/// When everything here happens: 2026-01-02T03:04:05Z.
pub const NOW_MS: u64 = 1_767_323_045_000;

/// What stands between the pieces of an input: a byte that no header, address or form has.
pub const BETWEEN: u8 = 0x1e;

/// A target: its name, what it does with an input, and the inputs to begin with. It says whether the input was taken for
/// genuine.
pub struct Target {
    /// The name of its program.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]) -> bool,
    /// All of them are taken for genuine.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// More inputs to begin with, which nobody signed.
    pub hints: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "headers", run: headers::run, seeds: headers::seeds, hints: Vec::new },
    Target { name: "timestamps", run: timestamps::run, seeds: timestamps::seeds, hints: Vec::new },
    Target { name: "salesforce", run: salesforce::run, seeds: salesforce::seeds, hints: Vec::new },
    Target { name: "tokens", run: tokens::run, seeds: tokens::seeds, hints: tokens::hints },
    Target { name: "forms", run: forms::run, seeds: forms::seeds, hints: Vec::new },
    Target { name: "documents", run: documents::run, seeds: documents::seeds, hints: documents::hints },
];

/// The pieces of an input; what is missing is empty, what is left over belongs to the last.
pub fn pieces<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut all = data.splitn(N, |byte| *byte == BETWEEN);
    std::array::from_fn(|_| all.next().unwrap_or_default())
}

/// Pieces as one input.
pub fn joined(pieces: &[&[u8]]) -> Vec<u8> {
    pieces.join(&BETWEEN)
}

/// Writes what a target begins with into `corpus/TARGET`, where its fuzzer looks.
pub fn write_corpus(root: &str, name: &str) {
    let corpus = std::path::Path::new(root).join("corpus").join(name);
    std::fs::create_dir_all(&corpus).expect("the corpus can be written");
    for target in TARGETS.iter().filter(|target| target.name == name) {
        for (number, seed) in (target.seeds)().into_iter().chain((target.hints)()).enumerate() {
            std::fs::write(corpus.join(format!("seed-{number:03}")), seed).expect("the corpus can be written");
        }
    }
}
