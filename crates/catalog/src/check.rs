//! What must hold of a catalog before it is used: bounded sizes, and everything named is there.

use insula_types::{InstanceId, NodeId, ServiceRef, address::ADDRESSES_MAX};

use crate::{Catalog, CatalogInstance};

/// Greatest sizes. A catalog beyond them is a mistake of whoever made it, not a large region.
pub mod limits {
    /// Encoded bytes, on disk and on the wire.
    pub const BYTES_MAX: usize = 64 << 20;
    /// Nodes of a region, and tombstones.
    pub const NODES_MAX: usize = 20_000;
    /// Services of a region.
    pub const SERVICES_MAX: usize = 100_000;
    /// Instances of a region.
    pub const INSTANCES_MAX: usize = 200_000;
    /// Ports of one instance.
    pub const PORTS_MAX: usize = 64;
    /// Routes of a region.
    pub const ROUTES_MAX: usize = 200_000;
    /// Bytes of a host name (RFC 1035 section 2.3.4).
    pub const HOST_LEN_MAX: usize = 253;
    /// Bytes of a path prefix.
    pub const PATH_LEN_MAX: usize = 2048;
    /// Regions of the world; twice as many as there may be now.
    pub const REGIONS_MAX: usize = 128;
    /// Gateways of a region.
    pub const GATEWAYS_MAX: usize = 8;
    /// Those of them that requests are brought to, and that are pinged.
    pub const GATEWAYS_USED: usize = 3;
    /// Services that a region tells others of.
    pub const DIGEST_SERVICES_MAX: usize = 20_000;
}

/// Why a catalog is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// More of something than any region has.
    #[error("the catalog has {found} {what}, more than {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many there may be.
        max: usize,
    },
    /// An instance on a node that is not a member.
    #[error("instance {instance} of {service} is on {node}, which is not in the catalog")]
    UnknownNode {
        /// The instance.
        instance: InstanceId,
        /// Its service.
        service: ServiceRef,
        /// The node.
        node: NodeId,
    },
    /// An instance of another node with addresses that only that node can reach.
    #[error("instance {instance} of {service} is on another node and yet has endpoints")]
    ForeignEndpoints {
        /// The instance.
        instance: InstanceId,
        /// Its service.
        service: ServiceRef,
    },
    /// A route to a service that is not there.
    #[error("route {host}{path} leads to {service}, which is not in the catalog")]
    UnknownService {
        /// The route's host.
        host: String,
        /// The route's path.
        path: String,
        /// The service.
        service: ServiceRef,
    },
    /// A host or path that no request can match.
    #[error("route {host:?}{path:?} cannot match a request: {why}")]
    BadRoute {
        /// The route's host.
        host: String,
        /// The route's path.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Made for another node, region or cluster.
    #[error("the catalog is for {found}, not for {own}")]
    NotMine {
        /// Whom it is for.
        found: String,
        /// Who we are.
        own: String,
    },
}

fn at_most(what: &'static str, found: usize, max: usize) -> Result<(), CheckError> {
    if found > max { Err(CheckError::TooMany { what, found, max }) } else { Ok(()) }
}

/// Why no request can match this host and path; none when it is fine.
pub(crate) fn route_fault(host: &str, path: &str) -> Option<&'static str> {
    if host.is_empty() || host.len() > limits::HOST_LEN_MAX {
        Some("the host must have 1 to 253 bytes")
    } else if !host.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"/:@?#".contains(&b)) {
        Some("the host must be a name in lower case, without port")
    } else if !path.starts_with('/') {
        Some("the path must begin with /")
    } else if path.len() > limits::PATH_LEN_MAX {
        Some("the path is longer than 2048 bytes")
    } else {
        None
    }
}

impl Catalog {
    /// Whether it can be used.
    ///
    /// # Errors
    /// [`CheckError`] names the first thing that is wrong.
    pub fn check(&self) -> Result<(), CheckError> {
        at_most("nodes", self.nodes.len(), limits::NODES_MAX)?;
        let addresses = self.nodes.values().map(|node| node.others.len() + 1).max().unwrap_or(0);
        at_most("addresses of one node", addresses, ADDRESSES_MAX)?;
        at_most("tombstones", self.tombstones.len(), limits::NODES_MAX)?;
        at_most("services", self.services.len(), limits::SERVICES_MAX)?;
        at_most("instances", self.services.values().map(|s| s.instances.len()).sum(), limits::INSTANCES_MAX)?;
        at_most("routes", self.routes.values().map(|paths| paths.len()).sum(), limits::ROUTES_MAX)?;
        at_most("other regions", self.far.len(), limits::REGIONS_MAX)?;
        for region in self.far.values() {
            at_most("gateways of one region", region.gateways.len(), limits::GATEWAYS_MAX)?;
            let addresses = region.gateways.iter().map(|gateway| gateway.addresses.len()).max().unwrap_or(0);
            at_most("addresses of one gateway", addresses, ADDRESSES_MAX)?;
            at_most("services of another region", region.services.len(), limits::DIGEST_SERVICES_MAX)?;
        }
        for (service, entry) in &self.services {
            for (id, instance) in &entry.instances {
                self.check_instance(service, *id, instance)?;
            }
        }
        for (host, paths) in &self.routes {
            for (path, target) in paths {
                if let Some(why) = route_fault(host, path) {
                    return Err(CheckError::BadRoute { host: host.clone(), path: path.clone(), why });
                }
                if !self.services.contains_key(&target.service) {
                    let service = target.service.clone();
                    return Err(CheckError::UnknownService { host: host.clone(), path: path.clone(), service });
                }
            }
        }
        Ok(())
    }

    fn check_instance(&self, service: &ServiceRef, id: InstanceId, found: &CatalogInstance) -> Result<(), CheckError> {
        at_most(
            "ports of one instance",
            found.ports.len().max(found.endpoints.len()).max(found.h2c.len()),
            limits::PORTS_MAX,
        )?;
        if !self.nodes.contains_key(&found.node) {
            return Err(CheckError::UnknownNode { instance: id, service: service.clone(), node: found.node });
        }
        if found.node != self.own && !found.endpoints.is_empty() {
            return Err(CheckError::ForeignEndpoints { instance: id, service: service.clone() });
        }
        Ok(())
    }
}
