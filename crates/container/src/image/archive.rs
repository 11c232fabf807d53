//! Takes an archive apart while it comes: each file of it goes, under its digest, to a directory that is removed with the
//! archive. What the files mean is found out by `contents`, once all are there.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use insula_env::Disk;
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

use super::{
    origin::DOCUMENT_BYTES_MAX,
    packed::{Metered, decoder},
    reference::check_digest,
};
use crate::Error;

/// Bytes of an archive, decompressed, at most.
const ARCHIVE_BYTES_MAX: u64 = 32 << 30;
/// Entries of an archive, at most: an image has 128 layers, and `docker save` used to write four entries for each.
const ENTRIES_MAX: usize = 4096;
/// Longest name in an archive, in bytes. The longest that is of use has 77.
const NAME_LEN_MAX: usize = 512;
/// Links that lead to one another, at most.
const LINKS_MAX: usize = 8;
/// Bytes that stay free on the disk: states and logs of the node are on the same.
const SPACE_LEFT_MIN: u64 = 512 << 20;
/// So many bytes are written between two looks at the space that is left.
const LOOK_EVERY: u64 = 16 << 20;
/// Longest part of what the tar reader says that is told, in characters.
const SAID_LEN_MAX: usize = 200;
const BUFFER_LEN: usize = 256 << 10;
/// Where blobs are in an OCI image layout.
const BLOBS: &str = "blobs/sha256/";

/// The files of an archive.
pub(super) struct Staged {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    /// The digest of each file.
    files: BTreeMap<String, String>,
    /// Size in bytes by digest.
    sizes: BTreeMap<String, u64>,
    /// Where links lead.
    links: BTreeMap<String, String>,
    /// Bytes that may be written before the next look at the space that is left.
    unlooked: u64,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // What stays goes when the store is opened again.
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// An archive that is not as it should be.
pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Archive { why: why.into() })
}

impl Staged {
    /// Reads a tar file to its end, plain, gzip or zstd.
    pub fn read(source: impl Read, directory: PathBuf, disk: Arc<dyn Disk>) -> Result<Self, Error> {
        fs::create_dir_all(&directory).map_err(Error::file("make", &directory))?;
        let (files, sizes, links) = Default::default();
        let mut staged = Self { directory, disk, files, sizes, links, unlooked: 0 };
        let (reader, headers) = Metered::new(decoder(source).map_err(unread)?.take(ARCHIVE_BYTES_MAX));
        let mut archive = Archive::new(reader);
        let mut entries = archive.entries().map_err(unread)?;
        let mut count = 0;
        while let Some(entry) = headers.next(&mut entries) {
            let mut entry = match entry {
                // Of this kind are the tar reader's own errors.
                Err(error) if count == 0 && error.kind() == io::ErrorKind::Other => {
                    return refuse("it is no tar file, and no gzip or zstd of one");
                }
                other => other.map_err(unread)?,
            };
            count += 1;
            if count > ENTRIES_MAX {
                return refuse(format!("it has more than {ENTRIES_MAX} entries"));
            }
            let name = inside(Path::new(""), &entry.path().map_err(unread)?)?;
            let link = entry.link_name().map_err(unread)?.map(std::borrow::Cow::into_owned).unwrap_or_default();
            let (kind, size) = (entry.header().entry_type(), entry.size());
            staged.take(&mut entry, kind, name, size, &link)?;
            io::copy(&mut entry, &mut io::sink()).map_err(unread)?;
        }
        // Whoever sends it sends it whole; and a compressed one has its checksum at the end.
        let mut rest = archive.into_inner().into_inner();
        io::copy(&mut rest, &mut io::sink()).map_err(unread)?;
        if rest.limit() == 0 {
            return refuse(format!("it is larger than {ARCHIVE_BYTES_MAX} bytes"));
        }
        Ok(staged)
    }

    fn take(
        &mut self,
        entry: &mut impl Read,
        kind: EntryType,
        name: String,
        size: u64,
        link: &Path,
    ) -> Result<(), Error> {
        match kind {
            EntryType::Directory | EntryType::XGlobalHeader => Ok(()),
            EntryType::Regular | EntryType::Continuous => self.stage(entry, name, size),
            EntryType::Symlink => {
                let target = inside(Path::new(&name).parent().unwrap_or(Path::new("")), link)?;
                self.links.insert(name, target);
                Ok(())
            }
            EntryType::Link => {
                let target = inside(Path::new(""), link)?;
                self.links.insert(name, target);
                Ok(())
            }
            other => refuse(format!("{name} is of kind {other:?}, which no image has")),
        }
    }

    /// Writes a file while its digest is computed.
    fn stage(&mut self, entry: &mut impl Read, name: String, size: u64) -> Result<(), Error> {
        let temporary = self.directory.join("file");
        let mut file = File::create(&temporary).map_err(Error::file("create", &temporary))?;
        let (mut hash, mut written, mut buffer) = (Sha256::new(), 0, vec![0; BUFFER_LEN]);
        loop {
            let read = entry.read(&mut buffer).map_err(unread)?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            self.keep_space(piece.len() as u64)?;
            hash.update(piece);
            file.write_all(piece).map_err(Error::file("write", &temporary))?;
            written += piece.len() as u64;
        }
        if written != size {
            return refuse(format!("it ends within {name}: was it cut off?"));
        }
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        if let Some(hex) = name.strip_prefix(BLOBS)
            && digest.strip_prefix("sha256:") != Some(hex)
        {
            return refuse(format!("{name} has the digest {digest}: it was damaged or changed"));
        }
        let path = self.path(&digest);
        fs::rename(&temporary, &path).map_err(Error::file("keep", path))?;
        self.sizes.insert(digest.clone(), size);
        self.files.insert(name, digest);
        Ok(())
    }

    /// Refuses to fill the disk.
    fn keep_space(&mut self, len: u64) -> Result<(), Error> {
        if let Some(left) = self.unlooked.checked_sub(len) {
            self.unlooked = left;
            return Ok(());
        }
        let free =
            self.disk.free(&self.directory).map_err(Error::file("look at the space left for", &self.directory))?;
        if free < SPACE_LEFT_MIN + LOOK_EVERY {
            let said = format!("only {free} bytes are free, and {SPACE_LEFT_MIN} are to stay so");
            let full = io::Error::new(io::ErrorKind::StorageFull, said);
            return Err(Error::file("write an image into", &self.directory)(full));
        }
        self.unlooked = LOOK_EVERY.saturating_sub(len);
        Ok(())
    }

    /// Where the file with this digest is, or would be.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(digest.trim_start_matches("sha256:"))
    }

    /// Bytes of the file with this digest; none: there is none.
    pub fn size_of(&self, digest: &str) -> Option<u64> {
        self.sizes.get(digest).copied()
    }

    /// The digest of the file with this name, also through links.
    pub fn digest_of(&self, name: &str) -> Option<&str> {
        let mut name = name;
        for _ in 0..LINKS_MAX {
            match self.links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        self.files.get(name).map(String::as_str)
    }

    /// A file that is read whole: an index, a manifest or a configuration.
    pub fn document(&self, digest: &str) -> Result<Vec<u8>, Error> {
        check_digest(digest).or_else(refuse)?;
        match self.size_of(digest) {
            None => refuse(format!("it lacks {digest}: was it cut off, or saved without what this platform needs?")),
            Some(size) if size > DOCUMENT_BYTES_MAX as u64 => {
                refuse(format!("{digest} has {size} bytes, which is too large for a manifest or a configuration"))
            }
            Some(_) => fs::read(self.path(digest)).map_err(Error::file("read", self.path(digest))),
        }
    }

    /// The same by its name; none: there is none of this name.
    pub fn named(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.digest_of(name).map(|digest| self.document(digest)).transpose()
    }
}

/// A name as it stands in an archive, seen from one of its directories, without detours.
fn inside(directory: &Path, name: &Path) -> Result<String, Error> {
    let mut parts: Vec<_> = directory.iter().collect();
    let is_out = || refuse(format!("the name {} leads out of it", name.display()));
    for component in name.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            // `docker save` used to write links to the directory beside their own.
            Component::ParentDir if parts.pop().is_some() => {}
            _ => return is_out(),
        }
    }
    let path: PathBuf = parts.into_iter().collect();
    match path.into_os_string().into_string() {
        Ok(name) if name.len() <= NAME_LEN_MAX => Ok(name),
        Ok(_) => refuse(format!("a name in it has more than {NAME_LEN_MAX} bytes")),
        Err(name) => refuse(format!("the name {} is not UTF-8", Path::new(&name).display())),
    }
}

/// What the decoders, the tar reader and the sender say.
fn unread(source: io::Error) -> Error {
    if is_broken_off(&source) {
        return Error::ReadArchive { source };
    }
    // The tar reader repeats what it has found.
    let clean = |one: char| if one.is_control() { ' ' } else { one };
    let said: String = source.to_string().chars().map(clean).take(SAID_LEN_MAX).collect();
    Error::ReadArchive { source: io::Error::new(source.kind(), said) }
}

/// Whether it is the sender's fault, not that of what was sent.
fn is_broken_off(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::TimedOut)
}
