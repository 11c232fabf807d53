//! A world for one test: namespaces and a data directory of its own, a registry on loopback with a tiny real image.
#![allow(dead_code, clippy::unwrap_used, missing_docs, reason = "shared by several test programs")]

pub mod archive;
mod disk;
pub mod image;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use insula_container::{
    Config, ImagePeers, ImageRef, InstanceConfig, NetworkConfig, NodeLabels, NodeRuntime, Observed, ObservedState,
    Runtime,
};
use insula_env::{Env, clock, net};
use insula_types::{
    Capacity, CpuMillis, DriverKind, InstanceId, PortSpec, Protocol, ReleaseNumber, Resources, SecretName, SecretValue,
    ServiceRef, ServiceSpec,
};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
    mount::{MountPropagationFlags, mount_change},
    process::Pid,
    thread::{UnshareFlags, unshare_unsafe},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::image::Registry;

/// Longest wait for anything in these tests; a loaded machine is slow.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct World {
    disk: disk::Counted,
    pub dir: PathBuf,
    pub config: Config,
    pub registry: Arc<Registry>,
}

/// Runs a test with containers. Without root it says so, and does nothing.
pub fn with_root(name: &str, test: impl AsyncFnOnce(&World) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: {name} needs root");
        return;
    }
    let name = name.to_owned();
    #[allow(clippy::disallowed_methods, reason = "unshare moves the thread that calls it, and those it starts")]
    let thread = std::thread::spawn(move || {
        // SAFETY: other network and mount namespaces for this thread; no memory or descriptor is concerned.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        run(&name, true, test);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test with processes only, as any user.
pub fn without_root(name: &str, test: impl AsyncFnOnce(&World)) {
    run(name, false, test);
}

/// Runs one part of a test that goes on after a power cut, on a machine that is there for nothing else: in a directory that
/// stays, with the machine's own namespaces. Nothing is cleaned up.
pub fn on_machine(dir: &Path, test: impl AsyncFnOnce(&World)) {
    fs::create_dir_all(dir).unwrap();
    block_on(async {
        loopback_up().await;
        test(&World::new(dir, "machine", true).await).await;
    });
}

fn run(name: &str, has_network: bool, test: impl AsyncFnOnce(&World)) {
    let dir = tempfile::Builder::new().prefix(&format!("insula-{name}-")).tempdir().unwrap();
    // As a data directory is: the users of apps pass it.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    block_on(async {
        if has_network {
            loopback_up().await;
        }
        let world = World::new(dir.path(), name, has_network).await;
        let outcome = AssertUnwindSafe(test(&world)).catch_unwind().await;
        // Whatever the test did, nothing of it stays. A process that is killed takes its threads along; those of agents
        // that only seem to crash first end what they are at.
        eventually("work on the disk ends", async || world.disk.is_idle().then_some(())).await;
        let cleaner = world.open().await;
        cleaner.runtime.remove_all().await.unwrap();
        assert_eq!(world.leftovers().await, Vec::<String>::new());
        cleaner.crash();
        eventually("no loop device is left", async || world.loop_devices().is_empty().then_some(())).await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn block_on(work: impl Future<Output = ()>) {
    // As the program does first of all; fails when an earlier test of this process was faster.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

pub fn config(dir: &Path, cgroup_parent: String, has_network: bool) -> Config {
    let subnet = "10.77.0.0/28".parse().unwrap();
    Config {
        data_dir: dir.to_owned(),
        cgroup_parent,
        limit: None,
        layer_size: None,
        network: has_network.then(|| NetworkConfig { bridge: "insula0".to_owned(), subnet }),
        insecure_registries: Vec::new(),
        registry_credentials: dir.join("registries.json"),
        log_bytes_max: 1 << 20,
        runtimes: Default::default(),
    }
}

async fn loopback_up() {
    let (driver, netlink, _) = rtnetlink::new_connection().unwrap();
    #[allow(clippy::disallowed_methods, reason = "ends with the handle")]
    tokio::spawn(driver);
    netlink.link().set(rtnetlink::LinkUnspec::new_with_index(1).up().build()).execute().await.unwrap();
}

/// A runtime that can be dropped as a crash would.
pub struct Agent {
    pub runtime: NodeRuntime,
    env: Env,
}

impl Agent {
    pub fn crash(self) {
        self.env.tasks.crash();
    }
}

impl World {
    async fn new(dir: &Path, name: &str, has_network: bool) -> Self {
        let config = config(dir, format!("insula-test-{}-{name}", std::process::id()), has_network);
        Self { disk: disk::Counted::default(), dir: dir.to_owned(), config, registry: Registry::start().await }
    }

    pub async fn open(&self) -> Agent {
        self.open_beside(None).await
    }

    /// Opens it beside other nodes.
    pub async fn open_beside(&self, peers: Option<Arc<dyn ImagePeers>>) -> Agent {
        self.open_as(self.config.clone(), peers).await
    }

    /// Opens it with a bound on what all instances use together.
    pub async fn open_bounded(&self, limit: Capacity) -> Agent {
        self.open_as(Config { limit: Some(limit), ..self.config.clone() }, None).await
    }

    pub async fn open_as(&self, config: Config, peers: Option<Arc<dyn ImagePeers>>) -> Agent {
        let env = Env { disk: Arc::new(self.disk.clone()), ..Env::real("test") };
        let runtime = NodeRuntime::open(env.clone(), config, peers).await.unwrap();
        Agent { runtime, env }
    }

    pub fn home(&self, instance: InstanceId) -> PathBuf {
        self.dir.join("instances").join(instance.to_string())
    }

    /// The shim of an instance.
    pub fn shim_pid(&self, instance: InstanceId) -> Option<u32> {
        self.shims(instance, false).first().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Its shims, or those of commands in it, told by their command lines.
    pub fn shims(&self, instance: InstanceId, are_of_commands: bool) -> Vec<Pid> {
        let home = self.home(instance);
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let shims = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let mut arguments = command.split(|byte| *byte == 0);
            let is_ours = arguments.next()?.starts_with(self.dir.as_os_str().as_encoded_bytes());
            let is_mode = !are_of_commands || arguments.next()? == b"--exec";
            (is_ours && is_mode && arguments.next()? == home.as_os_str().as_encoded_bytes()).then_some(pid)
        });
        shims.collect()
    }

    /// What instances left in the kernel and on the disk.
    pub async fn leftovers(&self) -> Vec<String> {
        let mut found: Vec<String> = fs::read_dir(self.dir.join("instances"))
            .unwrap()
            .flatten()
            .map(|entry| format!("directory {}", entry.path().display()))
            .collect();
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let dir = self.dir.to_str().unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(dir)).map(|line| format!("mount {line}")));
        found.extend(self.mounted_files().await);
        for cgroup in cgroups(&self.config.cgroup_parent) {
            found.push(format!("cgroup {}", cgroup.display()));
        }
        if self.config.network.is_some() {
            let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            let names = links.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
            found.extend(names.filter(|name| *name != "lo").map(|name| format!("link {name}")));
            let tables = std::process::Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
            found.extend(String::from_utf8(tables).unwrap().lines().map(str::to_owned));
        }
        found
    }

    /// Loop devices that show files of this world, each with its file.
    fn loop_devices(&self) -> Vec<(String, PathBuf)> {
        let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let shown = devices.filter_map(|device| {
            let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
            Some((format!(" /dev/{} ", device.file_name().display()), PathBuf::from(file.trim_end())))
        });
        shown.filter(|(_, file)| file.starts_with(&self.dir)).collect()
    }

    /// The files that are mounted by way of such a device, when all others are gone but those that an agent has made ahead: the
    /// kernel lets go of one a moment after its last mount went.
    async fn mounted_files(&self) -> Vec<String> {
        let look = || {
            let mut shown = self.loop_devices();
            shown.retain(|(_, file)| !(file.starts_with(self.dir.join("layers")) && file.exists()));
            shown
        };
        let is_mounted = |(device, _): &(String, PathBuf)| {
            fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().any(|line| line.contains(device))
        };
        let gone = async {
            while !look().iter().all(is_mounted) {
                clock::sleep(Duration::from_millis(5)).await;
            }
        };
        clock::timeout(DEADLINE, gone).await.ok();
        look().into_iter().map(|(_, file)| format!("loop {}", file.display())).collect()
    }
}

/// Directories of a cgroup in every hierarchy.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let roots = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    roots.chain([root.to_owned()]).map(|root| root.join(name)).filter(|path| path.is_dir()).collect()
}

pub fn container(instance: u64, image: &ImageRef, command: &[&str]) -> InstanceConfig {
    let mut config = process(instance, command);
    config.spec.driver = DriverKind::Container;
    config.spec.image = Some(image.to_string());
    config
}

pub fn process(instance: u64, command: &[&str]) -> InstanceConfig {
    InstanceConfig {
        instance: InstanceId::new(instance),
        service: ServiceRef { app: "shop".parse().unwrap(), service: "web".parse().unwrap() },
        release: ReleaseNumber(1),
        spec: ServiceSpec {
            driver: DriverKind::Process,
            command: command.iter().map(|part| (*part).to_owned()).collect(),
            env: [("GREETING".to_owned(), "hello".to_owned())].into(),
            resources: Resources { cpu: CpuMillis(500), ..Resources::default() },
            ports: vec![PortSpec { name: "http".parse().unwrap(), port: 80, protocol: Protocol::Http }],
            ..ServiceSpec::default()
        },
        node: NodeLabels {
            name: "one".parse().unwrap(),
            region: "fra".parse().unwrap(),
            datacenter: "fra1".parse().unwrap(),
        },
        slot: None,
        contents: Default::default(),
    }
}

/// What a test tells instances, and finds nowhere on a disk afterwards.
pub const SECRET: &str = "c0rrect-h0rse-battery";

/// Tells an instance [`SECRET`] as `KEY`.
pub fn tell_secret(config: &mut InstanceConfig) {
    let name: SecretName = "KEY".parse().unwrap();
    config.spec.secrets.insert(name.clone(), 1);
    config.contents.secrets.insert(name, SecretValue::new(SECRET.to_owned()).unwrap());
}

/// The files below a directory, on the same file system as that, that contain a text.
pub fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let device = fs::metadata(directory).unwrap().dev();
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let meta = entry.path().symlink_metadata().unwrap();
        if meta.is_dir() && meta.dev() == device {
            found.extend(files_with(&entry.path(), text));
        } else if meta.is_file() && meta.dev() == device {
            found.extend(has_text(&entry.path(), text).then(|| entry.path()));
        }
    }
    found
}

/// Whether a text is in what a file has: layers are of many gigabytes, and nearly all holes.
fn has_text(path: &Path, text: &str) -> bool {
    let file = fs::File::open(path).unwrap();
    let mut at = 0;
    loop {
        let begin = match seek(&file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return false,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let end = seek(&file, SeekFrom::Hole(begin)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap()];
        file.read_exact_at(&mut bytes, begin).unwrap();
        if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
            return true;
        }
        at = end;
    }
}

/// Waits until `probe` gives something; panics at the deadline.
pub async fn eventually<R>(what: &str, mut probe: impl AsyncFnMut() -> Option<R>) -> R {
    let wait = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
    };
    clock::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// The only instance, once it has ended.
pub async fn end(runtime: &NodeRuntime, instance: InstanceId) -> insula_container::Ended {
    eventually("the instance ends", async || match observed(runtime, instance).await?.state {
        ObservedState::Ended(ended) => Some(ended),
        ObservedState::Running(_) => None,
    })
    .await
}

pub async fn observed(runtime: &NodeRuntime, instance: InstanceId) -> Option<Observed> {
    runtime.list().await.unwrap().into_iter().find(|observed| observed.instance == instance)
}

/// The body that HTTP GET gives.
pub async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = net::connect(address, Duration::from_secs(1)).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    (head.split(' ').nth(1) == Some("200")).then(|| body.to_owned())
}

pub async fn log_text(runtime: &NodeRuntime, instance: InstanceId) -> String {
    String::from_utf8(runtime.logs(instance, 1 << 20).await.unwrap()).unwrap()
}
