//! A lab: makes it, changes its power and links, takes it down.
//!
//! Every change is written to the state file before the next one is made; processes carry a mark besides. So `down`
//! finds all that there is, whatever the command before it died of.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{sys::signal::Signal, unistd::geteuid};
use serde::Serialize;

use crate::{
    Error, LabConfig, Process,
    config::{NodePlan, SERVICES, plan},
    disk,
    error::Attempt,
    init, machine, network,
    process::{MEMBER_VARIABLE, members, run},
    services,
    state::{Files, NodeState, State},
    traces,
};

/// A lab that stands, by its directory. All knowledge is in the state file, so handles can be many.
#[derive(Clone, Debug)]
pub struct Lab {
    files: Files,
}

/// Which processes of a node are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// `insula server`.
    Server,
    /// `insula dataplane`.
    Dataplane,
    /// Every process, the first one included: the kernel stays, and resets connections.
    All,
}

/// How a node is doing, as seen from outside.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its place.
    #[serde(flatten)]
    pub plan: NodePlan,
    /// `on`, `off`, `paused`, or `killed` (links up, no process).
    pub power: &'static str,
    /// Its server, by the machine's process number.
    pub server: Option<i32>,
    /// Its dataplane.
    pub dataplane: Option<i32>,
}

impl Lab {
    /// Makes a lab: namespaces, links, disks, services, and nodes that are on but have no configuration yet.
    /// [`crate::cluster::form`] makes a region of them.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is one; other errors leave parts behind, which [`Lab::down`] removes.
    pub fn up(config: &LabConfig) -> Result<Self, Error> {
        let nodes = plan(config)?;
        check_machine()?;
        let program = config.program.canonicalize().attempt(|| format!("find {}", config.program.display()))?;
        let files = Files::new(&std::path::absolute(&config.dir).attempt(|| "find the directory".to_owned())?);
        files.create()?;
        let _lock = files.lock()?;
        let off = |plan| NodeState { plan, network: None, init: None, is_paused: false, is_stalled: false };
        let mut state = State {
            name: config.name.clone(),
            program,
            router: None,
            carrier: None,
            links: Vec::new(),
            services: None,
            registry: None,
            nodes: nodes.iter().cloned().map(off).collect(),
            cuts: Vec::new(),
        };
        files.save(&state)?;
        let router = network::hold(&state.program, files.dir())?;
        state.router = Some(router);
        let services = network::hold(&state.program, files.dir())?;
        state.services = Some(services);
        files.save(&state)?;
        network::set_up_router(router, services, &nodes)?;
        if config.regions.len() > 1 {
            let carrier = network::start_carrier(&state.program, files.dir(), (router, &files.carrier()), &nodes)?;
            state.carrier = Some(carrier);
            files.save(&state)?;
        }
        state.registry = Some(services::start_registry(&files, services)?);
        files.save(&state)?;
        for name in nodes.iter().map(|node| &node.name) {
            fs::create_dir_all(files.node(name)).attempt(|| format!("make {}", files.node(name).display()))?;
            machine::make_disk(&files.disk(name))?;
            machine::power_on(&files, &mut state, name)?;
        }
        Ok(Self { files })
    }

    /// The lab in a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let lab = Self { files: Files::new(&std::path::absolute(dir).attempt(|| "find the directory".to_owned())?) };
        lab.state().map(|_| lab)
    }

    /// Removes every trace of the lab of that name in `dir`, also of one that a crash left half made. Gives whether
    /// there was anything.
    ///
    /// # Errors
    /// When something cannot be removed; what could be is gone, and trying again goes on from there.
    pub fn down(name: &str, dir: &Path) -> Result<bool, Error> {
        check_root()?;
        let files = Files::new(&std::path::absolute(dir).attempt(|| "find the directory".to_owned())?);
        let lock = if files.dir().exists() { Some(files.lock()?) } else { None };
        // A state file that cannot be read must not be in the way: the marks and the name find the rest.
        let state = files.load().ok().flatten();
        let name = state.as_ref().map_or(name, |state| &state.name);
        let recorded = state.iter().flat_map(|state| {
            let nodes = state.nodes.iter().flat_map(|node| [node.init, node.network]);
            nodes.chain([state.registry, state.services, state.carrier, state.router]).flatten()
        });
        // A process that waits for a stalled disk cannot be ended.
        for init in state.iter().flat_map(|state| &state.nodes).filter(|node| node.is_stalled).filter_map(|n| n.init) {
            if init.is_alive() {
                disk::thaw(init)?;
            }
        }
        let mut is_found = false;
        for process in recorded.filter(|process| process.is_alive()).collect::<Vec<_>>() {
            is_found = true;
            process.end()?;
        }
        // A process that is just being started may come to light only after its parent has gone.
        loop {
            let left = members(files.dir());
            if left.is_empty() {
                break;
            }
            is_found = true;
            for process in left {
                process.end()?;
            }
        }
        is_found |= traces::remove_cgroups(name)?;
        traces::wait_for_loops(files.dir())?;
        is_found |= traces::remove_dir(files.dir())?;
        drop(lock);
        Ok(is_found)
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        self.files.dir()
    }

    /// The lab's name.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn name(&self) -> Result<String, Error> {
        Ok(self.state()?.name)
    }

    pub(crate) fn state(&self) -> Result<State, Error> {
        self.files.load()?.ok_or_else(|| {
            Error::NotFound(format!("there is no lab in {}: make one with `insula lab up`", self.dir().display()))
        })
    }

    /// Runs a change under the lab's lock. What it did before an error is kept.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        check_root()?;
        let _lock = self.files.lock()?;
        let mut state = self.state()?;
        let result = change(&mut state);
        self.files.save(&state)?;
        result
    }

    /// The nodes' places.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn nodes(&self) -> Result<Vec<NodePlan>, Error> {
        Ok(self.state()?.nodes.into_iter().map(|node| node.plan).collect())
    }

    /// How every node is doing.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn status(&self) -> Result<Vec<NodeStatus>, Error> {
        let status = |node: NodeState| {
            let role = |role| machine::roles(&node, role).first().map(|process| process.pid);
            let power = match (node.init, node.network) {
                (Some(init), _) if init.is_alive() && node.is_paused => "paused",
                (Some(init), _) if init.is_alive() => "on",
                (_, Some(network)) if network.is_alive() => "killed",
                _ => "off",
            };
            NodeStatus { power, server: role("server"), dataplane: role("dataplane"), plan: node.plan.clone() }
        };
        Ok(self.state()?.nodes.into_iter().map(status).collect())
    }

    /// Sends a signal to processes of a node. Its links stay up, so peers get resets.
    ///
    /// # Errors
    /// [`Error::NotFound`] when no such process runs.
    pub fn kill(&self, node: &str, target: Target, signal: Signal) -> Result<(), Error> {
        self.change(|state| {
            let node = state.node_mut(node)?;
            let init = machine::running(node)?;
            let role = match target {
                Target::All if signal == Signal::SIGKILL => return machine::end(node, init),
                Target::All => {
                    init.descendants().into_iter().for_each(|process| process.signal(signal));
                    return Ok(());
                }
                Target::Server => "server",
                Target::Dataplane => "dataplane",
            };
            let found = machine::roles(node, role);
            if found.is_empty() {
                return Err(Error::NotFound(format!("no insula {role} runs on {}", node.plan.name)));
            }
            found.into_iter().for_each(|process| process.signal(signal));
            Ok(())
        })
    }

    /// Cuts the power of nodes at once: their disks lose what was not synced, then their links go down, then everything
    /// ends. Peers hear nothing. Gives when they fell silent, wall time in milliseconds since 1970.
    ///
    /// # Errors
    /// When one is off already.
    pub fn power_off(&self, nodes: &[&str]) -> Result<u64, Error> {
        self.change(|state| machine::power_off(&self.files, state, nodes))
    }

    /// Starts a node that was powered off or killed, from its disk.
    ///
    /// # Errors
    /// When it is on.
    pub fn power_on(&self, node: &str) -> Result<(), Error> {
        self.change(|state| machine::power_on(&self.files, state, node))
    }

    /// Stops all processes of a node where they are; links stay up.
    ///
    /// # Errors
    /// When it is not on.
    pub fn pause(&self, node: &str) -> Result<(), Error> {
        self.change(|state| machine::pause(state.node_mut(node)?))
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// When it is not on.
    pub fn resume(&self, node: &str) -> Result<(), Error> {
        self.change(|state| machine::resume(state.node_mut(node)?))
    }

    /// Ends the image registry; what connects to it is refused. Fine when it is not running.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_registry(&self) -> Result<(), Error> {
        self.change(|state| state.registry.take().map_or(Ok(()), Process::end))
    }

    /// Starts the image registry again, with the images that it had. Fine when it is running.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_registry(&self) -> Result<(), Error> {
        self.change(|state| {
            if state.registry.is_some_and(Process::is_alive) {
                return Ok(());
            }
            let services = state.services.ok_or_else(|| Error::NotFound("the lab has no services".to_owned()))?;
            state.registry = Some(services::start_registry(&self.files, services)?);
            Ok(())
        })
    }

    /// Stops a node's server and keeps it stopped, as the service manager would; its other processes go on.
    ///
    /// # Errors
    /// When the node is not on, or the server does not end.
    pub fn stop_server(&self, node: &str) -> Result<(), Error> {
        self.change(|state| {
            let node = state.node(node)?;
            let hold = self.files.hold(&node.plan.name);
            fs::write(&hold, b"").attempt(|| format!("write {}", hold.display()))?;
            machine::running(node)?;
            machine::stop_server(node)
        })
    }

    /// Lets a stopped server run again.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn start_server(&self, node: &str) -> Result<(), Error> {
        self.change(|state| {
            let hold = self.files.hold(&state.node(node)?.plan.name);
            if hold.exists() {
                fs::remove_file(&hold).attempt(|| format!("remove {}", hold.display()))?;
            }
            Ok(())
        })
    }

    /// Drops packets from `a` to `b`, and back unless it is one way. Both are nodes, data centres or regions.
    ///
    /// # Errors
    /// [`Error::NotFound`] when one is none of these.
    pub fn cut(&self, a: &str, b: &str, is_one_way: bool) -> Result<(), Error> {
        self.change(|state| {
            for (from, to) in state.pairs(a, b, is_one_way)? {
                if state.cuts.contains(&(from.clone(), to.clone())) {
                    continue;
                }
                if let Some(receiver) = state.node(&to)?.network {
                    network::cut(receiver, state.node(&from)?.plan.address)?;
                }
                state.cuts.push((from, to));
            }
            Ok(())
        })
    }

    /// Undoes cuts between `a` and `b`, both ways; all cuts when none are named.
    ///
    /// # Errors
    /// [`Error::NotFound`] when one is no node, data centre or region.
    pub fn heal(&self, between: Option<(&str, &str)>) -> Result<(), Error> {
        self.change(|state| {
            let healed = match between {
                Some((a, b)) => state.pairs(a, b, false)?,
                None => state.cuts.clone(),
            };
            for (from, to) in healed.into_iter().filter(|pair| state.cuts.contains(pair)).collect::<Vec<_>>() {
                if let Some(receiver) = state.node(&to)?.network {
                    network::heal(receiver, state.node(&from)?.plan.address)?;
                }
                state.cuts.retain(|cut| *cut != (from.clone(), to.clone()));
            }
            Ok(())
        })
    }

    /// A command that will run inside a node, or in the services' network when `place` is `services`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such place or it is off.
    pub fn command(&self, place: &str, program: &str) -> Result<Command, Error> {
        let state = self.state()?;
        let mut command = if place == SERVICES {
            let holder = state.services.filter(|holder| holder.is_alive());
            network::inside(holder.ok_or_else(|| Error::NotFound("the services are down".to_owned()))?, program)
        } else {
            let init = machine::running(state.node(place)?)?;
            let mut command = Command::new("nsenter");
            command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--target", &init.pid.to_string(), "--"]);
            command.arg(program).env("HOME", "/root").env("PATH", init::PATH);
            command
        };
        command.env(MEMBER_VARIABLE, self.dir());
        Ok(command)
    }

    /// Becomes a program in a place of the lab. Returns only when that fails.
    pub fn exec(&self, place: &str, program: &str, arguments: &[String]) -> Error {
        match self.command(place, program) {
            Ok(mut command) => {
                let source = command.args(arguments).exec();
                Error::System { what: format!("run {program} on {place}"), source }
            }
            Err(error) => error,
        }
    }

    /// What a node's first process and server wrote.
    pub fn console(&self, node: &str) -> PathBuf {
        self.files.console(node)
    }

    /// Does something in the services' network, on a thread of its own.
    pub(crate) fn in_services<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let holder: Option<Process> = self.state()?.services;
        network::within(holder.ok_or_else(|| Error::NotFound("the services are down".to_owned()))?, work)
    }
}

impl State {
    pub(crate) fn node(&self, name: &str) -> Result<&NodeState, Error> {
        let names = || self.nodes.iter().map(|node| node.plan.name.as_str()).collect::<Vec<_>>().join(", ");
        self.nodes
            .iter()
            .find(|node| node.plan.name == name)
            .ok_or_else(|| Error::NotFound(format!("{name:?} is no node of this lab: there are {}", names())))
    }

    pub(crate) fn node_mut(&mut self, name: &str) -> Result<&mut NodeState, Error> {
        self.node(name)?;
        let found = self.nodes.iter_mut().find(|node| node.plan.name == name);
        found.ok_or_else(|| Error::NotFound(name.to_owned()))
    }

    /// Pairs of different nodes from one set to the other.
    fn pairs(&self, a: &str, b: &str, is_one_way: bool) -> Result<Vec<(String, String)>, Error> {
        let set = |name: &str| {
            let plans = self.nodes.iter().map(|node| &node.plan);
            let inside = |plan: &&NodePlan| plan.name == name || plan.datacenter == name || plan.region == name;
            let found: Vec<String> = plans.filter(inside).map(|plan| plan.name.clone()).collect();
            if found.is_empty() {
                return Err(Error::NotFound(format!("{name:?} is no node, data centre or region of this lab")));
            }
            Ok(found)
        };
        let (a, b) = (set(a)?, set(b)?);
        let mut pairs = Vec::new();
        for (one, other) in a.iter().flat_map(|one| b.iter().map(move |other| (one, other))) {
            if one != other {
                pairs.push((one.clone(), other.clone()));
                if !is_one_way {
                    pairs.push((other.clone(), one.clone()));
                }
            }
        }
        Ok(pairs)
    }
}

fn check_root() -> Result<(), Error> {
    if geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

fn check_machine() -> Result<(), Error> {
    check_root()?;
    let needed = [
        ("ip", "iproute2", "-V"),
        ("nsenter", "util-linux", "-V"),
        ("mount", "mount", "-V"),
        ("mkfs.ext4", "e2fsprogs", "-V"),
        ("docker-registry", "docker-registry", "--version"),
    ];
    for (program, package, version) in needed {
        if run(Command::new(program).arg(version)).is_err_and(|error| matches!(error, Error::System { .. })) {
            return Err(Error::Missing { program, package });
        }
    }
    Ok(())
}
