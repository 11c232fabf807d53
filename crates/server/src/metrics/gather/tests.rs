use std::collections::BTreeSet;

use insula_catalog::{Holder, link};
use insula_env::{Env, beat, net};
use insula_state::region::{RegionKey, RegionObject};
use insula_types::{
    ByteSize, ClusterId, CpuMillis, HttpRequestId, InstanceId, InstanceStatus, Node, Placement, RegionalService,
    ReleaseNumber, Remembered, Resources, Revision, ServiceSpec, Traffic, Volume, VolumeRef,
};

use super::*;

fn service() -> ServiceRef {
    ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"))
}

fn node(id: u64, health: NodeHealth) -> Node {
    Node {
        id: NodeId::new(id),
        name: format!("n{id}").parse().expect("a name"),
        region: "fra".parse().expect("a name"),
        datacenter: "fra1".parse().expect("a name"),
        address: "10.0.0.1:7443".parse().expect("an address"),
        capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(4096) },
        version: "test".into(),
        health,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}

fn spec() -> ServiceSpec {
    let resources = Resources { cpu: CpuMillis(250), memory: ByteSize::mib(64), ..Resources::default() };
    ServiceSpec { resources, ..ServiceSpec::default() }
}

/// A region of two nodes, one of them down; three instances are wanted and one is ready.
fn region() -> RegionState {
    let mut region = RegionState::default();
    let mut put = |key, object| region.absorb(Revision(1), key, Some(object));
    for (id, health) in [(1, NodeHealth::Up), (2, NodeHealth::Down { since_ms: 5 })] {
        put(RegionKey::Node(NodeId::new(id)), RegionObject::Node(node(id, health)));
    }
    let ServiceRef { app, service: name } = service();
    let wanted = RegionalService { spec: spec(), scale: 3.into(), ..RegionalService::default() };
    let definition = RegionalDefinition {
        app: app.clone(),
        release: ReleaseNumber(1),
        services: BTreeMap::from([(name, wanted)]),
        again_of: None,
    };
    let deployment = Deployment::begin(&definition, None, 0);
    put(RegionKey::Definition(app.clone()), RegionObject::Definition(definition));
    put(RegionKey::Deployment(app), RegionObject::Deployment(deployment));
    for (id, on, desired) in [(1, 1, Desired::Run), (2, 1, Desired::Run), (3, 1, Desired::Stop), (4, 2, Desired::Run)] {
        let instance = InstanceId::new(id);
        let placement = Placement {
            instance,
            service: service(),
            node: NodeId::new(on),
            release: ReleaseNumber(1),
            spec: spec(),
            desired,
            reasons: Vec::new(),
            placed_ms: 0,
            slot: None,
            hook: None,
        };
        put(RegionKey::Placement(instance), RegionObject::Placement(placement));
    }
    let status = InstanceStatus {
        instance: InstanceId::new(1),
        node: NodeId::new(1),
        phase: Phase::Running,
        is_ready: true,
        was_ready: true,
        endpoints: BTreeMap::new(),
        restarts: 2,
        message: String::new(),
        since_ms: 0,
    };
    put(RegionKey::Status(status.instance), RegionObject::Status(status));
    let name: VolumeRef = "shop/db/data.0".parse().expect("a volume");
    let volume =
        Volume { node: NodeId::new(1), size: ByteSize::mib(8), created_ms: 0, is_made: true, is_deleted: false };
    put(RegionKey::Volume(name), RegionObject::Volume(volume));
    region
}

fn samples(page: &Page) -> BTreeSet<String> {
    page.text().lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
}

fn check(page: &Page, wanted: &[&str]) {
    let samples = samples(page);
    for sample in wanted {
        assert!(samples.contains(*sample), "{sample}: {samples:#?}");
    }
}

#[test]
fn a_node_tells_of_what_is_on_it() {
    let mut page = Page::default();
    of_node(&mut page, &region(), NodeId::new(1));
    check(
        &page,
        &[
            "insula_node_memory_allocated_bytes 134217728",
            "insula_node_cpu_allocated_cores 0.5",
            "insula_volumes 1",
            "insula_volumes_bytes 8388608",
            "insula_instances{app=\"shop\",service=\"web\",phase=\"running\"} 1",
            "insula_instances{app=\"shop\",service=\"web\",phase=\"pending\"} 2",
            "insula_instances_ready{app=\"shop\",service=\"web\"} 1",
            "insula_instances_restarts{app=\"shop\",service=\"web\"} 2",
        ],
    );
    assert_eq!(samples(&page).len(), 8);
}

#[test]
fn a_leader_tells_of_its_region() {
    let mut page = Page::default();
    of_region(&mut page, &region());
    check(
        &page,
        &[
            "insula_nodes{health=\"up\"} 1",
            "insula_nodes{health=\"down\"} 1",
            "insula_deployments{state=\"going\"} 1",
            "insula_deployments{state=\"done\"} 0",
            "insula_services_short 1",
        ],
    );
}

struct Told;

impl link::Dataplane for Told {
    fn reload_identity(&self) -> Result<(), String> {
        Ok(())
    }
    fn stats(&self) -> BTreeMap<String, u64> {
        BTreeMap::from([("insula_edge_requests_total".to_owned(), 7)])
    }
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
    fn requests(&self, _: &HttpRequestId) -> Remembered {
        Remembered::default()
    }
}

#[tokio::test]
async fn while_the_dataplane_is_away_its_metrics_are_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, env) = (dir.path().join("dataplane.sock"), Env::real("test"));
    let dataplane = Link::start(path.clone(), &env);
    let mut page = Page::default();
    of_dataplane(&mut page, &dataplane).await;
    assert_eq!(samples(&page), BTreeSet::from(["insula_dataplane_up 0".to_owned()]));

    let listener = net::bind_unix(&path).expect("bind");
    let holder = Holder::new(ClusterId::new(1), "fra".parse().expect("a name"), NodeId::new(1));
    let tasks = env.clone();
    env.tasks.critical("link", beat::QUICK, |beat| link::listen(listener, holder, Arc::new(Told), tasks, beat));
    dataplane.acknowledged().wait_for(|seen| seen.is_connected).await.expect("it lives");
    let mut page = Page::default();
    of_dataplane(&mut page, &dataplane).await;
    check(&page, &["insula_dataplane_up 1", "insula_edge_requests_total 7"]);
    env.tasks.crash();
}
