//! Real containers of a real image: what they are given, how they end, and what kills leave behind.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use insula_container::{Exit, ObservedState, Pressure, Runtime};
use insula_types::{ByteSize, Capacity, CpuMillis, InstanceId, TmpfsSpec};
use support::{container, end, eventually, get, image::busybox, log_text, observed, process, with_root};

#[test]
fn a_container_serves_and_outlives_the_agent() {
    with_root("serves", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let config = container(1, &image, &[]);
        let running = agent.runtime.start(&config).await.unwrap();
        let address = running.endpoints[&"http".parse().unwrap()];
        assert_eq!(address.to_string(), "10.77.0.2:80");
        let body = eventually("it serves", async || get(address, "/").await).await;
        assert_eq!(body, "hello from an image\n");
        assert_eq!(agent.runtime.start(&config).await.unwrap(), running, "a second start adopts");
        agent.crash();

        // As an earlier version left it, which told the firewall of interfaces by their names.
        let ungrouped = Command::new("ip").args("link set dev ins-00000001 group default".split(' ')).status().unwrap();
        assert!(ungrouped.success());
        assert_eq!(get(address, "/").await, None, "the firewall does not know it");
        let agent = world.open().await;
        let seen = observed(&agent.runtime, config.instance).await.unwrap();
        assert_eq!(seen.state, ObservedState::Running(running.clone()), "same process");
        assert_eq!(seen.config_hash, config.hash());
        assert!(get(address, "/").await.is_some());
        let second = agent.runtime.start(&container(2, &image, &[])).await.unwrap();
        assert_eq!(second.endpoints.values().next().unwrap().to_string(), "10.77.0.3:80", "addresses are kept");

        agent.runtime.remove(config.instance).await.expect_err("it runs");
        agent.runtime.stop(config.instance, Some("SIGTERM"), Duration::from_millis(100)).await.unwrap();
        agent.runtime.stop(config.instance, Some("SIGTERM"), Duration::from_millis(100)).await.unwrap();
        agent.runtime.start(&config).await.expect_err("it has ended");
        agent.runtime.remove(config.instance).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();
        assert!(log_text(&agent.runtime, config.instance).await.contains(" stderr F "), "logs are kept");
        agent.runtime.start(&config).await.unwrap();
        agent.crash();
    });
}

#[test]
fn a_killed_shim_ends_its_instance_and_a_killed_instance_leaves_its_signal() {
    with_root("kills", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let mut ended = agent.runtime.ended();
        let config = container(1, &image, &[]);
        let running = agent.runtime.start(&config).await.unwrap();
        kill(world.shim_pid(config.instance).unwrap());
        insula_env::clock::timeout(support::DEADLINE, ended.changed()).await.unwrap().unwrap();
        let seen = end(&agent.runtime, config.instance).await;
        assert!(matches!(seen.exit, Exit::Unseen(_)), "{seen:?}");
        eventually("its process is killed", async || (!is_alive(running.pid)).then_some(())).await;
        agent.runtime.remove(config.instance).await.unwrap();
        assert!(support::cgroups(&format!("{}/{}", world.config.cgroup_parent, config.instance)).is_empty());

        let running = agent.runtime.start(&config).await.unwrap();
        kill(running.pid);
        insula_env::clock::timeout(support::DEADLINE, ended.changed()).await.unwrap().unwrap();
        let seen = end(&agent.runtime, config.instance).await;
        assert_eq!((seen.exit, seen.is_oom_killed), (Exit::Signal(9), false));
        assert!(seen.at_ms >= running.started_ms);
        agent.runtime.remove(config.instance).await.unwrap();

        // The same with the agent away: the next one finds out.
        agent.runtime.start(&config).await.unwrap();
        agent.crash();
        kill(world.shim_pid(config.instance).unwrap());
        let agent = world.open().await;
        assert!(matches!(end(&agent.runtime, config.instance).await.exit, Exit::Unseen(_)));
        agent.crash();
    });
}

#[test]
fn an_address_that_others_had_a_moment_ago_is_reached_at_once() {
    with_root("reused", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let mut before = None;
        for number in 1..=5 {
            let config = container(number, &image, &[]);
            let running = agent.runtime.start(&config).await.unwrap();
            let address = running.endpoints[&"http".parse().unwrap()];
            eventually("it serves", async || get(address, "/").await).await;
            let known = fs::read_to_string("/proc/thread-self/net/arp").unwrap();
            let entry = known.lines().find(|line| line.starts_with(&address.ip().to_string())).map(str::to_owned);
            let hardware = entry.and_then(|line| line.split_whitespace().nth(3).map(str::to_owned)).unwrap();
            assert_eq!(*before.get_or_insert((address, hardware.clone())), (address, hardware));
            agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
            agent.runtime.remove(config.instance).await.unwrap();
        }
        agent.crash();
    });
}

#[test]
fn limits_hold_and_are_told_apart() {
    with_root("limits", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();

        let mut config = container(1, &image, &["sh", "-c", "x=xxxxxxxx; while :; do x=$x$x; done"]);
        config.spec.resources.memory = ByteSize::mib(16);
        agent.runtime.start(&config).await.unwrap();
        let seen = end(&agent.runtime, config.instance).await;
        assert!(seen.is_oom_killed, "{seen:?}");

        // Its own KILL is not taken for the kernel's.
        let config = container(2, &image, &["sh", "-c", "sleep 1000 & kill -9 $!; exit 137"]);
        agent.runtime.start(&config).await.unwrap();
        let seen = end(&agent.runtime, config.instance).await;
        assert_eq!((seen.exit, seen.is_oom_killed), (Exit::Code(137), false));

        let script = "for i in $(seq 20); do sleep 1000 & done; echo all";
        let mut config = container(3, &image, &["sh", "-c", script]);
        config.spec.resources.pids = 8;
        agent.runtime.start(&config).await.unwrap();
        end(&agent.runtime, config.instance).await;
        let log = log_text(&agent.runtime, config.instance).await;
        assert!(log.contains("can't fork") && !log.contains("F all"), "{log}");
        agent.crash();
    });
}

#[test]
fn what_presses_an_instance_is_seen() {
    with_root("pressure", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        // The log first, when nothing slows it down, and in long lines, whose bytes come fastest: too much is 1 MiB a second. A
        // shell ends when it can start nothing.
        let script = "yes \"$(printf %04000d 0)\" | head -c 30000000; dd if=/dev/zero of=/big bs=64k; \
            (while :; do :; done) & (while :; do :; done) & (for i in $(seq 20); do sleep 1000 & done); wait";
        let mut config = container(1, &image, &["sh", "-c", script]);
        let resources = &mut config.spec.resources;
        (resources.pids, resources.cpu) = (8, CpuMillis(600));
        resources.disk = Some(ByteSize::mib(8));
        agent.runtime.start(&config).await.unwrap();
        let calm = container(2, &image, &["sleep", "1000"]);
        agent.runtime.start(&calm).await.unwrap();
        // One after the other, so that a part that is not seen is named.
        let sees = async |part: &str, is_seen: fn(&Pressure) -> bool| {
            eventually(part, async || {
                let seen = agent.runtime.pressures().await.unwrap().here;
                let [(_, one), (_, two)] = &seen[..] else { panic!("{part}: {seen:?}") };
                assert_eq!((two.forks_refused, two.oom_kills, two.log_lines_dropped), (0, 0, 0), "{two:?}");
                is_seen(one).then_some(())
            })
            .await;
        };
        let is_full = |one: &Pressure| one.disks.iter().any(|disk| disk.volume.is_none() && disk.bytes_percent >= 95);
        sees("lines of its log were dropped", |one| one.log_lines_dropped > 0).await;
        sees("its layer is full", is_full).await;
        sees("forks were refused", |one| one.forks_refused > 0).await;
        sees("it was held back", |one| one.cpu_throttled > 10 && one.cpu_periods >= one.cpu_throttled).await;
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();
        let seen = agent.runtime.pressures().await.unwrap();
        assert_eq!(seen.here.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [calm.instance]);
        assert_eq!(seen.removed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [config.instance]);
        agent.crash();
    });
}

/// Each ends within moments for what it lacks, before anybody has looked at it.
#[test]
fn what_pressed_an_instance_is_known_after_its_end() {
    with_root("pressed", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let scripts = [
            "bomb() { bomb | bomb & }; bomb; while :; do bomb; done",
            "x=xxxxxxxx; while :; do x=$x$x; done",
            "i=0; while :; do : >/tmp$i || i=0; i=$((i+1)); done",
            "true",
        ];
        let mut seen = Vec::new();
        for (number, script) in (1..).zip(scripts) {
            let mut config = container(number, &image, &["sh", "-c", script]);
            let resources = &mut config.spec.resources;
            (resources.pids, resources.memory, resources.disk) = (64, ByteSize::mib(32), Some(ByteSize::mib(32)));
            agent.runtime.start(&config).await.unwrap();
            let ended = end(&agent.runtime, config.instance).await;
            let here = agent.runtime.pressures().await.unwrap().here;
            agent.runtime.remove(config.instance).await.unwrap();
            let removed = agent.runtime.pressures().await.unwrap().removed;
            // Periods of the processor still go by when its last process is gone.
            let lasting = |seen: &[(InstanceId, Pressure)]| -> Vec<_> {
                let still = |one: &Pressure| Pressure { cpu_periods: 0, cpu_throttled: 0, ..one.clone() };
                seen.iter().map(|(instance, one)| (*instance, still(one))).collect()
            };
            assert_eq!(lasting(&here), lasting(&removed), "at its end, and before it was removed: {ended:?}");
            let [(instance, pressure)] = <[_; 1]>::try_from(removed).unwrap();
            assert_eq!(instance, config.instance);
            seen.push(pressure);
        }
        let signs = seen.iter().map(|one| {
            let disk = one.disks.first().unwrap();
            (one.forks_refused > 0, one.oom_kills > 0, disk.bytes_percent >= 95, disk.files_percent >= 95)
        });
        let expected = [
            (true, false, false, false),
            (false, true, false, false),
            (false, false, false, true),
            (false, false, false, false),
        ];
        assert_eq!(signs.collect::<Vec<_>>(), expected, "{seen:?}");
        let seen = agent.runtime.pressures().await.unwrap();
        assert_eq!((seen.here.len(), seen.removed.len()), (0, 0), "told once");
        agent.crash();
    });
}

#[test]
fn a_container_sees_its_environment_and_little_else() {
    with_root("sees", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = "echo pid $$ in $PWD $GREETING $FROM_IMAGE $INSULA_APP/$INSULA_SERVICE $INSULA_INSTANCE \
            $INSULA_NODE $INSULA_DATACENTER $INSULA_REGION $PORT $PORT_HTTP; \
            ls /old /removed; cat /proc/self/status; mount -t tmpfs x /tmp; ls /sys/class/net; \
            cat /etc/hostname /etc/hosts; ls /etc/resolv.conf; echo mine >> /etc/hosts && echo done";
        let config = container(1, &image, &["sh", "-c", script]);
        agent.runtime.start(&config).await.unwrap();
        assert_eq!(end(&agent.runtime, config.instance).await.exit, Exit::Code(0));
        let log = log_text(&agent.runtime, config.instance).await;
        for expected in [
            "pid 1 in /www hello yes shop/web i-00000001 one fra1 fra 80 80",
            "stdout F new",
            "stdout F same",
            "/removed: No such file",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            // Docker's 14 without NET_RAW (bit 13).
            "CapEff:\t00000000a80405fb",
            "mount: permission denied",
            "stdout F eth0",
            "stdout F i-00000001",
            "stdout F 10.77.0.2 i-00000001",
            "stdout F /etc/resolv.conf",
            "stdout F done",
        ] {
            assert!(log.contains(expected), "{expected:?} in {log}");
        }
        assert!(!log.contains("hidden"), "{log}");
        let ignored = log.split("SigIgn:\t").nth(1).unwrap().lines().next().unwrap();
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        assert_eq!(ignored & 1 << (libc::SIGPIPE - 1), 0, "programs rely on SIGPIPE");
        agent.crash();
    });
}

#[test]
fn together_instances_leave_the_node_its_reserve() {
    with_root("reserve", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open_bounded(Capacity { cpu: CpuMillis(1500), memory: ByteSize::mib(48) }).await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let parent = &world.config.cgroup_parent;
        let is_unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (memory, cpu) = if is_unified {
            (format!("{parent}/memory.max"), format!("{parent}/cpu.max"))
        } else {
            (format!("memory/{parent}/memory.limit_in_bytes"), format!("cpu/{parent}/cpu.cfs_quota_us"))
        };
        for (file, expected) in [(memory, "50331648"), (cpu, "30000")] {
            let found = fs::read_to_string(Path::new("/sys/fs/cgroup").join(&file)).unwrap();
            assert_eq!(found.split_whitespace().next(), Some(expected), "{file}");
        }

        // Each is within its own limit; the two are not within that of both.
        let hold = "head -c 30000000 /dev/zero >/held/bytes && echo holds; sleep 1000";
        let instances = [1, 2].map(|number| {
            let mut config = container(number, &image, &["sh", "-c", hold]);
            config.spec.resources.memory = ByteSize::mib(40);
            config.spec.tmpfs = vec![TmpfsSpec { path: "/held".into(), size: ByteSize::mib(40) }];
            config
        });
        for config in &instances {
            agent.runtime.start(config).await.unwrap();
        }
        if !is_unified {
            let of_one = format!("/sys/fs/cgroup/cpu/{parent}/{}", instances[0].instance);
            let numbers = ["cpu.cfs_quota_us", "cpu.cfs_burst_us"]
                .map(|file| fs::read_to_string(Path::new(&of_one).join(file)).unwrap().trim().parse::<u64>().unwrap());
            assert_eq!(numbers[1], numbers[0] / 10, "a tenth beyond, of what was left: {numbers:?}");
        }
        eventually("one is ended for the other", async || {
            let seen = agent.runtime.list().await.unwrap();
            let ended = seen.iter().any(|one| matches!(&one.state, ObservedState::Ended(end) if end.is_oom_killed));
            ended.then_some(())
        })
        .await;
        agent.crash();
    });
}

#[test]
fn root_in_a_container_is_nobody_on_the_node_and_another_nobody_for_each_app() {
    with_root("users", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = "ls -ln /www/index.html; touch /made && chown 33:33 /made; echo done; exec sleep 1000";
        let mut owners = Vec::new();
        for (instance, app) in [(1, "shop"), (2, "blog"), (3, "shop")] {
            let mut config = container(instance, &image, &["sh", "-c", script]);
            config.service.app = app.parse().unwrap();
            let running = agent.runtime.start(&config).await.unwrap();
            let log = eventually("it is done", async || {
                Some(log_text(&agent.runtime, config.instance).await).filter(|log| log.contains("F done"))
            })
            .await;
            let listed = log.lines().find(|line| line.contains("index.html")).unwrap();
            assert!(listed.split_whitespace().skip(5).take(2).eq(["0", "0"]), "the image's owners: {listed}");
            let status = fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
            let owner: u32 = status.split("Uid:\t").nth(1).unwrap().split('\t').next().unwrap().parse().unwrap();
            let made = fs::metadata(world.home(config.instance).join("layer/upper/made")).unwrap();
            assert_eq!((made.uid(), made.gid()), (owner + 33, owner + 33));
            owners.push(owner);
        }
        assert_eq!(owners, [0x7000_0000, 0x7001_0000, 0x7000_0000]);
        // Nor do others on the node get at the environment in its record.
        let plain = process(5, &["sleep", "1000"]);
        agent.runtime.start(&plain).await.unwrap();
        let mode = |instance| fs::metadata(world.home(instance)).unwrap().mode() & 0o777;
        assert_eq!([mode(InstanceId::new(1)), mode(plain.instance)], [0o710, 0o700]);
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(world.home(plain.instance), open).unwrap();
        agent.crash();

        // A range is its app's for as long as one instance of it is there, also for the next agent.
        let agent = world.open().await;
        assert_eq!(mode(plain.instance) & 0o007, 0, "as an earlier version made it");
        agent.runtime.stop(InstanceId::new(1), Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.runtime.remove(InstanceId::new(1)).await.unwrap();
        let mut config = container(4, &image, &["sleep", "1000"]);
        config.service.app = "news".parse().unwrap();
        let running = agent.runtime.start(&config).await.unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
        assert!(status.contains(&format!("Uid:\t{}\t", 0x7002_0000)), "{status}");
        agent.crash();
    });
}

#[test]
fn a_stop_waits_for_the_grace_and_then_kills() {
    with_root("stops", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let polite = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let config = container(1, &image, &["sh", "-c", polite]);
        agent.runtime.start(&config).await.unwrap();
        eventually("it is ready", async || {
            log_text(&agent.runtime, config.instance).await.contains("ready").then_some(())
        })
        .await;
        agent.runtime.stop(config.instance, Some("SIGTERM"), Duration::from_secs(60)).await.unwrap();
        assert_eq!(end(&agent.runtime, config.instance).await.exit, Exit::Code(3));
        assert!(log_text(&agent.runtime, config.instance).await.contains("F bye"));

        // A first process without a handler ignores TERM.
        let config = container(2, &image, &["sleep", "1000"]);
        agent.runtime.start(&config).await.unwrap();
        agent.runtime.stop(config.instance, Some("SIGTERM"), Duration::from_millis(300)).await.unwrap();
        assert_eq!(end(&agent.runtime, config.instance).await.exit, Exit::Signal(9));
        agent.runtime.stop(InstanceId::new(99), Some("SIGTERM"), Duration::ZERO).await.unwrap();
        agent.runtime.stop(config.instance, Some("TERM"), Duration::ZERO).await.expect_err("no such name");
        agent.crash();
    });
}

#[test]
fn an_image_says_by_which_signal_it_stops() {
    with_root("signals", async |world| {
        let says = serde_json::json!({ "StopSignal": "SIGQUIT" });
        let image = world.registry.push_saying(&busybox(), &says);
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = "trap 'exit 3' QUIT; trap 'exit 15' TERM; echo ready; while :; do sleep 0.05; done";
        for (instance, is_usual_meant, code) in [(1, false, 3), (2, true, 15)] {
            let mut config = container(instance, &image, &["sh", "-c", script]);
            config.spec.stop.is_usual_meant = is_usual_meant;
            agent.runtime.start(&config).await.unwrap();
            eventually("it is ready", async || {
                log_text(&agent.runtime, config.instance).await.contains("ready").then_some(())
            })
            .await;
            agent.runtime.stop(config.instance, config.spec.stop.named(), Duration::from_secs(60)).await.unwrap();
            assert_eq!(end(&agent.runtime, config.instance).await.exit, Exit::Code(code));
        }
        agent.crash();
    });
}

#[test]
fn what_a_crash_left_is_removed_when_the_runtime_is_opened() {
    with_root("sweeps", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let (kept, lost) = (container(1, &image, &[]), container(2, &image, &[]));
        agent.runtime.start(&kept).await.unwrap();
        let running = agent.runtime.start(&lost).await.unwrap();
        agent.crash();
        // As if the power had gone before the record was written, or in the middle of a removal.
        fs::remove_file(world.home(lost.instance).join("instance.json")).unwrap();
        kill(world.shim_pid(lost.instance).unwrap());

        let agent = world.open().await;
        assert!(!is_alive(running.pid));
        let left = world.leftovers().await;
        assert!(!left.iter().any(|name| name.contains("00000002")), "{left:?}");
        assert!(support::cgroups(&format!("{}/{}", world.config.cgroup_parent, lost.instance)).is_empty());
        let seen = observed(&agent.runtime, kept.instance).await.unwrap();
        assert!(matches!(seen.state, ObservedState::Running(_)), "the other one is left alone");
        agent.runtime.start(&lost).await.unwrap();
        agent.crash();
    });
}

#[test]
fn a_start_that_nobody_waits_for_is_finished() {
    with_root("finishes", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let config = container(1, &image, &[]);
        let given_up = insula_env::clock::timeout(Duration::from_millis(1), agent.runtime.start(&config)).await;
        given_up.expect_err("a start takes longer");
        let running = agent.runtime.start(&config).await.unwrap();
        assert!(is_alive(running.pid));
        agent.crash();
    });
}

#[test]
fn a_failed_start_says_why_and_leaves_nothing() {
    with_root("fails", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        let config = container(1, &image, &["/no/such/program"]);
        let error = agent.runtime.start(&config).await.expect_err("no image");
        assert!(error.to_string().contains("pulled first"), "{error}");
        agent.runtime.ensure_image(&image).await.unwrap();
        let error = agent.runtime.start(&config).await.expect_err("no program");
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        let left = world.leftovers().await;
        assert!(!left.iter().any(|name| name.contains("00000001")), "{left:?}");
        agent.crash();
    });
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
