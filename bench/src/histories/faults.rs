//! What happens to the nodes: each fault begins, lasts for a while, and ends.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use insula_env::Rng;

use crate::{interrupt::Interrupt, lab::Lab};

/// How long a fault lasts, in milliseconds: shorter and longer than it takes to find out.
const LASTS_MS: (u64, u64) = (500, 4000);
/// How long a disk stalls: longer than any election.
const STALL: Duration = Duration::from_secs(5);
/// How long all disks stall before all power goes: elections and writes begin in it.
const STALL_OF_ALL: Duration = Duration::from_millis(3500);
/// How many of 100 faults are the leader's, where it makes a difference.
const LEADERS_SHARE: f64 = 0.6;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// kill -9 of a server; its service manager starts it again
    KillServer,
    /// kill -9 of everything on a node: peers hear resets
    KillNode,
    /// A power cut of a node: silence, unsynced writes lost
    PowerOff,
    /// SIGSTOP and SIGCONT of everything on a node
    Pause,
    /// A node hears the others and is not heard, or the other way round
    CutOneWay,
    /// A node is cut off from all others; clients reach it
    Isolate,
    /// A node's disk is full
    DiskFull,
    /// A node's disk stalls for 5 s
    DiskStall,
    /// kill -9 of everything on all nodes
    KillAll,
    /// A power cut of all nodes at once
    PowerCutAll,
    /// All disks stall, then all power goes: what was acknowledged meanwhile was lost
    PowerCutStalled,
    /// All disks stall, the leader dies, then all power goes: votes given meanwhile were lost
    PowerCutElecting,
    /// A node forgets what it has acknowledged, and meets one that never knew. A sound program does not let it vote
    /// again, and needs a person then: only for a planted bug
    #[value(skip)]
    Forget,
}

impl Fault {
    /// Every kind.
    pub(super) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    fn is_of_all(self) -> bool {
        matches!(self, Self::KillAll | Self::PowerCutAll | Self::PowerCutStalled)
    }
}

/// The lab that faults happen to.
pub(super) struct Stage {
    pub(super) lab: Lab,
    pub(super) nodes: Vec<String>,
    kinds: Vec<Fault>,
    /// Kinds that are still to come before any comes again.
    deck: Vec<Fault>,
    rng: Rng,
}

impl Stage {
    pub(super) fn new(lab: Lab, nodes: Vec<String>, kinds: Vec<Fault>, rng: Rng) -> Self {
        Self { lab, nodes, kinds, deck: Vec::new(), rng }
    }

    /// The next fault: each kind as often as any other, in any order.
    pub(super) fn next(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.kinds);
        }
        let index = self.rng.range(0, self.deck.len().saturating_sub(1) as u64) as usize;
        self.deck.swap_remove(index)
    }

    /// The node that it happens to; `all` when it happens to all.
    pub(super) fn target(&self, fault: Fault, leader: Option<&str>) -> String {
        if fault.is_of_all() {
            return "all".to_owned();
        }
        let is_leaders = fault == Fault::PowerCutElecting || self.rng.chance(LEADERS_SHARE);
        match leader.filter(|_| is_leaders) {
            Some(leader) => leader.to_owned(),
            None => {
                let index = self.rng.range(0, self.nodes.len().saturating_sub(1) as u64) as usize;
                self.nodes.get(index).cloned().unwrap_or_default()
            }
        }
    }

    /// Makes it happen, and ends it.
    pub(super) fn suffer(&self, fault: Fault, target: &str, interrupt: &Interrupt) -> Result<()> {
        let lasts = Duration::from_millis(self.rng.range(LASTS_MS.0, LASTS_MS.1));
        let run = |arguments: &[&str]| self.lab.run(arguments).map(drop);
        let last = || interrupt.sleep(lasts);
        match fault {
            Fault::KillServer => run(&["kill", target, "--process", "server"]),
            Fault::KillNode => {
                run(&["kill", target])?;
                last()?;
                run(&["poweron", target])
            }
            Fault::PowerOff => {
                run(&["poweroff", target])?;
                last()?;
                run(&["poweron", target])
            }
            Fault::Pause => {
                run(&["pause", target])?;
                last()?;
                run(&["resume", target])
            }
            Fault::CutOneWay => {
                let is_mute = self.rng.chance(0.5);
                for other in self.others(target) {
                    let (from, to) = if is_mute { (target, other) } else { (other, target) };
                    run(&["cut", from, to, "--one-way"])?;
                }
                last()?;
                run(&["heal"])
            }
            Fault::Isolate => {
                for other in self.others(target) {
                    run(&["cut", target, other])?;
                }
                last()?;
                run(&["heal"])
            }
            Fault::DiskFull => {
                run(&["disk", target, "--full"])?;
                last()?;
                run(&["disk", target, "--mend"])
            }
            Fault::DiskStall => {
                run(&["disk", target, "--stall"])?;
                interrupt.sleep(STALL)?;
                run(&["disk", target, "--mend"])
            }
            Fault::KillAll => {
                self.each(|node| run(&["kill", node]))?;
                last()?;
                self.each(|node| run(&["poweron", node]))
            }
            Fault::PowerCutAll => {
                self.power_cut()?;
                last()?;
                self.each(|node| run(&["poweron", node]))
            }
            Fault::PowerCutStalled => {
                self.of_all("disk", &["--stall"])?;
                interrupt.sleep(STALL_OF_ALL)?;
                self.power_cut()?;
                self.each(|node| run(&["poweron", node]))
            }
            Fault::PowerCutElecting => {
                // First the leader, so that no append holds the files of the others when they stall.
                run(&["kill", target])?;
                let others: Vec<_> = self.others(target).collect();
                run(&[&["disk"], &others[..], &["--stall"]].concat())?;
                interrupt.sleep(STALL_OF_ALL)?;
                self.power_cut()?;
                self.each(|node| run(&["poweron", node]))
            }
            Fault::Forget => self.forget(target, interrupt),
        }
    }

    /// The node was half of a majority that acknowledged writes while a third one was cut off; then it has lost its
    /// state but not its identity, and the other half is away.
    fn forget(&self, target: &str, interrupt: &Interrupt) -> Result<()> {
        let run = |arguments: &[&str]| self.lab.run(arguments).map(drop);
        let (mut others, mut away) = (self.others(target), Vec::new());
        let Some(late) = others.next() else { return Ok(()) };
        away.extend(others);
        for other in self.others(late) {
            run(&["cut", late, other])?;
        }
        interrupt.sleep(STALL_OF_ALL)?;
        run(&["stop", target])?;
        for state in ["region", "global"] {
            run(&["exec", target, "--", "rm", "-r", &format!("/var/lib/insula/state/{state}")])?;
        }
        away.iter().try_for_each(|node| run(&["kill", node]))?;
        run(&["heal"])?;
        run(&["start", target])?;
        interrupt.sleep(STALL)?;
        away.iter().try_for_each(|node| run(&["poweron", node]))
    }

    fn power_cut(&self) -> Result<()> {
        self.of_all("poweroff", &[])
    }

    fn of_all(&self, verb: &str, rest: &[&str]) -> Result<()> {
        let nodes = self.nodes.iter().map(String::as_str);
        self.lab.run(&[&[verb], &nodes.collect::<Vec<_>>()[..], rest].concat()).map(drop)
    }

    fn each(&self, act: impl Fn(&str) -> Result<()>) -> Result<()> {
        self.nodes.iter().try_for_each(|node| act(node))
    }

    fn others<'a>(&'a self, target: &'a str) -> impl Iterator<Item = &'a str> {
        self.nodes.iter().map(String::as_str).filter(move |node| *node != target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_turn_before_any_has_another() {
        let programs = crate::lab::Programs { insula: "true".into(), bench: "true".into(), next: None };
        let lab = Lab::up(&programs, "none", 3, None).expect("`true` makes any lab");
        let mut stage = Stage::new(lab, vec!["n1".to_owned()], Fault::all(), Rng::from_seed(1));
        for _ in 0..3 {
            let mut turn: Vec<_> = Fault::all().iter().map(|_| stage.next()).collect();
            turn.sort_unstable();
            assert_eq!(turn, Fault::all());
        }
        assert_eq!(stage.target(Fault::KillAll, Some("n1")), "all");
        assert_eq!(stage.target(Fault::PowerCutElecting, Some("n1")), "n1");
    }
}
