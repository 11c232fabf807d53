//! Commands that are a node themselves: make one, join one, run one.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Error, Result, bail};
use insula_cli::{DataplaneArgs, DevArgs, Exit, Failure, InitArgs, JoinArgs, PlaceArgs, ServerArgs, dev_dir};
use insula_env::Env;
use insula_identity::JoinToken;
use insula_server::{
    NodeConfig,
    config::{Advertise, RuntimeConfig},
    dataplane, dev, node,
};
use insula_types::{NodeName, RegionName};

/// Where systemd finds units of the administrator.
const UNIT: &str = "/etc/systemd/system/insula.service";

/// `insula init`.
pub(crate) fn init(arguments: &InitArgs) -> ExitCode {
    finish(make_first(arguments))
}

/// `insula join`.
pub(crate) fn join(arguments: &JoinArgs) -> ExitCode {
    finish(make_further(arguments))
}

/// `insula server`.
pub(crate) fn server(arguments: &ServerArgs) -> ExitCode {
    finish(run(async { node::run(&arguments.config).await.map_err(Into::into) }))
}

/// `insula dataplane`.
pub(crate) fn dataplane(arguments: &DataplaneArgs) -> ExitCode {
    finish(run(async { dataplane::run(&arguments.config).await.map_err(Into::into) }))
}

/// `insula dev`.
pub(crate) fn dev(arguments: &DevArgs) -> ExitCode {
    let data_dir = arguments.data.clone().unwrap_or_else(dev_dir);
    let place = dev::Place { data_dir, edge: arguments.edge, api: arguments.api, nodes: arguments.node };
    finish(run(async { dev::run(place).await.map_err(Into::into) }))
}

/// Runs a node's process with logs on standard error.
fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    insula_telemetry::start();
    insula_server::keep_private().context("keep keys and secrets out of core dumps")?;
    insula_identity::install_provider();
    // A few threads: what takes time is the disk, and a small machine has little memory for stacks and arenas.
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 4);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(work)
}

fn finish(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => insula_cli::end(Err(Failure::new(Exit::Failed, format!("{error:#}")))),
    }
}

fn make_first(arguments: &InitArgs) -> Result<()> {
    let place = &arguments.place;
    let config = configuration(place, arguments.region.clone())?;
    let made = insula_server::init(&config, &Env::real("init"))?;
    write_configuration(&config, &place.config)?;
    let service = write_service(place)?;
    say(&format!(
        "Cluster {} founded; this is node {} ({}) of region {}.\n\n\
         Recovery key, shown once and kept nowhere. Without it no further region can ever be added:\n\n    {}\n\n\
         API token with the role admin, shown once:\n\n    {}\n\n\
         Next:  {service}\n       insula token create     # prints the line with which further machines join\n",
        made.cluster,
        config.name,
        made.node,
        config.region,
        made.recovery_key.reveal(),
        made.api_token.reveal()
    ))
}

fn make_further(arguments: &JoinArgs) -> Result<()> {
    let place = &arguments.place;
    let token = JoinToken::parse(&arguments.token)?;
    let config = configuration(place, token.region.clone())?;
    insula_identity::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let node = runtime.block_on(async { insula_server::join(&config, &token, &Env::real("join")).await })?;
    write_configuration(&config, &place.config)?;
    let service = write_service(place)?;
    say(&format!("This is node {} ({node}) of region {} now.\nNext:  {service}\n", config.name, config.region))
}

fn say(text: &str) -> Result<()> {
    insula_cli::say(text).map_err(|failure| Error::msg(failure.to_string()))
}

fn configuration(place: &PlaceArgs, region: RegionName) -> Result<NodeConfig> {
    let name = match &place.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    Ok(NodeConfig {
        name,
        region,
        datacenter: place.datacenter.clone(),
        advertise: Advertise::new(place.advertise.clone()).context("--advertise")?,
        data_dir: place.data.clone(),
        listen: None,
        edge: insula_server::config::edge_default(),
        api: insula_server::config::api_default(),
        metrics: Default::default(),
        trusted_proxies: Vec::new(),
        runtime: RuntimeConfig::default(),
        certificates: place
            .certificates
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(Error::msg)?
            .unwrap_or_default(),
        labels: place.label.iter().cloned().collect(),
    })
}

/// The first label of the machine's name.
fn host_name() -> Result<NodeName> {
    let full = fs::read_to_string("/proc/sys/kernel/hostname").context("read the machine's name: give --name")?;
    let label = full.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    NodeName::new(label).context("the machine's name does not fit: give --name")
}

fn write_configuration(config: &NodeConfig, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    write(path, &config.to_text())
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(|| format!("write {}", path.display()))
}

/// Writes and starts a systemd unit where systemd runs; says what to do next.
fn write_service(place: &PlaceArgs) -> Result<String> {
    let by_hand = format!("insula server --config {}", place.config.display());
    let has_systemd = Path::new("/run/systemd/system").is_dir();
    if place.no_service || !has_systemd {
        return Ok(by_hand);
    }
    let program = std::env::current_exe().context("find this program")?;
    // KillMode=process: the dataplane and the instances outlive the server. Delegate: instances get cgroups below ours.
    let unit = format!(
        "[Unit]\nDescription=Insula node\nAfter=network-online.target\nWants=network-online.target\n\n[Service]\n\
         ExecStart={} server --config {}\nRestart=always\nRestartSec=1\nDelegate=yes\nKillMode=process\n\
         LimitNOFILE=1048576\n\n[Install]\nWantedBy=multi-user.target\n",
        program.display(),
        place.config.display()
    );
    write(Path::new(UNIT), &unit)?;
    for arguments in [&["daemon-reload"][..], &["enable", "--now", "insula.service"]] {
        let status = Command::new("systemctl").args(arguments).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => bail!(
                "systemctl {} failed ({status}); the node is made: start it with `{by_hand}`",
                arguments.join(" ")
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(by_hand),
            Err(error) => return Err(error).context("run systemctl"),
        }
    }
    Ok("the server is running as insula.service".to_owned())
}
