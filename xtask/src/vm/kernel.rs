//! Debian's kernel for virtual machines: found by its meta package, unpacked, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::run::run;

/// Depends on the present kernel of the release.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel and what can be loaded into it.
pub(crate) struct Kernel {
    pub image: PathBuf,
    /// `…/lib/modules/VERSION`, with the index of what depends on what.
    pub modules: PathBuf,
}

/// The kernel in `dir`, got there if it is not: it is kept until somebody removes it.
///
/// # Errors
/// When the Debian mirror does not give it.
pub(crate) fn ensure(dir: &Path) -> Result<Kernel> {
    let unpacked = dir.join("kernel");
    if !unpacked.is_dir() {
        let fresh = dir.join("kernel.new");
        // What is known of the mirror may be older than what it has.
        if obtain(&fresh).is_err() {
            run("apt-get update", Command::new("apt-get").args(["update", "-q"]))?;
            obtain(&fresh)?;
        }
        fs::rename(&fresh, &unpacked).with_context(|| format!("make {}", unpacked.display()))?;
    }
    let image = only_entry(&unpacked.join("boot"), "vmlinuz-")?;
    Ok(Kernel { image, modules: only_entry(&unpacked.join("lib/modules"), "")? })
}

/// Downloads and unpacks the present one into `fresh`.
fn obtain(fresh: &Path) -> Result<()> {
    if fresh.exists() {
        fs::remove_dir_all(fresh).with_context(|| format!("remove {}", fresh.display()))?;
    }
    fs::create_dir_all(fresh).with_context(|| format!("make {}", fresh.display()))?;
    let depends = Command::new("apt-cache").args(["depends", META_PACKAGE]).env("LC_ALL", "C").output();
    let depends = depends.context("start apt-cache")?.stdout;
    let Some(package) = depended_on(&String::from_utf8_lossy(&depends)) else {
        bail!("no package {META_PACKAGE} is known here");
    };
    run(&format!("download {package}"), Command::new("apt-get").args(["download", "-q", &package]).current_dir(fresh))?;
    let archive = only_entry(fresh, "linux-image-")?;
    run("unpack it", Command::new("dpkg").arg("--extract").arg(&archive).arg(fresh))?;
    fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
    let version = package.trim_start_matches("linux-image-");
    run("index its modules", Command::new("busybox").arg("depmod").arg("-b").arg(fresh).arg(version))
}

/// The package that a meta package depends on, in the words of `apt-cache depends`.
fn depended_on(text: &str) -> Option<String> {
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?;
    name.starts_with("linux-image-").then(|| name.to_owned())
}

/// The only entry of a directory whose name begins so.
fn only_entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut found: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        _ => bail!("{}: there is not exactly one {prefix}*: remove target/vm", directory.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_kernel_is_what_the_meta_package_depends_on() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Breaks: other\n";
        assert_eq!(depended_on(text).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(depended_on("N: Unable to locate package\n"), None);
    }
}
