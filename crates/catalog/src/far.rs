//! Services in other regions, as a node's traffic knows them: how many are ready there, and by which nodes the region is
//! reached. Which instances those are stays in their region.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use insula_state::{GlobalState, RegionState};
use insula_types::{NodeId, RegionName, ServiceRef, codec};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Catalog, RouteTarget,
    check::{limits, route_fault},
};

/// Another region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarRegion {
    /// Its place among the other regions by nearness; 0 is the nearest.
    pub rank: u32,
    /// Whether it was heard of a moment ago. What is said of it below may be old otherwise.
    pub is_fresh: bool,
    /// The nodes by which it is reached, the best first.
    pub gateways: Vec<FarGateway>,
    /// What it has of the services to which routes of this catalog lead. Services that nearer regions have are left out.
    pub services: BTreeMap<ServiceRef, FarService>,
}

/// A node by which another region is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarGateway {
    /// Which.
    pub node: NodeId,
    /// Its addresses for everybody, in the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
}

/// A service in another region.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarService {
    /// Instances that are ready.
    pub ready: u32,
    /// Instances that shall run and were ready once: what is left to try when none is (rule R10).
    pub was_ready: u32,
}

/// What a region says of its services: those with routes of which instances are or were ready.
pub type Digest = BTreeMap<ServiceRef, FarService>;

/// Names what a digest says, whoever derives it and when: the beginning of a hash.
pub fn mark(services: &Digest) -> u64 {
    let hash = Sha256::digest(codec::encode(services));
    hash.iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

/// What a node has heard of another region.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'a> {
    /// As [`FarRegion::rank`].
    pub rank: u32,
    /// As [`FarRegion::is_fresh`].
    pub is_fresh: bool,
    /// What the region said last.
    pub digest: &'a Digest,
}

/// So many of the nearest regions that have a service are kept of each.
const REGIONS_OF_SERVICE_MAX: usize = 3;

impl Catalog {
    /// What other regions are told of this one. At most [`limits::DIGEST_SERVICES_MAX`] services, the first by name.
    pub fn digest(&self) -> Digest {
        let routed: BTreeSet<&ServiceRef> =
            self.routes.values().flat_map(|paths| paths.values().map(|target| &target.service)).collect();
        let is_up = |node| self.nodes.get(node).is_some_and(|node| node.is_up);
        let services = self.services.iter().filter(|(service, _)| routed.contains(service));
        let told = services.filter_map(|(service, entry)| {
            let offered = || entry.instances.values().filter(|one| !one.is_draining);
            let ready = offered().filter(|one| one.is_ready && is_up(&one.node)).count() as u32;
            let was_ready = offered().filter(|one| one.was_ready).count() as u32;
            (was_ready > 0).then(|| (service.clone(), FarService { ready, was_ready }))
        });
        told.take(limits::DIGEST_SERVICES_MAX).collect()
    }

    /// Adds what there is in other regions, as far as the world and they have told: routes to services that this region does not
    /// run, and who has instances of what. `state` is what the catalog was derived from.
    #[must_use]
    pub fn with_world(
        mut self,
        state: &RegionState,
        global: &GlobalState,
        heard: &BTreeMap<RegionName, Heard<'_>>,
    ) -> Self {
        // A world in which this region is not says nothing of it (rule R10).
        if !global.regions.contains(&self.region) {
            return self;
        }
        self.add_far_routes(state, global);
        for region in global.regions.values().filter(|region| region.name != self.region) {
            let gateways = region.gateways.iter().take(limits::GATEWAYS_MAX);
            let gateways =
                gateways.map(|one| FarGateway { node: one.node, addresses: one.addresses.clone() }).collect();
            let said = heard.get(&region.name);
            let rank = said.map_or(u32::MAX, |said| said.rank);
            let is_fresh = said.is_some_and(|said| said.is_fresh);
            let far = FarRegion { rank, is_fresh, gateways, services: BTreeMap::new() };
            self.far.insert(region.name.clone(), far);
        }
        self.add_far_services(heard);
        self
    }

    /// Of each service the nearest regions that have it, those with ready instances first.
    fn add_far_services(&mut self, heard: &BTreeMap<RegionName, Heard<'_>>) {
        let mut regions: BTreeMap<&ServiceRef, Vec<(bool, u32, &RegionName)>> = BTreeMap::new();
        for (name, said) in heard.iter().filter(|(name, _)| self.far.contains_key(name)) {
            for (service, far) in said.digest.iter().filter(|(service, _)| self.services.contains_key(service)) {
                let is_worse = far.ready == 0 || !said.is_fresh;
                regions.entry(service).or_default().push((is_worse, said.rank, name));
            }
        }
        for (service, mut of_service) in regions {
            of_service.sort_unstable();
            for (_, _, name) in of_service.into_iter().take(REGIONS_OF_SERVICE_MAX) {
                let said = heard.get(name).and_then(|said| said.digest.get(service));
                if let Some((region, far)) = self.far.get_mut(name).zip(said) {
                    region.services.insert(service.clone(), *far);
                }
            }
        }
    }

    /// Routes to services that are not this region's to run. What it runs has the routes of its own definitions, which may be those of
    /// another release for a while.
    fn add_far_routes(&mut self, state: &RegionState, global: &GlobalState) {
        for (app, _) in global.apps.iter() {
            let Some(release) = global.current_release(app) else { continue };
            let own = state.definitions.get(app);
            for name in release.services.keys() {
                if own.is_some_and(|own| own.services.contains_key(name)) {
                    continue;
                }
                // Where it runs at all, by name: regions may have other routes each, of which one host and path has one service.
                let regions = global.regions_for(&release.regions_of(name));
                let reference = ServiceRef::new(app.clone(), name.clone());
                for region in regions.iter().filter(|region| **region != self.region) {
                    let Some(there) = release.regional(name, Some(region), 1.into()) else { continue };
                    let Some(port) = there.spec.http_port() else { continue };
                    for route in
                        there.spec.routes.iter().filter(|route| route_fault(&route.host, &route.path).is_none())
                    {
                        self.services.entry(reference.clone()).or_default();
                        let target = || RouteTarget { service: reference.clone(), port: port.name.clone() };
                        self.routes
                            .entry(route.host.clone())
                            .or_default()
                            .entry(route.path.clone())
                            .or_insert_with(target);
                    }
                }
            }
        }
    }

    /// The nodes of other regions that requests may be brought to, with their region: of each region that has services of this
    /// catalog the best few gateways.
    pub fn far_in_use(&self) -> BTreeMap<NodeId, (&RegionName, &FarGateway)> {
        let used = self.far.iter().filter(|(_, region)| !region.services.is_empty());
        used.flat_map(|(name, region)| {
            region.gateways.iter().take(limits::GATEWAYS_USED).map(move |gateway| (gateway.node, (name, gateway)))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests;
