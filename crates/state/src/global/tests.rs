mod overrides;

use std::{collections::BTreeMap, sync::Arc};

use insula_types::{
    AppName, ClusterId, ContentHash, DeploymentState, FileSpec, Incarnation, Level, RegionName, Release, ReleaseNumber,
    RequestId, RouteSpec, Scale, SecretName, ServiceName, ServiceSpec, codec,
};
use proptest::prelude::*;
use serde_bytes::ByteBuf;

use super::*;
use crate::{Machine, Outcome, RejectionCode, Replica, seal};

mod regions;

struct World {
    replica: Arc<Replica<GlobalState>>,
    machine: Machine<GlobalState>,
    requests: u64,
    /// What the leader's clock says.
    at_ms: u64,
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
        updates: BTreeMap::new(),
        contents: BTreeMap::new(),
        tags: BTreeMap::new(),
        regions: BTreeMap::new(),
        priorities: BTreeMap::new(),
        overrides: BTreeMap::new(),
        regional_scale: BTreeMap::new(),
    }
}

impl World {
    fn new() -> Self {
        let replica = Replica::new();
        Self { machine: Machine::new(Arc::clone(&replica)), replica, requests: 0, at_ms: 0 }
    }

    fn run(&mut self, command: &GlobalCommand) -> Result<GlobalReply, Rejection> {
        self.requests += 1;
        let sealed = seal(RequestId(self.requests, 0), self.at_ms, codec::encode(command));
        let outcome: Outcome<GlobalReply> =
            codec::decode(&self.machine.apply(&sealed).expect("decodes").replies[0]).expect("an outcome");
        outcome.result
    }
}

/// `deploy` of a service with a file.
fn with_file(content: &str) -> GlobalCommand {
    let mut command = deploy("shop", "a", "shop.example", None);
    let hash = ContentHash::of(content);
    let file = FileSpec { path: "/etc/a".into(), mode: 0o644, content: hash };
    if let GlobalCommand::Deploy { services, contents, .. } = &mut command {
        services.values_mut().for_each(|spec| spec.files = vec![file.clone()]);
        contents.insert(hash, content.into());
    }
    command
}

#[test]
fn a_content_is_kept_once_while_a_release_names_it() {
    let mut world = World::new();
    let kept = |world: &World| world.replica.read(|state| state.contents.values().cloned().collect::<Vec<_>>());
    assert_eq!(with_file("one").level(), Level(6));
    let is_new = |reply| matches!(reply, GlobalReply::Deployed { is_new: true, .. });
    assert!(is_new(world.run(&with_file("one")).expect("the first")));
    assert!(!is_new(world.run(&with_file("one")).expect("the same again")));
    assert!(is_new(world.run(&with_file("two")).expect("another content is another release")));
    let mut back = with_file("one");
    if let GlobalCommand::Deploy { contents, .. } = &mut back {
        contents.clear();
    }
    assert!(is_new(world.run(&back).expect("it is kept, and need not be brought again")));
    assert_eq!(kept(&world).len(), 2);

    let mut damaged = with_file("three");
    if let GlobalCommand::Deploy { contents, .. } = &mut damaged {
        contents.values_mut().for_each(|content| content.push('x'));
    }
    assert_eq!(world.run(&damaged).expect_err("not what its name says").code, RejectionCode::Invalid);
    for number in 0..19 {
        world.run(&deploy("shop", &number.to_string(), "shop.example", None)).expect("another release");
    }
    assert_eq!(kept(&world), ["one"], "of the twenty releases that are kept, the first has it");
    world.run(&GlobalCommand::RemoveApp { app: name("shop") }).expect("there");
    assert!(kept(&world).is_empty());
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
    world
        .run(&GlobalCommand::Scale { app: name("shop"), service: web(), scale: 5.into(), region: None })
        .expect("there");
    let stale = world.run(&deploy("shop", "v2", "h", Some(9))).expect_err("another release was seen");
    assert_eq!(stale.code, RejectionCode::Conflict);
    for version in 2..40 {
        let reply = world.run(&deploy("shop", &format!("v{version}"), "h", Some(version - 1))).expect("in order");
        assert_eq!(reply, GlobalReply::Deployed { release: ReleaseNumber(version), is_new: true });
    }
    world.replica.read(|state| {
        assert_eq!(state.apps.get(&name("shop")).map(|app| app.scale[&web()]), Some(5.into()));
        assert_eq!(state.releases.len(), 20);
        assert_eq!(state.current_release(&name("shop")).map(|release| release.number), Some(ReleaseNumber(39)));
    });
    let unknown = GlobalCommand::Scale {
        app: name("shop"),
        service: ServiceName::new("db").expect("a name"),
        scale: 1.into(),
        region: None,
    };
    assert_eq!(world.run(&unknown).expect_err("no such service").message, "shop has no service db; it has web");
}

/// Rule R5: a row of a later version, with one more field, reads here; a row of ours reads there.
#[test]
fn an_app_reads_in_both_directions_across_a_new_field() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Later {
        name: insula_types::AppName,
        release: ReleaseNumber,
        scale: BTreeMap<ServiceName, u32>,
        #[serde(default)]
        deployed_ms: u64,
        #[serde(default)]
        from_later_still: Option<String>,
    }
    let ours = App::new(name("shop"), ReleaseNumber(3), [(web(), 2.into())].into());
    let later: Later = codec::decode(&codec::encode(&ours)).expect("a field that is not there has its default");
    assert_eq!((later.release, later.deployed_ms, later.from_later_still.clone()), (ReleaseNumber(3), 0, None));
    assert_eq!(later.scale[&web()], 2, "a number is written as ever");
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

fn outcome(release: u64, state: DeploymentState) -> GlobalCommand {
    let outcome = ReleaseOutcome { state, why: String::new(), at_ms: 0 };
    let (release, region) = (ReleaseNumber(release), "fra".parse().expect("a name"));
    GlobalCommand::ReportOutcome { app: name("shop"), release, region, outcome }
}

/// A world with a region, which reports what becomes of releases.
fn with_region() -> World {
    let mut world = World::new();
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    let region = "fra".parse().expect("a name");
    world.run(&GlobalCommand::Init { meta, region, agreed: None }).expect("the first");
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_good_last_is_never_forgotten(outcomes in prop::collection::vec(prop::option::weighted(0.5, 0..12u8), 1..120)) {
        let mut world = with_region();
        let mut good = None;
        for (number, state) in (1..).zip(outcomes) {
            world.run(&deploy("shop", &format!("v{number}"), "h", None)).expect("another release");
            // Most of them fail, or are replaced before anybody knows.
            if let Some(state) = state {
                let state = if state == 0 { DeploymentState::Done } else { DeploymentState::Failed };
                world.run(&outcome(number, state)).expect("known");
                good = if state == DeploymentState::Done { Some(number) } else { good };
            }
            world.replica.read(|state| {
                let kept: Vec<u64> = state.releases.iter().map(|((_, number), _)| number.0).collect();
                let newest: Vec<u64> = (number.saturating_sub(18).max(1)..=number).collect();
                prop_assert!(kept.ends_with(&newest), "{kept:?}");
                prop_assert!(kept.len() <= 21, "{} are kept", kept.len());
                let live: Vec<u64> = state.live_releases().map(|(_, release)| release.number.0).collect();
                prop_assert!(live.contains(&number) && good.is_none_or(|good| live.contains(&good)), "{live:?}, {good:?}");
                Ok(())
            })?;
        }
        let from = world.replica.read(|state| state.apps.get(&name("shop")).expect("there").release);
        if let Some(to) = good.map(ReleaseNumber).filter(|to| *to != from) {
            let back = GlobalCommand::Rollback { app: name("shop"), to, from, why: String::new() };
            let reply = GlobalReply::Deployed { release: ReleaseNumber(from.0 + 1), is_new: true };
            prop_assert_eq!(world.run(&back), Ok(reply));
        }
    }
}

#[test]
fn the_good_release_is_live_however_many_have_failed_since() {
    let mut world = with_region();
    for number in 1..=4 {
        world.run(&deploy("shop", &format!("v{number}"), "h", None)).expect("another release");
        let state = if number == 1 { DeploymentState::Done } else { DeploymentState::Failed };
        world.run(&outcome(number, state)).expect("known");
    }
    let live = world.replica.read(|state| state.live_releases().map(|(_, one)| one.number.0).collect::<Vec<_>>());
    assert_eq!(live, [4, 3, 1]);
}

#[test]
fn a_scale_may_be_each_node_once_all_know_it() {
    let mut world = World::new();
    world.run(&deploy("shop", "v1", "h", None)).expect("free");
    let each = GlobalCommand::Scale { app: name("shop"), service: web(), scale: Scale::EachNode, region: None };
    assert_eq!(each.level(), Level(6));
    world.run(&each).expect("there");
    let seen = |world: &World| world.replica.read(|state| state.apps.get(&name("shop")).map(|app| app.scale[&web()]));
    assert_eq!(seen(&world), Some(Scale::EachNode));
    world.run(&deploy("shop", "v2", "h", None)).expect("ours");
    assert_eq!(seen(&world), Some(Scale::EachNode), "a release keeps it");
}

/// `deploy` of a service whose image was named by a tag.
fn with_tag(image: &str, tag: &str) -> GlobalCommand {
    let mut command = deploy("shop", image, "shop.example", None);
    if let GlobalCommand::Deploy { tags, .. } = &mut command {
        tags.insert(web(), tag.into());
    }
    command
}

#[test]
fn a_release_keeps_the_tags_of_its_time() {
    let mut world = World::new();
    let first = with_tag("r/shop@sha256:aa", "1");
    assert_eq!((first.level(), deploy("shop", "a", "h", None).level()), (Level(6), Level::FIRST));
    let is_new = |reply| matches!(reply, GlobalReply::Deployed { is_new: true, .. });
    let runs = |world: &World| {
        let image = |state: &GlobalState| Some(state.current_release(&name("shop"))?.image_of(&web())?.to_string());
        world.replica.read(image)
    };
    assert!(is_new(world.run(&first).expect("the first")));
    assert!(!is_new(world.run(&first).expect("the same again")));
    assert!(is_new(world.run(&with_tag("r/shop@sha256:bb", "1")).expect("the tag has moved")));
    assert!(is_new(world.run(&with_tag("r/shop@sha256:bb", "2")).expect("another tag of the same is told")));
    assert_eq!(runs(&world).as_deref(), Some("r/shop:2@sha256:bb"));
    let (app, why) = (name("shop"), "it was better".to_owned());
    let back = GlobalCommand::Rollback { app, to: ReleaseNumber(1), from: ReleaseNumber(3), why };
    assert!(is_new(world.run(&back).expect("kept")));
    assert_eq!(runs(&world).as_deref(), Some("r/shop:1@sha256:aa"), "with the digest of its time");
}

/// `deploy` of a service with a secret.
fn with_secret(image: &str) -> GlobalCommand {
    let mut command = deploy("shop", image, "a.example", None);
    if let GlobalCommand::Deploy { services, .. } = &mut command {
        services.values_mut().for_each(|spec| spec.secrets = BTreeMap::from([(key(), 0)]));
    }
    command
}

fn key() -> SecretName {
    "KEY".parse().expect("a name")
}

fn set_secret(value: u8) -> GlobalCommand {
    let sealed = BTreeMap::from([("fra".parse().expect("a name"), ByteBuf::from([value]))]);
    GlobalCommand::SetSecret { app: name("shop"), name: key(), sealed, by: "founder".into() }
}

/// A world with one region, which has a key to seal to.
fn sealing() -> World {
    let mut world = World::new();
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    let region: RegionName = "fra".parse().expect("a name");
    world.run(&GlobalCommand::Init { meta, region: region.clone(), agreed: None }).expect("empty");
    let refused = world.run(&set_secret(1)).expect_err("nothing to seal to");
    assert_eq!(refused.code, RejectionCode::Conflict);
    let set = |key| GlobalCommand::SetSealingKey { region: region.clone(), key: ByteBuf::from([key]) };
    world.run(&set(1)).expect("the first");
    world.run(&set(1)).expect("the same");
    assert_eq!(world.run(&set(2)).expect_err("another").code, RejectionCode::Conflict);
    world
}

/// Which version of the secret the release that runs has.
fn pinned(world: &World) -> Option<u32> {
    let of = |release: &Release| release.services.get(&web())?.secrets.get(&key()).copied();
    world.replica.read(|state| state.current_release(&name("shop")).and_then(of))
}

#[test]
fn a_release_has_the_secrets_of_its_time() {
    let mut world = sealing();
    let refused = world.run(&with_secret("a")).expect_err("not set");
    assert_eq!(refused.message, "there is no secret KEY: set it with `insula secrets set shop KEY`, then deploy again");
    assert_eq!(world.run(&set_secret(1)), Ok(GlobalReply::SecretSet { version: 1 }), "before there is an app");
    let is_new = |reply| matches!(reply, GlobalReply::Deployed { is_new: true, .. });
    assert!(is_new(world.run(&with_secret("a")).expect("set")));
    assert!(!is_new(world.run(&with_secret("a")).expect("the same again")));
    assert_eq!(pinned(&world), Some(1));
    assert_eq!(world.run(&set_secret(2)), Ok(GlobalReply::SecretSet { version: 2 }));
    assert_eq!(pinned(&world), Some(1), "until the next deploy");
    assert!(is_new(world.run(&with_secret("a")).expect("set")), "another value makes another release");
    assert_eq!(pinned(&world), Some(2));

    // Back to what was.
    let first = (name("shop"), ReleaseNumber(1));
    let services = world.replica.read(|state| state.releases.get(&first).cloned()).expect("kept").services;
    let mut back = with_secret("a");
    if let GlobalCommand::Deploy { services: wanted, .. } = &mut back {
        *wanted = services;
    }
    assert!(is_new(world.run(&back).expect("its value is kept")));
    assert_eq!(pinned(&world), Some(1));
}

#[test]
fn values_go_with_the_last_release_that_has_them_and_numbers_never_come_again() {
    let mut world = sealing();
    let versions = |world: &World| {
        world.replica.read(|state| {
            let of = |(_, secret): (_, &Secret)| secret.versions.keys().copied().collect::<Vec<_>>();
            state.secrets_of(&name("shop")).map(of).collect::<Vec<_>>()
        })
    };
    let remove = GlobalCommand::RemoveSecret { app: name("shop"), name: key() };
    assert_eq!(world.run(&remove).expect_err("not set").code, RejectionCode::NotFound);
    world.run(&set_secret(1)).expect("set");
    world.run(&with_secret("a")).expect("deployed");
    world.run(&set_secret(2)).expect("set");
    world.run(&set_secret(3)).expect("set");
    assert_eq!(versions(&world), [[1, 3]], "nobody has the second, and nobody will");
    assert_eq!(world.run(&remove).expect_err("it runs").code, RejectionCode::Conflict);
    world.run(&deploy("shop", "b", "a.example", None)).expect("without it");
    let refused = world.run(&remove).expect_err("the way back");
    assert!(refused.message.starts_with("release 1 of shop needs the secret KEY"), "{}", refused.message);
    world.run(&deploy("shop", "c", "a.example", None)).expect("and again");
    world.run(&remove).expect("no release that may have to run has it");
    assert_eq!(versions(&world), [Vec::<u32>::new()]);
    assert_eq!(world.run(&set_secret(4)), Ok(GlobalReply::SecretSet { version: 4 }));
    world.run(&GlobalCommand::RemoveApp { app: name("shop") }).expect("there");
    assert_eq!(versions(&world), [Vec::<u32>::new()], "they go with the app");
    assert_eq!(world.run(&set_secret(5)), Ok(GlobalReply::SecretSet { version: 5 }));
}

fn restart(app: &str, service: Option<ServiceName>, from: u64) -> GlobalCommand {
    GlobalCommand::Restart { app: name(app), service, from: ReleaseNumber(from) }
}

#[test]
fn a_restart_is_a_release_of_the_same_that_a_deploy_keeps() {
    let mut world = World::new();
    let first = deploy("shop", "a", "shop.example", None);
    world.run(&first).expect("the first");
    let is_release = |reply, number| reply == GlobalReply::Deployed { release: ReleaseNumber(number), is_new: true };
    assert!(is_release(world.run(&restart("shop", Some(web()), 1)).expect("it runs"), 2));
    assert!(is_release(world.run(&restart("shop", None, 2)).expect("it runs"), 3));
    let spec = |world: &World, number: u64| {
        let id = (name("shop"), ReleaseNumber(number));
        world.replica.read(|state| state.releases.get(&id).expect("kept").services[&web()].clone())
    };
    assert_eq!([1, 2, 3].map(|number| spec(&world, number).restarted), [0, 1, 2]);
    assert_eq!(spec(&world, 3).level(), Level(6));
    let same = world.run(&first).expect("the same");
    assert_eq!(
        same,
        GlobalReply::Deployed { release: ReleaseNumber(3), is_new: false },
        "a deploy of the same restarts nothing"
    );
    let why = world.run(&restart("shop", None, 2)).expect_err("another release by now");
    assert_eq!(why.code, RejectionCode::Conflict);
    let other: ServiceName = "db".parse().expect("a name");
    assert_eq!(world.run(&restart("shop", Some(other), 3)).expect_err("no such").code, RejectionCode::NotFound);
    assert_eq!(world.run(&restart("store", None, 3)).expect_err("no such").code, RejectionCode::NotFound);
    assert_eq!(restart("shop", None, 3).level(), Level(6));
}

#[test]
fn what_is_stopped_stays_so_and_keeps_its_scale() {
    let mut world = World::new();
    world.run(&deploy("shop", "a", "shop.example", None)).expect("the first");
    let stop = |is_stopped, service| GlobalCommand::SetStopped { app: name("shop"), service, is_stopped };
    let scales = |world: &World| {
        world.replica.read(|state| {
            let app = state.apps.get(&name("shop")).expect("there");
            (app.running_scale(&web(), None), app.scale.get(&web()).copied())
        })
    };
    let (one, none) = (Some(Scale::Count(1)), Some(Scale::Count(0)));
    world.run(&stop(true, Some(web()))).expect("it runs");
    assert_eq!(scales(&world), (none, one));
    world.run(&deploy("shop", "b", "shop.example", None)).expect("another release");
    let from = ReleaseNumber(2);
    let back = GlobalCommand::Rollback { app: name("shop"), to: ReleaseNumber(1), from, why: String::new() };
    world.run(&back).expect("back");
    assert_eq!(scales(&world), (none, one), "neither a deploy nor a roll-back starts it");
    world.run(&stop(false, None)).expect("it is stopped");
    assert_eq!(scales(&world), (one, one));
    let other = "db".parse().expect("a name");
    assert_eq!(world.run(&stop(true, Some(other))).expect_err("no such").code, RejectionCode::NotFound);
}
