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

use pieces::Sabotage;
use world::World;

/// Turns of one history before everything is let drain.
const TURNS: usize = 500;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// One history from its seed: a hash of all that happened, or what was wrong.
fn run(seed: u64, sabotage: Sabotage) -> Result<[u8; 32], String> {
    let mut world = World::new(seed, sabotage);
    for _ in 0..TURNS {
        world.turn()?;
    }
    world.drain()?;
    Ok(world.trace())
}

#[test]
fn no_history_loses_repeats_or_reorders_what_it_must_not() {
    let first = number("STAGEPOST_SIM_SEED", 1);
    let wrong: Vec<String> = (first..first + number("STAGEPOST_SIM_SEEDS", 200))
        .filter_map(|seed| run(seed, Sabotage::None).err().map(|what| format!("seed {seed}: {what}")))
        .collect();
    assert!(wrong.is_empty(), "{} histories are wrong:\n{}", wrong.len(), wrong.join("\n"));
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
        let noticed = (1..30).filter(|seed| run(*seed, sabotage).is_err()).count();
        assert!(noticed > 0, "{sabotage:?} went unnoticed: the simulation proves nothing");
    }
}
