//! What the region's leader decides: which nodes are up, what the region runs, where, and who votes.
//!
//! Runs on every node, acts only on the leader. Every decision is a pure function of the region's state (and of the
//! leases, which are in the leader's memory); it is taken again and again until nothing is left to do, so that healing,
//! a deploy and the first installation are the same path. Every command of it carries a control epoch, so that a leader
//! that was replaced without noticing changes nothing. Starts and stops nothing itself: `agent` does.
//!
//! ```text
//! renewals ─► LeaseTable ─┐
//! global state ─ derive ──┼─► round ─► RegionCommand, at most a few ─► region group
//! region state ───────────┘
//! ```

pub mod derive;
pub mod each_node;
pub mod explain;
mod gate;
mod giving;
mod hooks;
pub mod lease;
pub mod level;
pub mod loss;
pub mod nodes;
pub mod one_off;
pub mod placements;
mod progress;
mod rebalance;
mod replace;
mod round;
mod service;
mod slots;
mod standby;
mod traffic;
pub mod voters;

#[cfg(test)]
mod tests;

pub use gate::is_tried;
pub use lease::LeaseTable;
pub use level::start_levels;
pub use service::{Confirmed, Control, NotLeader};
pub use voters::{DEAD_AFTER, HandOverError, Membership, MembershipError, start_voters, wanted_voters};
