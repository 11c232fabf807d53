//! The configuration of a node: what `insula init` and `insula join` write and `insula server` reads.

mod advertise;
mod certificates;
mod classes;
mod metrics;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use insula_identity::Lifetimes;
use insula_state::region::RUNTIMES_MAX;
use insula_types::{ByteSize, DatacenterName, LabelName, Labels, NodeName, RegionName, RuntimeName, label::LABELS_MAX};
use serde::{Deserialize, Serialize};

pub use self::{
    advertise::Advertise, certificates::CertificatesConfig, classes::ClassConfig, metrics::MetricsListener,
};
use crate::Error;

/// Where the port between nodes is, unless configured.
pub const PORT_NODES: u16 = 7443;
/// Where the edge listens, unless configured.
pub const PORT_EDGE: u16 = 80;
/// Where the API listens, unless configured.
pub const PORT_API: u16 = 7480;

/// Everything that a node's processes need to know before they can ask anybody. One file, the same on every machine
/// but for names and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of the node, unique in its region.
    pub name: NodeName,
    /// Region of the node, for life.
    pub region: RegionName,
    /// Data centre of the node.
    pub datacenter: DatacenterName,
    /// Addresses and ports at which other nodes reach this one. `insula node reload` takes a change over.
    pub advertise: Advertise,
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// Where the port between nodes listens. Default: all addresses, port of the widest of `advertise`.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Where the edge listens for HTTP.
    #[serde(default = "edge_default")]
    pub edge: SocketAddr,
    /// Where the API listens, with TLS.
    #[serde(default = "api_default")]
    pub api: SocketAddr,
    /// Where metrics for Prometheus are served, in plain HTTP to whoever asks, or "off".
    #[serde(default, skip_serializing_if = "is_default")]
    pub metrics: MetricsListener,
    /// Proxies in front of the edge, each as `address` or `network/prefix`: what they say of whom they ask for (`Forwarded`,
    /// `X-Forwarded-For`, `-Proto` and `-Host`) is passed on to instances. Default: nobody is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// How instances are run.
    #[serde(default)]
    pub runtime: RuntimeConfig,
    /// How long certificates live.
    #[serde(default)]
    pub certificates: CertificatesConfig,
    /// What services may ask for, besides `datacenter` and `node`; at most 32 labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// How this node runs instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeConfig {
    /// Bridge that instances are connected to.
    pub bridge: String,
    /// Addresses of instances on this node, as `network/prefix`. Seen by this node alone.
    pub subnet: String,
    /// Cgroup under which instances get theirs.
    pub cgroup_parent: String,
    /// Registries that are spoken to without TLS, as `host:port`.
    pub insecure_registries: Vec<String>,
    /// A file with names and passwords for registries, in the form of Docker's `config.json`, which its owner alone may
    /// read. Default: `registries.json` in the data directory.
    pub registry_credentials: Option<PathBuf>,
    /// Memory that the scheduler may count on. Default: what the machine has.
    pub memory: Option<String>,
    /// Thousandths of a CPU that the scheduler may count on. Default: what the machine has.
    pub cpu: Option<String>,
    /// What a container may write to its own root when its service does not say (`resources.disk`), from 8 MiB on. Default:
    /// 10 GiB, or a quarter of the data directory's file system when that is less.
    pub layer_size: Option<String>,
    /// OCI runtimes that services may name besides the one in Insula itself, at most 16: each a path, or a table.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<RuntimeName, ClassConfig>,
}

/// The smallest layer that a container can have.
const LAYER_SIZE_MIN: ByteSize = ByteSize::mib(8);

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            bridge: "insula0".into(),
            subnet: "10.214.0.0/16".into(),
            cgroup_parent: "/insula".into(),
            insecure_registries: Vec::new(),
            registry_credentials: None,
            memory: None,
            cpu: None,
            layer_size: None,
            classes: BTreeMap::new(),
        }
    }
}

/// What is as it is without being written is not written, so that programs that do not know the key read the file.
fn is_default(metrics: &MetricsListener) -> bool {
    *metrics == MetricsListener::default()
}

/// Where the edge listens, unless configured.
pub fn edge_default() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT_EDGE)
}

/// Where the API listens, unless configured.
pub fn api_default() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT_API)
}

impl NodeConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`Error::ReadConfig`] or [`Error::ParseConfig`], which says the line and what would be valid.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::ReadConfig { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| Error::ParseConfig { path: path.to_owned(), source: Box::new(source) })
    }

    /// Parses the text of a configuration file.
    ///
    /// # Errors
    /// The parser's, with line and column.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let config: Self = toml::from_str(text)?;
        let runtime = &config.runtime;
        let checked = runtime.capacity().map(drop).and(runtime.layer_size().map(drop));
        let checked = checked.and(config.certificates.lifetimes().map(drop)).and(runtime.check_classes());
        let checked = checked.and(config.check_labels());
        let checked = checked.and(config.trusted_networks().map(drop));
        checked.map_err(serde::de::Error::custom)?;
        Ok(config)
    }

    fn check_labels(&self) -> Result<(), String> {
        if self.labels.len() > LABELS_MAX {
            return Err(format!("labels: there are {}, and may be {LABELS_MAX}", self.labels.len()));
        }
        match self.labels.keys().find(|name| LabelName::OWN.contains(&name.as_str())) {
            Some(own) => Err(format!("labels.{own}: every node has this label of itself; take it out")),
            None => Ok(()),
        }
    }

    /// The text of a configuration file.
    pub fn to_text(&self) -> String {
        let body = toml::to_string_pretty(self).expect("names, addresses and paths are plain TOML values");
        format!("# Written by `insula init` or `insula join`; read when the server starts.\n{body}")
    }

    /// Keys in which another configuration differs that count only when the server starts.
    pub(crate) fn differs_for_good(&self, other: &Self) -> Vec<String> {
        let values = |config: &Self| match toml::Value::try_from(config) {
            Ok(toml::Value::Table(table)) => table,
            // A configuration is a table.
            _ => toml::Table::new(),
        };
        let (own, other) = (values(self), values(other));
        let keys: std::collections::BTreeSet<_> = own.keys().chain(other.keys()).collect();
        let differs = |key: &&String| own.get(*key) != other.get(*key) && key.as_str() != "advertise";
        keys.into_iter().filter(differs).cloned().collect()
    }

    /// Where the port between nodes listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen.unwrap_or_else(|| self.advertise.listen())
    }

    /// Where names and passwords for registries are.
    pub fn registry_credentials(&self) -> PathBuf {
        self.runtime.registry_credentials.clone().unwrap_or_else(|| self.data_dir.join("registries.json"))
    }

    /// How long certificates live.
    pub fn lifetimes(&self) -> Lifetimes {
        // They were checked when the configuration was read.
        self.certificates.lifetimes().unwrap_or_default()
    }

    /// Proxies whose word counts on whom they ask for.
    ///
    /// # Errors
    /// Which of them is no network.
    pub fn trusted_networks(&self) -> Result<Vec<insula_edge::Network>, String> {
        let parse = |text: &String| text.parse().map_err(|error| format!("trusted_proxies: {error}"));
        self.trusted_proxies.iter().map(parse).collect()
    }

    /// The files of this node.
    pub fn paths(&self) -> Paths {
        Paths(self.data_dir.clone())
    }
}

impl RuntimeConfig {
    /// What the configuration says of this node's size: memory and thousandths of a CPU.
    ///
    /// # Errors
    /// Text that is not an amount.
    pub fn capacity(&self) -> Result<(Option<ByteSize>, Option<insula_types::CpuMillis>), String> {
        let memory = self.memory.as_deref().map(str::parse).transpose();
        let cpu = self.cpu.as_deref().map(str::parse).transpose();
        Ok((
            memory.map_err(|error: insula_types::quantity::QuantityError| format!("runtime.memory: {error}"))?,
            cpu.map_err(|error: insula_types::quantity::QuantityError| format!("runtime.cpu: {error}"))?,
        ))
    }

    /// What the configuration says of a container's layer.
    ///
    /// # Errors
    /// Text that is not an amount, or too little for a file system.
    pub fn layer_size(&self) -> Result<Option<ByteSize>, String> {
        let Some(text) = &self.layer_size else { return Ok(None) };
        let size: ByteSize = text
            .parse()
            .map_err(|error: insula_types::quantity::QuantityError| format!("runtime.layer_size: {error}"))?;
        if size < LAYER_SIZE_MIN {
            return Err(format!("runtime.layer_size: {size} is too little: give {LAYER_SIZE_MIN} or more"));
        }
        Ok(Some(size))
    }
}

impl RuntimeConfig {
    fn check_classes(&self) -> Result<(), String> {
        if self.classes.len() > RUNTIMES_MAX {
            return Err(format!("runtime.classes: there are {}, and may be {RUNTIMES_MAX}", self.classes.len()));
        }
        match self.classes.iter().find(|(_, class)| !class.path.is_absolute()) {
            Some((name, class)) => Err(format!(
                "runtime.classes.{name}: {:?} is not a whole path: write it like \"/usr/bin/runsc\"",
                class.path
            )),
            None => Ok(()),
        }
    }
}

/// The files of a node, under its data directory; see the table in ARCHITECTURE.md.
#[derive(Debug, Clone)]
pub struct Paths(PathBuf);

impl Paths {
    /// The files under a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self(data_dir.into())
    }
    /// There while a state is being restored: a restore that was cut off has to be done again.
    pub fn restoring(&self) -> PathBuf {
        self.0.join("state/restoring")
    }
    /// The Raft groups' directories.
    pub fn groups(&self) -> PathBuf {
        self.0.join("state")
    }
    /// A Raft group's log and state.
    pub fn group(&self, name: &str) -> PathBuf {
        self.0.join("state").join(name)
    }
    /// What `init` left for the first start of the server; gone once the cluster is founded.
    pub fn founding(&self) -> PathBuf {
        self.0.join("state/founding")
    }
    /// Where the node belongs, for a start without anybody to ask.
    pub fn home(&self) -> PathBuf {
        self.0.join("state/home")
    }
    /// The node's own copy of what traffic needs.
    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog")
    }
    /// What was heard last of the services of other regions.
    pub fn digests(&self) -> PathBuf {
        self.0.join("state/digests")
    }
    /// The agent's own copy of what it shall run.
    pub fn placements(&self) -> PathBuf {
        self.0.join("agent/placements")
    }
    /// Secrets of what it shall run, sealed to the node's own key.
    pub fn secrets(&self) -> PathBuf {
        self.0.join("agent/secrets")
    }
    /// Where the shims and instances live.
    pub fn data(&self) -> PathBuf {
        self.0.clone()
    }
    /// The API for root on this machine.
    pub fn api_socket(&self) -> PathBuf {
        self.0.join("run/api.sock")
    }
    /// Where the dataplane takes catalogs.
    pub fn dataplane_socket(&self) -> PathBuf {
        self.0.join("run/dataplane.sock")
    }
    /// Where the server takes connections that the dataplane accepted.
    pub fn port_socket(&self) -> PathBuf {
        self.0.join("run/port.sock")
    }
    /// Where a dataplane gives its listeners to the one that comes after it.
    pub fn takeover_socket(&self) -> PathBuf {
        self.0.join("run/takeover.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        name = "n1"
        region = "fra"
        datacenter = "fra1"
        advertise = "10.0.0.1:7443"
        data_dir = "/var/lib/insula"
    "#;

    #[test]
    fn a_short_file_is_enough_and_writing_it_keeps_it() {
        let config = NodeConfig::parse(TEXT).expect("complete");
        assert_eq!(config.edge.port(), PORT_EDGE);
        assert_eq!(config.listen(), "0.0.0.0:7443".parse().expect("an address"));
        assert_eq!(config.registry_credentials(), Path::new("/var/lib/insula/registries.json"));
        assert_eq!(NodeConfig::parse(&config.to_text()), Ok(config));
    }

    #[test]
    fn runtime_classes_are_a_path_or_a_table() {
        let text = format!(
            "{TEXT}\n[runtime.classes]\nrunc = \"/usr/sbin/runc\"\n\
             [runtime.classes.runsc]\npath = \"/usr/bin/runsc\"\narguments = [\"--network=host\"]\nuser_namespace = false"
        );
        let config = NodeConfig::parse(&text).expect("complete");
        let class = |name: &str| &config.runtime.classes[&name.parse().expect("a name")];
        let short = ClassConfig { path: "/usr/sbin/runc".into(), arguments: Vec::new(), user_namespace: true };
        assert_eq!(class("runc"), &short);
        let arguments = vec!["--network=host".to_owned()];
        let long = ClassConfig { path: "/usr/bin/runsc".into(), arguments, user_namespace: false };
        assert_eq!(class("runsc"), &long);
        assert_eq!(NodeConfig::parse(&config.to_text()), Ok(config));
    }

    #[test]
    fn labels_are_names_with_values() {
        let config = NodeConfig::parse(&format!("{TEXT}\n[labels]\ndisk = \"ssd\"\nrack = \"7.B\"")).expect("complete");
        assert_eq!(insula_types::labels_text(&config.labels), "disk = \"ssd\", rack = \"7.B\"");
        assert_eq!(NodeConfig::parse(&config.to_text()), Ok(config));
        for (wrong, said) in [
            ("datacenter = \"fra2\"", "every node has this label of itself"),
            ("Disk = \"ssd\"", "lower-case letters"),
            ("disk = \"an ssd\"", "use 1 to 63 letters, digits, dots"),
        ] {
            let error = NodeConfig::parse(&format!("{TEXT}\n[labels]\n{wrong}")).expect_err(wrong).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn trusted_proxies_are_networks() {
        let config = NodeConfig::parse(&format!("{TEXT}\ntrusted_proxies = [\"192.0.2.7\", \"2001:db8::/48\"]"));
        let config = config.expect("complete");
        assert_eq!(config.trusted_networks().expect("networks").len(), 2);
        assert_eq!(NodeConfig::parse(&config.to_text()), Ok(config));
    }

    #[test]
    fn metrics_are_on_loopback_elsewhere_or_nowhere() {
        let parse = |line: &str| NodeConfig::parse(&format!("{TEXT}\n{line}"));
        let config = parse("").expect("complete");
        assert_eq!(config.metrics.to_string(), "127.0.0.1:9480");
        assert!(!config.to_text().contains("metrics"), "programs of earlier versions read it");
        for at in ["[::]:9480", "off"] {
            let config = parse(&format!("metrics = {at:?}")).expect("complete");
            assert_eq!(config.metrics.to_string(), at);
            assert_eq!(NodeConfig::parse(&config.to_text()), Ok(config));
        }
        let error = parse("metrics = \"9480\"").expect_err("no address").to_string();
        assert!(
            error.contains("found \"9480\", expected an address with a port, like \"127.0.0.1:9480\", or \"off\""),
            "{error}"
        );
    }

    #[test]
    fn keys_that_need_a_restart_are_named() {
        let config = NodeConfig::parse(TEXT).expect("complete");
        let moved = NodeConfig::parse(&TEXT.replace("10.0.0.1", "10.0.0.2")).expect("complete");
        assert_eq!(config.differs_for_good(&moved), Vec::<String>::new());
        let other = format!("{TEXT}\nedge = \"0.0.0.0:8080\"\nlisten = \"0.0.0.0:1\"\n[runtime]\nmemory = \"1GiB\"");
        let other = NodeConfig::parse(&other).expect("complete");
        assert_eq!(config.differs_for_good(&other), ["edge", "listen", "runtime"]);
    }

    #[test]
    fn wrong_files_say_where() {
        let error = NodeConfig::parse(&format!("{TEXT}\ncolour = 1")).expect_err("unknown key").to_string();
        assert!(error.contains("unknown field `colour`") && error.contains("line 8"), "{error}");
        let error = NodeConfig::parse(&TEXT.replace("10.0.0.1:7443", "10.0.0.1")).expect_err("no port").to_string();
        assert!(error.contains("with port") && error.contains("line 5"), "{error}");
        let error =
            NodeConfig::parse(&format!("{TEXT}\ntrusted_proxies = [\"here\"]")).expect_err("no network").to_string();
        assert!(error.contains("trusted_proxies: \"here\" is no network; write"), "{error}");
        let error = NodeConfig::parse(&TEXT.replace("n1", "N 1")).expect_err("bad name").to_string();
        assert!(error.contains("lower-case letters"), "{error}");
        let error = NodeConfig::parse(&format!("{TEXT}\n[runtime]\nmemory = \"lots\"")).expect_err("bad amount");
        assert!(error.to_string().contains("256MiB"), "{error}");
        let error = NodeConfig::parse(&format!("{TEXT}\n[runtime.classes]\nrunsc = \"runsc\"")).expect_err("no path");
        assert!(error.to_string().contains("write it like \"/usr/bin/runsc\""), "{error}");
        let error = NodeConfig::parse(&format!("{TEXT}\n[runtime.classes]\nprocess = \"/x\"")).expect_err("taken");
        assert!(error.to_string().contains("what every node has"), "{error}");
        let wrong = format!("{TEXT}\n[runtime.classes.runsc]\npath = \"/x\"\nargs = []");
        let error = NodeConfig::parse(&wrong).expect_err("a key that is not there");
        assert!(error.to_string().contains("unknown field `args`"), "{error}");
        let error = NodeConfig::parse(&format!("{TEXT}\n[runtime]\nlayer_size = \"1MiB\"")).expect_err("too little");
        assert!(error.to_string().contains("give 8MiB or more"), "{error}");
        let error = NodeConfig::parse(&format!("{TEXT}\n[certificates]\nnode = \"1s\"")).expect_err("too short");
        assert!(error.to_string().contains("from 4s to 90d"), "{error}");
    }
}
