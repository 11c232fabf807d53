//! What can be asked of the region state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use insula_types::{
    Addresses, Agreed, AppName, ByteSize, Capacity, ContentHash, DeploymentState, Desired, HookKind, HookState,
    InstanceId, InstanceStatus, Labels, Level, Node, NodeHealth, NodeId, Placement, RegionalDefinition, ReleaseNumber,
    Revision, RuntimeName, SecretName, SecretVersion, ServiceName, ServiceRef, VolumeRef,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{JoinToken, NodeTrust, RegionMeta};
use crate::event::Event;

/// A change of the region state. Variants are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegionCommand {
    /// Founds the region with its first node. Only on an empty state.
    Init {
        /// What it is.
        meta: RegionMeta,
        /// Its first node.
        node: Box<Node>,
    },
    /// Allows machines to join.
    CreateJoinToken(JoinToken),
    /// Takes in a machine that showed a token's secret; uses the token once.
    Join {
        /// The token's id.
        token: String,
        /// SHA-256 of the secret that was shown, in hexadecimal digits.
        secret_hash: String,
        /// The new node.
        node: Box<Node>,
    },
    /// What a node says of itself when it starts.
    UpdateNode {
        /// The node.
        id: NodeId,
        /// Where it is reached.
        address: SocketAddr,
        /// What it can hold.
        capacity: Capacity,
        /// The program's version.
        version: String,
    },
    /// The leader's node controller saw a lease end or begin.
    SetNodeHealth {
        /// The node.
        id: NodeId,
        /// Its health.
        health: NodeHealth,
    },
    /// Gives a node no new placements, or some again.
    Cordon {
        /// The node.
        id: NodeId,
        /// Whether it gets none.
        is_cordoned: bool,
    },
    /// Takes a node out for ever. Refused while placements are on it.
    RemoveNode {
        /// The node, by exact id.
        id: NodeId,
        /// Why, for the tombstone.
        reason: String,
    },
    /// What the region shall run of an app. An older release than the present one is refused.
    SetDefinition(RegionalDefinition),
    /// The region shall run nothing of an app.
    RemoveDefinition {
        /// The app.
        app: AppName,
    },
    /// Binds new instances to nodes; all of them or none. Makes the volumes that they lack. Refused where a volume is on
    /// another node, or another placement has the same slot, and for a hook that is not the next of its app's deployment.
    Place(Vec<Placement>),
    /// What nodes shall do with instances.
    SetDesired {
        /// The instances; those that are gone are passed over.
        instances: Vec<InstanceId>,
        /// What shall be done.
        desired: Desired,
        /// Why, for the events.
        reason: String,
    },
    /// Forgets instances that are gone, with their statuses.
    RemovePlacements(Vec<InstanceId>),
    /// What a node sees. Statuses of instances that are not placed on it are passed over.
    ReportStatus {
        /// The node that reports.
        node: NodeId,
        /// What changed.
        statuses: Vec<InstanceStatus>,
    },
    /// Something worth telling that changes nothing else.
    Note(Event),
    /// The node's controller begins to act: the next epoch is its, and all earlier ones end.
    TakeControl {
        /// The node.
        node: NodeId,
    },
    /// A decision of the controller. Refused when its epoch has ended, so that a leader that was cut off or paused
    /// cannot act on what it saw before (rule R13).
    Controlled {
        /// The epoch that [`RegionReply::Control`] gave.
        epoch: u64,
        /// The decision.
        command: Box<RegionCommand>,
    },
    /// Says what a node is given to do.
    SetNodeDuty {
        /// The node.
        id: NodeId,
        /// What it is given.
        duty: NodeDuty,
    },
    /// Takes a node out for ever, with what is placed on it.
    TakeOutNode {
        /// The node, by exact id.
        id: NodeId,
        /// Why, for the tombstone.
        reason: String,
        /// The revision that last changed the node, as the asker saw it (rule R8).
        expected: Revision,
        /// Also while it is up, or instances are on it.
        is_forced: bool,
    },
    /// What a node trusts and shows now. At most eight of each.
    ReportTrust {
        /// The node that reports.
        node: NodeId,
        /// What it trusts.
        trust: NodeTrust,
    },
    /// Binds a node to its key for life, before it gets its first certificate. Refused when it is bound to another.
    BindKey {
        /// The node.
        node: NodeId,
        /// SHA-256 of its public key, in hexadecimal digits.
        key_sha256: String,
    },
    /// Ends a join token.
    RemoveJoinToken {
        /// Its id.
        id: String,
    },
    /// All nodes know a greater level than before: commands of it may be proposed from now on, and programs that know less
    /// may not come in. Refused while a node knows less. A level that has been reached already changes nothing.
    RaiseLevel(Agreed),
    /// Where a node is reached now, as it says itself. A list with a smaller number than the present one is refused: it was
    /// on its way when the node had moved already.
    SetAddresses {
        /// The node.
        node: NodeId,
        /// Its addresses.
        addresses: Addresses,
    },
    /// Sets a volume aside on a node, before an instance needs it. Refused when there is one of that name.
    CreateVolume {
        /// The volume.
        volume: VolumeRef,
        /// The node that is to have it.
        node: NodeId,
        /// Its size.
        size: ByteSize,
    },
    /// Makes a volume larger. A smaller size is refused.
    GrowVolume {
        /// The volume.
        volume: VolumeRef,
        /// Its new size.
        size: ByteSize,
    },
    /// Deletes a volume with all that is in it. Refused while an instance is placed with it. One whose node is no member any
    /// more is forgotten at once; else its node takes it off its disk first.
    DeleteVolume {
        /// The volume.
        volume: VolumeRef,
    },
    /// A volume is on its node's disk.
    ConfirmVolume {
        /// The node.
        node: NodeId,
        /// The volume.
        volume: VolumeRef,
    },
    /// A deleted volume is off its node's disk.
    ForgetVolume {
        /// The node.
        node: NodeId,
        /// The volume.
        volume: VolumeRef,
    },
    /// The runtime classes that a node has, as it says itself. At most [`RUNTIMES_MAX`](super::RUNTIMES_MAX).
    SetRuntimes {
        /// The node.
        node: NodeId,
        /// Their names.
        runtimes: BTreeSet<RuntimeName>,
    },
    /// The labels that a node has, as it says itself. At most [`LABELS_MAX`](insula_types::label::LABELS_MAX), and none of
    /// [`LabelName::OWN`](insula_types::LabelName::OWN).
    SetLabels {
        /// The node.
        node: NodeId,
        /// All of them.
        labels: Labels,
    },
    /// The controller saw how far a deployment is. Without effect on one that has come to an end, or on that of another release.
    AdvanceDeployment {
        /// The app.
        app: AppName,
        /// The release that comes.
        release: ReleaseNumber,
        /// How far it is.
        state: DeploymentState,
        /// Why, in a sentence.
        why: String,
    },
    /// A person steers a deployment. Refused when it is that of another release, or has come to an end.
    SteerDeployment {
        /// The app.
        app: AppName,
        /// The release that comes.
        release: ReleaseNumber,
        /// What shall become of it.
        steering: Steering,
    },
    /// The controller saw how far a hook of a deployment is. Without effect on one that does not run, unless it becomes one that
    /// failed, and on that of another release.
    AdvanceHook {
        /// The app.
        app: AppName,
        /// The release that comes.
        release: ReleaseNumber,
        /// Whose hook it is.
        service: ServiceName,
        /// Which one.
        hook: HookKind,
        /// How far it is; due: it has to be run again.
        state: HookState,
        /// How long its instance has run, milliseconds.
        spent_ms: u64,
        /// Why it failed or is run again, in a sentence.
        why: String,
    },
    /// As [`Self::SetDefinition`], of an app with files or secrets.
    SetDefinitionWith {
        /// What the region shall run.
        definition: RegionalDefinition,
        /// What is in the files. What the region has already may be left out.
        contents: BTreeMap<ContentHash, String>,
        /// Values of the secrets, sealed to the region's key. What the region has already may be left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<(SecretName, SecretVersion, ByteBuf)>,
    },
    /// The controller has found that a service which lost an instance finds no place, and takes one from services of clearly lower
    /// priority: they are drained, and their room is kept for it. Refused when it has lost none.
    GiveWay {
        /// What gives way, all on one node.
        instances: Vec<InstanceId>,
        /// To whom.
        to: ServiceRef,
        /// Where.
        node: NodeId,
    },
}

impl RegionCommand {
    /// From which level on programs know it: with this value, fields included.
    pub fn level(&self) -> Level {
        match self {
            Self::Init { .. }
            | Self::CreateJoinToken(_)
            | Self::Join { .. }
            | Self::UpdateNode { .. }
            | Self::SetNodeHealth { .. }
            | Self::Cordon { .. }
            | Self::RemoveNode { .. }
            | Self::RemoveDefinition { .. }
            | Self::SetDesired { .. }
            | Self::RemovePlacements(_)
            | Self::ReportStatus { .. }
            | Self::Note(_)
            | Self::TakeControl { .. } => Level::FIRST,
            Self::SetNodeDuty { .. }
            | Self::TakeOutNode { .. }
            | Self::ReportTrust { .. }
            | Self::BindKey { .. }
            | Self::RemoveJoinToken { .. } => Level(2),
            Self::SetAddresses { .. } => Level(3),
            Self::CreateVolume { .. }
            | Self::GrowVolume { .. }
            | Self::DeleteVolume { .. }
            | Self::ConfirmVolume { .. }
            | Self::ForgetVolume { .. } => Level(4),
            Self::SetRuntimes { .. } => Level(5),
            Self::SetLabels { .. } => Level(6),
            Self::AdvanceDeployment { .. } | Self::SteerDeployment { .. } | Self::AdvanceHook { .. } => Level(6),
            Self::SetDefinitionWith { .. } | Self::GiveWay { .. } => Level(6),
            Self::SetDefinition(definition) => definition.level(),
            Self::Place(placements) => placements.iter().map(Placement::level).max().unwrap_or(Level::FIRST),
            // A program that knows the command and not what it agrees to must not apply it either.
            Self::RaiseLevel(agreed) => agreed.level.max(Level(2)),
            Self::Controlled { command, .. } => match &**command {
                // Never more than one deep; see `apply`, which refuses it.
                Self::Controlled { .. } => Level::FIRST,
                command => command.level(),
            },
        }
    }
}

/// What a person wants of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steering {
    /// It waits where it is.
    Pause,
    /// It goes on.
    Resume,
    /// Its first instances were good: the others follow.
    Promote,
    /// The release counts as failed.
    Abort,
}

/// What a node is given to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeDuty {
    /// Runs what it has, and takes more.
    Serve,
    /// Runs what it has.
    Cordon,
    /// What it has is placed elsewhere, then taken away.
    Drain,
}

/// What a region command answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegionReply {
    /// Done.
    Done,
    /// The asker is the controller now.
    Control {
        /// Its epoch.
        epoch: u64,
    },
}
