//! What containers write to their own root: so much and no more, without a word of their services about it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use insula_container::{Config, Exit, ImageRef, InstanceConfig, NodeRuntime, ObservedState, Runtime};
use insula_types::{ByteSize, InstanceId, VolumeSpec};
use rustix::{
    fs::statvfs,
    mount::{UnmountFlags, mount_bind, unmount},
    process::{Pid, Signal, kill_process},
};
use support::{Agent, World, container, end, eventually, image::busybox, log_text, observed, with_root};

/// Runs a script to its end, and gives its output.
async fn run(runtime: &NodeRuntime, config: &InstanceConfig) -> String {
    runtime.start(config).await.unwrap();
    let ended = end(runtime, config.instance).await;
    let log = log_text(runtime, config.instance).await;
    assert_eq!(ended.exit, Exit::Code(0), "{log}");
    runtime.remove(config.instance).await.unwrap();
    log
}

fn script(instance: u64, image: &ImageRef, script: &str) -> InstanceConfig {
    container(instance, image, &["sh", "-c", script])
}

async fn open_with(world: &World, layer_size: ByteSize) -> Agent {
    world.open_as(Config { layer_size: Some(layer_size), ..world.config.clone() }, None).await
}

/// The program as the node finds it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.unwrap().canonicalize().unwrap()
}

#[test]
fn a_layer_is_bounded_though_nobody_says_so_and_gives_back_what_is_deleted() {
    with_root("usual-layer", async |world| {
        let image = world.registry.push(&busybox());
        let agent = open_with(world, ByteSize::mib(16)).await;
        assert!(agent.runtime.has_bounded_layers());
        agent.runtime.ensure_image(&image).await.unwrap();
        let fill = "i=0; while touch /www/$i 2>/dev/null; do i=$((i+1)); done; echo files $i; rm -r /www/?*; \
                    dd if=/dev/zero of=/big bs=1M count=100 conv=fsync; ls -l /big; \
                    rm /big; sync; echo deleted; exec sleep 1000";
        let config = script(1, &image, fill);
        agent.runtime.start(&config).await.unwrap();
        let log = eventually("it is full", async || {
            Some(log_text(&agent.runtime, config.instance).await).filter(|log| log.contains(" F deleted"))
        })
        .await;
        assert!(log.contains("No space left"), "{log}");
        let files: u32 = log.rsplit("files ").next().unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert!((200..16 << 6).contains(&files), "one file for each 16 KiB: {files}");
        let on_disk = || fs::metadata(world.home(config.instance).join("layer.img")).unwrap().blocks() * 512;
        eventually("the node has it back", async || (on_disk() < 8 << 20).then_some(())).await;

        // Nobody else notices, and an empty layer takes next to nothing.
        let other =
            script(2, &image, "dd if=/dev/zero of=/x bs=1M count=5 conv=fsync 2>/dev/null && echo written; df -m /");
        let log = run(&agent.runtime, &other).await;
        assert!(log.contains(" F written"), "{log}");
        let idle = script(3, &image, "exec sleep 1000");
        agent.runtime.start(&idle).await.unwrap();
        let taken = fs::metadata(world.home(idle.instance).join("layer.img")).unwrap().blocks() * 512;
        assert!(taken < 256 << 10, "{taken} bytes");
        for config in [config, idle] {
            agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
            agent.runtime.remove(config.instance).await.unwrap();
        }
        agent.crash();
    });
}

#[test]
fn some_layers_are_made_ahead_and_go_with_their_agent() {
    with_root("ahead", async |world| {
        let image = world.registry.push(&busybox());
        let directory = world.dir.join("layers");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("0.img"), "half of one that an earlier agent made").unwrap();
        let files = || {
            let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
            files.map(|file| (file.ino(), file.len())).collect::<BTreeMap<_, _>>()
        };
        // A file is there before it has its length.
        let four_of =
            |size: ByteSize| Some(files()).filter(|files| files.len() == 4 && files.values().all(|len| *len == size.0));
        let agent = open_with(world, ByteSize::mib(64)).await;
        let ahead = eventually("they are made", async || four_of(ByteSize::mib(64))).await;
        assert_eq!(agent.runtime.leftovers().await.unwrap(), Vec::<String>::new());

        agent.runtime.ensure_image(&image).await.unwrap();
        let mut config = script(1, &image, "echo mine >/mine; exec sleep 1000");
        agent.runtime.start(&config).await.unwrap();
        let layer = fs::metadata(world.home(config.instance).join("layer.img")).unwrap();
        assert!(ahead.contains_key(&layer.ino()), "it has one of those");
        let later = eventually("another is made", async || four_of(ByteSize::mib(64))).await;
        assert!(!later.contains_key(&layer.ino()));
        // One of another size is made when it is needed.
        config.instance = InstanceId::new(2);
        config.spec.resources.disk = Some(ByteSize::mib(24));
        agent.runtime.start(&config).await.unwrap();
        let other = fs::metadata(world.home(config.instance).join("layer.img")).unwrap();
        assert_eq!(other.len(), 24 << 20);
        agent.crash();

        let agent = open_with(world, ByteSize::mib(32)).await;
        eventually("they are made anew", async || four_of(ByteSize::mib(32))).await;
        eventually("no other device is left", async || {
            agent.runtime.leftovers().await.unwrap().is_empty().then_some(())
        })
        .await;
        agent.runtime.remove_all().await.unwrap();
        assert!(files().is_empty());
        agent.crash();
    });
}

#[test]
fn a_start_needs_no_program_for_a_size_that_is_known() {
    with_root("known-layer", async |world| {
        let image = world.registry.push(&busybox());
        let agent = open_with(world, ByteSize::mib(32)).await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let mut config = script(1, &image, "dd if=/dev/zero of=/x bs=1M count=50 conv=fsync");
        let (mkfs, nothing) = (program("mkfs.ext4"), world.dir.join("nothing"));
        fs::write(&nothing, "").unwrap();
        mount_bind(&nothing, &mkfs).unwrap();
        agent.runtime.start(&config).await.unwrap();
        end(&agent.runtime, config.instance).await;
        let log = log_text(&agent.runtime, config.instance).await;
        assert!(log.contains("No space left"), "{log}");
        agent.runtime.remove(config.instance).await.unwrap();

        config.spec.resources.disk = Some(ByteSize::mib(24));
        let refused = agent.runtime.start(&config).await.unwrap_err();
        assert!(refused.to_string().starts_with("make a bounded layer at"), "{refused}");
        assert!(!world.home(config.instance).exists());
        // The next agent cannot make any.
        agent.crash();
        let agent = world.open().await;
        assert!(!agent.runtime.has_bounded_layers());
        agent.crash();
        unmount(&mkfs, UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn without_loop_devices_containers_start_as_they_did_before() {
    with_root("no-loops", async |world| {
        let control = Path::new("/dev/loop-control");
        mount_bind("/dev/null", control).unwrap();
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        assert!(!agent.runtime.has_bounded_layers());
        agent.runtime.ensure_image(&image).await.unwrap();
        let mut config = script(1, &image, "dd if=/dev/zero of=/x bs=1M count=20 2>/dev/null && echo written");
        let log = run(&agent.runtime, &config).await;
        assert!(log.contains(" F written"), "{log}");
        // What somebody asked for is not silently left out.
        config.spec.resources.disk = Some(ByteSize::mib(24));
        let refused = agent.runtime.start(&config).await.unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.starts_with("/dev/loop-control:"), "{why}");
        assert_eq!(fs::read_dir(world.dir.join("instances")).unwrap().count(), 0);
        agent.crash();
        unmount(control, UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn a_root_that_is_read_only_needs_no_layer_of_its_own() {
    with_root("no-layer", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let mut config = script(1, &image, "touch /x; exec sleep 1000");
        config.spec.is_read_only = true;
        agent.runtime.start(&config).await.unwrap();
        let log = eventually("it has tried", async || {
            Some(log_text(&agent.runtime, config.instance).await).filter(|log| log.contains("/x"))
        })
        .await;
        assert!(log.contains("Read-only file system"), "{log}");
        assert!(!world.home(config.instance).join("layer.img").exists());
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();
        agent.crash();
    });
}

/// A disk of the node that is smaller than what a layer may hold: the instance that fills it is refused until there is room, and
/// what was set aside before is not touched.
#[test]
fn a_full_disk_below_a_layer_loses_nothing_that_lasts() {
    with_root("full-disk", async |world| {
        let (file, small) = (world.dir.join("disk"), world.dir.join("small"));
        fs::File::create(&file).unwrap().set_len(192 << 20).unwrap();
        fs::create_dir(&small).unwrap();
        assert!(Command::new("mkfs.ext4").arg("-q").arg(&file).status().unwrap().success());
        assert!(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&small).status().unwrap().success());
        // As a crash leaves a start: its layer is not mounted, and that directory is on the node's own disk.
        let half_made = small.join("instances").join(InstanceId::new(9).to_string());
        fs::create_dir_all(half_made.join("layer")).unwrap();
        fs::write(half_made.join("layer.img"), "half").unwrap();

        let settings =
            Config { data_dir: small.clone(), layer_size: Some(ByteSize::mib(1 << 10)), ..world.config.clone() };
        let agent = world.open_as(settings.clone(), None).await;
        let runtime = &agent.runtime;
        assert!(!half_made.exists());
        let image = world.registry.push(&busybox());
        runtime.ensure_image(&image).await.unwrap();
        let volume = VolumeSpec { name: "data".parse().unwrap(), path: "/data".to_owned(), size: ByteSize::mib(32) };
        runtime.make_volume(&"shop/web/data.0".parse().unwrap(), volume.size).await.unwrap();
        let free = || {
            let disk = statvfs(&small).unwrap();
            disk.f_bfree * disk.f_frsize
        };
        let before = free();
        let fill = "trap room=1 USR1; dd if=/dev/zero of=/big bs=1M count=400 conv=fsync 2>/data/said; echo $? >/data/code; \
                    dd if=/dev/zero of=/data/large bs=1M count=8 conv=fsync 2>/dev/null && echo whole >/data/volume; \
                    until [ $room ]; do sleep 0.1; done; rm /big; \
                    dd if=/dev/zero of=/again bs=1M count=8 conv=fsync 2>/data/said && echo again >/data/again; \
                    exec sleep 1000";
        let mut config = script(1, &image, fill);
        config.spec.volumes = vec![volume];
        config.slot = Some(0);
        let running = runtime.start(&config).await.unwrap();
        let data = small.join("instances").join(config.instance.to_string()).join("volumes/data");
        let read = |name: &str| fs::read_to_string(data.join(name)).unwrap_or_default();
        eventually("the disk is full", async || (read("volume") == "whole\n").then_some(())).await;
        assert_eq!(read("code"), "1\n");
        assert!(
            ["No space left on device", "I/O error", "Input/output error"]
                .iter()
                .any(|said| read("said").contains(said)),
            "{}",
            read("said")
        );
        assert!(free() < 16 << 20, "{} bytes are free", free());
        // An agent that begins now is none that cannot bound layers.
        agent.crash();
        let agent = world.open_as(settings, None).await;
        let runtime = &agent.runtime;
        assert!(runtime.has_bounded_layers());
        let seen = observed(runtime, config.instance).await.unwrap();
        assert!(matches!(seen.state, ObservedState::Running(_)), "{seen:?}");
        kill_process(Pid::from_raw(running.pid as i32).unwrap(), Signal::USR1).unwrap();
        eventually("it goes on", async || (read("again") == "again\n").then_some(())).await;

        runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        runtime.remove(config.instance).await.unwrap();
        eventually("the disk has room again", async || (free() + (1 << 20) > before).then_some(())).await;
        let mut next = script(2, &image, "cat /data/volume; cat /data/large | wc -c");
        (next.spec.volumes, next.slot) = (config.spec.volumes, config.slot);
        let log = run(runtime, &next).await;
        assert!(log.contains(" F whole") && log.contains(" F 8388608"), "{log}");
        runtime.remove_all().await.unwrap();
        agent.crash();
        eventually("the disk is let go", async || unmount(&small, UnmountFlags::empty()).ok()).await;
    });
}
