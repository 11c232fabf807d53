//! One call of the API, told apart by what its caller may conclude: done, surely not done, or nobody knows.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use insula_api::{Code, Problem};
use insula_env::{TaskGroup, clock};
use serde_json::{Value, json};

use super::record::Outcome;
use crate::writes::Insula;

/// How long one attempt may take, its connection included.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(4);
/// Attempts at one operation, each at another node.
const ATTEMPTS: usize = 4;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest answer that is read.
const ANSWER_LEN_MAX: usize = 4 << 20;

/// What is to be called.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(header::HeaderName, String)>,
    pub(super) body: String,
}

impl Call {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), headers: Vec::new(), body: String::new() }
    }

    /// A change under a key of its own, so that it can be sent again and is done once.
    pub(super) fn change(method: Method, path: impl Into<String>, key: &str, body: &Value) -> Self {
        let headers = vec![(header::HeaderName::from_static("idempotency-key"), key.to_owned())];
        Self { method, path: path.into(), headers, body: body.to_string() }
    }
}

/// A caller with a connection of its own to each node.
pub(super) struct Caller {
    pub(super) insula: Insula,
    pub(super) tasks: TaskGroup,
    pub(super) nodes: Vec<SocketAddr>,
    pub(super) connections: BTreeMap<SocketAddr, SendRequest<Full<Bytes>>>,
}

impl Caller {
    pub(super) fn new(insula: &Insula, nodes: &[SocketAddr], tasks: &TaskGroup) -> Self {
        Self { insula: insula.clone(), tasks: tasks.clone(), nodes: nodes.to_vec(), connections: BTreeMap::new() }
    }

    /// Calls until an answer says something, from the node at `first` on around. `Ok` has a success, or a problem that
    /// no other attempt would change.
    pub(super) async fn decide(&mut self, first: usize, call: &Call) -> Outcome<Result<Value, Problem>> {
        let mut is_open = false;
        for turn in 0..ATTEMPTS {
            let Some(node) = self.nodes.get((first + turn) % self.nodes.len().max(1)).copied() else { break };
            match self.attempt(node, call).await {
                Outcome::Ok(Err(problem)) => match problem.code {
                    // Not done; the node cannot tell who we are before it has read its state.
                    Code::NoLeader | Code::Busy | Code::NodeUnreachable | Code::Unauthorized => {}
                    Code::OutcomeUnknown | Code::TimedOut | Code::Internal | Code::Other => is_open = true,
                    _ => return Outcome::Ok(Err(problem)),
                },
                Outcome::Ok(done) => return Outcome::Ok(done),
                Outcome::Failed => {}
                Outcome::Unknown => is_open = true,
            }
            clock::sleep(PAUSE).await;
        }
        if is_open { Outcome::Unknown } else { Outcome::Failed }
    }

    /// Calls one node once.
    pub(super) async fn attempt(&mut self, node: SocketAddr, call: &Call) -> Outcome<Result<Value, Problem>> {
        let mut is_sent = false;
        match clock::timeout(ATTEMPT_LIMIT, self.exchange(node, call, &mut is_sent)).await {
            Ok(Ok(answer)) => Outcome::Ok(answer),
            _ => {
                self.connections.remove(&node);
                if is_sent { Outcome::Unknown } else { Outcome::Failed }
            }
        }
    }

    async fn exchange(&mut self, node: SocketAddr, call: &Call, is_sent: &mut bool) -> Result<Result<Value, Problem>> {
        let mut connection = match self.connections.remove(&node) {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.insula.connect(node, &self.tasks).await?,
        };
        connection.ready().await?;
        let mut request = Request::builder()
            .method(&call.method)
            .uri(&call.path)
            .header(header::HOST, "api")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.insula.token()));
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        if !call.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::from(call.body.clone()))?;
        *is_sent = true;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_LEN_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        let body = body.to_bytes();
        self.connections.insert(node, connection);
        Ok(match serde_json::from_slice(&body) {
            Ok(answer) if head.status.is_success() => Ok(answer),
            _ => refused(serde_json::from_slice(&body).unwrap_or_else(|_| strange(head.status))),
        })
    }
}

/// What an answer says that is no success. A token whose answer was lost was made all the same.
fn refused(problem: Problem) -> Result<Value, Problem> {
    match problem.revision {
        Some(revision) if problem.code == Code::AlreadyDone => Ok(json!({ "revision": revision })),
        _ => Err(problem),
    }
}

fn strange(status: StatusCode) -> Problem {
    Problem::new(Code::Other, format!("answered with {status}"))
}
