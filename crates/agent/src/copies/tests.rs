use insula_state::{
    Domain,
    region::{RegionKey, RegionObject},
};
use insula_types::{NodeHealth, Placement, RegionalDefinition, RegionalService, ReleaseNumber, Revision};
use proptest::prelude::*;

use super::*;
use crate::testing;

const IMAGE: &str = "registry.example/shop@sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn node(id: u64, datacenter: &str) -> Node {
    Node {
        id: NodeId::new(id),
        name: format!("n{id}").parse().expect("a name"),
        region: "fra".parse().expect("a name"),
        datacenter: datacenter.parse().expect("a name"),
        address: "10.0.0.1:7443".parse().expect("an address"),
        capacity: insula_types::Capacity::default(),
        version: "test".into(),
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}

fn put(state: &mut RegionState, key: RegionKey, object: RegionObject) {
    state.absorb(Revision(1), key, Some(object));
}

fn put_node(state: &mut RegionState, node: Node) {
    put(state, RegionKey::Node(node.id), RegionObject::Node(node));
}

fn region(nodes: &[(u64, &str)]) -> RegionState {
    let mut state = RegionState::default();
    nodes.iter().for_each(|(id, datacenter)| put_node(&mut state, node(*id, datacenter)));
    state
}

fn run(state: &mut RegionState, instance: u64, on: u64, image: &str) {
    let mut placement: Placement = testing::placement(instance, on);
    placement.spec.image = Some(image.to_owned());
    put(state, RegionKey::Placement(placement.instance), RegionObject::Placement(placement));
}

fn ids(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId::new).collect()
}

fn image(number: u64) -> String {
    format!("registry.example/shop@sha256:{number:064x}")
}

#[test]
fn what_runs_once_is_kept_twice_and_in_another_data_centre() {
    let mut state = region(&[(1, "fra1"), (2, "fra1"), (3, "fra2"), (4, "fra1")]);
    run(&mut state, 1, 1, IMAGE);
    assert_eq!(keepers(&state, IMAGE), ids([1, 3]));
    // Two that run it in one data centre are lost with it.
    run(&mut state, 2, 2, IMAGE);
    assert_eq!(keepers(&state, IMAGE), ids([1, 2, 3]));
    run(&mut state, 3, 3, IMAGE);
    assert_eq!(keepers(&state, IMAGE), ids([1, 2, 3]), "nobody has to keep it besides");
}

#[test]
fn a_node_that_is_down_or_emptied_keeps_nothing() {
    let mut state = region(&[(1, "fra1"), (2, "fra1"), (3, "fra1")]);
    run(&mut state, 1, 1, IMAGE);
    let mut down = node(1, "fra1");
    down.health = NodeHealth::Down { since_ms: 1 };
    put_node(&mut state, down);
    assert_eq!(keepers(&state, IMAGE), ids([2, 3]));
    let mut emptied = node(2, "fra1");
    emptied.is_draining = true;
    put_node(&mut state, emptied);
    assert_eq!(keepers(&state, IMAGE), ids([3]));
    assert_eq!(sources(&state, IMAGE, NodeId::new(3)), Vec::new());
}

#[test]
fn who_keeps_an_image_is_asked_first_and_the_near_ones_before_the_far_ones() {
    let mut state = region(&[(1, "fra1"), (2, "fra2"), (3, "fra2"), (4, "fra1"), (5, "fra3")]);
    run(&mut state, 1, 1, IMAGE);
    run(&mut state, 2, 2, IMAGE);
    let asked: Vec<u64> = sources(&state, IMAGE, NodeId::new(3)).into_iter().map(NodeId::get).collect();
    assert_eq!(asked[..2], [2, 1]);
    assert_eq!(asked.iter().copied().collect::<BTreeSet<_>>(), [1, 2, 4, 5].into());
}

#[test]
fn what_is_defined_and_not_yet_placed_is_kept_too() {
    let mut state = region(&[(1, "fra1"), (2, "fra1")]);
    let mut spec = testing::spec();
    spec.image = Some(IMAGE.to_owned());
    let service = RegionalService { spec, scale: 1.into(), ..RegionalService::default() };
    let definition = RegionalDefinition {
        app: "shop".parse().expect("a name"),
        release: ReleaseNumber(1),
        services: [("web".parse().expect("a name"), service)].into(),
        again_of: None,
    };
    put(&mut state, RegionKey::Definition(definition.app.clone()), RegionObject::Definition(definition));
    for node in [1, 2] {
        assert_eq!(kept_by(&state, &BTreeSet::new(), NodeId::new(node)), [IMAGE.to_owned()].into());
    }
}

#[test]
fn a_release_that_one_may_go_back_to_is_kept_as_well() {
    let state = region(&[(1, "fra1"), (2, "fra1"), (3, "fra1")]);
    let others = [IMAGE.to_owned()].into();
    let keeping = |node: &u64| !kept_by(&state, &others, NodeId::new(*node)).is_empty();
    assert_eq!([1, 2, 3].iter().filter(|node| keeping(node)).count(), COPIES);
}

#[test]
fn a_copy_that_hangs_or_fails_holds_up_no_other() {
    let (rng, now) = (insula_env::Rng::from_seed(1), insula_env::Clock::real().now());
    let mine: BTreeSet<String> = (0..8).map(image).collect();
    let mut kept = Kept::default();
    let first = kept.next(&mine, now);
    assert_eq!(first.len(), PULLS_MAX);
    assert_eq!(kept.next(&mine, now), Vec::<String>::new(), "so many at once");
    kept.note(first[0].clone(), Err("no registry".into()), now, &rng);
    kept.note(first[1].clone(), Ok(()), now, &rng);
    let second = kept.next(&mine, now);
    assert_eq!(second.len(), 2, "the others go on");
    assert!(!second.contains(&first[0]) && !second.contains(&first[1]));
    second.iter().for_each(|image| kept.note(image.clone(), Ok(()), now, &rng));
    let due = kept.next_due(now).expect("the failed one");
    assert!(kept.next(&mine, due).contains(&first[0]), "it is tried again");
    // What is not to be kept any more is forgotten, and pulled again when it is to be again.
    kept.note(first[0].clone(), Err("no registry".into()), due, &rng);
    assert_eq!(kept.next(&BTreeSet::new(), due), Vec::<String>::new());
    assert_eq!(kept.next_due(due), None);
    assert!(kept.next(&mine, due).contains(&first[0]));
}

proptest! {
    #[test]
    fn a_node_that_goes_moves_only_its_share(count in 3_u64..12, gone in 1_u64..12) {
        let places = ["fra1", "fra2", "fra3"];
        let nodes: Vec<_> = (1..=count).map(|id| (id, places[id as usize % 3])).collect();
        let before = region(&nodes);
        let mut after = region(&nodes);
        let gone = 1 + gone % count;
        let mut down = node(gone, places[gone as usize % 3]);
        down.health = NodeHealth::Down { since_ms: 1 };
        put_node(&mut after, down);
        let mut shares = BTreeMap::new();
        for number in 0..60 {
            let (was, is) = (keepers(&before, &image(number)), keepers(&after, &image(number)));
            prop_assert_eq!(was.len(), COPIES);
            prop_assert_eq!(is.len(), COPIES.min(count as usize - 1));
            if !was.contains(&NodeId::new(gone)) {
                prop_assert_eq!(&was, &is);
            }
            was.iter().for_each(|node| *shares.entry(*node).or_insert(0) += 1);
        }
        // All take part.
        prop_assert!(shares.len() >= count as usize - 1, "{:?}", shares);
    }
}
