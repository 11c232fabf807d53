//! Apps: what runs, and how it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_api::{
    Answer, Code, DeleteRequest, DeployRequest, Problem, changes,
    wire::{
        App, AppStatus, AppSummary, Change, ChangeKind, Deleted, DeployAnswer, ImageCopies, List, PlannedHook,
        ResolvedImage, ServiceStatus, Versioned,
    },
};
use insula_control::{each_node, loss::Foretelling};
use insula_env::clock;
use insula_state::{Committed, Domain, GlobalCommand, GlobalState, ProposeError, RegionState, global::GlobalReply};
use insula_types::{
    AppDefinition, AppName, Desired, HookState, Level, Phase, Placement, RegionalDefinition, RegionalService, Release,
    ReleaseNumber, RequestId, Scale, SecretVersion, ServiceDefinition, ServiceName, ServiceRef, ServiceSpec,
    definition::refuse_each_node,
};

use super::{
    NodeApi, loss, problem, regions,
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
pub(super) fn definition(state: &GlobalState, name: &AppName) -> Option<AppDefinition> {
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
        let (spec, overrides) = (spec.clone(), BTreeMap::new());
        let mut service = ServiceDefinition { spec, tag, regions, scale, update, priority, overrides };
        service.overrides = regions::overrides(state, app, release, name, &service);
        (name.clone(), service)
    };
    let files = release.specs().flat_map(|spec| &spec.files);
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
        let own = &self.config.region;
        self.global.replica().read_at(|global, revision| {
            let summary = |app: &insula_state::global::App| {
                let release = global.current_release(&app.name);
                let routes = release.iter().flat_map(|release| release.specs()).flat_map(|spec| &spec.routes);
                let mut hosts: Vec<_> = routes.map(|route| route.host.clone()).collect();
                hosts.dedup();
                AppSummary {
                    name: app.name.clone(),
                    release: app.release,
                    services: app.scale.len() as u32,
                    wanted: regions::here(global, app, own)
                        .filter_map(|service| app.running_scale(service, Some(own))?.count())
                        .sum::<u32>()
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
        self.global.read(|global| regions::refuse_unknown(&wanted, global))?;
        // What changes nothing is not kept, so that the same is the same release.
        wanted.services.values_mut().for_each(ServiceDefinition::drop_idle_overrides);
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
        let of_regions = self.regional_changes(current.as_ref(), &wanted);
        let warnings = self.warnings(&wanted, &pinned).await;
        let hooks = self.hooks(&wanted, &pinned);
        let answer = |release, is_plan, is_new| {
            let hooks = if is_new { hooks } else { Vec::new() };
            DeployAnswer {
                app: app.clone(),
                release,
                previous,
                changes,
                regions: of_regions,
                is_plan,
                resolved,
                warnings,
                hooks,
            }
        };
        if request.is_plan {
            let is_same =
                |global: &GlobalState| global.current_release(&app).is_some_and(|now| now.says_the_same(&pinned));
            let is_new = !self.global.read(is_same);
            let release = ReleaseNumber(previous.unwrap_or_default().0 + u64::from(is_new));
            return Ok(Versioned { revision, value: answer(release, true, is_new) });
        }
        let (scale, regional_scale) = regions::scales(&wanted);
        let Release { services, updates, tags, regions, priorities, overrides, .. } = wanted.to_release();
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
            overrides,
            regional_scale,
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
    pub(super) async fn warnings(&self, wanted: &AppDefinition, pinned: &Release) -> Vec<String> {
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
    fn hooks(&self, wanted: &AppDefinition, pinned: &Release) -> Vec<PlannedHook> {
        let definition = self.coming(wanted, pinned);
        self.region.read(|region| planned_hooks(region, &definition))
    }

    /// The same for new instances of what runs.
    pub(super) fn hooks_of_restart(&self, app: &AppName, service: Option<&ServiceName>) -> Vec<PlannedHook> {
        let Some(mut wanted) = self.global.read(|global| definition(global, app)) else { return Vec::new() };
        let chosen = wanted.services.iter_mut().filter(|(name, _)| service.is_none_or(|service| service == *name));
        chosen.for_each(|(_, one)| one.spec.restarted = one.spec.restarted.saturating_add(1));
        self.hooks(&wanted, &wanted.to_release())
    }

    /// The release that would be made of it now.
    fn pinned(&self, wanted: &AppDefinition) -> Answer<Release> {
        let mut release = wanted.to_release();
        let pinned = self.global.read(|global| {
            global.keep_restarts(&wanted.app, &mut release.services);
            global.pin_secrets(&wanted.app, &mut release)
        });
        pinned.map_err(|why| Problem::new(Code::InvalidRequest, why.message))?;
        Ok(release)
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

    pub(super) async fn status_of(&self, name: &AppName) -> Answer<Versioned<AppStatus>> {
        let app = self.global.read(|global| global.apps.get(name).cloned()).ok_or_else(|| no_such_app(name))?;
        let own = &self.config.region;
        let here: BTreeSet<ServiceName> =
            self.global.read(|global| regions::here(global, &app, own).cloned().collect());
        let scales = self.global.read(|global| regions::running(global, &app));
        let images = self.region.read(|region| {
            let services = region.definitions.get(name).map(|definition| definition.services.values());
            services.into_iter().flatten().filter_map(|service| service.spec.image.clone()).collect::<BTreeSet<_>>()
        });
        let counted = self.census.count(images.into_iter().collect()).await.into_iter();
        let images: Vec<_> = counted.map(|copies| self.with_tag(name, copies)).collect();
        self.region.replica().read_at(|region, revision| {
            let mine = || region.placements.values().filter(|placement| placement.service.app == *name);
            let deployed = region.definitions.get(name).map_or(ReleaseNumber(0), |definition| definition.release);
            let services = here.iter().filter_map(|service| Some((service, app.running_scale(service, Some(own))?)));
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
            let value = AppStatus {
                app: name.clone(),
                release: app.release,
                services,
                images,
                problems,
                deployment,
                regions: scales,
            };
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

/// A definition that leaves a scale open keeps the one that is, which may not suit what it says now.
fn refuse_each_node_with_volumes(current: Option<&AppDefinition>, wanted: &AppDefinition) -> Answer<()> {
    for (name, service) in &wanted.services {
        let present = current.and_then(|current| current.services.get(name));
        let kept = present.and_then(|service| service.scale);
        if let Some(why) = refuse_each_node(&service.spec).filter(|_| service.scale.or(kept) == Some(Scale::EachNode)) {
            return Err(Problem::new(Code::InvalidDefinition, format!("services.{name}.scale: {why}")));
        }
        for (region, one) in &service.overrides {
            // What is written without a region is said of all that have no other.
            let kept = present.filter(|_| service.scale.is_none()).and_then(|service| service.in_region(region).scale);
            let is_each_node = one.scale.or(service.scale).or(kept) == Some(Scale::EachNode);
            if let Some(why) = refuse_each_node(&one.variant.spec).filter(|_| is_each_node) {
                let said = format!("services.{name}.region.{region}.scale: {why}");
                return Err(Problem::new(Code::InvalidDefinition, said));
            }
        }
    }
    Ok(())
}

/// Secrets that services have before and after, in another version.
fn secret_changes(current: Option<&AppDefinition>, pinned: &Release) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (service, spec) in pinned.specs_by_service() {
        let before = current.and_then(|current| current.services.get(service));
        let of_regions = before.into_iter().flat_map(|one| one.overrides.values()).map(|one| &one.variant.spec);
        let before: Vec<_> = before.iter().map(|one| &one.spec).chain(of_regions).collect();
        for (name, version) in &spec.secrets {
            let mut old = before.iter().filter_map(|spec| spec.secrets.get(name));
            let path = format!("services.{service}.secrets.{name}");
            let is_told = changes.iter().any(|change| change.path == path);
            if let Some(old) = old.next().filter(|old| *old != version && !is_told) {
                let said = |version: &SecretVersion| format!("version {version}").into();
                changes.push(Change { path, kind: ChangeKind::Changed, from: said(old), to: said(version) });
            }
        }
    }
    changes
}
