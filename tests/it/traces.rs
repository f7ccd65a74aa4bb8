//! Traces: one from the sender to the upstream, and a collector that is not there costs nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Received, Relay, Request, Upstream, all_to, free_port, wait_for, wait_until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// All spans that a collector got.
fn spans(collector: &Upstream) -> Vec<Value> {
    let bodies =
        collector.received().into_iter().map(|request| -> Value { serde_json::from_str(&request.text()).unwrap() });
    let of = |body: Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    bodies.flat_map(of).collect()
}

/// The spans of a trace by name, once there are so many.
fn of_trace(collector: &Upstream, trace: &str, count: usize) -> BTreeMap<String, Value> {
    wait_for("the spans of a trace", || {
        let all = spans(collector).into_iter().filter(|span| span["traceId"] == trace);
        let found: BTreeMap<String, Value> =
            all.map(|span| (span["name"].as_str().unwrap().to_owned(), span)).collect();
        (found.len() == count).then_some(found)
    })
}

#[test]
fn a_collector_gets_the_spans_of_an_event_from_receipt_to_delivery_under_one_trace() {
    let (app, collector) = (Upstream::start(), Upstream::start());
    let mut relay = Relay::stopped(&format!(
        "{}\n[traces]\nendpoint = \"{}/v1/traces\"\nheaders = {{ X-Key = \"env:COLLECTOR_KEY\" }}\n",
        all_to(&app),
        collector.url()
    ));
    relay.environment("COLLECTOR_KEY", "sesame");
    relay.run();
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let request =
        Request::post("/x?token=s3cr3t", "{}").header("traceparent", parent.clone()).header("tracestate", "a=b");
    assert_eq!(relay.send(&request).status, 202);
    let found = of_trace(&collector, TRACE, 5);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["append", "attempt", "plan", "receive", "verify"]);
    assert_eq!(found["receive"]["parentSpanId"], "00f067aa0ba902b7");
    for name in ["append", "attempt", "plan", "verify"] {
        assert_eq!(found[name]["parentSpanId"], found["receive"]["spanId"], "{name}");
    }
    assert!(!spans(&collector).iter().any(|span| span.to_string().contains("s3cr3t")), "a credential went out");
    let got = app.wait_for_requests(1).remove(0);
    let span = found["attempt"]["spanId"].as_str().unwrap();
    assert_eq!(got.header("traceparent"), Some(format!("00-{TRACE}-{span}-01").as_str()));
    assert_eq!(got.header("tracestate"), Some("a=b"));
    let post = collector.received().remove(0);
    assert_eq!((post.target.as_str(), post.header("content-type")), ("/v1/traces", Some("application/json")));
    assert_eq!(post.header("x-key"), Some("sesame"));

    // Without a parent the trace is that of the id; what is refused is a span, too.
    let id = relay.accept("/y", "{}");
    let got = app.wait_for_requests(2).remove(1);
    let trace = got.header("traceparent").unwrap()[3..35].to_owned();
    let found = of_trace(&collector, &trace, 5);
    let attributes = found["receive"]["attributes"].as_array().unwrap();
    assert!(attributes.iter().any(|one| one["value"]["stringValue"] == id.as_str()), "{attributes:#?}");
    assert_eq!(relay.send(&Request::new("TRACE", "/x")).status, 405);
    wait_until("the refusal is a span", || {
        spans(&collector).iter().any(|span| span["name"] == "receive" && span["status"]["code"] == 2)
    });
    // A sender who does not sample is not traced.
    let unsampled =
        Request::post("/x", "{}").header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    assert_eq!(relay.send(&unsampled).status, 202);
    let last = relay.accept("/z", "{}");
    wait_until("a later one is there", || spans(&collector).iter().any(|span| span.to_string().contains(&last)));
    assert!(!spans(&collector).iter().any(|span| span["traceId"] == "0af7651916cd43dd8448eb211c80319c"));
}

#[test]
fn a_dead_collector_costs_its_spans_and_nothing_else() {
    let app = Upstream::start();
    let port = free_port();
    let relay = Relay::start(&format!(
        "{}\n[traces]\nendpoint = \"http://127.0.0.1:{port}/v1/traces\"\nqueue = 4\n",
        all_to(&app)
    ));
    for n in 0..20 {
        let id = relay.accept("/x", format!("{n}"));
        relay.wait_for_state(&id, "delivered");
    }
    let dropped = |result: &str| relay.metric(&format!("stagepost_spans_total{{result=\"{result}\"}}"));
    wait_until("spans are dropped and counted", || dropped("overflowed") > 0.0 && dropped("refused") > 0.0);
    assert!(dropped("exported") < 0.5);
    relay.wait_for_diagnostics("the collector takes no spans");
}

#[test]
fn all_items_of_a_batch_stand_in_the_trace_of_the_request_they_came_in_with() {
    let (app, collector) = (Upstream::start(), Upstream::start());
    let relay = Relay::start(&format!(
        "[source.s]\npath = \"/in\"\nto = [\"app\"]\nsplit = true\n[upstream.app]\nurl = \"{}\"\n\
         [traces]\nendpoint = \"{}/v1/traces\"\n",
        app.url(),
        collector.url()
    ));
    // One receipt with its parts, and of each item the way to its upstream.
    let whole = |trace: &str| -> Vec<Value> {
        wait_for("the spans of a batch", || {
            let found: Vec<Value> = spans(&collector).into_iter().filter(|span| span["traceId"] == trace).collect();
            (found.len() >= 3 + 2 * 3).then_some(found)
        })
    };
    let is_whole = |spans: &[Value], sent: &[Received]| {
        let named = |name: &str| -> Vec<&Value> { spans.iter().filter(|span| span["name"] == name).collect() };
        assert_eq!(["receive", "verify", "append", "plan", "attempt"].map(|name| named(name).len()), [1, 1, 1, 3, 3]);
        let receipt = &named("receive")[0]["spanId"];
        for span in spans.iter().filter(|span| span["name"] != "receive") {
            assert_eq!(&span["parentSpanId"], receipt, "{span}");
        }
        let mut seen: Vec<&str> = sent.iter().map(|got| &got.header("traceparent").unwrap()[36..52]).collect();
        let mut told: Vec<&str> = named("attempt").iter().map(|span| span["spanId"].as_str().unwrap()).collect();
        seen.sort_unstable();
        told.sort_unstable();
        assert_eq!(seen, told, "what an upstream sees is what is told of");
    };
    // In the sender's trace …
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let batch = r#"[{"id":1},{"id":2},{"id":3}]"#;
    assert_eq!(relay.send(&Request::post("/in", batch).header("traceparent", parent)).status, 202);
    is_whole(&whole(TRACE), &app.wait_for_requests(3));
    // … and in one of the request's own.
    assert_eq!(relay.send(&Request::post("/in", batch)).status, 202);
    let sent = app.wait_for_requests(6).split_off(3);
    let trace = sent[0].header("traceparent").unwrap()[3..35].to_owned();
    is_whole(&whole(&trace), &sent);
}
