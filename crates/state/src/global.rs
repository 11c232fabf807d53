//! The global state: what the whole world shares. Small and bounded (rule R4).

mod apply;
mod choice;
mod command;
mod region;
mod root;
mod secret;

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{
    Agreed, AppName, ClusterId, ContentHash, DeploymentState, Incarnation, Level, RegionName, Release, ReleaseNumber,
    Revision, RouteSpec, Scale, SecretName, ServiceName,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use command::{GlobalCommand, GlobalReply};
pub use region::{Founder, GATEWAYS_MAX, Gateway, Invitation, Phase, REGIONS_MAX, Region, founded};
pub use root::{RootState, TrustedRoot};
pub use secret::{SEALED_AT_ONCE_MAX, SEALED_LEN_MAX, SECRETS_OF_APP_MAX, SealedFor, SealedValue, Secret, Unsealed};

use crate::{Changes, Domain, Rejection, Table, level::NotYet};

/// What the cluster is; written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMeta {
    /// Its id, the trust domain of all identities.
    pub cluster: ClusterId,
    /// Which life of the state this is.
    pub incarnation: Incarnation,
    /// When it was founded, milliseconds since 1970.
    pub created_ms: u64,
}

/// Instances of services in regions that have another number than the rest.
pub type RegionalScale = BTreeMap<ServiceName, BTreeMap<RegionName, Scale>>;

/// An app: the release that shall run, and how many instances of each service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// The release that shall run.
    pub release: ReleaseNumber,
    /// Instances per service and region. Not part of a release: a roll-back keeps it.
    pub scale: BTreeMap<ServiceName, Scale>,
    /// Services that somebody has stopped. Not part of a release either: neither a deploy nor a roll-back starts them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stopped: BTreeSet<ServiceName>,
    /// Instances in regions that have another number than [`Self::scale`] says. Not part of a release either.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub regional_scale: RegionalScale,
    /// When it was deployed last, milliseconds since 1970. Only in builds that stand for a later version.
    #[cfg(feature = "upgrade-probe")]
    #[serde(default)]
    pub deployed_ms: u64,
}

impl App {
    /// An app.
    pub fn new(name: AppName, release: ReleaseNumber, scale: BTreeMap<ServiceName, Scale>) -> Self {
        Self {
            name,
            release,
            scale,
            stopped: BTreeSet::new(),
            regional_scale: RegionalScale::new(),
            #[cfg(feature = "upgrade-probe")]
            deployed_ms: 0,
        }
    }

    /// How many instances of a service a region shall run when nobody has stopped it. None: it has no such service.
    pub fn scale_in(&self, service: &ServiceName, region: Option<&RegionName>) -> Option<Scale> {
        let of_region = region.and_then(|region| self.regional_scale.get(service)?.get(region));
        of_region.or_else(|| self.scale.get(service)).copied()
    }

    /// How many instances of a service a region shall run now: none while it is stopped. None: it has no such service.
    pub fn running_scale(&self, service: &ServiceName, region: Option<&RegionName>) -> Option<Scale> {
        let scale = self.scale_in(service, region)?;
        Some(if self.stopped.contains(service) { Scale::Count(0) } else { scale })
    }
}

/// What became of a release in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseOutcome {
    /// How far it came.
    pub state: DeploymentState,
    /// Why, in a sentence; empty when there is nothing to say.
    pub why: String,
    /// When it was told, milliseconds since 1970 by the leader's clock.
    pub at_ms: u64,
}

/// What a holder of an API token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read.
    Viewer,
    /// Read, and change apps.
    Deployer,
    /// Everything.
    Admin,
}

/// A credential for the API. The secret itself is known to its holder alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Names it; part of the token.
    pub id: String,
    /// For people: whose it is.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of its secret, in hexadecimal digits.
    pub secret_hash: String,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
}

/// Everything that the world shares.
#[derive(Debug, Default)]
pub struct GlobalState {
    /// What the cluster is; none before `init`.
    pub meta: Option<ClusterMeta>,
    /// Its regions.
    pub regions: Table<RegionName, Region>,
    /// What lets machines found those that join.
    pub invitations: Table<RegionName, Invitation>,
    /// Its apps.
    pub apps: Table<AppName, App>,
    /// Releases, by app and number; the last few of each app.
    pub releases: Table<(AppName, ReleaseNumber), Release>,
    /// What became of releases, in each region that has told.
    pub outcomes: Table<(AppName, ReleaseNumber), BTreeMap<RegionName, ReleaseOutcome>>,
    /// What is in the files of an app's releases, by its hash.
    pub contents: Table<(AppName, ContentHash), String>,
    /// Secrets of apps, sealed. An app need not be there yet.
    pub secrets: Table<(AppName, SecretName), Secret>,
    /// The public key of each region to which its secrets are sealed.
    pub sealing_keys: Table<RegionName, ByteBuf>,
    /// The last release of apps that were removed. One of that name goes on from there, so that a number never means two
    /// things to a region that did not see the removal.
    pub removed: Table<AppName, ReleaseNumber>,
    /// Who owns a host and path.
    pub claims: Table<RouteSpec, AppName>,
    /// API tokens by id.
    pub api_tokens: Table<String, ApiToken>,
    /// Trusted roots, by the SHA-256 of their certificates in hexadecimal digits.
    pub roots: Table<String, TrustedRoot>,
    /// What the programs of all regions have agreed on; none while it is the first level.
    pub agreed: Option<Agreed>,
}

impl GlobalState {
    /// Gives services the restarts that the present release has: with others, a deploy of the same would restart them once more.
    pub fn keep_restarts(&self, app: &AppName, services: &mut BTreeMap<ServiceName, insula_types::ServiceSpec>) {
        let before = self.current_release(app).map(|release| &release.services);
        for (service, spec) in services {
            spec.restarted = before.and_then(|before| before.get(service)).map_or(0, |before| before.restarted);
        }
    }

    /// The release of an app that shall run.
    pub fn current_release(&self, app: &AppName) -> Option<&Release> {
        let number = self.apps.get(app)?.release;
        self.releases.get(&(app.clone(), number))
    }

    /// The regions that have nodes, or soon will: one that nobody has founded has no programs that could know too little.
    pub fn founded(&self) -> impl Iterator<Item = &Region> {
        let is_awaited = |region: &Region| self.invitations.get(&region.name).is_some_and(|one| one.founder.is_none());
        self.regions.values().filter(move |region| !is_awaited(region))
    }

    /// The numbers of the releases that are kept of an app.
    fn numbers(&self, app: &AppName) -> Vec<ReleaseNumber> {
        let first = (app.clone(), ReleaseNumber(0));
        self.releases.from(first).take_while(|((name, _), ..)| name == app).map(|((_, number), ..)| *number).collect()
    }

    /// What regions are known to go back to, should the present release of an app fail: of each region the newest release that was
    /// good there. None of them is forgotten.
    pub fn good_releases(&self, app: &AppName) -> BTreeSet<ReleaseNumber> {
        let outcomes = self.outcomes.from((app.clone(), ReleaseNumber(0)));
        let mut newest = BTreeMap::new();
        for ((_, number), _, regions) in outcomes.take_while(|((name, _), ..)| name == app) {
            let good = regions.iter().filter(|(_, outcome)| outcome.state == DeploymentState::Done);
            newest.extend(good.map(|(region, _)| (region, *number)));
        }
        newest.into_values().collect()
    }

    /// The releases that may have to run: of each app the one that shall, the one before it, and those that were good last, to which
    /// it may go back.
    pub fn live_releases(&self) -> impl Iterator<Item = (&AppName, &Release)> {
        self.apps.values().flat_map(|app| {
            let before = self.numbers(&app.name).into_iter().rfind(|number| *number < app.release);
            let mut live = self.good_releases(&app.name);
            live.extend(before.into_iter().chain([app.release]));
            let releases = live.into_iter().rev().filter_map(|number| self.releases.get(&(app.name.clone(), number)));
            releases.map(|release| (&app.name, release))
        })
    }
}

/// Names an object of the world.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GlobalKey {
    /// [`ClusterMeta`].
    Meta,
    /// A region.
    Region(RegionName),
    /// An app.
    App(AppName),
    /// A release.
    Release((AppName, ReleaseNumber)),
    /// The last release of a removed app.
    Removed(AppName),
    /// A claim.
    Claim(RouteSpec),
    /// An API token.
    ApiToken(String),
    /// A trusted root.
    Root(String),
    /// [`Agreed`].
    Level,
    /// What became of a release.
    Outcome((AppName, ReleaseNumber)),
    /// What is in a file of an app.
    Content((AppName, ContentHash)),
    /// A secret of an app.
    Secret((AppName, SecretName)),
    /// The key of a region that secrets are sealed to.
    SealingKey(RegionName),
    /// What lets a machine found a region.
    Invitation(RegionName),
}

/// An object of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalObject {
    /// What the cluster is.
    Meta(ClusterMeta),
    /// A region.
    Region(Region),
    /// An app.
    App(App),
    /// A release.
    Release(Release),
    /// The last release of a removed app.
    Removed(ReleaseNumber),
    /// The owner of a host and path.
    Claim(AppName),
    /// An API token.
    ApiToken(ApiToken),
    /// A trusted root.
    Root(TrustedRoot),
    /// What the programs have agreed on.
    Level(Agreed),
    /// What became of a release, by region.
    Outcome(BTreeMap<RegionName, ReleaseOutcome>),
    /// What is in a file.
    Content(String),
    /// A secret.
    Secret(Secret),
    /// A public key.
    SealingKey(ByteBuf),
    /// What lets a machine found a region.
    Invitation(Invitation),
}

impl Domain for GlobalState {
    const NAME: &'static str = "global";
    type Command = GlobalCommand;
    type Reply = GlobalReply;
    type Key = GlobalKey;
    type Object = GlobalObject;

    fn apply(
        &self,
        command: &GlobalCommand,
        at_ms: u64,
        _revision: Revision,
        out: &mut Changes<Self>,
    ) -> Result<GlobalReply, Rejection> {
        apply::Apply::new(self, at_ms, out).command(command)
    }

    fn absorb(&mut self, revision: Revision, key: GlobalKey, object: Option<GlobalObject>) {
        use GlobalKey as Key;
        use GlobalObject as Object;
        macro_rules! set {
            ($table:ident, $key:expr, $kind:ident) => {
                match object {
                    Some(Object::$kind(value)) => self.$table.set(revision, $key, Some(value)),
                    None => self.$table.set(revision, $key, None),
                    // A key with an object of another kind cannot be made by `apply`; from a peer it is ignored (R2).
                    Some(_) => {}
                }
            };
        }
        match key {
            Key::Meta => {
                if let Some(Object::Meta(meta)) = object {
                    self.meta = Some(meta);
                }
            }
            Key::Level => {
                if let Some(Object::Level(agreed)) = object {
                    self.agreed = Some(agreed);
                }
            }
            Key::Region(name) => set!(regions, name, Region),
            Key::App(name) => set!(apps, name, App),
            Key::Release(id) => set!(releases, id, Release),
            Key::Removed(app) => set!(removed, app, Removed),
            Key::Claim(route) => set!(claims, route, Claim),
            Key::ApiToken(id) => set!(api_tokens, id, ApiToken),
            Key::Root(hash) => set!(roots, hash, Root),
            Key::Outcome(id) => set!(outcomes, id, Outcome),
            Key::Content(id) => set!(contents, id, Content),
            Key::Secret(id) => set!(secrets, id, Secret),
            Key::SealingKey(region) => set!(sealing_keys, region, SealingKey),
            Key::Invitation(region) => set!(invitations, region, Invitation),
        }
    }

    fn objects(&self) -> Vec<(GlobalKey, Revision, GlobalObject)> {
        let mut all = Vec::new();
        all.extend(self.meta.iter().map(|meta| (GlobalKey::Meta, Revision(0), GlobalObject::Meta(meta.clone()))));
        all.extend(
            self.agreed.iter().map(|agreed| (GlobalKey::Level, Revision(0), GlobalObject::Level(agreed.clone()))),
        );
        macro_rules! add {
            ($table:ident, $kind:ident) => {
                all.extend(self.$table.rows().map(|(key, revision, value)| {
                    (GlobalKey::$kind(key.clone()), revision, GlobalObject::$kind(value.clone()))
                }));
            };
        }
        add!(regions, Region);
        add!(apps, App);
        add!(releases, Release);
        add!(removed, Removed);
        add!(claims, Claim);
        add!(api_tokens, ApiToken);
        add!(roots, Root);
        add!(outcomes, Outcome);
        add!(contents, Content);
        add!(secrets, Secret);
        add!(sealing_keys, SealingKey);
        add!(invitations, Invitation);
        all
    }

    fn kind(key: &GlobalKey) -> &'static str {
        match key {
            GlobalKey::Meta => "cluster",
            GlobalKey::Region(_) => "regions",
            GlobalKey::App(_) => "apps",
            GlobalKey::Release(_) => "releases",
            GlobalKey::Removed(_) => "removed apps",
            GlobalKey::Claim(_) => "routes",
            GlobalKey::ApiToken(_) => "API tokens",
            GlobalKey::Root(_) => "roots",
            GlobalKey::Level => "level",
            GlobalKey::Outcome(_) => "outcomes of releases",
            GlobalKey::Content(_) => "contents of files",
            GlobalKey::Secret(_) => "secrets, sealed",
            GlobalKey::SealingKey(_) => "keys that secrets are sealed to",
            GlobalKey::Invitation(_) => "invitations of regions",
        }
    }

    fn set_incarnation(object: &mut GlobalObject, incarnation: Incarnation) {
        if let GlobalObject::Meta(meta) = object {
            meta.incarnation = incarnation;
        }
    }

    fn origin(&self) -> Option<(&ClusterId, Incarnation)> {
        self.meta.as_ref().map(|meta| (&meta.cluster, meta.incarnation))
    }

    fn needs(command: &GlobalCommand) -> Level {
        command.level()
    }

    fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    fn admits(&self, command: &GlobalCommand) -> Result<(), NotYet> {
        let needed = command.level();
        // A region that has agreed on a level says so itself; the programs of the others must know the command.
        let own = match command {
            GlobalCommand::SetRegionLevel { region, .. } => Some(region),
            _ => None,
        };
        let behind = self.founded().filter(|region| region.level() < needed && Some(&region.name) != own);
        let behind: Vec<String> = behind.map(|region| format!("the nodes of region {}", region.name)).collect();
        if needed <= self.level() || own.is_some() && behind.is_empty() {
            return Ok(());
        }
        Err(NotYet { state: Self::NAME.to_owned(), needed, agreed: self.level(), behind })
    }
}

#[cfg(test)]
mod tests;
