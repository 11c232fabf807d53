//! Snapshots of volumes: asked of the nodes that have them, done by those.

use insula_api::{
    Answer, Code, Problem,
    wire::{Snapshot, Snapshots, Versioned, Volume},
};
use insula_rpc::{Code as RpcCode, Status};
use insula_state::RegionState;
use insula_types::{NodeId, SnapshotName, VolumeRef};

use super::NodeApi;
use crate::methods::{NodeSnapshot, SnapshotRequest};

impl NodeApi {
    pub(super) async fn list_snapshots(&self) -> Snapshots {
        let listed = self.snapshots.list().await;
        self.region.replica().read_at(|region, revision| {
            let (mut items, mut silent) = (Vec::new(), Vec::new());
            for (node, found) in listed {
                match found {
                    Some(found) => items.extend(found.into_iter().map(|one| wire(region, node, one))),
                    None => silent.extend(region.nodes.get(&node).map(|node| node.name.clone())),
                }
            }
            items.sort_by(|a, b| (&a.volume, a.created_ms, &a.snapshot).cmp(&(&b.volume, b.created_ms, &b.snapshot)));
            Snapshots { revision, items, silent }
        })
    }

    pub(super) async fn make_snapshot(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Snapshot>> {
        let node = self.show_volume(&volume)?.value.node;
        let made = self.snapshots.make(node, &SnapshotRequest { volume, snapshot }).await;
        self.versioned(node, made.map_err(|status| self.refused(node, &status, Code::NoSuchVolume))?)
    }

    /// Gives the volume as it is then.
    pub(super) async fn bring_back(&self, volume: VolumeRef, snapshot: SnapshotName) -> Answer<Versioned<Volume>> {
        let node = self.show_volume(&volume)?.value.node;
        let user = self.region.read(|region| {
            let user = region.placements.values().find(|placement| placement.volumes().any(|used| used == volume));
            user.map(|placement| (placement.service.clone(), placement.instance))
        });
        if let Some((service, instance)) = user {
            let said = format!(
                "{service} {instance} uses {volume}: `insula scale {service} 0` first, and as it was afterwards"
            );
            return Err(Problem::new(Code::Conflict, said));
        }
        let request = SnapshotRequest { volume, snapshot };
        self.snapshots
            .restore(node, &request)
            .await
            .map_err(|status| self.refused(node, &status, Code::NoSuchSnapshot))?;
        self.show_volume(&request.volume)
    }

    /// Gives the snapshot as it was. Its volume may be gone.
    pub(super) async fn take_snapshot_away(
        &self,
        volume: VolumeRef,
        snapshot: SnapshotName,
    ) -> Answer<Versioned<Snapshot>> {
        let node = match self.show_volume(&volume) {
            Ok(found) => found.value.node,
            Err(_) => self.holder(&volume, &snapshot).await?,
        };
        let gone = self.snapshots.remove(node, &SnapshotRequest { volume, snapshot }).await;
        self.versioned(node, gone.map_err(|status| self.refused(node, &status, Code::NoSuchSnapshot))?)
    }

    /// The node that has a snapshot of a volume that is no more.
    async fn holder(&self, volume: &VolumeRef, snapshot: &SnapshotName) -> Answer<NodeId> {
        let all = self.list_snapshots().await;
        let is_it = |one: &&Snapshot| one.volume == volume.to_string() && one.snapshot == *snapshot;
        let nodes: Vec<&Snapshot> = all.items.iter().filter(is_it).collect();
        match nodes[..] {
            [one] => Ok(one.node),
            [] => {
                let silent = match all.silent[..] {
                    [] => String::new(),
                    _ => format!("; {} nodes did not answer", all.silent.len()),
                };
                let said = format!(
                    "{volume} has no snapshot {snapshot}: `insula volume snapshot ls` lists those there are{silent}"
                );
                Err(Problem::new(Code::NoSuchSnapshot, said))
            }
            _ => {
                let said = format!(
                    "{} nodes have a {snapshot} of {volume}, which is on none of them now: `insula volume create {volume} \
                     --node …` says which is meant",
                    nodes.len()
                );
                Err(Problem::new(Code::Conflict, said))
            }
        }
    }

    fn versioned(&self, node: NodeId, found: NodeSnapshot) -> Answer<Versioned<Snapshot>> {
        self.region.replica().read_at(|region, revision| Ok(Versioned { revision, value: wire(region, node, found) }))
    }

    /// `absent`: what it is that a node does not find.
    fn refused(&self, node: NodeId, status: &Status, absent: Code) -> Problem {
        let code = match status.code {
            RpcCode::NotFound => absent,
            RpcCode::Conflict => Code::Conflict,
            RpcCode::ResourceExhausted | RpcCode::FailedPrecondition => Code::Busy,
            RpcCode::UnknownMethod => Code::NotYet,
            RpcCode::Internal => Code::Internal,
            RpcCode::ConnectionLost | RpcCode::DeadlineExceeded => Code::OutcomeUnknown,
            _ => Code::NodeUnreachable,
        };
        let name = self.region.read(|region| region.nodes.get(&node).map(|node| node.name.clone()));
        let name = name.map_or_else(|| node.to_string(), |name| name.to_string());
        Problem::new(code, format!("node {name}: {status}"))
    }
}

fn wire(region: &RegionState, node: NodeId, found: NodeSnapshot) -> Snapshot {
    Snapshot {
        snapshot: found.snapshot,
        volume: found.volume.to_string(),
        node,
        node_name: region.nodes.get(&node).map(|node| node.name.clone()),
        size: found.size,
        used: found.used,
        created_ms: found.created_ms,
    }
}
