//! What can go wrong with images and instances.

use std::{io, path::PathBuf};

use insula_types::InstanceId;
use oci_client::errors::{OciDistributionError, OciErrorCode};

const TOO_MANY_REQUESTS: u16 = 429;

/// The cause below one of ours: whatever library or system call failed.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an image or an instance is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text does not name an image.
    #[error("{text:?} does not name an image: {why}")]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// The registry did not give what was asked for.
    #[error("pull {image}: {attempt}")]
    Pull {
        /// The image.
        image: String,
        /// What was asked of the registry.
        attempt: String,
        /// What the registry or the network answered.
        #[source]
        source: Source,
    },
    /// Bytes that are not what their digest says, are too many, or hold what an image may not hold.
    #[error("image content {digest} is refused: {why}")]
    Content {
        /// The digest by which the content was asked for.
        digest: String,
        /// What is wrong with it.
        why: String,
    },
    /// An archive that is not an image which this node can take.
    #[error("the archive is refused: {why}")]
    Archive {
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// An archive that is damaged, or that broke off.
    #[error("the archive cannot be read to its end")]
    ReadArchive {
        /// What the reader says, or whoever sends it.
        #[source]
        source: io::Error,
    },
    /// A file or directory of ours cannot be read or written.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was attempted, as a verb: "read", "unpack into".
        attempt: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The network of an instance cannot be made or taken away.
    #[error("network of {instance}: {attempt}")]
    Network {
        /// The instance.
        instance: InstanceId,
        /// What was attempted, with the remedy where one is known.
        attempt: String,
        /// What the kernel said.
        #[source]
        source: Source,
    },
    /// The bridge of the node's containers cannot be made or read.
    #[error("set up bridge {bridge}: is insula run as root?")]
    Bridge {
        /// Its name.
        bridge: String,
        /// What the kernel said.
        #[source]
        source: Source,
    },
    /// The service's definition cannot be run on this node.
    #[error("{instance} cannot run here: {why}")]
    Config {
        /// The instance.
        instance: InstanceId,
        /// Which part of the definition, and what would be right.
        why: String,
    },
    /// The shim did not start the instance, or does not answer.
    #[error("shim of {instance}: {why}")]
    Shim {
        /// The instance.
        instance: InstanceId,
        /// What the shim said, or that it was silent.
        why: String,
    },
    /// An OCI runtime of the node's did not end what it had started.
    #[error("end {instance} by {path}: {why}")]
    Runtime {
        /// The instance.
        instance: InstanceId,
        /// The runtime.
        path: String,
        /// What it said.
        why: String,
    },
    /// A command could not be begun in an instance.
    #[error("run a command in {instance}: {why}")]
    Exec {
        /// The instance.
        instance: InstanceId,
        /// What is wrong with the command, or what failed.
        why: String,
    },
    /// Asked of an instance that this node does not have, or that is in the wrong state.
    #[error("{instance} {why}")]
    State {
        /// The instance.
        instance: InstanceId,
        /// What it is, and what it would have to be.
        why: &'static str,
    },
}

impl Error {
    /// Whether the same call can succeed later with nothing changed by the user: the registry, the network or the
    /// machine was at fault. False: the definition or the image is.
    pub fn is_retryable(&self) -> bool {
        !matches!(
            self,
            Self::Reference { .. }
                | Self::Content { .. }
                | Self::Archive { .. }
                | Self::ReadArchive { .. }
                | Self::Config { .. }
        )
    }

    /// Whether a registry has answered, and will not answer otherwise before somebody changes something.
    pub fn is_answer(&self) -> bool {
        use OciDistributionError as E;
        let Self::Pull { source, .. } = self else { return !self.is_retryable() };
        match source.downcast_ref::<E>() {
            Some(E::ServerError { code, .. }) => (400..500).contains(code) && *code != TOO_MANY_REQUESTS,
            Some(E::RegistryError { envelope, .. }) => {
                !envelope.errors.iter().any(|error| matches!(error.code, OciErrorCode::Toomanyrequests))
            }
            Some(E::RequestError(_) | E::IoError(_)) | None => false,
            Some(_) => true,
        }
    }

    /// Wraps an error of the file system.
    pub(crate) fn file(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { attempt, path, source }
    }
}
