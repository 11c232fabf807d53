//! The lab's state file: everything that was made and would outlive a crash, written before it is made.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use insula_env::{Disk, RealDisk};
use serde::{Deserialize, Serialize};

use crate::{Error, Process, config::NodePlan, error::Attempt, wan::Shape};

/// What stands, as kept in `lab.json` of the lab's directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The lab's name.
    pub name: String,
    /// The program given to the nodes.
    pub program: PathBuf,
    /// Holds the router's network namespace.
    pub router: Option<Process>,
    /// Carries packets between regions, where there are several.
    #[serde(default)]
    pub carrier: Option<Process>,
    /// What it does to them.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Holds the services' network namespace.
    pub services: Option<Process>,
    /// The image registry.
    pub registry: Option<Process>,
    /// All nodes, on or off.
    pub nodes: Vec<NodeState>,
    /// Silent cuts in force: packets from the first node to the second are dropped.
    pub cuts: Vec<(String, String)>,
}

/// What the network does from one region to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The one.
    pub from: String,
    /// The other.
    pub to: String,
    /// What.
    pub shape: Shape,
}

/// A node and its power.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeState {
    /// Its place.
    pub plan: NodePlan,
    /// Holds its network namespace while it has power.
    pub network: Option<Process>,
    /// Its process 1.
    pub init: Option<Process>,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Whether its disk is stalled.
    #[serde(default)]
    pub is_stalled: bool,
}

/// Files of a lab, by their place in its directory.
#[derive(Clone, Debug)]
pub(crate) struct Files(PathBuf);

impl Files {
    pub fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The socket of what carries packets between regions.
    pub fn carrier(&self) -> PathBuf {
        self.0.join("carrier.sock")
    }

    fn state(&self) -> PathBuf {
        self.0.join("lab.json")
    }

    /// Directory of a node: its disk and what its process 1 shares with us.
    pub fn node(&self, name: &str) -> PathBuf {
        self.0.join("nodes").join(name)
    }

    /// A node's disk.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.node(name).join("disk.img")
    }

    /// What a node's process 1 and server wrote.
    pub fn console(&self, name: &str) -> PathBuf {
        self.node(name).join("console.log")
    }

    /// While this file is there, the node's server is not started.
    pub fn hold(&self, name: &str) -> PathBuf {
        self.node(name).join("hold")
    }

    /// Directory of what runs in the services namespace.
    pub fn services(&self) -> PathBuf {
        self.0.join("services")
    }

    /// Makes the directory. An empty one may be there: a crash left it.
    pub fn create(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.0).attempt(|| format!("make {}", self.0.display()))?;
        let is_used = fs::read_dir(&self.0).attempt(|| format!("read {}", self.0.display()))?.next().is_some();
        if is_used { Err(Error::Exists(self.0.clone())) } else { Ok(()) }
    }

    /// Reads the state; `None` where there is no lab.
    pub fn load(&self) -> Result<Option<State>, Error> {
        let path = self.state();
        match RealDisk.read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(state) => Ok(Some(state)),
                Err(error) => Err(Error::System { what: format!("read {}", path.display()), source: error.into() }),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::System { what: format!("read {}", path.display()), source }),
        }
    }

    /// Writes the state.
    pub fn save(&self, state: &State) -> Result<(), Error> {
        let what = || format!("write {}", self.state().display());
        let bytes = serde_json::to_vec_pretty(state).attempt(what)?;
        RealDisk.write_atomic(&self.state(), &bytes).attempt(what)
    }

    /// Keeps other commands that change this lab waiting until it is dropped.
    pub fn lock(&self) -> Result<File, Error> {
        let dir = File::open(&self.0).attempt(|| format!("open {}: is there a lab?", self.0.display()))?;
        dir.lock().attempt(|| format!("lock {}", self.0.display()))?;
        Ok(dir)
    }
}
