//! Instances: where they are, how they are, what they wrote.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use insula_api::{
    Answer, Code, LogOptions, LogStream, Problem,
    wire::{Instance, InstanceState, List, Route, Versioned, Waiting},
};
use insula_env::clock;
use insula_state::RegionState;
use insula_types::{
    AppName, Desired, InstanceId, NodeId, Phase, Placement, RouteSpec, ServiceRef, Shortfall, text::utc,
};

use super::NodeApi;
use crate::logs::LOG_BYTES_MAX;

/// Time between two looks at a log that is followed.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

impl NodeApi {
    pub(super) fn list_instances(&self, app: Option<&AppName>) -> List<Instance> {
        self.region.replica().read_at(|region, revision| {
            let of_app = |placement: &&Placement| app.is_none_or(|app| placement.service.app == *app);
            let mut items: Vec<_> =
                region.placements.values().filter(of_app).map(|placement| describe(region, placement)).collect();
            items.sort_by(|a, b| {
                (&a.app, &a.service, &a.node_name, a.id).cmp(&(&b.app, &b.service, &b.node_name, b.id))
            });
            List { revision, items }
        })
    }

    pub(super) fn list_waiting(&self) -> List<Waiting> {
        self.region.replica().read_at(|region, revision| {
            let waiting = |(service, row): (&ServiceRef, &Shortfall)| Waiting {
                service: service.clone(),
                lost: row.lost,
                given: row.given,
                gave_to: row.gave_to.as_ref().map(|given| given.to.clone()),
                gave_on: row.gave_to.as_ref().map(|given| given.node.clone()),
                awaits: row.awaits.and_then(|node| Some(region.nodes.get(&node)?.name.clone())),
                why: row.text(service),
            };
            List { revision, items: region.shortfalls.iter().map(waiting).collect() }
        })
    }

    pub(super) fn list_routes(&self) -> List<Route> {
        self.region.replica().read_at(|region, revision| {
            let mut ready = BTreeMap::<&ServiceRef, u32>::new();
            for placement in region.placements.values().filter(|placement| describe(region, placement).is_ready) {
                *ready.entry(&placement.service).or_default() += 1;
            }
            let mut items = Vec::new();
            for (app, definition) in region.definitions.iter() {
                for (name, wanted) in &definition.services {
                    let service = ServiceRef::new(app.clone(), name.clone());
                    // Definitions with routes have a port that the edges can reach.
                    let mut protocols = wanted.spec.ports.iter().map(|port| port.protocol);
                    let Some(protocol) = protocols.find(|protocol| protocol.is_http()) else { continue };
                    let ready = ready.get(&service).copied().unwrap_or_default();
                    items.extend(wanted.spec.routes.iter().map(|RouteSpec { host, path }| {
                        let (host, path, service) = (host.clone(), path.clone(), service.clone());
                        Route { host, path, service, protocol, ready }
                    }));
                }
            }
            items.sort_by(|a, b| (&a.host, &a.path).cmp(&(&b.host, &b.path)));
            List { revision, items }
        })
    }

    pub(super) fn show_instance(&self, id: InstanceId) -> Answer<Versioned<Instance>> {
        self.region.replica().read_at(|region, revision| {
            let placement = region.placements.get(&id).ok_or_else(|| no_such_instance(id))?;
            Ok(Versioned { revision, value: describe(region, placement) })
        })
    }

    /// Logs live on the node that runs or ran the instance; for one of which nobody knows any more, this node is asked.
    pub(super) async fn read_logs(&self, id: InstanceId, options: LogOptions) -> Answer<LogStream> {
        let node = self.region.read(|region| node_of(region, id)).unwrap_or(self.node);
        let all = self.fetch(node, id).await?;
        let since = options.since_ms.map_or(0, |since_ms| since_start(&all, since_ms));
        let start = options.tail.map_or(0, |lines| tail_start(&all, lines as usize)).max(since);
        let shown = all.len();
        let first = futures::stream::once(std::future::ready(Ok(all.slice(start..))));
        if !options.follow {
            return Ok(first.boxed());
        }
        let logs = std::sync::Arc::clone(&self.logs);
        let rest = futures::stream::unfold((shown, all), move |(mut shown, mut before)| {
            let logs = std::sync::Arc::clone(&logs);
            async move {
                loop {
                    clock::sleep(FOLLOW_EVERY).await;
                    let now = match logs.read(node, id, LOG_BYTES_MAX).await {
                        Ok(now) => now,
                        Err(why) => return Some((Err(std::io::Error::other(why)), (shown, before))),
                    };
                    // What was there is a prefix still, unless the oldest lines went.
                    if !(now.len() >= shown && now.starts_with(&before)) {
                        let known = before.len().min(4096);
                        let last = &before[before.len() - known..];
                        shown = now.windows(known.max(1)).rposition(|part| part == last).map_or(0, |at| at + known);
                    }
                    before = now.clone();
                    if now.len() > shown {
                        let fresh = now.slice(shown..);
                        return Some((Ok(fresh), (now.len(), now)));
                    }
                }
            }
        });
        Ok(first.chain(rest).boxed())
    }

    async fn fetch(&self, node: NodeId, id: InstanceId) -> Answer<bytes::Bytes> {
        self.logs
            .read(node, id, LOG_BYTES_MAX)
            .await
            .map_err(|why| Problem::new(Code::NodeUnreachable, format!("read the log of {id} on node {node}: {why}")))
    }
}

/// The node that runs an instance, or ran it as far as is still known: by its hook, or by what is told of it.
fn node_of(region: &RegionState, id: InstanceId) -> Option<NodeId> {
    let hooks = || region.deployments.values().flat_map(|deployment| &deployment.hooks);
    let of_hook = || hooks().find(|run| run.instance == Some(id)).and_then(|run| run.node);
    let told = || region.events.values().rev().find(|event| event.instance == Some(id)).and_then(|event| event.node);
    let placed = region.placements.get(&id).map(|placement| placement.node);
    placed.or_else(|| of_hook().or_else(told).filter(|node| region.nodes.contains(node)))
}

/// Where the last `lines` lines begin.
fn tail_start(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if lines == 0 {
        return text.len();
    }
    let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0)
}

/// Where the first line begins that was written at a time or after it. Lines begin with their time, `2026-11-21T03:40:00.123456Z`.
fn since_start(text: &[u8], since_ms: u64) -> usize {
    let since = format!("{}.{:03}", utc(since_ms).replace(' ', "T"), since_ms % 1000);
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.get(..since.len()).is_some_and(|time| time >= since.as_bytes()) {
            return start;
        }
        start += line.len();
    }
    text.len()
}

pub(super) fn no_such_instance(id: InstanceId) -> Problem {
    Problem::new(Code::NoSuchInstance, format!("{id}: `insula ps` lists those there are"))
}

fn describe(region: &RegionState, placement: &Placement) -> Instance {
    let node = region.nodes.get(&placement.node);
    let status = region.statuses.get(&placement.instance);
    let is_lost = node.is_none_or(|node| !node.health.is_up());
    let state = match (placement.desired, status.map(|status| status.phase)) {
        _ if is_lost => InstanceState::Lost,
        (Desired::Drain, _) => InstanceState::Draining,
        (Desired::Stop, _) | (_, Some(Phase::Stopped)) => InstanceState::Stopped,
        (_, None | Some(Phase::Pending)) => InstanceState::Pending,
        (_, Some(Phase::Pulling)) => InstanceState::Pulling,
        (_, Some(Phase::Starting)) => InstanceState::Starting,
        (_, Some(Phase::Running)) => InstanceState::Running,
        (_, Some(Phase::Backoff)) => InstanceState::Backoff,
    };
    Instance {
        id: placement.instance,
        app: placement.service.app.clone(),
        service: placement.service.service.clone(),
        release: placement.release,
        node: placement.node,
        node_name: node.map_or_else(gone, |node| node.name.clone()),
        datacenter: node.map_or_else(gone_too, |node| node.datacenter.clone()),
        state,
        is_ready: !is_lost
            && placement.hook.is_none()
            && placement.desired == Desired::Run
            && status.is_some_and(|status| status.is_ready),
        restarts: status.map_or(0, |status| status.restarts),
        placed_ms: placement.placed_ms,
        since_ms: status.map(|status| status.since_ms),
        message: status.map(|status| status.message.clone()).unwrap_or_default(),
        endpoints: status.map(|status| status.endpoints.clone()).unwrap_or_default(),
        reasons: placement.reasons.clone(),
        hook: placement.hook,
    }
}

fn gone() -> insula_types::NodeName {
    insula_types::NodeName::new("gone").expect("a label")
}

fn gone_too() -> insula_types::DatacenterName {
    insula_types::DatacenterName::new("gone").expect("a label")
}

#[cfg(test)]
mod tests {
    use super::{since_start, tail_start};

    #[test]
    fn lines_are_as_new_as_is_asked() {
        let text = b"2000-02-29T12:34:56.123456Z stdout F one\n2000-02-29T12:34:57.000001Z stdout F two\n";
        let from = |since_ms| &text[since_start(text, since_ms)..];
        assert_eq!(from(0), text);
        assert_eq!(from(951_827_696_123), text);
        assert_eq!(from(951_827_696_124), &text[41..]);
        assert_eq!(from(951_827_697_001), b"");
        assert_eq!(since_start(b"no time\n", 5), 8);
    }

    #[test]
    fn a_tail_is_whole_lines() {
        let text = b"one\ntwo\nthree\n";
        assert_eq!(&text[tail_start(text, 1)..], b"three\n");
        assert_eq!(&text[tail_start(text, 2)..], b"two\nthree\n");
        assert_eq!(&text[tail_start(text, 9)..], text);
        assert_eq!(tail_start(text, 0), text.len());
        assert_eq!(tail_start(b"", 5), 0);
    }
}
