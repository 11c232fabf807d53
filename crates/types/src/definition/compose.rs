//! Compose files: the application part of the Compose specification (<https://compose-spec.io>) as a definition.
//!
//! The file becomes a tree of the definition's own shape, whose values know their places in the file; from there on it is read like
//! any other definition. Nothing is dropped without a word: what is harmless gives a warning, what is not is refused with the
//! nearest way. `x-insula` of a service takes keys of the definition as they are; they go before what the file says otherwise.
//! Leaves to others: reading files beside it, and looking up tags of images.

mod amounts;
mod deploy;
mod interpolate;
mod keys;
mod node;
mod service;
mod storage;
#[cfg(test)]
mod tests;
mod traffic;
mod yaml;

use std::collections::BTreeSet;

use keys::Fate;
use node::{At, Kind, Node, Notes};

use super::{
    AppDefinition, DEFINITION_LEN_MAX, DefinitionError, DefinitionProblem, Places, SERVICES_MAX, nearest, read,
    tree::{Entry, Tree, Value},
};
use crate::AppName;

/// What a Compose file does not say itself.
pub struct ComposeContext<'a> {
    /// The app, whatever the file says.
    pub app: Option<AppName>,
    /// Name of the directory that it is in: what the app is called when nobody says.
    pub directory: Option<&'a str>,
    /// What a variable is; none: it is not set.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// What became of a Compose file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// The definition.
    pub definition: AppDefinition,
    /// What was left out, and what was taken otherwise than it is written, in the order of the text.
    pub warnings: Vec<DefinitionProblem>,
    /// Where the values of the definition are in the file.
    pub places: Places,
}

/// Reads a Compose file.
pub(super) fn read(text: &str, context: &ComposeContext<'_>) -> Result<Composed, DefinitionError> {
    let mut notes = Notes::default();
    let (definition, places) = compose(text, context, &mut notes).unzip();
    let Notes { mut problems, warnings, paths } = notes;
    // What is wrong with the definition that comes of it is said by the keys of the file.
    problems.rename(&paths);
    let definition = read::finish(text, definition, problems)?;
    Ok(Composed { definition, warnings: warnings.list(text), places: places.unwrap_or_default() })
}

fn compose(text: &str, context: &ComposeContext<'_>, notes: &mut Notes) -> Option<(AppDefinition, Places)> {
    if text.len() > DEFINITION_LEN_MAX {
        let found = text.len();
        notes.problems.add(0, "", format!("found {found} bytes, at most {DEFINITION_LEN_MAX} are allowed"));
        return None;
    }
    let mut file = yaml::read(text, &mut notes.problems)?;
    interpolate::all(&mut file, context.variable, notes);
    let file = At { path: String::new(), node: &file };
    file.note_paths(&mut notes.paths);
    let tree = translate(&file, context, notes)?;
    if !notes.problems.is_empty() {
        return None;
    }
    Some((read::tree(&tree, &mut notes.problems)?, Places::of_tree(text, &tree)))
}

/// A table being written.
#[derive(Default)]
struct Table(Vec<Entry>);

impl Table {
    /// Sets a key; what was there is replaced.
    fn set(&mut self, key: &str, at: usize, value: Value) {
        self.put(key, at, Tree { at, value });
    }

    fn put(&mut self, key: &str, at: usize, value: Tree) {
        self.0.retain(|entry| entry.key != key);
        self.0.push(Entry { key: key.to_owned(), at, value });
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn text(at: usize, text: impl Into<String>) -> Tree {
    Tree { at, value: Value::Text(text.into()) }
}

fn texts(at: usize, all: Vec<String>) -> Value {
    Value::List(all.into_iter().map(|one| text(at, one)).collect())
}

/// Says what becomes of each key of a table.
fn sort(table: &At<'_>, fates: &[(&str, Fate)], notes: &mut Notes) {
    for (key, at, value) in table.entries(notes) {
        match fates.iter().find(|(known, _)| *known == key).map(|(_, fate)| *fate) {
            _ if value.is_null() => {}
            Some(Fate::Read) => {}
            Some(Fate::Drop(why)) => notes.warnings.add(at, &value.path, format!("left out: {why}")),
            Some(Fate::Refuse(way)) => notes.problems.add(at, &value.path, format!("not supported: {way}")),
            // Extensions are what others read.
            None if key.starts_with("x-") => {}
            None => {
                let said = match nearest(key, fates.iter().map(|(known, _)| *known)) {
                    Some(near) => format!("unknown key; did you mean {near:?}?"),
                    None => "unknown key; the Compose specification has none of that name here".to_owned(),
                };
                notes.problems.add(at, &value.path, said);
            }
        }
    }
}

fn translate(file: &At<'_>, context: &ComposeContext<'_>, notes: &mut Notes) -> Option<Tree> {
    if !file.is_map() {
        file.refuse_kind(notes, "a table with the key \"services\"");
        return None;
    }
    sort(file, keys::FILE, notes);
    let Some(services) = file.get("services") else {
        file.refuse(notes, "the key \"services\" is missing");
        return None;
    };
    let shared = storage::Shared::read(file, context, notes);
    let mut table = Table::default();
    let entries = services.entries(notes);
    if entries.len() > SERVICES_MAX {
        services.refuse(notes, format!("found {} services, at most {SERVICES_MAX} are allowed", entries.len()));
        return None;
    }
    let mut names = Vec::new();
    for (name, at, service) in entries {
        if let Some(profiles) = service.get("profiles").filter(|profiles| !profiles.items(notes).is_empty()) {
            profiles.warn(notes, "left out: this service has profiles, of which none is asked for");
            continue;
        }
        if !service.is_map() {
            service.refuse_kind(notes, "a table");
            continue;
        }
        let entry = service::read(name, &service, &shared, notes);
        let own = label(name);
        if own != name {
            notes.warnings.add(at, &service.path, format!("called {own} here: names have letters, digits and hyphens"));
        }
        if names.contains(&own) {
            notes.problems.add(at, &service.path, format!("there is a service {own} already"));
        }
        table.put(&own, at, Tree { at: service.node.at, value: Value::Table(entry.0) });
        names.push(own);
    }
    if names.is_empty() && notes.problems.is_empty() {
        services.refuse(notes, "an app needs at least one service without profiles; write web: { image: … }");
    }
    if names.len() > 1 {
        let said = format!(
            "not yet: services do not reach each other by name ({}): this version has no networks between them",
            names[..names.len().min(8)].join(", ")
        );
        services.warn(notes, said);
    }
    shared.warn_unused(notes);
    let app = app(file, context, notes)?;
    let mut root = Table::default();
    root.put("app", app.at, app);
    root.set("services", services.node.at, Value::Table(table.0));
    Some(Tree { at: file.node.at, value: Value::Table(root.0) })
}

/// The app: as somebody says, as the file says, or as its directory is called.
fn app(file: &At<'_>, context: &ComposeContext<'_>, notes: &mut Notes) -> Option<Tree> {
    if let Some(app) = &context.app {
        return Some(text(file.node.at, app.as_str()));
    }
    if let Some(name) = file.get("name") {
        return Some(text(name.node.at, name.text(notes)?));
    }
    // As Compose names a project: in lower case, and without what has no place in a name.
    let directory = context.directory.unwrap_or_default().to_lowercase();
    let kept: String = directory.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let name = kept.trim_matches('-');
    if name.is_empty() {
        file.refuse(notes, "nobody says what the app is called; write name: NAME first, or give --app NAME");
        return None;
    }
    Some(text(file.node.at, name))
}

/// A value as a definition has it: plain words are numbers and truths where they can be.
fn plain(node: &Node) -> Tree {
    let value = match &node.kind {
        Kind::Null => Value::Other("nothing"),
        Kind::Scalar { text, is_plain: false } => Value::Text(text.clone()),
        Kind::Scalar { text, is_plain: true } => match (text.as_str(), text.parse::<i64>()) {
            ("true", _) => Value::Boolean(true),
            ("false", _) => Value::Boolean(false),
            (_, Ok(number)) => Value::Integer(number),
            _ => Value::Text(text.clone()),
        },
        Kind::List(items) => Value::List(items.iter().map(plain).collect()),
        Kind::Map(pairs) => {
            let entry = |pair: &node::Pair| Entry { key: pair.key.clone(), at: pair.at, value: plain(&pair.value) };
            Value::Table(pairs.iter().map(entry).collect())
        }
    };
    Tree { at: node.at, value }
}

/// A list of texts or a table of them, as many keys of Compose are: name, value if any, place.
fn pairs<'n>(table: &At<'n>, notes: &mut Notes) -> Vec<(String, Option<String>, At<'n>)> {
    if matches!(table.node.kind, Kind::List(_)) {
        let mut all: Vec<(String, Option<String>, At<'n>)> = Vec::new();
        for item in table.items(notes) {
            let Some(text) = item.text(notes) else { continue };
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            // Of a name that is there twice the later one holds, as in Compose.
            all.retain(|(other, ..)| other != name);
            all.push((name.to_owned(), value.map(str::to_owned), item));
        }
        return all;
    }
    let mut all = Vec::new();
    for (name, _, value) in table.entries(notes) {
        if value.is_null() {
            all.push((name.to_owned(), None, value));
        } else if let Some(text) = value.text(notes) {
            all.push((name.to_owned(), Some(text.to_owned()), value));
        }
    }
    all
}

/// A name as it can be here: Compose allows what a DNS label does not.
fn label(name: &str) -> String {
    name.replace(['_', '.'], "-")
}

/// Names that are used, to tell of those that are not.
type Used = std::cell::RefCell<BTreeSet<String>>;
