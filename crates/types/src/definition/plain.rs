//! Writes a definition as TOML for people: what is usual is left out, and what is short stays on one line.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{AppDefinition, ServiceDefinition, write};
use crate::{Priority, RegionSet, ServiceSpec, UpdateSpec};

/// The order in which people write the keys of a service; others follow behind.
const ORDER: [&str; 22] = [
    "image",
    "runtime",
    "command",
    "args",
    "env",
    "secrets",
    "files",
    "scale",
    "resources",
    "ports",
    "routes",
    "health",
    "volumes",
    "tmpfs",
    "regions",
    "placement",
    "read_only",
    "init",
    "stop",
    "restart",
    "hooks",
    "update",
];

/// Keys of `update` that are said even where they are usual.
const OF_STRATEGY: [&str; 5] = ["strategy", "promote", "instances", "weight", "max_errors"];

/// Keys that people write first in a table, and those that come last; the others are between, by their names.
const FIRST: [&str; 4] = ["strategy", "name", "host", "path"];
const LAST: [&str; 1] = ["content"];

/// Longest line that is not broken, in characters.
const LINE_MAX: usize = 100;

pub(super) fn app(definition: &AppDefinition) -> String {
    let mut out = format!("app = {}\n", string(definition.app.as_str()));
    for (name, item) in &definition.services {
        // What a service is when nothing more is said, and what its strategy means by itself.
        let update = UpdateSpec { strategy: item.update.strategy.clone(), ..UpdateSpec::default() };
        let (spec, regions, priority) = (ServiceSpec::default(), RegionSet::default(), Priority::USUAL);
        let usual =
            ServiceDefinition { spec, tag: None, regions, scale: None, update, priority, overrides: BTreeMap::new() };
        let mut bare = write::service(&usual, &definition.contents);
        if let Some(update) = bare.get_mut("update").and_then(Value::as_object_mut) {
            update.retain(|name, _| !OF_STRATEGY.contains(&name.as_str()));
        }
        let mut keys = write::service(item, &definition.contents);
        leave_out(&mut keys, &bare);
        service(&mut out, &format!("services.{}", key(name.as_str())), keys);
    }
    out
}

/// Takes out what is the same in `bare`, down to the keys of tables.
fn leave_out(keys: &mut Value, bare: &Value) {
    let (Value::Object(keys), Value::Object(bare)) = (keys, bare) else { return };
    for (name, usual) in bare {
        let Some(found) = keys.get_mut(name) else { continue };
        leave_out(found, usual);
        if found == usual || found.as_object().is_some_and(Map::is_empty) {
            keys.remove(name);
        }
    }
}

fn service(out: &mut String, path: &str, keys: Value) {
    let Value::Object(mut keys) = keys else { return };
    let regions = keys.remove("region");
    let mut all: Vec<_> = ORDER.iter().filter_map(|name| keys.remove_entry(*name)).collect();
    all.extend(keys);
    out.push_str(&format!("\n[{path}]\n"));
    let is_long = |(name, value): &(String, Value)| value.is_object() && line(name, value).chars().count() > LINE_MAX;
    let (tables, lines): (Vec<_>, Vec<_>) = all.into_iter().partition(is_long);
    lines.iter().for_each(|(name, value)| out.push_str(&broken(name, value)));
    for (name, table) in &tables {
        out.push_str(&format!("\n[{path}.{}]\n", key(name)));
        table.as_object().into_iter().flat_map(ordered).for_each(|(name, value)| out.push_str(&broken(name, value)));
    }
    if let Some(Value::Object(regions)) = regions {
        regions.into_iter().for_each(|(name, keys)| service(out, &format!("{path}.region.{}", key(&name)), keys));
    }
}

fn line(name: &str, value: &Value) -> String {
    format!("{} = {}\n", key(name), inline(value))
}

/// The same, with one item of an array to a line where one line would be too long.
fn broken(name: &str, value: &Value) -> String {
    let whole = line(name, value);
    match value {
        Value::Array(items) if whole.chars().count() > LINE_MAX => {
            let items: String = items.iter().map(|item| format!("    {},\n", inline(item))).collect();
            format!("{} = [\n{items}]\n", key(name))
        }
        _ => whole,
    }
}

pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(keys) if keys.is_empty() => "{}".to_owned(),
        Value::Object(keys) => {
            let keys = ordered(keys).map(|(name, value)| format!("{} = {}", key(name), inline(value)));
            format!("{{ {} }}", keys.collect::<Vec<_>>().join(", "))
        }
        // TOML has no null, and definitions have none.
        other => other.to_string(),
    }
}

fn ordered(keys: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let rank = |name: &str| {
        let first = FIRST.iter().position(|first| *first == name);
        (LAST.contains(&name), first.unwrap_or(FIRST.len()))
    };
    let mut keys: Vec<_> = keys.iter().collect();
    keys.sort_by_key(|(name, _)| (rank(name), name.as_str()));
    keys.into_iter()
}

fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { escaped(name) }
}

fn string(text: &str) -> String {
    let is_plain = |c: char| matches!(c, '\n' | '\t') || !c.is_control();
    if !text.contains('\n') || !text.chars().all(is_plain) {
        return escaped(text);
    }
    // A line's end right behind the first quotes is not part of the text. No three quotes stay together.
    let lines = text.replace('\\', "\\\\").replace("\"\"", "\"\\\"");
    match lines.strip_suffix('"') {
        Some(rest) if !rest.ends_with('\\') => format!("\"\"\"\n{rest}\\\"\"\"\""),
        _ => format!("\"\"\"\n{lines}\"\"\""),
    }
}

fn escaped(text: &str) -> String {
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::definition::Format;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn written(text: &str) -> String {
        let definition = AppDefinition::parse(text, Format::Toml).expect("valid");
        let written = definition.to_toml();
        assert_eq!(AppDefinition::parse(&written, Format::Toml), Ok(definition), "{written}");
        written
    }

    #[test]
    fn what_is_usual_is_left_out_and_the_rest_is_easy_to_read() {
        let long = "x".repeat(90);
        let text = format!(
            r#"
app = "shop"
[services.web]
image     = "r.example/shop@{DIGEST}"
env       = {{ LOG = "info" }}
scale     = 2
resources = {{ cpu = "500m", memory = "256MiB" }}
ports     = [{{ name = "http", port = 8080, protocol = "http" }}]
routes    = [{{ host = "shop.example" }}, {{ host = "www.shop.example", path = "/a" }}, {{ host = "old.shop.example" }}]
stop      = {{ grace = "30s" }}
secrets   = ["KEY"]
files     = [{{ path = "/etc/shop.toml", content = "a = \"b\"\n" }}]
update    = {{ strategy = "blue-green" }}
[services.worker]
command = ["./worker"]
runtime = "process"
env = {{ A = "{long}", B = "c" }}
"#
        );
        expect![[r#"
            app = "shop"

            [services.web]
            image = "r.example/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
            env = { LOG = "info" }
            secrets = ["KEY"]
            files = [{ path = "/etc/shop.toml", mode = "0644", content = """
            a = "b"
            """ }]
            scale = 2
            resources = { cpu = "500m", memory = "256MiB" }
            ports = [{ name = "http", port = 8080, protocol = "http" }]
            routes = [
                { host = "shop.example", path = "/" },
                { host = "www.shop.example", path = "/a" },
                { host = "old.shop.example", path = "/" },
            ]
            stop = { grace = "30s" }
            update = { strategy = "blue-green", promote = "auto" }

            [services.worker]
            runtime = "process"
            command = ["./worker"]

            [services.worker.env]
            A = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
            B = "c"
        "#]]
        .assert_eq(&written(&text));
    }

    proptest! {
        #[test]
        fn any_text_survives(text in "(\\PC|[\"\\\\\n\t\r]){0,40}") {
            let written = format!("a = {}\n", string(&text));
            let table: toml::Table = written.parse().map_err(|error| TestCaseError::fail(format!("{error}: {written}")))?;
            prop_assert_eq!(table["a"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn any_key_survives(text in "\\PC{0,12}") {
            let table: toml::Table = format!("{} = 1\n", key(&text)).parse().expect("valid");
            prop_assert!(table.contains_key(&text));
        }
    }
}
