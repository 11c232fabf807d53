//! What the agent and a shim say to each other, and the files that a shim reads and leaves. Compiled into both.
//!
//! Kept for ever: an instance, and so its shim, outlives many upgrades of the agent. Fields are only added, with a
//! default; nothing is renamed or given another meaning. Everything is JSON.
//!
//! The instance's directory is the shim's only argument. In it the shim
//! - reads `shim.json` ([`Config`]);
//! - starts the work: the OCI bundle in `bundle/` (state kept in `state/`), or a command in `work/`;
//! - writes `running.json` ([`Running`]), then the same as one line ([`Reply`]) to its standard output, and closes that;
//! - keeps what the work writes in `log`, and what came before in `log.1`, in the CRI log format;
//! - listens on `shim.sock`: one [`Request`] a line, one [`Reply`] a line;
//! - writes `exit.json` ([`Exit`]), durably, when the work has ended, answers those who wait, and ends.
//!
//! With `--exec` before it, the shim runs one more command in the container of that directory, which runs. Its standard
//! input is one end of a stream socket. Over that it
//! - reads one line ([`Exec`]), starts the command, and answers one [`Reply`] with `running` or `error`; beside `running`
//!   come the descriptors of the command: its terminal, or the other ends of its standard output, standard error and, where
//!   it has input, standard input;
//! - takes [`Request::Signal`], unanswered, and writes a [`Reply`] with `exit` when the command has ended and nothing of what
//!   it started is left; then it ends;
//! - hangs up when the other end closes: HUP, then KILL.
//!
//! With `--freeze` and a directory, it freezes the file system of that, says [`FROZEN`], or why not, as one line, and thaws it at
//! the end of its standard input; after [`FROZEN_MAX`] in any case, and ends with [`FROZEN_TOO_LONG`] then.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Version written into every file and reply.
pub const VERSION: u32 = 1;

/// Longest line of a request in bytes.
pub const REQUEST_LEN_MAX: usize = 512;

/// Longest line of an [`Exec`] in bytes: a character of a command may take six.
pub const EXEC_LEN_MAX: usize = 256 << 10;

/// Longest text with secrets in bytes: as many and as long as a service may have, and a character may take six.
pub const SECRETS_LEN_MAX: u64 = 8 << 20;

/// Where the shim's executable is in a container of an [`OciRuntime`]. As first process (`--init COMMAND…`) it does what `has_init`
/// and, without a command, `is_held` say.
pub const INSIDE: &str = "/dev/insula-shim";

/// How long a file system is frozen, at most: a killed instance that wants to write ends only afterwards, and has ten seconds.
pub const FROZEN_MAX: Duration = Duration::from_secs(8);

/// What is said of a file system that is frozen now.
pub const FROZEN: &str = "frozen";

/// How it ends when the file system was thawed for lack of time.
pub const FROZEN_TOO_LONG: u8 = 3;

/// `shim.json`: what to start and how to keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// [`VERSION`].
    pub version: u32,
    /// What to start.
    pub work: Work,
    /// Size at which `log` becomes `log.1`, in bytes.
    pub log_bytes_max: u64,
    /// How the work is stopped when the shim itself gets SIGTERM, as at the machine's shutdown.
    pub stop: Stop,
}

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// The OCI bundle in `bundle/`.
    Container {
        /// Its name in `state/`.
        id: String,
        /// A file with a line `oom_kill N` that counts processes killed for lack of memory; read at the end.
        oom_counter: Option<String>,
        /// Who is to own the pipes that it writes to, user and group as the node has them: programs open
        /// `/dev/stdout` anew.
        #[serde(default)]
        output_owner: Option<(u32, u32)>,
        /// A file that keeps the network namespace that it starts in. Not in the bundle: libcontainer would enter it from
        /// within the user namespace, which may not.
        #[serde(default)]
        netns: Option<String>,
        /// Under a first process of the shim's, which collects orphans.
        #[serde(default)]
        has_init: bool,
        /// Without its command: only a first process of the shim's, beside which others are run.
        #[serde(default)]
        is_held: bool,
        /// What runs it in the place of the library in the shim. Then the bundle says what `has_init` and `is_held` do, the
        /// network namespace is kept by `netns` in the directory, and the shim's executable is in the container as [`INSIDE`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runtime: Option<OciRuntime>,
    },
    /// A command as the same user, in a session of its own.
    Process {
        /// Program and arguments.
        command: Vec<String>,
        /// Its whole environment.
        env: BTreeMap<String, String>,
        /// RLIMIT_NOFILE.
        open_files_max: u64,
        /// More of its environment comes through the shim's standard input: one JSON object of at most [`SECRETS_LEN_MAX`]
        /// bytes, then its end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        has_secrets: bool,
    },
}

/// An OCI runtime of the node's, by its command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    /// Its executable.
    pub path: String,
    /// Arguments before all others.
    pub arguments: Vec<String>,
}

/// A signal, then KILL after the grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Number of the signal.
    pub signal: i32,
    /// Milliseconds until KILL.
    pub grace_ms: u64,
}

/// `running.json`: the first process of the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// [`VERSION`].
    pub version: u32,
    /// Its process id.
    pub pid: i32,
    /// Its start time, field 22 of `/proc/PID/stat`: with it, a reused process id is told apart.
    pub start_ticks: u64,
    /// When it was started, milliseconds since 1970.
    pub started_ms: u64,
}

/// `exit.json`: how the work ended. Either `code` or `signal` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// [`VERSION`].
    pub version: u32,
    /// What its first process returned.
    pub code: Option<i32>,
    /// The signal that ended its first process.
    pub signal: Option<i32>,
    /// The kernel killed something of it for lack of memory.
    pub is_oom_killed: bool,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// What `--exec` runs in a container: with its user, environment, directory and restrictions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// [`VERSION`].
    pub version: u32,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the container's environment.
    pub env: BTreeMap<String, String>,
    /// It gets a terminal with so many rows and columns; none: pipes.
    pub terminal: Option<(u16, u16)>,
    /// It gets a pipe to read from; else it reads the end at once.
    pub has_input: bool,
    /// The files that take a process into the container's cgroups.
    pub enter_cgroups: Vec<String>,
    /// The cgroup that only this command and what it starts is in; ended and removed with it.
    pub own_cgroup: String,
    /// Milliseconds between HUP and KILL when the other end of the socket is closed.
    pub hang_up_ms: u64,
}

/// A line to the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// Answered at once with `running`.
    Status,
    /// Sends a signal; answered at once with `running`.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Sends a signal, and KILL after the grace; answered with `exit` when the work has ended.
    Stop(Stop),
    /// Answered with `exit` when the work has ended. A connection closed without this answer: the shim was killed.
    Wait,
}

/// A line from the shim; one of the options is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// The work runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// Lines of its log that were dropped, beside `running`. Older shims do not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_lines_dropped: u64,
    /// The work has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The request is refused, or the work could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}
