//! A world on one machine, behind `insula lab`: every node is the real program in namespaces of its own (network,
//! process ids, mounts, host name) with its own copy of the program and its own disk; a services namespace holds what
//! is not ours (image registry, clients). Between regions lies a wide-area network of our own ([`mod@wan`]).
//!
//! Always holds: nothing is made in the machine's own network namespace or mount namespace; everything but files and
//! cgroups lives and dies with processes that carry the lab's mark; [`Lab::down`] finds all of it after any crash.
//!
//! Left to others: what the nodes do (`server`), the load that is sent to them (`bench`). Slow disks are not
//! here yet.

pub mod cluster;
pub mod command;
pub mod config;
mod disk;
mod error;
pub mod image;
pub mod init;
mod links;
mod machine;
mod network;
mod process;
pub mod services;
mod state;
pub mod traces;
mod wan;
mod world;

pub use config::{LabConfig, RegionShape};
pub use error::Error;
pub use links::{LinkShape, Rate};
pub use process::{MEMBER_VARIABLE, Process, members};
pub use world::{Lab, NodeStatus, Target};
