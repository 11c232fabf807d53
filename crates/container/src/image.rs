//! Images: named by digest, fetched once, kept by content, unpacked once per layer.

mod reference;

pub use reference::ImageRef;
