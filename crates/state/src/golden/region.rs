use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_types::{
    Addresses, Agreed, ByteSize, CanarySpec, Capacity, Check, ClusterId, ContentHash, CpuMillis, Deployment,
    DeploymentState, Desired, DriverKind, FileSpec, Given, HealthSpec, HookKind, HookRun, HookState, HooksSpec,
    Incarnation, InstanceId, InstanceStatus, Labels, Level, Node, NodeHealth, NodeId, Phase, Placement, PlacementSpec,
    PortSpec, Priority, Promotion, Protocol, RegionalDefinition, RegionalService, ReleaseNumber, Resources,
    RestartPolicy, RestartSpec, Revision, RouteSpec, RuntimeName, Scale, SecretName, SecretVersion, ServiceRef,
    ServiceSpec, Shortfall, StopSpec, Strategy, TmpfsSpec, UpdateSpec, Volume, VolumeRef, VolumeSpec,
};
use serde_bytes::ByteBuf;

use super::{File, variants};
use crate::{
    RegionState,
    event::{Event, EventId, EventKind},
    region::{
        ControlLease, JoinToken, NodeDuty, NodeTrust, RegionCommand, RegionKey, RegionMeta, RegionObject, RegionReply,
        Steering,
    },
};

const FILE: File = File(include_str!("region.txt"));

variants!(command_name, COMMANDS, RegionCommand:
    Init, CreateJoinToken, Join, UpdateNode, SetNodeHealth, Cordon, RemoveNode, SetDefinition, RemoveDefinition, Place,
    SetDesired, RemovePlacements, ReportStatus, Note, TakeControl, Controlled, SetNodeDuty, TakeOutNode, ReportTrust,
    BindKey, RemoveJoinToken, RaiseLevel, SetAddresses, CreateVolume, GrowVolume, DeleteVolume,
    ConfirmVolume, ForgetVolume, SetRuntimes, SetLabels, AdvanceDeployment, SteerDeployment, SetDefinitionWith,
    AdvanceHook, GiveWay,
);
variants!(key_name, KEYS, RegionKey:
    Meta, Node, Tombstone, JoinToken, Definition, Placement, Status, Event, Control, Trust, NodeKey, Level, Addresses,
    Content, Deployment, Labels, Runtimes, Secret, Shortfall, Volume,
);
// The objects have the names of their keys, so that listing them again would tell nothing but a new one.
variants!(object_name, OBJECTS, RegionObject:
    Meta, Node, Tombstone, JoinToken, Definition, Placement, Status, Event, Control, Trust, NodeKey, Level, Addresses,
    Content, Deployment, Labels, Runtimes, Secret, Shortfall, Volume,
);

const NODE: NodeId = NodeId::new(7);
const INSTANCE: InstanceId = InstanceId::new(9);

fn meta() -> RegionMeta {
    RegionMeta { cluster: ClusterId::new(1), region: "fra".parse().expect("a name"), incarnation: Incarnation(2) }
}

fn node(health: NodeHealth) -> Node {
    Node {
        id: NODE,
        name: "n1".parse().expect("a name"),
        region: "fra".parse().expect("a name"),
        datacenter: "fra1".parse().expect("a name"),
        address: "10.0.0.1:7443".parse().expect("an address"),
        capacity: Capacity { cpu: CpuMillis(4000), memory: ByteSize::mib(4096) },
        version: "0.1.0".into(),
        health,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 3,
    }
}

/// A service with everything that one can have.
pub(super) fn spec() -> ServiceSpec {
    let second = Duration::from_secs(1);
    ServiceSpec {
        driver: DriverKind::Container,
        image: Some("registry.example/shop:1".into()),
        command: vec!["./server".into()],
        env: BTreeMap::from([("LOG".to_owned(), "info".to_owned())]),
        resources: Resources { cpu: CpuMillis(500), memory: ByteSize::mib(256), pids: 64, ..Resources::default() },
        ports: vec![
            PortSpec { name: "http".parse().expect("a name"), port: 8080, protocol: Protocol::Http },
            PortSpec { name: "raw".parse().expect("a name"), port: 9000, protocol: Protocol::Tcp },
        ],
        routes: vec![RouteSpec { host: "shop.example".into(), path: "/".into() }],
        health: Some(HealthSpec {
            check: Check::Http("/healthz".into()),
            port: Some("http".parse().expect("a name")),
            interval: second * 2,
            timeout: second,
            grace: second * 30,
            unhealthy_after: 2,
            restart_after: None,
        }),
        stop: StopSpec { signal: "SIGTERM".into(), grace: second * 10, is_usual_meant: false },
        ..ServiceSpec::default()
    }
}

/// A service with everything that came with level 4.
fn spec_with_volumes() -> ServiceSpec {
    let second = Duration::from_secs(1);
    let first = spec();
    let limits = Resources {
        files: Some(1024),
        disk: Some(ByteSize::mib(64)),
        io: Some(ByteSize(20_000_000)),
        ..first.resources
    };
    let health = first.health.clone().map(|health| HealthSpec {
        check: Check::Exec(vec!["pg_isready".into()]),
        port: None,
        restart_after: Some(second * 60),
        ..health
    });
    ServiceSpec {
        resources: limits,
        health,
        is_read_only: true,
        has_init: true,
        tmpfs: vec![TmpfsSpec { path: "/run".into(), size: ByteSize::mib(1) }],
        volumes: vec![VolumeSpec {
            name: "data".parse().expect("a name"),
            path: "/data".into(),
            size: ByteSize::mib(512),
        }],
        ..first
    }
}

/// Definitions with each further kind of check.
fn checked_definition() -> RegionalDefinition {
    let checked = |check| {
        let health = spec().health.map(|health| HealthSpec { check, ..health });
        RegionalService { spec: ServiceSpec { health, ..spec() }, scale: 1.into(), ..RegionalService::default() }
    };
    let services = BTreeMap::from([
        (
            "db".parse().expect("a name"),
            RegionalService { spec: spec_with_volumes(), scale: 1.into(), ..RegionalService::default() },
        ),
        ("raw".parse().expect("a name"), checked(Check::Tcp)),
        ("rpc".parse().expect("a name"), checked(Check::Grpc("shop.v1.Cart".into()))),
    ]);
    RegionalDefinition { services, ..definition() }
}

/// Each way to go from one release to the next.
pub(super) fn updates() -> [UpdateSpec; 4] {
    let canary = |promotion| Strategy::Canary(CanarySpec { instances: 2, weight: 20, promotion, max_errors: 15 });
    let strategies =
        [Strategy::Rolling, canary(Promotion::Auto), canary(Promotion::Manual), Strategy::BlueGreen(Promotion::Auto)];
    strategies.map(|strategy| UpdateSpec {
        strategy,
        max_unavailable: 3,
        auto_rollback: false,
        ..UpdateSpec::default()
    })
}

/// A definition whose services say how they are updated, of a release that is another one again.
fn updated_definition() -> RegionalDefinition {
    let names = ["a", "b", "c", "d"].map(|name| name.parse().expect("a name"));
    let service = |update| RegionalService { spec: spec(), scale: 1.into(), update, ..RegionalService::default() };
    let services = names.into_iter().zip(updates().map(service)).collect();
    RegionalDefinition { services, again_of: Some(ReleaseNumber(2)), ..definition() }
}

fn deployment(state: DeploymentState) -> Deployment {
    Deployment {
        app: "shop".parse().expect("a name"),
        release: ReleaseNumber(4),
        from: (state != DeploymentState::Done).then(definition),
        state,
        is_paused: true,
        is_aborted: true,
        is_return: true,
        why: "it was good".into(),
        since_ms: 8,
        hooks: Vec::new(),
    }
}

/// A deployment with hooks in each of their states.
fn deployment_with_hooks() -> Deployment {
    let run = |(kind, state)| HookRun {
        service: "web".parse().expect("a name"),
        kind,
        state,
        tries: 2,
        instance: Some(INSTANCE),
        node: Some(NODE),
        spent_ms: 700,
        why: "its node was lost".into(),
    };
    let first = HookRun { tries: 0, instance: None, node: None, why: String::new(), ..run(HOOKS[0]) };
    Deployment { hooks: HOOKS.map(run).into_iter().chain([first]).collect(), ..deployment(DeploymentState::Before) }
}

const HOOKS: [(HookKind, HookState); 4] = [
    (HookKind::Before, HookState::Due),
    (HookKind::Before, HookState::Running),
    (HookKind::After, HookState::Done),
    (HookKind::After, HookState::Failed),
];

/// A definition whose service has hooks.
fn definition_with_hooks() -> RegionalDefinition {
    let second = Duration::from_secs(1);
    let hooks = HooksSpec { before: vec!["./migrate".into()], after: vec!["./notify".into()], timeout: second * 60 };
    let update = UpdateSpec { hooks, ..UpdateSpec::default() };
    let service = RegionalService { spec: spec(), scale: 1.into(), update, ..RegionalService::default() };
    RegionalDefinition { services: BTreeMap::from([("web".parse().expect("a name"), service)]), ..definition() }
}

pub(super) const DEPLOYMENT_STATES: [DeploymentState; 7] = [
    DeploymentState::First,
    DeploymentState::Going,
    DeploymentState::Baking,
    DeploymentState::Done,
    DeploymentState::Failed,
    DeploymentState::Before,
    DeploymentState::After,
];

/// A definition whose services say how important they are.
fn prior_definition() -> RegionalDefinition {
    let service =
        RegionalService { priority: Priority(80), ..definition().services.into_values().next().expect("one") };
    RegionalDefinition { services: [("web".parse().expect("a name"), service)].into(), ..definition() }
}

fn service_ref() -> ServiceRef {
    ServiceRef::new(definition().app, "work".parse().expect("a name"))
}

fn shortfall() -> Shortfall {
    let gave_to = Some(Given {
        to: ServiceRef::new(definition().app, "web".parse().expect("a name")),
        node: "n1".parse().expect("a name"),
    });
    Shortfall { lost: 2, given: 1, gave_to, awaits: Some(NODE) }
}

fn volume_ref() -> VolumeRef {
    "shop/db/data.1".parse().expect("a volume")
}

fn volume(is_deleted: bool) -> Volume {
    Volume { node: NODE, size: ByteSize::mib(512), created_ms: 7, is_made: true, is_deleted }
}

fn definition() -> RegionalDefinition {
    let process = ServiceSpec { driver: DriverKind::Process, image: None, health: None, ..spec() };
    let service = |spec| RegionalService { spec, scale: 2.into(), ..RegionalService::default() };
    RegionalDefinition {
        app: "shop".parse().expect("a name"),
        release: ReleaseNumber(4),
        services: BTreeMap::from([
            ("web".parse().expect("a name"), service(spec())),
            ("work".parse().expect("a name"), service(process)),
        ]),
        again_of: None,
    }
}

fn token() -> JoinToken {
    JoinToken { id: "t".into(), secret_hash: "7f".into(), expires_ms: 1000, uses_left: 2 }
}

fn placement(desired: Desired) -> Placement {
    Placement {
        instance: INSTANCE,
        service: ServiceRef { app: "shop".parse().expect("a name"), service: "web".parse().expect("a name") },
        node: NODE,
        release: ReleaseNumber(4),
        spec: spec(),
        desired,
        reasons: vec!["fewest instances".into()],
        placed_ms: 5,
        slot: None,
        hook: None,
    }
}

fn status(phase: Phase) -> InstanceStatus {
    InstanceStatus {
        instance: INSTANCE,
        node: NODE,
        phase,
        is_ready: true,
        was_ready: true,
        endpoints: BTreeMap::from([("http".parse().expect("a name"), "10.1.0.2:8080".parse().expect("an address"))]),
        restarts: 1,
        message: "ready".into(),
        since_ms: 6,
    }
}

fn event(kind: EventKind) -> Event {
    let app = "shop".parse().expect("a name");
    Event::new(8, kind, "it happened").node(NODE).app(&app).instance(INSTANCE)
}

fn trust() -> NodeTrust {
    NodeTrust { roots: vec!["aa".into()], authorities: vec!["bb".into()] }
}

fn agreed() -> Agreed {
    Agreed { level: Level(2), version: "0.1.0".into() }
}

fn addresses() -> Addresses {
    let list = ["datacenter=10.0.0.1:7443", "region=[fd00::1]:7443", "203.0.113.1:7443"];
    Addresses::new(4, list.map(|text| text.parse().expect("an address")).to_vec()).expect("good ones")
}

fn runtimes() -> BTreeSet<RuntimeName> {
    BTreeSet::from(["kata", "runsc"].map(|name| name.parse().expect("a name")))
}

fn labels(name: &str, value: &str) -> Labels {
    Labels::from([(name.parse().expect("a name"), value.parse().expect("a value"))])
}

fn on_each_node() -> RegionalDefinition {
    let service = RegionalService { spec: spec(), scale: Scale::EachNode, ..RegionalService::default() };
    RegionalDefinition { services: [("web".parse().expect("a name"), service)].into(), ..definition() }
}

fn labelled_spec() -> ServiceSpec {
    let placement = PlacementSpec {
        spread: "rack".parse().expect("a name"),
        require: labels("disk", "ssd"),
        prefer: labels("datacenter", "fra1"),
    };
    ServiceSpec { placement, ..spec() }
}

pub(super) fn spec_with_restart() -> ServiceSpec {
    let restart = RestartSpec {
        policy: RestartPolicy::OnFailure,
        backoff_min: Duration::from_millis(500),
        backoff_max: Duration::from_secs(300),
    };
    ServiceSpec { command: Vec::new(), args: vec!["--port".into(), "8080".into()], restart, restarted: 2, ..spec() }
}

const DESIRED: [Desired; 3] = [Desired::Run, Desired::Drain, Desired::Stop];
const PHASES: [Phase; 6] =
    [Phase::Pending, Phase::Pulling, Phase::Starting, Phase::Running, Phase::Backoff, Phase::Stopped];
const HEALTH: [NodeHealth; 2] = [NodeHealth::Up, NodeHealth::Down { since_ms: 4 }];
const EVENTS: [EventKind; 12] = [
    EventKind::NodeJoined,
    EventKind::NodeUp,
    EventKind::NodeDown,
    EventKind::Deployed,
    EventKind::Removed,
    EventKind::Placed,
    EventKind::Ready,
    EventKind::Unready,
    EventKind::Restarting,
    EventKind::Stopped,
    EventKind::Unplaceable,
    EventKind::Note,
];

/// What a program of level 1 knows.
fn first_commands() -> Vec<RegionCommand> {
    use RegionCommand as C;
    let Node { id, address, capacity, version, .. } = node(NodeHealth::Up);
    let place = |desired| C::SetDesired { instances: vec![INSTANCE], desired, reason: "scaled".into() };
    let joining = Box::new(node(NodeHealth::Up));
    let cordon = C::Cordon { id, is_cordoned: true };
    let mut all = vec![
        C::Init { meta: meta(), node: joining.clone() },
        C::CreateJoinToken(token()),
        C::Join { token: "t".into(), secret_hash: "7f".into(), node: joining },
        C::UpdateNode { id, address, capacity, version },
        cordon.clone(),
        C::RemoveNode { id, reason: "gone".into() },
        C::SetDefinition(definition()),
        C::RemoveDefinition { app: "shop".parse().expect("a name") },
        C::Place(vec![placement(Desired::Run)]),
        C::RemovePlacements(vec![INSTANCE]),
        C::ReportStatus { node: id, statuses: PHASES.map(status).to_vec() },
        C::Note(event(EventKind::Note)),
        C::TakeControl { node: id },
        C::Controlled { epoch: 3, command: Box::new(cordon) },
    ];
    all.extend(HEALTH.map(|health| C::SetNodeHealth { id, health }));
    all.extend(DESIRED.map(place));
    all
}

pub(super) fn contents() -> BTreeMap<ContentHash, String> {
    let content = "a = 1\n".to_owned();
    BTreeMap::from([(ContentHash::of(&content), content)])
}

pub(super) fn spec_with_files() -> ServiceSpec {
    let file = |content| FileSpec { path: "/etc/shop.toml".into(), mode: 0o640, content };
    ServiceSpec { files: contents().into_keys().map(file).collect(), ..spec() }
}

fn spec_with_secrets() -> ServiceSpec {
    ServiceSpec { secrets: BTreeMap::from([("KEY".parse().expect("a name"), 2)]), ..spec() }
}

fn secrets() -> Vec<(SecretName, SecretVersion, ByteBuf)> {
    vec![("KEY".parse().expect("a name"), 2, ByteBuf::from([1, 2]))]
}

fn definition_with_secrets() -> RegionalDefinition {
    let service = RegionalService { spec: spec_with_secrets(), scale: 1.into(), ..RegionalService::default() };
    RegionalDefinition { services: BTreeMap::from([("web".parse().expect("a name"), service)]), ..definition() }
}

fn definition_with_files() -> RegionalDefinition {
    let service = RegionalService { spec: spec_with_files(), scale: 1.into(), ..RegionalService::default() };
    RegionalDefinition { services: BTreeMap::from([("web".parse().expect("a name"), service)]), ..definition() }
}

/// What came later.
fn later_commands() -> Vec<RegionCommand> {
    use RegionCommand as C;
    let duties = [NodeDuty::Serve, NodeDuty::Cordon, NodeDuty::Drain];
    let mut all = vec![
        C::TakeOutNode { id: NODE, reason: "gone".into(), expected: Revision(9), is_forced: true },
        C::ReportTrust { node: NODE, trust: trust() },
        C::BindKey { node: NODE, key_sha256: "cc".into() },
        C::RemoveJoinToken { id: "t".into() },
        C::RaiseLevel(agreed()),
        C::SetAddresses { node: NODE, addresses: addresses() },
        C::CreateVolume { volume: volume_ref(), node: NODE, size: ByteSize::mib(512) },
        C::GrowVolume { volume: volume_ref(), size: ByteSize::mib(512) },
        C::DeleteVolume { volume: volume_ref() },
        C::ConfirmVolume { node: NODE, volume: volume_ref() },
        C::ForgetVolume { node: NODE, volume: volume_ref() },
        C::SetRuntimes { node: NODE, runtimes: runtimes() },
        C::SetDefinitionWith { definition: definition_with_files(), contents: contents(), secrets: vec![] },
        C::SetDefinitionWith { definition: definition_with_secrets(), contents: BTreeMap::new(), secrets: secrets() },
        C::Place(vec![Placement {
            spec: ServiceSpec { runtime: Some("runsc".parse().expect("a name")), ..spec() },
            ..placement(Desired::Run)
        }]),
        C::SetDefinition(on_each_node()),
        C::SetLabels { node: NODE, labels: labels("disk", "ssd") },
        C::Place(vec![Placement { spec: labelled_spec(), ..placement(Desired::Run) }]),
        C::Place(vec![Placement { spec: spec_with_restart(), ..placement(Desired::Run) }]),
        C::SetDefinition(checked_definition()),
        C::Place(vec![Placement { spec: spec_with_volumes(), slot: Some(1), ..placement(Desired::Run) }]),
    ];
    all.extend(duties.map(|duty| C::SetNodeDuty { id: NODE, duty }));
    let (app, release) = (definition().app, ReleaseNumber(4));
    let steerings = [Steering::Pause, Steering::Resume, Steering::Promote, Steering::Abort];
    all.extend(steerings.map(|steering| C::SteerDeployment { app: app.clone(), release, steering }));
    let why = || "it was good".to_owned();
    all.extend(DEPLOYMENT_STATES.map(|state| C::AdvanceDeployment { app: app.clone(), release, state, why: why() }));
    all.push(C::SetDefinition(updated_definition()));
    all.push(C::SetDefinition(definition_with_hooks()));
    all.extend(HOOKS.map(|(hook, _)| {
        let spec = spec().of_hook(&["./migrate".to_owned()]);
        C::Place(vec![Placement { spec, hook: Some(hook), ..placement(Desired::Run) }])
    }));
    all.extend(HOOKS.map(|(hook, state)| {
        let service = "web".parse().expect("a name");
        C::AdvanceHook { app: app.clone(), release, service, hook, state, spent_ms: 700, why: why() }
    }));
    let to = ServiceRef::new(definition().app, "web".parse().expect("a name"));
    all.push(C::GiveWay { instances: vec![INSTANCE], to, node: NODE });
    all.push(C::SetDefinition(prior_definition()));
    all
}

type Row = (Revision, RegionKey, RegionObject);

fn first_rows() -> Vec<Row> {
    use RegionKey as K;
    use RegionObject as O;
    let mut all = vec![
        (K::Meta, O::Meta(meta())),
        (K::Tombstone(NODE), O::Tombstone("gone".into())),
        (K::JoinToken("t".into()), O::JoinToken(token())),
        (K::Definition("shop".parse().expect("a name")), O::Definition(definition())),
        (K::Control, O::Control(ControlLease { epoch: 3, node: NODE })),
    ];
    all.extend(HEALTH.map(|health| (K::Node(NODE), O::Node(node(health)))));
    all.extend(DESIRED.map(|desired| (K::Placement(INSTANCE), O::Placement(placement(desired)))));
    all.extend(PHASES.map(|phase| (K::Status(INSTANCE), O::Status(status(phase)))));
    all.extend(EVENTS.map(|kind| (K::Event(EventId(Revision(9), 1)), O::Event(event(kind)))));
    all.into_iter().map(|(key, object)| (Revision(9), key, object)).collect()
}

fn later_rows() -> Vec<Row> {
    use RegionKey as K;
    use RegionObject as O;
    let drained = Node { is_cordoned: true, is_draining: true, ..node(NodeHealth::Up) };
    let mut all = vec![
        (K::Node(NODE), O::Node(drained)),
        (K::Trust(NODE), O::Trust(trust())),
        (K::NodeKey(NODE), O::NodeKey("cc".into())),
        (K::Level, O::Level(agreed())),
        (K::Addresses(NODE), O::Addresses(addresses())),
        (K::Runtimes(NODE), O::Runtimes(runtimes())),
        (K::Labels(NODE), O::Labels(labels("disk", "ssd"))),
        (
            K::Secret(("shop".parse().expect("a name"), "KEY".parse().expect("a name"), 2)),
            O::Secret(ByteBuf::from([1, 2])),
        ),
        (K::Content(("shop".parse().expect("a name"), ContentHash::of("a = 1\n"))), O::Content("a = 1\n".into())),
        (K::Volume(volume_ref()), O::Volume(volume(false))),
        (K::Volume(volume_ref()), O::Volume(volume(true))),
        (K::Definition(definition().app), O::Definition(updated_definition())),
        (K::Definition(definition().app), O::Definition(definition_with_hooks())),
        (K::Deployment(definition().app), O::Deployment(deployment_with_hooks())),
        (K::Placement(INSTANCE), O::Placement(Placement { hook: Some(HookKind::After), ..placement(Desired::Run) })),
        (K::Shortfall(service_ref()), O::Shortfall(shortfall())),
    ];
    all.extend(DEPLOYMENT_STATES.map(|state| (K::Deployment(definition().app), O::Deployment(deployment(state)))));
    all.into_iter().map(|(key, object)| (Revision(9), key, object)).collect()
}

#[test]
fn what_a_region_stores_is_read_for_ever() {
    let commands = [first_commands(), later_commands()].concat();
    FILE.check("command", &commands, COMMANDS, command_name);
    FILE.check("row", &[first_rows(), later_rows()].concat(), KEYS, |(_, key, _)| key_name(key));
    FILE.check("row", &[first_rows(), later_rows()].concat(), OBJECTS, |(_, _, object)| object_name(object));
    FILE.check_outcomes(&[RegionReply::Done, RegionReply::Control { epoch: 3 }]);
    FILE.check_stored::<RegionState>(&RegionCommand::Init { meta: meta(), node: Box::new(node(NodeHealth::Up)) });
}
