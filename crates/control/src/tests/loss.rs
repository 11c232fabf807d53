//! Nodes that are lost: what ran there is replaced, and nothing else moves.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{ByteSize, InstanceId, NodeId};

use super::region::{World, definition};
use crate::loss::{self, Loss, Then};

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

#[tokio::test(start_paused = true)]
async fn a_definition_that_makes_a_loss_fatal_is_told_beforehand() {
    // Three nodes of 4 GiB, of which nine tenths can be given: three of a gigabyte on each, so that one node can be lost with
    // six of them, and none with seven.
    let mut world = World::new(3);
    let of = |scale: u32, mib: u64| {
        let mut large = definition(1, scale);
        large.services.values_mut().for_each(|service| service.spec.resources.memory = ByteSize::mib(mib));
        large
    };
    world.deploy(of(3, 1024));
    world.steps(4);
    let foretell = |world: &World, scale, mib| world.read(|state| loss::foretell(state, of(scale, mib)));
    assert_eq!(foretell(&world, 3, 1030), loss::Foretold::default(), "all of them anew");
    let told = foretell(&world, 6, 1024);
    let [(Loss::Datacenter(fra1), _)] = &told.losses[..] else { panic!("{told:?}") };
    assert_eq!(fra1.as_str(), "fra1", "of two nodes, which leave room for three");

    let told = foretell(&world, 7, 1024);
    assert_eq!(told.unplaced, BTreeMap::new());
    let lost: Vec<&Loss> = told.losses.iter().map(|(loss, _)| loss).collect();
    let [Loss::Datacenter(_), Loss::Node(_), Loss::Node(_), Loss::Node(_)] = &lost[..] else { panic!("{lost:?}") };
    for (loss, short) in &told.losses[1..] {
        let [short] = &short.values().collect::<Vec<_>>()[..] else { panic!("{short:?}") };
        assert_eq!(short.count, 1, "{loss:?}");
        assert!(short.why.contains("no room on any of 2 nodes, memory is "), "{}", short.why);
    }

    let told = foretell(&world, 10, 1024);
    assert_eq!(told.unplaced.values().map(|short| short.count).sum::<usize>(), 1, "it fits nowhere as it is");

    world.deploy(of(7, 1024));
    world.steps(8);
    assert_eq!(foretell(&world, 8, 1024).losses, [], "it was fatal before");
}
