//! Ways out of a container, tried from inside as its root: each is refused.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use insula_container::{Exit, Runtime};
use support::{container, end, image::perl, log_text, with_root};

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
