//! The region's state → the catalog of one node. Pure and total: whatever the state holds, the result passes
//! [`Catalog::check`] as far as it depends on one object; an object that makes no sense is left out, alone (rule R1).

use std::collections::BTreeMap;

use insula_state::RegionState;
use insula_types::{
    DatacenterName, DeploymentState, Desired, InstanceStatus, Node, NodeId, Placement, Protocol, Revision, Scope,
};

use crate::{
    Catalog, CatalogInstance, CatalogNode, RouteTarget,
    check::{limits, route_fault},
};

/// A node as one in data centre `from` sees it.
fn describe(state: &RegionState, node: &Node, from: Option<&DatacenterName>) -> CatalogNode {
    let shared = if from == Some(&node.datacenter) { Scope::Datacenter } else { Scope::Region };
    let mut addresses = state.addresses_of(node).within(shared).into_iter();
    CatalogNode {
        name: node.name.clone(),
        datacenter: node.datacenter.clone(),
        address: addresses.next().unwrap_or(node.address),
        others: addresses.collect(),
        is_up: node.health.is_up(),
    }
}

impl Catalog {
    /// The catalog of node `own`, as the region's state says at `revision`; none before the region has been founded.
    pub fn derive(state: &RegionState, revision: Revision, own: NodeId) -> Option<Self> {
        let meta = state.meta.as_ref()?;
        let mut catalog = Self::empty(meta.cluster.clone(), meta.region.clone(), own);
        catalog.incarnation = meta.incarnation;
        catalog.revision = revision;
        catalog.tombstones = state.tombstones.iter().map(|(id, _)| *id).collect();
        let place = state.nodes.get(&own).map(|node| &node.datacenter);
        catalog.nodes = state.nodes.values().map(|node| (node.id, describe(state, node, place))).collect();
        // What runs a hook is there for nobody to reach.
        for placement in state.placements.values().filter(|one| one.hook.is_none()) {
            catalog.add_instance(placement, state.statuses.get(&placement.instance));
        }
        catalog.add_routes(state);
        catalog.mark_first(state);
        Some(catalog)
    }

    fn add_instance(&mut self, placement: &Placement, status: Option<&InstanceStatus>) {
        let is_own = placement.node == self.own;
        let is_draining = placement.desired == Desired::Drain;
        let is_offered = placement.desired == Desired::Run || (is_draining && is_own);
        if !is_offered || !self.nodes.contains_key(&placement.node) {
            return;
        }
        // A status of another node is left over from an instance with the same id, which cannot be; never trust it.
        let status = status.filter(|status| status.node == placement.node);
        let endpoints = match status {
            Some(status) if is_own => {
                status.endpoints.iter().take(limits::PORTS_MAX).map(|(name, at)| (name.clone(), *at)).collect()
            }
            _ => BTreeMap::new(),
        };
        let ports = || placement.spec.ports.iter().take(limits::PORTS_MAX);
        let h2c = ports().filter(|port| port.protocol == Protocol::H2c).map(|port| port.name.clone()).collect();
        let instance = CatalogInstance {
            node: placement.node,
            is_ready: status.is_some_and(|status| status.is_ready),
            was_ready: status.is_some_and(|status| status.was_ready || status.is_ready),
            is_draining,
            is_first: false,
            ports: ports().map(|port| (port.name.clone(), port.port)).collect(),
            h2c,
            endpoints,
            release: Some(placement.release),
        };
        self.services.entry(placement.service.clone()).or_default().instances.insert(placement.instance, instance);
    }

    /// The first instances of releases, which are tried beside those before them.
    fn mark_first(&mut self, state: &RegionState) {
        let tried = state.deployments.values().filter(|deployment| deployment.state == DeploymentState::First);
        for deployment in tried {
            let definition = state.definitions.get(&deployment.app).filter(|one| one.release == deployment.release);
            for (name, wanted) in definition.into_iter().flat_map(|definition| &definition.services) {
                let reference = insula_types::ServiceRef::new(deployment.app.clone(), name.clone());
                let first = deployment.first_instances(name, &wanted.update, wanted.scale);
                let Some(service) = self.services.get_mut(&reference).filter(|_| first.is_some()) else { continue };
                service.first_weight = Some(wanted.update.first_weight());
                for (id, instance) in &mut service.instances {
                    instance.is_first = state.placements.get(id).is_some_and(|one| one.spec == wanted.spec);
                }
            }
        }
    }

    /// Routes come from the definitions, so that a service without instances is known and answered as such. The claims
    /// of the global state give a host and path to one app; should two have it all the same, the first by name has it.
    fn add_routes(&mut self, state: &RegionState) {
        for definition in state.definitions.values() {
            // Before anything of a release is started, what was good before it is all that there is to reach.
            let held = state.deployments.get(&definition.app).filter(|one| one.release == definition.release);
            let before = held.filter(|one| one.is_held()).and_then(|deployment| deployment.from.as_ref());
            for (name, service) in &before.unwrap_or(definition).services {
                let Some(port) = service.spec.http_port() else { continue };
                let reference = insula_types::ServiceRef::new(definition.app.clone(), name.clone());
                for route in &service.spec.routes {
                    if route_fault(&route.host, &route.path).is_some() {
                        continue;
                    }
                    self.services.entry(reference.clone()).or_default();
                    self.routes
                        .entry(route.host.clone())
                        .or_default()
                        .entry(route.path.clone())
                        .or_insert_with(|| RouteTarget { service: reference.clone(), port: port.name.clone() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
