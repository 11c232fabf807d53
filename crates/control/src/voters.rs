//! Who votes in a Raft group: one node of a region of one or two, three of three to six, five of a larger one, over data
//! centres. Never two: a quorum of two stops when either stops (rule R20).

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_env::{Env, clock};
use insula_state::{Leadership, RegionState, Store};
use insula_types::{Node, NodeHealth, NodeId};
use tokio::sync::watch;
use tracing::{info, warn};

/// Voters of the largest regions: they survive the loss of two.
const VOTERS_MAX: usize = 5;
/// A voter that has been down for so long gives its seat to a node that is up.
pub const DEAD_AFTER: Duration = Duration::from_secs(600);
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

/// How many nodes of a region vote: one of one or two (a quorum of two stops when either stops), three of up to six.
fn seats(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=6 => 3,
        _ => VOTERS_MAX,
    }
}

/// Who should vote, when that is not who does. Those who vote stay, unless they are no members any more, or have been
/// down for longer than `dead_after` and another can take their place. Free seats go to nodes that are up, first in the
/// data centre with the fewest voters, then the oldest. `now_ms`: milliseconds since 1970.
pub fn wanted_voters(
    state: &RegionState,
    current: &BTreeSet<NodeId>,
    now_ms: u64,
    dead_after: Duration,
) -> Option<BTreeSet<NodeId>> {
    let is_dead = |node: &Node| match node.health {
        NodeHealth::Up => false,
        NodeHealth::Down { since_ms } => now_ms.saturating_sub(since_ms) > dead_after.as_millis() as u64,
    };
    let (dead, mut seated): (Vec<&Node>, Vec<&Node>) =
        current.iter().filter_map(|id| state.nodes.get(id)).partition(|node| is_dead(node));
    // A region that shrinks keeps an odd number of voters that work together already.
    let seats = seats(state.nodes.len()).max(odd(seated.len()).min(VOTERS_MAX));
    while seated.len() < seats {
        let crowd = |node: &Node| seated.iter().filter(|other| other.datacenter == node.datacenter).count();
        let free = state.nodes.values().filter(|node| node.health.is_up() && !current.contains(&node.id));
        let free = free.filter(|node| !seated.iter().any(|other| other.id == node.id));
        let Some(best) = free.min_by_key(|node| (node.is_cordoned, crowd(node), node.joined_ms, node.id)) else {
            break;
        };
        seated.push(best);
    }
    // Whom nobody replaces keeps the seat: to vote with fewer would be to survive less.
    let vacant = seats.saturating_sub(seated.len());
    seated.extend(dead.into_iter().take(vacant));
    // Too many, or an even number: the ones who came last, and those who are down, go first.
    while seated.len() > seats || seated.len() > 1 && seated.len() % 2 == 0 {
        let worst = (0..seated.len()).max_by_key(|index| (!seated[*index].health.is_up(), *index))?;
        seated.remove(worst);
    }
    let wanted: BTreeSet<NodeId> = seated.iter().map(|node| node.id).collect();
    (wanted != *current && !wanted.is_empty()).then_some(wanted)
}

/// The greatest odd number up to `count`.
const fn odd(count: usize) -> usize {
    if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
}

/// Starts the reconciler of one group's voters. Acts only while this node leads that group. For `dead_after` see
/// [`wanted_voters`].
pub fn start_voters(
    env: &Env,
    region: Store<RegionState>,
    leadership: watch::Receiver<Leadership>,
    membership: Arc<dyn Membership>,
    dead_after: Duration,
) {
    let (rng, time) = (env.rng.fork(), env.clock.clone());
    env.tasks.supervise(&format!("voters-{}", membership.name()), TURN_LIMIT, move |beat| {
        let (region, leadership, membership) = (region.clone(), leadership.clone(), Arc::clone(&membership));
        let (rng, time) = (rng.clone(), time.clone());
        async move {
            let mut is_told = false;
            loop {
                let now = *leadership.borrow();
                give_way(&region, now, &*membership, &mut is_told).await;
                let is_leader = leadership.borrow().is_me;
                let voters = membership.voters();
                let wanted = region.read(|state| wanted_voters(state, &voters, time.wall_ms(), dead_after));
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
