//! Decides, without I/O: events in, actions out.
//!
//! The shell answers every action with exactly one event, and calls [`Core::step`] again at [`Core::next_wake`].

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use insula_container::{Ended, Exit, Observed, ObservedState, PullProgress, Running};
use insula_env::{Rng, clock::Instant};
use insula_types::{Desired, HealthSpec, InstanceId, InstanceStatus, NodeId, Placement, RestartSpec, StopSpec};

use crate::{
    instance::{End, Instance, Job, State},
    probe,
};

/// How long a node that has just started tries to learn from the region what it shall run. After that it starts the
/// instances of its own list: the whole region may be coming up at once, and traffic must not wait for a quorum.
pub const LEARN_WAIT: Duration = Duration::from_secs(10);
/// Images that are pulled at the same time: enough to use the line, few enough to keep memory small.
const PULLS_MAX: usize = 4;
/// Instances that are started at the same time.
const STARTS_MAX: usize = 4;
/// Time between two looks at what is there, besides those that the runtime asks for.
const LIST_EVERY: Duration = Duration::from_secs(10);

/// What the core is told.
#[derive(Debug)]
pub enum Event {
    /// All placements of this node, as the region says.
    Assigned(Vec<Placement>),
    /// What was kept on disk, at start.
    Kept(Vec<Placement>),
    /// What is on this node; `at` is from [`Action::List`].
    Observed {
        /// When the look was asked for.
        at: u64,
        /// What was seen, or why nothing.
        list: Result<Vec<Observed>, String>,
    },
    /// Something on this node ended; look what.
    Ended,
    /// How far a pull is.
    Pulling(InstanceId, PullProgress),
    /// An image is there, or why not.
    Pulled(InstanceId, Result<(), String>),
    /// An instance was started, or why not.
    Started(InstanceId, Result<Running, String>),
    /// An instance was stopped, or why not.
    Stopped(InstanceId, Result<(), String>),
    /// An instance's remains are gone, or why not.
    Removed(InstanceId, Result<(), String>),
    /// A readiness check passed, or why not.
    Probed(InstanceId, Result<(), String>),
    /// Time has passed.
    Tick,
}

/// What the shell shall do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Look at what is on this node; answer with [`Event::Observed`].
    List {
        /// To be handed back.
        at: u64,
    },
    /// Make the image of this placement present; answer with [`Event::Pulled`].
    Pull(Box<Placement>),
    /// Start it; answer with [`Event::Started`].
    Start(Box<Placement>),
    /// Stop it; answer with [`Event::Stopped`].
    Stop(InstanceId, StopSpec),
    /// Remove its remains; answer with [`Event::Removed`].
    Remove(InstanceId),
    /// Check whether it is ready; answer with [`Event::Probed`].
    Probe(InstanceId, Option<SocketAddr>, Box<HealthSpec>),
}

/// What the core knows.
#[derive(Debug)]
pub struct Core {
    node: NodeId,
    rng: Rng,
    instances: BTreeMap<InstanceId, Instance>,
    /// Counts events.
    events: u64,
    /// Without a word from the region, instances are started from here on.
    start_alone_at: Instant,
    /// The region has said what shall run here.
    is_assigned: bool,
    /// What runs here has been seen.
    is_observed: bool,
    is_listing: bool,
    /// Look once more: something ended during a look.
    is_list_due: bool,
    list_at: Instant,
}

impl Core {
    /// An agent that has just started.
    pub fn new(node: NodeId, rng: Rng, now: Instant) -> Self {
        Self {
            node,
            rng,
            instances: BTreeMap::new(),
            events: 0,
            start_alone_at: now + LEARN_WAIT,
            is_assigned: false,
            is_observed: false,
            is_listing: false,
            is_list_due: true,
            list_at: now,
        }
    }

    /// Takes one event in and says what to do. `now_ms` is wall time, for statuses.
    pub fn step(&mut self, now: Instant, now_ms: u64, event: Event) -> Vec<Action> {
        self.events += 1;
        match event {
            Event::Assigned(placements) => self.assign(placements, true, now, now_ms),
            Event::Kept(placements) if !self.is_assigned => self.assign(placements, false, now, now_ms),
            Event::Kept(_) | Event::Tick => {}
            Event::Ended => self.is_list_due = true,
            Event::Observed { at, list } => self.observe(at, list, now, now_ms),
            Event::Pulling(id, progress) => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.progress = Some(progress);
                }
            }
            Event::Pulled(id, result) => self.finished(id, Job::Pull, result.map(|()| None), now),
            Event::Started(id, result) => self.finished(id, Job::Start, result.map(Some), now),
            Event::Stopped(id, result) => self.stopped(id, result, now),
            Event::Removed(id, result) => self.finished(id, Job::Remove, result.map(|()| None), now),
            Event::Probed(id, result) => self.probed(id, result, now),
        }
        let actions = self.advance(now);
        self.instances.retain(|_, one| !one.is_done());
        for instance in self.instances.values_mut() {
            instance.settle(now_ms);
        }
        actions
    }

    /// How the instances are, for the region. Nothing before what runs here has been seen: an agent that starts anew would say of each
    /// that it does not run.
    pub fn statuses(&self) -> BTreeMap<InstanceId, InstanceStatus> {
        let all = self.instances.iter().filter(|_| self.is_observed);
        all.filter_map(|(id, instance)| instance.status(self.node).map(|status| (*id, status))).collect()
    }

    /// Instances that run.
    pub fn running(&self) -> usize {
        self.instances.values().filter(|one| matches!(one.state, State::Running(_))).count()
    }

    /// When to step again without an event.
    pub fn next_wake(&self, now: Instant) -> Instant {
        let alone = (!self.is_assigned).then_some(self.start_alone_at);
        let due = self.instances.values().flat_map(|one| match &one.state {
            State::Idle { until } if one.is_wanted() => [Some(*until), None],
            State::Ended { until } => [Some(*until), None],
            State::Running(run) => [run.probe_at, run.stop_after],
            _ => [None, None],
        });
        let next = due.flatten().chain(alone).filter(|at| *at > now).min();
        next.map_or(self.list_at, |next| next.min(self.list_at)).max(now + Duration::from_millis(1))
    }

    /// Takes over what shall run here. Only the region's word makes something unwanted: the list on disk may be old.
    fn assign(&mut self, placements: Vec<Placement>, is_word: bool, now: Instant, now_ms: u64) {
        self.is_assigned |= is_word;
        let mut placements: BTreeMap<_, _> =
            placements.into_iter().filter(|p| p.node == self.node).map(|p| (p.instance, p)).collect();
        for (id, instance) in &mut self.instances {
            match placements.remove(id) {
                Some(placement) => {
                    instance.placement = Some(placement);
                    instance.is_forgotten = false;
                }
                // Keeps what is known of how to stop it.
                None if is_word => {
                    if let Some(placement) = &mut instance.placement {
                        placement.desired = Desired::Stop;
                    }
                    instance.is_forgotten = true;
                }
                None => {}
            }
        }
        for (id, placement) in placements {
            self.instances.insert(id, Instance::new(Some(placement), State::Idle { until: now }, now, now_ms));
        }
    }

    fn observe(&mut self, at: u64, list: Result<Vec<Observed>, String>, now: Instant, now_ms: u64) {
        self.is_listing = false;
        let Ok(list) = list else {
            // The shell has told; look again soon.
            self.list_at = now + self.rng.jitter(Duration::from_secs(1));
            return;
        };
        self.list_at = now + self.rng.jitter(LIST_EVERY);
        self.is_observed = true;
        let mut seen: BTreeMap<InstanceId, ObservedState> =
            list.into_iter().map(|one| (one.instance, one.state)).collect();
        for (id, instance) in &mut self.instances {
            let seen = seen.remove(id);
            // What happened after the look was asked for is not in it.
            if instance.changed > at {
                continue;
            }
            match (&instance.state, seen) {
                (State::Idle { .. } | State::Gone, Some(ObservedState::Running(running))) => {
                    instance.state = instance.run(running, now);
                }
                (State::Idle { .. } | State::Gone, Some(ObservedState::Ended(ended))) => {
                    instance.end(end_of(&ended), now, &self.rng);
                }
                (State::Running(_), Some(ObservedState::Ended(ended))) => instance.end(end_of(&ended), now, &self.rng),
                (State::Running(_), None) => {
                    instance.end(End::Unseen("it vanished from this node".to_owned()), now, &self.rng);
                }
                _ => continue,
            }
            instance.changed = self.events;
        }
        for (id, state) in seen {
            let mut instance = Instance::new(None, State::Ended { until: now }, now, now_ms);
            if let ObservedState::Running(running) = state {
                instance.state = instance.run(running, now);
            }
            instance.changed = self.events;
            self.instances.insert(id, instance);
        }
    }

    /// The runtime has done a job, or failed.
    fn finished(&mut self, id: InstanceId, job: Job, result: Result<Option<Running>, String>, now: Instant) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let State::Busy(busy) = &instance.state else { return };
        if *busy != job {
            return;
        }
        instance.changed = self.events;
        instance.state = match (job, result) {
            // Straight on to the start, in the same step.
            (Job::Pull, Ok(_)) => {
                instance.is_pulled = true;
                State::Idle { until: now }
            }
            (Job::Start, Ok(Some(running))) => instance.run(running, now),
            (Job::Start, Ok(None)) => State::Ended { until: now },
            (Job::Remove, Ok(_)) if instance.is_wanted() => State::Idle { until: instance.start_after },
            (Job::Remove, Ok(_)) => State::Gone,
            (job, Err(why)) => {
                instance.message = why;
                let waits = if job == Job::Start { instance.restart() } else { RestartSpec::default() };
                let until = now + instance.backoff.fail(&waits, &self.rng);
                match job {
                    Job::Pull => State::Idle { until },
                    Job::Start => {
                        // What the failed start left is removed at once, the next start waits.
                        instance.start_after = until;
                        State::Ended { until: now }
                    }
                    Job::Remove => State::Ended { until },
                }
            }
        };
    }

    /// The runtime has stopped it, or failed to.
    fn stopped(&mut self, id: InstanceId, result: Result<(), String>, now: Instant) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let State::Stopping(run) = &mut instance.state else { return };
        instance.changed = self.events;
        match result {
            Ok(()) => instance.end(End::Stopped, now, &self.rng),
            Err(why) => {
                instance.message = why;
                run.stop_after = Some(now + instance.backoff.fail(&RestartSpec::default(), &self.rng));
                let stopping = std::mem::replace(&mut instance.state, State::Gone);
                if let State::Stopping(run) = stopping {
                    instance.state = State::Running(run);
                }
            }
        }
    }

    fn probed(&mut self, id: InstanceId, result: Result<(), String>, now: Instant) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let Some(health) = instance.health().cloned() else { return };
        let State::Running(run) = &mut instance.state else { return };
        run.probe_at = Some(now + self.rng.jitter(health.interval));
        run.is_probed = true;
        match result {
            Ok(()) => {
                run.failures = 0;
                run.is_ready = true;
                instance.was_ready = true;
                instance.message.clear();
            }
            Err(why) => {
                run.failures = run.failures.saturating_add(1);
                if run.failures >= health.unhealthy_after.max(1) {
                    run.is_ready = false;
                    instance.message = format!("readiness check: {why}");
                }
            }
        }
        run.has_been_ready |= run.is_ready;
        let waited = if run.is_ready {
            run.unready_since = None;
            return;
        } else if run.has_been_ready {
            let since = *run.unready_since.get_or_insert(now);
            health.restart_after.filter(|limit| now - since >= *limit).map(|limit| format!("not ready for {limit:?}"))
        } else {
            (now - run.since >= health.grace).then(|| format!("not ready within {:?}", health.grace))
        };
        if let Some(waited) = waited {
            run.is_condemned = true;
            instance.message = format!("{waited}: {}", instance.message);
        }
    }

    /// Begins what is due.
    fn advance(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if !self.is_listing && (self.is_list_due || now >= self.list_at) {
            self.is_listing = true;
            self.is_list_due = false;
            actions.push(Action::List { at: self.events });
        }
        // Before the first look nothing is known to be missing, and before the region's word nothing to be unwanted.
        if !self.is_observed {
            return actions;
        }
        let may_start = self.is_assigned || now >= self.start_alone_at;
        let busy =
            |job| self.instances.values().filter(|one| matches!(&one.state, State::Busy(j) if *j == job)).count();
        let mut slots = Slots {
            pulls: PULLS_MAX.saturating_sub(busy(Job::Pull)),
            starts: STARTS_MAX.saturating_sub(busy(Job::Start)),
        };
        for (id, instance) in &mut self.instances {
            let may_stop = self.is_assigned || instance.placement.is_some();
            let may_start = may_start && (self.is_assigned || !instance.runs_hook());
            advance_one(*id, instance, &mut slots, (may_start, may_stop), now, &mut actions);
        }
        actions
    }
}

/// How many more jobs may begin.
struct Slots {
    pulls: usize,
    starts: usize,
}

impl Slots {
    fn take(slot: &mut usize) -> bool {
        let is_free = *slot > 0;
        *slot = slot.saturating_sub(1);
        is_free
    }
}

fn advance_one(
    id: InstanceId,
    instance: &mut Instance,
    slots: &mut Slots,
    (may_start, may_stop): (bool, bool),
    now: Instant,
    actions: &mut Vec<Action>,
) {
    let (is_wanted, is_unwanted) = (instance.is_wanted(), instance.is_unwanted());
    match &mut instance.state {
        State::Idle { until } if is_wanted => {
            if !may_start || now < *until {
                return;
            }
            let Some(placement) = instance.placement.clone() else { return };
            if placement.spec.image.is_some() && !instance.is_pulled {
                if Slots::take(&mut slots.pulls) {
                    instance.state = State::Busy(Job::Pull);
                    instance.progress = None;
                    actions.push(Action::Pull(Box::new(placement)));
                }
            } else if Slots::take(&mut slots.starts) {
                // The image may be collected while it runs; the next start asks again.
                instance.is_pulled = false;
                instance.restarts += u32::from(instance.has_run);
                instance.state = State::Busy(Job::Start);
                actions.push(Action::Start(Box::new(placement)));
            }
        }
        State::Idle { .. } => instance.state = State::Gone,
        State::Gone if is_wanted => instance.state = State::Idle { until: now },
        State::Ended { until } if now >= *until && may_stop => {
            instance.state = State::Busy(Job::Remove);
            actions.push(Action::Remove(id));
        }
        State::Over { .. } if is_unwanted && may_stop => {
            instance.state = State::Busy(Job::Remove);
            actions.push(Action::Remove(id));
        }
        State::Running(run) => {
            let is_due = run.stop_after.is_none_or(|after| now >= after);
            if may_stop && is_due && (is_unwanted || run.is_condemned) {
                let stop = instance.placement.as_ref().map_or_else(StopSpec::default, |p| p.spec.stop.clone());
                actions.push(Action::Stop(id, stop));
                let running = std::mem::replace(&mut instance.state, State::Gone);
                if let State::Running(run) = running {
                    instance.state = State::Stopping(run);
                }
            } else if run.probe_at.is_some_and(|at| now >= at)
                && let Some(health) = instance.placement.as_ref().and_then(|p| p.spec.health.clone())
            {
                run.probe_at = None;
                let address = instance.placement.as_ref().and_then(|p| probe::address(&p.spec, &run.running));
                actions.push(Action::Probe(id, address, Box::new(health)));
            }
        }
        State::Gone | State::Ended { .. } | State::Over { .. } | State::Stopping(_) | State::Busy(_) => {}
    }
}

fn end_of(ended: &Ended) -> End {
    let why = match ended.is_oom_killed {
        true => format!("ended with {}: out of memory within its limit", ended.exit),
        false => format!("ended with {}", ended.exit),
    };
    match &ended.exit {
        Exit::Code(code) => End::Program { why, is_well: *code == 0 },
        Exit::Signal(_) => End::Program { why, is_well: false },
        Exit::Unseen(_) => End::Unseen(why),
    }
}
