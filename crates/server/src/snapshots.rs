//! Snapshots of volumes, on this node and on others. Nothing of them is in a replicated state: the node that has one tells.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use futures::{FutureExt, future::join_all};
use insula_container::{Error, NodeRuntime, StoredSnapshot};
use insula_rpc::{Code, Peers, Status};
use insula_state::{RegionState, Replica};
use insula_telemetry::chain;
use insula_types::{ByteSize, NodeId, VolumeRef};

use crate::methods::{
    ListSnapshots, ListSnapshotsRequest, MakeSnapshot, NodeSnapshot, RemoveSnapshot, RestoreSnapshot, SnapshotRequest,
};

/// How long another node may take to say which snapshots it has, or to remove one.
const ASK_LIMIT: Duration = Duration::from_secs(4);
/// How long an answer is waited for that takes a copy of a volume: 200 GiB at 120 MB/s.
const COPY_LIMIT: Duration = Duration::from_secs(1800);

/// Snapshots of the region's nodes.
#[derive(Clone)]
pub(crate) struct Snapshots {
    pub node: NodeId,
    pub rpc: Peers,
    pub region: Arc<Replica<RegionState>>,
    pub runtime: NodeRuntime,
}

impl Snapshots {
    /// What each node of the region has; none of one that does not answer.
    pub(crate) async fn list(&self) -> Vec<(NodeId, Option<Vec<NodeSnapshot>>)> {
        let nodes = self.region.read(|region| region.nodes.values().map(|node| node.id).collect::<Vec<_>>());
        let answers = nodes.into_iter().map(|node| {
            async move {
                let listed = if node == self.node {
                    self.stored().await
                } else {
                    self.rpc.call::<ListSnapshots>(node, &ListSnapshotsRequest {}, ASK_LIMIT).await
                };
                match listed {
                    Ok(listed) => (node, Some(listed)),
                    // One of an earlier version has none.
                    Err(status) if status.code == Code::UnknownMethod => (node, Some(Vec::new())),
                    Err(_) => (node, None),
                }
            }
            .boxed()
        });
        join_all(answers).await
    }

    pub(crate) async fn make(&self, node: NodeId, request: &SnapshotRequest) -> Result<NodeSnapshot, Status> {
        if node == self.node {
            return self.make_here(request).await;
        }
        self.rpc.call::<MakeSnapshot>(node, request, COPY_LIMIT).await
    }

    pub(crate) async fn restore(&self, node: NodeId, request: &SnapshotRequest) -> Result<(), Status> {
        if node == self.node {
            return self.restore_here(request).await;
        }
        self.rpc.call::<RestoreSnapshot>(node, request, COPY_LIMIT).await
    }

    pub(crate) async fn remove(&self, node: NodeId, request: &SnapshotRequest) -> Result<NodeSnapshot, Status> {
        if node == self.node {
            return self.remove_here(request).await;
        }
        self.rpc.call::<RemoveSnapshot>(node, request, ASK_LIMIT).await
    }

    /// Those that are here.
    pub(crate) async fn stored(&self) -> Result<Vec<NodeSnapshot>, Status> {
        let found = self.runtime.snapshots().await.map_err(|error| refused(&error))?;
        Ok(found.into_iter().map(told).collect())
    }

    pub(crate) async fn make_here(
        &self,
        SnapshotRequest { volume, snapshot }: &SnapshotRequest,
    ) -> Result<NodeSnapshot, Status> {
        self.size_here(volume)?;
        self.runtime.make_snapshot(volume, snapshot).await.map(told).map_err(|error| refused(&error))
    }

    pub(crate) async fn restore_here(
        &self,
        SnapshotRequest { volume, snapshot }: &SnapshotRequest,
    ) -> Result<(), Status> {
        let size = self.size_here(volume)?;
        self.runtime.restore_snapshot(volume, snapshot, size).await.map_err(|error| refused(&error))
    }

    pub(crate) async fn remove_here(
        &self,
        SnapshotRequest { volume, snapshot }: &SnapshotRequest,
    ) -> Result<NodeSnapshot, Status> {
        self.runtime.delete_snapshot(volume, snapshot).await.map(told).map_err(|error| refused(&error))
    }

    /// The size that the region wants a volume of this node to have.
    fn size_here(&self, volume: &VolumeRef) -> Result<ByteSize, Status> {
        let found = self.region.read(|region| region.volumes.get(volume).cloned());
        match found {
            Some(found) if found.node == self.node && !found.is_deleted => Ok(found.size),
            Some(found) if found.is_deleted => Err(Status::new(Code::Conflict, format!("{volume} is being deleted"))),
            // This node may not have seen it yet.
            _ => Err(Status::retryable(
                Code::FailedPrecondition,
                format!("{volume} is not known as a volume of node {}", self.node),
            )),
        }
    }
}

fn told(one: StoredSnapshot) -> NodeSnapshot {
    let since = one.created.duration_since(std::time::UNIX_EPOCH);
    NodeSnapshot {
        volume: one.volume,
        snapshot: one.snapshot,
        size: one.size,
        used: one.used,
        created_ms: since.map_or(0, |since| since.as_millis() as u64),
    }
}

/// Why not, for the caller: what the user can do something about is said without the node's paths.
fn refused(error: &Error) -> Status {
    let Error::File { source, .. } = error else { return Status::internal(chain(error)) };
    let code = match source.kind() {
        // What the operating system says itself is no word for users.
        _ if source.raw_os_error().is_some() => return Status::internal(chain(error)),
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists | ErrorKind::ResourceBusy | ErrorKind::StorageFull | ErrorKind::TimedOut => {
            Code::Conflict
        }
        ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        _ => return Status::internal(chain(error)),
    };
    Status::new(code, source.to_string())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_users_can_do_something_about_is_said_without_paths_of_the_node() {
        let file = |source| Error::File { attempt: "make a snapshot of", path: "/data/v.img".into(), source };
        let words = |kind| refused(&file(io::Error::new(kind, "in words")));
        for (kind, code) in [
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::ResourceBusy, Code::Conflict),
            (ErrorKind::StorageFull, Code::Conflict),
            (ErrorKind::QuotaExceeded, Code::ResourceExhausted),
        ] {
            assert_eq!((words(kind).code, words(kind).message.as_str()), (code, "in words"));
        }
        // The system's own "no such file" is a fault of ours, and says where.
        let found = refused(&file(io::Error::from_raw_os_error(2)));
        assert!(found.code == Code::Internal && found.message.contains("/data/v.img"), "{found:?}");
    }
}
