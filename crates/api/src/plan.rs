//! What a deploy would change: the difference of two definitions, key by key.

use std::collections::BTreeMap;

use insula_types::{AppDefinition, ContentHash, Scale};
use serde_json::{Value, json};

use crate::wire::{Change, ChangeKind};

/// What changes from one definition to another, in the order of the key paths. A service that comes or goes is one
/// change; of one that stays, each key is. A scale that `wanted` leaves open stays as it is.
#[must_use]
pub fn changes(current: Option<&AppDefinition>, wanted: &AppDefinition) -> Vec<Change> {
    let mut current = current.cloned();
    for service in current.iter_mut().flat_map(|current| current.services.values_mut()) {
        service.scale = service.scale.or(Some(Scale::Count(1)));
    }
    let mut wanted = wanted.clone();
    for (name, service) in &mut wanted.services {
        let now = current.as_ref().and_then(|current| current.services.get(name)).and_then(|service| service.scale);
        service.scale = service.scale.or(now).or(Some(Scale::Count(1)));
    }
    let before = current.as_ref().map(services).unwrap_or_default();
    let after = services(&wanted);
    let mut out = Vec::new();
    for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
        compare(&format!("services.{name}"), before.get(name), after.get(name), &mut out);
    }
    out.sort_by(|left, right| left.path.cmp(&right.path));
    out
}

fn services(definition: &AppDefinition) -> BTreeMap<String, Value> {
    let mut services: BTreeMap<_, _> = match definition.to_json().get_mut("services").map(Value::take) {
        Some(Value::Object(services)) => services.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    for service in services.values_mut() {
        if let Some(files) = service.get_mut("files") {
            *files = short(files);
        }
    }
    services
}

/// Files by their paths, and of what is in them the size and the beginning of the hash: enough to see which change.
fn short(files: &Value) -> Value {
    let text = |file: &Value, key: &str| file[key].as_str().unwrap_or_default().to_owned();
    let file = |file: &Value| {
        let content = text(file, "content");
        let hash = ContentHash::of(&content).to_string();
        let said = format!("{} bytes, sha256:{}…", content.len(), &hash[..12]);
        (text(file, "path"), json!({ "content": said, "mode": text(file, "mode") }))
    };
    files.as_array().into_iter().flatten().map(file).collect::<serde_json::Map<_, _>>().into()
}

fn compare(path: &str, from: Option<&Value>, to: Option<&Value>, out: &mut Vec<Change>) {
    let kind = match (from, to) {
        (Some(Value::Object(from)), Some(Value::Object(to))) => {
            for key in from.keys().chain(to.keys().filter(|key| !from.contains_key(*key))) {
                compare(&format!("{path}.{key}"), from.get(key), to.get(key), out);
            }
            return;
        }
        (from, to) if from == to => return,
        (None, _) => ChangeKind::Added,
        (_, None) => ChangeKind::Removed,
        _ => ChangeKind::Changed,
    };
    let value = |side: Option<&Value>| side.cloned().unwrap_or(Value::Null);
    out.push(Change { path: path.to_owned(), kind, from: value(from), to: value(to) });
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_types::definition::Format;

    use super::*;

    fn definition(text: &str) -> AppDefinition {
        AppDefinition::parse(text, Format::Toml).expect("valid")
    }

    fn said(current: Option<&str>, wanted: &str) -> String {
        let current = current.map(definition);
        let mut said = String::new();
        for change in changes(current.as_ref(), &definition(wanted)) {
            said.push_str(&format!("{:?} {}: {} -> {}\n", change.kind, change.path, change.from, change.to));
        }
        said
    }

    const ONE: &str = "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [\"a\"]\n";

    #[test]
    fn changes_are_told_key_by_key() {
        expect![[r#"
            Added services.web: null -> {"command":["a"],"resources":{"cpu":"250m","memory":"128MiB","pids":256},"runtime":"process","scale":1,"stop":{"grace":"10s"}}
        "#]].assert_eq(&said(None, ONE));
        expect![[r#""#]].assert_eq(&said(Some(&format!("{ONE}scale = 3")), ONE));
        let file = |content: &str| {
            format!(
                "app = \"a\"\n[services.web]\nimage = \"r/a@sha256:{}\"\nfiles = [{{ path = \"/etc/a\", content = \"{content}\" }}]",
                "0".repeat(64)
            )
        };
        expect![[r#"
            Changed services.web.files./etc/a.content: "3 bytes, sha256:7692c3ad3540…" -> "5 bytes, sha256:8b5b9db0c13d…"
        "#]].assert_eq(&said(Some(&file("one")), &file("three")));
        expect![[r#"
            Removed services.gone: {"command":["x"],"resources":{"cpu":"250m","memory":"128MiB","pids":256},"runtime":"process","scale":1,"stop":{"grace":"10s"}} -> null
            Removed services.web.env.A: "1" -> null
            Changed services.web.env.B: "2" -> "3"
            Changed services.web.scale: 3 -> 2
            Changed services.web.stop.grace: "10s" -> "20s"
        "#]].assert_eq(&said(
            Some(&format!("{ONE}scale = 3\nenv = {{ A = \"1\", B = \"2\" }}\n[services.gone]\nruntime = \"process\"\ncommand = [\"x\"]")),
            &format!("{ONE}scale = 2\nenv = {{ B = \"3\" }}\nstop = {{ grace = \"20s\" }}"),
        ));
    }
}
