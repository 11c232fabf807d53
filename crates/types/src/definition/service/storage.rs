//! Reads what a service may write to.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{bytes, required};
use crate::{
    ByteSize, ServiceSpec, TmpfsSpec, VolumeName, VolumeSpec,
    definition::{
        VOLUME_SIZE,
        fields::{Fields, Item},
        keys,
        problem::Problems,
        syntax,
    },
};

const VOLUMES_MAX: usize = 16;
const TMPFS_MAX: usize = 16;
const TMPFS_SIZE: RangeInclusive<ByteSize> = ByteSize(4096)..=ByteSize::mib(1 << 20);
/// A directory in memory of which nobody said how large.
const TMPFS_DEFAULT: ByteSize = ByteSize::mib(64);

pub(super) fn volumes(item: &Item<'_>, problems: &mut Problems) -> Vec<VolumeSpec> {
    let mut volumes: Vec<VolumeSpec> = Vec::new();
    for item in item.items(VOLUMES_MAX, problems) {
        let Some(volume) = volume(&item, problems) else { continue };
        if volumes.iter().any(|other| other.name == volume.name) {
            item.refuse(problems, format!("the volume {:?} is there twice; give each its own name", volume.name));
        } else {
            volumes.push(volume);
        }
    }
    volumes
}

fn volume(item: &Item<'_>, problems: &mut Problems) -> Option<VolumeSpec> {
    let fields = item.fields(&keys::VOLUME, problems)?;
    let name: Option<VolumeName> = required(item, &fields, "name", problems).and_then(|item| item.parsed(problems));
    let path = required(item, &fields, "path", problems)
        .and_then(|item| item.checked(syntax::check_mount_path, problems).map(str::to_owned));
    let size = required(item, &fields, "size", problems).and_then(|item| bytes(&item, VOLUME_SIZE, problems));
    if let Some(kind) = fields.get("kind") {
        kind.choice(&[("local", ())], &["replicated"], problems);
    }
    Some(VolumeSpec { name: name?, path: path?, size: size? })
}

pub(super) fn tmpfs(item: &Item<'_>, problems: &mut Problems) -> Vec<TmpfsSpec> {
    let items = item.items(TMPFS_MAX, problems);
    items.iter().filter_map(|item| one_tmpfs(item, problems)).collect()
}

fn one_tmpfs(item: &Item<'_>, problems: &mut Problems) -> Option<TmpfsSpec> {
    let fields = item.fields(&keys::TMPFS, problems)?;
    let path = required(item, &fields, "path", problems)
        .and_then(|item| item.checked(syntax::check_mount_path, problems).map(str::to_owned));
    let size = fields.get("size").map_or(Some(TMPFS_DEFAULT), |item| bytes(&item, TMPFS_SIZE, problems));
    Some(TmpfsSpec { path: path?, size: size? })
}

/// Refuses two directories at one path, and files where a directory is mounted.
pub(super) fn check_paths(fields: &Fields<'_>, spec: &ServiceSpec, problems: &mut Problems) {
    let volumes = spec.volumes.iter().map(|volume| (volume.path.as_str(), "volumes"));
    let tmpfs = spec.tmpfs.iter().map(|tmpfs| (tmpfs.path.as_str(), "tmpfs"));
    let mut taken = BTreeMap::new();
    for (path, key) in volumes.chain(tmpfs) {
        if taken.insert(path, key).is_some()
            && let Some(item) = fields.get(key)
        {
            item.refuse(problems, format!("two directories are mounted at {path}; give each its own path"));
        }
    }
    let Some(item) = fields.get("files") else { return };
    for file in &spec.files {
        let is_within =
            |top: &str| file.path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if let Some((top, key)) = taken.iter().find(|(top, _)| is_within(top)) {
            let why = format!(
                "{} is in {top}, which is one of {key}: what is there is the instance's own; choose another path",
                file.path
            );
            item.refuse(problems, why);
        }
    }
}
