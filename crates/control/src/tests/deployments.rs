//! Deployments of releases: good ones come out, bad ones are given back, and the old release keeps what it had.

use std::{collections::BTreeSet, time::Duration};

use insula_state::{
    Domain as _, GlobalCommand, GlobalState, RegionCommand,
    global::{App, GlobalKey, GlobalObject, ReleaseOutcome},
    region::Steering,
};
use insula_types::{
    ByteSize, CanarySpec, Deployment, DeploymentState, Desired, InstanceId, NodeId, Placement, Promotion,
    RegionalDefinition, Release, ReleaseNumber, Resources, RestartPolicy, Revision, Strategy, UpdateSpec,
};

use super::region::{World, definition, spec};
use crate::progress;

const SCALE: u32 = 3;

pub(super) fn with_update(release: u64, update: &UpdateSpec) -> RegionalDefinition {
    let mut definition = definition(release, SCALE);
    definition.services.values_mut().for_each(|service| service.update = update.clone());
    definition
}

/// A region that runs release 1 and knows that it is good.
pub(super) fn settled() -> World {
    let mut world = World::at_level(3);
    world.deploy(definition(1, SCALE));
    world.steps(16);
    assert_eq!(deployment(&world).state, DeploymentState::Done, "the first release has nothing to be watched beside");
    world
}

pub(super) fn deployment(world: &World) -> Deployment {
    world.read(|state| state.deployments.values().next().cloned()).expect("one")
}

/// Ready instances by the release that they run.
pub(super) fn serving(world: &World, release: u64) -> usize {
    world.serving().iter().filter(|one| one.spec.command == spec(release).command).count()
}

/// Steps until that holds. Never fewer than wanted are ready.
fn until(world: &mut World, what: &str, holds: impl Fn(&World) -> bool) {
    for _ in 0..2000 {
        if holds(world) {
            return;
        }
        world.step();
        assert!(world.serving().len() >= SCALE as usize, "{what}: capacity was lost: {:?}", deployment(world));
    }
    panic!("never: {what}: {:?}", deployment(world));
}

pub(super) fn until_state(world: &mut World, state: DeploymentState) {
    until(world, state.as_str(), |world| deployment(world).state == state);
}

/// What the world would be told now, were its present release this one.
fn told(world: &World, release: u64) -> Vec<GlobalCommand> {
    let mut global = GlobalState::default();
    let app: insula_types::AppName = "shop".parse().expect("a name");
    let made = Release { number: ReleaseNumber(release), ..Release::default() };
    let key = GlobalKey::Release((app.clone(), made.number));
    global.absorb(Revision(1), key, Some(GlobalObject::Release(made.clone())));
    let object = App::new(app.clone(), made.number, Default::default());
    global.absorb(Revision(1), GlobalKey::App(app), Some(GlobalObject::App(object)));
    world.read(|region| progress::tell_world(&global, region))
}

/// The release that the world is asked to go back to.
pub(super) fn asked_back(world: &World, release: u64) -> Option<(u64, String)> {
    told(world, release).into_iter().find_map(|command| match command {
        GlobalCommand::Rollback { to, why, .. } => Some((to.0, why)),
        _ => None,
    })
}

/// The way back, as the world gives it; the region has what it had in the end.
pub(super) fn goes_back(world: &mut World, failed: u64) {
    assert_eq!(asked_back(world, failed).expect("asked").0, 1);
    world.steps(20);
    assert!(serving(world, 1) >= SCALE as usize, "it waits with what it had");
    world.deploy(RegionalDefinition {
        again_of: Some(ReleaseNumber(1)),
        ..RegionalDefinition { release: ReleaseNumber(failed + 1), ..definition(1, SCALE) }
    });
    until_state(world, DeploymentState::Done);
    world.steps(20);
    assert_eq!((serving(world, 1), world.placed()), (SCALE as usize, SCALE as usize));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_is_full_does_not_fail_a_release() {
    for update in [UpdateSpec::default(), canary(Promotion::Auto)] {
        for id in 1..=3 {
            let mut world = settled();
            let full = NodeId::new(id);
            world.deploy(with_update(2, &update));
            // Something may have been placed there by then.
            world.step();
            world.full.insert(full);
            until_state(&mut world, DeploymentState::Done);
            world.steps(20);
            assert_eq!((serving(&world, 2), world.placed()), (3, 3));
            assert_eq!(world.read(|state| state.placements_of(full).count()), 0, "what came is elsewhere");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_disks_are_full_the_release_fails_and_says_why() {
    let mut world = settled();
    world.full.extend([1, 2, 3].map(NodeId::new));
    world.deploy(definition(2, SCALE));
    until_state(&mut world, DeploymentState::Failed);
    let why = deployment(&world).why;
    assert!(why.contains("cannot be started: no space left on device"), "{why}");
    assert_eq!(serving(&world, 1), 3);
}

#[tokio::test(start_paused = true)]
async fn a_good_release_comes_out_and_is_watched() {
    let mut world = settled();
    world.deploy(definition(2, SCALE));
    assert_eq!(deployment(&world).state, DeploymentState::Going);
    until_state(&mut world, DeploymentState::Baking);
    assert_eq!(serving(&world, 2), 3);
    assert!(deployment(&world).from.is_some(), "it may have to come back");
    let since_ms = world.now_ms;
    until_state(&mut world, DeploymentState::Done);
    assert!(world.now_ms - since_ms >= 30_000, "{} ms", world.now_ms - since_ms);
    assert_eq!(deployment(&world).from, None);
    assert!(
        matches!(&told(&world, 2)[..], [GlobalCommand::ReportOutcome { outcome, .. }] if outcome.state == DeploymentState::Done)
    );
    world.steps(4);
    assert_eq!(world.placed(), 3, "what waited is gone");
    assert_eq!(world.step(), []);
}

#[tokio::test(start_paused = true)]
async fn the_world_knows_what_a_region_may_have_to_go_back_to() {
    let mut world = settled();
    // That release 1 was good could not be told before the next one came.
    world.deploy(definition(2, SCALE));
    world.steps(2);
    let told = |world: &World, known: &[(u64, Option<DeploymentState>)]| {
        let mut global = GlobalState::default();
        let app: insula_types::AppName = "shop".parse().expect("a name");
        for (number, state) in known {
            let id = (app.clone(), ReleaseNumber(*number));
            let release = Release { number: id.1, ..Release::default() };
            global.absorb(Revision(1), GlobalKey::Release(id.clone()), Some(GlobalObject::Release(release)));
            let outcome = state.map(|state| ReleaseOutcome { state, why: String::new(), at_ms: 0 });
            let region = "fra".parse().expect("a name");
            let regions = outcome.map(|outcome| GlobalObject::Outcome([(region, outcome)].into()));
            global.absorb(Revision(1), GlobalKey::Outcome(id), regions);
        }
        let commands = world.read(|region| progress::tell_world(&global, region));
        let report = |command| match command {
            GlobalCommand::ReportOutcome { release, outcome, .. } => (release.0, outcome.state),
            other => panic!("{other:?}"),
        };
        commands.into_iter().map(report).collect::<Vec<_>>()
    };
    let done = DeploymentState::Done;
    assert_eq!(told(&world, &[(1, None), (2, None)]), [(1, done)]);
    assert_eq!(told(&world, &[(1, Some(DeploymentState::Failed)), (2, None)]), [(1, done)]);
    assert_eq!(told(&world, &[(1, Some(done)), (2, None)]), []);
    assert_eq!(told(&world, &[(2, None)]), [], "the world has forgotten it");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_never_gets_healthy_is_given_back() {
    let mut world = settled();
    world.broken = Some(2);
    world.deploy(definition(2, SCALE));
    until_state(&mut world, DeploymentState::Failed);
    let (to, why) = asked_back(&world, 2).expect("asked");
    assert_eq!(to, 1);
    assert!(why.contains("release 2 failed in fra") && why.contains("ended 4 times without getting ready"), "{why}");
    assert!(why.contains("ended with exit code 1"), "{why}");
    goes_back(&mut world, 2);
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_instances_end_and_are_left_so_is_given_back_soon() {
    let mut world = settled();
    let mut once = definition(2, SCALE);
    once.services.values_mut().for_each(|service| service.spec.restart.policy = RestartPolicy::Never);
    world.broken = Some(2);
    world.deploy(once);
    world.steps(20);
    assert_eq!(deployment(&world).state, DeploymentState::Going, "it may be about to be started");
    world.steps(20);
    let Deployment { state, why, .. } = deployment(&world);
    assert_eq!(state, DeploymentState::Failed);
    assert!(why.contains("did not get ready before it ended: ended with exit code 1"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_gets_worse_is_given_back() {
    let mut world = settled();
    world.deploy(definition(2, SCALE));
    until(&mut world, "the first is good and an old one went", |world| serving(world, 1) < SCALE as usize);
    let new: Vec<InstanceId> =
        world.serving().iter().filter(|one| one.spec == spec(2)).map(|one| one.instance).collect();
    world.sick.extend(new);
    for _ in 0..100 {
        world.step();
        assert!(serving(&world, 1) >= 2, "no old one goes any more");
    }
    assert_eq!(deployment(&world).state, DeploymentState::Failed);
    assert!(deployment(&world).why.contains("was ready and did not stay so"), "{}", deployment(&world).why);
    assert_eq!(serving(&world, 1), 3, "what went comes back before anybody is asked");
    goes_back(&mut world, 2);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_needs_more_than_there_is_is_given_back() {
    let mut world = settled();
    let mut large = definition(2, SCALE);
    let resources = Resources { memory: ByteSize::mib(1 << 20), ..Resources::default() };
    large.services.values_mut().for_each(|service| service.spec.resources = resources);
    world.deploy(large);
    until_state(&mut world, DeploymentState::Failed);
    assert!(deployment(&world).why.contains("no room on any of 3 nodes"), "{}", deployment(&world).why);
    goes_back(&mut world, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_while_a_deployment_waits_comes_back_as_it_was() {
    let mut world = settled();
    world.deploy(definition(2, SCALE));
    until(&mut world, "one of each", |world| serving(world, 2) == 1 && serving(world, 1) == 2);
    let steer = |world: &mut World, steering| {
        let (app, release) = ("shop".parse().expect("a name"), ReleaseNumber(2));
        world.plain.apply(0, &RegionCommand::SteerDeployment { app, release, steering })
    };
    steer(&mut world, Steering::Pause).expect("it goes");
    let lost = world.serving().into_iter().find(|one| one.spec == spec(1)).expect("an old one").node;
    world.off.insert(lost);
    world.steps(30);
    world.off.clear();
    world.steps(30);
    assert_eq!((serving(&world, 1), serving(&world, 2)), (2, 1));
    steer(&mut world, Steering::Resume).expect("it waits");
    until_state(&mut world, DeploymentState::Done);
    assert_eq!((serving(&world, 1), serving(&world, 2)), (0, 3));
    let refused = steer(&mut world, Steering::Abort).expect_err("it is over");
    assert!(refused.contains("is out already"), "{refused}");
}

/// Instances that shall run, by the release that they run.
fn wanted(world: &World, release: u64) -> usize {
    let is_wanted = |one: &&Placement| one.desired == Desired::Run && one.spec == spec(release);
    world.read(|state| state.placements.values().filter(is_wanted).count())
}

#[tokio::test(start_paused = true)]
async fn what_begins_while_a_release_is_watched_is_of_that_release() {
    type Change = fn(&mut World);
    let mut world = settled();
    world.deploy(definition(2, SCALE));
    until_state(&mut world, DeploymentState::Baking);
    // Stopped and started again, scaled, and two nodes lost at once.
    let changes: [(&str, Change, usize); 4] = [
        ("stopped", |world| world.deploy(definition(2, 0)), 0),
        ("started", |world| world.deploy(definition(2, SCALE)), SCALE as usize),
        ("scaled", |world| world.deploy(definition(2, 6)), 6),
        ("lost", |world| world.off.extend([1, 2].map(NodeId::new)), 6),
    ];
    for (what, change, count) in changes {
        change(&mut world);
        for _ in 0..10 {
            world.step();
            assert_eq!(wanted(&world, 1), 0, "{what}: an instance of the release before");
        }
        assert_eq!((wanted(&world, 2), deployment(&world).state), (count, DeploymentState::Baking), "{what}");
    }
    // It may fail all the same, and then what was good comes back.
    let all: Vec<InstanceId> = world.serving().iter().map(|one| one.instance).collect();
    world.sick.extend(all);
    world.steps(60);
    assert_eq!((deployment(&world).state, serving(&world, 1)), (DeploymentState::Failed, 6));
}

#[tokio::test(start_paused = true)]
async fn somebody_may_end_it_also_where_nothing_goes_back_by_itself() {
    let mut world = settled();
    let update = UpdateSpec { auto_rollback: false, ..UpdateSpec::default() };
    world.deploy(with_update(2, &update));
    world.steps(4);
    let (app, release) = ("shop".parse().expect("a name"), ReleaseNumber(2));
    world.plain.apply(0, &RegionCommand::SteerDeployment { app, release, steering: Steering::Abort }).expect("it goes");
    goes_back(&mut world, 2);

    world.broken = Some(4);
    world.deploy(with_update(4, &update));
    until_state(&mut world, DeploymentState::Failed);
    world.steps(50);
    assert_eq!(asked_back(&world, 4), None, "it waits for somebody");
    assert_eq!(serving(&world, 1), 3);
}

/// What gets requests of a release, by instance.
fn serving_of(world: &World, release: u64) -> BTreeSet<InstanceId> {
    let all = world.serving();
    all.iter().filter(|one| one.spec.command == spec(release).command).map(|one| one.instance).collect()
}

/// Instances of a release that are there, whether they get requests or not.
fn placed_of(world: &World, release: u64) -> BTreeSet<InstanceId> {
    let is_of = |one: &&Placement| one.spec.command == spec(release).command;
    world.read(|state| state.placements.values().filter(is_of).map(|one| one.instance).collect())
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_takes_over_from_a_release_that_gets_worse() {
    for (healthy, state) in [(1, DeploymentState::Going), (2, DeploymentState::Going), (3, DeploymentState::Baking)] {
        for is_new_leader in [false, true] {
            let mut world = settled();
            let before = serving_of(&world, 1);
            world.deploy(definition(2, SCALE));
            until(&mut world, "so many are replaced", |world| {
                serving_of(world, 1).len() == SCALE as usize - healthy && deployment(world).state == state
            });
            assert_eq!(placed_of(&world, 1), before, "they wait");
            let worse = serving_of(&world, 2);
            world.sick.extend(worse);
            if is_new_leader {
                world.change_leader();
            }
            world.steps(2);
            assert_eq!(serving_of(&world, 1), before, "the same instances serve in the next round");
            until_state(&mut world, DeploymentState::Failed);
            assert_eq!(serving_of(&world, 1), before);
            goes_back(&mut world, 2);
            assert_eq!(serving_of(&world, 1), before, "none had to be started anew");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_serves_again_when_a_release_is_taken_back() {
    let mut world = settled();
    let before = serving_of(&world, 1);
    world.deploy(definition(2, SCALE));
    until_state(&mut world, DeploymentState::Baking);
    let one = serving_of(&world, 2).first().copied();
    world.sick.extend(one);
    until_state(&mut world, DeploymentState::Failed);
    assert_eq!((serving(&world, 1), serving(&world, 2)), (1, 2), "for as long as the others are good");
    let update = UpdateSpec { bake: Duration::ZERO, ..UpdateSpec::default() };
    world.deploy(RegionalDefinition {
        again_of: Some(ReleaseNumber(1)),
        ..RegionalDefinition { release: ReleaseNumber(3), ..with_update(1, &update) }
    });
    until_state(&mut world, DeploymentState::Done);
    world.steps(4);
    assert_eq!((serving_of(&world, 1), world.placed()), (before, SCALE as usize), "none had to be started anew");
}

#[tokio::test(start_paused = true)]
async fn what_waits_outlasts_a_moment_in_which_nothing_is_ready() {
    let mut world = settled();
    let before = serving_of(&world, 1);
    world.deploy(definition(2, SCALE));
    until_state(&mut world, DeploymentState::Baking);
    let all: BTreeSet<InstanceId> = before.iter().copied().chain(serving_of(&world, 2)).collect();
    world.sick.extend(&all);
    world.steps(3);
    let waits = |world: &World| {
        world.read(|state| {
            before.iter().all(|id| state.placements.get(id).is_some_and(|one| one.desired == Desired::Drain))
        })
    };
    assert!(waits(&world), "no unready one is called back, nor stopped");
    world.sick.clear();
    world.steps(3);
    assert_eq!((serving(&world, 1), serving(&world, 2)), (0, 3));
    world.sick.extend(serving_of(&world, 2));
    world.steps(2);
    assert_eq!(serving_of(&world, 1), before);
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_goes_when_the_release_is_good_or_its_room_is_wanted() {
    let mut world = settled();
    world.deploy(definition(2, SCALE));
    until_state(&mut world, DeploymentState::Baking);
    world.steps(5);
    assert_eq!((placed_of(&world, 1).len(), serving(&world, 2)), (3, 3));
    // A drained node keeps nobody who waits.
    world.duty(1, insula_state::region::NodeDuty::Drain);
    until(&mut world, "the node is empty", |world| {
        world.read(|state| state.placements_of(NodeId::new(1)).count()) == 0
    });
    world.duty(1, insula_state::region::NodeDuty::Serve);
    assert!(!placed_of(&world, 1).is_empty(), "the others wait on");
    until_state(&mut world, DeploymentState::Done);
    world.steps(4);
    assert_eq!((placed_of(&world, 1).len(), world.placed()), (0, 3));

    // Nor is anything kept that nobody watches, that may be missed, that gets no requests, or that is beyond the scale.
    let usual = UpdateSpec::default;
    for (update, has_ports, scale) in [
        (UpdateSpec { bake: Duration::ZERO, ..usual() }, true, SCALE),
        (UpdateSpec { max_unavailable: 1, ..usual() }, true, SCALE),
        (usual(), false, SCALE),
        (usual(), true, 0),
    ] {
        let mut world = World::at_level(3);
        let made = |release| {
            let mut definition = with_update(release, &update);
            let ports = |service: &mut insula_types::RegionalService| {
                if !has_ports {
                    service.spec.ports.clear()
                }
            };
            definition.services.values_mut().for_each(ports);
            definition
        };
        world.deploy(made(1));
        world.steps(16);
        world.deploy(made(2));
        world.steps(1);
        world.deploy(RegionalDefinition {
            services: made(2)
                .services
                .into_iter()
                .map(|(name, service)| (name, insula_types::RegionalService { scale: scale.into(), ..service }))
                .collect(),
            ..made(2)
        });
        let mut most = 0;
        for _ in 0..40 {
            world.step();
            most = most.max(world.placed());
        }
        assert!(most <= SCALE as usize + 2, "{most}: one more, and one that is being stopped");
        assert_eq!(placed_of(&world, 1).len(), 0, "{update:?} {has_ports} {scale}");
    }

    // Another app wants the room.
    let mut world = settled();
    world.deploy(definition(2, SCALE));
    until_state(&mut world, DeploymentState::Baking);
    let mut other = definition(1, 1);
    other.app = "other".parse().expect("a name");
    // Room for it on one of the nodes only without what waits there.
    let free = world.read(|state| state.nodes.get(&NodeId::new(1)).expect("a node").capacity.memory.0);
    let small = spec(1).resources.memory.0;
    other.services.values_mut().for_each(|service| service.spec.resources.memory = ByteSize(free * 9 / 10 - small));
    world.deploy(other);
    until(&mut world, "its room is free", |world| {
        world.serving().iter().any(|one| one.service.app.as_str() == "other")
    });
    let is_watched = world.read(|state| {
        state.deployments.iter().any(|(app, one)| app.as_str() != "other" && one.state == DeploymentState::Baking)
    });
    assert_eq!((serving(&world, 2), is_watched), (3, true));
    assert!(placed_of(&world, 1).len() < 3, "what waits has made room");
}

fn canary(promotion: Promotion) -> UpdateSpec {
    let strategy = Strategy::Canary(CanarySpec { instances: 1, weight: 10, promotion, max_errors: 10 });
    UpdateSpec { strategy, ..UpdateSpec::default() }
}

#[tokio::test(start_paused = true)]
async fn canaries_run_beside_all_of_the_old_release_until_they_are_promoted() {
    let mut world = settled();
    world.deploy(with_update(2, &canary(Promotion::Manual)));
    assert_eq!(deployment(&world).state, DeploymentState::First);
    world.steps(200);
    assert_eq!((serving(&world, 1), serving(&world, 2)), (3, 1), "for as long as it takes");
    let (app, release) = ("shop".parse().expect("a name"), ReleaseNumber(2));
    world
        .plain
        .apply(0, &RegionCommand::SteerDeployment { app, release, steering: Steering::Promote })
        .expect("a canary");
    until_state(&mut world, DeploymentState::Done);
    assert_eq!((serving(&world, 1), serving(&world, 2)), (0, 3));

    world.deploy(with_update(3, &canary(Promotion::Auto)));
    let since_ms = world.now_ms;
    until_state(&mut world, DeploymentState::Going);
    assert!(world.now_ms - since_ms >= 35_000, "min_healthy and bake");
    until_state(&mut world, DeploymentState::Done);
    assert_eq!(serving(&world, 3), 3);

    world.broken = Some(4);
    world.deploy(with_update(4, &canary(Promotion::Auto)));
    until_state(&mut world, DeploymentState::Failed);
    assert_eq!(serving(&world, 3), 3);
    assert_eq!(asked_back(&world, 4).expect("asked").0, 3);
}

#[tokio::test(start_paused = true)]
async fn the_other_colour_is_whole_before_the_first_goes() {
    let mut world = settled();
    let update = UpdateSpec { strategy: Strategy::BlueGreen(Promotion::Auto), ..UpdateSpec::default() };
    world.deploy(with_update(2, &update));
    until(&mut world, "both are whole", |world| (serving(world, 1), serving(world, 2)) == (3, 3));
    assert_eq!(deployment(&world).state, DeploymentState::First);
    until_state(&mut world, DeploymentState::Done);
    world.steps(4);
    assert_eq!((serving(&world, 1), serving(&world, 2), world.placed()), (0, 3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_release_over_one_that_is_not_out_goes_back_to_the_last_good_one() {
    let mut world = settled();
    world.deploy(definition(2, SCALE));
    world.steps(8);
    world.broken = Some(3);
    world.deploy(definition(3, SCALE));
    until_state(&mut world, DeploymentState::Failed);
    assert_eq!(asked_back(&world, 3).expect("asked").0, 1);
    world.broken = None;
    goes_back(&mut world, 3);
}

#[tokio::test(start_paused = true)]
async fn a_first_release_has_its_whole_deadline_and_may_get_well_later() {
    let mut world = World::at_level(3);
    world.broken = Some(1);
    world.deploy(definition(1, SCALE));
    world.steps(400);
    assert_eq!(deployment(&world).state, DeploymentState::Going);
    world.steps(300);
    assert_eq!(deployment(&world).state, DeploymentState::Failed);
    assert!(deployment(&world).why.contains("nothing got on for 5m: shop/web"), "{}", deployment(&world).why);
    assert_eq!(asked_back(&world, 1), None, "there is nothing to go back to");
    let wanted =
        |world: &World| world.read(|state| state.placements.values().filter(|one| one.desired == Desired::Run).count());
    assert_eq!(wanted(&world), 3, "it is tried on");
    world.broken = None;
    world.steps(20);
    assert_eq!(deployment(&world).state, DeploymentState::Done);
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_is_left_while_a_deployment_waits() {
    let mut world = settled();
    world.deploy(with_update(2, &canary(Promotion::Manual)));
    world.steps(40);
    for id in 1..=3 {
        world.duty(id, insula_state::region::NodeDuty::Drain);
        until(&mut world, "the node is empty", |world| {
            world.read(|state| state.placements_of(NodeId::new(id)).count()) == 0
        });
        world.duty(id, insula_state::region::NodeDuty::Serve);
    }
    world.steps(20);
    assert_eq!((serving(&world, 1), serving(&world, 2)), (3, 1));
    assert_eq!(deployment(&world).state, DeploymentState::First);
}

#[tokio::test(start_paused = true)]
async fn whenever_the_leader_is_lost_the_end_is_the_same() {
    for is_good in [true, false] {
        for lost_after in (0..150).step_by(5) {
            let mut world = settled();
            world.broken = (!is_good).then_some(2);
            world.deploy(definition(2, SCALE));
            for _ in 0..lost_after {
                world.step();
                assert!(world.serving().len() >= SCALE as usize, "capacity was lost before step {lost_after}");
            }
            world.change_leader();
            let end = if is_good { DeploymentState::Done } else { DeploymentState::Failed };
            until_state(&mut world, end);
            if is_good {
                world.steps(4);
                assert_eq!((serving(&world, 2), world.placed()), (3, 3), "lost after {lost_after} steps");
            } else {
                assert!(deployment(&world).why.contains("ended 4 times"), "{}", deployment(&world).why);
                goes_back(&mut world, 2);
            }
        }
    }
}
