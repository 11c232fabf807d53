//! The way of commands, barriers, leases and voters from a node to the region's leader, over simulated messages. What
//! `server` does over real ones.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use insula_agent::{CallError, Renewer, Reporter};
use insula_control::{HandOverError, MembershipError};
use insula_env::{Clock, Rng, clock::timeout};
use insula_raft::{Group, LoadError, ProposeError as RaftError, Row, StateMachine, UnknownCommand};
use insula_state::{
    Domain, Leadership, Machine, MachineError, ProposeError, Proposer, RegionCommand, RegionState, Replica, Store,
    event::Event, seal,
};
use insula_types::{Granted, InstanceStatus, NodeId, Renewal, RequestId, Revision, VolumeRef};
use tokio::sync::watch;

use crate::{
    checks::Checks,
    net::{Endpoint, Net, NoAnswer, machine_of},
};

/// How long one change of voters may take.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
/// How long one node may take to say who leads.
const ASK_LIMIT: Duration = Duration::from_millis(400);
/// How long one try of a read may take.
const READ_LIMIT: Duration = Duration::from_secs(1);

/// The state's machine under raft.
pub(crate) struct Glue<D: Domain> {
    pub(crate) node: NodeId,
    pub(crate) machine: Machine<D>,
    pub(crate) checks: Checks,
}

impl<D: Domain> Glue<D> {
    /// An error in words. No program may ever meet what it does not know.
    fn told(&self, error: &MachineError) -> String {
        if matches!(error, MachineError::TooOld { .. }) {
            self.checks.violation(format!("on {}: {error}", self.node));
        }
        error.to_string()
    }
}

impl<D: Domain> StateMachine for Glue<D> {
    fn apply(&mut self, commands: &[Bytes]) -> Result<insula_raft::Applied, UnknownCommand> {
        let commands = commands.iter().map(AsRef::as_ref);
        let applied = self.machine.apply_all(commands).map_err(|error| UnknownCommand { why: self.told(&error) })?;
        let rows = applied.rows.into_iter().map(|row| Row { key: row.key, value: row.value }).collect();
        Ok(insula_raft::Applied { replies: applied.replies, rows })
    }

    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), LoadError> {
        let rows = rows.filter_map(|row| Some((row.key, row.value?)));
        self.machine.load(rows).map_err(|error| LoadError { why: self.told(&error) })
    }
}

/// One node's way to the region's leader.
#[derive(Clone)]
pub(crate) struct ToLeader {
    pub(crate) node: NodeId,
    pub(crate) net: Net,
    pub(crate) group: Group,
    pub(crate) replica: Arc<Replica<RegionState>>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

impl fmt::Debug for ToLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ToLeader({})", self.node)
    }
}

/// An answer and its bytes as they cross the network.
pub(crate) struct Answer<T>(pub(crate) T);

impl<T> AsRef<[u8]> for Answer<T> {
    fn as_ref(&self) -> &[u8] {
        // The outcome reaches the trace through the client; here only the message counts.
        &[]
    }
}

impl ToLeader {
    /// Who leads: as this node's group knows, or, where it has no part in the group, as any other node does.
    async fn leader(&self) -> Result<NodeId, ProposeError> {
        let known = self.leadership.borrow().leader;
        let leader = match known {
            Some(leader) => Some(leader),
            None => self.ask_for_leader().await,
        };
        leader.ok_or_else(|| ProposeError::Unavailable { why: "no leader is known".to_owned() })
    }

    async fn ask_for_leader(&self) -> Option<NodeId> {
        let mut others = self.net.others(machine_of(self.node));
        if others.is_empty() {
            return None;
        }
        let turn = self.rng.range(0, others.len() as u64) as usize;
        others.rotate_left(turn);
        for other in others {
            let asked = self.net.call((self.node, other), ASK_LIMIT, b"who leads", |to: Endpoint| async move {
                Answer(to.group.leadership().borrow().leader)
            });
            if let Ok(Answer(Some(leader))) = asked.await {
                return Some(leader);
            }
        }
        None
    }
}

/// The revision that reflects all that was committed before, told by a leader that a majority confirms.
async fn confirmed(group: Group, replica: Arc<Replica<RegionState>>, limit: Duration) -> Result<Revision, String> {
    let index = group.read_index(limit).await.map_err(|error| error.to_string())?;
    group.wait_applied(index, limit).await.map_err(|error| error.to_string())?;
    Ok(replica.revision())
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
        let leader = self.leader().await?;
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
        let leader = self.leader().await?;
        let limit = limit.min(READ_LIMIT);
        let revision = if leader == self.node {
            confirmed(self.group.clone(), Arc::clone(&self.replica), limit).await
        } else {
            let asked = self.net.call((self.node, leader), limit, b"read", |to: Endpoint| async move {
                Answer(confirmed(to.group, Arc::clone(to.region.replica()), limit).await)
            });
            asked.await.map_or_else(|error| Err(format!("{error:?}")), |Answer(revision)| revision)
        };
        let revision = revision.map_err(unavailable)?;
        let shown = timeout(limit, self.replica.wait_for(revision)).await;
        shown.map_err(|_| unavailable("this copy lags".to_owned()))
    }

    async fn recall(&self, _: RequestId, _: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        Ok(None)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}

#[async_trait]
impl Renewer for ToLeader {
    async fn renew(&self, renewal: Renewal) -> Result<Granted, CallError> {
        let leader = self.leader().await.map_err(|error| CallError(Box::new(error)))?;
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

impl Reports {
    async fn propose(&self, command: &RegionCommand) -> Result<(), CallError> {
        let limit = Duration::from_secs(3);
        self.region.propose(command, limit).await.map(drop).map_err(|error| CallError(Box::new(error)))
    }
}

#[async_trait]
impl Reporter for Reports {
    async fn report(&self, statuses: Vec<InstanceStatus>) -> Result<(), CallError> {
        self.propose(&RegionCommand::ReportStatus { node: self.node, statuses }).await
    }

    async fn report_volume(&self, volume: VolumeRef, is_here: bool) -> Result<(), CallError> {
        let node = self.node;
        self.propose(&match is_here {
            true => RegionCommand::ConfirmVolume { node, volume },
            false => RegionCommand::ForgetVolume { node, volume },
        })
        .await
    }

    async fn note(&self, event: Event) -> Result<(), CallError> {
        self.propose(&RegionCommand::Note(event)).await
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
        let changed = self.0.set_voters(&wanted, CHANGE_LIMIT).await;
        changed.map_err(|error| MembershipError { wanted, source: Box::new(error) })
    }

    async fn hand_over(&self) -> Result<(), HandOverError> {
        self.0.hand_over(CHANGE_LIMIT).await.map(drop).map_err(|error| HandOverError(Box::new(error)))
    }
}
