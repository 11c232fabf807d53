//! What travels: requests and answers as JSON. Apart from the inner types, so that either can change alone.
//!
//! Fields are only ever added. Times are milliseconds since 1970. `revision` is that of the state that was read: apps,
//! regions and tokens are the world's, everything else is the region's.

mod app;
mod authority;
mod cluster;
mod doctor;
mod event;
mod instance;
mod latency;
mod loss;
mod number;
mod release;
mod request;
mod route;
mod secret;
mod survey;
mod token;
mod usage;
mod volume;

use insula_types::Revision;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use app::{
    App, AppStatus, AppSummary, Change, ChangeKind, Deleted, DeployAnswer, Image, ImageCopies, ImageImported,
    ImageOnNode, ImageRelease, ImageRemoved, RegionChanges, RegionalScale, ResolvedImage, ScaleBody, Scaled,
    ServiceStatus,
};
pub use authority::{CaNode, CaRoot, CaRootState, CaStatus, RecoveryBody, RootAdded, RootBody, RootChanged};
pub use cluster::{
    ApiTokenBody, ApiTokenCreated, DutyBody, FindBody, Found, GroupStatus, JoinTokenBody, JoinTokenCreated, Leader,
    Node, NodeAddress, NodeDuty, NodeRemoved, NodeState, NodeStatus, NodeUse, Region, RegionState, Reloaded, TokenRole,
};
pub(crate) use cluster::{TOKEN_NAME_LEN_MAX, TOKEN_TTL_MS_MAX, TOKEN_USES_MAX};
pub use doctor::{Check, Doctor, Grade, Task};
pub use event::{Event, EventCursor};
pub use instance::{Instance, InstanceState, Waiting};
pub use latency::{Latency, NodeLatency, NodeRoundTrip, RegionLatency, RegionRoundTrip, RoundTrip};
pub use loss::{LossKind, LossOutcome, LossPlan};
pub use release::{
    Deployment, Hook, PlannedHook, Release, ReleaseDefinition, ReleaseOutcome, RestartBody, RollbackBody, Running,
    RunningBody, Steered, Steering, SteeringBody,
};
pub use request::{EdgeMemory, HandledRequest, RequestReport, TriedInstance};
pub use route::Route;
pub use secret::{Secret, SecretBody, SecretRemoved, SecretSet};
pub use survey::{PlacementSurvey, Standing, SurveyedNode};
pub use token::{Token, TokenKind, TokenRemoved};
pub use usage::{InstanceUsage, NodeUsage, ServiceUsage, SilentNode, Usage};
pub use volume::{Snapshot, SnapshotBody, Snapshots, Volume, VolumeBody, VolumeSizeBody, VolumeState};

/// A listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    /// The revision that it reflects.
    pub revision: Revision,
    /// In the order of names or ids.
    pub items: Vec<T>,
}

/// One thing, its own fields beside the revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "{T}Versioned")]
pub struct Versioned<T> {
    /// The revision that it reflects, or after the change.
    pub revision: Revision,
    /// The thing.
    #[serde(flatten)]
    pub value: T,
}

impl<T> Versioned<T> {
    /// The same revision with what is made of the thing.
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Versioned<U> {
        Versioned { revision: self.revision, value: make(self.value) }
    }
}
