//! A few nodes in one process: groups over disks in memory, and messages that can be cut.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use insula_env::{Clock, Disk, Env, Rng, TaskGroup, clock::sleep, clock::timeout, memory::MemoryDisk};
use insula_raft::{
    Applied, Class, Config, Group, GroupId, LoadError, OpenError, ProposeError, Row, StateMachine, Transport,
    TransportError, UnknownCommand,
};
use insula_types::{Incarnation, NodeId};
use parking_lot::Mutex;

pub const GROUP: GroupId = GroupId(1);
pub const LIMIT: Duration = Duration::from_secs(20);

/// Keeps what was written under each key, in order of writing. A command is `key=value`; `!` is unknown to it.
#[derive(Clone, Default)]
pub struct Notes(pub Arc<Mutex<BTreeMap<String, String>>>);

impl StateMachine for Notes {
    fn apply(&mut self, commands: &[Bytes]) -> Result<Applied, UnknownCommand> {
        let mut applied = Applied::default();
        for command in commands {
            let text = String::from_utf8_lossy(command).into_owned();
            let (key, value) =
                text.split_once('=').ok_or_else(|| UnknownCommand { why: format!("{text:?} is no assignment") })?;
            let before = self.0.lock().insert(key.to_owned(), value.to_owned());
            applied.rows.push(Row { key: key.into(), value: Some(value.into()) });
            applied.replies.push(before.unwrap_or_default().into_bytes());
        }
        Ok(applied)
    }

    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), LoadError> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        *self.0.lock() = rows.map(|row| (text(row.key), text(row.value.unwrap_or_default()))).collect();
        Ok(())
    }
}

/// Brings messages to the groups of the other nodes, unless the way is cut.
#[derive(Clone, Default)]
pub struct Wires(Arc<Mutex<Ways>>);

#[derive(Default)]
struct Ways {
    groups: BTreeMap<NodeId, Group>,
    cut: BTreeSet<(NodeId, NodeId)>,
    messages: u64,
}

impl Wires {
    pub fn cut(&self, from: u64, to: u64) {
        self.0.lock().cut.insert((NodeId::new(from), NodeId::new(to)));
    }

    pub fn isolate(&self, node: u64, others: &[u64]) {
        for other in others {
            self.cut(node, *other);
            self.cut(*other, node);
        }
    }

    /// Messages that were sent so far.
    pub fn messages(&self) -> u64 {
        self.0.lock().messages
    }

    pub fn heal(&self) {
        self.0.lock().cut.clear();
    }

    fn way(&self, from: NodeId, to: NodeId) -> Option<Group> {
        let ways = self.0.lock();
        if ways.cut.contains(&(from, to)) { None } else { ways.groups.get(&to).cloned() }
    }

    /// Asks a node's group as `from`.
    pub async fn ask(&self, from: u64, to: u64, message: Bytes) -> Bytes {
        let group = self.0.lock().groups.get(&NodeId::new(to)).cloned().expect("it runs");
        group.handle(NodeId::new(from), message).await
    }
}

struct Wire(Wires, NodeId);

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
        self.0.0.lock().messages += 1;
        let exchange = async {
            sleep(Duration::from_millis(1)).await;
            let Some(group) = self.0.way(self.1, target) else { std::future::pending().await };
            let answer = group.handle(self.1, message).await;
            if self.0.way(target, self.1).is_none() {
                std::future::pending::<()>().await;
            }
            answer
        };
        timeout(limit, exchange).await.map_err(|_| TransportError::Late { target })
    }
}

/// A node: what outlives its process, and its process.
pub struct Node {
    pub id: u64,
    pub disk: MemoryDisk,
    pub notes: Notes,
    pub group: Group,
    tasks: TaskGroup,
}

/// A group on several nodes.
pub struct Cluster {
    pub wires: Wires,
    pub nodes: BTreeMap<u64, Node>,
    pub tune: fn(&mut Config),
    rng: Rng,
}

impl Cluster {
    /// Nodes `1..=count`, all voting.
    pub async fn start(count: u64, tune: fn(&mut Config)) -> Self {
        let mut cluster = Self::empty(tune);
        for id in 1..=count {
            cluster.add(id).await;
        }
        cluster.nodes[&1].group.initialize_single().await.expect("initialize");
        let leader = cluster.leader().await;
        assert_eq!(leader, 1);
        let all = (1..=count).map(NodeId::new).collect();
        cluster.nodes[&1].group.set_voters(&all, LIMIT).await.expect("all vote");
        cluster
    }

    /// No nodes yet.
    pub fn empty(tune: fn(&mut Config)) -> Self {
        Self { wires: Wires::default(), nodes: BTreeMap::new(), tune, rng: Rng::from_seed(7) }
    }

    /// An empty disk.
    pub fn disk(&self) -> MemoryDisk {
        MemoryDisk::new(Clock::real(), self.rng.fork())
    }

    /// A node with an empty disk.
    pub async fn add(&mut self, id: u64) {
        let disk = self.disk();
        self.open(id, disk).await;
    }

    pub async fn open(&mut self, id: u64, disk: MemoryDisk) {
        self.try_open(id, disk).await.expect("open the group");
    }

    pub async fn try_open(&mut self, id: u64, disk: MemoryDisk) -> Result<(), OpenError> {
        let tasks = TaskGroup::new("node");
        let notes = Notes::default();
        let env = Env {
            clock: Clock::real(),
            rng: self.rng.fork(),
            disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
            tasks: tasks.clone(),
        };
        let mut config = Config::new(NodeId::new(id), GROUP, Incarnation(1), "group");
        (self.tune)(&mut config);
        let wire = Arc::new(Wire(self.wires.clone(), NodeId::new(id)));
        let group = Group::open(config, env, wire, notes.clone()).await?;
        self.wires.0.lock().groups.insert(NodeId::new(id), group.clone());
        self.nodes.insert(id, Node { id, disk, notes, group, tasks });
        Ok(())
    }

    /// The node is gone, and its unsynced writes with it. Its disk is given back.
    pub fn kill(&mut self, id: u64) -> MemoryDisk {
        let node = self.nodes.remove(&id).expect("it runs");
        self.wires.0.lock().groups.remove(&NodeId::new(id));
        node.disk.lose_power(self.rng.next());
        node.tasks.crash();
        node.disk
    }

    pub async fn restart(&mut self, id: u64) {
        let disk = self.kill(id);
        self.open(id, disk).await;
    }

    /// Waits until a node says that it leads.
    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.nodes.keys().copied().collect::<Vec<_>>()).await
    }

    pub async fn leader_among(&self, ids: &[u64]) -> u64 {
        let found = async {
            loop {
                for id in ids {
                    if self.nodes[id].group.leadership().borrow().is_me {
                        return *id;
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, found).await.expect("a leader")
    }

    /// Commits through whoever leads; tries again until it is confirmed. Gives how often it did not succeed.
    pub async fn write(&self, command: &str) -> u32 {
        let written = async {
            let mut failures = 0;
            loop {
                for node in self.nodes.values() {
                    if !node.group.leadership().borrow().is_me {
                        continue;
                    }
                    match node.group.propose(command.as_bytes().to_vec(), Duration::from_secs(2)).await {
                        Ok(_) => return failures,
                        Err(ProposeError::TooLarge { .. }) => panic!("too large"),
                        Err(_) => failures += 1,
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, written).await.expect("written")
    }

    /// Waits until `id` has this under that key.
    pub async fn sees(&self, id: u64, key: &str, value: &str) {
        let seen = async {
            while self.nodes[&id].notes.0.lock().get(key).map(String::as_str) != Some(value) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(LIMIT, seen).await.is_err() {
            panic!("node {id} does not have {key}={value}: {:?}", self.nodes[&id].group.metrics());
        }
    }
}
