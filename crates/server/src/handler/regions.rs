//! Regions in definitions: which run a service, what they override, and what this one would have to run.

use std::collections::BTreeMap;

use insula_api::{
    Answer, Code, Problem, regional_changes,
    wire::{self, RegionChanges},
};
use insula_state::{
    GlobalState,
    global::{App, RegionalScale},
};
use insula_types::{
    AppDefinition, DefinitionProblem, RegionName, RegionSet, RegionalDefinition, Release, ReleaseNumber, Scale,
    ServiceDefinition, ServiceName, ServiceOverride, definition::nearest,
};

use super::NodeApi;

/// What regions override of a service of a release, with the scales that the app has there now.
pub(super) fn overrides(
    global: &GlobalState,
    app: &App,
    release: &Release,
    name: &ServiceName,
    service: &ServiceDefinition,
) -> BTreeMap<RegionName, ServiceOverride> {
    let variants = release.overrides.get(name).into_iter().flatten();
    let one = |(region, variant): (&RegionName, &_)| {
        (region.clone(), ServiceOverride { variant: Clone::clone(variant), scale: None })
    };
    let mut overrides: BTreeMap<_, _> = variants.map(one).collect();
    let regions = global.regions_for(&service.regions);
    // A region in which it does not run keeps its scale for the day on which it does.
    let scales = app.regional_scale.get(name).into_iter().flatten().filter(|(region, _)| regions.contains(*region));
    for (region, scale) in scales {
        let usual = || ServiceOverride { variant: service.variant(), scale: None };
        overrides.entry(region.clone()).or_insert_with(usual).scale = Some(*scale);
    }
    overrides
}

/// The services of an app that a region runs.
pub(super) fn here<'a>(
    global: &'a GlobalState,
    app: &'a App,
    region: &'a RegionName,
) -> impl Iterator<Item = &'a ServiceName> {
    let release = global.current_release(&app.name);
    let wanted = move |service: &ServiceName| release.map(|release| release.regions_of(service)).unwrap_or_default();
    app.scale.keys().filter(move |service| global.regions_for(&wanted(service)).contains(region))
}

/// What each region shall run of an app; nothing in a world of one region.
pub(super) fn running(global: &GlobalState, app: &App) -> Vec<wire::RegionalScale> {
    if global.regions.len() < 2 {
        return Vec::new();
    }
    let release = global.current_release(&app.name);
    let of_service = |service: &ServiceName| {
        let wanted = release.map(|release| release.regions_of(service)).unwrap_or_default();
        let service = service.clone();
        global.regions_for(&wanted).into_iter().filter_map(move |region| {
            let scale = app.running_scale(&service, Some(&region))?;
            Some(wire::RegionalScale { service: service.clone(), region, scale })
        })
    };
    app.scale.keys().flat_map(of_service).collect()
}

/// The scales that a definition writes down: for all regions, and for some.
pub(super) fn scales(wanted: &AppDefinition) -> (BTreeMap<ServiceName, Scale>, RegionalScale) {
    let services = || wanted.services.iter();
    let general = services().filter_map(|(name, service)| Some((name.clone(), service.scale?))).collect();
    let of_regions = services().map(|(name, service)| {
        let scales = service.overrides.iter().filter_map(|(region, one)| Some((region.clone(), one.scale?)));
        (name.clone(), scales.collect::<BTreeMap<_, _>>())
    });
    (general, of_regions.filter(|(_, scales)| !scales.is_empty()).collect())
}

/// Refuses regions that do not exist, with those that do, and overrides for regions in which the service does not run.
pub(super) fn refuse_unknown(wanted: &AppDefinition, global: &GlobalState) -> Answer<()> {
    let mut problems = Vec::new();
    for (service, one) in &wanted.services {
        let runs_in = global.regions_for(&one.regions);
        let named = one.regions.names().map(|name| ("regions".to_owned(), name));
        let order = one.update.region_order.iter().map(|name| ("update.region_order".to_owned(), name));
        let overridden = one.overrides.keys().map(|name| (format!("region.{name}"), name));
        for (key, name) in named.chain(order).chain(overridden) {
            let message = if !global.regions.contains(name) {
                unknown(name, global)
            } else if !runs_in.contains(name) {
                let runs_in: Vec<&str> = runs_in.iter().map(RegionName::as_str).collect();
                let runs_in = runs_in.join(", ");
                format!(
                    "{service} names no regions, and runs in {runs_in}; write regions = [\"{name}\", …], or [\"*\"]"
                )
            } else {
                continue;
            };
            problems.push(DefinitionProblem { path: format!("services.{service}.{key}"), line: 0, column: 0, message });
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let count = problems.len();
    let said = format!("{count} to correct; nothing was changed");
    Err(Problem { problems, ..Problem::new(Code::InvalidDefinition, said) })
}

/// What is said of a region that does not exist.
pub(super) fn unknown(name: &RegionName, global: &GlobalState) -> String {
    let all: Vec<&str> = global.regions.iter().map(|(name, _)| name.as_str()).collect();
    let way = match nearest(name.as_str(), all.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("there is {}", all.join(", ")),
    };
    format!("there is no region {name}: {way}")
}

impl NodeApi {
    /// What changes in each region, where that is not the same in all.
    pub(super) fn regional_changes(
        &self,
        current: Option<&AppDefinition>,
        wanted: &AppDefinition,
    ) -> Vec<RegionChanges> {
        self.global.read(|global| regional_changes(current, wanted, |wanted| global.regions_for(wanted)))
    }

    /// Whether this region is one of those that run what asks for these.
    fn runs_here(&self, wanted: &RegionSet) -> bool {
        self.global.read(|global| global.regions_for(wanted).contains(&self.config.region))
    }

    /// What this region would have to run, were a definition deployed that makes this release.
    pub(super) fn coming(&self, wanted: &AppDefinition, release: &Release) -> RegionalDefinition {
        let own = &self.config.region;
        let app = self.global.read(|global| global.apps.get(&wanted.app).cloned());
        let service = |(name, service): (&ServiceName, &ServiceDefinition)| {
            let is_stopped = app.as_ref().is_some_and(|app| app.stopped.contains(name));
            let kept = || app.as_ref().and_then(|app| app.scale_in(name, Some(own)));
            let scale = match is_stopped {
                true => Scale::Count(0),
                false => service.in_region(own).scale.or_else(kept).unwrap_or(Scale::Count(1)),
            };
            Some((name.clone(), release.regional(name, Some(own), scale)?))
        };
        let here = wanted.services.iter().filter(|(_, service)| self.runs_here(&service.regions));
        let services = here.filter_map(service).collect();
        RegionalDefinition { app: wanted.app.clone(), release: ReleaseNumber(0), services, again_of: None }
    }
}

#[cfg(test)]
mod tests {
    use insula_state::{
        Domain,
        global::{GlobalKey, GlobalObject, Region},
    };
    use insula_types::{AppName, Revision, definition::Format};

    use super::*;

    fn found(world: &mut GlobalState, name: &str) {
        let name: RegionName = name.parse().expect("a name");
        let region = Region::new(name.clone(), world.regions.len() as u64, None);
        world.absorb(Revision(1), GlobalKey::Region(name), Some(GlobalObject::Region(region)));
    }

    fn definition(lines: &str) -> AppDefinition {
        let text = format!("app = \"shop\"\n[services.web]\nimage = \"a\"\n{lines}");
        AppDefinition::parse(&text, Format::Toml).expect("valid")
    }

    #[test]
    fn regions_have_to_exist() {
        let mut world = GlobalState::default();
        found(&mut world, "fra");
        let said = |world: &GlobalState, lines: &str| {
            let refused = refuse_unknown(&definition(lines), world).err()?;
            Some(refused.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        for good in [
            "",
            "regions = [\"fra\"]",
            "regions = [\"*\"]\nupdate = { region_order = [\"fra\"] }",
            "region.fra.scale = 3",
            "regions = [\"*\"]\nregion.fra = {}",
        ] {
            assert_eq!(said(&world, good), None, "{good}");
        }
        assert_eq!(
            said(&world, "regions = [\"was\", \"fra\"]\nupdate = { region_order = [\"was\"] }").as_deref(),
            Some(
                "services.web.regions: there is no region was: there is fra\n\
                 services.web.update.region_order: there is no region was: there is fra"
            ),
        );
        found(&mut world, "nrt");
        assert_eq!(
            said(&world, "regions = [\"frs\"]").as_deref(),
            Some("services.web.regions: there is no region frs: did you mean \"fra\"?")
        );
        assert_eq!(
            said(&world, "regions = [\"*\"]\nregion.was.scale = 4\nregion.nrt.scale = 4").as_deref(),
            Some("services.web.region.was: there is no region was: there is fra, nrt")
        );
        assert_eq!(
            said(&world, "region.nrt.scale = 4").as_deref(),
            Some(
                "services.web.region.nrt: web names no regions, and runs in fra; write regions = [\"nrt\", …], or [\"*\"]"
            )
        );
    }

    /// What is shown of a release makes the same release again, in each region.
    #[test]
    fn what_is_shown_is_deployed_to_the_same() {
        let mut world = GlobalState::default();
        for region in ["fra", "was", "nrt"] {
            found(&mut world, region);
        }
        let shop: AppName = "shop".parse().expect("a name");
        let wanted = definition(
            "regions = [\"fra\", \"was\"]\nscale = 2\nenv = { A = \"1\" }\nregion.was = { scale = 4, env = { B = \"2\" } }\n\
             region.fra.scale = 3",
        );
        let release = Release { number: ReleaseNumber(1), ..wanted.to_release() };
        assert_eq!(
            release.overrides.values().map(BTreeMap::len).sum::<usize>(),
            1,
            "what is only scaled is as elsewhere"
        );
        let (scale, mut regional_scale) = scales(&wanted);
        let web: ServiceName = "web".parse().expect("a name");
        regional_scale.get_mut(&web).expect("two").insert("nrt".parse().expect("a name"), 9.into());
        let app = App { regional_scale, ..App::new(shop.clone(), ReleaseNumber(1), scale) };
        let id = (shop.clone(), ReleaseNumber(1));
        world.absorb(Revision(2), GlobalKey::Release(id), Some(GlobalObject::Release(release.clone())));
        world.absorb(Revision(2), GlobalKey::App(shop.clone()), Some(GlobalObject::App(app.clone())));
        let shown = super::super::apps::definition_of(&world, &shop, ReleaseNumber(1)).expect("there");
        let again = AppDefinition::parse(&shown.to_toml(), Format::Toml).expect("valid");
        assert_eq!(refuse_unknown(&again, &world).err(), None, "nothing is said of a region where it does not run");
        assert!(again.to_release().says_the_same(&release), "{}", shown.to_toml());
        let (general, of_regions) = scales(&again);
        let told = |region: &str| of_regions[&web].get(&region.parse::<RegionName>().expect("a name")).copied();
        assert_eq!((general[&web], told("fra"), told("was")), (2.into(), Some(3.into()), Some(4.into())));
        let each: Vec<_> = running(&world, &app).iter().map(|one| format!("{} {}", one.region, one.scale)).collect();
        assert_eq!(each, ["fra 3", "was 4"]);
        let nrt = "nrt".parse().expect("a name");
        assert_eq!(here(&world, &app, &nrt).count(), 0);
    }
}
