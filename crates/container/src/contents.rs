//! What an instance is given beside its configuration, and how it comes to see it.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    fmt,
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::Arc,
};

use insula_types::{ContentHash, FileSpec, SecretName, SecretValue, SecretValues};
use rustix::mount::{MountFlags, mount};

/// What is not in the configuration of an instance, and neither written down nor hashed with that.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// What is in its files.
    pub files: BTreeMap<ContentHash, Arc<str>>,
    /// Its secrets, opened.
    pub secrets: SecretValues,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, secrets) = (self.files.len(), self.secrets.len());
        f.debug_struct("Contents").field("files", &files).field("secrets", &secrets).finish()
    }
}

/// Where an instance sees a file, and where that is on the node.
pub(crate) type Placed = (String, PathBuf);

/// Writes an instance's files into `directory`, for the app's root, whose id on the node is `owner`. Nobody sees them before the
/// instance starts, and one that was not completed is removed.
pub(crate) fn write_files(
    directory: &Path,
    files: &[FileSpec],
    contents: &Contents,
    owner: u32,
) -> io::Result<Vec<Placed>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    fs::create_dir(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    let write = |(number, file): (usize, &FileSpec)| {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("what is in {} is not known here", file.path));
        let content = contents.files.get(&file.content).ok_or_else(missing)?;
        let at = directory.join(number.to_string());
        write_file(&at, content.as_bytes(), file.mode, (owner, owner))?;
        Ok((file.path.clone(), at))
    };
    files.iter().enumerate().map(write).collect()
}

/// Makes a directory whose files are never on a disk, not even swapped out. Nobody but us writes there, so that it needs no bound.
pub(crate) fn mount_memory(at: &Path, mode: &CStr) -> io::Result<()> {
    fs::create_dir(at)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    Ok(mount("ramfs", at, "ramfs", flags, mode)?)
}

/// Writes an instance's secrets into `directory`, each for the user of its first process alone.
pub(crate) fn write_secrets(directory: &Path, secrets: &SecretValues, user: (u32, u32)) -> io::Result<()> {
    let write = |(name, value): (&SecretName, &SecretValue)| {
        write_file(&directory.join(name.as_str()), value.reveal().as_bytes(), 0o400, user)
    };
    secrets.iter().try_for_each(write)
}

/// Makes a file with its owner and permissions, whatever this process's umask is.
fn write_file(at: &Path, content: &[u8], mode: u32, (user, group): (u32, u32)) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(at)?;
    file.write_all(content)?;
    fchown(&file, Some(user), Some(group))?;
    file.set_permissions(Permissions::from_mode(mode))
}
