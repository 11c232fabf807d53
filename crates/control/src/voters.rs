//! Who votes in a Raft group: one node of a region of one or two, three of a larger one, over data centres.
//! Never two: a quorum of two stops when either stops (rule R20). Never fewer by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use insula_env::{Env, clock};
use insula_state::{Leadership, RegionState, Store};
use insula_types::{DatacenterName, NodeId};
use tokio::sync::watch;
use tracing::{info, warn};

/// Voters of a region that has enough nodes. Larger groups come with larger regions, in a later step.
const VOTERS: usize = 3;
/// How long a turn may take: bringing up to date and taking out of a few voters, each with its limit of half a minute.
const TURN_LIMIT: Duration = Duration::from_secs(300);
/// Time between two looks at who votes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a change of voters failed.
#[derive(Debug, thiserror::Error)]
#[error("change the voters to {wanted:?}")]
pub struct MembershipError {
    /// Who should vote.
    pub wanted: BTreeSet<NodeId>,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why a leader could not give way.
#[derive(Debug, thiserror::Error)]
#[error("hand the leadership over")]
pub struct HandOverError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The membership of one Raft group, as its leader can change it.
#[async_trait]
pub trait Membership: Send + Sync + Debug {
    /// "region" or "global".
    fn name(&self) -> &'static str;
    /// Who votes now, as committed.
    fn voters(&self) -> BTreeSet<NodeId>;
    /// Makes exactly these vote: brings new ones up to date first, then changes. Called on the leader only, one call at
    /// a time; the same call again goes on where an earlier one stopped.
    ///
    /// # Errors
    /// Any; who votes is then as before or as wanted.
    async fn set_voters(&self, wanted: BTreeSet<NodeId>) -> Result<(), MembershipError>;
    /// Gives the leadership to another voter. Called on the leader only.
    ///
    /// # Errors
    /// Any; this node then leads on, or nobody does until the next election.
    async fn hand_over(&self) -> Result<(), HandOverError>;
}

/// Whether the leader shall give way: its node is drained, and another voter is up that is not.
pub fn shall_hand_over(state: &RegionState, leader: NodeId, voters: &BTreeSet<NodeId>) -> bool {
    let stays = |id: &&NodeId| state.nodes.get(id).is_some_and(|node| node.health.is_up() && !node.is_draining);
    state.nodes.get(&leader).is_some_and(|node| node.is_draining) && voters.iter().any(|id| stays(&id))
}

/// Gives way while this node leads and shall not; says once that it cannot.
async fn give_way(region: &Store<RegionState>, now: Leadership, membership: &dyn Membership, is_told: &mut bool) {
    let leader = now.leader.filter(|_| now.is_me);
    let shall = leader.is_some_and(|leader| region.read(|state| shall_hand_over(state, leader, &membership.voters())));
    if !shall {
        *is_told = false;
        return;
    }
    match membership.hand_over().await {
        Ok(()) => info!(group = membership.name(), "this node is drained: another voter leads now"),
        Err(error) if !*is_told => {
            warn!(group = membership.name(), error = %chain(&error), "leadership not handed over, trying on");
            *is_told = true;
        }
        Err(_) => {}
    }
}

/// Who should vote, when that is not who does. Those who vote and are members stay; the places that are free go to
/// nodes that are up, first in the data centre with the fewest voters, then the oldest.
pub fn wanted_voters(state: &RegionState, current: &BTreeSet<NodeId>) -> Option<BTreeSet<NodeId>> {
    let count = if state.nodes.len() >= VOTERS { VOTERS } else { 1 };
    let mut wanted: BTreeSet<NodeId> = current.iter().copied().filter(|id| state.nodes.contains(id)).collect();
    let mut by_datacenter: BTreeMap<&DatacenterName, usize> = BTreeMap::new();
    for node in wanted.iter().filter_map(|id| state.nodes.get(id)) {
        *by_datacenter.entry(&node.datacenter).or_default() += 1;
    }
    while wanted.len() < count {
        let candidates = state.nodes.values().filter(|node| node.health.is_up() && !wanted.contains(&node.id));
        let crowd = |datacenter| by_datacenter.get(datacenter).copied().unwrap_or(0);
        // None left: wait until more are up rather than vote with two.
        let best = candidates.min_by_key(|node| (crowd(&node.datacenter), node.joined_ms, node.id))?;
        wanted.insert(best.id);
        *by_datacenter.entry(&best.datacenter).or_default() += 1;
    }
    (wanted != *current && !wanted.is_empty()).then_some(wanted)
}

/// Starts the reconciler of one group's voters. Acts only while this node leads that group.
pub fn start_voters(
    env: &Env,
    region: Store<RegionState>,
    leadership: watch::Receiver<Leadership>,
    membership: Arc<dyn Membership>,
) {
    let rng = env.rng.fork();
    env.tasks.supervise(&format!("voters-{}", membership.name()), TURN_LIMIT, move |beat| {
        let (region, leadership, membership) = (region.clone(), leadership.clone(), Arc::clone(&membership));
        let rng = rng.clone();
        async move {
            let mut is_told = false;
            loop {
                let now = *leadership.borrow();
                give_way(&region, now, &*membership, &mut is_told).await;
                let is_leader = leadership.borrow().is_me;
                let wanted = region.read(|state| wanted_voters(state, &membership.voters()));
                if let Some(wanted) = wanted.filter(|_| is_leader) {
                    let group = membership.name();
                    info!(group, ?wanted, "changing the voters");
                    if let Err(error) = membership.set_voters(wanted).await {
                        warn!(group, error = %chain(&error), "voters not changed, trying again");
                    }
                }
                beat.idle(clock::sleep(rng.jitter(LOOK_EVERY))).await;
            }
        }
    });
}

/// An error with all its causes, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
