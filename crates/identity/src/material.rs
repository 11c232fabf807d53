//! What a running node shows and checks with, replaceable while connections are made: a renewed certificate is used by
//! the next handshake, without a restart.

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use insula_env::Clock;
use insula_types::NodeId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, TrustAnchor};
use tokio::sync::watch;

use crate::{
    Credentials, Error, Expiry, NodeIdentity, Owner, PeerError,
    spiffe::parse_root_uri,
    verify::{Side, check_chain, single_uri, validity},
};

/// Why the policy refuses a peer whose certificate is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("peer {peer} is refused: {why}")]
pub struct Refusal {
    /// Who.
    pub peer: NodeId,
    /// Why.
    pub why: &'static str,
}

/// Asked at every handshake, after the certificate has been found good. Must answer at once.
pub trait PeerPolicy: Send + Sync + fmt::Debug {
    /// Whether connections with `peer` are allowed.
    ///
    /// # Errors
    /// [`Refusal`], saying why not.
    fn check(&self, peer: &NodeIdentity) -> Result<(), Refusal>;

    /// Tells when answers may have changed; none when they never do.
    fn changes(&self) -> Option<watch::Receiver<BTreeSet<NodeId>>> {
        None
    }
}

/// Allows every node of the cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl PeerPolicy for AllowAll {
    fn check(&self, _peer: &NodeIdentity) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Refuses nodes that were removed (rule R9). Clones share the set.
#[derive(Debug, Clone, Default)]
pub struct Tombstones(Arc<watch::Sender<BTreeSet<NodeId>>>);

impl Tombstones {
    /// Replaces the whole set, as state tells it. Connections with those who are new in it end at once.
    pub fn set(&self, removed: BTreeSet<NodeId>) {
        self.0.send_if_modified(|before| {
            let is_other = *before != removed;
            *before = removed;
            is_other
        });
    }
}

impl PeerPolicy for Tombstones {
    fn check(&self, peer: &NodeIdentity) -> Result<(), Refusal> {
        if self.0.borrow().contains(&peer.node) {
            return Err(Refusal { peer: peer.node, why: "it was removed from its region" });
        }
        Ok(())
    }

    fn changes(&self) -> Option<watch::Receiver<BTreeSet<NodeId>>> {
        Some(self.0.subscribe())
    }
}

/// A node's credentials in use. Clones share them.
#[derive(Clone)]
pub struct Material(Arc<Inner>);

struct Inner {
    current: ArcSwap<Current>,
    clock: Clock,
    policy: Arc<dyn PeerPolicy>,
}

pub(crate) struct Current {
    identity: NodeIdentity,
    /// Key, own certificate, region CA: what members of the cluster need.
    pub(crate) member: Arc<CertifiedKey>,
    /// The same and the roots: what those need who know only a root's hash.
    pub(crate) public: Arc<CertifiedKey>,
    roots: Vec<CertificateDer<'static>>,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    validity: (SystemTime, SystemTime),
}

impl Material {
    /// Checks that the credentials belong together and takes them into use. They may have expired: a node must be able
    /// to start and to renew.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::Mismatch`], saying which piece is wrong.
    pub fn new(credentials: &Credentials, clock: Clock, policy: Arc<dyn PeerPolicy>) -> Result<Self, Error> {
        let current = ArcSwap::from_pointee(Current::new(credentials)?);
        Ok(Self(Arc::new(Inner { current, clock, policy })))
    }

    /// Uses other credentials of the same node from the next handshake on.
    ///
    /// # Errors
    /// As [`Material::new`]; the ones in use stay then.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), Error> {
        let next = Current::new(credentials)?;
        let now = self.identity();
        if next.identity != now {
            return Err(Error::Mismatch {
                what: format!("the new certificate's name {}", next.identity),
                other: now.to_string(),
                remedy: "a node keeps its name for life; restart with the other data directory instead",
            });
        }
        self.0.current.store(Arc::new(next));
        Ok(())
    }

    /// Who this node is.
    pub fn identity(&self) -> NodeIdentity {
        self.0.current.load().identity.clone()
    }

    /// The trusted roots.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.0.current.load().roots.clone()
    }

    /// Its certificate, then its region CA's, as it shows them.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.0.current.load().member.cert.clone()
    }

    /// When the certificate ends.
    pub fn expires(&self) -> SystemTime {
        self.0.current.load().validity.1
    }

    /// When its certificate, its region CA's and its roots' end.
    pub fn expiries(&self) -> Vec<Expiry> {
        let current = self.0.current.load();
        let owners = [Owner::Node, Owner::RegionCa].into_iter().zip(&current.member.cert);
        let all = owners.chain(current.roots.iter().map(|root| (Owner::Root, root)));
        // Each was read when it was taken into use.
        all.filter_map(|(owner, certificate)| {
            validity(certificate).ok().map(|(from, until)| Expiry { owner, from, until })
        })
        .collect()
    }

    /// How long the certificate lives.
    pub fn life(&self) -> Duration {
        let (from, until) = self.0.current.load().validity;
        until.duration_since(from).unwrap_or_default()
    }

    /// When to renew: at half of the certificate's life (rule R6).
    pub fn renew_at(&self) -> SystemTime {
        let (from, until) = self.0.current.load().validity;
        from + until.duration_since(from).unwrap_or(Duration::ZERO) / 2
    }

    /// The clock that certificates are checked with.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Whether the policy still allows a peer; for connections that live long.
    ///
    /// # Errors
    /// [`Refusal`], saying why not.
    pub fn check_peer(&self, peer: &NodeIdentity) -> Result<(), Refusal> {
        self.0.policy.check(peer)
    }

    /// Completes when the policy refuses a peer: the handshake alone would let one that is connected stay.
    pub async fn refused(&self, peer: &NodeIdentity) -> Refusal {
        let mut changes = self.0.policy.changes();
        loop {
            if let Err(refusal) = self.check_peer(peer) {
                return refusal;
            }
            let more = match &mut changes {
                Some(changes) => changes.changed().await.is_ok(),
                None => false,
            };
            if !more {
                // It has said its last word.
                return std::future::pending().await;
            }
        }
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.0.current.load_full()
    }
}

impl Current {
    fn new(credentials: &Credentials) -> Result<Self, Error> {
        let Credentials { key, chain, roots } = credentials;
        let what = "the node's certificate chain";
        let leaf = chain.first().ok_or_else(|| Error::damaged(what, "it is empty"))?;
        if !key.key().is_of(leaf) {
            return Err(Error::Mismatch {
                what: "the node's certificate".to_owned(),
                other: "its key".to_owned(),
                remedy: "restore identity/ whole, or wipe it and join again",
            });
        }
        let anchors = roots.iter().map(anchor).collect::<Result<Vec<_>, _>>()?;
        let validity = validity(leaf)?;
        // At its beginning, or that of the latest of its issuers: whether it has ended is the peers' business.
        let issuers = chain.iter().skip(1).chain(roots).filter_map(|issuer| crate::verify::validity(issuer).ok());
        let latest = issuers.map(|(from, _)| from).fold(validity.0, SystemTime::max);
        let identity = check_chain(chain, &anchors, Side::Server, validity.0)
            .or_else(|_| check_chain(chain, &anchors, Side::Server, latest))
            .map_err(|error| Error::damaged(what, chain_text(&error)))?;
        if identity.node != key.id() {
            return Err(Error::Mismatch {
                what: format!("the certificate's node id {}", identity.node),
                other: format!("the node's own id {}", key.id()),
                remedy: "restore identity/ whole, or wipe it and join again",
            });
        }
        for root in roots {
            check_root(root, &identity)?;
        }
        let signer =
            rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&PrivatePkcs8KeyDer::from(key.key().pkcs8()).into())
                .map_err(|source| Error::Tls { what: "the node's key", source })?;
        let member = chain.clone();
        let public = member.iter().chain(roots).cloned().collect();
        Ok(Self {
            identity,
            member: Arc::new(CertifiedKey::new(member, Arc::clone(&signer))),
            public: Arc::new(CertifiedKey::new(public, signer)),
            roots: roots.clone(),
            anchors,
            validity,
        })
    }
}

pub(crate) fn anchor(root: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, Error> {
    webpki::anchor_from_trusted_cert(root)
        .map(|anchor| anchor.to_owned())
        .map_err(|error| Error::damaged("a trusted root", error))
}

fn check_root(root: &CertificateDer<'_>, identity: &NodeIdentity) -> Result<(), Error> {
    let cluster = single_uri(root)
        .and_then(|uri| parse_root_uri(&uri).map_err(|error| error.to_string()))
        .map_err(|why| Error::damaged("a trusted root", why))?;
    if cluster == identity.cluster {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: format!("the trusted root of cluster {cluster}"),
        other: format!("the node's cluster {}", identity.cluster),
        remedy: "remove that root from identity/roots.pem",
    })
}

/// An error with its sources, for text inside another error.
pub(crate) fn chain_text(error: &PeerError) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Material({})", self.identity())
    }
}
