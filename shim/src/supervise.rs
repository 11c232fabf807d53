//! Looks after the work until it has ended: logs, requests, the end itself. One loop around `poll`.

use std::{
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    control::{self, Connection},
    files,
    log::FLOOD_PAUSE,
    protocol::{Exit, Reply, Request, Stop, VERSION, Work},
    runtime,
    start::Started,
};

/// How long the output of an ended instance, and its last processes, are waited for.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// ```text
/// Running ──stop──► Stopping ──grace──► KILL
///    └──────── main process ended ───────┘──► Draining ──pipes closed or DRAIN_MAX──► Ended
/// ```
enum Phase {
    Running,
    Stopping { kill_at: Instant },
    Draining { code: Option<i32>, signal: Option<i32>, until: Instant },
}

/// The work and everything that talks to it.
pub struct Supervisor {
    work: Started,
    connections: Vec<Connection>,
    phase: Phase,
}

impl Supervisor {
    /// Takes over started work.
    pub fn new(work: Started) -> Self {
        Self { work, connections: Vec::new(), phase: Phase::Running }
    }

    /// Returns when the work has ended and its end is on disk.
    pub fn run(mut self) {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
            signals.add(signal);
        }
        signals.thread_block().ok();
        let Ok(signal_fd) = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC) else {
            return;
        };
        // The work may have ended before its signal could reach the descriptor.
        self.reap();
        while !self.is_over() {
            self.wait(&signal_fd);
            while let Ok(Some(signal)) = signal_fd.read_signal() {
                if [Signal::SIGTERM as u32, Signal::SIGINT as u32].contains(&signal.ssi_signo) {
                    self.stop(self.work.config.stop);
                }
            }
            self.reap();
            self.work.stdout.pump();
            self.work.stderr.pump();
            control::accept(&self.work.listener, &mut self.connections);
            self.serve();
            if matches!(self.phase, Phase::Stopping { kill_at } if kill_at <= Instant::now()) {
                self.signal(Signal::SIGKILL as i32).ok();
                // Once more should it not help: a process can be stuck in the kernel for a while.
                self.phase = Phase::Stopping { kill_at: Instant::now() + DRAIN_MAX };
            }
        }
        self.finish();
    }

    /// Sleeps until there is something to do.
    fn wait(&self, signal_fd: &SignalFd) {
        let readable = PollFlags::POLLIN;
        let mut descriptors =
            vec![PollFd::new(signal_fd.as_fd(), readable), PollFd::new(self.work.listener.as_fd(), readable)];
        // Of a flood, what is written in between waits in the pipe.
        let is_flooded = self.work.stdout.is_flooded();
        let pipes = if is_flooded { [None, None] } else { [self.work.stdout.pipe(), self.work.stderr.pipe()] };
        descriptors.extend(pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe.as_fd(), readable)));
        descriptors.extend(self.connections.iter().map(|one| PollFd::new(one.stream().as_fd(), readable)));
        let next = is_flooded.then(|| Instant::now() + FLOOD_PAUSE);
        let deadline = match self.phase {
            Phase::Running => None,
            Phase::Stopping { kill_at } => Some(kill_at),
            Phase::Draining { until, .. } => Some(until),
        };
        let deadline = deadline.into_iter().chain(next).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        poll(&mut descriptors, timeout).ok();
    }

    /// Collects ended children: the work's first process, orphans of a plain process, and what a runtime left.
    fn reap(&mut self) {
        loop {
            let status = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG));
            let (pid, code, signal) = match status {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if pid.as_raw() == self.work.running.pid {
                self.phase = Phase::Draining { code, signal, until: Instant::now() + DRAIN_MAX };
            }
        }
    }

    /// Answers requests; drops connections that ended or do not keep to the protocol.
    fn serve(&mut self) {
        let mut connections = std::mem::take(&mut self.connections);
        connections.retain_mut(|connection| {
            let Some(requests) = connection.receive() else { return false };
            requests.into_iter().all(|request| match request {
                Ok(request) => self.answer(connection, request),
                Err(error) => connection.reply(Reply { error: Some(error), ..Reply::default() }),
            })
        });
        self.connections = connections;
    }

    fn answer(&mut self, connection: &mut Connection, request: Request) -> bool {
        match request {
            Request::Status => {}
            Request::Signal { signal } => {
                if let Err(error) = self.signal(signal) {
                    let error = Some(format!("signal {signal}: {error}"));
                    return connection.reply(Reply { error, ..Reply::default() });
                }
            }
            Request::Stop(stop) => {
                self.stop(stop);
                connection.wait();
                return true;
            }
            Request::Wait => {
                connection.wait();
                return true;
            }
        }
        connection.reply(Reply {
            running: Some(self.work.running.clone()),
            log_lines_dropped: self.work.stdout.lines_dropped(),
            ..Reply::default()
        })
    }

    /// Begins to stop; a second call can only bring KILL nearer.
    fn stop(&mut self, stop: Stop) {
        let asked = Instant::now() + Duration::from_millis(stop.grace_ms);
        let kill_at = match self.phase {
            Phase::Draining { .. } => return,
            Phase::Running => asked,
            Phase::Stopping { kill_at } => kill_at.min(asked),
        };
        self.signal(stop.signal).ok();
        self.phase = Phase::Stopping { kill_at };
    }

    /// To the container's first process, or to the whole session of a plain process.
    fn signal(&self, signal: i32) -> Result<(), Errno> {
        if matches!(self.phase, Phase::Draining { .. }) {
            return Ok(());
        }
        let (pid, signal) = (self.work.running.pid, Signal::try_from(signal)?);
        match &self.work.config.work {
            // What the node sees may be the sandbox that the first process is in: only KILL is for that.
            Work::Container { runtime: Some(runtime), id, .. } if signal != Signal::SIGKILL => {
                let mut call = runtime::call(runtime, &self.work.directory, "kill");
                // Collected with all other children.
                let sent = call.arg(id).arg((signal as i32).to_string()).spawn();
                sent.map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
            }
            Work::Container { .. } => kill(Pid::from_raw(pid), signal),
            Work::Process { .. } => kill(Pid::from_raw(-pid), signal),
        }
    }

    fn is_over(&self) -> bool {
        let Phase::Draining { until, .. } = self.phase else { return false };
        until <= Instant::now() || (self.work.stdout.pipe().is_none() && self.work.stderr.pipe().is_none())
    }

    /// Ends what is left, and writes down how it ended. The cgroup is still there: the agent removes it.
    fn finish(mut self) {
        if matches!(self.work.config.work, Work::Process { .. } | Work::Container { runtime: Some(_), .. }) {
            end_orphans();
        }
        self.work.stdout.finish();
        self.work.stderr.finish();
        let Phase::Draining { code, signal, .. } = self.phase else { return };
        let is_oom_killed = match &self.work.config.work {
            Work::Container { oom_counter: Some(counter), .. } => files::oom_kills(counter) > 0,
            _ => false,
        };
        let exit = Exit { version: VERSION, code, signal, is_oom_killed, at_ms: files::now_ms() };
        // A full disk: the agent then finds neither a shim nor an exit, which it knows how to read.
        files::write_json(Path::new("exit.json"), &exit, true).ok();
        control::tell_end(&self.work.listener, &mut self.connections, &exit);
        std::fs::remove_file("shim.sock").ok();
    }
}

/// Kills our children, those that thereby become ours included, until there are none or time is up.
fn end_orphans() {
    let deadline = Instant::now() + DRAIN_MAX;
    let children = format!("/proc/self/task/{}/children", std::process::id());
    while Instant::now() < deadline {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        for pid in text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
}
