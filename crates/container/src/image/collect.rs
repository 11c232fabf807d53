//! What is here of images, and taking away what nobody needs: an image is forgotten first, then everything that belongs to
//! no image is swept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{ImageRef, pull::Images, store::Store};
use crate::{Error, disk::blocking};

/// An image that was fetched to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its name.
    pub image: ImageRef,
    /// Bytes of its compressed layers; none: not all of it is here.
    pub size_bytes: Option<u64>,
    /// When it was last needed here.
    pub used: SystemTime,
    /// Instances of this node that are made from it.
    pub instances: u32,
}

impl Images {
    /// The images that are here, in the order of their names. `used_by` are those of the instances.
    pub fn list(&self, used_by: &[ImageRef]) -> Result<Vec<StoredImage>, Error> {
        let mut found = BTreeMap::new();
        for (image, used) in self.store.noted()? {
            let size_bytes = self.load(&image).ok().flatten().map(|whole| whole.size_bytes());
            let instances = used_by.iter().filter(|one| one.digest() == image.digest()).count() as u32;
            found.insert(image.clone(), StoredImage { image, size_bytes, used, instances });
        }
        Ok(found.into_values().collect())
    }

    /// Notes that an image is needed here.
    pub fn note_use(&self, image: &ImageRef) -> Result<(), Error> {
        self.store.note(image)
    }

    /// Forgets an image; what belongs to no other goes with the next sweep.
    pub fn forget(&self, image: &ImageRef) -> Result<(), Error> {
        self.store.forget(image)
    }

    /// Removes what belongs to no image that is noted or used by an instance, and gives the bytes that were freed. Of parts
    /// that are younger than `spared` nothing is removed: a pull that broke off goes on with them. Does nothing while
    /// something is pulled: to wait for it would hold up all other pulls.
    pub async fn sweep(
        &self,
        used_by: impl FnOnce() -> Result<Vec<ImageRef>, Error> + Send,
        spared: Duration,
    ) -> Result<u64, Error> {
        let doomed = {
            let Ok(_alone) = self.sweeping.try_write() else { return Ok(0) };
            let mut kept = BTreeSet::new();
            for image in used_by()? {
                // Without knowing what belongs to it nothing can be removed.
                let Some(whole) = self.load(&image)? else { return Ok(0) };
                whole.parts(&mut kept);
            }
            for (image, _) in self.store.noted()? {
                // Of one that is not whole, the parts that are here are found by their age.
                if let Ok(Some(whole)) = self.load(&image) {
                    whole.parts(&mut kept);
                }
            }
            self.store.set_aside(&kept, spared)?
        };
        blocking(&*self.disk, move || doomed.iter().map(|path| remove(path)).sum()).await
    }
}

impl Store {
    /// The images that are noted, and when they were last needed.
    fn noted(&self) -> Result<Vec<(ImageRef, SystemTime)>, Error> {
        let mut noted = Vec::new();
        for entry in fs::read_dir(self.notes()).map_err(Error::file("list", self.notes()))? {
            let entry = entry.map_err(Error::file("list", self.notes()))?;
            let read = fs::read_to_string(entry.path()).ok().and_then(|name| name.parse().ok());
            // What cannot be read names no image; the sweep then takes what belonged to it.
            let Some(image) = read else { continue };
            let used = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            noted.push((image, used));
        }
        Ok(noted)
    }

    pub(super) fn note(&self, image: &ImageRef) -> Result<(), Error> {
        let path = self.note_of(image);
        fs::write(&path, image.to_string()).map_err(Error::file("write", path))
    }

    fn forget(&self, image: &ImageRef) -> Result<(), Error> {
        let path = self.note_of(image);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Gives temporary names to blobs and layers that are not to be kept: nobody takes them for whole any more, nor what a
    /// crash leaves of them. Of what is younger than `spared` all stay.
    fn set_aside(&self, kept: &BTreeSet<String>, spared: Duration) -> Result<Vec<PathBuf>, Error> {
        let mut doomed = Vec::new();
        for directory in [self.blobs(), self.layers()] {
            for entry in fs::read_dir(directory).map_err(Error::file("list", directory))? {
                let entry = entry.map_err(Error::file("list", directory))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let Ok(meta) = entry.metadata() else { continue };
                let age = meta.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
                if name.starts_with('.') || kept.contains(&name) || age < spared {
                    continue;
                }
                let aside = self.temporary(&entry.path());
                fs::rename(entry.path(), &aside).map_err(Error::file("remove", entry.path()))?;
                doomed.push(aside);
            }
        }
        Ok(doomed)
    }
}

/// Removes a file or a directory with all that is in it; gives its bytes. What cannot be removed now goes when the store is
/// opened again.
fn remove(path: &Path) -> Result<u64, Error> {
    let size = size_of(path);
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map(|()| size).map_err(Error::file("remove", path))
}

/// Bytes of a file, or of all files below a directory.
fn size_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size_of(&entry.path())).sum()
}
