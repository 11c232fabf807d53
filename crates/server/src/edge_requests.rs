//! What the edges of the region remember of requests: asked of each node's dataplane, which alone knows, when somebody wants to know.

use std::time::Duration;

use insula_catalog::link::{Link, LinkError};
use insula_env::clock;
use insula_rpc::Status;
use insula_types::{HttpRequestId, NodeId, Remembered};

use crate::{
    everyone::Everyone,
    methods::{AskRequests, AskRequestsRequest},
};

/// How long another node may take, its dataplane included.
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// How long a dataplane may take to look.
const DATAPLANE_LIMIT: Duration = Duration::from_secs(2);

/// Asks all edges of the region.
#[derive(Clone)]
pub(crate) struct EdgeRequests {
    pub everyone: Everyone,
    pub dataplane: Link,
}

impl EdgeRequests {
    /// What this node's edge remembers.
    ///
    /// # Errors
    /// Internal, with the reason why it does not say.
    pub(crate) async fn tell(&self, id: &HttpRequestId) -> Result<Remembered, Status> {
        match clock::timeout(DATAPLANE_LIMIT, self.dataplane.requests(id)).await {
            Ok(told) => told.map_err(|error| match error {
                LinkError::NotConnected => Status::internal("does not tell: its dataplane is not connected"),
                LinkError::Failed { why, .. } => Status::internal(format!("does not tell (its dataplane: {why})")),
            }),
            Err(_) => Err(Status::internal("does not tell: its dataplane does not answer")),
        }
    }

    /// What each edge remembers, or why it does not say.
    pub(crate) async fn ask(&self, id: &HttpRequestId) -> Vec<(NodeId, Result<Remembered, String>)> {
        let request = AskRequestsRequest { id: id.clone() };
        self.everyone.ask::<AskRequests>(&request, ASK_LIMIT, self.tell(id)).await
    }
}
