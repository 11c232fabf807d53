//! When to try to become leader. openraft 0.9 has no pre-vote and draws its election timeout only once, so elections
//! are ours: a node asks the voters first whether they would vote for it, which changes nothing, and campaigns only when
//! a majority says yes. A node that was cut off thus comes back without disturbing anyone (rule R17).
//!
//! ```text
//!            not a voter
//!   Idle ◄──────────────────┐
//!                           │       lease and turn have passed       a majority would vote for it
//!   Follow (until) ─────────┴───────────────► Campaign ──────────────────────────────► elect
//!        ▲                                       │ not now
//!        └───────────────────────────────────────┘
//!   Lead: while openraft says so; heard: a majority answered within the lease
//! ```
//! This module decides; `group::watch` asks and acts.

use std::{collections::BTreeSet, time::Duration};

use insula_env::clock::Instant;
use openraft::{EmptyNode, RaftState, ServerState, error::Fatal};

use crate::{config::Timers, contacts::age, engine::Raft, wire::Position};

/// What is known of openraft's state at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) term: u64,
    /// Who leads, or whom this node voted for.
    pub(crate) vote_for: Option<u64>,
    /// Whether that one won.
    pub(crate) is_elected: bool,
    /// When the vote last changed, or the leader was last heard.
    pub(crate) touched: Option<Instant>,
    pub(crate) last: Option<Position>,
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) members: BTreeSet<u64>,
    pub(crate) is_leader: bool,
}

/// See [`Seen::state`].
pub(crate) type VoteState = (u64, Option<u64>, bool, Option<Instant>);

impl Seen {
    /// Asks openraft.
    pub(crate) async fn ask(raft: &Raft) -> Result<Self, Fatal<u64>> {
        let mut seen = raft.with_raft_state(Self::of).await?;
        seen.last = raft.data_metrics().borrow().last_log.map(Into::into);
        Ok(seen)
    }

    fn of(state: &RaftState<u64, EmptyNode, Instant>) -> Self {
        let vote = state.vote_ref();
        let membership = state.membership_state.effective().membership();
        Self {
            term: vote.leader_id.term,
            vote_for: vote.leader_id.voted_for,
            is_elected: vote.committed,
            touched: state.vote_last_modified(),
            last: None,
            voters: membership.get_joint_config().clone(),
            members: membership.nodes().map(|(node, _)| *node).collect(),
            is_leader: state.server_state == ServerState::Leader,
        }
    }

    /// What changes when somebody is voted for, wins, or is heard as leader.
    pub(crate) fn state(&self) -> VoteState {
        (self.term, self.vote_for, self.is_elected, self.touched)
    }

    pub(crate) fn is_voter(&self, node: u64) -> bool {
        self.voters.iter().any(|set| set.contains(&node))
    }

    /// All voters but `me`, of all sets.
    pub(crate) fn other_voters(&self, me: u64) -> BTreeSet<u64> {
        self.voters.iter().flatten().copied().filter(|node| *node != me).collect()
    }

    /// The elected leader, if it has been heard within its lease.
    pub(crate) fn live_leader(&self, me: u64, timers: &Timers, now: Instant) -> Option<u64> {
        let is_fresh = self.touched.is_some_and(|touched| age(now, touched) <= timers.election_max);
        self.vote_for.filter(|leader| self.is_elected && is_fresh && *leader != me)
    }
}

/// What a node has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// It does not vote.
    Idle,
    /// It waits until then.
    Follow(Instant),
    /// It asks for votes.
    Campaign,
    /// It leads.
    Lead,
}

/// Decides what to do. `spread` is a number of the caller's from 0 to 1, drawn anew for each state of the vote, that
/// keeps nodes from acting in step. A node that is short of space lets the others go first.
pub(crate) fn decide(me: u64, seen: &Seen, timers: &Timers, spread: f64, is_short: bool, now: Instant) -> Duty {
    if seen.is_leader {
        return Duty::Lead;
    }
    if !seen.is_voter(me) {
        return Duty::Idle;
    }
    let others = seen.other_voters(me);
    let wait = if seen.is_elected {
        // The leader's lease, then each voter in its turn.
        let turn = others.iter().filter(|node| **node < me && Some(**node) != seen.vote_for).count() as f64;
        timers.election_max + timers.stagger.mul_f64(0.1 + turn + spread / 2.0)
    } else if seen.vote_for.is_none() || others.is_empty() && seen.vote_for != Some(me) {
        Duration::ZERO
    } else {
        // Somebody's campaign, perhaps its own, gets its time.
        timers.election_min + (timers.election_max - timers.election_min).mul_f64(spread)
    };
    let wait = if is_short && !others.is_empty() { wait + timers.election_max * 3 } else { wait };
    match seen.touched.map(|touched| touched + wait) {
        Some(until) if now < until => Duty::Follow(until),
        _ => Duty::Campaign,
    }
}

/// Whether this node would vote for `candidate`, whose log ends at `last`. `has_quorum`: it leads and is heard.
pub(crate) fn would_vote(
    me: u64,
    seen: &Seen,
    timers: &Timers,
    candidate: u64,
    last: Option<Position>,
    has_quorum: bool,
    now: Instant,
) -> bool {
    if last < seen.last || has_quorum || seen.live_leader(me, timers, now).is_some() {
        return false;
    }
    // Another campaign is young: let it end.
    let is_young = seen.touched.is_some_and(|touched| age(now, touched) < timers.election_min);
    seen.is_elected || seen.vote_for.is_none_or(|node| node == candidate) || !is_young
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(vote_for: Option<u64>, is_elected: bool, touched: Instant) -> Seen {
        Seen {
            term: 4,
            vote_for,
            is_elected,
            touched: Some(touched),
            last: Some(Position { term: 4, index: 10 }),
            voters: vec![BTreeSet::from([1, 2, 3])],
            members: BTreeSet::from([1, 2, 3]),
            is_leader: false,
        }
    }

    #[test]
    fn voters_take_their_turns_after_the_lease() {
        let timers = Timers::default();
        let start = insula_env::Clock::real().now();
        let state = seen(Some(1), true, start);
        let turn = |me, spread| match decide(me, &state, &timers, spread, false, start) {
            Duty::Follow(until) => until - start,
            other => panic!("{other:?}"),
        };
        assert!(turn(2, 0.0) > timers.election_max);
        assert!(turn(2, 1.0) < turn(3, 0.0), "ranks do not overlap, whatever the spread");
        assert!(turn(3, 1.0) < timers.election_max + timers.stagger * 2);
        assert_eq!(decide(2, &state, &timers, 0.5, false, start + Duration::from_secs(1)), Duty::Campaign);
        assert_eq!(decide(9, &state, &timers, 0.5, false, start), Duty::Idle);
        assert_eq!(decide(2, &Seen { is_leader: true, ..state.clone() }, &timers, 0.5, false, start), Duty::Lead);
    }

    #[test]
    fn a_lone_voter_does_not_wait() {
        let start = insula_env::Clock::real().now();
        let lone = Seen { voters: vec![BTreeSet::from([1])], vote_for: None, ..seen(None, false, start) };
        assert_eq!(decide(1, &lone, &Timers::default(), 0.5, false, start), Duty::Campaign);
    }

    #[test]
    fn who_is_short_of_space_goes_last_but_goes() {
        let timers = Timers::default();
        let start = insula_env::Clock::real().now();
        let state = seen(Some(1), true, start);
        let after = |is_short, waited| decide(2, &state, &timers, 1.0, is_short, start + waited);
        let both_turns = timers.election_max + timers.stagger * 2;
        assert_eq!(after(false, both_turns), Duty::Campaign);
        assert!(matches!(after(true, both_turns), Duty::Follow(_)));
        assert_eq!(after(true, timers.election_max * 6), Duty::Campaign, "nobody else did");
    }

    #[test]
    fn a_voter_keeps_faith_with_a_live_leader_and_the_longer_log() {
        let timers = Timers::default();
        let start = insula_env::Clock::real().now();
        let state = seen(Some(1), true, start);
        let late = start + timers.election_max + Duration::from_millis(1);
        let end = state.last;
        assert!(!would_vote(2, &state, &timers, 3, end, false, start));
        assert!(would_vote(2, &state, &timers, 3, end, false, late));
        assert!(!would_vote(2, &state, &timers, 3, Some(Position { term: 4, index: 9 }), false, late));
        assert!(would_vote(2, &state, &timers, 3, Some(Position { term: 5, index: 1 }), false, late));
        let leader = Seen { is_leader: true, ..seen(Some(2), true, start) };
        assert!(!would_vote(2, &leader, &timers, 3, end, true, late), "a leader that is heard stays");
        assert!(would_vote(2, &leader, &timers, 3, end, false, late), "one that is not heard gives way");
        let voting = seen(Some(1), false, start);
        assert!(!would_vote(2, &voting, &timers, 3, end, false, start));
        assert!(would_vote(2, &voting, &timers, 1, end, false, start));
        assert!(would_vote(2, &voting, &timers, 3, end, false, start + timers.election_min));
    }
}
