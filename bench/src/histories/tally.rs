//! What came of each kind of fault, as a table.

use std::{collections::BTreeMap, fmt};

use super::{
    check::longest_gap_us,
    faults::Fault,
    record::{Group, Outcome, Record, Span},
};

/// Counts by kind of fault.
#[derive(Debug, Default)]
pub(super) struct Tally {
    kinds: BTreeMap<Fault, Line>,
}

#[derive(Debug, Default)]
struct Line {
    count: usize,
    ok: usize,
    failed: usize,
    unknown: usize,
    gap_us: u64,
    back_us: u64,
    is_broken: bool,
}

impl Tally {
    /// Counts what clients saw of a fault; says it in a line.
    pub(super) fn add(&mut self, fault: Fault, records: &[Record], within: Span, healed_us: u64) -> String {
        let mut now = Line { count: 1, back_us: within.end_us.saturating_sub(healed_us), ..Line::default() };
        for (_, outcome) in records.iter().filter_map(Record::ended) {
            match outcome {
                Outcome::Ok(()) => now.ok += 1,
                Outcome::Failed => now.failed += 1,
                Outcome::Unknown => now.unknown += 1,
            }
        }
        let [region, global] = [Group::Region, Group::Global].map(|group| longest_gap_us(records, group, within));
        now.gap_us = region.max(global);
        let told = format!(
            "{} ok, {} failed, {} unknown; without a confirmed write: region {:.1} s, global {:.1} s; well {:.1} s after",
            now.ok,
            now.failed,
            now.unknown,
            seconds(region),
            seconds(global),
            seconds(now.back_us)
        );
        let line = self.kinds.entry(fault).or_default();
        line.count += 1;
        line.ok += now.ok;
        line.failed += now.failed;
        line.unknown += now.unknown;
        line.gap_us = line.gap_us.max(now.gap_us);
        line.back_us = line.back_us.max(now.back_us);
        told
    }

    /// A promise was broken in or soon after a fault of that kind.
    pub(super) fn blame(&mut self, fault: Fault) {
        self.kinds.entry(fault).or_default().is_broken = true;
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<18} {:>6} {:>8} {:>8} {:>8} {:>22} {:>18}  verdict",
            "fault", "times", "ok", "failed", "unknown", "no write for at most", "well at most after"
        )?;
        for (fault, line) in &self.kinds {
            writeln!(
                f,
                "{:<18} {:>6} {:>8} {:>8} {:>8} {:>20.1} s {:>16.1} s  {}",
                format!("{fault:?}"),
                line.count,
                line.ok,
                line.failed,
                line.unknown,
                seconds(line.gap_us),
                seconds(line.back_us),
                if line.is_broken { "BROKEN" } else { "kept" }
            )?;
        }
        Ok(())
    }
}
