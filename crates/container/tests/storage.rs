//! What instances may write to: read-only roots, memory, bounded layers, volumes; and what else is bounded.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{fs, time::Duration};

use insula_container::{Exit, InstanceConfig, NodeRuntime, ObservedState, Runtime};
use insula_types::{ByteSize, TmpfsSpec, VolumeRef, VolumeSpec};
use support::{container, end, image::busybox, log_text, observed, with_root};

/// Runs a script to its end, and gives its output and how it ended.
async fn run(runtime: &NodeRuntime, config: &InstanceConfig) -> (String, Exit) {
    runtime.start(config).await.unwrap();
    let ended = end(runtime, config.instance).await;
    let log = log_text(runtime, config.instance).await;
    runtime.remove(config.instance).await.unwrap();
    (log, ended.exit)
}

fn volume(text: &str) -> VolumeRef {
    text.parse().unwrap()
}

/// With the volume `data` at `/var/data`.
fn with_volume(mut config: InstanceConfig, slot: u32) -> InstanceConfig {
    let size = ByteSize::mib(16);
    config.spec.volumes = vec![VolumeSpec { name: "data".parse().unwrap(), path: "/var/data".to_owned(), size }];
    config.slot = Some(slot);
    config
}

#[test]
fn a_root_can_be_read_only_with_memory_to_write_to() {
    with_root("read-only", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = "touch /x; touch /etc/hosts; cat /etc/hosts >/dev/null && echo names; \
                      dd if=/dev/zero of=/run/a/x bs=1M count=3; ls /run/a; touch /dev/shm/x && echo shm";
        let mut config = container(1, &image, &["sh", "-c", script]);
        config.spec.is_read_only = true;
        config.spec.tmpfs = vec![
            TmpfsSpec { path: "/run/a".to_owned(), size: ByteSize::mib(2) },
            TmpfsSpec { path: "/run".to_owned(), size: ByteSize::mib(1) },
        ];
        let (log, exit) = run(&agent.runtime, &config).await;
        assert_eq!(exit, Exit::Code(0), "{log}");
        for expected in
            ["touch: /x: Read-only", "touch: /etc/hosts: Read-only", " F names", "No space left", " F x", " F shm"]
        {
            assert!(log.contains(expected), "{expected}: {log}");
        }
        agent.crash();
    });
}

#[test]
fn a_layer_holds_what_it_may_and_is_gone_with_its_instance() {
    with_root("layer", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = "cat /www/index.html; dd if=/dev/zero of=/big bs=1M count=100; \
                      i=0; while touch /www/$i 2>/dev/null; do i=$((i+1)); done; echo files $i";
        let mut config = container(1, &image, &["sh", "-c", script]);
        config.spec.resources.disk = Some(ByteSize::mib(24));
        let (log, exit) = run(&agent.runtime, &config).await;
        assert_eq!(exit, Exit::Code(0), "{log}");
        assert!(log.contains("hello from an image") && log.contains("No space left"), "{log}");
        let files = log.rsplit("files ").next().unwrap().trim();
        assert!(files.parse::<u32>().unwrap() < 24 << 6, "so many files fit in 16 KiB each: {files}");

        // The same while it runs, across a crash of the agent, and nothing stays mounted.
        config.spec.command = ["sh", "-c", "echo kept >/mine; sleep 1000"].map(str::to_owned).into();
        agent.runtime.start(&config).await.unwrap();
        agent.crash();
        let agent = world.open().await;
        let seen = observed(&agent.runtime, config.instance).await.unwrap();
        assert!(matches!(seen.state, ObservedState::Running(_)), "{seen:?}");
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(&config.instance.to_string()), "{mounts}");
        agent.crash();
    });
}

#[test]
fn a_volume_outlives_its_instances_and_serves_one_at_a_time() {
    with_root("volume", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        let runtime = &agent.runtime;
        runtime.ensure_image(&image).await.unwrap();
        let name = volume("shop/web/data.0");
        runtime.make_volume(&name, ByteSize::mib(16)).await.unwrap();
        let script = "ls -A /var/data; echo one >/var/data/file && ls -ln /var/data";
        let (log, _) = run(runtime, &with_volume(container(1, &image, &["sh", "-c", script]), 0)).await;
        assert_eq!(log.lines().count(), 2, "nothing was in it: {log}");
        assert!(log.contains(" 0        0 "), "root is root in it: {log}");

        // Another app would get other users of the node; the volume's are the container's own.
        let reader = with_volume(container(2, &image, &["sh", "-c", "cat /var/data/file; sleep 1000"]), 0);
        runtime.start(&reader).await.unwrap();
        let second = with_volume(container(3, &image, &["true"]), 0);
        let refused = runtime.start(&second).await.unwrap_err();
        assert!(refused.to_string().contains("an earlier instance still has its volume"), "{refused}");
        runtime.delete_volume(&name).await.expect_err("it is in use");
        // Not every root may do that while it is in use (CAP_SYS_RESOURCE, the 25th); it is done before the next use then.
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        let may_resize = u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1;
        let grown = runtime.make_volume(&name, ByteSize::mib(48)).await;
        assert_eq!(grown.is_ok(), may_resize, "{grown:?}");
        let script = "dd if=/dev/zero of=/var/data/big bs=1M count=32 && echo fits";
        runtime.stop(reader.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        assert!(log_text(runtime, reader.instance).await.contains(" F one"));
        runtime.remove(reader.instance).await.unwrap();
        runtime.make_volume(&name, ByteSize::mib(48)).await.unwrap();
        assert_eq!(runtime.volumes().await.unwrap()[0].size, ByteSize::mib(48));
        let (log, _) = run(runtime, &with_volume(container(4, &image, &["sh", "-c", script]), 0)).await;
        assert!(log.contains(" F fits"), "{log}");

        // The reservation is found again after a crash.
        runtime.start(&reader).await.unwrap();
        agent.crash();
        let agent = world.open().await;
        agent.runtime.start(&second).await.expect_err("the first one still runs");
        agent.runtime.stop(reader.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.runtime.remove(reader.instance).await.unwrap();
        agent.runtime.delete_volume(&name).await.unwrap();
        assert!(agent.runtime.volumes().await.unwrap().is_empty());
        let gone = agent.runtime.start(&second).await.unwrap_err();
        assert!(format!("{gone:?}").contains("volume shop/web/data.0 is not on this node"), "{gone:?}");
        agent.crash();
    });
}

#[test]
fn a_new_volume_has_the_owner_of_the_directory_that_it_covers() {
    with_root("owner", async |world| {
        use support::image::{File, Pack, layer};
        let mut layers = busybox();
        layers.push(layer(&[File::Directory("var/"), File::Owned("var/data/", 0o750, 1000)], &Pack::Plain));
        let image = world.registry.push(&layers);
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        agent.runtime.make_volume(&volume("shop/web/data.1"), ByteSize::mib(16)).await.unwrap();
        let config = with_volume(container(1, &image, &["ls", "-lnd", "/var/data"]), 1);
        let (log, _) = run(&agent.runtime, &config).await;
        assert!(log.contains("drwxr-x---") && log.contains(" 1000     1000 "), "{log}");
        agent.crash();
    });
}

#[test]
fn files_and_rates_are_bounded() {
    with_root("bounds", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = "ulimit -n; dd if=/dev/zero of=/x bs=1M count=8 conv=fsync 2>/dev/null; echo written";
        let mut config = container(1, &image, &["sh", "-c", script]);
        config.spec.resources.files = Some(100);
        let clock = insula_env::Clock::real();
        let begin = clock.now();
        let (log, _) = run(&agent.runtime, &config).await;
        let free = begin.elapsed();
        assert!(log.contains(" F 100") && log.contains("written"), "{log}");

        config.instance = insula_types::InstanceId::new(2);
        config.spec.resources.io = Some(ByteSize::mib(4));
        let begin = clock.now();
        let (log, _) = run(&agent.runtime, &config).await;
        assert!(log.contains("written"), "{log}");
        let bounded = begin.elapsed();
        assert!(
            bounded > Duration::from_millis(1500),
            "8 MiB at 4 MiB/s take two seconds, and took {bounded:?}, {free:?} without"
        );
        agent.crash();
    });
}

#[test]
fn a_first_process_of_ours_collects_orphans_and_hands_signals_on() {
    with_root("init", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        // Without it the shell is the first process, which has no parent and gets no signal that it does not handle.
        let script = "echo parent $PPID; sh -c 'sleep 0.1 & exit 0'; \
                      while :; do sleep 0.2; for p in /proc/[0-9]*; do read x </proc/self/stat; done; \
                      grep -c 'State.*Z' /proc/[0-9]*/status | grep ':1' || echo none; done";
        let mut config = container(1, &image, &["sh", "-c", script]);
        config.spec.has_init = true;
        agent.runtime.start(&config).await.unwrap();
        let log = support::eventually("it looks for orphans", async || {
            let log = log_text(&agent.runtime, config.instance).await;
            (log.matches(" F none").count() >= 3).then_some(log)
        })
        .await;
        assert!(log.contains(" F parent 1"), "{log}");
        agent.runtime.stop(config.instance, Some("SIGTERM"), Duration::from_secs(20)).await.unwrap();
        assert_eq!(end(&agent.runtime, config.instance).await.exit, Exit::Code(128 + 15));
        agent.runtime.remove(config.instance).await.unwrap();

        let mut config = container(2, &image, &["sh", "-c", "exit 7"]);
        config.spec.has_init = true;
        assert_eq!(run(&agent.runtime, &config).await.1, Exit::Code(7));
        // What the first process is made of cannot be reached from inside.
        let mut config = container(3, &image, &["sh", "-c", "cat /proc/1/exe >/dev/null; ls -l /proc/1/exe"]);
        config.spec.has_init = true;
        let (log, _) = run(&agent.runtime, &config).await;
        assert!(log.matches("denied").count() >= 2, "{log}");
        agent.crash();
    });
}
