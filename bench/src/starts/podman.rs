//! Podman as a peer: `podman run --detach` of the same image, from a storage of its own that goes with the directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use insula_env::clock;
use nix::mount::{MsFlags, mount};
use tokio::process::Command;

use super::{Measured, Peer, Plan, start_all_of};

/// It is slow: more would take minutes.
const COUNT_MAX: u64 = 30;
/// Where it keeps what is not in the directory, such as locks in shared memory: hidden here, and so gone with us.
const HIDDEN: [&str; 3] = ["/dev/shm", "/run", "/var/lib"];
/// Name of the cgroup that its containers are in.
const CGROUP: &str = "insula-bench-podman";
/// How long its helpers may take to leave that, and how often that is looked at.
const GONE_MAX: Duration = Duration::from_secs(10);
const GONE_POLL: Duration = Duration::from_millis(50);
/// Limits as those of our instances. Without a network, as runc's: it would need more packages. The last two are below what it sets
/// by itself, which not every machine lets it.
const LIMITS: [&str; 16] = [
    "--cgroup-parent",
    CGROUP,
    "--network",
    "none",
    "--log-driver",
    "k8s-file",
    "--cpus",
    "0.5",
    "--memory",
    "128m",
    "--pids-limit",
    "256",
    "--ulimit",
    "nofile=1000:1000",
    "--ulimit",
    "nproc=1000:1000",
];

/// Starts, stops and removes containers of an image in a registry without TLS, at most 30 one after the other. To be called last:
/// it hides directories from this process.
///
/// # Errors
/// What `podman` says.
pub async fn measure(image: &str, dir: &Path, plan: Plan) -> Result<Measured> {
    for hidden in HIDDEN {
        let hide = mount(Some("tmpfs"), hidden, Some("tmpfs"), MsFlags::empty(), None::<&str>);
        hide.with_context(|| format!("hide {hidden}"))?;
    }
    let podman = Podman { dir: dir.to_owned(), image: image.to_owned() };
    podman.run(&["pull", "--quiet", "--tls-verify=false", image]).await?;
    let plan = Plan { count: plan.count.min(COUNT_MAX), ..plan };
    let measured = start_all_of(&podman, plan).await;
    podman.run(&["rm", "--all", "--force", "--time", "0"]).await?;
    remove_cgroups().await?;
    measured
}

#[derive(Clone)]
struct Podman {
    dir: PathBuf,
    image: String,
}

impl Podman {
    async fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("podman");
        let directories =
            [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp"), ("--volumepath", "volumes")];
        for (option, name) in directories {
            command.arg(option).arg(self.dir.join(name));
        }
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "/usr/sbin/runc"]);
        command.args(arguments).stdin(Stdio::null());
        let output = command.output().await.context("start podman")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {arguments:?} failed ({}): {}", output.status, said.trim());
        Ok(())
    }
}

impl Peer for Podman {
    async fn start(self, number: u64) -> Result<()> {
        let name = format!("insula-bench-{number}");
        let head = ["run", "--detach", "--pull", "never", "--name", name.as_str()];
        let tail = [self.image.as_str(), "/bin/busybox", "sleep", "1000"];
        self.run(&[&head, &LIMITS[..], &tail].concat()).await
    }

    async fn end(&self, number: u64) -> Result<()> {
        self.run(&["rm", "--force", "--time", "0", &format!("insula-bench-{number}")]).await
    }
}

/// It leaves the cgroup in which all of them were, in each hierarchy.
async fn remove_cgroups() -> Result<()> {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path()));
    for left in roots.into_iter().map(|root| root.join(CGROUP)).filter(|path| path.is_dir()) {
        let mut waited = Duration::ZERO;
        while let Err(error) = remove_tree(&left) {
            let is_busy = error.kind() == io::ErrorKind::ResourceBusy && waited < GONE_MAX;
            ensure!(is_busy, "remove the cgroup {}: {error}", left.display());
            clock::sleep(GONE_POLL).await;
            waited += GONE_POLL;
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}
