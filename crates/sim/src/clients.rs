//! Users: they write unique serials, read linearizably, deploy and scale, through whichever node is up.
//!
//! A serial is the id of a join token: the region keeps those until they are of no use, and these never are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use insula_agent::testing::spec;
use insula_env::{Clock, Rng, TaskGroup, clock::sleep};
use insula_state::{
    GlobalCommand, GlobalState, Leadership, Machine as StateMachine, ProposeError, Proposer, RegionCommand,
    RegionState, Replica, Store, region::JoinToken, seal,
};
use insula_types::{NodeId, RequestId, Term};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{checks::Checks, machine::Machine};

/// Users that write and read.
const USERS: usize = 3;
/// How long they wait for one answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Instances of the service, at most.
const SCALE_MAX: u64 = 6;

/// All users.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) machines: Arc<BTreeMap<u64, Machine>>,
    pub(crate) checks: Checks,
    pub(crate) global: Store<GlobalState>,
    pub(crate) rng: Rng,
    pub(crate) serials: Arc<AtomicU64>,
}

impl Clients {
    /// Lets them work until `tasks` stops.
    pub(crate) fn start(&self, tasks: &TaskGroup) {
        for _ in 0..USERS {
            let user = Self { rng: self.rng.fork(), ..self.clone() };
            tasks.spawn("user", async move {
                loop {
                    sleep(Duration::from_millis(user.rng.range(1, 230))).await;
                    let is_read = user.rng.chance(0.3);
                    if is_read {
                        user.read_somewhere().await
                    } else {
                        user.write_somewhere().await
                    };
                }
            });
        }
        let user = Self { rng: self.rng.fork(), ..self.clone() };
        tasks.spawn("deployer", async move {
            loop {
                user.deploy().await;
                sleep(Duration::from_millis(user.rng.range(500, 8000))).await;
            }
        });
    }

    /// The state as some node that is up sees it.
    fn anywhere(&self) -> Option<(NodeId, Store<RegionState>)> {
        let up: Vec<_> = self.machines.values().filter_map(|m| Some((m.id(), m.process()?.region))).collect();
        let index = self.rng.range(0, up.len() as u64) as usize;
        up.into_iter().nth(index)
    }

    async fn write_somewhere(&self) {
        let Some((_, region)) = self.anywhere() else { return };
        self.write(&region).await;
    }

    /// Writes a new serial. True when it was confirmed.
    pub(crate) async fn write(&self, region: &Store<RegionState>) -> bool {
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        self.checks.sent(serial);
        let token =
            JoinToken { id: format!("{serial:08}"), secret_hash: String::new(), expires_ms: u64::MAX, uses_left: 1 };
        let request = RequestId(self.rng.next(), serial);
        match region.propose_as(request, &RegionCommand::CreateJoinToken(token), LIMIT).await {
            Ok(_) => {
                self.checks.confirmed(serial);
                return true;
            }
            // It was written under the same request before, and nothing else has this serial.
            Err(ProposeError::Rejected(why)) => {
                self.checks.violation(format!("the write of serial {serial} took effect twice: {why}"));
            }
            Err(ProposeError::NotYet(why)) => {
                self.checks.violation(format!("the write of {serial} was refused: {why}"))
            }
            Err(ProposeError::Unreadable) => self.checks.violation(format!("outcome of {serial} is unreadable")),
            Err(ProposeError::Unknown { .. } | ProposeError::Unavailable { .. }) => {
                self.checks.count("writes not confirmed");
            }
        }
        false
    }

    async fn read_somewhere(&self) {
        let Some((node, region)) = self.anywhere() else { return };
        let began = self.checks.read_begins();
        match region.read_linearizable(LIMIT, serials).await {
            Ok(found) => self.checks.read_ends(node, &began, &found),
            Err(_) => self.checks.count("reads refused"),
        }
    }

    /// A release, or another number of instances.
    async fn deploy(&self) {
        let (app, service) = ("shop".parse().expect("a name"), "web".parse().expect("a name"));
        let scale = self.rng.range(0, SCALE_MAX + 1) as u32;
        let is_deployed = self.global.read(|state| state.apps.contains(&app));
        let command = if is_deployed && self.rng.chance(0.7) {
            GlobalCommand::Scale { app, service, scale: scale.into(), region: None }
        } else {
            let mut spec = spec();
            spec.env.insert("VERSION".to_owned(), self.rng.next().to_string());
            GlobalCommand::Deploy {
                app,
                services: BTreeMap::from([(service.clone(), spec)]),
                scale: BTreeMap::from([(service, scale.max(1).into())]),
                expect: None,
                updates: BTreeMap::new(),
                contents: BTreeMap::new(),
                tags: BTreeMap::new(),
                regions: BTreeMap::new(),
                priorities: BTreeMap::new(),
                overrides: BTreeMap::new(),
                regional_scale: BTreeMap::new(),
            }
        };
        if self.global.propose(&command, LIMIT).await.is_ok() {
            self.checks.trace().event(&format!("deployed {command:?}"));
            self.checks.count("deployments");
        }
    }
}

/// The serials that a state holds.
pub(crate) fn serials(state: &RegionState) -> BTreeSet<u64> {
    state.join_tokens.iter().filter_map(|(id, _)| id.parse().ok()).collect()
}

/// The global state: one copy that is always right, and sometimes away. It is not what is tested here.
#[derive(Debug)]
pub(crate) struct Global {
    machine: Mutex<StateMachine<GlobalState>>,
    clock: Clock,
    is_away: Mutex<bool>,
    leadership: watch::Sender<Leadership>,
}

impl Global {
    pub(crate) fn new(clock: Clock, rng: Rng) -> (Arc<Self>, Store<GlobalState>) {
        let replica = Replica::new();
        let leadership = watch::Sender::new(Leadership { leader: None, term: Term(1), is_me: true });
        let global = Arc::new(Self {
            machine: Mutex::new(StateMachine::new(Arc::clone(&replica))),
            clock: clock.clone(),
            is_away: Mutex::new(false),
            leadership,
        });
        let store = Store::new(replica, Arc::clone(&global) as Arc<dyn Proposer>, clock, rng);
        (global, store)
    }

    pub(crate) fn set_away(&self, is_away: bool) {
        *self.is_away.lock() = is_away;
    }

    fn check(&self) -> Result<(), ProposeError> {
        if *self.is_away.lock() { Err(ProposeError::Unavailable { why: "it is away".to_owned() }) } else { Ok(()) }
    }
}

#[async_trait]
impl Proposer for Global {
    async fn propose(&self, request: RequestId, command: Vec<u8>, _limit: Duration) -> Result<Vec<u8>, ProposeError> {
        sleep(Duration::from_millis(5)).await;
        self.check()?;
        let sealed = seal(request, self.clock.wall_ms(), command);
        let applied = self.machine.lock().apply(&sealed).map_err(|_| ProposeError::Unreadable)?;
        applied.replies.into_iter().next().ok_or(ProposeError::Unreadable)
    }

    async fn barrier(&self, _limit: Duration) -> Result<(), ProposeError> {
        self.check()
    }

    async fn recall(&self, _: RequestId, _: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        Ok(None)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}
