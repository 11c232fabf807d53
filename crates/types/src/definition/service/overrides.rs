//! Reads what regions override of a service. Each override is merged with what the service says and read as a service of its own, so
//! that what a region has is valid as a whole. Tables merge, everything else takes the place of what was there; so do, within a table,
//! keys of which there can be one only: another check, another strategy, `command` and `args`.

use std::collections::BTreeMap;

use super::{Item, Problems, Shared, read_for};
use crate::{
    DriverKind, RegionName, RegionSet, ServiceDefinition, ServiceOverride, codec,
    definition::{
        fields::join,
        keys,
        tree::{Entry, Tree, Value},
    },
};

/// Regions that override something of one service, at most: as many as a world may have.
const OVERRIDES_MAX: usize = 64;

/// Most bytes that the services of overriding regions take together, as they are kept: an override of one key keeps the whole service.
const OVERRIDDEN_BYTES_MAX: usize = 256 << 10;

/// Reads the overrides of a service that was read from `base`.
pub(super) fn read(
    base: &Item<'_>,
    name: &str,
    service: &ServiceDefinition,
    shared: &mut Shared,
    problems: &mut Problems,
) -> BTreeMap<RegionName, ServiceOverride> {
    let (mut overrides, usual) = (BTreeMap::new(), service.variant());
    let Some(all) = base.table().and_then(|fields| fields.get("region")) else { return overrides };
    for (region, at, item) in all.entries(OVERRIDES_MAX, problems) {
        let region = match RegionName::new(region) {
            Ok(region) => region,
            Err(error) => {
                problems.add(at, &item.path, error.to_string());
                continue;
            }
        };
        refuse_elsewhere(&region, at, &item, &service.regions, problems);
        let Some(merged) = merged(base, &item, service.spec.driver, problems) else { continue };
        let mut found = Problems::default();
        let whole = Item { path: item.path.clone(), tree: &merged };
        let own = read_for(&whole, name, shared, &mut found);
        problems.add_new(found, base.tree.at, item.tree.at);
        let Some(own) = own else { continue };
        let scale = own.scale.filter(|_| item.table().is_some_and(|fields| fields.get("scale").is_some()));
        let variant = own.variant();
        if variant != usual {
            shared.overridden += codec::encode(&variant).len();
        }
        if shared.overridden > OVERRIDDEN_BYTES_MAX {
            let most = OVERRIDDEN_BYTES_MAX;
            let why = format!("what regions have of its services takes more than {most} bytes in all; override less");
            problems.add(at, &item.path, why);
            break;
        }
        overrides.insert(region, ServiceOverride { variant, scale });
    }
    overrides
}

/// Refuses an override for a region that is named by no means. Whether there is such a region, others say.
fn refuse_elsewhere(region: &RegionName, at: usize, item: &Item<'_>, regions: &RegionSet, problems: &mut Problems) {
    let RegionSet::These(names) = regions else { return };
    if !names.is_empty() && !names.contains(region) {
        let named: Vec<&str> = names.iter().map(RegionName::as_str).collect();
        let named = named.join(", ");
        let why = format!("{region} is none of its regions; they are {named}: add it there, or take the override out");
        problems.add(at, &item.path, why);
    }
}

/// What the service says, with what the override says of it. None when nothing can be read of that.
fn merged(base: &Item<'_>, item: &Item<'_>, driver: DriverKind, problems: &mut Problems) -> Option<Tree> {
    let Value::Table(entries) = &item.tree.value else {
        item.fields(&keys::OVERRIDE, problems);
        return None;
    };
    let mut taken: Vec<Entry> = Vec::new();
    for entry in entries {
        let path = join(&item.path, &entry.key);
        let why = match entry.key.as_str() {
            "image" => {
                Some("the image is the same in all regions; take it out, or make another service of it".to_owned())
            }
            key if keys::OF_ALL_REGIONS.contains(&key) => {
                Some("it is said of the service as a whole, not of one of its regions; take it out".to_owned())
            }
            key => keys::OVERRIDE.refuse(key),
        };
        match why {
            Some(why) => problems.add(entry.at, &path, why),
            None => taken.push(entry.clone()),
        }
    }
    refuse_order(item, &mut taken, problems);
    if let Some(entry) = taken.iter().find(|entry| entry.key == "runtime")
        && let Value::Text(runtime) = &entry.value.value
        && (runtime == "process") != (driver == DriverKind::Process)
    {
        let what = if driver == DriverKind::Process { "a process" } else { "a container" };
        let why = format!(
            "found {runtime:?}, and the service is {what}: it is so in all regions, as it has one image or none"
        );
        problems.add(entry.value.at, &join(&item.path, "runtime"), why);
        return None;
    }
    let Value::Table(base) = &base.tree.value else { return None };
    let base: Vec<&Entry> = base.iter().filter(|entry| entry.key != "region").collect();
    Some(Tree { at: item.tree.at, value: Value::Table(merge("", &base, &taken)) })
}

/// The order of the regions is one for all of them.
fn refuse_order(item: &Item<'_>, taken: &mut [Entry], problems: &mut Problems) {
    let update = taken.iter_mut().find(|entry| entry.key == "update");
    let Some(Value::Table(update)) = update.map(|entry| &mut entry.value.value) else { return };
    for order in update.iter().filter(|entry| entry.key == "region_order") {
        let path = join(&join(&item.path, "update"), "region_order");
        problems.add(
            order.at,
            &path,
            "the order of the regions is the same for all of them; write it in the service's update",
        );
    }
    update.retain(|entry| entry.key != "region_order");
}

/// Merges two tables of this key.
fn merge(key: &str, base: &[&Entry], over: &[Entry]) -> Vec<Entry> {
    let gone = gives_way(key, over);
    let of_over = |key: &str| over.iter().find(|entry| entry.key == key);
    let mut out: Vec<Entry> = Vec::with_capacity(base.len() + over.len());
    for entry in base.iter().filter(|entry| !gone.contains(&entry.key.as_str())) {
        let Some(other) = of_over(&entry.key) else {
            out.push((*entry).clone());
            continue;
        };
        let value = match (&entry.value.value, &other.value.value) {
            (Value::Table(base), Value::Table(over)) => {
                let base: Vec<&Entry> = base.iter().collect();
                Tree { at: other.value.at, value: Value::Table(merge(&entry.key, &base, over)) }
            }
            _ => other.value.clone(),
        };
        out.push(Entry { key: entry.key.clone(), at: other.at, value });
    }
    let is_new = |entry: &&Entry| !out.iter().any(|known| known.key == entry.key);
    let new: Vec<Entry> = over.iter().filter(is_new).cloned().collect();
    out.extend(new);
    out
}

/// The keys of the service that give way to another one of the override, as there can be one of them only.
fn gives_way(table: &str, over: &[Entry]) -> Vec<&'static str> {
    const CHECKS: [&str; 4] = ["http", "tcp", "exec", "grpc"];
    let has = |key: &str| over.iter().any(|entry| entry.key == key);
    let text = |key: &str| match over.iter().find(|entry| entry.key == key).map(|entry| &entry.value.value) {
        Some(Value::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    let gone: &[&'static str] = match table {
        "" if has("command") => &["args"],
        "" if has("args") => &["command"],
        // What runs inside the instance asks no port.
        "health" if has("exec") => &["http", "tcp", "grpc", "port"],
        "health" if CHECKS.iter().any(|check| has(check)) => &CHECKS,
        "update" => match text("strategy") {
            Some("rolling") => &["promote", "instances", "weight", "max_errors"],
            Some("blue-green") => &["instances", "weight", "max_errors"],
            _ => &[],
        },
        _ => &[],
    };
    gone.iter().copied().filter(|key| !has(key)).collect()
}
