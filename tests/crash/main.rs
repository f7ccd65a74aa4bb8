//! What a crash leaves behind: images of a disk after a power cut, and real processes killed under load.
//!
//! Short forms run with every `cargo test`; `STAGEPOST_CRASH_IMAGES` and `STAGEPOST_CRASH_KILLS` set the counts.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may end by panicking")]

mod disk;
mod images;
mod images_dedupe;
mod images_state;
mod kill;

/// How often a crash test repeats: from the environment, or the short form.
fn count(variable: &str, short: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}
