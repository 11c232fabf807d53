//! The glossary as code: ids, names, specs and statuses, with their validation.
//! No I/O, no async, no clock. Whatever passes a constructor here is valid; the rest of Insula trusts these types.

pub mod address;
pub mod codec;
pub mod definition;
pub mod exec;
pub mod id;
pub mod lease;
pub mod level;
pub mod name;
pub mod node;
pub mod placement;
pub mod quantity;
pub mod release;
pub mod spec;
pub mod status;
pub mod text;

pub use address::{AddressError, Addresses, NodeAddress, Scope};
pub use definition::{AppDefinition, DefinitionError, DefinitionProblem, ServiceDefinition};
pub use exec::{ExecExit, ExecInput, ExecOutput, ExecSpec, ExecSpecError, SignalNumber, WindowSize};
pub use id::{ClusterId, Incarnation, InstanceId, NodeId, ReleaseNumber, RequestId, Revision, Term, TokenId};
pub use lease::{Granted, Load, Renewal};
pub use level::{Agreed, Level};
pub use name::{
    AppName, DatacenterName, NameError, NodeName, PortName, RegionName, RuntimeName, ServiceName, ServiceRef,
    SnapshotName, VolumeName,
};
pub use node::{Capacity, Node, NodeHealth};
pub use placement::{Desired, Placement};
pub use quantity::{ByteSize, CpuMillis};
pub use release::{RegionalDefinition, RegionalService, Release};
pub use spec::{
    Check, DriverKind, HealthSpec, PortSpec, Protocol, Resources, RouteSpec, ServiceSpec, Slot, StopSpec, TmpfsSpec,
    Volume, VolumeRef, VolumeRefError, VolumeSpec,
};
pub use status::{InstanceStatus, Phase};
