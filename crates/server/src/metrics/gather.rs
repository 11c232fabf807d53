//! Looks at this node, when somebody asks.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use insula_api::Requests;
use insula_catalog::link::Link;
use insula_container::NodeRuntime;
use insula_env::{Clock, clock};
use insula_raft::GroupState;
use insula_state::{Domain, GlobalState, RegionState};
use insula_types::{
    Capacity, Deployment, DeploymentState, Desired, NodeHealth, NodeId, Phase, RegionalDefinition, ServiceRef,
};
use tokio::sync::watch;
use tracing::debug;

use super::{edge, families as f, page::Page};
use crate::{group::StateGroup, machine_size};

/// How long the dataplane may take for its part.
const DATAPLANE_LIMIT: Duration = Duration::from_secs(2);

/// What all is known from.
pub(crate) struct Sources {
    pub node: NodeId,
    pub version: String,
    pub started_ms: u64,
    pub capacity: Capacity,
    pub data_dir: PathBuf,
    pub region: Arc<StateGroup<RegionState>>,
    pub global: Arc<StateGroup<GlobalState>>,
    pub dataplane: Link,
    pub runtime: NodeRuntime,
    pub api: Arc<Requests>,
    pub clock: Clock,
    /// How this node's clock differs from the leader's, in milliseconds.
    pub clock_ahead_ms: watch::Receiver<Option<i64>>,
}

impl Sources {
    /// All that is known now.
    pub(super) async fn page(&self) -> Page {
        let mut page = Page::default();
        page.add(&f::BUILD, &[&self.version], 1.0);
        page.add(&f::STARTED, &[], self.started_ms as f64 / 1000.0);
        self.machine(&mut page);
        self.images(&mut page);
        group(&mut page, "region", &self.region, &self.clock);
        group(&mut page, "global", &self.global, &self.clock);
        let leads = self.region.raft().leadership().borrow().is_me;
        self.region.replica().read(|region| {
            of_node(&mut page, region, self.node);
            if leads {
                of_region(&mut page, region);
            }
        });
        for (class, count) in self.api.read() {
            page.add(&f::API_REQUESTS, &[class], count as f64);
        }
        of_dataplane(&mut page, &self.dataplane).await;
        page
    }

    fn machine(&self, page: &mut Page) {
        let Capacity { cpu, memory } = self.capacity;
        let allocatable = self.capacity.allocatable();
        page.add(&f::MEMORY_CAPACITY, &[], memory.0 as f64);
        page.add(&f::MEMORY_ALLOCATABLE, &[], allocatable.memory.0 as f64);
        page.add(&f::MEMORY_USED, &[], machine_size::memory_used().0 as f64);
        page.add(&f::CPU_CAPACITY, &[], f64::from(cpu.0) / 1000.0);
        page.add(&f::CPU_ALLOCATABLE, &[], f64::from(allocatable.cpu.0) / 1000.0);
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            page.add(&f::DISK_SIZE, &[], disk.f_blocks.saturating_mul(disk.f_frsize) as f64);
            page.add(&f::DISK_FREE, &[], disk.f_bavail.saturating_mul(disk.f_frsize) as f64);
        }
        if let Some(ahead_ms) = *self.clock_ahead_ms.borrow() {
            page.add(&f::CLOCK_AHEAD, &[], ahead_ms as f64 / 1000.0);
        }
    }

    fn images(&self, page: &mut Page) {
        match self.runtime.images() {
            Ok(images) => {
                let sizes: Vec<u64> = images.iter().filter_map(|image| image.size_bytes).collect();
                page.add(&f::IMAGES, &[], sizes.len() as f64);
                page.add(&f::IMAGES_BYTES, &[], sizes.iter().sum::<u64>() as f64);
            }
            Err(error) => debug!(%error, "images are not listed for the metrics"),
        }
    }
}

/// What the dataplane says; all of it is missing while it is away.
async fn of_dataplane(page: &mut Page, dataplane: &Link) {
    let stats = clock::timeout(DATAPLANE_LIMIT, dataplane.stats()).await.ok().and_then(Result::ok);
    page.add(&f::DATAPLANE_UP, &[], f64::from(u8::from(stats.is_some())));
    let Some(stats) = stats else { return };
    if let Some((_, revision)) = dataplane.acknowledged().borrow().in_use {
        page.add(&f::CATALOG_REVISION, &[], revision.0 as f64);
    }
    edge::read(&stats, page);
}

fn group<D: Domain>(page: &mut Page, name: &str, group: &StateGroup<D>, clock: &Clock) {
    let raft = group.raft();
    let (metrics, leadership, now) = (raft.metrics(), *raft.leadership().borrow(), clock.now());
    let is = |yes: bool| f64::from(u8::from(yes));
    page.add(&f::RAFT_TERM, &[name], metrics.term.0 as f64);
    page.add(&f::RAFT_LOG, &[name], metrics.last_log.unwrap_or_default() as f64);
    page.add(&f::RAFT_APPLIED, &[name], metrics.applied.map_or(0, |at| at.index) as f64);
    page.add(&f::RAFT_VOTERS, &[name], metrics.voters.len() as f64);
    page.add(&f::RAFT_LEADS, &[name], is(leadership.is_me));
    page.add(&f::RAFT_LED, &[name], is(leadership.leader.is_some()));
    page.add(&f::RAFT_SINCE, &[name], now.saturating_duration_since(leadership.since).as_secs_f64());
    if let Some(age) = raft.quorum_contact() {
        page.add(&f::RAFT_CONTACT, &[name], age.as_secs_f64());
    }
    page.add(&f::RAFT_FAILED, &[name], is(matches!(&*raft.state().borrow(), GroupState::Failed { .. })));
    page.add(&f::REVISION, &[name], group.replica().revision().0 as f64);
}

/// What the region's state says of one node.
fn of_node(page: &mut Page, region: &RegionState, node: NodeId) {
    let (mut memory, mut cpu) = (0_u64, 0_u64);
    for placement in region.placements_of(node) {
        if placement.desired != Desired::Stop {
            memory = memory.saturating_add(placement.spec.resources.memory.0);
            cpu = cpu.saturating_add(placement.spec.resources.cpu.0.into());
        }
        if placement.hook.is_some() {
            continue;
        }
        let status = region.statuses.get(&placement.instance).filter(|status| status.node == node);
        let (app, service) = (placement.service.app.to_string(), placement.service.service.to_string());
        let labels = [app.as_str(), service.as_str()];
        let phase = status.map_or(Phase::Pending, |status| status.phase);
        page.add(&f::INSTANCES, &[&app, &service, named(phase)], 1.0);
        page.add(&f::INSTANCES_READY, &labels, status.map_or(0.0, |status| u8::from(status.is_ready).into()));
        page.add(&f::RESTARTS, &labels, status.map_or(0.0, |status| status.restarts.into()));
    }
    page.add(&f::MEMORY_ALLOCATED, &[], memory as f64);
    page.add(&f::CPU_ALLOCATED, &[], cpu as f64 / 1000.0);
    let volumes = || region.volumes.values().filter(|volume| volume.node == node && volume.is_made);
    page.add(&f::VOLUMES, &[], volumes().count() as f64);
    page.add(&f::VOLUMES_BYTES, &[], volumes().map(|volume| volume.size.0).sum::<u64>() as f64);
}

const fn named(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Pulling => "pulling",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Backoff => "backoff",
        Phase::Stopped => "stopped",
    }
}

/// What its leader knows of a region.
fn of_region(page: &mut Page, region: &RegionState) {
    for health in ["up", "down"] {
        page.add(&f::NODES, &[health], 0.0);
    }
    for node in region.nodes.values() {
        page.add(&f::NODES, &[if matches!(node.health, NodeHealth::Up) { "up" } else { "down" }], 1.0);
    }
    use DeploymentState::{After, Baking, Before, Done, Failed, First, Going};
    for state in [Before, First, Going, Baking, After, Done, Failed] {
        let count = region.deployments.values().filter(|deployment: &&Deployment| deployment.state == state).count();
        page.add(&f::DEPLOYMENTS, &[state.as_str()], count as f64);
    }
    page.add(&f::UNREADY, &[], short(region) as f64);
}

/// Services with fewer ready instances than wanted; those that run on each node are left out.
fn short(region: &RegionState) -> usize {
    let mut ready: BTreeMap<&ServiceRef, u32> = BTreeMap::new();
    for placement in region.placements.values().filter(|one| one.desired == Desired::Run && one.hook.is_none()) {
        let is_ready = region.statuses.get(&placement.instance).is_some_and(|status| status.is_ready);
        *ready.entry(&placement.service).or_default() += u32::from(is_ready);
    }
    let is_short = |definition: &RegionalDefinition| {
        let lacks = definition.services.iter().filter(|(name, service)| {
            let reference = ServiceRef::new(definition.app.clone(), (*name).clone());
            service.scale.count().is_some_and(|wanted| ready.get(&reference).copied().unwrap_or_default() < wanted)
        });
        lacks.count()
    };
    region.definitions.values().map(is_short).sum()
}

#[cfg(test)]
mod tests;
