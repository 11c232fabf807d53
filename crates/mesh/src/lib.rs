//! Streams from this node to an instance anywhere in the region, and to the edges of other regions' gateways, over mutual TLS between
//! the nodes' dataplanes.
//!
//! Always: the receiver decides (certificate, tombstones, routes, and whether the instance is its own); nothing reaches
//! an instance before it said yes, so that a refused or failed dial can be tried elsewhere; a node that stops answering
//! is found by pings and its streams end with an error instead of hanging.
//! Left to others: `edge` chooses the instance and speaks HTTP over the stream; `rpc` owns port and TLS.

pub mod dialer;
mod entry;
mod header;
mod mesh;
mod monitor;
mod peers;
mod receiver;
mod relay;
mod stream;
mod transport;
mod verdicts;

pub use dialer::{DialError, Dialer, FarTarget, Target};
pub use entry::Entry;
pub use header::{Caller, Refusal, TraceId};
pub use mesh::Mesh;
pub use stream::{Duplex, Guarded, Stream};
pub use transport::{PortTransport, Transport};
pub use verdicts::{Trouble, Verdicts};

/// Timeouts and limits of the mesh.
pub mod limits {
    use std::time::Duration;

    /// How long a dial may take: TCP, TLS, header and the receiver's own connection to the instance.
    pub const DIAL: Duration = Duration::from_secs(1);
    /// The same for a node of another region, which may be half the world away: four round trips.
    pub const FAR_DIAL: Duration = Duration::from_secs(5);
    /// How long the receiver tries to reach an instance of its own: less than [`DIAL`], so that its answer arrives.
    pub const LOCAL_CONNECT: Duration = Duration::from_millis(600);
    /// How long a peer may take from TLS to its header.
    pub const HEADER: Duration = Duration::from_secs(3);
    /// A stream without a byte either way for so long is closed.
    pub const STREAM_IDLE: Duration = Duration::from_secs(600);
    /// Time between pings to a peer.
    pub const PING_EVERY: Duration = Duration::from_millis(250);
    /// The same to a node of another region.
    pub const FAR_PING_EVERY: Duration = Duration::from_secs(1);
    /// Pings in a row without an answer after which a peer is silent: after one second, in another region after four.
    pub const PINGS_MISSED_MAX: u32 = 4;
    /// Answers in a row after which a bad peer is good again.
    pub const PONGS_TO_RECOVER: u32 = 2;
    /// A connection for pings is replaced after so long, so that an expired peer is found early (rule R6).
    pub const PING_CONNECTION_AGE: Duration = Duration::from_secs(600);
    /// Bytes of a header.
    pub const HEADER_BYTES: usize = 4096;
    /// Bytes held for each direction of a stream.
    pub const BUFFER_BYTES: usize = 16 << 10;
    /// Streams that a node carries for its peers at a time.
    pub const STREAMS_MAX: usize = 16_384;
    /// Handshakes of peers at a time; further connections wait.
    pub const HANDSHAKES_MAX: usize = 256;
    /// Nodes that are watched although nothing of theirs is in use, to tell "they are gone" from "we are cut off".
    pub const WITNESSES: usize = 3;
}
