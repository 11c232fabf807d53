//! `cargo xtask bench …`: builds the program and the measuring program for release, and hands over.

use anyhow::{Context, Result};

use crate::{
    packages,
    run::{cargo, top},
};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// The budgets of the architecture: measured, budget, peer in the same run, MISSED where beyond
    Budgets,
    /// Histories of real processes under faults, judged; with `--planted BUG` of a program with that bug, which must
    /// be found
    Histories,
    /// Steady HTTP load on any address
    Load,
}

/// Builds and measures.
///
/// # Errors
/// When a build fails, or the measuring does.
pub(crate) fn run(what: What, arguments: &[String]) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    if what == What::Budgets {
        packages::ensure(packages::LAB)?;
        packages::ensure(packages::PEERS)?;
    }
    if what == What::Histories {
        packages::ensure(packages::LAB)?;
        return histories(arguments);
    }
    build()?;
    let mut command = std::process::Command::new(top().join("target/release/insula-bench"));
    command.arg(if what == What::Budgets { "budgets" } else { "load" });
    crate::run::run("measure", command.args(arguments))
}

/// Builds in dev, for its assertions, a program with or without a bug, and lets faults happen to it.
fn histories(arguments: &[String]) -> Result<()> {
    let planted = arguments.iter().position(|argument| argument == "--planted");
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "insula", "--package", "insula-bench"]);
    if let Some(bug) = planted.and_then(|index| arguments.get(index + 1)) {
        build.args(["--features", &format!("insula/planted-{bug}")]);
    }
    crate::run::run("build (dev)", &mut build)?;
    let mut command = std::process::Command::new(top().join("target/debug/insula-bench"));
    crate::run::run("faults", command.arg("histories").args(arguments))
}

/// Builds the program as if of a later version, and puts it beside the program as `insula-next`.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_next(profile: &str) -> Result<()> {
    let features = ["--package", "insula", "--features", "upgrade-probe"];
    let mut build = cargo();
    build.args(["build", "--quiet", "--profile", profile]).args(features);
    crate::run::run(&format!("build a later version ({profile})"), &mut build)?;
    let dir = top().join("target").join(if profile == "dev" { "debug" } else { profile });
    // A copy: the next build puts another program in its place.
    std::fs::copy(dir.join("insula"), dir.join("insula-next")).context("keep the later version")?;
    Ok(())
}

/// Builds what the demo and the measurements run: release, without the optimization over all crates that `dist` has.
///
/// # Errors
/// When the build fails.
pub(crate) fn build() -> Result<()> {
    crate::run::run(
        "build (release)",
        cargo().args(["build", "--release", "--quiet", "--package", "insula", "--package", "insula-bench"]),
    )
}
