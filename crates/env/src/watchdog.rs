//! One watchdog per process (rule R3): a loop whose sign of life is overdue is told of, with what can be seen of every
//! thread, and started anew. Where that does not help, because its thread is blocked, the process ends with
//! [`EXIT_CODE`], and whoever supervises it starts it again.
//!
//! It runs on a thread of its own, so that it works when all others are blocked. What it decides is in `Core`, without
//! a clock: a simulation runs no watchdog.

mod core;
mod dump;

use std::{
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use tracing::error;

pub(crate) use self::core::Seen;
use self::core::{Core, Verdict};
use crate::{Clock, TaskGroup, TaskInfo};

/// Status of a process that the watchdog ended: "internal software error" of sysexits.h, which nothing else here uses.
pub const EXIT_CODE: i32 = 70;

/// Time between two looks. What is looked for takes ten times as long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the report of a hung task may keep the process from ending: the disk may be what hangs.
const REPORT_LIMIT: Duration = Duration::from_secs(2);

/// Starts the watchdog of this process over all tasks of the family of `tasks`. Reports go to
/// `<dir>/watchdog/<process>.txt`, the one before is kept beside it.
pub fn start(tasks: &TaskGroup, process: &'static str, dir: &Path) {
    #[cfg(feature = "planted-deadlock")]
    crate::planted::look_in(dir, process);
    let (tasks, path) = (tasks.clone(), dir.join("watchdog").join(format!("{process}.txt")));
    let run = move || watch(&tasks, process, &path);
    let spawned = thread::Builder::new().name("watchdog".to_owned()).spawn(run);
    if let Err(error) = spawned {
        error!(%error, "no watchdog: a loop that hangs will not be noticed");
    }
}

/// Looks until the tasks are told to stop: a process that stops has its own time limits.
fn watch(tasks: &TaskGroup, process: &'static str, path: &Path) {
    let (clock, mut core) = (Clock::real(), Core::default());
    while !tasks.is_stopped() {
        thread::sleep(LOOK_EVERY);
        for verdict in core.look(clock.now(), &tasks.beats()) {
            let id = match verdict {
                Verdict::Restart(id) | Verdict::Exit(id) => id,
            };
            let list = tasks.list();
            let Some(hung) = list.iter().find(|task| task.id == id).cloned() else { continue };
            let is_end = matches!(verdict, Verdict::Exit(_));
            // Seen before anything is changed.
            let threads = dump::threads();
            if let Verdict::Restart(id) = verdict {
                tasks.restart(id);
            }
            let (path, done) = (path.to_owned(), mpsc::channel());
            // Apart: neither the log nor the disk may be what hangs and keep the watchdog from its work.
            let report = move || {
                tell(process, &hung, is_end, &list, &threads, &path);
                done.0.send(()).ok();
            };
            let reporting = thread::Builder::new().name("watchdog-report".to_owned()).spawn(report);
            let told = done.1.recv_timeout(REPORT_LIMIT);
            if is_end {
                end();
            }
            if reporting.is_err() || told == Err(RecvTimeoutError::Timeout) {
                error!(process, "the watchdog's report is not written yet: does the disk hang?");
            }
        }
    }
}

fn tell(process: &str, hung: &TaskInfo, is_end: bool, list: &[TaskInfo], threads: &str, path: &Path) {
    let silent = hung.beat.map(|beat| beat.age);
    let remedy = if is_end { "this process ends and is started again" } else { "the task is started again" };
    let text = dump::text(process, hung, remedy, list, threads);
    let written = dump::keep(path, &text);
    error!(
        owner = %hung.owner, task = %hung.name, ?silent, remedy, report = %path.display(),
        unwritten = written.err().map(|error| error.to_string()),
        "task shows no sign of life"
    );
}

/// Ends the process, also when a blocked thread holds what an orderly exit needs.
fn end() -> ! {
    let hard = || {
        thread::sleep(REPORT_LIMIT);
        std::process::abort();
    };
    // Without it the exit below has to do.
    thread::Builder::new().spawn(hard).ok();
    std::process::exit(EXIT_CODE)
}
