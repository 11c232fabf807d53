//! Which regions run a service: the one answer that derivation, plans, scales and listings go by.

use std::collections::BTreeSet;

use insula_types::{RegionName, RegionSet};

use super::{GlobalState, Region};
use crate::Table;

/// The regions that run a service which asks for `wanted`, of those that there are. One that says nothing runs in each that is a
/// default, and while none is, in the one that was founded first.
pub fn chosen(known: &Table<RegionName, Region>, wanted: &RegionSet) -> BTreeSet<RegionName> {
    let names = |is_wanted: &dyn Fn(&Region) -> bool| -> BTreeSet<RegionName> {
        known.values().filter(|region| is_wanted(region)).map(|region| region.name.clone()).collect()
    };
    match wanted {
        RegionSet::All => names(&|_| true),
        RegionSet::These(these) => names(&|region| these.contains(&region.name)),
        RegionSet::Usual => {
            let defaults = names(&|region| region.is_default);
            if !defaults.is_empty() {
                return defaults;
            }
            let first = known.values().min_by_key(|region| (region.created_ms, &region.name));
            first.map(|region| region.name.clone()).into_iter().collect()
        }
    }
}

impl GlobalState {
    /// The regions that run a service which asks for these.
    pub fn regions_for(&self, wanted: &RegionSet) -> BTreeSet<RegionName> {
        chosen(&self.regions, wanted)
    }
}

#[cfg(test)]
mod tests {
    use insula_types::Revision;

    use super::*;

    fn world(regions: &[(&str, u64, bool)]) -> Table<RegionName, Region> {
        let mut table = Table::default();
        for (name, created_ms, is_default) in regions {
            let name: RegionName = name.parse().expect("a name");
            let region = Region { is_default: *is_default, ..Region::new(name.clone(), *created_ms, None) };
            table.set(Revision(1), name, Some(region));
        }
        table
    }

    #[test]
    fn a_service_runs_where_it_asks_to_and_else_in_the_defaults() {
        let said = |regions: &[(&str, u64, bool)], wanted: &RegionSet| {
            chosen(&world(regions), wanted).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let these = |names: &[&str]| RegionSet::These(names.iter().map(|name| name.parse().expect("a name")).collect());
        let plain = [("fra", 7, false), ("nrt", 5, false), ("was", 9, false)];
        assert_eq!(said(&plain, &RegionSet::Usual), "nrt", "the first that was founded");
        assert_eq!(said(&plain, &RegionSet::All), "fra nrt was");
        assert_eq!(said(&plain, &these(&["was", "fra"])), "fra was");
        assert_eq!(said(&plain, &these(&["was", "syd"])), "was", "one that is not there runs nothing");
        assert_eq!(said(&plain, &these(&["syd"])), "");
        let marked = [("fra", 7, true), ("nrt", 5, false), ("was", 9, true)];
        assert_eq!(said(&marked, &RegionSet::Usual), "fra was");
        assert_eq!(said(&marked, &RegionSet::All), "fra nrt was");
        assert_eq!(said(&[("fra", 7, false)], &RegionSet::Usual), "fra", "the one that there is");
        assert_eq!(
            said(&[("was", 5, false), ("fra", 5, false)], &RegionSet::Usual),
            "fra",
            "by name at the same moment"
        );
        assert_eq!(said(&[], &RegionSet::Usual), "");
    }
}
