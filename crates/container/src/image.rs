//! Images: named by digest, fetched once, kept by content, unpacked once per layer.

mod collect;
mod credentials;
mod download;
mod origin;
mod packed;
mod peers;
mod pull;
mod reference;
mod store;
mod unpack;

pub use collect::StoredImage;
pub use peers::{ImagePeers, PeerBytes, PeerError};
pub(crate) use pull::{Image, Images};
pub use reference::ImageRef;
pub(crate) use store::Store;
