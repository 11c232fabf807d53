use std::collections::BTreeMap;

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
            ports: BTreeMap::from([(PortName::new("http").unwrap(), 80)]),
            endpoints: BTreeMap::new(),
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
    let is_doubtful = |id| doubtful.iter().any(|n| instance(*n) == id);
    candidates(catalog, target, verdicts, &tried, is_doubtful).iter().map(|c| c.instance.get()).collect()
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
fn the_less_loaded_of_two_and_the_first_of_equals() {
    let (catalog, target) = world();
    let all = candidates(&catalog, &target, &bad(&[]), &[], |_| false);
    let chosen = |loads: [usize; 4], draws: [usize; 2]| {
        let next = std::cell::Cell::new(0);
        let draw = |below: usize| {
            let place = next.replace(next.get() + 1);
            draws[place] % below
        };
        pick(&all, |id| loads[id.get() as usize - 1], draw).map(|c| c.instance.get())
    };
    assert_eq!(chosen([0, 0, 0, 0], [3, 0]), Some(4), "of equals the first drawn, wherever it is");
    assert_eq!(chosen([0, 0, 0, 1], [3, 0]), Some(1), "the less loaded");
    assert_eq!(chosen([5, 0, 0, 1], [0, 2]), Some(4), "also when it was drawn second");
    assert_eq!(pick(&[], |_| 0, |_| 0), None);
}
