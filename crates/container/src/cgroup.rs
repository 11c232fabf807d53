//! Control groups of containers: paths, the counter of out-of-memory kills, ending and removing them. Limits are set by
//! the shim. Works on version 1, version 2, and the hybrid of both.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use insula_env::clock;
use rustix::process::{Pid, Signal, kill_process};

const ROOT: &str = "/sys/fs/cgroup";
/// How long killed processes may take until their cgroup is empty, and how often that is looked at.
const EMPTY_MAX: Duration = Duration::from_secs(5);
const EMPTY_POLL: Duration = Duration::from_millis(2);

/// Whether the one hierarchy of version 2 is in use.
pub(crate) fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The file with a line `oom_kill N`.
pub(crate) fn oom_counter(cgroup: &str) -> PathBuf {
    let relative = cgroup.trim_start_matches('/');
    if is_unified() {
        Path::new(ROOT).join(relative).join("memory.events")
    } else {
        Path::new(ROOT).join("memory").join(relative).join("memory.oom_control")
    }
}

/// The directories of a cgroup in all hierarchies that have it.
fn directories(cgroup: &str) -> Vec<PathBuf> {
    let relative = cgroup.trim_start_matches('/');
    let mut roots = vec![PathBuf::from(ROOT)];
    if !is_unified() {
        roots.extend(fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let mut found: Vec<PathBuf> =
        roots.into_iter().map(|root| root.join(relative)).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// Names of the cgroups right below `parent`, in any hierarchy.
pub(crate) fn children(parent: &str) -> Vec<String> {
    let mut names: Vec<String> = directories(parent)
        .iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Kills every process of the cgroup and waits until there is none.
pub(crate) async fn kill(cgroup: &str) -> io::Result<()> {
    let directories = directories(cgroup);
    let mut waited = Duration::ZERO;
    loop {
        let mut is_empty = true;
        for directory in &directories {
            for pid in pids(directory) {
                is_empty = false;
                kill_process(pid, Signal::KILL).ok();
            }
        }
        if is_empty {
            return Ok(());
        }
        if waited >= EMPTY_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes do not end"));
        }
        clock::sleep(EMPTY_POLL).await;
        waited += EMPTY_POLL;
    }
}

fn pids(directory: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect()
}

/// Removes the empty cgroup everywhere, and those below it. A process that was killed may keep it for a moment.
pub(crate) async fn remove(cgroup: &str) -> io::Result<()> {
    for directory in directories(cgroup) {
        let mut waited = Duration::ZERO;
        loop {
            match remove_tree(&directory) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && waited < EMPTY_MAX => {
                    clock::sleep(EMPTY_POLL).await;
                    waited += EMPTY_POLL;
                }
                result => break result?,
            }
        }
    }
    Ok(())
}

/// Instances may have made cgroups of their own below theirs.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
