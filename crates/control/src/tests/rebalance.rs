//! Nodes that come get work in time, one instance after the other, and nothing moves for nothing.

use std::collections::{BTreeMap, BTreeSet};

use insula_state::RegionCommand;
use insula_types::{ByteSize, InstanceId, NodeId};

use super::region::{World, definition, node};

fn places(world: &World) -> BTreeMap<InstanceId, NodeId> {
    world.serving().iter().map(|one| (one.instance, one.node)).collect()
}

fn by_node(world: &World) -> Vec<usize> {
    let mut counts: BTreeMap<NodeId, usize> = world.read(|state| state.nodes.iter().map(|(id, _)| (*id, 0)).collect());
    places(world).values().for_each(|node| *counts.entry(*node).or_default() += 1);
    counts.into_values().collect()
}

fn join(world: &mut World, id: u64, datacenter: &str) {
    let node = Box::new(node(id, datacenter));
    let join = RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node };
    world.plain.apply(0, &join).expect("good");
}

/// Half an hour; never fewer than wanted serve, and never more than one beside them runs.
fn half_an_hour(world: &mut World, scale: usize) -> usize {
    let before = places(world);
    for _ in 0..3600 {
        world.step();
        assert!(world.serving().len() >= scale && world.placed() <= scale + 2, "{:?}", by_node(world));
    }
    let after = places(world);
    before.keys().filter(|instance| !after.contains_key(*instance)).count()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_gets_its_part_and_then_nothing_moves() {
    let mut world = World::new(2);
    world.deploy(definition(1, 6));
    world.steps(20);
    assert_eq!(by_node(&world), [3, 3]);
    // In a data centre that has none yet: two for each of the three.
    join(&mut world, 3, "fra3");
    world.steps(500);
    assert_eq!(by_node(&world), [3, 3, 0], "not at once");
    assert_eq!((half_an_hour(&mut world, 6), by_node(&world)), (2, vec![2, 2, 2]));
    assert_eq!((half_an_hour(&mut world, 6), by_node(&world)), (0, vec![2, 2, 2]), "it is as good as it can be");
}

#[tokio::test(start_paused = true)]
async fn a_fuller_node_gives_to_a_much_emptier_one() {
    let mut world = World::new(1);
    // Of one instance each: only how full the nodes are can decide. Of 4 GiB nine tenths can be given.
    for number in 0..4 {
        let mut app = definition(1, 1);
        app.app = format!("app{number}").parse().expect("a name");
        app.services.values_mut().for_each(|service| service.spec.resources.memory = ByteSize::mib(900));
        world.deploy(app);
    }
    world.steps(20);
    join(&mut world, 2, "fra1");
    assert_eq!((half_an_hour(&mut world, 4), by_node(&world)), (2, vec![2, 2]));
    assert_eq!(half_an_hour(&mut world, 4), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_moves_against_a_deployment_or_to_where_it_does_not_get_ready() {
    let mut world = World::new(2);
    world.deploy(definition(1, 4));
    world.steps(20);
    join(&mut world, 3, "fra3");
    // One that is not ready is reason enough to leave all as it is.
    let sick = *places(&world).keys().next().expect("one");
    world.sick.insert(sick);
    let before = world.read(|state| state.placements.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>());
    world.steps(2000);
    assert_eq!(world.read(|state| state.placements.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>()), before);
    world.sick.clear();

    // On the new node nothing gets ready: tried once, and taken away again.
    world.unready = Some(NodeId::new(3));
    assert_eq!((half_an_hour(&mut world, 4), by_node(&world)), (0, vec![2, 2, 0]));
    assert_eq!(world.placed(), 4);
}

#[tokio::test(start_paused = true)]
async fn another_leader_finds_a_move_half_done_and_ends_it() {
    let mut world = World::new(2);
    world.deploy(definition(1, 4));
    world.steps(20);
    join(&mut world, 3, "fra3");
    let mut steps = 0;
    while world.placed() == 4 {
        world.step();
        steps += 1;
        assert!(steps < 1000, "nothing moves");
    }
    world.change_leader();
    world.steps(60);
    assert_eq!((world.placed(), world.serving().len()), (4, 4));
    assert_eq!(by_node(&world).iter().max(), Some(&2), "{:?}", by_node(&world));
}
