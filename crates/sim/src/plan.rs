//! How large a region is, and what goes wrong when: drawn from the seed before the run begins.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use insula_env::Rng;

/// How long the faults last.
pub(crate) const CHAOS: Duration = Duration::from_secs(15);
/// Machines of the largest region.
const MACHINES_MAX: u64 = 7;

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Machines that found the region, or join it before anything goes wrong.
    pub(crate) founders: u64,
    /// All machines, with those that join later.
    pub(crate) machines: u64,
    /// The faults, each with its time, in order.
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// A machine that never comes back after the faults.
    pub(crate) lost: Option<u64>,
    /// Machines that begin with a program of the first level, among them the first machine; or none.
    pub(crate) old: BTreeSet<u64>,
}

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
    /// Two machines do not hear each other, everything starts anew, and a third that hears both loses power when it has
    /// voted for one of them, or after a while.
    Storm { one: u64, other: u64, between: u64, pauses: Vec<Duration> },
    /// Disk work takes long.
    SlowDisk { machine: u64, longest: Duration, time: Duration },
    /// Disk work stands still.
    Stall { machine: u64, time: Duration },
    /// Syncs fail, until the machine is switched off and on.
    FailSyncs { machine: u64, time: Duration },
    /// Files cannot grow, and none can be made.
    FullDisk { machine: u64, time: Duration },
    /// Messages are late and lost.
    Weather { longest: Duration, loss: f64, time: Duration },
    /// A wall clock jumps.
    ClockJump { machine: u64, by_ms: i64 },
    /// An instance ends by itself.
    Crash { machine: u64 },
    /// The global group does not answer.
    GlobalAway { time: Duration },
    /// The leader is told other timers.
    Timers { round_trip: Duration },
    /// The leader is told to give way.
    HandOver,
    /// A machine joins that was not there before.
    Join { machine: u64 },
    /// A machine is switched off for good, and its node removed.
    Remove { machine: u64 },
    /// A machine gets an empty disk, and joins as another node.
    Wipe { machine: u64, away: Duration },
    /// A machine gets the present program, and starts with it after a while.
    Upgrade { machine: u64, away: Duration },
    /// A machine forgets its state but not who it is, while another, which lags, is cut off; then the others lose power.
    Forget { machine: u64, behind: u64, time: Duration },
}

impl Fault {
    /// For counts.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "fault: kill",
            Self::PowerCut { .. } => "fault: power cut",
            Self::Blackout { .. } => "fault: blackout",
            Self::Cut { .. } => "fault: one-way cut",
            Self::Isolate { .. } => "fault: isolation",
            Self::Storm { .. } => "fault: storm",
            Self::SlowDisk { .. } => "fault: slow disk",
            Self::Stall { .. } => "fault: stalled disk",
            Self::FailSyncs { .. } => "fault: failing syncs",
            Self::FullDisk { .. } => "fault: full disk",
            Self::Weather { .. } => "fault: weather",
            Self::ClockJump { .. } => "fault: clock jump",
            Self::Crash { .. } => "fault: instance crash",
            Self::GlobalAway { .. } => "fault: global group away",
            Self::Timers { .. } => "fault: other timers",
            Self::HandOver => "fault: hand-over",
            Self::Join { .. } => "fault: late join",
            Self::Remove { .. } => "fault: node removed",
            Self::Wipe { .. } => "fault: disk wiped",
            Self::Upgrade { .. } => "fault: upgrade",
            Self::Forget { .. } => "fault: state forgotten",
        }
    }
}

impl Plan {
    /// Draws a run.
    pub(crate) fn draw(rng: &Rng) -> Self {
        let founders = match rng.range(0, 100) {
            0..6 => 1,
            6..12 => 2,
            12..62 => 3,
            62..72 => 4,
            72..86 => 5,
            86..92 => 6,
            _ => MACHINES_MAX,
        };
        let machines = (founders + u64::from(rng.chance(0.2))).min(MACHINES_MAX);
        let count = rng.range(4, 14);
        let time = |rng: &Rng| Duration::from_millis(rng.range(0, CHAOS.as_millis() as u64));
        let mut faults: Vec<_> = (0..count).map(|_| (time(rng), one(rng, founders))).collect();
        if machines > founders {
            faults.push((time(rng), Fault::Join { machine: machines }));
        }
        let mut lost = None;
        // A region of three or more survives the loss of one machine for good. More would not be fair.
        if founders >= 3 {
            let machine = rng.range(1, founders + 1);
            let away = Duration::from_millis(rng.range(50, 4000));
            match rng.range(0, 10) {
                0..3 => lost = Some(machine),
                3 => faults.push((time(rng), Fault::Remove { machine })),
                4 => faults.push((time(rng), Fault::Wipe { machine, away })),
                5 => {
                    let behind = another(rng, machine, founders);
                    faults.push((time(rng), Fault::Forget { machine, behind, time: away }));
                }
                _ => {}
            }
        }
        let old = if rng.chance(0.3) {
            (1..=machines).filter(|machine| *machine == 1 || rng.chance(0.6)).collect()
        } else {
            BTreeSet::new()
        };
        for machine in &old {
            // The others are upgraded when all is healed.
            if rng.chance(0.8) {
                let away = Duration::from_millis(rng.range(50, 2000));
                faults.push((time(rng), Fault::Upgrade { machine: *machine, away }));
            }
        }
        faults.sort_by_key(|(at, _)| *at);
        Self { founders, machines, faults, lost, old }
    }
}

/// Another machine than that one; itself when it is alone.
fn another(rng: &Rng, than: u64, of: u64) -> u64 {
    if of < 2 { than } else { 1 + (than + rng.range(0, of - 1)) % of }
}

fn one(rng: &Rng, of: u64) -> Fault {
    let ms = |range: Range<u64>| Duration::from_millis(rng.range(range.start, range.end));
    let machine = rng.range(1, of + 1);
    let to = another(rng, machine, of);
    match rng.range(0, 100) {
        0..12 => Fault::Kill { machine, away: ms(50..4000) },
        12..26 => Fault::PowerCut { machine, away: ms(50..9000) },
        26..33 => Fault::Blackout { away: ms(50..3000) },
        33..42 => Fault::Cut { from: machine, to, time: ms(200..8000) },
        42..52 => Fault::Isolate { machine, time: ms(200..8000) },
        52..58 if of >= 3 => {
            let between = (1..=of).find(|third| *third != machine && *third != to).unwrap_or(machine);
            let pauses = (0..rng.range(2, 6)).map(|_| ms(10..3000)).collect();
            Fault::Storm { one: machine, other: to, between, pauses }
        }
        52..65 => Fault::SlowDisk { machine, longest: ms(20..300), time: ms(500..8000) },
        65..71 => Fault::Stall { machine, time: ms(100..5000) },
        71..75 => Fault::FailSyncs { machine, time: ms(500..4000) },
        75..79 => Fault::FullDisk { machine, time: ms(500..4000) },
        79..86 => Fault::Weather { longest: ms(3..150), loss: rng.range(0, 20) as f64 / 100.0, time: ms(500..6000) },
        86..89 => Fault::ClockJump { machine, by_ms: rng.range(0, 7_200_000) as i64 - 3_600_000 },
        89..92 => Fault::Crash { machine },
        92..94 => Fault::GlobalAway { time: ms(500..8000) },
        94..97 => Fault::Timers { round_trip: ms(1..300) },
        _ => Fault::HandOver,
    }
}
