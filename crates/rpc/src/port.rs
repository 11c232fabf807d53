//! The one TCP port of a node. The dataplane owns it and looks at the first message of each connection, without taking
//! it, for the protocol's name; what is not its own it hands to the server as a descriptor over a Unix socket. So each
//! of the two processes can be killed and started again while the other's connections live.

mod dispatcher;
mod handed;
mod peek;
mod server;

pub use dispatcher::Dispatcher;
pub use handed::{Handed, HandedReceiver};
pub use server::PortServer;

#[cfg(test)]
mod tests;
