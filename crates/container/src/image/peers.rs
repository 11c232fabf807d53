//! Other nodes as a source of images: a region goes on without any registry.

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use insula_types::NodeId;

use super::ImageRef;

/// Other nodes, which may have what an image is made of.
#[async_trait]
pub trait ImagePeers: fmt::Debug + Send + Sync {
    /// Those to ask for the parts of an image, the likeliest first.
    fn of(&self, image: &ImageRef) -> Vec<NodeId>;

    /// The bytes of a part (a manifest, a configuration, a layer) from an offset on, as that node has them: nothing in
    /// them is to be trusted.
    ///
    /// # Errors
    /// [`PeerError`]; also from the stream, at any point.
    async fn fetch(&self, node: NodeId, digest: &str, offset: u64) -> Result<PeerBytes, PeerError>;
}

/// Bytes from another node.
pub type PeerBytes = BoxStream<'static, Result<Vec<u8>, PeerError>>;

/// Why another node gave nothing, or no more.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It does not have this part; it may have others.
    #[error("it is not there")]
    Absent,
    /// It is not reached, or is at fault.
    #[error("{0}")]
    Failed(String),
}
