//! The users of apps: each app that has instances on this node gets a range of 65,536 ids of the node that are nobody
//! else's. Root in a container is the first of them, so it is nobody on the node and nobody in other apps' containers.
//!
//! Layers of images are shared by all apps and keep the ids that they have in the image: a container gets them through a
//! mount that shifts them (an idmapped mount, mount_setattr(2); overlayfs takes such layers since Linux 5.19). What an
//! instance itself writes has the ids of the range, and goes with the instance. A range can therefore be given to another
//! app as soon as nothing of the first one is on the node (docs/adr/2026-11-22-users-of-apps.md).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{PermissionsExt, chown},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use insula_types::{AppName, InstanceId};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Ids of one app: what images and programs expect there to be.
pub(crate) const RANGE_LEN: u32 = 1 << 16;
/// The first id that apps get, and how many ranges there are: ids that no known software uses ("Users, Groups, UIDs and GIDs
/// on systemd Systems", the last range of 31 bits).
const FIRST: u32 = 0x7000_0000;
const RANGES: u32 = 0x1000_0000 / RANGE_LEN;

/// Who has which range.
#[derive(Debug, Default)]
pub(crate) struct Users {
    by_app: BTreeMap<AppName, Range>,
    /// What shifts to a range, by its first id; made when it is first needed.
    namespaces: BTreeMap<u32, Arc<OwnedFd>>,
}

#[derive(Debug)]
struct Range {
    first: u32,
    instances: BTreeSet<InstanceId>,
}

impl Users {
    /// The first id of an app's range, for one more instance; the first free range when it has none. None: all are taken.
    pub fn take(&mut self, app: &AppName, instance: InstanceId) -> Option<u32> {
        let free = || (0..RANGES).map(|index| FIRST + index * RANGE_LEN).find(|first| !self.is_taken(*first));
        let first = match self.by_app.get(app) {
            Some(range) => range.first,
            None => free()?,
        };
        self.keep(app, instance, first);
        Some(first)
    }

    /// Notes that an instance that is here already has this range.
    pub fn keep(&mut self, app: &AppName, instance: InstanceId, first: u32) {
        let none = || Range { first, instances: BTreeSet::new() };
        self.by_app.entry(app.clone()).or_insert_with(none).instances.insert(instance);
    }

    /// The instance is gone; with the last one of its app the range is free.
    pub fn release(&mut self, instance: InstanceId) {
        self.by_app.retain(|_, range| {
            range.instances.remove(&instance);
            !range.instances.is_empty()
        });
    }

    /// The user namespace of a range, if it has been made.
    pub fn namespace(&self, first: u32) -> Option<Arc<OwnedFd>> {
        self.namespaces.get(&first).cloned()
    }

    /// Keeps the user namespace of a range, for the next instance and the next app that gets it.
    pub fn set_namespace(&mut self, first: u32, namespace: &Arc<OwnedFd>) {
        self.namespaces.insert(first, Arc::clone(namespace));
    }

    fn is_taken(&self, first: u32) -> bool {
        self.by_app.values().any(|range| range.first == first)
    }
}

/// A user namespace in which the ids from 0 are those from `first` on. Nobody is in it: it only says how a mount shifts.
pub(crate) fn namespace(shim: &Path, first: u32) -> io::Result<OwnedFd> {
    let mut command = Command::new(shim);
    command.arg("--hold").env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: one system call, which gives the child a user namespace; no memory or descriptor is concerned.
    unsafe { command.pre_exec(|| Ok(unshare_unsafe(UnshareFlags::NEWUSER)?)) };
    let mut holder = command.spawn()?;
    let process = Path::new("/proc").join(holder.id().to_string());
    let map = format!("0 {first} {RANGE_LEN}");
    let opened = fs::write(process.join("uid_map"), &map)
        .and_then(|()| fs::write(process.join("gid_map"), &map))
        .and_then(|()| File::open(process.join("ns/user")));
    // Its input ends, and so does it; the descriptor keeps the namespace.
    drop(holder.stdin.take());
    holder.wait()?;
    Ok(opened?.into())
}

/// Mounts `directory` at `at`, with its owners shifted as the user namespace says. Mounts below `directory` are not in it.
pub(crate) fn mount_shifted(directory: &Path, at: &Path, users: &OwnedFd) -> io::Result<()> {
    mount_as(directory, at, Some(users))
}

/// The same where there may be no user namespace: then the owners are as they are.
pub(crate) fn mount_as(directory: &Path, at: &Path, users: Option<&OwnedFd>) -> io::Result<()> {
    let tree = open_tree(CWD, directory, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    users.map_or(Ok(()), |users| shift(&tree, users))?;
    Ok(move_mount(&tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// mount_setattr(2), which rustix does not have.
fn shift(tree: &OwnedFd, users: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd().unsigned_abs().into(),
    };
    // SAFETY: the path is empty and ends with a zero, the attributes live through the call and have the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether apps can have users of their own, with their files below `directory`, which is an absolute path. What the kernel
/// and the file system can do is tried out at `at`, an empty directory.
pub(crate) fn are_possible(shim: &Path, directory: &Path, at: &Path) -> io::Result<()> {
    for ancestor in directory.ancestors() {
        if fs::metadata(ancestor)?.permissions().mode() & 0o001 == 0 {
            let why = format!("other users cannot pass {}: chmod o+x it", ancestor.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    let tried = namespace(shim, FIRST).and_then(|users| mount_shifted(directory, at, &users));
    tried.map_err(|error| {
        let needs = "Linux 5.19 with user namespaces, and the data directory on ext4, xfs or btrfs";
        io::Error::new(error.kind(), format!("{error}; they need {needs}"))
    })?;
    crate::network::unmount_all(at)
}

/// Lets an app's root, and with it nobody else but the node's, into the directory of an instance.
pub(crate) fn let_in(directory: &Path, first: u32) -> io::Result<()> {
    chown(directory, None, Some(first))?;
    fs::set_permissions(directory, Permissions::from_mode(0o710))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_has_one_range_as_long_as_it_has_instances() {
        let mut ranges = Users::default();
        let (shop, blog): (AppName, AppName) = ("shop".parse().expect("name"), "blog".parse().expect("name"));
        let [one, two, three] = [1, 2, 3].map(InstanceId::new);
        assert_eq!(ranges.take(&shop, one), Some(0x7000_0000));
        assert_eq!(ranges.take(&shop, two), Some(0x7000_0000));
        assert_eq!(ranges.take(&blog, three), Some(0x7001_0000));
        ranges.release(one);
        assert_eq!(ranges.take(&shop, two), Some(0x7000_0000));
        ranges.release(two);
        assert_eq!(ranges.take(&shop, one), Some(0x7000_0000), "free again");
        ranges.keep(&"news".parse().expect("name"), two, 0x7002_0000);
        assert_eq!(ranges.take(&"last".parse().expect("name"), InstanceId::new(4)), Some(0x7003_0000));
    }
}
