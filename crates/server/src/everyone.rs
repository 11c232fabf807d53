//! Questions to every node of the region, for answers that are in no replicated state: what nobody asks costs nothing.

use std::{future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use insula_rpc::{Code, Method, Peers, Status};
use insula_state::{RegionState, Replica};
use insula_types::NodeId;

/// Nodes that are asked at the same time.
const ASKED_MAX: usize = 64;

/// All nodes of the region, this one included.
#[derive(Clone)]
pub(crate) struct Everyone {
    pub node: NodeId,
    pub rpc: Peers,
    pub region: Arc<Replica<RegionState>>,
}

impl Everyone {
    /// What each node answers, or why it does not, in no order. `own` is this node's answer; others may take so long.
    pub(crate) async fn ask<M: Method>(
        &self,
        request: &M::Request,
        limit: Duration,
        own: impl Future<Output = Result<M::Response, Status>>,
    ) -> Vec<(NodeId, Result<M::Response, String>)> {
        let nodes = self
            .region
            .read(|region| region.nodes.values().map(|node| (node.id, node.health.is_up())).collect::<Vec<_>>());
        let is_own_known = nodes.iter().any(|(node, _)| *node == self.node);
        let others = nodes.into_iter().filter(|(node, _)| *node != self.node).map(async |(node, is_up)| {
            // It would only be waited for.
            if !is_up {
                return (node, Err("is down".to_owned()));
            }
            (node, self.rpc.call::<M>(node, request, limit).await.map_err(|status| why(&status)))
        });
        let others = stream::iter(others).buffer_unordered(ASKED_MAX).collect::<Vec<_>>();
        let (mut all, own) = futures::join!(others, own);
        if is_own_known {
            all.push((self.node, own.map_err(|status| why(&status))));
        }
        all
    }
}

/// Why a node does not tell, for sentences that begin with its name.
pub(crate) fn why(status: &Status) -> String {
    match status.code {
        Code::UnknownMethod => "runs an earlier version, which does not tell".to_owned(),
        Code::Internal => status.message.clone(),
        _ => "does not answer".to_owned(),
    }
}
