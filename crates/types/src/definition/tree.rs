//! A text as a tree in which every key and value knows its place: what TOML and JSON have in common.

use serde::de::{Deserialize, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use toml::de::{DeString, DeTable, DeValue};

use super::{Format, problem::Problems};

/// Deepest nesting that is read. A definition needs six levels.
const DEPTH_MAX: usize = 16;

/// A value and its byte offset in the text.
#[derive(Clone)]
pub(super) struct Tree {
    pub(super) at: usize,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Tree>),
    Table(Vec<Entry>),
    /// Something no definition has any use for: a date, a fraction, null. Named with its article.
    Other(&'static str),
}

/// A key with its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: usize,
    pub(super) value: Tree,
}

impl Value {
    /// What it is, for messages: `"abc"`, `7`, `a list`.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => {
                let short: String = text.chars().take(40).collect();
                let dots = if short.len() < text.len() { "…" } else { "" };
                format!("{:?}", short + dots)
            }
            Self::Integer(number) => format!("the number {number}"),
            Self::Boolean(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(what) => (*what).to_owned(),
        }
    }
}

/// Reads a text. None when it is not well-formed; then `problems` says why.
pub(super) fn read(text: &str, format: Format, problems: &mut Problems) -> Option<Tree> {
    let tree = match format {
        Format::Toml => read_toml(text, problems),
        Format::Json => read_json(text, problems),
    };
    tree.filter(|_| problems.is_empty())
}

fn read_toml(text: &str, problems: &mut Problems) -> Option<Tree> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        problems.add(error.span().map_or(0, |span| span.start), "", format!("not valid TOML: {}", error.message()));
    }
    Some(Tree { at: 0, value: toml_table(table.into_inner()) })
}

fn toml_table(table: DeTable<'_>) -> Value {
    let entry = |(key, value): (toml::Spanned<DeString<'_>>, toml::Spanned<DeValue<'_>>)| Entry {
        at: key.span().start,
        key: key.into_inner().into_owned(),
        value: toml_value(value),
    };
    let mut entries: Vec<Entry> = table.into_iter().map(entry).collect();
    // The parser sorts by key; of two that clash, the later one in the text shall be the wrong one.
    entries.sort_by_key(|entry| entry.at);
    Value::Table(entries)
}

fn toml_value(value: toml::Spanned<DeValue<'_>>) -> Tree {
    let at = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number beyond 64 bits"), Value::Integer),
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Boolean(value) => Value::Boolean(value),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(items.into_iter().map(toml_value).collect()),
        DeValue::Table(table) => toml_table(table),
    };
    Tree { at, value }
}

/// Level by level: each is split by serde_json into raw pieces of the text, whose places are known.
fn read_json(text: &str, problems: &mut Problems) -> Option<Tree> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => json_value(text, raw, DEPTH_MAX, problems),
        Err(error) => {
            json_error(offset_of(text, &error), &error, problems);
            None
        }
    }
}

fn json_value(text: &str, raw: &RawValue, depth: usize, problems: &mut Problems) -> Option<Tree> {
    let at = raw.get().as_ptr() as usize - text.as_ptr() as usize;
    if depth == 0 {
        problems.add(at, "", format!("nested deeper than {DEPTH_MAX} levels"));
        return None;
    }
    match serde_json::from_str::<Level<'_>>(raw.get()) {
        Ok(level) => Some(Tree { at, value: json_level(text, level, depth, problems)? }),
        Err(error) => {
            json_error(at + offset_of(raw.get(), &error), &error, problems);
            None
        }
    }
}

fn json_level(text: &str, level: Level<'_>, depth: usize, problems: &mut Problems) -> Option<Value> {
    Some(match level {
        Level::Leaf(value) => value,
        Level::List(items) => {
            let items: Option<_> = items.into_iter().map(|raw| json_value(text, raw, depth - 1, problems)).collect();
            Value::List(items?)
        }
        Level::Table(pairs) => {
            let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
            let mut seen = std::collections::BTreeSet::new();
            for (raw_key, raw) in pairs {
                let at = raw_key.get().as_ptr() as usize - text.as_ptr() as usize;
                let key: String = match serde_json::from_str(raw_key.get()) {
                    Ok(key) => key,
                    Err(error) => {
                        json_error(at, &error, problems);
                        return None;
                    }
                };
                if !seen.insert(key.clone()) {
                    problems.add(at, "", format!("not valid: the key {key:?} is there twice"));
                }
                entries.push(Entry { key, at, value: json_value(text, raw, depth - 1, problems)? });
            }
            Value::Table(entries)
        }
    })
}

/// Offset of the place that an error of serde_json names by line and column.
fn offset_of(text: &str, error: &serde_json::Error) -> usize {
    let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    (line_start + error.column().saturating_sub(1)).min(text.len())
}

fn json_error(at: usize, error: &serde_json::Error, problems: &mut Problems) {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    problems.add(at, "", format!("not valid JSON: {message}"));
}

/// One level of JSON, whatever is below still as text.
enum Level<'t> {
    Leaf(Value),
    List(Vec<&'t RawValue>),
    Table(Vec<(&'t RawValue, &'t RawValue)>),
}

impl<'de> Deserialize<'de> for Level<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LevelVisitor)
    }
}

struct LevelVisitor;

impl<'de> Visitor<'de> for LevelVisitor {
    type Value = Level<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Level<'de>, E> {
        Ok(Level::Leaf(Value::Boolean(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Level<'de>, E> {
        Ok(Level::Leaf(Value::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Level<'de>, E> {
        let other = Value::Other("a number beyond 64 bits");
        Ok(Level::Leaf(i64::try_from(value).map_or(other, Value::Integer)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Level<'de>, E> {
        Ok(Level::Leaf(Value::Other("a fraction")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Level<'de>, E> {
        Ok(Level::Leaf(Value::Text(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Level<'de>, E> {
        Ok(Level::Leaf(Value::Other("null")))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Level<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Level::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Level<'de>, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Level::Table(table))
    }
}
