//! What users want of a service, already validated.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, CpuMillis, PortName};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl ServiceSpec {
    /// The port that HTTP routes lead to: the one named `http`, else the first with that protocol.
    pub fn http_port(&self) -> Option<&PortSpec> {
        let is_http = |port: &&PortSpec| port.protocol == Protocol::Http;
        self.ports
            .iter()
            .filter(is_http)
            .find(|p| p.name.as_str() == "http")
            .or_else(|| self.ports.iter().find(is_http))
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
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu: CpuMillis(250), memory: ByteSize::mib(128), pids: 256 }
    }
}

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// Any stream.
    Tcp,
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

/// A readiness check by HTTP: ready while GET answers with a status from 200 to 399.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// Path to ask for.
    pub http: String,
    /// Port to ask on; none: as [`ServiceSpec::http_port`].
    pub port: Option<PortName>,
    /// Time from one check to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long an instance may take until the first good answer before it is restarted.
    pub grace: Duration,
    /// Failures in a row that make it unready.
    pub unhealthy_after: u32,
}

/// How an instance is stopped: a signal, then KILL after the grace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    /// Signal name as in `kill -l`, with SIG.
    pub signal: String,
    /// Time from the signal to KILL.
    pub grace: Duration,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: "SIGTERM".to_owned(), grace: Duration::from_secs(10) }
    }
}
