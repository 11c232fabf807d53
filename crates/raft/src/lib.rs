//! A replicated log for one state machine, on a few nodes that may fail: bytes in, bytes out.
//!
//! A [`Group`] is one node's part of one Raft group. It elects, replicates, keeps its log and the machine's rows on disk,
//! takes and installs snapshots, and changes its voters. The only crate that names openraft and redb.
//!
//! What always holds: a confirmed command is on the disks of a majority; there is one leader per term; every node applies
//! the same commands in the same order; a storage error or an unknown command stops that group on that node, never the
//! process; whoever waits has a limit. What it leaves to others: what commands mean (`state`), retries and request ids
//! (the proposer), which nodes should vote (`server`), who is at the other end of a connection (`rpc`).
//!
//! The features `planted-…` each plant a bug for the tests to find. Never build with them otherwise.

pub mod config;
mod contacts;
mod election;
mod engine;
pub mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod group;
mod machine;
mod network;
pub mod rpc;
mod runtime;
mod store;
mod timing;
mod transport;
mod wire;

pub use config::{Config, GroupId, Timers};
pub use error::{
    HandOverError, InitializeError, MembershipError, OpenError, ProposeError, ReadError, StoreError, TransportError,
};
pub use group::{Group, GroupMetrics, GroupState, Leadership};
pub use machine::{Applied, LoadError, Row, StateMachine, UnknownCommand};
pub use rpc::{RpcGroups, RpcTransport};
pub use store::{Found, look, restore};
pub use transport::{Class, Transport};
pub use wire::Position;
