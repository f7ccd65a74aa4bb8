//! The program: an expression worker when it is started as one, else the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "expr-worker") {
        return stagepost::expr::worker_main();
    }
    stagepost::cli::main(std::env::args_os(), &stagepost::cli::Engine)
}
