//! What only control groups of version 2 give. `cargo xtask vm` has a machine with nothing else.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use insula_container::{Exit, Runtime};
use insula_types::{ByteSize, Capacity, CpuMillis, ExecSpec, InstanceId};
use support::{World, container, end, eventually, image::busybox, log_text, with_root};

/// As `with_root`, where the kernel has control groups of version 2 alone.
fn with_unified(name: &str, test: impl AsyncFnOnce(&World) + Send + 'static) {
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap() {
        with_root(name, test);
    } else {
        eprintln!("skipped: {name} needs cgroup v2 alone: cargo xtask vm");
    }
}

/// The cgroup above those of all instances.
fn parent(world: &World) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(&world.config.cgroup_parent)
}

fn cgroup(world: &World, instance: InstanceId) -> PathBuf {
    parent(world).join(instance.to_string())
}

/// A file of lines `name number` in a cgroup.
fn counters(cgroup: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(cgroup.join(file)).unwrap();
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
            ("cpu.max.burst", "1000"),
        ] {
            let found = fs::read_to_string(cgroup(world, config.instance).join(file)).unwrap();
            assert_eq!(found.trim(), expected, "{file}");
        }
        let stat = eventually("it was held back", async || {
            let stat = counters(&cgroup(world, config.instance), "cpu.stat");
            (stat["nr_throttled"] >= 5 && stat["nr_periods"] >= 10).then_some(stat)
        })
        .await;
        let each_us = stat["usage_usec"] / stat["nr_periods"];
        assert!(each_us < 15_000, "{each_us} µs of 10,000 in each period: {stat:?}");
        let log = eventually("it says where it is", async || {
            Some(log_text(&agent.runtime, config.instance).await).filter(|log| !log.is_empty())
        })
        .await;
        assert!(log.contains("F 0::/\n"), "it sees where it is on the node: {log}");
        agent.crash();
    });
}

#[test]
fn together_instances_are_held_to_what_the_node_gives_them() {
    with_unified("bound", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open_bounded(Capacity { cpu: CpuMillis(400), memory: ByteSize::mib(256) }).await;
        agent.runtime.ensure_image(&image).await.unwrap();
        // Each is within its own limit of 500; the two are not within that of both.
        for number in [1, 2] {
            let config = container(number, &image, &["sh", "-c", "while :; do :; done"]);
            agent.runtime.start(&config).await.unwrap();
        }
        let before = counters(&parent(world), "cpu.stat");
        let after = eventually("they are held back", async || {
            let stat = counters(&parent(world), "cpu.stat");
            let grown = |name: &str| stat[name] - before[name];
            (grown("nr_throttled") >= 5 && grown("nr_periods") >= 10).then_some(stat)
        })
        .await;
        let each_us = (after["usage_usec"] - before["usage_usec"]) / (after["nr_periods"] - before["nr_periods"]);
        assert!(each_us < 12_000, "{each_us} µs of 8,000 in each period: {before:?} {after:?}");
        // What is told of each is its own, not that of both.
        for (instance, seen) in agent.runtime.pressures().await.unwrap().here {
            let own = counters(&cgroup(world, instance), "cpu.stat");
            assert!(seen.cpu_periods >= 5 && seen.cpu_throttled <= own["nr_throttled"], "{seen:?} {own:?}");
        }
        agent.crash();
    });
}

#[test]
fn forks_that_a_command_is_refused_are_its_instances() {
    with_unified("forks", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let mut config = container(1, &image, &["sleep", "1000"]);
        config.spec.resources.pids = 8;
        agent.runtime.start(&config).await.unwrap();
        let forks_refused = async || agent.runtime.pressures().await.unwrap().here[0].1.forks_refused;
        assert_eq!(forks_refused().await, 0);
        let command = ["sh", "-c", "for i in $(seq 20); do sleep 1000 & done"].map(str::to_owned).into();
        let spec = ExecSpec { command, terminal: None, has_input: false };
        let exec = agent.runtime.exec(config.instance, &spec).await.unwrap();
        eventually("it is told", async || (forks_refused().await > 0).then_some(())).await;
        drop(exec);
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
        let events = counters(&cgroup(world, config.instance), "memory.events");
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
