//! Reads in which regions a service runs, and which of them get a release first. Whether there are such regions, others say.

use super::{Item, Problems};
use crate::{RegionName, RegionSet, definition::tree::Value};

/// Regions that are named in one list, at most: far more than anybody has.
pub(super) const REGIONS_MAX: usize = 256;

/// Reads `regions`: names, or `["*"]`.
pub(super) fn read(item: &Item<'_>, problems: &mut Problems) -> Option<RegionSet> {
    if let Value::Text(text) = &item.tree.value {
        item.refuse(problems, format!("found one text, expected a list: write [{text:?}]"));
        return None;
    }
    let items = item.items(REGIONS_MAX, problems);
    let is_all = |one: &Item<'_>| matches!(&one.tree.value, Value::Text(text) if text == RegionSet::ALL);
    match items.iter().find(|one| is_all(one)) {
        Some(_) if items.len() == 1 => return Some(RegionSet::All),
        Some(all) => {
            all.refuse(problems, "\"*\" stands for every region; write [\"*\"], or the names alone");
            return None;
        }
        None => {}
    }
    let names = names(item, &items, "write the names of regions, or [\"*\"] for all of them", problems);
    Some(RegionSet::These(names.into_iter().collect()))
}

/// Reads `region_order`: some of the regions of the service, the first one first.
pub(super) fn order(item: &Item<'_>, regions: &RegionSet, problems: &mut Problems) -> Vec<RegionName> {
    let items = item.items(REGIONS_MAX, problems);
    let names = names(item, &items, "write the names of regions, the first one first", problems);
    if let Some(other) = names.iter().find(|name| !regions.has(name)) {
        let of: Vec<&str> = regions.names().map(RegionName::as_str).collect();
        item.refuse(problems, format!("{other} is none of its regions; they are {}", of.join(", ")));
    }
    names
}

/// Names, each once; at least one.
fn names(item: &Item<'_>, items: &[Item<'_>], way: &str, problems: &mut Problems) -> Vec<RegionName> {
    if items.is_empty() && matches!(&item.tree.value, Value::List(all) if all.is_empty()) {
        item.refuse(problems, format!("it is empty; {way}, or take the key out"));
    }
    let mut names: Vec<RegionName> = Vec::new();
    for item in items {
        let Some(name) = item.parsed::<RegionName>(problems) else { continue };
        if names.contains(&name) {
            item.refuse(problems, format!("{name} is there twice; name it once"));
        } else {
            names.push(name);
        }
    }
    names
}
