//! What goes wrong when: drawn from the seed before the run begins.

use std::time::Duration;

use insula_env::Rng;

/// How long the faults last.
pub(crate) const CHAOS: Duration = Duration::from_secs(25);
/// Machines of the region; all vote.
pub(crate) const MACHINES: u64 = 3;

/// One thing that goes wrong. Machines are counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// The process is killed; what it wrote stays. It is started again after a while.
    Kill { machine: u64, away: Duration },
    /// The machine loses power, and with it what was not synced, and its instances.
    PowerCut { machine: u64, away: Duration },
    /// All machines at once.
    Blackout { away: Duration },
    /// Messages from one machine to another are lost.
    Cut { from: u64, to: u64, time: Duration },
    /// Nobody hears a machine, and it hears nobody.
    Isolate { machine: u64, time: Duration },
    /// Disk work takes long.
    SlowDisk { machine: u64, longest: Duration, time: Duration },
    /// Disk work stands still.
    Stall { machine: u64, time: Duration },
    /// Syncs fail, until the machine is switched off and on.
    FailSyncs { machine: u64, time: Duration },
    /// Messages are late and lost.
    Weather { longest: Duration, loss: f64, time: Duration },
    /// A wall clock jumps.
    ClockJump { machine: u64, by_ms: i64 },
    /// An instance ends by itself.
    Crash { machine: u64 },
    /// The global group does not answer.
    GlobalAway { time: Duration },
}

/// The faults of a run, each with its time, in order.
pub(crate) fn draw(rng: &Rng) -> Vec<(Duration, Fault)> {
    let count = rng.range(4, 14);
    let mut faults: Vec<_> =
        (0..count).map(|_| (Duration::from_millis(rng.range(0, CHAOS.as_millis() as u64)), one(rng))).collect();
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn one(rng: &Rng) -> Fault {
    let ms = |low, high| Duration::from_millis(rng.range(low, high));
    let machine = rng.range(1, MACHINES + 1);
    let to = 1 + (machine + rng.range(0, MACHINES - 1)) % MACHINES;
    match rng.range(0, 100) {
        0..14 => Fault::Kill { machine, away: ms(50, 4000) },
        14..30 => Fault::PowerCut { machine, away: ms(50, 9000) },
        30..38 => Fault::Blackout { away: ms(50, 3000) },
        38..48 => Fault::Cut { from: machine, to, time: ms(200, 8000) },
        48..58 => Fault::Isolate { machine, time: ms(200, 8000) },
        58..66 => Fault::SlowDisk { machine, longest: ms(20, 300), time: ms(500, 8000) },
        66..72 => Fault::Stall { machine, time: ms(100, 5000) },
        72..77 => Fault::FailSyncs { machine, time: ms(500, 4000) },
        77..86 => Fault::Weather { longest: ms(3, 150), loss: rng.range(0, 20) as f64 / 100.0, time: ms(500, 6000) },
        86..90 => Fault::ClockJump { machine, by_ms: rng.range(0, 7_200_000) as i64 - 3_600_000 },
        90..96 => Fault::Crash { machine },
        _ => Fault::GlobalAway { time: ms(500, 8000) },
    }
}
