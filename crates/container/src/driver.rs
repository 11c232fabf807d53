//! The runtime of a real node: containers and processes, each under its shim.
//!
//! The truth is in the instances' directories and in the kernel; what is in memory (reserved addresses and ports,
//! watchers) is made from it when the runtime is opened. Parts: `start`, `observe`,
//! `exec`, `one_off`, `snapshots`, `protect`, `remove`, `leftovers`.

mod exec;
mod leftovers;
mod observe;
mod one_off;
mod protect;
mod remove;
mod snapshots;
mod start;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Display,
    fs::{File, Permissions},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use futures::Stream;
use insula_env::{Disk, Env};
use insula_types::{ByteSize, ExecSpec, InstanceId, Resources, RuntimeName, VolumeRef};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot, watch};
use tracing::warn;

use self::{
    exec::EXECS_MAX,
    one_off::ONE_OFFS_MAX,
    protect::Written,
    snapshots::{Held, Holds},
};
use crate::{
    Config, Error, Exec, ImageInfo, ImagePeers, ImageRef, ImageTag, Imported, InstanceConfig, Observed, Pressure,
    Pressures, PullProgress, Running, Runtime, StoredImage, StoredVolume, cgroup,
    disk::blocking,
    image::{Images, Store},
    logs, network,
    record::{self, Home},
    shim::{
        self,
        protocol::{self, Request, Stop},
    },
    signal,
    storage::{Layers, Snapshots, Volumes},
    users::{self, Users},
};

/// How long an instance may take to vanish after KILL, its last output and its exit file included.
const END_MAX: Duration = Duration::from_secs(10);

/// Removed instances that are remembered for what they lacked: more than a node removes between two looks.
const REMOVED_MAX: usize = 256;

/// Containers and processes of this node. Clones share it.
#[derive(Clone)]
pub struct NodeRuntime(Arc<Inner>);

struct Inner {
    env: Env,
    config: Config,
    instances: PathBuf,
    kept_logs: PathBuf,
    images: Images,
    volumes: Volumes,
    snapshots: Snapshots,
    layers: Layers,
    /// Changes whenever a volume has been made.
    made: watch::Sender<()>,
    held: Holds,
    /// Room for copies of volumes.
    copies: Arc<Semaphore>,
    shim: PathBuf,
    /// Containers have user namespaces of their own.
    has_users: bool,
    firewall: Arc<tokio::sync::Mutex<Written>>,
    ended: watch::Sender<u64>,
    /// Room for commands in instances.
    execs: Arc<Semaphore>,
    exec_number: AtomicU64,
    /// Room for one-off instances.
    one_offs: Arc<Semaphore>,
    state: Mutex<State>,
}

/// What must not be given twice, and who is at work.
#[derive(Default)]
struct State {
    addresses: BTreeMap<InstanceId, Ipv4Addr>,
    ports: BTreeMap<InstanceId, BTreeSet<u16>>,
    locks: BTreeMap<InstanceId, Arc<tokio::sync::Mutex<()>>>,
    watched: BTreeSet<InstanceId>,
    users: Users,
    volumes: BTreeMap<VolumeRef, InstanceId>,
    /// What instances lacked that were removed since somebody asked; at most [`REMOVED_MAX`], the newest.
    removed: VecDeque<(InstanceId, Pressure)>,
    /// Instances that somebody has made for one command and will remove, with what they reserve.
    one_offs: BTreeMap<InstanceId, Resources>,
}

impl NodeRuntime {
    /// Opens the node's runtime: removes what a crash left half-made, takes over what runs. Tasks run in `env.tasks`. Images
    /// come from `peers` first, when there are any, and from their registries second.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Network`]: the data directory or the bridge cannot be used.
    pub async fn open(env: Env, config: Config, peers: Option<Arc<dyn ImagePeers>>) -> Result<Self, Error> {
        let mut config = config;
        let make = |path: PathBuf| {
            std::fs::create_dir_all(&path).and_then(|()| path.canonicalize()).map_err(Error::file("make", path))
        };
        config.data_dir = make(config.data_dir)?;
        if config.data_dir.to_string_lossy().contains([':', ',', '\\']) {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidFilename,
                "overlayfs cannot take a path with a colon, comma or backslash: choose another data directory",
            );
            return Err(Error::file("use", config.data_dir)(source));
        }
        // Other users of the node get neither at secrets in environments nor at set-user-id programs in images.
        let make_private = |name: &str| {
            let path = make(config.data_dir.join(name))?;
            std::fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(Error::file("protect", &path))?;
            Ok(path)
        };
        let (instances, images, kept_logs) =
            (make_private("instances")?, make_private("images")?, make_private("logs")?);
        let shim_dir = config.data_dir.join("shim");
        let shim = shim::install(&shim_dir).map_err(Error::file("install the shim in", shim_dir))?;
        let store = Store::open(&images)?;
        let images = Images::new(store, Arc::clone(&env.disk), &config, peers);
        let directory = make_private("volumes")?;
        let volumes = Volumes::open(directory.clone()).map_err(Error::file("open the volumes in", &directory))?;
        let snapshots = Snapshots::open(&volumes).map_err(Error::file("open the snapshots in", directory))?;
        let layers = match config.network {
            Some(_) => Layers::open(make_private("layers")?, config.layer_size).unwrap_or_else(|error| {
                tracing::warn!(%error, "no bounded layers: a container whose service gives no resources.disk can fill the disk");
                Layers::default()
            }),
            None => Layers::default(),
        };
        let ((ended, _), (made, _)) = (watch::channel(0), watch::channel(()));
        let has_users = config.network.is_some() && {
            let tried = users::are_possible(&shim, &config.data_dir, &make(config.data_dir.join("shifted"))?);
            if let Err(error) = &tried {
                warn!(%error, "no user namespaces: root in a container is root on this node");
            }
            tried.is_ok()
        };
        if has_users {
            // Those that an earlier version made were protected by the directory that they are in.
            for instance in record::instances(&instances)? {
                let home = Home::new(&instances, instance);
                let protect = std::fs::metadata(home.path())
                    .map(|found| Permissions::from_mode(found.permissions().mode() & 0o710))
                    .and_then(|mode| std::fs::set_permissions(home.path(), mode));
                protect.map_err(Error::file("protect", home.path()))?;
            }
            // Passed through by the users of apps; each then gets into the directories of its own instances.
            std::fs::set_permissions(&instances, Permissions::from_mode(0o711))
                .map_err(Error::file("open", &instances))?;
        }
        for (name, class) in config.runtimes.iter().filter(|(_, class)| !class.is_present()) {
            warn!(runtime = %name, path = %class.path.display(), "a runtime class is left out: it has no executable");
        }
        // Containers need a network.
        let is_container_node = config.network.is_some();
        config.runtimes.retain(|_, class| is_container_node && class.is_present());
        let (firewall, state, exec_number) = Default::default();
        let (execs, copies) = (Arc::new(Semaphore::new(EXECS_MAX)), Arc::new(Semaphore::new(1)));
        let one_offs = Arc::new(Semaphore::new(ONE_OFFS_MAX));
        let (held, _) = watch::channel(BTreeMap::new());
        let inner = Inner {
            env,
            config,
            instances,
            kept_logs,
            images,
            volumes,
            snapshots,
            layers,
            made,
            held,
            copies,
            shim,
            has_users,
            firewall,
            ended,
            execs,
            exec_number,
            one_offs,
            state,
        };
        let runtime = Self(Arc::new(inner));
        runtime.thaw_all().await?;
        runtime.sweep().await?;
        if let Some(network) = &runtime.0.config.network {
            network::ensure_bridge(network)
                .await
                .map_err(|source| Error::Bridge { bridge: network.bridge.clone(), source })?;
            if let Some(limit) = runtime.0.config.limit
                && let Err(error) = cgroup::bound(&runtime.0.config.cgroup_parent, limit)
            {
                warn!(%error, "containers are bounded one by one only, not in their sum");
            }
        }
        runtime.take_over().await?;
        runtime.remove_one_offs().await?;
        runtime.keep_firewall();
        runtime.make_layers_ahead();
        Ok(runtime)
    }

    /// What a registry says now that a tag stands for. Bounded in time by the caller.
    ///
    /// # Errors
    /// [`Error::Pull`]; [`Error::Reference`] when what it says is no digest.
    pub async fn resolve_tag(&self, tag: &ImageTag) -> Result<ImageRef, Error> {
        self.0.images.resolve_tag(tag).await
    }

    /// Takes an image from an archive: a tar file, plain, gzip or zstd, as `docker save` writes it or with an OCI image layout.
    /// It is called `name`, or as the archive says. Ends by itself when nothing comes for a minute; bounded in time by the
    /// caller.
    ///
    /// # Errors
    /// [`Error::Archive`], [`Error::Content`], [`Error::Reference`], [`Error::File`]; then nothing of it is here.
    pub async fn import_image<B, E>(
        &self,
        name: Option<&str>,
        archive: impl Stream<Item = Result<B, E>> + Send,
    ) -> Result<Imported, Error>
    where
        B: AsRef<[u8]> + Send + 'static,
        E: Display,
    {
        self.0.images.import(name, archive).await
    }

    /// Whether containers have user namespaces of their own: else root in one is root on the node.
    pub fn has_users(&self) -> bool {
        self.0.has_users
    }

    /// The runtime classes that containers may have here.
    pub fn runtimes(&self) -> impl Iterator<Item = &RuntimeName> {
        self.0.config.runtimes.keys()
    }

    /// Whether what containers write to their layers is bounded, also when their services do not say.
    pub fn has_bounded_layers(&self) -> bool {
        self.0.layers.are_bounded()
    }

    /// The images that are here, in the order of their names.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn images(&self) -> Result<Vec<StoredImage>, Error> {
        self.0.images.list(&self.images_of_instances()?)
    }

    /// Notes that an image is needed here, though no instance is made from it.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn note_image(&self, image: &ImageRef) -> Result<(), Error> {
        self.0.images.note_use(image)
    }

    /// Takes images away, and gives the bytes that were freed. What instances are made from stays, and so do the parts of a
    /// pull that broke off less than `spared` ago.
    ///
    /// # Errors
    /// [`Error::File`].
    pub async fn remove_images(&self, images: &[ImageRef], spared: Duration) -> Result<u64, Error> {
        images.iter().try_for_each(|image| self.0.images.forget(image))?;
        self.0.images.sweep(|| self.images_of_instances(), spared).await
    }

    fn images_of_instances(&self) -> Result<Vec<ImageRef>, Error> {
        let mut images = Vec::new();
        for instance in record::instances(&self.0.instances)? {
            // One that is being made or removed may have none yet, or no more.
            let Some(record) = self.home(instance).record()? else { continue };
            images.extend(record.config.spec.image.as_deref().and_then(|image| image.parse().ok()));
        }
        Ok(images)
    }

    /// Whether all of an image is here.
    pub fn has_image(&self, image: &ImageRef) -> bool {
        self.0.images.load(image).is_ok_and(|found| found.is_some())
    }

    /// A manifest, configuration or layer as it was fetched, by its digest, for other nodes; none: it is not here.
    pub fn open_blob(&self, digest: &str) -> Option<File> {
        self.0.images.open_blob(digest)
    }

    /// Work on the volumes, which blocks.
    async fn with_volumes<R: Send + 'static>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&Volumes) -> std::io::Result<R> + Send + 'static,
    ) -> Result<R, Error> {
        let volumes = self.0.volumes.clone();
        let path = volumes.directory().to_owned();
        blocking(&*self.0.env.disk, move || work(&volumes)).await.map_err(Error::file(attempt, path))
    }

    /// Wraps an error about a volume.
    fn on_volume(&self, attempt: &'static str, volume: &VolumeRef) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::file(attempt, self.0.volumes.image(volume))
    }

    fn home(&self, instance: InstanceId) -> Home {
        Home::new(&self.0.instances, instance)
    }

    /// The directories of all instances, ordered by id.
    pub(crate) fn homes(&self) -> Result<Vec<(InstanceId, Home)>, Error> {
        let instances = record::instances(&self.0.instances)?.into_iter();
        Ok(instances.map(|instance| (instance, self.home(instance))).collect())
    }

    /// Where blocking work is done.
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.0.env.disk
    }

    /// Serializes what changes one instance.
    async fn lock(&self, instance: InstanceId) -> OwnedMutexGuard<()> {
        let lock = Arc::clone(self.0.state.lock().locks.entry(instance).or_default());
        lock.lock_owned().await
    }

    /// Runs `work` to its end even if the caller stops waiting: half-made instances are for crashes only.
    async fn finish<R: Send + 'static>(
        &self,
        instance: InstanceId,
        name: &str,
        work: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R, Error> {
        let (done, result) = oneshot::channel();
        self.0.env.tasks.spawn(name, async move {
            done.send(work.await).ok();
        });
        result.await.unwrap_or(Err(Error::State { instance, why: "is left as it is: the runtime is being stopped" }))
    }

    /// None while another call changes the instance.
    fn try_lock(&self, instance: InstanceId) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(self.0.state.lock().locks.entry(instance).or_default()).try_lock_owned().ok()
    }
}

#[async_trait]
impl Runtime for NodeRuntime {
    async fn ensure_image(&self, image: &ImageRef) -> Result<ImageInfo, Error> {
        self.0.images.ensure(image).await
    }

    fn pull_progress(&self, image: &ImageRef) -> Option<PullProgress> {
        self.0.images.progress(image)
    }

    async fn start(&self, config: &InstanceConfig) -> Result<Running, Error> {
        let (runtime, config) = (self.clone(), config.clone());
        self.finish(config.instance, "start an instance", async move {
            let _lock = runtime.lock(config.instance).await;
            runtime.start_locked(&config).await
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Observed>, Error> {
        let mut found = Vec::new();
        for instance in record::instances(&self.0.instances)? {
            // One that is being started or removed is neither here nor there.
            let Some(_lock) = self.try_lock(instance) else { continue };
            match self.observe(instance).await {
                Ok(observed) => {
                    found.extend(observed.filter(|(record, _)| !record.is_one_off).map(|(_, observed)| observed));
                }
                Err(error) => warn!(%instance, %error, "an instance cannot be observed"),
            }
        }
        Ok(found)
    }

    async fn stop(&self, instance: InstanceId, signal: Option<&str>, grace: Duration) -> Result<(), Error> {
        let home = self.home(instance);
        let signal = match signal {
            Some(name) => signal::number(name).ok_or_else(|| Error::Config {
                instance,
                why: format!("it has no signal {name:?}: write one as `kill -l` does, like SIGTERM"),
            })?,
            None => home.read::<protocol::Config>("shim.json")?.map_or(libc::SIGTERM, |config| config.stop.signal),
        };
        let request = Request::Stop(Stop { signal, grace_ms: grace.as_millis().try_into().unwrap_or(u64::MAX) });
        let limit = grace + END_MAX;
        insula_env::clock::timeout(limit, shim::ask_for_end(instance, &home, &request))
            .await
            .map_err(|_| Error::Shim { instance, why: format!("the instance did not end within {limit:?}") })??;
        // Ends what is left when it was the shim that had ended.
        self.observe(instance).await.map(|_| ())
    }

    async fn remove(&self, instance: InstanceId) -> Result<(), Error> {
        let runtime = self.clone();
        self.finish(instance, "remove an instance", async move {
            let _lock = runtime.lock(instance).await;
            runtime.remove_locked(instance).await
        })
        .await
    }

    async fn logs(&self, instance: InstanceId, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let (home, kept) = (self.home(instance), self.0.kept_logs.join(instance.to_string()));
        blocking(&*self.0.env.disk, move || {
            let directory = if home.path().is_dir() { home.path().to_owned() } else { kept };
            logs::tail(&directory, bytes_max).map_err(Error::file("read the logs in", directory))
        })
        .await
    }

    async fn volumes(&self) -> Result<Vec<StoredVolume>, Error> {
        self.with_volumes("list the volumes in", Volumes::list).await
    }

    async fn make_volume(&self, volume: &VolumeRef, size: ByteSize) -> Result<(), Error> {
        let _hold = self.hold(volume, Some(Held::Changing)).map_err(self.on_volume("make the volume", volume))?.0;
        let volume = volume.clone();
        self.with_volumes("make the volume", move |volumes| volumes.make(&volume, size)).await?;
        self.0.made.send_replace(());
        Ok(())
    }

    async fn delete_volume(&self, volume: &VolumeRef) -> Result<(), Error> {
        let _hold = self.hold(volume, Some(Held::Alone)).map_err(self.on_volume("delete the volume", volume))?.0;
        let volume = volume.clone();
        self.with_volumes("delete the volume", move |volumes| volumes.delete(&volume)).await
    }

    async fn exec(&self, instance: InstanceId, spec: &ExecSpec) -> Result<Exec, Error> {
        self.run_command(instance, spec).await
    }

    async fn pressures(&self) -> Result<Pressures, Error> {
        let mut here = Vec::new();
        for instance in record::instances(&self.0.instances)? {
            // Without its lock: a look at the same time must not miss it.
            here.extend(self.pressure(instance).await.map(|pressure| (instance, pressure)));
        }
        // Afterwards: what was removed meanwhile is in one of the two at least.
        let removed = std::mem::take(&mut self.0.state.lock().removed).into();
        Ok(Pressures { here, removed })
    }

    fn ended(&self) -> watch::Receiver<u64> {
        self.0.ended.subscribe()
    }
}
