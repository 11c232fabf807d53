//! Ends the dataplanes of a node that shall leave nothing running.

use std::{
    collections::HashMap,
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future;
use insula_env::{clock, net};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, test_kill_process};
use tokio::io::unix::AsyncFd;

/// How long the look may take who answers on a socket of this machine.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks whether a process has ended, where the system does not tell.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A process by its descriptor, which is never another one's; none before Linux 5.3.
type Process = Option<OwnedFd>;

/// Tells all dataplanes of a node to end: those that answer on its sockets, whoever started them, and those that were started with its
/// configuration, also one that does not listen yet, and one that has handed over and serves what is open. Gives those that have not
/// ended after `limit`. Whoever starts them must have stopped.
pub(crate) async fn end_all(config: &Path, sockets: &[PathBuf], limit: Duration) -> Vec<Pid> {
    let mut all = started_with(config);
    // Where other processes are hidden from this user (proc(5), hidepid), these tell of the one that serves.
    for socket in sockets {
        all.extend(who_answers(socket).await);
    }
    let ends = all.into_iter().map(|(pid, process)| async move {
        let ended = clock::timeout(limit, end(pid, process)).await;
        ended.is_err().then_some(pid)
    });
    future::join_all(ends).await.into_iter().flatten().collect()
}

fn process(pid: Pid) -> Process {
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The process that takes connections on a socket.
async fn who_answers(socket: &Path) -> Option<(Pid, Process)> {
    let stream = net::connect_unix(socket, LOOK_LIMIT).await.ok()?;
    let pid = Pid::from_raw(stream.peer_cred().ok()?.pid()?)?;
    Some((pid, process(pid)))
}

fn started_with(config: &Path) -> HashMap<Pid, Process> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw);
    pids.filter_map(|pid| {
        // Before its arguments are looked at: the number may be another process's a moment later.
        let process = process(pid);
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        is_dataplane(&arguments, config).then_some((pid, process))
    })
    .collect()
}

/// Tells a process to end and waits for it. Failing to tell means that it has ended meanwhile.
async fn end(pid: Pid, process: Process) {
    if let Some(process) = process {
        let _ = pidfd_send_signal(&process, Signal::TERM);
        // SAFETY: an `OwnedFd` gives the same descriptor each time and closes it only when it is dropped.
        if let Ok(process) = unsafe { AsyncFd::register(process) } {
            // It is readable once the process has ended: pidfd_open(2).
            let _ = process.readable().await;
            return;
        }
    }
    let _ = kill_process(pid, Signal::TERM);
    while test_kill_process(pid).is_ok() {
        clock::sleep(LOOK_EVERY).await;
    }
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

    #[tokio::test]
    async fn who_answers_on_a_socket_is_known() {
        let dir = tempfile::tempdir().expect("directory");
        let socket = dir.path().join("socket");
        assert!(who_answers(&socket).await.is_none());
        let _listener = net::bind_unix(&socket).expect("listens");
        let (pid, _) = who_answers(&socket).await.expect("somebody");
        assert_eq!(pid.as_raw_nonzero().get() as u32, std::process::id());
    }
}
