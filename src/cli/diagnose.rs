//! Owns `stagepost verify-signature`: a captured request, and why its signature does not match.
//!
//! Promises that no secret is shown. Works without a running instance; an id of an event is looked up where `show` does.

use std::io::Read as _;

use super::{
    Exit, Failure, Host, Terminal,
    args::VerifySignatureArgs,
    ask::{Capture, Explained},
    print::{escaped, escaped_bytes},
    show, units,
};
use crate::admin::{EventId, Timestamp};

/// The largest captured request, in bytes.
const REQUEST_BYTES_MAX: u64 = 256 << 20;

/// How much of the body is shown inside what is signed, in bytes.
const BODY_SHOWN_BYTES: usize = 300;

pub(super) fn verify_signature(
    args: &VerifySignatureArgs,
    host: &dyn Host,
    terminal: &mut Terminal<'_>,
) -> Result<Exit, Failure> {
    let at = match &args.at {
        None => None,
        Some(text) => Some(units::time(text, terminal.now).ok_or_else(|| {
            Failure::usage(format!("--at {text:?}: use RFC 3339 with a zone, or 10m for 10 minutes ago"))
        })?),
    };
    let file = std::path::Path::new(&args.request);
    let (own, came, bytes) = match args.request.parse::<EventId>() {
        _ if args.request == "-" => (None, terminal.now, read(&mut *terminal.input, "standard input")?),
        Ok(id) if !file.exists() => {
            let (source, came, bytes) = show::received(id, &args.place, host)?;
            (Some(source), came, bytes)
        }
        _ => {
            let opened = std::fs::File::open(file).map_err(|error| {
                Failure::new(Exit::Io, format!("{} is no event and can't be read as a file: {error}", file.display()))
            })?;
            (None, terminal.now, read(opened, &args.request)?)
        }
    };
    let Some(source) = args.source.as_ref().or(own.as_ref()) else {
        return Err(Failure::usage("--source is missing: name the source that should take the request"));
    };
    let (capture, notes) = parse(&bytes, at.unwrap_or(came)).map_err(Failure::usage)?;
    let explained = host.explain_request(args.place.config.as_deref(), source, &capture)?;
    if args.json {
        let json = serde_json::to_string(&explained).map_err(|error| Failure::new(Exit::Io, error.to_string()))?;
        writeln!(terminal.out, "{json}")?;
    } else {
        for note in notes {
            writeln!(terminal.err, "note: {note}")?;
        }
        terminal.out.write_all(page(&explained, &capture).as_bytes())?;
    }
    Ok(if explained.verifies { Exit::Done } else { Exit::Partly })
}

fn read(from: impl std::io::Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(REQUEST_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(Exit::Io, format!("reading {name}: {error}")))?;
    match bytes.len() as u64 > REQUEST_BYTES_MAX {
        true => Err(Failure::usage(format!("{name} has more than {}", units::size(REQUEST_BYTES_MAX)))),
        false => Ok(bytes),
    }
}

/// Reads a request as HTTP/1.1 writes it, line ends with CR or without. Also says what is odd about it.
fn parse(bytes: &[u8], at: Timestamp) -> Result<(Capture, Vec<String>), String> {
    let form = "it should be a request line such as \"POST /hooks/app HTTP/1.1\", headers, an empty line, the body";
    let mut rest = bytes;
    let mut line = || -> Option<&[u8]> {
        let end = memchr::memchr(b'\n', rest)?;
        let (line, after) = rest.split_at_checked(end + 1)?;
        rest = after;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    };
    let text = |line: &[u8]| String::from_utf8(line.to_vec()).map_err(|_| format!("the head is not text; {form}"));
    let first = text(line().ok_or_else(|| format!("this is no request; {form}"))?)?;
    let mut words = first.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version)) = (method, target, version) else {
        return Err(format!("{:?} is no request line; {form}", first.chars().take(80).collect::<String>()));
    };
    if !version.starts_with("HTTP/") {
        return Err(format!("the request line does not end with HTTP/1.1; {form}"));
    }
    let target = match target.split_once("://") {
        Some((_, after)) => after.find('/').and_then(|at| after.get(at..)).unwrap_or("/"),
        None => target,
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (target.to_owned(), None),
    };
    let (method, mut headers) = (method.to_owned(), Vec::new());
    loop {
        let line = line().ok_or_else(|| format!("the empty line after the headers is missing; {form}"))?;
        if line.is_empty() {
            break;
        }
        let colon = memchr::memchr(b':', line).ok_or_else(|| format!("a header has no colon; {form}"))?;
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        headers.push((text(name)?, value.get(1..).unwrap_or_default().trim_ascii().to_vec()));
    }
    let mut body = rest.to_vec();
    let mut notes = Vec::new();
    let of = |wanted: &str| {
        headers.iter().find(|(name, _): &&(String, Vec<u8>)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
    };
    let declared = of("content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
    if let Some(declared) = declared.filter(|declared| *declared != body.len()) {
        notes.push(format!("Content-Length says {declared} bytes of body, there are {}", body.len()));
        body.truncate(declared);
    }
    if of("transfer-encoding").is_some() {
        notes.push("a body with Transfer-Encoding is taken as it stands: without the lengths of its chunks".to_owned());
    }
    Ok((Capture { method, path, query, headers, body, at }, notes))
}

fn page(explained: &Explained, capture: &Capture) -> String {
    let mut page = String::new();
    let mut line = |name: &str, text: &str| {
        page.push_str(&format!("{name:<11}{text}\n"));
    };
    line("Source", &format!("{}, scheme {}", escaped(&explained.source), explained.scheme));
    let verdict = match (&explained.reason, &explained.secret) {
        (Some(reason), _) => format!("refused, {reason}: {}", explained.meaning),
        (None, Some(secret)) => format!("{}; the secret is {secret}", explained.meaning),
        (None, None) => explained.meaning.clone(),
    };
    line("Verdict", &escaped(&verdict));
    if let Some(skew) = explained.skew_ms {
        let side = if skew < 0 { "before" } else { "after" };
        line("Timestamp", &format!("{} ms {side} {}", skew.unsigned_abs(), capture.at));
    }
    if let Some(signed) = &explained.signed {
        let body = capture.body.get(..BODY_SHOWN_BYTES).unwrap_or(&capture.body);
        let left = capture.body.len() - body.len();
        let more = if left > 0 { format!("…({left} bytes more)…") } else { String::new() };
        let (before, after) = (escaped_bytes(&signed.before.bytes()), escaped_bytes(&signed.after.bytes()));
        line("Signed", &format!("{before}{}{more}{after}", escaped_bytes(body)));
    }
    if explained.only_the_clock {
        line("Signature", "right; only the timestamp is refused");
    }
    for mistake in &explained.mistakes {
        line("Mistake", &escaped(&mistake.text));
    }
    let is_open_question = explained.mistakes.is_empty() && !explained.only_the_clock;
    if !explained.verifies && explained.tried > 0 && is_open_question {
        let text = format!(
            "none of {} usual mistakes explains it: compare the secret with the provider's, it may be another endpoint's",
            explained.tried
        );
        line("Mistake", &text);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(Capture, Vec<String>), String> {
        parse(text.as_bytes(), Timestamp::from_millis(0))
    }

    #[test]
    fn a_request_is_read_with_both_line_ends_and_its_body_is_kept_as_it_is() {
        for end in ["\r\n", "\n"] {
            let text = format!("POST /in?a=1 HTTP/1.1{end}Host: x{end}X-Two:  b {end}{end}{{\r\n }}\n");
            let (capture, notes) = parsed(&text).unwrap();
            assert_eq!((capture.method.as_str(), capture.path.as_str()), ("POST", "/in"));
            assert_eq!(capture.query.as_deref(), Some("a=1"));
            assert_eq!(capture.headers, [("Host".into(), b"x".to_vec()), ("X-Two".into(), b"b".to_vec())]);
            assert_eq!(capture.body, b"{\r\n }\n");
            assert!(notes.is_empty());
        }
    }

    #[test]
    fn what_an_editor_added_to_a_body_is_cut_where_the_length_is_known() {
        let (capture, notes) = parsed("POST https://a.example/in HTTP/1.1\ncontent-length: 2\n\n{}\n").unwrap();
        assert_eq!((capture.path.as_str(), capture.body.as_slice()), ("/in", &b"{}"[..]));
        assert_eq!(notes, ["Content-Length says 2 bytes of body, there are 3"]);
    }

    #[test]
    fn what_is_no_request_is_said_to_be_none() {
        for text in ["", "{}", "{}\n", "POST /in\n\n", "POST /in HTTP/1.1\nno header\n\n", "POST /in HTTP/1.1\nA: b\n"]
        {
            assert!(parsed(text).is_err(), "{text:?}");
        }
    }
}
