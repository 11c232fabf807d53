//! Hooks of deployments: once, before anything else of a release, and when it is out.

use insula_state::{RegionCommand, region::NodeDuty, region::Steering};
use insula_types::{
    ByteSize, Deployment, DeploymentState, Desired, HookKind, HookState, HooksSpec, InstanceId, NodeId, Phase,
    Placement, RegionalDefinition, ReleaseNumber, Resources, Scale, UpdateSpec, VolumeSpec,
};

use super::{
    deployments::{asked_back, deployment, goes_back, serving, settled, until_state, with_update},
    region::{World, definition, spec},
};

const SCALE: usize = 3;

/// A release whose service has a hook of each kind.
fn with_hooks(release: u64) -> RegionalDefinition {
    with_timeout(release, 60)
}

fn with_timeout(release: u64, seconds: u64) -> RegionalDefinition {
    let timeout = std::time::Duration::from_secs(seconds);
    let hooks = HooksSpec { before: vec!["./migrate".into(), "up".into()], after: vec!["./notify".into()], timeout };
    with_update(release, &UpdateSpec { hooks, ..UpdateSpec::default() })
}

fn begun(world: &World) -> Vec<&str> {
    world.hooks.begun.iter().map(|(program, _)| program.as_str()).collect()
}

fn of_hooks(world: &World) -> Vec<Placement> {
    world.read(|state| state.placements.values().filter(|one| one.hook.is_some()).cloned().collect())
}

/// Instances of a release, whatever they do.
fn placed(world: &World, release: u64) -> usize {
    world.read(|state| state.placements.values().filter(|one| one.spec == spec(release)).count())
}

fn steer(world: &mut World, release: u64, steering: Steering) {
    let (app, release) = ("shop".parse().expect("a name"), ReleaseNumber(release));
    world.plain.apply(0, &RegionCommand::SteerDeployment { app, release, steering }).expect("it is under way");
}

/// Steps until a hook runs; gives its instance.
fn until_begun(world: &mut World, count: usize) -> (InstanceId, NodeId) {
    for _ in 0..200 {
        if world.hooks.begun.len() >= count {
            let id = world.hooks.begun[count - 1].1;
            let node = world.read(|state| state.placements.get(&id).map(|one| one.node));
            return (id, node.expect("it runs"));
        }
        world.step();
    }
    panic!("no {count} hooks: {:?}", deployment(world));
}

#[tokio::test(start_paused = true)]
async fn a_release_begins_after_one_hook_and_ends_with_the_other() {
    let mut world = settled();
    world.hooks.takes = 10;
    world.deploy(with_hooks(2));
    assert_eq!(deployment(&world).state, DeploymentState::Before);
    while deployment(&world).state == DeploymentState::Before {
        assert_eq!((serving(&world, 1), placed(&world, 2)), (SCALE, 0), "nothing of it, and all of the old one");
        assert!(of_hooks(&world).len() <= 1);
        world.step();
    }
    assert_eq!(begun(&world), ["./migrate"]);
    until_state(&mut world, DeploymentState::Baking);
    assert_eq!(begun(&world), ["./migrate"]);
    until_state(&mut world, DeploymentState::After);
    until_state(&mut world, DeploymentState::Done);
    assert_eq!(begun(&world), ["./migrate", "./notify"]);
    world.steps(10);
    assert_eq!((serving(&world, 2), world.placed()), (SCALE, SCALE));
    assert_eq!((deployment(&world).why, deployment(&world).from), (String::new(), None));
    assert_eq!(world.step(), []);

    let mut more = with_hooks(2);
    more.services.values_mut().for_each(|service| service.scale = Scale::Count(5));
    world.deploy(more);
    world.steps(20);
    assert_eq!((serving(&world, 2), begun(&world).len()), (5, 2), "a scale is no release");
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_leaves_everything_as_it_was() {
    let mut world = settled();
    let before = world.serving();
    world.hooks.broken = Some("./migrate".into());
    world.deploy(with_hooks(2));
    until_state(&mut world, DeploymentState::Failed);
    let id = world.hooks.begun[0].1;
    let why = deployment(&world).why;
    assert!(why.starts_with("shop/web: hook before on n"), "{why}");
    assert!(why.ends_with(&format!("ended with exit code 1; what it wrote: insula logs --instance {id}")), "{why}");
    assert_eq!(asked_back(&world, 2).expect("asked").0, 1);
    world.steps(100);
    assert_eq!((world.serving(), placed(&world, 2)), (before.clone(), 0), "the very same instances");
    goes_back(&mut world, 2);
    assert_eq!((world.serving(), begun(&world)), (before, vec!["./migrate"]), "none on the way back");
}

#[tokio::test(start_paused = true)]
async fn a_first_release_whose_hook_fails_starts_nothing_and_the_next_may() {
    let mut world = World::at_level(3);
    world.hooks.broken = Some("./migrate".into());
    world.deploy(with_hooks(1));
    for _ in 0..400 {
        world.step();
        assert_eq!(world.placed(), of_hooks(&world).len());
    }
    let now = deployment(&world);
    assert_eq!((now.state, begun(&world).len()), (DeploymentState::Failed, 1), "{}", now.why);
    world.hooks.broken = None;
    let mut again = with_hooks(2);
    again.services.values_mut().for_each(|service| service.spec = spec(1));
    world.deploy(again);
    for _ in 0..40 {
        world.step();
    }
    assert_eq!((serving(&world, 1), deployment(&world).state), (SCALE, DeploymentState::Done));
    assert_eq!(begun(&world), ["./migrate", "./migrate", "./notify"]);
}

#[tokio::test(start_paused = true)]
async fn whenever_the_leader_is_lost_each_hook_runs_once() {
    for is_good in [true, false] {
        for lost_after in 0..110 {
            let mut world = settled();
            world.hooks.takes = 8;
            world.hooks.broken = (!is_good).then(|| "./migrate".into());
            world.deploy(with_hooks(2));
            for _ in 0..lost_after {
                world.step();
                assert!(world.serving().len() >= SCALE, "capacity was lost before step {lost_after}");
            }
            world.change_leader();
            if is_good {
                until_state(&mut world, DeploymentState::Done);
                world.steps(10);
                assert_eq!(begun(&world), ["./migrate", "./notify"], "lost after {lost_after} steps");
                assert_eq!((serving(&world, 2), world.placed()), (SCALE, SCALE));
            } else {
                until_state(&mut world, DeploymentState::Failed);
                goes_back(&mut world, 2);
                assert_eq!(begun(&world), ["./migrate"], "lost after {lost_after} steps");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_whose_node_is_lost_is_begun_elsewhere_three_times_at_most() {
    let mut world = settled();
    world.hooks.takes = 20;
    world.deploy(with_hooks(2));
    let (_, first) = until_begun(&mut world, 1);
    world.off.insert(first);
    let (_, second) = until_begun(&mut world, 2);
    assert_ne!(first, second);
    assert!(deployment(&world).hooks[0].tries == 2 && placed(&world, 2) == 0);
    world.off.clear();
    for _ in 0..60 {
        world.step();
    }
    assert_eq!(begun(&world), ["./migrate", "./migrate"], "what is on the node that is back is stopped");
    assert_ne!(deployment(&world).state, DeploymentState::Before);

    let mut world = settled();
    world.hooks.takes = 1000;
    world.deploy(with_hooks(2));
    for count in 1..=3 {
        let (_, node) = until_begun(&mut world, count);
        world.off = [node].into();
        world.steps(10);
        world.off.clear();
        world.steps(6);
    }
    world.steps(10);
    let now = deployment(&world);
    assert_eq!((now.state, begun(&world).len()), (DeploymentState::Failed, 3));
    assert!(now.why.contains("was lost with its node, 3 times"), "{}", now.why);
    assert!(of_hooks(&world).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hook_ends_after_its_time_whoever_leads() {
    for leads in [1000, 13, 21] {
        let mut world = settled();
        world.hooks.takes = 10_000;
        world.deploy(with_timeout(2, 60));
        let since_ms = world.now_ms;
        for step in 1.. {
            world.step();
            if deployment(&world).state != DeploymentState::Before {
                break;
            }
            if step % leads == 0 {
                world.change_leader();
            }
            assert!(world.now_ms - since_ms < 400_000, "a leader for {leads} half seconds: {:?}", deployment(&world));
        }
        let time = world.now_ms - since_ms;
        assert!(time >= 60_000 && (time < 64_000 || leads < 1000), "{time} ms");
        assert!(deployment(&world).why.contains("had not ended after 1m"), "{}", deployment(&world).why);
        world.steps(10);
        assert!(of_hooks(&world).is_empty(), "it is stopped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_begins_none_and_an_abort_stops_one() {
    let mut world = settled();
    world.hooks.takes = 10;
    world.deploy(with_hooks(2));
    steer(&mut world, 2, Steering::Pause);
    world.steps(50);
    assert!(begun(&world).is_empty());
    steer(&mut world, 2, Steering::Resume);
    until_begun(&mut world, 1);
    steer(&mut world, 2, Steering::Pause);
    world.steps(50);
    assert_eq!(deployment(&world).hooks[0].state, HookState::Done, "what runs comes to its end");
    assert_eq!(deployment(&world).state, DeploymentState::Before);
    steer(&mut world, 2, Steering::Resume);
    until_state(&mut world, DeploymentState::Going);

    let mut world = settled();
    world.hooks.takes = 1000;
    world.deploy(with_hooks(2));
    let (id, _) = until_begun(&mut world, 1);
    steer(&mut world, 2, Steering::Abort);
    world.step();
    let desired = world.read(|state| state.placements.get(&id).map(|one| one.desired));
    assert_eq!(desired, Some(Desired::Stop));
    goes_back(&mut world, 2);
    assert_eq!(begun(&world).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn all_hooks_of_all_services_come_before_any_instance() {
    let mut world = settled();
    world.hooks.takes = 4;
    let mut both = with_hooks(2);
    let mut work = both.services.values().next().cloned().expect("one");
    work.update.hooks.before = vec!["./work-migrate".into()];
    work.update.hooks.after = Vec::new();
    both.services.insert("work".parse().expect("a name"), work);
    world.deploy(both.clone());
    while deployment(&world).state == DeploymentState::Before {
        world.step();
        assert!(of_hooks(&world).iter().filter(|one| one.desired == Desired::Run).count() <= 1);
        if deployment(&world).is_held() {
            assert_eq!(placed(&world, 2), 0);
        }
    }
    assert_eq!(begun(&world), ["./migrate", "./work-migrate"]);

    let mut world = settled();
    world.hooks.broken = Some("./work-migrate".into());
    world.deploy(both);
    until_state(&mut world, DeploymentState::Failed);
    assert!(deployment(&world).why.starts_with("shop/work: hook before"), "{}", deployment(&world).why);
    world.steps(50);
    assert_eq!((placed(&world, 2), serving(&world, 1)), (0, SCALE));
}

#[tokio::test(start_paused = true)]
async fn a_hook_without_a_place_or_a_start_fails_and_says_why() {
    let mut world = settled();
    let mut large = with_hooks(2);
    let resources = Resources { memory: ByteSize::mib(1 << 20), ..Resources::default() };
    large.services.values_mut().for_each(|service| service.spec.resources = resources);
    world.deploy(large);
    world.steps(4);
    let told = world.read(|state| state.events.values().map(|event| event.text.clone()).collect::<Vec<_>>());
    assert!(told.iter().any(|text| text.starts_with("hook before: ") && text.contains("no room")), "{told:?}");
    until_state(&mut world, DeploymentState::Failed);
    let why = deployment(&world).why;
    assert!(why.starts_with("shop/web: hook before has no place: ") && why.contains("no room on any of 3"), "{why}");
    goes_back(&mut world, 2);

    for (phase, steps, words) in [
        (Phase::Backoff, 40, "cannot be started: the image is gone"),
        (Phase::Pulling, 620, "does not get its image: the image is gone"),
    ] {
        let mut world = settled();
        world.hooks.stuck = Some((phase, "the image is gone".into()));
        world.deploy(with_hooks(2));
        world.steps(20);
        assert_eq!(deployment(&world).state, DeploymentState::Before, "it may get on");
        world.steps(steps);
        assert!(deployment(&world).why.contains(words), "{:?}", deployment(&world));
        assert!(begun(&world).is_empty());
    }
    let mut world = settled();
    world.deploy(with_timeout(2, 60));
    for tenth in 0..30 {
        world.hooks.stuck = Some((Phase::Pulling, format!("{tenth} % fetched")));
        world.steps(20);
    }
    assert_eq!(deployment(&world).state, DeploymentState::Before, "an image takes the time that it takes");
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_after_a_release_takes_nothing_back() {
    let mut world = settled();
    world.hooks.broken = Some("./notify".into());
    world.deploy(with_hooks(2));
    until_state(&mut world, DeploymentState::Done);
    let Deployment { why, hooks, .. } = deployment(&world);
    assert!(why.starts_with("shop/web: hook after on n") && why.contains("ended with exit code 1"), "{why}");
    assert_eq!((hooks[1].kind, hooks[1].state), (HookKind::After, HookState::Failed));
    world.steps(50);
    assert_eq!((serving(&world, 2), asked_back(&world, 2)), (SCALE, None));
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_lets_a_hook_come_to_its_end() {
    let mut world = settled();
    world.hooks.takes = 40;
    world.deploy(with_hooks(2));
    let (id, node) = until_begun(&mut world, 1);
    world.duty(node.get(), NodeDuty::Drain);
    world.steps(20);
    assert_eq!(world.read(|state| state.placements.get(&id).map(|one| one.desired)), Some(Desired::Run));
    until_state(&mut world, DeploymentState::Done);
    assert_eq!(begun(&world), ["./migrate", "./notify"]);
    assert_eq!(world.read(|state| state.placements_of(node).count()), 0);
}

#[tokio::test(start_paused = true)]
async fn volumes_and_nodes_keep_what_they_have_while_a_hook_runs() {
    let (name, size) = ("data".parse().expect("a name"), ByteSize::mib(64));
    let volumes = vec![VolumeSpec { name, path: "/data".into(), size }];
    for is_each in [true, false] {
        for is_good in [true, false] {
            let shaped = |mut definition: RegionalDefinition| {
                for service in definition.services.values_mut() {
                    match is_each {
                        true => service.scale = Scale::EachNode,
                        false => service.spec.volumes.clone_from(&volumes),
                    }
                }
                definition
            };
            let mut world = World::at_level(3);
            world.deploy(shaped(definition(1, 3)));
            world.steps(20);
            world.hooks.takes = 80;
            world.hooks.broken = (!is_good).then(|| "./migrate".into());
            world.deploy(shaped(with_hooks(2)));
            let (_, node) = until_begun(&mut world, 1);
            let lost = NodeId::new(if node == NodeId::new(1) { 2 } else { 1 });
            world.off.insert(lost);
            world.steps(20);
            world.off.clear();
            world.steps(20);
            let of = |world: &World, release| {
                world.serving().iter().filter(|one| one.spec.command == spec(release).command).count()
            };
            assert_eq!((of(&world, 1), of(&world, 2)), (SCALE, 0), "each node: {is_each}");
            assert!(world.hooks.begun.len() == 1 && of_hooks(&world).iter().all(|one| one.spec.volumes.is_empty()));
            world.steps(300);
            let end = if is_good { (0, SCALE) } else { (SCALE, 0) };
            assert_eq!((of(&world, 1), of(&world, 2)), end, "each node: {is_each}, {:?}", deployment(&world));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_migrations_of_an_app_never_meet() {
    let mut world = settled();
    world.hooks.takes = 30;
    world.deploy(with_hooks(2));
    let (first, node) = until_begun(&mut world, 1);
    world.deploy(with_hooks(3));
    for _ in 0..20 {
        world.step();
        let there = of_hooks(&world);
        assert!(there.len() <= 1, "{there:?}");
    }
    assert_ne!(of_hooks(&world)[0].instance, first);
    assert!(world.read(|state| state.nodes.get(&node).is_some_and(|node| node.health.is_up())));
    until_state(&mut world, DeploymentState::Done);
    assert_eq!((serving(&world, 3), begun(&world).len()), (SCALE, 3));

    // While they run, what is lost comes back as it was.
    let mut world = settled();
    world.hooks.takes = 80;
    world.deploy(with_hooks(2));
    let (_, runs_it) = until_begun(&mut world, 1);
    let lost = NodeId::new(if runs_it == NodeId::new(1) { 2 } else { 1 });
    world.off.insert(lost);
    world.steps(20);
    assert_eq!((serving(&world, 1), placed(&world, 2)), (SCALE, 0));
    let gone = definition(3, 3);
    world.deploy(RegionalDefinition { again_of: Some(ReleaseNumber(1)), ..gone });
    world.steps(4);
    assert!(of_hooks(&world).iter().all(|one| one.desired == Desired::Stop), "another release needs none");
}
