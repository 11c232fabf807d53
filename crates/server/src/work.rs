//! What runs on this node: the runtime, the agent, and what the API asks of them.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use insula_agent::{Agent, CallError, NetworkProber, Parts, Renewer, Reporter, start_renewals};
use insula_catalog::link::Link;
use insula_container::{
    Config as RuntimeSettings, NetworkConfig, NodeLabels, NodeRuntime, ObservedState, Runtime, RuntimeClass,
};
use insula_control::Control;
use insula_env::{Clock, Env, beat};
use insula_rpc::Peers;
use insula_state::{RegionCommand, RegionState, Store, event::Event};
use insula_telemetry::chain;
use insula_types::{CpuMillis, Granted, InstanceId, InstanceStatus, Load, NodeId, Renewal, Revision, VolumeRef};
use tokio::sync::watch;

use crate::{
    Error,
    config::{ClassConfig, NodeConfig},
    edge_requests::EdgeRequests,
    everyone::Everyone,
    exec::Execs,
    images::{self, Census, RegionImages, collect},
    init,
    logs::Logs,
    machine_size,
    methods::{Led, LogsRequest, ReadLogs, Renew},
    node::Node,
    refused,
    route::Route,
    secrets::{Opener, seal_for_later_regions},
    snapshots::Snapshots,
    space, traffic,
    usage::{Meter, Usages},
};

/// How long the region's leader may take to commit a report.
const REPORT_LIMIT: Duration = Duration::from_secs(4);
/// How long one renewal may look for the leader.
const RENEW_LIMIT: Duration = Duration::from_millis(700);
/// How long another node may take to read a log.
const LOGS_LIMIT: Duration = Duration::from_secs(5);
/// How long `insula dev` gives an instance to end before KILL.
const DEV_GRACE: Duration = Duration::from_secs(2);

/// What other parts need of it.
pub(crate) struct Work {
    pub runtime: NodeRuntime,
    /// Counts the copies of images.
    pub census: Census,
    pub logs: Arc<dyn Logs>,
    pub execs: Execs,
    /// Snapshots of volumes.
    pub snapshots: Snapshots,
    /// What nodes and instances use.
    pub usages: Usages,
    /// What edges remember of requests.
    pub edge_requests: EdgeRequests,
    /// Opens secrets of instances.
    pub secrets: Opener,
    /// How this node's clock differs from the leader's, in milliseconds, as the last renewal told.
    pub clock_ahead_ms: watch::Receiver<Option<i64>>,
}

/// Opens the runtime, which takes over what runs, and starts the agent and the renewals of this node's lease.
///
/// # Errors
/// [`Error::Runtime`].
pub(crate) async fn start(node: &Node, control: &Arc<Control>, dataplane: &Link) -> Result<Work, Error> {
    let (env, config) = (&node.env, &node.config);
    let region = Arc::clone(node.region.replica());
    let images = RegionImages { node: node.id, bulk: node.bulk.clone(), region: Arc::clone(&region) };
    let runtime = NodeRuntime::open(env.clone(), settings(config)?, Some(Arc::new(images))).await?;
    let census = Census { node: node.id, rpc: node.rpc.clone(), region: Arc::clone(&region), runtime: runtime.clone() };
    let paths = config.paths();
    let meter = Meter::new(runtime.clone(), dataplane.clone(), env.clock.clone(), paths.data());
    let everyone = Everyone { node: node.id, rpc: node.rpc.clone(), region: Arc::clone(&region) };
    let usages = Usages { everyone: everyone.clone(), meter };
    let edge_requests = EdgeRequests { everyone, dataplane: dataplane.clone() };
    let snapshots = Snapshots { node: node.id, rpc: node.rpc.clone(), region, runtime: runtime.clone() };
    let labels =
        NodeLabels { name: config.name.clone(), region: config.region.clone(), datacenter: config.datacenter.clone() };
    let secrets = node.opener();
    seal_for_later_regions(&node.env, &secrets, &node.global);
    let parts = Parts {
        node: node.id,
        labels: labels.clone(),
        path: config.paths().placements(),
        region: node.region.clone(),
        runtime: Arc::new(runtime.clone()),
        prober: Arc::new(NetworkProber),
        reporter: Arc::new(Reports { node: node.id, region: node.region.clone() }),
        secrets: Arc::new(secrets.clone()),
        other_images: images::of_live_releases(Arc::clone(node.global.replica())),
        refused: refused::asked_of(dataplane),
    };
    let agent = Agent::start(env, parts);
    let renewer = Renewals {
        node: node.id,
        route: node.route.clone(),
        control: Arc::clone(control),
        region: node.region.clone(),
        clock: env.clock.clone(),
        ahead_ms: watch::Sender::new(None),
    };
    let clock_ahead_ms = renewer.ahead_ms.subscribe();
    let traffic = traffic::follow(env, Arc::clone(node.region.replica()), dataplane);
    let is_disk_full = space::follow(env, config.paths().data());
    let said = move || {
        let instances = agent.statuses().borrow().len() as u32;
        let load = Load { cpu: CpuMillis(0), memory: machine_size::memory_used(), instances };
        let is_disk_full = *is_disk_full.borrow();
        Renewal { load, traffic: traffic.borrow().clone(), is_disk_full, ..Renewal::default() }
    };
    start_renewals(env, Arc::new(renewer), catalog_revision(env, dataplane), said);
    collect::start(
        env,
        collect::Collector {
            census: census.clone(),
            global: Arc::clone(node.global.replica()),
            clock: env.clock.clone(),
            directory: paths.data(),
        },
    );
    let peers = (node.rpc.clone(), node.sessions.clone());
    let execs = Execs::new(
        (node.id, labels),
        runtime.clone(),
        node.region.clone(),
        peers,
        secrets.clone(),
        env.tasks.child("commands"),
        env.rng.fork(),
    );
    let logs = NodeLogs { node: node.id, runtime: runtime.clone(), peers: node.rpc.clone() };
    Ok(Work { runtime, census, logs: Arc::new(logs), execs, snapshots, usages, edge_requests, secrets, clock_ahead_ms })
}

fn settings(config: &NodeConfig) -> Result<RuntimeSettings, Error> {
    let runtime = &config.runtime;
    // Containers need root; without it a node runs plain processes.
    let network = rustix::process::geteuid().is_root().then(|| -> Result<_, Error> {
        let subnet = runtime.subnet.parse().map_err(|source| Error::Subnet { source })?;
        Ok(NetworkConfig { bridge: runtime.bridge.clone(), subnet })
    });
    Ok(RuntimeSettings {
        data_dir: config.data_dir.clone(),
        cgroup_parent: runtime.cgroup_parent.trim_matches('/').to_owned(),
        limit: Some(init::capacity(config).allocatable()),
        // It was checked when the configuration was read.
        layer_size: runtime.layer_size().unwrap_or_default(),
        network: network.transpose()?,
        insecure_registries: runtime.insecure_registries.clone(),
        registry_credentials: config.registry_credentials(),
        log_bytes_max: insula_container::config::LOG_BYTES_MAX,
        runtimes: runtime.classes.iter().map(|(name, class)| (name.clone(), self::class(class))).collect(),
    })
}

fn class(config: &ClassConfig) -> RuntimeClass {
    let ClassConfig { path, arguments, user_namespace } = config.clone();
    RuntimeClass { path, arguments, has_users: user_namespace }
}

/// Stops every instance of this node and removes what it leaves; for `insula dev`.
///
/// # Errors
/// [`Error::Runtime`], at the first that cannot be stopped.
pub(crate) async fn stop_all(config: &NodeConfig, env: &Env) -> Result<(), Error> {
    let env = Env { tasks: insula_env::TaskGroup::new("stop"), ..env.clone() };
    let runtime = NodeRuntime::open(env.clone(), settings(config)?, None).await?;
    for observed in runtime.list().await? {
        if matches!(observed.state, ObservedState::Running(_)) {
            runtime.stop(observed.instance, None, DEV_GRACE).await?;
        }
        runtime.remove(observed.instance).await?;
    }
    env.tasks.stop();
    Ok(())
}

/// The region revision that the dataplane has taken, as renewals tell it.
fn catalog_revision(env: &Env, dataplane: &Link) -> watch::Receiver<Revision> {
    let acknowledged = dataplane.acknowledged();
    let (tell, told) = watch::channel(Revision(0));
    let tell = Arc::new(tell);
    env.tasks.supervise("catalog revision", beat::QUICK, move |beat| {
        let (mut acknowledged, tell) = (acknowledged.clone(), Arc::clone(&tell));
        async move {
            loop {
                if let Some((_, revision)) = acknowledged.borrow_and_update().in_use {
                    tell.send_if_modified(|before| std::mem::replace(before, revision) != revision);
                }
                if beat.idle(acknowledged.changed()).await.is_err() {
                    return;
                }
            }
        }
    });
    told
}

fn failed(why: impl Into<String>) -> CallError {
    CallError(why.into().into())
}

/// Brings the agent's reports to the region's leader.
#[derive(Debug)]
struct Reports {
    node: NodeId,
    region: Store<RegionState>,
}

impl Reports {
    async fn propose(&self, command: &RegionCommand) -> Result<(), CallError> {
        self.region.propose(command, REPORT_LIMIT).await.map(drop).map_err(|error| CallError(Box::new(error)))
    }
}

#[async_trait]
impl Reporter for Reports {
    async fn report(&self, statuses: Vec<InstanceStatus>) -> Result<(), CallError> {
        let command = RegionCommand::ReportStatus { node: self.node, statuses };
        self.propose(&command).await
    }

    async fn report_volume(&self, volume: VolumeRef, is_here: bool) -> Result<(), CallError> {
        let node = self.node;
        self.propose(&match is_here {
            true => RegionCommand::ConfirmVolume { node, volume },
            false => RegionCommand::ForgetVolume { node, volume },
        })
        .await
    }

    async fn note(&self, event: Event) -> Result<(), CallError> {
        self.propose(&RegionCommand::Note(event)).await
    }
}

/// Brings the renewals of this node's lease to the region's leader.
struct Renewals {
    node: NodeId,
    route: Arc<Route<RegionState>>,
    control: Arc<Control>,
    region: Store<RegionState>,
    clock: Clock,
    ahead_ms: watch::Sender<Option<i64>>,
}

impl Renewals {
    /// Compares the leader's wall time with the middle of the time that it took to learn it.
    fn compare(&self, asked_ms: u64, granted: Granted) {
        if granted.wall_ms == 0 {
            return;
        }
        let middle_ms = asked_ms.midpoint(self.clock.wall_ms());
        self.ahead_ms.send_replace(Some(middle_ms.wrapping_sub(granted.wall_ms).cast_signed()));
    }
}

impl fmt::Debug for Renewals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewals({})", self.node)
    }
}

#[async_trait]
impl Renewer for Renewals {
    async fn renew(&self, renewal: Renewal) -> Result<Granted, CallError> {
        let here = || match self.control.renew(self.node, &renewal) {
            Ok(granted) => Led::Done(granted),
            Err(_) => Led::Elsewhere(self.region.leadership().borrow().leader),
        };
        let asked_ms = self.clock.wall_ms();
        match self.route.ask_leader::<Renew, _>(&renewal, RENEW_LIMIT, here).await {
            Led::Done(granted) => {
                self.compare(asked_ms, granted);
                Ok(granted)
            }
            Led::Elsewhere(_) => Err(failed("an election is under way")),
            Led::Unknown(why) | Led::Unavailable(why) => Err(failed(why)),
            Led::NotYet(why) => Err(failed(why.to_string())),
        }
    }
}

/// Logs of instances of this node, and of others by asking them.
struct NodeLogs {
    node: NodeId,
    runtime: NodeRuntime,
    peers: Peers,
}

#[async_trait]
impl Logs for NodeLogs {
    async fn read(&self, node: NodeId, instance: InstanceId, bytes_max: u64) -> Result<Bytes, String> {
        if node == self.node {
            return self.runtime.logs(instance, bytes_max).await.map(Bytes::from).map_err(|error| chain(&error));
        }
        let request = LogsRequest { instance, bytes_max };
        let read = self.peers.call::<ReadLogs>(node, &request, LOGS_LIMIT).await;
        read.map(|log| Bytes::from(log.into_vec())).map_err(|status| status.to_string())
    }
}
