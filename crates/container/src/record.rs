//! The directory of one instance, and what the agent writes into it about the instance.
//!
//! `instance.json` is written before anything is made, so that whatever exists can be found and removed.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use insula_types::{DriverKind, InstanceId, PortName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, InstanceConfig};

/// `instance.json`. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What it was started with.
    pub config: InstanceConfig,
    /// Address of a container.
    pub address: Option<Ipv4Addr>,
    /// Ports as the node reaches them: a process may have got others than it asked for.
    pub ports: BTreeMap<PortName, u16>,
    /// Its cgroup, from the root of a hierarchy.
    pub cgroup: Option<String>,
    /// The id on the node of its root, where it has a user namespace.
    #[serde(default)]
    pub users: Option<u32>,
    /// Made for one command, and gone with it.
    #[serde(default)]
    pub is_one_off: bool,
}

impl Record {
    /// Where its ports are reached.
    pub fn endpoints(&self) -> BTreeMap<PortName, SocketAddr> {
        let address = IpAddr::V4(self.address.unwrap_or(Ipv4Addr::LOCALHOST));
        self.ports.iter().map(|(name, port)| (name.clone(), SocketAddr::new(address, *port))).collect()
    }

    /// Whether it is a container.
    pub fn is_container(&self) -> bool {
        self.config.spec.driver == DriverKind::Container
    }
}

/// Tells a process the directory of its instance, and us to which instance a process belongs.
pub(crate) const DIRECTORY_VARIABLE: &str = "INSULA_DIRECTORY";

/// Names in the directory of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    pub fn new(instances: &Path, instance: InstanceId) -> Self {
        Self(instances.join(instance.to_string()))
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// Lower-case name of a file or directory in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    pub fn rootfs(&self) -> PathBuf {
        self.join("rootfs")
    }
    pub fn netns(&self) -> PathBuf {
        self.join("netns")
    }
    /// Images' layers with their owners shifted, while the root is mounted.
    pub fn shifted(&self) -> PathBuf {
        self.join("shifted")
    }
    /// Where its writable layer is mounted, where that has a file system of its own.
    pub fn layer(&self) -> PathBuf {
        self.join("layer")
    }
    /// The file system in a file that is mounted there.
    pub fn layer_image(&self) -> PathBuf {
        self.join("layer.img")
    }
    /// Where its volumes are mounted, each below its name.
    pub fn volumes(&self) -> PathBuf {
        self.join("volumes")
    }
    /// The OCI bundle of a container, in memory where that has secrets.
    pub fn bundle(&self) -> PathBuf {
        self.join("bundle")
    }
    /// What the library or the runtime that runs a container keeps of it, in memory where that has secrets.
    pub fn state(&self) -> PathBuf {
        self.join("state")
    }
    /// Its secrets as files, in memory.
    pub fn secrets(&self) -> PathBuf {
        self.join("secrets")
    }
    /// Its files, by their number in the definition.
    pub fn files(&self) -> PathBuf {
        self.join("files")
    }
    /// Where a volume is mounted in the meantime.
    pub fn by_way_of(&self) -> PathBuf {
        self.join("disk")
    }
    /// `/sys` as seen from its network namespace.
    pub fn sysfs(&self) -> PathBuf {
        self.join("sys")
    }

    /// Reads one of its JSON files; none when there is no such file, or when a power cut left it incomplete.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// Replaces one of its JSON files. Not durable: what it describes does not outlive a power cut either.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Error> {
        let path = self.join(name);
        let temporary = path.with_file_name("new");
        let bytes = serde_json::to_vec(value).map_err(|error| Error::file("encode", &path)(error.into()))?;
        fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path)).map_err(Error::file("write", path))
    }

    /// The record, if there is one.
    pub fn record(&self) -> Result<Option<Record>, Error> {
        self.read("instance.json")
    }
}

/// The instances that have a directory, ordered.
pub(crate) fn instances(directory: &Path) -> Result<Vec<InstanceId>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
        let entry = entry.map_err(Error::file("list", directory))?;
        found.extend(entry.file_name().to_str().and_then(|name| name.parse::<InstanceId>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}
