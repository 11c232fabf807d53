//! Names culprits: tells the region when an instance takes all that it may have, or more, and when that is over.
//!
//! ```text
//! Calm ──seen in enough looks in a row──► Squeezed ──not seen for OVER_AFTER──► Calm
//! ```
//! Each way is an event, the first of a kind about an instance (or app) at most once in `TELL_GAP`: events are replicated,
//! and only so many are kept. What the region cannot take now is not told later; it may not be true any more.
//!
//! An instance that ends for what it lacks, as a shell does that can start nothing, runs too shortly to be looked at: the
//! runtime tells what it lacked at its end. The time in which it waits to be started again says nothing about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use insula_container::{Pressure, Pressures};
use insula_env::{
    Env,
    clock::{self, Instant},
};
use insula_state::event::{Event, EventKind};
use insula_types::{AppName, InstanceId, ServiceSpec};
use tracing::{debug, info};

use crate::{Parts, chain};

/// Time between two looks. A look costs each instance a question to its shim and five small files.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a look, or telling, may take.
const LIMIT: Duration = Duration::from_secs(10);
/// A turn: a look, and what may have to be told of it.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// After so long without a sign of it, it is over.
const OVER_AFTER: Duration = Duration::from_secs(60);
/// Least time between two events that say that the same has begun about the same instance.
const TELL_GAP: Duration = Duration::from_secs(600);
/// Events of one turn; what is beyond is told in the next ones.
const TOLD_MAX: usize = 8;
/// From this share of its bytes or files on a file system is full, in percent.
const FULL_PERCENT: u8 = 95;
/// Scheduler periods (of 20 ms, or up to 100 ms of those that may use little) in which it wanted to run, below which a look says
/// nothing about its share.
const PERIODS_MIN: u64 = 25;
/// Looks in a row in which it was held back in most of its periods: a start, or a burst, is shorter.
const THROTTLED_LOOKS: u32 = 2;

/// Requests that this node's edge refused for the sake of other apps, by app, since it was started.
pub type Refused = Arc<dyn Fn() -> BoxFuture<'static, BTreeMap<AppName, u64>> + Send + Sync>;

/// Who is told of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Instance(InstanceId),
    App(AppName),
}

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Squeeze {
    Processes,
    Memory,
    Cpu,
    /// A volume, or the layer above the image.
    Bytes(Option<String>),
    Files(Option<String>),
    Log,
    Requests,
}

impl Squeeze {
    const fn looks(&self) -> u32 {
        match self {
            Self::Cpu => THROTTLED_LOOKS,
            _ => 1,
        }
    }

    fn begun(&self) -> String {
        match self {
            Self::Processes => "is at its limit of processes: it cannot start more".to_owned(),
            Self::Memory => "is at its limit of memory: processes of it are killed".to_owned(),
            Self::Cpu => "takes more than its share of the processor: it is held back most of the time".to_owned(),
            Self::Bytes(disk) => format!("has filled {}", Disk(disk)),
            Self::Files(disk) => format!("has made as many files as fit on {}, however small they are", Disk(disk)),
            Self::Log => "writes more log than is kept: lines are dropped".to_owned(),
            Self::Requests => "gets more requests than it answers: some are refused".to_owned(),
        }
    }

    fn over(&self) -> String {
        match self {
            Self::Processes => "starts processes within its limit again".to_owned(),
            Self::Memory => "is within its limit of memory again".to_owned(),
            Self::Cpu => "is within its share of the processor again".to_owned(),
            Self::Bytes(disk) => format!("has room on {} again", Disk(disk)),
            Self::Files(disk) => format!("has room for files on {} again", Disk(disk)),
            Self::Log => "writes no more log than is kept".to_owned(),
            Self::Requests => "has no requests refused any more".to_owned(),
        }
    }

    /// The limit that was reached, as the definition says it; none: it says nothing about that.
    fn limit(&self, spec: &ServiceSpec) -> Option<String> {
        let resources = &spec.resources;
        let size_of = |name: &str| spec.volumes.iter().find(|volume| volume.name.as_str() == name);
        match self {
            Self::Processes => Some(format!("resources.pids = {}", resources.pids)),
            Self::Memory => Some(format!("resources.memory = \"{}\"", resources.memory)),
            Self::Cpu => Some(format!("resources.cpu = \"{}\"", resources.cpu)),
            Self::Bytes(None) | Self::Files(None) => Some(format!("resources.disk = \"{}\"", resources.disk?)),
            Self::Bytes(Some(volume)) | Self::Files(Some(volume)) => {
                Some(format!("size = \"{}\"", size_of(volume)?.size))
            }
            Self::Log | Self::Requests => None,
        }
    }
}

struct Disk<'a>(&'a Option<String>);

impl fmt::Display for Disk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(volume) => write!(f, "its volume {volume}"),
            None => f.write_str("its disk"),
        }
    }
}

/// One thing that is wrong, or was.
#[derive(Debug, Default)]
struct State {
    looks: u32,
    /// The last sign of it, or the last look at which nobody was there to give one.
    seen_at: Option<Instant>,
    is_told: bool,
    told_at: Option<Instant>,
}

/// What is there now.
#[derive(Debug, Clone, Default)]
struct Seen {
    instances: BTreeMap<InstanceId, Pressure>,
    /// Those that ended since the look before, as they were then.
    ended: Vec<(InstanceId, Pressure)>,
    /// Requests refused, by app.
    refused: BTreeMap<AppName, u64>,
}

impl Seen {
    /// What is wrong now with whom, as the look before tells.
    fn signs(&self, before: &Self) -> BTreeSet<(Subject, Squeeze)> {
        let mut last = before.instances.clone();
        let runs = self.ended.iter().map(|(instance, then)| (instance, then, true));
        let runs = runs.chain(self.instances.iter().map(|(instance, now)| (instance, now, false)));
        let of_instances = runs.flat_map(|(instance, now, has_ended)| {
            let signs = signs_of(last.get(instance).unwrap_or(&Pressure::default()), now);
            if has_ended {
                // The next run counts anew.
                last.remove(instance);
            }
            signs.into_iter().map(|sign| (Subject::Instance(*instance), sign))
        });
        let refused = |app: &AppName| grown(before.refused.get(app).copied().unwrap_or(0), self.refused[app]);
        let apps = self.refused.keys().filter(|app| refused(app) > 0);
        of_instances.chain(apps.map(|app| (Subject::App(app.clone()), Squeeze::Requests))).collect()
    }

    fn has(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Instance(instance) => {
                self.instances.contains_key(instance) || self.ended.iter().any(|(ended, _)| ended == instance)
            }
            Subject::App(app) => self.refused.contains_key(app),
        }
    }
}

/// What was seen so far. Pure.
#[derive(Debug, Default)]
struct Watch {
    /// None before the first look.
    last: Option<Seen>,
    states: BTreeMap<(Subject, Squeeze), State>,
}

impl Watch {
    /// Takes in what there is now; gives what is to be told, and whether it has begun.
    fn look(&mut self, now: Instant, mut seen: Seen) -> Vec<(Subject, Squeeze, bool)> {
        // Counters of what was there before this program say nothing about now; those of a new instance begin with it.
        if self.last.is_none() {
            seen.ended.clear();
        }
        let signs = seen.signs(self.last.as_ref().unwrap_or(&seen));
        self.states.retain(|(subject, _), state| seen.has(subject) || state.is_recent(now));
        for sign in &signs {
            self.states.entry(sign.clone()).or_default();
        }
        let mut tell = Vec::new();
        for (key, state) in &mut self.states {
            if !seen.has(&key.0) {
                state.pause(now);
                continue;
            }
            let Some(has_begun) = state.step(now, signs.contains(key), key.1.looks()) else { continue };
            if tell.len() < TOLD_MAX {
                state.tell(now, has_begun);
                tell.push((key.0.clone(), key.1.clone(), has_begun));
            }
        }
        self.states.retain(|_, state| state.is_of_use(now));
        self.last = Some(seen);
        tell
    }
}

impl State {
    /// Whether to tell that it has begun, or is over.
    fn step(&mut self, now: Instant, is_seen: bool, looks_min: u32) -> Option<bool> {
        let since = |at: Option<Instant>| at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if is_seen {
            self.looks = self.looks.saturating_add(1);
            self.seen_at = Some(now);
            let is_due = self.looks >= looks_min && !self.is_told && since(self.told_at) >= TELL_GAP;
            return is_due.then_some(true);
        }
        self.looks = 0;
        (self.is_told && since(self.seen_at) >= OVER_AFTER).then_some(false)
    }

    const fn tell(&mut self, now: Instant, has_begun: bool) {
        self.is_told = has_begun;
        if has_begun {
            self.told_at = Some(now);
        }
    }

    /// Who it is about is not there: it may come back and go on.
    const fn pause(&mut self, now: Instant) {
        self.looks = 0;
        self.seen_at = Some(now);
    }

    /// Whether it was told too recently to be told again.
    fn is_recent(&self, now: Instant) -> bool {
        self.told_at.is_some_and(|at| now.saturating_duration_since(at) < TELL_GAP)
    }

    /// Whether forgetting it would make a difference.
    fn is_of_use(&self, now: Instant) -> bool {
        self.is_told || self.looks > 0 || self.is_recent(now)
    }
}

/// What is wrong with an instance, as two looks tell.
fn signs_of(before: &Pressure, now: &Pressure) -> Vec<Squeeze> {
    let grown = |count: fn(&Pressure) -> u64| grown(count(before), count(now));
    let (periods, throttled) = (grown(|one| one.cpu_periods), grown(|one| one.cpu_throttled));
    let mut signs = Vec::new();
    signs.extend((grown(|one| one.forks_refused) > 0).then_some(Squeeze::Processes));
    signs.extend((grown(|one| one.oom_kills) > 0).then_some(Squeeze::Memory));
    signs.extend((periods >= PERIODS_MIN && throttled * 2 > periods).then_some(Squeeze::Cpu));
    signs.extend((grown(|one| one.log_lines_dropped) > 0).then_some(Squeeze::Log));
    for disk in &now.disks {
        signs.extend((disk.bytes_percent >= FULL_PERCENT).then(|| Squeeze::Bytes(disk.volume.clone())));
        signs.extend((disk.files_percent >= FULL_PERCENT).then(|| Squeeze::Files(disk.volume.clone())));
    }
    signs
}

/// A counter that is less than it was has begun anew, with what it counts.
const fn grown(before: u64, now: u64) -> u64 {
    if now < before { now } else { now - before }
}

/// Starts looking at this node's instances.
pub(crate) fn start(env: &Env, parts: &Parts) {
    let (env_of_turns, parts) = (env.clone(), parts.clone());
    env.tasks.supervise("pressure", TURN_LIMIT, move |beat| {
        let (env, parts) = (env_of_turns.clone(), parts.clone());
        async move {
            let mut watch = Watch::default();
            loop {
                let told = match clock::timeout(LIMIT, see(&parts)).await {
                    Ok(Some(seen)) => watch.look(env.clock.now(), seen),
                    _ => Vec::new(),
                };
                for (subject, squeeze, has_begun) in told {
                    beat.alive();
                    let Some(event) = event(&parts, &subject, &squeeze, has_begun) else { continue };
                    info!(text = %event.text, "noted");
                    if let Ok(Err(error)) = clock::timeout(LIMIT, parts.reporter.note(event)).await {
                        debug!(error = %chain(&error), "the region does not take a note");
                    }
                }
                beat.idle(clock::sleep(env.rng.jitter(LOOK_EVERY))).await;
            }
        }
    });
}

/// None when the instances cannot be looked at: they are still there.
async fn see(parts: &Parts) -> Option<Seen> {
    let Pressures { here, removed } = match parts.runtime.pressures().await {
        Ok(instances) => instances,
        Err(error) => {
            debug!(error = %chain(&error), "the instances of this node cannot be looked at");
            return None;
        }
    };
    Some(Seen { instances: here.into_iter().collect(), ended: removed, refused: (parts.refused)().await })
}

/// None of an instance that the region does not know.
fn event(parts: &Parts, subject: &Subject, squeeze: &Squeeze, has_begun: bool) -> Option<Event> {
    let what = if has_begun { squeeze.begun() } else { squeeze.over() };
    let node = &parts.labels.name;
    let event = match subject {
        Subject::Instance(id) => {
            let (service, limit) = parts.region.read(|state| {
                let placed = state.placements.get(id)?;
                Some((placed.service.clone(), squeeze.limit(&placed.spec).filter(|_| has_begun)))
            })?;
            let limit = limit.map_or_else(String::new, |limit| format!(" (its limit: {limit})"));
            let text = format!("{service} {id} on node {node} {what}{limit}");
            Event::new(0, EventKind::Note, text).app(&service.app).instance(*id)
        }
        Subject::App(app) => {
            Event::new(0, EventKind::Note, format!("{app} {what}, at the edge of node {node}")).app(app)
        }
    };
    Some(event.node(parts.node))
}

#[cfg(test)]
mod tests;
