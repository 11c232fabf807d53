//! Messages between machines: each takes a while, may be lost, may find its way cut (in one direction only, too), may
//! find nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, pending},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use insula_control::Control;
use insula_env::{Rng, clock::sleep, clock::timeout};
use insula_raft::{Class, Group, GroupId, Transport, TransportError};
use insula_state::{RegionState, Store};
use insula_types::NodeId;
use parking_lot::Mutex;

use crate::trace::Trace;

/// Ids of nodes that one machine has had differ by this: it is another node each time its disk was emptied.
const PLACES: u64 = 100;

/// The id of a machine's node, after its disk was emptied so often.
pub(crate) fn node_of(machine: u64, births: u64) -> NodeId {
    NodeId::new(births * PLACES + machine)
}

/// The machine that a node is, or was, on.
pub(crate) fn machine_of(node: NodeId) -> u64 {
    node.get() % PLACES
}

/// What of a process others can reach.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) life: u64,
    pub(crate) group: Group,
    pub(crate) region: Store<RegionState>,
    pub(crate) control: Arc<Control>,
}

/// The network of the region. Clones share it.
#[derive(Clone)]
pub(crate) struct Net(Arc<Inner>);

struct Inner {
    rng: Rng,
    trace: Trace,
    state: Mutex<State>,
}

struct State {
    endpoints: BTreeMap<NodeId, Endpoint>,
    /// Machines without power: whoever calls them hears nothing. A machine without a process refuses.
    dark: BTreeSet<u64>,
    cut: BTreeSet<(u64, u64)>,
    delay: (Duration, Duration),
    loss: f64,
}

/// Nobody listens there.
#[derive(Debug, thiserror::Error)]
#[error("the connection was refused")]
struct Refused;

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Nobody took it.
    Refused,
    /// Nothing was heard; it may have been taken.
    Silence,
}

impl Net {
    pub(crate) fn new(rng: Rng, trace: Trace) -> Self {
        let state = State {
            endpoints: BTreeMap::new(),
            dark: BTreeSet::new(),
            cut: BTreeSet::new(),
            delay: (Duration::from_micros(200), Duration::from_millis(2)),
            loss: 0.0,
        };
        Self(Arc::new(Inner { rng, trace, state: Mutex::new(state) }))
    }

    /// A process can be reached from now on.
    pub(crate) fn attach(&self, node: NodeId, endpoint: Endpoint) {
        self.0.state.lock().endpoints.insert(node, endpoint);
    }

    /// It cannot any more.
    pub(crate) fn detach(&self, machine: u64) {
        self.0.state.lock().endpoints.retain(|node, _| machine_of(*node) != machine);
    }

    /// Nodes whose process can be reached, but for those on that machine.
    pub(crate) fn others(&self, machine: u64) -> Vec<NodeId> {
        self.0.state.lock().endpoints.keys().copied().filter(|node| machine_of(*node) != machine).collect()
    }

    pub(crate) fn set_dark(&self, machine: u64, is_dark: bool) {
        let mut state = self.0.state.lock();
        if is_dark {
            state.dark.insert(machine);
        } else {
            state.dark.remove(&machine);
        }
    }

    pub(crate) fn set_cut(&self, from: u64, to: u64, is_cut: bool) {
        let mut state = self.0.state.lock();
        if is_cut {
            state.cut.insert((from, to));
        } else {
            state.cut.remove(&(from, to));
        }
    }

    pub(crate) fn set_weather(&self, longest: Duration, loss: f64) {
        let mut state = self.0.state.lock();
        state.delay.1 = longest;
        state.loss = loss;
    }

    /// All ways are free and fast again.
    pub(crate) fn heal(&self) {
        let mut state = self.0.state.lock();
        state.cut.clear();
        state.delay.1 = Duration::from_millis(2);
        state.loss = 0.0;
    }

    /// A call from one machine to the process of another, and its answer back.
    pub(crate) async fn call<F: Future<Output = R>, R: AsRef<[u8]>>(
        &self,
        (from, to): (NodeId, NodeId),
        limit: Duration,
        body: &[u8],
        answer: impl FnOnce(Endpoint) -> F,
    ) -> Result<R, NoAnswer> {
        let exchange = async {
            self.travel(from, to).await;
            self.seen(from, to, body);
            let endpoint = {
                let state = self.0.state.lock();
                if state.dark.contains(&machine_of(to)) { None } else { Some(state.endpoints.get(&to).cloned()) }
            };
            let Some(endpoint) = endpoint else { pending().await };
            let Some(endpoint) = endpoint else {
                self.travel(to, from).await;
                return Err(NoAnswer::Refused);
            };
            let life = endpoint.life;
            let answered = answer(endpoint).await;
            // A process that died meanwhile has not answered.
            if self.0.state.lock().endpoints.get(&to).is_none_or(|now| now.life != life) {
                pending::<()>().await;
            }
            self.travel(to, from).await;
            self.seen(to, from, answered.as_ref());
            Ok(answered)
        };
        timeout(limit, exchange).await.unwrap_or(Err(NoAnswer::Silence))
    }

    /// Takes its time, or for ever.
    async fn travel(&self, from: NodeId, to: NodeId) {
        let (delay, loss) = {
            let state = self.0.state.lock();
            (state.delay, state.loss)
        };
        let micros = self.0.rng.range(delay.0.as_micros() as u64, delay.1.as_micros() as u64);
        let is_lost = self.0.rng.chance(loss);
        sleep(Duration::from_micros(micros)).await;
        if is_lost || self.0.state.lock().cut.contains(&(machine_of(from), machine_of(to))) {
            pending::<()>().await;
        }
    }

    fn seen(&self, from: NodeId, to: NodeId, body: &[u8]) {
        self.0.trace.bytes(&from.get().to_be_bytes());
        self.0.trace.bytes(&to.get().to_be_bytes());
        self.0.trace.bytes(body);
    }
}

/// The groups' way through the [`Net`].
pub(crate) struct Wire {
    pub(crate) net: Net,
    pub(crate) node: NodeId,
}

#[async_trait]
impl Transport for Wire {
    async fn send(
        &self,
        target: NodeId,
        _group: GroupId,
        message: Bytes,
        _class: Class,
        limit: Duration,
    ) -> Result<Bytes, TransportError> {
        let body = message.clone();
        let from = self.node;
        let called =
            self.net.call((from, target), limit, &body, |to| async move { to.group.handle(from, message).await });
        called.await.map_err(|error| match error {
            NoAnswer::Refused => TransportError::Unreachable { target, source: Box::new(Refused) },
            NoAnswer::Silence => TransportError::Late { target },
        })
    }
}
