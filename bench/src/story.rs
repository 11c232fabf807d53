//! Stories that are told on a running Insula, under traffic, and what they promise.

mod alone;
mod blackout;
mod broken;
mod certificates;
mod deadlocks;
mod deploys;
mod drain;
mod judged;
mod kills;
mod moved;
mod no_registry;
mod no_servers;
mod outage;
mod power_cut;
mod published;
mod restored;
mod stage;
mod stock;
mod storm;
mod successions;
mod upgrade;
mod volume;
mod worlds;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::{interrupt::Interrupt, lab::Programs};

use self::stage::Stage;

/// The host that the app of the stories answers to.
const HOST: &str = "shop.example";

/// Which story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// One of three nodes loses its power: silence
    PowerCut,
    /// kill -9 of server and dataplane on each of three nodes in turn
    Kills,
    /// Kills at random of instances, shims, servers, dataplanes and whole nodes
    Storm,
    /// All servers of three nodes stopped, and a dataplane killed meanwhile
    NoServers,
    /// The image registry stopped, then the power cut of the only node that runs an app
    NoRegistry,
    /// An app with a volume: released anew, killed, its node cut from power, its data overwritten
    Volume,
    /// Unchanged images of Debian's packages: nginx, Apache with PHP, PostgreSQL, Redis, Node, Python
    Stock,
    /// A published Compose file of web, database and cache, with images of Debian's packages
    Published,
    /// The power of three nodes cut at once, and given back
    Blackout,
    /// The states of three nodes deleted, and restored from a backup on one of them
    Restored,
    /// One of three nodes gets another address, then all of them change theirs at once
    Moved,
    /// Three nodes go to a later version one after the other, and back
    Upgrade,
    /// Each of three nodes drained in turn, and given work again
    Drain,
    /// Releases, canaries, roll-backs, scales, drains, kills and upgrades, under traffic of five kinds
    Deploys,
    /// The leader killed at ten moments of a deployment, of a good release and of a broken one
    Successions,
    /// Releases that come to nothing, one after the other: all is as before
    Broken,
    /// Canaries and rolling releases while the leader's disk is full or stalls, or an edge cannot reach it
    Judged,
    /// A deadlock planted in each supervised loop, one after the other (needs a program with planted-deadlock)
    Deadlocks,
    /// Ten rotations of every node's certificate, and another root
    Certificates,
    /// A second region is founded 266 ms away, gets apps, releases one, is cut off, loses its power, starts alone, and catches up
    Worlds,
    /// One node as an ordinary user, instances as processes: kill -9 of each part
    OneNode,
}

/// How to tell it.
#[derive(Clone, Debug, Args)]
pub struct Telling {
    /// End after the measurement; fail on a broken promise, or on a time beyond twice its budget
    #[arg(long)]
    pub check: bool,
    /// The node that loses its power [default: one with an instance that does not lead]
    #[arg(long)]
    pub node: Option<String>,
    /// Requests per second and edge
    #[arg(long, default_value_t = 50)]
    pub rate: u32,
    /// Name of the lab
    #[arg(long, default_value = "demo")]
    pub name: String,
    /// Kills of the storm
    #[arg(long, default_value_t = 60)]
    pub kills: u32,
    /// Rounds of the deploys: five rolling ones in each, and what goes with them
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Seed of the storm: the same draws again [default: any]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Leave the lab standing after a failure, to look around
    #[arg(long)]
    pub keep: bool,
}

/// Tells a story to its end, or until Ctrl-C; leaves nothing behind.
///
/// # Errors
/// What failed, or which promises were broken.
pub fn tell(story: Story, programs: &Programs, telling: &Telling, interrupt: &Interrupt) -> Result<()> {
    let on_stage = |play: Play<'_>| perform(programs, telling, None, interrupt, play);
    match story {
        Story::PowerCut => on_stage(&|stage| power_cut::tell(stage, telling.node.as_deref(), interrupt)),
        Story::Kills => on_stage(&|stage| kills::tell(stage, interrupt)),
        Story::Storm => on_stage(&|stage| storm::tell(stage, telling, interrupt)),
        Story::NoServers => on_stage(&|stage| no_servers::tell(stage, interrupt)),
        Story::NoRegistry => on_stage(&|stage| no_registry::tell(stage, telling.rate, interrupt)),
        Story::Volume => on_stage(&|stage| volume::tell(stage, interrupt)),
        Story::Stock => on_stage(&|stage| stock::tell(stage, interrupt)),
        Story::Published => on_stage(&|stage| published::tell(stage, interrupt)),
        Story::Blackout => on_stage(&|stage| blackout::tell(stage, interrupt)),
        Story::Restored => on_stage(&|stage| restored::tell(stage, interrupt)),
        Story::Moved => on_stage(&|stage| moved::tell(stage, telling.rate, interrupt)),
        Story::Upgrade => on_stage(&|stage| upgrade::tell(stage, interrupt)),
        Story::Drain => on_stage(&|stage| drain::tell(stage, interrupt)),
        Story::Deploys => on_stage(&|stage| deploys::tell(stage, telling.rounds, interrupt)),
        Story::Successions => on_stage(&|stage| successions::tell(stage, interrupt)),
        Story::Broken => on_stage(&|stage| broken::tell(stage, interrupt)),
        Story::Judged => on_stage(&|stage| judged::tell(stage, interrupt)),
        Story::Deadlocks => on_stage(&|stage| deadlocks::tell(stage, interrupt)),
        Story::Certificates => perform(programs, telling, Some(certificates::LIVES), interrupt, &|stage| {
            certificates::tell(stage, interrupt)
        }),
        Story::Worlds => worlds::tell(programs, telling, interrupt),
        Story::OneNode => alone::tell(programs, telling, interrupt),
    }
}

/// What happens on a stage of three nodes; gives the promises that were broken.
type Play<'a> = &'a dyn Fn(&mut Stage) -> Result<Vec<String>>;

/// Sets the stage of three nodes, plays, and takes it down.
fn perform(
    programs: &Programs,
    telling: &Telling,
    certificates: Option<&str>,
    interrupt: &Interrupt,
    play: Play<'_>,
) -> Result<()> {
    let mut stage = Stage::set(programs, telling, certificates, interrupt)?;
    let told = play(&mut stage);
    if told.is_err() && telling.keep {
        stage.lab.keep();
        println!("── the lab is kept: {} …", stage.lab.command_line());
    }
    let ended = told.and_then(|broken| {
        end(&broken, telling, interrupt, || {
            let lab = stage.lab.command_line();
            println!("\nThe lab stays up until Ctrl-C. Look around in another terminal:");
            println!("   {lab} status\n   {lab} exec n1 -- insula ps\n   {lab} help");
        })
    });
    if !telling.keep || ended.is_ok() {
        step("take the lab down");
    }
    ended
}

/// Fails on broken promises in a check; else names them and waits for Ctrl-C.
fn end(broken: &[String], telling: &Telling, interrupt: &Interrupt, advice: impl FnOnce()) -> Result<()> {
    if telling.check {
        ensure!(broken.is_empty(), "{}", broken.join("; "));
        return Ok(());
    }
    broken.iter().for_each(|promise| println!("   BROKEN: {promise}"));
    advice();
    interrupt.wait();
    Ok(())
}

fn step(what: &str) {
    println!("── {what}");
}
