//! A seeded simulation of the relay's heart: the log in memory, the agenda's step, a clock that is moved by hand and
//! an engine that answers by script. Sends, resends, outcomes, crashes, restarts from checkpoints of any age, clock
//! steps, reloads and operators' commands come at random; the checker looks at every step.
//!
//! A failure names its seed; `STAGEPOST_SIM_SEEDS` sets how many are tried, `STAGEPOST_SIM_SEED` the first, and with
//! `STAGEPOST_SIM_TRACE` set the history is printed as it happens.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may end by panicking")]
#![expect(clippy::print_stderr, reason = "a history is told to whoever asks for it")]

mod agenda;
mod checker;
mod closing;
mod engine;
mod life;
mod office;
mod operators;
mod order;
mod pieces;
mod replays;
mod starving;
mod table;
mod world;

use std::collections::BTreeMap;

use pieces::Sabotage;
use world::World;

/// Turns of one history before everything is let drain.
const TURNS: usize = 500;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What must have happened in so many histories: else they show nothing about it.
const REACHED: [&str; 11] = [
    "step",
    "void step",
    "step after a crash",
    "job cancelled between steps",
    "job waits for live events",
    "job waits for an upstream",
    "job waits for attempts",
    "was given up while under way",
    "subscriber disabled",
    "subscriber enabled",
    "died with its subscriber",
];
const REACHED_IN: u64 = 100;

/// What was to be checked, and how often.
type Reached = BTreeMap<&'static str, u64>;

/// One history from its seed: a hash of all that happened and what was reached, or what was wrong.
fn run(seed: u64, sabotage: Sabotage) -> Result<([u8; 32], Reached), String> {
    let mut world = World::new(seed, sabotage);
    for _ in 0..TURNS {
        world.turn()?;
    }
    world.drain()?;
    Ok((world.trace(), world.checker.reached))
}

#[test]
fn no_history_loses_repeats_or_reorders_what_it_must_not() {
    let first = number("STAGEPOST_SIM_SEED", 1);
    let (count, mut reached, mut wrong) = (number("STAGEPOST_SIM_SEEDS", 200), Reached::new(), Vec::new());
    for seed in first..first + count {
        match run(seed, Sabotage::None) {
            Ok((_, some)) => some.into_iter().for_each(|(what, often)| *reached.entry(what).or_default() += often),
            Err(what) => wrong.push(format!("seed {seed}: {what}")),
        }
    }
    assert!(wrong.is_empty(), "{} histories are wrong:\n{}", wrong.len(), wrong.join("\n"));
    let missing: Vec<&str> = REACHED.into_iter().filter(|what| !reached.contains_key(what)).collect();
    assert!(count < REACHED_IN || missing.is_empty(), "not one history has {missing:?}: {reached:?}");
}

#[test]
fn a_seed_always_gives_the_same_history() {
    for seed in 1..6 {
        assert_eq!(run(seed, Sabotage::None), run(seed, Sabotage::None), "seed {seed}");
    }
    assert_ne!(run(1, Sabotage::None), run(2, Sabotage::None), "different seeds give different histories");
}

#[test]
fn the_checker_notices_what_it_is_there_for() {
    for sabotage in [
        Sabotage::ForgetAtRestart,
        Sabotage::SettleWithoutSending,
        Sabotage::DispatchTwice,
        Sabotage::ForgetOrder,
        Sabotage::ForgetVersions,
        Sabotage::ForgetReturned,
        Sabotage::CloseWindow,
        Sabotage::LeaveOut,
        Sabotage::OverlookLag,
        Sabotage::NeverDisable,
    ] {
        let is_noticed = (1..30).any(|seed| run(seed, sabotage).is_err());
        assert!(is_noticed, "{sabotage:?} went unnoticed: the simulation proves nothing");
    }
}
