//! `cargo xtask test`: the simulation, every test, and those of the virtual machine.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    bench, packages,
    run::{cargo, has_cargo_tool, run, top},
    vm,
};

/// Seeds that every change must pass.
const SEEDS: &str = "1000";

/// What building and running the tests takes of the disk, and half as much again, in MiB.
const ROOM_MIB: u64 = 8 << 10;

/// Runs everything that decides whether a change lands.
///
/// # Errors
/// What failed.
pub(crate) fn run_all() -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::LAB)?;
    simulate(&["--seeds".into(), SEEDS.into(), "--first".into(), "1".into()])?;
    make_room()?;
    tests(&["--workspace"])?;
    vm::run(&vm::VmArgs::default())
}

/// Removes what the simulation was built of where the disk may be too small for it and the tests.
fn make_room() -> Result<()> {
    let target = top().join("target");
    let disk = rustix::fs::statvfs(&target)?;
    let free_mib = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
    println!("── {free_mib} MiB are free for the tests");
    let built = target.join("sim");
    if free_mib < ROOM_MIB && built.exists() {
        println!("── that may be too little: {} is removed", built.display());
        std::fs::remove_dir_all(&built)?;
    }
    Ok(())
}

/// The tests inside the crates, without the end-to-end ones.
///
/// # Errors
/// When one fails.
pub(crate) fn unit() -> Result<()> {
    tests(&["--workspace", "--lib", "--bins"])
}

/// With nextest where it is installed (one process per test, and the groups of `.config/nextest.toml`), else with
/// cargo's own runner.
fn tests(which: &[&str]) -> Result<()> {
    bench::build_next("dev")?;
    // One form of build for everything in dev, so that features do not differ from run to run.
    run("build", cargo().args(["build", "--workspace", "--all-targets", "--quiet"]))?;
    let mut command = cargo();
    if has_cargo_tool("nextest") {
        command.args(["nextest", "run", "--no-fail-fast"]);
    } else {
        command.args(["test", "--no-fail-fast"]);
    }
    run("tests", command.args(which))
}

/// The simulation, in a profile of its own: optimized, with debug assertions.
///
/// # Errors
/// When a seed fails; it has said which and how to replay it.
pub(crate) fn simulate(arguments: &[String]) -> Result<()> {
    run("simulation", simulation(&[]).arg("--").args(arguments))
}

/// A bug that can be planted: each is a feature `planted-…` of the raft crate.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Bug {
    /// A log append is acknowledged before its fsync
    AckBeforeFsync,
    /// A vote is acknowledged before its fsync
    VoteNotSynced,
    /// A leader answers reads without asking a majority
    StaleLeaderReads,
    /// Of several commands in one entry, half are acknowledged and not applied
    LossyBatch,
    /// A node whose files are gone votes again under its old id
    ReusedId,
}

/// The simulation of a program with a bug.
///
/// # Errors
/// When no seed fails.
pub(crate) fn simulate_planted(bug: Bug, arguments: &[String]) -> Result<()> {
    let name = bug.to_possible_value().expect("no bug is hidden").get_name().to_owned();
    let feature = format!("planted-{name}");
    let features = ["--features", feature.as_str()];
    run("build", simulation(&features).args(["--", "--help"]).stdout(Stdio::null()))?;
    println!("── simulation with a planted bug: {name}");
    // 1 is what it says of seeds that failed; anything else is a failure of its own.
    match simulation(&features).arg("--").args(arguments).status()?.code() {
        Some(1) => println!("caught, as it must be"),
        Some(0) => bail!("no seed caught the planted bug"),
        other => bail!("the simulation itself failed ({other:?})"),
    }
    Ok(())
}

/// One fuzzer, optimized and with debug assertions, which find what overflows.
///
/// # Errors
/// When there is a finding; it has said where the input is.
pub(crate) fn fuzz(arguments: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--profile", "sim", "--package", "insula-fuzz", "--"]).args(arguments);
    run("fuzz", &mut command)
}

fn simulation(features: &[&str]) -> Command {
    let mut command = cargo();
    // Lets the simulation seed what tokio draws for `select!`; without it a few seeds in a hundred are not repeatable.
    command.args(["--config", r#"build.rustflags=["--cfg", "tokio_unstable"]"#]);
    command.args(["run", "--quiet", "--profile", "sim", "--package", "insula-sim"]).args(features);
    command
}
