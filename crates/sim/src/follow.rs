//! On a node that does not vote, the updates of a node that does keep the copy of the state up to date. What `server`
//! does over a stream of real messages.

use std::{sync::Arc, time::Duration};

use insula_env::{Env, clock::sleep};
use insula_raft::Group;
use insula_state::{Domain, RegionState, Replica};
use insula_types::{Node, NodeId};

use crate::{
    machine::Surroundings,
    net::{Endpoint, Net, machine_of},
    proposer::Answer,
};

/// Wait before another node is asked, and between looks at whether this node votes.
const RETRY_WAIT: Duration = Duration::from_millis(300);
/// How long one update may take to come.
const LIMIT: Duration = Duration::from_secs(2);

/// Starts to follow, for as long as the group's log does not bring this node up to date.
pub(crate) fn start(env: &Env, around: &Surroundings, node: &Node, group: Group, replica: Arc<Replica<RegionState>>) {
    let rng = env.rng.fork();
    let (net, checks, level, node) = (around.net.clone(), around.checks.clone(), node.level(), node.id);
    env.tasks.spawn("follow", async move {
        loop {
            let others = net.others(machine_of(node));
            if !group.takes_part()
                && let Some(source) = others.get(rng.range(0, others.len().max(1) as u64) as usize)
            {
                while next(&net, (node, *source), &replica).await && !group.takes_part() {
                    if replica.read(Domain::level) > level {
                        checks.violation(format!("{node} follows a state whose programs know more than its own"));
                    }
                }
            }
            sleep(rng.jitter(RETRY_WAIT)).await;
        }
    });
}

/// Takes the next update. False when another source shall be asked.
async fn next(net: &Net, (node, source): (NodeId, NodeId), replica: &Replica<RegionState>) -> bool {
    let from = (replica.revision().0 > 0).then(|| replica.revision());
    let asked = net.call((node, source), LIMIT, b"watch", |to: Endpoint| async move {
        // Two that follow each other would both stand still.
        let mut watch = to.region.replica().watch(from);
        Answer(if to.group.takes_part() { Some(watch.next().await) } else { None })
    });
    match asked.await {
        Ok(Answer(Some(update))) => replica.follow(update).is_ok(),
        Ok(Answer(None)) | Err(_) => false,
    }
}
