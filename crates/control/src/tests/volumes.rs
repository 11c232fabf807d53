//! Services whose instances have volumes.

use std::collections::{BTreeMap, BTreeSet};

use insula_state::{RegionCommand, region::NodeDuty};
use insula_types::{ByteSize, NodeId, RegionalDefinition, ServiceSpec, VolumeRef, VolumeSpec};

use super::region::{World, definition, spec};

/// A definition whose instances have a volume each.
fn with_volumes(release: u64, scale: u32) -> RegionalDefinition {
    let mut definition = definition(release, scale);
    let size = ByteSize::mib(64);
    let volumes = vec![VolumeSpec { name: "data".parse().expect("a name"), path: "/data".into(), size }];
    for service in definition.services.values_mut() {
        service.spec = ServiceSpec { volumes: volumes.clone(), ..spec(release) };
    }
    definition
}

fn volume(slot: u32) -> VolumeRef {
    format!("shop/web/data.{slot}").parse().expect("a volume")
}

/// The node of each slot's ready instance.
fn serving(world: &World) -> BTreeMap<u32, NodeId> {
    world.serving().iter().map(|one| (one.slot.expect("a slot"), one.node)).collect()
}

/// No slot has two instances, and none is where its volumes are not.
fn check(world: &World) {
    world.read(|state| {
        let mut slots = BTreeSet::new();
        for placement in state.placements.values().filter(|placement| placement.slot.is_some()) {
            assert!(slots.insert((placement.service.clone(), placement.slot)), "two of a slot");
            for volume in placement.volumes() {
                assert_eq!(state.volumes.get(&volume).expect("made with it").node, placement.node, "{volume}");
            }
        }
    });
}

fn steps(world: &mut World, count: usize) {
    for _ in 0..count {
        world.step();
        check(world);
    }
}

fn unplaceable(world: &World) -> String {
    world.read(|state| {
        let mut events =
            state.events.values().filter(|event| event.kind == insula_state::event::EventKind::Unplaceable);
        events.next_back().map(|event| event.text.clone()).unwrap_or_default()
    })
}

#[tokio::test(start_paused = true)]
async fn each_instance_has_its_volume_and_a_release_comes_to_it_one_by_one() {
    let mut world = World::new(3);
    world.deploy(with_volumes(1, 3));
    steps(&mut world, 3);
    let homes = serving(&world);
    assert_eq!(homes.len(), 3);
    assert_eq!(homes.values().collect::<BTreeSet<_>>().len(), 3, "on different nodes");
    world.deploy(with_volumes(2, 3));
    for _ in 0..40 {
        steps(&mut world, 1);
        assert!(world.serving().len() >= 2, "one at a time");
    }
    assert_eq!(serving(&world), homes, "where they were");
    assert!(world.serving().iter().all(|one| one.release.0 == 2));

    world.deploy(with_volumes(2, 1));
    steps(&mut world, 8);
    assert_eq!(world.placed(), 1);
    assert_eq!(world.read(|state| state.volumes.len()), 3, "volumes are kept");
    world.deploy(with_volumes(2, 3));
    steps(&mut world, 4);
    assert_eq!(serving(&world), homes, "with the data that they had");
    let app = "shop".parse().expect("a name");
    world.plain.apply(0, &RegionCommand::RemoveDefinition { app }).expect("there");
    steps(&mut world, 10);
    assert_eq!((world.placed(), world.read(|state| state.volumes.len())), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_waited_for_and_never_replaced_by_an_empty_volume() {
    let mut world = World::new(3);
    world.deploy(with_volumes(1, 2));
    steps(&mut world, 3);
    let homes = serving(&world);
    world.off.insert(homes[&0]);
    steps(&mut world, 200);
    assert_eq!(serving(&world), BTreeMap::from([(1, homes[&1])]), "nobody takes its place");
    assert!(unplaceable(&world).contains("shop/web/data.0 is on node"), "{}", unplaceable(&world));
    // A release meanwhile comes to the other when the first is back, since one must be well for another to go.
    world.deploy(with_volumes(2, 2));
    steps(&mut world, 20);
    assert_eq!(world.serving().len(), 1);
    world.off.clear();
    steps(&mut world, 40);
    assert_eq!(serving(&world), homes);
    assert!(world.serving().iter().all(|one| one.release.0 == 2));

    // For good: who removes the node and the volume says that the data may go.
    world.off.insert(homes[&0]);
    steps(&mut world, 60);
    let (id, expected) = world.read(|state| (homes[&0], state.nodes.revision(&homes[&0]).expect("there")));
    let out = RegionCommand::TakeOutNode { id, reason: "burnt".into(), expected, is_forced: true };
    world.plain.apply(0, &out).expect("down");
    steps(&mut world, 10);
    assert!(unplaceable(&world).contains("which was removed, and its data with it"), "{}", unplaceable(&world));
    assert_eq!(world.serving().len(), 1);
    world.plain.apply(0, &RegionCommand::DeleteVolume { volume: volume(0) }).expect("nobody uses it");
    steps(&mut world, 6);
    assert_eq!(world.serving().len(), 2, "with an empty one");
}

#[tokio::test(start_paused = true)]
async fn a_cordoned_or_drained_node_keeps_what_has_its_data_there() {
    let mut world = World::new(2);
    world.deploy(with_volumes(1, 2));
    steps(&mut world, 3);
    let homes = serving(&world);
    world.duty(homes[&0].get(), NodeDuty::Drain);
    world.duty(homes[&1].get(), NodeDuty::Cordon);
    steps(&mut world, 20);
    assert_eq!(serving(&world), homes);
    world.deploy(with_volumes(2, 2));
    steps(&mut world, 30);
    assert_eq!(serving(&world), homes, "a release comes there too");
    assert!(world.serving().iter().all(|one| one.release.0 == 2));
}

#[tokio::test(start_paused = true)]
async fn a_service_gets_volumes_and_loses_them_again() {
    let mut world = World::new(3);
    world.deploy(definition(1, 2));
    steps(&mut world, 3);
    world.deploy(with_volumes(2, 2));
    for _ in 0..30 {
        steps(&mut world, 1);
        assert!(world.serving().len() >= 2, "those without go when those with are there");
    }
    assert_eq!(serving(&world).len(), 2);
    world.deploy(definition(3, 2));
    steps(&mut world, 30);
    let last = world.serving();
    assert!(last.len() == 2 && last.iter().all(|one| one.slot.is_none()), "{last:?}");
    assert_eq!(world.read(|state| state.volumes.len()), 2, "deleted by nobody");
}
