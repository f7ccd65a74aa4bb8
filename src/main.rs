//! The binary: hands over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A worker process for expressions is started by the server itself; see `stagepost::expr`.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "expr-worker") {
        return stagepost::expr::worker_main();
    }
    ExitCode::SUCCESS
}
