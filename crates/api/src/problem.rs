//! Errors as callers see them: RFC 9457 problem details with a stable code.

use std::fmt;

use http::StatusCode;
use insula_types::{DefinitionProblem, Revision};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What went wrong, for programs. Codes are only ever added; a text that this version does not know reads as
/// [`Code::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request itself is malformed.
    InvalidRequest,
    /// The definition is refused; `problems` says where.
    InvalidDefinition,
    /// The archive that was sent is no image that can run here; `detail` says why.
    InvalidImage,
    /// What a tag of an image stands for could not be looked up; `problems` says of which, and `may_pass` whether its registry was
    /// not reached.
    UnresolvedImage,
    /// No token, or one that is unknown or expired.
    Unauthorized,
    /// The token's role does not allow it.
    Forbidden,
    /// There is no such endpoint.
    NoSuchEndpoint,
    /// The endpoint has no such method.
    MethodNotAllowed,
    /// There is no such app.
    NoSuchApp,
    /// The app has no such service.
    NoSuchService,
    /// The app has no such release.
    NoSuchRelease,
    /// There is no such instance.
    NoSuchInstance,
    /// There is no such node.
    NoSuchNode,
    /// There is no such region.
    NoSuchRegion,
    /// There is no such token.
    NoSuchToken,
    /// There is no such image.
    NoSuchImage,
    /// The app has no such secret.
    NoSuchSecret,
    /// There is no such volume.
    NoSuchVolume,
    /// There is no such snapshot.
    NoSuchSnapshot,
    /// No edge remembers the request; `detail` says how far back they do, and which do not say.
    NoSuchRequest,
    /// Another app owns the host and path.
    RouteTaken,
    /// The app has another release than the caller expected.
    ReleaseChanged,
    /// A release that may have to run needs the secret.
    SecretInUse,
    /// The regions' keys for secrets are not there yet, or have just changed.
    SecretsNotReady,
    /// The deployment is over, or past what is asked for.
    NothingToSteer,
    /// There is a region of that name, or one is being added.
    RegionExists,
    /// There is a volume of that name.
    VolumeExists,
    /// Other volumes of the same instance are on another node.
    VolumeElsewhere,
    /// A volume is never made smaller.
    VolumeNotSmaller,
    /// An instance is placed with the volume.
    VolumeInUse,
    /// The node has changed since the caller saw it.
    NodeChanged,
    /// Instances are on the node.
    NodeInUse,
    /// The node is up.
    NodeIsUp,
    /// Roots are replaced step by step, and this is not the next step.
    RootOutOfTurn,
    /// Something else has changed or owns it.
    Conflict,
    /// It was done before, under the same idempotency key, and its answer cannot be given again: it had a secret that is
    /// kept nowhere. `revision` says when.
    AlreadyDone,
    /// The idempotency key was that of another request of this caller.
    IdempotencyKeyReused,
    /// The events asked for are no longer kept; begin with the state as it is.
    EventsGone,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// Too much at once; later it will work.
    Busy,
    /// No leader could be reached; nothing was changed.
    NoLeader,
    /// The node with the answer cannot be reached.
    NodeUnreachable,
    /// The change may take effect yet, or have taken effect.
    OutcomeUnknown,
    /// Nothing was changed in time.
    TimedOut,
    /// Not all nodes have the version that this needs; nothing was changed.
    NotYet,
    /// A fault of ours.
    Internal,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

impl Code {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::InvalidDefinition | Self::InvalidImage | Self::UnresolvedImage | Self::IdempotencyKeyReused => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoSuchEndpoint
            | Self::NoSuchApp
            | Self::NoSuchService
            | Self::NoSuchInstance
            | Self::NoSuchNode
            | Self::NoSuchRegion
            | Self::NoSuchToken
            | Self::NoSuchImage
            | Self::NoSuchSecret
            | Self::NoSuchVolume
            | Self::NoSuchRelease
            | Self::NoSuchRequest
            | Self::NoSuchSnapshot => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RouteTaken
            | Self::SecretInUse
            | Self::SecretsNotReady
            | Self::NothingToSteer
            | Self::RegionExists
            | Self::VolumeExists
            | Self::VolumeElsewhere
            | Self::VolumeNotSmaller
            | Self::VolumeInUse
            | Self::NodeInUse
            | Self::NodeIsUp
            | Self::RootOutOfTurn
            | Self::Conflict
            | Self::AlreadyDone
            | Self::NotYet => StatusCode::CONFLICT,
            Self::ReleaseChanged | Self::NodeChanged => StatusCode::PRECONDITION_FAILED,
            Self::EventsGone => StatusCode::GONE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
            Self::NodeUnreachable => StatusCode::BAD_GATEWAY,
            Self::OutcomeUnknown | Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal | Self::Other => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One constant sentence about the kind of problem.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "the request is malformed",
            Self::InvalidDefinition => "the definition is not valid",
            Self::InvalidImage => "the image is refused",
            Self::UnresolvedImage => "what an image's tag stands for is not known",
            Self::Unauthorized => "a valid token is needed",
            Self::Forbidden => "the token does not allow this",
            Self::NoSuchEndpoint => "there is no such endpoint",
            Self::MethodNotAllowed => "the endpoint has no such method",
            Self::NoSuchApp => "there is no such app",
            Self::NoSuchService => "there is no such service",
            Self::NoSuchInstance => "there is no such instance",
            Self::NoSuchNode => "there is no such node",
            Self::NoSuchRegion => "there is no such region",
            Self::NoSuchImage => "there is no such image",
            Self::NoSuchSecret => "the app has no such secret",
            Self::NoSuchVolume => "there is no such volume",
            Self::NoSuchRelease => "there is no such release",
            Self::NoSuchSnapshot => "there is no such snapshot",
            Self::NoSuchRequest => "no edge remembers the request",
            Self::NoSuchToken => "there is no such token",
            Self::RouteTaken => "another app owns the host and path",
            Self::ReleaseChanged => "the app has changed since it was read",
            Self::SecretInUse => "a release needs the secret",
            Self::SecretsNotReady => "secrets cannot be taken yet",
            Self::NothingToSteer => "there is nothing to steer",
            Self::RegionExists => "there is such a region already",
            Self::VolumeExists => "there is such a volume already",
            Self::VolumeElsewhere => "the instance's other volumes are on another node",
            Self::VolumeNotSmaller => "a volume is never made smaller",
            Self::VolumeInUse => "an instance uses the volume",
            Self::NodeChanged => "the node has changed since it was read",
            Self::NodeInUse => "instances are on the node",
            Self::NodeIsUp => "the node is up",
            Self::RootOutOfTurn => "this is not the next step of a root's replacement",
            Self::Conflict => "something else has changed or owns it",
            Self::AlreadyDone => "it was done before",
            Self::IdempotencyKeyReused => "the idempotency key was that of another request",
            Self::EventsGone => "the events asked for are no longer kept",
            Self::BodyTooLarge => "the body is too large",
            Self::Busy => "too much at once",
            Self::NoLeader => "no leader can be reached",
            Self::NodeUnreachable => "the node cannot be reached",
            Self::OutcomeUnknown => "the outcome is unknown",
            Self::TimedOut => "it took too long",
            Self::NotYet => "not all nodes know this yet",
            Self::Internal => "a fault of the server",
            Self::Other => "a problem of a later version",
        }
    }

    /// Whether the same request can succeed later without anybody changing it.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(
            self,
            Self::SecretsNotReady
                | Self::Busy
                | Self::NoLeader
                | Self::NodeUnreachable
                | Self::OutcomeUnknown
                | Self::TimedOut
        )
    }
}

/// A problem detail. The media type is `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The kind, for programs.
    pub code: Code,
    /// The kind, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What exactly, why, and what to do next.
    pub detail: String,
    /// Whether trying again can help.
    #[serde(default)]
    pub may_pass: bool,
    /// Where a definition is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<DefinitionProblem>,
    /// The state's revision after what was done before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
}

impl Problem {
    /// A problem with its detail: what exactly, why, and what to do next.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            title: code.title().to_owned(),
            status: code.status().as_u16(),
            detail: detail.into(),
            may_pass: code.may_pass(),
            problems: Vec::new(),
            revision: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl std::error::Error for Problem {}

impl From<insula_types::DefinitionError> for Problem {
    fn from(error: insula_types::DefinitionError) -> Self {
        let count = error.problems.len() + error.left_out;
        let mut problem = Self::new(Code::InvalidDefinition, format!("{count} to correct"));
        problem.problems = error.problems;
        problem
    }
}
