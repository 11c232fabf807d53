//! What the kernel says of a running instance: read from outside, so that no image has to help.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The capabilities that instances may have, as in `docs/operations/isolation.md`.
const CAPABILITIES: u64 = 0xa804_05fb;

/// An instance that runs.
pub(super) struct Look {
    /// Its processes by the machine's numbers, the first one before all others.
    pub(super) processes: Vec<i32>,
    /// Memory that is charged to it, in bytes.
    pub(super) memory: u64,
    /// The users that its processes are, by its own numbers.
    pub(super) users: Vec<u32>,
    pub(super) is_root_read_only: bool,
}

/// Looks at an instance.
///
/// # Errors
/// When a process of it is not as isolated as all have to be.
pub(super) fn look(instance: &str) -> Result<Look> {
    let mut processes = Vec::new();
    let mut users = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if cgroup(pid).is_none_or(|(_, path)| !path.ends_with(&format!("/{instance}"))) {
            continue;
        }
        // One that has just ended has nothing to say any more.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let user = isolated(pid, &status).with_context(|| format!("process {pid} of {instance}"))?;
        users.push(user);
        let is_first = field(&status, "NSpid").and_then(|pids| pids.split_whitespace().next_back()) == Some("1");
        processes.insert(if is_first { 0 } else { processes.len() }, pid);
    }
    let first = *processes.first().with_context(|| format!("{instance} has no processes"))?;
    users.sort_unstable();
    users.dedup();
    let (base, path) = cgroup(first).with_context(|| format!("{instance} has no cgroup"))?;
    let charged = ["memory.usage_in_bytes", "memory.current"]
        .iter()
        .find_map(|name| fs::read_to_string(format!("{base}{path}/{name}")).ok());
    let memory = charged.and_then(|text| text.trim().parse().ok()).context("its memory is not told")?;
    let mounts = fs::read_to_string(format!("/proc/{first}/mountinfo")).context("read its mounts")?;
    let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words.get(4) == Some(&"/"));
    let is_root_read_only = root.is_some_and(|words| words[5].split(',').any(|option| option == "ro"));
    Ok(Look { processes, memory, users, is_root_read_only })
}

/// Kills all of it at once, as far as one can.
pub(in crate::story) fn kill_all(instance: &str) -> Result<()> {
    for pid in look(instance)?.processes {
        // Those behind the first one go with it.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    Ok(())
}

pub(super) fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Where the memory of a process is counted: the tree, and the path in it.
fn cgroup(pid: i32) -> Option<(&'static str, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut found = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.split(',').any(|name| name == "memory") {
            return Some(("/sys/fs/cgroup/memory", path.to_owned()));
        }
        if controllers.is_empty() {
            found = Some(("/sys/fs/cgroup", path.to_owned()));
        }
    }
    found
}

/// Checks what holds for every process; gives its user as the instance sees it.
fn isolated(pid: i32, status: &str) -> Result<u32> {
    let is = |name: &str| field(status, name).unwrap_or_default().trim().to_owned();
    ensure!(is("NoNewPrivs") == "1", "it could gain privileges");
    ensure!(is("Seccomp") == "2", "its system calls are not filtered");
    let bounding = u64::from_str_radix(&is("CapBnd"), 16).context("its capabilities are not told")?;
    ensure!(bounding & !CAPABILITIES == 0, "it may get the capabilities {bounding:x}");
    let user: u32 = is("Uid").split_whitespace().next().unwrap_or_default().parse().context("its user is not told")?;
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).context("read its user namespace")?;
    let words: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [inside, outside, _] = words[..] else { anyhow::bail!("its user namespace is odd: {map}") };
    ensure!(outside > 0 && user >= outside, "it has no user namespace: {map}");
    Ok(user - outside + inside)
}

fn field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
