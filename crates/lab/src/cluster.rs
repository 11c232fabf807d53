//! Makes regions of the nodes of a lab, with the program's own commands: init on the first, join on the others.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use insula_env::Disk as _;
use serde_json::Value;

use crate::{
    Error, Lab,
    config::{API_PORT, NODE_PORT, NodePlan},
    error::Attempt,
    init::{CONFIG, PROGRAM},
    machine,
    process::{run, wait_until},
    services,
    traces::cgroup_parent,
};

/// How long the first node may take to answer, and all nodes to be up.
const FORMED_WITHIN: Duration = Duration::from_secs(90);

/// Forms the regions but for those `left`: returns when every node answers and is up in the eyes of all of its region, the
/// voters are chosen, and the regions have told each other of themselves. The first node of the lab begins the cluster.
/// `certificates` are lives of certificates for `insula init` and `insula join`.
///
/// # Errors
/// What the program said when a command of it failed; [`Error::TimedOut`] naming the log to look at.
pub fn form(lab: &Lab, certificates: Option<&str>, left: &[String]) -> Result<(), Error> {
    let nodes = lab.nodes()?;
    let regions: Vec<&[NodePlan]> = nodes.chunk_by(|a, b| a.region == b.region).collect();
    if let Some(unknown) = left.iter().find(|name| regions.iter().all(|members| members[0].region != **name)) {
        return Err(Error::NotFound(format!("no node of the lab is in region {unknown}")));
    }
    let Some((first, others)) = regions.split_first() else { return Ok(()) };
    if left.contains(&first[0].region) {
        return Err(Error::Invalid(format!("the cluster begins in region {}: it cannot be left out", first[0].region)));
    }
    found(lab, first, None, certificates)?;
    for members in others.iter().filter(|members| !left.contains(&members[0].region)) {
        found(lab, members, Some(&first[0]), certificates)?;
    }
    Ok(())
}

/// Forms one region that was left out.
///
/// # Errors
/// As [`form`].
pub fn form_region(lab: &Lab, name: &str, certificates: Option<&str>) -> Result<(), Error> {
    let nodes = lab.nodes()?;
    let members: Vec<NodePlan> = nodes.iter().filter(|node| node.region == name).cloned().collect();
    if members.is_empty() {
        return Err(Error::NotFound(format!("no node of the lab is in region {name}")));
    }
    found(lab, &members, nodes.first().filter(|first| first.region != name), certificates)
}

/// Makes a region of its nodes. The first of them begins the cluster, or founds the region with a token of node `at`.
fn found(lab: &Lab, members: &[NodePlan], at: Option<&NodePlan>, certificates: Option<&str>) -> Result<(), Error> {
    let lives: Vec<&str> = certificates.map_or_else(Vec::new, |lives| vec!["--certificates", lives]);
    let Some((founder, others)) = members.split_first() else { return Ok(()) };
    // A server must not start before its configuration is whole.
    for node in members {
        lab.stop_server(&node.name)?;
    }
    if let Some(at) = at {
        let asked = ["--region", &founder.region, "--recovery-key-file", RECOVERY_KEY];
        join(lab, founder, (at, &asked), &lives)?;
    } else {
        let init = ["init", "--region", &founder.region];
        let said = run(place(program(lab, founder)?.args(init).args(&lives), founder))?;
        keep_recovery_key(lab, founder, &said)?;
        start(lab, founder)?;
    }
    for node in others {
        join(lab, node, (founder, &["--uses", "1"]), &lives)?;
    }
    wait_for(lab, members)?;
    let is_known = |by: &NodePlan| {
        let what = format!("{} to know that region {} serves", by.name, founder.region);
        wait_until(FORMED_WITHIN, &what, &lab.console(&by.name), || serves(lab, by, &founder.region).unwrap_or(false))
    };
    is_known(founder)?;
    at.map_or(Ok(()), is_known)
}

/// Makes a node a member, or the founder of its region, with a token that another one makes when asked so.
fn join(lab: &Lab, node: &NodePlan, (at, asked): (&NodePlan, &[&str]), lives: &[&str]) -> Result<(), Error> {
    let token = join_token(lab, at, asked)?;
    run(place(program(lab, node)?.args(["join", &token]).args(lives), node))?;
    start(lab, node)
}

fn start(lab: &Lab, node: &NodePlan) -> Result<(), Error> {
    configure(lab, node)?;
    lab.start_server(&node.name)
}

/// Waits until the nodes of a region see each other, and the voters are chosen.
fn wait_for(lab: &Lab, members: &[NodePlan]) -> Result<(), Error> {
    for (number, node) in members.iter().enumerate() {
        let what = format!("the region to be whole in the eyes of {}", node.name);
        wait_until(FORMED_WITHIN, &what, &lab.console(&node.name), || {
            // One that does not vote need not know who does; the first always votes.
            let voters = if number == 0 { voters_of(members.len()) } else { 0 };
            is_formed(lab, node, members.len(), voters).unwrap_or(false)
        })?;
    }
    Ok(())
}

/// Where the first node keeps the recovery key that `init` printed: a lab has no safe, and its secrets are worth nothing.
pub const RECOVERY_KEY: &str = "/var/lib/insula/recovery-key";

fn keep_recovery_key(lab: &Lab, first: &NodePlan, said: &str) -> Result<(), Error> {
    let is_key = |line: &&str| line.len() == 41 && line.split('-').all(|group| group.len() == 6);
    let key = said.lines().map(str::trim).find(is_key);
    let key = key.ok_or_else(|| Error::NotFound("a recovery key in what `insula init` said".to_owned()))?;
    let state = lab.state()?;
    let init = machine::running(state.node(&first.name)?)?;
    let path = PathBuf::from(format!("/proc/{}/root{RECOVERY_KEY}", init.pid));
    fs::write(&path, key).attempt(|| format!("keep the recovery key in {RECOVERY_KEY} of {}", first.name))
}

/// The program inside a node.
fn program(lab: &Lab, node: &NodePlan) -> Result<Command, Error> {
    lab.command(&node.name, PROGRAM)
}

fn place<'a>(command: &'a mut Command, node: &NodePlan) -> &'a mut Command {
    let advertise = format!("{}:{NODE_PORT}", node.address);
    // A node has no systemd: its first process watches for the configuration.
    command.args(["--no-service", "--datacenter", &node.datacenter, "--name", &node.name, "--advertise", &advertise])
}

/// A token for one node; waits for the region to have a leader.
fn join_token(lab: &Lab, first: &NodePlan, asked: &[&str]) -> Result<String, Error> {
    let mut last = Err(Error::NotFound("no attempt was made".to_owned()));
    let waited = wait_until(FORMED_WITHIN, "a join token", &lab.console(&first.name), || {
        last = program(lab, first).and_then(|mut command| run(command.args(["token", "create"]).args(asked)));
        last.is_ok()
    });
    match (waited, last) {
        (Err(_), Err(why)) => Err(why),
        (Err(late), Ok(_)) => Err(late),
        (Ok(()), said) => {
            // The token is the last line, whatever is said for people before it.
            let said = said?;
            Ok(said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned())
        }
    }
}

/// Voters that a region of so many nodes chooses.
fn voters_of(nodes: usize) -> usize {
    if nodes < 3 { 1 } else { 3 }
}

/// Whether all nodes are up, and so many of them vote, in the eyes of one.
fn is_formed(lab: &Lab, node: &NodePlan, nodes: usize, voters: usize) -> Option<bool> {
    let said = run(program(lab, node).ok()?.args(["nodes", "--json"])).ok()?;
    let listing: Value = serde_json::from_str(&said).ok()?;
    let items = listing.get("items").and_then(Value::as_array)?;
    let count = |field: &str, value: Value| items.iter().filter(|item| item.get(field) == Some(&value)).count();
    Some(count("state", "up".into()) == nodes && count("is_voter", true.into()) >= voters)
}

/// Whether a node knows a region as one that serves.
fn serves(lab: &Lab, node: &NodePlan, region: &str) -> Option<bool> {
    let said = run(program(lab, node).ok()?.args(["regions", "--json"])).ok()?;
    let listing: Value = serde_json::from_str(&said).ok()?;
    let items = listing.get("items").and_then(Value::as_array)?;
    let is_it = |item: &&Value| item.get("name") == Some(&region.into());
    Some(items.iter().find(is_it)?.get("state") == Some(&"serving".into()))
}

/// Adds to a node's configuration what is the lab's: its own cgroup, the lab's registry without TLS, where its API is.
fn configure(lab: &Lab, node: &NodePlan) -> Result<(), Error> {
    let state = lab.state()?;
    let init = machine::running(state.node(&node.name)?)?;
    let path = PathBuf::from(format!("/proc/{}/root{CONFIG}", init.pid));
    let what = || format!("configure {}: {CONFIG}", node.name);
    let text = fs::read_to_string(&path).attempt(what)?;
    let invalid = |error: &dyn std::fmt::Display| Error::Invalid(format!("{}: {error}", what()));
    let mut config: toml::Table = text.parse().map_err(|error: toml::de::Error| invalid(&error))?;
    let runtime = config.entry("runtime").or_insert_with(|| toml::Table::new().into());
    let runtime = runtime.as_table_mut().ok_or_else(|| invalid(&"runtime is not a table"))?;
    runtime.insert("cgroup_parent".to_owned(), cgroup_parent(&state.name, &node.name).into());
    runtime.insert("insecure_registries".to_owned(), vec![services::registry().to_string()].into());
    // Open to the whole lab, clients in the services' network too.
    config.insert("api".to_owned(), SocketAddr::from((node.address, API_PORT)).to_string().into());
    insula_env::RealDisk.write_atomic(&path, config.to_string().as_bytes()).attempt(what)
}
