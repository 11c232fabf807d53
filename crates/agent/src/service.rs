//! The shell around the core: feeds it what happens, does what it says, keeps the list of placements on disk.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use insula_container::{Contents, ImageRef, InstanceConfig, NodeLabels, Runtime};
use insula_env::{Beat, Env, beat, clock};
use insula_state::{RegionState, Store};
use insula_types::{Check, InstanceId, NodeId, Placement, SecretValues};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    Action, Core, Event, Prober, Reporter, Secrets,
    contents::Known,
    copies::{self, OtherImages},
    kept,
    pressure::{self, Refused},
    probe::exec,
    renew::changed,
    report::{self, Statuses},
    volumes,
};

/// How long a pull may take: a large image on a slow line. After that it begins anew, keeping what is there.
pub(crate) const PULL_LIMIT: Duration = Duration::from_secs(900);
/// How often a pull is looked at.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// How long a start, a removal or a look may take. They are local; longer means that something hangs.
const LOCAL_LIMIT: Duration = Duration::from_secs(60);
/// What a stop may take beyond its grace.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// How long one question to the quorum may take before it is asked again.
const LEARN_LIMIT: Duration = Duration::from_secs(2);
/// Wait between two questions to the quorum, and between two tries to write the list.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// What the agent works with.
#[derive(Clone)]
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// As instances are told.
    pub labels: NodeLabels,
    /// The list of placements on disk, `agent/placements` in the data directory.
    pub path: PathBuf,
    /// The region.
    pub region: Store<RegionState>,
    /// Runs instances.
    pub runtime: Arc<dyn Runtime>,
    /// Checks readiness.
    pub prober: Arc<dyn Prober>,
    /// Takes reports.
    pub reporter: Arc<dyn Reporter>,
    /// Opens secrets.
    pub secrets: Arc<dyn Secrets>,
    /// What else is kept of images.
    pub other_images: OtherImages,
    /// Asks the node's edge whom it refuses.
    pub refused: Refused,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("node", &self.node).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The running agent. It stops with its task group; instances go on.
#[derive(Debug, Clone)]
pub struct Agent {
    statuses: watch::Receiver<Statuses>,
}

impl Agent {
    /// Starts the agent in `env`'s task group.
    pub fn start(env: &Env, parts: Parts) -> Self {
        let (shown, statuses) = watch::channel(Statuses::new());
        report::start(env, Arc::clone(&parts.reporter), parts.region.clone(), statuses.clone());
        copies::start(env, &parts);
        volumes::start(env, &parts);
        pressure::start(env, &parts);
        let env_of_run = Env { rng: env.rng.fork(), ..env.clone() };
        let shown = Arc::new(shown);
        env.tasks.supervise("agent", beat::QUICK, move |beat| {
            let (env, known) = (env_of_run.clone(), Mutex::default());
            let shell = Shell { env, parts: parts.clone(), shown: Arc::clone(&shown), known };
            shell.run(beat)
        });
        Self { statuses }
    }

    /// What this node sees of its instances, whether or not the region is reachable.
    pub const fn statuses(&self) -> &watch::Receiver<Statuses> {
        &self.statuses
    }
}

struct Shell {
    env: Env,
    parts: Parts,
    shown: Arc<watch::Sender<Statuses>>,
    /// What the placements name that are not in the core.
    known: Mutex<Known>,
}

/// What a job of the shell ends with.
enum Done {
    Event(Event),
    /// The job goes on.
    Progress(Event, BoxFuture<'static, Done>),
    /// The local copy of the region is as new as the quorum.
    Learned,
    Written(Box<Written>, std::io::Result<()>),
}

type Jobs = FuturesUnordered<BoxFuture<'static, Done>>;

impl Shell {
    async fn run(self, beat: Beat) {
        let mut core = Core::new(self.parts.node, self.env.rng.fork(), self.env.clock.now());
        let mut jobs = Jobs::new();
        let mut list = List::default();
        let mut is_learned = false;
        let mut revision = self.parts.region.replica().changed();
        let mut ended = self.parts.runtime.ended();
        let kept = kept::load(&*self.env.disk, &self.parts.path);
        let known = Known::load(&*self.env.disk, &self.contents_path());
        list.written = Some(Written { placements: kept.clone(), known: known.clone() });
        *self.known.lock() = known;
        self.step(&mut core, &jobs, Event::Kept(kept));
        jobs.push(self.learn());
        loop {
            let wake = core.next_wake(self.env.clock.now());
            let event = beat
                .idle(async {
                    tokio::select! {
                        biased;
                        Some(done) = jobs.next(), if !jobs.is_empty() => match done {
                            Done::Event(event) => event,
                            Done::Progress(event, rest) => {
                                jobs.push(rest);
                                event
                            }
                            Done::Learned => {
                                is_learned = true;
                                self.assigned(&mut list).map_or(Event::Tick, Event::Assigned)
                            }
                            Done::Written(written, result) => {
                                list.note(*written, result);
                                Event::Tick
                            }
                        },
                        () = changed(&mut revision), if is_learned => {
                            revision.mark_unchanged();
                            self.assigned(&mut list).map_or(Event::Tick, Event::Assigned)
                        }
                        () = changed(&mut ended) => {
                            ended.mark_unchanged();
                            Event::Ended
                        }
                        () = clock::sleep_until(wake) => Event::Tick,
                    }
                })
                .await;
            self.step(&mut core, &jobs, event);
            if let Some(written) = list.next(&self.known.lock()) {
                jobs.push(self.write(written, list.written.as_ref()));
            }
        }
    }

    fn step(&self, core: &mut Core, jobs: &Jobs, event: Event) {
        let now = self.env.clock.now();
        for action in core.step(now, self.env.clock.wall_ms(), event) {
            jobs.push(self.act(action));
        }
        let statuses = core.statuses();
        self.shown.send_if_modified(|shown| {
            let is_new = *shown != statuses;
            *shown = statuses;
            is_new
        });
    }

    /// This node's placements, when they are not those that were assigned before.
    fn assigned(&self, list: &mut List) -> Option<Vec<Placement>> {
        let node = self.parts.node;
        let placements = self.parts.region.read(|state| {
            // A copy that does not even know this node says nothing about what it shall run (rule R2).
            state.nodes.contains(&node).then(|| state.placements_of(node).cloned().collect::<Vec<_>>())
        })?;
        if list.wanted.as_ref() == Some(&placements) {
            return None;
        }
        self.parts.region.read(|state| self.known.lock().take(&placements, state));
        list.wanted = Some(placements.clone());
        Some(placements)
    }

    /// Waits until the local copy of the region is as new as the quorum.
    fn learn(&self) -> BoxFuture<'static, Done> {
        let (region, rng) = (self.parts.region.clone(), self.env.rng.clone());
        async move {
            let mut is_told = false;
            while let Err(error) = region.read_linearizable(LEARN_LIMIT, |_| ()).await {
                if !is_told {
                    info!(error = %crate::chain(&error), "no quorum to learn from yet, trying on");
                    is_told = true;
                }
                clock::sleep(rng.jitter(RETRY_WAIT)).await;
            }
            Done::Learned
        }
        .boxed()
    }

    fn contents_path(&self) -> PathBuf {
        self.parts.path.with_file_name("contents")
    }

    fn write(&self, new: Written, before: Option<&Written>) -> BoxFuture<'static, Done> {
        let (env, path, contents) = (self.env.clone(), self.parts.path.clone(), self.contents_path());
        let has_contents = before.map_or(Known::default(), |before| before.known.clone()) != new.known;
        async move {
            let (list, known) = (kept::encode(&new.placements), has_contents.then(|| new.known.encode()));
            let (tell, told) = tokio::sync::oneshot::channel();
            let disk = Arc::clone(&env.disk);
            let job = move || {
                // First what the list then names.
                let contents = known.map_or(Ok(()), |known| disk.write_atomic(&contents, &known));
                drop(tell.send(contents.and_then(|()| disk.write_atomic(&path, &list))));
            };
            env.disk.run(Box::new(job)).await;
            let gone = |_| Err(std::io::Error::other("the disk job ended without a word"));
            let result = told.await.unwrap_or_else(gone);
            if result.is_err() {
                clock::sleep(env.rng.jitter(RETRY_WAIT)).await;
            }
            Done::Written(Box::new(new), result)
        }
        .boxed()
    }

    fn act(&self, action: Action) -> BoxFuture<'static, Done> {
        let (runtime, prober) = (Arc::clone(&self.parts.runtime), Arc::clone(&self.parts.prober));
        let (labels, secrets) = (self.parts.labels.clone(), Arc::clone(&self.parts.secrets));
        let contents = match &action {
            Action::Start(placement) => self.known.lock().of(placement),
            _ => Contents::default(),
        };
        async move {
            Done::Event(match action {
                Action::List { at } => {
                    let list = within(LOCAL_LIMIT, "look at the instances", runtime.list()).await;
                    if let Err(error) = &list {
                        warn!(%error, "instances cannot be listed");
                    }
                    Event::Observed { at, list }
                }
                Action::Pull(placement) => return pull(runtime, &placement).await,
                Action::Start(placement) => {
                    let Placement { instance, service, release, spec, slot, .. } = *placement;
                    info!(%instance, %service, "starting");
                    let opened = match spec.secrets.is_empty() {
                        true => Ok(SecretValues::new()),
                        false => secrets.open(&service.app, &spec.secrets).await,
                    };
                    let started = match opened {
                        Ok(secrets) => {
                            let contents = Contents { secrets, ..contents };
                            let config =
                                InstanceConfig { instance, service, release, spec, node: labels, slot, contents };
                            within(LOCAL_LIMIT, "start", runtime.start(&config)).await
                        }
                        Err(why) => Err(why),
                    };
                    tell(instance, "start", &started);
                    Event::Started(instance, started)
                }
                Action::Stop(instance, stop) => {
                    info!(%instance, "stopping");
                    let grace = stop.grace;
                    let stopped =
                        within(grace + STOP_MARGIN, "stop", runtime.stop(instance, stop.named(), grace)).await;
                    tell(instance, "stop", &stopped);
                    Event::Stopped(instance, stopped)
                }
                Action::Remove(instance) => {
                    let removed = within(LOCAL_LIMIT, "remove", runtime.remove(instance)).await;
                    tell(instance, "remove", &removed);
                    Event::Removed(instance, removed)
                }
                Action::Probe(instance, address, health) => Event::Probed(
                    instance,
                    match (&health.check, address) {
                        (Check::Exec(command), _) => exec::ask(&*runtime, instance, command, health.timeout).await,
                        (_, Some(address)) => prober.probe(address, &health).await,
                        (_, None) => Err("the service has no port to check".to_owned()),
                    },
                ),
            })
        }
        .boxed()
    }
}

/// Fetches an image, and tells now and then how far that is.
async fn pull(runtime: Arc<dyn Runtime>, placement: &Placement) -> Done {
    let instance = placement.instance;
    let image = placement.spec.image.as_deref().unwrap_or_default();
    let image: ImageRef = match image.parse::<ImageRef>() {
        Ok(image) => image,
        Err(error) => return Done::Event(Event::Pulled(instance, Err(crate::chain(&error)))),
    };
    let work = {
        let (runtime, image) = (Arc::clone(&runtime), image.clone());
        async move { within(PULL_LIMIT, "pull", runtime.ensure_image(&image)).await.map(drop) }.boxed()
    };
    watch_pull(runtime, instance, image, work).await
}

/// Waits for a pull, until there is something to tell.
fn watch_pull(
    runtime: Arc<dyn Runtime>,
    instance: InstanceId,
    image: ImageRef,
    mut work: BoxFuture<'static, Result<(), String>>,
) -> BoxFuture<'static, Done> {
    async move {
        loop {
            if let Ok(pulled) = clock::timeout(PROGRESS_EVERY, &mut work).await {
                tell(instance, "pull", &pulled);
                return Done::Event(Event::Pulled(instance, pulled));
            }
            if let Some(progress) = runtime.pull_progress(&image) {
                let rest = watch_pull(runtime, instance, image, work);
                return Done::Progress(Event::Pulling(instance, progress), rest);
            }
        }
    }
    .boxed()
}

/// Bounds a call of the runtime, and puts its error into words.
pub(crate) async fn within<T>(
    limit: Duration,
    attempt: &str,
    call: impl Future<Output = Result<T, insula_container::Error>>,
) -> Result<T, String> {
    match clock::timeout(limit, call).await {
        Ok(result) => result.map_err(|error| crate::chain(&error)),
        Err(_) => Err(format!("{attempt}: not done within {limit:?}")),
    }
}

fn tell<T>(instance: InstanceId, attempt: &'static str, result: &Result<T, String>) {
    if let Err(error) = result {
        warn!(%instance, attempt, %error, "instance's step failed, trying again");
    }
}

/// What is on disk: the list, and what is in the files that it names.
#[derive(Debug, PartialEq)]
struct Written {
    placements: Vec<Placement>,
    known: Known,
}

/// What is on disk, and what should be.
#[derive(Debug, Default)]
struct List {
    wanted: Option<Vec<Placement>>,
    written: Option<Written>,
    is_writing: bool,
    is_failing: bool,
}

impl List {
    /// What to write now, if anything.
    fn next(&mut self, known: &Known) -> Option<Written> {
        let wanted = self.wanted.as_ref().filter(|_| !self.is_writing)?;
        let is_there = |there: &Written| there.placements == *wanted && there.known == *known;
        if self.written.as_ref().is_some_and(is_there) {
            return None;
        }
        self.is_writing = true;
        Some(Written { placements: wanted.clone(), known: known.clone() })
    }

    fn note(&mut self, written: Written, result: std::io::Result<()>) {
        self.is_writing = false;
        match result {
            Ok(()) => {
                self.written = Some(written);
                self.is_failing = false;
            }
            // What runs matters more than the list: the agent goes on, and tells once.
            Err(error) if !self.is_failing => {
                warn!(%error, "the list of placements cannot be written: is the disk full?");
                self.is_failing = true;
            }
            Err(_) => {}
        }
    }
}
