//! On a node that does not vote, a watch of a node that does keeps the readable copies up to date.
//!
//! The global state comes from another region where none of this one votes in its group: over the gateways of others to the
//! region's voters, and from those to its other nodes. Who gives what to whom ([`gives_global`]) never closes a circle, in which
//! two nodes that follow each other would both stand still:
//!
//! ```text
//! votes in the global group ──► everybody
//! votes in a region, fed from another one ──► its region
//! votes in a region, not fed ──► nodes of it that do not vote, once: what it has may be all there is
//! ```

use std::{pin::pin, sync::Arc, time::Duration};

use insula_env::{Beat, Clock, Env, beat, clock};
use insula_rpc::{AddressBook, Peers};
use insula_state::{Domain, Unfit, Update};
use insula_types::{NodeId, codec};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{
    group::StateGroup,
    methods::{StateName, WatchRequest, WatchState},
};

/// Wait before another node is asked, and between looks at whether this node votes.
const RETRY_WAIT: Duration = Duration::from_millis(300);

/// A watch that was not refused for so long is one, though nothing was new. Longer than the farthest node takes to refuse.
const SETTLED: Duration = Duration::from_secs(1);

/// Wait after a node told what belongs to another cluster or to a life that is over: all of it came over the network.
const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// How long a connection for a watch may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How a node hears of a state for whose group it does not vote. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    told: Arc<watch::Sender<Told>>,
    /// Who told last what was refused, and why; none since somebody told what was not.
    refused: Arc<Mutex<Option<(NodeId, String)>>>,
    clock: Clock,
}

/// Who tells this node what is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nobody, since then, milliseconds since 1970.
    Nobody(u64),
    /// A node of its region.
    Near,
    /// A node of another region.
    Far,
}

impl Feed {
    pub(crate) fn new(clock: Clock) -> Self {
        let told = Arc::new(watch::channel(Told::Nobody(clock.wall_ms())).0);
        Self { told, refused: Arc::default(), clock }
    }

    /// Whether another region tells this node what is new.
    pub(crate) fn is_fed(&self) -> bool {
        *self.told.borrow() == Told::Far
    }

    /// Since when nobody does, milliseconds since 1970; none while somebody does.
    pub(crate) fn alone_since_ms(&self) -> Option<u64> {
        match *self.told.borrow() {
            Told::Nobody(since_ms) => Some(since_ms),
            Told::Near | Told::Far => None,
        }
    }

    /// Who told what this node refuses, and why, while nobody tells anything better.
    pub(crate) fn refused(&self) -> Option<(NodeId, String)> {
        self.refused.lock().clone()
    }

    /// Notes it. Says whether it is new.
    fn refuse(&self, source: NodeId, why: String) -> bool {
        let refused = Some((source, why));
        std::mem::replace(&mut *self.refused.lock(), refused.clone()) != refused
    }

    /// Waits until somebody does.
    pub(crate) async fn wait(&self) {
        let is_told = |told: &Told| !matches!(told, Told::Nobody(_));
        // The sender lives as long as `self`.
        let _ = self.told.subscribe().wait_for(is_told).await;
    }

    /// Until what is returned is dropped.
    fn open(&self, is_far: bool) -> Open<'_> {
        *self.refused.lock() = None;
        self.told.send_replace(if is_far { Told::Far } else { Told::Near });
        Open(self)
    }
}

struct Open<'a>(&'a Feed);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.told.send_replace(Told::Nobody(self.0.clock.wall_ms()));
    }
}

/// What a caller gets of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    /// All that is in it, and what comes.
    All,
    /// What is in it now.
    Present,
    /// Nothing.
    Nothing,
}

impl Gives {
    /// Of a copy that the log brings up to date, or not.
    pub(crate) const fn of_log(takes_part: bool) -> Self {
        if takes_part { Self::All } else { Self::Nothing }
    }
}

/// What a node gives of its copy of the global state to a caller. The node takes part in the global group, votes in its
/// region, is fed from another one; the caller is of the same region, and votes in it.
pub(crate) const fn gives_global(
    takes_part: bool,
    votes: bool,
    is_fed: bool,
    is_of_region: bool,
    caller_votes: bool,
) -> Gives {
    match (takes_part, is_of_region && votes) {
        (true, _) => Gives::All,
        (false, true) if is_fed => Gives::All,
        (false, true) if !caller_votes => Gives::Present,
        (false, _) => Gives::Nothing,
    }
}

/// Whom a node follows.
pub(crate) struct Sources {
    pub node: NodeId,
    pub book: AddressBook,
    /// Whether nodes of other regions may be asked now.
    pub may_ask_far: Box<dyn Fn() -> bool + Send + Sync>,
    /// Told of how this node hears of the state.
    pub feed: Feed,
}

impl Sources {
    /// Those to be asked in turn, each with whether it is of another region.
    fn list(&self) -> Vec<(NodeId, bool)> {
        let members = self.book.nodes().into_iter().filter(|other| *other != self.node).map(|node| (node, false));
        let far = if (self.may_ask_far)() { self.book.speakers() } else { Vec::new() };
        far.into_iter().map(|node| (node, true)).chain(members).collect()
    }
}

/// Starts to follow one state, for as long as the group's log does not bring this node up to date.
pub(crate) fn start<D: Domain>(env: &Env, group: &Arc<StateGroup<D>>, name: StateName, peers: Peers, sources: Sources) {
    let (group, rng, sources) = (Arc::clone(group), env.rng.fork(), Arc::new(sources));
    env.tasks.supervise(&format!("follow {}", D::NAME), beat::QUICK, move |beat| {
        let (group, peers, sources, rng) = (Arc::clone(&group), peers.clone(), Arc::clone(&sources), rng.clone());
        async move {
            let mut turn = 0;
            loop {
                let known = sources.list();
                if !group.raft().takes_part() && !known.is_empty() {
                    let (source, is_far) = known[turn % known.len()];
                    turn += 1;
                    let ended = tokio::select! {
                        ended = follow(&group, name, (source, is_far), (&peers, &sources.feed), &beat) => ended,
                        () = joined(&group) => {
                            debug!(state = D::NAME, "now a member: the log leads from here");
                            Ended::Untold
                        }
                    };
                    match ended {
                        Ended::Untold => {}
                        Ended::Told => turn = again(&known, source),
                        Ended::Refused => beat.idle(clock::sleep(rng.jitter(REFUSED_WAIT))).await,
                    }
                }
                beat.idle(clock::sleep(rng.jitter(RETRY_WAIT))).await;
            }
        }
    });
}

/// Who is asked next after a watch that has told something: the first, which is the nearest, but not the one that has just ended.
fn again(known: &[(NodeId, bool)], ended: NodeId) -> usize {
    usize::from(known.first().is_some_and(|(first, _)| *first == ended))
}

/// Waits until the group's own log writes the copy.
async fn joined<D: Domain>(group: &StateGroup<D>) {
    while !group.raft().takes_part() {
        clock::sleep(Duration::from_millis(20)).await;
    }
}

/// How the watch of a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It was none, or ended before it had told enough.
    Untold,
    /// It had told.
    Told,
    /// What it told is not for this node.
    Refused,
}

impl Ended {
    fn of(has_told: bool) -> Self {
        if has_told { Self::Told } else { Self::Untold }
    }
}

/// Follows one node for as long as it tells.
async fn follow<D: Domain>(
    group: &StateGroup<D>,
    state: StateName,
    (source, is_far): (NodeId, bool),
    (peers, feed): (&Peers, &Feed),
    beat: &Beat,
) -> Ended {
    let replica = group.replica();
    let from = (replica.revision().0 > 0).then(|| replica.revision());
    let mut updates = match peers.stream::<WatchState>(source, &WatchRequest { state, from }, CONNECT_LIMIT).await {
        Ok(updates) => updates,
        Err(error) => {
            debug!(%source, %error, state = D::NAME, "no watch");
            return Ended::Untold;
        }
    };
    let mut open = None;
    let mut settles = pin!(clock::sleep(SETTLED));
    loop {
        let next = async {
            tokio::select! {
                // Also where updates come all the time.
                biased;
                () = &mut settles, if open.is_none() => None,
                next = updates.next() => Some(next),
            }
        };
        let Some(next) = beat.idle(next).await else {
            open = Some(feed.open(is_far));
            continue;
        };
        let bytes = match next {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => {
                debug!(%source, %error, state = D::NAME, "watch ended");
                return Ended::of(open.is_some());
            }
            None => return Ended::of(open.is_some()),
        };
        match codec::decode::<Update<D>>(&bytes) {
            Ok(update) => match replica.follow(update) {
                Ok(()) => {}
                Err(error @ Unfit::Gap { .. }) => {
                    warn!(%source, %error, state = D::NAME, "the watch left out a revision, starting anew");
                    return Ended::Untold;
                }
                Err(error) => {
                    if feed.refuse(source, error.to_string()) {
                        warn!(%source, %error, state = D::NAME, "what a node tells of a state is refused");
                    }
                    return Ended::Refused;
                }
            },
            Err(error) => {
                warn!(%source, %error, state = D::NAME, "the watch cannot be read: is this node older?");
                return Ended::Untold;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_the_global_state_are_given_in_one_direction_only() {
        // The global group's, a region's voter that is fed, one that is not, another node.
        let givers = [(true, true, false), (false, true, true), (false, true, false), (false, false, false)];
        // Another region's node, a voter of the same region, another node of it.
        let callers = [(false, false), (true, true), (true, false)];
        let row = |(takes_part, votes, is_fed)| {
            callers.map(|(is_near, caller_votes)| gives_global(takes_part, votes, is_fed, is_near, caller_votes))
        };
        use Gives::{All, Nothing, Present};
        assert_eq!(
            givers.map(row),
            [[All, All, All], [Nothing, All, All], [Nothing, Nothing, Present], [Nothing, Nothing, Nothing],]
        );
    }

    #[test]
    fn other_regions_are_asked_by_those_who_may_and_come_first() {
        let book = AddressBook::default();
        let [me, near, far] = [1, 2, 3].map(NodeId::new);
        book.set([(me, vec![]), (near, vec![])].into());
        book.set_gateways(vec![(far, vec![])], 1);
        let list = |may: bool| {
            let may_ask_far = Box::new(move || may);
            Sources { node: me, book: book.clone(), may_ask_far, feed: Feed::new(Clock::simulated(0)) }.list()
        };
        assert_eq!(list(false), [(near, false)]);
        assert_eq!(list(true), [(far, true), (near, false)]);
    }

    #[test]
    fn after_a_watch_the_first_is_asked_unless_it_was_that_ones() {
        let [one, two] = [1, 2].map(NodeId::new);
        let known = [(one, true), (two, false)];
        assert_eq!((again(&known, two), again(&known, one), again(&[], one)), (0, 1, 0));
    }

    #[test]
    fn what_is_refused_is_known_until_somebody_tells_what_is_not() {
        let (feed, node) = (Feed::new(Clock::simulated(7)), NodeId::new(9));
        assert!(feed.refuse(node, "it is of cluster x".into()));
        assert!(!feed.refuse(node, "it is of cluster x".into()), "said once");
        assert_eq!(feed.refused(), Some((node, "it is of cluster x".into())));
        drop(feed.open(true));
        assert_eq!(feed.refused(), None);
    }

    #[tokio::test]
    async fn a_feed_ends_with_its_watch() {
        let feed = Feed::new(Clock::simulated(7));
        let seen = || (feed.alone_since_ms(), feed.is_fed());
        assert_eq!(seen(), (Some(7), false));
        let near = feed.open(false);
        assert_eq!(seen(), (None, false));
        drop(near);
        let far = feed.open(true);
        assert_eq!(seen(), (None, true));
        feed.wait().await;
        drop(far);
        assert_eq!(seen(), (Some(7), false));
    }
}
