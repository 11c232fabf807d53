//! `cargo xtask demo`: builds what a story needs, and has `insula-bench` tell it.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    bench, packages,
    run::{run, top},
};

/// How to run the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Which story
    #[arg(value_enum, default_value = "power-cut")]
    story: Story,
    /// Do not build: use what is in target/release
    #[arg(long)]
    no_build: bool,
    /// End after the measurement; fail on a broken promise, or on a time beyond twice its budget
    #[arg(long)]
    check: bool,
    /// What to pass on: see `target/release/insula-bench story --help`
    #[arg(last = true)]
    rest: Vec<String>,
}

/// The stories; `insula-bench` knows what they tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Story {
    /// One of three nodes loses its power under traffic
    PowerCut,
    /// kill -9 of server and dataplane on each of three nodes in turn
    Kills,
    /// All servers of three nodes stopped, and a dataplane killed meanwhile
    NoServers,
    /// Ten rotations of every node's certificate, and another root, under traffic
    Certificates,
    /// One node, no root needed: kill -9 of each part
    OneNode,
}

/// Runs the demo. As an ordinary user it can only be the story of one node.
///
/// # Errors
/// What failed, or which promise was broken.
pub(crate) fn demo(arguments: &DemoArgs) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    let is_root = rustix::process::geteuid().is_root();
    let mut story = arguments.story;
    if is_root && story != Story::OneNode {
        packages::ensure(packages::LAB)?;
    } else if story != Story::OneNode {
        println!(
            "── not root: no lab of three nodes; the story of one node instead (sudo cargo xtask demo for all of it)"
        );
        story = Story::OneNode;
    }
    if !arguments.no_build {
        bench::build()?;
    }
    let name = story.to_possible_value();
    let mut command = Command::new(top().join("target/release/insula-bench"));
    command.arg("story").args(name.as_ref().map(clap::builder::PossibleValue::get_name));
    if arguments.check {
        command.arg("--check");
    }
    run("demo", command.args(&arguments.rest))
}
