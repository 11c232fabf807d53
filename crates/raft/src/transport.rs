//! How messages of groups get from node to node. The sender's identity is the transport's to prove.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use insula_types::NodeId;

use crate::{config::GroupId, error::TransportError};

/// What a message is for; the transport may give each its own connection and priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Elections.
    Vote,
    /// Log entries and heartbeats.
    Append,
    /// Is anybody there?
    Ping,
    /// Parts of a snapshot: large, and never to delay the others.
    Snapshot,
}

/// Carries a request to the same group on another node, and its answer back.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `message` to `group` on `target`, where [`crate::Group::handle`] makes the answer. Dropping the future
    /// gives up on the answer; the message may have been delivered.
    ///
    /// # Errors
    /// [`TransportError`] when there is no answer within `limit`.
    async fn send(
        &self,
        target: NodeId,
        group: GroupId,
        message: Bytes,
        class: Class,
        limit: Duration,
    ) -> Result<Bytes, TransportError>;
}
