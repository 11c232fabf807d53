//! Brings images from their registry into the store, and reads them from there.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use insula_env::Disk;
use oci_client::{
    Reference,
    client::{Client, ClientConfig, ClientProtocol},
    manifest::{OciDescriptor, OciImageManifest, OciManifest},
    secrets::RegistryAuth,
};
use oci_spec::image::ImageConfiguration;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tracing::info;

use super::{
    ImageRef,
    reference::check_digest,
    store::{Store, digest_of},
};
use crate::{Error, ImageInfo, disk::blocking};

/// Manifest or configuration, at most: registries refuse manifests above 4 MiB (OCI distribution specification).
const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// Compressed layer, at most.
const BLOB_BYTES_MAX: u64 = 16 << 30;
/// Layers of an image, at most: overlayfs takes 500, one mount call's page of options far fewer.
const LAYERS_MAX: usize = 128;
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest silence of a registry.
const READ_MAX: Duration = Duration::from_secs(30);
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Images of one node.
#[derive(Debug)]
pub(crate) struct Images {
    store: Arc<Store>,
    disk: Arc<dyn Disk>,
    insecure_registries: Vec<String>,
    /// Pulls that are under way, by digest.
    pulls: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// An image that is present: what is needed to start from it.
#[derive(Debug)]
pub(crate) struct Image {
    /// Unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Its command, environment and user.
    pub config: ImageConfiguration,
    layer_blobs: Vec<(OciDescriptor, String)>,
}

impl Images {
    pub fn new(store: Store, disk: Arc<dyn Disk>, insecure_registries: Vec<String>) -> Self {
        Self { store: Arc::new(store), disk, insecure_registries, pulls: Mutex::default() }
    }

    /// Below it are the unpacked layers of all images.
    pub fn layers(&self) -> &Path {
        self.store.layers()
    }

    /// The image, if all of it is present.
    pub fn load(&self, image: &ImageRef) -> Result<Option<Image>, Error> {
        let Some(mut manifest) = self.store.read_blob(image.digest()) else { return Ok(None) };
        if let Some(platform) = platform_digest(image.digest(), &manifest)? {
            let Some(found) = self.store.read_blob(&platform) else { return Ok(None) };
            manifest = found;
        }
        let manifest = parse_manifest(image.digest(), &manifest)?;
        let Some(config) = self.store.read_blob(&manifest.config.digest) else { return Ok(None) };
        let image = self.assemble(&manifest, &config)?;
        Ok(image.layers.iter().all(|layer| layer.exists()).then_some(image))
    }

    /// Makes the image present; callers of the same image wait for one pull.
    pub async fn ensure(&self, image: &ImageRef) -> Result<ImageInfo, Error> {
        let gate = Arc::clone(self.pulls.lock().entry(image.digest().to_owned()).or_default());
        let held = gate.lock().await;
        let result = match self.load(image)? {
            Some(present) => Ok(present.info(0)),
            None => self.pull(image).await,
        };
        drop(held);
        let mut pulls = self.pulls.lock();
        // Ours and the map's: nobody else waits.
        if Arc::strong_count(&gate) == 2 {
            pulls.remove(image.digest());
        }
        result
    }

    /// The digest that a registry now gives for a reference with a tag, or with none (`latest`).
    pub async fn resolve_tag(&self, text: &str) -> Result<ImageRef, Error> {
        let refuse = |why: String| Error::Reference { text: text.to_owned(), why };
        let reference: Reference = text.parse().map_err(|error| refuse(format!("{error}")))?;
        let digest = match reference.digest() {
            Some(digest) => digest.to_owned(),
            None => self
                .client(reference.registry())
                .fetch_manifest_digest(&reference, &RegistryAuth::Anonymous)
                .await
                .map_err(failed(text, "ask for the digest of its tag"))?,
        };
        format!("{}/{}@{digest}", reference.registry(), reference.repository()).parse()
    }

    async fn pull(&self, image: &ImageRef) -> Result<ImageInfo, Error> {
        info!(%image, "image pull begins");
        let client = self.client(image.registry());
        let reference = image.to_oci();
        let mut manifest = self.fetch_manifest(&client, &reference, image.digest()).await?;
        if let Some(platform) = platform_digest(image.digest(), &manifest)? {
            manifest = self.fetch_manifest(&client, &reference, &platform).await?;
        }
        let manifest = parse_manifest(image.digest(), &manifest)?;
        if manifest.config.size < 0 || manifest.config.size as usize > DOCUMENT_BYTES_MAX {
            return Err(content(&manifest.config.digest, "the configuration is too large"));
        }
        let mut pulled = self.fetch_blob(&client, &reference, &manifest.config).await?;
        let config = self
            .store
            .read_blob(&manifest.config.digest)
            .ok_or_else(|| content(&manifest.config.digest, "the configuration is damaged"))?;
        let assembled = self.assemble(&manifest, &config)?;
        for (blob, diff_id) in &assembled.layer_blobs {
            pulled += self.ensure_layer(&client, &reference, blob, diff_id).await?;
        }
        info!(%image, pulled_bytes = pulled, layers = assembled.layers.len(), "image is present");
        Ok(assembled.info(pulled))
    }

    /// Fetches and unpacks one layer. A blob on our own disk that has gone bad is fetched again, once.
    async fn ensure_layer(
        &self,
        client: &Client,
        reference: &Reference,
        blob: &OciDescriptor,
        diff_id: &str,
    ) -> Result<u64, Error> {
        if self.store.layer(diff_id).exists() {
            return Ok(0);
        }
        let pulled = self.fetch_blob(client, reference, blob).await?;
        match self.unpack(&blob.digest, diff_id).await {
            Err(Error::Content { why, .. }) => {
                self.store.remove_blob(&blob.digest);
                if pulled > 0 {
                    return Err(content(&blob.digest, &why));
                }
                let pulled = self.fetch_blob(client, reference, blob).await?;
                self.unpack(&blob.digest, diff_id).await.map(|()| pulled)
            }
            other => other.map(|()| pulled),
        }
    }

    async fn unpack(&self, digest: &str, diff_id: &str) -> Result<(), Error> {
        let (store, digest, diff_id) = (Arc::clone(&self.store), digest.to_owned(), diff_id.to_owned());
        blocking(&*self.disk, move || store.unpack(&digest, &diff_id)).await
    }

    async fn fetch_manifest(&self, client: &Client, reference: &Reference, digest: &str) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = self.store.read_blob(digest) {
            return Ok(bytes);
        }
        let by_digest = Reference::with_digest(
            reference.registry().to_owned(),
            reference.repository().to_owned(),
            digest.to_owned(),
        );
        let (bytes, _) = client
            .pull_manifest_raw(&by_digest, &RegistryAuth::Anonymous, &MANIFEST_TYPES)
            .await
            .map_err(failed(&by_digest.to_string(), "fetch its manifest"))?;
        if bytes.len() > DOCUMENT_BYTES_MAX || digest_of(&bytes) != digest {
            return Err(content(digest, "the registry sent a manifest with another digest"));
        }
        self.store.write_blob(digest, &bytes)?;
        Ok(bytes.into())
    }

    /// Streams a blob to disk, hashing it on the way. Returns the bytes fetched: 0 when it was here.
    async fn fetch_blob(&self, client: &Client, reference: &Reference, blob: &OciDescriptor) -> Result<u64, Error> {
        let path = self.store.blob(&blob.digest);
        let size = u64::try_from(blob.size).ok().filter(|size| *size <= BLOB_BYTES_MAX);
        let size = size.ok_or_else(|| content(&blob.digest, "its size is out of bounds"))?;
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == size) {
            return Ok(0);
        }
        let temporary = Temporary(self.store.temporary(&path));
        self.stream_blob(client, reference, blob, size, &temporary.0).await.map(|()| size)
    }

    async fn stream_blob(
        &self,
        client: &Client,
        reference: &Reference,
        blob: &OciDescriptor,
        size: u64,
        temporary: &Path,
    ) -> Result<(), Error> {
        let image = reference.to_string();
        let mut stream = client
            .pull_blob_stream(reference, blob)
            .await
            .map_err(failed(&image, &format!("fetch {}", blob.digest)))?;
        let mut file = tokio::fs::File::create(temporary).await.map_err(Error::file("create", temporary))?;
        let (mut hash, mut written) = (Sha256::new(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| damaged_or_failed(&image, &blob.digest, error))?;
            written += chunk.len() as u64;
            if written > size {
                return Err(content(&blob.digest, "the registry sent more than its size"));
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(Error::file("write", temporary))?;
        }
        if written != size || format!("sha256:{}", hex::encode(hash.finalize())) != blob.digest {
            return Err(content(&blob.digest, "the registry sent other bytes"));
        }
        file.flush().await.map_err(Error::file("write", temporary))?;
        let file = file.into_std().await;
        let (store, temporary, digest) = (Arc::clone(&self.store), temporary.to_owned(), blob.digest.clone());
        blocking(&*self.disk, move || store.keep_blob(&file, &temporary, &digest)).await
    }

    /// Plain HTTP only where the configuration says so, and on loopback.
    fn client(&self, registry: &str) -> Client {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let is_loopback = host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let is_insecure = is_loopback || self.insecure_registries.iter().any(|listed| listed == registry);
        Client::new(ClientConfig {
            protocol: if is_insecure { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_MAX),
            read_timeout: Some(READ_MAX),
            user_agent: concat!("insula/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        })
    }

    fn assemble(&self, manifest: &OciImageManifest, config: &[u8]) -> Result<Image, Error> {
        let digest = &manifest.config.digest;
        let config: ImageConfiguration =
            serde_json::from_slice(config).map_err(|error| content(digest, &format!("its configuration: {error}")))?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers.len() || diff_ids.is_empty() || diff_ids.len() > LAYERS_MAX {
            return Err(content(digest, "its layers and their digests do not match, or are too many"));
        }
        let mut layer_blobs = Vec::new();
        for (blob, diff_id) in manifest.layers.iter().zip(diff_ids) {
            for checked in [&blob.digest, diff_id] {
                check_digest(checked).map_err(|why| content(digest, &why))?;
            }
            layer_blobs.push((blob.clone(), diff_id.clone()));
        }
        let layers = diff_ids.iter().map(|diff_id| self.store.layer(diff_id)).collect();
        Ok(Image { layers, config, layer_blobs })
    }
}

impl Image {
    fn info(&self, pulled_bytes: u64) -> ImageInfo {
        let size_bytes = self.layer_blobs.iter().map(|(blob, _)| blob.size.max(0) as u64).sum();
        ImageInfo { size_bytes, pulled_bytes }
    }
}

/// A file that goes when its download fails or is given up; one that was renamed is not there any more.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// The manifest's digest for this platform, when the document is a list of manifests.
fn platform_digest(digest: &str, document: &[u8]) -> Result<Option<String>, Error> {
    let OciManifest::ImageIndex(index) = parse(digest, document)? else { return Ok(None) };
    let found = oci_client::client::current_platform_resolver(&index.manifests)
        .ok_or_else(|| content(digest, &format!("it has no variant for {}", std::env::consts::ARCH)))?;
    check_digest(&found).map_err(|why| content(digest, &why))?;
    Ok(Some(found))
}

fn parse_manifest(digest: &str, document: &[u8]) -> Result<OciImageManifest, Error> {
    let OciManifest::Image(manifest) = parse(digest, document)? else {
        return Err(content(digest, "it is a list of lists of images"));
    };
    check_digest(&manifest.config.digest).map_err(|why| content(digest, &why))?;
    Ok(manifest)
}

fn parse(digest: &str, document: &[u8]) -> Result<OciManifest, Error> {
    serde_json::from_slice(document).map_err(|error| content(digest, &format!("it is no manifest: {error}")))
}

fn content(digest: &str, why: &str) -> Error {
    Error::Content { digest: digest.to_owned(), why: why.to_owned() }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(image: &str, attempt: &str) -> impl FnOnce(E) -> Error {
    let (image, attempt) = (image.to_owned(), attempt.to_owned());
    move |source| Error::Pull { image, attempt, source: source.into() }
}

/// The client checks digests, too, and says so through the stream.
fn damaged_or_failed(image: &str, digest: &str, error: io::Error) -> Error {
    let is_digest = error.get_ref().is_some_and(|inner| inner.is::<oci_client::errors::DigestError>());
    if is_digest { content(digest, &error.to_string()) } else { failed(image, &format!("fetch {digest}"))(error) }
}
