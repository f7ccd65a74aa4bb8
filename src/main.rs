//! The program: an expression worker when it is started as one, else the command line.

use std::process::ExitCode;

/// Faster than the system's on the way from the socket to the log, and smaller when idle; measured, see ARCHITECTURE.md.
/// Without huge pages, which give nothing to one that is busy with small buffers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "expr-worker") {
        return stagepost::expr::worker_main();
    }
    stagepost::cli::main(std::env::args_os(), &stagepost::cli::Engine)
}
