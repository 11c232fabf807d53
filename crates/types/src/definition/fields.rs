//! Takes values out of a tree by key, and says what is wrong with one that does not fit.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use super::{
    duration::{format_duration, parse_duration},
    keys::{Keys, nearest},
    problem::Problems,
    tree::{Entry, Tree, Value},
};

/// A value with its key path.
pub(super) struct Item<'t> {
    pub(super) path: String,
    pub(super) tree: &'t Tree,
}

/// A table whose keys are all known.
pub(super) struct Fields<'t> {
    path: String,
    entries: &'t [Entry],
}

impl<'t> Fields<'t> {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<Item<'t>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Item { path: join(&self.path, key), tree: &entry.value })
    }
}

impl<'t> Item<'t> {
    pub(super) fn refuse(&self, problems: &mut Problems, message: impl Into<String>) {
        problems.add(self.tree.at, &self.path, message);
    }

    fn refuse_kind(&self, problems: &mut Problems, expected: &str) {
        self.refuse(problems, format!("found {}, expected {expected}", self.tree.value.describe()));
    }

    /// A table with these keys; other keys are refused, and the table is read all the same.
    pub(super) fn fields(&self, keys: &Keys, problems: &mut Problems) -> Option<Fields<'t>> {
        let Value::Table(entries) = &self.tree.value else {
            self.refuse_kind(problems, "a table");
            return None;
        };
        for entry in entries {
            if let Some(why) = keys.refuse(&entry.key) {
                problems.add(entry.at, &join(&self.path, &entry.key), why);
            }
        }
        Some(Fields { path: self.path.clone(), entries })
    }

    /// A table that has been looked at already.
    pub(super) fn table(&self) -> Option<Fields<'t>> {
        let Value::Table(entries) = &self.tree.value else { return None };
        Some(Fields { path: self.path.clone(), entries })
    }

    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        if let Value::Boolean(value) = self.tree.value {
            return Some(value);
        }
        self.refuse_kind(problems, "true or false");
        None
    }

    /// The entries of a table whose keys are free: key, place of the key, value.
    pub(super) fn entries(&self, most: usize, problems: &mut Problems) -> Vec<(&'t str, usize, Self)> {
        let Value::Table(entries) = &self.tree.value else {
            self.refuse_kind(problems, "a table");
            return Vec::new();
        };
        if entries.len() > most {
            self.refuse(problems, format!("found {} entries, at most {most} are allowed", entries.len()));
            return Vec::new();
        }
        let entry = |entry: &'t Entry| {
            (entry.key.as_str(), entry.at, Item { path: join(&self.path, &entry.key), tree: &entry.value })
        };
        entries.iter().map(entry).collect()
    }

    /// The items of a list.
    pub(super) fn items(&self, most: usize, problems: &mut Problems) -> Vec<Self> {
        let Value::List(items) = &self.tree.value else {
            self.refuse_kind(problems, "a list");
            return Vec::new();
        };
        if items.len() > most {
            self.refuse(problems, format!("found {} items, at most {most} are allowed", items.len()));
            return Vec::new();
        }
        let item = |(index, tree)| Item { path: format!("{}[{index}]", self.path), tree };
        items.iter().enumerate().map(item).collect()
    }

    pub(super) fn text(&self, problems: &mut Problems) -> Option<&'t str> {
        if let Value::Text(text) = &self.tree.value {
            return Some(text);
        }
        let quoted = match &self.tree.value {
            Value::Integer(number) => format!("text: write \"{number}\""),
            Value::Boolean(value) => format!("text: write \"{value}\""),
            _ => "text".to_owned(),
        };
        self.refuse_kind(problems, &quoted);
        None
    }

    /// Text that passes a check.
    pub(super) fn checked(
        &self,
        check: fn(&str) -> Result<(), &'static str>,
        problems: &mut Problems,
    ) -> Option<&'t str> {
        let text = self.text(problems)?;
        match check(text) {
            Ok(()) => Some(text),
            Err(why) => {
                self.refuse(problems, format!("found {}: {why}", self.tree.value.describe()));
                None
            }
        }
    }

    /// Text that reads as a value of ours.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, problems: &mut Problems) -> Option<T> {
        let text = self.text(problems)?;
        text.parse().map_err(|error: T::Err| self.refuse(problems, error.to_string())).ok()
    }

    /// One word out of a few; `later` ones are refused with "not yet".
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], later: &[&str], problems: &mut Problems) -> Option<T> {
        let text = self.text(problems)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let found = self.tree.value.describe();
        let message = if later.contains(&text) {
            format!("not yet: this version does not have {found}; valid: {}", words.join(", "))
        } else if let Some(near) = nearest(text, words.iter().copied()) {
            format!("found {found}; did you mean {near:?}?")
        } else {
            format!("found {found}; valid: {}", words.join(", "))
        };
        self.refuse(problems, message);
        None
    }

    /// A whole number within bounds.
    pub(super) fn number<T>(&self, range: RangeInclusive<T>, problems: &mut Problems) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let number = match self.tree.value {
            Value::Integer(number) => T::try_from(number).ok().filter(|number| range.contains(number)),
            _ => None,
        };
        if number.is_none() {
            self.refuse_kind(problems, &format!("a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// A span of time within bounds.
    pub(super) fn span(&self, range: RangeInclusive<Duration>, problems: &mut Problems) -> Option<Duration> {
        let text = self.text(problems)?;
        match parse_duration(text) {
            Ok(span) if range.contains(&span) => return Some(span),
            Ok(_) => {
                let (low, high) = (format_duration(*range.start()), format_duration(*range.end()));
                self.refuse_kind(problems, &format!("a span of time from {low} to {high}"));
            }
            Err(error) => self.refuse(problems, error.to_string()),
        }
        None
    }
}

/// The path of a key below another.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if is_bare { key.to_owned() } else { format!("{:?}", key.chars().take(64).collect::<String>()) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
