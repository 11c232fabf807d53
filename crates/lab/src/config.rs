//! What a lab shall look like, and the names and addresses that follow from it. Pure.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
};

use insula_types::{DatacenterName, NodeName, RegionName};
use serde::{Deserialize, Serialize};

use crate::Error;

/// The port between nodes.
pub const NODE_PORT: u16 = 7443;
/// The port of the API on every node.
pub const API_PORT: u16 = 7480;
/// The port of the image registry in the services namespace.
pub const REGISTRY_PORT: u16 = 5000;
/// Where the services namespace is.
pub const SERVICES_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 200, 255, 2);
/// The router's address towards the services namespace.
pub const SERVICES_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 200, 255, 1);
/// The number of its network, where regions have theirs.
pub(crate) const SERVICES_NUMBER: u8 = SERVICES_ADDRESS.octets()[2];
/// The name by which commands mean the services namespace.
pub const SERVICES: &str = "services";
/// Where labs are kept when nothing else is said.
pub const BASE_DIR: &str = "/var/lib/insula-lab";
/// Prefix length of a data centre's network: four of them share the 10.200.R.0/24 of their region.
pub const DATACENTER_PREFIX: u8 = 26;

/// Regions at most: the last networks are not theirs.
const REGIONS_MAX: usize = 32;
/// Data centres of a region at most, by the addresses that there are.
const DATACENTERS_MAX: usize = 4;
/// Nodes of a data centre at most: addresses .11 to .62 of its network.
const NODES_PER_DATACENTER_MAX: usize = 50;
/// Longest lab name: it is part of cgroup and host names.
const NAME_LEN_MAX: usize = 16;

/// What `up` makes.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Tells labs of one machine apart: a short DNS label.
    pub name: String,
    /// Its regions.
    pub regions: Vec<RegionShape>,
    /// The `insula` program that every node gets a copy of. It is also what keeps the namespaces (`lab-init`).
    pub program: PathBuf,
    /// Where the lab keeps its files: a directory of its own, on a file system that can sync.
    pub dir: PathBuf,
}

impl LabConfig {
    /// A lab of that name in its usual directory, with one region of three nodes in two data centres.
    pub fn new(name: &str, program: &Path) -> Self {
        Self {
            name: name.to_owned(),
            regions: vec![RegionShape { name: "fra".to_owned(), datacenters: vec![2, 1] }],
            program: program.to_owned(),
            dir: dir_of(name),
        }
    }
}

/// The usual directory of a lab.
pub fn dir_of(name: &str) -> PathBuf {
    Path::new(BASE_DIR).join(name)
}

/// A region and how many nodes each of its data centres has. Written `fra:3` (spread over two data centres) or
/// `fra:2+1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionShape {
    /// Its name; data centres are called by it and a number.
    pub name: String,
    /// Nodes of each data centre.
    pub datacenters: Vec<usize>,
}

impl FromStr for RegionShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("{text:?} is not a region of a lab: write fra:3, or fra:2+1 to say the data centres");
        let (name, nodes) = text.split_once(':').ok_or_else(expected)?;
        RegionName::new(name).map_err(|error| error.to_string())?;
        let counts: Vec<usize> =
            nodes.split('+').map(|count| count.parse().map_err(|_| expected())).collect::<Result<_, _>>()?;
        let datacenters = match counts[..] {
            [0] => return Err(expected()),
            [1] => vec![1],
            [all] => vec![all.div_ceil(2), all / 2],
            _ => counts,
        };
        if datacenters.contains(&0) {
            return Err(expected());
        }
        if datacenters.len() > DATACENTERS_MAX || datacenters.iter().any(|nodes| *nodes > NODES_PER_DATACENTER_MAX) {
            return Err(format!(
                "{text:?} is too big for a lab: at most {DATACENTERS_MAX} data centres of {NODES_PER_DATACENTER_MAX} nodes"
            ));
        }
        Ok(Self { name: name.to_owned(), datacenters })
    }
}

/// A node, by its place in the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Its name: `n1`, `n2` …
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its data centre.
    pub datacenter: String,
    /// Its address, on `eth0`.
    pub address: Ipv4Addr,
    /// Its router's address.
    pub gateway: Ipv4Addr,
    /// The router's bridge that it hangs on.
    pub bridge: String,
}

impl NodePlan {
    /// The number of its region: the third byte of its addresses.
    pub(crate) fn region_number(&self) -> u8 {
        self.address.octets()[2]
    }

    /// The first address of its region's network, whose prefix is of 24 bits.
    pub(crate) fn region_network(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, self.region_number(), 0)
    }
}

/// Names and addresses of all nodes.
///
/// # Errors
/// [`Error::Invalid`] for a bad name, a region that is named twice, or too many of them.
pub fn plan(config: &LabConfig) -> Result<Vec<NodePlan>, Error> {
    NodeName::new(config.name.clone()).map_err(|error| Error::Invalid(error.to_string().replacen("node", "lab", 1)))?;
    if config.name.len() > NAME_LEN_MAX {
        return Err(Error::Invalid(format!("lab name {:?} is longer than {NAME_LEN_MAX} characters", config.name)));
    }
    if config.regions.len() > REGIONS_MAX {
        return Err(Error::Invalid(format!("a lab has at most {REGIONS_MAX} regions")));
    }
    let mut nodes = Vec::new();
    for (region_index, region) in (1u8..).zip(&config.regions) {
        if nodes.iter().any(|node: &NodePlan| node.region == region.name) {
            return Err(Error::Invalid(format!("region {} is named twice", region.name)));
        }
        for (datacenter_index, count) in (0u8..).zip(&region.datacenters) {
            let datacenter = format!("{}{}", region.name, datacenter_index + 1);
            DatacenterName::new(datacenter.clone()).map_err(|error| Error::Invalid(error.to_string()))?;
            let base = datacenter_index * 64;
            for host in (base + 11..).take(*count) {
                nodes.push(NodePlan {
                    name: format!("n{}", nodes.len() + 1),
                    region: region.name.clone(),
                    datacenter: datacenter.clone(),
                    address: Ipv4Addr::new(10, 200, region_index, host),
                    gateway: Ipv4Addr::new(10, 200, region_index, base + 1),
                    bridge: format!("br{region_index}-{}", datacenter_index + 1),
                });
            }
        }
    }
    if nodes.is_empty() {
        return Err(Error::Invalid("a lab needs a node".to_owned()));
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(region: &str, expected: &Expect) {
        let text = match region.parse::<RegionShape>() {
            Ok(shape) => {
                let config = LabConfig { regions: vec![shape], ..LabConfig::new("t", Path::new("/x")) };
                let nodes = plan(&config).expect("valid");
                let lines = nodes.iter().map(|n| format!("{} {} {} {}", n.name, n.datacenter, n.address, n.gateway));
                lines.collect::<Vec<_>>().join("\n")
            }
            Err(error) => error,
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn shapes_become_names_and_addresses() {
        check(
            "fra:3",
            &expect![[r#"
                n1 fra1 10.200.1.11 10.200.1.1
                n2 fra1 10.200.1.12 10.200.1.1
                n3 fra2 10.200.1.75 10.200.1.65"#]],
        );
        check("was:1", &expect!["n1 was1 10.200.1.11 10.200.1.1"]);
        check(
            "was:1+1+1",
            &expect![[r#"
                n1 was1 10.200.1.11 10.200.1.1
                n2 was2 10.200.1.75 10.200.1.65
                n3 was3 10.200.1.139 10.200.1.129"#]],
        );
    }

    #[test]
    fn bad_shapes_are_refused() {
        check("fra", &expect![[r#""fra" is not a region of a lab: write fra:3, or fra:2+1 to say the data centres"#]]);
        check(
            "fra:0",
            &expect![[r#""fra:0" is not a region of a lab: write fra:3, or fra:2+1 to say the data centres"#]],
        );
        check(
            "fra:1+0",
            &expect![[r#""fra:1+0" is not a region of a lab: write fra:3, or fra:2+1 to say the data centres"#]],
        );
        check(
            "Fra:1",
            &expect![[r#""Fra" is not a valid region name: use lower-case letters, digits and hyphens only"#]],
        );
        check("fra:101", &expect![[r#""fra:101" is too big for a lab: at most 4 data centres of 50 nodes"#]]);
    }

    #[test]
    fn bad_labs_are_refused() {
        let mut config = LabConfig::new("UP", Path::new("/x"));
        assert!(matches!(plan(&config), Err(Error::Invalid(_))));
        config.name = "two".to_owned();
        config.regions.push(RegionShape { name: "fra".to_owned(), datacenters: vec![1] });
        assert_eq!(plan(&config).expect_err("twice").to_string(), "region fra is named twice");
        config.regions = (0..33).map(|number| format!("r{number}:1").parse().expect("a shape")).collect();
        assert_eq!(plan(&config).expect_err("many").to_string(), "a lab has at most 32 regions");
    }

    #[test]
    fn regions_have_networks_of_their_own() {
        let regions = ["fra:1", "was:2"].map(|shape| shape.parse().expect("a shape")).into();
        let nodes = plan(&LabConfig { regions, ..LabConfig::new("t", Path::new("/x")) }).expect("valid");
        let places: Vec<_> =
            nodes.iter().map(|node| format!("{} {} {}", node.name, node.bridge, node.address)).collect();
        assert_eq!(places, ["n1 br1-1 10.200.1.11", "n2 br2-1 10.200.2.11", "n3 br2-2 10.200.2.75"]);
        assert_eq!(nodes[2].region_network(), Ipv4Addr::new(10, 200, 2, 0));
    }
}
