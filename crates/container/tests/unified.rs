//! What only control groups of version 2 give. `cargo xtask vm` has a machine with nothing else.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{collections::BTreeMap, fs, path::PathBuf};

use insula_container::{Exit, Runtime};
use insula_types::{ByteSize, InstanceId};
use support::{World, container, end, eventually, image::busybox, log_text, with_root};

/// As `with_root`, where the kernel has control groups of version 2 alone.
fn with_unified(name: &str, test: impl AsyncFnOnce(&World) + Send + 'static) {
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        with_root(name, test);
    } else {
        eprintln!("skipped: {name} needs cgroup v2 alone: cargo xtask vm");
    }
}

fn cgroup(world: &World, instance: InstanceId) -> PathBuf {
    PathBuf::from(format!("/sys/fs/cgroup/{}/{instance}", world.config.cgroup_parent))
}

/// A file of lines `name number`.
fn counters(world: &World, instance: InstanceId, file: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(cgroup(world, instance).join(file)).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(name, number)| (name.to_owned(), number.parse().unwrap())).collect()
}

#[test]
fn limits_are_set_and_processor_time_is_held_to_its_quota() {
    with_unified("quota", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let mut config = container(1, &image, &["sh", "-c", "cat /proc/self/cgroup; while :; do :; done"]);
        config.spec.resources.memory = ByteSize::mib(64);
        config.spec.resources.pids = 32;
        agent.runtime.start(&config).await.unwrap();
        for (file, expected) in [
            ("memory.max", "67108864"),
            ("memory.swap.max", "0"),
            ("memory.oom.group", "1"),
            ("pids.max", "32"),
            ("cpu.max", "10000 20000"),
        ] {
            let found = fs::read_to_string(cgroup(world, config.instance).join(file)).unwrap();
            assert_eq!(found.trim(), expected, "{file}");
        }
        let stat = eventually("it was held back", async || {
            let stat = counters(world, config.instance, "cpu.stat");
            (stat["nr_throttled"] >= 5 && stat["nr_periods"] >= 10).then_some(stat)
        })
        .await;
        let each_us = stat["usage_usec"] / stat["nr_periods"];
        assert!(each_us < 75_000, "{each_us} µs of 50,000 in each period: {stat:?}");
        let log = eventually("it says where it is", async || {
            Some(log_text(&agent.runtime, config.instance).await).filter(|log| !log.is_empty())
        })
        .await;
        assert!(log.contains("F 0::/\n"), "it sees where it is on the node: {log}");
        agent.crash();
    });
}

#[test]
fn an_instance_goes_as_a_whole_when_a_part_of_it_takes_too_much_memory() {
    with_unified("whole", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let greedy = "sh -c 'x=xxxxxxxx; while :; do x=$x$x; done'; echo survived; sleep 1000";
        let mut config = container(1, &image, &["sh", "-c", greedy]);
        config.spec.resources.memory = ByteSize::mib(16);
        agent.runtime.start(&config).await.unwrap();
        let seen = end(&agent.runtime, config.instance).await;
        assert_eq!((seen.exit, seen.is_oom_killed), (Exit::Signal(9), true));
        let events = counters(world, config.instance, "memory.events");
        assert_eq!(events["oom_group_kill"], 1, "{events:?}");
        let log = log_text(&agent.runtime, config.instance).await;
        assert!(!log.contains("survived"), "{log}");
        agent.crash();
    });
}

#[test]
fn what_an_instance_has_in_control_groups_of_its_own_goes_with_it() {
    with_unified("below", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let config = container(1, &image, &["sleep", "1000"]);
        let running = agent.runtime.start(&config).await.unwrap();
        let below = cgroup(world, config.instance).join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("cgroup.procs"), running.pid.to_string()).unwrap();
        let shim = rustix::process::Pid::from_raw(world.shim_pid(config.instance).unwrap() as i32).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        assert!(matches!(end(&agent.runtime, config.instance).await.exit, Exit::Unseen(_)));
        agent.runtime.remove(config.instance).await.unwrap();
        assert!(!cgroup(world, config.instance).exists());
        agent.crash();
    });
}
