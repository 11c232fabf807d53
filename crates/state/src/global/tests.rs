use std::{collections::BTreeMap, sync::Arc};

use insula_types::{AppName, ReleaseNumber, RequestId, RouteSpec, ServiceName, ServiceSpec, codec};

use super::*;
use crate::{Machine, Outcome, RejectionCode, Replica, seal};

struct World {
    replica: Arc<Replica<GlobalState>>,
    machine: Machine<GlobalState>,
    requests: u64,
}

fn name(text: &str) -> AppName {
    AppName::new(text).expect("a name")
}

fn web() -> ServiceName {
    ServiceName::new("web").expect("a name")
}

fn deploy(app: &str, image: &str, host: &str, expect: Option<u64>) -> GlobalCommand {
    let spec = ServiceSpec {
        driver: insula_types::DriverKind::Container,
        image: Some(image.into()),
        routes: vec![RouteSpec { host: host.into(), path: "/".into() }],
        ..ServiceSpec::default()
    };
    GlobalCommand::Deploy {
        app: name(app),
        services: BTreeMap::from([(web(), spec)]),
        scale: BTreeMap::new(),
        expect: expect.map(ReleaseNumber),
    }
}

impl World {
    fn new() -> Self {
        let replica = Replica::new();
        Self { machine: Machine::new(Arc::clone(&replica)), replica, requests: 0 }
    }

    fn run(&mut self, command: &GlobalCommand) -> Result<GlobalReply, Rejection> {
        self.requests += 1;
        let sealed = seal(RequestId(0, self.requests), 0, codec::encode(command));
        let outcome: Outcome<GlobalReply> =
            codec::decode(&self.machine.apply(&sealed).expect("decodes").replies[0]).expect("an outcome");
        outcome.result
    }
}

#[test]
fn a_host_belongs_to_one_app_until_it_is_given_up() {
    let mut world = World::new();
    world.run(&deploy("shop", "a", "shop.example", None)).expect("free");
    let refused = world.run(&deploy("thief", "a", "shop.example", None)).expect_err("taken");
    assert_eq!(refused.code, RejectionCode::Conflict);
    assert_eq!(refused.message, "shop.example/ belongs to app shop");
    assert!(!world.replica.read(|state| state.apps.contains(&name("thief"))), "nothing of it was kept");
    world.run(&deploy("shop", "a", "other.example", None)).expect("moves");
    world.run(&deploy("thief", "a", "shop.example", None)).expect("free again");
    world.run(&GlobalCommand::RemoveApp { app: name("shop") }).expect("there");
    world.replica.read(|state| {
        assert_eq!(state.claims.iter().count(), 1);
        assert_eq!(state.releases.iter().count(), 1);
    });
}

#[test]
fn an_app_that_is_made_again_goes_on_counting() {
    let mut world = World::new();
    let release = |number| Ok(GlobalReply::Deployed { release: ReleaseNumber(number), is_new: true });
    assert_eq!(world.run(&deploy("shop", "v1", "h", Some(0))), release(1));
    assert_eq!(world.run(&deploy("shop", "v2", "h", Some(1))), release(2));
    world.run(&GlobalCommand::RemoveApp { app: name("shop") }).expect("there");
    assert_eq!(world.run(&deploy("shop", "v2", "h", Some(0))), release(3), "a region may still run number 2");
    world.replica.read(|state| assert_eq!(state.removed.len(), 0));
}

#[test]
fn releases_count_up_keep_the_scale_and_are_bounded() {
    let mut world = World::new();
    world.run(&deploy("shop", "v1", "h", None)).expect("first");
    world.run(&GlobalCommand::Scale { app: name("shop"), service: web(), scale: 5 }).expect("there");
    let stale = world.run(&deploy("shop", "v2", "h", Some(9))).expect_err("another release was seen");
    assert_eq!(stale.code, RejectionCode::Conflict);
    for version in 2..40 {
        let reply = world.run(&deploy("shop", &format!("v{version}"), "h", Some(version - 1))).expect("in order");
        assert_eq!(reply, GlobalReply::Deployed { release: ReleaseNumber(version), is_new: true });
    }
    world.replica.read(|state| {
        assert_eq!(state.apps.get(&name("shop")).map(|app| app.scale[&web()]), Some(5));
        assert_eq!(state.releases.len(), 20);
        assert_eq!(state.current_release(&name("shop")).map(|release| release.number), Some(ReleaseNumber(39)));
    });
    let unknown =
        GlobalCommand::Scale { app: name("shop"), service: ServiceName::new("db").expect("a name"), scale: 1 };
    assert_eq!(world.run(&unknown).expect_err("no such service").message, "shop has no service db; it has web");
}

/// Rule R5: a row of a later version, with one more field, reads here; a row of ours reads there.
#[test]
fn an_app_reads_in_both_directions_across_a_new_field() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Later {
        name: insula_types::AppName,
        release: ReleaseNumber,
        scale: std::collections::BTreeMap<insula_types::ServiceName, u32>,
        #[serde(default)]
        deployed_ms: u64,
        #[serde(default)]
        from_later_still: Option<String>,
    }
    let ours = App::new(name("shop"), ReleaseNumber(3), [(web(), 2)].into());
    let later: Later = codec::decode(&codec::encode(&ours)).expect("a field that is not there has its default");
    assert_eq!((later.release, later.deployed_ms, later.from_later_still.clone()), (ReleaseNumber(3), 0, None));
    let later = Later { deployed_ms: 7, from_later_still: Some("x".to_owned()), ..later };
    let read: App = codec::decode(&codec::encode(&later)).expect("a field that is not known is passed over");
    assert_eq!((read.name, read.release, read.scale), (ours.name, ours.release, ours.scale));
}

#[test]
fn roots_follow_each_other_step_by_step() {
    let mut world = World::new();
    let root = |state| TrustedRoot { certificate: vec![1].into(), state, regions: BTreeMap::new(), added_ms: 0 };
    let add = |hash: &str, state| GlobalCommand::AddRoot { hash: hash.into(), root: root(state) };
    let activate = |hash: &str| GlobalCommand::ActivateRoot { hash: hash.into() };
    let retire = |hash: &str| GlobalCommand::RetireRoot { hash: hash.into() };
    let certify = |hash: &str| GlobalCommand::SetRegionAuthority {
        root: hash.into(),
        region: "fra".parse().expect("a name"),
        certificate: vec![2].into(),
    };
    // Each step, and whether it is taken.
    let steps = [
        (add("b", RootState::Trusted), false),
        (add("a", RootState::Active), true),
        (add("a", RootState::Active), true),
        (add("b", RootState::Active), false),
        (retire("a"), false),
        (activate("b"), false),
        (add("b", RootState::Trusted), true),
        (add("c", RootState::Trusted), true),
        (activate("b"), false),
        (certify("b"), false),
        (certify("c"), true),
        (activate("c"), true),
        (activate("c"), true),
        (activate("a"), false),
        (add("d", RootState::Trusted), false),
        (retire("c"), false),
        (retire("a"), true),
        (retire("a"), false),
        (add("d", RootState::Trusted), true),
    ];
    for (number, (step, is_taken)) in steps.into_iter().enumerate() {
        let outcome = world.run(&step);
        assert_eq!(outcome.is_ok(), is_taken, "step {number}, {step:?}: {outcome:?}");
    }
    let large = TrustedRoot { certificate: vec![0; 9000].into(), ..root(RootState::Trusted) };
    let refused = world.run(&GlobalCommand::AddRoot { hash: "e".into(), root: large }).expect_err("too large");
    assert_eq!(refused.code, RejectionCode::Invalid);
    world.replica.read(|state| {
        let states: Vec<_> = state.roots.iter().map(|(hash, root)| (hash.as_str(), root.state)).collect();
        assert_eq!(states, [("c", RootState::Active), ("d", RootState::Trusted)]);
        assert_eq!(state.roots.get(&"c".to_owned()).map(|root| root.regions.len()), Some(1));
    });
}

#[test]
fn the_present_release_of_an_app_and_the_one_before_are_live() {
    let mut world = World::new();
    for (app, image) in [("shop", "one"), ("shop", "two"), ("shop", "three"), ("blog", "only")] {
        world.run(&deploy(app, image, &format!("{app}.example"), None)).expect("deployed");
    }
    let live = world.replica.read(|state| {
        let images = |release: &Release| release.services.values().filter_map(|spec| spec.image.clone()).collect();
        let all: Vec<(String, Vec<String>)> =
            state.live_releases().map(|(app, release)| (app.to_string(), images(release))).collect();
        all
    });
    let expected = [("blog", "only"), ("shop", "three"), ("shop", "two")];
    assert_eq!(live, expected.map(|(app, image)| (app.to_owned(), vec![image.to_owned()])));
}
