//! Owns what one load collects on its way: problems, warnings, files to watch, and the effective configuration as it is
//! read. One load, one thread.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    files::Pattern,
    interpolate::Env,
    problem::{Place, Problem},
};

/// What one load collects.
pub(super) struct Context<'a> {
    env: Env<'a>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    files: RefCell<BTreeSet<PathBuf>>,
    patterns: RefCell<BTreeSet<Pattern>>,
    printed: RefCell<BTreeMap<Vec<usize>, String>>,
    values: RefCell<BTreeMap<String, String>>,
}

/// What a load leaves behind besides the values.
pub(super) struct Collected {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) files: Vec<PathBuf>,
    pub(super) patterns: Vec<Pattern>,
    /// The effective configuration as TOML.
    pub(super) printed: String,
    /// The same by dotted key.
    pub(super) values: BTreeMap<String, String>,
}

impl<'a> Context<'a> {
    pub(super) fn new(env: Env<'a>) -> Self {
        Self {
            env,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            files: RefCell::default(),
            patterns: RefCell::default(),
            printed: RefCell::default(),
            values: RefCell::default(),
        }
    }

    pub(super) fn env(&self) -> Env<'a> {
        self.env
    }

    pub(super) fn problem(&self, place: &Place, key: &str, message: impl Into<String>) {
        let problem = Problem { place: place.clone(), key: key.to_owned(), message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn warn(&self, place: &Place, key: &str, message: impl Into<String>) {
        let problem = Problem { place: place.clone(), key: key.to_owned(), message: message.into() };
        self.warnings.borrow_mut().push(problem);
    }

    /// Notes a file whose change asks for a reload.
    pub(super) fn watch(&self, file: &Path) {
        self.files.borrow_mut().insert(file.to_owned());
    }

    /// Notes a pattern whose files may become more.
    pub(super) fn watch_pattern(&self, pattern: Pattern) {
        self.patterns.borrow_mut().insert(pattern);
    }

    /// Takes a section's text; `order` is its place in the tree of sections, so that a nested section is printed right
    /// after the one it belongs to.
    pub(super) fn print_section(&self, order: Vec<usize>, text: String) {
        self.printed.borrow_mut().insert(order, text);
    }

    /// Takes a value by its dotted key.
    pub(super) fn print_value(&self, key: String, value: &str) {
        self.values.borrow_mut().insert(key, value.to_owned());
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// Whether something is wrong with the line of this place, or with its file as a whole.
    pub(super) fn has_problem_at(&self, place: &Place) -> bool {
        self.problems.borrow().iter().any(|problem| problem.place == *place)
    }

    pub(super) fn collected(self) -> Collected {
        let sorted = |list: RefCell<Vec<Problem>>| {
            let mut list = list.into_inner();
            list.sort();
            list.dedup();
            list
        };
        Collected {
            problems: sorted(self.problems),
            warnings: sorted(self.warnings),
            files: self.files.into_inner().into_iter().collect(),
            patterns: self.patterns.into_inner().into_iter().collect(),
            printed: self.printed.into_inner().into_values().collect::<Vec<_>>().join("\n"),
            values: self.values.into_inner(),
        }
    }
}
