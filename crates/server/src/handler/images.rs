//! Images: which there are on which nodes, and those that come in archives.

use std::{collections::BTreeMap, time::Duration};

use insula_api::{
    Answer, BodyStream, Code, Problem,
    wire::{Image, ImageImported, ImageOnNode, ImageRelease, ImageRemoved, List, Versioned},
};

use insula_container::Error;
use insula_env::clock;
use insula_telemetry::chain;
use insula_types::{AppName, Release};

use super::NodeApi;

/// Archives that are taken in at the same time, at most: each keeps a thread and the disk busy.
pub(crate) const IMPORTS_MAX: usize = 2;
/// How long one may take, whatever its sender does: 32 GiB over a line of 20 Mbit/s.
const IMPORT_LIMIT: Duration = Duration::from_secs(4 * 3600);

impl NodeApi {
    pub(super) async fn list_images(&self) -> List<Image> {
        let listed = self.census.list().await;
        self.region.replica().read_at(|region, revision| {
            let mut images: BTreeMap<String, Image> = BTreeMap::new();
            for (node, found) in listed {
                let Some(node) = region.nodes.get(&node) else { continue };
                for one in found {
                    let image = images.entry(one.image.clone()).or_insert_with(|| Image {
                        releases: self.releases_of(&one.image),
                        image: one.image,
                        size_bytes: None,
                        nodes: Vec::new(),
                    });
                    image.size_bytes = image.size_bytes.max(one.size_bytes);
                    image.nodes.push(ImageOnNode {
                        node: node.id,
                        node_name: node.name.clone(),
                        used_ms: one.used_ms,
                        instances: one.instances,
                    });
                }
            }
            List { revision, items: images.into_values().collect() }
        })
    }

    pub(super) async fn take_image_in(&self, name: Option<&str>, archive: &mut BodyStream) -> Answer<ImageImported> {
        let Ok(_room) = self.imports.try_acquire() else {
            let said = format!("{IMPORTS_MAX} images are being imported on {} now", self.config.name);
            return Err(Problem::new(Code::Busy, said));
        };
        let importing = self.census.runtime.import_image(name, archive);
        let imported = clock::timeout(IMPORT_LIMIT, importing).await.map_err(|_| {
            Problem::new(
                Code::TimedOut,
                format!("the image did not come within {IMPORT_LIMIT:?}; nothing of it is kept"),
            )
        })?;
        let imported = imported.map_err(|error| refused(&error))?;
        Ok(ImageImported {
            image: imported.image.to_string(),
            size_bytes: imported.size_bytes,
            new_bytes: imported.new_bytes,
            node: self.node,
            node_name: self.config.name.clone(),
        })
    }

    pub(super) async fn take_image_away(&self, image: &str) -> Answer<Versioned<ImageRemoved>> {
        let all = self.list_images().await;
        let found = all.items.into_iter().find(|one| one.image == image).ok_or_else(|| {
            let said = format!("{image}: `insula image ls` lists those there are, with their digests");
            Problem::new(Code::NoSuchImage, said)
        })?;
        if let Some(ImageRelease { app, release }) = found.releases.first() {
            let said =
                format!("{app} may have to run it: it is in release {release}, the present one or the one before");
            return Err(Problem::new(Code::Conflict, said));
        }
        if let Some(node) = found.nodes.iter().find(|node| node.instances > 0) {
            let said = format!("{} instances on {} are made from it", node.instances, node.node_name);
            return Err(Problem::new(Code::Conflict, said));
        }
        let mut removed = ImageRemoved { image: found.image, nodes: 0, freed_bytes: 0 };
        for node in found.nodes {
            let freed = self.census.remove(node.node, &removed.image).await.map_err(|status| {
                let said = format!(
                    "{} on {}: {status}; {} nodes have removed it",
                    removed.image, node.node_name, removed.nodes
                );
                Problem::new(Code::NodeUnreachable, said)
            })?;
            removed.nodes += 1;
            removed.freed_bytes += freed;
        }
        Ok(Versioned { revision: all.revision, value: removed })
    }

    /// The releases that may have to run an image.
    fn releases_of(&self, image: &str) -> Vec<ImageRelease> {
        self.global.read(|global| {
            let has_it = |(_, release): &(&AppName, &Release)| {
                release.services.values().any(|spec| spec.image.as_deref() == Some(image))
            };
            let releases = global.live_releases().filter(has_it);
            releases.map(|(app, release)| ImageRelease { app: app.clone(), release: release.number }).collect()
        })
    }
}

/// Why an image was not taken in, for callers of the API.
fn refused(error: &Error) -> Problem {
    let code = match error {
        Error::Reference { .. } => Code::InvalidRequest,
        Error::Archive { .. } | Error::ReadArchive { .. } | Error::Content { .. } => Code::InvalidImage,
        _ => Code::Internal,
    };
    let said = match error {
        Error::Archive { why } => why.clone(),
        other => chain(other),
    };
    Problem::new(code, said)
}
