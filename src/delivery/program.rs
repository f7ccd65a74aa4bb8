//! Owns programs that are started for an attempt: the event's body goes to standard input, the exit status is the answer.
//!
//! Promises that no shell is involved, that a program sees nothing of our environment (secrets are in it) but `PATH` and
//! `LANG`, that it is killed with its group after the upstream's `timeout`, and that at most as many run at once as the
//! upstream's `concurrency` says. What it writes is read to [`OUTPUT_BYTES_MAX`] and kept with the attempt.

use std::{process::Stdio, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use super::client::{Answer, EXCERPT_BYTES, Failure};

/// What is read of standard output, and of standard error; the rest is read and thrown away.
const OUTPUT_BYTES_MAX: usize = EXCERPT_BYTES;

/// Of what a program wrote to standard error, for the words of its failure.
const LAST_WORDS_BYTES_MAX: usize = 512;

/// What a program inherits.
const INHERITED: [&str; 2] = ["PATH", "LANG"];

/// Starts the program and waits for its end. Status 0 is an answer 200.
pub(super) async fn run(argv: &[Box<str>], body: &Bytes, limit: Duration) -> Result<Answer, Failure> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Failure::Program("no program is configured".into()));
    };
    let inherited = INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let started = Command::new(&**program)
        .args(arguments.iter().map(|argument| &**argument))
        .env_clear()
        .envs(inherited)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|error| Failure::Program(format!("{program} can't be started: {error}").into()))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let ended = timeout(limit, converse(&mut child, body)).await;
    if !matches!(ended, Ok(Ok(_))) {
        // What it has started must not go on either.
        group.map(|group| kill_process_group(group, Signal::KILL));
    }
    let (status, out, err) = match ended {
        Err(_late) => return Err(Failure::Late(limit)),
        Ok(Err(error)) => return Err(Failure::Program(format!("{program}: {error}").into())),
        Ok(Ok(ended)) => ended,
    };
    if !status.success() {
        let said = String::from_utf8_lossy(err.get(..LAST_WORDS_BYTES_MAX).unwrap_or(&err)).trim().to_owned();
        let words = if said.is_empty() { String::new() } else { format!(": {said}") };
        return Err(Failure::Program(format!("{program} ended with {status}{words}").into()));
    }
    Ok(Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: out.into(), cut: None })
}

type Ended = (std::process::ExitStatus, Vec<u8>, Vec<u8>);

/// Writes, reads and waits at once: a program may do them in any order.
async fn converse(child: &mut Child, body: &Bytes) -> std::io::Result<Ended> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that does not read its input is free to.
            let _unread = stdin.write_all(body).await;
        }
    };
    let ((), out, err, status) = tokio::join!(write, read(stdout), read(stderr), child.wait());
    Ok((status?, out, err))
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut from) = from else { return Vec::new() };
    let (mut kept, mut piece) = (Vec::new(), vec![0; 4096]);
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(piece.get(..read.min(room)).unwrap_or_default());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn argv(words: &[&str]) -> Vec<Box<str>> {
        words.iter().map(|word| Box::from(*word)).collect()
    }

    #[tokio::test]
    async fn a_program_gets_the_body_and_answers_with_its_output() {
        let answer =
            run(&argv(&["cat"]), &Bytes::from_static(b"$(id) `id`"), LONG).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"$(id) `id`"[..]));
        // Arguments are no text for a shell, and what is long is cut.
        let answer =
            run(&argv(&["echo", "a; b", "$HOME"]), &Bytes::new(), LONG).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(&answer.body[..], b"a; b $HOME\n");
        let body = Bytes::from(vec![b'x'; 1 << 20]);
        let answer = run(&argv(&["cat"]), &body, LONG).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(answer.body.len(), OUTPUT_BYTES_MAX);
        assert!(run(&argv(&["true"]), &body, LONG).await.is_ok());
    }

    #[tokio::test]
    async fn a_program_that_fails_is_missing_or_late_is_a_failure_with_words() {
        let failed = |words: &'static [&'static str], limit| async move {
            run(&argv(words), &Bytes::new(), limit).await.err().map(|failure| failure.to_string()).unwrap_or_default()
        };
        let said = failed(&["sh", "-c", "echo no >&2; exit 3"], LONG).await;
        assert_eq!(said, "sh ended with exit status: 3: no");
        assert!(failed(&["/no/such/program"], LONG).await.starts_with("/no/such/program can't be started"));
        assert!(failed(&["sleep", "1000"], Duration::from_millis(1)).await.starts_with("no answer within"));
        assert!(
            failed(&["sh", "-c", "env | grep -v -e ^PATH= -e ^LANG= -e ^PWD= -e ^SHLVL= -e ^_="], LONG)
                .await
                .contains("exit status: 1")
        );
    }
}
