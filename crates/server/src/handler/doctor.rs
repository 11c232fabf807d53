//! Looks at this node for `insula doctor`. Asks nobody but its own dataplane.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use insula_api::wire::{Check, Doctor, Grade, Task};
use insula_catalog::link::TaskReport;
use insula_container::NodeRuntime;
use insula_env::{clock, net};
use insula_identity::Owner;
use insula_raft::GroupState;
use insula_state::{Domain, LEVEL};
use insula_telemetry::chain;

use super::NodeApi;
use crate::{
    doctor::{self, Kernel},
    group::StateGroup,
};

/// How long the dataplane may take to catch up with what has just been committed.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How long a connection to one of this node's own ports may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long it may take to look for what instances left.
const LOOK_MAX: Duration = Duration::from_secs(4);
/// How long the kernel may take to let go of what was taken away.
const LET_GO: Duration = Duration::from_secs(1);

impl NodeApi {
    pub(super) async fn look_at_itself(&self) -> Doctor {
        let leftovers = doctor::leftovers(self.leftovers().await);
        let mut checks = vec![
            self.group_check(&self.region_group, "region"),
            self.global_check(),
            self.catalog_check().await,
            self.nodes_check(),
            self.ports_check().await,
            self.certificate_check(),
            self.authorities_check(),
            doctor::clock(*self.clock_ahead_ms.borrow()),
            self.disk_check(),
            doctor::kernel(&kernel(&self.census.runtime)),
            leftovers,
        ];
        checks.extend(self.level_check());
        let mut tasks = Vec::new();
        let own: Vec<TaskReport> = self.tasks.list().iter().map(TaskReport::from).collect();
        // A dataplane that does not answer is told of by the catalog's check.
        let dataplane = self.dataplane.tasks().await.unwrap_or_default();
        for (process, reports) in [("server", own), ("dataplane", dataplane)] {
            let seen = reports.iter().map(|task| (task.name.as_str(), task.restarts, task.beat_ms));
            checks.push(doctor::tasks(process, seen));
            tasks.extend(reports.into_iter().map(|report| describe(process, report)));
        }
        Doctor { node: self.config.name.to_string(), checks, tasks }
    }

    /// What belongs to no instance, and is no passing sight: the kernel lets go of some things a moment late.
    async fn leftovers(&self) -> Result<Vec<String>, String> {
        let look = async || {
            let found = clock::timeout(LOOK_MAX, self.census.runtime.leftovers()).await;
            found.map_err(|_| format!("not looked through within {LOOK_MAX:?}"))?.map_err(|error| chain(&error))
        };
        let seen = look().await?;
        if seen.is_empty() {
            return Ok(seen);
        }
        clock::sleep(LET_GO).await;
        let still = look().await?;
        Ok(seen.into_iter().filter(|one| still.contains(one)).collect())
    }

    fn level_check(&self) -> Option<Check> {
        self.region.read(|region| {
            let behind = region.behind(LEVEL).map(|node| (node.name.to_string(), node.program().to_owned()));
            doctor::level(region.level(), LEVEL, &behind.collect::<Vec<_>>())
        })
    }

    fn group_check<D: Domain>(&self, group: &StateGroup<D>, name: &str) -> Check {
        let raft = group.raft();
        let status = self.group_status(name, raft, group.replica().revision());
        let is_up = |node: &&insula_types::NodeId| {
            self.region.read(|region| region.nodes.get(node).is_some_and(|node| node.health.is_up()))
        };
        let up = status.voters.iter().filter(is_up).count();
        let failed = match &*raft.state().borrow() {
            GroupState::Failed { why } => Some(why.clone()),
            _ => None,
        };
        doctor::group(&status, up, failed.as_deref(), self.clock.wall_ms())
    }

    /// The global group, or, on a node that knows nobody who votes in it, whether it is told of its state.
    fn global_check(&self) -> Check {
        if self.global_group.raft().voters().is_empty() {
            return doctor::told(self.feed.alone_since_ms(), self.feed.refused(), self.global.replica().revision());
        }
        self.group_check(&self.global_group, "global")
    }

    async fn catalog_check(&self) -> Check {
        let committed = self.region.replica().revision();
        let mut acknowledged = self.dataplane.acknowledged();
        let caught_up = acknowledged.wait_for(|now| now.in_use.is_some_and(|(_, known)| known >= committed));
        // What is there after that is what is told.
        let _ = clock::timeout(CATCH_UP, caught_up).await.map(drop);
        let now = acknowledged.borrow().clone();
        let in_use = now.in_use.map(|(_, revision)| revision);
        doctor::catalog(now.is_connected, in_use, now.rejected.as_ref(), committed)
    }

    fn certificate_check(&self) -> Check {
        let (renew_at, expires) = (self.material.renew_at(), self.material.expires());
        let life = expires.duration_since(renew_at).unwrap_or_default() * 2;
        doctor::certificate(expires.duration_since(self.clock.wall()).unwrap_or_default(), life)
    }

    fn authorities_check(&self) -> Check {
        let now = self.clock.wall();
        let above: Vec<_> = self.material.expiries().into_iter().filter(|one| one.owner != Owner::Node).collect();
        let alarms: Vec<_> = above.iter().filter_map(|one| Some((one.urgency(now), one.alarm(now)?))).collect();
        let next = above.iter().filter_map(|one| one.until.duration_since(now).ok()).min();
        doctor::authorities(&alarms, next.unwrap_or_default())
    }

    fn nodes_check(&self) -> Check {
        self.region.read(|region| {
            let down = region.nodes.values().filter(|node| !node.health.is_up()).map(|node| node.name.to_string());
            doctor::nodes(region.nodes.values().count(), &down.collect::<Vec<_>>())
        })
    }

    /// What users and other nodes connect to, tried from here: what is between them and this node is not seen.
    async fn ports_check(&self) -> Check {
        let ports = [("users", self.config.edge), ("other nodes", self.config.listen())];
        let tried = ports.map(async |(who, address)| {
            let why = net::connect(here(address), CONNECT_MAX).await.err();
            (format!("{who} at {address}"), why.map(|error| error.to_string()))
        });
        doctor::ports(&join_all(tried).await)
    }

    fn disk_check(&self) -> Check {
        match rustix::fs::statvfs(&self.config.data_dir) {
            Ok(space) => doctor::disk(
                space.f_bavail.saturating_mul(space.f_frsize),
                space.f_blocks.saturating_mul(space.f_frsize),
            ),
            Err(error) => {
                let found = format!("{}: {error}", self.config.data_dir.display());
                Check::not_ok("disk space", Grade::Bad, found, "see why the data directory cannot be read")
            }
        }
    }
}

/// Where a listener is reached from its own machine.
fn here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn kernel(runtime: &NodeRuntime) -> Kernel {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    Kernel {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        is_root: rustix::process::geteuid().is_root(),
        has_cgroups: read("/proc/self/mounts").lines().any(|line| line.split(' ').nth(2).is_some_and(is_cgroup)),
        has_overlay: read("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay")),
        is_forwarding: read("/proc/sys/net/ipv4/ip_forward").trim() == "1",
        has_nft: std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|at| at.join("nft").is_file())),
        has_users: runtime.has_users(),
        has_bounded_layers: runtime.has_bounded_layers(),
        open_files: limit.unwrap_or(u64::MAX),
    }
}

fn is_cgroup(file_system: &str) -> bool {
    matches!(file_system, "cgroup" | "cgroup2")
}

fn describe(process: &str, report: TaskReport) -> Task {
    Task {
        process: process.to_owned(),
        owner: report.owner,
        name: report.name,
        rule: report.rule,
        restarts: report.restarts,
        beat_age_ms: report.beat_ms.map(|(age, _)| age),
        beat_limit_ms: report.beat_ms.map(|(_, limit)| limit),
    }
}
