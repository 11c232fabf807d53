//! What a lab leaves in the machine besides processes: loop devices, cgroups, its directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    Error,
    error::Attempt,
    process::{GONE_WITHIN, wait_until},
};

/// The cgroup under which a node puts its instances.
pub fn cgroup_parent(lab: &str, node: &str) -> String {
    format!("/insula-lab-{lab}-{node}")
}

/// Backing files of the machine's loop devices.
fn loop_files() -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let file = |device: fs::DirEntry| fs::read_to_string(device.path().join("loop/backing_file")).ok();
    devices.filter_map(file).map(|text| PathBuf::from(text.trim_end())).collect()
}

/// Waits until no loop device uses a disk. Two devices over one file would spoil it.
pub(crate) fn wait_for_loop(disk: &Path) -> Result<(), Error> {
    let what = format!("{} to be free", disk.display());
    wait_until(GONE_WITHIN, &what, Path::new("/sys/block"), || loop_files().iter().all(|file| file != disk))
}

/// Waits until no loop device uses a file below a directory.
pub(crate) fn wait_for_loops(dir: &Path) -> Result<(), Error> {
    let what = format!("disks in {} to be free", dir.display());
    wait_until(GONE_WITHIN, &what, Path::new("/sys/block"), || !loop_files().iter().any(|file| file.starts_with(dir)))
}

/// Mount points of all cgroup hierarchies.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let point = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        fields.next().filter(|kind| kind.starts_with("cgroup"))?;
        Some(PathBuf::from(point))
    };
    mounts.lines().filter_map(point).collect()
}

/// The cgroups of a lab's nodes.
pub fn cgroups(lab: &str) -> Vec<PathBuf> {
    let prefix = cgroup_parent(lab, "n").trim_start_matches('/').to_owned();
    let entries = hierarchies().into_iter().filter_map(|root| fs::read_dir(root).ok()).flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix(&prefix)).is_some_and(|number| number.parse::<u32>().is_ok())
    };
    entries.map(|entry| entry.path()).filter(is_ours).collect()
}

/// Removes the cgroups of a lab's nodes; gives whether there were any.
pub(crate) fn remove_cgroups(lab: &str) -> Result<bool, Error> {
    let is_found = !cgroups(lab).is_empty();
    // They are busy as long as the kernel has not finished with their last process.
    wait_until(GONE_WITHIN, &format!("the cgroups of lab {lab} to empty"), Path::new("/sys/fs/cgroup"), || {
        cgroups(lab).iter().for_each(|path| remove_tree(path));
        cgroups(lab).is_empty()
    })?;
    Ok(is_found)
}

fn remove_tree(cgroup: &Path) {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&child.path());
        }
    }
    // Busy or gone: the caller looks again.
    fs::remove_dir(cgroup).ok();
}

/// Removes a lab's directory, and the one above when it was the last; gives whether there was one. A directory that
/// holds something else than a lab is refused.
pub(crate) fn remove_dir(dir: &Path) -> Result<bool, Error> {
    let what = || format!("remove {}", dir.display());
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            if !dir.join("lab.json").exists() {
                return Err(Error::Invalid(format!(
                    "{} has no lab.json: it is not a lab's, leaving it",
                    dir.display()
                )));
            }
            fs::remove_dir_all(dir).attempt(what)?;
        }
        other => other.attempt(what)?,
    }
    if dir.parent() == Some(Path::new(crate::config::BASE_DIR)) {
        // Not empty: another lab is there.
        fs::remove_dir(crate::config::BASE_DIR).ok();
    }
    Ok(true)
}
