//! Where a node belongs: the file that lets it start without anybody to ask.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use insula_env::Disk;
use insula_state::global::Gateway;
use insula_types::{Addresses, ClusterId, Incarnation, NodeId, RegionName, codec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Error, lives::New, methods::StateName};

/// The cluster, region and lives of its groups, and the last known members of the region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The world.
    pub cluster: ClusterId,
    /// The region.
    pub region: RegionName,
    /// Which life of the region state.
    pub region_incarnation: Incarnation,
    /// Which life of the global state.
    pub global_incarnation: Incarnation,
    /// The files of both groups have been made. Should they be gone at a later start, the node has forgotten what it
    /// voted for, and must not come back under its id.
    #[serde(default)]
    pub has_state: bool,
    /// Groups whose present life was adopted, and whose files have not been made yet.
    #[serde(default)]
    pub new: New,
    /// Other members and where they are reached; brought up to date while running.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// Where this node is reached, as it said last.
    #[serde(default)]
    pub own: Option<Addresses>,
    /// All that is known of where the others are reached.
    #[serde(default)]
    pub known: BTreeMap<NodeId, Addresses>,
    /// How other regions are reached as long as no global state tells: what the machine that founded the region was told, and the
    /// latest that the state told since.
    #[serde(default)]
    pub gateways: Vec<Gateway>,
}

impl Home {
    /// The life of a group.
    pub(crate) const fn life(&self, state: StateName) -> Incarnation {
        match state {
            StateName::Region => self.region_incarnation,
            StateName::Global => self.global_incarnation,
        }
    }

    /// Notes another life of a group.
    pub(crate) const fn set_life(&mut self, state: StateName, life: Incarnation) {
        match state {
            StateName::Region => self.region_incarnation = life,
            StateName::Global => self.global_incarnation = life,
        }
    }

    /// Where the other members are reached, as far as this file knows.
    pub(crate) fn others(&self) -> BTreeMap<NodeId, Addresses> {
        let listed = |node: &NodeId, at: &SocketAddr| {
            let known = self.known.get(node).filter(|known| known.widest() == *at);
            known.cloned().unwrap_or_else(|| Addresses::single(*at))
        };
        self.peers.iter().map(|(node, at)| (*node, listed(node, at))).collect()
    }

    /// Notes where the other members are reached.
    pub(crate) fn set_others(&mut self, others: BTreeMap<NodeId, Addresses>) {
        self.peers = others.iter().map(|(node, addresses)| (*node, addresses.widest())).collect();
        self.known = others;
    }

    /// A node with files, both of whose groups are in this life.
    #[cfg(test)]
    pub(crate) fn for_tests(life: Incarnation) -> Self {
        Self {
            cluster: ClusterId::new(1),
            region: "fra".parse().expect("a name"),
            region_incarnation: life,
            global_incarnation: life,
            has_state: true,
            new: New::new(),
            peers: BTreeMap::new(),
            own: None,
            known: BTreeMap::new(),
            gateways: Vec::new(),
        }
    }
}

/// A small file of one value in the binary codec, replaced atomically.
#[derive(Debug, Clone)]
pub struct ValueFile {
    path: PathBuf,
    disk: Arc<dyn Disk>,
}

impl ValueFile {
    /// The file at `path`; touches nothing yet.
    pub fn new(path: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { path, disk }
    }

    /// The value, or none when there is no file.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Damaged`].
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let bytes = match self.disk.read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed("read", source)),
        };
        codec::decode(&bytes).map(Some).map_err(|source| Error::Damaged { path: self.path.clone(), source })
    }

    /// Replaces the value.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save<T: Serialize>(&self, value: &T) -> Result<(), Error> {
        self.disk.write_atomic(&self.path, &codec::encode(value)).map_err(|source| self.failed("write", source))
    }

    /// Removes the file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn remove(&self) -> Result<(), Error> {
        self.disk.remove(&self.path).map_err(|source| self.failed("remove", source))
    }

    fn failed(&self, attempt: &'static str, source: std::io::Error) -> Error {
        Error::File { attempt, path: self.path.clone(), source }
    }
}
