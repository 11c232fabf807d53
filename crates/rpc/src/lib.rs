//! The port between nodes: one TCP port, mutual TLS, the protocol told by ALPN.
//!
//! The dataplane owns the listener ([`Dispatcher`]), keeps mesh connections and hands every other one to the server as
//! a descriptor ([`HandedReceiver`]). On `raft`, `rpc` and `bulk` run framed calls and streams ([`Peers`], [`Handler`]);
//! `join` carries one request and one answer. What always holds: a peer's identity is proven before a byte of its is
//! believed; every queue, wait and frame is bounded; a silent peer is found by pings. What a caller may ask for is left
//! to each [`Handler`]; who is removed, to the policy in [`Material`](insula_identity::Material).

mod address;
mod connect;
mod connection;
mod engine;
mod frame;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod hello;
mod join;
mod method;
mod peers;
mod port;
mod protocol;
mod serve;
mod settings;
mod status;
mod stream;

pub use address::AddressBook;
pub use connect::{ConnectError, Link, accept, connect};
pub use connection::Connection;
pub use hello::{HelloError, PROGRAM_VERSION};
pub use join::{JoinError, JoinHandler, JoinRequest, JoinResponse, join_client};
pub use method::{Caller, Handler, Method, decode_request, decode_response, encode_response};
pub use peers::Peers;
pub use port::{Dispatcher, Handed, HandedReceiver, PortServer};
pub use protocol::Protocol;
pub use serve::serve;
pub use settings::{BODY_LEN_MAX, CALLS_MAX, Settings};
pub use status::{Code, Status};
pub use stream::{ItemStream, StreamSink, TypedStream};
