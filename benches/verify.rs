//! Measures one verification of a 1 KiB body: the head is judged, the body hashed in one piece, the verdict given.
//!
//! `cargo bench --bench verify` prints the microseconds that each takes, the median of several rounds.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench")]

use std::hint::black_box;

use http::{HeaderMap, HeaderValue, Method};
use stagepost::{
    clock::{Clock, Timestamp},
    preset,
    verify::{Head, PresetSettings, Sample, Secret, Verifier},
};

const ROUNDS: usize = 11;
const CHECKS: u32 = 5_000;

/// Checks one request over and over: the median of the rounds, in microseconds.
fn measure(clock: &Clock, verifier: &Verifier, head: &Head<'_>, body: &[u8], now: Timestamp) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = clock.elapsed();
            for _ in 0..CHECKS {
                let mut check = verifier.begin(black_box(head), now).ok().unwrap();
                check.update(black_box(body));
                black_box(check.finish(body)).unwrap();
            }
            (clock.elapsed() - began).as_secs_f64() * 1e6 / f64::from(CHECKS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn main() {
    let clock = Clock::system();
    let now = clock.now();
    let body = format!(r#"{{"id":"evt_1","webhookTimestamp":1,"filler":"{}"}}"#, "x".repeat(977));
    assert_eq!(body.len(), 1024);
    for (name, secrets) in [
        ("github", 1),
        ("github", 2),
        ("stripe", 1),
        ("standard-webhooks", 1),
        ("linear", 1),
        ("square", 1),
        ("twilio", 1),
        ("gitlab-token", 1),
    ] {
        let secret = |which: u8| {
            let text = if name == "standard-webhooks" { "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" } else { "secret" };
            Secret::new("env:A", if which == 0 { text.into() } else { text.replace('e', "f").into() })
        };
        let settings = PresetSettings {
            secrets: (0..secrets).map(secret).collect(),
            public_url: Some("https://hooks.example.com/in".to_owned()),
            ..Default::default()
        };
        let preset = preset::find(name).unwrap();
        let verifier = Verifier::of(preset.name, &preset.proof, settings).ok().unwrap();
        let mut headers = HeaderMap::new();
        for name in ["host", "user-agent", "content-type", "content-length", "accept"] {
            headers.insert(name, HeaderValue::from_static("something"));
        }
        let sample = Sample {
            method: &Method::POST,
            path: "/in",
            query: None,
            headers: &headers,
            body: body.as_bytes(),
            id: "msg_1",
            now,
        };
        let signed = verifier.sign(&sample).ok().unwrap();
        let mut headers = headers.clone();
        headers.extend(signed.headers);
        let head = Head { method: &Method::POST, path: "/in", query: signed.query.as_deref(), headers: &headers };
        let figure = measure(&clock, &verifier, &head, &signed.body, now);
        println!("{name}, {secrets} secret(s), {} bytes: {figure:.2} us", signed.body.len());
    }
}
