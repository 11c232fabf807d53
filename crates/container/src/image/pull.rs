//! Brings images into the store, from other nodes or from their registry, and reads them from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    ops::Add,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, stream};
use insula_env::Disk;
use insula_types::{InstanceId, text::shorten};
use oci_client::manifest::{OciDescriptor, OciImageManifest, OciManifest};
use oci_spec::image::ImageConfiguration;
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::{
    ImagePeers, ImageRef, ImageTag,
    credentials::Credentials,
    download::Download,
    origin::{DOCUMENT_BYTES_MAX, Origin, content, failed, refused},
    progress::{Progress, Pulls},
    reference::check_digest,
    registry,
    store::Store,
};
use crate::{Config, Error, ImageInfo, PullProgress, disk::blocking, signal};

/// Compressed layer, at most.
pub(super) const BLOB_BYTES_MAX: u64 = 16 << 30;
/// Layers of an image, at most: overlayfs takes 500, one mount call's page of options far fewer.
const LAYERS_MAX: usize = 128;
/// What is shown of a text that is refused, in bytes.
const TEXT_SHOWN_MAX: usize = 80;
/// Layers of an image that are fetched and unpacked at the same time: one line and one disk are busy with so many.
const LAYERS_AT_ONCE: usize = 3;

/// Images of one node.
#[derive(Debug)]
pub(crate) struct Images {
    pub(super) store: Arc<Store>,
    pub(super) disk: Arc<dyn Disk>,
    insecure_registries: Vec<String>,
    registry_credentials: PathBuf,
    peers: Option<Arc<dyn ImagePeers>>,
    /// Images and blobs that are being fetched.
    gates: Gates,
    pulls: Pulls,
    /// Held for reading by pulls, for writing by whoever takes away what no image needs.
    pub(super) sweeping: Arc<tokio::sync::RwLock<()>>,
}

/// Lets one at a time do what is about a digest.
#[derive(Debug, Default)]
struct Gates(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Gates {
    async fn pass<R>(&self, digest: &str, work: impl Future<Output = R>) -> R {
        let gate = Arc::clone(self.0.lock().entry(digest.to_owned()).or_default());
        let held = gate.lock().await;
        let result = work.await;
        drop(held);
        let mut gates = self.0.lock();
        // Ours and the map's: nobody else waits.
        if Arc::strong_count(&gate) == 2 {
            gates.remove(digest);
        }
        result
    }
}

/// Bytes that were fetched.
#[derive(Debug, Clone, Copy, Default)]
struct Pulled {
    bytes: u64,
    /// Of them, from other nodes.
    from_nodes: u64,
}

impl Add for Pulled {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, from_nodes: self.from_nodes + other.from_nodes }
    }
}

/// An image that is present: what is needed to start from it.
#[derive(Debug)]
pub(crate) struct Image {
    /// Unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Its command, environment and user.
    pub config: ImageConfiguration,
    /// Manifests and configuration, by digest.
    documents: Vec<String>,
    pub(super) layer_blobs: Vec<(OciDescriptor, String)>,
}

impl Images {
    pub fn new(store: Store, disk: Arc<dyn Disk>, config: &Config, peers: Option<Arc<dyn ImagePeers>>) -> Self {
        let (gates, pulls, sweeping) = Default::default();
        let (insecure_registries, registry_credentials) =
            (config.insecure_registries.clone(), config.registry_credentials.clone());
        Self { store: Arc::new(store), disk, insecure_registries, registry_credentials, peers, gates, pulls, sweeping }
    }

    /// Below it are the unpacked layers of all images.
    pub fn layers(&self) -> &Path {
        self.store.layers()
    }

    /// The image, if all of it is present.
    pub fn load(&self, image: &ImageRef) -> Result<Option<Image>, Error> {
        let Some(mut manifest) = self.store.read_blob(image.digest()) else { return Ok(None) };
        let mut documents = vec![image.digest().to_owned()];
        if let Some(platform) = platform_digest(image.digest(), &manifest)? {
            let Some(found) = self.store.read_blob(&platform) else { return Ok(None) };
            manifest = found;
            documents.push(platform);
        }
        let manifest = parse_manifest(image.digest(), &manifest)?;
        let Some(config) = self.store.read_blob(&manifest.config.digest) else { return Ok(None) };
        let mut image = assemble(&self.store, &manifest, &config)?;
        image.documents.extend(documents);
        Ok(image.layers.iter().all(|layer| layer.exists()).then_some(image))
    }

    /// Makes the image present; callers of the same image wait for one pull.
    pub async fn ensure(&self, image: &ImageRef) -> Result<ImageInfo, Error> {
        let ensure = async {
            let _pulling = self.sweeping.read().await;
            let found = match self.load(image)? {
                Some(present) => present.info(Pulled::default()),
                None => Box::pin(self.pull(image)).await?,
            };
            self.note_use(image)?;
            Ok(found)
        };
        self.gates.pass(image.digest(), ensure).await
    }

    /// How far the pull of an image is.
    pub fn progress(&self, image: &ImageRef) -> Option<PullProgress> {
        self.pulls.of(image.digest())
    }

    /// A manifest, configuration or layer as it was fetched, for other nodes; none: it is not here.
    pub fn open_blob(&self, digest: &str) -> Option<File> {
        check_digest(digest).ok().and_then(|digest| File::open(self.store.blob(digest)).ok())
    }

    /// What a registry says now that a tag stands for. Of one with images for several platforms, the digest of the list of them.
    pub async fn resolve_tag(&self, tag: &ImageTag) -> Result<ImageRef, Error> {
        let (text, registry) = (tag.to_string(), tag.registry());
        let credentials = Credentials::read(&self.registry_credentials, registry, tag.repository());
        let attempt = "ask for the digest of its tag";
        let client = registry::client(registry, &self.insecure_registries).map_err(failed(&text, attempt))?;
        let asked = client.fetch_manifest_digest(&tag.to_oci(), &credentials.auth).await;
        tag.with_digest(&asked.map_err(refused(&text, registry, attempt, &credentials))?)
    }

    async fn pull(&self, image: &ImageRef) -> Result<ImageInfo, Error> {
        info!(%image, "image pull begins");
        let progress = self.pulls.begin(image.digest());
        let credentials = Credentials::of(&self.registry_credentials, image);
        let client = registry::client(image.registry(), &self.insecure_registries);
        let origin = Origin::new(image, client, credentials, self.peers.as_deref());
        let mut manifest = self.document(&origin, image.digest()).await?;
        if let Some(platform) = platform_digest(image.digest(), &manifest)? {
            manifest = self.document(&origin, &platform).await?;
        }
        let manifest = parse_manifest(image.digest(), &manifest)?;
        if manifest.config.size < 0 || manifest.config.size as usize > DOCUMENT_BYTES_MAX {
            return Err(content(&manifest.config.digest, "the configuration is too large"));
        }
        let mut pulled = self.fetch_blob(&origin, &manifest.config, Arc::default()).await?;
        let config = self
            .store
            .read_blob(&manifest.config.digest)
            .ok_or_else(|| content(&manifest.config.digest, "the configuration is damaged"))?;
        let assembled = assemble(&self.store, &manifest, &config)?;
        progress.set_size(assembled.size_bytes());
        let mut layers = Vec::new();
        for (blob, diff_id) in &assembled.layer_blobs {
            layers.push(self.ensure_layer(&origin, blob, diff_id, &progress));
        }
        let mut layers = stream::iter(layers).buffer_unordered(LAYERS_AT_ONCE);
        while let Some(layer) = layers.next().await {
            pulled = pulled + layer?;
        }
        drop(layers);
        info!(
            %image, pulled_bytes = pulled.bytes, from_nodes_bytes = pulled.from_nodes, layers = assembled.layers.len(),
            "image is present"
        );
        Ok(assembled.info(pulled))
    }

    /// Fetches and unpacks one layer. A blob on our own disk that has gone bad is fetched again, once.
    async fn ensure_layer(
        &self,
        origin: &Origin<'_>,
        blob: &OciDescriptor,
        diff_id: &str,
        progress: &Arc<Progress>,
    ) -> Result<Pulled, Error> {
        if self.store.layer(diff_id).exists() {
            progress.add(blob.size.max(0) as u64);
            return Ok(Pulled::default());
        }
        let pulled = self.fetch_blob(origin, blob, Arc::clone(progress)).await?;
        match self.unpack(&blob.digest, diff_id).await {
            // A blob that is as it should be stays: then it is this image that is wrong, and others may need the blob.
            Err(Error::Content { .. }) if pulled.bytes == 0 && self.drop_damaged(&blob.digest).await => {
                let pulled = self.fetch_blob(origin, blob, Arc::default()).await?;
                self.unpack(&blob.digest, diff_id).await.map(|()| pulled)
            }
            other => other.map(|()| pulled),
        }
    }

    async fn drop_damaged(&self, digest: &str) -> bool {
        let (store, digest) = (Arc::clone(&self.store), digest.to_owned());
        blocking(&*self.disk, move || store.drop_damaged(&digest)).await
    }

    async fn unpack(&self, digest: &str, diff_id: &str) -> Result<(), Error> {
        let (store, digest, diff_id) = (Arc::clone(&self.store), digest.to_owned(), diff_id.to_owned());
        blocking(&*self.disk, move || store.unpack(&digest, &diff_id)).await
    }

    async fn document(&self, origin: &Origin<'_>, digest: &str) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = self.store.read_blob(digest) {
            return Ok(bytes);
        }
        let bytes = origin.document(digest).await?;
        self.store.write_blob(digest, &bytes)?;
        Ok(bytes)
    }

    /// Brings a blob to the disk; pulls of other images that need it too wait for this one.
    async fn fetch_blob(
        &self,
        origin: &Origin<'_>,
        blob: &OciDescriptor,
        progress: Arc<Progress>,
    ) -> Result<Pulled, Error> {
        let size = u64::try_from(blob.size).ok().filter(|size| *size <= BLOB_BYTES_MAX);
        let size = size.ok_or_else(|| content(&blob.digest, "its size is out of bounds"))?;
        let fetch = async {
            if std::fs::metadata(self.store.blob(&blob.digest)).is_ok_and(|meta| meta.len() == size) {
                progress.add(size);
                return Ok(Pulled::default());
            }
            let mut download = Download::open(self.store.partial(&blob.digest), &blob.digest, size, progress).await?;
            let is_new = download.written() == 0;
            let fetched = match download.fault() {
                None => Ok(0),
                Some(_) => origin.blob(&mut download, &blob.digest).await,
            };
            let from_nodes = match fetched {
                Ok(from_nodes) => from_nodes,
                Err(error) => {
                    download.leave().await;
                    return Err(error);
                }
            };
            debug!(digest = %blob.digest, size, from_nodes, is_new, "blob fetched");
            let (file, partial) = download.into_file().await?;
            let (store, digest) = (Arc::clone(&self.store), blob.digest.clone());
            blocking(&*self.disk, move || store.keep_blob(&file, &partial, &digest)).await?;
            Ok(Pulled { bytes: size, from_nodes })
        };
        self.gates.pass(&blob.digest, fetch).await
    }
}

impl Image {
    /// Bytes of its compressed layers.
    pub fn size_bytes(&self) -> u64 {
        self.layer_blobs.iter().map(|(blob, _)| blob.size.max(0) as u64).sum()
    }

    /// The signal by which it wants to be stopped; none when it does not say, or names one that we do not have.
    pub fn stop_signal(&self, instance: InstanceId) -> Option<i32> {
        let name = self.config.config().as_ref()?.stop_signal().as_deref()?;
        let number = signal::of_image(name);
        if number.is_none() {
            warn!(%instance, signal = name, "the image wants to be stopped by a signal that is unknown here");
        }
        number
    }

    /// Adds what it is made of: the hexadecimal digits of the digests of its blobs and of its unpacked layers.
    pub fn parts(&self, parts: &mut BTreeSet<String>) {
        let layers = self.layer_blobs.iter().flat_map(|(blob, diff_id)| [&blob.digest, diff_id]);
        parts.extend(self.documents.iter().chain(layers).map(|it| it.trim_start_matches("sha256:").to_owned()));
    }

    fn info(&self, pulled: Pulled) -> ImageInfo {
        let size_bytes = self.size_bytes();
        ImageInfo { size_bytes, pulled_bytes: pulled.bytes, from_nodes_bytes: pulled.from_nodes }
    }
}

/// The image that a manifest and a configuration describe.
pub(super) fn assemble(store: &Store, manifest: &OciImageManifest, config: &[u8]) -> Result<Image, Error> {
    let digest = &manifest.config.digest;
    let config: ImageConfiguration =
        serde_json::from_slice(config).map_err(|error| content(digest, &format!("its configuration: {error}")))?;
    check_texts(&config).map_err(|why| content(digest, &why))?;
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
    let layers = diff_ids.iter().map(|diff_id| store.layer(diff_id)).collect();
    Ok(Image { layers, config, documents: vec![digest.clone()], layer_blobs })
}

/// Refuses what no program can be given: JSON can say NUL, and a system call reads no further than that.
fn check_texts(config: &ImageConfiguration) -> Result<(), String> {
    let Some(config) = config.config() else { return Ok(()) };
    let lists = [("Env", config.env()), ("Entrypoint", config.entrypoint()), ("Cmd", config.cmd())];
    let one = |text: &Option<String>| text.iter().cloned().collect::<Vec<_>>();
    let (user, directory) = (one(config.user()), one(config.working_dir()));
    let lists = lists.map(|(key, list)| (key, list.as_deref().unwrap_or_default()));
    for (key, texts) in lists.into_iter().chain([("User", &*user), ("WorkingDir", &*directory)]) {
        if let Some(text) = texts.iter().find(|text| text.contains('\0')) {
            let found = shorten(text, TEXT_SHOWN_MAX);
            return Err(format!("its configuration: {key}: found {found:?}: no program can receive a NUL character"));
        }
    }
    Ok(())
}

/// The manifest's digest for this platform, when the document is a list of manifests.
pub(super) fn platform_digest(digest: &str, document: &[u8]) -> Result<Option<String>, Error> {
    let OciManifest::ImageIndex(index) = parse(digest, document)? else { return Ok(None) };
    let found = oci_client::client::current_platform_resolver(&index.manifests)
        .ok_or_else(|| content(digest, &format!("it has no variant for {}", std::env::consts::ARCH)))?;
    check_digest(&found).map_err(|why| content(digest, &why))?;
    Ok(Some(found))
}

pub(super) fn parse_manifest(digest: &str, document: &[u8]) -> Result<OciImageManifest, Error> {
    let OciManifest::Image(manifest) = parse(digest, document)? else {
        return Err(content(digest, "it is a list of lists of images"));
    };
    check_digest(&manifest.config.digest).map_err(|why| content(digest, &why))?;
    Ok(manifest)
}

fn parse(digest: &str, document: &[u8]) -> Result<OciManifest, Error> {
    serde_json::from_slice(document).map_err(|error| content(digest, &format!("it is no manifest: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_program_can_be_given_is_refused() {
        let check = |config: &str| {
            let text = format!(
                r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[]}},"config":{config}}}"#
            );
            check_texts(&serde_json::from_str(&text).expect("a configuration"))
        };
        for (key, value) in [
            ("Env", r#"["A=b","B=c\u0000d"]"#),
            ("Entrypoint", r#"["\u0000"]"#),
            ("Cmd", r#"["sh","-c\u0000"]"#),
            ("User", r#""1\u0000""#),
            ("WorkingDir", r#""/a\u0000b""#),
        ] {
            let why = check(&format!("{{\"{key}\":{value}}}")).expect_err(key);
            assert!(why.starts_with(&format!("its configuration: {key}: found \"")), "{why}");
            assert!(why.ends_with("\": no program can receive a NUL character"), "{why}");
        }
        let fine = r#"{"Env":["A=b"],"Cmd":["sh"],"User":"1:2","WorkingDir":"/","Labels":{"a":"b"}}"#;
        assert_eq!((check(fine), check("null")), (Ok(()), Ok(())));
    }
}
