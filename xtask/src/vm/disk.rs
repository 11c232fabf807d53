//! The disks of the virtual machine: an initrd that finds the disk, and the disk with all that runs there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{boots::Boot, kernel::Kernel};
use crate::run::run;

/// What the runtime and its tests call, beside the many small programs of busybox.
/// The shell is the real one: that of busybox prefers what busybox is itself to all other programs.
const PROGRAMS: [&str; 14] = [
    "/bin/busybox",
    "/bin/sh",
    "/usr/sbin/nft",
    "/usr/bin/perl",
    "/usr/bin/nsenter",
    "/usr/bin/unshare",
    "/sbin/ip",
    "/sbin/mkfs.ext4",
    "/sbin/resize2fs",
    "/sbin/e2fsck",
    "/sbin/losetup",
    "/usr/sbin/mkfs.xfs",
    "/usr/sbin/filefrag",
    "/bin/mount",
];
/// Names of protocols, without which nft shows rules otherwise than they were written.
const PROTOCOLS: &str = "/etc/protocols";
/// Whom clients of registries trust: they have to trust somebody, even if they use no TLS.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Modules that are needed to find the disk; ext4 is in the kernel itself.
const DISK_MODULES: [&str; 2] = ["kernel/drivers/virtio", "kernel/drivers/block/virtio_blk.ko"];
const INDEX: [&str; 3] = ["modules.dep", "modules.alias", "modules.symbols"];
/// Size of the disk: what is on it, the 2 GiB that must stay free beside a snapshot, and room to work. The file is sparse.
const SIZE: &str = "4G";
/// Files that the disk may hold: the kernel writes a quarter of a KiB for each of them, once it is mounted.
const FILES_MAX: &str = "65536";

/// What is loaded with the kernel: mounts the disk and hands over to it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn initrd(dir: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let tree = Tree::new(dir.join("initrd.tree"))?;
    tree.copy("/bin/busybox".as_ref(), "bin/busybox")?;
    tree.write("init", include_str!("init.sh"))?;
    let version = kernel.version()?;
    for module in DISK_MODULES.iter().chain(&INDEX) {
        tree.copy(&kernel.modules.join(module), &format!("lib/modules/{version}/{module}"))?;
    }
    let initrd = dir.join("initrd");
    let pack = "set -e; find . | busybox cpio -o -H newc > \"$1\" 2>/dev/null";
    run("pack the initrd", Command::new("sh").args(["-c", pack, "sh"]).arg(&initrd).current_dir(&tree.0))?;
    Ok(initrd)
}

/// The machine's own disk, made anew.
///
/// # Errors
/// When it cannot be written, or a program is missing here.
pub(crate) fn root(dir: &Path, kernel: &Kernel, tests: &BTreeMap<String, PathBuf>, boots: &[Boot]) -> Result<PathBuf> {
    let tree = Tree::new(dir.join("root.tree"))?;
    for (name, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        tree.make(target)?;
        tree.link(name, target)?;
    }
    for name in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp", "var/lib"] {
        tree.make(name)?;
    }
    for program in PROGRAMS {
        tree.program(program.as_ref(), program.trim_start_matches('/'))?;
    }
    for (name, path) in tests {
        tree.program(path, &format!("vm/tests/{name}"))?;
    }
    tree.applets()?;
    tree.copy(PROTOCOLS.as_ref(), PROTOCOLS.trim_start_matches('/'))?;
    let trusted = fs::read_to_string(TRUSTED).with_context(|| format!("read {TRUSTED}"))?;
    // Reading all of them is a second of emulation each time.
    tree.write(TRUSTED.trim_start_matches('/'), first_certificate(&trusted))?;
    // Nobody is asked; instances are told of a server, as on a real node.
    tree.write("etc/resolv.conf", "nameserver 192.0.2.53\n")?;
    tree.copy(&kernel.modules, &format!("lib/modules/{}", kernel.version()?))?;
    tree.write("vm/boot", include_str!("boot.sh"))?;
    for boot in boots {
        tree.write(&format!("vm/boot-{}", boot.number), &boot.script())?;
    }
    let disk = dir.join("disk.ext4");
    let mut format = Command::new("/sbin/mke2fs");
    format
        .args(["-q", "-F", "-t", "ext4", "-N", FILES_MAX, "-E", "root_owner=0:0", "-d"])
        .arg(&tree.0)
        .arg(&disk)
        .arg(SIZE);
    run("make the disk", &mut format)?;
    Ok(disk)
}

impl Kernel {
    fn version(&self) -> Result<String> {
        let name = self.modules.file_name().context("modules lie in a directory named by the kernel's version")?;
        Ok(name.to_string_lossy().into_owned())
    }
}

/// A directory that becomes a disk.
struct Tree(PathBuf);

impl Tree {
    /// An empty one.
    fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    fn make(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))
    }

    fn link(&self, name: &str, target: &str) -> Result<()> {
        let path = self.0.join(name);
        symlink(target, &path).with_context(|| format!("make {}", path.display()))
    }

    /// An executable text.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.parent(name)?;
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", path.display()))
    }

    /// A file of this machine, or all of a directory.
    fn copy(&self, from: &Path, name: &str) -> Result<()> {
        if from.is_dir() {
            for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
                let entry = entry.with_context(|| format!("list {}", from.display()))?;
                self.copy(&entry.path(), &format!("{name}/{}", entry.file_name().to_string_lossy()))?;
            }
            return Ok(());
        }
        let to = self.parent(name)?;
        fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// A program of this machine, with the libraries that it is linked with.
    fn program(&self, from: &Path, name: &str) -> Result<()> {
        self.copy(from, name)?;
        let output = Command::new("ldd").arg(from).output().context("start ldd")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            if !self.0.join(library.trim_start_matches('/')).exists() {
                self.copy(library.as_ref(), library.trim_start_matches('/'))?;
            }
        }
        Ok(())
    }

    /// The programs that busybox is as well, where there is no other of that name.
    fn applets(&self) -> Result<()> {
        let output = Command::new("/bin/busybox").arg("--list").output().context("start busybox")?;
        if !output.status.success() {
            bail!("busybox does not list what it is: {}", output.status);
        }
        let there: BTreeSet<_> = ["usr/bin", "usr/sbin"]
            .into_iter()
            .flat_map(|directory| fs::read_dir(self.0.join(directory)).into_iter().flatten().flatten())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let names = String::from_utf8_lossy(&output.stdout);
        let mut wanted = names.lines().filter(|name| !there.contains(*name));
        wanted.try_for_each(|name| self.link(&format!("usr/bin/{name}"), "/bin/busybox"))?;
        // Where the kernel looks for it.
        self.link("usr/sbin/modprobe", "/bin/busybox")
    }

    /// The path of a file whose directory is then there.
    fn parent(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        let parent = path.parent().unwrap_or(&self.0);
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        Ok(path)
    }
}

/// The first certificate of a file, up to the end of its last line.
fn first_certificate(text: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    text.find(END).map_or(text, |at| &text[..at + END.len()])
}

/// The files that `ldd` names.
fn libraries(text: &str) -> Vec<&str> {
    let words = |line| str::split_ascii_whitespace(line).find(|word| word.starts_with('/'));
    text.lines().filter_map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_certificate_is_whole() {
        let one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        assert_eq!(first_certificate(&format!("{one}{one}")), one);
        assert_eq!(first_certificate("none"), "none");
    }

    #[test]
    fn libraries_are_the_files_that_ldd_names() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f13)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f13)\n";
        assert_eq!(libraries(text), ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}
