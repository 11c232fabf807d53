//! The shape of a catalog. It is also its form on the wire and on disk: fields are only ever added (rule R5).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use insula_types::{
    ClusterId, DatacenterName, Incarnation, InstanceId, NodeId, NodeName, PortName, RegionName, ReleaseNumber,
    Revision, ServiceRef,
};
use serde::{Deserialize, Serialize};

use crate::FarRegion;

/// What one node's traffic needs to know of its region, at one revision of the region's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Which life of the region's state it comes from.
    pub incarnation: Incarnation,
    /// The revision of the region's state that it reflects; 0 when there is none yet.
    pub revision: Revision,
    /// The world.
    pub cluster: ClusterId,
    /// The region.
    pub region: RegionName,
    /// The node that it is for.
    pub own: NodeId,
    /// The members of the region.
    pub nodes: BTreeMap<NodeId, CatalogNode>,
    /// The services that have instances or routes here.
    pub services: BTreeMap<ServiceRef, CatalogService>,
    /// Host in lower case → path prefix → where it leads.
    pub routes: BTreeMap<String, BTreeMap<String, RouteTarget>>,
    /// Ids of removed nodes: refused even with a valid certificate (rule R9).
    pub tombstones: BTreeSet<NodeId>,
    /// The other regions of the world. What changes here alone has the same revision as before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub far: BTreeMap<RegionName, FarRegion>,
}

/// A member of the region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogNode {
    /// Its name.
    pub name: NodeName,
    /// Its failure domain.
    pub datacenter: DatacenterName,
    /// Where its mesh is reached (the port for nodes): the address that this node prefers.
    pub address: SocketAddr,
    /// Further ones, in the order in which they are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<SocketAddr>,
    /// Whether its lease holds.
    pub is_up: bool,
}

impl CatalogNode {
    /// Where its mesh is reached, the preferred address first.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        std::iter::once(self.address).chain(self.others.iter().copied())
    }
}

/// The instances of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogService {
    /// What new requests may be given to; of the own node also those that drain, for peers that do not know yet.
    pub instances: BTreeMap<InstanceId, CatalogInstance>,
    /// While the first instances of a release are tried: their share of the requests, percent. None: all instances are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_weight: Option<u8>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogInstance {
    /// Where it runs.
    pub node: NodeId,
    /// Whether it may get requests.
    pub is_ready: bool,
    /// Whether it has ever been ready: what is left to try when none is (rule R10).
    pub was_ready: bool,
    /// Whether it takes no new requests. Only instances of the own node are listed while they drain.
    #[serde(default)]
    pub is_draining: bool,
    /// Whether it is one of the first of a release, which are tried; see [`CatalogService::first_weight`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_first: bool,
    /// Its ports: name → number inside the instance.
    pub ports: BTreeMap<PortName, u16>,
    /// Those of them that speak HTTP/2 without TLS; what they all speak may change from release to release.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub h2c: BTreeSet<PortName>,
    /// Where its ports are reached from its own node; empty for instances of other nodes.
    #[serde(default)]
    pub endpoints: BTreeMap<PortName, SocketAddr>,
    /// The release with which it was placed; none in a catalog of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseNumber>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTarget {
    /// The service.
    pub service: ServiceRef,
    /// The port of its instances.
    pub port: PortName,
}

impl Catalog {
    /// The catalog of a node that has not heard of its region's state yet: older than any.
    pub fn empty(cluster: ClusterId, region: RegionName, own: NodeId) -> Self {
        Self {
            incarnation: Incarnation(0),
            revision: Revision(0),
            cluster,
            region,
            own,
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            routes: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            far: BTreeMap::new(),
        }
    }

    /// Whether it says the same as another, of the same life of the region's state, whatever their revisions.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let Self { incarnation, revision: _, cluster, region, own, nodes, services, routes, tombstones, far } = self;
        (incarnation, cluster, region, own) == (&other.incarnation, &other.cluster, &other.region, &other.own)
            && (nodes, services, routes, tombstones, far)
                == (&other.nodes, &other.services, &other.routes, &other.tombstones, &other.far)
    }

    /// Whether nothing has been heard of the region's state yet.
    pub fn is_empty(&self) -> bool {
        self.revision == Revision(0) && self.nodes.is_empty()
    }

    /// An instance by service and id.
    pub fn instance(&self, service: &ServiceRef, id: InstanceId) -> Option<&CatalogInstance> {
        self.services.get(service)?.instances.get(&id)
    }

    /// Whether any route leads to the service.
    pub fn is_routed(&self, service: &ServiceRef) -> bool {
        self.routes.values().flat_map(BTreeMap::values).any(|target| target.service == *service)
    }

    /// The other nodes that hold instances which routes of this node may lead to.
    pub fn peers_in_use(&self) -> BTreeSet<NodeId> {
        self.services
            .values()
            .flat_map(|service| service.instances.values())
            .map(|instance| instance.node)
            .filter(|node| *node != self.own)
            .collect()
    }
}
