//! Apps: what runs, and how it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_api::{
    Answer, Code, DeleteRequest, DeployRequest, Problem, ScaleRequest, changes,
    wire::{
        App, AppStatus, AppSummary, Change, ChangeKind, Deleted, DeployAnswer, ImageCopies, List, PlannedHook,
        ResolvedImage, Scaled, ServiceStatus, Versioned,
    },
};
use insula_control::{each_node, loss::Foretelling};
use insula_env::clock;
use insula_state::{
    Committed, Domain, GlobalCommand, GlobalState, ProposeError, RegionState, Table,
    global::{GlobalReply, Region},
};
use insula_types::{
    AppDefinition, AppName, DefinitionProblem, Desired, HookState, Level, Phase, Placement, RegionName, RegionSet,
    RegionalDefinition, RegionalService, ReleaseNumber, RequestId, Scale, SecretVersion, ServiceDefinition,
    ServiceName, ServiceRef, ServiceSpec,
    definition::{nearest, refuse_each_node},
};

use super::{
    NodeApi, loss, problem,
    releases::{deployment, planned_hooks},
};
use crate::images::{Copies, tags::as_before};

/// From which level on releases keep the tags that their images were named by. Before that, what they stand for is all that is kept.
const TAGS_KEPT: Level = Level(6);
/// How long the leader may take to say what became of a request before.
const RECALL_LIMIT: Duration = Duration::from_secs(2);
/// Most problems told with a status.
const PROBLEMS_MAX: usize = 10;

pub(super) fn no_such_app(app: &AppName) -> Problem {
    Problem::new(Code::NoSuchApp, format!("{app}: `insula apps` lists those there are"))
}

pub(super) fn no_such_service(service: &ServiceRef) -> Problem {
    let ServiceRef { app, service } = service;
    Problem::new(Code::NoSuchService, format!("{app} has no service {service}: `insula status {app}` lists them"))
}

/// The definition that runs, as the global state has it.
fn definition(state: &GlobalState, name: &AppName) -> Option<AppDefinition> {
    definition_of(state, name, state.apps.get(name)?.release)
}

/// The definition of a release, with the scale that the app has now.
pub(super) fn definition_of(state: &GlobalState, name: &AppName, number: ReleaseNumber) -> Option<AppDefinition> {
    let app = state.apps.get(name)?;
    let release = state.releases.get(&(name.clone(), number))?;
    let service = |(name, spec): (&ServiceName, &ServiceSpec)| {
        let (tag, regions) = (release.tags.get(name).cloned(), release.regions_of(name));
        let (scale, update, priority) =
            (app.scale.get(name).copied(), release.update_of(name), release.priority_of(name));
        (name.clone(), ServiceDefinition { spec: spec.clone(), tag, regions, scale, update, priority })
    };
    let files = release.services.values().flat_map(|spec| &spec.files);
    let content = |hash| Some((hash, state.contents.get(&(name.clone(), hash))?.clone()));
    Some(AppDefinition {
        app: name.clone(),
        services: release.services.iter().map(service).collect(),
        contents: files.filter_map(|file| content(file.content)).collect(),
    })
}

impl NodeApi {
    pub(super) fn list_apps(&self) -> List<AppSummary> {
        let (ready, on_each_node) = self.region.read(|region| {
            let mut ready = BTreeMap::<AppName, u32>::new();
            for status in region.statuses.values().filter(|status| status.is_ready) {
                if let Some(placement) = region.placements.get(&status.instance).filter(|one| one.hook.is_none()) {
                    *ready.entry(placement.service.app.clone()).or_default() += 1;
                }
            }
            let counts =
                region.definitions.iter().map(|(app, definition)| (app.clone(), on_each_node(region, definition)));
            (ready, counts.collect::<BTreeMap<_, _>>())
        });
        self.global.replica().read_at(|global, revision| {
            let summary = |app: &insula_state::global::App| {
                let release = global.current_release(&app.name);
                let routes = release.iter().flat_map(|release| release.services.values()).flat_map(|spec| &spec.routes);
                let mut hosts: Vec<_> = routes.map(|route| route.host.clone()).collect();
                hosts.dedup();
                AppSummary {
                    name: app.name.clone(),
                    release: app.release,
                    services: app.scale.len() as u32,
                    wanted: app.scale.keys().filter_map(|service| app.running_scale(service)?.count()).sum::<u32>()
                        + on_each_node.get(&app.name).copied().unwrap_or_default(),
                    ready: ready.get(&app.name).copied().unwrap_or_default(),
                    hosts,
                    released_ms: release.map_or(0, |release| release.created_ms),
                }
            };
            List { revision, items: global.apps.values().map(summary).collect() }
        })
    }

    pub(super) fn show_app(&self, name: &AppName) -> Answer<Versioned<App>> {
        self.global.replica().read_at(|global, revision| {
            let (Some(definition), Some(release)) = (definition(global, name), global.current_release(name)) else {
                return Err(no_such_app(name));
            };
            let value = App {
                name: name.clone(),
                release: release.number,
                released_ms: release.created_ms,
                definition: definition.to_json(),
            };
            Ok(Versioned { revision, value })
        })
    }

    pub(super) async fn deploy_app(&self, request: DeployRequest) -> Answer<Versioned<DeployAnswer>> {
        let mut wanted = request.definition;
        let app = wanted.app.clone();
        self.global.read(|global| refuse_unknown_regions(&wanted, &global.regions))?;
        let running = self.global.read(|global| global.current_release(&app).cloned());
        let again = request.request.filter(|_| !request.is_plan && has_tags(&wanted));
        let mut resolved = match again {
            Some(again) => self.recalled(&mut wanted, again).await?,
            None => Vec::new(),
        };
        resolved.extend(self.tags.resolve(&mut wanted, running.as_ref()).await?);
        if self.global.read(|global| global.level()) < TAGS_KEPT {
            wanted.services.values_mut().for_each(|service| service.tag = None);
        }
        let (current, previous, revision) = self.global.replica().read_at(|global, revision| {
            (definition(global, &app), global.apps.get(&app).map(|app| app.release), revision)
        });
        refuse_each_node_with_volumes(current.as_ref(), &wanted)?;
        let mut changes = changes(current.as_ref(), &wanted);
        let pinned = self.pinned(&wanted)?;
        changes.extend(secret_changes(current.as_ref(), &pinned));
        let warnings = self.warnings(&wanted, &pinned).await;
        let hooks = self.hooks(&wanted, &pinned);
        let answer = |release, is_plan, is_new| {
            let hooks = if is_new { hooks } else { Vec::new() };
            DeployAnswer { app: app.clone(), release, previous, changes, is_plan, resolved, warnings, hooks }
        };
        if request.is_plan {
            let is_new = current.is_none_or(|current| {
                let besides =
                    |one: &ServiceDefinition| (one.tag.clone(), one.regions.clone(), one.update.clone(), one.priority);
                let before = current.services.iter().map(|(name, one)| (name, &one.spec, besides(one)));
                let spec = |name, one| pinned.get(name).unwrap_or(one);
                let after = wanted.services.iter().map(|(name, one)| (name, spec(name, &one.spec), besides(one)));
                !before.eq(after)
            });
            let release = ReleaseNumber(previous.unwrap_or_default().0 + u64::from(is_new));
            return Ok(Versioned { revision, value: answer(release, true, is_new) });
        }
        let scale = wanted.services.iter().filter_map(|(name, service)| Some((name.clone(), service.scale?))).collect();
        let updates = wanted.services.iter().filter(|(_, service)| !service.update.is_usual());
        let updates = updates.map(|(name, service)| (name.clone(), service.update.clone())).collect();
        let tags = wanted.services.iter().filter_map(|(name, service)| Some((name.clone(), service.tag.clone()?)));
        let tags = tags.collect();
        let regions = wanted.services.iter().filter(|(_, service)| !service.regions.is_usual());
        let regions = regions.map(|(name, service)| (name.clone(), service.regions.clone())).collect();
        let priorities = wanted.services.iter().filter(|(_, service)| !service.priority.is_usual());
        let priorities = priorities.map(|(name, service)| (name.clone(), service.priority)).collect();
        let services = wanted.services.into_iter().map(|(name, service)| (name, service.spec)).collect();
        let (expect, contents) = (request.expected, wanted.contents);
        let command = GlobalCommand::Deploy {
            app: app.clone(),
            services,
            scale,
            expect,
            updates,
            contents,
            tags,
            regions,
            priorities,
        };
        let committed = self.make_release(request.request, &command).await?;
        Ok(committed.map(|(release, is_new)| answer(release, false, is_new)))
    }

    /// What a request has found its tags to be that was done before under the same name. Nothing when none was, and when nobody says.
    async fn recalled(&self, wanted: &mut AppDefinition, request: RequestId) -> Answer<Vec<ResolvedImage>> {
        match self.global.recall(request, RECALL_LIMIT).await {
            Ok(Some(Committed { revision, reply: GlobalReply::Deployed { release, .. } })) => {
                // It may lag behind the leader; then tags are looked up, and the outcome stays.
                let _ = clock::timeout(RECALL_LIMIT, self.global.replica().wait_for(revision)).await;
                let id = (wanted.app.clone(), release);
                Ok(self.global.read(|global| Some(as_before(wanted, global.releases.get(&id)?))).unwrap_or_default())
            }
            Err(error @ ProposeError::Rejected(_)) => Err(problem(&error)),
            _ => Ok(Vec::new()),
        }
    }

    /// What this region would have no place for, were it deployed. What runs elsewhere needs none here.
    pub(super) async fn warnings(
        &self,
        wanted: &AppDefinition,
        pinned: &BTreeMap<ServiceName, ServiceSpec>,
    ) -> Vec<String> {
        let definition = self.coming(wanted, pinned);
        let mut foretelling = self.region.read(|region| Foretelling::begin(region, definition));
        // Between the parts the region's state can change, and others have their turns.
        while self.region.read(|region| foretelling.step(region)) {
            tokio::task::yield_now().await;
        }
        let foretold = foretelling.end();
        self.region.read(|region| loss::warnings(region, &foretold))
    }

    /// What this region would run once for it, were it deployed.
    fn hooks(&self, wanted: &AppDefinition, pinned: &BTreeMap<ServiceName, ServiceSpec>) -> Vec<PlannedHook> {
        let definition = self.coming(wanted, pinned);
        self.region.read(|region| planned_hooks(region, &definition))
    }

    /// The same for new instances of what runs.
    pub(super) fn hooks_of_restart(&self, app: &AppName, service: Option<&ServiceName>) -> Vec<PlannedHook> {
        let Some(mut wanted) = self.global.read(|global| definition(global, app)) else { return Vec::new() };
        let chosen = wanted.services.iter_mut().filter(|(name, _)| service.is_none_or(|service| service == *name));
        chosen.for_each(|(_, one)| one.spec.restarted = one.spec.restarted.saturating_add(1));
        self.hooks(&wanted, &BTreeMap::new())
    }

    /// Whether this region is one of those that run what asks for these.
    fn runs_here(&self, wanted: &RegionSet) -> bool {
        self.global.read(|global| global.regions_for(wanted).contains(&self.config.region))
    }

    /// What this region would have to run, were it deployed.
    fn coming(&self, wanted: &AppDefinition, pinned: &BTreeMap<ServiceName, ServiceSpec>) -> RegionalDefinition {
        let app = self.global.read(|global| global.apps.get(&wanted.app).cloned());
        let (scales, stopped) = app.map(|app| (app.scale, app.stopped)).unwrap_or_default();
        let service = |(name, service): (&ServiceName, &ServiceDefinition)| {
            let spec = pinned.get(name).unwrap_or(&service.spec).clone();
            let scale = match stopped.contains(name) {
                true => Scale::Count(0),
                false => service.scale.or(scales.get(name).copied()).unwrap_or(Scale::Count(1)),
            };
            let (update, priority) = (service.update.clone(), service.priority);
            (name.clone(), RegionalService { spec, scale, update, priority })
        };
        let is_here = |(_, one): &(&ServiceName, &ServiceDefinition)| self.runs_here(&one.regions);
        let services = wanted.services.iter().filter(is_here).map(service).collect();
        let (release, again_of) = (ReleaseNumber(0), None);
        RegionalDefinition { app: wanted.app.clone(), release, services, again_of }
    }

    /// The same for another scale of a service.
    async fn warnings_of_scale(&self, app: &AppName, service: &ServiceName, scale: Scale) -> Vec<String> {
        let Some(mut wanted) = self.global.read(|global| definition(global, app)) else { return Vec::new() };
        if let Some(service) = wanted.services.get_mut(service) {
            service.scale = Some(scale);
        }
        self.warnings(&wanted, &BTreeMap::new()).await
    }

    /// The services as a release of now would have them.
    fn pinned(&self, wanted: &AppDefinition) -> Answer<BTreeMap<ServiceName, ServiceSpec>> {
        let services = wanted.services.iter().map(|(name, service)| (name.clone(), service.spec.clone()));
        let mut services = services.collect();
        let pinned = self.global.read(|global| {
            global.keep_restarts(&wanted.app, &mut services);
            global.pin_secrets(&wanted.app, &mut services)
        });
        pinned.map_err(|why| Problem::new(Code::InvalidRequest, why.message))?;
        Ok(services)
    }

    pub(super) async fn remove_app(&self, request: DeleteRequest) -> Answer<Versioned<Deleted>> {
        if let Some(expected) = request.expected {
            let found = self.global.read(|global| global.apps.get(&request.app).map(|app| app.release));
            if found.is_some_and(|found| found != expected) {
                let detail = format!("{} is at another release than {expected}: look at it again", request.app);
                return Err(Problem::new(Code::ReleaseChanged, detail));
            }
        }
        let instances = self.region.read(|region| {
            region.placements.values().filter(|placement| placement.service.app == request.app).count() as u32
        });
        let command = GlobalCommand::RemoveApp { app: request.app.clone() };
        let committed = self.change(&self.global, request.request, &command).await?;
        Ok(Versioned { revision: committed.revision, value: Deleted { app: request.app, instances } })
    }

    pub(super) async fn set_scale(&self, request: ScaleRequest) -> Answer<Versioned<Scaled>> {
        let ServiceRef { app, service } = request.service;
        let previous = self.global.read(|global| global.apps.get(&app).map(|found| found.scale.get(&service).copied()));
        let previous = previous
            .ok_or_else(|| no_such_app(&app))?
            .ok_or_else(|| no_such_service(&ServiceRef::new(app.clone(), service.clone())))?;
        if request.scale == Scale::EachNode {
            let spec = self.global.read(|global| global.current_release(&app)?.services.get(&service).cloned());
            if let Some(why) = spec.as_ref().and_then(refuse_each_node) {
                return Err(Problem::new(Code::InvalidDefinition, format!("{app}/{service}: {why}")));
            }
        }
        let warnings = self.warnings_of_scale(&app, &service, request.scale).await;
        let command = GlobalCommand::Scale { app: app.clone(), service: service.clone(), scale: request.scale };
        let committed = self.change(&self.global, request.request, &command).await?;
        let value = Scaled { app, service, previous, scale: request.scale, warnings };
        Ok(Versioned { revision: committed.revision, value })
    }

    pub(super) async fn status_of(&self, name: &AppName) -> Answer<Versioned<AppStatus>> {
        let app = self.global.read(|global| global.apps.get(name).cloned()).ok_or_else(|| no_such_app(name))?;
        let elsewhere = self.global.read(|global| {
            let release = global.current_release(name)?;
            let is_here =
                |service: &&ServiceName| global.regions_for(&release.regions_of(service)).contains(&self.config.region);
            Some(app.scale.keys().filter(|service| !is_here(service)).cloned().collect::<BTreeSet<_>>())
        });
        let is_here = |service: &ServiceName| !elsewhere.as_ref().is_some_and(|names| names.contains(service));
        let images = self.region.read(|region| {
            let services = region.definitions.get(name).map(|definition| definition.services.values());
            services.into_iter().flatten().filter_map(|service| service.spec.image.clone()).collect::<BTreeSet<_>>()
        });
        let counted = self.census.count(images.into_iter().collect()).await.into_iter();
        let images: Vec<_> = counted.map(|copies| self.with_tag(name, copies)).collect();
        self.region.replica().read_at(|region, revision| {
            let mine = || region.placements.values().filter(|placement| placement.service.app == *name);
            let deployed = region.definitions.get(name).map_or(ReleaseNumber(0), |definition| definition.release);
            let services = app.scale.keys().filter(|service| is_here(service));
            let services = services.filter_map(|service| Some((service, app.running_scale(service)?)));
            let services = services.map(|(service, scale)| {
                let status = |placement: &Placement| region.statuses.get(&placement.instance);
                let of_service = || {
                    mine().filter(|placement| {
                        placement.service.service == *service
                            && placement.hook.is_none()
                            && placement.desired == Desired::Run
                            && region.nodes.get(&placement.node).is_some_and(|node| node.health.is_up())
                    })
                };
                // A release that leaves a service as it was keeps its instances.
                let wanted = region.definitions.get(name).and_then(|definition| definition.services.get(service));
                let of_release = |placement: &&Placement| wanted.is_some_and(|wanted| wanted.spec == placement.spec);
                let ready = |placement: &&Placement| status(placement).is_some_and(|status| status.is_ready);
                let running = |placement: &&Placement| status(placement).is_some_and(|s| s.phase == Phase::Running);
                let on_each_node = || {
                    let name = ServiceRef::new(name.clone(), service.clone());
                    wanted.map_or(0, |wanted| each_node::wanted(region, &name, &wanted.spec) as u32)
                };
                ServiceStatus {
                    service: service.clone(),
                    scale: scale.count().unwrap_or_else(on_each_node),
                    is_each_node: scale == Scale::EachNode,
                    running: of_service().filter(running).count() as u32,
                    ready: of_service().filter(ready).count() as u32,
                    ready_of_release: of_service().filter(of_release).filter(ready).count() as u32,
                    release: deployed,
                }
            });
            let services: Vec<_> = services.collect();
            let words = mine().filter_map(|placement| {
                let status = region.statuses.get(&placement.instance)?;
                let is_wrong = placement.hook.is_none()
                    && !status.is_ready
                    && !status.message.is_empty()
                    && placement.desired == Desired::Run;
                is_wrong.then(|| format!("{} {}: {}", placement.service, placement.instance, status.message))
            });
            let missing = region.events.values().rev().find(|event| {
                event.app.as_ref() == Some(name) && event.kind == insula_state::event::EventKind::Unplaceable
            });
            let next_hook = region.deployments.get(name).and_then(insula_types::Deployment::hook);
            let waits = next_hook.is_some_and(|run| run.state == HookState::Due);
            let short = services
                .iter()
                .any(|service| service.running < service.scale || service.is_each_node && service.scale == 0);
            let missing = missing.filter(|_| short || waits).map(|event| event.text.clone());
            let stopped =
                |service| format!("{name}/{service} is stopped: `insula start {name}/{service}` lets it run again");
            let stopped = app.stopped.iter().map(stopped);
            let of_app = region.shortfalls.iter().filter(|(service, _)| service.app == *name);
            let waiting = of_app.map(|(service, row)| row.text(service));
            let problems = stopped.chain(words).chain(waiting).chain(missing).take(PROBLEMS_MAX).collect();
            let deployment = deployment(region, name);
            let value = AppStatus { app: name.clone(), release: app.release, services, images, problems, deployment };
            Ok(Versioned { revision, value })
        })
    }

    /// Copies of an image with the tag by which the present release names it.
    fn with_tag(&self, app: &AppName, copies: Copies) -> ImageCopies {
        let Copies { image, present, wanted } = copies;
        let tag = self.global.read(|global| {
            let release = global.current_release(app)?;
            let mut named = release.services.iter().filter(|(_, spec)| spec.image.as_ref() == Some(&image));
            named.find_map(|(service, _)| release.tags.get(service).cloned())
        });
        ImageCopies { image, tag, copies: present, wanted }
    }
}

/// Instances of an app that run one on each node.
fn on_each_node(region: &RegionState, definition: &RegionalDefinition) -> u32 {
    let of_service = |(name, service): (&ServiceName, &RegionalService)| {
        let name = ServiceRef::new(definition.app.clone(), name.clone());
        each_node::wanted(region, &name, &service.spec) as u32
    };
    definition.services.iter().filter(|(_, service)| service.scale == Scale::EachNode).map(of_service).sum()
}

fn has_tags(definition: &AppDefinition) -> bool {
    definition.services.values().any(|service| service.image().is_some_and(|image| image.digest.is_none()))
}

/// Refuses regions that do not exist, with those that do.
fn refuse_unknown_regions(wanted: &AppDefinition, known: &Table<RegionName, Region>) -> Answer<()> {
    let mut problems = Vec::new();
    for (service, one) in &wanted.services {
        let named = one.regions.names().map(|name| ("regions", name));
        for (key, name) in named.chain(one.update.region_order.iter().map(|name| ("update.region_order", name))) {
            if known.contains(name) {
                continue;
            }
            let all: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            let way = match nearest(name.as_str(), all.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("there is {}", all.join(", ")),
            };
            let later = if all.len() > 1 { "" } else { "; a second region is not yet in this version" };
            let message = format!("there is no region {name}: {way}{later}");
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

/// A definition that leaves a scale open keeps the one that is, which may not suit what it says now.
fn refuse_each_node_with_volumes(current: Option<&AppDefinition>, wanted: &AppDefinition) -> Answer<()> {
    for (name, service) in &wanted.services {
        let kept = current.and_then(|current| current.services.get(name)).and_then(|service| service.scale);
        if let Some(why) = refuse_each_node(&service.spec).filter(|_| service.scale.or(kept) == Some(Scale::EachNode)) {
            return Err(Problem::new(Code::InvalidDefinition, format!("services.{name}.scale: {why}")));
        }
    }
    Ok(())
}

/// Secrets that services have before and after, in another version.
fn secret_changes(current: Option<&AppDefinition>, pinned: &BTreeMap<ServiceName, ServiceSpec>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (service, spec) in pinned {
        let before = current.and_then(|current| current.services.get(service)).map(|service| &service.spec.secrets);
        for (name, version) in &spec.secrets {
            if let Some(old) = before.and_then(|before| before.get(name)).filter(|old| *old != version) {
                let path = format!("services.{service}.secrets.{name}");
                let said = |version: &SecretVersion| format!("version {version}").into();
                changes.push(Change { path, kind: ChangeKind::Changed, from: said(old), to: said(version) });
            }
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use insula_state::global::{GlobalKey, GlobalObject};
    use insula_types::{Revision, definition::Format};

    use super::*;

    #[test]
    fn regions_have_to_exist() {
        let found = |world: &mut GlobalState, name: &str| {
            let name: RegionName = name.parse().expect("a name");
            let region = Region::new(name.clone(), 0, None);
            world.absorb(Revision(1), GlobalKey::Region(name), Some(GlobalObject::Region(region)));
        };
        let mut world = GlobalState::default();
        found(&mut world, "fra");
        let said = |world: &GlobalState, lines: &str| {
            let text = format!("app = \"shop\"\n[services.web]\nimage = \"a\"\n{lines}");
            let wanted = AppDefinition::parse(&text, Format::Toml).expect("valid");
            let refused = refuse_unknown_regions(&wanted, &world.regions).err()?;
            Some(refused.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        };
        for good in ["", "regions = [\"fra\"]", "regions = [\"*\"]\nupdate = { region_order = [\"fra\"] }"] {
            assert_eq!(said(&world, good), None, "{good}");
        }
        assert_eq!(
            said(&world, "regions = [\"was\", \"fra\"]\nupdate = { region_order = [\"was\"] }").as_deref(),
            Some(
                "services.web.regions: there is no region was: there is fra; a second region is not yet in this version\n\
                 services.web.update.region_order: there is no region was: there is fra; a second region is not yet in this version"
            ),
        );
        found(&mut world, "nrt");
        assert_eq!(
            said(&world, "regions = [\"frs\"]").as_deref(),
            Some("services.web.regions: there is no region frs: did you mean \"fra\"?")
        );
        assert_eq!(
            said(&world, "regions = [\"was\"]").as_deref(),
            Some("services.web.regions: there is no region was: there is fra, nrt")
        );
    }
}
