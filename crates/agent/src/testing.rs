//! A runtime without containers: keeps what "runs" in memory, fails and dawdles as told, and counts what it was asked.
//! Outlives agents, like real instances. Deterministic under paused time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use insula_container::{
    Ended, Error, Exec, ExecHandle, Exit, ImageInfo, ImageRef, InstanceConfig, Observed, ObservedState, Pressure,
    Pressures, PullProgress, Running, Runtime, StoredVolume,
};
use insula_env::{
    Clock,
    clock::{self, Instant},
};
use insula_types::{
    AppName, ByteSize, Check, Desired, ExecSpec, HealthSpec, InstanceId, NodeId, Placement, PortSpec, Protocol,
    ReleaseNumber, SecretValue, SecretValues, SecretVersions, ServiceRef, ServiceSpec, VolumeRef,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Prober, Secrets};

/// Port that every instance of the fake runtime is given on an address of its own.
const PORT: u16 = 8080;

/// See the module.
#[derive(Debug, Clone)]
pub struct FakeRuntime(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    world: Mutex<World>,
    ended: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct World {
    instances: BTreeMap<InstanceId, (String, ObservedState)>,
    addresses: BTreeMap<SocketAddr, InstanceId>,
    images: BTreeSet<String>,
    starts: BTreeMap<InstanceId, u32>,
    stops: BTreeMap<InstanceId, u32>,
    pull_time: BTreeMap<String, Duration>,
    missing: BTreeSet<String>,
    pulls: BTreeMap<String, Instant>,
    start_time: Duration,
    failing_starts: BTreeSet<InstanceId>,
    unready: BTreeSet<InstanceId>,
    volumes: BTreeMap<VolumeRef, ByteSize>,
    answers: BTreeMap<InstanceId, (Option<Exit>, String)>,
    violations: Vec<String>,
    pressures: BTreeMap<InstanceId, Pressure>,
    removed: Vec<(InstanceId, Pressure)>,
}

impl FakeRuntime {
    /// Nothing runs; starts take 20 ms, pulls none.
    pub fn new(clock: Clock) -> Self {
        let world = World { start_time: Duration::from_millis(20), ..World::default() };
        Self(Arc::new(Shared { clock, world: Mutex::new(world), ended: watch::channel(0).0 }))
    }

    /// Pulling that image takes so long, the first time.
    pub fn set_pull_time(&self, image: &str, time: Duration) {
        self.0.world.lock().pull_time.insert(image.to_owned(), time);
    }

    /// No registry has that image.
    pub fn set_missing(&self, image: &str) {
        self.0.world.lock().missing.insert(image.to_owned());
    }

    /// Commands in that instance write this and end so; none: they go on for ever.
    pub fn set_answer(&self, instance: InstanceId, exit: Option<Exit>, said: &str) {
        self.0.world.lock().answers.insert(instance, (exit, said.to_owned()));
    }

    /// Starting takes so long.
    pub fn set_start_time(&self, time: Duration) {
        self.0.world.lock().start_time = time;
    }

    /// Starts of that instance fail, or work again.
    pub fn set_start_fails(&self, instance: InstanceId, fails: bool) {
        let mut world = self.0.world.lock();
        if fails {
            world.failing_starts.insert(instance)
        } else {
            world.failing_starts.remove(&instance)
        };
    }

    /// That instance answers checks badly, or well again.
    pub fn set_unready(&self, instance: InstanceId, is_unready: bool) {
        let mut world = self.0.world.lock();
        if is_unready {
            world.unready.insert(instance)
        } else {
            world.unready.remove(&instance)
        };
    }

    /// That instance lacks this, or takes too much of it, until it is removed.
    pub fn set_pressure(&self, instance: InstanceId, pressure: Pressure) {
        self.0.world.lock().pressures.insert(instance, pressure);
    }

    /// A running instance ends by itself.
    pub fn crash(&self, instance: InstanceId, exit: Exit) {
        self.end(instance, exit);
        self.0.ended.send_modify(|count| *count += 1);
    }

    /// The machine loses power: nothing runs any more.
    pub fn power_off(&self) {
        for instance in self.running() {
            self.end(instance, Exit::Unseen("the machine went down".to_owned()));
        }
    }

    fn end(&self, instance: InstanceId, exit: Exit) {
        let at_ms = self.0.clock.wall_ms();
        if let Some((_, state)) = self.0.world.lock().instances.get_mut(&instance) {
            *state = ObservedState::Ended(Ended { exit, is_oom_killed: false, at_ms });
        }
    }

    /// What runs.
    pub fn running(&self) -> Vec<InstanceId> {
        let world = self.0.world.lock();
        let runs = world.instances.iter().filter(|(_, (_, state))| matches!(state, ObservedState::Running(_)));
        runs.map(|(id, _)| *id).collect()
    }

    /// What is there, running or ended.
    pub fn present(&self) -> Vec<InstanceId> {
        self.0.world.lock().instances.keys().copied().collect()
    }

    /// How often an instance was really started.
    pub fn starts(&self, instance: InstanceId) -> u32 {
        self.0.world.lock().starts.get(&instance).copied().unwrap_or(0)
    }

    /// How often an instance was stopped.
    pub fn stops(&self, instance: InstanceId) -> u32 {
        self.0.world.lock().stops.get(&instance).copied().unwrap_or(0)
    }

    /// Calls that an agent may not make: starting what runs, removing what runs.
    pub fn violations(&self) -> Vec<String> {
        self.0.world.lock().violations.clone()
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn ensure_image(&self, image: &ImageRef) -> Result<ImageInfo, Error> {
        let name = image.to_string();
        let time = {
            let world = self.0.world.lock();
            world.pull_time.get(&name).copied().filter(|_| !world.images.contains(&name))
        };
        if let Some(time) = time {
            self.0.world.lock().pulls.insert(name.clone(), self.0.clock.now());
            clock::sleep(time).await;
        }
        let mut world = self.0.world.lock();
        if world.missing.contains(&name) {
            let attempt = "read the manifest".to_owned();
            return Err(Error::Pull { image: name, attempt, source: "no registry has it".into() });
        }
        world.images.insert(name);
        Ok(ImageInfo::default())
    }

    /// A megabyte a second.
    fn pull_progress(&self, image: &ImageRef) -> Option<PullProgress> {
        let (world, name) = (self.0.world.lock(), image.to_string());
        let (begun, time) = (world.pulls.get(&name)?, world.pull_time.get(&name)?);
        let bytes = |time: Duration| time.as_secs() * 1_000_000;
        let fetched_bytes = bytes(self.0.clock.now() - *begun);
        (!world.images.contains(&name)).then_some(PullProgress { fetched_bytes, size_bytes: bytes(*time) })
    }

    async fn start(&self, config: &InstanceConfig) -> Result<Running, Error> {
        let instance = config.instance;
        let time = self.0.world.lock().start_time;
        clock::sleep(time).await;
        let started_ms = self.0.clock.wall_ms();
        let mut world = self.0.world.lock();
        match world.instances.get(&instance).map(|(_, state)| state.clone()) {
            Some(ObservedState::Running(running)) => {
                world.violations.push(format!("{instance} was started while it ran"));
                return Ok(running);
            }
            Some(ObservedState::Ended(_)) => {
                return Err(Error::State { instance, why: "has ended: remove it first" });
            }
            None => {}
        }
        if let Some(file) = config.spec.files.iter().find(|file| !config.contents.files.contains_key(&file.content)) {
            return Err(Error::Config { instance, why: format!("what is in {} is not known", file.path) });
        }
        if let Some(name) = config.spec.secrets.keys().find(|name| !config.contents.secrets.contains_key(*name)) {
            return Err(Error::Config { instance, why: format!("the secret {name} is not open") });
        }
        if world.failing_starts.contains(&instance) {
            return Err(Error::Shim { instance, why: "told to fail".to_owned() });
        }
        let starts = world.starts.entry(instance).or_default();
        *starts += 1;
        let pid = *starts;
        let [.., b, c, d] = instance.get().to_be_bytes();
        let address = SocketAddr::from(([10, b, c, d], PORT));
        let endpoints = config.spec.ports.iter().map(|port| (port.name.clone(), address)).collect();
        let running = Running { pid, started_ms, endpoints };
        world.addresses.insert(address, instance);
        world.instances.insert(instance, (config.hash(), ObservedState::Running(running.clone())));
        Ok(running)
    }

    async fn list(&self) -> Result<Vec<Observed>, Error> {
        let world = self.0.world.lock();
        let observed = world.instances.iter().map(|(instance, (hash, state))| Observed {
            instance: *instance,
            config_hash: hash.clone(),
            state: state.clone(),
        });
        Ok(observed.collect())
    }

    async fn stop(&self, instance: InstanceId, _signal: Option<&str>, _grace: Duration) -> Result<(), Error> {
        clock::sleep(Duration::from_millis(10)).await;
        *self.0.world.lock().stops.entry(instance).or_default() += 1;
        self.end(instance, Exit::Signal(15));
        Ok(())
    }

    async fn remove(&self, instance: InstanceId) -> Result<(), Error> {
        let mut world = self.0.world.lock();
        if let Some((_, ObservedState::Running(_))) = world.instances.get(&instance) {
            world.violations.push(format!("{instance} was removed while it ran"));
            return Err(Error::State { instance, why: "runs: stop it first" });
        }
        world.instances.remove(&instance);
        let pressure = world.pressures.remove(&instance).unwrap_or_default();
        world.removed.push((instance, pressure));
        Ok(())
    }

    async fn logs(&self, _instance: InstanceId, _bytes_max: u64) -> Result<Vec<u8>, Error> {
        Ok(Vec::new())
    }

    async fn volumes(&self) -> Result<Vec<StoredVolume>, Error> {
        let world = self.0.world.lock();
        Ok(world.volumes.iter().map(|(volume, size)| StoredVolume { volume: volume.clone(), size: *size }).collect())
    }

    async fn make_volume(&self, volume: &VolumeRef, size: ByteSize) -> Result<(), Error> {
        let mut world = self.0.world.lock();
        let present = world.volumes.entry(volume.clone()).or_default();
        *present = size.max(*present);
        Ok(())
    }

    async fn delete_volume(&self, volume: &VolumeRef) -> Result<(), Error> {
        self.0.world.lock().volumes.remove(volume);
        Ok(())
    }

    async fn exec(&self, instance: InstanceId, _spec: &ExecSpec) -> Result<Exec, Error> {
        let answer = self.0.world.lock().answers.get(&instance).cloned();
        let (exit, said) = answer.ok_or(Error::State { instance, why: "is not real: no command runs in it" })?;
        let (handle, orders) = ExecHandle::new();
        let exit = async move {
            // It runs for as long as somebody holds it.
            let mut orders = orders;
            match exit {
                Some(exit) => exit,
                None => {
                    while orders.recv().await.is_some() {}
                    Exit::Signal(1)
                }
            }
        };
        let stdout = Box::new(std::io::Cursor::new(said.into_bytes()));
        Ok(Exec { stdin: None, stdout, stderr: None, exit: Box::pin(exit), handle })
    }

    async fn pressures(&self) -> Result<Pressures, Error> {
        let mut world = self.0.world.lock();
        let removed = std::mem::take(&mut world.removed);
        let here =
            world.instances.keys().map(|id| (*id, world.pressures.get(id).cloned().unwrap_or_default())).collect();
        Ok(Pressures { here, removed })
    }

    fn ended(&self) -> watch::Receiver<u64> {
        self.0.ended.subscribe()
    }
}

#[async_trait]
impl Prober for FakeRuntime {
    async fn probe(&self, address: SocketAddr, _health: &HealthSpec) -> Result<(), String> {
        clock::sleep(Duration::from_millis(1)).await;
        let world = self.0.world.lock();
        let instance = world.addresses.get(&address).ok_or("connection refused")?;
        match world.instances.get(instance) {
            Some((_, ObservedState::Running(_))) if !world.unready.contains(instance) => Ok(()),
            Some((_, ObservedState::Running(_))) => Err("answered 503".to_owned()),
            _ => Err("connection refused".to_owned()),
        }
    }
}

/// Opens each secret as its own name and version; fails while it is told to.
#[derive(Debug, Default)]
pub struct FakeSecrets {
    is_away: AtomicBool,
}

impl FakeSecrets {
    /// Nobody who could open them is reached, or somebody is again.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }
}

#[async_trait]
impl Secrets for FakeSecrets {
    async fn open(&self, _: &AppName, wanted: &SecretVersions) -> Result<SecretValues, String> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err("nobody who can open secrets is reached".to_owned());
        }
        let value = |name, version| SecretValue::new(format!("{name}.{version}")).expect("a value");
        Ok(wanted.iter().map(|(name, version)| (name.clone(), value(name, version))).collect())
    }
}

/// A service that is checked every second, and of which an image is named.
pub fn spec() -> ServiceSpec {
    ServiceSpec {
        image: Some(format!("registry.example/web@sha256:{}", "a".repeat(64))),
        ports: vec![PortSpec { name: "http".parse().expect("a name"), port: PORT, protocol: Protocol::Http }],
        health: Some(HealthSpec {
            check: Check::Http("/healthz".to_owned()),
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            unhealthy_after: 2,
            restart_after: None,
        }),
        ..ServiceSpec::default()
    }
}

/// A placement of [`spec`] that shall run.
pub fn placement(instance: u64, node: u64) -> Placement {
    Placement {
        instance: InstanceId::new(instance),
        service: ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name")),
        node: NodeId::new(node),
        release: ReleaseNumber(1),
        spec: spec(),
        desired: Desired::Run,
        reasons: vec!["a test".to_owned()],
        placed_ms: 0,
        slot: None,
        hook: None,
    }
}
