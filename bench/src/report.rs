//! What became of requests, one by one and summed up.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Answered with 200.
    Ok,
    /// Answered with another status.
    Status(u16),
    /// The connection failed.
    Failed,
    /// No whole answer in time.
    TimedOut,
    /// Too many were in flight.
    NotSent,
}

/// One request. One line of JSON in the output of `insula-bench load`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The edge it went to.
    pub target: SocketAddr,
    /// When it was started, wall time in milliseconds since 1970.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: u64,
    /// From start to end in microseconds.
    pub latency_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The instance that answered, when it says `instance=ID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The node of that instance, when it says `node=NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What an answer with another status, or an error, said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Record {
    /// A record without an answer.
    pub fn new(target: SocketAddr, start_ms: u64, end_ms: u64, outcome: Outcome) -> Self {
        Self { target, start_ms, end_ms, latency_us: 0, outcome, instance: None, node: None, detail: None }
    }

    /// A record of a good answer, with what the page says of its instance.
    pub fn answered(target: SocketAddr, start_ms: u64, body: &str) -> Self {
        let word = |key: &str| {
            let mut words = body.split_whitespace();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
        };
        let mut record = Self::new(target, start_ms, start_ms, Outcome::Ok);
        (record.instance, record.node) = (word("instance"), word("node"));
        record
    }
}

/// Counts and latencies of one target.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TargetSummary {
    /// Requests that were sent.
    pub sent: u64,
    /// Those that were not answered with 200.
    pub failed: u64,
    /// Those that were not sent, since too many were in flight.
    pub not_sent: u64,
    /// Good answers by instance.
    pub instances: BTreeMap<String, u64>,
    /// Latency of good answers, in microseconds: half, 90 %, 99 % and all were faster.
    pub latency_us: [u64; 4],
}

/// Counts and latencies by target.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    targets: BTreeMap<SocketAddr, (TargetSummary, Vec<u64>)>,
}

impl Summary {
    /// Takes a record into account.
    pub fn add(&mut self, record: &Record) {
        let (summary, latencies) = self.targets.entry(record.target).or_default();
        match record.outcome {
            Outcome::NotSent => summary.not_sent += 1,
            Outcome::Ok => {
                summary.sent += 1;
                latencies.push(record.latency_us);
                if let Some(instance) = &record.instance {
                    *summary.instances.entry(instance.clone()).or_default() += 1;
                }
            }
            _ => {
                summary.sent += 1;
                summary.failed += 1;
            }
        }
    }

    /// What came out, by target.
    pub fn finish(self) -> BTreeMap<SocketAddr, TargetSummary> {
        let finished = self.targets.into_iter().map(|(target, (mut summary, mut latencies))| {
            latencies.sort_unstable();
            summary.latency_us = [50, 90, 99, 100].map(|percent| percentile(&latencies, percent));
            (target, summary)
        });
        finished.collect()
    }
}

/// The value that so many percent of sorted values do not exceed; 0 when there are none.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

impl fmt::Display for TargetSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, ninety, most, all] = self.latency_us.map(|us| us as f64 / 1000.0);
        write!(f, "{} sent, {} failed", self.sent, self.failed)?;
        if self.not_sent > 0 {
            write!(f, ", {} not sent (too many in flight)", self.not_sent)?;
        }
        write!(f, "; p50 {half:.1} p90 {ninety:.1} p99 {most:.1} max {all:.1} ms; {} instances", self.instances.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_summed_by_target() {
        let target = SocketAddr::from(([10, 0, 0, 1], 80));
        let mut summary = Summary::default();
        for latency_us in 1..=100 {
            let mut record = Record::answered(target, 1, "instance=i1 node=n1 version=v1\n");
            record.latency_us = latency_us;
            summary.add(&record);
        }
        summary.add(&Record::new(target, 1, 2, Outcome::Status(502)));
        summary.add(&Record::new(target, 1, 2, Outcome::TimedOut));
        summary.add(&Record::new(target, 1, 2, Outcome::NotSent));
        let finished = summary.finish().remove(&target).expect("the target");
        assert_eq!((finished.sent, finished.failed, finished.not_sent), (102, 2, 1));
        assert_eq!(finished.latency_us, [50, 90, 99, 100]);
        assert_eq!(finished.instances.get("i1"), Some(&100));
        assert_eq!(percentile(&[], 50), 0);
        assert_eq!(percentile(&[7], 99), 7);
    }

    #[test]
    fn a_record_reads_back_from_its_line() {
        let target = SocketAddr::from(([10, 0, 0, 1], 80));
        for record in
            [Record::answered(target, 1, "instance=i1 node=n2"), Record::new(target, 1, 2, Outcome::Status(502))]
        {
            let line = serde_json::to_string(&record).expect("write");
            assert_eq!(serde_json::from_str::<Record>(&line).expect("read"), record);
        }
    }
}
