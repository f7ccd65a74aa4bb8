//! What the fuzzers run, in a short form and on any toolchain: the inputs they begin with, changed at random, and bytes
//! without sense. `fuzz/README.md` says how to run them for longer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the targets end by panicking"
)]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use proptest::{collection::vec, prelude::*, sample::Index};
use targets::{TARGETS, Target};

/// So many inputs for each target, in each test.
const CASES: u32 = 1500;

/// What the grammars are made of.
const WORDS: [&[u8]; 24] = [
    b",",
    b";",
    b"=",
    b"v1=",
    b"v1,",
    b"v1a,",
    b"t=",
    b"sha256=",
    b"\n",
    b":",
    b"\x1e",
    b".",
    b"Bearer ",
    b"{",
    b"}",
    b"\"",
    b"<",
    b"</",
    b"&",
    b"%",
    b"+",
    b"-",
    b"999999999999999999999",
    b"https://",
];

/// One change.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Word(Index, Index),
    Remove(Index, usize),
    Repeat(Index, usize),
    /// The rest is another input's.
    Splice(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), at()).prop_map(|(at, word)| Change::Word(at, word)),
        (at(), 1..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 1..200_usize).prop_map(|(at, length)| Change::Repeat(at, length)),
        (at(), at()).prop_map(|(at, other)| Change::Splice(at, other)),
    ]
}

fn changed(mut input: Vec<u8>, changes: &[Change], others: &[Vec<u8>]) -> Vec<u8> {
    for change in changes {
        let place = |at: &Index| at.index(input.len() + 1);
        match change {
            Change::Flip(at, bit) if !input.is_empty() => {
                let at = at.index(input.len());
                input[at] ^= 1 << bit;
            }
            Change::Flip(..) => {}
            Change::Insert(at, bytes) => {
                let at = place(at);
                input.splice(at..at, bytes.iter().copied());
            }
            Change::Word(at, word) => {
                let at = place(at);
                input.splice(at..at, WORDS[word.index(WORDS.len())].iter().copied());
            }
            Change::Remove(at, length) => {
                let at = place(at);
                input.drain(at..(at + length).min(input.len()));
            }
            Change::Repeat(at, length) => {
                let at = place(at);
                let piece = input[at..(at + length).min(input.len())].to_vec();
                input.splice(at..at, piece);
            }
            Change::Splice(at, other) => {
                let (at, other) = (place(at), &others[other.index(others.len())]);
                input.truncate(at);
                input.extend_from_slice(&other[at.min(other.len())..]);
            }
        }
    }
    input
}

fn run(target: &Target) {
    let genuine = (target.seeds)();
    assert!(!genuine.is_empty());
    for input in &genuine {
        assert!((target.run)(input), "{} takes {:?}", target.name, String::from_utf8_lossy(input));
    }
    let inputs: Vec<Vec<u8>> = genuine.into_iter().chain((target.hints)()).collect();
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let near = (any::<Index>(), vec(change(), 1..6));
    let verdict = runner.run(&near, |(which, changes)| {
        (target.run)(&changed(inputs[which.index(inputs.len())].clone(), &changes, &inputs));
        Ok(())
    });
    verdict.unwrap_or_else(|failure| panic!("{}, changed: {failure}", target.name));
    let verdict = runner.run(&vec(any::<u8>(), 0..400), |input| {
        (target.run)(&input);
        Ok(())
    });
    verdict.unwrap_or_else(|failure| panic!("{}, anything: {failure}", target.name));
}

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap()
}

#[test]
fn heads_of_requests_are_read_without_a_panic_and_no_change_of_a_signed_one_is_taken() {
    run(target("headers"));
}

#[test]
fn timestamps_are_read_as_a_second_reader_does() {
    run(target("timestamps"));
}

#[test]
fn xml_is_read_without_a_panic_and_shows_no_session() {
    run(target("salesforce"));
}

#[test]
fn tokens_are_taken_only_as_they_were_signed() {
    run(target("tokens"));
}

#[test]
fn forms_are_signed_as_a_second_reader_does() {
    run(target("forms"));
}

#[test]
fn keys_are_looked_for_where_their_publishers_have_them_and_nowhere_else() {
    run(target("documents"));
}

#[test]
fn every_target_has_a_program_and_a_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = std::fs::read_dir(root.join("fuzz/fuzz_targets")).unwrap();
    let mut programs: Vec<String> =
        programs.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    programs.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!(programs, names);
    let tests = include_str!("fuzz.rs");
    assert!(names.iter().all(|name| tests.contains(&format!("run(target(\"{name}\"))"))));
}
