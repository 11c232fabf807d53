//! A Compose file as it is written: values that know their places and have no types yet.

use std::collections::BTreeMap;

use super::super::{fields::join, problem::Problems};

/// A value and its byte offset in the text.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    /// Any single value as it is written; `is_plain`: without quotes, so that it may mean a number or a truth.
    Scalar {
        text: String,
        is_plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Pair>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub key: String,
    pub at: usize,
    pub value: Node,
}

impl Node {
    /// What it is, for messages.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Scalar { text, .. } => {
                let short: String = text.chars().take(40).collect();
                let dots = if short.len() < text.len() { "…" } else { "" };
                format!("{:?}", short + dots)
            }
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a table".to_owned(),
        }
    }
}

/// What is said of a file while it is read.
#[derive(Default)]
pub(super) struct Notes {
    pub problems: Problems,
    pub warnings: Problems,
    /// Where which key or value of the file is.
    pub paths: BTreeMap<usize, Vec<String>>,
}

/// A value with its key path.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub path: String,
    pub node: &'n Node,
}

impl<'n> At<'n> {
    pub(super) fn refuse(&self, notes: &mut Notes, message: impl Into<String>) {
        notes.problems.add(self.node.at, &self.path, message);
    }

    pub(super) fn warn(&self, notes: &mut Notes, message: impl Into<String>) {
        notes.warnings.add(self.node.at, &self.path, message);
    }

    pub(super) fn refuse_kind(&self, notes: &mut Notes, expected: &str) {
        self.refuse(notes, format!("found {}, expected {expected}", self.node.describe()));
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.kind, Kind::Null)
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.kind, Kind::Map(_))
    }

    /// The text of a single value.
    pub(super) fn scalar(&self) -> Option<&'n str> {
        if let Kind::Scalar { text, .. } = &self.node.kind { Some(text) } else { None }
    }

    /// A single value as text; anything else is refused.
    pub(super) fn text(&self, notes: &mut Notes) -> Option<&'n str> {
        let text = self.scalar();
        if text.is_none() {
            self.refuse_kind(notes, "text");
        }
        text
    }

    /// A truth; anything else is refused.
    pub(super) fn flag(&self, notes: &mut Notes) -> Option<bool> {
        let flag = match self.scalar() {
            Some("true" | "True" | "TRUE") => Some(true),
            Some("false" | "False" | "FALSE") => Some(false),
            _ => None,
        };
        if flag.is_none() {
            self.refuse_kind(notes, "true or false");
        }
        flag
    }

    /// A whole number; anything else is refused.
    pub(super) fn number(&self, notes: &mut Notes) -> Option<i64> {
        let number = self.scalar().and_then(|text| text.parse().ok());
        if number.is_none() {
            self.refuse_kind(notes, "a whole number");
        }
        number
    }

    /// Items of a list; anything else is refused.
    pub(super) fn items(&self, notes: &mut Notes) -> Vec<Self> {
        match &self.node.kind {
            Kind::List(items) => {
                let item = |(index, node)| Self { path: format!("{}[{index}]", self.path), node };
                items.iter().enumerate().map(item).collect()
            }
            Kind::Null => Vec::new(),
            _ => {
                self.refuse_kind(notes, "a list");
                Vec::new()
            }
        }
    }

    /// Entries of a table: key, place of the key, value; anything else is refused.
    pub(super) fn entries(&self, notes: &mut Notes) -> Vec<(&'n str, usize, Self)> {
        match &self.node.kind {
            Kind::Map(pairs) => {
                let entry = |pair: &'n Pair| {
                    (pair.key.as_str(), pair.at, Self { path: join(&self.path, &pair.key), node: &pair.value })
                };
                pairs.iter().map(entry).collect()
            }
            Kind::Null => Vec::new(),
            _ => {
                self.refuse_kind(notes, "a table");
                Vec::new()
            }
        }
    }

    /// The value of a key that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let Kind::Map(pairs) = &self.node.kind else { return None };
        let pair = pairs.iter().find(|pair| pair.key == key)?;
        let found = Self { path: join(&self.path, key), node: &pair.value };
        (!found.is_null()).then_some(found)
    }

    /// Notes where everything is, for messages about what is made of it.
    pub(super) fn note_paths(&self, paths: &mut BTreeMap<usize, Vec<String>>) {
        paths.entry(self.node.at).or_default().push(self.path.clone());
        match &self.node.kind {
            Kind::Map(pairs) => {
                for pair in pairs {
                    let path = join(&self.path, &pair.key);
                    paths.entry(pair.at).or_default().push(path.clone());
                    Self { path, node: &pair.value }.note_paths(paths);
                }
            }
            Kind::List(items) => {
                for (index, node) in items.iter().enumerate() {
                    Self { path: format!("{}[{index}]", self.path), node }.note_paths(paths);
                }
            }
            Kind::Null | Kind::Scalar { .. } => {}
        }
    }
}
