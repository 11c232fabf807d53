//! `insula dev`: one node in the foreground, with nothing to set up and nothing left running afterwards.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use insula_env::{Env, RealDisk, clock, net};
use insula_identity::NodeDirectory;
use insula_telemetry::chain;
use insula_types::Labels;
use tracing::warn;

use crate::{
    Error,
    config::{CertificatesConfig, MetricsListener, NodeConfig, RuntimeConfig},
    init, node, work,
};

/// Where the node is and listens.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The edge.
    pub edge: SocketAddr,
    /// The API.
    pub api: SocketAddr,
    /// The port between nodes.
    pub nodes: SocketAddr,
}

/// How long the dataplane may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(12);

/// Makes a node in `data_dir` if there is none, runs it until a signal, then stops its instances and its dataplane.
/// What was deployed is there again at the next start.
///
/// # Errors
/// As [`init`] and [`node::run`].
pub async fn run(place: Place) -> Result<(), Error> {
    let data_dir = place.data_dir.clone();
    let config_path = data_dir.join("insula.toml");
    let env = Env::real("dev");
    let metrics = free_for_metrics().await;
    if !NodeDirectory::new(&data_dir, env.disk.clone()).is_joined()? {
        let made = init(&config(&place, metrics), &env)?;
        write(&data_dir.join("admin.token"), made.api_token.reveal().as_bytes())?;
    }
    // Written each time: the addresses may be others than last time.
    write(&config_path, config(&place, metrics).to_text().as_bytes())?;
    let config = NodeConfig::read(&config_path)?;
    eprintln!("insula dev: edge on http://{}, API on https://{}", config.edge, config.api);
    eprintln!("metrics for Prometheus: http://{metrics}/metrics");
    eprintln!("In another terminal:  export INSULA_SOCKET={}", config.paths().api_socket().display());
    eprintln!("                      insula deploy app.toml && insula ps");
    eprintln!("Ctrl-C stops it and everything that it started.");
    let ran = node::run(&config_path).await;
    stop_dataplane(&config).await;
    if let Err(error) = work::stop_all(&config, &env).await {
        warn!(error = %chain(&error), "some instances may still run");
    }
    ran
}

/// The usual place of metrics; another one when somebody else has it, such as another `insula dev`.
async fn free_for_metrics() -> MetricsListener {
    let usual = MetricsListener::default();
    let MetricsListener::At(address) = usual else { return usual };
    if net::bind(address).await.is_ok() {
        return usual;
    }
    let any = net::bind(SocketAddr::new(address.ip(), 0)).await;
    any.and_then(|listener| listener.local_addr()).map_or(MetricsListener::Off, MetricsListener::At)
}

fn config(place: &Place, metrics: MetricsListener) -> NodeConfig {
    NodeConfig {
        name: "dev".parse().expect("a label"),
        region: "dev".parse().expect("a label"),
        datacenter: "dev".parse().expect("a label"),
        advertise: place.nodes.into(),
        data_dir: place.data_dir.clone(),
        listen: Some(place.nodes),
        edge: place.edge,
        api: place.api,
        metrics,
        runtime: RuntimeConfig {
            bridge: "insula-dev0".into(),
            cgroup_parent: "insula-dev".into(),
            ..RuntimeConfig::default()
        },
        trusted_proxies: Vec::new(),
        certificates: CertificatesConfig::default(),
        labels: Labels::new(),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use insula_env::Disk;
    RealDisk.write_atomic(path, bytes).map_err(|source| Error::File { attempt: "write", path: path.to_owned(), source })
}

/// Ends the dataplane, whoever started it: the process that answers on its socket.
async fn stop_dataplane(config: &NodeConfig) {
    let socket = config.paths().dataplane_socket();
    let answer = |limit| net::connect_unix(&socket, limit);
    let Ok(stream) = answer(STOP_LIMIT).await else { return };
    let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).and_then(rustix::process::Pid::from_raw);
    drop(stream);
    let Some(pid) = pid else { return };
    // Failing means that it has ended meanwhile.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let gone = async {
        while answer(STOP_LIMIT).await.is_ok() {
            clock::sleep(Duration::from_millis(50)).await;
        }
    };
    if clock::timeout(STOP_LIMIT, gone).await.is_err() {
        writeln!(std::io::stderr(), "the dataplane (process {}) does not end", pid.as_raw_nonzero()).ok();
    }
}
