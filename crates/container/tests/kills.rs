//! Kills at random: of the agent, of shims, of instances' first processes, of commands, wherever they happen to be. Afterwards
//! what should run runs, and nothing else is left.
//!
//! The agent is a process of its own here (this program again, as `agent`), so that its kill is a real one: no thread of it
//! goes on. `INSULA_KILLS` says how many (60 when it is not set), `INSULA_KILLS_SEED` which.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use insula_container::{Error, ImageRef, InstanceConfig, NodeRuntime, ObservedState, Runtime};
use insula_env::{Clock, Env, Rng, clock};
use insula_types::{ByteSize, ExecSpec, InstanceId, SnapshotName, VolumeRef, VolumeSpec};
use rustix::process::{Pid, Signal, kill_process};
use support::{World, container, eventually, get, image::busybox, observed, process, with_root};

const KILLS: u64 = 60;
/// Between two looks at whether all can be put right again.
const DOZEN: u64 = 12;
/// Longest time between two kills: a start takes about so long.
const PAUSE_MS_MAX: u64 = 150;
/// Instances from 1 on that there are, and how many of them should run in the end.
const INSTANCES: u64 = 8;
const WANTED: u64 = 6;
const VARIABLES: [&str; 4] = ["KILLS_DIRECTORY", "KILLS_CGROUP", "KILLS_IMAGE", "KILLS_AGENT_SEED"];

#[test]
fn after_kills_all_that_should_run_runs_and_nothing_else_is_left() {
    with_root("random-kills", async |world| {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
        let kills: u64 = number("INSULA_KILLS").unwrap_or(KILLS);
        let seed = number("INSULA_KILLS_SEED").unwrap_or_else(|| Rng::from_os().next());
        println!("{kills} kills, INSULA_KILLS_SEED={seed}");
        let rng = Rng::from_seed(seed);
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        for slot in 0..2 {
            agent.runtime.make_volume(&volume(slot), ByteSize::mib(16)).await.unwrap();
        }
        agent.runtime.make_snapshot(&volume(0), &snapshot("kept")).await.unwrap();
        agent.crash();
        let (clock, mut counts) = (Clock::real(), BTreeMap::new());
        let begun = clock.now();
        let mut done = 0;
        while done < kills {
            let dozen = DOZEN.min(kills - done);
            kill_some(world, &image, &rng, dozen, &mut counts).await;
            done += dozen;
            put_right(world, &image).await;
        }
        println!("{counts:?} in {:?}", begun.elapsed());
        assert!(counts.len() == 4 || kills < KILLS, "all kinds were killed: {counts:?}");
    });
}

/// The agent under test: starts, stops, removes and enters instances until it is killed.
#[test]
#[ignore = "a part of the test above, which starts it"]
fn agent() {
    let [Some(directory), Some(cgroup), Some(image), Some(seed)] = VARIABLES.map(|name| env::var(name).ok()) else {
        return;
    };
    let image: ImageRef = image.parse().unwrap();
    let rng = Rng::from_seed(seed.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = support::config(Path::new(&directory), cgroup, true);
        let runtime = NodeRuntime::open(Env::real("test"), config, None).await.unwrap();
        let busy = (0..3).map(|_| churn(&runtime, &image, &rng));
        tokio::join!(futures::future::join_all(busy), take_snapshots(&runtime, &rng));
    });
}

async fn churn(runtime: &NodeRuntime, image: &ImageRef, rng: &Rng) {
    loop {
        let config = wanted(rng.range(1, INSTANCES + 1), image);
        let instance = config.instance;
        // Whatever is refused is so because of a kill, or because another of us is at the same instance.
        match observed(runtime, instance).await.map(|one| one.state) {
            None => drop(runtime.start(&config).await),
            Some(ObservedState::Ended(_)) => drop(runtime.remove(instance).await),
            Some(ObservedState::Running(_)) if rng.chance(0.5) => {
                runtime.stop(instance, Some("SIGKILL"), Duration::ZERO).await.ok();
                runtime.remove(instance).await.ok();
            }
            Some(ObservedState::Running(_)) => {
                let Ok(exec) = runtime.exec(instance, &command(&["sleep", "0.2"])).await else { continue };
                exec.exit.await;
            }
        }
    }
}

/// One after the other, of volumes that are in use and of others.
async fn take_snapshots(runtime: &NodeRuntime, rng: &Rng) {
    loop {
        clock::sleep(Duration::from_millis(rng.range(1, PAUSE_MS_MAX))).await;
        let (volume, name) = (volume(rng.range(0, 2) as u32), snapshot("new"));
        if runtime.make_snapshot(&volume, &name).await.is_ok() {
            runtime.delete_snapshot(&volume, &name).await.ok();
        }
    }
}

fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn command(parts: &[&str]) -> ExecSpec {
    ExecSpec { command: parts.iter().map(|part| (*part).to_owned()).collect(), terminal: None, has_input: false }
}

fn volume(slot: u32) -> VolumeRef {
    format!("shop/web/data.{slot}").parse().unwrap()
}

/// What each instance is: with a volume, with a bounded layer, a process, under a first process of ours, or plain.
fn wanted(number: u64, image: &ImageRef) -> InstanceConfig {
    if number == 5 {
        let serve = "exec /bin/busybox httpd -f -p 127.0.0.1:$PORT -h .";
        return process(number, &["/bin/sh", "-c", &format!("echo it >index.html; {serve}")]);
    }
    let mut config = container(number, image, &[]);
    match number {
        1 | 2 => {
            let (name, path) = ("data".parse().unwrap(), "/var/data".to_owned());
            config.spec.volumes = vec![VolumeSpec { name, path, size: ByteSize::mib(16) }];
            config.slot = Some(number as u32 - 1);
        }
        3 | 7 => config.spec.resources.disk = Some(ByteSize::mib(24)),
        4 => config.spec.has_init = true,
        _ => {}
    }
    config
}

/// The agent's process, killed with this.
struct Agent(Child);

impl Agent {
    fn start(world: &World, image: &ImageRef, rng: &Rng) -> Self {
        let values = [
            world.dir.display().to_string(),
            world.config.cgroup_parent.clone(),
            image.to_string(),
            rng.next().to_string(),
        ];
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "agent", "--ignored", "--nocapture"]).envs(VARIABLES.into_iter().zip(values));
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        let ended = self.0.wait().unwrap();
        let is_killed = std::os::unix::process::ExitStatusExt::signal(&ended) == Some(libc::SIGKILL);
        assert!(is_killed || std::thread::panicking(), "the agent ended by itself: {ended}");
    }
}

/// Kills so many; the last is the agent.
async fn kill_some(
    world: &World,
    image: &ImageRef,
    rng: &Rng,
    mut left: u64,
    counts: &mut BTreeMap<&'static str, u32>,
) {
    let mut agent = Agent::start(world, image, rng);
    while left > 0 {
        clock::sleep(Duration::from_millis(rng.range(1, PAUSE_MS_MAX))).await;
        let victim = InstanceId::new(rng.range(1, INSTANCES + 1));
        let kind = match rng.range(0, 8) {
            _ if left == 1 => "agent",
            0 => "agent",
            1 | 2 => "shim",
            3 | 4 => "instance",
            _ => "command",
        };
        let pid = match kind {
            "agent" => Pid::from_raw(agent.0.id() as i32),
            "shim" => world.shims(victim, false).first().copied(),
            "instance" => first_process(&world.home(victim)),
            _ => (1..=INSTANCES).find_map(|one| world.shims(InstanceId::new(one), true).first().copied()),
        };
        // There may be none right now.
        let Some(pid) = pid else { continue };
        if kill_process(pid, Signal::KILL).is_err() {
            continue;
        }
        left -= 1;
        *counts.entry(kind).or_default() += 1;
        if kind == "agent" && left > 0 {
            drop(agent);
            agent = Agent::start(world, image, rng);
        }
    }
}

/// The first process of an instance, if that is the one that its shim started.
fn first_process(home: &Path) -> Option<Pid> {
    let running: serde_json::Value = serde_json::from_slice(&fs::read(home.join("running.json")).ok()?).ok()?;
    let pid = running["pid"].as_i64()?;
    let stat = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    let begun: u64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    (running["start_ticks"].as_u64()? == begun).then(|| Pid::from_raw(pid as i32)).flatten()
}

/// Brings everything to what should run, and looks at what is left beside that.
async fn put_right(world: &World, image: &ImageRef) {
    let agent = world.open().await;
    let runtime = &agent.runtime;
    // An instance that was killed last may seem to run at the first look.
    eventually("what should run answers", async || {
        let addresses = reconcile(runtime, image).await?;
        for address in addresses {
            get(address, "/").await?;
        }
        Some(())
    })
    .await;
    let exec = runtime.exec(InstanceId::new(1), &command(&["true"])).await.unwrap();
    assert_eq!(exec.exit.await, insula_container::Exit::Code(0));
    let mut left = Vec::new();
    // The kernel and killed processes take a moment.
    let wait = async {
        while !Vec::is_empty({
            left = runtime.leftovers().await.unwrap();
            &left
        }) {
            clock::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = clock::timeout(Duration::from_secs(5), wait).await;
    assert!(waited.is_ok(), "left over: {left:#?}");
    for one in runtime.snapshots().await.unwrap() {
        let file = world.dir.join(format!("volumes/snapshots/shop.web.data.{}/{}.img", one.volume.slot, one.snapshot));
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(file).output().unwrap();
        assert!(checked.status.success(), "{one:?}: {checked:?}");
        if one.snapshot.as_str() != "kept" {
            runtime.delete_snapshot(&one.volume, &one.snapshot).await.unwrap();
        }
    }
    let left = walk(&world.dir.join("volumes"));
    let files: Vec<&str> = left.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!(files, ["kept.img", "shop.web.data.0.img", "shop.web.data.1.img"]);
    agent.crash();
}

/// The files below a directory, ordered by name.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort_by_key(|path| path.file_name().map(ToOwned::to_owned));
    found
}

/// As an agent does it: what has ended is removed, what should run and is not there is started.
async fn reconcile(runtime: &NodeRuntime, image: &ImageRef) -> Option<Vec<SocketAddr>> {
    for one in runtime.list().await.unwrap() {
        if matches!(one.state, ObservedState::Running(_)) && one.instance <= InstanceId::new(WANTED) {
            continue;
        }
        runtime.stop(one.instance, Some("SIGKILL"), Duration::ZERO).await.unwrap();
        runtime.remove(one.instance).await.unwrap();
    }
    let mut addresses = Vec::new();
    for number in 1..=WANTED {
        let running = match runtime.start(&wanted(number, image)).await {
            Err(Error::State { why, .. }) if why.starts_with("has ended") => return None,
            running => running.unwrap(),
        };
        addresses.extend(running.endpoints.into_values());
    }
    Some(addresses)
}
