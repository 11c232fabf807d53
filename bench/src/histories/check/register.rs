//! One register: release number and value. A write makes the next release.

use std::{fmt::Write, sync::mpsc, time::Duration};

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::histories::record::{Op, Outcome, Record, Ret};

/// How long the search for an order may take; a good history has one within milliseconds.
const SEARCH_LIMIT: Duration = Duration::from_secs(30);
/// Operations whose outcome is unknown stand for callers of their own from this number on, so that the search tries
/// them last: they stay open for ever, and their caller goes on.
const OPEN_FROM: u64 = 1 << 32;

/// What a history is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Not,
    /// The search took too long.
    Undecided,
}

/// How a register behaves without anybody else.
#[derive(Clone, Debug, Default)]
struct Register {
    release: u64,
    value: u64,
}

impl SequentialSpec for Register {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        let value = match *op {
            Op::Read => return Ret::Read { release: self.release, value: self.value },
            Op::Cas { expect, .. } if expect != self.release => return Ret::Mismatch,
            Op::Write(value) | Op::Cas { value, .. } => value,
        };
        *self = Self { release: self.release + 1, value };
        Ret::Written(self.release)
    }
}

/// Judges the history of one register. What surely was not done, and reads without an answer, say nothing.
pub(super) fn judge(ops: &[&Record]) -> Verdict {
    let mut tester = LinearizabilityTester::new(Register::default());
    let mut moments = Vec::new();
    for (index, record) in ops.iter().enumerate() {
        let Record::Register { client, span, op, outcome, .. } = record else { continue };
        match outcome {
            Outcome::Ok(ret) => {
                // An end comes before a beginning of the same microsecond: it may, and order is what is tested.
                moments.push((span.start_us, true, *client, *op, None));
                moments.push((span.end_us, false, *client, *op, Some(*ret)));
            }
            Outcome::Unknown if *op != Op::Read => {
                moments.push((span.start_us, true, OPEN_FROM + index as u64, *op, None));
            }
            Outcome::Failed | Outcome::Unknown => {}
        }
    }
    moments.sort_by_key(|(at_us, is_start, ..)| (*at_us, *is_start));
    for (_, _, caller, op, ret) in moments {
        let taken = match ret {
            None => tester.on_invoke(caller, op).is_ok(),
            Some(ret) => tester.on_return(caller, ret).is_ok(),
        };
        // A caller with two operations at a time: the history itself is wrong.
        if !taken {
            return Verdict::Undecided;
        }
    }
    let (tell, told) = mpsc::channel();
    #[allow(clippy::disallowed_methods, reason = "a search that may have to be given up; no tasks in here")]
    std::thread::spawn(move || tell.send(tester.is_consistent()).ok());
    match told.recv_timeout(SEARCH_LIMIT) {
        Ok(true) => Verdict::Linearizable,
        Ok(false) => Verdict::Not,
        Err(_) => Verdict::Undecided,
    }
}

/// The history in the order of its beginnings, for people.
pub(super) fn show(number: u64, ops: &[&Record]) -> String {
    let mut lines = Vec::new();
    for record in ops {
        if let Record::Register { client, span, op, outcome, .. } = record {
            lines.push((span, client, op, outcome));
        }
    }
    lines.sort_by_key(|(span, ..)| span.start_us);
    let from_us = lines.first().map_or(0, |(span, ..)| span.start_us);
    let mut text = format!("register {number}, milliseconds from {from_us} us:\n");
    for (span, client, op, outcome) in lines {
        let ms = |us: u64| us.saturating_sub(from_us) as f64 / 1000.0;
        let (start, end) = (ms(span.start_us), ms(span.end_us));
        // Writing to memory cannot fail.
        writeln!(text, "{start:>10.3} {end:>10.3}  client {client:<3} {op:?} -> {outcome:?}").ok();
    }
    text
}
