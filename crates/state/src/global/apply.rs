//! Decides on global commands.

mod contents;
mod scales;

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{Agreed, AppName, ContentHash, RegionName, Release, ReleaseNumber, RouteSpec, Scale, ServiceName};

use super::{
    ApiToken, App, ClusterMeta, GlobalCommand, GlobalKey, GlobalObject, GlobalReply, GlobalState, Region,
    RegionalScale, ReleaseOutcome, region, root, secret,
};
use crate::{Changes, Conflict, Domain, Rejection};

/// Releases kept of an app, for roll-backs; the oldest go first. What a region may have to go back to is kept beyond that.
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
            C::Deploy {
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
            } => {
                let (services, updates) = (services.clone(), updates.clone());
                let (tags, regions, priorities) = (tags.clone(), regions.clone(), priorities.clone());
                let overrides = overrides.clone();
                let wanted = Release { services, updates, tags, regions, priorities, overrides, ..Release::default() };
                self.deploy(app, wanted, contents, (scale, regional_scale), *expect)
            }
            C::Rollback { app, to, from, why } => self.roll_back(app, *to, *from, why),
            C::ReportOutcome { app, release, region, outcome } => self.report_outcome(app, *release, region, outcome),
            C::Restart { app, service, from } => self.restart(app, service.as_ref(), *from),
            C::SetStopped { app, service, is_stopped } => self.set_stopped(app, service.as_ref(), *is_stopped),
            C::Scale { app, service, scale, region } => self.scale(app, service, *scale, region.as_ref()),
            C::RemoveApp { app } => self.remove_app(app),
            C::PutApiToken(token) => self.put_api_token(token),
            C::RemoveApiToken { id } => {
                if !self.state.api_tokens.contains(id) {
                    return Err(Rejection::not_found(format!("there is no API token {id}")));
                }
                self.out.remove(GlobalKey::ApiToken(id.clone()));
                Ok(GlobalReply::Done)
            }
            C::SetSecret { app, name, sealed, by } => {
                secret::set(self.state, self.at_ms, (app, name), (sealed, by), self.out)
            }
            C::RemoveSecret { app, name } => secret::remove(self.state, app, name, self.out),
            C::SetSealingKey { region, key } => secret::set_key(self.state, region, key, self.out),
            C::SealForRegion { region, values } => secret::seal_for(self.state, region, values, self.out),
            C::AddRoot { .. } | C::ActivateRoot { .. } | C::RetireRoot { .. } | C::SetRegionAuthority { .. } => {
                root::decide(self.state, self.at_ms, command, self.out)
            }
            C::InviteRegion { .. } | C::ClaimRegion { .. } | C::RemoveInvitation { .. } | C::SetGateways { .. } => {
                region::decide(self.state, self.at_ms, command, self.out)
            }
        }
    }

    fn init(&mut self, meta: &ClusterMeta, region: &RegionName, agreed: Option<&Agreed>) -> Decision {
        if let Some(present) = &self.state.meta {
            return Err(Rejection::conflict(
                Conflict::Ours,
                format!("this state belongs to cluster {} already", present.cluster),
            ));
        }
        self.out.put(GlobalKey::Meta, GlobalObject::Meta(meta.clone()));
        let first = Region::new(region.clone(), self.at_ms, agreed.cloned());
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
        let others = self.state.founded().filter(|other| other.name != *name);
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
        mut wanted: Release,
        contents: &BTreeMap<ContentHash, String>,
        (scale, regional): (&BTreeMap<ServiceName, Scale>, &RegionalScale),
        expect: Option<ReleaseNumber>,
    ) -> Decision {
        let present = self.state.apps.get(name);
        let running = present.map(|app| app.release);
        if let (Some(expected), found) = (expect, running.unwrap_or_default())
            && expected != found
        {
            return Err(Rejection::conflict(
                Conflict::ReleaseChanged,
                format!("{name} is at release {found}, not {expected}: look at what changed and deploy again"),
            ));
        }
        self.state.pin_secrets(name, &mut wanted)?;
        self.state.keep_restarts(name, &mut wanted.services);
        let services = &wanted.services;
        let claims = self.claims(name, &wanted)?;
        let mut scales: BTreeMap<ServiceName, Scale> =
            services.keys().map(|service| (service.clone(), Scale::Count(1))).collect();
        let kept = present.into_iter().flat_map(|app| &app.scale).chain(scale);
        for (service, count) in kept {
            if let Some(slot) = scales.get_mut(service) {
                *slot = *count;
            }
        }
        let kept = present.map(|app| &app.regional_scale);
        let regional_scale = scales::regional(&scales, kept, scale, regional);
        let same = self.state.current_release(name).is_some_and(|release| release.says_the_same(&wanted));
        let is_scaled = |app: &App| app.scale == scales && app.regional_scale == regional_scale;
        if same && present.is_some_and(is_scaled) {
            return Ok(GlobalReply::Deployed { release: running.unwrap_or_default(), is_new: false });
        }
        let last = running.or_else(|| self.state.removed.get(name).copied()).unwrap_or_default();
        let number = if same { last } else { ReleaseNumber(last.0 + 1) };
        if !same {
            self.keep_contents(name, wanted.specs(), contents)?;
            self.put_release(name, claims, Release { number, created_ms: self.at_ms, ..wanted.clone() });
        }
        let stopped = present.into_iter().flat_map(|app| &app.stopped).filter(|one| wanted.services.contains_key(*one));
        let stopped = stopped.cloned().collect();
        let app = App { stopped, regional_scale, ..App::new(name.clone(), number, scales) };
        #[cfg(feature = "upgrade-probe")]
        let app = App { deployed_ms: self.at_ms, ..app };
        self.out.put(GlobalKey::App(name.clone()), GlobalObject::App(app));
        if self.state.removed.contains(name) {
            self.out.remove(GlobalKey::Removed(name.clone()));
        }
        Ok(GlobalReply::Deployed { release: number, is_new: !same })
    }

    fn put_release(&mut self, name: &AppName, claims: BTreeSet<RouteSpec>, release: Release) {
        self.move_claims(name, claims);
        let kept = self.forget_old_releases(name);
        self.forget_contents(name, &kept, release.specs());
        secret::forget(self.state, name, &kept, release.specs(), self.out);
        self.out.put(GlobalKey::Release((name.clone(), release.number)), GlobalObject::Release(release));
    }

    fn roll_back(&mut self, name: &AppName, to: ReleaseNumber, from: ReleaseNumber, why: &str) -> Decision {
        let app = self.app(name)?;
        if app.release != from {
            return Err(Rejection::conflict(
                Conflict::ReleaseChanged,
                format!("{name} is at release {}, not {from}: look at what changed and try again", app.release),
            ));
        }
        let Some(before) = self.state.releases.get(&(name.clone(), to)) else {
            let known: Vec<_> = self.state.numbers(name).into_iter().map(|number| number.to_string()).collect();
            return Err(Rejection::not_found(format!("{name} has no release {to}; there are {}", known.join(", "))));
        };
        if self.state.current_release(name).is_some_and(|now| now.says_the_same(before)) {
            return Ok(GlobalReply::Deployed { release: from, is_new: false });
        }
        let claims = self.claims(name, before)?;
        let kept = |service: &ServiceName| app.scale.get(service).copied().unwrap_or(Scale::Count(1));
        let scale = before.services.keys().map(|service| (service.clone(), kept(service))).collect();
        let number = ReleaseNumber(from.0 + 1);
        let first = before.again_of.unwrap_or(to);
        let release =
            Release { number, created_ms: self.at_ms, again_of: Some(first), why: why.to_owned(), ..before.clone() };
        self.put_release(name, claims, release);
        let mut changed = App { release: number, scale, ..app.clone() };
        changed.regional_scale.retain(|service, _| changed.scale.contains_key(service));
        self.out.put(GlobalKey::App(name.clone()), GlobalObject::App(changed));
        Ok(GlobalReply::Deployed { release: number, is_new: true })
    }

    fn report_outcome(
        &mut self,
        name: &AppName,
        release: ReleaseNumber,
        region: &RegionName,
        outcome: &ReleaseOutcome,
    ) -> Decision {
        let id = (name.clone(), release);
        if !self.state.releases.contains(&id) || !self.state.regions.contains(region) {
            return Ok(GlobalReply::Done);
        }
        let mut regions = self.state.outcomes.get(&id).cloned().unwrap_or_default();
        let is_known = |known: &ReleaseOutcome| (known.state, &known.why) == (outcome.state, &outcome.why);
        if !regions.get(region).is_some_and(is_known) {
            regions.insert(region.clone(), ReleaseOutcome { at_ms: self.at_ms, ..outcome.clone() });
            self.out.put(GlobalKey::Outcome(id), GlobalObject::Outcome(regions));
        }
        Ok(GlobalReply::Done)
    }

    /// The hosts and paths that these services want; a conflict when another app has one of them.
    fn claims(&self, name: &AppName, release: &Release) -> Result<BTreeSet<RouteSpec>, Rejection> {
        let mut wanted: BTreeMap<RouteSpec, &ServiceName> = BTreeMap::new();
        let of_specs = release.specs_by_service().flat_map(|(service, spec)| {
            spec.routes.iter().enumerate().map(move |(at, route)| (service, route, spec.routes[..at].contains(route)))
        });
        for (service, route, is_again) in of_specs {
            if let Some(owner) = self.state.claims.get(route).filter(|owner| *owner != name) {
                return Err(Rejection::conflict(
                    Conflict::RouteTaken,
                    format!("{}{} belongs to app {owner}", route.host, route.path),
                ));
            }
            // A service may have a route in several regions.
            if is_again || wanted.insert(route.clone(), service).is_some_and(|other| other != service) {
                return Err(Rejection::invalid(format!("{}{} is named twice", route.host, route.path)));
            }
        }
        Ok(wanted.into_keys().collect())
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

    /// Makes room for one more release. Returns those that stay.
    fn forget_old_releases(&mut self, name: &AppName) -> Vec<ReleaseNumber> {
        let numbers = self.state.numbers(name);
        let excess = (numbers.len() + 1).saturating_sub(RELEASES_MAX);
        let good = self.state.good_releases(name);
        let (old, new) = numbers.split_at(excess);
        let (mut kept, gone): (Vec<_>, Vec<_>) = old.iter().partition(|number| good.contains(number));
        for number in gone {
            self.forget_release(name, number);
        }
        kept.extend(new);
        kept
    }

    fn forget_release(&mut self, name: &AppName, number: ReleaseNumber) {
        let id = (name.clone(), number);
        if self.state.outcomes.contains(&id) {
            self.out.remove(GlobalKey::Outcome(id.clone()));
        }
        self.out.remove(GlobalKey::Release(id));
    }

    fn app(&self, name: &AppName) -> Result<&'a App, Rejection> {
        let state = self.state;
        state.apps.get(name).ok_or_else(|| Rejection::not_found(format!("there is no app {name}")))
    }

    fn restart(&mut self, name: &AppName, service: Option<&ServiceName>, from: ReleaseNumber) -> Decision {
        let app = self.app(name)?;
        let chosen = chosen(app, service)?;
        if app.release != from {
            return Err(Rejection::conflict(
                Conflict::ReleaseChanged,
                format!("{name} is at release {}, not {from}: look at what changed and try again", app.release),
            ));
        }
        let Some(present) = self.state.current_release(name) else {
            return Err(Rejection::not_found(format!("{name} has no release {from}")));
        };
        let mut services = present.services.clone();
        for (_, spec) in services.iter_mut().filter(|(service, _)| chosen.contains(*service)) {
            spec.restarted = spec.restarted.saturating_add(1);
        }
        let number = ReleaseNumber(from.0 + 1);
        let why = match service {
            Some(service) => format!("somebody asked for a restart of {service}"),
            None => "somebody asked for a restart".to_owned(),
        };
        let created_ms = self.at_ms;
        let release = Release { number, services, created_ms, again_of: None, why, ..present.clone() };
        let claims = self.claims(name, &release)?;
        self.put_release(name, claims, release);
        self.out.put(GlobalKey::App(name.clone()), GlobalObject::App(App { release: number, ..app.clone() }));
        Ok(GlobalReply::Deployed { release: number, is_new: true })
    }

    fn set_stopped(&mut self, name: &AppName, service: Option<&ServiceName>, is_stopped: bool) -> Decision {
        let present = self.app(name)?;
        let chosen = chosen(present, service)?;
        let mut app = present.clone();
        app.stopped = if is_stopped { &app.stopped | &chosen } else { &app.stopped - &chosen };
        if app.stopped != present.stopped {
            self.out.put(GlobalKey::App(name.clone()), GlobalObject::App(app));
        }
        Ok(GlobalReply::Done)
    }

    fn remove_app(&mut self, name: &AppName) -> Decision {
        let last = self.app(name)?.release;
        let numbers: Vec<_> = self.state.numbers(name).into_iter().collect();
        for number in numbers {
            self.forget_release(name, number);
        }
        secret::forget_all(self.state, name, self.out);
        self.move_claims(name, BTreeSet::new());
        self.forget_contents(name, &[], std::iter::empty());
        self.out.remove(GlobalKey::App(name.clone()));
        self.out.put(GlobalKey::Removed(name.clone()), GlobalObject::Removed(last));
        Ok(GlobalReply::Done)
    }

    fn put_api_token(&mut self, token: &ApiToken) -> Decision {
        if self.state.api_tokens.contains(&token.id) {
            return Err(Rejection::conflict(Conflict::Ours, format!("there is an API token {} already", token.id)));
        }
        let at_ms = self.at_ms;
        for old in self.state.api_tokens.values().filter(|old| old.expires_ms <= at_ms) {
            self.out.remove(GlobalKey::ApiToken(old.id.clone()));
        }
        self.out.put(GlobalKey::ApiToken(token.id.clone()), GlobalObject::ApiToken(token.clone()));
        Ok(GlobalReply::Done)
    }
}

/// One service of an app, or all of them.
fn chosen(app: &App, service: Option<&ServiceName>) -> Result<BTreeSet<ServiceName>, Rejection> {
    let Some(service) = service else { return Ok(app.scale.keys().cloned().collect()) };
    if !app.scale.contains_key(service) {
        let known: Vec<_> = app.scale.keys().map(ServiceName::as_str).collect();
        let known = known.join(", ");
        return Err(Rejection::not_found(format!("{} has no service {service}; it has {known}", app.name)));
    }
    Ok(BTreeSet::from([service.clone()]))
}
