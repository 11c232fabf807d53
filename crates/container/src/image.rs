//! Images: named by digest, fetched once, kept by content, unpacked once per layer.

mod archive;
mod collect;
mod contents;
mod credentials;
mod download;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod import;
mod origin;
mod packed;
mod peers;
mod progress;
mod pull;
mod reference;
mod registry;
mod store;
mod unpack;

pub use collect::StoredImage;
pub use import::Imported;
pub use peers::{ImagePeers, PeerBytes, PeerError};
pub(crate) use pull::{Image, Images};
pub use reference::{ImageRef, ImageTag};
pub(crate) use store::Store;
