//! The public HTTP API: what travels ([`wire`]), who answers ([`Handler`]), how it is served and called.
//!
//! Always true: a body, a header and a wait have a bound; an error is a problem detail (RFC 9457) with a stable
//! [`Code`]; over TLS a caller proves itself with a token, over the local socket it is root (rule R12). A program that
//! retries a change with the same idempotency key changes once.
//! Leaves to `server` what the answers are, and to `identity` who is trusted.

pub mod client;
pub mod exec;
pub mod handler;
pub mod plan;
pub mod problem;
pub mod router;
pub mod serve;
pub mod wire;

pub use client::{Client, ClientError, Context, ContextError, EventReader, LogReader};
pub use exec::{ExecFar, ExecSession};
pub use handler::{
    Answer, BodyStream, Caller, DeleteRequest, DeployRequest, EventStream, Events, Handler, LogOptions, LogStream,
    ReadOptions, RemoveNodeRequest, RestartRequest, Role, RollbackRequest, RunningRequest, ScaleRequest,
    SetSecretRequest, SteerRequest,
};
pub use plan::{changes, regional_changes};
pub use problem::{Code, Problem};
pub use router::{Access, router};
pub use serve::{Requests, serve_tls, serve_unix};
