//! Owns the reading of keys: each key is named once, in the code that reads it, with its default and its form.
//!
//! Promises that every problem is recorded and none ends the reading, that keys nobody asked for are reported with a
//! suggestion, and that every value read is printed to the effective configuration as a side effect, so that the
//! printed form can't forget a key. A getter that recorded a problem returns the default: the load fails anyway.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    context::Context,
    interpolate::interpolate,
    problem::Place,
    tree::{Entry, Node, Table, Value},
    units,
};

/// A table of the configuration, being read. End it with [`Section::finish`].
pub(super) struct Section<'a> {
    pub(super) cx: &'a Context<'a>,
    pub(super) place: Place,
    /// The dotted key, as messages name it.
    pub(super) key: String,
    table: Option<&'a Table>,
    /// The same as a TOML header, without brackets.
    header: String,
    repeated: bool,
    order: Vec<usize>,
    children: Cell<usize>,
    asked: RefCell<Vec<&'static str>>,
    lines: RefCell<String>,
}

impl<'a> Section<'a> {
    /// The top level of the merged files.
    pub(super) fn root(cx: &'a Context<'a>, table: &'a Table, place: Place) -> Self {
        Self {
            cx,
            place,
            key: String::new(),
            table: Some(table),
            header: String::new(),
            repeated: false,
            order: Vec::new(),
            children: Cell::new(0),
            asked: RefCell::default(),
            lines: RefCell::default(),
        }
    }

    fn child(&self, table: Option<&'a Table>, place: Place, key: String, header: String, repeated: bool) -> Self {
        let index = self.children.get();
        self.children.set(index + 1);
        let order = self.order.iter().copied().chain([index]).collect();
        let empty = Cell::new(0);
        let (asked, lines) = (RefCell::default(), RefCell::default());
        Self { cx: self.cx, place, key, table, header, repeated, order, children: empty, asked, lines }
    }

    /// Reports the keys nobody asked for and prints the section.
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        for entry in self.table.into_iter().flat_map(|table| &table.0) {
            if !asked.contains(&entry.name.as_str()) {
                let message = format!("unknown key; {}", suggestion(&entry.name, asked.iter().copied()));
                self.cx.problem(&entry.place, &dotted(&self.key, &entry.name), message);
            }
        }
        let lines = self.lines.into_inner();
        if self.header.is_empty() || (lines.is_empty() && !self.repeated) {
            return;
        }
        let header = if self.repeated { format!("[[{}]]", self.header) } else { format!("[{}]", self.header) };
        self.cx.print_section(self.order, format!("{header}\n{lines}"));
    }

    /// Whether the key is written.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.node(key).is_some()
    }

    /// Where the key stands; the section itself if it does not.
    pub(super) fn place_of(&self, key: &str) -> &Place {
        let entry = self.table.and_then(|table| table.get(key).or_else(|| table.get(key.split('.').next()?)));
        entry.map_or(&self.place, |entry| &entry.place)
    }

    /// Records a problem with a key of this section.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        self.cx.problem(self.place_of(key), &dotted(&self.key, key), message);
    }

    /// Records a warning about a key of this section.
    pub(super) fn warn(&self, key: &str, message: impl Into<String>) {
        self.cx.warn(self.place_of(key), &dotted(&self.key, key), message);
    }

    /// Adds a line of comment to the printed section.
    pub(super) fn note(&self, comment: &str) {
        let _infallible = writeln!(self.lines.borrow_mut(), "# {comment}");
    }

    /// Prints a value that is already in TOML's form.
    pub(super) fn print(&self, key: &str, value: &str) {
        let _infallible = writeln!(self.lines.borrow_mut(), "{} = {value}", bare_or_quoted(key));
        self.cx.print_value(dotted(&self.key, key), value);
    }

    /// A duration such as `"10s"`.
    pub(super) fn duration(&self, key: &'static str, default: &str) -> Duration {
        self.measure(key, Some(default), units::parse_duration, |&value| units::show_duration(value))
            .unwrap_or_default()
    }

    /// A duration without a default.
    pub(super) fn optional_duration(&self, key: &'static str) -> Option<Duration> {
        self.measure(key, None, units::parse_duration, |&value| units::show_duration(value))
    }

    /// A duration in a list, with `${NAME}` replaced.
    pub(super) fn duration_of(&self, key: &str, text: &str) -> Option<Duration> {
        let text = self.accept(key, interpolate(text, self.cx.env()))?;
        self.accept(key, units::parse_duration(&text))
    }

    /// A size such as `"10MiB"`, in bytes.
    pub(super) fn size(&self, key: &'static str, default: &str) -> u64 {
        self.measure(key, Some(default), units::parse_size, |&value| units::show_size(value)).unwrap_or_default()
    }

    /// Bytes in a second, such as `"1KiB/s"`.
    pub(super) fn byte_rate(&self, key: &'static str, default: &str) -> u64 {
        let show = |&value: &u64| format!("{}/s", units::show_size(value));
        self.measure(key, Some(default), units::parse_byte_rate, show).unwrap_or_default()
    }

    /// Events a second, such as `"100/s"`, without a default.
    pub(super) fn optional_rate(&self, key: &'static str) -> Option<u64> {
        self.measure(key, None, units::parse_rate, |rate| format!("{rate}/s"))
    }

    /// Things in a second, minute, hour or day, such as `"100/s"` or `"30/m"`, without a default.
    pub(super) fn optional_pace(&self, key: &'static str) -> Option<(u64, Duration)> {
        self.measure(key, None, units::parse_pace, |&(count, per)| units::show_pace(count, per))
    }

    /// Things in a second, minute, hour or day, such as `"10/m"`.
    pub(super) fn pace(&self, key: &'static str, default: &str) -> (u64, Duration) {
        self.measure(key, Some(default), units::parse_pace, |&(count, per)| units::show_pace(count, per))
            .unwrap_or((1, Duration::from_secs(1)))
    }

    /// The text of a key that is read elsewhere.
    pub(super) fn written(&self, key: &str) -> Option<&'a str> {
        match &self.table?.get(key)?.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Requests in a second, such as `"20/s"`.
    pub(super) fn rate(&self, key: &'static str, default: &str) -> u64 {
        self.measure(key, Some(default), units::parse_rate, |&value| format!("{value}/s")).unwrap_or_default()
    }

    fn measure<T>(
        &self,
        key: &'static str,
        default: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let parsed = match self.node(key) {
            Some(node) => self.expanded_text(key, node).and_then(|text| self.accept(key, parse(&text))),
            None => None,
        };
        let value = parsed.or_else(|| default.and_then(|default| parse(default).ok()))?;
        self.print(key, &quoted(&show(&value)));
        Some(value)
    }

    /// A whole number in a range.
    pub(super) fn count(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let value = self.optional_count(key, range);
        if value.is_none() {
            self.print(key, &default.to_string());
        }
        value.unwrap_or(default)
    }

    /// A whole number in a range, without a default.
    pub(super) fn optional_count(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = match &self.node(key)?.value {
            Value::Integer(number) => u64::try_from(*number).ok().filter(|number| range.contains(number)),
            _ => None,
        };
        match value {
            Some(value) => self.print(key, &value.to_string()),
            None => self.problem(key, format!("takes a whole number from {} to {}", range.start(), range.end())),
        }
        value
    }

    /// A number, whole or not, in a range.
    pub(super) fn number(&self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let value = self.optional_number(key, range);
        if value.is_none() {
            self.print(key, &format!("{default:?}"));
        }
        value.unwrap_or(default)
    }

    /// A number, whole or not, in a range, without a default.
    pub(super) fn optional_number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = match self.node(key)?.value {
            Value::Integer(number) => i32::try_from(number).ok().map(f64::from),
            Value::Float(number) => Some(number),
            _ => None,
        };
        let value = value.filter(|value| range.contains(value));
        match value {
            Some(value) => self.print(key, &format!("{value:?}")),
            None => self.problem(key, format!("takes a number from {} to {}", range.start(), range.end())),
        }
        value
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        let value = match self.node(key).map(|node| &node.value) {
            None => default,
            Some(Value::Flag(flag)) => *flag,
            Some(other) => {
                self.problem(key, format!("takes true or false, not {}", other.kind()));
                default
            }
        };
        self.print(key, if value { "true" } else { "false" });
        value
    }

    /// One of a few words. `what` names the idea in the message: `scheme "x" is not known; known: …`.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, default: &str, options: &[(&str, T)]) -> Option<T> {
        let written = match self.node(key) {
            Some(node) => self.plain_text(key, node)?,
            None => default,
        };
        let Some((name, value)) = options.iter().find(|(name, _)| *name == written) else {
            let known: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
            self.problem(key, format!("{key} \"{written}\" is not known; known: {}", known.join(", ")));
            return None;
        };
        self.print(key, &quoted(name));
        Some(*value)
    }

    /// A text as it stands, not empty.
    pub(super) fn text(&self, key: &'static str) -> Option<&'a str> {
        let text = self.plain_text(key, self.node(key)?)?;
        if text.is_empty() {
            self.problem(key, "is empty; write a value or leave the key out");
            return None;
        }
        self.print(key, &quoted(text));
        Some(text)
    }

    /// A text with `${NAME}` replaced, not empty. The caller prints it in its final form.
    pub(super) fn expanded(&self, key: &'static str) -> Option<String> {
        let text = self.expanded_text(key, self.node(key)?)?;
        if text.is_empty() {
            self.problem(key, "is empty; write a value or leave the key out");
            return None;
        }
        Some(text)
    }

    /// A path with `${NAME}` replaced; a relative one starts at the file it stands in.
    pub(super) fn path(&self, key: &'static str) -> Option<PathBuf> {
        let path = self.resolve(key, &self.expanded(key)?);
        self.print(key, &quoted(&path.to_string_lossy()));
        Some(path)
    }

    /// A path as seen from the file in which the key stands.
    pub(super) fn resolve(&self, key: &str, path: &str) -> PathBuf {
        self.base(key).join(path)
    }

    /// The directory of the file in which the key stands.
    pub(super) fn base(&self, key: &str) -> &Path {
        self.place_of(key).file.parent().unwrap_or(Path::new(""))
    }

    /// A list of texts, or one text that stands for a list of one. None if the key is absent.
    pub(super) fn words(&self, key: &'static str) -> Option<Vec<(&'a str, &'a Place)>> {
        let node = self.node(key)?;
        let nodes = match &node.value {
            Value::List(nodes) => nodes.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut words = Vec::with_capacity(nodes.len());
        for node in nodes {
            match &node.value {
                Value::Text(text) if !text.is_empty() => words.push((text.as_str(), &node.place)),
                Value::Text(_) => self.problem(key, "holds an empty string; remove it"),
                other => self.problem(key, format!("takes a list of strings, not {}", other.kind())),
            }
        }
        Some(words)
    }

    /// Whether the key is written as a list.
    pub(super) fn is_list(&self, key: &'static str) -> bool {
        matches!(self.value(key), Some(Value::List(_)))
    }

    /// A list of texts with `${NAME}` replaced. The caller prints them in their final form. None also if one of them
    /// has a problem.
    pub(super) fn expanded_words(&self, key: &'static str) -> Option<Vec<String>> {
        let words = self.words(key)?;
        words.into_iter().map(|(word, _)| self.accept(key, interpolate(word, self.cx.env()))).collect()
    }

    /// Prints a list of texts.
    pub(super) fn print_words<S: AsRef<str>>(&self, key: &str, words: impl IntoIterator<Item = S>) {
        let words: Vec<String> = words.into_iter().map(|word| quoted(word.as_ref())).collect();
        self.print(key, &format!("[{}]", words.join(", ")));
    }

    /// A table under this one; empty if it is absent, so that its defaults are read.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let table = match self.node(key).map(|node| &node.value) {
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                self.problem(key, format!("takes a table, not {}", other.kind()));
                None
            }
            None => None,
        };
        self.nested(key, table, self.place_of(key).clone())
    }

    /// A table under this one, if it is written.
    pub(super) fn optional_section(&self, key: &'static str) -> Option<Section<'a>> {
        self.has(key).then(|| self.section(key))
    }

    /// A list of tables (one table stands for a list of one).
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let nodes = match &node.value {
            Value::List(nodes) => nodes.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut sections = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let Value::Table(table) = &node.value else {
                self.problem(key, format!("takes tables, not {}", node.value.kind()));
                continue;
            };
            let name = format!("{}[{}]", dotted(&self.key, key), index + 1);
            let header = dotted(&self.header, key);
            sections.push(self.child(Some(table), node.place.clone(), name, header, true));
        }
        sections
    }

    /// The tables under this one whose names are the user's (`source`, `upstream`), by name.
    pub(super) fn named_sections(&self, key: &'static str) -> Vec<(&'a str, Section<'a>)> {
        let parent = self.section(key);
        let mut entries: Vec<&Entry> = parent.table.into_iter().flat_map(|table| &table.0).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut sections = Vec::with_capacity(entries.len());
        for entry in entries {
            match &entry.node.value {
                Value::Table(table) => {
                    let section = parent.nested(&entry.name, Some(table), entry.place.clone());
                    sections.push((entry.name.as_str(), section));
                }
                other => parent.problem(&entry.name, format!("takes a table, not {}", other.kind())),
            }
        }
        sections
    }

    /// The texts under a key whose names are the user's (headers), in the order they stand.
    pub(super) fn texts(&self, key: &'static str) -> Vec<(&'a str, &'a str, &'a Place)> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::Table(table) = &node.value else {
            self.problem(key, format!("takes a table, not {}", node.value.kind()));
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(table.0.len());
        for entry in &table.0 {
            match &entry.node.value {
                Value::Text(text) => texts.push((entry.name.as_str(), text.as_str(), &entry.place)),
                other => {
                    let key = dotted(&dotted(&self.key, key), &entry.name);
                    self.cx.problem(&entry.place, &key, format!("takes a string, not {}", other.kind()));
                }
            }
        }
        texts
    }

    /// Prints a table of texts on one line.
    pub(super) fn print_texts<'t>(&self, key: &str, texts: impl IntoIterator<Item = (&'t str, String)>) {
        let pairs: Vec<String> =
            texts.into_iter().map(|(name, text)| format!("{} = {}", bare_or_quoted(name), quoted(&text))).collect();
        self.print(key, &format!("{{ {} }}", pairs.join(", ")));
    }

    /// The value of a key that takes more than one form.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.node(key).map(|node| &node.value)
    }

    /// Keeps a good result, records a bad one.
    pub(super) fn accept<T>(&self, key: &str, result: Result<T, impl std::fmt::Display>) -> Option<T> {
        result.map_err(|error| self.problem(key, error.to_string())).ok()
    }

    fn node(&self, key: &'static str) -> Option<&'a Node> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.table.and_then(|table| table.get(key)).map(|entry| &entry.node)
    }

    fn nested(&self, key: &str, table: Option<&'a Table>, place: Place) -> Self {
        let header = dotted(&self.header, &bare_or_quoted(key));
        self.child(table, place, dotted(&self.key, key), header, false)
    }

    fn plain_text(&self, key: &str, node: &'a Node) -> Option<&'a str> {
        match &node.value {
            Value::Text(text) => Some(text),
            other => {
                self.problem(key, format!("takes a string, not {}", other.kind()));
                None
            }
        }
    }

    fn expanded_text(&self, key: &str, node: &'a Node) -> Option<String> {
        let text = self.plain_text(key, node)?;
        self.accept(key, interpolate(text, self.cx.env()))
    }
}

/// `did you mean "timeout"?`, or what there is to choose from.
pub(super) fn suggestion<'n>(written: &str, known: impl Iterator<Item = &'n str> + Clone) -> String {
    let closest = known
        .clone()
        .map(|name| (strsim::damerau_levenshtein(written, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4);
    match closest {
        Some((_, name)) => format!("did you mean \"{name}\"?"),
        None => {
            let mut known: Vec<&str> = known.collect();
            known.sort_unstable();
            format!("known here: {}", if known.is_empty() { "nothing".to_owned() } else { known.join(", ") })
        }
    }
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    let json = serde_json::Value::String(text.to_owned()).to_string();
    // The one character that JSON lets through and TOML does not.
    json.replace('\u{7f}', "\\u007f")
}

fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { key.to_owned() } else { quoted(key) }
}

fn dotted(prefix: &str, key: &str) -> String {
    match (prefix, key) {
        ("", key) => key.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, key) => format!("{prefix}.{key}"),
    }
}
