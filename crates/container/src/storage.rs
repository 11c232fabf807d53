//! What instances write to: file systems in files of the data directory, each no larger than it may be.
//!
//! A volume outlives its instances (`volumes`); the layer of an instance goes with it (`layer`). Both are ext4, made and
//! mounted by the programs that every Linux has for that.

mod device;
mod ext4;
mod layer;
mod volumes;

pub(crate) use device::Disk;
pub(crate) use ext4::loop_files;
pub(crate) use layer::mount_layer;
pub use volumes::StoredVolume;
pub(crate) use volumes::{Volumes, covered, unmount};
