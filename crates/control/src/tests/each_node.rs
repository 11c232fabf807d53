//! Services that run once on each node.

use insula_state::{RegionCommand, event::EventKind, region::NodeDuty};
use insula_types::{NodeId, PlacementSpec, RegionalDefinition, Scale};

use super::{
    labels::{by_node, label},
    region::{World, definition, node},
};
use crate::each_node;

fn on_each(release: u64) -> RegionalDefinition {
    let mut definition = definition(release, 0);
    definition.services.values_mut().for_each(|service| service.scale = Scale::EachNode);
    definition
}

fn nodes(world: &World) -> Vec<u64> {
    let counts = by_node(world);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    counts.into_keys().collect()
}

#[tokio::test(start_paused = true)]
async fn each_node_has_one_while_it_is_there() {
    let mut world = World::new(3);
    world.deploy(on_each(1));
    world.steps(3);
    assert_eq!(nodes(&world), [1, 2, 3]);

    let join = RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node: Box::new(node(4, "fra2")) };
    world.plain.apply(5, &join).expect("good");
    world.steps(4);
    assert_eq!(nodes(&world), [1, 2, 3, 4], "one that joins gets one");

    world.off.insert(NodeId::new(2));
    world.steps(40);
    assert_eq!(nodes(&world), [1, 3, 4], "nobody gets a second one for it");
    world.off.clear();
    world.steps(40);
    assert_eq!(nodes(&world), [1, 2, 3, 4], "it is back");

    world.duty(3, NodeDuty::Drain);
    world.steps(6);
    assert_eq!(nodes(&world), [1, 2, 4], "a drained one loses it");
    world.duty(3, NodeDuty::Cordon);
    world.steps(6);
    assert_eq!(nodes(&world), [1, 2, 4], "a cordoned one gets none");
    world.duty(3, NodeDuty::Serve);
    world.duty(1, NodeDuty::Cordon);
    world.steps(6);
    assert_eq!(nodes(&world), [1, 2, 3, 4], "a cordoned one keeps it");
    let counted = world.read(|state| {
        let (app, definition) = state.definitions.iter().next().expect("deployed");
        let (name, service) = definition.services.iter().next().expect("one");
        let name = insula_types::ServiceRef::new(app.clone(), name.clone());
        each_node::wanted(state, &name, &service.spec)
    });
    assert_eq!(counted, 4);
}

#[tokio::test(start_paused = true)]
async fn a_release_goes_from_node_to_node_and_costs_none() {
    let mut world = World::new(4);
    world.deploy(on_each(1));
    world.steps(3);
    world.duty(2, NodeDuty::Cordon);
    world.deploy(on_each(2));
    for _ in 0..30 {
        world.step();
        let serving = world.serving();
        for id in 1..=4 {
            assert!(serving.iter().any(|one| one.node.get() == id), "node {id} has none that serves");
        }
        assert!(serving.len() <= 5, "one beside the old one at a time: {}", serving.len());
    }
    assert_eq!(nodes(&world), [1, 2, 3, 4]);
    assert!(world.serving().iter().all(|one| one.release.0 == 2), "the cordoned one has it too");

    // A release that never gets ready goes to one node, and costs nothing there.
    world.broken = Some(3);
    world.deploy(on_each(3));
    world.steps(30);
    assert_eq!(nodes(&world), [1, 2, 3, 4]);
    assert_eq!(world.read(|state| state.placements.values().filter(|one| one.release.0 == 3).count()), 1);
    world.deploy(on_each(4));
    world.steps(40);
    assert!(world.serving().iter().all(|one| one.release.0 == 4));
    assert_eq!((nodes(&world), world.placed()), (vec![1, 2, 3, 4], 4));
}

#[tokio::test(start_paused = true)]
async fn only_nodes_that_are_asked_for_have_one() {
    let mut world = World::new(3);
    label(&mut world, 1, "disk", "ssd");
    let require = [("disk".parse().expect("a name"), "ssd".parse().expect("a value"))].into();
    let placement = PlacementSpec { require, ..PlacementSpec::default() };
    let told = |world: &World| {
        world.read(|state| state.events.values().filter(|event| event.kind == EventKind::Unplaceable).count())
    };
    let mut asking = on_each(1);
    asking.services.values_mut().for_each(|service| service.spec.placement = placement.clone());
    world.deploy(asking);
    world.steps(3);
    assert_eq!(nodes(&world), [1]);
    label(&mut world, 2, "disk", "ssd");
    label(&mut world, 1, "disk", "hdd");
    world.steps(6);
    assert_eq!((nodes(&world), told(&world)), (vec![2], 0));
    label(&mut world, 2, "disk", "hdd");
    world.steps(6);
    assert_eq!((nodes(&world), told(&world)), (vec![], 1), "it is told that no node is left");
}

#[tokio::test(start_paused = true)]
async fn the_scale_changes_between_a_number_and_each_node() {
    let mut world = World::new(3);
    world.deploy(definition(1, 5));
    world.steps(3);
    world.deploy(on_each(1));
    world.steps(6);
    assert_eq!((nodes(&world), world.placed()), (vec![1, 2, 3], 3));
    world.deploy(definition(1, 2));
    world.steps(6);
    assert_eq!((world.serving().len(), world.placed()), (2, 2));
}
