//! The agent over the fake runtime, in virtual time.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use insula_container::{Exit, NodeLabels, Pressure};
use insula_env::{BlockFile, Clock, Disk, Env, RealDisk, Rng, TaskGroup, clock, disk::DiskJob};
use insula_state::{
    Domain, Leadership, ProposeError, Proposer, RegionState, Replica, Store, Update,
    event::Event,
    region::{RegionKey, RegionObject},
};
use insula_types::{
    Capacity, ContentHash, Desired, FileSpec, Granted, InstanceId, InstanceStatus, Node, NodeHealth, NodeId, Phase,
    Placement, Renewal, RequestId, Revision, VolumeRef,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Agent, CallError, Parts, RENEW_EVERY, Renewer, Reporter, start_renewals,
    testing::{FakeRuntime, FakeSecrets, placement},
};

mod property;
mod restarts;

const NODE: u64 = 7;

/// Whether a quorum answers.
#[derive(Debug, Clone, Default)]
struct Quorum(Arc<Mutex<bool>>);

#[async_trait]
impl Proposer for Quorum {
    async fn propose(&self, _: RequestId, _: Vec<u8>, _: Duration) -> Result<Vec<u8>, ProposeError> {
        Err(ProposeError::Unavailable { why: "agents do not propose".into() })
    }
    async fn barrier(&self, _: Duration) -> Result<(), ProposeError> {
        if *self.0.lock() { Ok(()) } else { Err(ProposeError::Unavailable { why: "cut off".into() }) }
    }
    async fn recall(&self, _: RequestId, _: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        Ok(None)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }
}

/// Keeps what was reported last of each instance, and how often anything was.
#[derive(Debug, Default)]
struct Reports {
    last: Mutex<crate::report::Statuses>,
    calls: Mutex<u32>,
    /// How often something else was reported of an instance than before.
    changes: Mutex<u32>,
    volumes: Mutex<Vec<(VolumeRef, bool)>>,
    notes: Mutex<Vec<Event>>,
    is_broken: Mutex<bool>,
}

#[async_trait]
impl Reporter for Reports {
    async fn report(&self, statuses: Vec<InstanceStatus>) -> Result<(), CallError> {
        if *self.is_broken.lock() {
            return Err(CallError("cut off".into()));
        }
        *self.calls.lock() += 1;
        for status in statuses {
            let before = self.last.lock().insert(status.instance, status.clone());
            *self.changes.lock() += u32::from(before.as_ref() != Some(&status));
        }
        Ok(())
    }

    async fn report_volume(&self, volume: VolumeRef, is_here: bool) -> Result<(), CallError> {
        if *self.is_broken.lock() {
            return Err(CallError("cut off".into()));
        }
        self.volumes.lock().push((volume, is_here));
        Ok(())
    }

    async fn note(&self, event: Event) -> Result<(), CallError> {
        self.notes.lock().push(event);
        Ok(())
    }
}

/// A disk that can be full.
#[derive(Debug, Default)]
struct FullDisk(Mutex<bool>);

impl Disk for FullDisk {
    fn open(&self, path: &Path) -> std::io::Result<Box<dyn BlockFile>> {
        RealDisk.open(path)
    }
    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        RealDisk.read(path)
    }
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        if *self.0.lock() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        RealDisk.write_atomic(path, bytes)
    }
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn free(&self, _: &Path) -> std::io::Result<u64> {
        Ok(0)
    }
    fn run(&self, job: DiskJob) -> futures::future::BoxFuture<'static, ()> {
        job();
        Box::pin(async {})
    }
}

/// A node: its machine (runtime, disk), its view of the region, and the agent that runs now.
struct Bench {
    env: Env,
    disk: Arc<FullDisk>,
    quorum: Quorum,
    replica: Arc<Replica<RegionState>>,
    /// What the region has of files.
    contents: Vec<&'static str>,
    revision: u64,
    runtime: FakeRuntime,
    secrets: Arc<FakeSecrets>,
    reports: Arc<Reports>,
    path: PathBuf,
    agent: Option<Agent>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let disk = Arc::new(FullDisk::default());
        let env = Env {
            clock: Clock::simulated(1_000_000),
            rng: Rng::from_seed(1),
            disk: disk.clone(),
            tasks: TaskGroup::new("bench"),
        };
        let runtime = FakeRuntime::new(env.clock.clone());
        let quorum = Quorum(Arc::new(Mutex::new(true)));
        let path = dir.path().join("agent/placements");
        let (replica, reports, secrets) = (Replica::new(), Arc::default(), Arc::default());
        let contents = Vec::new();
        Self {
            env,
            disk,
            quorum,
            replica,
            contents,
            revision: 0,
            runtime,
            secrets,
            reports,
            path,
            agent: None,
            _dir: dir,
        }
    }

    /// Starts the agent, or ends the one that runs (as `kill -9` would) and starts another.
    fn start(&mut self) {
        self.env.tasks.crash();
        self.env.tasks = TaskGroup::new("bench");
        let region = Store::new(
            self.replica.clone(),
            Arc::new(self.quorum.clone()),
            self.env.clock.clone(),
            self.env.rng.fork(),
        );
        let labels = NodeLabels {
            name: "n7".parse().expect("a name"),
            region: "fra".parse().expect("a name"),
            datacenter: "fra1".parse().expect("a name"),
        };
        let parts = Parts {
            node: NodeId::new(NODE),
            labels,
            path: self.path.clone(),
            region,
            runtime: Arc::new(self.runtime.clone()),
            prober: Arc::new(self.runtime.clone()),
            reporter: self.reports.clone(),
            secrets: self.secrets.clone(),
            other_images: Arc::new(std::collections::BTreeSet::new),
            refused: Arc::new(|| Box::pin(async { Default::default() })),
        };
        self.agent = Some(Agent::start(&self.env, parts));
    }

    /// The region places exactly these here.
    fn place(&mut self, placements: &[Placement]) {
        let node = Node {
            id: NodeId::new(NODE),
            name: "n7".parse().expect("a name"),
            region: "fra".parse().expect("a name"),
            datacenter: "fra1".parse().expect("a name"),
            address: "10.0.0.7:7443".parse().expect("an address"),
            capacity: Capacity::default(),
            version: "test".into(),
            health: NodeHealth::Up,
            is_cordoned: false,
            is_draining: false,
            joined_ms: 0,
        };
        self.revision += 1;
        let revision = Revision(self.revision);
        let mut objects = vec![(RegionKey::Node(node.id), revision, RegionObject::Node(node))];
        let key = |content| RegionKey::Content(("shop".parse().expect("a name"), ContentHash::of(content)));
        let contents = self.contents.iter();
        objects.extend(contents.map(|content| (key(content), revision, RegionObject::Content((*content).to_owned()))));
        let placed = placements.iter().cloned();
        objects.extend(placed.map(|p| (RegionKey::Placement(p.instance), revision, RegionObject::Placement(p))));
        self.replica.follow(Update::Reset { revision, objects }).expect("it follows");
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..4000 {
            if condition(self) {
                return;
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
        panic!("not within 200 s: {what}; reported {:?}", self.reports.last.lock());
    }

    fn status(&self, instance: u64) -> Option<InstanceStatus> {
        self.reports.last.lock().get(&InstanceId::new(instance)).cloned()
    }

    fn is_ready(&self, instance: u64) -> bool {
        self.status(instance).is_some_and(|status| status.is_ready)
    }

    fn starts(&self, instance: u64) -> u32 {
        self.runtime.starts(InstanceId::new(instance))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        assert_eq!(self.runtime.violations(), Vec::<String>::new());
    }
}

fn stop(instance: u64) -> Placement {
    Placement { desired: Desired::Stop, ..placement(instance, NODE) }
}

#[tokio::test(start_paused = true)]
async fn starts_reports_stops_and_removes() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE), placement(2, NODE), placement(3, 8)]);
    bench.start();
    bench.until("both ready", |b| b.is_ready(1) && b.is_ready(2)).await;
    assert_eq!(bench.starts(3), 0, "placed on another node");
    let status = bench.status(1).expect("reported");
    assert_eq!((status.phase, status.was_ready, status.endpoints.len()), (Phase::Running, true, 1));

    bench.place(&[placement(1, NODE), Placement { desired: Desired::Drain, ..placement(2, NODE) }]);
    clock::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.runtime.running().len(), 2, "one that drains goes on");
    bench.place(&[placement(1, NODE), stop(2)]);
    bench.until("stopped", |b| b.status(2).is_some_and(|s| s.phase == Phase::Stopped)).await;
    assert_eq!(bench.runtime.present(), [InstanceId::new(1)]);
    bench.place(&[]);
    bench.until("taken away, since nobody wants it", |b| b.runtime.present().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_and_says_why() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE)]);
    bench.start();
    let mut waits = Vec::new();
    for run in 1..=9 {
        let before = bench.env.clock.now();
        bench.until("started", |b| b.starts(1) == run && !b.runtime.running().is_empty()).await;
        waits.push((bench.env.clock.now() - before).as_secs_f64());
        bench.runtime.crash(InstanceId::new(1), Exit::Code(3));
        bench.until("told", |b| b.status(1).is_some_and(|s| s.phase == Phase::Backoff)).await;
    }
    assert_eq!(bench.status(1).expect("reported").message, "ended with exit code 3");
    for (wait, at_least) in waits[1..].iter().zip([0.5, 1.2, 2.7, 5.7, 11.7, 23.7, 44.0, 44.0]) {
        assert!(*wait >= at_least && *wait <= 76.0, "{waits:?}");
    }
    bench.until("ready again", |b| b.is_ready(1)).await;
    assert_eq!(bench.status(1).expect("reported").restarts, 9);
}

#[tokio::test(start_paused = true)]
async fn what_fails_again_for_the_same_reason_is_not_reported_again() {
    let mut bench = Bench::new();
    let missing = format!("registry.example/missing@sha256:{}", "c".repeat(64));
    bench.runtime.set_missing(&missing);
    bench.runtime.set_start_fails(InstanceId::new(2), true);
    let mut first = placement(1, NODE);
    first.spec.image = Some(missing);
    bench.place(&[first, placement(2, NODE)]);
    bench.start();
    for instance in [1, 2] {
        bench.until("it says why", |b| b.status(instance).is_some_and(|s| s.phase == Phase::Backoff)).await;
    }
    clock::sleep(Duration::from_secs(1)).await;
    let before = *bench.reports.changes.lock();
    clock::sleep(Duration::from_secs(600)).await;
    assert_eq!(*bench.reports.changes.lock() - before, 0, "each would be an entry in the region's log");
    bench.runtime.set_start_fails(InstanceId::new(2), false);
    bench.until("ready", |b| b.is_ready(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_agent_takes_over_what_runs() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE), placement(2, NODE)]);
    bench.start();
    bench.until("both ready", |b| b.is_ready(1) && b.is_ready(2)).await;
    clock::sleep(Duration::from_secs(1)).await;
    bench.reports.last.lock().clear();
    // The second is taken back while no agent runs; the quorum is away at first.
    *bench.quorum.0.lock() = false;
    bench.start();
    bench.until("taken over", |b| b.is_ready(1)).await;
    bench.place(&[placement(1, NODE)]);
    clock::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.runtime.running().len(), 2, "nothing is stopped without the quorum's word");
    *bench.quorum.0.lock() = true;
    bench.until("the second is gone", |b| b.runtime.present() == [InstanceId::new(1)]).await;
    assert_eq!((bench.starts(1), bench.starts(2)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_the_list_on_disk_is_started_when_no_quorum_comes() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE), placement(2, NODE)]);
    bench.start();
    bench.until("both ready", |b| b.is_ready(1) && b.is_ready(2)).await;
    bench.runtime.power_off();
    *bench.quorum.0.lock() = false;
    bench.start();
    clock::sleep(Duration::from_secs(9)).await;
    assert!(bench.runtime.running().is_empty(), "the quorum is asked first");
    bench.until("both run", |b| b.runtime.running().len() == 2).await;
    // And restarts go on while the control plane is away.
    bench.runtime.crash(InstanceId::new(2), Exit::Signal(9));
    bench.until("started again", |b| b.runtime.running().len() == 2).await;
    assert_eq!(bench.starts(2), 3);
}

fn with_file(instance: u64, content: &str) -> Placement {
    let mut placement = placement(instance, NODE);
    placement.spec.files = vec![FileSpec { path: "/etc/a".into(), mode: 0o644, content: ContentHash::of(content) }];
    placement
}

#[tokio::test(start_paused = true)]
async fn what_files_contain_is_kept_for_a_start_without_the_region() {
    let mut bench = Bench::new();
    bench.contents = vec!["one", "two", "another's"];
    bench.place(&[with_file(1, "one"), with_file(2, "two")]);
    bench.start();
    bench.until("both ready", |b| b.is_ready(1) && b.is_ready(2)).await;
    bench.place(&[with_file(1, "one")]);
    bench.until("the second is gone", |b| b.runtime.present() == [InstanceId::new(1)]).await;
    let path = bench.path.with_file_name("contents");
    let kept = || String::from_utf8_lossy(&std::fs::read(&path).expect("a file")).into_owned();
    bench.until("it is forgotten", |_| !kept().contains("two")).await;
    assert!(kept().contains("one") && !kept().contains("another's"));

    bench.runtime.power_off();
    *bench.quorum.0.lock() = false;
    bench.replica = Replica::new();
    bench.start();
    bench.until("it runs again", |b| b.starts(1) == 2).await;

    bench.runtime.power_off();
    std::fs::write(&path, "damaged").expect("write");
    bench.start();
    clock::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.starts(1), 2, "never without its files");
    bench.contents = vec!["one"];
    *bench.quorum.0.lock() = true;
    bench.place(&[with_file(1, "one")]);
    bench.until("the region brings it", |b| b.starts(1) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_waits_for_its_secrets_and_says_so() {
    let mut bench = Bench::new();
    bench.secrets.set_away(true);
    let mut placement = placement(1, NODE);
    placement.spec.secrets = [("KEY".parse().expect("a name"), 1)].into();
    bench.place(&[placement]);
    bench.start();
    let why = "nobody who can open secrets is reached";
    bench.until("it says so", |b| b.status(1).is_some_and(|s| s.phase == Phase::Backoff && s.message == why)).await;
    assert_eq!(bench.starts(1), 0);
    bench.secrets.set_away(false);
    bench.until("ready", |b| b.is_ready(1)).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_power_cut_the_quorum_is_believed_over_the_list() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE), placement(2, NODE)]);
    bench.start();
    bench.until("both ready", |b| b.is_ready(1) && b.is_ready(2)).await;
    bench.runtime.power_off();
    bench.place(&[placement(1, NODE), stop(2)]);
    bench.start();
    bench.until("settled", |b| b.status(2).is_some_and(|s| s.phase == Phase::Stopped)).await;
    bench.until("the first runs", |b| b.starts(1) == 2).await;
    assert_eq!(bench.starts(2), 1, "it was replaced elsewhere");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_and_a_broken_reporter_do_not_stop_anything() {
    let mut bench = Bench::new();
    *bench.disk.0.lock() = true;
    *bench.reports.is_broken.lock() = true;
    bench.place(&[placement(1, NODE)]);
    bench.start();
    bench.until("runs", |b| b.runtime.running().len() == 1).await;
    *bench.disk.0.lock() = false;
    *bench.reports.is_broken.lock() = false;
    bench.until("reported", |b| b.is_ready(1)).await;
    bench.until("kept", |b| crate::kept::load(&*b.disk, &b.path) == [placement(1, NODE)]).await;
    let calls = *bench.reports.calls.lock();
    clock::sleep(Duration::from_secs(60)).await;
    // The region of this test never shows the reports, so the comparison repeats them; nothing else does.
    assert!(*bench.reports.calls.lock() - calls <= 8, "only what changed is reported");
}

#[tokio::test(start_paused = true)]
async fn a_slow_pull_and_a_failing_start_hold_up_nobody_else() {
    let mut bench = Bench::new();
    let slow_image = format!("registry.example/slow@sha256:{}", "b".repeat(64));
    bench.runtime.set_pull_time(&slow_image, Duration::from_secs(120));
    bench.runtime.set_start_fails(InstanceId::new(2), true);
    let mut slow = placement(1, NODE);
    slow.spec.image = Some(slow_image);
    bench.place(&[slow, placement(2, NODE), placement(3, NODE)]);
    bench.start();
    let before = bench.env.clock.now();
    bench.until("the third is ready", |b| b.is_ready(3)).await;
    assert!(bench.env.clock.now() - before < Duration::from_secs(2));
    bench.until("the second says why", |b| b.status(2).is_some_and(|s| s.message.contains("told to fail"))).await;
    bench.until("the first says how far it is", |b| b.status(1).is_some_and(|s| s.message.starts_with("10 %"))).await;
    let status = bench.status(1).expect("reported");
    assert_eq!((status.phase, status.message.as_str()), (Phase::Pulling, "10 % of 120 MB fetched"));
    bench.runtime.set_start_fails(InstanceId::new(2), false);
    bench.until("all ready", |b| b.is_ready(1) && b.is_ready(2)).await;
    assert_eq!(bench.status(1).expect("reported").message, "");
}

#[tokio::test(start_paused = true)]
async fn unready_is_told_and_one_that_never_gets_ready_is_started_again() {
    let mut bench = Bench::new();
    bench.runtime.set_unready(InstanceId::new(2), true);
    bench.place(&[placement(1, NODE), placement(2, NODE)]);
    bench.start();
    bench.until("ready", |b| b.is_ready(1)).await;
    bench.runtime.set_unready(InstanceId::new(1), true);
    bench.until("unready", |b| !b.is_ready(1)).await;
    let status = bench.status(1).expect("reported");
    assert_eq!((status.phase, status.was_ready), (Phase::Running, true));
    bench.until("the second is started again", |b| b.starts(2) == 2).await;
    assert_eq!(bench.starts(1), 1, "one that was ready is not restarted by its checks");
    assert!(bench.status(2).expect("reported").message.contains("not ready within 30s"));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_region_without_this_node_says_nothing() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE)]);
    bench.start();
    bench.until("ready", |b| b.is_ready(1)).await;
    bench.revision += 1;
    let empty = RegionState::default().objects();
    bench.replica.follow(Update::Reset { revision: Revision(bench.revision), objects: empty }).expect("it follows");
    clock::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.runtime.running().len(), 1);
}

/// Keeps the revision that each renewal told.
#[derive(Debug, Default)]
struct Leader(Mutex<Vec<Revision>>);

#[async_trait]
impl Renewer for Leader {
    async fn renew(&self, renewal: Renewal) -> Result<Granted, CallError> {
        self.0.lock().push(renewal.catalog_revision);
        Ok(Granted { lease: 5 * RENEW_EVERY, wall_ms: 0 })
    }
}

#[tokio::test(start_paused = true)]
async fn new_catalogs_are_told_at_once_and_many_of_them_together() {
    let bench = Bench::new();
    let (leader, catalog) = (Arc::new(Leader::default()), watch::Sender::new(Revision(0)));
    start_renewals(&bench.env, leader.clone(), catalog.subscribe(), Renewal::default);
    let told = async |millis| {
        clock::sleep(Duration::from_millis(millis)).await;
        let told = leader.0.lock();
        (told.len(), told.last().copied())
    };
    assert_eq!(told(100).await, (1, Some(Revision(0))));
    catalog.send_replace(Revision(1));
    assert_eq!(told(1).await, (2, Some(Revision(1))), "the next renewal is not waited for");
    for revision in 2..=200 {
        catalog.send_replace(Revision(revision));
        clock::sleep(Duration::from_millis(1)).await;
    }
    let (renewals, last) = told(50).await;
    assert_eq!(last, Some(Revision(200)));
    assert!((5..=7).contains(&renewals), "200 catalogs within 200 ms cost {renewals} renewals");
    bench.env.tasks.crash();
}

#[tokio::test(start_paused = true)]
async fn an_instance_at_its_limits_is_named_in_the_events() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE), placement(2, NODE)]);
    bench.start();
    bench.until("both ready", |b| b.is_ready(1) && b.is_ready(2)).await;
    clock::sleep(Duration::from_secs(30)).await;
    let pressure = Pressure { forks_refused: 9, ..Pressure::default() };
    bench.runtime.set_pressure(InstanceId::new(2), pressure);
    bench.until("begun and over", |b| b.reports.notes.lock().len() == 2).await;
    let notes = bench.reports.notes.lock().clone();
    let placed = placement(2, NODE);
    for (note, what) in notes
        .iter()
        .zip(["limit of processes: it cannot start more (its limit: resources.pids = 256)", "its limit again"])
    {
        assert!(note.text.starts_with(&format!("{} {} on node n7 ", placed.service, placed.instance)), "{}", note.text);
        assert!(note.text.ends_with(what), "{}", note.text);
        assert_eq!((note.instance, note.node), (Some(placed.instance), Some(NodeId::new(NODE))));
        assert_eq!(note.app.as_ref(), Some(&placed.service.app));
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ends_for_its_limits_is_named_in_the_events() {
    let mut bench = Bench::new();
    bench.place(&[placement(1, NODE)]);
    bench.start();
    bench.until("ready", |b| b.is_ready(1)).await;
    clock::sleep(Duration::from_secs(30)).await;
    for run in 1..=5 {
        let (forks_refused, oom_kills) = (run, u64::from(run > 1));
        let pressure = Pressure { forks_refused, oom_kills, ..Pressure::default() };
        bench.runtime.set_pressure(InstanceId::new(1), pressure);
        bench.runtime.crash(InstanceId::new(1), Exit::Code(2));
        bench.until("started again", |b| b.is_ready(1) && b.runtime.starts(InstanceId::new(1)) as u64 > run).await;
    }
    bench.until("told", |b| b.reports.notes.lock().len() == 2).await;
    let texts: Vec<_> = bench.reports.notes.lock().iter().map(|note| note.text.clone()).collect();
    for (text, what) in texts.iter().zip(["resources.pids = 256", "resources.memory = \"128MiB\""]) {
        assert!(text.contains("is at its limit of") && text.contains(what), "{text}");
    }
}
