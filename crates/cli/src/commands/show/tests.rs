use expect_test::expect;
use insula_types::{
    ByteSize, ClusterId, CpuMillis, DatacenterName, NodeId, NodeName, RegionName, ReleaseNumber, Revision, ServiceName,
};

use super::*;

const NOW: u64 = 1_795_232_400_000;

fn node_name() -> NodeName {
    NodeName::new("fra-1").expect("a label")
}

fn datacenter() -> DatacenterName {
    DatacenterName::new("fra1").expect("a label")
}

fn instance(number: u64, message: &str) -> Instance {
    Instance {
        id: InstanceId::new(number),
        app: AppName::new("shop").expect("a label"),
        service: ServiceName::new("web").expect("a label"),
        release: ReleaseNumber(4),
        node: NodeId::new(7),
        node_name: node_name(),
        datacenter: datacenter(),
        state: insula_api::wire::InstanceState::Running,
        is_ready: message.is_empty(),
        restarts: 0,
        placed_ms: NOW - 90_000,
        since_ms: Some(NOW - 60_000),
        message: message.to_owned(),
        endpoints: [("http".parse().expect("a label"), "10.0.0.2:8080".parse().expect("address"))].into(),
        reasons: vec!["fra1 has the fewest instances of shop/web".to_owned(), "it has the most room".to_owned()],
        hook: None,
    }
}

fn node() -> Node {
    let amount = |cpu, mib| NodeUse { cpu_millis: CpuMillis(cpu), memory_bytes: ByteSize::mib(mib) };
    Node {
        id: NodeId::new(7),
        name: node_name(),
        region: RegionName::new("fra").expect("a label"),
        datacenter: datacenter(),
        address: "192.0.2.7:7443".parse().expect("address"),
        addresses: Vec::new(),
        state: NodeState::Down,
        down_since_ms: Some(NOW - 5000),
        is_cordoned: true,
        is_draining: false,
        changed: Revision(0),
        is_voter: true,
        is_leader: false,
        capacity: amount(2000, 2000),
        allocatable: amount(1800, 1800),
        allocated: amount(250, 128),
        instances: 1,
        runtimes: ["runc", "runsc"].map(|name| name.parse().expect("a label")).to_vec(),
        labels: [("disk", "ssd"), ("rack", "r1")]
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .into(),
        version: "0.1.0".to_owned(),
        joined_ms: NOW - 86_400_000,
    }
}

#[test]
fn instances_are_listed() {
    let table = instance_table(&[instance(1, ""), instance(2, "GET /healthz: 503 for 4 s")], NOW);
    expect![[r#"
        INSTANCE    SERVICE   NODE   DATACENTER  STATE    READY  RESTARTS  AGE  MESSAGE
        i-00000001  shop/web  fra-1  fra1        running  yes    0         90s
        i-00000002  shop/web  fra-1  fra1        running  no     0         90s  GET /healthz: 503 for 4 s
    "#]]
    .assert_eq(&table.render(None));
    expect![[r#"
        INSTANCE    SERVICE   NODE   STATE    READY  RESTARTS  MESSAGE
        i-00000001  shop/web  fra-1  running  yes    0
        i-00000002  shop/web  fra-1  running  no     0         GET /healthz: 503 for 4 s
    "#]]
    .assert_eq(&table.render(Some(80)));
}

#[test]
fn an_instance_is_explained() {
    expect![[r#"
        instance       i-00000001
        service        shop/web, release 4
        node           fra-1 (n-0000000000007), data centre fra1
        state          running for 60s
        gets requests  yes
        restarts       0
        placed         2026-11-21 03:38:30 UTC, 90s ago
        ports          http 10.0.0.2:8080

        why here
          fra1 has the fewest instances of shop/web
          it has the most room
    "#]]
    .assert_eq(&instance_text(&instance(1, ""), NOW, None));
}

#[test]
fn nodes_are_listed_and_shown() {
    expect![[r#"
        NODE   ID               DATACENTER  STATE                  ROLE   INSTANCES  CPU       MEMORY         ADDRESS
        fra-1  n-0000000000007  fra1        down for 5s, cordoned  voter  1          0.25/1.8  128MiB/1.7GiB  192.0.2.7:7443
    "#]].assert_eq(&node_table(&[node()], NOW).render(None));
    expect![[r#"
        node        fra-1
        id          n-0000000000007
        region      fra
        datacenter  fra1
        state       down for 5s, cordoned
        role        voter
        address     192.0.2.7:7443
        has         2 CPU, 1.9GiB memory
        may give    1.8 CPU, 1.7GiB memory
        has given   0.25 CPU, 128MiB memory
        instances   1
        runtimes    runc, runsc
        labels      disk = "ssd", rack = "r1"
        version     0.1.0
        joined      2026-11-20 03:40:00 UTC
    "#]]
    .assert_eq(&node_text(&node(), NOW));
}

#[test]
fn the_node_that_answers_is_shown() {
    let group = |name: &str, alone| GroupStatus {
        group: name.to_owned(),
        leader: Some(insula_api::wire::Leader { node: NodeId::new(7), name: Some(node_name()) }),
        term: Term(3),
        revision: Revision(41),
        voters: vec![NodeId::new(7)],
        is_voter: true,
        alone_since_ms: alone,
    };
    let status = NodeStatus {
        cluster: ClusterId::new(1),
        region: RegionName::new("fra").expect("a label"),
        node: NodeId::new(7),
        name: node_name(),
        datacenter: datacenter(),
        version: "0.1.0".to_owned(),
        started_ms: NOW - 3_600_000,
        groups: vec![group("region", None), group("global", Some(NOW - 7000))],
        problems: vec!["one voter: the loss of this node stops changes".to_owned()],
    };
    expect![[r#"
        node fra-1 (n-0000000000007) in fra, data centre fra1, cluster 0000000000000001
        version 0.1.0, up for 60m

        GROUP   LEADER       TERM  REVISION  VOTERS  THIS NODE
        region  fra-1        3     41        1       votes
        global  none for 7s  3     41        1       votes

        problems
          one voter: the loss of this node stops changes
    "#]]
    .assert_eq(&node_status_text(&status, NOW, None));
}

#[test]
fn regions_are_shown_with_how_they_are_reached() {
    let region = |name: &str| Region {
        name: RegionName::new(name).expect("a label"),
        created_ms: NOW,
        continent: None,
        state: RegionState::Serving,
        is_own: false,
        is_reached: None,
        level: 6,
        gateways: Vec::new(),
        nodes: None,
        nodes_up: None,
        datacenters: Vec::new(),
    };
    let regions = [
        Region { is_own: true, nodes: Some(3), nodes_up: Some(2), datacenters: vec![datacenter()], ..region("fra") },
        Region { continent: "asia".parse().ok(), is_reached: Some(true), nodes: Some(2), ..region("nrt") },
        Region { is_reached: Some(false), nodes: Some(1), ..region("was") },
        Region { state: RegionState::Joining, ..region("sin") },
    ];
    expect![[r#"
        REGION  CONTINENT  STATE    NODES UP  REACHED   LEVEL  DATACENTERS
        fra                serving  2/3       this one  6      fra1
        nrt     asia       serving  ?/2       yes       6
        was                serving  ?/1       no        6
        sin                joining                      6
    "#]]
    .assert_eq(&region_table(&regions).render(None));
}

#[test]
fn what_each_region_shall_run_is_told_where_there_are_several() {
    let of = |service: &str, region: &str, scale: insula_types::Scale| RegionalScale {
        service: service.parse().expect("a label"),
        region: region.parse().expect("a label"),
        scale,
    };
    let mut status = AppStatus {
        app: "shop".parse().expect("a label"),
        release: ReleaseNumber(2),
        services: Vec::new(),
        images: Vec::new(),
        problems: Vec::new(),
        deployment: None,
        regions: Vec::new(),
    };
    assert_eq!((regions_text(&status).as_str(), status.is_ready()), ("", false));
    status.regions = vec![
        of("web", "fra", 2.into()),
        of("web", "was", 4.into()),
        of("worker", "was", insula_types::Scale::EachNode),
    ];
    expect![[r#"
        nothing of it runs in this region

        scale of web: fra 2, was 4
        scale of worker: was each node
    "#]]
    .assert_eq(&status_text(&status, None));
    assert!(status.is_ready(), "nothing of it runs here, so nothing is waited for");
}
