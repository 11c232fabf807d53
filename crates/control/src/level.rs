//! Raises the level of the region, and tells the world of it: on the region's leader, when all of its nodes have known a
//! greater one for a while. The decision is not fenced like others: the level only rises, and the log refuses a raise that
//! a node does not follow.

use std::time::Duration;

use insula_env::{Env, clock, clock::Instant};
use insula_state::{Domain, GlobalCommand, GlobalState, RegionCommand, RegionState, Store};
use insula_types::{Agreed, Level};
use tracing::{debug, info};

/// How long all nodes must have known a level before the region is raised to it: until then, going back to the version
/// before is possible. Longer than a machine may take to join, so that none comes in behind the nodes' backs; see
/// [`RegionState::takes_in`].
pub const BAKE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one command may take. Another look comes soon.
const PROPOSE_LIMIT: Duration = Duration::from_secs(3);
/// A turn is two commands at most: three of their limits, and something hangs.
const TURN_LIMIT: Duration = PROPOSE_LIMIT.saturating_mul(3);

/// What the region could agree on now, and has not: what every node knows, also those that are down, and this program,
/// which may be older than what its node last said.
pub fn reachable(state: &RegionState, known: Level) -> Option<Agreed> {
    let least = state.nodes.values().min_by_key(|node| node.level())?;
    let level = least.level().min(known);
    (level > state.level()).then(|| Agreed { level, version: least.program().to_owned() })
}

/// What the world does not know yet of the region's level.
pub fn untold(region: &RegionState, global: &GlobalState) -> Option<GlobalCommand> {
    let name = &region.meta.as_ref()?.region;
    let agreed = region.agreed.as_ref()?;
    let told = global.regions.get(name)?.level();
    (agreed.level > told).then(|| GlobalCommand::SetRegionLevel { region: name.clone(), agreed: agreed.clone() })
}

/// Since when the same could be agreed on.
#[derive(Debug, Default)]
pub(crate) struct Baking(Option<(Agreed, Instant)>);

impl Baking {
    /// What has been reachable for as long as `bake`. Anything else that is reachable begins anew.
    pub(crate) fn done(&mut self, reachable: Option<Agreed>, now: Instant, bake: Duration) -> Option<Agreed> {
        let since = match &self.0 {
            Some((agreed, since)) if reachable.as_ref() == Some(agreed) => *since,
            _ => now,
        };
        self.0 = reachable.map(|agreed| (agreed, since));
        self.0
            .as_ref()
            .filter(|(_, since)| now.saturating_duration_since(*since) >= bake)
            .map(|(agreed, _)| agreed.clone())
    }
}

/// Starts to look after the level, for as long as this node leads the region.
pub fn start_levels(env: &Env, region: Store<RegionState>, global: Store<GlobalState>, bake: Duration) {
    let (rng, time) = (env.rng.fork(), env.clock.clone());
    env.tasks.supervise("levels", TURN_LIMIT, move |beat| {
        let (region, global, rng, time) = (region.clone(), global.clone(), rng.clone(), time.clone());
        async move {
            let mut baking = Baking::default();
            loop {
                let is_leader = region.leadership().borrow().is_me;
                let next = region.read(|state| reachable(state, region.known())).filter(|_| is_leader);
                if let Some(agreed) = baking.done(next, time.now(), bake) {
                    raise(&region, agreed).await;
                }
                let news = region.read(|region| global.read(|global| untold(region, global)));
                if let Some(news) = news.filter(|_| is_leader)
                    && let Err(error) = global.propose(&news, PROPOSE_LIMIT).await
                {
                    debug!(%error, "the world was not told of the region's level, trying again");
                }
                beat.idle(clock::sleep(rng.jitter(LOOK_EVERY))).await;
            }
        }
    });
}

async fn raise(region: &Store<RegionState>, agreed: Agreed) {
    let level = agreed.level;
    match region.propose(&RegionCommand::RaiseLevel(agreed), PROPOSE_LIMIT).await {
        Ok(_) => info!(%level, "the region is at a new level"),
        Err(error) => info!(%level, %error, "the region was not raised, trying again"),
    }
}
