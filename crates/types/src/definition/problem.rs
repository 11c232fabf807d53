//! What is wrong with a definition, and where.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Greatest number of problems that are listed; a file with more is broken in some general way.
const PROBLEMS_MAX: usize = 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DefinitionProblem {
    /// Key path, like `services.web.ports[0].port`; empty: the text as a whole.
    pub path: String,
    /// Line, from 1; 0: not known.
    pub line: u32,
    /// Column in characters, from 1; 0: not known.
    pub column: u32,
    /// What was found and what would be valid.
    pub message: String,
}

impl fmt::Display for DefinitionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A definition that is refused: its problems in the order of the text, one on each line when displayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionError {
    /// The first problems; at least one.
    pub problems: Vec<DefinitionProblem>,
    /// How many more there are.
    pub left_out: usize,
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        if self.left_out > 0 {
            write!(f, "\nand {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for DefinitionError {}

/// Collects problems by byte offset while a definition is read.
#[derive(Default)]
pub(super) struct Problems(Vec<(usize, String, String)>);

impl Problems {
    pub(super) fn add(&mut self, at: usize, path: &str, message: impl Into<String>) {
        self.0.push((at, path.to_owned(), message.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what was found when the same was read once more as a part of something else, without what is known: the same words
    /// about the same place, or about the place of the whole, which was `before` and is `now`.
    pub(super) fn add_new(&mut self, found: Self, before: usize, now: usize) {
        let known: BTreeSet<(usize, &str)> = self.0.iter().map(|(at, _, message)| (*at, message.as_str())).collect();
        let is_new = |(at, _, message): &(usize, String, String)| {
            let first = if *at == now { before } else { *at };
            !known.contains(&(*at, message.as_str())) && !known.contains(&(first, message.as_str()))
        };
        let new: Vec<_> = found.0.into_iter().filter(is_new).collect();
        self.0.extend(new);
    }

    /// Names what is at these places otherwise. Of several names for a place, as a table and its first key have it, the one with the
    /// same last key, else the first.
    pub(super) fn rename(&mut self, paths: &BTreeMap<usize, Vec<String>>) {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        for (at, path, _) in &mut self.0 {
            let Some(names) = paths.get(at) else { continue };
            let same = names.iter().find(|name| last(name) == last(path)).or_else(|| names.first());
            if let Some(other) = same.filter(|other| !other.is_empty()) {
                path.clone_from(other);
            }
        }
    }

    /// Turns offsets into lines and columns, the first of them at most [`PROBLEMS_MAX`]. None when nothing is wrong.
    pub(super) fn finish(mut self, text: &str) -> Option<DefinitionError> {
        self.0.sort_by_key(|(at, ..)| *at);
        let left_out = self.0.len().saturating_sub(PROBLEMS_MAX);
        self.0.truncate(PROBLEMS_MAX);
        let problems = self.list(text);
        (!problems.is_empty()).then_some(DefinitionError { problems, left_out })
    }

    /// Turns offsets into lines and columns, in the order of the text.
    pub(super) fn list(mut self, text: &str) -> Vec<DefinitionProblem> {
        self.0.sort_by_key(|(at, ..)| *at);
        let (mut from, mut line) = (0, 1);
        let place = |(at, path, message): (usize, String, String)| {
            // Line by line from the one before: a file may have thousands of warnings.
            let at = at.min(text.len());
            line += text.as_bytes()[from..at].iter().filter(|b| **b == b'\n').count();
            from = at;
            let start = text.as_bytes()[..at].iter().rposition(|b| *b == b'\n').map_or(0, |before| before + 1);
            let column = String::from_utf8_lossy(&text.as_bytes()[start..at]).chars().count() + 1;
            DefinitionProblem { path, line: line as u32, column: column as u32, message }
        };
        self.0.into_iter().map(place).collect()
    }
}
