//! Volumes, as they travel.

use insula_types::{
    ByteSize, InstanceId, NodeId, NodeName, Revision, SnapshotName, VolumeRef, definition::VOLUME_SIZE,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::number;

/// A volume of this region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Its name, `app/service/name.slot`.
    pub volume: String,
    /// The node that has it on its disk.
    pub node: NodeId,
    /// That node's name; none when it is no member any more.
    pub node_name: Option<NodeName>,
    /// Bytes that are set aside for it.
    pub size: ByteSize,
    /// How it is.
    pub state: VolumeState,
    /// The instance that is placed with it.
    pub instance: Option<InstanceId>,
    /// When it was made.
    pub created_ms: u64,
}

/// How a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Its node has not made it yet.
    Pending,
    /// It is there.
    Ready,
    /// Its node is down; so is the volume, until the node comes back.
    NodeDown,
    /// Its node was removed, and with it what was in the volume.
    Lost,
    /// It was deleted, and its node is to take it off its disk.
    Deleting,
    /// One of a later version.
    #[serde(other)]
    Other,
}

impl VolumeState {
    /// As people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::NodeDown => "node down",
            Self::Lost => "lost",
            Self::Deleting => "deleting",
            Self::Other => "other",
        }
    }
}

/// Sets a volume aside before an instance needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeBody {
    /// Its name, `app/service/name.slot`.
    #[schemars(with = "VolumeRef")]
    pub volume: String,
    /// The node that is to have it, by exact id or name.
    #[schemars(with = "NodeName")]
    pub node: String,
    /// Its size in bytes.
    #[schemars(with = "u64", range(min = VOLUME_SIZE.start().0, max = VOLUME_SIZE.end().0))]
    #[serde(deserialize_with = "number::bytes")]
    pub size: ByteSize,
}

/// Makes a volume larger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSizeBody {
    /// Its new size in bytes.
    #[schemars(with = "u64", range(min = VOLUME_SIZE.start().0, max = VOLUME_SIZE.end().0))]
    #[serde(deserialize_with = "number::bytes")]
    pub size: ByteSize,
}

/// A snapshot of a volume: a copy on the same disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// Its name among those of its volume.
    pub snapshot: SnapshotName,
    /// The name of its volume, which may be there no more.
    pub volume: String,
    /// The node that has it on its disk.
    pub node: NodeId,
    /// That node's name; none when it is no member any more.
    pub node_name: Option<NodeName>,
    /// Bytes that the volume had.
    pub size: ByteSize,
    /// Bytes that it takes of the disk.
    pub used: ByteSize,
    /// When it was made, by that node's clock.
    pub created_ms: u64,
}

/// The snapshots that nodes tell of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshots {
    /// The region's revision.
    pub revision: Revision,
    /// By volume, the oldest first.
    pub items: Vec<Snapshot>,
    /// Nodes that did not answer, so that theirs are not among these.
    #[serde(default)]
    pub silent: Vec<NodeName>,
}

/// Makes a snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotBody {
    /// Its name, which none of the volume's other snapshots has.
    pub snapshot: SnapshotName,
}
