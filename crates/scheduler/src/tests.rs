mod labels;
mod priority;

use std::fmt::Write;

use expect_test::{Expect, expect};
use insula_types::{AppName, ByteSize, CpuMillis, ServiceName};
use proptest::prelude::*;

use super::*;

fn service(name: &str) -> ServiceRef {
    ServiceRef::new(AppName::new("shop").expect("valid"), ServiceName::new(name).expect("valid"))
}

fn size(cpu: u32, mib: u64) -> Resources {
    Resources { cpu: CpuMillis(cpu), memory: ByteSize::mib(mib), ..Resources::default() }
}

fn wanted_of<'a>(
    instance: InstanceId,
    service: &'a ServiceRef,
    resources: Resources,
    placement: &'a PlacementSpec,
) -> Wanted<'a> {
    let priority = Priority::USUAL;
    Wanted { instance, service, resources, bound_to: None, runtime: None, placement, priority }
}

#[derive(Debug, Clone)]
struct World {
    /// Data centre, CPU in millicores, memory in MiB, up, cordoned; the id is the position.
    nodes: Vec<(u8, u32, u64, bool, bool)>,
    /// Service, node, CPU, memory, staying.
    taken: Vec<(u8, u64, u32, u64, bool)>,
    /// Service, CPU, memory; the id is the position.
    wanted: Vec<(u8, u32, u64)>,
}

struct Names {
    datacenters: Vec<DatacenterName>,
    services: Vec<ServiceRef>,
    nodes: Vec<NodeName>,
    anywhere: PlacementSpec,
}

fn volumes_on(node: u64) -> Bound {
    Bound { node: NodeId::new(node), why: WhyBound::Volumes }
}

fn names() -> Names {
    Names {
        datacenters: (0..8).map(|d| DatacenterName::new(format!("fra{d}")).expect("valid")).collect(),
        services: ["web", "api", "db", "job"].map(service).to_vec(),
        nodes: (0..16).map(|n| NodeName::new(format!("n{n}")).expect("valid")).collect(),
        anywhere: PlacementSpec::default(),
    }
}

impl World {
    fn snapshot<'a>(&self, names: &'a Names) -> (Snapshot<'a>, Vec<Wanted<'a>>) {
        let node = |(id, &(dc, cpu, mib, is_up, is_cordoned)): (usize, &(u8, u32, u64, bool, bool))| NodeView {
            id: NodeId::new(id as u64),
            name: &names.nodes[id],
            datacenter: &names.datacenters[dc as usize],
            capacity: Capacity { cpu: CpuMillis(cpu), memory: ByteSize::mib(mib) },
            health: if is_up { NodeHealth::Up } else { NodeHealth::Down { since_ms: 1 } },
            is_cordoned,
            runtimes: None,
            labels: None,
        };
        let taken = |&(s, n, cpu, mib, is_staying): &(u8, u64, u32, u64, bool)| Taken {
            node: NodeId::new(n),
            service: &names.services[s as usize],
            resources: size(cpu, mib),
            is_staying,
        };
        let wanted = |(id, &(s, cpu, mib)): (usize, &(u8, u32, u64))| {
            wanted_of(InstanceId::new(id as u64), &names.services[s as usize], size(cpu, mib), &names.anywhere)
        };
        let snapshot = Snapshot {
            nodes: self.nodes.iter().enumerate().map(node).collect(),
            taken: self.taken.iter().map(taken).collect(),
        };
        (snapshot, self.wanted.iter().enumerate().map(wanted).collect())
    }

    fn schedule(&self) -> BTreeMap<InstanceId, Result<Choice, PlaceError>> {
        let names = names();
        let (snapshot, wanted) = self.snapshot(&names);
        schedule(&snapshot, &wanted)
    }
}

fn check(world: &World, expected: &Expect) {
    let mut text = String::new();
    for (instance, decision) in world.schedule() {
        match decision {
            Ok(choice) => {
                writeln!(text, "{}: node {}: {}", instance.get(), choice.node.get(), choice.reasons.join("; "))
            }
            Err(error) => writeln!(text, "{}: {error}", instance.get()),
        }
        .expect("into memory");
    }
    expected.assert_eq(&text);
}

const ROOMY: (u32, u64) = (4000, 4096);

fn up(dc: u8) -> (u8, u32, u64, bool, bool) {
    (dc, ROOMY.0, ROOMY.1, true, false)
}

#[test]
fn spreads_over_datacenters_then_nodes() {
    let world = World { nodes: vec![up(0), up(0), up(1)], taken: vec![], wanted: vec![(0, 250, 128); 4] };
    check(
        &world,
        &expect![[r#"
            0: node 0: datacenter fra0 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
            1: node 2: datacenter fra1 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
            2: node 1: datacenter fra0 has 1 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
            3: node 2: datacenter fra1 has 1 of shop/web, the fewest of 2 with room; the node has 1 of shop/web, the fewest there, and the most free of these: 93 %
        "#]],
    );
}

#[test]
fn counts_what_stays_and_fills_the_emptier_node() {
    let world = World {
        nodes: vec![up(0), up(0), up(1)],
        // The one on node 2 is about to go; another service makes node 0 fuller than node 1.
        taken: vec![(0, 2, 250, 128, false), (1, 0, 1000, 128, true)],
        wanted: vec![(0, 250, 128); 2],
    };
    check(
        &world,
        &expect![[r#"
            0: node 1: datacenter fra0 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
            1: node 2: datacenter fra1 has 0 of shop/web, the fewest of 2 with room; the node has 0 of shop/web, the fewest there, and the most free of these: 93 %
        "#]],
    );
}

#[test]
fn passes_over_full_datacenters_down_and_cordoned_nodes() {
    let world = World {
        nodes: vec![(0, 100, 4096, true, false), (1, 4000, 4096, false, false), (2, 4000, 4096, true, true), up(3)],
        taken: vec![],
        wanted: vec![(0, 250, 128)],
    };
    check(
        &world,
        &expect![[r#"
            0: node 3: datacenter fra3 is the only one with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %; no room in fra0, fra1, fra2
        "#]],
    );
}

#[test]
fn refusals_name_the_tightest_resource_and_its_shortfall() {
    // 90 % of 1024 MiB is 966367642 bytes: one instance of 512 MiB fits, the second lacks 102.4.
    let world = World { nodes: vec![(0, 4000, 1024, true, false)], taken: vec![], wanted: vec![(0, 250, 512); 2] };
    check(
        &world,
        &expect![[r#"
            0: node 0: datacenter fra0 is the only one with room; the node has 0 of shop/web, the fewest there, and the most free of these: 100 %
            1: place an instance of shop/web: no room on any of 1 nodes, memory is 103MiB short on the nearest: lower its resources or its scale, or add a node
        "#]],
    );
    let world = World {
        nodes: vec![(0, 1000, 4096, true, false), (0, 500, 64, true, false)],
        taken: vec![],
        wanted: vec![(0, 1000, 128)],
    };
    check(
        &world,
        &expect![[r#"
            0: place an instance of shop/web: no room on any of 2 nodes, cpu is 100m short on the nearest: lower its resources or its scale, or add a node
        "#]],
    );
    let world = World {
        nodes: vec![(0, 1000, 4096, false, false), (0, 500, 64, true, true)],
        taken: vec![],
        wanted: vec![(0, 100, 128)],
    };
    check(
        &world,
        &expect![[r#"
            0: place an instance of shop/web: none of 2 nodes takes new ones (1 down, 1 cordoned): bring one back, uncordon one, or add a node
        "#]],
    );
}

#[test]
fn large_ones_go_first_and_two_sizes_of_a_service_are_spread_together() {
    let world = World {
        nodes: vec![(0, 4000, 1024, true, false), (1, 4000, 1024, true, false)],
        taken: vec![],
        wanted: vec![(0, 100, 128), (0, 100, 700), (0, 100, 700), (0, 100, 64)],
    };
    let nodes: Vec<u64> = world.schedule().into_values().map(|d| d.expect("room").node.get()).collect();
    assert_eq!(nodes[1..3], [0, 1], "the large ones, one on each");
    assert_eq!((nodes[0], nodes[3]), (0, 1), "the small ones beside them");
}

#[test]
fn what_is_bound_goes_to_its_node_alone_and_counts_there() {
    let world = World {
        nodes: vec![up(0), (1, 4000, 4096, false, false), (2, 4000, 4096, true, true), (3, 4000, 512, true, false)],
        taken: vec![],
        wanted: vec![(0, 250, 128), (0, 250, 128), (0, 250, 128), (0, 250, 460), (0, 250, 460), (0, 250, 128)],
    };
    let names = names();
    let (snapshot, mut wanted) = world.snapshot(&names);
    // The third is cordoned, and no newcomer is bound to it; the last one is free to go anywhere.
    for (one, node) in wanted.iter_mut().zip([0, 1, 2, 3, 3]) {
        one.bound_to = Some(volumes_on(node));
    }
    let said: Vec<String> = schedule(&snapshot, &wanted)
        .into_values()
        .map(|decision| decision.map_or_else(|error| error.to_string(), |choice| choice.node.get().to_string()))
        .collect();
    let bound = "place an instance of shop/web: its volumes are on one node, and";
    let down = format!("{bound} that node is down: bring it back");
    assert_eq!([&said[0], &said[1], &said[2], &said[3]], ["0", &down, "2", "3"]);
    assert!(said[4].starts_with(&format!("{bound} memory is ")), "{}", said[4]);
    assert_eq!(said[5], "0", "the only other node has no room left");

    let each = Bound { node: NodeId::new(3), why: WhyBound::EachNode };
    wanted.iter_mut().for_each(|one| one.bound_to = Some(each));
    let decisions: Vec<_> = schedule(&snapshot, &wanted).into_values().collect();
    let choice = decisions[0].as_ref().expect("there is room");
    assert_eq!((choice.node, choice.reasons.len()), (NodeId::new(3), 1), "{:?}", choice.reasons);
    let full = decisions[4].as_ref().expect_err("no room any more").to_string();
    assert!(full.contains("each node is to have one, n3 too, and memory is "), "{full}");
}

fn worlds() -> impl Strategy<Value = World> {
    let node = (0..4u8, 500..8000u32, 512..8192u64, prop::bool::weighted(0.9), prop::bool::weighted(0.1));
    let taken = (0..4u8, 0..14u64, 1..900u32, 1..900u64, any::<bool>());
    let wanted = (0..3u8).prop_map(|s| (s, 100 + 300 * u32::from(s), 64 + 256 * u64::from(s)));
    (prop::collection::vec(node, 0..12), prop::collection::vec(taken, 0..20), prop::collection::vec(wanted, 0..40))
        .prop_map(|(nodes, taken, wanted)| World { nodes, taken, wanted })
}

proptest! {
    #[test]
    fn a_survey_names_first_what_is_chosen(world in worlds()) {
        let names = names();
        let (snapshot, wanted) = world.snapshot(&names);
        for one in &wanted {
            let surveyed = survey(&snapshot, one);
            prop_assert_eq!(surveyed.len(), snapshot.nodes.len());
            let first = surveyed.first().filter(|node| node.verdict.is_ok()).map(|node| node.node);
            let decided = schedule(&snapshot, std::slice::from_ref(one)).remove(&one.instance);
            let chosen = decided.and_then(Result::ok).map(|choice| choice.node);
            prop_assert_eq!(first, chosen);
            let is_good: Vec<bool> = surveyed.iter().map(|node| node.verdict.is_ok()).collect();
            prop_assert!(is_good.is_sorted_by(|left, right| left >= right), "those that take it come first");
        }
    }

    #[test]
    fn never_over_capacity_and_refuses_only_what_fits_nowhere(world in worlds()) {
        let decisions = world.schedule();
        prop_assert_eq!(decisions.len(), world.wanted.len());
        let mut free: Vec<(i64, i64)> = world.nodes.iter().map(|&(_, cpu, mib, ..)| {
            let all = Capacity { cpu: CpuMillis(cpu), memory: ByteSize::mib(mib) }.allocatable();
            (i64::from(all.cpu.0), all.memory.0 as i64)
        }).collect();
        for &(_, node, cpu, mib, _) in &world.taken {
            if let Some(free) = free.get_mut(node as usize) {
                *free = (free.0 - i64::from(cpu), free.1 - (mib << 20) as i64);
            }
        }
        for (instance, decision) in &decisions {
            let (_, cpu, mib) = world.wanted[instance.get() as usize];
            if let Ok(choice) = decision {
                let node = choice.node.get() as usize;
                prop_assert!(world.nodes[node].3 && !world.nodes[node].4, "up and not cordoned");
                free[node] = (free[node].0 - i64::from(cpu), free[node].1 - (mib << 20) as i64);
                prop_assert!(free[node].0 >= 0 && free[node].1 >= 0, "over capacity on {}", node);
                prop_assert!(!choice.reasons.is_empty());
            }
        }
        for (instance, decision) in &decisions {
            let (_, cpu, mib) = world.wanted[instance.get() as usize];
            if decision.is_err() {
                let fits = world.nodes.iter().zip(&free).any(|(&(.., is_up, is_cordoned), left)| {
                    is_up && !is_cordoned && left.0 >= i64::from(cpu) && left.1 >= (mib << 20) as i64
                });
                prop_assert!(!fits, "{} was refused though it fits", instance);
            }
        }
    }

    #[test]
    fn spread_is_within_one_where_there_is_room(dcs in prop::collection::vec(0..4u8, 1..12), wanted in 1..40usize) {
        let nodes: Vec<_> = dcs.iter().map(|dc| (*dc, 100_000, 100_000, true, false)).collect();
        let world = World { nodes, taken: vec![], wanted: vec![(0, 100, 64); wanted] };
        let mut per_dc: BTreeMap<u8, u32> = dcs.iter().map(|dc| (*dc, 0)).collect();
        let mut per_node: BTreeMap<(u8, u64), u32> = dcs.iter().zip(0..).map(|(dc, n)| ((*dc, n), 0)).collect();
        for decision in world.schedule().into_values() {
            let node = decision.expect("room").node.get();
            let dc = dcs[node as usize];
            *per_dc.entry(dc).or_default() += 1;
            *per_node.entry((dc, node)).or_default() += 1;
        }
        let within_one = |counts: &[u32]| counts.iter().max().zip(counts.iter().min()).is_none_or(|(a, b)| a - b <= 1);
        prop_assert!(within_one(&per_dc.values().copied().collect::<Vec<_>>()));
        for dc in per_dc.keys() {
            let counts: Vec<u32> = per_node.iter().filter(|((d, _), _)| d == dc).map(|(_, count)| *count).collect();
            prop_assert!(within_one(&counts), "nodes of {}: {:?}", dc, counts);
        }
    }

    #[test]
    fn order_of_input_makes_no_difference(world in worlds()) {
        let names = names();
        let (mut snapshot, mut wanted) = world.snapshot(&names);
        let forwards = schedule(&snapshot, &wanted);
        snapshot.nodes.reverse();
        snapshot.taken.reverse();
        wanted.reverse();
        prop_assert_eq!(forwards, schedule(&snapshot, &wanted));
    }
}

#[test]
fn a_runtime_class_is_looked_for_on_nodes() {
    let (datacenter, name) = (DatacenterName::new("fra1").expect("valid"), service("web"));
    let class = |name: &str| RuntimeName::new(name).expect("valid");
    let (sandbox, virtual_machine) = (class("runsc"), class("kata"));
    let has = BTreeSet::from([sandbox.clone()]);
    let Names { nodes, anywhere, .. } = names();
    let node = |id: u64, runtimes| NodeView {
        id: NodeId::new(id),
        name: &nodes[id as usize],
        datacenter: &datacenter,
        capacity: Capacity { cpu: CpuMillis(1000), memory: ByteSize::mib(1024) },
        health: NodeHealth::Up,
        is_cordoned: false,
        runtimes,
        labels: None,
    };
    let snapshot = Snapshot { nodes: vec![node(1, None), node(2, Some(&has))], taken: Vec::new() };
    let place = |runtime, cpu, bound_to: Option<u64>| {
        let (instance, bound_to) = (InstanceId::new(1), bound_to.map(volumes_on));
        let wanted = [Wanted { bound_to, runtime, ..wanted_of(instance, &name, size(cpu, 64), &anywhere) }];
        schedule(&snapshot, &wanted).remove(&instance).expect("decided").map_err(|error| error.to_string())
    };
    let choice = place(Some(&sandbox), 100, None).expect("one has it");
    assert_eq!(choice.node, NodeId::new(2));
    assert!(choice.reasons.contains(&"the node has the runtime runsc".to_owned()), "{:?}", choice.reasons);
    assert_eq!(place(None, 100, None).expect("any").node, NodeId::new(1));
    let full = place(Some(&sandbox), 1000, None).expect_err("no room");
    assert!(full.contains("no room on any of 1 nodes with the runtime runsc, cpu is 100m short"), "{full}");
    let lacking = place(Some(&virtual_machine), 100, None).expect_err("none has it");
    assert!(lacking.contains("no node has the runtime kata, of 2 that take new ones"), "{lacking}");
    assert_eq!(place(Some(&sandbox), 100, Some(2)).expect("its volumes are there").node, NodeId::new(2));
    let elsewhere = place(Some(&sandbox), 100, Some(1)).expect_err("its volumes are elsewhere");
    assert!(elsewhere.contains("that node has no runtime runsc"), "{elsewhere}");
}
