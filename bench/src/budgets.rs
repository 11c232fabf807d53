//! The budgets of the architecture as a table: measured, budget, peer in the same run, and MISSED on each line beyond.
//!
//! A part measures one thing and gives its lines; [`Part`] lists them. Later steps add theirs.

mod calm;
mod commit;
mod deploys;
mod disk;
mod edge;
mod failover;
mod idle;
mod images;
mod many;
mod neighbours;
mod probe;
pub(crate) mod processes;
mod start;
mod visible;

use std::fmt;

use clap::{Args, ValueEnum};

use crate::lab::{Lab, Programs};

/// Name of the lab that is measured in.
const LAB: &str = "bench";

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What was measured.
    pub what: String,
    /// What came out; less is better.
    pub measured: f64,
    /// What it may be at most.
    pub budget: Option<f64>,
    /// Of what the numbers are: `MiB`, `ms`, `%` …
    pub unit: &'static str,
    /// The same thing of a peer, measured in the same run, and its name.
    pub peer: Option<(String, f64)>,
}

impl Line {
    /// Whether it is beyond its budget.
    pub fn is_missed(&self) -> bool {
        self.budget.is_some_and(|budget| self.measured > budget)
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Table(pub Vec<Line>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|line| line.what.len()).max().unwrap_or(0).max(8);
        writeln!(f, "{:<width$}  {:>12}  {:>12}  {:<24}", "what", "measured", "budget", "peer in the same run")?;
        for line in &self.0 {
            let number = |value: f64| format!("{value:.1} {}", line.unit);
            let budget = line.budget.map_or("–".to_owned(), |budget| format!("≤ {}", number(budget)));
            let peer = line.peer.as_ref().map_or("–".to_owned(), |(name, value)| {
                format!("{name} {} ({:.2} ×)", number(*value), line.measured / value)
            });
            let verdict = if line.is_missed() { "MISSED" } else { "" };
            let text =
                format!("{:<width$}  {:>12}  {budget:>12}  {peer:<24}  {verdict}", line.what, number(line.measured));
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// A thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Memory and processor time of idle nodes
    Idle,
    /// Starts of containers
    Start,
    /// 300 instances on one node
    Many,
    /// Images pulled and unpacked, beside skopeo and umoci
    Images,
    /// Deployments, from the command to instances that serve
    Deploys,
    /// A service beside apps that take all they can get
    Neighbours,
    /// The edge, beside nginx and HAProxy
    Edge,
    /// Commits, beside etcd
    Commit,
    /// Leader killed to write confirmed
    Failover,
    /// Leader drained, follower cut off and back
    Calm,
    /// Changes of the world, until every node of three regions shows them
    Visible,
}

/// What to measure.
#[derive(Clone, Debug, Args)]
pub struct Choice {
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["idle", "start", "many", "images", "deploys", "neighbours", "edge", "commit", "failover", "calm", "visible"])]
    pub only: Vec<Part>,
    /// Leaders to kill
    #[arg(long, default_value_t = 100)]
    pub kills: usize,
    /// Changes of the world to make
    #[arg(long, default_value_t = 1000)]
    pub changes: usize,
}

/// Measures, telling on standard error what it does; needs root and the lab's packages.
///
/// # Errors
/// When something cannot be measured.
pub fn measure(programs: &Programs, choice: &Choice) -> anyhow::Result<Table> {
    let mut lines = Vec::new();
    let mut take = |measured: Vec<Line>| {
        // Also seen when a later part fails.
        eprint!("{}", Table(measured.clone()));
        lines.extend(measured);
    };
    if choice.only.contains(&Part::Edge) {
        take(edge::measure(programs)?);
    }
    if choice.only.contains(&Part::Neighbours) {
        // What neighbours share are the processors of one machine; three nodes would have three neighbours on them.
        eprintln!("making a lab of one node …");
        take(neighbours::measure(&Lab::up(programs, LAB, 1, None)?)?);
    }
    if choice.only.contains(&Part::Visible) {
        take(visible::measure(programs, LAB, choice.changes)?);
    }
    if choice.only.iter().all(|part| matches!(part, Part::Neighbours | Part::Edge | Part::Visible)) {
        return Ok(Table(lines));
    }
    eprintln!("making a lab of three nodes …");
    let lab = Lab::up(programs, LAB, 3, None)?;
    // Idle nodes come first: later parts leave state behind.
    for part in
        [Part::Idle, Part::Start, Part::Many, Part::Images, Part::Deploys, Part::Commit, Part::Failover, Part::Calm]
    {
        if choice.only.contains(&part) {
            take(match part {
                Part::Idle => idle::measure(&lab)?,
                Part::Start => start::measure(&lab)?,
                Part::Many => many::measure(&lab)?,
                Part::Images => images::measure(&lab)?,
                Part::Deploys => deploys::measure(&lab)?,
                Part::Neighbours | Part::Edge | Part::Visible => Vec::new(),
                Part::Commit => commit::measure(&lab)?,
                Part::Failover => failover::measure(&lab, choice.kills)?,
                Part::Calm => calm::measure(&lab)?,
            });
        }
    }
    Ok(Table(lines))
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_its_budget_is_marked() {
        let line = |what: &str, measured, budget, peer: Option<(&str, f64)>| Line {
            what: what.to_owned(),
            measured,
            budget,
            unit: "ms",
            peer: peer.map(|(name, value)| (name.to_owned(), value)),
        };
        let table = Table(vec![
            line("good", 1.0, Some(1.0), Some(("etcd", 2.0))),
            line("bad thing", 3.0, Some(2.0), None),
            line("unbound", 4.0, None, None),
        ]);
        let text = table.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "good             1.0 ms      ≤ 1.0 ms  etcd 2.0 ms (0.50 ×)");
        assert_eq!(lines[2], "bad thing        3.0 ms      ≤ 2.0 ms  –                         MISSED");
        assert_eq!(lines[3], "unbound          4.0 ms             –  –");
    }
}
