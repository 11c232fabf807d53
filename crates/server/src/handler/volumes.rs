//! Volumes: which there are, and what users change about them.

use insula_api::{
    Answer, Code, Problem,
    handler::NodeKey,
    wire::{List, Versioned, Volume, VolumeState},
};
use insula_state::{RegionCommand, RegionState};
use insula_types::{ByteSize, RequestId, Volume as Known, VolumeRef};

use super::{NodeApi, cluster::find_node};

impl NodeApi {
    pub(super) fn list_volumes(&self) -> List<Volume> {
        self.region.replica().read_at(|region, revision| {
            let items = region.volumes.iter().map(|(name, volume)| wire(region, name, volume)).collect();
            List { revision, items }
        })
    }

    pub(super) async fn make_volume(
        &self,
        volume: VolumeRef,
        node: &NodeKey,
        size: ByteSize,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Volume>> {
        let node = self.region.read(|region| find_node(region, node).map(|node| node.id))?;
        let command = RegionCommand::CreateVolume { volume: volume.clone(), node, size };
        self.change_volume(volume, request, &command).await
    }

    pub(super) async fn grow_volume(
        &self,
        volume: VolumeRef,
        size: ByteSize,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Volume>> {
        let command = RegionCommand::GrowVolume { volume: volume.clone(), size };
        self.change_volume(volume, request, &command).await
    }

    /// Gives the volume as it was when it was deleted.
    pub(super) async fn take_volume_away(
        &self,
        volume: VolumeRef,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Volume>> {
        let mut deleted = self.show_volume(&volume)?;
        let command = RegionCommand::DeleteVolume { volume };
        deleted.revision = self.change(&self.region, request, &command).await.map_err(of_volume)?.revision;
        deleted.value.state = VolumeState::Deleting;
        Ok(deleted)
    }

    async fn change_volume(
        &self,
        volume: VolumeRef,
        request: Option<RequestId>,
        command: &RegionCommand,
    ) -> Answer<Versioned<Volume>> {
        self.change(&self.region, request, command).await.map_err(of_volume)?;
        self.show_volume(&volume)
    }

    pub(super) fn show_volume(&self, name: &VolumeRef) -> Answer<Versioned<Volume>> {
        self.region.replica().read_at(|region, revision| {
            let found = region.volumes.get(name).ok_or_else(|| {
                Problem::new(Code::NoSuchVolume, format!("{name}: `insula volume ls` lists those there are"))
            })?;
            Ok(Versioned { revision, value: wire(region, name, found) })
        })
    }
}

fn wire(region: &RegionState, name: &VolumeRef, volume: &Known) -> Volume {
    let node = region.nodes.get(&volume.node);
    let state = match node {
        None => VolumeState::Lost,
        _ if volume.is_deleted => VolumeState::Deleting,
        Some(node) if !node.health.is_up() => VolumeState::NodeDown,
        Some(_) if volume.is_made => VolumeState::Ready,
        Some(_) => VolumeState::Pending,
    };
    let user = region.placements.values().find(|placement| placement.volumes().any(|used| used == *name));
    Volume {
        volume: name.to_string(),
        node: volume.node,
        node_name: node.map(|node| node.name.clone()),
        size: volume.size,
        state,
        instance: user.map(|placement| placement.instance),
        created_ms: volume.created_ms,
    }
}

/// What is not found here is a volume.
fn of_volume(problem: Problem) -> Problem {
    match problem.code {
        Code::NoSuchApp => Problem { code: Code::NoSuchVolume, ..problem },
        _ => problem,
    }
}
