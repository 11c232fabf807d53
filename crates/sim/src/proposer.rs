//! The way of commands, barriers, leases and voters from a node to the region's leader, over simulated messages. What
//! `server` does over real ones.

use std::{collections::BTreeSet, fmt, time::Duration};

use async_trait::async_trait;
use insula_agent::{CallError, Renewer, Reporter};
use insula_control::{HandOverError, MembershipError};
use insula_env::Clock;
use insula_raft::{Group, LoadError, ProposeError as RaftError, Row, StateMachine, UnknownCommand};
use insula_state::{Domain, Leadership, Machine, ProposeError, Proposer, RegionCommand, RegionState, Store, seal};
use insula_types::{Granted, InstanceStatus, NodeId, Renewal, RequestId};
use tokio::sync::watch;

use crate::net::{Endpoint, Net, NoAnswer};

/// How long one change of voters may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// How long one try of a read may take.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// The state's machine under raft.
pub(crate) struct Glue<D: Domain>(pub(crate) Machine<D>);

impl<D: Domain> StateMachine for Glue<D> {
    fn apply(&mut self, command: &[u8]) -> Result<insula_raft::Applied, UnknownCommand> {
        let applied = self.0.apply(command).map_err(|error| UnknownCommand { why: error.to_string() })?;
        let rows = applied.rows.into_iter().map(|row| Row { key: row.key, value: row.value }).collect();
        Ok(insula_raft::Applied { reply: applied.reply, rows })
    }

    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), LoadError> {
        let rows = rows.filter_map(|row| Some((row.key, row.value?)));
        self.0.load(rows).map_err(|error| LoadError { why: error.to_string() })
    }
}

/// One node's way to the region's leader.
#[derive(Clone)]
pub(crate) struct ToLeader {
    pub(crate) node: NodeId,
    pub(crate) net: Net,
    pub(crate) group: Group,
    pub(crate) clock: Clock,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

impl fmt::Debug for ToLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToLeader({})", self.node)
    }
}

/// An answer and its bytes as they cross the network.
struct Answer<T>(T);

impl<T> AsRef<[u8]> for Answer<T> {
    fn as_ref(&self) -> &[u8] {
        // The outcome reaches the trace through the client; here only the message counts.
        &[]
    }
}

impl ToLeader {
    fn leader(&self) -> Result<NodeId, ProposeError> {
        let leader = self.leadership.borrow().leader;
        leader.ok_or_else(|| ProposeError::Unavailable { why: "no leader is known".to_owned() })
    }
}

async fn propose(group: Group, sealed: Vec<u8>, limit: Duration) -> Result<Vec<u8>, ProposeError> {
    group.propose(sealed, limit).await.map_err(|error| match error {
        RaftError::Unknown => ProposeError::Unknown { why: error.to_string() },
        _ => ProposeError::Unavailable { why: error.to_string() },
    })
}

#[async_trait]
impl Proposer for ToLeader {
    async fn propose(&self, request: RequestId, command: Vec<u8>, limit: Duration) -> Result<Vec<u8>, ProposeError> {
        let leader = self.leader()?;
        let at_ms = self.clock.wall_ms();
        if leader == self.node {
            return propose(self.group.clone(), seal(request, at_ms, command), limit).await;
        }
        let sealed = seal(request, at_ms, command);
        let body = sealed.clone();
        let called = self.net.call((self.node, leader), limit, &body, |to: Endpoint| async move {
            Answer(propose(to.group, sealed, limit).await)
        });
        match called.await {
            Ok(Answer(outcome)) => outcome,
            Err(NoAnswer::Refused) => Err(ProposeError::Unavailable { why: "the leader is not there".to_owned() }),
            Err(NoAnswer::Silence) => Err(ProposeError::Unknown { why: "the leader did not answer".to_owned() }),
        }
    }

    async fn barrier(&self, limit: Duration) -> Result<(), ProposeError> {
        let unavailable = |why: String| ProposeError::Unavailable { why };
        let leader = self.leader()?;
        let limit = limit.min(READ_LIMIT);
        let index = if leader == self.node {
            self.group.read_index(limit).await.map_err(|error| error.to_string())
        } else {
            let asked = self.net.call((self.node, leader), limit, b"read", |to: Endpoint| async move {
                Answer(to.group.read_index(limit).await.map_err(|error| error.to_string()))
            });
            asked.await.map_or_else(|error| Err(format!("{error:?}")), |Answer(index)| index)
        };
        let index = index.map_err(unavailable)?;
        self.group.wait_applied(index, limit).await.map_err(|error| unavailable(error.to_string()))
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}

#[async_trait]
impl Renewer for ToLeader {
    async fn renew(&self, renewal: Renewal) -> Result<Granted, CallError> {
        let leader = self.leader().map_err(|error| CallError(Box::new(error)))?;
        let node = self.node;
        let limit = Duration::from_secs(1);
        let called = self.net.call((node, leader), limit, b"renew", |to: Endpoint| async move {
            Answer(to.control.renew(node, &renewal))
        });
        match called.await {
            Ok(Answer(granted)) => granted.map_err(|error| CallError(Box::new(error))),
            Err(error) => Err(CallError(format!("{error:?}").into())),
        }
    }
}

/// Reports by command.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    pub(crate) node: NodeId,
    pub(crate) region: Store<RegionState>,
}

#[async_trait]
impl Reporter for Reports {
    async fn report(&self, statuses: Vec<InstanceStatus>) -> Result<(), CallError> {
        let command = RegionCommand::ReportStatus { node: self.node, statuses };
        let limit = Duration::from_secs(3);
        self.region.propose(&command, limit).await.map(|_| ()).map_err(|error| CallError(Box::new(error)))
    }
}

/// The group's voters, for the reconciler.
#[derive(Debug)]
pub(crate) struct Voters(pub(crate) Group);

#[async_trait]
impl insula_control::Membership for Voters {
    fn name(&self) -> &'static str {
        "region"
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.0.voters()
    }

    async fn set_voters(&self, wanted: BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let failed =
            |error: insula_raft::MembershipError| MembershipError { wanted: wanted.clone(), source: Box::new(error) };
        for node in wanted.difference(&self.0.voters()) {
            self.0.add_voter(*node, CHANGE_LIMIT).await.map_err(failed)?;
        }
        for node in self.0.voters().difference(&wanted) {
            self.0.remove(*node, CHANGE_LIMIT).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn hand_over(&self) -> Result<(), HandOverError> {
        Err(HandOverError("nobody is drained in the simulation".into()))
    }
}
