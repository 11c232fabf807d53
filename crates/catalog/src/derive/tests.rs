use std::{collections::BTreeMap, net::SocketAddr};

use insula_state::{
    Domain, RegionState,
    region::{RegionKey, RegionMeta, RegionObject},
};
use insula_types::{
    Addresses, Capacity, ClusterId, Deployment, DeploymentState, Desired, HookKind, HookState, Incarnation, InstanceId,
    InstanceStatus, Node, NodeHealth, NodeId, Phase, Placement, PortSpec, Protocol, RegionalDefinition,
    RegionalService, ReleaseNumber, Revision, RouteSpec, ServiceRef, ServiceSpec,
};
use proptest::prelude::*;

use crate::Catalog;

fn node(number: u64, is_up: bool) -> Node {
    Node {
        id: NodeId::new(number),
        name: format!("n{number}").parse().unwrap(),
        region: "fra".parse().unwrap(),
        datacenter: "fra1".parse().unwrap(),
        address: SocketAddr::from(([10, 0, 0, number as u8], 7443)),
        capacity: Capacity::default(),
        version: "0.1.0".to_owned(),
        health: if is_up { NodeHealth::Up } else { NodeHealth::Down { since_ms: 1 } },
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}

fn spec(host: &str, path: &str) -> ServiceSpec {
    ServiceSpec {
        ports: vec![PortSpec { name: "http".parse().unwrap(), port: 8080, protocol: Protocol::Http }],
        routes: vec![RouteSpec { host: host.to_owned(), path: path.to_owned() }],
        ..ServiceSpec::default()
    }
}

fn placement(number: u64, on: u64, desired: Desired) -> Placement {
    Placement {
        instance: InstanceId::new(number),
        service: ServiceRef::new("shop".parse().unwrap(), "web".parse().unwrap()),
        node: NodeId::new(on),
        release: ReleaseNumber(1),
        spec: spec("shop.example", "/"),
        desired,
        reasons: Vec::new(),
        placed_ms: 0,
        slot: None,
        hook: None,
    }
}

fn status(number: u64, on: u64, is_ready: bool) -> InstanceStatus {
    InstanceStatus {
        instance: InstanceId::new(number),
        node: NodeId::new(on),
        phase: Phase::Running,
        is_ready,
        was_ready: false,
        endpoints: BTreeMap::from([("http".parse().unwrap(), "10.9.0.1:8080".parse().unwrap())]),
        restarts: 0,
        message: String::new(),
        since_ms: 0,
    }
}

fn definition(app: &str, host: &str, path: &str) -> RegionalDefinition {
    let service = RegionalService { spec: spec(host, path), scale: 1.into(), ..RegionalService::default() };
    RegionalDefinition {
        app: app.parse().unwrap(),
        release: ReleaseNumber(1),
        services: BTreeMap::from([("web".parse().unwrap(), service)]),
        again_of: None,
    }
}

fn state(objects: Vec<(RegionKey, RegionObject)>) -> RegionState {
    let mut state = RegionState::default();
    let meta = RegionMeta { cluster: ClusterId::new(1), region: "fra".parse().unwrap(), incarnation: Incarnation(1) };
    state.absorb(Revision(1), RegionKey::Meta, Some(RegionObject::Meta(meta)));
    for (key, object) in objects {
        state.absorb(Revision(1), key, Some(object));
    }
    state
}

fn put_node(number: u64, is_up: bool) -> (RegionKey, RegionObject) {
    (RegionKey::Node(NodeId::new(number)), RegionObject::Node(node(number, is_up)))
}

fn put_placement(number: u64, on: u64, desired: Desired) -> (RegionKey, RegionObject) {
    (RegionKey::Placement(InstanceId::new(number)), RegionObject::Placement(placement(number, on, desired)))
}

fn put_status(number: u64, on: u64, is_ready: bool) -> (RegionKey, RegionObject) {
    (RegionKey::Status(InstanceId::new(number)), RegionObject::Status(status(number, on, is_ready)))
}

fn put_definition(app: &str, host: &str, path: &str) -> (RegionKey, RegionObject) {
    (RegionKey::Definition(app.parse().unwrap()), RegionObject::Definition(definition(app, host, path)))
}

#[test]
fn nothing_before_the_region_is_founded() {
    assert_eq!(Catalog::derive(&RegionState::default(), Revision(0), NodeId::new(1)), None);
}

#[test]
fn each_node_gets_what_its_traffic_needs() {
    let state = state(vec![
        put_node(1, true),
        put_node(2, false),
        put_definition("shop", "shop.example", "/"),
        put_placement(11, 1, Desired::Run),
        put_status(11, 1, true),
        put_placement(12, 2, Desired::Run),
        put_status(12, 1, true),
        put_placement(13, 1, Desired::Drain),
        put_status(13, 1, true),
        put_placement(14, 2, Desired::Drain),
        put_placement(15, 1, Desired::Stop),
        put_placement(16, 9, Desired::Run),
    ]);
    let catalog = Catalog::derive(&state, Revision(7), NodeId::new(1)).unwrap();
    catalog.check().unwrap();
    let service = ServiceRef::new("shop".parse().unwrap(), "web".parse().unwrap());
    let instances = &catalog.services[&service].instances;
    assert_eq!(instances.keys().map(|id| id.get()).collect::<Vec<_>>(), [11, 12, 13]);
    let of = |number| &instances[&InstanceId::new(number)];
    assert!(of(11).is_ready && of(11).was_ready && !of(11).is_draining && of(11).endpoints.len() == 1);
    assert!(!of(12).is_ready && of(12).endpoints.is_empty(), "the status was written by a node that does not run it");
    assert!(of(13).is_draining, "own instances that drain are still reached by peers that do not know yet");
    assert!(!catalog.nodes[&NodeId::new(2)].is_up);
    assert_eq!(catalog.routes["shop.example"]["/"].service, service);

    let catalog = Catalog::derive(&state, Revision(7), NodeId::new(2)).unwrap();
    let instances = &catalog.services[&service].instances;
    assert_eq!(instances.keys().map(|id| id.get()).collect::<Vec<_>>(), [11, 12, 14]);
    assert!(instances[&InstanceId::new(11)].endpoints.is_empty(), "addresses of another node are of no use");
}

#[test]
fn before_a_release_may_begin_traffic_goes_as_before_and_never_to_a_hook() {
    let mut wanted = RegionalDefinition { release: ReleaseNumber(2), ..definition("shop", "new.example", "/") };
    wanted.services.values_mut().for_each(|service| service.update.hooks.before = vec!["./migrate".into()]);
    let old = definition("shop", "shop.example", "/");
    let mut deployment = Deployment::begin(&wanted, Some((&old, None)), 0);
    let derived = |deployment: &Deployment| {
        let hook = Placement { hook: Some(HookKind::Before), ..placement(12, 1, Desired::Run) };
        let state = state(vec![
            put_node(1, true),
            (RegionKey::Definition(wanted.app.clone()), RegionObject::Definition(wanted.clone())),
            (RegionKey::Deployment(wanted.app.clone()), RegionObject::Deployment(deployment.clone())),
            put_placement(11, 1, Desired::Run),
            (RegionKey::Placement(hook.instance), RegionObject::Placement(hook)),
            put_status(12, 1, true),
        ]);
        let catalog = Catalog::derive(&state, Revision(7), NodeId::new(1)).unwrap();
        let ids = catalog.services.values().flat_map(|one| one.instances.keys()).map(|id| id.get()).collect::<Vec<_>>();
        (catalog.routes.into_keys().collect::<Vec<_>>(), ids)
    };
    assert_eq!(derived(&deployment), (vec!["shop.example".to_owned()], vec![11]));
    deployment.state = DeploymentState::Failed;
    assert_eq!(derived(&deployment).0, ["shop.example"]);
    deployment.hooks.iter_mut().for_each(|run| run.state = HookState::Done);
    assert_eq!(derived(&deployment).0, ["new.example"]);
}

#[test]
fn an_object_that_makes_no_sense_harms_only_itself() {
    let state = state(vec![
        put_node(1, true),
        put_definition("bad", "Bad Host", "nopath"),
        put_definition("good", "good.example", "/"),
        put_definition("thief", "good.example", "/"),
    ]);
    let catalog = Catalog::derive(&state, Revision(7), NodeId::new(1)).unwrap();
    catalog.check().unwrap();
    assert_eq!(catalog.routes.len(), 1);
    assert_eq!(catalog.routes["good.example"]["/"].service.app.as_str(), "good");
}

proptest! {
    /// Whatever the state holds, what is derived from it can be used.
    #[test]
    fn what_is_derived_passes_the_check(
        nodes in proptest::collection::vec((1u64..5, any::<bool>()), 0..5),
        placements in proptest::collection::vec((1u64..20, 1u64..6, 0u8..3), 0..20),
        statuses in proptest::collection::vec((1u64..20, 1u64..6, any::<bool>()), 0..20),
        routes in proptest::collection::vec(("[a-c]", "\\PC{0,12}", "\\PC{0,6}"), 0..6),
        own in 1u64..6,
    ) {
        let mut objects: Vec<_> = nodes.into_iter().map(|(n, up)| put_node(n, up)).collect();
        let desired = [Desired::Run, Desired::Drain, Desired::Stop];
        objects.extend(placements.into_iter().map(|(i, n, d)| put_placement(i, n, desired[usize::from(d)])));
        objects.extend(statuses.into_iter().map(|(i, n, r)| put_status(i, n, r)));
        objects.extend(routes.iter().map(|(app, host, path)| put_definition(app, host, path)));
        let catalog = Catalog::derive(&state(objects), Revision(1), NodeId::new(own)).unwrap();
        prop_assert_eq!(catalog.check(), Ok(()));
        let bytes = insula_types::codec::encode(&catalog);
        prop_assert_eq!(insula_types::codec::decode::<Catalog>(&bytes).unwrap(), catalog);
    }
}

#[test]
fn nodes_are_reached_by_the_nearest_address_that_is_meant_for_the_own_node() {
    let mut state = state(Vec::new());
    for number in 1..=3 {
        let mut node = node(number, true);
        node.address = "203.0.113.1:7443".parse().unwrap();
        node.datacenter = if number == 3 { "fra2" } else { "fra1" }.parse().unwrap();
        state.absorb(Revision(number), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
    }
    let list = ["datacenter=10.0.0.1:7443", "203.0.113.1:7443"].map(|text| text.parse().unwrap()).to_vec();
    let addresses = Addresses::new(1, list).unwrap();
    state.absorb(Revision(4), RegionKey::Addresses(NodeId::new(1)), Some(RegionObject::Addresses(addresses)));
    let reached = |own| {
        let catalog = Catalog::derive(&state, Revision(4), NodeId::new(own)).expect("founded");
        let of = |number| catalog.nodes[&NodeId::new(number)].addresses().map(|at| at.to_string()).collect::<Vec<_>>();
        (of(1).join(" "), of(2).join(" "))
    };
    let far = "203.0.113.1:7443".to_owned();
    assert_eq!(reached(2), ("10.0.0.1:7443 203.0.113.1:7443".to_owned(), far.clone()), "in the same data centre");
    assert_eq!(reached(3), (far.clone(), far), "in another one");
}

/// What a port speaks belongs to the instance: an older release may speak something else.
#[test]
fn ports_that_speak_h2c_are_known_by_instance() {
    let mut newer = placement(12, 1, Desired::Run);
    newer.spec.ports[0].protocol = Protocol::H2c;
    let state = state(vec![
        put_node(1, true),
        put_definition("shop", "shop.example", "/"),
        put_placement(11, 1, Desired::Run),
        (RegionKey::Placement(InstanceId::new(12)), RegionObject::Placement(newer)),
    ]);
    let catalog = Catalog::derive(&state, Revision(2), NodeId::new(1)).unwrap();
    let service = &catalog.routes["shop.example"]["/"].service;
    let speaks = |number| catalog.instance(service, InstanceId::new(number)).unwrap().h2c.len();
    assert_eq!((speaks(11), speaks(12)), (0, 1));
}
