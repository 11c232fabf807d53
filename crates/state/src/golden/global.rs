use std::collections::BTreeMap;

use insula_types::{
    Agreed, ClusterId, DeploymentState, Incarnation, Level, NodeId, Overrides, Priority, RegionName, RegionSet,
    Release, ReleaseNumber, Revision, RouteSpec, Scale, ServiceName, ServiceVariant, UpdateSpec,
};
use serde_bytes::ByteBuf;

use super::{
    File,
    region::{DEPLOYMENT_STATES, contents, spec, spec_with_files, spec_with_restart, updates},
    variants,
};
use crate::{
    GlobalState,
    global::{
        ApiToken, App, ClusterMeta, Founder, Gateway, GlobalCommand, GlobalKey, GlobalObject, GlobalReply, Invitation,
        Phase, Region, ReleaseOutcome, Role, RootState, SealedFor, SealedValue, Secret, TrustedRoot,
    },
};

const FILE: File = File(include_str!("global.txt"));

variants!(command_name, COMMANDS, GlobalCommand:
    Init, Deploy, Scale, RemoveApp, PutApiToken, RemoveApiToken, AddRoot, ActivateRoot, RetireRoot, SetRegionAuthority,
    SetRegionLevel, Rollback, ReportOutcome, SetSecret, RemoveSecret, SetSealingKey, Restart, SetStopped, InviteRegion, ClaimRegion,
    RemoveInvitation, SetGateways, SealForRegion,
);
variants!(key_name, KEYS, GlobalKey:
    Meta, Region, App, Release, Removed, Claim, ApiToken, Root, Level, Outcome, Content, Secret, SealingKey,
    Invitation,
);
variants!(object_name, OBJECTS, GlobalObject:
    Meta, Region, App, Release, Removed, Claim, ApiToken, Root, Level, Outcome, Content, Secret, SealingKey,
    Invitation,
);

const RELEASE: ReleaseNumber = ReleaseNumber(4);

fn meta() -> ClusterMeta {
    ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(2), created_ms: 3 }
}

fn region() -> RegionName {
    "fra".parse().expect("a name")
}

fn init(agreed: Option<Agreed>) -> GlobalCommand {
    GlobalCommand::Init { meta: meta(), region: region(), agreed }
}

fn api_token(role: Role) -> ApiToken {
    ApiToken { id: "t".into(), name: "founder".into(), role, secret_hash: "7f".into(), expires_ms: 1000 }
}

fn agreed() -> Agreed {
    Agreed { level: Level(2), version: "0.1.0".into() }
}

fn sealed() -> BTreeMap<RegionName, ByteBuf> {
    BTreeMap::from([(region(), ByteBuf::from([1, 2]))])
}

fn root(state: RootState) -> TrustedRoot {
    let regions = BTreeMap::from([(region(), ByteBuf::from([1, 2]))]);
    TrustedRoot { certificate: ByteBuf::from([3, 4]), state, regions, added_ms: 5 }
}

fn invitation(founder: Option<Founder>) -> Invitation {
    let (token, secret_hash) = ("t".to_owned(), "7f".to_owned());
    let (sealed, incarnation) = (ByteBuf::from([5, 6]), Incarnation(7));
    Invitation { token, secret_hash, expires_ms: 1000, sealed, incarnation, founder }
}

fn founder() -> Founder {
    Founder { node: NodeId::new(3), key_sha256: "9a".into() }
}

fn gateways() -> Vec<Gateway> {
    vec![Gateway { node: NodeId::new(3), addresses: vec![([192, 0, 2, 7], 7443).into()] }]
}

const ROLES: [Role; 3] = [Role::Viewer, Role::Deployer, Role::Admin];
const ROOTS: [RootState; 3] = [RootState::Trusted, RootState::Active, RootState::Retiring];

fn outcome(state: DeploymentState) -> ReleaseOutcome {
    ReleaseOutcome { state, why: "it was good".into(), at_ms: 8 }
}

/// What a program of level 1 knows.
fn first_commands() -> Vec<GlobalCommand> {
    use GlobalCommand as C;
    let (app, service) = (|| "shop".parse().expect("a name"), || "web".parse().expect("a name"));
    let mut all = vec![
        init(None),
        C::Deploy {
            app: app(),
            services: BTreeMap::from([(service(), spec())]),
            scale: BTreeMap::from([(service(), 3.into())]),
            expect: Some(RELEASE),
            updates: BTreeMap::new(),
            contents: BTreeMap::new(),
            tags: BTreeMap::new(),
            regions: BTreeMap::new(),
            priorities: BTreeMap::new(),
            overrides: BTreeMap::new(),
            regional_scale: BTreeMap::new(),
        },
        C::Scale { app: app(), service: service(), scale: 5.into(), region: None },
        C::RemoveApp { app: app() },
        C::RemoveApiToken { id: "t".into() },
    ];
    all.extend(ROLES.map(|role| C::PutApiToken(api_token(role))));
    all
}

/// What came later.
fn later_commands() -> Vec<GlobalCommand> {
    use GlobalCommand as C;
    let hash = || "aa".to_owned();
    let (app, service) = (|| "shop".parse().expect("a name"), || "web".parse().expect("a name"));
    let mut all = vec![
        C::Scale { app: app(), service: service(), scale: Scale::EachNode, region: None },
        C::Deploy {
            app: app(),
            services: BTreeMap::from([(service(), spec())]),
            scale: BTreeMap::from([(service(), Scale::EachNode)]),
            expect: None,
            updates: BTreeMap::new(),
            contents: BTreeMap::new(),
            tags: BTreeMap::new(),
            regions: BTreeMap::new(),
            priorities: BTreeMap::new(),
            overrides: BTreeMap::new(),
            regional_scale: BTreeMap::new(),
        },
        init(Some(agreed())),
        C::ActivateRoot { hash: hash() },
        C::RetireRoot { hash: hash() },
        C::SetRegionAuthority { root: hash(), region: region(), certificate: ByteBuf::from([1, 2]) },
        C::SetRegionLevel { region: region(), agreed: agreed() },
        C::Deploy {
            app: "shop".parse().expect("a name"),
            services: BTreeMap::from([("web".parse().expect("a name"), spec_with_files())]),
            scale: BTreeMap::new(),
            expect: None,
            contents: contents(),
            tags: BTreeMap::new(),
            regions: BTreeMap::new(),
            priorities: BTreeMap::new(),
            updates: BTreeMap::new(),
            overrides: BTreeMap::new(),
            regional_scale: BTreeMap::new(),
        },
    ];
    let deploy = |update| C::Deploy {
        app: "shop".parse().expect("a name"),
        services: BTreeMap::from([("web".parse().expect("a name"), spec())]),
        scale: BTreeMap::new(),
        expect: None,
        updates: BTreeMap::from([("web".parse().expect("a name"), update)]),
        contents: BTreeMap::new(),
        tags: BTreeMap::new(),
        regions: BTreeMap::new(),
        priorities: BTreeMap::new(),
        overrides: BTreeMap::new(),
        regional_scale: BTreeMap::new(),
    };
    all.extend(updates().map(deploy));
    all.push(C::Deploy {
        app: app(),
        services: BTreeMap::from([(service(), spec())]),
        scale: BTreeMap::new(),
        expect: None,
        updates: BTreeMap::new(),
        contents: BTreeMap::new(),
        tags: tags(),
        regions: BTreeMap::new(),
        priorities: BTreeMap::new(),
        overrides: BTreeMap::new(),
        regional_scale: BTreeMap::new(),
    });
    all.extend([RegionSet::All, RegionSet::These([region()].into())].map(|regions| C::Deploy {
        app: app(),
        services: BTreeMap::from([(service(), spec())]),
        scale: BTreeMap::new(),
        expect: None,
        updates: BTreeMap::from([(service(), UpdateSpec { region_order: vec![region()], ..UpdateSpec::default() })]),
        contents: BTreeMap::new(),
        tags: BTreeMap::new(),
        regions: BTreeMap::from([(service(), regions)]),
        priorities: BTreeMap::new(),
        overrides: BTreeMap::new(),
        regional_scale: BTreeMap::new(),
    }));
    all.push(C::Deploy {
        app: app(),
        services: BTreeMap::from([(service(), spec())]),
        scale: BTreeMap::new(),
        expect: None,
        updates: BTreeMap::new(),
        contents: BTreeMap::new(),
        tags: BTreeMap::new(),
        regions: BTreeMap::new(),
        priorities: BTreeMap::new(),
        overrides: overrides(),
        regional_scale: BTreeMap::from([(service(), BTreeMap::from([(region(), 4.into())]))]),
    });
    all.push(C::Scale { app: app(), service: service(), scale: 5.into(), region: Some(region()) });
    all.push(C::Rollback {
        app: "shop".parse().expect("a name"),
        to: ReleaseNumber(2),
        from: RELEASE,
        why: "it failed".into(),
    });
    all.extend(DEPLOYMENT_STATES.map(|state| C::ReportOutcome {
        app: "shop".parse().expect("a name"),
        release: RELEASE,
        region: region(),
        outcome: outcome(state),
    }));
    let (app, name) = (|| "shop".parse().expect("a name"), || "KEY".parse().expect("a name"));
    all.extend([
        C::SetSecret { app: app(), name: name(), sealed: sealed(), by: "founder".into() },
        C::RemoveSecret { app: app(), name: name() },
        C::SetSealingKey { region: region(), key: ByteBuf::from([3]) },
    ]);
    all.extend(ROOTS.map(|state| C::AddRoot { hash: hash(), root: root(state) }));
    let continent = |text: &str| text.parse().ok();
    all.extend([None, continent("asia")].map(|continent| C::InviteRegion {
        region: region(),
        continent,
        root: hash(),
        certificate: ByteBuf::from([1, 2]),
        invitation: Box::new(invitation(None)),
    }));
    all.extend([
        C::ClaimRegion { token: "t".into(), secret_hash: "7f".into(), founder: founder(), agreed: agreed() },
        C::RemoveInvitation { token: "t".into() },
        C::SetGateways { region: region(), gateways: gateways(), nodes: 2 },
        C::SealForRegion {
            region: region(),
            values: vec![SealedFor { app: app(), name: name(), version: 2, sealed: ByteBuf::from([1, 2]) }],
        },
    ]);
    let service = || "web".parse().expect("a name");
    all.extend([
        C::Restart { app: app(), service: Some(service()), from: RELEASE },
        C::Restart { app: app(), service: None, from: RELEASE },
        C::SetStopped { app: app(), service: Some(service()), is_stopped: true },
        C::SetStopped { app: app(), service: None, is_stopped: false },
        C::Deploy {
            app: app(),
            services: BTreeMap::from([(service(), spec_with_restart())]),
            scale: BTreeMap::new(),
            expect: None,
            updates: BTreeMap::new(),
            contents: BTreeMap::new(),
            tags: BTreeMap::new(),
            regions: BTreeMap::new(),
            priorities: BTreeMap::new(),
            overrides: BTreeMap::new(),
            regional_scale: BTreeMap::new(),
        },
        C::Deploy {
            app: app(),
            services: BTreeMap::from([(service(), spec())]),
            scale: BTreeMap::new(),
            expect: None,
            updates: BTreeMap::new(),
            contents: BTreeMap::new(),
            tags: BTreeMap::new(),
            regions: BTreeMap::new(),
            priorities: BTreeMap::from([(service(), Priority(80))]),
            overrides: BTreeMap::new(),
            regional_scale: BTreeMap::new(),
        },
    ]);
    all
}

type Row = (Revision, GlobalKey, GlobalObject);

fn first_rows() -> Vec<Row> {
    use GlobalKey as K;
    use GlobalObject as O;
    let app = || "shop".parse().expect("a name");
    let web = || "web".parse().expect("a name");
    let route = RouteSpec { host: "shop.example".into(), path: "/".into() };
    let services = BTreeMap::from([(web(), spec())]);
    let release = Release { number: RELEASE, services, created_ms: 6, ..Release::default() };
    let mut all = vec![
        (K::Meta, O::Meta(meta())),
        (K::Region(region()), O::Region(Region::new(region(), 3, None))),
        (K::App(app()), O::App(App::new(app(), RELEASE, BTreeMap::from([(web(), 3.into())])))),
        (K::Release((app(), RELEASE)), O::Release(release)),
        (K::Removed(app()), O::Removed(RELEASE)),
        (K::Claim(route), O::Claim(app())),
    ];
    all.extend(ROLES.map(|role| (K::ApiToken("t".into()), O::ApiToken(api_token(role)))));
    all.into_iter().map(|(key, object)| (Revision(9), key, object)).collect()
}

fn tags() -> BTreeMap<ServiceName, String> {
    BTreeMap::from([("web".parse().expect("a name"), "1.2".to_owned())])
}

fn overrides() -> Overrides {
    let usual = ServiceVariant::new(&spec(), &UpdateSpec::default(), Priority::USUAL);
    let [update, ..] = updates();
    let other = ServiceVariant::new(&spec_with_files(), &update, Priority(20));
    let regions = BTreeMap::from([(region(), usual), ("was".parse().expect("a name"), other)]);
    BTreeMap::from([("web".parse().expect("a name"), regions)])
}

fn later_rows() -> Vec<Row> {
    use GlobalKey as K;
    use GlobalObject as O;
    let at_level = Region::new(region(), 3, Some(agreed()));
    let mut all = vec![(K::Region(region()), O::Region(at_level)), (K::Level, O::Level(agreed()))];
    all.push((K::Region(region()), O::Region(Region { is_default: true, ..Region::new(region(), 3, None) })));
    let (app, scale) =
        (|| "shop".parse().expect("a name"), BTreeMap::from([("web".parse().expect("a name"), Scale::EachNode)]));
    all.push((K::App(app()), O::App(App::new(app(), RELEASE, scale))));
    let id = || ("shop".parse().expect("a name"), RELEASE);
    all.extend(
        DEPLOYMENT_STATES.map(|state| (K::Outcome(id()), O::Outcome(BTreeMap::from([(region(), outcome(state))])))),
    );
    let services = BTreeMap::from([("web".parse().expect("a name"), spec())]);
    let [update, ..] = updates();
    let again = Release {
        number: RELEASE,
        services,
        created_ms: 6,
        updates: BTreeMap::from([("web".parse().expect("a name"), update)]),
        again_of: Some(ReleaseNumber(2)),
        why: "it failed".into(),
        ..Release::default()
    };
    all.push((K::Release(id()), O::Release(again.clone())));
    all.push((K::Release(id()), O::Release(Release { tags: tags(), ..again.clone() })));
    let regions = BTreeMap::from([("web".parse().expect("a name"), RegionSet::These([region()].into()))]);
    all.push((K::Release(id()), O::Release(Release { regions, ..again.clone() })));
    let priorities = BTreeMap::from([("web".parse().expect("a name"), Priority(20))]);
    all.push((K::Release(id()), O::Release(Release { priorities, ..again.clone() })));
    all.push((K::Release(id()), O::Release(Release { overrides: overrides(), ..again })));
    let value = SealedValue { sealed: sealed(), set_ms: 5, by: "founder".into() };
    let secret = Secret { last: 2, versions: BTreeMap::from([(2, value)]) };
    all.push((K::Secret(("shop".parse().expect("a name"), "KEY".parse().expect("a name"))), O::Secret(secret)));
    all.push((K::SealingKey(region()), O::SealingKey(ByteBuf::from([3]))));
    let key = |hash| K::Content(("shop".parse().expect("a name"), hash));
    all.extend(contents().into_iter().map(|(hash, content)| (key(hash), O::Content(content))));
    all.extend(ROOTS.map(|state| (K::Root("aa".into()), O::Root(root(state)))));
    all.extend([None, Some(founder())].map(|founder| (K::Invitation(region()), O::Invitation(invitation(founder)))));
    all.extend([Phase::Joining, Phase::Serving, Phase::Leaving].map(|phase| {
        let continent = "asia".parse().ok();
        let region =
            Region { phase, continent, gateways: gateways(), nodes: Some(2), ..Region::new(region(), 3, None) };
        (K::Region(region.name.clone()), O::Region(region))
    }));
    let stopped = App::new(app(), RELEASE, BTreeMap::from([("web".parse().expect("a name"), 2.into())]));
    let stopped = App { stopped: ["web".parse().expect("a name")].into(), ..stopped };
    all.push((K::App(app()), O::App(stopped)));
    let scaled = App::new(app(), RELEASE, BTreeMap::from([("web".parse().expect("a name"), 2.into())]));
    let of_regions = BTreeMap::from([(region(), Scale::EachNode)]);
    let regional_scale = BTreeMap::from([("web".parse().expect("a name"), of_regions)]);
    all.push((K::App(app()), O::App(App { regional_scale, ..scaled })));
    all.into_iter().map(|(key, object)| (Revision(9), key, object)).collect()
}

#[test]
fn what_the_world_stores_is_read_for_ever() {
    FILE.check("command", &[first_commands(), later_commands()].concat(), COMMANDS, command_name);
    FILE.check("row", &[first_rows(), later_rows()].concat(), KEYS, |(_, key, _)| key_name(key));
    FILE.check("row", &[first_rows(), later_rows()].concat(), OBJECTS, |(_, _, object)| object_name(object));
    let deployed = |is_new| GlobalReply::Deployed { release: RELEASE, is_new };
    FILE.check_outcomes(&[GlobalReply::Done, deployed(true), deployed(false), GlobalReply::SecretSet { version: 2 }]);
    FILE.check_stored::<GlobalState>(&init(None));
}
