//! Reads which nodes a service asks for.

use super::{super::tree::Value, Item, Problems, keys, nearest};
use crate::{LabelName, LabelValue, Labels, PlacementSpec, label::LABELS_MAX};

/// Reads `placement`.
pub(super) fn read(item: &Item<'_>, problems: &mut Problems) -> Option<PlacementSpec> {
    let fields = item.fields(&keys::PLACEMENT, problems)?;
    let mut read = PlacementSpec::default();
    if let Some(spread) = fields.get("spread").and_then(|item| spread(&item, problems)) {
        read.spread = spread;
    }
    if let Some(item) = fields.get("require") {
        read.require = labels(&item, problems);
    }
    if let Some(item) = fields.get("prefer") {
        read.prefer = labels(&item, problems);
        if let Some(name) = read.prefer.keys().find(|name| read.require.contains_key(*name)) {
            item.refuse(
                problems,
                format!("{name} is required already, so that preferring it says nothing; take one out"),
            );
        }
    }
    Some(read)
}

/// "datacenter", "node", or the name of a label that is no slip of those.
fn spread(item: &Item<'_>, problems: &mut Problems) -> Option<LabelName> {
    let name: LabelName = item.parsed(problems)?;
    match nearest(name.as_str(), LabelName::OWN) {
        Some(own) if own != name.as_str() => {
            item.refuse(problems, format!("found {}; did you mean {own:?}?", item.tree.value.describe()));
            None
        }
        _ => Some(name),
    }
}

fn labels(item: &Item<'_>, problems: &mut Problems) -> Labels {
    let mut labels = Labels::new();
    for (name, at, item) in item.entries(LABELS_MAX, problems) {
        let name = LabelName::new(name).map_err(|error| problems.add(at, &item.path, error.to_string()));
        if let Value::List(_) = item.tree.value {
            item.refuse(problems, "found a list, expected one value: a node has one value of a label");
            continue;
        }
        let value = item.parsed::<LabelValue>(problems);
        if let (Ok(name), Some(value)) = (name, value) {
            labels.insert(name, value);
        }
    }
    labels
}
