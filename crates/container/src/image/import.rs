//! Brings an image into the store from an archive that somebody sends: the way without a registry.
//!
//! Nothing of it is visible before all of it is here and checked: the files lie in a directory of their own, the layers are
//! unpacked with the code that unpacks those of a pull, and what makes the image known (its manifest, then the note that it
//! was needed) is written last. What a crash leaves is removed when the store is opened, or by the next sweep.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use insula_env::clock::timeout;
use tokio::sync::mpsc;
use tracing::info;

use super::{
    ImageRef,
    archive::{Staged, refuse},
    contents::{self, Contents},
    pull::{BLOB_BYTES_MAX, Image, Images, assemble, parse_manifest},
    store::Store,
};
use crate::{Error, disk::blocking};

/// Longest silence of whoever sends an archive.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Pieces that wait for the disk, at most.
const PIECES_MAX: usize = 8;

/// An image that came in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its name, with the digest of what is in it.
    pub image: ImageRef,
    /// Bytes of its layers as they came.
    pub size_bytes: u64,
    /// Bytes of what was not here before: layers, configuration, manifests.
    pub new_bytes: u64,
}

impl Images {
    /// Takes an image from a tar file, under `name` or the name that it has there. Bounded in time by the caller.
    pub async fn import<B, E>(
        &self,
        name: Option<&str>,
        archive: impl Stream<Item = Result<B, E>>,
    ) -> Result<Imported, Error>
    where
        B: AsRef<[u8]> + Send + 'static,
        E: Display,
    {
        if let Some(name) = name {
            // Told before all of it was sent in vain.
            ImageRef::named(name, &format!("sha256:{}", "0".repeat(64)))?;
        }
        let staged = self.stage(archive).await?;
        let sweeping = Arc::clone(&self.sweeping).read_owned().await;
        let (store, name) = (Arc::clone(&self.store), name.map(str::to_owned));
        let imported = blocking(&*self.disk, move || {
            // Until the end also when nobody waits for it any more.
            let _importing = sweeping;
            store.take_over(&staged, name.as_deref())
        })
        .await?;
        info!(image = %imported.image, size_bytes = imported.size_bytes, new_bytes = imported.new_bytes, "image imported");
        Ok(imported)
    }

    async fn stage<B, E>(&self, archive: impl Stream<Item = Result<B, E>>) -> Result<Staged, Error>
    where
        B: AsRef<[u8]> + Send + 'static,
        E: Display,
    {
        let (pieces, received) = mpsc::channel(PIECES_MAX);
        let (directory, disk) = (self.store.temporary_blobs(), Arc::clone(&self.disk));
        let received = Received { pieces: received, piece: None, taken: 0, has_ended: false };
        let mut reading = pin!(blocking(&*self.disk, move || Staged::read(received, directory, disk)));
        tokio::select! {
            biased;
            staged = &mut reading => staged,
            () = hand_over(archive, pieces) => reading.await,
        }
    }
}

/// A piece of an archive, its end, or why there is no more.
type Piece<B> = io::Result<Option<B>>;

/// Hands an archive over to the thread that takes it apart.
async fn hand_over<B: AsRef<[u8]>, E: Display>(
    archive: impl Stream<Item = Result<B, E>>,
    pieces: mpsc::Sender<Piece<B>>,
) {
    let mut archive = pin!(archive);
    loop {
        let piece = match timeout(SILENCE_MAX, archive.next()).await {
            Ok(Some(Ok(piece))) if piece.as_ref().is_empty() => continue,
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(Some(Err(error))) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, format!("it broke off: {error}")))
            }
            Ok(None) => Ok(None),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {SILENCE_MAX:?}"))),
        };
        let is_last = !matches!(piece, Ok(Some(_)));
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// The same archive, for a thread that may block.
struct Received<B> {
    pieces: mpsc::Receiver<Piece<B>>,
    piece: Option<B>,
    /// Bytes of the piece that have been read.
    taken: usize,
    has_ended: bool,
}

impl<B: AsRef<[u8]>> Read for Received<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.piece.as_ref().and_then(|piece| piece.as_ref().get(self.taken..)).unwrap_or_default();
            if !rest.is_empty() {
                let len = rest.len().min(buffer.len());
                buffer[..len].copy_from_slice(&rest[..len]);
                self.taken += len;
                return Ok(len);
            }
            if self.has_ended {
                return Ok(0);
            }
            self.taken = 0;
            self.piece = match self.pieces.blocking_recv() {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "whoever sent it has left")),
            };
            self.has_ended = self.piece.is_none();
        }
    }
}

impl Store {
    /// Where the files of an archive lie until they are known to be an image.
    fn temporary_blobs(&self) -> PathBuf {
        self.temporary(&self.blobs().join("archive"))
    }

    /// Makes an image of the files of an archive.
    pub(super) fn take_over(&self, staged: &Staged, name: Option<&str>) -> Result<Imported, Error> {
        let found = contents::find(staged)?;
        let Some(name) = name.or(found.name.as_deref()) else {
            return refuse("it does not say what the image is called: say it with --name, like --name shop");
        };
        let image = ImageRef::named(name, found.digest())?;
        let manifest = parse_manifest(found.digest(), found.manifest())?;
        let config = staged.document(&manifest.config.digest)?;
        let assembled = assemble(self, &manifest, &config)?;
        contents::check_platform(&assembled.config)?;
        let parts = parts(staged, &found, &assembled)?;
        for (blob, diff_id) in &assembled.layer_blobs {
            self.unpack_from(&staged.path(&blob.digest), &blob.digest, diff_id)?;
        }
        let new_bytes = self.keep_all(staged, &manifest.config.digest, &found, &parts)?;
        self.note(&image)?;
        Ok(Imported { image, size_bytes: assembled.size_bytes(), new_bytes })
    }

    /// Gives everything its name, the layers first: what makes the image known comes last. Gives the bytes that are new.
    fn keep_all(
        &self,
        staged: &Staged,
        config: &str,
        found: &Contents,
        layers: &BTreeMap<&str, u64>,
    ) -> Result<u64, Error> {
        let is_here =
            |digest: &str, size: u64| std::fs::metadata(self.blob(digest)).is_ok_and(|meta| meta.len() == size);
        let mut new_bytes = 0;
        let config_size = staged.size_of(config).unwrap_or_default();
        for (digest, size) in layers.iter().map(|(digest, size)| (*digest, *size)).chain([(config, config_size)]) {
            if !is_here(digest, size) {
                new_bytes += size;
            }
            // Also when one is here: that may have gone bad, and this one has been checked.
            keep(self, &staged.path(digest), digest)?;
        }
        for (digest, text) in found.documents.iter().rev() {
            if !is_here(digest, text.len() as u64) {
                new_bytes += text.len() as u64;
            }
            self.write_blob(digest, text)?;
        }
        Ok(new_bytes)
    }
}

fn keep(store: &Store, path: &Path, digest: &str) -> Result<(), Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    store.keep_blob(&file, path, digest)
}

/// The layers that have to be there, each once, with their sizes.
fn parts<'a>(staged: &Staged, found: &Contents, image: &'a Image) -> Result<BTreeMap<&'a str, u64>, Error> {
    let mut parts = BTreeMap::new();
    for (blob, _) in &image.layer_blobs {
        match staged.size_of(&blob.digest) {
            // Other nodes would not take it.
            Some(size) if size > BLOB_BYTES_MAX => {
                return refuse(format!("its layer {} has more than {BLOB_BYTES_MAX} bytes", blob.digest));
            }
            Some(size) if i64::try_from(size).is_ok_and(|size| size == blob.size) => {
                parts.insert(blob.digest.as_str(), size);
            }
            Some(size) => {
                return refuse(format!("{} has {size} bytes, and its manifest says {}", blob.digest, blob.size));
            }
            None => {
                let said = "was it cut off, or saved without what this platform needs?";
                return refuse(format!("it lacks the layer {} of {}: {said}", blob.digest, found.digest()));
            }
        }
    }
    Ok(parts)
}
