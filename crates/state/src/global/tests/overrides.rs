//! What regions override, and how many instances each has.

use insula_types::{Overrides, Priority, RegionSet, ServiceVariant, UpdateSpec};

use super::*;

fn region(text: &str) -> RegionName {
    text.parse().expect("a name")
}

/// A world of two regions, which have keys to seal to.
struct Two {
    state: GlobalState,
    revision: u64,
}

impl Two {
    fn new() -> Self {
        let mut two = Self { state: GlobalState::default(), revision: 1 };
        for (at, name) in ["fra", "was"].into_iter().enumerate() {
            let object = GlobalObject::Region(Region::new(region(name), at as u64, None));
            two.state.absorb(Revision(1), GlobalKey::Region(region(name)), Some(object));
            two.run(&GlobalCommand::SetSealingKey { region: region(name), key: ByteBuf::from([1]) })
                .expect("the first");
        }
        two
    }

    fn run(&mut self, command: &GlobalCommand) -> Result<GlobalReply, Rejection> {
        self.revision += 1;
        let revision = Revision(self.revision);
        let mut changes = Changes::new();
        let reply = self.state.apply(command, 0, revision, &mut changes)?;
        for change in changes.into_vec() {
            self.state.absorb(revision, change.key, change.object);
        }
        Ok(reply)
    }

    fn app(&self) -> &App {
        self.state.apps.get(&name("shop")).expect("there")
    }

    /// What each of the regions shall run, and what the rest would.
    fn scales(&self) -> [Option<u32>; 3] {
        let of = |region: Option<RegionName>| self.app().scale_in(&web(), region.as_ref())?.count();
        [of(Some(region("fra"))), of(Some(region("was"))), of(None)]
    }
}

/// `deploy` of a service for all regions, of which one overrides something.
fn overriding(change: impl Fn(&mut ServiceVariant)) -> GlobalCommand {
    let mut command = deploy("shop", "a", "shop.example", None);
    if let GlobalCommand::Deploy { services, regions, overrides, .. } = &mut command {
        let mut variant = ServiceVariant::new(&services[&web()], &UpdateSpec::default(), Priority::USUAL);
        change(&mut variant);
        *overrides = Overrides::from([(web(), BTreeMap::from([(region("was"), variant)]))]);
        *regions = BTreeMap::from([(web(), RegionSet::All)]);
    }
    command
}

fn scaled(command: GlobalCommand, of_all: Option<u32>, of_was: Option<u32>) -> GlobalCommand {
    let GlobalCommand::Deploy {
        app, services, expect, updates, contents, tags, regions, priorities, overrides, ..
    } = command
    else {
        panic!("it is a deploy");
    };
    let scale = of_all.map(|count| (web(), count.into())).into_iter().collect();
    let of_was = of_was.map(|count| (web(), BTreeMap::from([(region("was"), count.into())])));
    let regional_scale = of_was.into_iter().collect();
    GlobalCommand::Deploy {
        app,
        services,
        scale,
        expect,
        updates,
        contents,
        tags,
        regions,
        priorities,
        overrides,
        regional_scale,
    }
}

fn is_new(reply: &GlobalReply) -> bool {
    matches!(reply, GlobalReply::Deployed { is_new: true, .. })
}

#[test]
fn another_override_is_another_release_and_a_roll_back_takes_it_back() {
    let mut world = Two::new();
    let plain = overriding(|_| {});
    let cut = overriding(|variant| variant.priority = Priority(70));
    assert_eq!(plain.level(), Level(6));
    assert!(is_new(&world.run(&plain).expect("the first")));
    assert!(!is_new(&world.run(&plain).expect("the same")));
    assert!(is_new(&world.run(&cut).expect("another")));
    let priority = |world: &Two| {
        let release = world.state.current_release(&name("shop")).expect("there");
        release.regional(&web(), Some(&region("was")), 1.into()).expect("there").priority.0
    };
    assert_eq!(priority(&world), 70);
    let (to, from) = (ReleaseNumber(1), ReleaseNumber(2));
    world.run(&GlobalCommand::Rollback { app: name("shop"), to, from, why: String::new() }).expect("kept");
    assert_eq!(priority(&world), 50);
    world.run(&restart("shop", None, 3)).expect("it runs");
    let release = world.state.current_release(&name("shop")).expect("there");
    let of_was = release.regional(&web(), Some(&region("was")), 1.into()).expect("there");
    assert_eq!((of_was.spec.restarted, of_was.spec.image.as_deref()), (1, Some("a")));
}

#[test]
fn routes_of_a_region_belong_to_the_app_in_the_world() {
    let mut world = Two::new();
    let route = |host: &str| RouteSpec { host: host.into(), path: "/".into() };
    world.run(&overriding(|variant| variant.spec.routes.push(route("was.shop.example")))).expect("free");
    let hosts: Vec<_> = world.state.claims.iter().map(|(route, _)| route.host.as_str()).collect();
    assert_eq!(hosts, ["shop.example", "was.shop.example"]);
    let refused = world.run(&deploy("thief", "a", "was.shop.example", None)).expect_err("taken");
    assert_eq!(refused.message, "was.shop.example/ belongs to app shop");
    world.run(&overriding(|_| {})).expect("without it");
    world.run(&deploy("thief", "a", "was.shop.example", None)).expect("free again");
}

#[test]
fn what_is_in_files_and_secrets_of_a_region_is_kept_for_it() {
    let mut world = Two::new();
    let with = |content: &str| {
        let hash = ContentHash::of(content);
        let mut command = overriding(|variant| {
            variant.spec.files = vec![FileSpec { path: "/etc/a".into(), mode: 0o644, content: hash }];
            variant.spec.secrets = BTreeMap::from([(key(), 0)]);
        });
        if let GlobalCommand::Deploy { contents, .. } = &mut command {
            contents.insert(hash, content.into());
        }
        command
    };
    assert!(world.run(&with("one")).expect_err("not set").message.starts_with("there is no secret KEY"));
    let set = |world: &mut Two, regions: &[&str]| {
        let sealed = regions.iter().map(|name| (region(name), ByteBuf::from([7]))).collect();
        world.run(&GlobalCommand::SetSecret { app: name("shop"), name: key(), sealed, by: "founder".into() })
    };
    set(&mut world, &["fra", "was"]).expect("for both");
    world.run(&with("one")).expect("set");
    let of_was = |world: &Two| {
        let release = world.state.current_release(&name("shop")).expect("there");
        release.regional(&web(), Some(&region("was")), 1.into()).expect("there").spec
    };
    assert_eq!(of_was(&world).secrets, BTreeMap::from([(key(), 1)]));
    assert_eq!(world.state.contents.values().collect::<Vec<_>>(), ["one"]);
    let remove = GlobalCommand::RemoveSecret { app: name("shop"), name: key() };
    assert_eq!(world.run(&remove).expect_err("a region needs it").code, RejectionCode::Conflict);
    // A region that came later lacks it; only what runs there needs it.
    let object = GlobalObject::Region(Region::new(region("nrt"), 9, None));
    world.state.absorb(Revision(1), GlobalKey::Region(region("nrt")), Some(object));
    world.run(&GlobalCommand::SetSealingKey { region: region("nrt"), key: ByteBuf::from([2]) }).expect("the first");
    world.run(&with("two")).expect("the new one does not have it");
    let mut for_all = overriding(|_| {});
    if let GlobalCommand::Deploy { services, .. } = &mut for_all {
        services.values_mut().for_each(|spec| spec.secrets = BTreeMap::from([(key(), 0)]));
    }
    assert!(world.run(&for_all).expect_err("not for nrt").message.starts_with("secret KEY was set before region nrt"));
    // Until one of those that have it seals it for that region.
    let none = BTreeSet::new();
    let unsealed = world.state.unsealed(&region("was"), &none).expect("nrt lacks it");
    assert_eq!((&unsealed.region, unsealed.values.len(), unsealed.is_first), (&region("nrt"), 1, false));
    assert!(world.state.unsealed(&region("fra"), &none).expect("nrt lacks it").is_first);
    assert_eq!(world.state.unsealed(&region("nrt"), &none), None, "it cannot open it");
    let value = &unsealed.values[0];
    let left_out = BTreeSet::from([(value.app.clone(), value.name.clone(), value.version)]);
    assert_eq!(world.state.unsealed(&region("fra"), &left_out), None);
    let seal = |name: &str, version, byte| {
        let sealed = ByteBuf::from([byte]);
        let values = vec![SealedFor { version, sealed, ..value.clone() }];
        GlobalCommand::SealForRegion { region: region(name), values }
    };
    world.run(&seal("nrt", 9, 1)).expect("a value that is gone is passed over");
    assert!(world.run(&for_all).is_err());
    world.run(&seal("nrt", value.version, 8)).expect("lacking");
    world.run(&seal("nrt", value.version, 9)).expect("it stays");
    let sealed = |world: &Two| world.state.secrets.values().flat_map(|one| one.versions.values()).next().cloned();
    let sealed = sealed(&world).expect("there").sealed;
    assert_eq!((&sealed[&region("nrt")], &sealed[&region("fra")]), (&ByteBuf::from([8]), &ByteBuf::from([7])));
    assert_eq!(world.state.unsealed(&region("fra"), &none), None);
    world.run(&for_all).expect("sealed for all of them");
    assert_eq!(world.run(&seal("xyz", 1, 1)).expect_err("no such region").code, RejectionCode::NotFound);
    let many = vec![value.clone(); SEALED_AT_ONCE_MAX + 1];
    let many = GlobalCommand::SealForRegion { region: region("nrt"), values: many };
    assert_eq!(world.run(&many).expect_err("too many").code, RejectionCode::Invalid);
}

#[test]
fn regions_have_their_own_scale_beside_the_one_of_all() {
    let mut world = Two::new();
    let scale = |scale: u32, region: Option<&str>| {
        let (app, region) = (name("shop"), region.map(self::region));
        GlobalCommand::Scale { app, service: web(), scale: scale.into(), region }
    };
    assert_eq!((scale(1, None).level(), scale(1, Some("was")).level()), (Level::FIRST, Level(6)));
    world.run(&scaled(overriding(|_| {}), None, Some(4))).expect("the first");
    assert_eq!(world.scales(), [Some(1), Some(4), Some(1)], "the override's scale is the first one there");
    world.run(&scale(3, Some("fra"))).expect("it runs there");
    assert_eq!(world.scales(), [Some(3), Some(4), Some(1)]);
    world.run(&overriding(|variant| variant.priority = Priority(1))).expect("another release");
    assert_eq!(world.scales(), [Some(3), Some(4), Some(1)], "a definition that leaves it open keeps it");
    let (to, from) = (ReleaseNumber(1), ReleaseNumber(2));
    world.run(&GlobalCommand::Rollback { app: name("shop"), to, from, why: String::new() }).expect("kept");
    assert_eq!(world.scales(), [Some(3), Some(4), Some(1)], "and so does a roll-back");
    let stop = |is_stopped| GlobalCommand::SetStopped { app: name("shop"), service: None, is_stopped };
    world.run(&stop(true)).expect("it runs");
    assert_eq!(world.app().running_scale(&web(), Some(&region("was"))), Some(0.into()));
    world.run(&stop(false)).expect("it is stopped");
    let refused = world.run(&scale(3, Some("nrt"))).expect_err("no such region");
    assert_eq!(refused.message, "shop/web does not run in region nrt; its regions are fra, was");
    world.run(&scaled(overriding(|_| {}), Some(2), Some(4))).expect("both are written");
    assert_eq!(world.scales(), [Some(2), Some(4), Some(2)], "what is written without a region is said of all others");
    world.run(&scale(2, Some("was"))).expect("it runs there");
    assert!(world.app().regional_scale.is_empty(), "the same as the rest is nothing of its own");
    world.run(&scale(6, Some("was"))).expect("it runs there");
    world.run(&scale(5, None)).expect("there");
    assert_eq!(world.scales(), [Some(5), Some(5), Some(5)], "all of them");
}
