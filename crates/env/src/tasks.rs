//! Task groups: every task has a name, an owner and a rule; stopping a group stops its children.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use crate::{
    beat::{Beat, Pulse},
    watchdog::Seen,
};

/// Shortest and longest wait before a task is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// After a run of so long the wait begins anew with the shortest.
const SOUND_RUN: Duration = Duration::from_secs(60);

/// What happens when a task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: it was meant to end.
    Once,
    /// It is started again, after a growing wait.
    Restart,
    /// The whole group is stopped.
    Critical,
}

/// A running task, for lists.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// Its number in this process.
    pub id: u64,
    /// The group it belongs to.
    pub owner: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its rule.
    pub rule: Rule,
    /// How often it was started again.
    pub restarts: u64,
    /// Its sign of life, if it is watched.
    pub beat: Option<BeatInfo>,
}

/// The sign of life of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatInfo {
    /// How long ago the last one was.
    pub age: Duration,
    /// The watchdog acts when it is older than this.
    pub limit: Duration,
}

/// The tasks of a family of groups, by number.
type Running = BTreeMap<u64, Entry>;

struct Entry {
    info: TaskInfo,
    abort: Option<AbortHandle>,
    pulse: Option<Arc<Pulse>>,
}

/// A set of tasks that start, are listed and stop together. Clones share it.
#[derive(Clone)]
pub struct TaskGroup(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    token: CancellationToken,
    tracker: TaskTracker,
    /// Shared with all children.
    running: Arc<Mutex<Running>>,
    next: Arc<AtomicU64>,
}

impl TaskGroup {
    /// An empty group.
    pub fn new(name: &str) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: Arc::default(),
            next: Arc::default(),
        }))
    }

    /// A group inside this one: stopped with it, or alone.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(Arc::new(Inner {
            name: format!("{}/{name}", self.0.name).into(),
            token: self.0.token.child_token(),
            tracker: self.0.tracker.clone(),
            running: Arc::clone(&self.0.running),
            next: Arc::clone(&self.0.next),
        }))
    }

    /// Starts a task that may end by itself. It is dropped at its next await when the group stops.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        self.start(name, Rule::Once, None, once(future));
    }

    /// The same for a loop that cannot be made anew: when it hangs, the watchdog ends the process.
    pub fn spawn_watched<F>(&self, name: &str, limit: Duration, make: impl FnOnce(Beat) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let pulse = Pulse::new(name, limit);
        let future = make(Beat::new(&pulse));
        self.start(name, Rule::Once, Some(pulse), once(future));
    }

    /// Starts a loop that shall not end: `make` gives it anew when it returns, panics, or shows no sign of life on its
    /// beat for `limit`.
    pub fn supervise<F>(&self, name: &str, limit: Duration, mut make: impl FnMut(Beat) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let pulse = Pulse::new(name, limit);
        let beat = Beat::new(&pulse);
        self.start(name, Rule::Restart, Some(pulse), move || make(beat.clone()));
    }

    /// Starts a loop without which the group is of no use: its end stops the group. When it hangs, the watchdog ends the
    /// process.
    pub fn critical<F>(&self, name: &str, limit: Duration, make: impl FnOnce(Beat) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let pulse = Pulse::new(name, limit);
        let future = make(Beat::new(&pulse));
        self.start(name, Rule::Critical, Some(pulse), once(future));
    }

    fn start<F>(&self, name: &str, rule: Rule, pulse: Option<Arc<Pulse>>, mut make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let info = TaskInfo { id, owner: Arc::clone(&self.0.name), name: name.into(), rule, restarts: 0, beat: None };
        let running = Arc::clone(&self.0.running);
        running.lock().insert(id, Entry { info: info.clone(), abort: None, pulse: pulse.clone() });
        let token = self.0.token.clone();
        let watched = async move {
            let _listed = Listed { id, running: Arc::clone(&running) };
            let mut wait = BACKOFF.0;
            loop {
                if let Some(pulse) = &pulse {
                    pulse.start();
                }
                #[allow(clippy::disallowed_methods, reason = "a foundation beside the clock")]
                let started = tokio::time::Instant::now();
                let run = AssertUnwindSafe(make()).catch_unwind();
                let ended = tokio::select! {
                    biased;
                    () = token.cancelled() => return,
                    () = told_to_restart(pulse.as_deref()) => Ok(()),
                    ended = run => ended,
                };
                if let Err(panic) = &ended {
                    error!(owner = %info.owner, task = %info.name, panic = panic_text(panic.as_ref()), "task panicked");
                }
                match rule {
                    Rule::Once => return,
                    Rule::Critical => {
                        error!(owner = %info.owner, task = %info.name, "critical task ended, stopping its group");
                        token.cancel();
                        return;
                    }
                    Rule::Restart => {
                        if started.elapsed() >= SOUND_RUN {
                            wait = BACKOFF.0;
                        }
                        warn!(owner = %info.owner, task = %info.name, ?wait, "task ended, starting it again");
                        if let Some(pulse) = &pulse {
                            pulse.show(wait);
                        }
                        tokio::select! {
                            biased;
                            () = token.cancelled() => return,
                            () = tokio::time::sleep(wait) => {}
                        }
                        wait = (wait * 2).min(BACKOFF.1);
                        if let Some(entry) = running.lock().get_mut(&id) {
                            entry.info.restarts += 1;
                        }
                    }
                }
            }
        };
        #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
        let handle = tokio::spawn(self.0.tracker.track_future(watched));
        if let Some(entry) = self.0.running.lock().get_mut(&id) {
            entry.abort = Some(handle.abort_handle());
        }
    }

    /// The tasks that run now, in this group and all that it came from.
    pub fn list(&self) -> Vec<TaskInfo> {
        #[allow(clippy::disallowed_methods, reason = "a foundation beside the clock")]
        let now = tokio::time::Instant::now();
        let describe = |entry: &Entry| {
            let beat = entry.pulse.as_ref();
            let beat =
                beat.map(|pulse| BeatInfo { age: now.saturating_duration_since(pulse.last()), limit: pulse.limit });
            TaskInfo { beat, ..entry.info.clone() }
        };
        self.0.running.lock().values().map(describe).collect()
    }

    /// What the watchdog looks at.
    pub(crate) fn beats(&self) -> Vec<Seen> {
        let running = self.0.running.lock();
        let watched = running.iter().filter_map(|(id, entry)| Some((*id, entry.info.rule, entry.pulse.as_ref()?)));
        watched
            .map(|(id, rule, pulse)| Seen {
                id,
                last: pulse.last(),
                limit: pulse.limit,
                starts: pulse.starts(),
                may_restart: rule == Rule::Restart,
            })
            .collect()
    }

    /// Begins a supervised task anew, at its next await.
    pub(crate) fn restart(&self, id: u64) {
        if let Some(pulse) = self.0.running.lock().get(&id).and_then(|entry| entry.pulse.as_ref()) {
            pulse.restart();
        }
    }

    /// Completes when the group has been told to stop.
    pub async fn stopped(&self) {
        self.0.token.cancelled().await;
    }

    /// Whether the group has been told to stop.
    pub fn is_stopped(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// Tells the group and its children to stop; returns at once.
    pub fn stop(&self) {
        self.0.token.cancel();
    }

    /// Stops and waits until every task of the whole family has ended, at most `limit`. True when all have.
    pub async fn join(&self, limit: Duration) -> bool {
        self.stop();
        self.0.tracker.close();
        tokio::time::timeout(limit, self.0.tracker.wait()).await.is_ok()
    }

    /// Ends every task of the whole family at its next await, without a word: a crash, for simulation.
    pub fn crash(&self) {
        self.0.token.cancel();
        for entry in self.0.running.lock().values() {
            if let Some(abort) = &entry.abort {
                abort.abort();
            }
        }
    }
}

/// What gives a future once; more is never asked for.
fn once<F: Future<Output = ()> + Send + 'static>(future: F) -> impl FnMut() -> futures::future::BoxFuture<'static, ()> {
    let mut future = Some(future.boxed());
    move || future.take().unwrap_or_else(|| std::future::ready(()).boxed())
}

async fn told_to_restart(pulse: Option<&Pulse>) {
    match pulse {
        Some(pulse) => pulse.told_to_restart().await,
        None => std::future::pending().await,
    }
}

/// Takes a task off the list when it ends, however it ends.
struct Listed {
    id: u64,
    running: Arc<Mutex<Running>>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock().remove(&self.id);
    }
}

impl std::fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskGroup({})", self.0.name)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_task_that_hangs_is_begun_anew() {
        let group = TaskGroup::new("test");
        let (runs, mut seen) = tokio::sync::mpsc::unbounded_channel();
        group.supervise("hangs", LIMIT, move |_| {
            let runs = runs.clone();
            async move {
                runs.send(()).ok();
                std::future::pending().await
            }
        });
        seen.recv().await.expect("started");
        let before = group.beats()[0];
        assert!(before.may_restart);
        group.restart(before.id);
        seen.recv().await.expect("started again");
        let after = group.beats()[0];
        assert_eq!((after.id, after.starts), (before.id, before.starts + 1));
        assert_eq!(group.list()[0].restarts, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_supervised_task_is_started_again_and_a_critical_one_stops_the_group() {
        let group = TaskGroup::new("test");
        let (runs, mut seen) = tokio::sync::mpsc::unbounded_channel();
        group.supervise("panics", LIMIT, move |_| {
            let runs = runs.clone();
            async move {
                runs.send(()).ok();
                panic!("as planned");
            }
        });
        for _ in 0..3 {
            seen.recv().await.expect("started again");
        }
        assert!(group.list().iter().any(|task| &*task.name == "panics" && task.restarts >= 2));
        let child = group.child("part");
        child.critical("ends", LIMIT, |_| async {});
        child.stopped().await;
        assert!(!group.is_stopped(), "only the child stops");
        assert!(group.join(Duration::from_secs(1)).await);
        assert!(group.list().is_empty());
    }
}
