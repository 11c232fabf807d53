//! Containers by OCI runtimes of the node's: all that holds for others holds for them, or is refused. With runc throughout, and
//! with runsc what a sandbox makes different; without those programs nothing is tested.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use insula_container::{Config, Error, Exec, ExecOrder, Exit, InstanceConfig, NodeRuntime, Runtime, RuntimeClass};
use insula_env::clock;
use insula_types::{ByteSize, ContentHash, ExecSpec, FileSpec, InstanceId, SignalNumber, WindowSize};
use rustix::process::{Pid, Signal, kill_process};
use support::{
    Agent, SECRET, World, container, end, eventually, files_with, get, image::busybox, log_text, tell_secret, with_root,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// A class under test.
#[derive(Clone, Copy)]
struct Class {
    name: &'static str,
    arguments: &'static [&'static str],
    has_users: bool,
}

const RUNC: Class = Class { name: "runc", arguments: &[], has_users: true };
/// In the network namespace of the instance, whose interface it does not take over: Debian's of 2022 cannot with a kernel of today.
const RUNSC: Class = Class { name: "runsc", arguments: &["--platform=ptrace", "--network=host"], has_users: false };

impl Class {
    fn path(self) -> Option<PathBuf> {
        let directories = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];
        directories.iter().map(|directory| Path::new(directory).join(self.name)).find(|path| path.exists())
    }

    /// A world's configuration with this class.
    fn config(self, world: &World) -> Config {
        let class = RuntimeClass {
            path: self.path().unwrap(),
            arguments: self.arguments.iter().map(|part| (*part).to_owned()).collect(),
            has_users: self.has_users,
        };
        let mut config = world.config.clone();
        config.runtimes.insert(self.name.parse().unwrap(), class);
        config
    }

    async fn open(self, world: &World) -> Agent {
        world.open_as(self.config(world), None).await
    }
}

/// Runs a test with a class, if the machine has its program.
fn with(class: Class, name: &str, test: impl AsyncFnOnce(&World) + Send + 'static) {
    if class.path().is_none() {
        eprintln!("skipped: {name} needs {}", class.name);
        return;
    }
    with_root(name, test);
}

/// A container of the class, of an image that is here.
async fn service(world: &World, class: Class, command: &[&str]) -> (Agent, InstanceConfig) {
    let image = world.registry.push(&busybox());
    let agent = class.open(world).await;
    agent.runtime.ensure_image(&image).await.unwrap();
    let mut config = container(1, &image, command);
    config.spec.runtime = Some(class.name.parse().unwrap());
    (agent, config)
}

fn command(parts: &[&str]) -> ExecSpec {
    ExecSpec { command: parts.iter().map(|part| (*part).to_owned()).collect(), terminal: None, has_input: false }
}

async fn all(mut from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    clock::timeout(support::DEADLINE, from.read_to_end(&mut bytes)).await.expect("in time").unwrap();
    String::from_utf8(bytes).unwrap()
}

/// A command to its end: how it ended, its output, its errors.
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

async fn outcome(runtime: &NodeRuntime, instance: InstanceId, parts: &[&str]) -> (Exit, String, String) {
    finish(runtime.exec(instance, &command(parts)).await.unwrap()).await
}

/// Starts it, waits for its end, and removes it: how it ended, and its log.
async fn run(agent: &Agent, config: &InstanceConfig) -> (insula_container::Ended, String) {
    agent.runtime.start(config).await.unwrap();
    let ended = end(&agent.runtime, config.instance).await;
    let log = log_text(&agent.runtime, config.instance).await;
    agent.runtime.remove(config.instance).await.unwrap();
    (ended, log)
}

/// Processes whose command line or root is in a world's directory, or that are in its cgroups: what a test must not leave.
fn processes(world: &World) -> Vec<String> {
    let marks = [world.dir.to_str().unwrap().to_owned(), format!("/{}/", world.config.cgroup_parent)];
    let is_ours = |text: String| marks.iter().any(|mark| text.contains(mark));
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    let found = entries.filter(|path| *path != own).filter_map(|path| {
        let read = |name| fs::read_to_string(path.join(name)).unwrap_or_default().replace('\0', " ");
        (is_ours(read("cmdline")) || is_ours(read("cgroup"))).then(|| format!("{} {}", path.display(), read("cmdline")))
    });
    found.collect()
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

/// What holds for every class.
async fn serves_and_ends(world: &World, class: Class) {
    let script = "echo out; echo err >&2; echo $GREETING $INSULA_APP; mkdir /tmp/www; echo hello >/tmp/www/index.html; \
                  httpd -p 80 -h /tmp/www; trap 'exit 5' TERM; while :; do sleep 0.1; done";
    let (agent, config) = service(world, class, &["sh", "-c", script]).await;
    let running = agent.runtime.start(&config).await.unwrap();
    assert_eq!(agent.runtime.start(&config).await.unwrap(), running, "a second start adopts");
    let address = running.endpoints[&"http".parse().unwrap()];
    let body = eventually("it serves", async || get(address, "/").await).await;
    assert_eq!(body, "hello\n");
    agent.crash();

    let agent = class.open(world).await;
    let same = agent.runtime.start(&config).await.unwrap();
    assert_eq!(same, running, "it outlives the agent");
    // A sandbox takes its time when the processors are busy.
    let body = eventually("it serves on", async || get(address, "/").await).await;
    assert_eq!(body, "hello\n");
    agent.runtime.stop(config.instance, Some("SIGTERM"), Duration::from_secs(20)).await.unwrap();
    let ended = end(&agent.runtime, config.instance).await;
    assert_eq!((ended.exit, ended.is_oom_killed), (Exit::Code(5), false), "it was asked, and not killed");
    let log = log_text(&agent.runtime, config.instance).await;
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
    assert!(log.contains("F hello shop\n"), "{log}");
    agent.runtime.remove(config.instance).await.unwrap();
    assert_eq!(processes(world), Vec::<String>::new());

    // A command that lets TERM pass is killed after the grace.
    let config = InstanceConfig { spec: config.spec.clone(), ..config };
    let mut deaf = config.clone();
    deaf.spec.command = ["sh", "-c", "trap '' TERM; echo on; while :; do sleep 1; done"].map(str::to_owned).to_vec();
    agent.runtime.start(&deaf).await.unwrap();
    let is_on = async || log_text(&agent.runtime, deaf.instance).await.contains("F on").then_some(());
    eventually("it is deaf", is_on).await;
    agent.runtime.stop(deaf.instance, Some("SIGTERM"), Duration::from_millis(300)).await.unwrap();
    assert_eq!(end(&agent.runtime, deaf.instance).await.exit, Exit::Signal(9));
    agent.runtime.remove(deaf.instance).await.unwrap();
    assert_eq!(processes(world), Vec::<String>::new());
    agent.crash();
}

/// A shim that is killed, with and without an agent, takes its instance along.
async fn leaves_nothing(world: &World, class: Class) {
    let (agent, config) = service(world, class, &["sleep", "1000"]).await;
    agent.runtime.start(&config).await.unwrap();
    kill(world.shim_pid(config.instance).unwrap());
    assert!(matches!(end(&agent.runtime, config.instance).await.exit, Exit::Unseen(_)));
    eventually("its processes end", async || processes(world).is_empty().then_some(())).await;
    agent.runtime.remove(config.instance).await.unwrap();

    agent.runtime.start(&config).await.unwrap();
    agent.crash();
    kill(world.shim_pid(config.instance).unwrap());
    // The class is not in the configuration any more: it is ended all the same.
    let agent = world.open().await;
    assert!(matches!(end(&agent.runtime, config.instance).await.exit, Exit::Unseen(_)));
    eventually("its processes end", async || processes(world).is_empty().then_some(())).await;
    agent.runtime.remove(config.instance).await.unwrap();
    assert_eq!(agent.runtime.leftovers().await.unwrap(), Vec::<String>::new());
    agent.crash();
}

/// Commands: output, input, exit code, a terminal, what is not there, and a caller who goes away.
async fn takes_commands(world: &World, class: Class) {
    let (agent, config) = service(world, class, &["sleep", "1000"]).await;
    let (runtime, instance) = (&agent.runtime, config.instance);
    runtime.start(&config).await.unwrap();
    let (exit, said, errors) = outcome(runtime, instance, &["sh", "-c", "echo $GREETING; echo no >&2; exit 3"]).await;
    assert_eq!((exit, &*said, &*errors), (Exit::Code(3), "hello\n", "no\n"));

    let mut exec = runtime.exec(instance, &ExecSpec { has_input: true, ..command(&["cat"]) }).await.unwrap();
    exec.stdin.as_mut().unwrap().write_all(b"through").await.unwrap();
    assert_eq!(finish(exec).await, (Exit::Code(0), "through".to_owned(), String::new()));

    let missing = runtime.exec(instance, &command(&["no-such-program"])).await;
    assert!(matches!(&missing, Err(Error::Exec { why, .. }) if why.contains("no-such-program")), "{:?}", missing.err());

    let terminal = Some(WindowSize { rows: 40, columns: 132 });
    let spec = ExecSpec { terminal, has_input: true, ..command(&["sh", "-c", "read x; stty size; echo got $x"]) };
    let mut exec = runtime.exec(instance, &spec).await.unwrap();
    exec.stdin.as_mut().unwrap().write_all(b"it\n").await.unwrap();
    let (exit, said, _) = finish(Exec { stdin: None, ..exec }).await;
    assert!(said.contains("40 132") && said.contains("got it"), "{said}");
    assert_eq!(exit, Exit::Code(0));

    // What a command leaves behind goes with it.
    let (exit, ..) =
        outcome(runtime, instance, &["sh", "-c", "busybox setsid sleep 555 >/dev/null 2>&1 & exit 0"]).await;
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(sleepers(runtime, instance, "555").await, 0);

    let mut exec = runtime
        .exec(instance, &command(&["sh", "-c", "trap 'exit 7' USR1; echo on; while :; do sleep 0.1; done"]))
        .await
        .unwrap();
    exec.stdout.read_exact(&mut [0; 3]).await.unwrap();
    exec.handle.order(ExecOrder::Signal(SignalNumber::try_from(10).unwrap())).await;
    let exit = clock::timeout(support::DEADLINE, exec.exit).await.expect("in time");
    assert!(matches!(exit, Exit::Code(7)), "{exit:?}");

    // Nobody waits for it any more.
    let mut exec = runtime
        .exec(instance, &command(&["sh", "-c", "trap '' HUP; echo on; while :; do sleep 444; done"]))
        .await
        .unwrap();
    exec.stdout.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(sleepers(runtime, instance, "444").await, 1);
    drop(exec);
    eventually("it is ended", async || (sleepers(runtime, instance, "444").await == 0).then_some(())).await;
    runtime.stop(instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
    runtime.remove(instance).await.unwrap();
    assert_eq!(processes(world), Vec::<String>::new());
    agent.crash();
}

/// Processes in the container that sleep for so long.
async fn sleepers(runtime: &NodeRuntime, instance: InstanceId, seconds: &str) -> usize {
    let (exit, said, errors) = outcome(runtime, instance, &["busybox", "ps", "-o", "args"]).await;
    assert_eq!(exit, Exit::Code(0), "{errors}");
    said.lines().filter(|line| *line == format!("sleep {seconds}")).count()
}

/// One-off instances, and a first process of ours.
async fn has_first_processes(world: &World, class: Class) {
    let (agent, config) = service(world, class, &["sh", "-c", "echo $$; exit 6"]).await;
    let exec = agent.runtime.run(&config, &command(&["sh", "-c", "echo once; exit 4"])).await.unwrap();
    assert_eq!(finish(exec).await, (Exit::Code(4), "once\n".to_owned(), String::new()));
    assert!(!world.home(config.instance).exists());
    assert_eq!(processes(world), Vec::<String>::new());

    let (ended, log) = run(&agent, &config).await;
    assert_eq!(ended.exit, Exit::Code(6));
    assert!(log.contains("F 1\n"), "{log}");
    let mut config = config;
    config.spec.has_init = true;
    let (ended, log) = run(&agent, &config).await;
    assert_eq!(ended.exit, Exit::Code(6));
    assert!(!log.contains("F 1\n"), "{log}");
    agent.crash();
}

#[test]
fn runc_serves_and_ends() {
    with(RUNC, "runc-serves", async |world| serves_and_ends(world, RUNC).await);
}

#[test]
fn runsc_serves_and_ends() {
    with(RUNSC, "runsc-serves", async |world| serves_and_ends(world, RUNSC).await);
}

#[test]
fn runc_leaves_nothing() {
    with(RUNC, "runc-leaves", async |world| leaves_nothing(world, RUNC).await);
}

#[test]
fn runsc_leaves_nothing() {
    with(RUNSC, "runsc-leaves", async |world| leaves_nothing(world, RUNSC).await);
}

#[test]
fn runc_takes_commands() {
    with(RUNC, "runc-commands", async |world| takes_commands(world, RUNC).await);
}

#[test]
fn runsc_takes_commands() {
    with(RUNSC, "runsc-commands", async |world| takes_commands(world, RUNSC).await);
}

#[test]
fn runc_has_first_processes() {
    with(RUNC, "runc-first", async |world| has_first_processes(world, RUNC).await);
}

#[test]
fn runsc_has_first_processes() {
    with(RUNSC, "runsc-first", async |world| has_first_processes(world, RUNSC).await);
}

/// Files of the definition, which the container cannot change.
async fn has_files(world: &World, class: Class) {
    let script = "cat /etc/shop/main.toml; echo x 2>/dev/null > /etc/shop/main.toml || echo refused";
    let (agent, mut config) = service(world, class, &["sh", "-c", script]).await;
    let content = ContentHash::of("a = 1\n");
    config.spec.files = vec![FileSpec { path: "/etc/shop/main.toml".to_owned(), mode: 0o644, content }];
    config.contents.files.insert(content, "a = 1\n".into());
    let (_, log) = run(&agent, &config).await;
    assert!(log.contains("F a = 1\n") && log.contains("F refused\n"), "{log}");
    agent.crash();
}

/// Secrets in its environment, as files, and in that of commands; on no disk.
async fn has_secrets(world: &World, class: Class) {
    let script = "[ \"$KEY\" = \"$(cat /run/secrets/KEY)\" ] && echo same; echo ${#KEY}; sleep 1000";
    let (agent, mut config) = service(world, class, &["sh", "-c", script]).await;
    tell_secret(&mut config);
    agent.runtime.start(&config).await.unwrap();
    let logged = async || log_text(&agent.runtime, config.instance).await;
    eventually("it has told", async || logged().await.contains("F 21\n").then_some(())).await;
    assert!(logged().await.contains("F same\n"));
    let (_, said, _) = outcome(&agent.runtime, config.instance, &["sh", "-c", "echo ${#KEY}"]).await;
    assert_eq!(said, "21\n");
    assert_eq!(files_with(&world.dir, SECRET), Vec::<PathBuf>::new());
    agent.runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
    agent.runtime.remove(config.instance).await.unwrap();
    agent.crash();
}

#[test]
fn runc_has_secrets() {
    with(RUNC, "runc-secrets", async |world| has_secrets(world, RUNC).await);
}

#[test]
fn runsc_has_secrets() {
    with(RUNSC, "runsc-secrets", async |world| has_secrets(world, RUNSC).await);
}

#[test]
fn runc_has_files() {
    with(RUNC, "runc-files", async |world| has_files(world, RUNC).await);
}

#[test]
fn runsc_has_files() {
    with(RUNSC, "runsc-files", async |world| has_files(world, RUNSC).await);
}

#[test]
fn runc_keeps_limits_and_users() {
    with(RUNC, "runc-limits", async |world| {
        let (agent, mut config) = service(world, RUNC, &["sh", "-c", "x=xxxxxxxx; while :; do x=$x$x; done"]).await;
        config.spec.resources.memory = ByteSize::mib(32);
        let (ended, _) = run(&agent, &config).await;
        assert!(ended.is_oom_killed, "{ended:?}");

        let see =
            "id -u; cat /proc/self/uid_map; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; cat /proc/net/dev";
        config.spec.command = ["sh", "-c", see].map(str::to_owned).to_vec();
        let (_, log) = run(&agent, &config).await;
        assert!(log.contains("F 0\n") && log.contains("NoNewPrivs:\t1") && log.contains("Seccomp:\t2"), "{log}");
        assert!(log.contains("eth0:"), "its network: {log}");
        if agent.runtime.has_users() {
            assert!(!log.contains("0          0 4294967295"), "root is root of the node: {log}");
        }
        agent.crash();
    });
}

#[test]
fn what_cannot_be_started_says_why_and_leaves_nothing() {
    with(RUNC, "runc-refuses", async |world| {
        let (agent, mut config) = service(world, RUNC, &["no-such-program"]).await;
        let error = agent.runtime.start(&config).await.expect_err("there is no such program");
        assert!(error.to_string().contains("no-such-program"), "{error}");
        assert!(!world.home(config.instance).exists());
        assert_eq!(processes(world), Vec::<String>::new());

        config.spec.runtime = Some("kata".parse().unwrap());
        let error = agent.runtime.start(&config).await.expect_err("there is no such class");
        assert!(error.to_string().contains("this node has no runtime kata"), "{error}");
        agent.crash();

        let mut broken = RUNC.config(world);
        for class in broken.runtimes.values_mut() {
            class.path = "/no/such/runtime".into();
        }
        let agent = world.open_as(broken, None).await;
        assert_eq!(agent.runtime.runtimes().count(), 0, "one that is not installed is not told of");
        agent.crash();
    });
}
