//! Decides on volumes: where they are, how large, and who uses them.

use insula_types::{ByteSize, NodeId, Placement, Volume, VolumeRef};

use super::{Apply, Decision};
use crate::{
    Conflict, Rejection,
    event::{Event, EventKind},
    region::{RegionKey, RegionObject, RegionReply},
};

impl Apply<'_> {
    pub(super) fn create_volume(&mut self, volume: &VolumeRef, node: NodeId, size: ByteSize) -> Decision {
        let name = self.node(node)?.name.clone();
        if let Some(present) = self.state.volumes.get(volume) {
            let text = format!("there is a volume {volume} already, on {}", self.node_name(present.node));
            return Err(Rejection::conflict(Conflict::VolumeExists, text));
        }
        let others = self.state.volumes.iter().find(|(other, made)| is_beside(other, volume) && made.node != node);
        if let Some((other, made)) = others {
            let place = self.node_name(made.node);
            let text = format!("{other} is of the same instance and on {place}: {volume} must be there too");
            return Err(Rejection::conflict(Conflict::VolumeElsewhere, text));
        }
        self.put_volume(volume, Volume { node, size, created_ms: self.at_ms, is_made: false, is_deleted: false });
        let text = format!("volume {volume} ({size}) was made on node {name}");
        self.event(Event::new(self.at_ms, EventKind::Note, text).node(node).app(&volume.service.app));
        Ok(RegionReply::Done)
    }

    pub(super) fn grow_volume(&mut self, volume: &VolumeRef, size: ByteSize) -> Decision {
        let present = self.volume(volume)?.clone();
        if size < present.size {
            let text = format!("{volume} has {}, and a volume is never made smaller: data could be lost", present.size);
            return Err(Rejection::conflict(Conflict::VolumeNotSmaller, text));
        }
        if size > present.size {
            self.put_volume(volume, Volume { size, ..present });
        }
        Ok(RegionReply::Done)
    }

    pub(super) fn delete_volume(&mut self, volume: &VolumeRef) -> Decision {
        let present = self.volume(volume)?.clone();
        if let Some(user) = self.state.placements.values().find(|placement| placement.volumes().any(|v| v == *volume)) {
            let (service, instance) = (&user.service, user.instance);
            return Err(Rejection::conflict(
                Conflict::VolumeInUse,
                format!(
                    "{service} {instance} uses {volume}: scale {service} down, take the volume out of its definition, or \
                 remove the app first"
                ),
            ));
        }
        let node = present.node;
        if self.state.nodes.contains(&node) {
            self.put_volume(volume, Volume { is_deleted: true, ..present });
        } else {
            self.out.remove(RegionKey::Volume(volume.clone()));
        }
        let text = format!("volume {volume} was deleted with all that was in it");
        self.event(Event::new(self.at_ms, EventKind::Note, text).node(node).app(&volume.service.app));
        Ok(RegionReply::Done)
    }

    pub(super) fn confirm_volume(&mut self, node: NodeId, volume: &VolumeRef) -> Decision {
        match self.state.volumes.get(volume) {
            Some(present) if present.node != node => {
                Err(Rejection::conflict(Conflict::Ours, format!("{volume} is on {}", self.node_name(present.node))))
            }
            Some(present) if !present.is_made => {
                self.put_volume(volume, Volume { is_made: true, ..present.clone() });
                Ok(RegionReply::Done)
            }
            // Said twice, or deleted and forgotten meanwhile.
            _ => Ok(RegionReply::Done),
        }
    }

    pub(super) fn forget_volume(&mut self, node: NodeId, volume: &VolumeRef) -> Decision {
        match self.state.volumes.get(volume) {
            Some(present) if present.node == node && present.is_deleted => {
                self.out.remove(RegionKey::Volume(volume.clone()));
                Ok(RegionReply::Done)
            }
            Some(_) => {
                Err(Rejection::conflict(Conflict::Ours, format!("{volume} is not one that node {node} was to delete")))
            }
            // Said twice.
            None => Ok(RegionReply::Done),
        }
    }

    /// Whether a new placement can have its volumes; `earlier` come with the same command.
    pub(super) fn check_volumes(&self, placement: &Placement, earlier: &[Placement]) -> Result<(), Rejection> {
        let Some(slot) = placement.slot else { return Ok(()) };
        let is_same = |other: &&Placement| other.slot == Some(slot) && other.service == placement.service;
        if let Some(holder) = earlier.iter().chain(self.state.placements.values()).find(is_same) {
            let (service, instance) = (&placement.service, holder.instance);
            return Err(Rejection::conflict(
                Conflict::Ours,
                format!("instance {instance} has slot {slot} of {service} already"),
            ));
        }
        for volume in placement.volumes() {
            match self.state.volumes.get(&volume) {
                Some(present) if present.node != placement.node => {
                    let place = self.node_name(present.node);
                    return Err(Rejection::conflict(Conflict::Ours, format!("volume {volume} is on {place}")));
                }
                Some(present) if present.is_deleted => {
                    return Err(Rejection::conflict(Conflict::Ours, format!("volume {volume} is being deleted")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the volumes that a placement lacks, and larger those that are smaller than its definition says.
    pub(super) fn provide_volumes(&mut self, placement: &Placement) {
        for (volume, spec) in placement.volumes().zip(&placement.spec.volumes) {
            let made = Volume {
                node: placement.node,
                size: spec.size,
                created_ms: self.at_ms,
                is_made: false,
                is_deleted: false,
            };
            match self.state.volumes.get(&volume) {
                None => self.put_volume(&volume, made),
                Some(present) if present.size < spec.size => {
                    self.put_volume(&volume, Volume { size: spec.size, ..present.clone() });
                }
                Some(_) => {}
            }
        }
    }

    fn volume(&self, volume: &VolumeRef) -> Result<&Volume, Rejection> {
        let present = self.state.volumes.get(volume).filter(|present| !present.is_deleted);
        present.ok_or_else(|| Rejection::not_found(format!("there is no volume {volume} in this region")))
    }

    fn put_volume(&mut self, volume: &VolumeRef, value: Volume) {
        self.out.put(RegionKey::Volume(volume.clone()), RegionObject::Volume(value));
    }

    fn node_name(&self, node: NodeId) -> String {
        match self.state.nodes.get(&node) {
            Some(node) => format!("node {}", node.name),
            None => format!("node {node}, which is no member any more"),
        }
    }
}

/// Whether two volumes are of one instance.
fn is_beside(one: &VolumeRef, other: &VolumeRef) -> bool {
    (one.slot, &one.service) == (other.slot, &other.service)
}
