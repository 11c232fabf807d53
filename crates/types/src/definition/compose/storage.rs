//! Volumes, files and secrets of a Compose file.

use std::{cell::RefCell, collections::BTreeMap};

use super::{At, ComposeContext, Entry, Table, Tree, Used, Value, amounts, keys, label, node::Notes, sort, text};
use crate::{AppName, ByteSize};

/// A volume of which the file does not say how large it is.
const SIZE_DEFAULT: ByteSize = ByteSize::mib(5 << 10);
/// Permissions of a config where nobody says, as in Compose.
const MODE_DEFAULT: &str = "0444";

/// What services name and the file says at its top.
pub(super) struct Shared<'n> {
    volumes: Option<At<'n>>,
    configs: Option<At<'n>>,
    secrets: Option<At<'n>>,
    variable: &'n dyn Fn(&str) -> Option<String>,
    app: Option<&'n AppName>,
    /// Which service has a volume.
    owners: RefCell<BTreeMap<String, String>>,
    used: Used,
}

impl<'n> Shared<'n> {
    pub(super) fn read(file: &At<'n>, context: &'n ComposeContext<'_>, notes: &mut Notes) -> Self {
        let volumes = file.get("volumes");
        let all = volumes.as_ref().map(|volumes| volumes.entries(notes)).unwrap_or_default();
        for (_, _, volume) in all {
            check_volume(&volume, notes);
        }
        let tables = [file.get("configs"), file.get("secrets")];
        for table in tables.iter().flatten() {
            table.entries(notes);
        }
        let [configs, secrets] = tables;
        let (variable, app) = (context.variable, context.app.as_ref());
        Self { volumes, configs, secrets, variable, app, owners: RefCell::default(), used: Used::default() }
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name)
    }

    /// Warns of what no service names.
    pub(super) fn warn_unused(&self, notes: &mut Notes) {
        for (kind, table) in [("volumes", &self.volumes), ("configs", &self.configs), ("secrets", &self.secrets)] {
            for (name, at, item) in table.as_ref().map(|table| table.entries(notes)).unwrap_or_default() {
                if !self.used.borrow().contains(&format!("{kind}.{name}")) {
                    notes.warnings.add(at, &item.path, "left out: no service has it");
                }
            }
        }
    }

    /// What the top of the file says of a name, and that a service has it.
    fn find(&self, kind: &str, name: &str, item: &At<'_>, notes: &mut Notes) -> Option<At<'n>> {
        let table = match kind {
            "volumes" => &self.volumes,
            "configs" => &self.configs,
            _ => &self.secrets,
        };
        self.used.borrow_mut().insert(format!("{kind}.{name}"));
        let entries = table.as_ref().map(|table| table.entries(notes)).unwrap_or_default();
        let found = entries.into_iter().find(|(key, ..)| *key == name).map(|(.., value)| value);
        if found.is_none() {
            item.refuse(notes, format!("there is no {name:?} under {kind} at the top of the file; add it there"));
        }
        found
    }
}

fn check_volume(volume: &At<'_>, notes: &mut Notes) {
    if volume.is_null() {
        return;
    }
    sort(volume, keys::VOLUME, notes);
    if let Some(driver) = volume.get("driver").filter(|driver| driver.scalar() != Some("local")) {
        driver.refuse_kind(notes, "\"local\": volumes are on a node's own disk");
    }
}

/// Reads `volumes`, `tmpfs`, `shm_size`, `configs` and `secrets` of a service.
pub(super) fn read(name: &str, service: &At<'_>, shared: &Shared<'_>, table: &mut Table, notes: &mut Notes) {
    let mut mounts = Mounts::default();
    if let Some(volumes) = service.get("volumes") {
        for item in volumes.items(notes) {
            mount(name, &item, shared, &mut mounts, notes);
        }
    }
    if let Some(item) = service.get("tmpfs") {
        let all = if item.scalar().is_some() { vec![item] } else { item.items(notes) };
        for item in all {
            tmpfs(&item, &mut mounts, notes);
        }
    }
    if let Some(item) = service.get("shm_size")
        && let Some(size) = bytes(&item, notes)
    {
        mounts.tmpfs.push(table_of(item.node.at, [("path", text(item.node.at, "/dev/shm")), ("size", size)]));
    }
    for (key, list) in [("volumes", mounts.volumes), ("tmpfs", mounts.tmpfs)] {
        if let Some(at) = list.first().map(|one| one.at) {
            table.set(key, at, Value::List(list));
        }
    }
    let files: Vec<Tree> =
        listed(service, "configs", notes).iter().filter_map(|item| config(item, shared, notes)).collect();
    if let Some(at) = files.first().map(|one| one.at) {
        table.set("files", at, Value::List(files));
    }
    let secrets: Vec<Tree> =
        listed(service, "secrets", notes).iter().filter_map(|item| secret(item, shared, notes)).collect();
    if let Some(at) = secrets.first().map(|one| one.at) {
        table.set("secrets", at, Value::List(secrets));
    }
}

#[derive(Default)]
struct Mounts {
    volumes: Vec<Tree>,
    tmpfs: Vec<Tree>,
}

fn listed<'n>(service: &At<'n>, key: &str, notes: &mut Notes) -> Vec<At<'n>> {
    service.get(key).map(|item| item.items(notes)).unwrap_or_default()
}

fn table_of<const N: usize>(at: usize, entries: [(&str, Tree); N]) -> Tree {
    let entry = |(key, value): (&str, Tree)| Entry { key: key.to_owned(), at, value };
    Tree { at, value: Value::Table(entries.into_iter().map(entry).collect()) }
}

/// An amount of bytes, as a definition writes it.
fn bytes(item: &At<'_>, notes: &mut Notes) -> Option<Tree> {
    let read = amounts::bytes(item.text(notes)?);
    read.map_err(|why| item.refuse(notes, why)).ok().map(|bytes| text(item.node.at, bytes.to_string()))
}

fn mount(service: &str, item: &At<'_>, shared: &Shared<'_>, mounts: &mut Mounts, notes: &mut Notes) {
    if !item.is_map() {
        let Some(said) = item.text(notes) else { return };
        let mut parts = said.splitn(3, ':');
        return match (parts.next(), parts.next(), parts.next()) {
            (Some(source), Some(target), mode) => {
                if mode.is_some_and(|mode| mode.split(',').any(|word| word == "ro")) && !is_path(source) {
                    item.warn(notes, "the volume can be written to: this version has no read-only ones");
                }
                volume(service, item, (source, target), shared, mounts, notes);
            }
            _ => item.refuse(notes, "a volume without a name is gone with its container; give it one: NAME:/PATH"),
        };
    }
    const KNOWN: [&str; 8] = ["type", "source", "target", "read_only", "volume", "tmpfs", "bind", "consistency"];
    for (key, at, value) in item.entries(notes) {
        if !KNOWN.contains(&key) && !key.starts_with("x-") {
            notes.problems.add(at, &value.path, format!("unknown key; valid here: {}", KNOWN.join(", ")));
        }
    }
    let word = |key: &str| item.get(key).and_then(|item| item.scalar());
    let Some(target) = word("target") else {
        return item.refuse(notes, "the key \"target\" is missing: the path in the container");
    };
    match word("type") {
        Some("volume") => {
            if word("read_only") == Some("true") {
                item.warn(notes, "the volume can be written to: this version has no read-only ones");
            }
            match word("source") {
                Some(source) => volume(service, item, (source, target), shared, mounts, notes),
                None => {
                    item.refuse(notes, "a volume without a name is gone with its container; give it one: source: NAME")
                }
            }
        }
        Some("tmpfs") => {
            let at = item.node.at;
            let size = item.get("tmpfs").and_then(|tmpfs| tmpfs.get("size")).and_then(|size| bytes(&size, notes));
            mounts.tmpfs.push(match size {
                Some(size) => table_of(at, [("path", text(at, target)), ("size", size)]),
                None => table_of(at, [("path", text(at, target))]),
            });
        }
        Some("bind") => refuse_bind(item, word("source").unwrap_or_default(), notes),
        _ => item.refuse(notes, "expected type: volume or type: tmpfs"),
    }
}

fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~']) || source.contains('\\')
}

fn refuse_bind(item: &At<'_>, source: &str, notes: &mut Notes) {
    let way = "put files into the image, write them under configs with content, or use a named volume";
    item.refuse(notes, format!("not supported: {source:?} is a path of one machine; {way}"));
}

fn volume(
    service: &str,
    item: &At<'_>,
    (source, target): (&str, &str),
    shared: &Shared<'_>,
    mounts: &mut Mounts,
    notes: &mut Notes,
) {
    if is_path(source) {
        return refuse_bind(item, source, notes);
    }
    let Some(top) = shared.find("volumes", source, item, notes) else { return };
    let owner = shared.owners.borrow_mut().insert(source.to_owned(), service.to_owned());
    if let Some(owner) = owner.filter(|owner| owner != service) {
        let way = "a volume is of one instance; give each service its own, or let one serve the other";
        return item.refuse(notes, format!("not supported: {source} is a volume of {owner} already; {way}"));
    }
    let size = top.get("x-insula").and_then(|own| own.get("size"));
    let at = item.node.at;
    let size = match size {
        Some(size) => text(size.node.at, size.text(notes).unwrap_or_default()),
        None => {
            let said =
                format!("the volume {source} is made with {SIZE_DEFAULT}; say how large at the top of the file, with");
            item.warn(notes, format!("{said} {source}: {{ x-insula: {{ size: 20GiB }} }}"));
            text(at, SIZE_DEFAULT.to_string())
        }
    };
    let name = text(at, label(source));
    // A path that ends with a slash is the same.
    let target = if target.len() > 1 { target.trim_end_matches('/') } else { target };
    mounts.volumes.push(table_of(at, [("name", name), ("path", text(at, target)), ("size", size)]));
}

fn tmpfs(item: &At<'_>, mounts: &mut Mounts, notes: &mut Notes) {
    let Some(said) = item.text(notes) else { return };
    let (path, options) = said.split_once(':').unwrap_or((said, ""));
    let at = item.node.at;
    let mut size = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => match amounts::bytes(value) {
                Ok(bytes) => size = Some(text(at, bytes.to_string())),
                Err(why) => item.refuse(notes, why),
            },
            _ => item.warn(notes, format!("the option {option} is left out")),
        }
    }
    mounts.tmpfs.push(match size {
        Some(size) => table_of(at, [("path", text(at, path)), ("size", size)]),
        None => table_of(at, [("path", text(at, path))]),
    });
}

/// The name that a service asks for.
fn source<'n>(item: &At<'n>, notes: &mut Notes) -> Option<&'n str> {
    if !item.is_map() {
        return item.text(notes);
    }
    let source = item.get("source");
    if source.is_none() {
        item.refuse(notes, "the key \"source\" is missing");
    }
    source?.text(notes)
}

fn config(item: &At<'_>, shared: &Shared<'_>, notes: &mut Notes) -> Option<Tree> {
    let name = source(item, notes)?;
    let top = shared.find("configs", name, item, notes)?;
    let at = item.node.at;
    let content = match (top.get("content"), top.get("environment")) {
        (Some(content), _) => text(content.node.at, content.text(notes)?),
        (None, Some(variable)) => {
            let name = variable.text(notes)?;
            let Some(value) = shared.variable(name) else {
                variable.refuse(notes, format!("the variable {name} is not set"));
                return None;
            };
            text(variable.node.at, value)
        }
        (None, None) => {
            let refused = top.get("file").or_else(|| top.get("external")).unwrap_or(top);
            refused.refuse(notes, "not supported: write what is in the file itself, with content: |");
            return None;
        }
    };
    let target =
        item.get("target").and_then(|target| target.text(notes)).map_or_else(|| format!("/{name}"), str::to_owned);
    for key in ["uid", "gid"] {
        if let Some(id) = item.get(key) {
            id.warn(notes, "left out: files belong to root, and can be read as their mode says");
        }
    }
    let mode = item.get("mode").and_then(|mode| mode.text(notes)).unwrap_or(MODE_DEFAULT);
    let mode = mode.strip_prefix("0o").map_or_else(|| mode.to_owned(), |digits| format!("0{digits}"));
    Some(table_of(at, [("path", text(at, target)), ("content", content), ("mode", text(at, mode))]))
}

fn secret(item: &At<'_>, shared: &Shared<'_>, notes: &mut Notes) -> Option<Tree> {
    let name = source(item, notes)?;
    let top = shared.find("secrets", name, item, notes)?;
    if let Some(target) = item.get("target").filter(|target| {
        let said = target.scalar().unwrap_or_default();
        said != name && said.strip_prefix("/run/secrets/") != Some(name)
    }) {
        target.refuse(notes, format!("a secret is in /run/secrets/{name}; take it out, or call the secret otherwise"));
    }
    let app = shared.app.map_or("APP", AppName::as_str);
    let from = match top.get("file") {
        Some(file) => format!(" --file {}", file.scalar().unwrap_or("FILE")),
        None => String::new(),
    };
    let is_new = shared.used.borrow_mut().insert(format!("told.{name}"));
    if is_new {
        top.warn(notes, format!("its value is set apart: insula secrets set {app} {name}{from}"));
    }
    Some(text(item.node.at, name))
}
