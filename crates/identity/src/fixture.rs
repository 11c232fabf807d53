//! Clusters for tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use insula_env::Rng;
use insula_types::ClusterId;

use crate::{Credentials, Lifetimes, NodeKey, RegionAuthority, RootAuthority};

/// When the tests take place.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A cluster with its root.
pub(crate) struct World {
    pub(crate) root: RootAuthority,
    pub(crate) lifetimes: Lifetimes,
    pub(crate) rng: Rng,
}

impl World {
    pub(crate) fn new(cluster: u64) -> Self {
        let lifetimes = Lifetimes::default();
        let root = RootAuthority::create(ClusterId::new(cluster), &lifetimes, now()).expect("root");
        Self { root, lifetimes, rng: Rng::from_seed(cluster) }
    }

    pub(crate) fn region(&self, name: &str) -> RegionAuthority {
        self.root.issue_region(&name.parse().expect("name"), &self.lifetimes, now()).expect("region CA")
    }

    pub(crate) fn node(&self, region: &str) -> Credentials {
        credentials(self, region, NodeKey::generate(&self.rng).expect("key"))
    }
}

/// What the node with `key` has after it joined.
pub(crate) fn credentials(world: &World, region: &str, key: NodeKey) -> Credentials {
    let chain = world
        .region(region)
        .issue_node(&key.request().expect("request"), key.id(), &[], &world.lifetimes, now())
        .expect("issue");
    Credentials { key, chain, roots: vec![world.root.certificate().clone()] }
}
