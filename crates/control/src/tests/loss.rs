//! Nodes that are lost: what ran there is replaced, and nothing else moves.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{ByteSize, InstanceId, NodeId};

use super::region::{World, definition};
use crate::loss::{self, Then};

#[tokio::test(start_paused = true)]
async fn a_loss_moves_nothing_that_stays() {
    let mut world = World::new(20);
    world.deploy(definition(1, 100));
    world.steps(4);
    let places = |world: &World| -> BTreeMap<InstanceId, NodeId> {
        world.serving().iter().map(|one| (one.instance, one.node)).collect()
    };
    let before = places(&world);
    assert_eq!(before.len(), 100);
    let lost: Vec<NodeId> = [3, 8, 13].map(NodeId::new).to_vec();
    world.off.extend(&lost);
    // Until all is replaced, and the nodes are forgotten.
    world.steps(200);
    let after = places(&world);
    let stayed: Vec<_> = before.iter().filter(|(_, node)| !lost.contains(node)).collect();
    let moved = stayed.iter().filter(|(id, node)| after.get(*id) != Some(*node)).count();
    assert_eq!((after.len(), stayed.len(), moved), (100, 85, 0));
    world.off.clear();
    world.steps(50);
    assert_eq!(places(&world), after, "nor does a return");
}

#[tokio::test(start_paused = true)]
async fn what_a_loss_would_do_is_told_beforehand() {
    let mut world = World::new(4);
    world.deploy(definition(1, 6));
    world.steps(4);
    let lost: BTreeSet<NodeId> = [NodeId::new(1), NodeId::new(3)].into();
    let told: BTreeMap<InstanceId, NodeId> = world.read(|state| {
        let outcomes = loss::outcomes(state, &lost);
        let to = |outcome: loss::Outcome<'_>| match outcome.then {
            Then::Goes { to, reasons } if !reasons.is_empty() => Some((outcome.placement.instance, to)),
            _ => None,
        };
        assert_eq!(outcomes.len(), 3, "what ran in fra1");
        outcomes.into_iter().filter_map(to).collect()
    });
    assert_eq!(told.len(), 3);
    let mut foretold: Vec<NodeId> = told.into_values().collect();
    let before: BTreeSet<InstanceId> = world.serving().iter().map(|one| one.instance).collect();
    world.off.extend(&lost);
    world.steps(60);
    let mut came: Vec<NodeId> =
        world.serving().iter().filter(|one| !before.contains(&one.instance)).map(|one| one.node).collect();
    foretold.sort_unstable();
    came.sort_unstable();
    assert_eq!(came, foretold, "and so it is");
    assert_eq!(world.read(|state| loss::outcomes(state, &lost).len()), 0, "they are lost already");
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_room_after_a_loss_is_told_why() {
    let mut world = World::new(2);
    // 4 GiB each, of which nine tenths can be given: three of a gigabyte on each.
    let mut large = definition(1, 4);
    large.services.values_mut().for_each(|service| service.spec.resources.memory = ByteSize::mib(1024));
    world.deploy(large);
    world.steps(4);
    let outcomes = |lost: u64| {
        world.read(|state| {
            let outcomes = loss::outcomes(state, &[NodeId::new(lost)].into());
            outcomes.into_iter().map(|outcome| outcome.then).collect::<Vec<_>>()
        })
    };
    let [Then::Goes { to, .. }, Then::Waits(why)] = &outcomes(1)[..] else { panic!("{:?}", outcomes(1)) };
    assert_eq!(*to, NodeId::new(2));
    assert!(why.contains("no room on any of 1 nodes, memory is "), "{why}");
    assert_eq!(outcomes(9), [], "no such node");
}
