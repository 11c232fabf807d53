//! Who a peer is: checks of a certificate chain beyond what X.509 asks for.
//!
//! A node is accepted when its chain is exactly node, region CA, trusted root; when all are valid now; when the node's
//! SPIFFE name has the region and the cluster of the CA that signed it, and our cluster. One region's CA can thus never
//! speak for another region.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use insula_types::{ClusterId, NodeId, RegionName};
use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::{Error, NodeIdentity, Refusal, RegionCaIdentity, SpiffeError};

/// Most certificates of a peer that are looked at: node, region CA, and the roots that it trusts.
const CHAIN_MAX: usize = 8;

/// Why a peer was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// The chain does not lead to a trusted root, or a certificate in it is not what it should be.
    #[error("the peer's certificate chain is not valid")]
    Chain(#[source] webpki::Error),
    /// A certificate of the chain has ended.
    #[error("the peer's certificate ended at {until_s} s, and now is {now_s} s (since 1970)")]
    Expired {
        /// When it ended.
        until_s: u64,
        /// What our clock says.
        now_s: u64,
    },
    /// A certificate of the chain is of the future.
    #[error("the peer's certificate begins at {from_s} s, and now is {now_s} s (since 1970): is a clock wrong?")]
    NotYetValid {
        /// When it begins.
        from_s: u64,
        /// What our clock says.
        now_s: u64,
    },
    /// It does not have exactly one SPIFFE name.
    #[error("the peer's certificate is not a node's: {0}")]
    Name(String),
    /// The name is not one of ours.
    #[error(transparent)]
    Spiffe(#[from] SpiffeError),
    /// It is not signed by a region CA that a root signed.
    #[error("the peer's certificate was not signed by a region's CA: its chain has {0} CAs below the root")]
    Depth(usize),
    /// It is of another cluster.
    #[error("the peer belongs to cluster {found}, not to {expected}")]
    Cluster {
        /// Its cluster.
        found: ClusterId,
        /// Ours.
        expected: ClusterId,
    },
    /// A region's CA signed for another region.
    #[error("the peer claims region {claimed}, but the CA of region {issuer} signed its certificate")]
    Region {
        /// What the certificate says.
        claimed: RegionName,
        /// Who signed it.
        issuer: RegionName,
    },
    /// It is another node than the one that was called.
    #[error("the peer is node {found}, not {expected}: did its address change hands?")]
    Node {
        /// Who answered.
        found: NodeId,
        /// Who was called.
        expected: NodeId,
    },
    /// None of its certificates is the pinned root.
    #[error(
        "the peer is not of the cluster that the token or context names: none of its certificates is the pinned root"
    )]
    Pin,
    /// The policy refuses it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl PeerError {
    /// As rustls reports it; the peer gets the fitting alert.
    pub(crate) fn into_tls(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(match self {
            Self::Expired { until_s, now_s } => {
                CertificateError::ExpiredContext { time: unix(now_s), not_after: unix(until_s) }
            }
            Self::NotYetValid { from_s, now_s } => {
                CertificateError::NotValidYetContext { time: unix(now_s), not_before: unix(from_s) }
            }
            Self::Refused(_) => CertificateError::Revoked,
            Self::Chain(webpki::Error::UnknownIssuer) | Self::Pin => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(std::sync::Arc::new(other))),
        })
    }
}

fn unix(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn unix_of(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Which side of a connection the peer is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// Checks `chain` (the peer's certificate first) at `now` and gives the peer's name.
pub(crate) fn check_chain(
    chain: &[CertificateDer<'_>],
    anchors: &[TrustAnchor<'_>],
    side: Side,
    now: SystemTime,
) -> Result<NodeIdentity, PeerError> {
    let (leaf, rest) = chain.split_first().ok_or_else(|| PeerError::Name("it sent none".to_owned()))?;
    let rest = rest.get(..CHAIN_MAX).unwrap_or(rest);
    let leaf = EndEntityCert::try_from(leaf).map_err(PeerError::Chain)?;
    let usage = match side {
        Side::Server => KeyUsage::server_auth(),
        Side::Client => KeyUsage::client_auth(),
    };
    let path = leaf
        .verify_for_usage(&[webpki::aws_lc_rs::ECDSA_P256_SHA256], anchors, rest, unix_of(now), usage, None, None)
        .map_err(|error| match error {
            webpki::Error::CertExpired { time, not_after } => {
                PeerError::Expired { until_s: not_after.as_secs(), now_s: time.as_secs() }
            }
            webpki::Error::CertNotValidYet { time, not_before } => {
                PeerError::NotYetValid { from_s: not_before.as_secs(), now_s: time.as_secs() }
            }
            other => PeerError::Chain(other),
        })?;
    let mut authorities = path.intermediate_certificates();
    let (Some(issuer), None) = (authorities.next(), authorities.next()) else {
        return Err(PeerError::Depth(path.intermediate_certificates().count()));
    };
    let issuer: RegionCaIdentity = only(issuer.valid_uri_names()).map_err(PeerError::Name)?.parse()?;
    let peer: NodeIdentity = only(leaf.valid_uri_names()).map_err(PeerError::Name)?.parse()?;
    if peer.cluster != issuer.cluster {
        return Err(PeerError::Cluster { found: peer.cluster, expected: issuer.cluster });
    }
    if peer.region != issuer.region {
        return Err(PeerError::Region { claimed: peer.region, issuer: issuer.region });
    }
    Ok(peer)
}

fn only<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<&'a str, String> {
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => Err("it has no SPIFFE name".to_owned()),
        (Some(_), Some(_)) => Err("it has several names".to_owned()),
    }
}

/// The one URI that a certificate names.
pub(crate) fn single_uri(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    only(parsed.valid_uri_names()).map(str::to_owned)
}

/// From when until when a certificate is valid.
///
/// # Errors
/// [`Error::Damaged`] when it cannot be read.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), Error> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| Error::damaged("a certificate", error))?;
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}
