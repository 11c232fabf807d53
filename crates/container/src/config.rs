//! What a node says about its runtime.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, os::unix::fs::PermissionsExt, path::PathBuf, str::FromStr};

use insula_types::{ByteSize, Capacity, RuntimeName};

/// Size at which an instance's log file is turned; two are kept.
pub const LOG_BYTES_MAX: u64 = 10 << 20;

/// Bytes of the disk that a node keeps free: images that nobody needs go, and snapshots are refused, when less is left.
pub const DISK_FREE_MIN: u64 = 2 << 30;

/// Settings of [`crate::NodeRuntime`].
#[derive(Debug, Clone)]
pub struct Config {
    /// `instances/`, `layers/`, `images/`, `logs/` and `shim/` are below it. No `:` or `,` in it: overlayfs could not be told.
    pub data_dir: PathBuf,
    /// Name of the cgroup under which every container gets one, like `insula`. Nodes that share a kernel need different
    /// ones.
    pub cgroup_parent: String,
    /// What all containers use together at most, whatever each may; none: what the machine has.
    pub limit: Option<Capacity>,
    /// What the writable layer of a container holds at most when its service does not say; none: 10 GiB, or a quarter of the
    /// data directory's file system when that is less.
    pub layer_size: Option<ByteSize>,
    /// How containers are connected; none: this node runs plain processes only.
    pub network: Option<NetworkConfig>,
    /// Registries, as `host:port`, that are spoken to in plain HTTP. Those on loopback are anyway.
    pub insecure_registries: Vec<String>,
    /// A file with names and passwords for registries, in the form of Docker's `config.json`. None need be there.
    pub registry_credentials: PathBuf,
    /// Size at which an instance's log file is turned; two are kept. [`LOG_BYTES_MAX`] unless a test says otherwise.
    pub log_bytes_max: u64,
    /// OCI runtimes that services may ask for by name. One whose executable is missing is as if it were not named.
    pub runtimes: BTreeMap<RuntimeName, RuntimeClass>,
}

/// An OCI runtime with a command line as that of runc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeClass {
    /// Its executable.
    pub path: PathBuf,
    /// Arguments before all others.
    pub arguments: Vec<String>,
    /// Its containers get a user namespace of their own, where the node has them.
    pub has_users: bool,
}

impl RuntimeClass {
    /// Whether its executable is there.
    pub(crate) fn is_present(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    }
}

/// The bridge that containers are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name of the bridge; made when missing.
    pub bridge: String,
    /// Addresses of the instances of this node. The first is the bridge's own.
    pub subnet: Subnet,
}

/// An IPv4 network, written `10.64.3.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// Why a text is no subnet for instances.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an IPv4 network with room for instances: write it like 10.64.3.0/24, with 8 to 29 bits")]
pub struct SubnetError(String);

impl Subnet {
    /// The bridge's address, the gateway of the instances.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Length of the prefix in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Addresses for instances, from the lowest.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let broadcast = self.base + (u32::MAX >> self.prefix);
        (self.base + 2..broadcast).map(Ipv4Addr::from)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let parsed = text.split_once('/').and_then(|(base, prefix)| {
            let (base, prefix) = (u32::from(base.parse::<Ipv4Addr>().ok()?), prefix.parse::<u8>().ok()?);
            let is_usable = (8..=29).contains(&prefix) && base & (u32::MAX >> prefix) == 0;
            is_usable.then_some(Self { base, prefix })
        });
        parsed.ok_or_else(|| SubnetError(text.to_owned()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_and_give_addresses() {
        let subnet: Subnet = "10.64.3.0/29".parse().expect("valid");
        assert_eq!(subnet.to_string(), "10.64.3.0/29");
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 64, 3, 1));
        let addresses: Vec<String> = subnet.addresses().map(|address| address.to_string()).collect();
        assert_eq!(addresses, ["10.64.3.2", "10.64.3.3", "10.64.3.4", "10.64.3.5", "10.64.3.6"]);
        for bad in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/31", "0.0.0.0/0", "::/64", "10.0.0.0/-1"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
