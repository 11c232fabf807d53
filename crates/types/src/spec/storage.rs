//! What an instance may write to, besides its own layer.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, NodeId, ServiceRef, VolumeName};

/// Memory that an instance sees as a directory, empty at each start. What is in it counts as the instance's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsSpec {
    /// Where, an absolute path in the instance.
    pub path: String,
    /// Most bytes.
    pub size: ByteSize,
}

/// A directory that outlives the instance: on the disk of one node, each instance with its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its name within the service.
    pub name: VolumeName,
    /// Where, an absolute path in the instance.
    pub path: String,
    /// Bytes that are set aside for it.
    pub size: ByteSize,
}

/// Numbers the instances of a service with volumes: each slot has its volumes, and one instance at a time.
pub type Slot = u32;

/// A volume of a region, written `app/service/name.slot`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeRef {
    /// Whose instances use it.
    pub service: ServiceRef,
    /// Which of the service's volumes.
    pub name: VolumeName,
    /// Which instance uses it.
    pub slot: Slot,
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}.{}", self.service, self.name, self.slot))
    }
}

/// Why a text names no volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no volume: write it like shop/db/data.0, as `insula volume ls` does")]
pub struct VolumeRefError(String);

impl FromStr for VolumeRef {
    type Err = VolumeRefError;
    fn from_str(text: &str) -> Result<Self, VolumeRefError> {
        let read = || {
            let (service, volume) = text.rsplit_once('/')?;
            let (app, service) = service.split_once('/')?;
            let (name, slot) = volume.rsplit_once('.')?;
            let is_plain = slot == "0" || !slot.starts_with(['0', '+']);
            let slot = slot.parse().ok().filter(|_| is_plain)?;
            let service = ServiceRef::new(app.parse().ok()?, service.parse().ok()?);
            Some(Self { service, name: name.parse().ok()?, slot })
        };
        read().ok_or_else(|| VolumeRefError(text.to_owned()))
    }
}

/// What a region knows of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The node that has it on its disk. Another node never gets it.
    pub node: NodeId,
    /// Bytes that are set aside for it. They only ever grow.
    pub size: ByteSize,
    /// When it was made, milliseconds since 1970 by the leader's clock.
    pub created_ms: u64,
    /// Its node has made it. From then on, one that is not on that node's disk is lost, and never replaced by an empty one.
    pub is_made: bool,
    /// Somebody deleted it, and its node is to take it off its disk.
    pub is_deleted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_named_by_text() {
        let text = "shop/db/data.12";
        let volume: VolumeRef = text.parse().expect("valid");
        assert_eq!((volume.name.as_str(), volume.slot, volume.to_string().as_str()), ("data", 12, text));
        for bad in ["", "shop/db/data", "db/data.0", "shop/db/data.-1", "shop/db/data.01", "shop/db/x/data.0", "a/b/.0"]
        {
            assert!(bad.parse::<VolumeRef>().is_err(), "{bad}");
        }
    }
}
