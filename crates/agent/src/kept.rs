//! The list of placements on disk, for a start without a quorum.
//!
//! Each placement is encoded apart, so that one that this version cannot read does not hide the others.

use std::{io, path::Path};

use insula_env::Disk;
use insula_types::{InstanceId, Placement, codec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tracing::warn;

/// Format of the file. A later one may add fields to it.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    placements: Vec<(InstanceId, ByteBuf)>,
}

/// The file's bytes.
pub(crate) fn encode(placements: &[Placement]) -> Vec<u8> {
    let placements = placements.iter().map(|one| (one.instance, ByteBuf::from(codec::encode(one)))).collect();
    codec::encode(&File { format: FORMAT, placements })
}

/// What can be read of the list; the rest is told and left out. Nothing when there is no list.
pub(crate) fn load(disk: &dyn Disk, path: &Path) -> Vec<Placement> {
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!(path = %path.display(), %error, "the list of placements cannot be read, waiting for the region's");
            return Vec::new();
        }
    };
    let file: File = match codec::decode(&bytes) {
        Ok(file) => file,
        Err(error) => {
            warn!(path = %path.display(), error = %crate::chain(&error), "the list of placements is damaged, waiting for the region's");
            return Vec::new();
        }
    };
    let read = |(instance, bytes): &(InstanceId, ByteBuf)| match codec::decode(bytes) {
        Ok(placement) => Some(placement),
        Err(error) => {
            warn!(%instance, error = %crate::chain(&error), "a placement on disk cannot be read by this version");
            None
        }
    };
    file.placements.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use insula_env::RealDisk;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_left_out_and_nothing_else() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("agent/placements");
        assert!(load(&RealDisk, &path).is_empty(), "no list yet");
        let good = crate::testing::placement(1, 7);
        let mut file: File = codec::decode(&encode(std::slice::from_ref(&good))).expect("own format");
        file.placements.push((InstanceId::new(2), ByteBuf::from(b"from the future".to_vec())));
        RealDisk.write_atomic(&path, &codec::encode(&file)).expect("write");
        assert_eq!(load(&RealDisk, &path), [good]);
        RealDisk.write_atomic(&path, b"garbage").expect("write");
        assert!(load(&RealDisk, &path).is_empty(), "damage is told, not fatal");
    }
}
