//! Turns a layer (a tar file, plain, gzip or zstd) into a directory that overlayfs takes as a lower one.
//!
//! What comes out is inside the directory, whatever the tar says: no absolute or rising names, no way through links, no
//! device nodes (they are left out), no overlay attributes but our own. Whiteouts (OCI image layer specification, "Whiteouts") become what
//! overlayfs understands: a character device 0:0 for a removed name, `trusted.overlay.opaque` for a replaced directory.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Take},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use sha2::{Digest, Sha256};
use tar::{Archive, Entry, EntryType};

use super::packed::{Metered, decoder};

/// Unpacked bytes of one layer, at most: what a small node's disk can bear, and far above real images.
const LAYER_BYTES_MAX: u64 = 16 << 30;
/// Entries of one layer, at most.
const ENTRIES_MAX: u64 = 1 << 20;

/// Why a layer was not unpacked.
#[derive(Debug)]
pub(super) enum UnpackError {
    /// The content is damaged or not allowed.
    Content(String),
    /// The disk.
    Io(io::Error),
}

impl From<io::Error> for UnpackError {
    fn from(error: io::Error) -> Self {
        // What the decoders and the tar reader find wrong comes as one of these.
        match error.kind() {
            io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::Other => Self::Content(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

impl UnpackError {
    /// Lays it on the layer where only names in it bring it about: links to what is not there, and names that are too long.
    fn of_names(self) -> Self {
        match self {
            Self::Io(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
                Self::Content(format!("a name in it is too long, or of what is not there: {error}"))
            }
            other => other,
        }
    }
}

impl From<rustix::io::Errno> for UnpackError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, UnpackError> {
    Err(UnpackError::Content(why.into()))
}

/// Unpacks the file `blob` into the empty directory `root`, and checks that its unpacked bytes have the digest `diff_id`.
pub(super) fn unpack(blob: &Path, root: &Path, diff_id: &str) -> Result<(), UnpackError> {
    unpack_at_most(LAYER_BYTES_MAX, blob, root, diff_id)
}

/// The same with another bound on the bytes.
pub(super) fn unpack_at_most(bytes_max: u64, blob: &Path, root: &Path, diff_id: &str) -> Result<(), UnpackError> {
    let reader = Hashing { inner: decoder(File::open(blob)?)?.take(bytes_max), hash: Sha256::new() };
    let (reader, headers) = Metered::new(reader);
    let mut archive = Archive::new(reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(rustix::process::geteuid().is_root());
    // Set below, those that are allowed.
    archive.set_unpack_xattrs(false);
    let mut directories = Vec::new();
    let (mut count, mut written) = (0, 0u64);
    let mut entries = archive.entries()?;
    while let Some(entry) = headers.next(&mut entries) {
        let mut entry = entry?;
        count += 1;
        // Holes of sparse files are written, too.
        written = written.saturating_add(entry.size());
        if count > ENTRIES_MAX || written > bytes_max {
            return refuse(format!("it has more than {ENTRIES_MAX} entries or {bytes_max} bytes"));
        }
        unpack_entry(&mut entry, root, &mut directories).map_err(UnpackError::of_names)?;
        // What a link or a whiteout has of content is nobody's.
        io::copy(&mut entry, &mut io::sink())?;
    }
    // Last, since every entry made inside changes its directory.
    for (directory, mtime) in directories.iter().rev() {
        set_mtime(directory, *mtime)?;
    }
    finish(archive.into_inner().into_inner(), diff_id)
}

/// Checks that the unpacked bytes of the file `blob` have the digest `diff_id`.
pub(super) fn check(blob: &Path, diff_id: &str) -> Result<(), UnpackError> {
    finish(Hashing { inner: decoder(File::open(blob)?)?.take(LAYER_BYTES_MAX), hash: Sha256::new() }, diff_id)
}

/// Reads the rest, and compares. The digest covers what follows the end of the archive, too.
fn finish<R: Read>(mut reader: Hashing<Take<R>>, diff_id: &str) -> Result<(), UnpackError> {
    io::copy(&mut reader, &mut io::sink())?;
    if reader.inner.limit() == 0 {
        return refuse(format!("it is larger than {LAYER_BYTES_MAX} bytes"));
    }
    let found = format!("sha256:{}", hex::encode(reader.hash.finalize()));
    if found == diff_id { Ok(()) } else { refuse(format!("its unpacked bytes have the digest {found}, not {diff_id}")) }
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn unpack_entry<R: Read>(
    entry: &mut Entry<'_, R>,
    root: &Path,
    directories: &mut Vec<(PathBuf, u64)>,
) -> Result<(), UnpackError> {
    let kind = entry.header().entry_type();
    if kind == EntryType::XGlobalHeader {
        return Ok(());
    }
    let name = entry.path()?.into_owned();
    let Some(path) = inside(root, &name)? else {
        // The root itself: its mode and owner are what containers see as `/`.
        return set_root(entry, root);
    };
    let parent = path.parent().unwrap_or(root);
    make_parents(root, parent)?;
    if let Some(whited) = path.file_name().and_then(|name| name.as_bytes().strip_prefix(b".wh.")) {
        return whiteout(parent, whited);
    }
    match kind {
        EntryType::Directory => {
            replace_unless_directory(&path)?;
            entry.unpack(&path)?;
            directories.push((path.clone(), entry.header().mtime()?));
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Symlink => {
            remove(&path)?;
            entry.unpack(&path)?;
        }
        EntryType::Link => {
            let target = entry.link_name()?.map(std::borrow::Cow::into_owned).unwrap_or_default();
            let Some(target) = inside(root, &target)? else { return refuse("a hard link to the root") };
            check_no_links(root, target.parent().unwrap_or(root))?;
            remove(&path)?;
            // Does not follow a link at its end.
            return Ok(fs::hard_link(&target, &path)?);
        }
        // Left out: `/dev` of a container is its own, and devices elsewhere could not be opened. Archives of whole systems hold them.
        EntryType::Char | EntryType::Block => return Ok(()),
        other => return refuse(format!("{} is of kind {other:?}, which images may not hold", name.display())),
    }
    set_xattrs(entry, &path)
}

/// The path below `root`; none for the root itself.
fn inside(root: &Path, name: &Path) -> Result<Option<PathBuf>, UnpackError> {
    let mut path = root.to_owned();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return refuse(format!("the name {} leads out of the image", name.display())),
        }
    }
    Ok((path != root).then_some(path))
}

/// Directories that the layer does not name itself are made as root's.
fn make_parents(root: &Path, parent: &Path) -> Result<(), UnpackError> {
    if !check_no_links(root, parent)? {
        fs::create_dir_all(parent)?;
        fs::set_permissions(parent, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Whether the directory exists. Refuses a way that goes through a link or a file.
fn check_no_links(root: &Path, directory: &Path) -> Result<bool, UnpackError> {
    let mut path = root.to_owned();
    for part in directory.strip_prefix(root).unwrap_or(Path::new("")).components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return refuse(format!("a name leads through {}, which is no directory", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn remove(path: &Path) -> Result<(), UnpackError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(fs::remove_dir_all(path)?),
        Ok(_) => Ok(fs::remove_file(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn replace_unless_directory(path: &Path) -> Result<(), UnpackError> {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) { Ok(()) } else { remove(path) }
}

fn whiteout(parent: &Path, name: &[u8]) -> Result<(), UnpackError> {
    if name == b".wh..opq" {
        return Ok(rustix::fs::lsetxattr(parent, "trusted.overlay.opaque", b"y", XattrFlags::empty())?);
    }
    if name.is_empty() || name == b"." || name == b".." {
        return refuse("a whiteout without a name");
    }
    let path = parent.join(std::ffi::OsStr::from_bytes(name));
    remove(&path)?;
    Ok(rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?)
}

fn set_root<R: Read>(entry: &Entry<'_, R>, root: &Path) -> Result<(), UnpackError> {
    let header = entry.header();
    if header.entry_type() != EntryType::Directory {
        return refuse("the root of the image is no directory");
    }
    if fs::metadata(root)?.uid() == 0 {
        std::os::unix::fs::chown(root, Some(header.uid()? as u32), Some(header.gid()? as u32))?;
    }
    Ok(fs::set_permissions(root, Permissions::from_mode(header.mode()? & 0o7777))?)
}

/// File capabilities and users' own attributes; others could steer overlayfs.
fn set_xattrs<R: Read>(entry: &mut Entry<'_, R>, path: &Path) -> Result<(), UnpackError> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let name = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."));
        if let Some(name) = name.filter(|name| *name == "security.capability" || name.starts_with("user.")) {
            rustix::fs::lsetxattr(path, name, extension.value_bytes(), XattrFlags::empty())?;
        }
    }
    Ok(())
}

fn set_mtime(path: &Path, mtime: u64) -> Result<(), UnpackError> {
    let time = Timespec { tv_sec: mtime.try_into().unwrap_or(0), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
