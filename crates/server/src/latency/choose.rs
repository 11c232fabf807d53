//! Which nodes are probed. Pure.

use std::collections::BTreeSet;

use insula_state::{
    GlobalState, RegionState,
    global::{GATEWAYS_MAX, Region},
};
use insula_types::{NodeId, RegionName};

/// Members of the region that a node probes at most.
pub(super) const NEAR_MAX: usize = 8;
/// Gateways of other regions that it probes where there is room, and the most of all regions together for which there is.
const OF_REGION: usize = 2;
const FAR_MAX: usize = 32;

/// A node to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub node: NodeId,
    /// Of which it is a gateway; none: it is of this node's region.
    pub region: Option<RegionName>,
}

/// Members of the region: the next ones by their ids, so that each is probed by as many.
pub(super) fn near(region: &RegionState, own: NodeId) -> Vec<Target> {
    let members: BTreeSet<NodeId> = region.nodes.values().map(|node| node.id).collect();
    let after = members.range(own..).chain(members.range(..own)).filter(|node| **node != own);
    after.take(NEAR_MAX).map(|node| Target { node: *node, region: None }).collect()
}

/// Gateways of other regions: each node begins elsewhere in their list, and silent ones come last.
pub(super) fn far(
    global: &GlobalState,
    region: &RegionState,
    (own, name): (NodeId, &RegionName),
    is_silent: impl Fn(NodeId) -> bool,
) -> Vec<Target> {
    let others: Vec<&Region> =
        global.regions.values().filter(|other| other.name != *name && !other.gateways.is_empty()).collect();
    let most = if others.len() * OF_REGION <= FAR_MAX { OF_REGION } else { 1 };
    let of_region = |other: &&Region| {
        let name = other.name.clone();
        // A node of another region may have the id of a member, who is the one that is reached by it.
        let mut nodes: Vec<NodeId> =
            other.gateways.iter().map(|gateway| gateway.node).filter(|node| !region.nodes.contains(node)).collect();
        if !nodes.is_empty() {
            let begin = own.get() as usize % nodes.len();
            nodes.rotate_left(begin);
        }
        nodes.sort_by_key(|node| is_silent(*node));
        nodes.into_iter().take(most).map(move |node| Target { node, region: Some(name.clone()) })
    };
    others.iter().flat_map(of_region).collect()
}

/// Whether a node probes other regions itself: in a small region each does, in a larger one its gateways, which tell the others.
pub(super) fn looks_far(global: &GlobalState, region: &RegionState, (own, name): (NodeId, &RegionName)) -> bool {
    let gateways = told_by(global, name);
    region.nodes.len() <= GATEWAYS_MAX || gateways.is_empty() || gateways.contains(&own)
}

/// The nodes of a region that tell others how far away other regions are.
pub(super) fn told_by(global: &GlobalState, name: &RegionName) -> Vec<NodeId> {
    let region = global.regions.get(name);
    region.map(|region| region.gateways.iter().map(|gateway| gateway.node).collect()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use insula_state::{
        Domain,
        global::{Gateway, GlobalKey, GlobalObject},
        region::{RegionKey, RegionObject},
    };
    use insula_types::{Node, NodeHealth, Revision};

    use super::*;

    pub(in crate::latency) fn name(text: &str) -> RegionName {
        text.parse().expect("a name")
    }

    /// A region of these nodes.
    pub(in crate::latency) fn region(ids: impl IntoIterator<Item = u64>) -> RegionState {
        let mut state = RegionState::default();
        for id in ids {
            let node = Node {
                id: NodeId::new(id),
                name: format!("n{id}").parse().expect("a name"),
                region: name("fra"),
                datacenter: "fra1".parse().expect("a name"),
                address: ([192, 0, 2, 1], 7443).into(),
                capacity: Default::default(),
                version: "0.1.0".into(),
                health: NodeHealth::Up,
                is_cordoned: false,
                is_draining: false,
                joined_ms: 0,
            };
            state.absorb(Revision(1), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
        }
        state
    }

    /// A world of regions with these gateways.
    pub(in crate::latency) fn world(regions: &[(&str, &[u64])]) -> GlobalState {
        let mut state = GlobalState::default();
        for (region, gateways) in regions {
            let gateway = |id: &u64| Gateway { node: NodeId::new(*id), addresses: vec![([192, 0, 2, 9], 7443).into()] };
            let gateways = gateways.iter().map(gateway).collect();
            let region = Region { gateways, ..Region::new(name(region), 1, None) };
            state.absorb(Revision(1), GlobalKey::Region(region.name.clone()), Some(GlobalObject::Region(region)));
        }
        state
    }

    fn ids(targets: &[Target]) -> Vec<u64> {
        targets.iter().map(|target| target.node.get()).collect()
    }

    #[test]
    fn each_member_of_a_large_region_is_probed_by_as_many() {
        let near = |nodes: u64, own: u64| ids(&near(&region(1..=nodes), NodeId::new(own)));
        assert_eq!(near(1, 1), [0_u64; 0]);
        assert_eq!(near(3, 2), [3, 1]);
        assert_eq!(near(100, 98), [99, 100, 1, 2, 3, 4, 5, 6]);
        let mut probed = [0; 101];
        (1..=100).flat_map(|own| near(100, own)).for_each(|node| probed[node as usize] += 1);
        assert!(probed[1..].iter().all(|count| *count == NEAR_MAX), "{probed:?}");
    }

    #[test]
    fn two_gateways_of_each_other_region_are_probed_and_silent_ones_last() {
        let world = world(&[("fra", &[1, 2]), ("nrt", &[31, 32, 33]), ("was", &[41]), ("sin", &[])]);
        let (here, fra) = (region([1, 2]), name("fra"));
        let far = |own: u64, silent: &[u64]| {
            ids(&far(&world, &here, (NodeId::new(own), &fra), |node| silent.contains(&node.get())))
        };
        assert_eq!(far(3, &[]), [31, 32, 41]);
        assert_eq!(far(4, &[]), [32, 33, 41], "another node begins elsewhere");
        assert_eq!(far(4, &[32]), [33, 31, 41]);
        assert_eq!(far(4, &[31, 32, 33, 41]), [32, 33, 41], "and yet they are probed");
    }

    #[test]
    fn what_is_probed_is_bounded_however_many_regions_there_are() {
        let names: Vec<String> = (10..70).map(|number| format!("r{number}")).collect();
        let regions: Vec<(&str, &[u64])> = names.iter().map(|name| (name.as_str(), &[501, 502, 503][..])).collect();
        let found = far(&world(&regions), &region([1]), (NodeId::new(1), &name("r10")), |_| false);
        assert_eq!(found.len(), 59);
        // Who answers to the id of a member is the member.
        let few = world(&[("nrt", &[1, 31])]);
        assert_eq!(ids(&far(&few, &region([1]), (NodeId::new(1), &name("fra")), |_| false)), [31]);
    }

    #[test]
    fn in_a_large_region_its_gateways_look_for_all() {
        let (world, fra) = (world(&[("fra", &[1, 2]), ("nrt", &[31])]), name("fra"));
        let looks = |nodes: u64, own: u64| looks_far(&world, &region(1..=nodes), (NodeId::new(own), &fra));
        assert!(looks(8, 8), "a small one");
        assert!(looks(9, 2), "a gateway");
        assert!(!looks(9, 3));
        assert!(looks_far(&GlobalState::default(), &region(1..=9), (NodeId::new(3), &fra)), "nobody else is known");
    }
}
