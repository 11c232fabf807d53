//! The glossary as code: ids, names, specs and statuses, with their validation.
//! No I/O, no async, no clock. Whatever passes a constructor here is valid; the rest of Insula trusts these types.

pub mod address;
pub mod codec;
pub mod definition;
pub mod deployment;
pub mod exec;
pub mod id;
pub mod image;
pub mod label;
pub mod lease;
pub mod level;
pub mod name;
pub mod node;
pub mod placement;
pub mod priority;
pub mod quantity;
pub mod release;
pub mod request;
pub mod scale;
mod schema;
pub mod secret;
pub mod shortfall;
pub mod spec;
pub mod status;
pub mod text;
pub mod traffic;
mod variant;

pub use address::{ADDRESSES_MAX, AddressError, Addresses, NodeAddress, Scope};
pub use definition::{AppDefinition, DefinitionError, DefinitionProblem, ServiceDefinition, ServiceOverride};
pub use deployment::{Deployment, DeploymentState, HookRun, HookState};
pub use exec::{ExecExit, ExecInput, ExecOutput, ExecSpec, ExecSpecError, SignalNumber, WindowSize};
pub use id::{ClusterId, Incarnation, InstanceId, NodeId, ReleaseNumber, RequestId, Revision, Term, TokenId};
pub use image::{ImageName, ImageNameError};
pub use label::{LabelValue, LabelValueError, Labels, labels_text};
pub use lease::{Granted, Load, Renewal};
pub use level::{Agreed, Level};
pub use name::{
    AppName, ContinentName, DatacenterName, LabelName, NameError, NodeName, PortName, RegionName, RuntimeName,
    ServiceName, ServiceRef, SnapshotName, VolumeName,
};
pub use node::{Capacity, Node, NodeHealth};
pub use placement::{Desired, Placement};
pub use priority::Priority;
pub use quantity::{ByteSize, CpuMillis};
pub use release::{Overrides, RegionalDefinition, RegionalService, Release};
pub use request::{HttpRequestId, HttpRequestIdError, Remembered, RequestRecord, RequestTry};
pub use scale::{Scale, ScaleError};
pub use secret::{
    Revealed, SecretName, SecretNameError, SecretValue, SecretValueError, SecretValues, SecretVersion, SecretVersions,
};
pub use shortfall::{Given, Shortfall};
pub use spec::{
    CanarySpec, Check, ContentHash, ContentHashError, DriverKind, FileSpec, HealthSpec, HookKind, HooksSpec,
    PlacementSpec, PortSpec, Promotion, Protocol, RegionSet, Resources, RestartPolicy, RestartSpec, RouteSpec,
    ServiceSpec, Slot, StopSpec, Strategy, TmpfsSpec, UpdateSpec, Volume, VolumeRef, VolumeRefError, VolumeSpec,
};
pub use status::{InstanceStatus, Phase};
pub use traffic::{ReleaseTraffic, Tally, Traffic};
pub use variant::ServiceVariant;
