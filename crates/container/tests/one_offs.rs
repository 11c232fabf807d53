//! One-off instances: what their commands are given, and that nothing is left of them, whatever ends.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use insula_container::{Error, Exec, ExecOrder, Exit, ImageRef, InstanceConfig, NodeRuntime, Runtime};
use insula_env::clock;
use insula_types::{ByteSize, ExecSpec, InstanceId, SignalNumber, VolumeSpec, WindowSize};
use support::{Agent, World, cgroups, container, eventually, image::busybox, process, with_root, without_root};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

const SIZE: WindowSize = WindowSize { rows: 40, columns: 132 };
/// The instance that each test makes for its commands.
const ONE: u64 = 9;

fn command(parts: &[&str]) -> ExecSpec {
    ExecSpec { command: parts.iter().map(|part| (*part).to_owned()).collect(), terminal: None, has_input: false }
}

/// Deaf to HUP, with a child in a session of its own.
fn stubborn() -> ExecSpec {
    command(&["sh", "-c", "trap '' HUP; busybox setsid sleep 999 & echo on; while :; do sleep 1; done"])
}

/// A service of which nothing runs, and its image.
async fn service(world: &World) -> (Agent, InstanceConfig) {
    let image: ImageRef = world.registry.push(&busybox());
    let agent = world.open().await;
    agent.runtime.ensure_image(&image).await.unwrap();
    let mut config = container(ONE, &image, &["/no/such"]);
    config.spec.resources.memory = ByteSize::mib(64);
    (agent, config)
}

async fn all(mut from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    clock::timeout(support::DEADLINE, from.read_to_end(&mut bytes)).await.expect("in time").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Runs a command to its end: how it ended, its output, its errors.
async fn outcome(runtime: &NodeRuntime, config: &InstanceConfig, parts: &[&str]) -> (Exit, String, String) {
    finish(runtime.run(config, &command(parts)).await.unwrap()).await
}

async fn finish(exec: Exec) -> (Exit, String, String) {
    let Exec { stdout, stderr, exit, handle, stdin } = exec;
    drop(stdin);
    let errors = async {
        match stderr {
            Some(stderr) => all(stderr).await,
            None => String::new(),
        }
    };
    let (stdout, stderr) = tokio::join!(all(stdout), errors);
    let exit = clock::timeout(support::DEADLINE, exit).await.expect("in time");
    drop(handle);
    (exit, stdout, stderr)
}

/// Begins one that never ends, and waits until it says so.
async fn begin(agent: &Agent, config: &InstanceConfig) -> Exec {
    let mut exec = agent.runtime.run(config, &stubborn()).await.unwrap();
    exec.stdout.read_exact(&mut [0; 3]).await.unwrap();
    exec
}

/// What is there of it: directory, shims, cgroups with their processes, kept logs.
fn remains(world: &World) -> Vec<String> {
    let id = InstanceId::new(ONE);
    let shims = [false, true].into_iter().flat_map(|mode| world.shims(id, mode)).map(|pid| format!("shim {pid:?}"));
    let paths = [world.home(id), world.dir.join("logs").join(id.to_string())].into_iter().filter(|path| path.exists());
    let cgroups = cgroups(&format!("{}/{id}", world.config.cgroup_parent));
    shims.chain(paths.chain(cgroups).map(|path| path.display().to_string())).collect()
}

#[test]
fn a_command_gets_what_its_service_has_and_its_instance_ends_with_it() {
    with_root("one-off-ends", async |world| {
        let (agent, mut config) = service(world).await;
        config.spec.volumes =
            vec![VolumeSpec { name: "data".parse().unwrap(), path: "/data".to_owned(), size: ByteSize::mib(16) }];
        config.slot = Some(0);
        let run = async |parts: &[&str]| {
            let done = outcome(&agent.runtime, &config, parts).await;
            assert_eq!(remains(world), Vec::<String>::new(), "{parts:?} has ended");
            done
        };
        let script = "echo $GREETING $HOME $INSULA_INSTANCE $PORT; pwd; test -e /data; echo $? >&2; exit 7";
        let (exit, stdout, stderr) = run(&["sh", "-c", script]).await;
        let said = format!("hello / {} 80\n/www\n", config.instance);
        assert_eq!((exit, stdout, &*stderr), (Exit::Code(7), said, "1\n"));
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]).await.0, Exit::Signal(9));
        assert_eq!(run(&["cat"]).await, (Exit::Code(0), String::new(), String::new()), "it has no input");
        // What it started goes with it.
        assert_eq!(run(&["sh", "-c", "busybox setsid sleep 999 & exit 4"]).await.0, Exit::Code(4));
        // Limits are those of the service.
        assert_eq!(run(&["sh", "-c", "x=xxxxxxxx; while :; do x=$x$x; done"]).await.0, Exit::Signal(9));
        let error = agent.runtime.run(&config, &command(&["/no/such"])).await.expect_err("no program");
        assert!(error.to_string().contains("start /no/such: No such file"), "{error}");
        assert_eq!(remains(world), Vec::<String>::new());
        agent.crash();
    });
}

#[test]
fn its_root_has_users_and_a_first_process_that_nobody_looks_into() {
    with_root("one-off-root", async |world| {
        let (agent, config) = service(world).await;
        let script = "cat /proc/self/uid_map; busybox ls -l /proc/1/exe 2>/dev/null; sh -c 'sleep 0.01 & exec true'; \
                      sleep 0.2; busybox grep -l 'State:.Z' /proc/[0-9]*/status; busybox grep ^Seccomp: /proc/self/status";
        let (exit, stdout, errors) = outcome(&agent.runtime, &config, &["sh", "-c", script]).await;
        assert_eq!((exit, &*errors), (Exit::Code(0), ""));
        assert_eq!(stdout.contains("4294967295"), !agent.runtime.has_users(), "{stdout}");
        assert!(!stdout.contains("->"), "the shim's file is seen: {stdout}");
        assert!(!stdout.contains("status"), "orphans are not collected: {stdout}");
        assert!(stdout.ends_with("Seccomp:\t2\n"), "{stdout}");
        agent.crash();
    });
}

#[test]
fn a_terminal_and_signals_are_those_of_any_command() {
    with_root("one-off-terminal", async |world| {
        let (agent, config) = service(world).await;
        let spec = ExecSpec { terminal: Some(SIZE), ..command(&["sh", "-c", "busybox stty size; read word; exit 5"]) };
        let mut exec = agent.runtime.run(&config, &spec).await.unwrap();
        let mut stdin = exec.stdin.take().unwrap();
        stdin.write_all(b"go\n").await.unwrap();
        let (exit, stdout, _) = finish(exec).await;
        assert_eq!(exit, Exit::Code(5));
        assert!(stdout.contains("40 132\r\n"), "{stdout:?}");
        let script = "trap 'exit 3' TERM; echo on; while :; do sleep 0.05; done";
        let mut exec = agent.runtime.run(&config, &command(&["sh", "-c", script])).await.unwrap();
        exec.stdout.read_exact(&mut [0; 3]).await.unwrap();
        exec.handle.order(ExecOrder::Signal(SignalNumber::try_from(15).unwrap())).await;
        assert_eq!(finish(exec).await.0, Exit::Code(3));
        assert_eq!(remains(world), Vec::<String>::new());
        agent.crash();
    });
}

#[test]
fn nothing_is_left_when_the_caller_or_anything_else_goes() {
    with_root("one-off-kills", async |world| {
        let (agent, config) = service(world).await;
        let nothing_is_left = async || {
            eventually("nothing is left", async || remains(world).is_empty().then_some(())).await;
            let told = async || agent.runtime.leftovers().await.unwrap().is_empty().then_some(());
            eventually("the runtime knows nothing more", told).await;
        };
        // The caller, while it runs and while it is being made.
        let exec = begin(&agent, &config).await;
        assert_eq!(agent.runtime.leftovers().await.unwrap(), Vec::<String>::new(), "somebody has it");
        assert_eq!(agent.runtime.list().await.unwrap(), Vec::new(), "it is nobody's placement");
        drop(exec);
        nothing_is_left().await;
        let spec = stubborn();
        tokio::select! {
            begun = agent.runtime.run(&config, &spec) => drop(begun.unwrap()),
            () = eventually("it is being made", async || (!remains(world).is_empty()).then_some(())) => {}
        }
        nothing_is_left().await;
        // The shim of the instance, and that of the command.
        for of_commands in [false, true] {
            let exec = begin(&agent, &config).await;
            world.shims(config.instance, of_commands).into_iter().for_each(kill);
            let ended = finish(exec).await.0;
            assert!(matches!(ended, Exit::Unseen(_) | Exit::Signal(9)), "{ended:?}");
            nothing_is_left().await;
        }
        agent.crash();
        // The agent, and then both shims before the next one comes.
        for kills_shims in [false, true] {
            let agent = world.open().await;
            let exec = begin(&agent, &config).await;
            let runtime = agent.runtime.clone();
            agent.crash();
            assert!(world.home(config.instance).exists(), "it goes with the next agent");
            let mark = format!("one-off instance {}", config.instance);
            eventually("it is told", async || runtime.leftovers().await.unwrap().contains(&mark).then_some(())).await;
            if kills_shims {
                [true, false].into_iter().flat_map(|mode| world.shims(config.instance, mode)).for_each(kill);
            }
            drop(exec);
            let next = world.open().await;
            assert_eq!(next.runtime.list().await.unwrap(), Vec::new());
            assert_eq!(next.runtime.leftovers().await.unwrap(), Vec::<String>::new());
            assert_eq!(remains(world), Vec::<String>::new());
            next.crash();
        }
    });
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    with_root("one-off-room", async |world| {
        let (other, mut config) = service(world).await;
        other.crash();
        // That of other tests has addresses for fewer.
        let mut wide = world.config.clone();
        wide.network.as_mut().unwrap().subnet = "10.77.0.0/24".parse().unwrap();
        let agent = world.open_as(wide, None).await;
        let runtime = &agent.runtime;
        let mut running = Vec::new();
        let refused = loop {
            config.instance = InstanceId::new(100 + running.len() as u64);
            match runtime.run(&config, &command(&["sleep", "1000"])).await {
                Ok(exec) => running.push(exec),
                Err(error) => break error,
            }
        };
        assert_eq!(running.len(), 16);
        assert!(refused.to_string().contains("16 one-off instances already"), "{refused}");
        running.pop();
        config.instance = InstanceId::new(100);
        let taken = eventually("room again", async || {
            let error = runtime.run(&config, &command(&["true"])).await.expect_err("that one runs").to_string();
            (!error.contains("already, the most")).then_some(error)
        });
        let taken = taken.await;
        assert!(taken.contains("needs an id of its own"), "{taken}");
        drop(running);
        config.instance = InstanceId::new(ONE);
        assert_eq!(outcome(runtime, &config, &["true"]).await.0, Exit::Code(0));
        agent.crash();
    });
}

#[test]
fn a_service_that_is_no_container_gets_none() {
    without_root("one-off-process", async |world| {
        let agent = world.open().await;
        let error = agent.runtime.run(&process(ONE, &["/bin/sleep", "1000"]), &command(&["true"])).await;
        let error = error.expect_err("no container");
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert!(error.to_string().contains("only containers get one-off instances"), "{error}");
        agent.crash();
    });
}

fn kill(pid: rustix::process::Pid) {
    // Its end may have come first.
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
}
