//! What nodes and instances use now. Asked of each node when somebody wants to know, and never part of a replicated state: a node
//! looks at itself at most once a second, however many ask, and not at all while nobody does.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use insula_catalog::link::Link;
use insula_container::{Carried, NodeRuntime, Usage};
use insula_env::{
    Clock,
    clock::{self, Instant},
};
use insula_rpc::Status;
use insula_telemetry::chain;
use insula_types::{ByteSize, CpuMillis, InstanceId, NodeId, ServiceRef};
use tokio::sync::Mutex;

use crate::{
    everyone::Everyone,
    machine_size,
    methods::{Carries, InstanceUse, MeasureUse, MeasureUseRequest, NodeMeasured, ServiceUse},
    metrics::edge,
};

/// How long another node may take: two looks at hundreds of instances, and the time between.
const ASK_LIMIT: Duration = Duration::from_secs(4);
/// How long the dataplane may take to say what it has counted.
const DATAPLANE_LIMIT: Duration = Duration::from_secs(1);
/// What was measured is good for so long.
const FRESH: Duration = Duration::from_secs(1);
/// Least time between the two looks that a rate is made of, and the greatest.
const SPAN_MIN: Duration = Duration::from_millis(500);
const SPAN_MAX: Duration = Duration::from_secs(10);
/// Instances, and services, that one node tells of at most; those that use the most CPU.
pub(crate) const TOLD_MAX: usize = 1000;

/// What is asked of all nodes.
#[derive(Clone)]
pub(crate) struct Usages {
    pub everyone: Everyone,
    pub meter: Meter,
}

impl Usages {
    /// What each node of the region uses, or why it does not tell, in no order.
    pub(crate) async fn ask(&self, request: &MeasureUseRequest) -> Vec<(NodeId, Result<NodeMeasured, String>)> {
        self.everyone.ask::<MeasureUse>(request, ASK_LIMIT, self.meter.tell(request)).await
    }
}

/// Measures this node.
#[derive(Clone)]
pub(crate) struct Meter(Arc<Inner>);

struct Inner {
    runtime: NodeRuntime,
    dataplane: Link,
    clock: Clock,
    data_dir: PathBuf,
    /// One look at a time; who asks meanwhile gets what it gives.
    looks: Mutex<Looks>,
}

#[derive(Default)]
struct Looks {
    last: Option<Look>,
    measured: Option<(Instant, Arc<Measured>)>,
}

/// Counters, as they were.
#[derive(Debug, Clone, Default)]
struct Look {
    at: Option<Instant>,
    machine: machine_size::CpuTimes,
    instances: BTreeMap<InstanceId, Usage>,
    /// Requests of services that this node's edge has answered, and those of them with a status from 500 on; none: it does not say.
    requests: Option<BTreeMap<ServiceRef, (u64, u64)>>,
}

/// What two looks say.
#[derive(Debug, Clone, Default)]
struct Measured {
    cpu: CpuMillis,
    /// Those that use the most CPU first.
    instances: Vec<InstanceUse>,
    /// Those whose instances use the most CPU first, then those with the most requests.
    services: Vec<ServiceUse>,
    has_edge: bool,
}

impl Meter {
    pub(crate) fn new(runtime: NodeRuntime, dataplane: Link, clock: Clock, data_dir: PathBuf) -> Self {
        Self(Arc::new(Inner { runtime, dataplane, clock, data_dir, looks: Mutex::default() }))
    }

    /// What is used here.
    ///
    /// # Errors
    /// Internal, when the instances cannot be listed.
    pub(crate) async fn tell(&self, request: &MeasureUseRequest) -> Result<NodeMeasured, Status> {
        let measured = self.measure().await?;
        let most = (request.most as usize).min(TOLD_MAX);
        let is_asked = |service: &ServiceRef| request.app.as_ref().is_none_or(|app| service.app == *app);
        let mut instances: Vec<_> = measured.instances.iter().filter(|one| is_asked(&one.service)).cloned().collect();
        let services = measured.services.iter().filter(|one| is_asked(&one.service)).take(TOLD_MAX).cloned();
        let count = instances.len() as u32;
        instances.truncate(most);
        let (disk_used, disk_size) = disk(&self.0.data_dir);
        Ok(NodeMeasured {
            cpu: measured.cpu,
            memory: machine_size::memory_used(),
            disk_used,
            disk_size,
            count,
            instances,
            services: services.collect(),
            has_edge: measured.has_edge,
        })
    }

    async fn measure(&self) -> Result<Arc<Measured>, Status> {
        let mut looks = self.0.looks.lock().await;
        let now = self.0.clock.now();
        let since = |at: Instant| now.saturating_duration_since(at);
        if let Some((at, measured)) = &looks.measured
            && since(*at) < FRESH
        {
            return Ok(Arc::clone(measured));
        }
        let is_of_use = |look: &Look| look.at.is_some_and(|at| (SPAN_MIN..=SPAN_MAX).contains(&since(at)));
        let before = match looks.last.take().filter(is_of_use) {
            Some(before) => before,
            None => {
                let before = self.look().await?;
                clock::sleep(SPAN_MIN).await;
                before
            }
        };
        let after = self.look().await?;
        let measured = Arc::new(compare(&before, &after));
        looks.last = Some(after);
        looks.measured = Some((self.0.clock.now(), Arc::clone(&measured)));
        Ok(measured)
    }

    async fn look(&self) -> Result<Look, Status> {
        let instances = self.0.runtime.usages().await.map_err(|error| Status::internal(chain(&error)))?;
        let stats = clock::timeout(DATAPLANE_LIMIT, self.0.dataplane.stats()).await.ok().and_then(Result::ok);
        Ok(Look {
            at: Some(self.0.clock.now()),
            machine: machine_size::cpu_times(),
            instances: instances.into_iter().collect(),
            requests: stats.as_ref().map(edge::requests),
        })
    }
}

/// Bytes in use of the disk that has the node's data, and all of it; 0 when the kernel does not say.
fn disk(data_dir: &std::path::Path) -> (ByteSize, ByteSize) {
    let Ok(found) = rustix::fs::statvfs(data_dir) else { return Default::default() };
    let bytes = |blocks: u64| ByteSize(blocks.saturating_mul(found.f_frsize));
    (bytes(found.f_blocks.saturating_sub(found.f_bfree)), bytes(found.f_blocks))
}

fn compare(before: &Look, after: &Look) -> Measured {
    let span = before.at.zip(after.at).map_or(Duration::ZERO, |(from, to)| to.saturating_duration_since(from));
    let per_second = |count: u64| (count as f64 / span.as_secs_f64().max(0.001)) as u64;
    let mut instances: Vec<InstanceUse> = after
        .instances
        .iter()
        .map(|(id, now)| {
            let then = before.instances.get(id);
            let grown = |now: u64, then: Option<u64>| grown(then.unwrap_or(0), now);
            let carried = |pick: fn(&Carried) -> u64| {
                let then = then.and_then(|then| then.network.as_ref()).map(pick);
                now.network.as_ref().map(|now| per_second(grown(pick(now), then)))
            };
            // One that was not there before has begun since then, and all that it used with it.
            let cpu = per_second(grown(now.cpu_us, then.map(|then| then.cpu_us))) / 1000;
            InstanceUse {
                instance: *id,
                service: now.service.clone(),
                is_one_off: now.is_one_off,
                cpu: CpuMillis(u32::try_from(cpu).unwrap_or(u32::MAX)),
                cpu_limit: now.limits.cpu,
                memory: now.memory,
                memory_limit: now.limits.memory,
                pids: now.pids,
                pids_limit: now.limits.pids,
                disk: now.disk.map(|disk| (disk.used, disk.size)),
                network: carried(|one| one.received)
                    .zip(carried(|one| one.sent))
                    .map(|(received, sent)| Carries { received, sent }),
            }
        })
        .collect();
    instances.sort_by_key(|one| (std::cmp::Reverse((one.cpu, one.memory)), one.instance));
    Measured {
        cpu: after.machine.since(&before.machine),
        services: services(&instances, before, after, span),
        instances,
        has_edge: after.requests.is_some(),
    }
}

fn services(instances: &[InstanceUse], before: &Look, after: &Look, span: Duration) -> Vec<ServiceUse> {
    let mut found: BTreeMap<&ServiceRef, ServiceUse> = BTreeMap::new();
    let of = |service: &ServiceRef| ServiceUse {
        service: service.clone(),
        instances: 0,
        cpu: CpuMillis(0),
        memory: ByteSize(0),
        requests: 0.0,
        failed: 0.0,
    };
    for one in instances {
        let sum = found.entry(&one.service).or_insert_with(|| of(&one.service));
        sum.instances += 1;
        sum.cpu.0 = sum.cpu.0.saturating_add(one.cpu.0);
        sum.memory.0 = sum.memory.0.saturating_add(one.memory.0);
    }
    let (then, now) = (before.requests.as_ref(), after.requests.as_ref());
    for (service, (all, failed)) in then.and(now).into_iter().flatten() {
        let (all_then, failed_then) = then.and_then(|then| then.get(service)).copied().unwrap_or_default();
        let per_second = |count: u64| count as f64 / span.as_secs_f64().max(0.001);
        let (all, failed) = (per_second(grown(all_then, *all)), per_second(grown(failed_then, *failed)));
        if all > 0.0 {
            let sum = found.entry(service).or_insert_with(|| of(service));
            (sum.requests, sum.failed) = (all, failed);
        }
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by(|a, b| (b.cpu, b.memory).cmp(&(a.cpu, a.memory)).then(b.requests.total_cmp(&a.requests)));
    found
}

/// A counter that is less than it was has begun anew, with what it counts.
const fn grown(before: u64, now: u64) -> u64 {
    if now < before { now } else { now - before }
}

#[cfg(test)]
mod tests {
    use insula_container::Filled;
    use insula_types::Resources;

    use super::*;

    fn service(app: &str) -> ServiceRef {
        ServiceRef::new(app.parse().expect("a name"), "web".parse().expect("a name"))
    }

    fn usage(app: &str, cpu_us: u64, received: u64) -> Usage {
        Usage {
            service: service(app),
            is_one_off: false,
            limits: Resources::default(),
            cpu_us,
            memory: ByteSize::mib(3),
            pids: 2,
            disk: Some(Filled { used: ByteSize::mib(1), size: ByteSize::mib(8) }),
            network: Some(Carried { received, sent: 0 }),
        }
    }

    fn look(at: Instant, instances: &[(u64, Usage)], requests: &[(&str, u64, u64)]) -> Look {
        Look {
            at: Some(at),
            instances: instances.iter().map(|(id, one)| (InstanceId::new(*id), one.clone())).collect(),
            requests: Some(requests.iter().map(|(app, all, failed)| (service(app), (*all, *failed))).collect()),
            ..Look::default()
        }
    }

    #[test]
    fn two_looks_make_rates_and_the_busiest_come_first() {
        let begin = insula_env::Env::real("test").clock.now();
        let end = begin + Duration::from_secs(2);
        let before = look(
            begin,
            &[(1, usage("a", 5_000_000, 100)), (2, usage("b", 9_000_000, 0))],
            &[("a", 10, 1), ("c", 7, 0)],
        );
        // The second was started again, the third is new, and nobody asked for c.
        let now = [(1, usage("a", 5_200_000, 1100)), (2, usage("b", 1_000_000, 0)), (3, usage("b", 400_000, 0))];
        let after = look(end, &now, &[("a", 60, 2), ("c", 7, 0), ("d", 4, 4)]);
        let measured = compare(&before, &after);
        let seen: Vec<_> = measured.instances.iter().map(|one| (one.instance.to_string(), one.cpu.0)).collect();
        let expected = [("i-00000002", 500), ("i-00000003", 200), ("i-00000001", 100)];
        assert_eq!(seen, expected.map(|(id, cpu)| (id.to_owned(), cpu)));
        assert_eq!(measured.instances[2].network, Some(Carries { received: 500, sent: 0 }));
        let seen: Vec<_> = measured
            .services
            .iter()
            .map(|one| (one.service.app.as_str(), one.instances, one.requests, one.failed))
            .collect();
        assert_eq!(seen, [("b", 2, 0.0, 0.0), ("a", 1, 25.0, 0.5), ("d", 0, 2.0, 2.0)]);
    }

    #[test]
    fn requests_are_not_guessed_while_the_edge_was_away() {
        let begin = insula_env::Env::real("test").clock.now();
        let before = Look { requests: None, ..look(begin, &[], &[]) };
        let after = look(begin + Duration::from_secs(1), &[], &[("a", 1_000_000, 0)]);
        assert!(compare(&before, &after).services.is_empty());
    }
}
