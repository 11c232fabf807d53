//! Labels of nodes, and what services make of them.

use std::collections::BTreeMap;

use insula_state::{RegionCommand, event::EventKind};
use insula_types::{NodeId, PlacementSpec, RegionalDefinition};

use super::region::{World, definition};

pub(super) fn label(world: &mut World, node: u64, name: &str, value: &str) {
    let labels = [(name.parse().expect("a name"), value.parse().expect("a value"))].into();
    world.plain.apply(0, &RegionCommand::SetLabels { node: NodeId::new(node), labels }).expect("a member");
}

fn asking(scale: u32, placement: &PlacementSpec) -> RegionalDefinition {
    let mut definition = definition(1, scale);
    definition.services.values_mut().for_each(|service| service.spec.placement = placement.clone());
    definition
}

pub(super) fn by_node(world: &World) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    world.serving().iter().for_each(|one| *counts.entry(one.node.get()).or_default() += 1);
    counts
}

#[tokio::test(start_paused = true)]
async fn services_go_to_nodes_with_the_labels_that_they_require() {
    let mut world = World::new(3);
    let require = [("disk".parse().expect("a name"), "ssd".parse().expect("a value"))].into();
    world.deploy(asking(2, &PlacementSpec { require, ..PlacementSpec::default() }));
    world.steps(3);
    assert_eq!(world.placed(), 0);
    let said = world.read(|state| {
        let told = state.events.values().filter(|event| event.kind == EventKind::Unplaceable);
        told.map(|event| event.text.clone()).collect::<Vec<_>>()
    });
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("no node has the label disk = \"ssd\", of 3 that take new ones"), "{said:?}");
    label(&mut world, 2, "disk", "hdd");
    label(&mut world, 3, "disk", "ssd");
    world.steps(4);
    assert_eq!(by_node(&world), [(3, 2)].into());
    label(&mut world, 3, "disk", "hdd");
    world.steps(4);
    assert_eq!(by_node(&world), [(3, 2)].into(), "what runs stays");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_away_leaves_the_rest_spread_over_the_label() {
    let mut world = World::new(4);
    for (node, rack) in [(1, "a"), (2, "a"), (3, "a"), (4, "b")] {
        label(&mut world, node, "rack", rack);
    }
    let spread = PlacementSpec { spread: "rack".parse().expect("a name"), ..PlacementSpec::default() };
    world.deploy(asking(6, &spread));
    world.steps(4);
    assert_eq!(by_node(&world), [(1, 1), (2, 1), (3, 1), (4, 3)].into());
    world.deploy(asking(2, &spread));
    world.steps(6);
    let left = by_node(&world);
    assert_eq!((left.values().sum::<usize>(), left.get(&4)), (2, Some(&1)), "{left:?}");
}
