//! The node agent: makes what runs on this node match what is placed on it, and says what it sees.
//!
//! A pure core ([`Core`]) decides, a thin shell ([`Agent`]) acts on the container runtime. Always true: an instance is
//! never started twice at the same time, one that shall be stopped is stopped, and nothing is stopped for the reason
//! that the control plane is away: what was placed goes on, restarts included. Does not choose nodes (`scheduler`), does
//! not run containers (`container`), and knows no network: reports and renewals leave through traits.

mod backoff;
mod contents;
pub mod copies;
pub mod core;
mod instance;
mod kept;
pub mod pressure;
pub mod probe;
mod renew;
mod report;
pub mod secrets;
mod service;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod volumes;

#[cfg(test)]
mod tests;

pub use crate::core::{Action, Core, Event};
pub use probe::{NetworkProber, Prober};
pub use renew::{RENEW_EVERY, Renewer, start_renewals};
pub use report::Reporter;
pub use secrets::Secrets;
pub use service::{Agent, Parts};

/// A call to the region's leader that failed; it is made again.
#[derive(Debug, thiserror::Error)]
#[error("call the region's leader")]
pub struct CallError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// An error with all its causes, for a log line or a status.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
