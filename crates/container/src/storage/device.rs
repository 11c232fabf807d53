//! Disks, as the kernel numbers them.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// A whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Disk {
    pub major: i64,
    pub minor: i64,
}

impl Disk {
    /// The disk that has a file: of a partition, the whole one, since limits are for whole disks only.
    pub fn of(path: &Path) -> io::Result<Self> {
        let device = fs::metadata(path)?.dev();
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        let place = Path::new("/sys/dev/block").join(&number).canonicalize().map_err(|error| {
            let why = format!("the file system of {} is on no disk of its own ({number}: {error})", path.display());
            io::Error::new(io::ErrorKind::Unsupported, why)
        })?;
        let whole = if place.join("partition").exists() { place.parent().unwrap_or(&place) } else { &place };
        let text = fs::read_to_string(whole.join("dev"))?;
        let numbers = text
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        numbers.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no number of a disk")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_no_disk_is_told() {
        let error = Disk::of(Path::new("/proc")).expect_err("a file system without a disk");
        assert!(error.to_string().starts_with("the file system of /proc is on no disk"), "{error}");
    }
}
