//! `cargo xtask vm`: the container runtime on a kernel whose control groups are of version 2 alone, which this machine's
//! need not be, and over a power cut, which this machine should not have.
//!
//! Debian's own kernel in an emulated machine: qemu without KVM, so it needs neither hardware nor root. On its disk are the
//! compiled tests of `crates/container` and the programs that they call. Two boots of one disk: in the first the tests run,
//! and the power is cut while instances run; in the second the runtime has to make sense of what is left.

mod boots;
mod disk;
mod kernel;
mod machine;
mod verdict;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    packages,
    run::{cargo, top},
};
use boots::Boot;

pub(crate) use boots::VmArgs;

/// Boots the machine, twice when all is to run, and prints how each test went.
///
/// # Errors
/// When a test fails, did not run, or the machine did not end by itself.
pub(crate) fn run(arguments: &VmArgs) -> Result<()> {
    let boots = boots::chosen(arguments)?;
    if !cfg!(target_arch = "x86_64") {
        println!("── virtual machine: skipped, it is of x86_64 and so must be what is tested in it");
        return Ok(());
    }
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::VM)?;
    let programs = build(&boots)?;
    let dir = top().join("target/vm");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    println!("── virtual machine: its kernel and disk");
    let kernel = kernel::ensure(&dir)?;
    let initrd = disk::initrd(&dir, &kernel)?;
    let disk = disk::root(&dir, &kernel, &programs, &boots)?;
    for boot in &boots {
        println!("── virtual machine: boot {} of {}", boot.number, boots.len());
        let log = dir.join(format!("console-{}.log", boot.number));
        let parts = machine::Parts { kernel: &kernel.image, initrd: &initrd, disk: &disk };
        let lines = machine::run(boot, &parts, &log)?;
        if let Err(why) = verdict::judge(&boot.names(), &lines) {
            verdict::print_why(&lines);
            bail!("virtual machine, boot {}: {why}; all that it said: {}", boot.number, log.display());
        }
    }
    Ok(())
}

/// Builds the test programs, in the form that `cargo xtask test` has already built, and finds them.
fn build(boots: &[Boot]) -> Result<BTreeMap<String, PathBuf>> {
    println!("── build");
    let arguments = ["build", "--workspace", "--all-targets", "--quiet", "--message-format", "json-render-diagnostics"];
    let output = cargo().args(arguments).stderr(Stdio::inherit()).output().context("start cargo")?;
    if !output.status.success() {
        bail!("build failed ({})", output.status);
    }
    let built = test_programs(&String::from_utf8_lossy(&output.stdout), &top().join("crates/container/tests"));
    let wanted = boots.iter().flat_map(Boot::names);
    wanted
        .map(|name| {
            let path = built.get(name).with_context(|| format!("cargo built no test program {name}"))?;
            Ok((name.to_owned(), path.clone()))
        })
        .collect()
}

/// The test programs whose source is in `directory`, out of what cargo says of a build.
fn test_programs(messages: &str, directory: &Path) -> BTreeMap<String, PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter_map(|message| {
            let source = message["target"]["src_path"].as_str()?;
            let path = message["executable"].as_str()?;
            let name = message["target"]["name"].as_str()?;
            (Path::new(source).parent() == Some(directory)).then(|| (name.to_owned(), path.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_told_from_others() {
        let message = |source: &str, executable: Value| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "target": { "name": "containers", "src_path": source },
                "executable": executable,
            })
        };
        let messages = [
            message("/r/crates/container/tests/containers.rs", "/r/target/containers-1".into()),
            message("/r/crates/container/tests/unbuilt.rs", Value::Null),
            message("/r/crates/other/tests/containers.rs", "/r/target/containers-2".into()),
        ];
        let messages = messages.map(|message| message.to_string()).join("\n");
        let found = test_programs(&messages, Path::new("/r/crates/container/tests"));
        assert_eq!(found, BTreeMap::from([("containers".to_owned(), "/r/target/containers-1".into())]));
    }
}
