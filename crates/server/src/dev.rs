//! `insula dev`: one node in the foreground, with nothing to set up and nothing left running afterwards.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{self, Path, PathBuf},
    time::Duration,
};

use insula_env::{Env, RealDisk, net};
use insula_identity::NodeDirectory;
use insula_telemetry::chain;
use insula_types::Labels;
use tracing::warn;

use crate::{
    Error,
    config::{CertificatesConfig, MetricsListener, NodeConfig, RuntimeConfig},
    init, node,
    signals::Signals,
    supervisor::end_all,
    work,
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

/// How long a dataplane may take to end: its notice, what is open, and the rest of it.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Makes a node in `data_dir` if there is none, runs it until a signal, then stops its instances and its dataplane.
/// What was deployed is there again at the next start.
///
/// # Errors
/// As [`init`] and [`node::run`].
pub async fn run(place: Place) -> Result<(), Error> {
    let mut signals = Signals::listen();
    // In full: by it the processes of this node are found, and users name its socket from elsewhere.
    let data_dir = path::absolute(&place.data_dir).map_err(|source| Error::File {
        attempt: "find",
        path: place.data_dir.clone(),
        source,
    })?;
    let place = Place { data_dir: data_dir.clone(), ..place };
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
    let ran = node::run_until(&config_path, &mut signals).await;
    let paths = config.paths();
    let sockets = [paths.dataplane_socket(), paths.takeover_socket()];
    for pid in end_all(&config_path, &sockets, STOP_LIMIT).await {
        // The terminal may be gone, and the instances are still to be stopped.
        writeln!(io::stderr(), "the dataplane (process {pid}) does not end").ok();
    }
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
