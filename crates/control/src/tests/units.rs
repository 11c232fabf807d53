//! Leases, derivation and voters, each alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_env::Clock;
use insula_state::{
    Domain, GlobalState, RegionCommand, RegionState,
    global::{App, ClusterMeta, GlobalKey, GlobalObject, Region, SealedValue, Secret},
    region::{RegionKey, RegionMeta, RegionObject},
};
use insula_types::{
    AppName, ClusterId, ContentHash, FileSpec, Incarnation, NodeHealth, NodeId, Priority, RegionName, RegionSet,
    Release, ReleaseNumber, Renewal, Revision, SecretName, ServiceName, ServiceSpec, ServiceVariant, UpdateSpec,
};
use serde_bytes::ByteBuf;

use super::region::{definition, node, spec};
use crate::{DEAD_AFTER, LeaseTable, derive, lease, voters::shall_hand_over};

fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId::new).collect()
}

#[tokio::test(start_paused = true)]
async fn leases_end_when_nobody_renews_and_not_before() {
    let start = Clock::simulated(0).now();
    let at = |ms| start + Duration::from_millis(ms);
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    let renewal = |revision| Renewal { catalog_revision: Revision(revision), ..Renewal::default() };
    let mut table = LeaseTable::begin(start, [one, two]);
    for ms in (0..=2400).step_by(100) {
        table.look(at(ms));
        assert!(table.is_live(at(ms), one) && table.is_live(at(ms), two), "a full lease from the election");
    }
    assert!(table.renew(at(2400), one, &renewal(5)), "it acknowledged something new");
    assert!(!table.renew(at(2450), one, &renewal(5)));
    table.look(at(2500));
    assert!(table.is_live(at(2500), one) && !table.is_live(at(2500), two));
    assert!(table.is_acknowledged(at(2500), Revision(5)), "one whose lease ended is not waited for");
    assert!(!table.is_acknowledged(at(2499), Revision(5)));
    table.grant(at(2600), two);
    assert!(!table.is_live(at(2600), two), "an ended lease comes back by renewals only");
    for (ms, is_steady) in [(2700, false), (3200, false), (3700, true)] {
        table.look(at(ms));
        table.renew(at(ms), two, &renewal(0));
        assert_eq!(table.is_steady(at(ms), two), is_steady);
    }

    // The leader itself is paused for a minute: it knows nothing of anybody.
    let later = at(3700) + Duration::from_secs(60);
    table.look(later);
    assert!(table.is_live(later, two));
    assert!(table.is_live(later, one));
    assert!(!table.is_live(later + lease::LEASE, two));
}

fn global(apps: &[(&str, u64, u32)]) -> GlobalState {
    let mut state = GlobalState::default();
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    state.absorb(Revision(1), GlobalKey::Meta, Some(GlobalObject::Meta(meta)));
    for (at, region) in ["fra", "was"].into_iter().enumerate() {
        let name: RegionName = region.parse().expect("a name");
        let region = Region::new(name.clone(), at as u64, None);
        state.absorb(Revision(1), GlobalKey::Region(name), Some(GlobalObject::Region(region)));
    }
    for (name, release, scale) in apps {
        let app: AppName = name.parse().expect("a name");
        let services = BTreeMap::from([("web".parse().expect("a name"), spec(*release))]);
        let number = ReleaseNumber(*release);
        let made = Release { number, services, ..Release::default() };
        let scale = BTreeMap::from([("web".parse().expect("a name"), (*scale).into())]);
        let key = GlobalKey::Release((app.clone(), number));
        state.absorb(Revision(1), key, Some(GlobalObject::Release(made)));
        let object = App::new(app.clone(), number, scale);
        state.absorb(Revision(1), GlobalKey::App(app), Some(GlobalObject::App(object)));
    }
    state
}

fn in_region(name: &str) -> RegionState {
    let mut region = RegionState::default();
    let own = name.parse().expect("a name");
    let meta = RegionMeta { cluster: ClusterId::new(1), region: own, incarnation: Incarnation(1) };
    region.absorb(Revision(1), RegionKey::Meta, Some(RegionObject::Meta(meta)));
    region
}

#[test]
fn definitions_follow_the_world() {
    let mut region = RegionState::default();
    let shop = definition(1, 3);
    assert_eq!(derive::reconcile(&global(&[("shop", 1, 3)]), &region), [RegionCommand::SetDefinition(shop.clone())]);
    region.absorb(Revision(1), RegionKey::Definition(shop.app.clone()), Some(RegionObject::Definition(shop.clone())));
    assert_eq!(derive::reconcile(&global(&[("shop", 1, 3)]), &region), []);
    let scaled = RegionCommand::SetDefinition(definition(1, 5));
    assert_eq!(derive::reconcile(&global(&[("shop", 1, 5)]), &region), [scaled]);
    let newer = RegionCommand::SetDefinition(definition(2, 5));
    assert_eq!(derive::reconcile(&global(&[("shop", 2, 5)]), &region), [newer]);
    let mut stopped = global(&[("shop", 1, 3)]);
    let app = stopped.apps.get(&shop.app).cloned().expect("there");
    let app = App { stopped: ["web".parse().expect("a name")].into(), ..app };
    stopped.absorb(Revision(2), GlobalKey::App(shop.app.clone()), Some(GlobalObject::App(app)));
    let none = RegionCommand::SetDefinition(definition(1, 0));
    assert_eq!(derive::reconcile(&stopped, &region), [none], "what is stopped has no instances, whatever its scale");
    assert_eq!(derive::reconcile(&global(&[]), &region), [RegionCommand::RemoveDefinition { app: shop.app }]);
    assert_eq!(derive::reconcile(&GlobalState::default(), &region), [], "an empty copy says nothing");
}

#[test]
fn what_runs_in_other_regions_is_not_derived() {
    let mut region = in_region("fra");
    let shop = definition(1, 3);
    let named = |set: &[(&str, RegionSet)]| {
        let mut global = global(&[("shop", 1, 3)]);
        let mut made = global.current_release(&shop.app).cloned().expect("there");
        made.services.insert("worker".parse().expect("a name"), spec(1));
        made.regions = set.iter().map(|(name, set)| (name.parse().expect("a name"), set.clone())).collect();
        let id = (shop.app.clone(), made.number);
        global.absorb(Revision(2), GlobalKey::Release(id), Some(GlobalObject::Release(made)));
        global
    };
    let these = |name: &str| RegionSet::These([name.parse().expect("a name")].into());
    let services = |commands: Vec<RegionCommand>| match &commands[..] {
        [RegionCommand::SetDefinition(definition)] => {
            definition.services.keys().map(ToString::to_string).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    for here in [these("fra"), RegionSet::All, RegionSet::Usual] {
        let of_nameless = usize::from(here.names().next().is_none());
        let global = named(&[("web", here.clone()), ("worker", here)]);
        assert_eq!(services(derive::reconcile(&global, &region)), ["web", "worker"]);
        assert_eq!(
            derive::reconcile(&global, &RegionState::default()).len(),
            of_nameless,
            "it knows no name of its own"
        );
    }
    let global = named(&[("worker", these("was"))]);
    assert_eq!(services(derive::reconcile(&global, &region)), ["web"]);
    let global = named(&[("web", these("was")), ("worker", these("was"))]);
    assert_eq!(derive::reconcile(&global, &region), [], "all of it runs elsewhere");
    region.absorb(Revision(2), RegionKey::Definition(shop.app.clone()), Some(RegionObject::Definition(shop.clone())));
    let gone = RegionCommand::RemoveDefinition { app: shop.app.clone() };
    assert_eq!(derive::reconcile(&global, &region), [gone], "and nothing of it stays here");
    let newer = definition(2, 3);
    region.absorb(Revision(3), RegionKey::Definition(shop.app.clone()), Some(RegionObject::Definition(newer)));
    assert_eq!(derive::reconcile(&global, &region), [], "this copy is older than what was derived");
}

/// A region has what it overrides, and the image of the service; others have nothing of that.
#[test]
fn a_region_has_what_it_overrides() {
    let region: RegionName = "was".parse().expect("a name");
    let web: ServiceName = "web".parse().expect("a name");
    let mut world = global(&[("shop", 1, 3)]);
    let shop: AppName = "shop".parse().expect("a name");
    let mut made = world.current_release(&shop).cloned().expect("there");
    made.regions = BTreeMap::from([(web.clone(), RegionSet::All)]);
    let mut variant = ServiceVariant::new(&spec(1), &UpdateSpec::default(), Priority(70));
    variant.spec.command = vec!["other".to_owned()];
    made.overrides = BTreeMap::from([(web.clone(), BTreeMap::from([(region.clone(), variant)]))]);
    let id = (shop.clone(), made.number);
    world.absorb(Revision(2), GlobalKey::Release(id), Some(GlobalObject::Release(made)));
    let app = world.apps.get(&shop).cloned().expect("there");
    let scales = BTreeMap::from([(region, 5.into())]);
    let app = App { regional_scale: BTreeMap::from([(web.clone(), scales)]), ..app };
    world.absorb(Revision(2), GlobalKey::App(shop), Some(GlobalObject::App(app)));
    let derived = |name: &str| match &derive::reconcile(&world, &in_region(name))[..] {
        [RegionCommand::SetDefinition(definition)] => definition.services[&web].clone(),
        other => panic!("{other:?}"),
    };
    let (fra, was) = (derived("fra"), derived("was"));
    assert_eq!((fra.spec, fra.scale, fra.priority), (spec(1), 3.into(), Priority::USUAL));
    let of_was = ServiceSpec { command: vec!["other".to_owned()], ..spec(1) };
    assert_eq!((was.spec, was.scale, was.priority), (of_was, 5.into(), Priority(70)));
}

/// What names no regions runs in the defaults alone; a world that does not know a region takes nothing from it.
#[test]
fn what_names_no_regions_runs_in_the_defaults() {
    let mut region = in_region("was");
    let shop = definition(1, 3);
    let mut world = global(&[("shop", 1, 3)]);
    assert_eq!(derive::reconcile(&world, &region), [], "another region was founded first");
    let was: RegionName = "was".parse().expect("a name");
    let marked = Region { is_default: true, ..Region::new(was.clone(), 9, None) };
    world.absorb(Revision(2), GlobalKey::Region(was.clone()), Some(GlobalObject::Region(marked)));
    assert_eq!(derive::reconcile(&world, &region), [RegionCommand::SetDefinition(shop.clone())]);
    assert_eq!(derive::reconcile(&world, &in_region("fra")), [], "it is no default any more");
    region.absorb(Revision(2), RegionKey::Definition(shop.app.clone()), Some(RegionObject::Definition(shop)));
    world.absorb(Revision(3), GlobalKey::Region(was), None);
    assert_eq!(derive::reconcile(&world, &region), []);
}

#[test]
fn what_files_contain_comes_with_the_definition_once() {
    let app: AppName = "shop".parse().expect("a name");
    let file = |path: &str, content| FileSpec { path: path.to_owned(), mode: 0o644, content: ContentHash::of(content) };
    let mut definition = definition(1, 3);
    for service in definition.services.values_mut() {
        service.spec.files = vec![file("/etc/a", "one"), file("/etc/b", "two")];
    }
    let mut global = global(&[("shop", 1, 3)]);
    let number = ReleaseNumber(1);
    let services = definition.services.iter().map(|(name, service)| (name.clone(), service.spec.clone())).collect();
    let made = Release { number, services, ..Release::default() };
    global.absorb(Revision(2), GlobalKey::Release((app.clone(), number)), Some(GlobalObject::Release(made)));
    let mut region = RegionState::default();
    let key = (app.clone(), ContentHash::of("one"));
    region.absorb(Revision(1), RegionKey::Content(key), Some(RegionObject::Content("one".into())));
    assert_eq!(derive::reconcile(&global, &region), [], "this copy does not know the other one yet");
    let key = (app, ContentHash::of("two"));
    global.absorb(Revision(2), GlobalKey::Content(key), Some(GlobalObject::Content("two".into())));
    let contents = BTreeMap::from([(ContentHash::of("two"), "two".to_owned())]);
    let command = RegionCommand::SetDefinitionWith { definition, contents, secrets: vec![] };
    assert_eq!(derive::reconcile(&global, &region), [command]);
}

#[test]
fn a_drained_leader_gives_way_to_a_voter_that_stays() {
    let mut state = RegionState::default();
    let mut put = |id: u64, health, is_draining| {
        let node = insula_types::Node { health, is_draining, ..node(id, "fra1") };
        state.absorb(Revision(id), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
        shall_hand_over(&state, NodeId::new(1), &ids([1, 2, 3]))
    };
    assert!(!put(1, NodeHealth::Up, false));
    assert!(!put(2, NodeHealth::Up, false));
    assert!(put(1, NodeHealth::Up, true));
    assert!(!put(2, NodeHealth::Down { since_ms: 1 }, false), "nobody else could lead");
    assert!(!put(3, NodeHealth::Up, true), "the other is drained too");
    assert!(!put(4, NodeHealth::Up, false), "it does not vote");
    assert!(put(3, NodeHealth::Up, false));
}

/// A region of nodes by id, with their data centres; those of `down` have been so since then.
fn region(nodes: &[(u64, &str)], down: &[(u64, u64)]) -> RegionState {
    let mut state = RegionState::default();
    for (id, datacenter) in nodes {
        let since = down.iter().find(|(other, _)| other == id).map(|(_, since_ms)| *since_ms);
        let health = since.map_or(NodeHealth::Up, |since_ms| NodeHealth::Down { since_ms });
        let node = insula_types::Node { health, joined_ms: *id, ..node(*id, datacenter) };
        state.absorb(Revision(*id), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
    }
    state
}

/// Who shall vote at the time `0`, or now that the dead are dead.
fn wanted<const N: usize>(state: &RegionState, current: [u64; N], now_ms: u64) -> Option<Vec<u64>> {
    let wanted = crate::wanted_voters(state, &ids(current), now_ms, DEAD_AFTER)?;
    Some(wanted.into_iter().map(NodeId::get).collect())
}

#[test]
fn voters_are_odd_spread_and_sticky() {
    let nodes = [(1, "fra1"), (2, "fra1"), (3, "fra1"), (4, "fra2"), (5, "fra3"), (6, "fra2"), (7, "fra3")];
    let up = |count: usize| region(&nodes[..count], &[]);
    assert_eq!(wanted(&up(1), [1], 0), None);
    assert_eq!(wanted(&up(2), [1], 0), None, "never two");
    assert_eq!(wanted(&region(&nodes[..3], &[(3, 1)]), [1], 0), None, "not before three are up");
    assert_eq!(wanted(&region(&nodes[..4], &[(3, 1)]), [1], 0), Some(vec![1, 2, 4]));
    assert_eq!(wanted(&up(5), [1], 0), Some(vec![1, 4, 5]), "one in each");
    assert_eq!(wanted(&up(6), [1, 2, 3], 0), None, "those who vote stay");
    assert_eq!(wanted(&up(7), [1, 2, 3], 0), Some(vec![1, 2, 3, 4, 5]));
    assert_eq!(wanted(&up(6), [1, 2, 3, 4, 5], 0), None, "five that work stay five");
    assert_eq!(wanted(&up(4), [1, 2, 3, 4, 5], 0), Some(vec![1, 2, 3]), "but not four");
    assert_eq!(wanted(&region(&nodes[..4], &[(2, 1)]), [1, 2, 3, 4, 5], 0), Some(vec![1, 3, 4]));
    assert_eq!(wanted(&up(2), [1, 2, 3], 0), Some(vec![1]), "and not two");
}

#[test]
fn a_voter_that_is_gone_or_long_dead_is_replaced() {
    let nodes = [(1, "fra1"), (3, "fra1"), (4, "fra2"), (5, "fra3")];
    let dead = DEAD_AFTER.as_millis() as u64 + 2;
    assert_eq!(wanted(&region(&nodes, &[]), [1, 2, 3], 0), Some(vec![1, 3, 4]), "no member any more");
    let down = region(&nodes, &[(3, 1)]);
    assert_eq!(wanted(&down, [1, 3, 4], dead - 1), None, "it may come back");
    assert_eq!(wanted(&down, [1, 3, 4], dead), Some(vec![1, 4, 5]));
    let two_down = region(&nodes, &[(3, 1), (5, 1)]);
    assert_eq!(wanted(&two_down, [1, 3, 4], dead), None, "nobody can take its place");
    assert_eq!(wanted(&two_down, [1, 3, 5], dead), Some(vec![1, 3, 4]), "one can");
}

#[test]
fn secrets_come_with_the_definition_sealed_for_this_region() {
    let (app, name) = ("shop".parse::<AppName>().expect("a name"), "KEY".parse::<SecretName>().expect("a name"));
    let mut definition = definition(1, 3);
    for service in definition.services.values_mut() {
        service.spec.secrets = BTreeMap::from([(name.clone(), 2)]);
    }
    let mut global = global(&[("shop", 1, 3)]);
    let number = ReleaseNumber(1);
    let services = definition.services.iter().map(|(name, service)| (name.clone(), service.spec.clone())).collect();
    let made = Release { number, services, ..Release::default() };
    global.absorb(Revision(2), GlobalKey::Release((app.clone(), number)), Some(GlobalObject::Release(made)));
    let mut region = RegionState::default();
    let own = "fra".parse().expect("a name");
    let meta = RegionMeta { cluster: ClusterId::new(1), region: own, incarnation: Incarnation(1) };
    region.absorb(Revision(1), RegionKey::Meta, Some(RegionObject::Meta(meta)));
    assert_eq!(derive::reconcile(&global, &region), [], "this copy does not know the value yet");
    let sealed = |byte| {
        let regions =
            [("fra", byte), ("was", 9)].map(|(region, byte)| (region.parse().expect("a name"), ByteBuf::from([byte])));
        SealedValue { sealed: regions.into(), set_ms: 0, by: String::new() }
    };
    let secret = Secret { last: 3, versions: BTreeMap::from([(2, sealed(2)), (3, sealed(3))]) };
    let key = GlobalKey::Secret((app, name.clone()));
    global.absorb(Revision(2), key, Some(GlobalObject::Secret(secret)));
    let secrets = vec![(name, 2, ByteBuf::from([2]))];
    let command = RegionCommand::SetDefinitionWith { definition, contents: BTreeMap::new(), secrets };
    assert_eq!(derive::reconcile(&global, &region), [command]);
}
