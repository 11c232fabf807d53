//! A node's file tree: the machine's own as the lower side of an overlay, whose upper side is on the node's disk. So a
//! node has the machine's programs, and every write of it stays on its own disk and goes with the lab.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::{chdir, pivot_root},
};

use super::{DATA, Node, PROGRAM};
use crate::{Error, error::Attempt, process::run};

/// Mounts the disk, builds the tree and makes it the root, in a mount namespace that nobody else is in.
pub(super) fn enter(node: &Node) -> Result<(), Error> {
    bind_type(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let disk = node.dir.join("disk");
    make(&disk)?;
    // `mount` finds a free loop device and gives it back by itself when the last user of the mount is gone.
    run(Command::new("mount").args(["-o", "loop"]).arg(node.dir.join("disk.img")).arg(&disk))?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| disk.join(name));
    for dir in [&upper, &work, &root] {
        make(dir)?;
    }
    let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    bind_type(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(&layers))?;

    // What the machine itself may have here is not the node's.
    for (name, at) in [("etc", "etc/insula"), ("data", DATA.trim_start_matches('/'))] {
        let (from, at) = (disk.join(name), root.join(at));
        make(&from)?;
        make(&at)?;
        bind(&from, &at)?;
    }
    let program = root.join(PROGRAM.trim_start_matches('/'));
    let copied = disk.join("program-copied");
    if !copied.exists() {
        let what = || format!("copy {} to {}", node.program.display(), program.display());
        make(program.parent().unwrap_or(&root))?;
        // A link of that name on the machine must not be followed.
        fs::remove_file(&program).ok();
        fs::copy(&node.program, &program).attempt(what)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).attempt(what)?;
        // A power cut soon after must not leave the mark without the program.
        File::open(&program).and_then(|file| file.sync_all()).attempt(what)?;
        fs::write(&copied, b"").attempt(what)?;
    }
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost\n", node.name);
    fs::write(root.join("etc/hosts"), hosts).attempt(|| "write /etc/hosts".to_owned())?;

    let own = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    bind_type(Some("proc"), &root.join("proc"), Some("proc"), own | MsFlags::MS_NOEXEC, None)?;
    bind_type(Some("sysfs"), &root.join("sys"), Some("sysfs"), own | MsFlags::MS_NOEXEC, None)?;
    bind(Path::new("/sys/fs/cgroup"), &root.join("sys/fs/cgroup"))?;
    bind(Path::new("/dev"), &root.join("dev"))?;
    bind_type(Some("tmpfs"), &root.join("run"), Some("tmpfs"), own, Some("mode=0755"))?;
    bind_type(Some("tmpfs"), &root.join("tmp"), Some("tmpfs"), own, Some("mode=1777"))?;

    // The old root is stacked under the new one and taken off (pivot_root(2), "pivot_root(".", ".")").
    let what = || format!("make {} the root", root.display());
    chdir(&root).attempt(what)?;
    pivot_root(".", ".").attempt(what)?;
    umount2(".", MntFlags::MNT_DETACH).attempt(what)?;
    chdir("/").attempt(what)
}

fn make(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).attempt(|| format!("make {}", dir.display()))
}

fn bind(from: &Path, at: &Path) -> Result<(), Error> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), at, None::<&str>, flags, None::<&str>)
        .attempt(|| format!("bind {} to {}", from.display(), at.display()))
}

fn bind_type(
    source: Option<&str>,
    at: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), Error> {
    mount(source, at, kind, flags, data).attempt(|| format!("mount {} at {}", kind.unwrap_or("/"), at.display()))
}
