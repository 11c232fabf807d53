//! Commands inside running containers: what they are given, what holds for them, and what is left when something is killed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use insula_container::{Error, Exec, ExecOrder, Exit, InstanceConfig, NodeRuntime, Runtime};
use insula_env::clock;
use insula_types::{ExecSpec, InstanceId, SignalNumber, WindowSize};
use support::{
    Agent, World, cgroups, container, end, eventually,
    image::{File, Pack, busybox, layer},
    process, with_root, without_root,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

const SIZE: WindowSize = WindowSize { rows: 40, columns: 132 };

fn command(parts: &[&str]) -> ExecSpec {
    ExecSpec { command: parts.iter().map(|part| (*part).to_owned()).collect(), terminal: None, has_input: false }
}

fn with_input(parts: &[&str]) -> ExecSpec {
    ExecSpec { has_input: true, ..command(parts) }
}

/// Starts one container that only sleeps.
async fn sleeper(world: &World) -> (Agent, InstanceConfig) {
    let image = world.registry.push(&busybox());
    let agent = world.open().await;
    agent.runtime.ensure_image(&image).await.unwrap();
    let mut config = container(1, &image, &["sleep", "1000"]);
    config.spec.resources.memory = insula_types::ByteSize::mib(64);
    agent.runtime.start(&config).await.unwrap();
    (agent, config)
}

async fn all(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    clock::timeout(support::DEADLINE, from.read_to_end(&mut bytes)).await.expect("in time").unwrap();
    bytes
}

/// Runs a command to its end: how it ended, its output, its errors.
async fn outcome(runtime: &NodeRuntime, instance: InstanceId, spec: &ExecSpec) -> (Exit, String, String) {
    let exec = runtime.exec(instance, spec).await.unwrap();
    finish(exec).await
}

async fn finish(exec: Exec) -> (Exit, String, String) {
    let Exec { stdout, stderr, exit, handle, stdin } = exec;
    drop(stdin);
    let errors = async {
        match stderr {
            Some(stderr) => all(stderr).await,
            None => Vec::new(),
        }
    };
    let (stdout, stderr) = tokio::join!(all(stdout), errors);
    let exit = clock::timeout(support::DEADLINE, exit).await.expect("in time");
    drop(handle);
    (exit, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn the_user_of_an_image_is_in_the_groups_that_list_it_in_commands_too() {
    with_root("groups", async |world| {
        let groups = b"root:x:0:\nweb:x:1000:\ncerts:x:102:other,web\nsudo:x:27:other\n".to_vec();
        let mut layers = busybox();
        layers.push(layer(&[File::Plain("etc/group", 0o644, groups)], &Pack::Plain));
        let image = world.registry.push_saying(&layers, &serde_json::json!({ "User": "web" }));
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = "id; echo to stdout >/dev/stdout; echo home $HOME; exec sleep 1000";
        let config = container(1, &image, &["sh", "-c", script]);
        agent.runtime.start(&config).await.unwrap();
        let expected = "uid=1000(web) gid=1000(web) groups=102(certs)\n";
        let log = eventually("it has said all", async || {
            Some(support::log_text(&agent.runtime, config.instance).await).filter(|log| log.contains("F home"))
        })
        .await;
        assert!(log.contains(expected) && log.contains("F to stdout\n") && log.contains("F home /\n"), "{log}");
        let (exit, said, errors) = outcome(&agent.runtime, config.instance, &command(&["id"])).await;
        assert_eq!((exit, &*said, &*errors), (Exit::Code(0), expected, ""));
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        agent.crash();
    });
}

/// Processes of the container, by the node's numbers, its first one apart.
fn others(world: &World, first: u32) -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    for directory in cgroups(&format!("{}/{}", world.config.cgroup_parent, InstanceId::new(1))) {
        let below = fs::read_dir(&directory).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        for path in below.chain([directory.clone()]) {
            let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != first));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Shims of commands, by their command lines.
fn exec_shims(world: &World) -> Vec<u32> {
    let home = world.home(InstanceId::new(1));
    let is_one = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let parts: Vec<_> = line.split(|byte| *byte == 0).collect();
        parts.get(1) == Some(&&b"--exec"[..]) && parts.get(2) == Some(&home.as_os_str().as_encoded_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| is_one(*pid)).collect()
}

fn own_cgroups(world: &World) -> Vec<String> {
    let of_instance = cgroups(&format!("{}/{}", world.config.cgroup_parent, InstanceId::new(1)));
    let below = of_instance.iter().flat_map(|directory| fs::read_dir(directory).unwrap().flatten());
    below.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name.starts_with("exec-")).collect()
}

async fn nothing_is_left(world: &World, first: u32) {
    eventually("nothing of the command is left", async || {
        (others(world, first).is_empty() && exec_shims(world).is_empty() && own_cgroups(world).is_empty()).then_some(())
    })
    .await;
}

async fn first_of(agent: &Agent, instance: InstanceId) -> u32 {
    match support::observed(&agent.runtime, instance).await.unwrap().state {
        insula_container::ObservedState::Running(running) => running.pid,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_has_the_instances_environment_and_its_own_end() {
    with_root("exec-ends", async |world| {
        let (agent, config) = sleeper(world).await;
        let run = async |parts: &[&str]| outcome(&agent.runtime, config.instance, &command(parts)).await;
        let (exit, stdout, stderr) = run(&["sh", "-c", "echo $GREETING $HOME; pwd; echo no >&2; exit 7"]).await;
        assert_eq!((exit, &*stdout, &*stderr), (Exit::Code(7), "hello /\n/www\n", "no\n"));
        assert_eq!(run(&["true"]).await.0, Exit::Code(0));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]).await.0, Exit::Signal(9));
        assert_eq!(run(&["cat"]).await, (Exit::Code(0), String::new(), String::new()), "it has no input");

        let exec = agent
            .runtime
            .exec(config.instance, &command(&["sh", "-c", "trap 'exit 3' TERM; echo on; while :; do sleep 0.05; done"]))
            .await;
        let mut exec = exec.unwrap();
        exec.stdout.read_exact(&mut [0; 3]).await.unwrap();
        exec.handle.order(ExecOrder::Signal(SignalNumber::try_from(15).unwrap())).await;
        assert_eq!(finish(exec).await.0, Exit::Code(3));

        // What it started goes with it, also what has left its session.
        let (exit, _, _) = run(&["sh", "-c", "busybox setsid sleep 999 & sleep 998 & exit 4"]).await;
        assert_eq!(exit, Exit::Code(4));
        nothing_is_left(world, first_of(&agent, config.instance).await).await;

        for (wrong, why) in [
            (&["/no/such"][..], "start /no/such: No such file"),
            (&["www"], "start www: No such file"),
            (&["/www"], "start /www: Permission denied"),
        ] {
            let error = agent.runtime.exec(config.instance, &command(wrong)).await.expect_err("no program");
            assert!(error.to_string().contains(why), "{error}");
        }
        nothing_is_left(world, first_of(&agent, config.instance).await).await;
        let absent = agent.runtime.exec(InstanceId::new(2), &command(&["true"])).await;
        assert!(matches!(absent, Err(Error::State { .. })));
        agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        let ended = agent.runtime.exec(config.instance, &command(&["true"])).await.expect_err("it has ended");
        assert!(ended.to_string().contains("does not run"), "{ended}");
        agent.crash();
    });
}

#[test]
fn bytes_go_both_ways_unharmed_at_the_readers_pace() {
    with_root("exec-bytes", async |world| {
        let (agent, config) = sleeper(world).await;
        let exec = agent.runtime.exec(config.instance, &with_input(&["cat"])).await.unwrap();
        let Exec { stdin, mut stdout, exit, handle, stderr } = exec;
        let sent: Vec<u8> = (0..10_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut stdin = stdin.unwrap();
        let copy = sent.clone();
        #[allow(clippy::disallowed_methods, reason = "ends with the test")]
        let sender = tokio::spawn(async move { stdin.write_all(&copy).await });
        // A reader that takes nothing holds up the sender: only the pipes' own buffers are filled.
        clock::sleep(Duration::from_millis(300)).await;
        assert!(!sender.is_finished(), "10 MiB went where nobody reads");
        let mut came = Vec::new();
        let mut piece = vec![0; 300_000];
        loop {
            let read = clock::timeout(support::DEADLINE, stdout.read(&mut piece)).await.expect("in time").unwrap();
            if read == 0 {
                break;
            }
            came.extend_from_slice(&piece[..read]);
        }
        sender.await.unwrap().unwrap();
        assert!(came == sent, "{} bytes of {}", came.len(), sent.len());
        assert_eq!(exit.await, Exit::Code(0));
        drop((handle, stderr));
        agent.crash();
    });
}

#[test]
fn a_terminal_has_a_size_and_hangs_up() {
    with_root("exec-terminal", async |world| {
        let (agent, config) = sleeper(world).await;
        let spec = ExecSpec { terminal: Some(SIZE), ..command(&["sh"]) };
        let mut exec = agent.runtime.exec(config.instance, &spec).await.unwrap();
        let mut stdin = exec.stdin.take().unwrap();
        let mut seen = String::new();
        stdin.write_all(b"busybox stty size; busybox tty; echo $TERM; echo he''re\n").await.unwrap();
        until(&mut exec, &mut seen, "here\r\n").await;
        for expected in ["40 132\r\n", "/dev/pts/0\r\n", "xterm\r\n"] {
            assert!(seen.contains(expected), "{expected:?} is not in {seen:?}");
        }
        exec.handle.order(ExecOrder::Resize(WindowSize { rows: 7, columns: 11 })).await;
        stdin.write_all(b"trap 'echo resi''zed' WINCH; busybox stty size; echo the''re\n").await.unwrap();
        until(&mut exec, &mut seen, "there\r\n").await;
        assert!(seen.contains("7 11\r\n"), "{seen:?}");
        // Ctrl-C ends what is in front, and not the shell.
        stdin.write_all(b"sleep 1000\n").await.unwrap();
        let first = first_of(&agent, config.instance).await;
        eventually("it sleeps", async || (others(world, first).len() == 2).then_some(())).await;
        stdin.write_all(b"\x03").await.unwrap();
        eventually("it was interrupted", async || (others(world, first).len() == 1).then_some(())).await;
        stdin.write_all(b"exit 5\n").await.unwrap();
        assert_eq!(finish(exec).await.0, Exit::Code(5));

        // It goes when the one who asked does.
        let spec = ExecSpec {
            terminal: Some(SIZE),
            ..command(&["sh", "-c", "trap '' HUP; echo on; while :; do sleep 1; done"])
        };
        let mut exec = agent.runtime.exec(config.instance, &spec).await.unwrap();
        exec.stdout.read_exact(&mut [0; 2]).await.unwrap();
        drop(exec);
        nothing_is_left(world, first).await;
        agent.crash();
    });
}

async fn until(exec: &mut Exec, seen: &mut String, what: &str) {
    while !seen.contains(what) {
        let mut piece = [0; 1024];
        let read = clock::timeout(support::DEADLINE, exec.stdout.read(&mut piece)).await;
        let read = read.unwrap_or_else(|_| panic!("{what:?} does not come, but {seen:?}")).unwrap();
        assert!(read > 0, "it ended: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
}

#[test]
fn whatever_is_killed_leaves_no_process() {
    with_root("exec-kills", async |world| {
        let (agent, config) = sleeper(world).await;
        let first = first_of(&agent, config.instance).await;
        // Deaf to HUP, with a child in a session of its own.
        let stubborn =
            command(&["sh", "-c", "trap '' HUP; busybox setsid sleep 999 & echo on; while :; do sleep 1; done"]);
        let begin = async |agent: &Agent| {
            let mut exec = agent.runtime.exec(config.instance, &stubborn).await.unwrap();
            exec.stdout.read_exact(&mut [0; 3]).await.unwrap();
            assert!(others(world, first).len() >= 2);
            exec
        };
        // The one who asked.
        drop(begin(&agent).await);
        nothing_is_left(world, first).await;
        // The command's shim.
        let exec = begin(&agent).await;
        kill(exec_shims(world)[0]);
        assert!(matches!(finish(exec).await.0, Exit::Unseen(_)));
        nothing_is_left(world, first).await;
        // The agent.
        let exec = begin(&agent).await;
        agent.crash();
        drop(exec);
        nothing_is_left(world, first).await;
        // Both: the next agent finds what is left.
        let agent = world.open().await;
        let exec = begin(&agent).await;
        agent.crash();
        exec_shims(world).into_iter().for_each(kill);
        eventually("the shim is gone", async || exec_shims(world).is_empty().then_some(())).await;
        drop(exec);
        assert!(!others(world, first).is_empty(), "a child outlives both");
        let agent = world.open().await;
        nothing_is_left(world, first).await;
        // The instance: its first process takes all with it.
        let exec = begin(&agent).await;
        kill(first);
        assert_eq!(finish(exec).await.0, Exit::Signal(9));
        end(&agent.runtime, config.instance).await;
        agent.runtime.remove(config.instance).await.unwrap();
        assert!(exec_shims(world).is_empty());
        agent.crash();
    });
}

#[test]
fn a_command_is_no_freer_than_its_instance() {
    with_root("exec-bounds", async |world| {
        let (agent, config) = sleeper(world).await;
        let instance = config.instance;
        let first = first_of(&agent, instance).await;
        let run = async |script: &str| outcome(&agent.runtime, instance, &command(&["sh", "-c", script])).await.1;
        let told = "cat /proc/self/status; cat /proc/self/limits";
        let fields = |text: &str| {
            let kept = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:", "Max "];
            let lines = text.lines().filter(|line| kept.iter().any(|name| line.starts_with(name)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let within = fields(&run(told).await);
        let of_first = run("cat /proc/1/status; cat /proc/1/limits").await;
        assert_eq!(within, fields(&of_first));
        for expected in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapInh:\t0000000000000000"] {
            assert!(within.iter().any(|line| line == expected), "{expected:?} is not in {within:?}");
        }

        // The same namespaces and cgroups, seen from the node; no descriptor too many.
        let mut exec = agent
            .runtime
            .exec(instance, &command(&["sh", "-c", "ls /proc/self/fd; echo on; exec sleep 1000"]))
            .await
            .unwrap();
        let mut seen = String::new();
        until(&mut exec, &mut seen, "on\n").await;
        assert_eq!(seen, "0\n1\n2\n3\non\n", "3 is the directory that ls reads");
        let pid = others(world, first)[0];
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let link = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(link(pid), link(first), "{kind}");
            assert!(link(pid) != fs::read_link(format!("/proc/self/ns/{kind}")).unwrap() || kind == "cgroup", "{kind}");
        }
        let cgroup = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        for line in cgroup(pid).lines() {
            let whole = line.split("/exec-").next().unwrap();
            assert!(cgroup(first).lines().any(|other| other == whole), "{line}");
        }
        let user = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
        };
        assert_eq!(user(pid), user(first));
        assert_ne!(user(pid).split_whitespace().nth(1), Some("0"), "root in there is nobody on the node");
        drop(exec);
        nothing_is_left(world, first).await;

        let mount = outcome(&agent.runtime, instance, &command(&["mount", "-t", "tmpfs", "none", "/tmp"])).await;
        assert_ne!(mount.0, Exit::Code(0));

        // Its limits are the instance's, which with cgroup v2 ends with it.
        let grow = "x=xxxxxxxx; while :; do x=$x$x; done";
        assert_eq!(outcome(&agent.runtime, instance, &command(&["sh", "-c", grow])).await.0, Exit::Signal(9));
        agent.runtime.stop(instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        assert!(end(&agent.runtime, instance).await.is_oom_killed, "what was killed in there is counted");
        agent.crash();
    });
}

#[test]
fn containers_without_users_of_their_own_are_entered_too() {
    with_root("exec-plain", async |world| {
        // Nobody but the node's root passes.
        fs::set_permissions(&world.dir, fs::Permissions::from_mode(0o700)).unwrap();
        let (agent, config) = sleeper(world).await;
        assert!(!agent.runtime.has_users());
        let script = "cat /proc/self/uid_map; busybox tty; cat /proc/self/status";
        let spec = ExecSpec { terminal: Some(SIZE), ..command(&["sh", "-c", script]) };
        let (exit, stdout, _) = outcome(&agent.runtime, config.instance, &spec).await;
        assert_eq!(exit, Exit::Code(0), "{stdout}");
        for expected in ["4294967295", "/dev/pts/0", "Seccomp:\t2", "NoNewPrivs:\t1", "CapInh:\t0000000000000000"] {
            assert!(stdout.contains(expected), "{expected:?} is not in {stdout:?}");
        }
        nothing_is_left(world, first_of(&agent, config.instance).await).await;
        agent.crash();
    });
}

#[test]
fn processes_are_not_entered() {
    without_root("exec-process", async |world| {
        let agent = world.open().await;
        let config = process(1, &["/bin/sleep", "1000"]);
        agent.runtime.start(&config).await.unwrap();
        let error = agent.runtime.exec(config.instance, &command(&["true"])).await.expect_err("no container");
        assert!(error.to_string().contains("only containers can be entered"), "{error}");
        agent.crash();
    });
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
