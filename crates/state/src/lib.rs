//! The replicated objects of Insula: what they are, which commands change them, and how changes are watched.
//!
//! Always true: applying is deterministic (no clock, no randomness, ordered maps only); one command changes everything
//! it names or nothing; each command that changes something gets the next [`Revision`](insula_types::Revision).
//! Knows nothing of Raft: [`Machine`] takes command bytes and gives row changes, [`Store`] proposes through a trait.
//!
//! ```text
//! Store::propose ─► Proposer (raft, elsewhere) ─► Machine::apply ─► rows (disk)  and  Replica ─► read, watch
//! ```

pub mod archive;
pub mod domain;
pub mod event;
pub mod global;
#[cfg(test)]
mod golden;
pub mod level;
pub mod machine;
pub mod region;
pub mod replica;
pub mod store;
pub mod table;

pub use archive::{About, Archive, ArchiveError};
pub use domain::{Batch, Change, Changes, Conflict, Domain, Rejection, RejectionCode};
pub use global::{GlobalCommand, GlobalState};
pub use level::{LEVEL, NotYet};
pub use machine::{Applied, Machine, MachineError, Outcome, Row, seal};
pub use region::{RegionCommand, RegionState};
pub use replica::{Replica, Unfit, Update, Watch};
pub use store::{Committed, Leadership, ProposeError, Proposer, Store};
pub use table::Table;
