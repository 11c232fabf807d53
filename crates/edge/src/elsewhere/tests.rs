use insula_catalog::{FarGateway, FarRegion, FarService};
use insula_env::Clock;
use insula_mesh::Trouble;
use insula_types::ClusterId;

use super::*;

fn service() -> ServiceRef {
    ServiceRef::new("shop".parse().expect("name"), "web".parse().expect("name"))
}

/// Regions by rank, freshness, ready and formerly ready instances; the gateways of the first are 10 to 13, of the second 20 to 23.
fn catalog(regions: &[(u32, bool, u32, u32)]) -> Catalog {
    let mut catalog = Catalog::empty(ClusterId::new(1), "fra".parse().expect("name"), NodeId::new(1));
    for (place, (rank, is_fresh, ready, was_ready)) in regions.iter().enumerate() {
        let gateway =
            |number| FarGateway { node: NodeId::new((place as u64 + 1) * 10 + number), addresses: Vec::new() };
        let far = FarRegion {
            rank: *rank,
            is_fresh: *is_fresh,
            gateways: (0..4).map(gateway).collect(),
            services: [(service(), FarService { ready: *ready, was_ready: *was_ready })].into(),
        };
        catalog.far.insert(format!("r{place}").parse().expect("name"), far);
    }
    catalog
}

#[derive(Clone)]
struct Case<'a> {
    regions: Vec<(u32, bool, u32, u32)>,
    bad: &'a [u64],
    tried: &'a [u64],
    failing: &'a [u64],
    most: Far,
}

fn check(case: &Case<'_>, expected: &[u64]) {
    let catalog = catalog(&case.regions);
    let bad = case.bad.iter().map(|id| (NodeId::new(*id), Trouble::Silent)).collect();
    let verdicts = Verdicts { bad, ..Verdicts::default() };
    let tried: Vec<InstanceId> = case.tried.iter().copied().map(InstanceId::new).collect();
    let judge = |node: NodeId| match case.failing.contains(&node.get()) {
        true => Verdict::Unreachable,
        false => Verdict::Share(100),
    };
    let found = gateways(&catalog, &service(), &verdicts, &tried, case.most, judge);
    let found: Vec<u64> = found.iter().map(|candidate| candidate.node.get()).collect();
    assert_eq!(found, expected, "{:?} bad {:?} tried {:?}", case.regions, case.bad, case.tried);
}

#[test]
fn the_nearest_region_that_has_a_ready_instance_is_chosen() {
    let (near, far) = ((0, true, 2, 2), (1, true, 2, 2));
    let all =
        |regions: &[_]| Case { regions: regions.to_vec(), bad: &[], tried: &[], failing: &[], most: Far::LastKnown };
    check(&all(&[near, far]), &[10, 11, 12]);
    check(&all(&[far, near]), &[20, 21, 22]);
    // None ready, not heard of lately: the farther one.
    check(&all(&[(0, true, 0, 2), far]), &[20, 21, 22]);
    check(&all(&[(0, false, 2, 2), far]), &[20, 21, 22]);
    // Nothing is ready anywhere: the last known, unless more is asked for; and never what never was.
    check(&all(&[(0, true, 0, 2), (1, true, 0, 2)]), &[10, 11, 12]);
    check(&all(&[(0, false, 2, 2)]), &[10, 11, 12]);
    check(&Case { most: Far::Ready, ..all(&[(0, true, 0, 2), (1, false, 2, 2)]) }, &[]);
    check(&Case { most: Far::Ready, failing: &[10, 11, 12], ..all(&[near]) }, &[]);
    check(&all(&[(0, true, 0, 0)]), &[]);
    check(&all(&[]), &[]);
}

#[test]
fn gateways_that_do_not_answer_are_passed_over() {
    let regions = vec![(0, true, 2, 2), (1, true, 2, 2)];
    let all = Case { regions, bad: &[], tried: &[], failing: &[], most: Far::LastKnown };
    let case = |bad, tried, failing| Case { bad, tried, failing, ..all.clone() };
    check(&case(&[10], &[11], &[]), &[12]);
    check(&case(&[10, 11], &[12], &[]), &[20, 21, 22]);
    check(&case(&[], &[], &[10, 11]), &[12]);
    // One that has just failed, of the nearest region, is worse than a good one of another.
    check(&case(&[], &[], &[10, 11, 12]), &[20, 21, 22]);
    check(&case(&[20, 21, 22], &[], &[10, 11, 12]), &[10, 11, 12]);
    check(&case(&[10, 11, 12, 20, 21, 22], &[], &[]), &[]);
}

#[test]
fn what_is_ready_comes_before_what_was_and_here_before_elsewhere() {
    assert_eq!(wanted(Local::Good, false), None);
    assert_eq!(wanted(Local::Good, true), Some(Far::Ready), "it has left, and comes back later");
    assert_eq!(wanted(Local::Poor, false), Some(Far::Ready), "what is here was ready; what is elsewhere must be");
    assert_eq!(wanted(Local::None, false), Some(Far::LastKnown));
}

#[test]
fn a_service_comes_back_after_it_has_been_good_for_a_while() {
    let start = Clock::real().now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (away, service) = (Away::default(), service());
    assert!(!away.is_away(&service));
    away.leave(&service);
    for (second, is_good, is_away) in
        [(1, false, true), (2, true, true), (3, false, true), (4, true, true), (6, true, true), (7, true, false)]
    {
        away.look(at(second), |_| is_good);
        assert_eq!(away.is_away(&service), is_away, "at {second} s");
    }
    // Something failed while it was about to come back.
    away.leave(&service);
    away.look(at(8), |_| true);
    away.leave(&service);
    away.look(at(11), |_| true);
    assert!(away.is_away(&service));
    away.sweep(&Catalog::empty(ClusterId::new(1), "fra".parse().expect("name"), NodeId::new(1)));
    assert!(!away.is_away(&service));
}
