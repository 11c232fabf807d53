//! What can be called, and who answers.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use insula_identity::NodeIdentity;
use insula_types::codec;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    status::{Code, Status},
    stream::StreamSink,
};

/// A method: a number on the wire and two types. Numbers and the meaning of fields are for ever; fields are only added,
/// with `#[serde(default)]` (rule R5).
pub trait Method {
    /// Its number, unique within a protocol.
    const ID: u16;
    /// Its name in messages.
    const NAME: &'static str;
    /// What is asked.
    type Request: Serialize + DeserializeOwned + Send + Sync;
    /// What is answered; for a streaming method, each item.
    type Response: Serialize + DeserializeOwned + Send + Sync;
}

/// Who calls, proven by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its name.
    pub identity: NodeIdentity,
    /// Where the connection comes from; says nothing about who it is.
    pub address: SocketAddr,
}

/// Answers calls. Each method decides what the caller may ask for.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Dropped when the caller gives up or its deadline passes.
    async fn call(&self, caller: &Caller, method: u16, body: Bytes) -> Result<Bytes, Status>;

    /// Answers one request with a stream of items; the stream ends when this returns. Dropped when the caller gives up.
    async fn stream(&self, caller: &Caller, method: u16, body: Bytes, sink: StreamSink) -> Result<(), Status> {
        let _ = (caller, body, sink);
        Err(Status::unknown_method(method))
    }
}

/// Reads a request.
///
/// # Errors
/// `InvalidArgument` when it does not decode.
pub fn decode_request<M: Method>(body: &[u8]) -> Result<M::Request, Status> {
    codec::decode(body).map_err(|error| {
        Status::new(Code::InvalidArgument, format!("the request of {} does not read: {error}", M::NAME))
    })
}

/// Writes an answer.
pub fn encode_response<M: Method>(response: &M::Response) -> Bytes {
    codec::encode(response).into()
}

/// Reads an answer.
///
/// # Errors
/// `Protocol` when it does not decode.
pub fn decode_response<M: Method>(body: &[u8]) -> Result<M::Response, Status> {
    codec::decode(body)
        .map_err(|error| Status::new(Code::Protocol, format!("the answer to {} does not read: {error}", M::NAME)))
}
