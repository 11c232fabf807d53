//! Starts of containers whose image is present, one after the other and many at once: Insula's runtime, and `runc` and
//! `podman` as its peers. To be run as root in a network of its own; leaves nothing.

pub mod many;
mod podman;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use insula_container::{Config, InstanceConfig, NetworkConfig, NodeLabels, NodeRuntime, Runtime};
use insula_env::{Clock, Env};
use insula_types::{CpuMillis, InstanceId, PortSpec, Protocol, ReleaseNumber, Resources, ServiceRef, ServiceSpec};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
pub use podman::measure as measure_podman;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, sync::Semaphore, task::JoinSet};

use crate::report::percentile;

/// Addresses for the containers; the network is nobody else's.
const SUBNET: &str = "10.77.0.0/16";
/// Name of the cgroup that they are in.
const CGROUP: &str = "insula-bench";

/// Times of starts, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Starts {
    /// Half were faster.
    pub p50_us: u64,
    /// 99 % were faster.
    pub p99_us: u64,
}

impl Starts {
    fn of(mut times_us: Vec<u64>) -> Self {
        times_us.sort_unstable();
        Self { p50_us: percentile(&times_us, 50), p99_us: percentile(&times_us, 99) }
    }
}

/// What is measured of a runtime.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// One after the other.
    pub one_by_one: Starts,
    /// All asked for at the same time, each from then on.
    pub at_once: Starts,
    /// Until all of those ran, in microseconds.
    pub all_us: u64,
}

/// How many containers are started.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// One after the other.
    pub count: u64,
    /// At the same time.
    pub at_once: u64,
}

/// Moves this thread, which must be the only one, to mounts of its own.
///
/// # Errors
/// Without root.
pub fn hide_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).context("own mounts")
}

/// Starts, stops and removes containers of an image in a registry without TLS; files are below `dir`.
///
/// # Errors
/// What the runtime says.
pub async fn measure(image: &str, dir: &Path, plan: Plan) -> Result<Measured> {
    let runtime = open(image, dir).await?;
    let measured = start_all(&runtime, image, plan).await;
    runtime.remove_all().await?;
    measured
}

/// The runtime, with the image.
async fn open(image: &str, dir: &Path) -> Result<NodeRuntime> {
    insula_identity::install_provider();
    let registry = image.split('/').next().unwrap_or(image).to_owned();
    let config = Config {
        data_dir: dir.to_owned(),
        cgroup_parent: CGROUP.to_owned(),
        limit: None,
        layer_size: None,
        network: Some(NetworkConfig { bridge: "insula0".to_owned(), subnet: SUBNET.parse()? }),
        insecure_registries: vec![registry],
        registry_credentials: dir.join("registries.json"),
        log_bytes_max: 1 << 20,
        runtimes: Default::default(),
    };
    let runtime = NodeRuntime::open(Env::real("bench"), config, None).await?;
    runtime.ensure_image(&image.parse()?).await?;
    Ok(runtime)
}

async fn start_all(runtime: &NodeRuntime, image: &str, plan: Plan) -> Result<Measured> {
    let clock = Clock::real();
    let mut times_us = Vec::new();
    for number in 0..=plan.count {
        let config = instance(number, image)?;
        let begun = clock.now();
        runtime.start(&config).await?;
        // The first one also makes what all share.
        if number > 0 {
            times_us.push(begun.elapsed().as_micros() as u64);
        }
        end(runtime, number, image).await?;
    }
    let begin = |number| {
        let (runtime, config) = (runtime.clone(), instance(number, image));
        async move { Ok(runtime.start(&config?).await.map(drop)?) }
    };
    let together_us = start_together(plan.at_once, plan.at_once, begin).await?;
    for number in 0..plan.at_once {
        end(runtime, number, image).await?;
    }
    Ok(Measured::of(times_us, together_us))
}

impl Measured {
    fn of(one_by_one_us: Vec<u64>, at_once_us: Vec<u64>) -> Self {
        let all_us = at_once_us.iter().copied().max().unwrap_or(0);
        Self { one_by_one: Starts::of(one_by_one_us), at_once: Starts::of(at_once_us), all_us }
    }
}

/// Starts `count` things, so many at a time; for each, the microseconds from the beginning until it ran.
async fn start_together<F>(count: u64, at_a_time: u64, start: impl Fn(u64) -> F) -> Result<Vec<u64>>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(usize::try_from(at_a_time)?));
    let begun = Clock::real().now();
    let mut starts = JoinSet::new();
    for number in 0..count {
        let (room, start) = (Arc::clone(&room), start(number));
        starts.spawn(async move {
            let _room = room.acquire().await?;
            start.await?;
            Ok(begun.elapsed().as_micros() as u64)
        });
    }
    starts.join_all().await.into_iter().collect()
}

async fn end(runtime: &NodeRuntime, number: u64, image: &str) -> Result<()> {
    let instance = instance(number, image)?.instance;
    runtime.stop(instance, Some("SIGKILL"), Duration::ZERO).await?;
    Ok(runtime.remove(instance).await?)
}

fn instance(number: u64, image: &str) -> Result<InstanceConfig> {
    Ok(InstanceConfig {
        instance: InstanceId::new(number + 1),
        service: ServiceRef { app: "bench".parse()?, service: "web".parse()? },
        release: ReleaseNumber(1),
        spec: ServiceSpec {
            image: Some(image.to_owned()),
            command: ["/bin/busybox", "sleep", "1000"].map(str::to_owned).into(),
            resources: Resources { cpu: CpuMillis(500), ..Resources::default() },
            ports: vec![PortSpec { name: "http".parse()?, port: 80, protocol: Protocol::Http }],
            ..ServiceSpec::default()
        },
        node: NodeLabels { name: "bench".parse()?, region: "bench".parse()?, datacenter: "bench".parse()? },
        slot: None,
        contents: Default::default(),
    })
}

/// A runtime that ours is compared with.
trait Peer: Clone {
    /// Returns when it runs.
    fn start(self, number: u64) -> impl Future<Output = Result<()>> + Send + 'static;
    /// Ends and removes it.
    async fn end(&self, number: u64) -> Result<()>;
}

async fn start_all_of(peer: &impl Peer, plan: Plan) -> Result<Measured> {
    let clock = Clock::real();
    let mut times_us = Vec::new();
    for number in 0..=plan.count {
        let begun = clock.now();
        peer.clone().start(number).await?;
        if number > 0 {
            times_us.push(begun.elapsed().as_micros() as u64);
        }
        peer.end(number).await?;
    }
    let together_us = start_together(plan.at_once, plan.at_once, |number| peer.clone().start(number)).await?;
    for number in 0..plan.at_once {
        peer.end(number).await?;
    }
    Ok(Measured::of(times_us, together_us))
}

/// The same with `runc run --detach`: a read-only root of static busybox, a network namespace without any link, no
/// layers and no log.
///
/// # Errors
/// What `runc` says.
pub async fn measure_runc(dir: &Path, plan: Plan) -> Result<Measured> {
    let runc = Runc { root: dir.join("runc"), bundle: dir.join("bundle") };
    runc.make_bundle().await?;
    start_all_of(&runc, plan).await
}

#[derive(Clone)]
struct Runc {
    root: PathBuf,
    bundle: PathBuf,
}

impl Runc {
    async fn make_bundle(&self) -> Result<()> {
        let bin = self.bundle.join("rootfs/bin");
        fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
        fs::copy("/bin/busybox", bin.join("busybox")).context("copy busybox")?;
        self.run(&["spec"]).await?;
        let path = self.bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/busybox", "sleep", "1000"]);
        Ok(fs::write(&path, config.to_string())?)
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.root).args(arguments).current_dir(&self.bundle);
        // A detached container keeps what it inherits.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().await.context("start runc")?;
        ensure!(status.success(), "runc {arguments:?} failed ({status})");
        Ok(())
    }
}

impl Peer for Runc {
    async fn start(self, number: u64) -> Result<()> {
        self.run(&["run", "--detach", &format!("insula-bench-{number}")]).await
    }

    async fn end(&self, number: u64) -> Result<()> {
        self.run(&["delete", "--force", &format!("insula-bench-{number}")]).await
    }
}
