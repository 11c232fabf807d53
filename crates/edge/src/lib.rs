//! The public edge: takes requests by HTTP/1.1 and HTTP/2, finds the service by host and path, and brings them to a ready instance
//! anywhere in the region; where it has none, the edge of the nearest region that has one gets the request.
//!
//! Always: a request goes only where the catalog says, and never to a node that does not answer; it is sent a second
//! time only when that is safe; no app and no client can take what others need; bodies stream both ways through bounded
//! buffers; what is unsafe to pass on (hop-by-hop headers, forged addresses, requests that can be read in two ways) is not. Whatever the catalog holds, the edge answers, and never panics.
//! Left to others: `mesh` makes the streams and watches nodes; `catalog` knows routes and instances.

mod answer;
mod apps;
mod attempt;
mod body;
mod choose;
mod clients;
mod config;
mod elsewhere;
mod forward;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod grpc;
mod guard;
mod headers;
mod health;
mod incoming;
mod instances;
mod metrics;
mod preface;
mod request_id;
mod requests;
mod retry;
mod route;
mod serve;
mod share;
mod traffic;
mod upgrade;
mod upstream;

pub use config::{Config, Network, NetworkError};
pub use metrics::{Cause, Metrics};
pub use serve::Edge;
pub use traffic::ServiceCounts;
