//! schemathesis against the running program: whatever is asked in the form of the OpenAPI document, and much that is not,
//! finds no fault of the server and no answer that the document does not describe.
//!
//! `scripts/schemathesis.sh` installs it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{Answer, Relay, Request, Upstream, all_to, free_port};

/// Checks that need nothing to be known but the document.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth";

fn schemathesis() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("schemathesis/bin/st");
    assert!(program.exists(), "run scripts/schemathesis.sh first: {} is missing", program.display());
    program
}

#[test]
fn schemathesis_finds_no_fault_and_no_answer_that_the_document_does_not_describe() {
    let upstream = Upstream::start();
    let port = free_port();
    // It shows wrong tokens, too, to see that they are refused.
    let relay = Relay::start(&format!(
        "[admin]\naddress = \"127.0.0.1:{port}\"\nfailed_logins = \"100000/s\"\n\
         token.ops = {{ role = \"operate\", secret = \"literal:0123456789abcdef\" }}\n{}",
        all_to(&upstream)
    ));
    upstream.answer(Answer::Status(422));
    let dead = relay.accept("/hooks/dead", r#"{"n":1}"#);
    relay.wait_for_state(&dead, "dead");
    upstream.answer(Answer::Status(200));
    for n in 0..20 {
        let id = relay.accept("/hooks/fine", format!(r#"{{"n":{n}}}"#));
        relay.wait_for_state(&id, "delivered");
    }
    relay.send(&Request::new("TRACE", "/hooks/refused"));
    let done = Command::new(schemathesis())
        .args(["run", &format!("http://127.0.0.1:{port}/v1/openapi.json"), "--checks", CHECKS])
        .args(["--header", "Authorization: Bearer 0123456789abcdef", "--workers", "2", "--seed", "1"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--max-time", "60", "--no-color"])
        .env("SCHEMATHESIS_HOOKS", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/hooks.py"))
        .current_dir(relay.directory())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(relay.ask_admin("/livez").status, 200);
}
