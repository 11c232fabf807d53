//! Canaries are judged by what the edges have counted: those that fail more than they may are given back, the others are not.

use std::{collections::BTreeMap, time::Duration};

use insula_types::{
    CanarySpec, DeploymentState, NodeId, Promotion, RegionalDefinition, ReleaseNumber, ReleaseTraffic, RouteSpec,
    ServiceRef, Strategy, Tally, Traffic, UpdateSpec,
};

use super::{
    deployments::{asked_back, deployment, goes_back, settled, until_state, with_update},
    region::World,
};

fn canary(max_errors: u16) -> UpdateSpec {
    let strategy = Strategy::Canary(CanarySpec { instances: 1, weight: 10, promotion: Promotion::Auto, max_errors });
    UpdateSpec { strategy, ..UpdateSpec::default() }
}

fn tally((failed, requests): (u64, u64)) -> Tally {
    Tally { requests, failed }
}

/// A node's edge has counted this of releases 1 and 2 since the second came; before that 1,000 requests of which 500 failed.
fn counts(world: &mut World, node: u64, old: (u64, u64), new: (u64, u64)) {
    let service = ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"));
    let earlier = tally((500, 1000));
    let of = |release, tally, before| ReleaseTraffic {
        service: service.clone(),
        release: ReleaseNumber(release),
        tally,
        before,
    };
    let releases = vec![
        of(1, tally(old) + earlier, BTreeMap::new()),
        of(2, tally(new), BTreeMap::from([(ReleaseNumber(1), earlier)])),
    ];
    world.traffic.insert(NodeId::new(node), Traffic { edge: 1, releases });
}

/// Release 2 with canaries that may fail a percent, as far as its first instances.
fn tried() -> World {
    let mut world = settled();
    world.deploy(with_update(2, &canary(10)));
    world.steps(6);
    assert_eq!(deployment(&world).state, DeploymentState::First);
    world
}

#[tokio::test(start_paused = true)]
async fn canaries_that_fail_more_than_they_may_are_given_back() {
    let mut world = tried();
    // On two edges together.
    counts(&mut world, 1, (3, 4000), (20, 1000));
    counts(&mut world, 3, (1, 0), (31, 204));
    until_state(&mut world, DeploymentState::Failed);
    let why = deployment(&world).why;
    let said = "shop/web: the first instances of release 2 failed 4.3 % of 1,204 requests \
                (allowed: 1.0 %; release 1 failed 0.1 % meanwhile)";
    assert_eq!(why, said);
    assert!(asked_back(&world, 2).expect("asked").1.ends_with(said));
    goes_back(&mut world, 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_old_release_fails_as_well_is_forgiven() {
    let mut world = tried();
    counts(&mut world, 1, (400, 10_000), (50, 1000));
    until_state(&mut world, DeploymentState::Going);
    until_state(&mut world, DeploymentState::Done);
}

#[tokio::test(start_paused = true)]
async fn too_few_requests_or_none_that_are_counted_judge_nobody() {
    for new in [(49, 49), (1, 60), (0, 0)] {
        let mut world = tried();
        counts(&mut world, 1, (0, 1000), new);
        until_state(&mut world, DeploymentState::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_is_judged_until_it_is_out_and_by_every_leader() {
    let mut world = tried();
    counts(&mut world, 1, (0, 1000), (0, 1000));
    until_state(&mut world, DeploymentState::Baking);
    counts(&mut world, 1, (0, 1000), (200, 9000));
    world.change_leader();
    until_state(&mut world, DeploymentState::Failed);
    let why = deployment(&world).why;
    assert!(why.contains("the instances of release 2 failed 2.3 % of 9,000 requests"), "{why}");
    goes_back(&mut world, 2);
}

/// Release 2 as [`tried`], of a service with a route: edges may send requests to it.
fn tried_with_route() -> World {
    let mut world = settled();
    world.deploy(routed());
    world.steps(6);
    assert_eq!(deployment(&world).state, DeploymentState::First);
    world
}

fn routed() -> RegionalDefinition {
    let mut definition = with_update(2, &canary(10));
    let route = RouteSpec { host: "shop.example".into(), path: "/".into() };
    definition.services.values_mut().for_each(|service| service.spec.routes = vec![route.clone()]);
    definition
}

/// Steps for so many seconds.
fn seconds(world: &mut World, seconds: usize) {
    world.steps(2 * seconds);
}

const CUT: u64 = 3;

fn cut(world: &mut World) {
    world.off.insert(NodeId::new(CUT));
}

#[tokio::test(start_paused = true)]
async fn canaries_are_not_promoted_for_want_of_the_numbers_of_an_edge_that_is_cut_off() {
    let mut world = tried_with_route();
    cut(&mut world);
    seconds(&mut world, 120);
    let now = deployment(&world);
    let said = "waits for what the edge of n3 may have counted of release 2 of shop/web: the others got too few requests to judge it by";
    assert_eq!((now.state, now.why.as_str()), (DeploymentState::First, said));
    assert_eq!(world.step(), [], "that is said once");
    seconds(&mut world, 300);
    let now = deployment(&world);
    assert_eq!((now.state, now.why), (DeploymentState::Failed, said.replace("waits for", "waited 5m for")));
    assert_eq!(asked_back(&world, 2).map(|back| back.0), Some(1));
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_is_heard_of_again_decides_about_canaries() {
    for (failed, end) in [(0, DeploymentState::Going), (30, DeploymentState::Failed)] {
        let mut world = tried_with_route();
        cut(&mut world);
        seconds(&mut world, 60);
        assert_eq!(deployment(&world).state, DeploymentState::First);
        counts(&mut world, CUT, (0, 1000), (failed, 1000));
        world.off.clear();
        until_state(&mut world, end);
    }
}

#[tokio::test(start_paused = true)]
async fn the_other_edges_judge_canaries_when_they_have_requests_enough() {
    for (failed, end) in [(0, DeploymentState::Going), (30, DeploymentState::Failed)] {
        let mut world = tried_with_route();
        counts(&mut world, 1, (0, 1000), (failed, 100));
        cut(&mut world);
        seconds(&mut world, 60);
        // A good one goes on in the meantime, as far as it may.
        let state = deployment(&world).state;
        let is_decided = if end == DeploymentState::Failed { state == end } else { state != DeploymentState::First };
        assert!(is_decided, "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_does_not_know_the_release_is_not_waited_for() {
    let mut world = settled();
    cut(&mut world);
    seconds(&mut world, 10);
    world.deploy(routed());
    seconds(&mut world, 60);
    assert_ne!(deployment(&world).state, DeploymentState::First);

    // Nor is any edge where none has a route to send requests by.
    let mut world = tried();
    cut(&mut world);
    seconds(&mut world, 60);
    assert_ne!(deployment(&world).state, DeploymentState::First);
}

#[tokio::test(start_paused = true)]
async fn another_leader_waits_for_every_edge_that_it_has_not_heard_of() {
    let mut world = settled();
    let mut quick = routed();
    for service in quick.services.values_mut() {
        (service.update.min_healthy, service.update.bake) = (Duration::ZERO, Duration::ZERO);
    }
    cut(&mut world);
    world.change_leader();
    world.deploy(quick);
    seconds(&mut world, 2);
    assert!(world.read(|state| state.nodes.get(&NodeId::new(CUT)).expect("a member").health.is_up()));
    seconds(&mut world, 20);
    let now = deployment(&world);
    assert_eq!(now.state, DeploymentState::First, "before and after its lease has ended");
    assert!(now.why.starts_with("waits for what the edge of n3"), "{}", now.why);
}

#[tokio::test(start_paused = true)]
async fn what_is_out_is_watched_for_longer_while_an_edge_is_not_heard_of() {
    let mut world = tried_with_route();
    until_state(&mut world, DeploymentState::Baking);
    cut(&mut world);
    seconds(&mut world, 200);
    let now = deployment(&world);
    assert_eq!(now.state, DeploymentState::Baking);
    assert!(now.why.starts_with("waits for what the edge of n3"), "{}", now.why);
    seconds(&mut world, 200);
    let now = deployment(&world);
    assert_eq!(now.state, DeploymentState::Done, "not for ever");
    assert!(now.why.starts_with("waited 5m for what the edge of n3"), "{}", now.why);
}

#[tokio::test(start_paused = true)]
async fn no_jump_of_a_wall_clock_decides_anything() {
    for strategy in [canary(10), UpdateSpec::default()] {
        for new in [(0, 1000), (100, 1000)] {
            // The states, and after how many steps each came.
            let ends = |jump: Option<(usize, i64)>| {
                let mut world = settled();
                world.deploy(with_update(2, &strategy));
                let mut seen = Vec::new();
                for step in 0..240 {
                    if step == 20 {
                        counts(&mut world, 1, (0, 1000), new);
                    }
                    if let Some((_, ms)) = jump.filter(|(at, _)| *at == step) {
                        world.now_ms = world.now_ms.saturating_add_signed(ms);
                    }
                    world.step();
                    let now = deployment(&world);
                    if seen.last().is_none_or(|(_, last): &(usize, DeploymentState)| *last != now.state) {
                        seen.push((step, now.state));
                    }
                }
                seen
            };
            let usual = ends(None);
            let is_failed = strategy.strategy != Strategy::Rolling && new.0 > 0;
            let end = if is_failed { DeploymentState::Failed } else { DeploymentState::Done };
            assert_eq!(usual.last().expect("states").1, end);
            for at in [0, 5, 19, 21, 60, 100] {
                for ms in [-600_000, 600_000] {
                    assert_eq!(ends(Some((at, ms))), usual, "{ms} ms after {at} steps");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_without_canaries_is_not_judged_by_requests() {
    let mut world = settled();
    world.deploy(with_update(2, &UpdateSpec::default()));
    counts(&mut world, 1, (0, 1000), (1000, 1000));
    until_state(&mut world, DeploymentState::Done);
}
