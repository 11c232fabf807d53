//! TLS configurations: version 1.3 only, the provider passed explicitly.
//!
//! Sessions are never resumed, on no protocol: a resumed session skips the verifier, and with it the tombstones. What
//! it would save is small, since connections between nodes are few and long.

use std::sync::Arc;

use insula_env::Clock;
use insula_types::{ClusterId, NodeId};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use tracing::warn;

use crate::{
    Error, Material, NodeIdentity, PeerError, RootHash, material,
    material::chain_text,
    root_hash,
    spiffe::parse_root_uri,
    verify::{Side, check_chain, single_uri},
};

/// For how long after its end a certificate is taken by [`Lapse::WithinRegion`] (rule R6).
const GRACE_S: u64 = 7 * 24 * 3600;

/// Whether an expired certificate can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lapse {
    /// Never: raft, rpc, bulk, join.
    Refuse,
    /// Up to 7 days, from nodes of the own region, with a warning: mesh, so that traffic outlives control.
    WithinRegion,
}

/// Makes this program's cryptography the default of the process, for libraries that ask for one. Fine to call twice.
pub fn install_provider() {
    // An error says that there is one already, which is what was asked for.
    let _ = aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The name to give to a TLS client. It is neither sent nor checked: nodes are known by their SPIFFE names.
pub fn server_name() -> ServerName<'static> {
    const NAME: &str = "node.insula.internal";
    ServerName::DnsName(DnsName::try_from_str(NAME).expect("a constant that is a DNS name").to_owned())
}

/// Accepts nodes of the cluster that show their certificates.
///
/// # Errors
/// [`Error::Tls`] when the crypto provider lacks TLS 1.3.
pub fn mutual_server_config(material: &Material, alpn: &[&[u8]], lapse: Lapse) -> Result<Arc<ServerConfig>, Error> {
    let verifier = Verifier::member(material, None, lapse);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| Error::Tls { what: "nodes", source })?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Shown { material: material.clone(), with_roots: false }));
    finish_server(&mut config, alpn);
    Ok(Arc::new(config))
}

/// Calls a node of the cluster, showing this node's certificate; with `expected`, only that node will do.
///
/// # Errors
/// [`Error::Tls`] when the crypto provider lacks TLS 1.3.
pub fn mutual_client_config(
    material: &Material,
    alpn: &[&[u8]],
    expected: Option<NodeId>,
    lapse: Lapse,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Verifier::member(material, expected, lapse);
    let mut config = client_builder(verifier)?
        .with_client_cert_resolver(Arc::new(Shown { material: material.clone(), with_roots: false }));
    finish_client(&mut config, alpn);
    Ok(Arc::new(config))
}

/// Accepts callers without certificates, and shows the roots so that those who know a root's hash can check us: for
/// joining nodes, who prove themselves by a token.
///
/// # Errors
/// [`Error::Tls`] when the crypto provider lacks TLS 1.3.
pub fn join_server_config(material: &Material, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| Error::Tls { what: "callers without certificates", source })?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown { material: material.clone(), with_roots: true }));
    finish_server(&mut config, alpn);
    Ok(Arc::new(config))
}

/// Calls any node of `cluster`, known by the hash of its root.
///
/// # Errors
/// [`Error::Tls`] when the crypto provider lacks TLS 1.3.
pub fn join_client_config(
    root: RootHash,
    cluster: ClusterId,
    alpn: &[&[u8]],
    clock: Clock,
) -> Result<Arc<ClientConfig>, Error> {
    pinned_client_config(Trust::Pinned { roots: vec![root], cluster: Some(cluster), clock }, alpn)
}

/// The API's listener: as [`join_server_config`], for HTTP/1.1. Callers prove themselves by an API token.
///
/// # Errors
/// [`Error::Tls`] when the crypto provider lacks TLS 1.3.
pub fn api_server_config(material: &Material) -> Result<Arc<ServerConfig>, Error> {
    join_server_config(material, &[b"http/1.1"])
}

/// Calls the API of any node of the cluster that is known by the hash of its root, or of one of several.
///
/// # Errors
/// [`Error::Tls`] when the crypto provider lacks TLS 1.3.
pub fn api_client_config(roots: Vec<RootHash>, clock: Clock) -> Result<Arc<ClientConfig>, Error> {
    pinned_client_config(Trust::Pinned { roots, cluster: None, clock }, &[b"http/1.1"])
}

/// The node at the other end of a finished handshake. The verifier has checked the certificate; this reads its name.
///
/// # Errors
/// [`PeerError`] when there is no certificate or it is not a node's, which a finished mutual handshake rules out.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Result<NodeIdentity, PeerError> {
    let leaf = certificates.and_then(<[_]>::first).ok_or_else(|| PeerError::Name("it sent none".to_owned()))?;
    Ok(single_uri(leaf).map_err(PeerError::Name)?.parse()?)
}

fn pinned_client_config(trust: Trust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Verifier { trust, expected: None, lapse: Lapse::Refuse, provider: provider() };
    let mut config = client_builder(verifier)?.with_no_client_auth();
    finish_client(&mut config, alpn);
    Ok(Arc::new(config))
}

fn client_builder(
    verifier: Verifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| Error::Tls { what: "calls", source })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn finish_server(config: &mut ServerConfig, alpn: &[&[u8]]) {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

fn finish_client(config: &mut ClientConfig, alpn: &[&[u8]]) {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
}

/// The certificate in use at the moment of the handshake.
#[derive(Debug)]
struct Shown {
    material: Material,
    with_roots: bool,
}

impl Shown {
    fn key(&self) -> Arc<CertifiedKey> {
        let current = self.material.current();
        Arc::clone(if self.with_roots { &current.public } else { &current.member })
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How a verifier knows the cluster.
#[derive(Debug)]
enum Trust {
    Member(Material),
    Pinned { roots: Vec<RootHash>, cluster: Option<ClusterId>, clock: Clock },
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    expected: Option<NodeId>,
    lapse: Lapse,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn member(material: &Material, expected: Option<NodeId>, lapse: Lapse) -> Self {
        Self { trust: Trust::Member(material.clone()), expected, lapse, provider: provider() }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        side: Side,
    ) -> Result<NodeIdentity, PeerError> {
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        let peer = match &self.trust {
            Trust::Member(material) => self.check_member(&chain, material, side)?,
            Trust::Pinned { roots, cluster, clock } => check_pinned(&chain, roots, cluster.as_ref(), clock, side)?,
        };
        match self.expected {
            Some(expected) if expected != peer.node => Err(PeerError::Node { found: peer.node, expected }),
            _ => Ok(peer),
        }
    }

    fn check_member(
        &self,
        chain: &[CertificateDer<'_>],
        material: &Material,
        side: Side,
    ) -> Result<NodeIdentity, PeerError> {
        let current = material.current();
        let own = material.identity();
        let peer = match check_chain(chain, &current.anchors, side, material.clock().wall()) {
            Err(PeerError::Expired { until_s, now_s })
                if self.lapse == Lapse::WithinRegion && now_s.saturating_sub(until_s) <= GRACE_S =>
            {
                let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(until_s);
                let peer = check_chain(chain, &current.anchors, side, then)?;
                if peer.region != own.region {
                    return Err(PeerError::Expired { until_s, now_s });
                }
                warn!(peer = %peer.node, expired_s = now_s - until_s, "took an expired certificate for traffic in the region");
                peer
            }
            other => other?,
        };
        if peer.cluster != own.cluster {
            return Err(PeerError::Cluster { found: peer.cluster, expected: own.cluster });
        }
        material.check_peer(&peer)?;
        Ok(peer)
    }
}

fn check_pinned(
    chain: &[CertificateDer<'_>],
    roots: &[RootHash],
    cluster: Option<&ClusterId>,
    clock: &Clock,
    side: Side,
) -> Result<NodeIdentity, PeerError> {
    let pinned =
        chain.iter().skip(1).find(|certificate| roots.contains(&root_hash(certificate))).ok_or(PeerError::Pin)?;
    let pinned = pinned.clone().into_owned();
    let anchor = material::anchor(&pinned).map_err(|error| PeerError::Name(error.to_string()))?;
    let peer = check_chain(chain, &[anchor], side, clock.wall())?;
    let of_root = parse_root_uri(&single_uri(&pinned).map_err(PeerError::Name)?)?;
    for expected in cluster.into_iter().chain([&of_root]) {
        if peer.cluster != *expected {
            return Err(PeerError::Cluster { found: peer.cluster, expected: expected.clone() });
        }
    }
    Ok(peer)
}

impl Verifier {
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }
}

/// rustls asks for this of every verifier; with TLS 1.3 alone it is never called.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
}

fn refused(error: PeerError) -> rustls::Error {
    tracing::debug!(error = chain_text(&error), "peer refused");
    error.into_tls()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, rest, Side::Server).map(|_| ServerCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(leaf, rest, Side::Client).map(|_| ClientCertVerified::assertion()).map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[cfg(test)]
mod tests;
