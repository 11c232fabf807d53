//! The two files of a group: `log.redb` (votes and entries; what is confirmed or applied is on the disk) and `state.redb`
//! (the state machine's rows, synced before the log that made them is dropped). One writer each. An error of either stops
//! the group.

mod ahead;
mod file;
mod log;
mod mask;
mod restore;
mod rows;
mod snapshot;

pub(crate) use ahead::Ahead;
pub(crate) use log::LogStore;
pub use restore::{Found, look, restore};
pub(crate) use rows::RowStore;
pub use snapshot::SnapshotData;
pub(crate) use snapshot::{Stage, chain};

#[cfg(test)]
mod tests;
