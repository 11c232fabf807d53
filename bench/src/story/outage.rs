//! What requests tell about a power cut. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use crate::report::{Outcome, Record};

/// Budget for the edges to stop using a silent node, and for its instance to serve elsewhere.
const EDGES_OFF_BUDGET_MS: u64 = 3000;
const ELSEWHERE_BUDGET_MS: u64 = 8000;
/// A time fails the check beyond so many times its budget: this machine may be busy.
const TOLERANCE: u64 = 2;
/// A request that takes longer than this, and than three times the usual worst, waited for something.
const DELAYED_MS: u64 = 250;
/// So long without a delayed request, and the edges are over it; what is delayed later has other reasons.
const QUIET_MS: u64 = 1000;
/// Failures that are shown.
const SHOWN_MAX: usize = 5;

impl Record {
    fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    fn is_sent(&self) -> bool {
        self.outcome != Outcome::NotSent
    }

    fn took_ms(&self) -> u64 {
        self.end_ms.saturating_sub(self.start_ms)
    }

    /// A line about it, with its start told from a moment.
    fn show(&self, at_ms: u64) -> String {
        let at = self.start_ms as f64 / 1000.0 - at_ms as f64 / 1000.0;
        let detail = self.detail.as_deref().unwrap_or("");
        format!("{at:+.2} s {} {:?} after {} ms {detail}", self.target, self.outcome, self.took_ms())
    }
}

/// A power cut.
pub(crate) struct Cut {
    /// When it began, wall time. A lab takes the disk first and the links some milliseconds later: what the node says in
    /// between is not looked at.
    pub(crate) begun_ms: u64,
    /// When the node fell silent, wall time.
    pub(crate) at_ms: u64,
    /// Which node.
    pub(crate) node: String,
    /// Its own edge.
    pub(crate) edge: SocketAddr,
    /// Instances that served before.
    pub(crate) instances: BTreeSet<String>,
}

/// The instances that answered through each edge.
pub(crate) fn instances_by_edge(records: &[Record]) -> BTreeMap<SocketAddr, BTreeSet<String>> {
    let mut seen = BTreeMap::<_, BTreeSet<_>>::new();
    for record in records.iter().filter(|record| record.is_ok()) {
        if let Some(instance) = &record.instance {
            seen.entry(record.target).or_default().insert(instance.clone());
        }
    }
    seen
}

/// The first answer after the cut from an instance that did not serve before.
fn elsewhere<'a>(records: &'a [Record], cut: &Cut) -> Option<&'a Record> {
    let is_new = |record: &&Record| {
        record.is_ok() && record.instance.as_ref().is_some_and(|instance| !cut.instances.contains(instance))
    };
    records.iter().filter(|record| record.end_ms >= cut.at_ms).filter(is_new).min_by_key(|record| record.end_ms)
}

/// Time from the cut to that answer.
pub(crate) fn elsewhere_ms(records: &[Record], cut: &Cut) -> Option<u64> {
    elsewhere(records, cut).map(|record| record.end_ms - cut.at_ms)
}

/// When the first good answer came through an edge to a request that was sent after a moment.
pub(crate) fn first_answer_ms(records: &[Record], edge: SocketAddr, since_ms: u64) -> Option<u64> {
    let is_it = |record: &&Record| record.target == edge && record.is_ok() && record.start_ms >= since_ms;
    records.iter().filter(is_it).map(|record| record.end_ms).min()
}

/// What an edge lost since a moment.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Requests that ended since.
    pub(crate) sent: usize,
    /// Those that were not answered well.
    pub(crate) lost: usize,
    /// From the moment to the end of the last lost one.
    pub(crate) last_ms: u64,
    /// The first of them, to read.
    pub(crate) shown: Vec<String>,
}

/// Looks at the requests to an edge that ended since a moment, those that were under way then included.
pub(crate) fn losses(records: &[Record], edge: SocketAddr, since_ms: u64) -> Losses {
    losses_among(records, edge, since_ms, |record| record.end_ms >= since_ms)
}

/// Looks at the requests to an edge that began after a moment.
pub(crate) fn later_losses(records: &[Record], edge: SocketAddr, since_ms: u64) -> Losses {
    losses_among(records, edge, since_ms, |record| record.start_ms >= since_ms)
}

fn losses_among(records: &[Record], edge: SocketAddr, since_ms: u64, among: impl Fn(&Record) -> bool) -> Losses {
    let is_it = |record: &&Record| record.target == edge && record.is_sent() && among(record);
    let mut losses = Losses::default();
    for record in records.iter().filter(is_it) {
        losses.sent += 1;
        if !record.is_ok() {
            losses.lost += 1;
            losses.last_ms = losses.last_ms.max(record.end_ms - since_ms);
            if losses.shown.len() < SHOWN_MAX {
                losses.shown.push(record.show(since_ms));
            }
        }
    }
    losses
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    node: String,
    /// Through surviving edges since the cut (those in flight at the cut included): sent and lost.
    sent: usize,
    lost: usize,
    /// Of those, in flight to the dead node at the moment of the cut.
    in_flight: usize,
    /// To the dead node's own edge since the cut.
    dead_edge: (usize, usize),
    /// Before the cut, all edges.
    before: (usize, usize),
    /// Requests that waited for the dead node, the longest wait, and when the last was over.
    delayed: usize,
    longest_ms: u64,
    edges_off_ms: u64,
    /// Delayed later, for other reasons.
    delayed_later: usize,
    elsewhere: Option<(u64, String, String)>,
    shown: Vec<String>,
}

impl Report {
    /// Reads the records.
    pub(crate) fn new(records: &[Record], cut: &Cut) -> Self {
        let is_after = |record: &&Record| record.is_sent() && record.end_ms >= cut.at_ms;
        let is_before = |record: &&Record| record.is_sent() && record.end_ms < cut.begun_ms;
        let before: Vec<_> = records.iter().filter(is_before).collect();
        let count = |records: &[&Record]| (records.len(), records.iter().filter(|record| !record.is_ok()).count());
        let (dead_edge, mut surviving): (Vec<_>, Vec<_>) =
            records.iter().filter(is_after).partition(|record| record.target == cut.edge);
        surviving.sort_by_key(|record| record.start_ms);

        let mut usual: Vec<u64> =
            before.iter().filter(|record| record.is_ok()).map(|record| record.took_ms()).collect();
        usual.sort_unstable();
        let worst_usual = usual.get(usual.len() * 99 / 100).copied().unwrap_or(0);
        let is_delayed = |record: &Record| !record.is_ok() || record.took_ms() > DELAYED_MS.max(3 * worst_usual);

        let is_in_flight = |record: &&&Record| {
            let is_to_dead = is_delayed(record) || record.node.as_ref() == Some(&cut.node);
            record.start_ms <= cut.at_ms && is_to_dead
        };
        let (mut over, mut delayed, mut later, mut longest_ms) = (cut.at_ms, 0, 0, 0);
        for record in surviving.iter().filter(|record| is_delayed(record)) {
            if record.start_ms > over + QUIET_MS {
                later += 1;
                continue;
            }
            delayed += 1;
            over = over.max(record.end_ms);
            longest_ms = longest_ms.max(record.took_ms());
        }
        let (sent, lost) = count(&surviving);
        Self {
            node: cut.node.clone(),
            sent,
            lost,
            in_flight: surviving.iter().filter(is_in_flight).count(),
            dead_edge: count(&dead_edge),
            before: count(&before),
            delayed,
            longest_ms,
            edges_off_ms: over - cut.at_ms,
            delayed_later: later,
            elsewhere: elsewhere(records, cut).map(|record| {
                let text = |word: &Option<String>| word.clone().unwrap_or_default();
                (record.end_ms - cut.at_ms, text(&record.instance), text(&record.node))
            }),
            shown: before
                .iter()
                .chain(&surviving)
                .filter(|record| !record.is_ok())
                .take(SHOWN_MAX)
                .map(|record| record.show(cut.at_ms))
                .collect(),
        }
    }

    /// What was promised and did not come true; times only beyond twice their budget.
    pub(crate) fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.before.1 > 0 {
            broken.push(format!("{} requests were lost before anything happened", self.before.1));
        }
        if self.lost > self.in_flight {
            let (lost, in_flight) = (self.lost, self.in_flight);
            broken.push(format!(
                "{lost} requests lost through surviving edges, with {in_flight} in flight to the dead node"
            ));
        }
        if self.edges_off_ms > TOLERANCE * EDGES_OFF_BUDGET_MS {
            broken.push(format!("edges used the dead node for {} ms", self.edges_off_ms));
        }
        match &self.elsewhere {
            None => broken.push("the instance never served elsewhere".to_owned()),
            Some((ms, ..)) if *ms > TOLERANCE * ELSEWHERE_BUDGET_MS => {
                broken.push(format!("the instance served elsewhere only after {ms} ms"));
            }
            Some(_) => {}
        }
        broken
    }
}

/// Seconds, and a word when they are beyond the budget.
fn budgeted(ms: u64, budget_ms: u64) -> String {
    let verdict = if ms > budget_ms { "MISSED" } else { "met" };
    format!("(budget {} s: {verdict})", budget_ms / 1000)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ms: u64| ms as f64 / 1000.0;
        writeln!(f, "\n   before    {} requests, {} failed", self.before.0, self.before.1)?;
        writeln!(f, "   {:>6.2} s  {} has no power: silence", 0.0, self.node)?;
        let off = budgeted(self.edges_off_ms, EDGES_OFF_BUDGET_MS);
        writeln!(f, "   {:>6.2} s  surviving edges stopped using it {off}", seconds(self.edges_off_ms))?;
        writeln!(f, "             {} requests waited for it, the longest {} ms", self.delayed, self.longest_ms)?;
        match &self.elsewhere {
            Some((ms, instance, node)) => {
                let budget = budgeted(*ms, ELSEWHERE_BUDGET_MS);
                writeln!(f, "   {:>6.2} s  instance {instance} serves on {node} in its place {budget}", seconds(*ms))?;
            }
            None => writeln!(f, "        –    no new instance served")?,
        }
        let Self { sent, lost, in_flight, .. } = self;
        writeln!(f, "   surviving edges: {sent} requests, {lost} lost ({in_flight} were in flight to {})", self.node)?;
        writeln!(f, "   its own edge:    {} requests, {} lost", self.dead_edge.0, self.dead_edge.1)?;
        if self.delayed_later > 0 {
            writeln!(f, "   {} requests were slow later, for other reasons", self.delayed_later)?;
        }
        self.shown.iter().try_for_each(|line| writeln!(f, "   lost: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(edge: u16, start_ms: u64, took_ms: u64, outcome: Outcome, instance: &str, node: &str) -> Record {
        let text = |word: &str| (!word.is_empty()).then(|| word.to_owned());
        let mut record = Record::new(SocketAddr::from(([10, 0, 0, 1], edge)), start_ms, start_ms + took_ms, outcome);
        (record.instance, record.node) = (text(instance), text(node));
        record
    }

    fn cut() -> Cut {
        Cut {
            begun_ms: 9_980,
            at_ms: 10_000,
            node: "n3".to_owned(),
            edge: SocketAddr::from(([10, 0, 0, 1], 3)),
            instances: ["i1", "i3"].map(str::to_owned).into(),
        }
    }

    fn story() -> Vec<Record> {
        let mut records: Vec<_> = (0..100).map(|turn| record(1, 9000 + turn * 9, 2, Outcome::Ok, "i1", "n1")).collect();
        records.extend([
            record(1, 9_995, 1200, Outcome::Ok, "i1", "n1"),
            record(2, 9_999, 1200, Outcome::Failed, "", ""),
            record(1, 10_500, 700, Outcome::Ok, "i1", "n1"),
            record(1, 10_600, 3, Outcome::Ok, "i1", "n1"),
            record(3, 10_600, 5000, Outcome::TimedOut, "", ""),
            record(1, 15_000, 400, Outcome::Ok, "i1", "n1"),
            record(2, 16_000, 4, Outcome::Ok, "i4", "n2"),
        ]);
        records
    }

    #[test]
    fn the_story_is_told() {
        let report = Report::new(&story(), &cut());
        assert_eq!((report.sent, report.lost, report.in_flight), (6, 1, 2));
        assert_eq!((report.dead_edge, report.before), ((1, 1), (100, 0)));
        assert_eq!((report.delayed, report.edges_off_ms, report.delayed_later), (3, 1200, 1));
        assert_eq!(report.elsewhere, Some((6004, "i4".to_owned(), "n2".to_owned())));
        assert_eq!(report.broken_promises(), Vec::<String>::new());
        assert!(report.to_string().contains("6 requests, 1 lost (2 were in flight to n3)"));
    }

    #[test]
    fn broken_promises_are_named() {
        let mut records = story();
        records.pop();
        records.extend([1, 2].map(|ms| record(1, 10_100 + ms, 1, Outcome::Failed, "", "")));
        records.push(record(1, 11_000, 6000, Outcome::Failed, "", ""));
        let broken = Report::new(&records, &cut()).broken_promises();
        assert_eq!(
            broken,
            [
                "4 requests lost through surviving edges, with 2 in flight to the dead node",
                "edges used the dead node for 7000 ms",
                "the instance never served elsewhere",
            ]
        );
    }
}
