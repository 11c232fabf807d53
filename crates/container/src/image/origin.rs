//! Where one pull gets the parts of its image: from other nodes first, from the registry what none of them has.

use std::{
    fmt::Display,
    io,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use insula_env::clock::timeout;
use insula_types::NodeId;
use oci_client::{
    Reference,
    client::{BlobResponse, Client},
    errors::OciDistributionError,
};
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::{
    ImagePeers, ImageRef, PeerBytes, PeerError,
    credentials::Credentials,
    download::{Broken, Download},
    registry::NoAuthorities,
    store::digest_of,
};
use crate::Error;

/// Manifest or configuration, at most: registries refuse manifests above 4 MiB (OCI distribution specification).
pub(super) const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// Longest silence of another node; then the next one is asked, or the registry.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Nodes that are asked, at most: a registry is quicker than a long row of nodes that do not have it.
const PEERS_MAX: usize = 16;
/// Further nodes that are asked when the registry does not have it either: what came in an archive may be on one node alone.
const OTHERS_MAX: usize = 1000;
/// Of them, at the same time.
const OTHERS_AT_ONCE: usize = 16;
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// The sources of one image.
pub(super) struct Origin<'a> {
    image: &'a ImageRef,
    reference: Reference,
    client: Result<Client, NoAuthorities>,
    credentials: Credentials,
    peers: Option<&'a dyn ImagePeers>,
    /// Those that are still asked.
    nodes: Mutex<Vec<NodeId>>,
    /// Those that are asked after the registry.
    others: Vec<NodeId>,
    /// Begins each blob at another node, so that all share the work.
    turn: AtomicUsize,
}

impl<'a> Origin<'a> {
    pub fn new(
        image: &'a ImageRef,
        client: Result<Client, NoAuthorities>,
        credentials: Credentials,
        peers: Option<&'a dyn ImagePeers>,
    ) -> Self {
        let mut nodes = peers.map(|peers| peers.of(image)).unwrap_or_default();
        let mut others = nodes.split_off(nodes.len().min(PEERS_MAX));
        others.truncate(OTHERS_MAX);
        let (reference, nodes) = (image.to_oci(), Mutex::new(nodes));
        Self { image, reference, client, credentials, peers, nodes, others, turn: AtomicUsize::default() }
    }

    /// A manifest or a list of them. Its digest has been checked.
    pub async fn document(&self, digest: &str) -> Result<Vec<u8>, Error> {
        for node in self.nodes(0) {
            match self.document_of(node, digest).await {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {}
                Err(why) => self.give_up(node, &why),
            }
        }
        match self.document_of_registry(digest).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => self.document_of_others(digest).await.ok_or(error),
        }
    }

    /// As one of the other nodes has it, which is then asked for the other parts, too.
    async fn document_of_others(&self, digest: &str) -> Option<Vec<u8>> {
        let mut asked = Vec::new();
        for node in self.others.iter().copied() {
            asked.push(async move { (node, self.document_of(node, digest).await) });
        }
        let mut answers = pin!(stream::iter(asked).buffer_unordered(OTHERS_AT_ONCE));
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(Some(bytes)) => {
                    self.nodes.lock().push(node);
                    return Some(bytes);
                }
                Ok(None) => {}
                Err(why) => self.give_up(node, &why),
            }
        }
        None
    }

    async fn document_of_registry(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let registry = self.reference.registry().to_owned();
        let by_digest = Reference::with_digest(registry, self.reference.repository().to_owned(), digest.to_owned());
        let (bytes, _) = self
            .client("fetch its manifest")?
            .pull_manifest_raw(&by_digest, &self.credentials.auth, &MANIFEST_TYPES)
            .await
            .map_err(self.refused(&by_digest.to_string(), "fetch its manifest, which no other node has"))?;
        if bytes.len() > DOCUMENT_BYTES_MAX || digest_of(&bytes) != digest {
            return Err(content(digest, "the registry sent a manifest with another digest"));
        }
        Ok(bytes.into())
    }

    /// A document as another node has it; none: it has not, and may have other parts.
    async fn document_of(&self, node: NodeId, digest: &str) -> Result<Option<Vec<u8>>, String> {
        let mut stream = match self.fetch(node, digest, 0).await {
            Ok(stream) => stream,
            Err(PeerError::Absent) => return Ok(None),
            Err(PeerError::Failed(why)) => return Err(why),
        };
        let mut bytes = Vec::new();
        loop {
            match timeout(PEER_SILENCE_MAX, stream.next()).await {
                Ok(Some(Ok(chunk))) => bytes.extend(chunk),
                Ok(Some(Err(PeerError::Absent))) => return Ok(None),
                Ok(Some(Err(PeerError::Failed(why)))) => return Err(why),
                Ok(None) => break,
                Err(_) => return Err(silent()),
            }
            if bytes.len() > DOCUMENT_BYTES_MAX {
                return Err("it sent a manifest that is too large".to_owned());
            }
        }
        if digest_of(&bytes) != digest {
            return Err(format!("it sent a manifest with another digest than {digest}"));
        }
        Ok(Some(bytes))
    }

    /// Brings what is missing of a blob. It is whole and right when this returns well; else what is right of it is kept
    /// for the next attempt. Returns the bytes that other nodes gave.
    pub async fn blob(&self, download: &mut Download, digest: &str) -> Result<u64, Error> {
        let mut from_peers = 0;
        for node in self.nodes(self.turn.fetch_add(1, Ordering::Relaxed)) {
            loop {
                let before = download.written();
                let taken = self.take_from(node, download, digest).await;
                from_peers += download.written() - before;
                match (taken, download.fault()) {
                    (Ok(()), None) => return Ok(from_peers),
                    (Ok(()), Some(why)) => {
                        download.restart().await?;
                        from_peers = 0;
                        if before == 0 {
                            warn!(%node, %digest, why, "another node's copy of a blob is not right");
                            self.give_up(node, &why);
                            break;
                        }
                        // It may have been the beginning that was wrong.
                    }
                    (Err(Broken::Source(PeerError::Absent)), _) => break,
                    (Err(Broken::Source(PeerError::Failed(why))), _) => {
                        self.give_up(node, &why);
                        break;
                    }
                    (Err(Broken::Disk(error)), _) => return Err(error),
                }
            }
        }
        let is_continued = download.written() > 0;
        self.take_from_registry(download, digest).await?;
        if download.fault().is_some() && is_continued {
            download.restart().await?;
            from_peers = 0;
            self.take_from_registry(download, digest).await?;
        }
        match download.fault() {
            None => Ok(from_peers),
            Some(why) => {
                download.restart().await?;
                Err(content(digest, &format!("the registry: {why}")))
            }
        }
    }

    async fn fetch(&self, node: NodeId, digest: &str, offset: u64) -> Result<PeerBytes, PeerError> {
        let Some(peers) = self.peers else { return Err(PeerError::Absent) };
        let fetched = timeout(PEER_SILENCE_MAX, peers.fetch(node, digest, offset)).await;
        fetched.unwrap_or_else(|_| Err(PeerError::Failed(silent())))
    }

    async fn take_from(&self, node: NodeId, download: &mut Download, digest: &str) -> Result<(), Broken<PeerError>> {
        let stream = self.fetch(node, digest, download.written()).await.map_err(Broken::Source)?;
        let quick = stream::unfold(stream, async |mut stream| {
            let next = timeout(PEER_SILENCE_MAX, stream.next()).await;
            let next = next.unwrap_or_else(|_| Some(Err(PeerError::Failed(silent()))));
            next.map(|chunk| (chunk, stream))
        });
        download.take(quick).await
    }

    async fn take_from_registry(&self, download: &mut Download, digest: &str) -> Result<(), Error> {
        let image = self.image.to_string();
        let ask = |error| self.refused(&image, &format!("fetch {digest}, which no other node has"))(error);
        // A part may name further addresses; this node asks nobody but the registry.
        let client = self.client(&format!("fetch {digest}"))?;
        client.store_auth_if_needed(self.reference.resolve_registry(), &self.credentials.auth).await;
        let stream = if download.written() == 0 {
            client.pull_blob_stream(&self.reference, digest).await.map_err(ask)?
        } else {
            let rest = client.pull_blob_stream_partial(&self.reference, digest, download.written(), None).await;
            match rest.map_err(ask)? {
                BlobResponse::Partial(stream) => stream,
                BlobResponse::Full(stream) => {
                    download.restart().await?;
                    stream
                }
            }
        };
        match download.take(stream).await {
            Ok(()) => Ok(()),
            // The client has found what we find, too.
            Err(Broken::Source(error)) if is_digest(&error) => Ok(()),
            Err(Broken::Source(error)) => Err(failed(&image, &format!("fetch {digest}"))(error)),
            Err(Broken::Disk(error)) => Err(error),
        }
    }

    fn client(&self, attempt: &str) -> Result<&Client, Error> {
        self.client.as_ref().map_err(|error| failed(&self.image.to_string(), attempt)(*error))
    }

    fn refused(&self, image: &str, attempt: &str) -> impl FnOnce(OciDistributionError) -> Error {
        refused(image, self.image.registry(), attempt, &self.credentials)
    }

    fn nodes(&self, turn: usize) -> Vec<NodeId> {
        let mut nodes = self.nodes.lock().clone();
        let first = turn.checked_rem(nodes.len()).unwrap_or_default();
        nodes.rotate_left(first);
        nodes
    }

    /// Asks a node nothing more for this image.
    fn give_up(&self, node: NodeId, why: &dyn Display) {
        debug!(%node, image = %self.image, %why, "another node does not give the image");
        self.nodes.lock().retain(|other| *other != node);
    }
}

fn silent() -> String {
    format!("it sent nothing for {PEER_SILENCE_MAX:?}")
}

pub(super) fn content(digest: &str, why: &str) -> Error {
    Error::Content { digest: digest.to_owned(), why: why.to_owned() }
}

/// Says of a registry that does not let us in what to do about it.
pub(super) fn refused(
    image: &str,
    registry: &str,
    attempt: &str,
    credentials: &Credentials,
) -> impl FnOnce(OciDistributionError) -> Error {
    move |error| match credentials.advice(registry, &error) {
        Some(advice) => failed(image, &format!("{attempt}: {advice}"))(error),
        None => failed(image, attempt)(error),
    }
}

pub(super) fn failed<E: std::error::Error + Send + Sync + 'static>(
    image: &str,
    attempt: &str,
) -> impl FnOnce(E) -> Error {
    let (image, attempt) = (image.to_owned(), attempt.to_owned());
    move |source| Error::Pull { image, attempt, source: source.into() }
}

fn is_digest(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<oci_client::errors::DigestError>())
}
