//! `cargo xtask vm`: the container runtime on a kernel whose control groups are of version 2 alone, which this machine's
//! need not be, and over a power cut, which this machine should not have.
//!
//! Debian's own kernel in an emulated machine: qemu without KVM, so it needs neither hardware nor root. On its disk are the
//! compiled tests of `crates/container` and the programs that they call. Two boots of one disk: in the first the tests run,
//! and the power is cut while instances run; in the second the runtime has to make sense of what is left.

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

/// A test program, as it is run in the machine.
struct Tests {
    /// Name of the file in `crates/container/tests`.
    name: &'static str,
    /// Tests that cannot run there, or to which the kernel does not matter.
    without: &'static [&'static str],
}

/// What runs in each boot, in this order; another test program of `crates/container` is one more line. Not there: `images`
/// and `processes` (nothing of control groups is in them), `budgets` (it measures time, and emulation has another), and
/// `one_offs` (both emulated processors stood still in the kernel once, and nobody knows yet why). Of `containers`,
/// `what_presses_an_instance` does not see all within its time there, and which part it does not see is not known yet.
const BOOTS: [&[Tests]; 2] = [
    &[
        Tests {
            name: "containers",
            without: &["a_failed_start_says_why", "a_start_that_nobody_waits_for", "what_presses_an_instance"],
        },
        Tests { name: "unified", without: &[] },
        Tests { name: "exec", without: &["bytes_go_both_ways", "processes_are_not_entered"] },
        // Its disk has not the 2 GiB that must stay free beside a snapshot, nor a file system that shares blocks.
        Tests { name: "storage", without: &["a_snapshot_", "where_files_can_share_blocks"] },
        Tests { name: "escapes", without: &[] },
        // Last: what it starts runs when the power is cut.
        Tests { name: "reboot", without: &[] },
    ],
    &[Tests { name: "reboot", without: &[] }],
];

/// Boots the machine twice, prints how each test went.
///
/// # Errors
/// When a test fails, did not run, or the machine did not end by itself.
pub(crate) fn run() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        println!("── virtual machine: skipped, it is of x86_64 and so must be what is tested in it");
        return Ok(());
    }
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::LAB)?;
    packages::ensure(packages::VM)?;
    let programs = build()?;
    let dir = top().join("target/vm");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    println!("── virtual machine: its kernel and disk");
    let kernel = kernel::ensure(&dir)?;
    let initrd = disk::initrd(&dir, &kernel)?;
    let disk = disk::root(&dir, &kernel, &programs, &BOOTS.map(script))?;
    for (number, tests) in (1..).zip(BOOTS) {
        println!("── virtual machine: boot {number} of {}", BOOTS.len());
        let log = dir.join(format!("console-{number}.log"));
        let lines =
            machine::boot(&machine::Boot { number, kernel: &kernel.image, initrd: &initrd, disk: &disk }, &log)?;
        let names: Vec<_> = tests.iter().map(|tests| tests.name).collect();
        if let Err(why) = verdict::judge(&names, &lines) {
            verdict::print_why(&lines);
            bail!("virtual machine, boot {number}: {why}; all that it said: {}", log.display());
        }
    }
    Ok(())
}

/// One line for each test program: its name and arguments.
fn script(tests: &[Tests]) -> String {
    let line = |tests: &Tests| {
        let without = tests.without.iter().map(|name| format!(" --skip {name}")).collect::<String>();
        format!("{}{without}\n", tests.name)
    };
    tests.iter().map(line).collect()
}

/// Builds the test programs, in the form that `cargo xtask test` has already built, and finds them.
fn build() -> Result<BTreeMap<String, PathBuf>> {
    println!("── build");
    let arguments = ["build", "--workspace", "--all-targets", "--quiet", "--message-format", "json-render-diagnostics"];
    let output = cargo().args(arguments).stderr(Stdio::inherit()).output().context("start cargo")?;
    if !output.status.success() {
        bail!("build failed ({})", output.status);
    }
    let built = test_programs(&String::from_utf8_lossy(&output.stdout), &top().join("crates/container/tests"));
    let wanted = BOOTS.iter().flat_map(|tests| tests.iter()).map(|tests| tests.name);
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

    #[test]
    fn a_script_names_what_is_left_out() {
        let tests = [Tests { name: "one", without: &["a", "b"] }, Tests { name: "two", without: &[] }];
        assert_eq!(script(&tests), "one --skip a --skip b\ntwo\n");
    }
}
