//! Puts variables into the values of a file: `$NAME`, `${NAME}`, `${NAME:-default}` and the other forms of Compose.
//! Keys are left as they are.

use std::collections::BTreeSet;

use super::{
    super::fields::join,
    node::{Kind, Node, Notes},
};

/// Bytes of one value after variables were put in: what a definition can hold at most.
const VALUE_LEN_MAX: usize = 256 << 10;
/// Defaults within defaults.
const DEPTH_MAX: usize = 8;
/// Bytes of all values after variables were put in.
const TOTAL_LEN_MAX: usize = 4 << 20;

/// What a variable is; none: it is not set.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts variables into all values below a node.
pub(super) fn all(node: &mut Node, variable: Variable<'_>, notes: &mut Notes) {
    let mut unset = BTreeSet::new();
    let mut left = TOTAL_LEN_MAX;
    below("", node, variable, (&mut unset, &mut left), notes);
}

type Seen<'a> = (&'a mut BTreeSet<String>, &'a mut usize);

fn below(path: &str, node: &mut Node, variable: Variable<'_>, (unset, left): Seen<'_>, notes: &mut Notes) {
    match &mut node.kind {
        Kind::Null => {}
        Kind::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                below(&format!("{path}[{index}]"), item, variable, (unset, left), notes);
            }
        }
        Kind::Map(pairs) => {
            for pair in pairs {
                below(&join(path, &pair.key), &mut pair.value, variable, (unset, left), notes);
            }
        }
        Kind::Scalar { text, .. } if text.contains('$') => {
            let mut missing = Vec::new();
            match put(text, variable, &mut missing, DEPTH_MAX) {
                Ok(value) if value.len() > VALUE_LEN_MAX.min(*left) => {
                    notes.problems.add(node.at, path, "with its variables it is longer than a definition may be");
                }
                Ok(value) => {
                    *left -= value.len();
                    *text = value;
                }
                Err(why) => notes.problems.add(node.at, path, why),
            }
            for name in missing {
                if unset.insert(name.clone()) {
                    let said = format!("the variable {name} is not set: taken as empty");
                    notes.warnings.add(node.at, path, said);
                }
            }
        }
        Kind::Scalar { .. } => {}
    }
}

/// One value. `missing` gets the names that are not set and have no default.
fn put(text: &str, variable: Variable<'_>, missing: &mut Vec<String>, depth: usize) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or("\"${\" without \"}\"; a dollar sign of its own is written \"$$\"")?;
            out.push_str(&braced(&after[..end], variable, missing, depth)?);
            rest = &after[end + 1..];
        } else {
            let len = name_len(rest);
            if len == 0 {
                return Err("a dollar sign begins a variable like ${NAME}; one of its own is written \"$$\"".to_owned());
            }
            out.push_str(&plain(&rest[..len], variable, missing));
            rest = &rest[len..];
        }
        if out.len() > VALUE_LEN_MAX {
            return Err("with its variables it is longer than a definition may be".to_owned());
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn plain(name: &str, variable: Variable<'_>, missing: &mut Vec<String>) -> String {
    variable(name).unwrap_or_else(|| {
        missing.push(name.to_owned());
        String::new()
    })
}

/// What is between the braces.
fn braced(text: &str, variable: Variable<'_>, missing: &mut Vec<String>, depth: usize) -> Result<String, String> {
    let wrong = || {
        let found: String = text.chars().take(40).collect();
        format!(
            "found \"${{{found}}}\", expected ${{NAME}}, ${{NAME:-default}}, ${{NAME:?message}} or ${{NAME:+other}}"
        )
    };
    let (name, rest) = text.split_at(name_len(text));
    if name.is_empty() {
        return Err(wrong());
    }
    if rest.is_empty() {
        return Ok(plain(name, variable, missing));
    }
    let below = depth.checked_sub(1).ok_or_else(wrong)?;
    let (counts_empty, rest) = rest.strip_prefix(':').map_or((false, rest), |rest| (true, rest));
    let value = variable(name).filter(|value| !(counts_empty && value.is_empty()));
    let mut chars = rest.chars();
    let how = chars.next();
    let word = chars.as_str();
    match (how, value) {
        (Some('-' | '?'), Some(value)) => Ok(value),
        (Some('-'), None) | (Some('+'), Some(_)) => put(word, variable, missing, below),
        (Some('+'), None) => Ok(String::new()),
        (Some('?'), None) => {
            let why: String = put(word, variable, missing, below)?.chars().take(200).collect();
            Err(format!("the variable {name} is not set{}{why}", if why.is_empty() { "" } else { ": " }))
        }
        _ => Err(wrong()),
    }
}

/// Length of the variable's name at the beginning.
fn name_len(text: &str) -> usize {
    let is_first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if is_first { text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len()) } else { 0 }
}

/// Where the brace is that closes, with pairs of braces between.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0usize, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                depth += 1;
                at += 1;
            }
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}
