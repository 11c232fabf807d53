//! What a deploy would change: the difference of two definitions, key by key.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{AppDefinition, ContentHash, RegionName, RegionSet, Scale, ServiceDefinition, ServiceOverride};
use serde_json::{Value, json};

use crate::wire::{Change, ChangeKind, RegionChanges};

/// What changes from one definition to another, in the order of the key paths. A service that comes or goes is one
/// change; of one that stays, each key is. A scale that `wanted` leaves open stays as it is, and so do those of regions.
#[must_use]
pub fn changes(current: Option<&AppDefinition>, wanted: &AppDefinition) -> Vec<Change> {
    let mut current = current.cloned();
    for service in current.iter_mut().flat_map(|current| current.services.values_mut()) {
        service.scale = service.scale.or(Some(Scale::Count(1)));
    }
    let mut wanted = wanted.clone();
    for (name, service) in &mut wanted.services {
        keep_scales(current.as_ref().and_then(|current| current.services.get(name)), service);
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

/// Gives a service the scales that it leaves open: those of the service that is there. Without a region it is said of all that have no other.
fn keep_scales(current: Option<&ServiceDefinition>, wanted: &mut ServiceDefinition) {
    if wanted.scale.is_none() {
        let usual = wanted.variant();
        for (region, now) in current.into_iter().flat_map(|current| &current.overrides) {
            let Some(scale) = now.scale else { continue };
            let one = wanted.overrides.entry(region.clone());
            let one = one.or_insert_with(|| ServiceOverride { variant: usual.clone(), scale: None });
            one.scale = one.scale.or(Some(scale));
        }
    }
    wanted.scale = wanted.scale.or(current.and_then(|current| current.scale)).or(Some(Scale::Count(1)));
    let general = wanted.scale;
    wanted.overrides.values_mut().filter(|one| one.scale == general).for_each(|one| one.scale = None);
    wanted.drop_idle_overrides();
}

/// What changes in each region that runs any of it before or after, where that is not the same in all of them; else nothing.
/// `chosen` says which regions run what asks for these.
#[must_use]
pub fn regional_changes(
    current: Option<&AppDefinition>,
    wanted: &AppDefinition,
    chosen: impl Fn(&RegionSet) -> BTreeSet<RegionName>,
) -> Vec<RegionChanges> {
    let mut wanted = wanted.clone();
    for (name, service) in &mut wanted.services {
        keep_scales(current.and_then(|current| current.services.get(name)), service);
    }
    let of = |definition: &AppDefinition| -> BTreeSet<RegionName> {
        definition.services.values().flat_map(|service| chosen(&service.regions)).collect()
    };
    let mut regions = of(&wanted);
    regions.extend(current.map(of).unwrap_or_default());
    let in_region = |definition: &AppDefinition, region: &RegionName| {
        definition.in_region(region, |service| chosen(&service.regions).contains(region))
    };
    let each = regions.into_iter().map(|region| {
        let before = current.map(|current| in_region(current, &region));
        RegionChanges { changes: changes(before.as_ref(), &in_region(&wanted, &region)), region }
    });
    let each: Vec<RegionChanges> = each.collect();
    let is_same = each.windows(2).all(|two| two[0].changes == two[1].changes);
    if is_same { Vec::new() } else { each }
}

fn services(definition: &AppDefinition) -> BTreeMap<String, Value> {
    let mut services: BTreeMap<_, _> = match definition.to_json().get_mut("services").map(Value::take) {
        Some(Value::Object(services)) => services.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    for service in services.values_mut() {
        let regions = service.get_mut("region").and_then(Value::as_object_mut);
        for region in regions.into_iter().flat_map(serde_json::Map::values_mut) {
            shorten(region);
        }
        shorten(service);
    }
    services
}

fn shorten(service: &mut Value) {
    if let Some(files) = service.get_mut("files") {
        *files = short(files);
    }
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

    /// What changes in the regions of a world of two, of which the first is the default.
    fn by_region(current: Option<&str>, wanted: &str) -> String {
        let all = ["fra", "was"].map(|name| name.parse::<RegionName>().expect("a name"));
        let chosen = |wanted: &RegionSet| match wanted {
            RegionSet::Usual => BTreeSet::from([all[0].clone()]),
            wanted => all.iter().filter(|region| wanted.has(region)).cloned().collect(),
        };
        let current = current.map(definition);
        let mut said = String::new();
        for RegionChanges { region, changes } in regional_changes(current.as_ref(), &definition(wanted), chosen) {
            said.push_str(&format!("{region}\n"));
            for change in changes {
                said.push_str(&format!("  {:?} {}: {} -> {}\n", change.kind, change.path, change.from, change.to));
            }
        }
        said
    }

    #[test]
    fn what_is_not_the_same_in_all_regions_is_told_by_region() {
        let all = &format!("{ONE}regions = [\"*\"]\n");
        let was = |lines: &str| format!("{all}[services.web.region.was]\n{lines}\n");
        let one = "";
        assert_eq!(by_region(None, all), one);
        assert_eq!(by_region(Some(all), &format!("{all}env = {{ A = \"1\" }}")), one);
        assert_eq!(by_region(Some(ONE), &format!("{ONE}scale = 3")), one, "it runs in one region");
        assert_eq!(by_region(Some(&was("scale = 3")), all), one, "a scale that is left open stays");
        expect![[r#"
            fra
            was
              Changed services.web.resources.memory: "128MiB" -> "512MiB"
              Changed services.web.scale: 1 -> 4
        "#]]
        .assert_eq(&by_region(Some(all), &was("scale = 4\nresources.memory = \"512MiB\"")));
        expect![[r#"
            fra
            was
              Added services.web: null -> {"command":["a"],"resources":{"cpu":"250m","memory":"128MiB","pids":256},"runtime":"process","scale":1,"stop":{"grace":"10s"}}
        "#]].assert_eq(&by_region(Some(ONE), all));
        expect![[r#"
            fra
              Changed services.web.scale: 1 -> 2
            was
              Changed services.web.scale: 3 -> 2
        "#]]
        .assert_eq(&by_region(Some(&was("scale = 3")), &format!("{all}scale = 2")));
        let file = |content: &str| {
            let file = format!("files = [{{ path = \"/etc/a\", content = \"{content}\" }}]");
            let image = format!("app = \"a\"\n[services.web]\nimage = \"r/a@sha256:{}\"\n", "0".repeat(64));
            format!("{image}regions = [\"*\"]\n[services.web.region.was]\n{file}")
        };
        expect![[r#"
            Changed services.web.region.was.files./etc/a.content: "3 bytes, sha256:7692c3ad3540…" -> "5 bytes, sha256:8b5b9db0c13d…"
        "#]].assert_eq(&said(Some(&file("one")), &file("three")));
        expect![[r#"
            fra
            was
              Changed services.web.files./etc/a.content: "3 bytes, sha256:7692c3ad3540…" -> "5 bytes, sha256:8b5b9db0c13d…"
        "#]].assert_eq(&by_region(Some(&file("one")), &file("three")));
    }
}
