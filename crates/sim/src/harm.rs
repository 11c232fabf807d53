//! Does what the plan says goes wrong, and ends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use insula_env::{
    TaskGroup,
    clock::{sleep, timeout},
};
use insula_raft::Timers;
use insula_state::{ProposeError, RegionCommand, RejectionCode};
use insula_types::NodeId;
use parking_lot::Mutex;

use crate::{
    checks::Checks,
    clients::Global,
    machine::{DISK_DELAY, Machine, Process},
    net::Net,
    plan::Fault,
};

/// How long the leader may take to give way.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// How long disk work takes in a storm: a vote that is given before it is synced is alone with its fate for so long.
const STORM_DISK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(300));
/// Between two looks at a vote: much less than the disk takes in a storm.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Wait before an operator's command is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// All that can be harmed.
#[derive(Clone)]
pub(crate) struct Harm {
    pub(crate) machines: Arc<BTreeMap<u64, Machine>>,
    pub(crate) gone: Arc<Mutex<BTreeSet<u64>>>,
    pub(crate) net: Net,
    pub(crate) checks: Checks,
    pub(crate) global: Arc<Global>,
    /// For what goes on after the faults.
    pub(crate) operators: TaskGroup,
}

impl Harm {
    /// One fault from its beginning to its end.
    pub(crate) async fn happen(self, fault: Fault) {
        match fault {
            Fault::Kill { machine, away } => {
                self.machines[&machine].kill();
                sleep(away).await;
                self.start(machine);
            }
            Fault::PowerCut { machine, away } => {
                self.power_off(machine);
                sleep(away).await;
                self.start(machine);
            }
            Fault::Blackout { away } => {
                self.machines.keys().for_each(|machine| self.power_off(*machine));
                sleep(away).await;
                self.start_all();
            }
            Fault::Cut { from, to, time } => {
                self.net.set_cut(from, to, true);
                sleep(time).await;
                self.net.set_cut(from, to, false);
            }
            Fault::Isolate { machine, time } => {
                self.isolate(machine, true);
                sleep(time).await;
                self.isolate(machine, false);
            }
            Fault::Storm { one, other, between, pauses } => self.storm([one, other], between, pauses).await,
            Fault::SlowDisk { machine, longest, time } => {
                let disk = &self.machines[&machine].disk;
                disk.set_delay(longest / 2, longest);
                sleep(time).await;
                disk.set_delay(DISK_DELAY.0, DISK_DELAY.1);
            }
            Fault::Stall { machine, time } => {
                let machine = &self.machines[&machine];
                machine.disk.stall_until(machine.clock.now() + time);
            }
            Fault::FailSyncs { machine, time } => {
                self.checks.set_failing_disk(machine, true);
                self.machines[&machine].disk.fail_syncs(true);
                sleep(time).await;
                self.power_off(machine);
                self.start(machine);
            }
            Fault::FullDisk { machine, time } => {
                self.checks.set_failing_disk(machine, true);
                self.machines[&machine].disk.fill(true);
                sleep(time).await;
                self.machines[&machine].disk.fill(false);
                self.machines[&machine].kill();
                self.checks.set_failing_disk(machine, self.machines[&machine].disk.is_failing());
                self.start(machine);
            }
            Fault::Weather { longest, loss, time } => {
                self.net.set_weather(longest, loss);
                sleep(time).await;
                self.net.set_weather(Duration::from_millis(2), 0.0);
            }
            Fault::ClockJump { machine, by_ms } => self.machines[&machine].clock.shift_wall(by_ms),
            Fault::Crash { machine } => {
                let runtime = &self.machines[&machine].runtime;
                if let Some(instance) = runtime.running().first() {
                    runtime.crash(*instance, insula_container::Exit::Code(1));
                }
            }
            Fault::GlobalAway { time } => {
                self.global.set_away(true);
                sleep(time).await;
                self.global.set_away(false);
            }
            Fault::Timers { round_trip } => {
                if let Some(leader) = self.leader() {
                    leader.group.set_timers(Timers::for_round_trip(round_trip));
                }
            }
            Fault::HandOver => {
                if let Some(leader) = self.leader()
                    && leader.group.hand_over(HAND_OVER_LIMIT).await.is_ok()
                {
                    self.checks.count("hand-overs done");
                }
            }
            Fault::Join { machine } => self.start(machine),
            Fault::Remove { machine } => {
                self.gone.lock().insert(machine);
                self.power_off(machine);
                self.clone().remove(self.machines[&machine].id());
            }
            Fault::Wipe { machine, away } => {
                let node = self.machines[&machine].id();
                self.power_off(machine);
                self.machines[&machine].disk.wipe();
                self.clone().remove(node);
                sleep(away).await;
                self.start(machine);
            }
            Fault::Upgrade { machine, away } => {
                self.machines[&machine].upgrade();
                sleep(away).await;
                if self.machines[&machine].has_joined() {
                    self.start(machine);
                }
            }
            Fault::Forget { machine, behind, time } => self.forget(machine, behind, time).await,
        }
    }

    /// Whenever the third has helped to elect one of two, it loses power, and hears that one no more: if the vote was not
    /// synced before it was given, the other is elected for the same term.
    async fn storm(&self, two: [u64; 2], between: u64, pauses: Vec<Duration>) {
        self.part(two[0], two[1], true);
        self.machines.keys().for_each(|machine| self.power_off(*machine));
        self.start_all();
        let disk = &self.machines[&between].disk;
        disk.set_delay(STORM_DISK.0, STORM_DISK.1);
        let mut hidden = None;
        for pause in pauses {
            let elected = timeout(pause, self.voted(two, between)).await.ok().flatten();
            if let Some(before) = hidden.take() {
                self.part(before, between, false);
            }
            self.power_off(between);
            if let Some(elected) = elected {
                self.checks.count("power cuts after a vote");
                self.part(elected, between, true);
                hidden = Some(elected);
            }
            self.start(between);
        }
        if let Some(before) = hidden {
            self.part(before, between, false);
        }
        disk.set_delay(DISK_DELAY.0, DISK_DELAY.1);
        sleep(RETRY_WAIT).await;
        self.part(two[0], two[1], false);
    }

    /// Waits until a machine comes into a new term; who of two has brought it there, and has its vote by now.
    async fn voted(&self, two: [u64; 2], between: u64) -> Option<u64> {
        let term = |machine| self.machines[&machine].process().map(|process| process.group.metrics().term);
        let mut before = None;
        loop {
            let now = term(between);
            if before.is_some() && now > before {
                sleep(LOOK_EVERY).await;
                let [is_one, is_other] = two.map(|machine| term(machine) >= now);
                return (is_one != is_other).then_some(if is_one { two[0] } else { two[1] });
            }
            before = now;
            sleep(LOOK_EVERY).await;
        }
    }

    /// Leaves what was confirmed on one machine less than a majority, if the one that forgets is believed.
    async fn forget(&self, machine: u64, behind: u64, time: Duration) {
        self.isolate(behind, true);
        sleep(time).await;
        self.machines[&machine].kill();
        self.machines[&machine].forget_state();
        let others: Vec<u64> = self.machines.keys().copied().filter(|n| *n != machine && *n != behind).collect();
        others.iter().for_each(|other| self.power_off(*other));
        self.start(machine);
        self.isolate(behind, false);
        sleep(time).await;
        others.iter().for_each(|other| self.start(*other));
    }

    /// Machines that are gone stay off.
    fn start(&self, machine: u64) {
        if !self.gone.lock().contains(&machine) {
            self.machines[&machine].start();
        }
    }

    /// Those that have been there so far.
    fn start_all(&self) {
        for (number, machine) in self.machines.iter() {
            if machine.has_joined() {
                self.start(*number);
            }
        }
    }

    fn power_off(&self, machine: u64) {
        self.machines[&machine].power_off();
        self.checks.set_failing_disk(machine, self.machines[&machine].disk.is_failing());
    }

    fn part(&self, one: u64, other: u64, is_cut: bool) {
        self.net.set_cut(one, other, is_cut);
        self.net.set_cut(other, one, is_cut);
    }

    fn isolate(&self, machine: u64, is_cut: bool) {
        for other in self.machines.keys().filter(|other| **other != machine) {
            self.part(machine, *other, is_cut);
        }
    }

    fn leader(&self) -> Option<Process> {
        let mut up = self.machines.values().filter_map(Machine::process);
        up.find(|process| process.group.leadership().borrow().is_me)
    }

    /// An operator removes a node, as soon as the region allows it.
    fn remove(self, node: NodeId) {
        self.operators.clone().spawn("remove a node", async move {
            let command = RegionCommand::RemoveNode { id: node, reason: "it is gone".to_owned() };
            loop {
                let up = self.machines.values().find_map(Machine::process);
                if let Some(process) = up {
                    match process.region.propose(&command, HAND_OVER_LIMIT).await {
                        Ok(_) => return self.checks.count("nodes removed"),
                        Err(ProposeError::Rejected(why)) if why.code == RejectionCode::NotFound => return,
                        Err(_) => {}
                    }
                }
                sleep(RETRY_WAIT).await;
            }
        });
    }
}
