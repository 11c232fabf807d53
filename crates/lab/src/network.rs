//! The lab's network: namespaces that live as long as a process that holds them, one bridge per data centre in the
//! router's namespace, one `eth0` per node. Nothing is in the machine's own namespace and nothing has a global name,
//! so that ending the processes ends the network.
//!
//! A cut is a routing rule at the receiver that drops what comes from one address without a word.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
};

use nix::sched::{CloneFlags, setns};

use crate::{
    Error, Process,
    config::{DATACENTER_PREFIX, NodePlan, SERVICES, SERVICES_ADDRESS, SERVICES_GATEWAY, SERVICES_NUMBER},
    error::Attempt,
    process::{MEMBER_VARIABLE, leave_behind, log_tail, run_with},
};

/// Where cuts stand in the order of routing rules; the local table is moved behind them.
const CUT_PRIORITY: u32 = 10;
const LOCAL_PRIORITY: u32 = 20;

/// The router's device that leads to other regions.
pub(crate) const WAN: &str = "wan";
/// Where what comes out of it, services that are as far as a region, what stays in a region, and what leaves one stand in the order of the router's rules.
const ARRIVED_PRIORITY: u32 = 10;
const SERVICES_PRIORITY: u32 = 15;
const WITHIN_PRIORITY: u32 = 20;
const BETWEEN_PRIORITY: u32 = 30;
/// The table by which packets leave a region.
const WAN_TABLE: u32 = 100;

/// Starts a process that holds a network namespace of its own, for the lab in `dir`.
pub(crate) fn hold(program: &Path, dir: &Path) -> Result<Process, Error> {
    start(program, dir, &["hold"])
}

/// Starts the process that carries packets between regions in the router's namespace, and leads them there. `control` is the socket
/// that it listens on.
pub(crate) fn start_carrier(
    program: &Path,
    dir: &Path,
    (router, control): (Process, &Path),
    nodes: &[NodePlan],
) -> Result<Process, Error> {
    let loose = "for of in all default; do echo 0 > /proc/sys/net/ipv4/conf/$of/rp_filter; done";
    run_with(inside(router, "sh").args(["-c", loose]), "")?;
    let (network, control) = (router.pid.to_string(), control.display().to_string());
    let carrier = start(program, dir, &["carry", "--network", &network, "--control", &control])?;
    let mut lines = format!(
        "link set {WAN} mtu 1500 txqueuelen 10000 up\n\
         route add default dev {WAN} table {WAN_TABLE}\n\
         rule add pref {ARRIVED_PRIORITY} iif {WAN} lookup main\n\
         rule add pref {WITHIN_PRIORITY} from {SERVICES_ADDRESS}/24 lookup main\n\
         rule add pref {WITHIN_PRIORITY} to {SERVICES_ADDRESS}/24 lookup main\n"
    );
    let mut regions: Vec<Ipv4Addr> = nodes.iter().map(NodePlan::region_network).collect();
    regions.dedup();
    for network in regions {
        lines += &format!("rule add pref {WITHIN_PRIORITY} from {network}/24 to {network}/24 lookup main\n");
        lines += &format!("rule add pref {BETWEEN_PRIORITY} from {network}/24 lookup {WAN_TABLE}\n");
    }
    ip(router, &lines)?;
    Ok(carrier)
}

/// Leads what goes between the services and a region to the carrier too.
pub(crate) fn carry_services(router: Process, region: u8) -> Result<(), Error> {
    let mut lines = String::new();
    for (from, to) in [(region, SERVICES_NUMBER), (SERVICES_NUMBER, region)] {
        lines += &format!(
            "rule add pref {SERVICES_PRIORITY} from 10.200.{from}.0/24 to 10.200.{to}.0/24 lookup {WAN_TABLE}\n"
        );
    }
    ip(router, &lines)
}

/// Starts a process of ours with a role of `lab-init`, and waits until it is ready.
fn start(program: &Path, dir: &Path, role: &[&str]) -> Result<Process, Error> {
    let mut command = Command::new(program);
    command.arg("lab-init").args(role).env(MEMBER_VARIABLE, dir);
    let what = || format!("start {} lab-init {}", program.display(), role.join(" "));
    // Not our own standard error: it outlives us, and whoever reads that would wait for its end.
    let log = OpenOptions::new().create(true).append(true).open(dir.join("lab.log")).attempt(what)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut child = leave_behind(&mut command).spawn().attempt(what)?;
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut said).attempt(what)?;
    }
    if said.trim() != "ready" {
        return Err(Error::Command { command: what(), said: log_tail(&dir.join("lab.log")) });
    }
    Process::of(child.id() as i32)
        .ok_or_else(|| Error::Command { command: what(), said: "it ended at once".to_owned() })
}

/// A command that runs in the network namespace which `holder` holds, and is otherwise like one of ours.
pub(crate) fn inside(holder: Process, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", holder.pid)).arg("--").arg(program);
    command
}

/// Runs `work` on a thread that is in the network namespace which `holder` holds.
pub(crate) fn within<T: Send>(holder: Process, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let enter = || {
        let path = format!("/proc/{}/ns/net", holder.pid);
        let namespace = File::open(&path).attempt(|| format!("open {path}"))?;
        setns(&namespace, CloneFlags::CLONE_NEWNET).attempt(|| format!("enter {path}"))?;
        work()
    };
    std::thread::scope(|scope| match scope.spawn(enter).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn ip(holder: Process, lines: &str) -> Result<(), Error> {
    run_with(inside(holder, "ip").args(["-batch", "-"]), lines).map(drop)
}

/// Makes the router: forwarding, a bridge for each data centre, a link to the services.
pub(crate) fn set_up_router(router: Process, services: Process, nodes: &[NodePlan]) -> Result<(), Error> {
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    run_with(inside(router, "sh").args(["-c", forward]), "")?;
    let mut lines = String::new();
    let mut done: Vec<&str> = Vec::new();
    for node in nodes {
        if !done.contains(&node.bridge.as_str()) {
            done.push(&node.bridge);
            let NodePlan { bridge, gateway, .. } = node;
            // A bridge without an address of its own takes a port's, and changes it when that port goes: its other
            // ports would send to the old one until their neighbour entry ages.
            let hardware = hardware_address(*gateway);
            lines += &format!(
                "link add {bridge} address {hardware} type bridge forward_delay 0\n\
                 addr add {gateway}/{DATACENTER_PREFIX} dev {bridge}\n\
                 link set {bridge} up\n"
            );
        }
    }
    lines += &format!(
        "link add {SERVICES} type veth peer name eth0 netns {pid}\n\
         addr add {SERVICES_GATEWAY}/24 dev {SERVICES}\n\
         link set {SERVICES} up\n",
        pid = services.pid
    );
    ip(router, &lines)?;
    let lines = format!(
        "addr add {SERVICES_ADDRESS}/24 dev eth0\nlink set eth0 up\nroute add default via {SERVICES_GATEWAY}\n"
    );
    ip(services, &lines)?;
    // Clients there stand for many machines. With the ports of one alone, thousands of short connections leave the kernel
    // searching for a free port.
    let reuse = "echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse";
    run_with(inside(services, "sh").args(["-c", reuse]), "").map(drop)
}

/// A locally administered hardware address (IEEE 802, second bit of the first byte) that follows from `address`.
fn hardware_address(address: Ipv4Addr) -> String {
    let [first, second, third, last] = address.octets();
    format!("02:00:{first:02x}:{second:02x}:{third:02x}:{last:02x}")
}

/// Connects a node's fresh namespace to its data centre.
pub(crate) fn plug(router: Process, network: Process, node: &NodePlan) -> Result<(), Error> {
    let NodePlan { name, address, gateway, bridge, .. } = node;
    // A machine keeps its hardware address when its power comes back; so neighbours find it at once.
    let hardware = hardware_address(*address);
    ip(router, &format!("link add {name} type veth peer name eth0 address {hardware} netns {}\n", network.pid))?;
    ip(
        network,
        &format!(
            "addr add {address}/{DATACENTER_PREFIX} dev eth0\n\
             link set eth0 up\n\
             route add default via {gateway}\n\
             rule add pref {LOCAL_PRIORITY} lookup local\n\
             rule del pref 0 lookup local\n"
        ),
    )?;
    ip(router, &format!("link set {name} master {bridge}\nlink set {name} up\n"))
}

/// Takes the node's link down: from here on it is silent.
pub(crate) fn silence(router: Process, node: &str) -> Result<(), Error> {
    ip(router, &format!("link set {node} down\n"))
}

/// Removes the node's link.
pub(crate) fn unplug(router: Process, node: &str) -> Result<(), Error> {
    ip(router, &format!("link del {node}\n"))
}

/// Drops at a node what comes from an address, silently.
pub(crate) fn cut(receiver: Process, from: Ipv4Addr) -> Result<(), Error> {
    ip(receiver, &format!("rule add pref {CUT_PRIORITY} from {from} iif eth0 blackhole\n"))
}

/// Undoes [`cut`].
pub(crate) fn heal(receiver: Process, from: Ipv4Addr) -> Result<(), Error> {
    ip(receiver, &format!("rule del pref {CUT_PRIORITY} from {from} iif eth0 blackhole\n"))
}
