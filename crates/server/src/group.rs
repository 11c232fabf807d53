//! One replicated state on this node: its Raft group and its readable copy.

use std::{sync::Arc, time::Duration};

use insula_env::{Clock, Env};
use insula_raft::{Config, Group, ProposeError, ReadError, Transport};
use insula_state::{Domain, Machine, Replica, seal};
use insula_types::{RequestId, Revision};
use serde_bytes::ByteBuf;

use crate::{
    Error,
    machine::Replicated,
    methods::{Led, StateName},
};

/// A replicated state as this node holds it.
#[derive(Debug)]
pub struct StateGroup<D: Domain> {
    name: StateName,
    raft: Group,
    replica: Arc<Replica<D>>,
    clock: Clock,
}

impl<D: Domain> StateGroup<D> {
    /// Opens the group's files and takes part.
    ///
    /// # Errors
    /// [`Error::OpenState`].
    pub async fn open(
        name: StateName,
        config: Config,
        env: &Env,
        transport: Arc<dyn Transport>,
        replica: Arc<Replica<D>>,
    ) -> Result<Self, Error> {
        let machine = Replicated(Machine::new(Arc::clone(&replica)));
        let raft = Group::open(config, env.clone(), transport, machine)
            .await
            .map_err(|source| Error::OpenState { state: name.as_str(), source })?;
        Ok(Self { name, raft, replica, clock: env.clock.clone() })
    }

    /// Which state.
    pub const fn name(&self) -> StateName {
        self.name
    }

    /// Its Raft group.
    pub const fn raft(&self) -> &Group {
        &self.raft
    }

    /// Its readable copy.
    pub const fn replica(&self) -> &Arc<Replica<D>> {
        &self.replica
    }

    /// Commits a command, if this node leads. Stamps it with this node's clock.
    pub async fn propose(&self, request: RequestId, command: Vec<u8>, limit: Duration) -> Led<ByteBuf> {
        let sealed = seal(request, self.clock.wall_ms(), command);
        match self.raft.propose(sealed, limit).await {
            Ok(reply) => Led::Done(ByteBuf::from(reply)),
            Err(ProposeError::NotLeader { leader }) => Led::Elsewhere(leader),
            Err(error @ ProposeError::Unknown) => Led::Unknown(error.to_string()),
            Err(error) => Led::Unavailable(error.to_string()),
        }
    }

    /// The answer to a command that comes too early, by the state of the leader; none when it may be proposed.
    pub fn too_early(&self, command: &D::Command) -> Option<Led<ByteBuf>> {
        let why = self.replica.read(|state| state.admits(command)).err()?;
        let now = *self.raft.leadership().borrow();
        Some(if now.is_me { Led::NotYet(why) } else { Led::Elsewhere(now.leader) })
    }

    /// What became of a request, if this node leads.
    pub async fn recall(&self, request: RequestId, limit: Duration) -> Led<Option<ByteBuf>> {
        match self.barrier(limit).await {
            Led::Done(_) => Led::Done(self.replica.outcome(request).map(ByteBuf::from)),
            Led::Elsewhere(leader) => Led::Elsewhere(leader),
            Led::Unknown(why) | Led::Unavailable(why) => Led::Unavailable(why),
            Led::NotYet(why) => Led::NotYet(why),
        }
    }

    /// The revision that a linearizable read has to reflect, if this node leads.
    pub async fn barrier(&self, limit: Duration) -> Led<Revision> {
        let confirmed = async {
            let index = self.raft.read_index(limit).await?;
            self.raft.wait_applied(index, limit).await
        };
        match confirmed.await {
            Ok(()) => Led::Done(self.replica.revision()),
            Err(ReadError::NotLeader { leader }) => Led::Elsewhere(leader),
            Err(error) => Led::Unavailable(error.to_string()),
        }
    }
}
