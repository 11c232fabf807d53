//! Histories of real processes: clients use a lab of real nodes while one fault follows another, and what they saw is
//! judged (`check`): registers are linearizable, what was acknowledged stays, watches have no gap, terms one leader.
//!
//! A program with a planted bug must be found out, or the judge is not to be trusted.

mod call;
pub mod check;
pub mod clients;
mod faults;
pub(crate) mod observed;
pub mod record;
mod tally;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use insula_env::{Clock, Rng};

use self::{
    check::Violation,
    faults::{Fault, Stage},
    observed::Observed,
    record::{Group, Span},
    tally::Tally,
};
use crate::{
    interrupt::Interrupt,
    lab::{Lab, Programs},
};

/// Operations before the first fault.
const CALM: Duration = Duration::from_secs(3);
/// How long the region may take until all is well again after a fault.
const BACK_WITHIN: Duration = Duration::from_secs(120);
/// Between looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A register that was not used for so long has nobody who waits for an answer: longer than all attempts at one
/// operation.
const WHOLE_AFTER: Duration = Duration::from_secs(25);

/// Which bug the program has that was built for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Planted {
    /// A log append is acknowledged before its fsync
    AckBeforeFsync,
    /// A vote is given before it is on the disk
    VoteNotSynced,
    /// A leader answers linearizable reads without asking a majority
    StaleLeaderReads,
    /// A batch of commands loses one and acknowledges it
    LossyBatch,
    /// A node whose files are gone votes again under its old id
    ReusedId,
}

impl Planted {
    /// The faults under which it shows.
    fn faults(self) -> Vec<Fault> {
        match self {
            Self::AckBeforeFsync => vec![Fault::PowerCutAll],
            Self::VoteNotSynced => vec![Fault::PowerCutElecting],
            // Cut off it soon notices; paused, it first answers what waits.
            Self::StaleLeaderReads => vec![Fault::Isolate, Fault::Pause],
            Self::LossyBatch => vec![Fault::KillServer],
            Self::ReusedId => vec![Fault::Forget],
        }
    }
}

/// How to run it.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Faults in a row
    #[arg(long, default_value_t = 300)]
    pub faults: usize,
    /// Draws faults, nodes and times; the run itself differs each time [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Nodes of the lab
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub nodes: u8,
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Fault>,
    /// The bug that the program was built with: it must be found
    #[arg(long, value_enum)]
    pub planted: Option<Planted>,
    /// Milliseconds between two operations of a client, on average [default: 40; 2 with --planted]
    #[arg(long)]
    pub pause_ms: Option<u64>,
    /// Name of the lab
    #[arg(long, default_value = "histories")]
    pub name: String,
    /// Leave the lab standing after a failure, to look around
    #[arg(long)]
    pub keep: bool,
}

/// Runs it; prints a line for each fault, and the table.
///
/// # Errors
/// What failed; which promise was broken; or that a planted bug was not found.
pub fn run(programs: &Programs, options: &Options, interrupt: &Interrupt) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| Rng::from_os().range(0, u64::from(u32::MAX)));
    println!("── lab of {} nodes; seed {seed}", options.nodes);
    let lab = Lab::up(programs, &options.name, options.nodes.into(), None)?;
    let mut run = Run::new(lab, options, seed)?;
    let suffered = run.suffer(options, interrupt);
    let ended = suffered.and_then(|found| match found {
        Some(found) => Ok(Some(found)),
        None => run.end(),
    });
    println!("{}", run.tally);
    if options.keep && (ended.is_err() || matches!(ended, Ok(Some(_)))) {
        run.stage.lab.keep();
        println!("── the lab is kept: {} …", run.stage.lab.command_line());
    }
    verdict(ended?, options, seed, &run.observed)
}

fn verdict(found: Option<Violation>, options: &Options, seed: u64, observed: &Observed) -> Result<()> {
    match (found, options.planted) {
        (None, None) => println!("every promise was kept; seed {seed}"),
        (Some(found), Some(planted)) => println!("{planted:?} was found, as it must be: {found}"),
        (None, Some(planted)) => bail!("nobody found {planted:?}; seed {seed}"),
        (Some(found), None) => {
            let path = std::env::temp_dir().join(format!("insula-histories-{seed}.jsonl"));
            observed.save(&path)?;
            bail!("{found}\nseed {seed}; all that was seen is in {}", path.display());
        }
    }
    Ok(())
}

/// A run under way.
struct Run {
    /// Ends before the lab does.
    observed: Observed,
    stage: Stage,
    tally: Tally,
    clock: Clock,
    rng: Rng,
    /// Registers that were judged.
    judged: BTreeSet<u64>,
    /// Records that were judged already, but for the last fault's.
    from: usize,
}

impl Run {
    fn new(lab: Lab, options: &Options, seed: u64) -> Result<Self> {
        let nodes = lab.nodes()?;
        // Some bugs show only where commands meet.
        let pause_ms = options.pause_ms.unwrap_or(if options.planted.is_some() { 2 } else { 40 });
        let observed = Observed::start(&lab, &nodes, seed, pause_ms)?;
        let (clock, rng) = (Clock::real(), Rng::from_seed(seed));
        let names = nodes.into_iter().map(|node| node.name).collect();
        let kinds = match (options.planted, &options.only[..]) {
            (Some(planted), []) => planted.faults(),
            (_, []) => Fault::all(),
            (_, only) => only.to_vec(),
        };
        let stage = Stage::new(lab, names, kinds, rng.fork());
        Ok(Self { stage, observed, tally: Tally::default(), clock, rng, judged: BTreeSet::new(), from: 0 })
    }

    /// One fault after the other, until a promise is broken.
    fn suffer(&mut self, options: &Options, interrupt: &Interrupt) -> Result<Option<Violation>> {
        self.back(self.now_us(), interrupt).context("before any fault")?;
        interrupt.sleep(CALM)?;
        for number in 1..=options.faults {
            let fault = self.stage.next();
            let group = if self.rng.chance(0.5) { Group::Region } else { Group::Global };
            let leader = self.observed.leader(group);
            let target = self.stage.target(fault, leader.as_deref());
            let begun = self.observed.count();
            let start_us = self.now_us();
            self.stage.suffer(fault, &target, interrupt).with_context(|| format!("{fault:?} of {target}"))?;
            let healed_us = self.now_us();
            if let Err(error) = self.back(healed_us, interrupt) {
                for node in &self.stage.nodes {
                    eprint!("── last on the console of {node}\n{}", self.stage.lab.last_words(node));
                }
                // Why it is not well may be told by what was seen.
                return match self.judge(u64::MAX) {
                    Some(found) => Ok(Some(found)),
                    None => Err(error.context(format!("after {fault:?} of {target}"))),
                };
            }
            let within = Span { start_us, end_us: self.now_us() };
            let told = self.observed.with(|all| self.tally.add(fault, &all[begun..], within, healed_us));
            let is_leader = if leader.as_ref() == Some(&target) { " (leader)" } else { "" };
            println!("{number:>4}/{} {fault:?} {target}{is_leader}: {told}", options.faults);
            if let Some(found) = self.judge(self.now_us().saturating_sub(WHOLE_AFTER.as_micros() as u64)) {
                self.tally.blame(fault);
                return Ok(Some(found));
            }
            self.from = begun;
        }
        Ok(None)
    }

    /// The clients come to their end, look for all that was acknowledged, and everything is judged.
    fn end(&mut self) -> Result<Option<Violation>> {
        println!("── the clients look for all that was acknowledged");
        self.observed.stop()?;
        self.from = 0;
        Ok(self.judge(u64::MAX))
    }

    /// Judges what was not judged yet: registers whose last operation ended before a moment, and the rest.
    fn judge(&mut self, before_us: u64) -> Option<Violation> {
        self.observed.with(|records| {
            for (number, ops) in check::whole_registers(records, before_us) {
                if self.judged.insert(number)
                    && let Err(found) = check::register(number, &ops)
                {
                    return Some(found);
                }
            }
            check::others(records.get(self.from..).unwrap_or_default()).err()
        })
    }

    /// Waits until every node says who leads, no group is stopped anywhere, and both have confirmed a write that was begun
    /// after a moment.
    fn back(&self, since_us: u64, interrupt: &Interrupt) -> Result<()> {
        let deadline = self.clock.now() + BACK_WITHIN;
        loop {
            let Some(why) = self.observed.missing(since_us, &self.stage.nodes) else { return Ok(()) };
            ensure!(self.clock.now() < deadline, "not well after {} s: {why}", BACK_WITHIN.as_secs());
            interrupt.sleep(LOOK_EVERY)?;
        }
    }

    fn now_us(&self) -> u64 {
        self.clock.wall_ms() * 1000
    }
}
