//! The Debian packages that building, testing and the demo need, in one place.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run::run;

/// A Debian package, and a file that is there when it is installed.
pub(crate) struct Package {
    name: &'static str,
    file: &'static str,
    what_for: &'static str,
}

const fn package(name: &'static str, file: &'static str, what_for: &'static str) -> Package {
    Package { name, file, what_for }
}

/// For building.
pub(crate) const BUILD: &[Package] = &[
    package("gcc", "/usr/bin/gcc", "compiles the cryptography library"),
    package("libc6-dev", "/usr/include/stdlib.h", "compiles the cryptography library"),
    package("libseccomp-dev", "/usr/include/seccomp.h", "system call filters in the shim"),
];

/// What pictures of terminals need, besides a lab.
pub(crate) const PICTURES: &[Package] =
    &[package("tmux", "/usr/bin/tmux", "the terminals of which pictures are taken")];

/// For tests and the demo, beside those for building.
pub(crate) const LAB: &[Package] = &[
    package("iproute2", "/usr/share/doc/iproute2/copyright", "network namespaces of the lab"),
    package("nftables", "/usr/sbin/nft", "the firewall of instances"),
    package("busybox-static", "/usr/share/doc/busybox-static/copyright", "the content of test images"),
    package("docker-registry", "/usr/bin/docker-registry", "a real image registry"),
    package("e2fsprogs", "/usr/share/doc/e2fsprogs/copyright", "the disks of the lab's nodes"),
    package("runc", "/usr/sbin/runc", "a runtime class, and what our own starts are compared with"),
    package("runsc", "/usr/bin/runsc", "a runtime class that is a sandbox"),
];

/// For the virtual machine of the tests, beside what the lab needs. Its kernel is not installed.
pub(crate) const VM: &[Package] = &[
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "a machine with a kernel of its own"),
    package("xfsprogs", "/usr/sbin/mkfs.xfs", "a file system whose files can share blocks"),
    package("netbase", "/etc/protocols", "names of protocols for nft"),
    package("ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "whom clients of registries trust"),
];

/// What is measured beside Insula, beside what the lab needs.
pub(crate) const PEERS: &[Package] = &[
    package("etcd-server", "/usr/bin/etcd", "the replicated store that commits are compared with"),
    package("podman", "/usr/bin/podman", "the container engine that starts are compared with"),
    package("skopeo", "/usr/bin/skopeo", "pulls that ours are compared with"),
    package("umoci", "/usr/bin/umoci", "unpacking that ours is compared with"),
    package("nginx-light", "/usr/sbin/nginx", "a proxy that the edge is compared with"),
    package("haproxy", "/usr/sbin/haproxy", "a proxy that the edge is compared with"),
];

/// For images that are made of Debian's packages, beside what the lab needs.
pub(crate) const STOCK: &[Package] =
    &[package("mmdebstrap", "/usr/bin/mmdebstrap", "makes images of Debian's packages")];

/// Installs those that are missing, as root; else says what to install.
///
/// # Errors
/// When something is missing and we are not root, or the installation fails.
pub(crate) fn ensure(wanted: &[Package]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|package| !std::path::Path::new(package.file).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    for package in &missing {
        println!("── needed: {} ({})", package.name, package.what_for);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("install them first:  sudo apt-get install --no-install-recommends {}", names.join(" "));
    }
    run("apt-get update", Command::new("apt-get").args(["update", "-q"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-q", "-y", "--no-install-recommends"]).args(&names);
    // Services that come with a package (the registry) are not ours to start on this machine.
    install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    run("apt-get install", &mut install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_names_an_absolute_file_and_its_use() {
        for package in BUILD.iter().chain(LAB).chain(PICTURES).chain(VM).chain(PEERS).chain(STOCK) {
            assert!(package.file.starts_with('/') && !package.what_for.is_empty(), "{}", package.name);
        }
    }
}
