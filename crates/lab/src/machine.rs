//! One machine of the lab: its disk, its power, its processes.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    Error, Process, disk,
    error::Attempt,
    init, network,
    process::{GONE_WITHIN, MEMBER_VARIABLE, leave_behind, log_tail, run, wait_until},
    state::{Files, NodeState, State},
    traces,
};

/// Size of a node's disk. The image is sparse: it takes what is used.
const DISK_BYTES: u64 = 16 << 30;
/// How long a stopped server may take to end before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Makes an empty disk.
pub(crate) fn make_disk(path: &Path) -> Result<(), Error> {
    let what = || format!("make {}", path.display());
    File::create(path).attempt(what)?.set_len(DISK_BYTES).attempt(what)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard"]).arg(path))
        .map(drop)
}

/// The first process of a node that is on.
pub(crate) fn running(node: &NodeState) -> Result<Process, Error> {
    let init = node.init.filter(|init| init.is_alive());
    init.ok_or_else(|| Error::NotFound(format!("{} is off: start it with `insula lab poweron`", node.plan.name)))
}

/// Processes of a node that run a role of the program: `insula ROLE …`.
pub(crate) fn roles(node: &NodeState, role: &str) -> Vec<Process> {
    let family = node.init.filter(|init| init.is_alive()).map(Process::descendants).unwrap_or_default();
    family.into_iter().filter(|process| process.arguments().get(1).is_some_and(|word| word == role)).collect()
}

/// Connects a node and starts its first process.
pub(crate) fn power_on(files: &Files, state: &mut State, name: &str) -> Result<(), Error> {
    let router = state.router.ok_or_else(|| Error::NotFound("the router is down".to_owned()))?;
    let node = state.node(name)?;
    if node.init.is_some_and(Process::is_alive) {
        return Err(Error::Invalid(format!("{name} is on")));
    }
    // After a kill the namespace is still there, with what the kernel remembers of old connections: like a machine
    // that starts again, begin with a new one.
    if node.network.is_some() {
        disconnect(state, name)?;
    }
    traces::wait_for_loop(&files.disk(name))?;
    let network = network::hold(&state.program, files.dir())?;
    state.node_mut(name)?.network = Some(network);
    files.save(state)?;
    network::plug(router, network, &state.node(name)?.plan)?;
    for (from, _) in state.cuts.iter().filter(|(_, to)| to == name) {
        network::cut(network, state.node(from)?.plan.address)?;
    }
    let init = boot(files, &state.program, state.node(name)?, network)?;
    let node = state.node_mut(name)?;
    (node.init, node.is_paused) = (Some(init), false);
    files.save(state)
}

/// Starts a node's first process and waits until it has its root.
fn boot(files: &Files, program: &Path, node: &NodeState, network: Process) -> Result<Process, Error> {
    let name = &node.plan.name;
    let log = files.console(name);
    let console = OpenOptions::new().create(true).append(true).open(&log);
    let console = console.attempt(|| format!("open {}", log.display()))?;
    let mut command = Command::new(program);
    command.args(["lab-init", "launch", "--network", &network.pid.to_string(), "--name", name]);
    command.arg("--dir").arg(files.node(name)).arg("--program").arg(program);
    command.env_clear().env(MEMBER_VARIABLE, files.dir()).env("HOME", "/root");
    command.env("PATH", init::PATH).current_dir("/");
    // What its programs log is for whoever looks into the lab to say.
    command.envs(std::env::vars_os().filter(|(name, _)| name == "INSULA_LOG"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(console);
    let what = || format!("boot {name}");
    let mut child = leave_behind(&mut command).spawn().attempt(what)?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout);
        // The launcher writes the number, the first process that it has booted; then both let go of the pipe.
        lines.read_line(&mut said).attempt(what)?;
        lines.read_to_string(&mut said).attempt(what)?;
    }
    child.wait().attempt(what)?;
    let mut words = said.split_whitespace().collect::<Vec<_>>();
    words.sort_unstable();
    match words[..] {
        [pid, "booted"] => pid.parse().ok().and_then(Process::of),
        _ => None,
    }
    .ok_or_else(|| Error::Command { command: what(), said: log_tail(&log) })
}

/// Cuts the power of the nodes' disks, then makes all of them silent, then ends them. Gives when the last one fell
/// silent, wall time in milliseconds.
pub(crate) fn power_off(files: &Files, state: &mut State, names: &[&str]) -> Result<u64, Error> {
    for name in names {
        if state.node(name)?.network.is_none() {
            return Err(Error::Invalid(format!("{name} is off")));
        }
    }
    // The disks first, within microseconds: what is being synced now is lost on all of them together.
    let inits = || names.iter().filter_map(|name| running(state.node(name).ok()?).ok());
    inits().try_for_each(disk::lose_power)?;
    if let Some(router) = state.router {
        names.iter().try_for_each(|name| network::silence(router, name))?;
    }
    let silent_since = insula_env::Clock::real().wall_ms();
    for name in names {
        let node = state.node_mut(name)?;
        if let Some(init) = node.init.take() {
            end(node, init)?;
        }
        node.is_paused = false;
        disconnect(state, name)?;
        files.save(state)?;
        traces::wait_for_loop(&files.disk(name))?;
    }
    Ok(silent_since)
}

/// Kills every process of a node, also one that is paused or waits for a stalled disk.
pub(crate) fn end(node: &mut NodeState, init: Process) -> Result<(), Error> {
    if std::mem::take(&mut node.is_stalled) && init.is_alive() {
        disk::thaw(init)?;
    }
    init.end()
}

/// Empties a node's disk: what comes back is another machine.
pub(crate) fn wipe_disk(files: &Files, node: &NodeState) -> Result<(), Error> {
    let name = &node.plan.name;
    if node.init.is_some_and(Process::is_alive) {
        return Err(Error::Invalid(format!("{name} is on: cut its power first with `insula lab poweroff {name}`")));
    }
    traces::wait_for_loop(&files.disk(name))?;
    make_disk(&files.disk(name))
}

fn disconnect(state: &mut State, name: &str) -> Result<(), Error> {
    if let Some(router) = state.router {
        network::unplug(router, name)?;
    }
    match state.node_mut(name)?.network.take() {
        Some(holder) => holder.end(),
        None => Ok(()),
    }
}

/// Stops every process of a node where it is.
pub(crate) fn pause(node: &mut NodeState) -> Result<(), Error> {
    let init = running(node)?;
    node.is_paused = true;
    init.signal(Signal::SIGSTOP);
    // One that was not stopped yet may start another: until nothing new is found.
    let mut stopped = Vec::new();
    loop {
        let family = init.descendants();
        let fresh: Vec<Process> = family.into_iter().filter(|process| !stopped.contains(process)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        fresh.iter().for_each(|process| process.signal(Signal::SIGSTOP));
        stopped.extend(fresh);
    }
}

/// Undoes [`pause`].
pub(crate) fn resume(node: &mut NodeState) -> Result<(), Error> {
    let init = running(node)?;
    init.descendants().into_iter().for_each(|process| process.signal(Signal::SIGCONT));
    init.signal(Signal::SIGCONT);
    node.is_paused = false;
    Ok(())
}

/// Ends a node's server: asks, waits, kills.
pub(crate) fn stop_server(node: &NodeState) -> Result<(), Error> {
    for server in roles(node, "server") {
        server.signal(Signal::SIGTERM);
        if wait_until(STOP_WITHIN, "the server to stop", Path::new("/proc"), || !server.is_alive()).is_err() {
            server.end()?;
        }
    }
    wait_until(GONE_WITHIN, "the server to stay away", Path::new("/proc"), || roles(node, "server").is_empty())
}
