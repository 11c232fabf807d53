//! Writes what regions override: what differs from the service, so that the reader makes the same of both.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{placement, restart, service, update};
use crate::{ContentHash, PlacementSpec, Priority, RestartSpec, ServiceDefinition, UpdateSpec};

/// The overrides of a service by their regions.
pub(super) fn all(item: &ServiceDefinition, contents: &BTreeMap<ContentHash, String>) -> Value {
    let whole = |one: &ServiceDefinition| {
        let mut keys = service(&ServiceDefinition { overrides: BTreeMap::new(), scale: None, ..one.clone() }, contents);
        write_out(&mut keys);
        keys
    };
    let usual = whole(item);
    let regions = item.overrides.iter().map(|(region, one)| {
        let own = item.in_region(region);
        let mut keys = difference(&usual, &whole(&own)).unwrap_or_else(|| json!({}));
        let has_arguments = |of: &ServiceDefinition| !of.spec.command.is_empty() || !of.spec.args.is_empty();
        if has_arguments(item) && !has_arguments(&own) {
            // Either takes the place of both.
            keys["args"] = json!([]);
        }
        if let Some(scale) = one.scale {
            keys["scale"] = json!(scale);
        }
        (region.to_string(), keys)
    });
    Value::Object(regions.collect())
}

/// Says also what is usual: a region may take back what the service says.
fn write_out(service: &mut Value) {
    let Value::Object(keys) = service else { return };
    let mut say = |key: &str, usual: Value| {
        keys.entry(key).or_insert(usual);
    };
    for list in ["ports", "routes", "volumes", "tmpfs", "secrets", "files"] {
        say(list, json!([]));
    }
    for flag in ["read_only", "init"] {
        say(flag, false.into());
    }
    say("priority", Priority::USUAL.0.into());
    say("restart", restart(&RestartSpec::default()));
    say("placement", placement(&PlacementSpec::default()));
    say("update", update(&UpdateSpec::default()));
}

/// What has to be merged into `from` to make `to` of it; none: nothing.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return (from != to).then(|| to.clone()) };
    let differs = |(key, to): (&String, &Value)| {
        let value = from.get(key).map_or_else(|| Some(to.clone()), |from| difference(from, to))?;
        Some((key.clone(), value))
    };
    let keys: Map<String, Value> = to.iter().filter_map(differs).collect();
    (!keys.is_empty()).then_some(Value::Object(keys))
}
