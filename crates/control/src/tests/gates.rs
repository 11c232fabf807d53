//! Canaries are judged by what the edges have counted: those that fail more than they may are given back, the others are not.

use std::collections::BTreeMap;

use insula_types::{
    CanarySpec, DeploymentState, NodeId, Promotion, ReleaseNumber, ReleaseTraffic, ServiceRef, Strategy, Tally,
    Traffic, UpdateSpec,
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

#[tokio::test(start_paused = true)]
async fn a_release_without_canaries_is_not_judged_by_requests() {
    let mut world = settled();
    world.deploy(with_update(2, &UpdateSpec::default()));
    counts(&mut world, 1, (0, 1000), (1000, 1000));
    until_state(&mut world, DeploymentState::Done);
}
