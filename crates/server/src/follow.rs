//! On a node that does not vote, a watch of a node that does keeps the readable copies up to date.

use std::{sync::Arc, time::Duration};

use insula_env::{Beat, Env, beat, clock};
use insula_rpc::{AddressBook, Peers};
use insula_state::{Domain, Update};
use insula_types::{NodeId, codec};
use tracing::{debug, warn};

use crate::{
    group::StateGroup,
    methods::{StateName, WatchRequest, WatchState},
};

/// Wait before another node is asked, and between looks at whether this node votes.
const RETRY_WAIT: Duration = Duration::from_millis(300);

/// How long a connection for a watch may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Starts to follow one state, for as long as the group's log does not bring this node up to date.
pub(crate) fn start<D: Domain>(
    env: &Env,
    node: NodeId,
    group: &Arc<StateGroup<D>>,
    name: StateName,
    peers: Peers,
    book: AddressBook,
) {
    let (group, rng) = (Arc::clone(group), env.rng.fork());
    env.tasks.supervise(&format!("follow {}", D::NAME), beat::QUICK, move |beat| {
        let (group, peers, book, rng) = (Arc::clone(&group), peers.clone(), book.clone(), rng.clone());
        async move {
            let mut turn = 0;
            loop {
                let sources: Vec<_> = book.nodes().into_iter().filter(|other| *other != node).collect();
                if !group.raft().takes_part() && !sources.is_empty() {
                    turn += 1;
                    let source = sources[turn % sources.len()];
                    tokio::select! {
                        () = follow(&group, name, source, &peers, &beat) => {}
                        () = joined(&group) => debug!(state = D::NAME, "now a member: the log leads from here"),
                    }
                }
                beat.idle(clock::sleep(rng.jitter(RETRY_WAIT))).await;
            }
        }
    });
}

/// Waits until the group's own log writes the copy.
async fn joined<D: Domain>(group: &StateGroup<D>) {
    while !group.raft().takes_part() {
        clock::sleep(Duration::from_millis(20)).await;
    }
}

async fn follow<D: Domain>(group: &StateGroup<D>, state: StateName, source: NodeId, peers: &Peers, beat: &Beat) {
    let replica = group.replica();
    let from = (replica.revision().0 > 0).then(|| replica.revision());
    let mut updates = match peers.stream::<WatchState>(source, &WatchRequest { state, from }, CONNECT_LIMIT).await {
        Ok(updates) => updates,
        Err(error) => return debug!(%source, %error, state = D::NAME, "no watch"),
    };
    loop {
        let bytes = match beat.idle(updates.next()).await {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return debug!(%source, %error, state = D::NAME, "watch ended"),
            None => return,
        };
        match codec::decode::<Update<D>>(&bytes) {
            Ok(update) => {
                if !replica.follow(update) {
                    return warn!(%source, state = D::NAME, "the watch left out a revision, starting anew");
                }
            }
            Err(error) => {
                return warn!(%source, %error, state = D::NAME, "the watch cannot be read: is this node older?");
            }
        }
    }
}
