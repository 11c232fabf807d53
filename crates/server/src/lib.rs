//! The composition root: makes a running node of configuration and parts.
//!
//! [`init`] and [`join`] make a node's files, [`node::run`] is `insula server`, [`dataplane::run`] is `insula
//! dataplane`, [`dev::run`] is `insula dev`. Nothing is decided here that a part could decide; this crate knows who
//! needs whom.

mod authorize;
mod calls;
pub mod config;
mod copy;
pub mod dataplane;
pub mod dev;
mod digests;
mod doctor;
mod edge_requests;
mod error;
mod everyone;
mod exec;
mod expiry;
mod follow;
mod founding;
mod gateways;
mod group;
mod handler;
mod home;
mod images;
mod init;
mod join;
mod latency;
mod level;
mod lives;
mod logs;
mod machine;
mod machine_size;
mod members;
mod membership;
mod memory;
mod mend;
mod methods;
mod metrics;
pub mod node;
mod program;
mod push;
mod refused;
mod renewal;
pub mod restore;
mod route;
mod secrets;
mod signals;
mod snapshots;
mod space;
mod supervisor;
mod takeover;
mod traffic;
mod trust;
mod usage;
mod whereabouts;
mod work;

pub use config::NodeConfig;
pub use error::Error;
pub use init::{Initialized, init};
pub use join::join;
pub use memory::keep_private;
