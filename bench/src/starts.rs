//! Starts of containers whose image is present, one after the other: Insula's runtime, and `runc` as its peer. To be run
//! as root in a network of its own; leaves nothing.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
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
use serde::{Deserialize, Serialize};

use crate::report::percentile;

/// Addresses for the containers; the network is nobody else's.
const SUBNET: &str = "10.77.0.0/24";
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

/// Moves this thread, which must be the only one, to mounts of its own.
///
/// # Errors
/// Without root.
pub fn hide_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).context("own mounts")
}

/// Starts, stops and removes so many containers of an image in a registry without TLS; files are below `dir`.
///
/// # Errors
/// What the runtime says.
pub async fn measure(image: &str, dir: &Path, count: u64) -> Result<Starts> {
    insula_identity::install_provider();
    let registry = image.split('/').next().unwrap_or(image).to_owned();
    let env = Env::real("bench");
    let config = Config {
        data_dir: dir.to_owned(),
        cgroup_parent: CGROUP.to_owned(),
        limit: None,
        network: Some(NetworkConfig { bridge: "insula0".to_owned(), subnet: SUBNET.parse()? }),
        insecure_registries: vec![registry],
        registry_credentials: dir.join("registries.json"),
        log_bytes_max: 1 << 20,
    };
    let runtime = NodeRuntime::open(env, config, None).await?;
    let measured = start_all(&runtime, image, count).await;
    runtime.remove_all().await?;
    measured
}

async fn start_all(runtime: &NodeRuntime, image: &str, count: u64) -> Result<Starts> {
    runtime.ensure_image(&image.parse()?).await?;
    let clock = Clock::real();
    let mut times_us = Vec::new();
    for number in 0..=count {
        let config = instance(number, image)?;
        let begun = clock.now();
        runtime.start(&config).await?;
        // The first one also makes what all share.
        if number > 0 {
            times_us.push(begun.elapsed().as_micros() as u64);
        }
        runtime.stop(config.instance, Some("SIGKILL"), Duration::ZERO).await?;
        runtime.remove(config.instance).await?;
    }
    Ok(Starts::of(times_us))
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
    })
}

/// The same with `runc run --detach`: a read-only root of static busybox, a network namespace without any link, no
/// layers and no log.
///
/// # Errors
/// What `runc` says.
pub fn measure_runc(dir: &Path, count: u64) -> Result<Starts> {
    let bundle = dir.join("bundle");
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin).with_context(|| format!("make {}", bin.display()))?;
    fs::copy("/bin/busybox", bin.join("busybox")).context("copy busybox")?;
    let runc = |arguments: &[&str]| {
        let mut command = Command::new("runc");
        command.arg("--root").arg(dir.join("runc")).args(arguments).current_dir(&bundle);
        // A detached container keeps what it inherits.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().context("start runc")?;
        ensure!(status.success(), "runc {arguments:?} failed ({status})");
        Ok(())
    };
    runc(&["spec"])?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/busybox", "sleep", "1000"]);
    fs::write(&path, config.to_string())?;
    let clock = Clock::real();
    let mut times_us = Vec::new();
    for number in 0..=count {
        let id = format!("insula-bench-{number}");
        let begun = clock.now();
        runc(&["run", "--detach", &id])?;
        if number > 0 {
            times_us.push(begun.elapsed().as_micros() as u64);
        }
        runc(&["delete", "--force", &id])?;
    }
    Ok(Starts::of(times_us))
}
