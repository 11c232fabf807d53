use std::collections::BTreeMap;

use insula_types::{Agreed, ClusterId, Incarnation, Level, RegionName, Release, ReleaseNumber, Revision, RouteSpec};
use serde_bytes::ByteBuf;

use super::{File, region::spec, variants};
use crate::{
    GlobalState,
    global::{
        ApiToken, App, ClusterMeta, GlobalCommand, GlobalKey, GlobalObject, GlobalReply, Region, Role, RootState,
        TrustedRoot,
    },
};

const FILE: File = File(include_str!("global.txt"));

variants!(command_name, COMMANDS, GlobalCommand:
    Init, Deploy, Scale, RemoveApp, PutApiToken, RemoveApiToken, AddRoot, ActivateRoot, RetireRoot, SetRegionAuthority,
    SetRegionLevel,
);
variants!(key_name, KEYS, GlobalKey: Meta, Region, App, Release, Removed, Claim, ApiToken, Root, Level);
variants!(object_name, OBJECTS, GlobalObject: Meta, Region, App, Release, Removed, Claim, ApiToken, Root, Level);

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

fn root(state: RootState) -> TrustedRoot {
    let regions = BTreeMap::from([(region(), ByteBuf::from([1, 2]))]);
    TrustedRoot { certificate: ByteBuf::from([3, 4]), state, regions, added_ms: 5 }
}

const ROLES: [Role; 3] = [Role::Viewer, Role::Deployer, Role::Admin];
const ROOTS: [RootState; 3] = [RootState::Trusted, RootState::Active, RootState::Retiring];

/// What a program of level 1 knows.
fn first_commands() -> Vec<GlobalCommand> {
    use GlobalCommand as C;
    let (app, service) = (|| "shop".parse().expect("a name"), || "web".parse().expect("a name"));
    let mut all = vec![
        init(None),
        C::Deploy {
            app: app(),
            services: BTreeMap::from([(service(), spec())]),
            scale: BTreeMap::from([(service(), 3)]),
            expect: Some(RELEASE),
        },
        C::Scale { app: app(), service: service(), scale: 5 },
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
    let mut all = vec![
        init(Some(agreed())),
        C::ActivateRoot { hash: hash() },
        C::RetireRoot { hash: hash() },
        C::SetRegionAuthority { root: hash(), region: region(), certificate: ByteBuf::from([1, 2]) },
        C::SetRegionLevel { region: region(), agreed: agreed() },
    ];
    all.extend(ROOTS.map(|state| C::AddRoot { hash: hash(), root: root(state) }));
    all
}

type Row = (Revision, GlobalKey, GlobalObject);

fn first_rows() -> Vec<Row> {
    use GlobalKey as K;
    use GlobalObject as O;
    let app = || "shop".parse().expect("a name");
    let web = || "web".parse().expect("a name");
    let route = RouteSpec { host: "shop.example".into(), path: "/".into() };
    let release = Release { number: RELEASE, services: BTreeMap::from([(web(), spec())]), created_ms: 6 };
    let mut all = vec![
        (K::Meta, O::Meta(meta())),
        (K::Region(region()), O::Region(Region { name: region(), created_ms: 3, agreed: None })),
        (K::App(app()), O::App(App::new(app(), RELEASE, BTreeMap::from([(web(), 3)])))),
        (K::Release((app(), RELEASE)), O::Release(release)),
        (K::Removed(app()), O::Removed(RELEASE)),
        (K::Claim(route), O::Claim(app())),
    ];
    all.extend(ROLES.map(|role| (K::ApiToken("t".into()), O::ApiToken(api_token(role)))));
    all.into_iter().map(|(key, object)| (Revision(9), key, object)).collect()
}

fn later_rows() -> Vec<Row> {
    use GlobalKey as K;
    use GlobalObject as O;
    let at_level = Region { name: region(), created_ms: 3, agreed: Some(agreed()) };
    let mut all = vec![(K::Region(region()), O::Region(at_level)), (K::Level, O::Level(agreed()))];
    all.extend(ROOTS.map(|state| (K::Root("aa".into()), O::Root(root(state)))));
    all.into_iter().map(|(key, object)| (Revision(9), key, object)).collect()
}

#[test]
fn what_the_world_stores_is_read_for_ever() {
    FILE.check("command", &[first_commands(), later_commands()].concat(), COMMANDS, command_name);
    FILE.check("row", &[first_rows(), later_rows()].concat(), KEYS, |(_, key, _)| key_name(key));
    FILE.check("row", &[first_rows(), later_rows()].concat(), OBJECTS, |(_, _, object)| object_name(object));
    let deployed = |is_new| GlobalReply::Deployed { release: RELEASE, is_new };
    FILE.check_outcomes(&[GlobalReply::Done, deployed(true), deployed(false)]);
    FILE.check_stored::<GlobalState>(&init(None));
}
