//! The catalog on disk: a header (magic, format, length, SHA-256), then the catalog in the binary codec. Replaced as a
//! whole, so that a crash leaves the old one or the new one. Damage is found by the checksum and costs only freshness.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use insula_env::Disk;
use insula_types::codec;
use sha2::{Digest, Sha256};

use crate::{Catalog, CheckError, limits};

const MAGIC: &[u8; 8] = b"INSULAct";
/// Changes when older programs could not read what newer ones write; added fields do not count.
const FORMAT: u32 = 1;
const HEADER_LEN: usize = 8 + 4 + 8 + 32;

/// Why there is no catalog from disk, or why it was not kept there.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file could not be read.
    #[error("read the catalog from {path}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("keep the catalog in {path}: is the disk full?")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are not what was written.
    #[error("the catalog in {path} is damaged ({why}); traffic waits for a fresh one from the server")]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a newer program.
    #[error("the catalog in {path} has format {found}, this program reads up to {FORMAT}")]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Well-formed, and yet not fit for use.
    #[error("the catalog in {path} is not fit for use")]
    Unfit {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: CheckError,
    },
}

/// Where a node keeps its catalog.
#[derive(Debug, Clone)]
pub struct CatalogFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl CatalogFile {
    /// The file at `path`.
    pub fn new(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Self {
        Self { disk, path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The catalog that was kept last; none when there has never been one.
    ///
    /// # Errors
    /// [`FileError`] when it cannot be read, is damaged, too new or unfit.
    pub fn load(&self) -> Result<Option<Catalog>, FileError> {
        let path = || self.path.clone();
        let bytes = match self.disk.read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::Read { path: path(), source }),
        };
        let body = unwrap(&bytes).map_err(|fault| match fault {
            Fault::Newer(found) => FileError::Newer { path: path(), found },
            Fault::Damaged(why) => FileError::Damaged { path: path(), why: why.to_owned() },
        })?;
        let catalog: Catalog =
            codec::decode(body).map_err(|error| FileError::Damaged { path: path(), why: error.to_string() })?;
        catalog.check().map_err(|source| FileError::Unfit { path: path(), source })?;
        Ok(Some(catalog))
    }

    /// Keeps a catalog, off the async threads; durable when it returns.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub async fn store(&self, catalog: Arc<Catalog>) -> Result<(), FileError> {
        let (sender, outcome) = tokio::sync::oneshot::channel();
        let (disk, path) = (Arc::clone(&self.disk), self.path.clone());
        let job = move || {
            sender.send(disk.write_atomic(&path, &wrap(&catalog))).ok();
        };
        self.disk.run(Box::new(job)).await;
        outcome
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the disk job was dropped")))
            .map_err(|source| FileError::Write { path: self.path.clone(), source })
    }
}

fn wrap(catalog: &Catalog) -> Vec<u8> {
    let body = codec::encode(catalog);
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_be_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.extend_from_slice(&body);
    bytes
}

enum Fault {
    Newer(u32),
    Damaged(&'static str),
}

/// The body of a file, once header and checksum hold.
fn unwrap(bytes: &[u8]) -> Result<&[u8], Fault> {
    let cut = Fault::Damaged("it is cut short");
    let (Some((magic, rest)), false) = (bytes.split_first_chunk::<8>(), bytes.len() > limits::BYTES_MAX + HEADER_LEN)
    else {
        return Err(cut);
    };
    if magic != MAGIC {
        return Err(Fault::Damaged("it does not begin like a catalog"));
    }
    let Some((format, rest)) = rest.split_first_chunk::<4>() else { return Err(cut) };
    match u32::from_be_bytes(*format) {
        FORMAT => {}
        found if found > FORMAT => return Err(Fault::Newer(found)),
        _ => return Err(Fault::Damaged("its format number was never used")),
    }
    let Some((len, rest)) = rest.split_first_chunk::<8>() else { return Err(cut) };
    let Some((sum, body)) = rest.split_first_chunk::<32>() else { return Err(cut) };
    if u64::from_be_bytes(*len) != body.len() as u64 {
        return Err(Fault::Damaged("its length is not what its header says"));
    }
    if Sha256::digest(body).as_slice() != sum {
        return Err(Fault::Damaged("its checksum does not match"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
