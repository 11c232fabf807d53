//! Decides on global commands.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{Agreed, AppName, RegionName, Release, ReleaseNumber, RouteSpec, ServiceName, ServiceSpec};

use super::{
    ApiToken, App, ClusterMeta, GlobalCommand, GlobalKey, GlobalObject, GlobalReply, GlobalState, Region, root,
};
use crate::{Changes, Domain, Rejection};

/// Releases kept of an app, for roll-backs; the oldest go first.
const RELEASES_MAX: usize = 20;

/// One command being decided.
pub(super) struct Apply<'a> {
    state: &'a GlobalState,
    at_ms: u64,
    out: &'a mut Changes<GlobalState>,
}

type Decision = Result<GlobalReply, Rejection>;

impl<'a> Apply<'a> {
    pub(super) const fn new(state: &'a GlobalState, at_ms: u64, out: &'a mut Changes<GlobalState>) -> Self {
        Self { state, at_ms, out }
    }

    pub(super) fn command(mut self, command: &GlobalCommand) -> Decision {
        use GlobalCommand as C;
        match command {
            C::Init { meta, region, agreed } => self.init(meta, region, agreed.as_ref()),
            C::SetRegionLevel { region, agreed } => self.set_region_level(region, agreed),
            C::Deploy { app, services, scale, expect } => self.deploy(app, services, scale, *expect),
            C::Scale { app, service, scale } => self.scale(app, service, *scale),
            C::RemoveApp { app } => self.remove_app(app),
            C::PutApiToken(token) => self.put_api_token(token),
            C::RemoveApiToken { id } => {
                if !self.state.api_tokens.contains(id) {
                    return Err(Rejection::not_found(format!("there is no API token {id}")));
                }
                self.out.remove(GlobalKey::ApiToken(id.clone()));
                Ok(GlobalReply::Done)
            }
            C::AddRoot { .. } | C::ActivateRoot { .. } | C::RetireRoot { .. } | C::SetRegionAuthority { .. } => {
                root::decide(self.state, self.at_ms, command, self.out)
            }
        }
    }

    fn init(&mut self, meta: &ClusterMeta, region: &RegionName, agreed: Option<&Agreed>) -> Decision {
        if let Some(present) = &self.state.meta {
            return Err(Rejection::conflict(format!("this state belongs to cluster {} already", present.cluster)));
        }
        self.out.put(GlobalKey::Meta, GlobalObject::Meta(meta.clone()));
        let first = Region { name: region.clone(), created_ms: self.at_ms, agreed: agreed.cloned() };
        self.out.put(GlobalKey::Region(region.clone()), GlobalObject::Region(first));
        if let Some(agreed) = agreed {
            self.out.put(GlobalKey::Level, GlobalObject::Level(agreed.clone()));
        }
        Ok(GlobalReply::Done)
    }

    fn set_region_level(&mut self, name: &RegionName, agreed: &Agreed) -> Decision {
        let Some(present) = self.state.regions.get(name) else {
            return Err(Rejection::not_found(format!("there is no region {name}")));
        };
        if agreed.level <= present.level() {
            return Ok(GlobalReply::Done);
        }
        let region = Region { agreed: Some(agreed.clone()), ..present.clone() };
        self.out.put(GlobalKey::Region(name.clone()), GlobalObject::Region(region));
        let others = self.state.regions.values().filter(|other| other.name != *name);
        // A region that is at the first level has agreed on nothing, and so has the world.
        let all: Option<Vec<&Agreed>> = others.map(|other| other.agreed.as_ref()).chain([Some(agreed)]).collect();
        let least = all.into_iter().flatten().min_by_key(|agreed| agreed.level);
        if let Some(least) = least.filter(|least| least.level > self.state.level()) {
            self.out.put(GlobalKey::Level, GlobalObject::Level(least.clone()));
        }
        Ok(GlobalReply::Done)
    }

    fn deploy(
        &mut self,
        name: &AppName,
        services: &BTreeMap<ServiceName, ServiceSpec>,
        scale: &BTreeMap<ServiceName, u32>,
        expect: Option<ReleaseNumber>,
    ) -> Decision {
        let present = self.state.apps.get(name);
        let running = present.map(|app| app.release);
        if let (Some(expected), found) = (expect, running.unwrap_or_default())
            && expected != found
        {
            return Err(Rejection::conflict(format!(
                "{name} is at release {found}, not {expected}: look at what changed and deploy again"
            )));
        }
        let claims = self.claims(name, services)?;
        let mut scales: BTreeMap<ServiceName, u32> = services.keys().map(|service| (service.clone(), 1)).collect();
        let kept = present.into_iter().flat_map(|app| &app.scale).chain(scale);
        for (service, count) in kept {
            if let Some(slot) = scales.get_mut(service) {
                *slot = *count;
            }
        }
        let same = self.state.current_release(name).is_some_and(|release| release.services == *services);
        if same && present.is_some_and(|app| app.scale == scales) {
            return Ok(GlobalReply::Deployed { release: running.unwrap_or_default(), is_new: false });
        }
        let last = running.or_else(|| self.state.removed.get(name).copied()).unwrap_or_default();
        let number = if same { last } else { ReleaseNumber(last.0 + 1) };
        if !same {
            let release = Release { number, services: services.clone(), created_ms: self.at_ms };
            self.out.put(GlobalKey::Release((name.clone(), number)), GlobalObject::Release(release));
            self.move_claims(name, claims);
            self.forget_old_releases(name);
        }
        let app = App::new(name.clone(), number, scales);
        #[cfg(feature = "upgrade-probe")]
        let app = App { deployed_ms: self.at_ms, ..app };
        self.out.put(GlobalKey::App(name.clone()), GlobalObject::App(app));
        if self.state.removed.contains(name) {
            self.out.remove(GlobalKey::Removed(name.clone()));
        }
        Ok(GlobalReply::Deployed { release: number, is_new: !same })
    }

    /// The hosts and paths that these services want; a conflict when another app has one of them.
    fn claims(
        &self,
        name: &AppName,
        services: &BTreeMap<ServiceName, ServiceSpec>,
    ) -> Result<BTreeSet<RouteSpec>, Rejection> {
        let mut wanted = BTreeSet::new();
        for route in services.values().flat_map(|spec| &spec.routes) {
            if let Some(owner) = self.state.claims.get(route).filter(|owner| *owner != name) {
                return Err(Rejection::conflict(format!("{}{} belongs to app {owner}", route.host, route.path)));
            }
            if !wanted.insert(route.clone()) {
                return Err(Rejection::invalid(format!("{}{} is named twice", route.host, route.path)));
            }
        }
        Ok(wanted)
    }

    fn move_claims(&mut self, name: &AppName, wanted: BTreeSet<RouteSpec>) {
        for (route, _) in self.state.claims.iter().filter(|(route, owner)| *owner == name && !wanted.contains(route)) {
            self.out.remove(GlobalKey::Claim(route.clone()));
        }
        for route in wanted {
            if !self.state.claims.contains(&route) {
                self.out.put(GlobalKey::Claim(route), GlobalObject::Claim(name.clone()));
            }
        }
    }

    fn releases(&self, name: &AppName) -> impl Iterator<Item = ReleaseNumber> {
        let first = (name.clone(), ReleaseNumber(0));
        let name = name.clone();
        self.state.releases.from(first).take_while(move |((app, _), ..)| *app == name).map(|((_, number), ..)| *number)
    }

    fn forget_old_releases(&mut self, name: &AppName) {
        let numbers: Vec<_> = self.releases(name).collect();
        let excess = (numbers.len() + 1).saturating_sub(RELEASES_MAX);
        for number in numbers.into_iter().take(excess) {
            self.out.remove(GlobalKey::Release((name.clone(), number)));
        }
    }

    fn app(&self, name: &AppName) -> Result<&'a App, Rejection> {
        let state = self.state;
        state.apps.get(name).ok_or_else(|| Rejection::not_found(format!("there is no app {name}")))
    }

    fn scale(&mut self, name: &AppName, service: &ServiceName, scale: u32) -> Decision {
        let mut app = self.app(name)?.clone();
        let Some(present) = app.scale.get_mut(service) else {
            let known: Vec<_> = app.scale.keys().map(ServiceName::as_str).collect();
            return Err(Rejection::not_found(format!("{name} has no service {service}; it has {}", known.join(", "))));
        };
        if *present != scale {
            *present = scale;
            self.out.put(GlobalKey::App(name.clone()), GlobalObject::App(app));
        }
        Ok(GlobalReply::Done)
    }

    fn remove_app(&mut self, name: &AppName) -> Decision {
        let last = self.app(name)?.release;
        let numbers: Vec<_> = self.releases(name).collect();
        for number in numbers {
            self.out.remove(GlobalKey::Release((name.clone(), number)));
        }
        self.move_claims(name, BTreeSet::new());
        self.out.remove(GlobalKey::App(name.clone()));
        self.out.put(GlobalKey::Removed(name.clone()), GlobalObject::Removed(last));
        Ok(GlobalReply::Done)
    }

    fn put_api_token(&mut self, token: &ApiToken) -> Decision {
        if self.state.api_tokens.contains(&token.id) {
            return Err(Rejection::conflict(format!("there is an API token {} already", token.id)));
        }
        let at_ms = self.at_ms;
        for old in self.state.api_tokens.values().filter(|old| old.expires_ms <= at_ms) {
            self.out.remove(GlobalKey::ApiToken(old.id.clone()));
        }
        self.out.put(GlobalKey::ApiToken(token.id.clone()), GlobalObject::ApiToken(token.clone()));
        Ok(GlobalReply::Done)
    }
}
