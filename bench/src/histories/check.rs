//! Judges what clients wrote down. Pure.
//!
//! Registers are put in order by `stateright`'s linearizability tester. The rest has answers that say the order (a
//! revision, a term, an event's id), so that comparing them with the clock is enough.

mod register;
mod streams;

use std::{collections::BTreeMap, fmt};

use super::record::{Group, Outcome, Record, Span};

pub use register::Verdict;

/// A broken promise, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub what: &'static str,
    /// What shows it, in lines.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.what, self.detail.trim_end())
    }
}

fn violation(what: &'static str, detail: impl Into<String>) -> Violation {
    Violation { what, detail: detail.into() }
}

/// Registers whose history is whole at a moment: nothing was written down of them for so long before it.
pub fn whole_registers(records: &[Record], before_us: u64) -> BTreeMap<u64, Vec<&Record>> {
    let mut histories = registers(records);
    histories.retain(|_, ops| ops.iter().all(|record| end_us(record) < before_us));
    histories
}

/// All histories of registers.
pub fn registers(records: &[Record]) -> BTreeMap<u64, Vec<&Record>> {
    let mut histories = BTreeMap::<u64, Vec<&Record>>::new();
    for record in records {
        if let Record::Register { register, .. } = record {
            histories.entry(*register).or_default().push(record);
        }
    }
    histories
}

fn end_us(record: &Record) -> u64 {
    match record {
        Record::Register { span, .. } => span.end_us,
        _ => 0,
    }
}

/// Whether one register's history can be put in an order that its clients could all have seen.
pub fn register(number: u64, ops: &[&Record]) -> Result<(), Violation> {
    match register::judge(ops) {
        Verdict::Linearizable => Ok(()),
        Verdict::Not => Err(violation("a register is not linearizable", register::show(number, ops))),
        Verdict::Undecided => {
            Err(violation("a register's history is too tangled to be judged", register::show(number, ops)))
        }
    }
}

/// Everything.
///
/// # Errors
/// The first promise that was broken.
pub fn all(records: &[Record]) -> Result<(), Violation> {
    registers(records).iter().try_for_each(|(number, ops)| register(*number, ops))?;
    others(records)
}

/// Everything but the registers.
pub fn others(records: &[Record]) -> Result<(), Violation> {
    revisions(records)?;
    kept(records)?;
    streams::terms(records)?;
    streams::events(records)
}

/// Revisions of the region follow the clock: whoever begins after another's end sees a revision at least as great, and
/// a write makes a greater one.
fn revisions(records: &[Record]) -> Result<(), Violation> {
    let mut begun: Vec<(Span, bool, u64)> = Vec::new();
    for record in records {
        if let Record::Revision { span, is_write, outcome: Outcome::Ok(revision) } = record {
            begun.push((*span, *is_write, *revision));
        }
    }
    let mut ended = begun.clone();
    begun.sort_by_key(|(span, ..)| span.start_us);
    ended.sort_by_key(|(span, ..)| span.end_us);
    let mut ended = ended.into_iter().peekable();
    let mut greatest: Option<(Span, bool, u64)> = None;
    for (span, is_write, revision) in begun {
        while let Some(earlier) = ended.next_if(|(earlier, ..)| earlier.end_us < span.start_us) {
            if greatest.is_none_or(|(.., most)| earlier.2 > most) {
                greatest = Some(earlier);
            }
        }
        let Some((earlier, _, most)) = greatest else { continue };
        if revision < most || is_write && revision == most {
            let what = if is_write { "a write gave" } else { "a linearizable read gave" };
            let detail = format!("{what} revision {revision} ({span:?}) after one of {most} ({earlier:?})");
            return Err(violation("revisions of the region went back", detail));
        }
    }
    Ok(())
}

/// What was acknowledged is there when it is looked for.
fn kept(records: &[Record]) -> Result<(), Violation> {
    for record in records {
        match record {
            Record::Again { key, first, again, .. } if first != again => {
                let detail = format!("{key}: acknowledged at revision {first}, then done again at {again}");
                return Err(violation("an acknowledged write to the region is lost", detail));
            }
            Record::Kept { id, node, is_kept: false } => {
                let detail = format!("member {id} is unknown to {node} at the end");
                return Err(violation("an acknowledged member of the set is lost", detail));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Longest time without a confirmed write of a group within a span, in microseconds.
pub fn longest_gap_us(records: &[Record], group: Group, within: Span) -> u64 {
    let confirmed = records.iter().filter_map(Record::confirmed).filter(|(of, _)| *of == group).map(|(_, at)| at);
    let mut times: Vec<u64> = confirmed.filter(|at| (within.start_us..within.end_us).contains(at)).collect();
    times.extend([within.start_us, within.end_us]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests;
