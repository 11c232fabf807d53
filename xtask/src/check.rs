//! `cargo xtask check`: what must hold of every commit, cheap things first.

use anyhow::Result;

use crate::{
    layers, packages,
    run::{cargo, has_cargo_tool, run},
};

/// The checks that need no compiler.
///
/// # Errors
/// What failed.
pub(crate) fn quick() -> Result<()> {
    run("format", cargo().args(["fmt", "--all", "--check"]))?;
    run("format of the shim", cargo().args(["fmt", "--check", "--manifest-path", "shim/Cargo.toml"]))?;
    println!("── import direction");
    layers::check()?;
    if has_cargo_tool("deny") {
        let mut deny = cargo();
        deny.args(["deny", "--log-level", "error", "check", "licenses", "bans", "sources"]);
        run("licences and bans", &mut deny)
    } else {
        println!("── licences and bans: skipped, cargo-deny is not installed (cargo install cargo-deny)");
        Ok(())
    }
}

/// Runs all checks; the first that fails ends it.
///
/// # Errors
/// What failed.
pub(crate) fn run_with_tests() -> Result<()> {
    quick()?;
    packages::ensure(packages::BUILD)?;
    run("lints", cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    let mut docs = cargo();
    docs.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    run("docs", &mut docs)?;
    crate::test::unit()?;
    println!("all checks passed");
    Ok(())
}
