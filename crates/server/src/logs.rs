//! Reads instances' logs on whichever node has them.

use async_trait::async_trait;
use bytes::Bytes;
use insula_types::{InstanceId, NodeId};

/// Most bytes of a log that one read gives; an instance keeps a few MiB.
pub const LOG_BYTES_MAX: u64 = 4 << 20;

/// Reads the end of a log.
#[async_trait]
pub trait Logs: Send + Sync {
    /// The last `bytes_max` bytes of what an instance wrote on a node, in whole lines.
    ///
    /// # Errors
    /// Why not, in words.
    async fn read(&self, node: NodeId, instance: InstanceId, bytes_max: u64) -> Result<Bytes, String>;
}
