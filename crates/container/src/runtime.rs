//! The boundary between what decides (the agent) and what runs (containers, processes, or a simulation of them).

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use insula_types::{
    ByteSize, DatacenterName, ExecSpec, InstanceId, NodeName, PortName, RegionName, ReleaseNumber, ServiceRef,
    ServiceSpec, Slot, VolumeRef, VolumeSpec,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{Contents, Error, Exec, ImageRef, Pressures, StoredVolume};

/// Runs instances on this node. All calls are idempotent; calls about different instances may run side by side.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Makes the image present and unpacked, pulling it by digest from its registry when it is missing. Two callers of
    /// the same image share one pull.
    ///
    /// # Errors
    /// [`Error::Pull`], [`Error::Content`], [`Error::File`].
    async fn ensure_image(&self, image: &ImageRef) -> Result<ImageInfo, Error>;

    /// How far [`Runtime::ensure_image`] is with it; none: it is not being pulled, or not known yet to be how large.
    fn pull_progress(&self, image: &ImageRef) -> Option<PullProgress>;

    /// Starts an instance; one that already runs is taken over as it is. Its image must be present.
    ///
    /// # Errors
    /// Any; nothing is left behind that [`Runtime::remove`] does not take away. One that has ended is not started
    /// again ([`Error::State`]): remove it first.
    async fn start(&self, config: &InstanceConfig) -> Result<Running, Error>;

    /// What is on this node now, running or ended, also what an earlier life of the agent started. Ordered by id. One-off
    /// instances (`NodeRuntime::run`) are not among them.
    ///
    /// # Errors
    /// [`Error::File`] when the instances' directory cannot be read.
    async fn list(&self) -> Result<Vec<Observed>, Error>;

    /// Sends `signal` (as in `kill -l`, with SIG; none: the one that it was started with), waits `grace`, sends KILL; returns
    /// when the instance is gone. Fine when it is already.
    ///
    /// # Errors
    /// [`Error::Shim`] when it cannot be ended.
    async fn stop(&self, instance: InstanceId, signal: Option<&str>, grace: Duration) -> Result<(), Error>;

    /// Removes everything of an ended instance: mounts, namespace, cgroup, address, directory. Its logs are kept for a
    /// while. Fine when there is no such instance.
    ///
    /// # Errors
    /// [`Error::State`] while it runs; [`Error::File`], [`Error::Network`].
    async fn remove(&self, instance: InstanceId) -> Result<(), Error>;

    /// The last `bytes_max` bytes of what an instance wrote, oldest first, whole lines, each in the CRI log format:
    /// `<RFC 3339 time> <stdout|stderr> <F|P> <text>`. Also of a removed instance while its logs are kept; empty
    /// when there are none.
    ///
    /// # Errors
    /// [`Error::File`].
    async fn logs(&self, instance: InstanceId, bytes_max: u64) -> Result<Vec<u8>, Error>;

    /// The volumes on this node's disk, ordered by name.
    ///
    /// # Errors
    /// [`Error::File`].
    async fn volumes(&self) -> Result<Vec<StoredVolume>, Error>;

    /// Makes a volume, or makes it larger, also while an instance uses it. Fine when it is as large already.
    ///
    /// # Errors
    /// [`Error::File`], as when the disk has no room for it; what was there is as it was then.
    async fn make_volume(&self, volume: &VolumeRef, size: ByteSize) -> Result<(), Error>;

    /// Deletes a volume with all that is in it. Fine when it is not here.
    ///
    /// # Errors
    /// [`Error::File`], as while an instance has it.
    async fn delete_volume(&self, volume: &VolumeRef) -> Result<(), Error>;

    /// Runs a command inside an instance that runs: with its user, environment, working directory, limits and restrictions.
    /// The command and all that it starts end at the latest when [`Exec::handle`] is dropped, this process ends, or the
    /// instance does. A time limit is the caller's: to drop it.
    ///
    /// # Errors
    /// [`Error::State`] of one that does not run here or is no container, and while too many commands run;
    /// [`Error::Exec`] when the command cannot be begun; [`Error::File`].
    async fn exec(&self, instance: InstanceId, spec: &ExecSpec) -> Result<Exec, Error>;

    /// What the instances of this node lack, or take too much of, also of those that have ended since the last call: one that
    /// ends for what it lacks is seldom there when it is looked at. Those that cannot be looked at now are missing.
    ///
    /// # Errors
    /// [`Error::File`] when the instances' directory cannot be read.
    async fn pressures(&self) -> Result<Pressures, Error>;

    /// Changes (a counter goes up) whenever some instance ended.
    fn ended(&self) -> watch::Receiver<u64>;
}

/// What [`Runtime::ensure_image`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImageInfo {
    /// Bytes of all its compressed layers.
    pub size_bytes: u64,
    /// Bytes that had to be fetched now.
    pub pulled_bytes: u64,
    /// Of them, bytes that other nodes gave.
    pub from_nodes_bytes: u64,
}

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes of its compressed layers that are here.
    pub fetched_bytes: u64,
    /// Bytes of all its compressed layers; not 0.
    pub size_bytes: u64,
}

/// Everything needed to run one instance. Two equal configurations have the same [`InstanceConfig::hash`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// The instance.
    pub instance: InstanceId,
    /// What it is an instance of.
    pub service: ServiceRef,
    /// The release that it runs.
    pub release: ReleaseNumber,
    /// How to run it.
    pub spec: ServiceSpec,
    /// The node that runs it, as the instance is told.
    pub node: NodeLabels,
    /// Which of the service's volumes are its own; none where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// What it is given besides.
    #[serde(skip)]
    pub contents: Contents,
}

impl InstanceConfig {
    /// Its volumes, with what the definition says of each.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeRef, &VolumeSpec)> {
        let of = move |slot| {
            let named =
                move |spec: &VolumeSpec| VolumeRef { service: self.service.clone(), name: spec.name.clone(), slot };
            self.spec.volumes.iter().map(move |spec| (named(spec), spec))
        };
        self.slot.into_iter().flat_map(of)
    }

    /// Tells two configurations apart: SHA-256 in hexadecimal.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(insula_types::codec::encode(self)))
    }
}

/// Where an instance runs, for its environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLabels {
    /// `INSULA_NODE`.
    pub name: NodeName,
    /// `INSULA_REGION`.
    pub region: RegionName,
    /// `INSULA_DATACENTER`.
    pub datacenter: DatacenterName,
}

/// A running instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its first process, as this node's process table sees it.
    pub pid: u32,
    /// When that process was started, milliseconds since 1970 by the node's clock.
    pub started_ms: u64,
    /// Where its ports are reached from this node.
    pub endpoints: BTreeMap<PortName, SocketAddr>,
}

/// An instance as it is found on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The instance.
    pub instance: InstanceId,
    /// [`InstanceConfig::hash`] of what it was started with.
    pub config_hash: String,
    /// Whether it runs.
    pub state: ObservedState,
}

/// Whether an instance runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedState {
    /// Its first process lives, and so does its shim.
    Running(Running),
    /// It does not run any more, or never came so far.
    Ended(Ended),
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The way.
    pub exit: Exit,
    /// The kernel killed something of it for lack of memory within its limit.
    pub is_oom_killed: bool,
    /// When, milliseconds since 1970 by the node's clock; 0 when nobody saw it.
    pub at_ms: u64,
}

/// The way in which an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Its first process returned this code.
    Code(i32),
    /// Its first process was ended by this signal.
    Signal(i32),
    /// Nobody saw it: the shim or the machine went down with it, or it never started. The text says what is known.
    Unseen(String),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unseen(why) => f.write_str(why),
        }
    }
}
