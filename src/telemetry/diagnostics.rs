//! Owns the set-up of diagnostics: what the process says about itself, on standard error.
//!
//! Promises that each event is one line: control characters, wherever they came from, are written as `\\x1b`, so
//! that a header of a stranger can't forge a line or steer a terminal. Deliberately absent: log files and rotation,
//! which belong to the service manager.

use std::io::{self, Write};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why diagnostics can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosticsError {
    /// The level is none.
    #[error("diagnostics.level {0:?} is not understood: use error, warn, info, debug or trace")]
    Level(String),
    /// Somebody was first.
    #[error("diagnostics are set up already")]
    Twice,
}

/// Sets diagnostics up for the whole process. `level` is a word, or directives such as `info,stagepost::log=debug`.
///
/// # Errors
/// See [`DiagnosticsError`].
pub fn init(level: &str, format: Format) -> Result<(), DiagnosticsError> {
    let filter = filter(level)?;
    let base = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Escaped(io::stderr));
    match format {
        Format::Text => base.with(lines).try_init(),
        Format::Json => base.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| DiagnosticsError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, DiagnosticsError> {
    let wrong = || DiagnosticsError::Level(level.to_owned());
    let words = ["off", "error", "warn", "info", "debug", "trace"];
    if level.split(',').any(|part| !part.contains('=') && !words.contains(&part.trim())) {
        return Err(wrong());
    }
    EnvFilter::try_new(level).map_err(|_| wrong())
}

/// Makes writers that escape control characters.
#[derive(Clone, Copy)]
struct Escaped<M>(M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Escaped<M> {
    type Writer = EscapedWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapedWriter(self.0.make_writer())
    }
}

/// Takes whole lines, as the formatter writes them, and passes each on in one write.
struct EscapedWriter<W>(W);

impl<W: Write> Write for EscapedWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(&escaped(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Escapes every control character but the line's own end.
fn escaped(line: &[u8]) -> Vec<u8> {
    let (text, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |text| (text, &b"\n"[..]));
    let mut out = Vec::with_capacity(line.len() + 8);
    for character in String::from_utf8_lossy(text).chars() {
        if character.is_control() {
            out.extend_from_slice(format!("\\x{:02x}", u32::from(character)).as_bytes());
        } else {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    out.extend_from_slice(end);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_character_never_reaches_the_terminal() {
        assert_eq!(escaped(b"path=/a\x1b[2J\nERROR forged\n"), b"path=/a\\x1b[2J\\x0aERROR forged\n");
        assert_eq!(escaped("ü\u{9b}31m".as_bytes()), "ü\\x9b31m".as_bytes());
    }

    #[test]
    fn a_level_is_a_known_word_or_directives() {
        for good in ["info", "warn,stagepost::log=debug", "off"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "", "stagepost=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
