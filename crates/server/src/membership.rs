//! Changes who votes, for the reconciler in `control`. A new voter gets the region CA's key before it votes, so that
//! whoever leads can take machines in.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_control::{HandOverError, Membership, MembershipError};
use insula_identity::NodeDirectory;
use insula_raft::Group;
use insula_rpc::Peers;
use insula_state::Domain;
use insula_types::NodeId;
use serde_bytes::ByteBuf;

use crate::{
    group::StateGroup,
    methods::{TakeAuthority, TakeAuthorityRequest},
};

/// How long one voter may take to be brought up to date or taken out.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// How long another voter may take to lead instead of this node.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// How long the hand-over of the key may take.
const KEY_LIMIT: Duration = Duration::from_secs(5);

/// The membership of one group.
pub(crate) struct GroupMembership<D: Domain> {
    pub group: Arc<StateGroup<D>>,
    pub directory: NodeDirectory,
    pub peers: Peers,
    /// The global group: where its voters are of this region, the sealed root key goes with the region's.
    pub global: Group,
}

impl<D: Domain> std::fmt::Debug for GroupMembership<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GroupMembership({})", D::NAME)
    }
}

pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Gives a voter, or one that is about to be one, the keys that this node holds.
pub(crate) async fn give_authority(
    directory: &NodeDirectory,
    peers: &Peers,
    node: NodeId,
    needs_root: bool,
) -> Result<(), Cause> {
    let Some(authority) = directory.load_region_authority()? else {
        return Err("this node leads but holds no region key: restore keys/ from another voter".into());
    };
    let sealed_root = directory.load_sealed_root()?;
    if needs_root && sealed_root.is_none() {
        return Err("this node leads but holds no sealed root key: restore keys/ from another voter".into());
    }
    let request = TakeAuthorityRequest {
        region_authority: ByteBuf::from(authority.export().as_bytes()),
        sealed_root: ByteBuf::from(sealed_root.unwrap_or_default()),
        next_root: directory.load_next_root()?,
    };
    Ok(peers.call::<TakeAuthority>(node, &request, KEY_LIMIT).await?)
}

impl<D: Domain> GroupMembership<D> {
    async fn change(&self, wanted: &BTreeSet<NodeId>) -> Result<(), Cause> {
        for node in wanted.difference(&self.group.raft().voters()) {
            give_authority(&self.directory, &self.peers, *node, !self.global.voters().is_empty()).await?;
        }
        Ok(self.group.raft().set_voters(wanted, CHANGE_LIMIT).await?)
    }
}

#[async_trait]
impl<D: Domain> Membership for GroupMembership<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.group.raft().voters()
    }

    async fn set_voters(&self, wanted: BTreeSet<NodeId>) -> Result<(), MembershipError> {
        self.change(&wanted).await.map_err(|source| MembershipError { wanted, source })
    }

    async fn hand_over(&self) -> Result<(), HandOverError> {
        let given = self.group.raft().hand_over(HAND_OVER_LIMIT).await;
        given.map(drop).map_err(|error| HandOverError(Box::new(error)))
    }
}
