//! Deadlocks on request, for the test that the watchdog heals them. Never part of a program that is shipped: the feature
//! `planted-deadlock` is off by default.
//!
//! A file asks for one: its content is `await NAME` or `block NAME`. The loop of that name which sees it first removes it
//! and hangs, once: in an await that never ends, or with its thread blocked. A file and not a variable of the
//! environment, so that one world can be given one deadlock after the other, and none twice.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

static ASKED_IN: OnceLock<PathBuf> = OnceLock::new();

/// Name of the file below the data directory of a node, a dot and the process's name after it.
const FILE: &str = "planted-deadlock";

/// From now on the file in this directory is looked for.
pub(crate) fn look_in(dir: &Path, process: &str) {
    // The first one counts; there is one watchdog in a process.
    ASKED_IN.set(dir.join(format!("{FILE}.{process}"))).ok();
}

fn is_asked(what: &str, name: &str) -> bool {
    let Some(path) = ASKED_IN.get() else { return false };
    let asked = fs::read_to_string(path).is_ok_and(|text| text.trim() == format!("{what} {name}"));
    // Who removes it has it, also when two see it.
    asked && fs::remove_file(path).is_ok()
}

pub(crate) fn block(name: &str) {
    if is_asked("block", name) {
        tracing::warn!(task = name, "planted: this thread is blocked from now on");
        loop {
            std::thread::park();
        }
    }
}

pub(crate) async fn wait(name: &str) {
    if is_asked("await", name) {
        tracing::warn!(task = name, "planted: this task waits for ever from now on");
        std::future::pending::<()>().await;
    }
}
