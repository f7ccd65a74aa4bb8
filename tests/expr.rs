//! The pool of expression workers with the real binary: runaways are stopped and cost nobody else anything.

#![expect(clippy::panic, reason = "the helpers of tests panic too")]

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use stagepost::{
    clock::Timestamp,
    expr::{EvalError, Evaluator, Expr, Input, Output, Settings},
};

/// Long enough for a busy machine to evaluate something cheap; runaways need ages.
const TIME_LIMIT: Duration = Duration::from_secs(3);

fn settings() -> Settings {
    Settings {
        time_limit: TIME_LIMIT,
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_stagepost"))),
        ..Settings::standard()
    }
}

fn input<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Input<'a> {
    Input {
        body,
        headers,
        query: Some("q=%C3%A9"),
        path: "/in",
        captures: &[],
        method: "POST",
        source: "app",
        id: None,
        received_at: Timestamp::from_millis(0),
    }
}

async fn eval(evaluator: &Evaluator, text: &str, body: &[u8]) -> Result<Output, EvalError> {
    let expr = Expr::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    evaluator.eval(&expr, &input(&HeaderMap::new(), body)).await
}

fn texts(output: Result<Output, EvalError>) -> Vec<String> {
    let values = output.unwrap_or_else(|error| panic!("{error}")).values;
    values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

#[tokio::test]
async fn the_pool_gives_what_jq_gives_and_keeps_digits_and_order() {
    let evaluator = Evaluator::start(settings());
    let body = br#"{"z":1.10,"a":12345678901234567890,"items":[{"n":1},{"n":2}],"text":"a,b"}"#;
    let table: [(&str, &[&str]); 9] = [
        ("[.items[].n] | add", &["3"]),
        ("reduce .items[] as $i (0; . + $i.n)", &["3"]),
        (r#"with_entries(select(.key < "i"))"#, &[r#"{"a":12345678901234567890}"#]),
        ("del(.items, .text)", &[r#"{"z":1.10,"a":12345678901234567890}"#]),
        (r#".text | test("^a")"#, &["true"]),
        (r#".text | split(",") | .[] | ascii_upcase"#, &[r#""A""#, r#""B""#]),
        ("[limit(3; repeat(1))]", &["[1,1,1]"]),
        (
            "def q: $query.q; [q, $path, $source, $method, $id, $received_at] | join(\" \")",
            &[r#""é /in app POST null 1970-01-01T00:00:00.000Z""#],
        ),
        ("[..] | length", &["9"]),
    ];
    for (text, expected) in table {
        assert!(!Expr::compile(text).is_ok_and(|expr| expr.is_inline()) || text.contains("split"), "{text}");
        assert_eq!(texts(eval(&evaluator, text, body).await), expected, "{text}");
    }
    let error = eval(&evaluator, r#"[..] | error("no \(length)")"#, b"[1]").await;
    assert_eq!(error, Err(EvalError::Failed("no 2".into())));
}

#[tokio::test]
async fn a_runaway_is_stopped_while_others_are_evaluated() {
    let evaluator = Evaluator::start(Settings { time_limit: Duration::from_secs(1), ..settings() });
    let runaways = [
        "[range(1e12)] | length",
        "def f: f; f",
        "reduce range(60) as $i (.; .+.)",
        "last(repeat(.))",
        "def f: [f]; f",
        "until(false; .)",
        "[.[] | .] | [range(1e9) as $x | .] | length",
        "\"x\" * 1e15",
    ];
    for text in runaways {
        let cheap = async {
            let mut results = Vec::new();
            for _ in 0..3 {
                results.push(texts(eval(&evaluator, "[.[] | . + 1] | add", b"[1,2]").await));
            }
            results
        };
        let (ended, others) = tokio::join!(eval(&evaluator, text, b"[\"abcdefgh\"]"), cheap);
        assert!(
            matches!(ended, Err(EvalError::TooSlow(1000) | EvalError::TooLarge(_) | EvalError::Failed(_))),
            "{text}: {ended:?}"
        );
        assert_eq!(others, vec![vec!["5".to_owned()]; 3], "{text}");
    }
}

#[tokio::test]
async fn a_loop_ends_with_its_time_and_a_flood_with_its_size() {
    let evaluator = Evaluator::start(Settings { time_limit: Duration::from_millis(500), ..settings() });
    assert_eq!(eval(&evaluator, "until(false; .)", b"1").await, Err(EvalError::TooSlow(500)));
    let evaluator = Evaluator::start(Settings { memory_limit: 64 << 20, output_limit: 1000, ..settings() });
    let doubling = "reduce range(60) as $i (\"0123456789abcdef\"; . + .)";
    assert_eq!(eval(&evaluator, doubling, b"").await, Err(EvalError::TooLarge(64 << 20)));
    assert_eq!(eval(&evaluator, "repeat(1)", b"").await, Err(EvalError::TooLarge(1000)));
    let deep = eval(&evaluator, "def f: [f]; f", b"").await;
    assert!(matches!(deep, Err(EvalError::Failed(_) | EvalError::TooLarge(_))), "{deep:?}");
    assert_eq!(texts(eval(&evaluator, "[1, 2] | add", b"").await), ["3"]);
}

#[tokio::test]
async fn an_expression_that_ran_away_keeps_to_the_slow_lane() {
    let evaluator = Evaluator::start(settings());
    let trap = Expr::compile("if . == 1 then until(false; .) else . end").expect("compiles");
    let headers = HeaderMap::new();
    let evaluate = async |body: &'static [u8]| evaluator.eval(&trap, &input(&headers, body)).await;
    assert_eq!(evaluate(b"1").await, Err(EvalError::TooSlow(3000)));
    // Two more at once would fill both workers; the second has to wait behind the first, so the other is free.
    let others = async {
        let result = eval(&evaluator, "[1, 2] | add", b"").await;
        (texts(result), "before the runaways")
    };
    tokio::select! {
        biased;
        _ = async { tokio::join!(evaluate(b"1"), evaluate(b"1")) } => panic!("runaways were faster than `add`"),
        done = others => assert_eq!(done.0, ["3"]),
    }
    assert_eq!(texts(evaluate(b"2").await), ["2"]);
}

#[tokio::test]
async fn large_and_encoded_bodies_reach_the_workers_whole() {
    let evaluator = Evaluator::start(Settings { time_limit: Duration::from_secs(20), ..settings() });
    let body = format!("{{\"pad\":\"{}\",\"id\":\"x\"}}", "p".repeat(6 << 20));
    assert_eq!(
        texts(eval(&evaluator, "{id, n: (.pad | length)}", body.as_bytes()).await),
        [r#"{"id":"x","n":6291456}"#]
    );

    let mut headers = HeaderMap::new();
    headers.insert("content-encoding", HeaderValue::from_static("zstd"));
    let expr = Expr::compile("[.id] | add").expect("compiles");
    let encoded = zstd::bulk::compress(br#"{"id":"x"}"#, 1).expect("in memory");
    assert_eq!(texts(evaluator.eval(&expr, &input(&headers, &encoded)).await), [r#""x""#]);
    let bomb = zstd::bulk::compress(&vec![b'0'; 60 << 20], 1).expect("in memory");
    let result = evaluator.eval(&expr, &input(&headers, &bomb)).await;
    assert!(matches!(result, Err(EvalError::TooLarge(_))), "{result:?}");
    let result = evaluator.eval(&expr, &input(&headers, b"no zstd")).await;
    assert!(matches!(result, Err(EvalError::Undecodable(_))), "{result:?}");
}

#[tokio::test]
async fn a_body_nested_without_end_or_json_in_a_string_hurts_nobody() {
    let evaluator = Evaluator::start(settings());
    let bomb = "[".repeat(1 << 20);
    let quoted = serde_json::to_vec(&bomb).expect("in memory");
    let result = eval(&evaluator, "fromjson", &quoted).await;
    assert!(matches!(result, Err(EvalError::Failed(_))), "{result:?}");
    let nested = format!("{bomb}{}", "]".repeat(1 << 20));
    let result = eval(&evaluator, "add", nested.as_bytes()).await;
    assert_eq!(result, Err(EvalError::Failed("the body is nested deeper than 128 levels".into())));
    assert_eq!(texts(eval(&evaluator, "fromjson", br#""[1]""#).await), ["[1]"]);
}

#[tokio::test]
async fn a_full_queue_is_said_at_once() {
    let evaluator = Evaluator::start(Settings { queue_limit: 1, workers: 1, ..settings() });
    let (one, two) = tokio::join!(eval(&evaluator, "[1] | add", b""), eval(&evaluator, "[1] | add", b""));
    assert_eq!(texts(one), ["1"]);
    assert_eq!(two, Err(EvalError::Unavailable("1 evaluations wait already".into())));
}

#[tokio::test]
async fn an_evaluation_that_is_given_up_frees_its_place() {
    let evaluator = Evaluator::start(Settings { queue_limit: 1, workers: 1, ..settings() });
    assert_eq!(texts(eval(&evaluator, "[1] | add", b"").await), ["1"]);
    tokio::select! {
        biased;
        _ = eval(&evaluator, "until(false; .)", b"") => panic!("it ended"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(texts(eval(&evaluator, "[2] | add", b"").await), ["2"]);
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_unavailable() {
    for program in ["/bin/true", "/nonexistent/stagepost"] {
        let evaluator = Evaluator::start(Settings { program: Some(program.into()), ..settings() });
        let result = eval(&evaluator, "[1] | add", b"").await;
        assert!(matches!(result, Err(EvalError::Unavailable(_))), "{result:?}");
    }
}

/// The worker that was given this memory limit, which is unique to a test.
#[cfg(target_os = "linux")]
fn worker_with(memory_limit: u64) -> Option<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|process| process.file_name().into_string().ok());
    let ends = format!("expr-worker\0{memory_limit}\0");
    ids.into_iter()
        .find(|id| std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|command| command.ends_with(ends.as_bytes())))
}

#[cfg(target_os = "linux")]
fn terminate(worker: &str) {
    assert!(Command::new("kill").args(["-TERM", worker]).status().is_ok_and(|status| status.success()));
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_worker_sees_nothing_of_the_servers_environment() {
    let memory_limit = (512 << 20) + 1;
    let evaluator = Evaluator::start(Settings { memory_limit, ..settings() });
    assert_eq!(texts(eval(&evaluator, "[1] | add", b"").await), ["1"]);
    // `env` is not defined in expressions, so the environment is looked at from outside.
    let worker = worker_with(memory_limit).expect("it waits for more");
    let environment = std::fs::read(format!("/proc/{worker}/environ")).expect("our own child");
    let names = String::from_utf8_lossy(&environment);
    assert!(names.split_terminator('\0').all(|variable| variable.starts_with("MIMALLOC_")), "{names}");
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn an_idle_worker_that_was_killed_is_replaced_unnoticed() {
    let memory_limit = (512 << 20) + 2;
    let evaluator = Evaluator::start(Settings { memory_limit, ..settings() });
    assert_eq!(texts(eval(&evaluator, "[1] | add", b"").await), ["1"]);
    terminate(&worker_with(memory_limit).expect("it waits for more"));
    assert_eq!(texts(eval(&evaluator, "[2] | add", b"").await), ["2"]);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn an_evaluation_whose_worker_somebody_ended_may_be_tried_again() {
    let memory_limit = (512 << 20) + 3;
    let evaluator = Evaluator::start(Settings { memory_limit, ..settings() });
    let somebody = async {
        loop {
            if let Some(worker) = worker_with(memory_limit) {
                return terminate(&worker);
            }
            tokio::task::yield_now().await;
        }
    };
    let (result, ()) = tokio::join!(eval(&evaluator, "until(false; .)", b""), somebody);
    assert!(matches!(result, Err(EvalError::Unavailable(_))), "{result:?}");
    assert_eq!(texts(eval(&evaluator, "[2] | add", b"").await), ["2"]);
}

#[test]
fn a_worker_ends_with_its_parent_even_in_the_middle_of_an_evaluation() {
    let field = |text: &str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let absent = [0; 5];
    let request = [
        &field("until(false; .)")[..],
        &1000_u64.to_le_bytes(),
        &1000_u64.to_le_bytes(),
        &[0; 4], // headers
        &absent, // query
        &field("/in"),
        &[0; 4], // captures
        &field("POST"),
        &field("app"),
        &absent, // id
        &[0; 8], // received_at
        b"1",
    ]
    .concat();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_stagepost"))
        .arg("expr-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let (mut requests, mut answers) = (worker.stdin.take().expect("a pipe"), worker.stdout.take().expect("a pipe"));
    let mut frame = |tag: u8| {
        let mut head = [0; 5];
        answers.read_exact(&mut head).expect("a frame");
        assert_eq!(head[0], tag);
        let mut payload = vec![0; u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize];
        answers.read_exact(&mut payload).expect("a payload");
    };
    frame(b'R');
    requests.write_all(&[0]).expect("a pipe");
    requests.write_all(&(request.len() as u32).to_le_bytes()).expect("a pipe");
    requests.write_all(&request).expect("a pipe");
    frame(b'B');
    drop(requests);
    assert!(worker.wait().expect("a child").success());
}
