//! Owns TOML text as a tree that knows where each value stands, and the merging of several files into one.
//!
//! Promises that nothing is lost or overwritten in a merge: what stands twice is a problem that names both places.
//! Knows no key but `include`'s effect on merging: tables join, lists of tables are appended.

use std::{path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::{Place, Problem};

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What TOML can say, reduced to what the configuration uses.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(Table),
    /// A date or a number out of range: nothing of ours.
    Other,
}

impl Value {
    /// The kind in the words of a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other => "a date, or a number out of range",
        }
    }
}

/// Keys in the order they were written.
#[derive(Debug, Default)]
pub(super) struct Table(pub(super) Vec<Entry>);

/// A key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

impl Table {
    /// The entry of that name.
    pub(super) fn get(&self, name: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.name == name)
    }

    /// Takes in another file's table. At the top level tables join and lists of tables are appended; two levels
    /// down (`source.app`) a name may stand once only.
    pub(super) fn merge(&mut self, other: Self, prefix: &str, depth: u8, problems: &mut Vec<Problem>) {
        for entry in other.0 {
            let Some(own) = self.0.iter_mut().find(|own| own.name == entry.name) else {
                self.0.push(entry);
                continue;
            };
            let key = if prefix.is_empty() { entry.name.clone() } else { format!("{prefix}.{}", entry.name) };
            match (&mut own.node.value, entry.node.value) {
                (Value::Table(own), Value::Table(other)) if depth == 0 => own.merge(other, &key, 1, problems),
                (Value::List(own), Value::List(other)) if depth == 0 => own.extend(other),
                _ => problems.push(Problem {
                    place: entry.place,
                    key,
                    message: format!("stands at {} too; keep one of them", own.place),
                }),
            }
        }
    }
}

/// Parses a file's text. All syntax errors are reported, not only the first; beside them stands what could be read.
pub(super) fn parse(text: &str, file: &Arc<Path>) -> (Table, Vec<Problem>) {
    let lines = Lines::of(text, file);
    let (table, errors) = DeTable::parse_recoverable(text);
    let problems = errors
        .iter()
        .map(|error| Problem {
            place: lines.place(error.span().map_or(0, |span| span.start)),
            key: String::new(),
            message: format!("not valid TOML: {}", error.message().replace('\n', "; ")),
        })
        .collect();
    (lines.table(table.get_ref()), problems)
}

/// Turns byte offsets into lines.
struct Lines<'a> {
    file: &'a Arc<Path>,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &str, file: &'a Arc<Path>) -> Self {
        let breaks = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self { file, starts: breaks.collect() }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|&start| start <= offset) + 1;
        Place { file: self.file.clone(), line: u32::try_from(line).unwrap_or(u32::MAX) }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<(usize, Entry)> = table
            .iter()
            .map(|(name, value)| {
                let start = name.span().start;
                let entry =
                    Entry { name: name.get_ref().to_string(), place: self.place(start), node: self.node(value, start) };
                (start, entry)
            })
            .collect();
        entries.sort_by_key(|(start, _)| *start);
        Table(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, key_start: usize) -> Node {
        let place = self.place(match value.get_ref() {
            DeValue::Table(_) => key_start,
            _ => value.span().start,
        });
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other, Value::Integer)
            }
            DeValue::Float(number) => number.as_str().parse().map_or(Value::Other, Value::Float),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(_) => Value::Other,
            DeValue::Array(array) => Value::List(array.iter().map(|node| self.node(node, node.span().start)).collect()),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node { place, value }
    }
}
