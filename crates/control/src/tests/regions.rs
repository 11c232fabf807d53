//! From what users write to what each region of a world has.

use std::collections::{BTreeMap, BTreeSet};

use insula_state::{
    Domain, GlobalState, RegionCommand, RegionState,
    global::{App, ClusterMeta, GlobalKey, GlobalObject, Region},
    region::{RegionKey, RegionMeta, RegionObject},
};
use insula_types::{
    AppDefinition, AppName, ClusterId, Incarnation, RegionName, RegionalService, Release, ReleaseNumber, Revision,
    Scale, ServiceName, definition::Format,
};
use proptest::prelude::*;

use crate::derive;

const REGIONS: [&str; 4] = ["fra", "nrt", "syd", "was"];

fn name(text: &str) -> RegionName {
    text.parse().expect("a name")
}

/// A world of these regions, the first one first; a region is a default or not.
fn world(regions: &[(&str, bool)], definition: &AppDefinition) -> GlobalState {
    let mut state = GlobalState::default();
    let mut put = |key, object| state.absorb(Revision(1), key, Some(object));
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    put(GlobalKey::Meta, GlobalObject::Meta(meta));
    for (at, (region, is_default)) in regions.iter().enumerate() {
        let region = Region { is_default: *is_default, ..Region::new(name(region), at as u64, None) };
        put(GlobalKey::Region(region.name.clone()), GlobalObject::Region(region));
    }
    let release = Release { number: ReleaseNumber(1), ..definition.to_release() };
    let scale = definition.services.iter().filter_map(|(name, one)| Some((name.clone(), one.scale?))).collect();
    let mut app = App::new(definition.app.clone(), release.number, scale);
    for (service, one) in &definition.services {
        let of_regions = one.overrides.iter().filter_map(|(region, own)| Some((region.clone(), own.scale?)));
        app.regional_scale.insert(service.clone(), of_regions.collect());
    }
    put(GlobalKey::Release((definition.app.clone(), release.number)), GlobalObject::Release(release));
    put(GlobalKey::App(definition.app.clone()), GlobalObject::App(app));
    state
}

/// What a region that has nothing derives.
fn derived(world: &GlobalState, region: &str) -> BTreeMap<ServiceName, RegionalService> {
    let mut state = RegionState::default();
    let meta = RegionMeta { cluster: ClusterId::new(1), region: name(region), incarnation: Incarnation(1) };
    state.absorb(Revision(1), RegionKey::Meta, Some(RegionObject::Meta(meta)));
    match &derive::reconcile(world, &state)[..] {
        [] => BTreeMap::new(),
        [RegionCommand::SetDefinition(definition)] => definition.services.clone(),
        other => panic!("{other:?}"),
    }
}

fn service(at: usize) -> impl Strategy<Value = String> {
    let wanted = prop::option::of(prop::sample::select(vec!["[\"*\"]", "[\"fra\"]", "[\"nrt\", \"was\"]"]));
    let overrides = prop::collection::btree_map(
        prop::sample::select(REGIONS.to_vec()),
        (prop::option::of(0u32..9), prop::option::of("[a-z]{1,3}"), prop::option::of(0u8..=100)),
        0..4,
    );
    (wanted, overrides, prop::option::of(0u32..9)).prop_map(move |(wanted, overrides, scale)| {
        let mut text = format!("[services.s{at}]\nruntime = \"process\"\ncommand = [\"a\"]\nenv = {{ A = \"1\" }}\n");
        text.extend(wanted.map(|wanted| format!("regions = {wanted}\n")));
        text.extend(scale.map(|scale| format!("scale = {scale}\n")));
        for (region, (scale, value, priority)) in overrides {
            if wanted.is_some_and(|wanted| !wanted.contains('*') && !wanted.contains(region)) {
                continue;
            }
            text.push_str(&format!("[services.s{at}.region.{region}]\n"));
            text.extend(scale.map(|scale| format!("scale = {scale}\n")));
            text.extend(value.map(|value| format!("env = {{ B = \"{value}\" }}\n")));
            text.extend(priority.map(|priority| format!("priority = {priority}\n")));
        }
        text
    })
}

proptest! {
    /// Each region has exactly what the definition says of it, whatever the world is: the services that it runs, with its overrides.
    #[test]
    fn each_region_has_what_the_definition_says_of_it(
        services in (service(0), service(1)),
        defaults in prop::collection::vec(any::<bool>(), REGIONS.len()),
        order in Just(REGIONS.to_vec()).prop_shuffle(),
        count in 1..=REGIONS.len(),
    ) {
        let text = format!("app = \"shop\"\n{}{}", services.0, services.1);
        let definition = AppDefinition::parse(&text, Format::Toml).expect("valid");
        let regions: Vec<_> = order.into_iter().zip(defaults).take(count).collect();
        let world = world(&regions, &definition);
        let is_any_default = regions.iter().any(|(_, is_default)| *is_default);
        for (at, (region, is_default)) in regions.iter().enumerate() {
            let found = derived(&world, region);
            let is_of_the_rest = *is_default || !is_any_default && at == 0;
            let own = definition.in_region(&name(region), |one| match one.regions.is_usual() {
                true => is_of_the_rest,
                false => one.regions.has(&name(region)),
            });
            prop_assert_eq!(found.keys().collect::<BTreeSet<_>>(), own.services.keys().collect(), "{} in {}", text, region);
            for (service, own) in own.services {
                let found = &found[&service];
                prop_assert_eq!(&found.spec, &own.spec, "{} in {}", text, region);
                prop_assert_eq!(&found.update, &own.update);
                prop_assert_eq!((found.priority, found.scale), (own.priority, own.scale.unwrap_or(Scale::Count(1))));
            }
        }
        let nowhere: Vec<_> = REGIONS.iter().filter(|region| !regions.iter().any(|(name, _)| name == *region)).collect();
        prop_assert!(nowhere.iter().all(|region| derived(&world, region).is_empty()), "a world without it says nothing of it");
    }
}

/// A region that a newer release does not name stops what it has of the service, as of one that is gone.
#[test]
fn what_is_no_longer_for_a_region_is_taken_from_it() {
    let app: AppName = "shop".parse().expect("a name");
    let two = "[services.web]\nruntime = \"process\"\ncommand = [\"a\"]\nregions = [\"*\"]\n\
               [services.db]\nruntime = \"process\"\ncommand = [\"b\"]\n";
    let definition = |text: &str| AppDefinition::parse(text, Format::Toml).expect("valid");
    let all = definition(&format!("app = \"shop\"\n{two}region.nrt.priority = 70\nregions = [\"fra\", \"nrt\"]"));
    let fewer = definition(&format!("app = \"shop\"\n{two}regions = [\"fra\"]"));
    let regions = [("fra", false), ("nrt", false)];
    let mut region = RegionState::default();
    let meta = RegionMeta { cluster: ClusterId::new(1), region: name("nrt"), incarnation: Incarnation(1) };
    region.absorb(Revision(1), RegionKey::Meta, Some(RegionObject::Meta(meta)));
    let [RegionCommand::SetDefinition(first)] = &derive::reconcile(&world(&regions, &all), &region)[..] else {
        panic!("it has both");
    };
    assert_eq!(first.services.len(), 2);
    region.absorb(Revision(2), RegionKey::Definition(app.clone()), Some(RegionObject::Definition(first.clone())));
    let [RegionCommand::SetDefinition(second)] = &derive::reconcile(&world(&regions, &fewer), &region)[..] else {
        panic!("it has one");
    };
    assert_eq!(second.services.keys().map(ServiceName::as_str).collect::<Vec<_>>(), ["web"]);
    let elsewhere = definition("app = \"shop\"\n[services.db]\nruntime = \"process\"\ncommand = [\"b\"]\n");
    let gone = derive::reconcile(&world(&regions, &elsewhere), &region);
    assert_eq!(gone, [RegionCommand::RemoveDefinition { app }], "what names no regions runs in the first alone");
}
