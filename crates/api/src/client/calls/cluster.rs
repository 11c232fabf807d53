//! Calls about nodes, regions, tokens, authorities and events.

use std::time::Duration;

use http::Method;
use insula_types::{AppName, HttpRequestId, Revision, TokenId};
use serde::{Serialize, de::DeserializeOwned};

use super::{CALL_LIMIT, Client, ClientError, EventReader, LogReader, expecting};
use crate::{
    Code,
    handler::StateKey,
    router::WAIT_MAX,
    wire::{
        ApiTokenBody, ApiTokenCreated, CaStatus, Doctor, DutyBody, EventCursor, FindBody, Found, JoinTokenBody,
        JoinTokenCreated, Latency, List, LossPlan, Node, NodeDuty, NodeRemoved, NodeStatus, RecoveryBody, Region,
        Reloaded, RequestReport, RootAdded, RootBody, RootChanged, Token, TokenRemoved, Usage, Versioned,
    },
};

/// Tokens that are made at most until the answer with one arrives.
const TOKENS_MAX: usize = 3;

impl Client {
    /// A state as the node has it: pieces of an archive. The time until the first byte is bounded.
    ///
    /// # Errors
    /// As every call here.
    pub async fn backup(&self, state: StateKey) -> Result<LogReader, ClientError> {
        self.stream(format!("/v1/state/{}/backup", state.as_str())).await
    }

    /// Nodes of the region.
    ///
    /// # Errors
    /// As every call here.
    pub async fn nodes(&self) -> Result<List<Node>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// What nodes and instances use now; at most `most` instances, of one app or of all.
    ///
    /// # Errors
    /// As every call here.
    pub async fn usage(&self, app: Option<&AppName>, most: u32) -> Result<Usage, ClientError> {
        let app = app.map(|app| format!("&app={app}")).unwrap_or_default();
        self.get(format!("/v1/usage?limit={most}{app}")).await
    }

    /// Round trips between regions, and with `with_nodes` between nodes of the one that answers.
    ///
    /// # Errors
    /// As every call here.
    pub async fn latency(&self, with_nodes: bool) -> Result<Latency, ClientError> {
        self.get(format!("/v1/latency?nodes={with_nodes}")).await
    }

    /// What the edges of the region remember of the requests with an id.
    ///
    /// # Errors
    /// As every call here.
    pub async fn request(&self, id: &HttpRequestId) -> Result<RequestReport, ClientError> {
        self.get(format!("/v1/requests/{id}")).await
    }

    /// One node by its exact id or name.
    ///
    /// # Errors
    /// As every call here.
    pub async fn node(&self, key: &str) -> Result<Versioned<Node>, ClientError> {
        self.get(format!("/v1/nodes/{key}")).await
    }

    /// One node, once the state is beyond that revision or after [`WAIT_MAX`].
    ///
    /// # Errors
    /// As every call here.
    pub async fn node_after(&self, key: &str, seen: Revision) -> Result<Versioned<Node>, ClientError> {
        let mut call = self.call(Method::GET, format!("/v1/nodes/{key}?wait={seen}"));
        call.limit = CALL_LIMIT + WAIT_MAX;
        self.json(call).await
    }

    /// Says what a node, by its exact id or name, shall do.
    ///
    /// # Errors
    /// As every call here.
    pub async fn set_node_duty(&self, key: &str, duty: NodeDuty) -> Result<Versioned<Node>, ClientError> {
        self.json(self.call(Method::PUT, format!("/v1/nodes/{key}/duty")).with_json(&DutyBody { duty })).await
    }

    /// Removes a node for ever, if it is still as it was seen; with `is_forced` also while it is up or has instances.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_node(&self, seen: &Node, is_forced: bool) -> Result<Versioned<NodeRemoved>, ClientError> {
        let call = self.call(Method::DELETE, format!("/v1/nodes/{}?force={is_forced}", seen.id));
        self.json(expecting(call, Some(seen.changed.0))).await
    }

    /// All regions.
    ///
    /// # Errors
    /// As every call here.
    pub async fn regions(&self) -> Result<List<Region>, ClientError> {
        self.get("/v1/regions").await
    }

    /// Events after a place; with `follow` without end.
    #[must_use]
    pub fn events(&self, since: Option<EventCursor>, follow: bool) -> EventReader {
        EventReader::new(self.clone(), since, follow)
    }

    /// Makes a token with which machines join.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_join_token(&self, body: &JoinTokenBody) -> Result<Versioned<JoinTokenCreated>, ClientError> {
        self.token("/v1/tokens/join", body).await
    }

    /// Makes a token for the API.
    ///
    /// # Errors
    /// As every call here.
    pub async fn create_api_token(&self, body: &ApiTokenBody) -> Result<Versioned<ApiTokenCreated>, ClientError> {
        self.token("/v1/tokens/api", body).await
    }

    /// Makes a token. When only the answer to an attempt before was lost, that token is known to nobody: another is made.
    async fn token<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        for _ in 1..TOKENS_MAX {
            match self.json(self.call(Method::POST, path).with_json(body)).await {
                Err(ClientError::Problem(problem)) if problem.code == Code::AlreadyDone => {}
                made => return made,
            }
        }
        self.json(self.call(Method::POST, path).with_json(body)).await
    }

    /// All tokens: the API's, and those to join the region with.
    ///
    /// # Errors
    /// As every call here.
    pub async fn tokens(&self) -> Result<List<Token>, ClientError> {
        self.get("/v1/tokens").await
    }

    /// Ends a token, by its exact id.
    ///
    /// # Errors
    /// As every call here.
    pub async fn remove_token(&self, id: TokenId) -> Result<Versioned<TokenRemoved>, ClientError> {
        self.json(self.call(Method::DELETE, format!("/v1/tokens/{id}"))).await
    }

    /// Which roots there are, and how far the nodes are.
    ///
    /// # Errors
    /// As every call here.
    pub async fn authorities(&self) -> Result<Versioned<CaStatus>, ClientError> {
        self.get("/v1/ca").await
    }

    /// Lets the active root sign the region's CA anew.
    ///
    /// # Errors
    /// As every call here.
    pub async fn renew_region(&self, body: &RecoveryBody) -> Result<Versioned<RootChanged>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/renew-region").with_json(body)).await
    }

    /// Makes a root that shall replace the active one.
    ///
    /// # Errors
    /// As every call here.
    pub async fn add_root(&self, body: &RecoveryBody) -> Result<Versioned<RootAdded>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/add-root").with_json(body)).await
    }

    /// Takes a root into use that every node trusts.
    ///
    /// # Errors
    /// As every call here.
    pub async fn activate_root(&self, body: &RootBody) -> Result<Versioned<RootChanged>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/activate-root").with_json(body)).await
    }

    /// Ends the trust in a root that retires.
    ///
    /// # Errors
    /// As every call here.
    pub async fn retire_root(&self, body: &RootBody) -> Result<Versioned<RootChanged>, ClientError> {
        self.json(self.call(Method::POST, "/v1/ca/retire-root").with_json(body)).await
    }

    /// Lets the node that answers take over what has changed in its configuration.
    ///
    /// # Errors
    /// As every call here.
    pub async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.json(self.call(Method::POST, "/v1/node/reload")).await
    }

    /// Lets the node that answers look for another one at an address.
    ///
    /// # Errors
    /// As every call here.
    pub async fn find(&self, address: std::net::SocketAddr) -> Result<Found, ClientError> {
        self.json(self.call(Method::POST, "/v1/node/find").with_json(&FindBody { address })).await
    }

    /// How the node that answers is.
    ///
    /// # Errors
    /// As every call here.
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.get("/v1/status").await
    }

    /// What would become of what runs on a node, or in a data centre, were it lost. `kind` is `node` or `datacenter`; `name` is
    /// one that can be part of a path.
    ///
    /// # Errors
    /// As every call here.
    pub async fn loss(&self, kind: &str, name: &str) -> Result<Versioned<LossPlan>, ClientError> {
        self.get(format!("/v1/losses?{kind}={name}")).await
    }

    /// Whether the node that answers is as it shall be.
    ///
    /// # Errors
    /// As every call here.
    pub async fn doctor(&self) -> Result<Doctor, ClientError> {
        self.get("/v1/doctor").await
    }

    /// Whether anything answers, within `limit`.
    pub async fn is_reachable(&self, limit: Duration) -> bool {
        let reached = insula_env::clock::timeout(limit, self.status()).await;
        reached.is_ok_and(|answer| !matches!(answer, Err(ClientError::Unreachable { .. })))
    }
}
