//! Where one-off instances go.

use insula_scheduler::PlaceError;
use insula_state::{
    Domain, RegionState,
    region::{RegionKey, RegionObject},
};
use insula_types::{
    ByteSize, CpuMillis, Desired, InstanceId, Node, NodeHealth, NodeId, Placement, ReleaseNumber, Resources, Revision,
    ServiceRef, ServiceSpec,
};

use super::region::node;
use crate::one_off::{admit, choose, may_be_told};

const FULL: u64 = 4096;

fn spec(mib: u64) -> ServiceSpec {
    let resources = Resources { cpu: CpuMillis(10), memory: ByteSize::mib(mib), ..Resources::default() };
    ServiceSpec { image: Some("shop".to_owned()), resources, ..ServiceSpec::default() }
}

/// Nodes by number, and the memory in MiB that an instance of the service has on some of them.
fn state(nodes: &[Node], placed: &[(u64, u64)]) -> RegionState {
    let mut state = RegionState::default();
    for node in nodes {
        state.absorb(Revision(1), RegionKey::Node(node.id), Some(RegionObject::Node(node.clone())));
    }
    for (number, (at, mib)) in (1..).zip(placed) {
        let placement = Placement {
            instance: InstanceId::new(number),
            service: service(),
            node: NodeId::new(*at),
            release: ReleaseNumber(1),
            spec: spec(*mib),
            desired: Desired::Run,
            reasons: Vec::new(),
            placed_ms: 0,
            slot: None,
            hook: None,
        };
        let key = RegionKey::Placement(placement.instance);
        state.absorb(Revision(2), key, Some(RegionObject::Placement(placement)));
    }
    state
}

fn service() -> ServiceRef {
    ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"))
}

#[test]
fn one_with_secrets_goes_where_they_are_opened() {
    let mut state = state(&[1, 2, 3].map(|id| node(id, "fra1")), &[(2, 64), (3, 64)]);
    let secrets = |version| ServiceSpec { secrets: [("KEY".parse().expect("a name"), version)].into(), ..spec(64) };
    let mut placed = state.placements.get(&InstanceId::new(1)).cloned().expect("placed");
    placed.spec = secrets(1);
    state.absorb(Revision(3), RegionKey::Placement(placed.instance), Some(RegionObject::Placement(placed)));
    assert_eq!(choose(&state, &service(), &secrets(1), NodeId::new(3)), Ok(NodeId::new(2)));
    assert!(may_be_told(&state, &service(), &secrets(1)));
    assert!(!may_be_told(&state, &service(), &secrets(2)), "no instance has that version");
    assert!(may_be_told(&state, &service(), &spec(64)));
}

#[test]
fn a_node_with_the_image_comes_first_and_the_asked_one_before_its_equals() {
    let three = [1, 2, 3].map(|id| node(id, "fra1"));
    let chosen = |nodes: &[Node], placed: &[(u64, u64)], here| {
        choose(&state(nodes, placed), &service(), &spec(64), NodeId::new(here)).map(NodeId::get)
    };
    assert_eq!(chosen(&three, &[(2, 64), (3, 64)], 3), Ok(3));
    assert_eq!(chosen(&three, &[(2, 64)], 3), Ok(2), "it has the image");
    assert_eq!(chosen(&three, &[], 3), Ok(1), "as the scheduler would");
    assert_eq!(chosen(&three, &[(2, FULL)], 2), Ok(1), "the one with the image is full");
    let mut two = [node(1, "fra1"), node(2, "fra1")];
    two[0].is_cordoned = true;
    two[1].health = NodeHealth::Down { since_ms: 1 };
    assert!(matches!(chosen(&two, &[(1, 64), (2, 64)], 1), Err(PlaceError::NoNode { .. })));
    two[0].is_cordoned = false;
    assert!(matches!(chosen(&two, &[(1, FULL)], 1), Err(PlaceError::NoCapacity { .. })));
}

#[test]
fn one_off_instances_take_room_too() {
    let state = state(&[node(1, "fra1"), node(2, "fra1")], &[(1, 1024)]);
    let admitted =
        |at, count| admit(&state, &service(), &spec(1024), NodeId::new(at), &vec![spec(1024).resources; count]).is_ok();
    assert_eq!([0, 1, 2, 3].map(|count| admitted(1, count)), [true, true, false, false]);
    assert_eq!([1, 2, 3].map(|count| admitted(2, count)), [true, true, false]);
    assert!(!admitted(3, 0), "there is no such node");
}
