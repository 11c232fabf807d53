//! Ends the dataplanes of a node that shall leave nothing running.

use std::{
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};

use futures::future;
use insula_env::clock;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

/// Tells all dataplanes that were started with this configuration to end, also one that does not listen yet, and one that has handed
/// over and serves what is open; gives those that have not after `limit`. Whoever starts them must have stopped.
pub(crate) async fn end_all(config: &Path, limit: Duration) -> Vec<Pid> {
    let ends = started_with(config).into_iter().map(|(pid, process)| async move {
        // Failing means that it has ended meanwhile.
        let _ = pidfd_send_signal(&process, Signal::TERM);
        // SAFETY: an `OwnedFd` gives the same descriptor each time and closes it only when it is dropped.
        let Ok(process) = (unsafe { AsyncFd::register(process) }) else { return Some(pid) };
        // The descriptor of a process is readable once it has ended: pidfd_open(2).
        let ended = clock::timeout(limit, process.readable()).await;
        ended.is_err().then_some(pid)
    });
    future::join_all(ends).await.into_iter().flatten().collect()
}

fn started_with(config: &Path) -> Vec<(Pid, OwnedFd)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw);
    pids.filter_map(|pid| {
        // Before its arguments are looked at: the number may be another process's a moment later, the descriptor not.
        let process = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        is_dataplane(&arguments, config).then_some((pid, process))
    })
    .collect()
}

/// Whether the arguments of a process, each with a zero behind it (proc_pid_cmdline(5)), are those that `spawn` gives.
fn is_dataplane(arguments: &[u8], config: &Path) -> bool {
    arguments.split(|byte| *byte == 0).skip(1).eq([&b"dataplane"[..], b"--config", config.as_os_str().as_bytes(), b""])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dataplane_of_the_same_configuration_is_meant() {
        let config = Path::new("/data/insula.toml");
        assert!(is_dataplane(b"/usr/bin/insula\0dataplane\0--config\0/data/insula.toml\0", config));
        for other in [
            &b""[..],
            b"/usr/bin/insula\0server\0--config\0/data/insula.toml\0",
            b"/usr/bin/insula\0dataplane\0--config\0/data/insula.toml.old\0",
            b"/usr/bin/less\0dataplane\0--config\0/data/insula.toml\0x\0",
        ] {
            assert!(!is_dataplane(other, config), "{}", other.escape_ascii());
        }
    }
}
