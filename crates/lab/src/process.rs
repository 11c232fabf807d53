//! Processes of the machine, found and ended by exact id: every one that a lab starts carries the lab's directory in
//! its environment, so that what a crash left over can be found.

use std::{
    fs,
    io::{self, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use insula_env::Clock;
use nix::{
    libc,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::{Error, error::Attempt};

/// Environment variable that says to which lab a process belongs: the lab's directory.
pub const MEMBER_VARIABLE: &str = "INSULA_LAB_MEMBER";
/// How long a killed process, or what it held, may take to go.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How often a condition outside of our process is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much of a failed program's output is kept.
const OUTPUT_KEPT_BYTES: usize = 4096;

/// A process, safe against its number being used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    parent: i32,
    start: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = text.get(text.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start })
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, start: stat.start })
    }

    /// Whether it lives; one that only waits to be collected does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start == self.start && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Sends a signal when it still lives.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end in between: fine.
            kill(Pid::from_raw(self.pid), signal).ok();
        }
    }

    /// Ends it and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when it stays.
    pub fn end(self) -> Result<(), Error> {
        self.signal(Signal::SIGKILL);
        wait_until(GONE_WITHIN, &format!("process {} to end", self.pid), Path::new("/proc"), || !self.is_alive())
    }

    /// Its arguments.
    pub fn arguments(self) -> Vec<String> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    }

    /// All that descend from it, in no order. In a process id namespace of its own nothing leaves this tree.
    pub fn descendants(self) -> Vec<Self> {
        let all: Vec<(i32, Stat)> = pids().filter_map(|pid| stat(pid).map(|stat| (pid, stat))).collect();
        let mut family = vec![self.pid];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        family.into_iter().skip(1).filter_map(Self::of).collect()
    }
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Every process that was started by the lab in `dir`, except the caller.
pub fn members(dir: &Path) -> Vec<Process> {
    let own = std::process::id() as i32;
    let marker = format!("{MEMBER_VARIABLE}={}", dir.display());
    let is_member = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        *pid != own && environment.split(|byte| *byte == 0).any(|pair| pair == marker.as_bytes())
    };
    pids().filter(is_member).filter_map(Process::of).collect()
}

/// Has a process that outlives us begin in a group of its own and with its standard streams alone: whoever has started us may wait for the
/// end of a pipe, or of a lock, that it let us have.
pub(crate) fn leave_behind(command: &mut Command) -> &mut Command {
    let close = || {
        // SAFETY: a system call that touches no memory. What Rust's own start of a process still needs stays until the exec.
        let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: one system call, which allocates nothing and takes no lock.
    unsafe { command.process_group(0).pre_exec(close) }
}

/// Looks until a condition holds.
///
/// # Errors
/// [`Error::TimedOut`] naming `what` and where to look.
pub(crate) fn wait_until(
    limit: Duration,
    what: &str,
    log: &Path,
    mut holds: impl FnMut() -> bool,
) -> Result<(), Error> {
    let clock = Clock::real();
    let deadline = clock.now() + limit;
    while !holds() {
        if clock.now() > deadline {
            return Err(Error::TimedOut { what: what.to_owned(), seconds: limit.as_secs(), log: log.to_owned() });
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Runs a program to its end and gives what it wrote.
///
/// # Errors
/// [`Error::Command`] with what it said when it fails, [`Error::System`] when it cannot be started.
pub(crate) fn run(command: &mut Command) -> Result<String, Error> {
    run_with(command, "")
}

/// Like [`run`], with text for its standard input.
pub(crate) fn run_with(command: &mut Command, input: &str) -> Result<String, Error> {
    use std::io::Write;
    let line = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    let line = line();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().attempt(|| format!("start {line}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It may end without reading: its exit status tells the story.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other.attempt(|| format!("write to {line}"))?,
        }
    }
    let output = child.wait_with_output().attempt(|| format!("wait for {line}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = output.status.to_string();
    }
    Err(Error::Command { command: line, said: tail(&said).to_owned() })
}

fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(OUTPUT_KEPT_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// The end of a log file, for messages.
pub(crate) fn log_tail(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = fs::File::open(path) {
        file.read_to_end(&mut text).ok();
    }
    tail(&String::from_utf8_lossy(&text)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_their_mark_and_ended() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(members(dir.path()).is_empty());
        let mut child = Command::new("sleep").arg("60").env(MEMBER_VARIABLE, dir.path()).spawn().expect("start sleep");
        wait_until(GONE_WITHIN, "the mark", dir.path(), || !members(dir.path()).is_empty()).expect("found");
        let found = members(dir.path());
        assert_eq!(found, [Process::of(child.id() as i32).expect("lives")]);
        let own = Process::of(std::process::id() as i32).expect("we live");
        assert!(own.descendants().contains(&found[0]));
        assert_eq!(found[0].arguments(), ["sleep", "60", ""]);
        found[0].end().expect("ended");
        assert!(!found[0].is_alive());
        child.wait().expect("collected");
        assert!(members(dir.path()).is_empty());
    }

    #[test]
    fn a_failed_program_is_quoted() {
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).expect_err("fails");
        assert_eq!(error.to_string(), "sh -c echo why >&2; exit 3: why");
        assert_eq!(run_with(&mut Command::new("cat"), "text").expect("runs"), "text");
    }
}
