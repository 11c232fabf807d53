//! Services of lower priority give way to what a loss has left without a place, and to nothing else; and it ends.

use std::collections::{BTreeMap, BTreeSet};

use insula_state::RegionCommand;
use insula_types::{ByteSize, Desired, InstanceId, NodeId, Priority, RegionalDefinition, Scale, ServiceRef};
use proptest::prelude::*;

use super::region::{World, definition, node, tokio_time};
use crate::loss::{self, Then};

/// An app of one service, `NAME/web`. A node has room for three of 1200 MiB.
fn app(name: &str, priority: u8, scale: u32, mib: u64) -> RegionalDefinition {
    let mut app = definition(1, scale);
    app.app = name.parse().expect("a name");
    for service in app.services.values_mut() {
        service.priority = Priority(priority);
        service.spec.resources.memory = ByteSize::mib(mib);
    }
    app
}

fn name(app: &str) -> ServiceRef {
    ServiceRef::new(app.parse().expect("a name"), "web".parse().expect("a name"))
}

fn serving(world: &World, app: &str) -> usize {
    world.serving().iter().filter(|one| one.service == name(app)).count()
}

fn told(world: &World, text: &str) -> usize {
    world.read(|state| state.events.values().filter(|event| event.text.contains(text)).count())
}

/// How many have been told to make place so far.
fn gave(world: &World) -> usize {
    told(world, ", which has lost one")
}

/// What is on a node is never more than may be given away of it.
fn assert_room(world: &World) {
    world.read(|state| {
        for node in state.nodes.values() {
            let taken: u64 = state.placements_of(node.id).map(|one| one.spec.resources.memory.0).sum();
            assert!(taken <= node.capacity.allocatable().memory.0, "too much on {}", node.name);
        }
    });
}

/// Three nodes with three places each; `shop` is important and has four, `batch` has five.
fn full() -> World {
    let mut world = World::at_level(3);
    world.deploy(app("shop", 80, 4, 1200));
    world.steps(6);
    world.deploy(app("batch", 20, 5, 1200));
    // Until the deployments are over.
    world.steps(100);
    assert_eq!((serving(&world, "shop"), serving(&world, "batch")), (4, 5));
    world
}

#[tokio::test(start_paused = true)]
async fn the_lower_gives_way_to_what_a_loss_took_and_comes_back() {
    let mut world = full();
    let lost = NodeId::new(1);
    let of_shop = world.serving().iter().filter(|one| one.service == name("shop") && one.node == lost).count();
    assert!(of_shop > 0);
    world.off.insert(lost);
    world.steps(30);
    assert_eq!((serving(&world, "shop"), gave(&world)), (4 - of_shop, 0), "a node that starts anew is back by then");
    let mut least = usize::MAX;
    for _ in 0..300 {
        world.step();
        assert_room(&world);
        let leaving = world.read(|state| state.placements.values().filter(|one| one.desired == Desired::Drain).count());
        assert!(leaving <= 1, "one place at a time");
        least = least.min(serving(&world, "batch"));
    }
    // Six places are left.
    assert_eq!((serving(&world, "shop"), serving(&world, "batch"), gave(&world)), (4, 2, of_shop));
    assert_eq!(least, 2);
    assert_eq!(told(&world, "to shop/web, which has lost one"), of_shop);
    let why = world.read(|state| state.shortfalls.get(&name("batch")).map(|row| row.text(&name("batch"))));
    let why = why.expect("it waits");
    assert!(
        why.contains("gave its place on n") && why.contains("to shop/web and comes back once there is room"),
        "{why}"
    );
    assert_eq!(world.read(|state| state.shortfalls.get(&name("shop")).cloned()), None, "it has all that it had");
    assert_eq!(world.step(), [], "and then nothing moves");

    world.off.clear();
    world.steps(60);
    assert_eq!((serving(&world, "shop"), serving(&world, "batch"), gave(&world)), (4, 5, of_shop));
    assert_eq!(world.read(|state| state.shortfalls.len()), 0);
    assert_eq!(world.step(), [], "and then nothing moves");
}

#[tokio::test(start_paused = true)]
async fn a_deploy_and_a_scale_take_nothing_from_anybody() {
    let mut world = full();
    world.deploy(app("shop", 80, 6, 1200));
    world.deploy(app("new", 100, 2, 1200));
    world.steps(400);
    assert_eq!((serving(&world, "shop"), serving(&world, "new"), serving(&world, "batch")), (4, 0, 5));
    // Of the six, four were there: two were never had.
    world.off.insert(NodeId::new(1));
    world.steps(400);
    assert_eq!((serving(&world, "shop"), serving(&world, "new"), serving(&world, "batch")), (4, 0, 2));
    world.deploy(app("shop", 80, 3, 1200));
    world.steps(100);
    assert_eq!(
        (serving(&world, "shop"), serving(&world, "new"), serving(&world, "batch")),
        (3, 1, 2),
        "the higher first"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_alike_has_volumes_or_is_on_each_node_stays() {
    for (what, change) in [
        (
            "alike",
            Box::new(|app: &mut RegionalDefinition| {
                app.services.values_mut().for_each(|service| service.priority = Priority(71));
            }) as Box<dyn Fn(&mut RegionalDefinition)>,
        ),
        (
            "volumes",
            Box::new(|app| {
                let volume = insula_types::VolumeSpec {
                    name: "data".parse().expect("a name"),
                    path: "/data".into(),
                    size: ByteSize::mib(64),
                };
                app.services.values_mut().for_each(|service| service.spec.volumes = vec![volume.clone()]);
            }),
        ),
        (
            "each node",
            Box::new(|app| {
                app.services.values_mut().for_each(|service| {
                    service.scale = Scale::EachNode;
                    service.spec.resources.memory = ByteSize::mib(2400);
                });
            }),
        ),
    ] {
        let mut world = World::at_level(3);
        let mut batch = app("batch", 20, 6, 1200);
        change(&mut batch);
        world.deploy(batch);
        world.steps(6);
        world.deploy(app("shop", 80, 3, 1200));
        world.steps(6);
        let before = serving(&world, "batch");
        assert!(serving(&world, "shop") == 3 && before > 0, "{what}");
        world.off.insert(NodeId::new(1));
        world.steps(300);
        assert_eq!((serving(&world, "shop"), gave(&world)), (2, 0), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_one_goes_only_for_a_service_that_has_none() {
    let mut world = World::at_level(2);
    // One place on each node.
    world.deploy(app("shop", 80, 1, 2400));
    world.steps(4);
    let lost = world.serving()[0].node;
    world.deploy(app("batch", 20, 1, 2400));
    world.steps(4);
    world.off.insert(lost);
    world.steps(200);
    assert_eq!((serving(&world, "shop"), serving(&world, "batch")), (1, 0));

    let mut world = World::at_level(3);
    world.deploy(app("shop", 80, 2, 2400));
    world.steps(4);
    let lost = world.serving()[0].node;
    world.deploy(app("batch", 20, 1, 2400));
    world.steps(4);
    world.off.insert(lost);
    world.steps(200);
    assert_eq!((serving(&world, "shop"), serving(&world, "batch"), gave(&world)), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn before_all_programs_know_of_it_nobody_gives_way() {
    let mut world = World::new(3);
    world.deploy(app("shop", 80, 4, 1200));
    world.steps(6);
    world.deploy(app("batch", 20, 5, 1200));
    world.steps(6);
    world.off.insert(NodeId::new(1));
    world.steps(300);
    assert_eq!((gave(&world), world.read(|state| state.shortfalls.len())), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn another_leader_goes_on_and_comes_to_the_same_end() {
    for change_at in [70, 90, 91, 92, 93, 94, 100] {
        let mut world = full();
        world.off.insert(NodeId::new(1));
        for step in 0..500 {
            if step == change_at {
                world.change_leader();
            }
            world.step();
            assert_room(&world);
        }
        assert_eq!((serving(&world, "shop"), serving(&world, "batch")), (4, 2), "changed at {change_at}");
        assert_eq!(world.step(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn the_room_that_is_given_is_for_nobody_else() {
    let mut world = full();
    world.off.insert(NodeId::new(1));
    let is_given = |world: &World| world.read(|state| state.shortfalls.values().any(|row| row.awaits.is_some()));
    while !is_given(&world) {
        world.step();
    }
    // More important than all, and new: it takes nothing that others give, nor does what gave it come back there.
    world.deploy(app("new", 100, 1, 1200));
    world.steps(300);
    assert_eq!((serving(&world, "shop"), serving(&world, "new"), serving(&world, "batch")), (4, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn who_would_give_way_is_told_beforehand() {
    let world = full();
    let lost: BTreeSet<NodeId> = [NodeId::new(1)].into();
    let (takes, gives): (BTreeMap<InstanceId, NodeId>, BTreeMap<InstanceId, NodeId>) = world.read(|state| {
        let (mut takes, mut gives) = (BTreeMap::new(), BTreeMap::new());
        for outcome in loss::outcomes(state, &lost) {
            match outcome.then {
                Then::Takes { to, from } => {
                    assert_eq!(from, [name("batch")].into());
                    takes.insert(outcome.placement.instance, to);
                }
                Then::Gives { to, goes } => {
                    assert_eq!((to, goes), (name("shop"), None));
                    gives.insert(outcome.placement.instance, outcome.placement.node);
                }
                Then::Waits(_) => assert_eq!(outcome.placement.service, name("batch")),
                other => panic!("{other:?}"),
            }
        }
        (takes, gives)
    });
    assert!(!takes.is_empty() && takes.len() == gives.len());
    let mut after = full();
    assert_eq!(after.serving(), world.serving(), "the same world again");
    after.off.extend(&lost);
    after.steps(300);
    let left: BTreeSet<InstanceId> = after.serving().iter().map(|one| one.instance).collect();
    assert!(gives.keys().all(|id| !left.contains(id)), "and so it is");

    // What finds no place for another reason is told who has the room.
    let told = world.read(|state| loss::foretell(state, app("new", 30, 2, 1200)));
    let short = &told.unplaced[&name("new")];
    assert_eq!((short.count, &short.held_by), (2, &[name("batch")].into()));
    let told = world.read(|state| loss::foretell(state, app("new", 29, 2, 1200)));
    assert_eq!(told.unplaced[&name("new")].held_by, BTreeSet::new(), "not clearly lower");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_lost_it_ends_and_nothing_moves_then(
        apps in prop::collection::vec((prop::sample::select(vec![10u8, 20, 25, 50, 90]), 1..5u32, prop::sample::select(vec![600u64, 1200, 2400])), 1..6),
        lost in prop::collection::btree_set(1..=4u64, 1..4),
        change_at in 0..200usize,
    ) {
        tokio_time(|| {
            let mut world = World::at_level(4);
            for (number, (priority, scale, mib)) in apps.iter().enumerate() {
                world.deploy(app(&format!("app{number}"), *priority, *scale, *mib));
                world.steps(4);
            }
            world.steps(10);
            let had: Vec<usize> = (0..apps.len()).map(|number| serving(&world, &format!("app{number}"))).collect();
            world.off.extend(lost.iter().copied().map(NodeId::new));
            let mut still = 0;
            for step in 0.. {
                if step == change_at {
                    world.change_leader();
                }
                let commands = world.step();
                assert_room(&world);
                let is_calm = commands.is_empty() && step != change_at;
                still = if is_calm { still + 1 } else { 0 };
                // Longer than it takes until nodes are evened out, which each leader looks for once it has been calm.
                if still > 650 {
                    break;
                }
                assert!(step < 6000, "it does not end");
            }
            let has: Vec<usize> = (0..apps.len()).map(|number| serving(&world, &format!("app{number}"))).collect();
            // Nothing that is clearly lower runs where a higher one of equal need could, but for the last of a service.
            for (high, (priority, _, mib)) in apps.iter().enumerate() {
                for (low, (lower, _, other)) in apps.iter().enumerate() {
                    let spares = has[low] > usize::from(has[high] > 0);
                    if has[high] < had[high] && mib == other && Priority(*priority).is_clearly_above(Priority(*lower)) {
                        assert!(!spares, "app{high} lacks one, app{low} has {}: {apps:?} {had:?} {has:?}", has[low]);
                    }
                }
            }
            let before: Vec<_> = world.read(|state| state.placements.values().cloned().collect());
            world.steps(400);
            let after: Vec<_> = world.read(|state| state.placements.values().cloned().collect());
            assert!(after == before, "something moved");

            // Room for all again: all come back.
            world.off.clear();
            for id in 5..=12 {
                let node = Box::new(node(id, "fra3"));
                let node = Box::new(insula_types::Node { version: insula_state::LEVEL.mark("test"), ..*node });
                world.plain.apply(0, &RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node }).expect("good");
            }
            world.steps(200);
            let wanted: usize = apps.iter().map(|(_, scale, _)| *scale as usize).sum();
            assert_eq!((world.serving().len(), world.read(|state| state.shortfalls.len())), (wanted, 0));
        });
    }
}
