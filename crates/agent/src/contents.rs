//! What is in the files of this node's instances: from the region, and kept on the node's disk beside the list of placements, so
//! that they are started without the region.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
};

use insula_container::Contents;
use insula_env::Disk;
use insula_state::RegionState;
use insula_types::{ContentHash, Placement, codec};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// Format of the file. A later one may add fields to it.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    contents: BTreeMap<ContentHash, Arc<str>>,
}

/// What the placements of this node name, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known {
    contents: BTreeMap<ContentHash, Arc<str>>,
}

impl Known {
    /// What was kept; nothing when that cannot be read.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> Self {
        let read = || -> io::Result<File> {
            codec::decode(&disk.read(path)?).map_err(|error| io::Error::other(crate::chain(&error)))
        };
        match read() {
            Ok(File { contents, .. }) => {
                let is_whole = |(hash, content): &(ContentHash, Arc<str>)| ContentHash::of(content) == *hash;
                Self { contents: contents.into_iter().filter(is_whole).collect() }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                warn!(path = %path.display(), %error, "what files contain cannot be read, waiting for the region's");
                Self::default()
            }
        }
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(&File { format: FORMAT, contents: self.contents.clone() })
    }

    /// Takes over what these placements name, and forgets the rest.
    pub(crate) fn take(&mut self, placements: &[Placement], region: &RegionState) {
        let named: BTreeSet<_> = placements
            .iter()
            .flat_map(|one| one.spec.files.iter().map(|file| (&one.service.app, file.content)))
            .collect();
        let mut before = std::mem::take(&mut self.contents);
        self.contents = named
            .into_iter()
            .filter_map(|(app, hash)| {
                let new = || region.contents.get(&(app.clone(), hash)).map(|content| content.as_str().into());
                Some((hash, before.remove(&hash).or_else(new)?))
            })
            .collect();
    }

    /// What an instance is given.
    pub(crate) fn of(&self, placement: &Placement) -> Contents {
        let files = placement.spec.files.iter();
        let files = files.filter_map(|file| Some((file.content, Arc::clone(self.contents.get(&file.content)?))));
        Contents { files: files.collect(), ..Contents::default() }
    }
}
