//! How far regions and nodes are from each other, as one node of each region, and each node of this one, tells.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream, stream::FuturesUnordered};
use insula_api::{
    Answer,
    wire::{Latency, NodeLatency, NodeRoundTrip, RegionLatency, RegionRoundTrip, RoundTrip, SilentNode},
};
use insula_rpc::Status;
use insula_state::RegionState;
use insula_types::{NodeId, RegionName};

use super::NodeApi;
use crate::{
    everyone,
    methods::{AskLatency, AskLatencyRequest, LatencyTold, Measured},
};

/// Gateways of another region that are asked at once.
const ASKED_MAX: usize = 3;
/// Regions that are asked at once.
const REGIONS_AT_ONCE: usize = 16;
/// How long a node may take.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// What a region's node tells, or why none does.
type Told = Result<(NodeId, LatencyTold), String>;

impl NodeApi {
    pub(super) async fn show_latency(&self, with_nodes: bool) -> Answer<Latency> {
        let own = self.config.region.clone();
        let known: BTreeMap<RegionName, Vec<NodeId>> = self.global.read(|global| {
            let gateways = |gateways: &[insula_state::global::Gateway]| gateways.iter().map(|one| one.node).collect();
            global.regions.values().map(|region| (region.name.clone(), gateways(&region.gateways))).collect()
        });
        let mut others = known.clone();
        others.remove(&own);
        let others = others.into_iter().map(async |(region, gateways)| (region, self.told_by(gateways).await));
        let others = stream::iter(others).buffer_unordered(REGIONS_AT_ONCE).collect::<BTreeMap<_, _>>();
        let nodes = async {
            if !with_nodes {
                return Vec::new();
            }
            let here = async { Ok::<_, Status>(self.latency.tell(true)) };
            self.usages.everyone.ask::<AskLatency>(&AskLatencyRequest { with_nodes }, ASK_LIMIT, here).await
        };
        let (mut regions, nodes) = futures::join!(others, nodes);
        regions.insert(own.clone(), Ok((self.node, self.latency.tell(false))));
        let regions = regions.into_iter().map(|(region, told)| row(region, told, |name| known.contains_key(name)));
        let regions = regions.collect();
        let (nodes, silent) = self.region.read(|region| of_nodes(region, nodes));
        Ok(Latency { region: own, regions, nodes, silent })
    }

    /// What the first of a region's gateways tells that has something to tell.
    async fn told_by(&self, mut gateways: Vec<NodeId>) -> Told {
        self.latency.nearest_first(&mut gateways, |gateway| *gateway);
        let asked = gateways.into_iter().take(ASKED_MAX).map(async |gateway| {
            let request = AskLatencyRequest { with_nodes: false };
            (gateway, self.rpc.call::<AskLatency>(gateway, &request, ASK_LIMIT).await)
        });
        let mut asked = asked.collect::<FuturesUnordered<_>>();
        let mut best = Err("does not serve yet".to_owned());
        while let Some((gateway, answer)) = asked.next().await {
            match answer {
                Ok(told) if told.regions.is_empty() => best = Ok((gateway, told)),
                Ok(told) => return Ok((gateway, told)),
                Err(status) if best.is_err() => best = Err(everyone::why(&status)),
                Err(_) => {}
            }
        }
        best
    }
}

/// A region's row of the matrix. What it says of regions that are not known here is left out.
fn row(region: RegionName, told: Told, is_known: impl Fn(&RegionName) -> bool) -> RegionLatency {
    let (node, why, told) = match told {
        Ok((node, told)) => (Some(node), None, told),
        Err(why) => (None, Some(why), LatencyTold::default()),
    };
    let told: BTreeMap<RegionName, Measured> = told.regions.into_iter().collect();
    let to = told.into_iter().filter(|(other, _)| *other != region && is_known(other));
    let to = to.map(|(region, measured)| RegionRoundTrip { region, measured: round_trip(measured) }).collect();
    RegionLatency { region, node, why, to }
}

/// The rows of a region's nodes, and who tells nothing, by their names.
fn of_nodes(
    region: &RegionState,
    heard: Vec<(NodeId, Result<LatencyTold, String>)>,
) -> (Vec<NodeLatency>, Vec<SilentNode>) {
    let (mut nodes, mut silent) = (Vec::new(), Vec::new());
    for (id, heard) in heard {
        // It may have been removed meanwhile.
        let Some(node) = region.nodes.get(&id) else { continue };
        let (node, name) = (node.id, node.name.clone());
        match heard {
            Ok(told) => {
                let to = told.nodes.into_iter().filter_map(|(other, measured)| {
                    let name = region.nodes.get(&other)?.name.clone();
                    Some(NodeRoundTrip { node: other, name, measured: round_trip(measured) })
                });
                let mut to: Vec<_> = to.collect();
                to.sort_by(|a, b| a.name.cmp(&b.name));
                nodes.push(NodeLatency { node, name, to });
            }
            Err(why) => silent.push(SilentNode { node, name, why }),
        }
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    silent.sort_by(|a, b| a.name.cmp(&b.name));
    (nodes, silent)
}

const fn round_trip(measured: Measured) -> RoundTrip {
    let Measured { p50_us, p99_us, probes, lost } = measured;
    RoundTrip { p50_us, p99_us, probes, lost }
}

#[cfg(test)]
mod tests {
    use insula_state::{
        Domain,
        region::{RegionKey, RegionObject},
    };
    use insula_types::{Node, NodeHealth, Revision};

    use super::*;

    const fn measured(us: u64) -> Measured {
        Measured { p50_us: Some(us), p99_us: Some(us), probes: 1, lost: 0 }
    }

    fn name(text: &str) -> RegionName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_region_tells_of_others_that_are_known_here_or_it_is_said_why_it_does_not() {
        let known = |other: &RegionName| ["fra", "nrt", "was"].contains(&other.as_str());
        let regions = ["was", "fra", "nrt", "elsewhere"].map(|other| (name(other), measured(7))).to_vec();
        let told = row(name("nrt"), Ok((NodeId::new(31), LatencyTold { regions, nodes: Vec::new() })), known);
        let to: Vec<_> = told.to.iter().map(|one| (one.region.as_str(), one.measured.p50_us)).collect();
        assert_eq!(to, [("fra", Some(7)), ("was", Some(7))]);
        assert_eq!((told.node, told.why), (Some(NodeId::new(31)), None));
        let silent = row(name("was"), Err("does not answer".to_owned()), known);
        assert_eq!((silent.node, silent.why.as_deref(), silent.to), (None, Some("does not answer"), vec![]));
    }

    #[test]
    fn nodes_come_by_their_names_and_who_tells_nothing_is_named() {
        let mut region = RegionState::default();
        for (id, name) in [(1, "c"), (2, "b"), (3, "a")] {
            let node = Node {
                id: NodeId::new(id),
                name: name.parse().expect("a name"),
                region: self::name("fra"),
                datacenter: "fra1".parse().expect("a name"),
                address: ([192, 0, 2, 1], 7443).into(),
                capacity: Default::default(),
                version: "test".into(),
                health: NodeHealth::Up,
                is_cordoned: false,
                is_draining: false,
                joined_ms: 0,
            };
            region.absorb(Revision(1), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
        }
        let told = |nodes: &[u64]| {
            let nodes = nodes.iter().map(|id| (NodeId::new(*id), measured(*id))).collect();
            Ok(LatencyTold { regions: Vec::new(), nodes })
        };
        let heard = vec![
            (NodeId::new(1), told(&[2, 3, 9])),
            (NodeId::new(2), Err("is down".to_owned())),
            (NodeId::new(3), told(&[1])),
            (NodeId::new(9), told(&[1])),
        ];
        let (nodes, silent) = of_nodes(&region, heard);
        let rows: Vec<(String, String)> = nodes
            .iter()
            .map(|row| (row.name.to_string(), row.to.iter().map(|one| one.name.as_str()).collect()))
            .collect();
        assert_eq!(rows, [("a".to_owned(), "c".to_owned()), ("c".to_owned(), "ab".to_owned())]);
        assert_eq!((silent.len(), silent[0].name.as_str(), silent[0].why.as_str()), (1, "b", "is down"));
    }
}
