//! Hooks of deployments: who runs which, and how that ends.

use insula_types::{Deployment, DeploymentState, HookKind, HookRun, HookState, HooksSpec, ServiceName, UpdateSpec};

use super::*;

fn region() -> Region {
    let mut region = Region::new();
    let version = crate::LEVEL.mark("0.1.0");
    let (id, capacity) = (NodeId::new(1), Capacity::default());
    let address = "10.0.0.1:7443".parse().expect("an address");
    region.at(0, &RegionCommand::UpdateNode { id, address, capacity, version: version.clone() }).expect("a member");
    region.at(0, &RegionCommand::RaiseLevel(Agreed { level: crate::LEVEL, version })).expect("all know it");
    region
}

fn app() -> AppName {
    "shop".parse().expect("a name")
}

fn service(name: &str) -> ServiceName {
    name.parse().expect("a name")
}

/// A release of two services with a hook of each kind.
fn define(release: u64, tag: &str) -> RegionCommand {
    let hooks = HooksSpec { before: vec!["a".into()], after: vec!["b".into()], ..HooksSpec::default() };
    let service = |name: &str| {
        let spec = ServiceSpec { command: vec![tag.to_owned()], ..ServiceSpec::default() };
        let update = UpdateSpec { hooks: hooks.clone(), ..UpdateSpec::default() };
        (service(name), RegionalService { spec, scale: 1.into(), update, ..RegionalService::default() })
    };
    let services = BTreeMap::from(["web", "work"].map(service));
    let definition = RegionalDefinition { app: app(), release: ReleaseNumber(release), services, again_of: None };
    RegionCommand::SetDefinition(definition)
}

fn place(instance: u64, release: u64, service: &str, hook: HookKind) -> RegionCommand {
    let (service, release) = (ServiceRef::new(app(), self::service(service)), ReleaseNumber(release));
    let plain = with_volume(instance, 1, 0);
    let spec = ServiceSpec::default().of_hook(&["a".to_owned()]);
    RegionCommand::Place(vec![Placement { service, release, spec, slot: None, hook: Some(hook), ..plain }])
}

fn advance(service: &str, hook: HookKind, state: HookState) -> RegionCommand {
    let (app, release, service) = (app(), ReleaseNumber(1), self::service(service));
    RegionCommand::AdvanceHook { app, release, service, hook, state, spent_ms: 5, why: "so it was".into() }
}

fn goes(state: DeploymentState) -> RegionCommand {
    RegionCommand::AdvanceDeployment { app: app(), release: ReleaseNumber(1), state, why: String::new() }
}

fn deployment(region: &Region) -> Deployment {
    region.replica.read(|state| state.deployments.get(&app()).cloned()).expect("one")
}

fn states(region: &Region) -> Vec<(String, HookKind, HookState, u32)> {
    let run = |run: &HookRun| (run.service.to_string(), run.kind, run.state, run.tries);
    deployment(region).hooks.iter().map(run).collect()
}

#[test]
fn hooks_run_one_after_the_other_and_those_before_come_first() {
    use HookKind::{After, Before};
    use HookState::{Done, Due, Failed, Running};
    let mut region = region();
    region.at(1, &define(1, "one")).expect("new");
    assert_eq!(deployment(&region).state, DeploymentState::Before);
    let four = |first, second, third, fourth| {
        let named = |name: &str, kind, (state, tries)| (name.to_owned(), kind, state, tries);
        vec![
            named("web", Before, first),
            named("work", Before, second),
            named("web", After, third),
            named("work", After, fourth),
        ]
    };
    let due = (Due, 0);
    assert_eq!(states(&region), four(due, due, due, due));
    let conflict =
        |result: Result<_, Rejection>| assert_eq!(result.expect_err("refused").code, RejectionCode::Conflict);
    conflict(region.at(2, &place(1, 1, "work", Before)));
    conflict(region.at(2, &place(1, 1, "web", After)));
    conflict(region.at(2, &place(1, 2, "web", Before)));
    region.at(2, &advance("web", Before, Done)).expect("nothing runs");
    assert_eq!(states(&region), four(due, due, due, due));

    region.at(3, &place(1, 1, "web", Before)).expect("the first");
    assert!(deployment(&region).hooks[0].is_run_by(InstanceId::new(1)));
    conflict(region.at(3, &place(2, 1, "web", Before)));
    conflict(region.at(3, &place(2, 1, "work", Before)));
    region.at(4, &advance("web", Before, Running)).expect("it runs");
    assert_eq!(deployment(&region).hooks[0].spent_ms, 5);
    region.at(5, &advance("web", Before, Due)).expect("its node was lost");
    region.at(6, &place(2, 1, "web", Before)).expect("again");
    assert_eq!((states(&region)[0].3, deployment(&region).hooks[0].spent_ms), (2, 0));
    region.at(7, &advance("web", Before, Done)).expect("it ended");
    assert!(deployment(&region).is_held(), "the second is missing");
    region.at(8, &advance("web", Before, Failed)).expect("said too late");
    region.at(8, &place(3, 1, "work", Before)).expect("the second");
    region.at(9, &advance("work", Before, Done)).expect("it ended");
    assert!(!deployment(&region).is_held() && deployment(&region).hook().is_none());

    region.at(10, &goes(DeploymentState::After)).expect("it goes");
    region.at(11, &advance("web", After, Failed)).expect("there was no room for it");
    region.at(12, &place(4, 1, "work", After)).expect("one that failed keeps no other from running");
    region.at(13, &goes(DeploymentState::Done)).expect("it ends");
    assert_eq!(states(&region), four((Done, 2), (Done, 1), (Failed, 0), (Failed, 1)), "what runs is stopped");
    conflict(region.at(14, &place(5, 1, "work", After)));
}

#[test]
fn a_hook_that_failed_holds_its_release_and_a_pause_begins_none() {
    let mut region = region();
    region.at(1, &define(1, "one")).expect("new");
    let steer = |steering| RegionCommand::SteerDeployment { app: app(), release: ReleaseNumber(1), steering };
    region.at(2, &steer(Steering::Pause)).expect("it goes");
    region.at(2, &place(1, 1, "web", HookKind::Before)).expect_err("it waits");
    region.at(3, &steer(Steering::Resume)).expect("it waits");
    region.at(3, &place(1, 1, "web", HookKind::Before)).expect("it goes on");
    region.at(4, &steer(Steering::Abort)).expect("it goes");
    let now = deployment(&region);
    assert_eq!((now.state, now.hooks[0].state), (DeploymentState::Failed, HookState::Failed));
    assert!(now.is_held() && now.hook().is_none());
    region.at(5, &advance("web", HookKind::Before, HookState::Done)).expect("said too late");
    assert!(deployment(&region).is_held());
    let told = region.replica.read(|state| state.events.values().map(|event| event.text.clone()).collect::<Vec<_>>());
    assert!(told.iter().any(|text| text.contains("shop release 1 runs hook before of web, as i-")), "{told:?}");
}

#[test]
fn hooks_are_for_what_a_release_brings_and_not_for_the_way_back() {
    let mut region = region();
    let count = |region: &Region| deployment(region).hooks.len();
    let set = |region: &mut Region, release, tag: &str, change: &dyn Fn(&mut RegionalDefinition)| {
        let RegionCommand::SetDefinition(mut definition) = define(release, tag) else { unreachable!() };
        change(&mut definition);
        region.at(release, &RegionCommand::SetDefinition(definition)).expect("new");
        let count = count(region);
        let done = RegionCommand::AdvanceDeployment {
            app: app(),
            release: ReleaseNumber(release),
            state: DeploymentState::Done,
            why: String::new(),
        };
        region.at(release, &done).expect("it ends");
        count
    };
    let of = |definition: &mut RegionalDefinition, name: &str, change: &dyn Fn(&mut RegionalService)| {
        definition.services.get_mut(&service(name)).into_iter().for_each(change);
    };
    assert_eq!(set(&mut region, 1, "one", &|_| {}), 4, "the first has nothing before it");
    assert_eq!(set(&mut region, 2, "one", &|_| {}), 0, "the same again");
    assert_eq!(set(&mut region, 3, "one", &|new| of(new, "web", &|web| web.spec.restarted += 1)), 0, "restarted");
    assert_eq!(set(&mut region, 4, "two", &|new| of(new, "web", &|web| web.spec.command = vec!["one".into()])), 2);
    assert_eq!(
        set(&mut region, 5, "two", &|new| {
            of(new, "web", &|web| web.spec.command = vec!["one".into()]);
            of(new, "web", &|web| web.update.hooks.before = vec!["c".into()]);
        }),
        2,
        "another hook"
    );
    assert_eq!(set(&mut region, 6, "one", &|new| new.again_of = Some(ReleaseNumber(1))), 0, "the way back");
    let level = |command: RegionCommand| assert_eq!(command.level(), Level(6));
    level(place(1, 1, "web", HookKind::Before));
    level(define(1, "one"));
    level(advance("web", HookKind::Before, HookState::Done));
}

#[test]
fn what_runs_a_hook_is_not_short_when_it_is_lost_and_gives_no_place() {
    let mut region = region();
    region.at(1, &define(1, "one")).expect("new");
    region.at(2, &place(1, 1, "web", HookKind::Before)).expect("the first");
    let RegionCommand::Place(mut usual) = place(2, 1, "work", HookKind::Before) else { unreachable!("made above") };
    usual[0].hook = None;
    region.at(3, &RegionCommand::Place(usual.clone())).expect("a usual one");
    let (id, health) = (NodeId::new(1), NodeHealth::Down { since_ms: 4 });
    region.at(4, &RegionCommand::SetNodeHealth { id, health }).expect("a member");
    let short = |region: &Region| -> Vec<String> {
        region.replica.read(|state| state.shortfalls.iter().map(|(service, _)| service.to_string()).collect())
    };
    assert_eq!(short(&region), ["shop/work"], "the hook is begun again, and its service has lost nothing");
    let to = ServiceRef::new(app(), service("work"));
    let gives = RegionCommand::GiveWay { instances: vec![InstanceId::new(1)], to, node: id };
    assert_eq!(region.at(5, &gives).expect_err("it runs a hook").code, RejectionCode::Conflict);
    region.at(6, &advance("web", HookKind::Before, HookState::Done)).expect("it ended");
    region.at(7, &place(3, 1, "work", HookKind::Before)).expect("the second");
    assert_eq!(short(&region), ["shop/work"], "a hook is none of those that were lost");
    usual[0].instance = InstanceId::new(4);
    region.at(8, &RegionCommand::SetNodeHealth { id, health: NodeHealth::Up }).expect("a member");
    region.at(8, &RegionCommand::Place(usual)).expect("another one");
    assert_eq!(short(&region), [""; 0]);
}
