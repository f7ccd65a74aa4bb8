//! Owns path patterns: exact (`/hooks/stripe`), subtree (`/hooks/*`), captures (`/t/{tenant}/in`).
//!
//! Promises that a path is compared byte for byte as received: nothing is decoded, and letter case counts. Dot
//! segments are only recognised, never resolved. A path doubly encoded (`%252e`) has none: it names them to whoever
//! decodes twice.

use std::cmp::Ordering;

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// What stands in a path in place of its secret segment, in patterns and wherever a path is shown.
pub const SECRET_SEGMENT: &str = "{secret}";

/// The name of the capture that the scheme `path` compares.
pub const SECRET_CAPTURE: &str = "secret";

/// A source's path: exact (`/hooks/stripe`), subtree (`/hooks/*`), or with captures (`/t/{tenant}/in`).
///
/// - An exact pattern takes that path alone; `/hooks` and `/hooks/` are two paths.
/// - `/hooks/*` takes `/hooks/` and everything below, not `/hooks`. `/*` takes everything.
/// - A capture takes one whole segment that is not empty and, in an exact pattern, holds no dot segment. Captures and
///   a subtree go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// As written.
    pub text: Box<str>,
    segments: Box<[Segment]>,
    subtree: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Capture(Box<str>),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The first character is no slash.
    #[error("the path {0:?} must begin with /")]
    NoSlash(String),
    /// The star stands elsewhere than alone in the last segment.
    #[error("in the path {0:?}, * may only be the whole last segment, as in /hooks/*")]
    Star(String),
    /// A brace that makes no capture.
    #[error("in the path {path:?}, {segment:?} is no capture: write {{name}} for one whole segment")]
    Capture {
        /// The pattern.
        path: String,
        /// Its segment.
        segment: String,
    },
    /// Two captures with one name.
    #[error("the path {path:?} captures {name:?} twice: give each capture its own name")]
    Twice {
        /// The pattern.
        path: String,
        /// The name.
        name: String,
    },
    /// A character that no request's path contains.
    #[error("the path {path:?} contains {found:?}, which no request's path does: write it percent-encoded")]
    Character {
        /// The pattern.
        path: String,
        /// The character.
        found: char,
    },
    /// A segment `.` or `..`.
    #[error("the path {0:?} has a dot segment: write the path it leads to")]
    DotSegment(String),
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("the path has {0} bytes: at most {PATTERN_BYTES_MAX}")]
    TooLong(usize),
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`PatternError`] with the path and the remedy.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong(text.len()));
        }
        let rest = text.strip_prefix('/').ok_or_else(|| PatternError::NoSlash(text.to_owned()))?;
        if let Some(found) = text.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
            return Err(PatternError::Character { path: text.to_owned(), found });
        }
        if has_dot_segments(text) {
            return Err(PatternError::DotSegment(text.to_owned()));
        }
        let (before_star, subtree) = match rest.strip_suffix('*') {
            None => (Some(rest), false),
            Some("") => (None, true),
            Some(above) => (Some(above.strip_suffix('/').ok_or_else(|| PatternError::Star(text.to_owned()))?), true),
        };
        let mut segments: Vec<Segment> = Vec::new();
        for written in before_star.into_iter().flat_map(|above| above.split('/')) {
            let segment = Segment::parse(written, text)?;
            if let Segment::Capture(name) = &segment
                && segments.contains(&segment)
            {
                return Err(PatternError::Twice { path: text.to_owned(), name: name.to_string() });
            }
            segments.push(segment);
        }
        Ok(Self { text: text.into(), segments: segments.into(), subtree })
    }

    /// Whether it takes whatever is below.
    #[must_use]
    pub fn is_subtree(&self) -> bool {
        self.subtree
    }

    /// The names it captures, in order.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// Which segment a capture takes, from 0.
    #[must_use]
    pub fn segment_of(&self, name: &str) -> Option<usize> {
        self.segments.iter().position(|segment| matches!(segment, Segment::Capture(known) if **known == *name))
    }

    /// Whether it takes exactly the paths that `other` takes, whatever the captures are called. Two sources of one
    /// host with such patterns are a mistake: one of them would never see a request.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        self.precedence(other) == Ordering::Equal
    }

    /// The order in which patterns are tried, a total order up to [`conflicts`](Self::conflicts): exact before
    /// subtree; among exact ones those without captures first; then more segments first; then, at the leftmost
    /// difference, a literal before a capture and literals by their bytes.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let rank = |pattern: &Self| (pattern.subtree, !pattern.subtree && pattern.captures().next().is_some());
        rank(self)
            .cmp(&rank(other))
            .then_with(|| other.segments.len().cmp(&self.segments.len()))
            .then_with(|| self.segments.iter().map(Segment::order).cmp(other.segments.iter().map(Segment::order)))
    }

    /// The path it takes, if it takes a single one.
    pub(super) fn single_path(&self) -> Option<&str> {
        (!self.subtree && self.captures().next().is_none()).then_some(&*self.text)
    }

    /// Whether it takes this path, dot segments below a subtree aside.
    pub(super) fn takes(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let mut parts = rest.split('/');
        self.segments.iter().all(|segment| parts.next().is_some_and(|part| segment.takes(part, self.subtree)))
            && parts.next().is_some() == self.subtree
    }

    /// What it captures from a path it takes.
    pub(super) fn captured(&self, path: &str) -> Vec<(Box<str>, Box<str>)> {
        let parts = path.strip_prefix('/').unwrap_or(path).split('/');
        let named = self.segments.iter().zip(parts).filter_map(|(segment, part)| match segment {
            Segment::Capture(name) => Some((name.clone(), part.into())),
            Segment::Literal(_) => None,
        });
        named.collect()
    }
}

impl PathPattern {
    /// A path it takes, `{secret}` in place of the secret segment.
    #[must_use]
    pub fn masked(&self, path: &str) -> String {
        // The path begins with a slash: the segment before it is empty.
        let index = self.segment_of(SECRET_CAPTURE).map(|index| index + 1);
        let segments = path.split('/').enumerate();
        let shown = segments.map(|(at, segment)| if Some(at) == index { SECRET_SEGMENT } else { segment });
        shown.collect::<Vec<_>>().join("/")
    }
}

/// A path without its segment `{secret}`: what an upstream sees of a path whose secret was compared.
#[must_use]
pub fn without_secret(path: &str) -> String {
    let mut found = false;
    let kept = path.split('/').filter(|segment| {
        let secret = !found && *segment == SECRET_SEGMENT;
        found |= secret;
        !secret
    });
    let kept = kept.collect::<Vec<_>>().join("/");
    if kept.is_empty() { "/".to_owned() } else { kept }
}

impl Segment {
    fn parse(written: &str, path: &str) -> Result<Self, PatternError> {
        if written.contains('*') {
            return Err(PatternError::Star(path.to_owned()));
        }
        if !written.contains(['{', '}']) {
            return Ok(Self::Literal(written.into()));
        }
        match written.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) if is_capture_name(name) => Ok(Self::Capture(name.into())),
            _ => Err(PatternError::Capture { path: path.to_owned(), segment: written.to_owned() }),
        }
    }

    /// Below a subtree the whole path is judged for dot segments, so that it is refused rather than not found.
    fn takes(&self, part: &str, subtree: bool) -> bool {
        match self {
            Self::Literal(text) => **text == *part,
            Self::Capture(_) => !part.is_empty() && (subtree || !has_dot_segments(part)),
        }
    }

    /// Literals by their text, then captures, all alike.
    fn order(&self) -> (bool, &str) {
        match self {
            Self::Literal(text) => (false, text),
            Self::Capture(_) => (true, ""),
        }
    }
}

fn is_capture_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a path has a segment `.` or `..`, where dots may be written `%2e` and the slashes around it `%2f`, `\` or
/// `%5c`, as lenient servers read them. One pass, no allocation.
#[must_use]
pub fn has_dot_segments(path: &str) -> bool {
    let mut rest = path.as_bytes();
    // How many dots the segment consists of so far; None once it holds anything else.
    let mut dots = Some(0_u32);
    loop {
        let (dot, end, after) = match rest {
            [] => return matches!(dots, Some(1 | 2)),
            [b'/' | b'\\', after @ ..]
            | [b'%', b'2', b'f' | b'F', after @ ..]
            | [b'%', b'5', b'c' | b'C', after @ ..] => (false, true, after),
            [b'.', after @ ..] | [b'%', b'2', b'e' | b'E', after @ ..] => (true, false, after),
            [_, after @ ..] => (false, false, after),
        };
        if end && matches!(dots, Some(1 | 2)) {
            return true;
        }
        dots = match (dot, end) {
            (_, true) => Some(0),
            (true, _) => dots.map(|count| count.saturating_add(1)),
            _ => None,
        };
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_take_what_the_contract_says() {
        let cases = [
            ("/hooks/stripe", "/hooks/stripe", true),
            ("/hooks/stripe", "/hooks/stripe/", false),
            ("/hooks/stripe", "/hooks/Stripe", false),
            ("/hooks/stripe", "/hooks/%73tripe", false),
            ("/hooks/", "/hooks/", true),
            ("/hooks/", "/hooks", false),
            ("/", "/", true),
            ("/", "/x", false),
            ("/hooks/*", "/hooks/", true),
            ("/hooks/*", "/hooks/a/b", true),
            ("/hooks/*", "/hooks", false),
            ("/hooks/*", "/hooksy/a", false),
            ("/*", "/", true),
            ("/*", "/a/b", true),
            ("/*", "*", false),
            ("/*", "", false),
            ("/t/{tenant}/in", "/t/acme/in", true),
            ("/t/{tenant}/in", "/t/a%2Fb/in", true),
            ("/t/{tenant}/in", "/t//in", false),
            ("/t/{tenant}/in", "/t/../in", false),
            ("/t/{tenant}/in", "/t/%2E/in", false),
            ("/t/{tenant}/in", "/t/a/b/in", false),
            ("/t/{tenant}/in", "/t/acme/in/", false),
            ("/t/{tenant}/*", "/t/acme/", true),
            ("/t/{tenant}/*", "/t/acme/x/y", true),
            ("/t/{tenant}/*", "/t/acme", false),
            ("/t/{tenant}/*", "/t//x", false),
            ("/t/{tenant}/*", "/t/../x", true),
        ];
        for (text, path, expected) in cases {
            assert_eq!(pattern(text).takes(path), expected, "{text} {path}");
        }
    }

    #[test]
    fn captures_are_named_and_raw() {
        let found = pattern("/t/{tenant}/{_k1}/*").captured("/t/a%41/b/rest/x");
        assert_eq!(found, [("tenant".into(), "a%41".into()), ("_k1".into(), "b".into())]);
        assert_eq!(pattern("/t/{a}/{b}").captures().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_secret_segment_is_found_masked_and_taken_out() {
        let exact = pattern("/in/{secret}/x");
        assert_eq!((exact.segment_of("secret"), pattern("/in/{tenant}/x").segment_of("secret")), (Some(1), None));
        assert_eq!(exact.masked("/in/s3cr3t/x"), "/in/{secret}/x");
        assert_eq!(pattern("/{secret}/*").masked("/s3cr3t/a//b"), "/{secret}/a//b");
        assert_eq!(pattern("/{secret}").masked("/s3cr3t"), "/{secret}");
        for (shown, sent) in [
            ("/in/{secret}/x", "/in/x"),
            ("/{secret}/a//b", "/a//b"),
            ("/{secret}", "/"),
            ("/in/{secret}", "/in"),
            ("/in/{secret}/", "/in/"),
            ("/{secret}/a/{secret}", "/a/{secret}"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(without_secret(shown), sent, "{shown}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_remedy() {
        let long = format!("/{}", "x".repeat(PATTERN_BYTES_MAX));
        let cases = [
            ("", "begin with /"),
            ("hooks", "begin with /"),
            ("/a*", "last segment"),
            ("/*/a", "last segment"),
            ("/a/**", "last segment"),
            ("/a/{b", "no capture"),
            ("/a/x{b}", "no capture"),
            ("/a/{}", "no capture"),
            ("/a/{1}", "no capture"),
            ("/{a}/{a}", "twice"),
            ("/a b", "percent-encoded"),
            ("/a?b", "percent-encoded"),
            ("/a/../b", "dot segment"),
            ("/a/%2e/*", "dot segment"),
            (&long, "at most 1024"),
        ];
        for (text, remedy) in cases {
            let message = PathPattern::parse(text).unwrap_err().to_string();
            assert!(message.contains(remedy), "{text}: {message}");
        }
    }

    #[test]
    fn patterns_sort_from_specific_to_general() {
        let sorted = [
            "/a/b/c", "/a/b", "/a", "/a/b/{x}", "/a/{x}/c", "/{x}/b/c", "/{x}", "/a/b/c/*", "/a/b/*", "/a/{x}/*",
            "/{x}/b/*", "/a/*", "/{x}/*", "/*",
        ];
        for (at, one) in sorted.iter().enumerate() {
            for (other_at, other) in sorted.iter().enumerate() {
                assert_eq!(pattern(one).precedence(&pattern(other)), at.cmp(&other_at), "{one} {other}");
            }
        }
    }

    #[test]
    fn patterns_conflict_if_they_take_the_same_paths() {
        assert!(pattern("/t/{a}/in").conflicts(&pattern("/t/{b}/in")));
        assert!(pattern("/t/*").conflicts(&pattern("/t/*")));
        assert!(!pattern("/t/{a}/in").conflicts(&pattern("/t/x/in")));
        assert!(!pattern("/t/*").conflicts(&pattern("/t")));
        assert!(!pattern("/t/").conflicts(&pattern("/t")));
    }

    #[test]
    fn dot_segments_are_seen_in_every_spelling() {
        for path in [
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/%2e",
            "/%2E%2e/b",
            "/.%2e",
            "/a/..%2fb",
            "/a%2F..",
            "/a\\..\\b",
            "/a%5c.%5Cb",
            "/%2f../x",
        ] {
            assert!(has_dot_segments(path), "{path}");
        }
        for path in
            ["/", "/a", "/...", "/a.b", "/.a", "/a.", "/..a/", "/%2e%2e%2e", "/a%2eb", "/%252e%252e", "/%2", "//"]
        {
            assert!(!has_dot_segments(path), "{path}");
        }
    }
}
