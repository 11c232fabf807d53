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
    build()?;
    let mut command = std::process::Command::new(top().join("target/release/insula-bench"));
    match what {
        What::Budgets => command.arg("budgets"),
        What::Load => command.arg("load"),
    };
    crate::run::run("measure", command.args(arguments))
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
