//! Makes and takes connections: TCP, mutual TLS, version handshake, within one deadline.

use std::{io, net::SocketAddr, ops::RangeInclusive, time::Duration};

use insula_env::{clock::timeout, net};
use insula_identity::{Material, PeerError, mutual_client_config, mutual_server_config, peer_identity, server_name};
use insula_types::NodeId;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::{
    Caller, HelloError, Protocol,
    hello::{Hello, exchange},
    settings::Settings,
    status::{Code, Status},
};

/// An authenticated connection whose sides have agreed on a version.
#[derive(Debug)]
pub struct Link {
    /// The bytes.
    pub stream: TlsStream<TcpStream>,
    /// Who is at the other end.
    pub caller: Caller,
    /// The version that both speak.
    pub version: u16,
    /// The peer's program version, for messages.
    pub program: String,
    /// How often the peer pings when it is the caller.
    pub(crate) peer_ping: Duration,
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error("connect to {address}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS failed: one side refused the other's certificate, or it is no peer of ours.
    #[error("TLS with {address}: is it a node of this cluster?")]
    Tls {
        /// With whom.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The peer's certificate is not a node's.
    #[error("identify {address}")]
    Identity {
        /// Whom.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: PeerError,
    },
    /// The version handshake failed.
    #[error("greet {address}")]
    Hello {
        /// Whom.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: HelloError,
    },
    /// Time ran out.
    #[error("no connection with {address} within {limit:?}")]
    Deadline {
        /// With whom.
        address: SocketAddr,
        /// The limit.
        limit: Duration,
    },
    /// TLS could not be set up on this side.
    #[error(transparent)]
    Setup(#[from] insula_identity::Error),
}

impl ConnectError {
    /// As a failed call: the peer was not reached, and nothing was done.
    pub(crate) fn to_status(&self) -> Status {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        Status::retryable(Code::Unavailable, text)
    }
}

/// Connects to the node at `address` within `limit`. With `expected`, only that node will do.
///
/// # Errors
/// [`ConnectError`], saying what failed.
pub async fn connect(
    address: SocketAddr,
    protocol: Protocol,
    material: &Material,
    expected: Option<NodeId>,
    limit: Duration,
) -> Result<Link, ConnectError> {
    dial(address, protocol, &protocol.versions(), material, expected, Settings::default().ping_interval, limit).await
}

/// As [`connect`], with versions and ping interval of the caller's choice.
pub(crate) async fn dial(
    address: SocketAddr,
    protocol: Protocol,
    versions: &RangeInclusive<u16>,
    material: &Material,
    expected: Option<NodeId>,
    ping: Duration,
    limit: Duration,
) -> Result<Link, ConnectError> {
    let config = mutual_client_config(material, &[protocol.alpn()], expected, protocol.lapse())?;
    let work = async {
        let stream = net::connect(address, limit).await.map_err(|source| ConnectError::Tcp { address, source })?;
        let stream = TlsConnector::from(config)
            .connect(server_name(), stream)
            .await
            .map_err(|source| ConnectError::Tls { address, source })?;
        greet(stream.into(), address, versions, material, ping).await
    };
    timeout(limit, Box::pin(work)).await.map_err(|_| ConnectError::Deadline { address, limit })?
}

/// Takes a connection that came in with `protocol`'s ALPN name, within `limit`.
///
/// # Errors
/// [`ConnectError`], saying what failed.
pub async fn accept(
    stream: TcpStream,
    address: SocketAddr,
    protocol: Protocol,
    material: &Material,
    limit: Duration,
) -> Result<Link, ConnectError> {
    let config = mutual_server_config(material, &[protocol.alpn()], protocol.lapse())?;
    let work = async {
        stream.set_nodelay(true).map_err(|source| ConnectError::Tcp { address, source })?;
        let stream =
            TlsAcceptor::from(config).accept(stream).await.map_err(|source| ConnectError::Tls { address, source })?;
        greet(stream.into(), address, &protocol.versions(), material, Settings::default().ping_interval).await
    };
    timeout(limit, Box::pin(work)).await.map_err(|_| ConnectError::Deadline { address, limit })?
}

async fn greet(
    mut stream: TlsStream<TcpStream>,
    address: SocketAddr,
    versions: &RangeInclusive<u16>,
    material: &Material,
    ping: Duration,
) -> Result<Link, ConnectError> {
    let identity = peer_identity(stream.get_ref().1.peer_certificates())
        .map_err(|source| ConnectError::Identity { address, source })?;
    let ours = Hello::new(versions, material.identity(), ping);
    let (version, theirs) =
        exchange(&mut stream, &ours, &identity).await.map_err(|source| ConnectError::Hello { address, source })?;
    Ok(Link {
        stream,
        caller: Caller { identity, address },
        version,
        program: theirs.program,
        peer_ping: Duration::from_millis(theirs.ping_ms.into()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use insula_env::Env;
    use insula_identity::{AllowAll, Credentials, Lifetimes, NodeKey, RootAuthority};
    use insula_types::ClusterId;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn material(env: &Env) -> Material {
        let (now, lifetimes) = (env.clock.wall(), Lifetimes::default());
        let root = RootAuthority::create(ClusterId::new(1), &lifetimes, now).expect("root");
        let ca = root.issue_region(&"fra".parse().expect("name"), &lifetimes, now).expect("region CA");
        let key = NodeKey::generate(&env.rng).expect("key");
        let chain = ca.issue_node(&key.request().expect("request"), key.id(), &[], &lifetimes, now).expect("issue");
        let credentials = Credentials { key, chain, roots: vec![root.certificate().clone()] };
        Material::new(&credentials, env.clock.clone(), Arc::new(AllowAll)).expect("material")
    }

    #[tokio::test]
    async fn programs_without_a_common_version_both_say_so() {
        let env = Env::real("test");
        let material = material(&env);
        let listener = net::bind(([127, 0, 0, 1], 0).into()).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let taking = async {
            let (stream, peer) = listener.accept().await.expect("accept");
            Box::pin(accept(stream, peer, Protocol::Rpc, &material, LIMIT)).await
        };
        let dialing = dial(address, Protocol::Rpc, &(7..=9), &material, None, Duration::ZERO, LIMIT);
        let (taken, dialed) = tokio::join!(taking, Box::pin(dialing));
        for outcome in [taken, dialed] {
            let status = outcome.expect_err("no common version").to_status();
            assert!(status.message.contains("no common protocol version"), "{status}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_costs_no_more_than_the_limit() {
        let env = Env::real("test");
        let material = material(&env);
        let listener = net::bind(([127, 0, 0, 1], 0).into()).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let limit = Duration::from_millis(100);
        let outcome = Box::pin(connect(address, Protocol::Rpc, &material, None, limit)).await;
        assert!(matches!(outcome, Err(ConnectError::Deadline { .. })));
    }
}
