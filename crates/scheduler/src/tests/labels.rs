//! What services ask of nodes by their labels.

use insula_types::{LabelName, LabelValue};

use super::*;

/// Data centre, labels, memory in MiB; the id is the position.
type Node = (&'static str, &'static [(&'static str, &'static str)], u64);

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let label = |(name, value): &(&str, &str)| {
        (LabelName::new(*name).expect("a name"), LabelValue::new(*value).expect("a value"))
    };
    pairs.iter().map(label).collect()
}

fn asks(spread: &str, require: &[(&str, &str)], prefer: &[(&str, &str)]) -> PlacementSpec {
    PlacementSpec { spread: LabelName::new(spread).expect("a name"), require: labels(require), prefer: labels(prefer) }
}

/// What becomes of so many instances of 128 MiB.
fn place(nodes: &[Node], placement: &PlacementSpec, wanted: u64) -> Vec<Result<Choice, PlaceError>> {
    let Names { nodes: names, .. } = names();
    let datacenters: Vec<_> = nodes.iter().map(|node| DatacenterName::new(node.0).expect("a name")).collect();
    let labelled: Vec<Labels> = nodes.iter().map(|node| labels(node.1)).collect();
    let view = |id: usize| NodeView {
        id: NodeId::new(id as u64),
        name: &names[id],
        datacenter: &datacenters[id],
        capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(nodes[id].2) },
        health: NodeHealth::Up,
        is_cordoned: false,
        runtimes: None,
        labels: Some(&labelled[id]).filter(|labels| !labels.is_empty()),
    };
    let snapshot = Snapshot { nodes: (0..nodes.len()).map(view).collect(), taken: Vec::new() };
    let service = service("web");
    let one = |id| wanted_of(InstanceId::new(id), &service, size(100, 128), placement);
    let wanted: Vec<Wanted<'_>> = (0..wanted).map(one).collect();
    let decisions = schedule(&snapshot, &wanted);
    let turned = Snapshot { nodes: snapshot.nodes.iter().rev().cloned().collect(), taken: Vec::new() };
    let wanted: Vec<Wanted<'_>> = wanted.into_iter().rev().collect();
    assert_eq!(schedule(&turned, &wanted), decisions, "the order of what there is makes no difference");
    decisions.into_values().collect()
}

#[allow(clippy::needless_pass_by_value, reason = "`expect![…]` is written in place")]
fn check_nodes(nodes: &[Node], placement: &PlacementSpec, wanted: u64, expected: Expect) {
    let said: Vec<String> = place(nodes, placement, wanted)
        .into_iter()
        .map(|decision| match decision {
            Ok(choice) => format!("n{}: {}\n", choice.node.get(), choice.reasons.join("; ")),
            Err(error) => format!("{error}\n"),
        })
        .collect();
    expected.assert_eq(&said.concat());
}

const SSD: (&str, &str) = ("disk", "ssd");
const HDD: (&str, &str) = ("disk", "hdd");

#[test]
fn only_nodes_with_what_is_required_are_chosen() {
    let nodes: &[Node] = &[("fra1", &[HDD], 4096), ("fra1", &[SSD], 1024), ("fra2", &[], 4096), ("fra3", &[SSD], 1024)];
    check_nodes(
        nodes,
        &asks("datacenter", &[SSD], &[]),
        3,
        expect![[r#"
        n1: datacenter fra1 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; the node has what is required: disk = "ssd"; nothing suitable in fra2
        n3: datacenter fra3 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; the node has what is required: disk = "ssd"; nothing suitable in fra2
        n1: datacenter fra1 has 1 of shop/web, the fewest of 2 with room; the node has 1 of shop/web, the fewest there, and the most free of these: 86 %; the node has what is required: disk = "ssd"; nothing suitable in fra2
    "#]],
    );
    let near = asks("datacenter", &[SSD, ("datacenter", "fra1"), ("node", "n1")], &[]);
    check_nodes(
        nodes,
        &near,
        1,
        expect![[r#"
        n1: datacenter fra1 is the only one with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; the node has what is required: datacenter = "fra1", disk = "ssd", node = "n1"; nothing suitable in fra2, fra3
    "#]],
    );
}

#[test]
fn what_is_preferred_counts_after_the_spread() {
    let nodes: &[Node] =
        &[("fra1", &[HDD], 8192), ("fra1", &[SSD], 1024), ("fra2", &[HDD], 8192), ("fra2", &[SSD], 1024)];
    check_nodes(
        nodes,
        &asks("datacenter", &[], &[SSD, ("datacenter", "fra2")]),
        4,
        expect![[r#"
        n3: datacenter fra2 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; of what is preferred the node has datacenter = "fra2", disk = "ssd" and lacks nothing
        n1: datacenter fra1 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; of what is preferred the node has disk = "ssd" and lacks datacenter = "fra2"
        n2: datacenter fra2 has 1 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; of what is preferred the node has datacenter = "fra2" and lacks disk = "ssd"
        n0: datacenter fra1 has 1 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; of what is preferred the node has nothing and lacks datacenter = "fra2", disk = "ssd"
    "#]],
    );
    check_nodes(
        nodes,
        &asks("node", &[], &[SSD]),
        3,
        expect![[r#"
        n1: the node has 0 of shop/web, the fewest, and the most free of these: 100 %; of what is preferred the node has disk = "ssd" and lacks nothing
        n3: the node has 0 of shop/web, the fewest, and the most free of these: 100 %; of what is preferred the node has disk = "ssd" and lacks nothing
        n0: the node has 0 of shop/web, the fewest, and the most free of these: 100 %; of what is preferred the node has nothing and lacks disk = "ssd"
    "#]],
    );
}

#[test]
fn instances_are_spread_over_the_values_of_any_label() {
    let (r1, r2): (&[_], &[_]) = (&[("rack", "r1")], &[("rack", "r2")]);
    let nodes: &[Node] = &[("fra1", r1, 4096), ("fra1", r1, 4096), ("fra2", r2, 4096), ("fra2", &[], 4096)];
    check_nodes(
        nodes,
        &asks("rack", &[], &[]),
        4,
        expect![[r#"
        n0: rack r1 has 0 of shop/web, the fewest of 3 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
        n2: rack r2 has 0 of shop/web, the fewest of 3 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
        n3: the group without rack has 0 of shop/web, the fewest of 3 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
        n1: rack r1 has 1 of shop/web, the fewest of 3 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
    "#]],
    );
    // Nobody has it: then nodes are all that is left to spread over.
    check_nodes(
        nodes,
        &asks("power", &[], &[]),
        2,
        expect![[r#"
        n0: the node has 0 of shop/web, the fewest, and the most free of these: 100 %
        n1: the node has 0 of shop/web, the fewest, and the most free of these: 100 %
    "#]],
    );
}

#[test]
fn refusals_name_the_filter_and_what_comes_nearest() {
    const GPU: (&str, &str) = ("gpu", "a100");
    let nodes: &[Node] = &[("fra1", &[SSD], 512), ("fra1", &[GPU], 4096), ("fra2", &[("disk", "nvme")], 4096)];
    check_nodes(
        nodes,
        &asks("node", &[HDD], &[]),
        1,
        expect![[r#"
        place an instance of shop/web: no node has the label disk = "hdd", of 3 that take new ones (disk is nvme, ssd): set it in labels of a node's configuration, or require another
    "#]],
    );
    check_nodes(
        nodes,
        &asks("node", &[("rack", "r1")], &[]),
        1,
        expect![[r#"
        place an instance of shop/web: no node has the label rack = "r1", of 3 that take new ones (no node has a label rack): set it in labels of a node's configuration, or require another
    "#]],
    );
    check_nodes(
        nodes,
        &asks("node", &[("datacenter", "fra3")], &[]),
        1,
        expect![[r#"
        place an instance of shop/web: no node has the label datacenter = "fra3", of 3 that take new ones (datacenter is fra1, fra2): set it in labels of a node's configuration, or require another
    "#]],
    );
    check_nodes(
        nodes,
        &asks("node", &[SSD, GPU], &[]),
        1,
        expect![[r#"
        place an instance of shop/web: no node has all of disk = "ssd", gpu = "a100", of 3 that take new ones; n0 comes nearest, and lacks gpu = "a100": set it in labels of a node's configuration, or require another
    "#]],
    );
    let full = place(nodes, &asks("node", &[SSD], &[]), 4).pop().expect("four").expect_err("no room");
    expect![[r#"place an instance of shop/web: no room on any of 1 nodes with disk = "ssd", memory is 52MiB short on the nearest: lower its resources or its scale, or add a node"#]].assert_eq(&full.to_string());
}

/// A node of the model: data centre, rack, disk, free memory in MiB.
type Plain = (u8, Option<u8>, Option<bool>, u64);

/// The rules said once more, without an index: the best node of all for one instance after the other.
fn model(
    nodes: &[Plain],
    spread: &str,
    require: Option<bool>,
    prefer: Option<bool>,
    wanted: u64,
) -> Vec<Option<usize>> {
    let all = |node: &Plain| (ByteSize::mib(node.3).0 - ByteSize::mib(node.3).0 / 10) as u128;
    let mut free: Vec<u128> = nodes.iter().map(all).collect();
    let mut has = vec![0u32; nodes.len()];
    let group = |at: usize| match spread {
        "datacenter" => Some(nodes[at].0),
        "rack" => nodes[at].1,
        _ => None,
    };
    let need = u128::from(ByteSize::mib(128).0);
    let mut choose = |_| {
        let suits = |at: &usize| free[*at] >= need && require.is_none_or(|disk| nodes[*at].2 == Some(disk));
        let score = |at: &usize| {
            let group_has: u32 = (0..nodes.len()).filter(|other| group(*other) == group(*at)).map(|at| has[at]).sum();
            let missed = prefer.is_some_and(|disk| nodes[*at].2 != Some(disk));
            (group_has, has[*at], missed, Reverse(free[*at] * 1_000_000 / all(&nodes[*at])), *at)
        };
        let best = (0..nodes.len()).filter(suits).min_by_key(score)?;
        free[best] -= need;
        has[best] += 1;
        Some(best)
    };
    (0..wanted).map(&mut choose).collect()
}

proptest! {
    #[test]
    fn the_index_finds_what_the_rules_say(
        nodes in prop::collection::vec(
            (0..3u8, prop::option::of(0..3u8), prop::option::of(any::<bool>()), 64..1200u64), 1..10),
        spread in prop::sample::select(vec!["datacenter", "node", "rack", "power"]),
        require in prop::option::weighted(0.3, any::<bool>()),
        prefer in prop::option::of(any::<bool>()),
        wanted in 1..30u64,
    ) {
        let disk = |is_ssd| if is_ssd { SSD } else { HDD };
        let label = |&(_, rack, is_ssd, _): &Plain| {
            let rack = rack.map(|rack| ("rack", ["a", "b", "c"][rack as usize]));
            rack.into_iter().chain(is_ssd.map(disk)).collect::<Vec<_>>()
        };
        let labelled: Vec<Node> = nodes.iter().map(|node| {
            let pairs: &'static [_] = Box::leak(label(node).into_boxed_slice());
            (["fra0", "fra1", "fra2"][node.0 as usize], pairs, node.3)
        }).collect();
        let ask = |is_ssd: Option<bool>| is_ssd.map(disk).into_iter().collect::<Vec<_>>();
        let placement = asks(spread, &ask(require), &ask(prefer));
        let placed: Vec<Option<usize>> = place(&labelled, &placement, wanted)
            .into_iter()
            .map(|decision| decision.ok().map(|choice| choice.node.get() as usize))
            .collect();
        prop_assert_eq!(placed, model(&nodes, spread, require, prefer, wanted));
    }
}
