//! Owns the tests of expressions: the three tiers against jq, bounds, decoding, and what the list of safe forms leaves out.

use http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;

use super::*;
use crate::event::Pos;

const NO_CAPTURES: &[(Box<str>, Box<str>)] = &[];

fn input<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Input<'a> {
    Input {
        body,
        headers,
        query: Some("a=1&b=x%20y&b=z"),
        path: "/hooks/%41",
        captures: NO_CAPTURES,
        method: "POST",
        source: "stripe",
        id: Some(EventId { time: Timestamp::from_millis(1), pos: Pos { partition: 0, seq: 7 } }),
        received_at: Timestamp::from_millis(1_767_323_045_678),
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).expect("a test's header"));
    }
    headers
}

fn evaluator() -> Evaluator {
    Evaluator::start(Settings::standard())
}

/// Evaluates on this thread and joins the outputs with a space; an error becomes `error: …`.
fn here_with(text: &str, headers: &HeaderMap, body: &[u8]) -> String {
    let expr = Expr::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    match evaluator().now(&expr, &input(headers, body)).unwrap_or_else(|| panic!("{text} is not inline")) {
        Ok(output) => output.values.iter().map(|value| String::from_utf8_lossy(value)).collect::<Vec<_>>().join(" "),
        Err(error) => format!("error: {error}"),
    }
}

fn here(text: &str, body: &str) -> String {
    here_with(text, &HeaderMap::new(), body.as_bytes())
}

/// Evaluates with jq itself, whatever the tier.
fn by_jq(text: &str, body: &[u8]) -> Result<Vec<Bytes>, EvalError> {
    let (program, _) = program::compile_apart(text).expect("a test's expression");
    let headers = HeaderMap::new();
    let input = input(&headers, body);
    let value = bind::Body::of(&headers, body).read()?;
    program.run(bind::variables(program.uses, &input, body), value, 1 << 20)
}

#[test]
fn plain_paths_and_linear_jq_give_what_jq_gives() {
    const STRIPE: &str = r#"{"id":"evt_1","type":"invoice.paid","data":{"object":{"customer":"cus_1","amount":1.10,"n":12345678901234567890}}}"#;
    const ITEMS: &str = r#"{"items":[{"name":"b","n":1},{"name":"a","n":2}],"x-y":[10,20,30]}"#;
    let table = [
        (".id", STRIPE, r#""evt_1""#),
        (".data.object.customer", STRIPE, r#""cus_1""#),
        (".data.object.amount", STRIPE, "1.10"),
        (".data.object.n", STRIPE, "12345678901234567890"),
        (".data.object", STRIPE, r#"{"customer":"cus_1","amount":1.10,"n":12345678901234567890}"#),
        (".missing.deeper", STRIPE, "null"),
        (r#".missing // "none""#, STRIPE, r#""none""#),
        (r#".type? // "none""#, STRIPE, r#""invoice.paid""#),
        (".id.x?", STRIPE, ""),
        (r#".id.x? // "none""#, STRIPE, r#""none""#),
        (".id.x", STRIPE, r#"error: cannot index a string with "x""#),
        (r#".["x-y"][1]"#, ITEMS, "20"),
        (r#"."x-y"[9]"#, ITEMS, "null"),
        (".items[1].name", ITEMS, r#""a""#),
        (".a", r#"{"a":1,"a":{"b":2}}"#, r#"{"b":2}"#),
        (".a", r#"{"a":"\u0041\n\"é"}"#, r#""A\n\"é""#),
        (".", " [ 1 , { \"b\" : 2 , \"a\" : 1.0 } ] ", r#"[1,{"b":2,"a":1.0}]"#),
        (".", "not json", "null"),
        (".", "", "null"),
        (".a", "{\"a\":1}x", "null"),
        (r#"(.type // "") | startswith("invoice.")"#, STRIPE, "true"),
        (r#"(.type // "") | startswith("invoice.")"#, "{}", "false"),
        (
            "{id, type, customer: .data.object.customer}",
            STRIPE,
            r#"{"id":"evt_1","type":"invoice.paid","customer":"cus_1"}"#,
        ),
        ("[.items[].name]", ITEMS, r#"["b","a"]"#),
        (".items[] | select(.n > 1) | .name", ITEMS, r#""a""#),
        (r#".items | any(.name == "a")"#, ITEMS, "true"),
        ("[.items[] | {name, twice: (.n + .n)}]", ITEMS, r#"[{"name":"b","twice":2},{"name":"a","twice":4}]"#),
        (r#"if .n then "yes" else empty end"#, r#"{"n":null}"#, ""),
        (r#""\(.a)-\(.b)""#, r#"{"a":1.50,"b":"x"}"#, r#""1.50-x""#),
        (".a / 2", r#"{"a":4}"#, "2"),
        (".a / 8", r#"{"a":1}"#, "0.125"),
        (r#"error("no such thing")"#, "{}", "error: no such thing"),
        (".a + 1", r#"{"a":"x"}"#, "error: cannot calculate \"x\" + 1"),
        (r#"$headers["x-kind"]"#, "", "null"),
        ("$query.b", "", r#"["x y","z"]"#),
        ("$query.a", "", r#""1""#),
        ("$path", "", r#""/hooks/%41""#),
        ("$method + $source", "", r#""POSTstripe""#),
        ("$id", "", r#""00000000010000000000000007""#),
        ("$received_at", "", r#""2026-01-02T03:04:05.678Z""#),
        ("$body", "héllo", r#""héllo""#),
    ];
    for (text, body, expected) in table {
        assert_eq!(here(text, body), expected, "{text} on {body}");
        if !expected.starts_with("error") {
            let by_jq = by_jq(text, body.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
            let joined: Vec<_> = by_jq.iter().map(|value| String::from_utf8_lossy(value)).collect();
            assert_eq!(joined.join(" "), expected, "{text} on {body} by jq");
        }
    }
}

#[test]
fn headers_are_an_object_of_lower_case_names_and_repeated_ones_are_joined() {
    let headers = headers(&[("x-kind", "a"), ("x-kind", "b"), ("x-one", "1")]);
    assert_eq!(here_with(r#"$headers["x-kind"]"#, &headers, b""), r#""a, b""#);
    assert_eq!(here_with(r#"$headers["X-Kind"]"#, &headers, b""), "null");
    assert_eq!(here_with("$headers", &headers, b""), r#"{"x-kind":"a, b","x-one":"1"}"#);
    assert_eq!(here_with(r#"$headers["x-one"] == "1""#, &headers, b""), "true");
}

#[test]
fn a_form_is_an_object_and_its_repeated_keys_are_arrays() {
    let form = headers(&[("content-type", "application/x-www-form-urlencoded; charset=utf-8")]);
    let body = b"a=1&b=x+y&a=%C3%A9&c";
    assert_eq!(here_with(".", &form, body), r#"{"a":["1","é"],"b":"x y","c":""}"#);
    assert_eq!(here_with(".a[1]", &form, body), r#""é""#);
    assert_eq!(here_with(r#".missing // "x""#, &form, body), r#""x""#);
    assert_eq!(here_with(r#"{b}"#, &form, body), r#"{"b":"x y"}"#);
}

#[test]
fn a_body_that_is_json_is_json_though_it_is_called_a_form() {
    let form = headers(&[("content-type", "application/x-www-form-urlencoded")]);
    let large = format!(r#"{{"pad":"{}","a":{{"b":1}}}}"#, "&x=".repeat(INLINE_BODY_BYTES_MAX));
    let bodies = [
        br#"{"a":{"b":1}}"#,
        &b" \r\n\t{ \"a\" : {\"b\":1} }\n"[..],
        br#"{"x":"&a=2&y=","a":{"b":1}}"#,
        large.as_bytes(),
    ];
    for body in bodies {
        assert_eq!(here_with(".a.b", &form, body), "1");
        assert_eq!(here_with(r#".a.b // "none""#, &form, body), "1");
    }
    assert_eq!(here_with("{a}", &form, br#"{"a":{"b":1}}"#), r#"{"a":{"b":1}}"#);
    assert_eq!(here_with(".[0]", &form, b"[7]"), "7");
    // All others are the form that they are called.
    for (body, expected) in [
        (&br#"{"a":1}&b=2"#[..], r#"{"{\"a\":1}":"","b":"2"}"#),
        (b"{", r#"{"{":""}"#),
        (b"{\"a\":\"\xff\"}", "{\"{\\\"a\\\":\\\"\u{fffd}\\\"}\":\"\"}"),
        (b"7", r#"{"7":""}"#),
        (b"", "{}"),
    ] {
        assert_eq!(here_with(".", &form, body), expected, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn what_could_run_away_is_never_evaluated_on_the_callers_thread() {
    let texts = [
        "[range(1e12)]",
        "def f: f; f",
        "reduce range(60) as $i (.; .+.)",
        "[..]",
        "recurse",
        r#".a * 1000000"#,
        "tonumber",
        "fromjson",
        "[.[] | .[]]",
        "[.[] as $x | .[] | [$x, .]]",
        "{a: .[], b: .[]}",
        ".[] | $body",
        r#"test("(a+)+b")"#,
        "tojson | tojson | tojson",
        ".+. | .+. | .+. | .+. | .+. | .+. | .+.",
        "add",
        r#"join(",")"#,
        "limit(3; repeat(.))",
        ".a |= 1",
        "label $f | .",
        ".[.a]",
        "contains(.a)",
        "walk(.)",
        "[.[] | \"0123456789012345678901234567890123456789012345678901234567890123456789\", .]",
    ];
    for text in texts {
        let expr = Expr::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(!expr.is_inline(), "{text}");
        assert!(evaluator().now(&expr, &input(&HeaderMap::new(), b"{}")).is_none());
    }
}

#[test]
fn a_text_that_is_no_expression_is_refused_with_the_place() {
    let table = [
        (".a | ", "expected term at line 1, column 6"),
        (".a |\n  foo(.b)", "undefined filter foo/1 at line 2, column 3"),
        ("$nope", "undefined variable $nope at line 1, column 1"),
        ("$ENV.PATH", "undefined variable $ENV at line 1, column 1"),
        ("env", "undefined filter env/0 at line 1, column 1"),
        ("halt", "undefined filter halt/0 at line 1, column 1"),
        ("now", "undefined filter now/0 at line 1, column 1"),
        ("input", "undefined filter input/0 at line 1, column 1"),
    ];
    for (text, expected) in table {
        assert_eq!(Expr::compile(text).map_err(|error| error.message), Err(expected.to_owned()), "{text}");
    }
    assert!(Expr::compile(r#"import "x" as $x; ."#).is_err());
    assert!(Expr::compile(r#"include "x"; ."#).is_err());
    assert!(Expr::compile(&" ".repeat(TEXT_BYTES_MAX + 1)).is_err());
}

#[test]
fn a_deeply_nested_text_neither_overflows_the_stack_nor_runs_inline() {
    let depth = TEXT_BYTES_MAX / 2 - 1;
    assert!(Expr::compile(&format!("{}.{}", "(".repeat(depth), ")".repeat(depth))).is_ok());
    for text in [
        format!("{}{}", "[".repeat(depth), "]".repeat(depth)),
        format!(".{}", "|.".repeat(depth)),
        format!("1{}", "+1".repeat(depth)),
        format!("{}1", "-".repeat(2 * depth)),
    ] {
        assert!(Expr::compile(&text).is_ok_and(|expr| !expr.is_inline()), "{}", &text[..20]);
    }
}

#[test]
fn a_deeply_nested_body_is_an_error_where_it_is_read_and_nothing_where_it_is_passed_over() {
    let bomb = format!("{{\"deep\":{}{},\"id\":7}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(here(".id", &bomb), "7");
    for text in [".", ".deep", "{id}"] {
        assert_eq!(here(text, &bomb), "error: the body is nested deeper than 128 levels", "{text}");
    }
}

#[test]
fn a_huge_number_keeps_its_digits_and_is_left_to_the_pool_by_jq() {
    let number = "9".repeat(5_000);
    assert_eq!(here(".a", &format!("{{\"a\":{number}}}")), number);
    let (expr, headers) = (Expr::compile("{a}").expect("compiles"), HeaderMap::new());
    let body = format!("{{\"a\":{number}}}");
    assert!(evaluator().now(&expr, &input(&headers, body.as_bytes())).is_none());
}

#[test]
fn a_large_or_tangled_result_of_a_plain_path_is_left_to_the_pool() {
    let wide = format!("[{}0]", "0,".repeat(INLINE_BODY_BYTES_MAX / 2));
    let digits = format!("[{}]", "9".repeat(5_000));
    for body in [wide, digits] {
        let (expr, headers) = (Expr::compile(".").expect("compiles"), HeaderMap::new());
        assert!(evaluator().now(&expr, &input(&headers, body.as_bytes())).is_none());
        assert!(here(".[0]", &body).len() <= 5_000);
    }
}

#[test]
fn a_large_body_is_left_to_the_pool_by_jq_and_read_at_once_by_a_plain_path() {
    let body = format!("{{\"pad\":\"{}\",\"id\":\"x\"}}", "p".repeat(INLINE_BODY_BYTES_MAX));
    assert_eq!(here(".id", &body), r#""x""#);
    let (expr, headers) = (Expr::compile("{id}").expect("compiles"), HeaderMap::new());
    assert!(expr.is_inline() && evaluator().now(&expr, &input(&headers, body.as_bytes())).is_none());
}

fn encode(encoding: &str, body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    match encoding {
        "gzip" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(body).expect("in memory");
            writer.finish().expect("in memory")
        }
        "deflate" => {
            let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(body).expect("in memory");
            writer.finish().expect("in memory")
        }
        "raw" => {
            let mut writer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(body).expect("in memory");
            writer.finish().expect("in memory")
        }
        "zstd" => zstd::bulk::compress(body, 3).expect("in memory"),
        other => panic!("{other}"),
    }
}

#[test]
fn an_encoded_body_is_decoded_for_expressions() {
    let body = br#"{"id":"evt_1"}"#;
    // An uncompressed meta-block (RFC 7932, section 9.2), then an empty last one.
    let brotli = [&[0x8b, 0x06, 0x80][..], body, &[0x03]].concat();
    let table: [(&str, Vec<u8>); 7] = [
        ("gzip", encode("gzip", body)),
        ("X-GZIP", encode("gzip", body)),
        ("deflate", encode("deflate", body)),
        ("deflate", encode("raw", body)),
        ("zstd", encode("zstd", body)),
        ("gzip, zstd", encode("zstd", &encode("gzip", body))),
        ("br", brotli),
    ];
    for (encoding, encoded) in table {
        let headers = headers(&[("content-encoding", encoding)]);
        assert_eq!(here_with(".id", &headers, &encoded), r#""evt_1""#, "{encoding}");
        assert_eq!(here_with("{id}", &headers, &encoded), r#"{"id":"evt_1"}"#, "{encoding}");
    }
    let identity = headers(&[("content-encoding", "identity")]);
    assert!(matches!(decode_body(&identity, body, 1 << 20), Ok(Cow::Borrowed(_))));
}

#[test]
fn what_can_not_be_decoded_is_an_error_unless_nobody_looks_at_it() {
    for (encoding, body) in
        [("gzip", &b"{}"[..]), ("compress", b"x"), ("gzip, gzip, gzip", b"x"), ("br", b"\xff\xff\xff")]
    {
        let headers = headers(&[("content-encoding", encoding), ("x-id", "7")]);
        assert!(here_with(".id", &headers, body).starts_with("error: the body can't be decoded: "), "{encoding}");
        assert_eq!(here_with(r#"$headers["x-id"]"#, &headers, body), r#""7""#);
    }
}

#[test]
fn a_decompression_bomb_is_cut_off() {
    let zeros = vec![b'0'; 50 << 20];
    for encoding in ["gzip", "zstd"] {
        let encoded = encode(encoding, &zeros);
        let headers = headers(&[("content-encoding", encoding)]);
        let limit = (encoded.len() as u64 * 10).max(64 * 1024);
        assert_eq!(decode_body(&headers, &encoded, 1 << 30), Err(EvalError::TooLarge(limit)), "{encoding}");
        assert_eq!(decode_body(&headers, &encoded, 1000), Err(EvalError::TooLarge(1000)), "{encoding}");
    }
}

#[test]
fn a_key_is_a_scalar_and_nothing_else() {
    let table = [
        (r#""evt_1""#, Some("evt_1")),
        (r#""a\"\u00e9""#, Some("a\"é")),
        ("1.10", Some("1.10")),
        ("true", Some("true")),
        ("false", Some("false")),
        (r#""""#, None),
        ("null", None),
        ("{}", None),
        ("[1]", None),
    ];
    for (json, expected) in table {
        let output = Output { values: vec![Bytes::from_static(json.as_bytes())] };
        assert_eq!(output.scalar().as_deref(), expected, "{json}");
    }
    assert_eq!(Output::default().scalar(), None);
    assert_eq!(Output { values: vec![Bytes::from_static(b"1"), Bytes::from_static(b"2")] }.scalar(), None);
}

#[test]
fn a_transform_sends_exactly_one_output_and_a_string_as_it_is() {
    let output = |values: &[&'static str]| Output { values: values.iter().map(|v| Bytes::from(*v)).collect() };
    let send = |text: &'static str| Ok(SingleBody::Send(Bytes::from(text)));
    assert_eq!(output(&[r#""a\nb""#]).single_body(), send("a\nb"));
    assert_eq!(output(&[r#"{"a":1.10}"#]).single_body(), send(r#"{"a":1.10}"#));
    assert_eq!(output(&[]).single_body(), Ok(SingleBody::Empty));
    assert!(output(&["1", "2"]).single_body().is_err());
}

#[test]
fn an_error_message_is_short_whatever_it_quotes() {
    let body = format!("{{\"a\":\"{}\"}}", "é".repeat(10_000));
    assert!(here(".a + 1", &body).len() < 400);
    assert!(here("error(.a)", &body).len() < 400);
}

#[test]
fn outputs_are_bounded_in_number_and_bytes() {
    let run = |text: &str, limit| {
        program::compile_apart(text).expect("compiles").0.run(vec![json_null(); 10], json_null(), limit)
    };
    assert_eq!(run("repeat(\"\")", 1000), Err(EvalError::TooLarge(1000)));
    assert_eq!(run("[limit(500; repeat(0))]", 1000), Err(EvalError::TooLarge(1000)));
    assert!(run("last(limit(1000; recurse([.])))", 1 << 20).is_err_and(|e| e.to_string().contains("nested deeper")));
    assert_eq!(run("[nan, infinite]", 1000), Ok(vec![Bytes::from_static(b"[null,1.7976931348623157e+308]")]));
    assert!(run("{(1): 2}", 1000).is_err());
}

fn json_null() -> jaq_json::Val {
    jaq_json::Val::Null
}

/// JSON documents with the keys and shapes that the paths below speak of.
fn document() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no others", |f| f.is_finite()).prop_map(Value::from),
        "[a-c\"\\\\\u{e9}\n]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-c]", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_plain_path_gives_what_jq_gives(document in document(), spaced in any::<bool>()) {
        let body = if spaced { serde_json::to_vec_pretty(&document) } else { serde_json::to_vec(&document) }
            .expect("in memory");
        for text in [".", ".a", ".a.b", ".a[0]", ".[1].c?", ".a[0].b[1]?", ".b // \"x\"", ".a?.b? // 7"] {
            let expr = Expr::compile(text).expect("a test's expression");
            prop_assert!(matches!(expr.0.tier, Tier::Plain(_)), "{}", text);
            let headers = HeaderMap::new();
            let plain = evaluator().now(&expr, &input(&headers, &body)).expect("a plain path is inline");
            match (plain, by_jq(text, &body)) {
                (Ok(plain), Ok(values)) => prop_assert_eq!(plain.values, values),
                (Err(_), Err(_)) => {}
                (plain, jq) => prop_assert!(false, "{}: {:?} but {:?}", text, plain, jq),
            }
        }
    }
}

#[test]
fn content_type_decides_what_a_form_is() {
    let json = headers(&[(header::CONTENT_TYPE.as_str(), "application/json")]);
    assert_eq!(here_with(".", &json, b"a=1"), "null");
}
