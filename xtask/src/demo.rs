//! `cargo xtask demo`: builds what a story needs, and has `insula-bench` tell it.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{
    bench, packages,
    run::{cargo, run, top},
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
    /// Kills at random of instances, shims, servers, dataplanes and whole nodes; then nothing is left over
    Storm,
    /// All servers of three nodes stopped, and a dataplane killed meanwhile
    NoServers,
    /// The image registry stopped, then the power cut of the only node that runs an app
    NoRegistry,
    /// An app with a volume: released anew, killed, its node cut from power, its data overwritten
    Volume,
    /// Unchanged images of Debian's packages, which are made first: it downloads much
    Stock,
    /// A published Compose file of web, database and cache, with images of Debian's packages: it downloads much
    Published,
    /// The power of three nodes cut at once, and given back
    Blackout,
    /// The states of three nodes deleted, and restored from a backup on one of them
    Restored,
    /// One of three nodes gets another address, then all of them change theirs at once
    Moved,
    /// Three nodes go to a later version one after the other, and back, under traffic and writes
    Upgrade,
    /// Each of three nodes drained in turn
    Drain,
    /// Releases, canaries, roll-backs, scales, drains, kills and upgrades, under visitors of five kinds
    Deploys,
    /// The leader killed at ten moments of a deployment, of a good release and of a broken one
    Successions,
    /// Releases that never get ready, get worse, have no image or no room: all is as before
    Broken,
    /// Canaries and rolling releases while the leader's disk is full or stalls, or an edge cannot reach it
    Judged,
    /// A deadlock planted in each supervised loop, in a program built for it
    Deadlocks,
    /// Ten rotations of every node's certificate, and another root, under traffic
    Certificates,
    /// A second region is founded 266 ms away, gets apps, releases one, is cut off, loses its power, starts alone, and catches up
    Worlds,
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
        if matches!(story, Story::Stock | Story::Published) {
            packages::ensure(packages::STOCK)?;
        }
    } else if story != Story::OneNode {
        println!(
            "── not root: no lab of three nodes; the story of one node instead (sudo cargo xtask demo for all of it)"
        );
        story = Story::OneNode;
    }
    let dir = if story == Story::Deadlocks { "target/planted" } else { "target/release" };
    if !arguments.no_build {
        if story == Story::Upgrade {
            bench::build_next("release")?;
        }
        if story == Story::Deadlocks { build_planted(&top().join(dir))? } else { bench::build()? }
    }
    let name = story.to_possible_value();
    let mut command = Command::new(top().join(dir).join("insula-bench"));
    command.arg("story").args(name.as_ref().map(clap::builder::PossibleValue::get_name));
    if arguments.check {
        command.arg("--check");
    }
    run("demo", command.args(&arguments.rest))
}

/// Builds the programs with planted deadlocks, and puts them aside, so that nobody takes them for the real ones.
fn build_planted(dir: &Path) -> Result<()> {
    let features = ["--features", "insula/planted-deadlock"];
    run("build (planted deadlocks)", cargo().args(["build", "--workspace", "--quiet"]).args(features))?;
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for name in ["insula", "insula-bench"] {
        let (from, to) = (top().join("target/debug").join(name), dir.join(name));
        // Moved, not copied: the next ordinary build makes its own.
        std::fs::rename(&from, &to).with_context(|| format!("move {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}
