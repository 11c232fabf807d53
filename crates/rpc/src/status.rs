//! How a call failed: a code that programs read, a text that people read, and whether to try again.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request makes no sense; the caller must change it.
    InvalidArgument,
    /// What it names is not there.
    NotFound,
    /// The state is another than the request expects.
    Conflict,
    /// The caller may not do this.
    PermissionDenied,
    /// The peer does not know the method: it runs another version, or this is not its job.
    UnknownMethod,
    /// Not now: another node leads, something has not started.
    FailedPrecondition,
    /// A limit was hit: calls, bytes, or a receiver that is too slow.
    ResourceExhausted,
    /// The peer was not reached; nothing was done.
    Unavailable,
    /// The connection ended before the answer came; it may have been done.
    ConnectionLost,
    /// Time ran out; it may have been done.
    DeadlineExceeded,
    /// The peer broke the protocol or sent what does not decode.
    Protocol,
    /// A defect of the peer.
    Internal,
    /// A code of a newer version.
    #[serde(other)]
    Unknown,
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What kind of failure.
    pub code: Code,
    /// For people; no secrets, since it crosses nodes.
    pub message: String,
    /// Whether the same call can succeed later, and does no harm when repeated.
    pub retryable: bool,
    /// What a method may add, in its own encoding.
    #[serde(default, with = "serde_bytes", skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<u8>,
}

/// Longest message that is sent or taken, in bytes.
const MESSAGE_LEN_MAX: usize = 2048;

impl Status {
    /// A failure that stays the same when tried again.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_LEN_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_LEN_MAX));
        }
        Self { code, message, retryable: false, detail: Vec::new() }
    }

    /// A failure that may pass.
    pub fn retryable(code: Code, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::new(code, message) }
    }

    /// The same with a detail.
    #[must_use]
    pub fn with_detail(self, detail: Vec<u8>) -> Self {
        Self { detail, ..self }
    }

    /// For an unknown method.
    pub fn unknown_method(method: u16) -> Self {
        Self::new(
            Code::UnknownMethod,
            format!("this node does not serve method {method}: does it run another version?"),
        )
    }

    /// For a caller that may not do what it asks.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, message)
    }

    /// For a defect on this side.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Whether the call may have had an effect although it failed.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self.code, Code::ConnectionLost | Code::DeadlineExceeded | Code::Unknown)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use insula_types::codec;

    use super::*;

    #[test]
    fn a_code_of_a_newer_version_is_read_as_unknown() {
        #[derive(Serialize)]
        struct Newer {
            code: &'static str,
            message: &'static str,
            retryable: bool,
            more: u8,
        }
        let bytes = codec::encode(&Newer { code: "quota_exceeded", message: "m", retryable: true, more: 1 });
        let status: Status = codec::decode(&bytes).expect("read");
        assert_eq!(status, Status::retryable(Code::Unknown, "m"));
        let status = Status::new(Code::Conflict, "x".repeat(3000)).with_detail(vec![1]);
        assert_eq!(status.message.len(), MESSAGE_LEN_MAX);
        assert_eq!(codec::decode::<Status>(&codec::encode(&status)).expect("read"), status);
    }
}
