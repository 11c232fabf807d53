//! The writable layer of an instance, when it may have so many bytes and no more.

use std::{fs, io, path::Path};

use super::ext4::{self, Kind};

/// Makes a file system of `size` bytes in the file `image` and mounts it at `at`.
pub(crate) fn mount_layer(image: &Path, at: &Path, size: u64) -> io::Result<()> {
    fs::create_dir_all(at)?;
    ext4::make(image, size, Kind::Scratch)?;
    ext4::mount(image, at, Kind::Scratch)
}
