//! Messages of groups over the port between nodes: protocol `raft` for all but snapshots, which take `bulk` so that
//! they delay nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use insula_rpc::{Caller, Code, Handler, Peers, Status};
use insula_types::NodeId;
use parking_lot::Mutex;

use crate::{
    config::GroupId,
    error::TransportError,
    group::Group,
    transport::{Class, Transport},
};

/// The number of this method on both protocols. Body: the group's number, two bytes, most significant first; then the
/// message. Answer: the group's answer.
pub const METHOD: u16 = 1;

/// Sends through two pools of connections.
#[derive(Debug, Clone)]
pub struct RpcTransport {
    raft: Peers,
    bulk: Peers,
}

impl RpcTransport {
    /// `raft` and `bulk` are the pools of these protocols.
    pub fn new(raft: Peers, bulk: Peers) -> Self {
        Self { raft, bulk }
    }
}

#[async_trait]
impl Transport for RpcTransport {
    async fn send(
        &self,
        target: NodeId,
        group: GroupId,
        message: Bytes,
        class: Class,
        limit: Duration,
    ) -> Result<Bytes, TransportError> {
        let mut body = BytesMut::with_capacity(message.len() + 2);
        body.put_u16(group.0);
        body.put(message);
        let peers = if class == Class::Snapshot { &self.bulk } else { &self.raft };
        peers.call_raw(target, METHOD, body.freeze(), limit).await.map_err(|status| match status.code {
            Code::DeadlineExceeded => TransportError::Late { target },
            _ => TransportError::Unreachable { target, source: Box::new(status) },
        })
    }
}

/// Answers for the groups of this node. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RpcGroups(Arc<Mutex<BTreeMap<GroupId, Group>>>);

impl RpcGroups {
    /// Lets others reach `group`, in place of an earlier life of it.
    pub fn insert(&self, group: Group) {
        self.0.lock().insert(group.config().group, group);
    }

    /// Takes a group away.
    pub fn remove(&self, group: GroupId) {
        self.0.lock().remove(&group);
    }
}

#[async_trait]
impl Handler for RpcGroups {
    async fn call(&self, caller: &Caller, method: u16, mut body: Bytes) -> Result<Bytes, Status> {
        if method != METHOD {
            return Err(Status::unknown_method(method));
        }
        if body.len() < 2 {
            return Err(Status::new(Code::InvalidArgument, "the message names no group"));
        }
        let id = GroupId(body.get_u16());
        let group = self.0.lock().get(&id).cloned();
        let Some(group) = group else {
            return Err(Status::retryable(Code::FailedPrecondition, format!("group {id} does not run here (yet)")));
        };
        Ok(group.handle(caller.identity.node, body).await)
    }
}
