//! What became of a request, as the edges of the region remember it.

use std::cmp::Reverse;

use insula_api::{
    Answer, Code, Problem,
    wire::{EdgeMemory, HandledRequest, RequestReport, SilentNode, TriedInstance},
};
use insula_state::RegionState;
use insula_types::{HttpRequestId, Node, NodeId, RegionName, Remembered, RequestRecord, text::utc};

use super::NodeApi;

/// Requests that are told of at most, of all edges together.
const TOLD_MAX: usize = 100;

impl NodeApi {
    pub(super) async fn show_request(&self, id: &HttpRequestId) -> Answer<RequestReport> {
        let heard = self.edge_requests.ask(id).await;
        let report = self.region.replica().read(|region| report(id, region, heard));
        if report.found.is_empty() { Err(unknown(&self.config.region, &report)) } else { Ok(report) }
    }
}

fn report(id: &HttpRequestId, region: &RegionState, heard: Vec<(NodeId, Result<Remembered, String>)>) -> RequestReport {
    let (found, edges, silent) = Default::default();
    let mut all = RequestReport { id: id.clone(), found, more: 0, edges, silent };
    for (node, heard) in heard {
        // It may have been removed meanwhile.
        let Some(node) = region.nodes.get(&node) else { continue };
        match heard {
            Ok(Remembered { found, more, since_ms, odd_since_ms }) => {
                all.more += more;
                all.found.extend(found.into_iter().map(|one| handled(region, node, one)));
                all.edges.push(EdgeMemory { node: node.id, name: node.name.clone(), since_ms, odd_since_ms });
            }
            Err(why) => all.silent.push(SilentNode { node: node.id, name: node.name.clone(), why }),
        }
    }
    all.found.sort_by_key(|one| Reverse(one.came_ms));
    all.more += all.found.len().saturating_sub(TOLD_MAX) as u64;
    all.found.truncate(TOLD_MAX);
    all.edges.sort_by(|a, b| a.name.cmp(&b.name));
    all.silent.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn handled(region: &RegionState, node: &Node, record: RequestRecord) -> HandledRequest {
    let RequestRecord { came_ms, client, method, host, path, service, tries, status, cause, text, took_us } = record;
    let tries = tries.into_iter().map(|one| TriedInstance {
        instance: one.instance,
        node: one.node,
        node_name: region.nodes.get(&one.node).map(|node| node.name.clone()),
        failure: one.failure,
    });
    HandledRequest {
        node: node.id,
        node_name: node.name.clone(),
        came_ms,
        client,
        method,
        host,
        path,
        service,
        tries: tries.collect(),
        status,
        cause,
        text,
        took_us,
    }
}

/// Nobody knows it, or nobody says: how far back those that do remember, and who does not.
fn unknown(region: &RegionName, report: &RequestReport) -> Problem {
    let silent: String = report.silent.iter().map(|one| format!("; {} {}", one.name, one.why)).collect();
    let since = |of: fn(&EdgeMemory) -> u64| report.edges.iter().map(of).max();
    match since(|edge| edge.since_ms).zip(since(|edge| edge.odd_since_ms)) {
        None => Problem::new(Code::NodeUnreachable, format!("no edge of {region} says what it remembers{silent}")),
        Some((all, odd)) => {
            let longer = if odd < all {
                format!(", and those that failed, were slow or tried more than once since {} UTC", utc(odd))
            } else {
                String::new()
            };
            let since = format!("they remember all requests since {} UTC{longer}", utc(all));
            Problem::new(Code::NoSuchRequest, format!("no edge of {region} remembers {}; {since}{silent}", report.id))
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_state::{
        Domain,
        region::{RegionKey, RegionObject},
    };
    use insula_types::{ByteSize, Capacity, CpuMillis, InstanceId, NodeHealth, RequestTry, Revision};

    use super::*;

    fn record(came_ms: u64) -> RequestRecord {
        RequestRecord {
            came_ms,
            client: "192.0.2.7".parse().expect("an address"),
            method: "GET".to_owned(),
            host: "shop.example".to_owned(),
            path: "/".to_owned(),
            service: None,
            tries: vec![RequestTry { instance: InstanceId::new(1), node: NodeId::new(9), failure: None }],
            status: Some(200),
            cause: None,
            text: None,
            took_us: 1500,
        }
    }

    #[test]
    fn the_newest_come_first_and_who_says_nothing_is_named() {
        let mut region = RegionState::default();
        for number in 1..=3 {
            let name = format!("n{number}").parse().expect("a name");
            let node = Node {
                id: NodeId::new(number),
                name,
                region: "fra".parse().expect("a name"),
                datacenter: "fra1".parse().expect("a name"),
                address: "10.0.0.1:7443".parse().expect("an address"),
                capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(4096) },
                version: "test".into(),
                health: NodeHealth::Up,
                is_cordoned: false,
                is_draining: false,
                joined_ms: 0,
            };
            region.absorb(Revision(1), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
        }
        let id: HttpRequestId = "a-request".parse().expect("an id");
        let of = |found: &[u64], since_ms, odd_since_ms| {
            Ok(Remembered { found: found.iter().map(|ms| record(*ms)).collect(), more: 2, since_ms, odd_since_ms })
        };
        let heard = |first| {
            vec![
                (NodeId::new(3), Err("is down".to_owned())),
                (NodeId::new(2), of(&[9000, 3000], 60_000, 1000)),
                (NodeId::new(1), of(first, 120_000, 2000)),
                (NodeId::new(4), of(&[7], 0, 0)),
            ]
        };
        let told = report(&id, &region, heard(&[5000]));
        let found: Vec<_> = told.found.iter().map(|one| (one.node_name.as_str(), one.came_ms)).collect();
        assert_eq!(found, [("n2", 9000), ("n1", 5000), ("n2", 3000)]);
        assert_eq!((told.more, told.found[0].tries[0].node_name.as_ref()), (4, None));
        let many: Vec<u64> = (0..120).collect();
        let told = report(&id, &region, heard(&many));
        assert_eq!((told.found.len(), told.more), (TOLD_MAX, 4 + 22));

        let mut told = report(&id, &region, heard(&[]));
        told.found.clear();
        let fra = "fra".parse().expect("a name");
        let problem = unknown(&fra, &told);
        assert_eq!(
            (problem.code, problem.detail.as_str()),
            (
                Code::NoSuchRequest,
                "no edge of fra remembers a-request; they remember all requests since 1970-01-01 00:02:00 UTC, and those that \
             failed, were slow or tried more than once since 1970-01-01 00:00:02 UTC; n3 is down"
            )
        );
        told.edges.iter_mut().for_each(|edge| edge.odd_since_ms = edge.since_ms);
        let detail = unknown(&fra, &told).detail;
        assert!(
            detail
                .ends_with("remembers a-request; they remember all requests since 1970-01-01 00:02:00 UTC; n3 is down"),
            "{detail}"
        );
        told.edges.clear();
        let problem = unknown(&fra, &told);
        assert_eq!(
            (problem.code, problem.detail.as_str()),
            (Code::NodeUnreachable, "no edge of fra says what it remembers; n3 is down")
        );
    }
}
