//! Ways out of a container, tried from inside as its root: each is refused.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Child, Command},
};

use insula_container::{Exit, Runtime};
use support::{container, end, eventually, image::perl, log_text, with_root};

const EPERM: i32 = 1;
const ESRCH: i32 = 3;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const EROFS: i32 = 30;
const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;
/// It must work, or programs do not.
const FINE: i32 = 0;

/// What is tried, as perl, and the error that it ends with. Numbers of system calls are those of x86_64.
const ATTEMPTS: &[(&str, &str, i32)] = &[
    ("mount a file system", "syscall(165, 'none', '/tmp', 'tmpfs', 0, 0)", EPERM),
    ("open a file system", "syscall(430, 'proc', 0)", EPERM),
    ("change a mount", "syscall(442, -100, '/proc/sys', 0, '', 0)", EPERM),
    ("unmount what hides the node", "syscall(166, '/proc/kcore', 2)", EPERM),
    ("change the root", "syscall(155, '/', '/tmp')", EPERM),
    ("unshare a user namespace", "syscall(272, 0x10000000)", EPERM),
    ("clone into a user namespace", "syscall(56, 0x10000011, 0, 0, 0, 0)", EPERM),
    ("clone into a mount namespace", "syscall(56, 0x00020011, 0, 0, 0, 0)", EPERM),
    ("clone into a network namespace", "syscall(56, 0x40000011, 0, 0, 0, 0)", EPERM),
    ("the clone whose flags no filter sees", "syscall(435, 0, 0)", ENOSYS),
    ("enter another namespace", "syscall(308, 0, 0)", EPERM),
    ("trace a process of the node", "syscall(101, 16, NODE, 0, 0)", ESRCH),
    ("signal a process of the node", "syscall(62, NODE, 0)", ESRCH),
    (
        "read the memory of a process of the node",
        "syscall(310, NODE, pack('QQ', 4096, 1), 1, pack('QQ', 4096, 1), 1, 0)",
        ESRCH,
    ),
    ("a raw socket", "syscall(41, 2, 3, 1)", EPERM),
    ("a packet socket", "syscall(41, 17, 3, 768)", EPERM),
    ("the kernel's cryptography", "syscall(41, 38, 5, 0)", EAFNOSUPPORT),
    ("the hypervisor", "syscall(41, 40, 1, 0)", EAFNOSUPPORT),
    ("load a module", "syscall(175, 0, 0, 0)", EPERM),
    ("load a module from a file", "syscall(313, 0, 0, 0)", EPERM),
    ("load another kernel", "syscall(246, 0, 0, 0, 0)", EPERM),
    ("reboot", "syscall(169, 0xfee1dead, 672274793, 0x1234567, 0)", EPERM),
    ("load a program into the kernel", "syscall(321, 0, 0, 0)", EPERM),
    ("count the kernel's events", "syscall(298, 0, 0, 0, 0, 0)", EPERM),
    ("io_uring", "syscall(425, 1, 0)", EPERM),
    ("faults in user space", "syscall(323, 0)", EPERM),
    ("the kernel's keys", "syscall(250, 0, 0, 0, 0, 0)", EPERM),
    ("the kernel's log", "syscall(103, 3, 0, 0)", EPERM),
    ("open a file by its handle", "syscall(304, -100, 0, 0)", EPERM),
    ("set the clock", "syscall(164, 0, 0)", EPERM),
    ("name the machine", "syscall(170, 'x', 1)", EPERM),
    ("swap", "syscall(167, '/tmp/x', 0)", EPERM),
    ("the machine's ports", "syscall(172, 3)", EPERM),
    ("make a device of a disk", "syscall(133, '/tmp/disk', 0x61b0, 0xfe00)", EPERM),
    ("become a user that the app does not have", "syscall(105, 70000)", EINVAL),
    ("where the node puts dumps", "syscall(2, '/proc/sys/kernel/core_pattern', 1)", EACCES),
    ("settings of the app's own network", "syscall(2, '/proc/sys/net/ipv4/ip_forward', 1)", EACCES),
    ("the node's devices", "syscall(85, '/sys/kernel/uevent_seqnum', 0x1b4)", EROFS),
    ("a socket", "syscall(41, 2, 1, 0)", FINE),
    ("become another user of the app", "syscall(117, 33, 33, 33)", FINE),
];

#[test]
fn attempts_to_escape_are_refused() {
    with_root("escapes", async |world| {
        let image = world.registry.push(&perl());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let node = std::process::id().to_string();
        let mut script = String::new();
        for (number, (_, call, _)) in ATTEMPTS.iter().enumerate() {
            // perl hands out only what may be written to.
            let call = call.replace("NODE", &node).replace("',", "'.$e,").replace("')", "'.$e)");
            script += &format!("$! = 0; $r = {call}; print \"{number} \", ($r < 0 ? $! + 0 : 0), \" end\\n\";");
        }
        let config = container(1, &image, &["perl", "-e", &script]);
        agent.runtime.start(&config).await.unwrap();
        let seen = end(&agent.runtime, config.instance).await;
        let log = log_text(&agent.runtime, config.instance).await;
        assert_eq!(seen.exit, Exit::Code(0), "{log}");
        let mut wrong = Vec::new();
        for (number, (what, _, expected)) in ATTEMPTS.iter().enumerate() {
            if !log.contains(&format!("stdout F {number} {expected} end")) {
                let line = log.lines().find(|line| line.contains(&format!("stdout F {number} ")));
                wrong.push(format!("{what}: {expected} expected, {line:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        agent.crash();
    });
}

#[test]
fn devices_of_the_node_are_out_of_reach_also_without_users_of_their_own() {
    with_root("devices", async |world| {
        let image = world.registry.push(&perl());
        // Other users cannot pass: no user namespaces.
        fs::set_permissions(&world.dir, fs::Permissions::from_mode(0o700)).unwrap();
        let agent = world.open().await;
        assert!(!agent.runtime.has_users());
        agent.runtime.ensure_image(&image).await.unwrap();
        let try_out = |path: &str, mode: u32, device: u32| {
            format!(
                "$p = '{path}'; syscall(133, $p, {mode}, {device}); print syscall(2, $p, 0) < 0 ? 'shut' : 'open', \"\\n\";"
            )
        };
        // A disk, the machine's memory, the kernel's log. The root is mounted so that it has no devices, /dev is not.
        let script = try_out("/dev/disk", 0o060_600, 0xfe00)
            + &try_out("/dev/memory", 0o020_600, 0x101)
            + &try_out("/dev/log", 0o020_600, 0x10b)
            + &try_out("/log", 0o020_600, 0x10b);
        let config = container(1, &image, &["perl", "-e", &script]);
        agent.runtime.start(&config).await.unwrap();
        let seen = end(&agent.runtime, config.instance).await;
        let log = log_text(&agent.runtime, config.instance).await;
        assert_eq!((seen.exit, log.matches("F shut").count()), (Exit::Code(0), 4), "{log}");
        agent.crash();
    });
}

/// Where another instance, the node, a cloud and the world answer.
const NEIGHBOUR: (&str, u16) = ("10.77.0.2", 80);
const NODE: (&str, u16) = ("10.77.0.1", 7480);
const METADATA: (&str, u16) = ("169.254.169.254", 80);
const WORLD: (&str, u16) = ("10.99.0.2", 80);

const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

#[test]
fn instances_reach_the_world_and_neither_each_other_nor_the_node() {
    with_root("reach", async |world| {
        let image = world.registry.push(&perl());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let neighbour = agent.runtime.start(&container(1, &image, &[])).await.unwrap();
        let address = neighbour.endpoints[&"http".parse().unwrap()];
        assert_eq!(address.to_string(), format!("{}:{}", NEIGHBOUR.0, NEIGHBOUR.1));
        let outside = outside();
        let _node = TcpListener::bind(NODE).unwrap();
        for reachable in [NEIGHBOUR, NODE, METADATA, WORLD] {
            eventually(reachable.0, async || (connect("", reachable) == 0).then_some(())).await;
        }

        let tries = [WORLD, NODE, METADATA, NEIGHBOUR].map(connecting).concat();
        let second = container(2, &image, &["perl", "-e", &(tries + "sleep 1000")]);
        agent.runtime.start(&second).await.unwrap();
        let log = eventually("all are tried", async || {
            Some(log_text(&agent.runtime, second.instance).await).filter(|log| log.lines().count() == 4)
        })
        .await;
        let seen: Vec<i32> = log.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(seen, [0, ECONNREFUSED, EHOSTUNREACH, EHOSTUNREACH]);

        // Also where the kernel does not show the firewall what a bridge passes on (without br_netfilter).
        assert!(sh("ip -d link show ins-00000001").contains("isolated on"));

        // Nor does anybody outside reach an instance, or one that says to be another.
        let netns = format!("nsenter --net=/proc/{}/ns/net", outside.0.id());
        sh(&format!("{netns} ip route add 10.77.0.0/28 via 10.99.0.1"));
        assert_eq!(connect(&netns, NEIGHBOUR), EHOSTUNREACH);
        let netns = format!("nsenter --net={}", world.home(second.instance).join("netns").display());
        assert_eq!(connect(&netns, WORLD), 0);
        sh(&format!("{netns} ip addr add 10.77.0.9/28 dev eth0"));
        sh(&format!("{netns} ip route replace default via 10.77.0.1 src 10.77.0.9"));
        assert_ne!(connect(&netns, WORLD), 0);

        // Whatever others do to the rules.
        sh("nft flush ruleset");
        eventually("they are put back", async || {
            (connect(&netns, NODE) != 0 && connect(&netns, WORLD) != 0).then_some(())
        })
        .await;
        sh("nft flush chain inet insula0 to_node");
        sh(&format!("{netns} ip addr del 10.77.0.9/28 dev eth0"));
        eventually("also a part of them", async || (connect(&netns, NODE) == ECONNREFUSED).then_some(())).await;
        sh("ip link del out0");
        agent.crash();
    });
}

/// perl that says with which error it connects, or fails to.
fn connecting((address, port): (&str, u16)) -> String {
    let address = address.replace('.', ",");
    format!(
        "$SIG{{ALRM}} = sub {{}}; alarm 5; socket(S, 2, 1, 0); $! = 0; \
        print connect(S, pack('S n C4 x8', 2, {port}, {address})) ? 0 : $! + 0, \"\\n\"; alarm 0; close S; $| = 1;"
    )
}

/// With which error the node connects, or where a command leads.
fn connect(enter: &str, to: (&str, u16)) -> i32 {
    sh(&format!("{enter} perl -e '{}'", connecting(to).replace('\'', "'\\''"))).trim().parse().unwrap()
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A machine one hop behind the node, with a web server, which also answers where clouds tell their secrets.
fn outside() -> Server {
    let serve = "until ip link show up0 >/dev/null 2>&1; do sleep 0.05; done; ip addr add 10.99.0.2/24 dev up0; \
        ip addr add 169.254.169.254/32 dev lo; ip link set lo up; ip link set up0 up; exec busybox httpd -f -p 80 -h /etc";
    let server = Server(Command::new("unshare").args(["--net", "sh", "-c", serve]).spawn().unwrap());
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let path = format!("/proc/{}/ns/net", server.0.id());
    while fs::read_link(&path).is_ok_and(|namespace| namespace == own) {
        std::thread::yield_now();
    }
    sh(&format!("ip link add out0 type veth peer name up0 netns {}", server.0.id()));
    sh("ip addr add 10.99.0.1/24 dev out0; ip link set out0 up; ip route add 169.254.169.254/32 dev out0");
    server
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
