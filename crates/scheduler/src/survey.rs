//! Where the next instance of a service would go, and what speaks for and against each node.

use std::cmp::Reverse;

use insula_types::NodeId;

use crate::{Snapshot, Wanted, WhyNot, filter::Filter, index::Index};

/// A node, as it looks to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// The node.
    pub node: NodeId,
    /// How good it would be, or why it is none.
    pub verdict: Result<Standing, WhyNot>,
}

/// What decides between nodes that could take an instance: the least of the first that differs, then the most free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Instances of the service in the group that it is spread over.
    pub in_group: u32,
    /// Instances of the service on the node.
    pub on_node: u32,
    /// Preferred labels that the node lacks.
    pub lacks: usize,
    /// What is free of the scarcer resource, percent of what may be given away.
    pub free_percent: u32,
}

/// Every node, the best first, then those that take none in order of their ids. The first is where [`crate::schedule`] would put the instance.
pub fn survey<'a>(snapshot: &Snapshot<'a>, wanted: &Wanted<'a>) -> Vec<Surveyed> {
    let index = Index::new(snapshot, std::slice::from_ref(wanted));
    let filter = Filter::of(wanted);
    let grouping = index.groupings.get(index.grouping_of(&wanted.placement.spread));
    let spread = index.spreads.get(wanted.service);
    let running = |at: usize| spread.and_then(|spread| spread.get(&at)).copied().unwrap_or_default();
    let in_group = |at: usize| -> u32 {
        let Some(grouping) = grouping else { return 0 };
        let rooms = || grouping.of_room.iter().enumerate();
        rooms().filter(|(_, group)| **group == grouping.of_room[at]).map(|(other, _)| running(other)).sum()
    };
    let verdict = |node: NodeId| {
        let at = index.rooms.binary_search_by_key(&node, |room| room.id).map_err(|_| WhyNot::Down)?;
        let room = &index.rooms[at];
        if !room.is_open {
            return Err(WhyNot::Cordoned);
        }
        filter.why_not(room).map_or(Ok(()), Err)?;
        let (lacks, on_node) = (filter.missed(room), running(at));
        Ok((at, Standing { in_group: in_group(at), on_node, lacks, free_percent: room.share_ppm / 10_000 }))
    };
    let mut out: Vec<_> = snapshot.nodes.iter().map(|node| (node.id, verdict(node.id))).collect();
    out.sort_by_key(|(node, verdict)| {
        let rank = verdict.as_ref().ok().map(|(at, standing)| {
            (standing.in_group, standing.on_node, standing.lacks, Reverse(index.rooms[*at].share_ppm))
        });
        (rank.is_none(), rank, *node)
    });
    out.into_iter().map(|(node, verdict)| Surveyed { node, verdict: verdict.map(|(_, standing)| standing) }).collect()
}
