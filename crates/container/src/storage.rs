//! What instances write to: file systems in files of the data directory, each no larger than it may be.
//!
//! A volume outlives its instances (`volumes`), and is made and mounted by the programs that every Linux has for that. The layer
//! of an instance goes with it (`layer`, `loops`). Both are ext4. A snapshot is a copy of a volume's file (`snapshots`, `copy`), made
//! while the file system in it stands still (`frozen`).

mod copy;
mod device;
mod ext4;
mod frozen;
mod layer;
mod loops;
mod snapshots;
mod volumes;

pub(crate) use device::Disk;
pub(crate) use ext4::loop_files;
pub(crate) use frozen::thaw;
pub(crate) use layer::{Layers, UPPER, WORK, give_up_layer};
pub(crate) use snapshots::Snapshots;
pub use snapshots::StoredSnapshot;
pub use volumes::StoredVolume;
pub(crate) use volumes::{Volumes, covered, unmount};
