//! Images and instances of one node behind one trait, [`Runtime`].
//!
//! Everything is found again from the disk and the kernel after a restart of the agent; instances need nobody but their
//! shim. What shall run, and when it is started again, is decided by others (`agent`).

mod bundle;
mod cgroup;
pub mod config;
mod contents;
mod disk;
mod driver;
mod error;
mod exec;
mod firewall;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod image;
mod logs;
mod names;
mod network;
mod oci;
mod pressure;
mod record;
mod runtime;
mod seccomp;
mod shim;
mod signal;
mod storage;
mod usage;
mod user;
mod users;

pub use config::{Config, NetworkConfig, RuntimeClass, Subnet};
pub use contents::Contents;
pub use driver::NodeRuntime;
pub use error::{Error, Source};
pub use exec::{Exec, ExecHandle, ExecOrder, ExecStdin, ExecStdout};
pub use image::{ImagePeers, ImageRef, ImageTag, Imported, PeerBytes, PeerError, StoredImage};
pub use pressure::{DiskFill, Pressure, Pressures};
pub use runtime::{
    Ended, Exit, ImageInfo, InstanceConfig, NodeLabels, Observed, ObservedState, PullProgress, Running, Runtime,
};
pub use storage::{StoredSnapshot, StoredVolume};
pub use usage::{Carried, Filled, Usage};
