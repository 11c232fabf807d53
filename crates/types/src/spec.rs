//! What users want of a service, already validated.

mod files;
mod health;
mod hooks;
mod placement;
mod regions;
mod restart;
mod storage;
mod update;

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use files::{ContentHash, ContentHashError, FileSpec};
pub use health::{Check, HealthSpec};
pub use hooks::{HookKind, HooksSpec};
pub use placement::PlacementSpec;
pub use regions::RegionSet;
pub use restart::{RestartPolicy, RestartSpec};
pub use storage::{Slot, TmpfsSpec, Volume, VolumeRef, VolumeRefError, VolumeSpec};
pub use update::{CanarySpec, Promotion, Strategy, UpdateSpec};

use crate::{ByteSize, CpuMillis, Level, PortName, RuntimeName, SecretVersions};

/// How an instance is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// An OCI image in a container.
    #[default]
    Container,
    /// A plain process of the node, for laptops without root.
    Process,
}

/// One service of a release: everything needed to run an instance of it. Scale is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// How to run it.
    pub driver: DriverKind,
    /// Image reference with digest, `registry/name@sha256:…`; none for the process driver.
    pub image: Option<String>,
    /// Command and arguments; empty: what the image says.
    pub command: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Limits and reservations.
    pub resources: Resources,
    /// Ports that the service listens on.
    pub ports: Vec<PortSpec>,
    /// What the edges bring to it.
    pub routes: Vec<RouteSpec>,
    /// Readiness check; none: ready as soon as it runs.
    pub health: Option<HealthSpec>,
    /// How it is stopped.
    #[serde(default)]
    pub stop: StopSpec,
    /// Its root file system cannot be written to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_read_only: bool,
    /// A first process of ours collects the orphans of its processes and hands on signals.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_init: bool,
    /// Directories in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsSpec>,
    /// Directories that outlive it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    /// The OCI runtime that runs its containers; none: the node's own way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeName>,
    /// What it asks of nodes.
    #[serde(default, skip_serializing_if = "PlacementSpec::is_usual")]
    pub placement: PlacementSpec,
    /// Files that it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileSpec>,
    /// Secrets that it is told, and which version of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: SecretVersions,
    /// Arguments in the place of those that the image gives its own program; empty: what the image says. Only without a command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// What becomes of instances that end by themselves.
    #[serde(default, skip_serializing_if = "RestartSpec::is_usual")]
    pub restart: RestartSpec,
    /// How often somebody has asked for all its instances to be replaced by new ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarted: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl ServiceSpec {
    /// From which level on programs know all of it.
    pub fn level(&self) -> Level {
        let is_of_first = !self.is_read_only
            && !self.has_init
            && self.tmpfs.is_empty()
            && self.volumes.is_empty()
            && !self.stop.is_usual_meant
            && self.resources.is_of_first_level()
            && self.health.as_ref().is_none_or(HealthSpec::is_of_first_level);
        let speaks_h2c = self.ports.iter().any(|port| port.protocol == Protocol::H2c);
        if self.has_contents() || !self.args.is_empty() || !self.restart.is_usual() || self.restarted > 0 || speaks_h2c
        {
            return Level(6);
        }
        match (&self.runtime, is_of_first) {
            _ if !self.placement.is_usual() => Level(6),
            (Some(_), _) => Level(5),
            (None, true) => Level::FIRST,
            (None, false) => Level(4),
        }
    }

    /// Whether it names files or secrets, which are kept apart.
    pub fn has_contents(&self) -> bool {
        !self.files.is_empty() || !self.secrets.is_empty()
    }

    /// The port that its check goes to: the one that the check names, else one that speaks what it asks by: for `http` HTTP/1.1,
    /// for `grpc` rather h2c; else the one that routes lead to, else the first.
    pub fn check_port(&self) -> Option<&PortSpec> {
        let health = self.health.as_ref();
        if let Some(name) = health.and_then(|health| health.port.as_ref()) {
            return self.ports.iter().find(|port| port.name == *name);
        }
        let apt = match health.map(|health| &health.check) {
            Some(Check::Http(_)) => self.port_of(|protocol| protocol == Protocol::Http),
            Some(Check::Grpc(_)) => self.port_of(|protocol| protocol == Protocol::H2c),
            _ => None,
        };
        apt.or(self.http_port()).or(self.ports.first())
    }

    /// The port that HTTP routes lead to: the one named `http`, else the first of those that speak HTTP/1.1 or h2c.
    pub fn http_port(&self) -> Option<&PortSpec> {
        self.port_of(Protocol::is_http)
    }

    /// The port named `http`, else the first, among those with such a protocol.
    fn port_of(&self, is_apt: impl Fn(Protocol) -> bool) -> Option<&PortSpec> {
        let mut apt = self.ports.iter().filter(|port| is_apt(port.protocol));
        let first = apt.next()?;
        let named = std::iter::once(first).chain(apt).find(|port| port.name.as_str() == "http");
        Some(named.unwrap_or(first))
    }
}

/// What one instance may use; the scheduler reserves it, the node enforces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU time.
    pub cpu: CpuMillis,
    /// Memory, swap included.
    pub memory: ByteSize,
    /// Greatest number of processes and threads.
    pub pids: u32,
    /// Greatest number of files that one process has open; none: what the node gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// Bytes that it may write to its own layer; none: as many as its node gives to each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<ByteSize>,
    /// Bytes a second that it may read from disks, and as many that it may write; none: as much as they give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<ByteSize>,
}

impl Resources {
    /// Whether programs of level 3 and before know all of it.
    const fn is_of_first_level(&self) -> bool {
        self.files.is_none() && self.disk.is_none() && self.io.is_none()
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu: CpuMillis(250), memory: ByteSize::mib(128), pids: 256, files: None, disk: None, io: None }
    }
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, from the first byte on (gRPC speaks it).
    H2c,
    /// Any stream.
    Tcp,
}

impl Protocol {
    /// Whether edges can bring requests to it.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::H2c)
    }
}

/// A port that every instance of the service listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// Its name.
    pub name: PortName,
    /// Its number inside the instance. The process driver may give another one, in `PORT` and `PORT_<NAME>`.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// HTTP requests that the edges bring to the service: by host, and by whole segments of the path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Host name in lower case, without port.
    pub host: String,
    /// Path prefix, beginning with `/`; `/a` takes `/a` and `/a/b`, not `/ab`.
    pub path: String,
}

/// How an instance is stopped: a signal, then KILL after the grace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    /// Signal name as in `kill -l`, with SIG.
    pub signal: String,
    /// Time from the signal to KILL.
    pub grace: Duration,
    /// The definition names [`StopSpec::USUAL`] itself, so that an image which wants another signal gets this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_usual_meant: bool,
}

impl StopSpec {
    /// The signal where neither the definition nor the image names one.
    pub const USUAL: &str = "SIGTERM";

    /// The signal that the definition names; none: the image's.
    pub fn named(&self) -> Option<&str> {
        (self.is_usual_meant || self.signal != Self::USUAL).then_some(&self.signal)
    }
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: Self::USUAL.to_owned(), grace: Duration::from_secs(10), is_usual_meant: false }
    }
}
