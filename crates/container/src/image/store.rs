//! What is kept of images: `blobs/sha256/<digest>` as registries serve them, `layers/<diff id>/fs` unpacked, and in
//! `used/<digest>` the name of each image that was needed here.
//!
//! A name in here is complete and durable: everything is made under a temporary name first. Many images share layers.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    ImageRef,
    unpack::{self, UnpackError},
};
use crate::Error;

/// Begins the name of what is not complete; removed when the store is opened.
const TEMPORARY: &str = ".new-";
/// Ends such a name. Of the process, not of the store: work that one store has given up may still go on when the next one is
/// opened.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// Begins the name of a blob that is being fetched; removed when the store is opened a day after it last grew.
const PARTIAL: &str = ".part-";
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The directory of images of one node. One process at a time.
#[derive(Debug)]
pub(crate) struct Store {
    blobs: PathBuf,
    layers: PathBuf,
    notes: PathBuf,
}

impl Store {
    /// Opens the store, and removes what an earlier process left incomplete.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let (blobs, layers, notes) = (root.join("blobs/sha256"), root.join("layers"), root.join("used"));
        let store = Self { blobs, layers, notes };
        for directory in [&store.blobs, &store.layers, &store.notes] {
            fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
            clean(directory).map_err(Error::file("clean", directory))?;
        }
        Ok(store)
    }

    /// Below it are the unpacked layers.
    pub fn layers(&self) -> &Path {
        &self.layers
    }

    /// Below it are the blobs.
    pub fn blobs(&self) -> &Path {
        &self.blobs
    }

    /// Below it is a file for each image that was needed here, with its name in it; when, is the file's own time.
    pub fn notes(&self) -> &Path {
        &self.notes
    }

    /// That file.
    pub fn note_of(&self, image: &ImageRef) -> PathBuf {
        self.notes.join(image.digest().trim_start_matches("sha256:"))
    }

    /// Where the blob is, or would be. The digest has been checked to be one.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.blobs.join(digest.trim_start_matches("sha256:"))
    }

    /// Where the unpacked layer is, or would be.
    pub fn layer(&self, diff_id: &str) -> PathBuf {
        self.layers.join(diff_id.trim_start_matches("sha256:")).join("fs")
    }

    /// Where a blob is while it is being fetched. It stays when the fetching breaks off, also over a restart: the next
    /// attempt goes on from there.
    pub fn partial(&self, digest: &str) -> PathBuf {
        self.blobs.join(format!("{PARTIAL}{}", digest.trim_start_matches("sha256:")))
    }

    /// A small blob (manifest or configuration), if it is here and whole.
    pub fn read_blob(&self, digest: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob(digest)).ok()?;
        (digest_of(&bytes) == digest).then_some(bytes)
    }

    /// A name for something that is being made in the directory of `path`.
    pub fn temporary(&self, path: &Path) -> PathBuf {
        path.with_file_name(format!("{TEMPORARY}{}", NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed)))
    }

    /// Keeps bytes whose digest has been checked.
    pub fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.blob(digest);
        let temporary = self.temporary(&path);
        let mut file = File::create(&temporary).map_err(Error::file("create", &temporary))?;
        file.write_all(bytes).map_err(Error::file("write", &temporary))?;
        self.keep_blob(&file, &temporary, digest)
    }

    /// Gives a complete temporary file its name, durably.
    pub fn keep_blob(&self, file: &File, temporary: &Path, digest: &str) -> Result<(), Error> {
        let path = self.blob(digest);
        file.sync_all()
            .and_then(|()| fs::rename(temporary, &path))
            .and_then(|()| File::open(&self.blobs)?.sync_all())
            .map_err(Error::file("keep", path))
    }

    /// Drops a blob if the disk has lost some of it; gives whether it is gone now. Blocks.
    pub fn drop_damaged(&self, digest: &str) -> bool {
        let path = self.blob(digest);
        let mut hash = Sha256::new();
        let read = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut hash));
        let is_damaged = read.is_err() || format!("sha256:{}", hex::encode(hash.finalize())) != digest;
        is_damaged && (fs::remove_file(&path).is_ok() || !path.exists())
    }

    /// Unpacks a layer from its blob, once.
    pub fn unpack(&self, digest: &str, diff_id: &str) -> Result<(), Error> {
        if self.layer(diff_id).exists() { Ok(()) } else { self.unpack_from(&self.blob(digest), digest, diff_id) }
    }

    /// Unpacks a layer from a file with the content of its blob; of one that is here already, the file is only checked.
    pub fn unpack_from(&self, blob: &Path, digest: &str, diff_id: &str) -> Result<(), Error> {
        let done = self.layer(diff_id);
        if done.exists() {
            return unpack::check(blob, diff_id).map_err(refused(digest, blob));
        }
        let home = done.parent().unwrap_or(&self.layers);
        let temporary = self.temporary(home);
        let result =
            self.unpack_into(&temporary, blob, digest, diff_id).and_then(|()| match fs::rename(&temporary, home) {
                // Another pull of an image with the same layer was faster.
                Err(_) if done.exists() => Ok(()),
                other => other.and_then(|()| File::open(&self.layers)?.sync_all()).map_err(Error::file("keep", home)),
            });
        fs::remove_dir_all(&temporary).ok();
        result
    }

    fn unpack_into(&self, temporary: &Path, blob: &Path, digest: &str, diff_id: &str) -> Result<(), Error> {
        let root = temporary.join("fs");
        fs::create_dir_all(&root).map_err(Error::file("make", &root))?;
        unpack::unpack(blob, &root, diff_id).map_err(refused(digest, &root))?;
        // One call for thousands of files.
        File::open(&root)
            .and_then(|directory| Ok(rustix::fs::syncfs(directory)?))
            .map_err(Error::file("make durable", root))
    }
}

/// What was wrong with a layer, or with our disk.
fn refused(digest: &str, path: &Path) -> impl FnOnce(UnpackError) -> Error {
    move |error| match error {
        UnpackError::Content(why) => Error::Content { digest: digest.to_owned(), why },
        UnpackError::Io(source) => Error::File { attempt: "unpack into", path: path.to_owned(), source },
    }
}

/// `sha256:…` of bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn clean(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_old = || {
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            io::Result::Ok(age > PARTIAL_KEPT)
        };
        let begins = |with: &str| name.as_encoded_bytes().starts_with(with.as_bytes());
        if begins(TEMPORARY) || begins(PARTIAL) && is_old()? {
            let path = entry.path();
            if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
    }
    Ok(())
}
