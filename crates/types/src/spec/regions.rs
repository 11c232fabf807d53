//! In which regions a service runs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::RegionName;

/// Which regions run a service. Part of a release, and not of what an instance is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionSet {
    /// Nobody says: those that take what says nothing, which the world knows.
    #[default]
    Usual,
    /// Every region, also those that come later.
    All,
    /// These.
    These(BTreeSet<RegionName>),
}

impl RegionSet {
    /// How [`RegionSet::All`] is written.
    pub const ALL: &str = "*";

    /// Whether it is what a service gets that does not say.
    pub fn is_usual(&self) -> bool {
        *self == Self::Usual
    }

    /// Whether a region can be one of them. Which are, the world knows.
    pub fn has(&self, region: &RegionName) -> bool {
        match self {
            Self::Usual | Self::All => true,
            Self::These(names) => names.contains(region),
        }
    }

    /// Those that it names.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &RegionName> {
        let named = if let Self::These(names) = self { Some(names) } else { None };
        named.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_one_of_them_or_not() {
        let name = |text: &str| text.parse::<RegionName>().expect("a name");
        let these = RegionSet::These([name("fra")].into());
        let has = |set: &RegionSet| ["fra", "was"].map(|region| set.has(&name(region)));
        assert_eq!(has(&RegionSet::Usual), [true, true]);
        assert_eq!(has(&RegionSet::All), [true, true]);
        assert_eq!(has(&these), [true, false]);
        assert_eq!((these.names().count(), RegionSet::All.names().count()), (1, 0));
        assert!(RegionSet::default().is_usual() && !these.is_usual() && !RegionSet::All.is_usual());
    }
}
