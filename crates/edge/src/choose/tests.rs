use std::collections::{BTreeMap, BTreeSet};

use insula_catalog::{CatalogInstance, CatalogNode};
use insula_mesh::Trouble;
use insula_types::{ClusterId, PortName, ServiceRef};

use super::*;

fn node(number: u64) -> NodeId {
    NodeId::new(number)
}

fn instance(number: u64) -> InstanceId {
    InstanceId::new(number)
}

/// Four nodes (1 is the own, 1 and 2 share a data centre), instance N on node N; all ready.
fn world() -> (Catalog, RouteTarget) {
    let mut catalog = Catalog::empty(ClusterId::new(1), "fra".parse().unwrap(), node(1));
    let target = RouteTarget {
        service: ServiceRef::new("shop".parse().unwrap(), "web".parse().unwrap()),
        port: "http".parse().unwrap(),
    };
    for number in 1..=4u64 {
        let entry = CatalogNode {
            name: format!("n{number}").parse().unwrap(),
            datacenter: format!("dc{}", number.div_ceil(2)).parse().unwrap(),
            address: "127.0.0.1:7443".parse().unwrap(),
            others: Vec::new(),
            is_up: true,
        };
        catalog.nodes.insert(node(number), entry);
        let entry = CatalogInstance {
            node: node(number),
            is_ready: true,
            was_ready: true,
            is_draining: false,
            is_first: false,
            ports: BTreeMap::from([(PortName::new("http").unwrap(), 80)]),
            h2c: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            release: None,
        };
        catalog.services.entry(target.service.clone()).or_default().instances.insert(instance(number), entry);
    }
    (catalog, target)
}

fn bad(nodes: &[u64]) -> Verdicts {
    Verdicts { watched: (2..=4).map(node).collect(), bad: nodes.iter().map(|n| (node(*n), Trouble::Silent)).collect() }
}

fn offered(catalog: &Catalog, target: &RouteTarget, verdicts: &Verdicts, tried: &[u64], doubtful: &[u64]) -> Vec<u64> {
    let tried: Vec<_> = tried.iter().map(|n| instance(*n)).collect();
    let judge = |id| {
        let is_doubtful = doubtful.iter().any(|n| instance(*n) == id);
        if is_doubtful { Verdict::Unreachable } else { Verdict::Share(100) }
    };
    candidates(catalog, target, verdicts, &tried, judge).1.iter().map(|c| c.instance.get()).collect()
}

#[test]
fn only_the_best_tier_is_offered() {
    let (mut catalog, target) = world();
    let edit = |catalog: &mut Catalog, n: u64, change: fn(&mut CatalogInstance)| {
        change(catalog.services.values_mut().next().unwrap().instances.get_mut(&instance(n)).unwrap());
    };
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[], &[]), [1, 2, 3, 4]);
    assert_eq!(offered(&catalog, &target, &bad(&[2]), &[], &[]), [1, 3, 4], "never on a silent node");
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[1, 3], &[]), [2, 4], "not twice");
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[], &[4]), [1, 2, 3], "not what just failed");
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[], &[1, 2, 3, 4]), [1, 2, 3, 4], "unless all did");
    catalog.nodes.get_mut(&node(3)).unwrap().is_up = false;
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[], &[]), [1, 2, 4], "never on a node that is down");
    edit(&mut catalog, 4, |i| i.is_draining = true);
    edit(&mut catalog, 2, |i| {
        i.ports.clear();
    });
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[], &[]), [1], "nor one that drains or has no such port");
}

#[test]
fn the_last_is_never_withdrawn() {
    let (mut catalog, target) = world();
    for entry in catalog.services.values_mut().next().unwrap().instances.values_mut() {
        entry.is_ready = false;
    }
    catalog.services.values_mut().next().unwrap().instances.get_mut(&instance(2)).unwrap().was_ready = false;
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[], &[]), [1, 3, 4], "those that were ready");
    assert_eq!(offered(&catalog, &target, &bad(&[2, 3, 4]), &[1], &[]), [3, 4], "cut off: what was last known");
    assert_eq!(offered(&catalog, &target, &bad(&[3, 4]), &[1], &[]), [0; 0], "a peer answers, so we are not cut off");
    catalog.nodes.get_mut(&node(3)).unwrap().is_up = false;
    assert_eq!(offered(&catalog, &target, &bad(&[4]), &[1], &[]), [3], "its lease ended, and yet it answers");
    catalog.services.clear();
    assert_eq!(offered(&catalog, &target, &bad(&[]), &[], &[]), [0; 0]);
}

#[test]
fn most_are_never_put_out_for_their_answers() {
    let (catalog, target) = world();
    let of = |suspects: &[u64], tried: &[u64]| -> Vec<u64> {
        let judge = |id: InstanceId| {
            if suspects.contains(&id.get()) { Verdict::Suspect } else { Verdict::Share(100) }
        };
        let tried: Vec<_> = tried.iter().map(|n| instance(*n)).collect();
        candidates(&catalog, &target, &bad(&[]), &tried, judge).1.iter().map(|c| c.instance.get()).collect()
    };
    assert_eq!(of(&[1], &[]), [2, 3, 4]);
    assert_eq!(of(&[1, 2], &[]), [3, 4]);
    assert_eq!(of(&[1, 2], &[3, 4]), [1, 2], "better than none");
    assert_eq!(of(&[1, 2, 3], &[]), [4, 1, 2, 3]);
    assert_eq!(of(&[1, 2, 3], &[1]), [4, 2, 3], "not twice");
    assert_eq!(of(&[1, 2, 3, 4], &[]), [1, 2, 3, 4]);
}

/// Candidates with these weights, numbered from 1.
fn weighing(weights: &[u32]) -> Vec<Candidate> {
    let numbered = (1..).zip(weights);
    numbered
        .map(|(n, weight)| Candidate {
            instance: instance(n),
            node: node(n),
            weight: *weight,
            is_h2c: false,
            is_far: false,
            is_first: false,
            release: None,
        })
        .collect()
}

#[test]
fn the_less_loaded_of_two_and_the_first_of_equals() {
    let all = weighing(&[100; 4]);
    // Draws are places among all, then among those that are left, a hundred of each.
    let chosen = |loads: [usize; 4], draws: [usize; 2]| {
        let next = std::cell::Cell::new(0);
        let draw = |_: usize| draws[next.replace(next.get() + 1)] * 100;
        pick(&all, |id| loads[id.get() as usize - 1], draw).map(|c| c.instance.get())
    };
    assert_eq!(chosen([0, 0, 0, 0], [3, 0]), Some(4), "of equals the first drawn, wherever it is");
    assert_eq!(chosen([0, 0, 0, 1], [3, 0]), Some(1), "the less loaded");
    assert_eq!(chosen([5, 0, 0, 1], [0, 2]), Some(4), "also when it was drawn second");
    assert_eq!(pick(&[], |_| 0, |_| 0), None);
    assert_eq!(
        pick(&weighing(&[0]), |_| 0, |_| 0).map(|c| c.instance.get()),
        Some(1),
        "the only one, whatever it weighs"
    );
}

#[test]
fn weights_are_shares() {
    let all = weighing(&[100, 10, 100]);
    let rng = insula_env::Rng::from_seed(3);
    // In thousandths.
    let share = |loads: [usize; 3]| {
        let mut got = [0; 3];
        for _ in 0..50_000 {
            let chosen = pick(&all, |id| loads[id.get() as usize - 1], |below| rng.range(0, below as u64) as usize);
            got[chosen.expect("one").instance.get() as usize - 1] += 1;
        }
        got.map(|count: usize| count / 50)
    };
    let check = |loads, low: [usize; 3], high: [usize; 3]| {
        let got = share(loads);
        assert!((0..3).all(|at| got[at] >= low[at] && got[at] <= high[at]), "{loads:?}: {got:?}");
    };
    // A tenth of the others' share, while nothing is in flight and when all are loaded alike for their weights.
    check([0, 0, 0], [466, 38, 466], [486, 58, 486]);
    check([19, 1, 19], [466, 38, 466], [486, 58, 486]);
    // With as much in flight as the others it is ten times as loaded.
    check([20, 20, 20], [490, 0, 490], [510, 0, 510]);
}

#[test]
fn the_first_of_a_release_get_their_share_and_all_when_there_are_no_others() {
    let (mut catalog, target) = world();
    let all = |catalog: &Catalog| candidates(catalog, &target, &bad(&[]), &[], |_| Verdict::Share(100)).1;
    let ids = |catalog: &Catalog, drawn: usize| -> Vec<u64> {
        split(catalog, &target, all(catalog), |_| drawn).iter().map(|c| c.instance.get()).collect()
    };
    assert_eq!(ids(&catalog, 0), [1, 2, 3, 4]);
    let service = catalog.services.get_mut(&target.service).expect("there");
    service.first_weight = Some(10);
    service.instances.get_mut(&instance(2)).expect("there").is_first = true;
    assert_eq!((ids(&catalog, 9), ids(&catalog, 10)), (vec![2], vec![1, 3, 4]));
    let service = catalog.services.get_mut(&target.service).expect("there");
    service.first_weight = Some(0);
    assert_eq!(ids(&catalog, 0), [1, 3, 4]);
    for number in [1, 3, 4] {
        let service = catalog.services.get_mut(&target.service).expect("there");
        service.instances.get_mut(&instance(number)).expect("there").is_ready = false;
    }
    assert_eq!(ids(&catalog, 50), [2], "better than none");
}
