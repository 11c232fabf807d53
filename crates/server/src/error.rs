//! What can go wrong when a node is made, joined or started.

use std::{io, net::SocketAddr, path::PathBuf};

use insula_types::{Agreed, Level, codec};

/// An error of this crate. The caller is a person at a terminal or a service manager's log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Addresses that make no sense.
    #[error("advertise")]
    Addresses(#[source] insula_types::AddressError),
    /// The configuration file could not be read.
    #[error("read configuration {}: run `insula init` or `insula join` first", path.display())]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The configuration file is not valid.
    #[error("understand configuration {}", path.display())]
    ParseConfig {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// There is a node in this data directory already.
    #[error("make a node in {}: there is one already; `insula server` starts it, an empty directory makes another", path.display())]
    AlreadyThere {
        /// The data directory.
        path: PathBuf,
    },
    /// A file of the node could not be read or written.
    #[error("{attempt} {}", path.display())]
    File {
        /// "read" or "write".
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the node cannot be understood.
    #[error("understand {}: was it written by a newer version, or damaged?", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: codec::DecodeError,
    },
    /// The node has an identity, and the file that says what it has is gone: its replicated states are, most likely.
    #[error(
        "start the node: {} is gone, and with it what this node has voted for and confirmed: remove the node from the \
         region (`insula node rm`), empty its data directory and join as a new node",
        path.display()
    )]
    Homeless {
        /// The file.
        path: PathBuf,
    },
    /// A backup cannot be used.
    #[error("use {}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<insula_state::ArchiveError>,
    },
    /// A backup is whole, but cannot be restored here.
    #[error("restore {} on this node: {why}", path.display())]
    NotHere {
        /// The file.
        path: PathBuf,
        /// Why not, and what would do.
        why: String,
    },
    /// The server runs, and has the files open.
    #[error("restore a state: the server runs here; stop it first (`systemctl stop insula`), the instances go on")]
    Running,
    /// A restore was cut off.
    #[error("start the server: a restore was cut off here; run the same `insula state restore` again")]
    HalfRestored,
    /// The files of a restored state could not be made.
    #[error("restore the {state} state")]
    Restore {
        /// Which.
        state: &'static str,
        /// Why.
        #[source]
        source: insula_raft::OpenError,
    },
    /// A listener could not be opened.
    #[error("listen for {what} on {address}: is another program using it?")]
    Listen {
        /// What for.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A Unix socket could not be opened.
    #[error("listen for {what} on {}", path.display())]
    ListenUnix {
        /// What for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] insula_identity::Error),
    /// A replicated state could not be opened.
    #[error("open the {state} state")]
    OpenState {
        /// Which.
        state: &'static str,
        /// Why.
        #[source]
        source: insula_raft::OpenError,
    },
    /// The programs of a state have agreed on more than this one knows.
    #[error(
        "run: the {state} state is at level {}, and this program ({own}) knows no more than level {known}: install version {} or later",
        agreed.level, agreed.version
    )]
    TooOld {
        /// Which state.
        state: &'static str,
        /// Version of this program.
        own: &'static str,
        /// What it knows.
        known: Level,
        /// What is agreed on.
        agreed: Agreed,
    },
    /// The join token is not one.
    #[error(transparent)]
    Token(#[from] insula_identity::TokenError),
    /// No node took this machine in.
    #[error("join region {region}: {why}")]
    Join {
        /// The region.
        region: String,
        /// What the last node said.
        why: String,
    },
    /// The subnet of instances is not one.
    #[error("understand runtime.subnet in the configuration")]
    Subnet {
        /// Why.
        #[source]
        source: insula_container::config::SubnetError,
    },
    /// The container runtime could not be made ready.
    #[error("make the runtime ready")]
    Runtime(#[from] insula_container::Error),
}
