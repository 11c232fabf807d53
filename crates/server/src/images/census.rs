//! Who has which images: asked of the nodes themselves.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt, future::join_all};
use insula_agent::copies;
use insula_container::NodeRuntime;
use insula_rpc::{Code, Peers, Status};
use insula_state::{RegionState, Replica};
use insula_telemetry::chain;
use insula_types::{NodeId, Phase};

use crate::methods::{
    AskImages, AskImagesRequest, ListImages, ListImagesRequest, NodeImage, RemoveImage, RemoveImageRequest,
};

/// How long another node may take to say which images it has.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// How long another node may take to remove an image.
const REMOVE_LIMIT: Duration = Duration::from_secs(8);

/// How many nodes have an image, and how many shall have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copies {
    pub image: String,
    pub present: u32,
    pub wanted: u32,
}

/// Counts the copies of images, by asking those that shall keep them.
#[derive(Clone)]
pub(crate) struct Census {
    pub node: NodeId,
    pub rpc: Peers,
    pub region: Arc<Replica<RegionState>>,
    pub runtime: NodeRuntime,
}

impl Census {
    /// The copies of these images, in their order. One that runs an image has it.
    pub(crate) async fn count(&self, images: Vec<String>) -> Vec<Copies> {
        let mut found = Vec::new();
        let mut asked: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        self.region.read(|region| {
            for image in images {
                let kept = copies::keepers(region, &image);
                let runs = |node: &NodeId| {
                    region.placements_of(*node).any(|placement| {
                        let status = region.statuses.get(&placement.instance);
                        placement.spec.image.as_deref() == Some(&image)
                            && status.is_some_and(|status| status.phase == Phase::Running)
                    })
                };
                let (run, ask): (Vec<_>, Vec<_>) = kept.iter().copied().partition(runs);
                ask.into_iter().for_each(|node| asked.entry(node).or_default().push(image.clone()));
                let wanted = kept.len().min(copies::COPIES) as u32;
                found.push(Copies { image, present: run.len() as u32, wanted });
            }
        });
        let answers = asked.into_iter().map(|(node, images)| self.ask(node, images).boxed());
        for present in join_all(answers).await.into_iter().flatten() {
            found.iter_mut().filter(|copies| copies.image == present).for_each(|copies| copies.present += 1);
        }
        found
    }

    /// What each node that is up has; nodes that do not answer are left out.
    pub(crate) async fn list(&self) -> Vec<(NodeId, Vec<NodeImage>)> {
        let nodes = self.region.read(|region| {
            region.nodes.values().filter(|node| node.health.is_up()).map(|node| node.id).collect::<Vec<_>>()
        });
        let answers = nodes.into_iter().map(|node| {
            async move {
                let listed = if node == self.node {
                    stored(&self.runtime).ok()
                } else {
                    self.rpc.call::<ListImages>(node, &ListImagesRequest {}, ASK_LIMIT).await.ok()
                };
                (node, listed)
            }
            .boxed()
        });
        join_all(answers).await.into_iter().filter_map(|(node, listed)| Some((node, listed?))).collect()
    }

    /// Removes an image from a node; gives the bytes that were freed.
    pub(crate) async fn remove(&self, node: NodeId, image: &str) -> Result<u64, Status> {
        let request = RemoveImageRequest { image: image.to_owned() };
        if node == self.node {
            return remove(&self.runtime, &request).await;
        }
        self.rpc.call::<RemoveImage>(node, &request, REMOVE_LIMIT).await
    }

    /// Those of the images that a node has.
    async fn ask(&self, node: NodeId, images: Vec<String>) -> Vec<String> {
        if node == self.node {
            return present(&self.runtime, images);
        }
        match self.rpc.call::<AskImages>(node, &AskImagesRequest { images: images.clone() }, ASK_LIMIT).await {
            Ok(present) => present,
            // One of an earlier version keeps no copies: not to be waited for.
            Err(status) if status.code == Code::UnknownMethod => images,
            Err(_) => Vec::new(),
        }
    }
}

/// Those of the images that are here.
pub(crate) fn present(runtime: &NodeRuntime, mut images: Vec<String>) -> Vec<String> {
    images.retain(|image| image.parse().is_ok_and(|image| runtime.has_image(&image)));
    images
}

/// The images that are here.
pub(crate) fn stored(runtime: &NodeRuntime) -> Result<Vec<NodeImage>, Status> {
    let images = runtime.images().map_err(|error| Status::internal(chain(&error)))?;
    let listed = images.into_iter().map(|one| NodeImage {
        image: one.image.to_string(),
        size_bytes: one.size_bytes,
        used_ms: one.used.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        instances: one.instances,
    });
    Ok(listed.collect())
}

/// Removes an image that no instance here is made from.
pub(crate) async fn remove(runtime: &NodeRuntime, request: &RemoveImageRequest) -> Result<u64, Status> {
    let image = request.image.parse().map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
    let freed = runtime.remove_images(&[image], Duration::ZERO).await;
    freed.map_err(|error| Status::internal(chain(&error)))
}
