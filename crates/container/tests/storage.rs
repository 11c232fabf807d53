//! What instances may write to: read-only roots, memory, bounded layers, volumes; and what else is bounded.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use insula_container::{Error, Exit, ImageRef, InstanceConfig, NodeRuntime, ObservedState, Runtime};
use insula_types::{ByteSize, SnapshotName, TmpfsSpec, VolumeRef, VolumeSpec};
use support::{World, container, end, eventually, image::busybox, log_text, observed, with_root};

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

fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

/// What was wrong with a file, by its kind.
fn kind<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorKind {
    match outcome.unwrap_err() {
        Error::File { source, .. } => source.kind(),
        other => panic!("{other:?}"),
    }
}

/// What an attempt gives once the kernel has let go of a volume, which it does a moment after the last instance did.
async fn once_free<T>(mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let outcome = eventually("the volume is free", async || match attempt().await {
        Err(Error::File { source, .. }) if source.to_string().contains("still mounted") => None,
        outcome => Some(outcome),
    });
    outcome.await.unwrap()
}

async fn restore(runtime: &NodeRuntime, volume: &VolumeRef, name: &str, size: ByteSize) {
    once_free(async || runtime.restore_snapshot(volume, &snapshot(name), size).await).await;
}

async fn stop(runtime: &NodeRuntime, config: &InstanceConfig) {
    runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
    runtime.remove(config.instance).await.unwrap();
}

/// Writes 0, 1, 2 … into a file, as fast as it can, and large things into another.
fn writer(instance: u64, image: &ImageRef) -> InstanceConfig {
    let script = "dd if=/dev/zero of=/var/data/large bs=64k count=64 conv=fsync 2>/dev/null; \
                  (while :; do dd if=/dev/zero of=/var/data/large bs=64k count=64 2>/dev/null; done) & \
                  i=0; while :; do echo $i >>/var/data/log; i=$((i+1)); done";
    with_volume(container(instance, image, &["sh", "-c", script]), 0)
}

/// Where the node has the volume of an instance.
fn mounted(world: &World, config: &InstanceConfig) -> PathBuf {
    world.home(config.instance).join("volumes/data")
}

async fn wait_for_more(log: &Path) {
    let len = || fs::metadata(log).map_or(0, |found| found.len());
    let before = len();
    eventually("the instance writes", async || (len() > before).then_some(())).await;
}

#[test]
fn a_snapshot_gives_a_volume_back_what_it_had() {
    with_root("snapshot", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        let runtime = &agent.runtime;
        runtime.ensure_image(&image).await.unwrap();
        let name = volume("shop/web/data.0");
        assert_eq!(kind(runtime.make_snapshot(&name, &snapshot("one")).await), ErrorKind::NotFound);
        runtime.make_volume(&name, ByteSize::mib(16)).await.unwrap();
        let script = |script: &str| with_volume(container(1, &image, &["sh", "-c", script]), 0);
        run(runtime, &script("echo one >/var/data/file; chown 7:8 /var/data/file; chmod 640 /var/data/file")).await;
        let made = once_free(async || runtime.make_snapshot(&name, &snapshot("one")).await).await;
        assert_eq!((made.size, &made.volume), (ByteSize::mib(16), &name));
        assert!(made.used < ByteSize::mib(8), "only what was written is copied: {made:?}");
        assert_eq!(runtime.snapshots().await.unwrap(), std::slice::from_ref(&made));
        assert_eq!(kind(runtime.make_snapshot(&name, &snapshot("one")).await), ErrorKind::AlreadyExists);

        let reader = script("echo two >/var/data/file; echo x >/var/data/other; sleep 1000");
        runtime.start(&reader).await.unwrap();
        let one = snapshot("one");
        assert_eq!(kind(runtime.restore_snapshot(&name, &one, ByteSize::mib(16)).await), ErrorKind::ResourceBusy);
        stop(runtime, &reader).await;
        assert_eq!(kind(runtime.restore_snapshot(&name, &snapshot("on"), ByteSize(0)).await), ErrorKind::NotFound);
        // The volume was made larger meanwhile, and stays so.
        restore(runtime, &name, "one", ByteSize::mib(48)).await;
        assert_eq!(runtime.volumes().await.unwrap()[0].size, ByteSize::mib(48));
        let (log, _) = run(runtime, &script("cat /var/data/file; ls -ln /var/data; df -m /var/data")).await;
        assert!(log.contains(" F one") && log.contains("-rw-r-----") && log.contains(" 7        8 "), "{log}");
        assert!(!log.contains("other"), "what came later is gone: {log}");
        let set_aside = std::os::unix::fs::MetadataExt::blocks(
            &fs::metadata(world.dir.join("volumes/shop.web.data.0.img")).unwrap(),
        );
        assert!(set_aside * 512 >= 48 << 20, "its space is set aside: {set_aside}");

        // It outlives its volume, and can bring it back.
        once_free(async || runtime.delete_volume(&name).await).await;
        restore(runtime, &name, "one", ByteSize::mib(16)).await;
        let (log, _) = run(runtime, &script("cat /var/data/file")).await;
        assert!(log.contains(" F one"), "{log}");
        assert_eq!(kind(runtime.delete_snapshot(&name, &snapshot("on")).await), ErrorKind::NotFound);
        assert_eq!(runtime.delete_snapshot(&name, &one).await.unwrap(), made);
        assert!(runtime.snapshots().await.unwrap().is_empty());
        agent.crash();
    });
}

#[test]
fn a_snapshot_is_of_one_moment_while_an_instance_writes() {
    with_root("snapshot-live", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        let runtime = &agent.runtime;
        runtime.ensure_image(&image).await.unwrap();
        let name = volume("shop/web/data.0");
        runtime.make_volume(&name, ByteSize::mib(16)).await.unwrap();
        let config = writer(1, &image);
        runtime.start(&config).await.unwrap();
        let log = mounted(world, &config).join("log");
        let clock = insula_env::Clock::real();
        let mut longest = Duration::ZERO;
        for number in 0..5 {
            wait_for_more(&log).await;
            let begun = clock.now();
            runtime.make_snapshot(&name, &snapshot(&format!("s{number}"))).await.unwrap();
            longest = longest.max(begun.elapsed());
            let file = world.dir.join(format!("volumes/snapshots/shop.web.data.0/s{number}.img"));
            let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(file).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
        }
        println!("the longest of five took {longest:?}");
        wait_for_more(&log).await;
        // An instance can be ended while its volume stands still.
        let last = snapshot("last");
        let (made, ()) = tokio::join!(runtime.make_snapshot(&name, &last), stop(runtime, &config));
        println!("beside the end of its instance: {made:?}");
        restore(runtime, &name, "s4", ByteSize::mib(16)).await;
        let script =
            "i=0; while read n; do [ $n = $i ] || echo wrong $n; i=$((i+1)); done </var/data/log; echo lines $i";
        let (log, _) = run(runtime, &with_volume(container(2, &image, &["sh", "-c", script]), 0)).await;
        let lines = log.rsplit("lines ").next().unwrap().trim();
        assert!(!log.contains("wrong") && lines.parse::<u64>().unwrap() > 0, "{log}");
        agent.crash();
    });
}

#[test]
fn what_a_crash_left_frozen_or_half_made_is_put_right() {
    with_root("snapshot-crash", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let name = volume("shop/web/data.0");
        agent.runtime.make_volume(&name, ByteSize::mib(16)).await.unwrap();
        let config = writer(1, &image);
        agent.runtime.start(&config).await.unwrap();
        let directory = mounted(world, &config);
        wait_for_more(&directory.join("log")).await;
        agent.crash();

        // Frozen by one that thaws no more.
        assert!(Command::new("fsfreeze").arg("--freeze").arg(&directory).status().unwrap().success());
        let snapshots = world.dir.join("volumes/snapshots/shop.web.data.0");
        fs::create_dir_all(&snapshots).unwrap();
        fs::write(snapshots.join("half.img.new"), "half").unwrap();
        let agent = world.open().await;
        wait_for_more(&directory.join("log")).await;
        assert!(!snapshots.exists(), "what was half made is gone");

        // The process that freezes ends by itself, when nobody tells it to, and says so.
        let shim = fs::read_dir(world.dir.join("shim")).unwrap().flatten().next().unwrap().path();
        let freeze = || {
            let mut command = Command::new(&shim);
            let mut child =
                command.arg("--freeze").arg(&directory).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let said = child.as_mut().unwrap().stdout.take().unwrap();
            let mut word = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut word).unwrap();
            assert_eq!(word, "frozen\n");
            child.unwrap()
        };
        let begun = insula_env::Clock::real().now();
        let mut held = freeze();
        // As long as this is there, its input has no end.
        let input = held.stdin.take();
        assert_eq!(held.wait().unwrap().code(), Some(3));
        drop(input);
        assert!(begun.elapsed() >= Duration::from_secs(8));
        wait_for_more(&directory.join("log")).await;
        // Nor does it outlive the agent, of whom it knows by its input; what else ends processes does not touch it.
        let mut held = freeze();
        let pid = rustix::process::Pid::from_child(&held);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(held.try_wait().unwrap().is_none());
        drop(held.stdin.take());
        assert_eq!(held.wait().unwrap().code(), Some(0));
        wait_for_more(&directory.join("log")).await;
        stop(&agent.runtime, &config).await;
        agent.crash();
    });
}

/// Puts the volumes of a world on a file system of their own.
fn volumes_on(world: &World, kind: &str, size: ByteSize) {
    let (file, at) = (world.dir.join("disk"), world.dir.join("volumes"));
    fs::File::create(&file).unwrap().set_len(size.0).unwrap();
    fs::create_dir_all(&at).unwrap();
    assert!(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&file).status().unwrap().success());
    let mount = ["-t", kind, "-o", "loop"];
    assert!(Command::new("mount").args(mount).arg(&file).arg(&at).status().unwrap().success());
}

fn volumes_off(world: &World) {
    assert!(Command::new("umount").arg(world.dir.join("volumes")).status().unwrap().success());
}

#[test]
fn a_disk_without_room_refuses_snapshots() {
    with_root("snapshot-full", async |world| {
        volumes_on(world, "ext4", ByteSize::mib(256));
        let agent = world.open().await;
        let name = volume("shop/web/data.0");
        agent.runtime.make_volume(&name, ByteSize::mib(16)).await.unwrap();
        let refused = agent.runtime.make_snapshot(&name, &snapshot("one")).await;
        assert_eq!(kind(refused), ErrorKind::StorageFull);
        assert!(agent.runtime.snapshots().await.unwrap().is_empty());
        assert_eq!(fs::read_dir(world.dir.join("volumes/snapshots")).unwrap().count(), 0);
        agent.crash();
        volumes_off(world);
    });
}

#[test]
fn where_files_can_share_blocks_an_instance_hardly_waits() {
    if Command::new("mkfs.xfs").arg("-V").output().is_err() {
        eprintln!("skipped: mkfs.xfs is not installed");
        return;
    }
    with_root("snapshot-clone", async |world| {
        volumes_on(world, "xfs", ByteSize::mib(4 << 10));
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        let runtime = &agent.runtime;
        runtime.ensure_image(&image).await.unwrap();
        let name = volume("shop/web/data.0");
        runtime.make_volume(&name, ByteSize::mib(16)).await.unwrap();
        let config = writer(1, &image);
        runtime.start(&config).await.unwrap();
        wait_for_more(&mounted(world, &config).join("log")).await;
        let made = runtime.make_snapshot(&name, &snapshot("one")).await.unwrap();
        let file = world.dir.join("volumes/snapshots/shop.web.data.0/one.img");
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(&file).output().unwrap();
        assert!(checked.status.success(), "{checked:?}");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        let listed = runtime.snapshots().await.unwrap();
        assert_eq!((listed.len(), &listed[0].snapshot, listed[0].size), (1, &made.snapshot, made.size));
        // None of its blocks are another file's too.
        let extents = Command::new("filefrag").arg("-v").arg(&file).output().unwrap();
        let extents = String::from_utf8(extents.stdout).unwrap();
        assert!(extents.contains("found") && !extents.contains("shared"), "{extents}");
        stop(runtime, &config).await;
        agent.crash();
        eventually("the volume is let go", async || {
            let gone = Command::new("umount").arg(world.dir.join("volumes")).stderr(Stdio::null()).status().unwrap();
            gone.success().then_some(())
        })
        .await;
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
fn a_loop_device_of_nobody_is_left_over_and_one_of_another_disk_is_not_ours() {
    with_root("loops", async |world| {
        let agent = world.open().await;
        let losetup = |arguments: &[&str]| {
            let output = Command::new("losetup").args(arguments).output().unwrap();
            assert!(output.status.success(), "losetup {arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let image = world.dir.join("instances/stray.img");
        fs::write(&image, [0; 4096]).unwrap();
        let device = losetup(&["--find", "--show", image.to_str().unwrap()]);
        let found = agent.runtime.leftovers().await.unwrap();
        losetup(&["--detach", &device]);
        fs::remove_file(&image).unwrap();
        assert_eq!(found, [format!("loop device of {}", image.display())]);

        // As the nodes of a lab see each other's.
        let disk = world.dir.join("volumes");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&disk).status().unwrap();
        assert!(mounted.success());
        let image = disk.join("theirs.img");
        fs::write(&image, [0; 4096]).unwrap();
        let device = losetup(&["--find", "--show", image.to_str().unwrap()]);
        let seen = agent.runtime.leftovers().await.unwrap();
        assert!(Command::new("umount").arg("-l").arg(&disk).status().unwrap().success());
        let found = agent.runtime.leftovers().await.unwrap();
        losetup(&["--detach", &device]);
        assert_eq!((seen.len(), found), (1, Vec::new()), "{seen:?}");
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
        let log = eventually("it looks for orphans", async || {
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
