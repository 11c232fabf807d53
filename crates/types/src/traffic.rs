//! What edges count of releases, as it is told to the region's leader. Carried by rpc, never replicated.

use std::{collections::BTreeMap, iter::Sum, ops::Add};

use serde::{Deserialize, Serialize};

use crate::{ReleaseNumber, ServiceRef};

/// Releases that one renewal tells of at most; of what is beyond that nothing is told, and so it is not judged.
pub const RELEASES_TOLD_MAX: usize = 512;

/// Requests that instances got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Those that were answered, or should have been.
    pub requests: u64,
    /// Those among them that failed: with a status of 500 and above, with half an answer, or with none.
    pub failed: u64,
}

impl Tally {
    /// What has come since `before`; nothing where that is more.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failed: self.failed.saturating_sub(before.failed),
        }
    }

    /// Whether there was none.
    pub const fn is_empty(self) -> bool {
        self.requests == 0
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            failed: self.failed.saturating_add(other.failed),
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), Add::add)
    }
}

/// What one edge has counted of the instances of one release of a service, since the edge began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTraffic {
    /// The service.
    pub service: ServiceRef,
    /// The release.
    pub release: ReleaseNumber,
    /// Its requests.
    pub tally: Tally,
    /// What the edge had counted of the service's other releases when the first request went to this one: what these have got since
    /// is what they got meanwhile.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub before: BTreeMap<ReleaseNumber, Tally>,
}

/// What one edge has counted. It only grows for as long as the edge lives, so that what is lost on the way comes with the next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Names this life of the edge, by chance: after a restart it counts from nothing, under another name.
    pub edge: u64,
    /// By service and release, ascending.
    pub releases: Vec<ReleaseTraffic>,
}
