//! The scheduler's decisions.

use serde::{Deserialize, Serialize};

use crate::{HookKind, InstanceId, Level, NodeId, ReleaseNumber, ServiceRef, ServiceSpec, Slot, VolumeRef};

/// One instance bound to one node, with all that the node needs to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The instance.
    pub instance: InstanceId,
    /// What it is an instance of.
    pub service: ServiceRef,
    /// The node that runs it.
    pub node: NodeId,
    /// The release that it runs.
    pub release: ReleaseNumber,
    /// How to run it.
    pub spec: ServiceSpec,
    /// What the node shall do with it now.
    pub desired: Desired,
    /// Why it is on this node, in words; the first is the main reason.
    pub reasons: Vec<String>,
    /// When it was placed, milliseconds since 1970 by the leader's clock.
    pub placed_ms: u64,
    /// Which of the service's volumes are its own. Only where the service has volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// The hook that it runs, once and to its end, instead of being one of the service's instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookKind>,
}

impl Placement {
    /// From which level on programs know all of it.
    pub fn level(&self) -> Level {
        let of_slot = if self.slot.is_some() { Level(4) } else { Level::FIRST };
        let of_hook = if self.hook.is_some() { Level(6) } else { Level::FIRST };
        of_slot.max(of_hook).max(self.spec.level())
    }

    /// The volumes that it uses, in the order of the definition.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeRef> + '_ {
        self.slot.into_iter().flat_map(move |slot| {
            let volume = move |name| VolumeRef { service: self.service.clone(), name, slot };
            self.spec.volumes.iter().map(move |spec| volume(spec.name.clone()))
        })
    }
}

/// What a node shall do with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Keep it running.
    Run,
    /// Take no new requests; the edges are being told.
    Drain,
    /// Stop it. The placement is removed once the node says that it is gone, or the node itself is.
    Stop,
}
