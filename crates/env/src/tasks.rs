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

/// Shortest and longest wait before a task is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

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
    /// The group it belongs to.
    pub owner: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its rule.
    pub rule: Rule,
    /// How often it was started again.
    pub restarts: u64,
}

/// The tasks of a family of groups, by number.
type Running = BTreeMap<u64, (TaskInfo, Option<AbortHandle>)>;

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
        let mut future = Some(future);
        self.start(name, Rule::Once, move || {
            let future = future.take();
            async move {
                if let Some(future) = future {
                    future.await;
                }
            }
        });
    }

    /// Starts a task that shall not end: `make` gives it anew when it returns or panics.
    pub fn supervise<F>(&self, name: &str, make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(name, Rule::Restart, make);
    }

    /// Starts a task without which the group is of no use: its end stops the group.
    pub fn critical(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        let mut future = Some(future);
        self.start(name, Rule::Critical, move || {
            let future = future.take();
            async move {
                if let Some(future) = future {
                    future.await;
                }
            }
        });
    }

    fn start<F>(&self, name: &str, rule: Rule, mut make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let info = TaskInfo { owner: Arc::clone(&self.0.name), name: name.into(), rule, restarts: 0 };
        let running = Arc::clone(&self.0.running);
        running.lock().insert(id, (info.clone(), None));
        let token = self.0.token.clone();
        let watched = async move {
            let _listed = Listed { id, running: Arc::clone(&running) };
            let mut wait = BACKOFF.0;
            loop {
                let run = AssertUnwindSafe(make()).catch_unwind();
                let ended = tokio::select! {
                    biased;
                    () = token.cancelled() => return,
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
                        warn!(owner = %info.owner, task = %info.name, ?wait, "task ended, starting it again");
                        tokio::select! {
                            biased;
                            () = token.cancelled() => return,
                            () = tokio::time::sleep(wait) => {}
                        }
                        wait = (wait * 2).min(BACKOFF.1);
                        if let Some((info, _)) = running.lock().get_mut(&id) {
                            info.restarts += 1;
                        }
                    }
                }
            }
        };
        #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
        let handle = tokio::spawn(self.0.tracker.track_future(watched));
        if let Some((_, abort)) = self.0.running.lock().get_mut(&id) {
            *abort = Some(handle.abort_handle());
        }
    }

    /// The tasks that run now, in this group and all that it came from.
    pub fn list(&self) -> Vec<TaskInfo> {
        self.0.running.lock().values().map(|(info, _)| info.clone()).collect()
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
        for (_, abort) in self.0.running.lock().values() {
            if let Some(abort) = abort {
                abort.abort();
            }
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_supervised_task_is_started_again_and_a_critical_one_stops_the_group() {
        let group = TaskGroup::new("test");
        let (runs, mut seen) = tokio::sync::mpsc::unbounded_channel();
        group.supervise("panics", move || {
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
        child.critical("ends", async {});
        child.stopped().await;
        assert!(!group.is_stopped(), "only the child stops");
        assert!(group.join(Duration::from_secs(1)).await);
        assert!(group.list().is_empty());
    }
}
