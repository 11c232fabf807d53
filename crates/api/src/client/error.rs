//! Why a call has no answer.

use std::time::Duration;

use crate::Problem;

/// Why a call has no answer, or not the one asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No address answers; nothing was changed.
    #[error("no node answers: {}", list(tried))]
    Unreachable {
        /// Address, and why not.
        tried: Vec<(String, String)>,
    },
    /// A node refused, or could not.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// There was no answer in time; a change may take effect yet.
    #[error("no answer to {what} within {limit:?}; a change may take effect yet")]
    TimedOut {
        /// Method and path.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection ended within the answer; a change may have taken effect.
    #[error("the answer to {what} was cut off")]
    CutOff {
        /// Method and path.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer has an unknown shape.
    #[error("the answer to {what} cannot be read; does the node run a newer version?")]
    Unreadable {
        /// Method and path.
        what: String,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be built, as with a name that does not fit a path.
    #[error("{what} is no request")]
    Request {
        /// Method and path.
        what: String,
        /// Why.
        #[source]
        source: http::Error,
    },
}

fn list(tried: &[(String, String)]) -> String {
    tried.iter().map(|(address, why)| format!("{address} ({why})")).collect::<Vec<_>>().join(", ")
}
