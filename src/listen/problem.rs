//! Owns the body of the refusals that hyper makes by itself: a request that it can't parse is answered with a head alone.

/// How such a head begins.
const BEGINNING: &[u8] = b"HTTP/1.1 4";

/// What such a head says of its body.
const NO_BODY: &str = "\r\ncontent-length: 0\r\n";

/// The same refusal with a problem document (RFC 9457). None: what is written is something else.
pub(super) fn with_body(head: &[u8]) -> Option<Vec<u8>> {
    if !head.starts_with(BEGINNING) {
        return None;
    }
    let text = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?;
    let (line, _) = text.split_once("\r\n")?;
    let (status, title) = line.strip_prefix("HTTP/1.1 ")?.split_once(' ')?;
    let body = format!(r#"{{"type":"about:blank","title":"{title}","status":{status}}}"#);
    let told = format!("\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n", body.len());
    let (before, after) = head_around(text)?;
    let end = if after.is_empty() { "\r\n" } else { "\r\n\r\n" };
    Some(format!("{before}{told}{after}{end}{body}").into_bytes())
}

/// What stands before and after the words about the body, the last line's end left out.
fn head_around(text: &str) -> Option<(&str, &str)> {
    let is_alone = |(_, after): &(&str, &str)| !after.contains("\r\n\r\n");
    match text.split_once(NO_BODY) {
        Some(parts) => Some(parts).filter(is_alone),
        None => text.strip_suffix("\r\ncontent-length: 0").map(|before| (before, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_without_a_body_gets_one_wherever_its_length_stands() {
        for (head, expected) in [
            (
                "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n",
                "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\
                 content-length: 57\r\ndate: x\r\n\r\n{\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400}",
            ),
            (
                "HTTP/1.1 414 URI Too Long\r\ncontent-length: 0\r\n\r\n",
                "HTTP/1.1 414 URI Too Long\r\ncontent-type: application/problem+json\r\ncontent-length: 58\r\n\r\n\
                 {\"type\":\"about:blank\",\"title\":\"URI Too Long\",\"status\":414}",
            ),
        ] {
            let given = with_body(head.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(given).unwrap(), expected);
        }
        for other in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 400 Bad Request\r\n",
            "HTTP/1.1 4",
        ] {
            assert_eq!(with_body(other.as_bytes()), None, "{other}");
        }
    }
}
