//! One instance as the agent follows it.
//!
//! ```text
//!            ┌─────────────── back-off ────────────────┐
//!            ▼                                         │
//! Idle ─► pulling ─► starting ─► Running ─────────► Ended ─► removing ─► Gone
//!                                   ├─► Stopping ──┘
//!                                   └─► Over ─► removing ─► Gone
//! ```
//! `Over` is where the restart policy of the service leaves one that has ended by itself: until it is not wanted any more.
//! The lower-case ones are [`Job`]s: the runtime is at work, and nothing else is begun for this instance meanwhile.

use std::{collections::BTreeMap, time::Duration};

use insula_container::{PullProgress, Running};
use insula_env::{Rng, clock::Instant};
use insula_types::{
    Desired, HealthSpec, InstanceStatus, NodeId, Phase, Placement, RestartSpec, ServiceSpec, text::shorten,
};

use crate::backoff::Backoff;

/// A run that lasts so long was no crash loop: the next back-off begins anew.
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// Longest message in a status, in bytes. Registries and runtimes say as much as they like, and all that is said is replicated.
const MESSAGE_LEN_MAX: usize = 512;

/// What the runtime is asked to do with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Pull,
    Start,
    Remove,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Nothing of it is on this node. Not to be started before `until`.
    Idle { until: Instant },
    /// The runtime works on it.
    Busy(Job),
    /// It runs.
    Running(Box<Run>),
    /// The runtime is stopping it.
    Stopping(Box<Run>),
    /// It does not run; its remains are to be removed, not before `until`.
    Ended { until: Instant },
    /// It has ended, well or not, and is not started again. Its remains stay, so that the next agent sees that, too.
    Over { is_well: bool },
    /// It has been taken away and is not wanted again.
    Gone,
}

/// How a run came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// Its program ended, as this says: well with exit code 0.
    Program { why: String, is_well: bool },
    /// Nobody saw how: it went with its machine, or vanished.
    Unseen(String),
    /// This agent has stopped it.
    Stopped,
}

/// A running instance.
#[derive(Debug)]
pub(crate) struct Run {
    pub running: Running,
    /// When this agent first saw it run.
    pub since: Instant,
    /// When the next readiness check is due; none while one is under way, or when there is no check.
    pub probe_at: Option<Instant>,
    /// Failed checks in a row.
    pub failures: u32,
    pub is_ready: bool,
    pub has_been_ready: bool,
    /// Since when it has not been ready, after it was.
    pub unready_since: Option<Instant>,
    /// Whether a check has come back in this run.
    pub is_probed: bool,
    /// Not to be stopped again before: the last try failed.
    pub stop_after: Option<Instant>,
    /// It did not get ready in time, or was unready for too long.
    pub is_condemned: bool,
}

#[derive(Debug)]
pub(crate) struct Instance {
    /// None: it is on this node and nobody wants it here.
    pub placement: Option<Placement>,
    pub state: State,
    /// Number of the event that last changed `state`; an older look at the runtime says nothing about it.
    pub changed: u64,
    pub backoff: Backoff,
    /// Not to be started before: the back-off after its last end.
    pub start_after: Instant,
    pub restarts: u32,
    /// It has run here and ended, as far as this agent saw.
    pub has_run: bool,
    /// Its image was made present for the start that comes now.
    pub is_pulled: bool,
    /// The region does not know it any more; dropped once it is taken away.
    pub is_forgotten: bool,
    pub was_ready: bool,
    pub message: String,
    /// Of its present pull, or the last one.
    pub progress: Option<PullProgress>,
    phase: Phase,
    since_ms: u64,
}

impl Instance {
    pub(crate) fn new(placement: Option<Placement>, state: State, now: Instant, now_ms: u64) -> Self {
        Self {
            placement,
            state,
            changed: 0,
            backoff: Backoff::default(),
            start_after: now,
            restarts: 0,
            has_run: false,
            is_pulled: false,
            is_forgotten: false,
            was_ready: false,
            message: String::new(),
            progress: None,
            phase: Phase::Pending,
            since_ms: now_ms,
        }
    }

    /// Whether it shall run: started when it does not, started again when it ends.
    pub(crate) fn is_wanted(&self) -> bool {
        self.placement.as_ref().is_some_and(|placement| placement.desired == Desired::Run)
    }

    /// Whether it shall not run. One that drains is neither wanted nor unwanted: it goes on while it can.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.placement.as_ref().is_none_or(|placement| placement.desired == Desired::Stop)
    }

    /// Whether it runs a hook. Such a one is begun on the region's word alone: what is on disk does not tell whether it has been run.
    pub(crate) fn runs_hook(&self) -> bool {
        self.placement.as_ref().is_some_and(|placement| placement.hook.is_some())
    }

    pub(crate) fn spec(&self) -> Option<&ServiceSpec> {
        self.placement.as_ref().map(|placement| &placement.spec)
    }

    pub(crate) fn health(&self) -> Option<&HealthSpec> {
        self.spec().and_then(|spec| spec.health.as_ref())
    }

    /// It runs, from now or as it was found.
    pub(crate) fn run(&mut self, running: Running, now: Instant) -> State {
        let has_check = self.health().is_some();
        self.was_ready |= !has_check;
        State::Running(Box::new(Run {
            running,
            since: now,
            probe_at: has_check.then_some(now),
            failures: 0,
            is_ready: !has_check,
            has_been_ready: !has_check,
            unready_since: None,
            is_probed: !has_check,
            stop_after: None,
            is_condemned: false,
        }))
    }

    /// What becomes of it when it ends by itself.
    pub(crate) fn restart(&self) -> RestartSpec {
        self.spec().map(|spec| spec.restart).unwrap_or_default()
    }

    /// It does not run any more. Started again after the back-off, if it is still wanted then, and its restart policy says so.
    pub(crate) fn end(&mut self, how: End, now: Instant, rng: &Rng) {
        let restart = self.restart();
        if let State::Running(run) | State::Stopping(run) = &self.state
            && now - run.since >= STEADY_AFTER
        {
            self.backoff.reset();
        }
        self.has_run = true;
        match how {
            End::Program { why, is_well } if restart.policy.is_over(is_well) && !self.is_unwanted() => {
                self.message = match self.runs_hook() {
                    true => why,
                    false => format!("{why}; it is not started again (restart policy {})", restart.policy.as_str()),
                };
                self.state = State::Over { is_well };
                self.was_ready |= self.has_done_all();
                return;
            }
            End::Program { why, .. } | End::Unseen(why) => self.message = why,
            End::Stopped => {}
        }
        self.start_after = now + self.backoff.fail(&restart, rng);
        self.state = State::Ended { until: now };
    }

    /// It has ended well and was there for nobody to reach: that is all that was wanted of it.
    fn has_done_all(&self) -> bool {
        matches!(self.state, State::Over { is_well: true }) && self.spec().is_some_and(|spec| spec.ports.is_empty())
    }

    /// Whether nothing of it is left to follow.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Gone) && (self.placement.is_none() || self.is_forgotten)
    }

    fn phase_now(&self) -> Phase {
        match &self.state {
            State::Idle { .. } if self.message.is_empty() => Phase::Pending,
            // One more try is no news before it gets further than the last one did.
            State::Busy(Job::Pull) if !self.message.is_empty() && self.progress.is_none() => Phase::Backoff,
            State::Busy(Job::Start) if !self.message.is_empty() && !self.has_run => Phase::Backoff,
            State::Busy(Job::Pull) => Phase::Pulling,
            State::Busy(Job::Start) => Phase::Starting,
            State::Running(_) | State::Stopping(_) => Phase::Running,
            State::Gone | State::Over { .. } => Phase::Stopped,
            State::Idle { .. } | State::Ended { .. } | State::Busy(Job::Remove) => Phase::Backoff,
        }
    }

    /// To be called after every change: notes since when the phase is what it is.
    pub(crate) fn settle(&mut self, now_ms: u64) {
        let phase = self.phase_now();
        if phase != self.phase {
            self.phase = phase;
            self.since_ms = now_ms;
        }
    }

    /// How it is, for the region; none while that is not known: nobody asks for it, or it was just taken over and has
    /// not been checked yet, in which case what was said of it before still holds.
    pub(crate) fn status(&self, node: NodeId) -> Option<InstanceStatus> {
        let placement = self.placement.as_ref().filter(|_| !self.is_forgotten)?;
        let (endpoints, is_ready) = match &self.state {
            State::Running(run) if !run.is_probed => return None,
            State::Running(run) => (run.running.endpoints.clone(), run.is_ready),
            State::Over { .. } => (BTreeMap::new(), self.has_done_all()),
            _ => Default::default(),
        };
        let progress = self.progress.filter(|_| self.phase == Phase::Pulling).map(progress_text);
        Some(InstanceStatus {
            instance: placement.instance,
            node,
            phase: self.phase,
            is_ready,
            was_ready: self.was_ready,
            endpoints,
            restarts: self.restarts,
            message: progress.unwrap_or_else(|| shorten(&self.message, MESSAGE_LEN_MAX).into_owned()),
            since_ms: self.since_ms,
        })
    }
}

/// In tenths: each change is a report to the region.
fn progress_text(PullProgress { fetched_bytes, size_bytes }: PullProgress) -> String {
    let percent = fetched_bytes.saturating_mul(10) / size_bytes.max(1) * 10;
    format!("{percent} % of {} MB fetched", size_bytes.div_ceil(1_000_000))
}
