//! Owns what reaches a terminal: escaping, colours, tables.
//!
//! Promises that no control character from outside is printed as it is, so that a header or path can't steer the
//! operator's terminal or forge a line.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

/// Characters of a cell of a table, unless it is the last of its line. `--json` has all of them.
const CELL_MAX: usize = 200;

/// One line of text from outside: control characters, and those that change the direction of writing, as `\x..`.
pub(super) fn escaped(text: &str) -> String {
    escape(text, |_| false)
}

/// Text of several lines: line ends and tabs are kept.
pub(super) fn escaped_lines(text: &str) -> String {
    escape(text, |character| matches!(character, '\n' | '\t'))
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if keep(character) || !(character.is_control() || turns) {
            out.push(character);
        } else if (character as u32) < 0x100 {
            let _infallible = write!(out, "\\x{:02x}", character as u32);
        } else {
            let _infallible = write!(out, "\\u{{{:x}}}", character as u32);
        }
    }
    out
}

/// Bytes from outside on one line; what is not UTF-8 as `\x..`.
pub(super) fn escaped_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            let _infallible = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Writes bytes from outside: as they are to a pipe or file, escaped to a terminal.
pub(super) fn raw(out: &mut dyn Write, bytes: &[u8], is_terminal: bool) -> io::Result<()> {
    if !is_terminal {
        return out.write_all(bytes);
    }
    for chunk in bytes.utf8_chunks() {
        out.write_all(escaped_lines(chunk.valid()).as_bytes())?;
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    if bytes.last().is_some_and(|last| *last != b'\n') { out.write_all(b"\n") } else { Ok(()) }
}

/// A state in its colour, padded to `width`; colours only if `colours` says so.
pub(super) fn state(word: &str, width: usize, colours: bool) -> String {
    let padded = padded(&escaped(word), width);
    let code = match word {
        "dead" | "open" => "31",
        "held" | "review" | "half-open" => "33",
        "delivered" | "closed" => "32",
        "pending" => "36",
        _ => return padded,
    };
    if colours { format!("\x1b[{code}m{padded}\x1b[0m") } else { padded }
}

/// Writes rows in columns; the last column is neither padded nor cut, others are cut at [`CELL_MAX`]. Cells must be
/// escaped already.
pub(super) fn table(out: &mut dyn Write, head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    Columns::new(head).rows(out, rows)
}

/// A table that is written in pieces: the head stands above the first, and columns do not get narrower.
pub(super) struct Columns {
    head: Option<Vec<String>>,
    widths: Vec<usize>,
}

impl Columns {
    pub(super) fn new(head: &[&str]) -> Self {
        let widths = head.iter().map(|cell| cell.len()).collect();
        Self { head: Some(head.iter().map(|cell| (*cell).to_owned()).collect()), widths }
    }

    pub(super) fn rows(&mut self, out: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
        for row in rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.chars().take(CELL_MAX).count().max(*width);
            }
        }
        for row in self.head.take().iter().chain(rows) {
            let mut line = String::new();
            let last = row.len().min(self.widths.len()).saturating_sub(1);
            for (column, (cell, width)) in row.iter().zip(&self.widths).enumerate() {
                if column == last {
                    line.push_str(cell);
                } else {
                    line.push_str(&padded(&cut(cell), *width));
                    line.push_str("  ");
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn cut(cell: &str) -> Cow<'_, str> {
    match cell.char_indices().nth(CELL_MAX) {
        None => cell.into(),
        Some(_) => cell.chars().take(CELL_MAX - 1).chain(['…']).collect::<String>().into(),
    }
}

/// Not by a width of `format!`, which panics above 65,535.
fn padded(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let mut padded = text.to_owned();
    padded.extend(std::iter::repeat_n(' ', missing));
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert_eq!(escaped("a\x1b[2J\nb\r\u{9b}1m\u{202e}"), "a\\x1b[2J\\x0ab\\x0d\\x9b1m\\u{202e}");
        assert_eq!(escaped_lines("a\n\tb\x07"), "a\n\tb\\x07");
        assert_eq!(escaped_bytes(b"ok\xff\x00\xc3\xa4"), "ok\\xff\\x00ä");
    }

    #[test]
    fn a_body_is_written_as_it_is_to_a_pipe_and_escaped_to_a_terminal() {
        let written = |is_terminal| {
            let mut out = Vec::new();
            raw(&mut out, b"\x1bA\xff\nB", is_terminal).unwrap();
            out
        };
        assert_eq!(written(false), b"\x1bA\xff\nB");
        assert_eq!(written(true), b"\\x1bA\\xff\nB\n");
    }

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(state("dead", 6, false), "dead  ");
        assert_eq!(state("dead", 6, true), "\x1b[31mdead  \x1b[0m");
    }

    #[test]
    fn a_table_is_aligned() {
        let mut out = Vec::new();
        table(&mut out, &["NAME", "N"], &[vec!["a".into(), "1".into()], vec!["longer".into(), "22".into()]]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME    N\na       1\nlonger  22\n");
    }

    #[test]
    fn a_table_in_pieces_has_one_head_and_its_columns_stay() {
        let mut out = Vec::new();
        let mut columns = Columns::new(&["NAME", "N"]);
        columns.rows(&mut out, &[vec!["longer".into(), "1".into()]]).unwrap();
        columns.rows(&mut out, &[]).unwrap();
        columns.rows(&mut out, &[vec!["a".into(), "22".into()]]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME    N\nlonger  1\na       22\n");
    }

    #[test]
    fn a_cell_of_any_length_is_cut_and_harms_nothing() {
        let mut out = Vec::new();
        let long = "x".repeat(70_000);
        table(&mut out, &["KEY", "N", "WHY"], &[vec![long.clone(), "1".into(), long.clone()]]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let line = text.lines().nth(1).unwrap();
        assert_eq!(line, format!("{}…  1  {long}", "x".repeat(CELL_MAX - 1)));
        assert_eq!(state(&long, 70_001, false).len(), 70_001);
    }
}
