//! Apps: what they are, how they are, how they change.

use insula_types::{AppName, DeploymentState, NodeId, NodeName, RegionName, ReleaseNumber, Scale, ServiceName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Deployment, PlannedHook};

/// An app in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppSummary {
    /// Its name.
    pub name: AppName,
    /// The release that shall run.
    pub release: ReleaseNumber,
    /// How many services it has.
    pub services: u32,
    /// Instances that shall run in the region that answers.
    pub wanted: u32,
    /// Instances that are ready there.
    pub ready: u32,
    /// Host names that lead to it.
    pub hosts: Vec<String>,
    /// When the release was made.
    pub released_ms: u64,
}

/// An app with its definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// The release that shall run.
    pub release: ReleaseNumber,
    /// When the release was made.
    pub released_ms: u64,
    /// What shall run, in the shape of the definition file, scales as they are now.
    #[schemars(with = "insula_types::AppDefinition")]
    pub definition: serde_json::Value,
}

/// What a deploy does, or did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeployAnswer {
    /// The app.
    pub app: AppName,
    /// The release that runs, or with `plan` the one that would.
    pub release: ReleaseNumber,
    /// The release before; none for a new app.
    pub previous: Option<ReleaseNumber>,
    /// What changes, in the order of the key paths. Empty: everything is so already.
    pub changes: Vec<Change>,
    /// What changes in each region, where that is not the same in all that run it. Empty: what `changes` says is so in each.
    #[serde(default)]
    pub regions: Vec<RegionChanges>,
    /// True when nothing was done.
    pub is_plan: bool,
    /// What the tags of images stand for that were looked up, in the order of the services' names.
    #[serde(default)]
    pub resolved: Vec<ResolvedImage>,
    /// What is not wrong, and may not be wanted: what finds no place, and losses that were survived before. A sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What the region that answers runs once for it, in this order: before its first instance, and when it is good.
    #[serde(default)]
    pub hooks: Vec<PlannedHook>,
}

/// A tag that was looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResolvedImage {
    /// The service that names it.
    pub service: ServiceName,
    /// As it was written.
    pub written: String,
    /// What it stands for, `registry/repository:tag@sha256:…`. Deployed so, nothing is looked up again.
    pub image: String,
}

/// One difference between two definitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Key path, like `services.web.image`.
    pub path: String,
    /// What happens to it.
    pub kind: ChangeKind,
    /// What is there now; null when nothing is.
    pub from: serde_json::Value,
    /// What will be there; null when nothing will.
    pub to: serde_json::Value,
}

/// What changes in one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RegionChanges {
    /// The region.
    pub region: RegionName,
    /// What changes there, overrides applied, in the order of the key paths.
    pub changes: Vec<Change>,
}

/// What happens to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It comes.
    Added,
    /// It gets another value.
    Changed,
    /// It goes.
    Removed,
}

/// What became of an app that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deleted {
    /// Its name.
    pub app: AppName,
    /// How many instances stop in the region that answers.
    pub instances: u32,
}

/// Asks for another scale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScaleBody {
    /// Instances per region: a number, or `each-node`.
    pub scale: Scale,
    /// The one region that it is for; none: all of them, also those that had another scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionName>,
}

/// A scale that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Scaled {
    /// The app.
    pub app: AppName,
    /// Its service.
    pub service: ServiceName,
    /// Instances before: there, or in all regions that had no other scale.
    pub previous: Scale,
    /// Instances from now on.
    pub scale: Scale,
    /// The region that it is for; none: all of them.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// What finds no place, and losses that were survived before. A sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How an app is, in the region that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppStatus {
    /// Its name.
    pub app: AppName,
    /// The release that shall run.
    pub release: ReleaseNumber,
    /// Its services in the order of their names.
    pub services: Vec<ServiceStatus>,
    /// The images of the release, and on how many nodes they are.
    #[serde(default)]
    pub images: Vec<ImageCopies>,
    /// What is not as it shall be, each in one sentence; empty when all is well.
    pub problems: Vec<String>,
    /// How far the region is with the release that it has; none where not all programs know of that.
    #[serde(default)]
    pub deployment: Option<Deployment>,
    /// What each region shall run of it, services in the order of their names; empty where there is one region.
    #[serde(default)]
    pub regions: Vec<RegionalScale>,
}

/// How many instances of a service a region shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegionalScale {
    /// The service.
    pub service: ServiceName,
    /// The region.
    pub region: RegionName,
    /// Instances there: a number, or `each-node`; none while it is stopped.
    pub scale: Scale,
}

/// On how many nodes of the region an image is: what is on two outlives the loss of one, without any registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageCopies {
    /// Its reference, with digest.
    pub image: String,
    /// The tag by which it was named when it was deployed; of several the first service's.
    #[serde(default)]
    pub tag: Option<String>,
    /// Nodes that have it.
    pub copies: u32,
    /// Nodes that shall have it, at least: two, where there are so many.
    pub wanted: u32,
}

/// How one service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub service: ServiceName,
    /// Instances that shall run.
    pub scale: u32,
    /// Whether these are one on each node that the service asks for.
    #[serde(default)]
    pub is_each_node: bool,
    /// Instances whose process runs.
    pub running: u32,
    /// Instances that get requests.
    pub ready: u32,
    /// Ready instances of the release that shall run.
    pub ready_of_release: u32,
    /// The release that the region derived last; below [`AppStatus::release`] while a deploy is on its way.
    pub release: ReleaseNumber,
}

impl AppStatus {
    /// Whether everything that shall run is ready, in the release that shall run, and nothing else runs; and whether all of
    /// it could be started again without a registry should a node be lost.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let is_out = |deployment: &Deployment| match deployment.state {
            DeploymentState::Before | DeploymentState::First | DeploymentState::Going | DeploymentState::Failed => {
                false
            }
            DeploymentState::Baking | DeploymentState::After | DeploymentState::Done => true,
        };
        self.is_ready()
            && self.deployment.as_ref().is_none_or(is_out)
            && self.images.iter().all(|image| image.copies >= image.wanted)
    }

    /// Whether everything that shall run is ready, in the release that shall run, and nothing else runs.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let is_settled = |service: &ServiceStatus| {
            service.release == self.release
                && service.ready_of_release == service.scale
                && service.ready == service.scale
        };
        // All of it may run in other regions.
        (!self.services.is_empty() || !self.regions.is_empty()) && self.services.iter().all(is_settled)
    }
}

/// An image that nodes of the region have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// Its reference, with digest.
    pub image: String,
    /// Bytes of its compressed layers; none where no node has all of it.
    pub size_bytes: Option<u64>,
    /// The nodes that have it.
    pub nodes: Vec<ImageOnNode>,
    /// The releases that may have to run it: the one of each app that shall, and the one before.
    pub releases: Vec<ImageRelease>,
}

/// An image on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageOnNode {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: NodeName,
    /// When it was last needed there, milliseconds since 1970.
    pub used_ms: u64,
    /// Instances there that are made from it.
    pub instances: u32,
}

/// A release that may have to run an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRelease {
    /// The app.
    pub app: AppName,
    /// Its release.
    pub release: ReleaseNumber,
}

/// An image that came in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageImported {
    /// Its reference, to be written into a definition.
    pub image: String,
    /// Bytes of its layers as they came.
    pub size_bytes: u64,
    /// Bytes of what its node did not have before.
    pub new_bytes: u64,
    /// The node that has it. The others get it from there.
    pub node: NodeId,
    /// Its name.
    pub node_name: NodeName,
}

/// An image that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRemoved {
    /// Its reference.
    pub image: String,
    /// Nodes that had it.
    pub nodes: u32,
    /// Bytes that were freed on all of them.
    pub freed_bytes: u64,
}
