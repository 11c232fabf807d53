//! What is wrong with a definition, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Greatest number of problems that are listed; a file with more is broken in some general way.
const PROBLEMS_MAX: usize = 20;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionProblem {
    /// Key path, like `services.web.ports[0].port`; empty: the text as a whole.
    pub path: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What was found and what would be valid.
    pub message: String,
}

impl fmt::Display for DefinitionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
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

    /// Turns offsets into lines and columns. None when nothing is wrong.
    pub(super) fn finish(mut self, text: &str) -> Option<DefinitionError> {
        self.0.sort_by_key(|(at, ..)| *at);
        let left_out = self.0.len().saturating_sub(PROBLEMS_MAX);
        let problems: Vec<_> = self
            .0
            .into_iter()
            .take(PROBLEMS_MAX)
            .map(|(at, path, message)| {
                let (line, column) = line_and_column(text, at);
                DefinitionProblem { path, line, column, message }
            })
            .collect();
        (!problems.is_empty()).then_some(DefinitionError { problems, left_out })
    }
}

fn line_and_column(text: &str, at: usize) -> (u32, u32) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    (line as u32, column as u32)
}
