use insula_state::{
    Domain,
    global::{App, Gateway, GlobalKey, GlobalObject, Region},
    region::{RegionKey, RegionMeta, RegionObject},
};
use insula_types::{
    ClusterId, Incarnation, InstanceId, PortSpec, Protocol, RegionSet, RegionalDefinition, RegionalService, Release,
    ReleaseNumber, Revision, RouteSpec, ServiceSpec,
};

use super::*;
use crate::{CatalogInstance, CatalogNode};

fn name(text: &str) -> RegionName {
    text.parse().expect("a name")
}

fn service(text: &str) -> ServiceRef {
    ServiceRef::new(text.parse().expect("a name"), "web".parse().expect("a name"))
}

fn spec(host: &str) -> ServiceSpec {
    ServiceSpec {
        ports: vec![PortSpec { name: "http".parse().expect("a name"), port: 8080, protocol: Protocol::Http }],
        routes: vec![RouteSpec { host: host.to_owned(), path: "/".to_owned() }],
        ..ServiceSpec::default()
    }
}

/// Region fra, which runs the apps that are named, each under a host of its own that is still that of the release before.
fn region(apps: &[&str]) -> RegionState {
    let mut state = RegionState::default();
    let meta = RegionMeta { cluster: ClusterId::new(1), region: name("fra"), incarnation: Incarnation(1) };
    state.absorb(Revision(1), RegionKey::Meta, Some(RegionObject::Meta(meta)));
    for app in apps {
        let spec = spec(&format!("{app}.before"));
        let definition = RegionalDefinition {
            app: app.parse().expect("a name"),
            release: ReleaseNumber(1),
            services: [("web".parse().expect("a name"), RegionalService { spec, ..RegionalService::default() })].into(),
            again_of: None,
        };
        let key = RegionKey::Definition(definition.app.clone());
        state.absorb(Revision(1), key, Some(RegionObject::Definition(definition)));
    }
    state
}

/// A world of these regions, each with one gateway, with these apps, each in these regions.
fn world(regions: &[&str], apps: &[(&str, &[&str])]) -> GlobalState {
    let mut state = GlobalState::default();
    for (place, region) in regions.iter().enumerate() {
        let gateway = Gateway { node: NodeId::new(100 + place as u64), addresses: vec![([192, 0, 2, 1], 7443).into()] };
        let region = Region { gateways: vec![gateway], ..Region::new(name(region), place as u64, None) };
        state.absorb(Revision(1), GlobalKey::Region(region.name.clone()), Some(GlobalObject::Region(region)));
    }
    for (app, runs_in) in apps {
        let of = service(app);
        let release = Release {
            number: ReleaseNumber(1),
            services: [(of.service.clone(), spec(&format!("{app}.example")))].into(),
            regions: [(of.service.clone(), RegionSet::These(runs_in.iter().map(|text| name(text)).collect()))].into(),
            ..Release::default()
        };
        let present = App::new(of.app.clone(), release.number, BTreeMap::new());
        let key = (of.app.clone(), release.number);
        state.absorb(Revision(1), GlobalKey::Release(key), Some(GlobalObject::Release(release)));
        state.absorb(Revision(1), GlobalKey::App(of.app), Some(GlobalObject::App(present)));
    }
    state
}

fn digest(services: &[(&str, u32, u32)]) -> Digest {
    services
        .iter()
        .map(|(app, ready, was_ready)| (service(app), FarService { ready: *ready, was_ready: *was_ready }))
        .collect()
}

/// The catalog of a node of fra in a world.
fn catalog(own: &[&str], global: &GlobalState, heard: &[(&str, u32, bool, Digest)]) -> Catalog {
    let state = region(own);
    let heard = heard
        .iter()
        .map(|(region, rank, is_fresh, digest)| (name(region), Heard { rank: *rank, is_fresh: *is_fresh, digest }))
        .collect();
    let catalog = Catalog::derive(&state, Revision(1), NodeId::new(1)).expect("founded");
    let catalog = catalog.with_world(&state, global, &heard);
    catalog.check().expect("fit for use");
    catalog
}

fn hosts(catalog: &Catalog) -> Vec<&str> {
    catalog.routes.keys().map(String::as_str).collect()
}

#[test]
fn routes_lead_to_what_runs_elsewhere_and_what_runs_here_has_its_own() {
    let global =
        world(&["fra", "nrt"], &[("both", &["fra", "nrt"]), ("far", &["nrt"]), ("near", &["fra"]), ("lost", &["syd"])]);
    let found = catalog(&["both", "near"], &global, &[]);
    assert_eq!(hosts(&found), ["both.before", "far.example", "near.before"]);
    assert_eq!(found.routes["far.example"]["/"].service, service("far"));
    assert!(found.services[&service("far")].instances.is_empty());
    // Before the region has begun to run it, others answer.
    assert_eq!(hosts(&catalog(&[], &global, &[])), ["both.example", "far.example"]);
    // Of a world in which this region is not nothing is believed.
    let stranger = world(&["nrt"], &[("far", &["nrt"])]);
    let found = catalog(&["near"], &stranger, &[]);
    assert_eq!((hosts(&found), found.far.len()), (vec!["near.before"], 0));
}

#[test]
fn of_each_service_the_nearest_regions_that_have_it_are_known() {
    let global = world(&["fra", "a", "b", "c", "d"], &[("far", &["a", "b", "c", "d"]), ("near", &["fra"])]);
    let who = |heard: &[(&str, u32, bool, Digest)]| {
        let found = catalog(&["near"], &global, heard);
        assert_eq!(found.far.len(), 4, "all of them are regions of the world");
        let has = found.far.iter().filter(|(_, region)| region.services.contains_key(&service("far")));
        has.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(" ")
    };
    let some = || digest(&[("far", 2, 2)]);
    assert_eq!(
        who(&[("a", 3, true, some()), ("b", 2, true, some()), ("c", 1, true, some()), ("d", 0, true, some())]),
        "b c d"
    );
    let none_ready = digest(&[("far", 0, 2)]);
    assert_eq!(
        who(&[("a", 3, true, some()), ("b", 2, true, some()), ("c", 1, true, some()), ("d", 0, true, none_ready)]),
        "a b c"
    );
    assert_eq!(
        who(&[("a", 3, true, some()), ("b", 2, true, some()), ("c", 1, true, some()), ("d", 0, false, some())]),
        "a b c"
    );
    // What nobody asks this edge for, and a region that is none, are not kept.
    assert_eq!(who(&[("a", 0, true, digest(&[("other", 2, 2)])), ("gone", 1, true, some())]), "");
}

#[test]
fn a_region_tells_of_what_is_or_was_ready_behind_routes() {
    let mut catalog = catalog(&["some", "none", "stopped"], &world(&["fra"], &[]), &[]);
    let node = |is_up| CatalogNode {
        name: "n1".parse().expect("a name"),
        datacenter: "fra1".parse().expect("a name"),
        address: ([192, 0, 2, 1], 7443).into(),
        others: Vec::new(),
        is_up,
    };
    catalog.nodes = [(NodeId::new(1), node(true)), (NodeId::new(2), node(false))].into();
    let mut put = |app: &str, id: u64, node: u64, is_ready: bool, was_ready: bool, is_draining: bool| {
        let instance = CatalogInstance {
            node: NodeId::new(node),
            is_ready,
            was_ready,
            is_draining,
            is_first: false,
            ports: BTreeMap::new(),
            h2c: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            release: None,
        };
        catalog.services.entry(service(app)).or_default().instances.insert(InstanceId::new(id), instance);
    };
    put("some", 1, 1, true, true, false);
    put("some", 2, 2, true, true, false);
    put("some", 3, 1, false, true, false);
    put("some", 4, 1, true, true, true);
    put("none", 5, 1, false, false, false);
    put("unrouted", 6, 1, true, true, false);
    assert_eq!(catalog.digest(), digest(&[("some", 1, 3)]));
}
