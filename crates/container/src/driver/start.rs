//! Starting an instance.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use insula_env::clock;
use insula_types::{DriverKind, InstanceId, PortName, VolumeRef, VolumeSpec};
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string,
        fsmount, fsopen, mount, move_mount,
    },
};
use tracing::{debug, info, warn};

use super::NodeRuntime;
use crate::{
    Error, ImageRef, InstanceConfig, ObservedState, Running, RuntimeClass, bundle, cgroup,
    contents::{self, Placed},
    disk::blocking,
    image::Image,
    names, network,
    record::{DIRECTORY_VARIABLE, Home, Record},
    shim::{
        self,
        protocol::{self, OciRuntime, Stop, VERSION, Work},
    },
    signal,
    storage::{self, Disk},
    users,
};

/// Ports for processes: below what Linux gives to outgoing connections (32768 and up).
const PROCESS_PORTS: std::ops::Range<u64> = 20_000..32_000;
/// Attempts to find a free one.
const PORT_TRIES: usize = 200;
/// How long a start waits for its volumes to be made.
const VOLUME_WAIT: std::time::Duration = std::time::Duration::from_secs(5);
/// Mount options fit into one page, with its end.
const MOUNT_OPTIONS_LEN_MAX: usize = 4095;

impl NodeRuntime {
    pub(super) async fn start_locked(&self, config: &InstanceConfig) -> Result<Running, Error> {
        let instance = config.instance;
        match self.observe(instance).await? {
            Some((_, observed)) => match observed.state {
                ObservedState::Running(running) => {
                    self.watch(instance);
                    return Ok(running);
                }
                ObservedState::Ended(_) => {
                    return Err(Error::State {
                        instance,
                        why: "has ended: it must be removed before it is started again",
                    });
                }
            },
            // Its record has the environment in it, which may hold secrets.
            None => DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(self.home(instance).path())
                .map_err(Error::file("make", self.home(instance).path()))?,
        }
        match self.make(config).await {
            Ok(running) => {
                info!(%instance, service = %config.service, pid = running.pid, "instance runs");
                self.watch(instance);
                self.make_layers_ahead();
                Ok(running)
            }
            Err(error) => {
                if let Err(error) = self.discard(instance).await {
                    warn!(%instance, %error, "what a failed start left behind cannot be removed yet");
                }
                Err(error)
            }
        }
    }

    async fn make(&self, config: &InstanceConfig) -> Result<Running, Error> {
        let instance = config.instance;
        let home = self.home(instance);
        let ((record, work), of_image) = match config.spec.driver {
            DriverKind::Container => self.make_container(config, &home).await?,
            DriverKind::Process => (self.make_process(config, &home)?, None),
        };
        let named = config.spec.stop.named().map(signal::number);
        let stop = Stop {
            signal: named.unwrap_or(of_image).unwrap_or(libc::SIGTERM),
            grace_ms: config.spec.stop.grace.as_millis().try_into().unwrap_or(u64::MAX),
        };
        let log_bytes_max = self.0.config.log_bytes_max;
        home.write("shim.json", &protocol::Config { version: VERSION, work, log_bytes_max, stop })?;
        // Those of a container are in its bundle.
        let told = (config.spec.driver == DriverKind::Process).then_some(&config.contents.secrets);
        let started = shim::launch(&self.0.shim, instance, &home, told).await?;
        Ok(Running { pid: started.pid.unsigned_abs(), started_ms: started.started_ms, endpoints: record.endpoints() })
    }

    /// Also gives the signal by which the image wants to be stopped.
    async fn make_container(
        &self,
        config: &InstanceConfig,
        home: &Home,
    ) -> Result<((Record, Work), Option<i32>), Error> {
        let instance = config.instance;
        let refuse = |why: &str| Error::Config { instance, why: why.to_owned() };
        let image: ImageRef =
            config.spec.image.as_deref().ok_or_else(|| refuse("a container needs an image"))?.parse()?;
        let image = self
            .0
            .images
            .load(&image)?
            .ok_or(Error::State { instance, why: "has an image that is not present: it must be pulled first" })?;
        let stop_signal = image.stop_signal(instance);
        let network = self.0.config.network.as_ref().ok_or_else(|| {
            refuse("this node has no network for containers: use the process driver, or start insula as root")
        })?;
        let class = self.class(config)?;
        self.expect_move();
        let address = self.reserve_address(instance)?;
        let users = if class.is_none_or(|class| class.has_users) { self.reserve_users(config)? } else { None };
        self.reserve_volumes(config).await?;
        let ports = config.spec.ports.iter().map(|port| (port.name.clone(), port.port)).collect();
        let cgroup = format!("/{}/{instance}", self.0.config.cgroup_parent.trim_matches('/'));
        let is_one_off = self.is_one_off(instance);
        let record = Record {
            config: config.clone(),
            address: Some(address),
            ports,
            cgroup: Some(cgroup.clone()),
            users,
            is_one_off,
        };
        home.write("instance.json", &record)?;
        if let Some(first) = users {
            users::let_in(home.path(), first).map_err(Error::file("open", home.path()))?;
        }

        let oom_counter = Some(cgroup::oom_counter(&cgroup).to_string_lossy().into_owned());
        let (runtime, job_home, job_record) = (self.clone(), home.clone(), record.clone());
        let shim = class.map(|_| self.0.shim.clone());
        let root = blocking(&*self.0.env.disk, move || {
            let namespace = users.map(|first| runtime.user_namespace(first)).transpose()?;
            let users = users.zip(namespace.as_deref());
            let size = runtime.0.layers.size(&job_record.config.spec);
            let own = runtime.make_layer(&job_home, size)?;
            mount_root(&job_home, &image, runtime.0.images.layers(), users, &own)?;
            runtime.mount_volumes(&job_home, &job_record.config, users)?;
            let disks = runtime.disks(&job_record.config)?;
            let (config, owner) = (&job_record.config, job_record.users.unwrap_or_default());
            let files = contents::write_files(&job_home.files(), &config.spec.files, &config.contents, owner)
                .map_err(Error::file("write files in", job_home.files()))?;
            write_bundle(&job_home, &job_record, &image, (&cgroup, &disks, &files), shim.as_deref())
        });
        let (netns, sysfs) = (home.netns(), home.sysfs());
        let network = network::connect(network, instance, (&netns, &sysfs), address);
        let (root, network, admitted) = tokio::join!(root, network, self.admit(instance));
        network.and(admitted)?;
        // On a busy machine the first time may be too long ago.
        self.expect_move();
        let work = Work::Container {
            id: instance.to_string(),
            oom_counter,
            output_owner: Some(root?),
            netns: Some(netns.to_string_lossy().into_owned()),
            has_init: config.spec.has_init,
            is_held: is_one_off,
            runtime: class.map(OciRuntime::from),
        };
        Ok(((record, work), stop_signal))
    }

    /// The runtime class that an instance asks for.
    fn class(&self, config: &InstanceConfig) -> Result<Option<&RuntimeClass>, Error> {
        let Some(name) = &config.spec.runtime else { return Ok(None) };
        let class = self.0.config.runtimes.get(name).ok_or_else(|| Error::Config {
            instance: config.instance,
            why: format!("this node has no runtime {name}: set it up in runtime.classes, or name another"),
        })?;
        Ok(Some(class))
    }

    /// The shim will move the container's first process into its cgroup soon.
    fn expect_move(&self) {
        let disk = Arc::clone(&self.0.env.disk);
        self.0.env.tasks.spawn("expect a move into a cgroup", async move {
            if let Err(error) = blocking(&*disk, cgroup::expect_move).await {
                debug!(%error, "the next start takes a little longer");
            }
        });
    }

    /// For the next starts.
    pub(super) fn make_layers_ahead(&self) {
        let runtime = self.clone();
        self.0.env.tasks.spawn("make layers ahead", async move {
            let disk = Arc::clone(&runtime.0.env.disk);
            if let Err(error) = blocking(&*disk, move || runtime.0.layers.refill()).await {
                debug!(%error, "the next start makes its layer itself");
            }
        });
    }

    /// The first id of the range of the instance's app; none where apps have no users of their own.
    fn reserve_users(&self, config: &InstanceConfig) -> Result<Option<u32>, Error> {
        if !self.0.has_users {
            return Ok(None);
        }
        let instance = config.instance;
        let first = self.0.state.lock().users.take(&config.service.app, instance);
        first.ok_or(Error::State { instance, why: "gets no users: the node's ranges are used up" }).map(Some)
    }

    /// The user namespace that shifts to an app's range. Blocks when it has to be made.
    fn user_namespace(&self, first: u32) -> Result<Arc<OwnedFd>, Error> {
        if let Some(known) = self.0.state.lock().users.namespace(first) {
            return Ok(known);
        }
        let shim = &self.0.shim;
        let made = Arc::new(users::namespace(shim, first).map_err(Error::file("make a user namespace by", shim))?);
        self.0.state.lock().users.set_namespace(first, &made);
        Ok(made)
    }

    /// Takes the volumes of an instance for it alone. They are made before, and by others: it may be that they are being made
    /// right now.
    async fn reserve_volumes(&self, config: &InstanceConfig) -> Result<(), Error> {
        let (instance, wanted) = (config.instance, config.spec.volumes.len());
        if wanted > 0 && config.slot.is_none() {
            return Err(Error::Config { instance, why: "it was placed without volumes: place it anew".to_owned() });
        }
        let mut made = self.0.made.subscribe();
        let lacking = || config.volumes().map(|(volume, _)| volume).find(|volume| !self.0.volumes.has(volume));
        let waited =
            clock::timeout(VOLUME_WAIT, async { while lacking().is_some() && made.changed().await.is_ok() {} });
        if waited.await.is_err()
            && let Some(volume) = lacking()
        {
            let source =
                std::io::Error::new(std::io::ErrorKind::NotFound, format!("volume {volume} is not on this node"));
            return Err(Error::file("mount a volume from", self.0.volumes.directory())(source));
        }
        let mut state = self.0.state.lock();
        let is_anothers = |volume: &VolumeRef| state.volumes.get(volume).is_some_and(|user| *user != instance);
        if config.volumes().any(|(volume, _)| is_anothers(&volume)) {
            return Err(Error::State { instance, why: "waits: an earlier instance still has its volume" });
        }
        if config.volumes().any(|(volume, _)| self.is_held_alone(&volume)) {
            return Err(Error::State { instance, why: "waits: its volume is being copied, restored or deleted" });
        }
        state.volumes.extend(config.volumes().map(|(volume, _)| (volume, instance)));
        Ok(())
    }

    /// The directory for what an instance writes, and that holds so many bytes; without a bound its own. Blocks.
    fn make_layer(&self, home: &Home, size: Option<u64>) -> Result<PathBuf, Error> {
        let Some(size) = size else { return Ok(home.path().to_owned()) };
        let at = home.layer();
        let made = self.0.layers.mount(&home.layer_image(), &at, size);
        made.map_err(Error::file("make a bounded layer at", &at)).map(|()| at)
    }

    /// Blocks.
    fn mount_volumes(&self, home: &Home, config: &InstanceConfig, users: Option<(u32, &OwnedFd)>) -> Result<(), Error> {
        let (first, users) = users.unzip();
        for (volume, spec) in config.volumes() {
            let at = home.volumes().join(volume.name.as_str());
            let failed = |error: std::io::Error| Error::file("mount a volume on", &at)(error);
            let covered = storage::covered(&home.rootfs(), &spec.path, first.unwrap_or_default()).map_err(failed)?;
            let way = (home.by_way_of(), at.clone());
            self.0.volumes.mount(&volume, (&way.0, &way.1), covered, users).map_err(failed)?;
        }
        Ok(())
    }

    /// The disks that an instance with a bound on its rate reads and writes.
    fn disks(&self, config: &InstanceConfig) -> Result<Vec<Disk>, Error> {
        if config.spec.resources.io.is_none() {
            return Ok(Vec::new());
        }
        let directory = &self.0.config.data_dir;
        let disk = Disk::of(directory).map_err(|error| Error::Config {
            instance: config.instance,
            why: format!("io cannot be bounded on this node: {error}; take resources.io out"),
        })?;
        Ok(vec![disk])
    }

    fn make_process(&self, config: &InstanceConfig, home: &Home) -> Result<(Record, Work), Error> {
        let instance = config.instance;
        if config.spec.command.is_empty() {
            return Err(Error::Config { instance, why: "a process needs a command".to_owned() });
        }
        let ports = self.reserve_ports(instance, config.spec.ports.iter().map(|port| port.name.clone()).collect())?;
        let record =
            Record { config: config.clone(), address: None, ports, cgroup: None, users: None, is_one_off: false };
        home.write("instance.json", &record)?;
        let own = ["PATH", "HOME", "USER", "LANG"];
        let mut env: BTreeMap<String, String> =
            own.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))).collect();
        env.extend(environment(&record));
        env.insert(DIRECTORY_VARIABLE.to_owned(), home.path().display().to_string());
        Ok((
            record,
            Work::Process {
                command: config.spec.command.clone(),
                env,
                open_files_max: bundle::open_files_max(&config.spec.resources),
                has_secrets: !config.contents.secrets.is_empty(),
            },
        ))
    }

    /// The lowest free address of the subnet.
    fn reserve_address(&self, instance: InstanceId) -> Result<Ipv4Addr, Error> {
        let subnet = self.0.config.network.as_ref().map(|network| network.subnet);
        let mut state = self.0.state.lock();
        let taken: BTreeSet<Ipv4Addr> = state.addresses.values().copied().collect();
        let free = subnet.and_then(|subnet| subnet.addresses().find(|address| !taken.contains(address)));
        let address = free.ok_or(Error::State { instance, why: "gets no address: the node's subnet is used up" })?;
        state.addresses.insert(instance, address);
        Ok(address)
    }

    /// A free port of loopback for each name.
    fn reserve_ports(&self, instance: InstanceId, names: Vec<PortName>) -> Result<BTreeMap<PortName, u16>, Error> {
        let mut state = self.0.state.lock();
        let mut taken: BTreeSet<u16> = state.ports.values().flatten().copied().collect();
        let mut ports = BTreeMap::new();
        for name in names {
            let free = (0..PORT_TRIES)
                .map(|_| self.0.env.rng.range(PROCESS_PORTS.start, PROCESS_PORTS.end) as u16)
                .find(|port| {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                    !taken.contains(port) && TcpListener::bind(address).is_ok()
                });
            let port = free.ok_or(Error::State { instance, why: "gets no port: those for processes are used up" })?;
            taken.insert(port);
            ports.insert(name, port);
        }
        state.ports.insert(instance, ports.values().copied().collect());
        Ok(ports)
    }
}

/// What every instance is told: the definition's variables, then ours, which win.
fn environment(record: &Record) -> BTreeMap<String, String> {
    let config = &record.config;
    let mut env = config.spec.env.clone();
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("INSULA_INSTANCE", config.instance.to_string());
    set("INSULA_APP", config.service.app.to_string());
    set("INSULA_SERVICE", config.service.service.to_string());
    set("INSULA_NODE", config.node.name.to_string());
    set("INSULA_DATACENTER", config.node.datacenter.to_string());
    set("INSULA_REGION", config.node.region.to_string());
    for (name, port) in &record.ports {
        set(&format!("PORT_{}", name.as_str().to_uppercase().replace('-', "_")), port.to_string());
    }
    let main = config.spec.http_port().or(config.spec.ports.first()).and_then(|port| record.ports.get(&port.name));
    if let Some(port) = main {
        set("PORT", port.to_string());
    }
    env
}

/// The image's layers below, what is in the instance's own directory above. Where the app has users of its own, the owners of the
/// layers are shifted to those; what the instance writes has them on the disk, since the kernel writes above in our name.
fn mount_root(
    home: &Home,
    image: &Image,
    layers: &Path,
    users: Option<(u32, &OwnedFd)>,
    own: &Path,
) -> Result<(), Error> {
    let [root, upper, work] = [home.rootfs(), own.join(storage::UPPER), own.join(storage::WORK)];
    for directory in [&root, &upper, &work] {
        fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
    }
    // The root directory's mode and owner are those of the upper one.
    if let Some(top) = image.layers.last() {
        copy_mode(top, &upper, users.map_or(0, |(first, _)| first)).map_err(Error::file("set up", &upper))?;
    }
    let (shifted, mut below) = (home.shifted(), layers.to_owned());
    if let Some((_, users)) = users {
        fs::create_dir_all(&shifted).map_err(Error::file("make", &shifted))?;
        users::mount_shifted(layers, &shifted, users).map_err(Error::file("mount", &shifted))?;
        below.clone_from(&shifted);
    }
    let lower: Vec<PathBuf> = image
        .layers
        .iter()
        .rev()
        .map(|layer| layer.strip_prefix(layers).map_or_else(|_| layer.clone(), |name| below.join(name)))
        .collect();
    let mounted = mount_overlay(&lower, &upper, &work, &root);
    // overlayfs holds what it needs of it.
    network::unmount_all(&shifted).map_err(Error::file("unmount", &shifted))?;
    mounted.map_err(Error::file("mount overlay on", root))
}

/// Layers from the top down.
fn mount_overlay(layers: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> std::io::Result<()> {
    match overlay_of_each(layers, upper, work) {
        Ok(mount) => Ok(move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?),
        // Older kernels know no such option. Linux 6.1 takes any, and complains at the end.
        Err(Errno::INVAL) => mount_overlay_at_once(layers, upper, work, at),
        Err(error) => Err(error.into()),
    }
}

/// The file system, not mounted yet, with its layers named one by one.
fn overlay_of_each(layers: &[PathBuf], upper: &Path, work: &Path) -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(&filesystem, "lowerdir+", layer)?;
    }
    fsconfig_set_string(&filesystem, "upperdir", upper)?;
    fsconfig_set_string(&filesystem, "workdir", work)?;
    fsconfig_create(&filesystem)?;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// As older kernels want it: all names have to fit into one page of options.
fn mount_overlay_at_once(layers: &[PathBuf], upper: &Path, work: &Path, at: &Path) -> std::io::Result<()> {
    let lower: Vec<String> = layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    if options.len() > MOUNT_OPTIONS_LEN_MAX {
        return Err(std::io::Error::other("the image has too many layers for one mount: build it with fewer"));
    }
    let options = std::ffi::CString::new(options)?;
    Ok(mount("overlay", at, "overlay", MountFlags::NODEV, options.as_c_str())?)
}

fn copy_mode(from: &Path, to: &Path, first: u32) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(first + meta.uid()), Some(first + meta.gid()))?;
    fs::set_permissions(to, meta.permissions())
}

/// Gives the user and group of its first process, as ids of the node.
fn write_bundle(
    home: &Home,
    record: &Record,
    image: &Image,
    (cgroup, disks, files): (&str, &[Disk], &[Placed]),
    shim: Option<&Path>,
) -> Result<(u32, u32), Error> {
    let (instance, root) = (record.config.instance, record.users.unwrap_or_default());
    if let Some(address) = record.address {
        let etc = home.rootfs().join("etc");
        names::write(&home.rootfs(), instance, address, root).map_err(Error::file("write names in", etc))?;
    }
    let mounted =
        |(volume, spec): (VolumeRef, &VolumeSpec)| (spec.path.clone(), home.volumes().join(volume.name.as_str()));
    let volumes: Vec<_> = record.config.volumes().map(mounted).collect();
    let secrets = &record.config.contents.secrets;
    let told = secrets.iter().map(|(name, value)| format!("{name}={}", value.reveal()));
    let source = bundle::Source {
        id: &instance.to_string(),
        service: &record.config.spec,
        image: &image.config,
        rootfs: &home.rootfs(),
        sysfs: home.sysfs(),
        users: record.users,
        cgroup,
        disks,
        volumes: &volumes,
        files,
        secrets: (!secrets.is_empty()).then(|| home.secrets()),
        outside: shim.map(|shim| bundle::Outside { shim, netns: home.netns(), is_held: record.is_one_off }),
        env: told.chain(environment(record).into_iter().map(|(name, value)| format!("{name}={value}"))).collect(),
    };
    let spec = bundle::spec(&source).map_err(|why| Error::Config { instance, why })?;
    if secrets.is_empty() {
        fs::create_dir_all(home.bundle()).map_err(Error::file("make", home.bundle()))?;
    } else {
        // The whole environment is written there.
        for (directory, mode) in
            [(home.bundle(), c"mode=0700"), (home.state(), c"mode=0700"), (home.secrets(), c"mode=0755")]
        {
            contents::mount_memory(&directory, mode).map_err(Error::file("mount memory at", &directory))?;
        }
    }
    home.write("bundle/config.json", &spec)?;
    let user = spec.process().as_ref().map(|process| process.user().clone()).unwrap_or_default();
    let user = (root + user.uid(), root + user.gid());
    contents::write_secrets(&home.secrets(), secrets, user).map_err(Error::file("write secrets in", home.secrets()))?;
    Ok(user)
}
