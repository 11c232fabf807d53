//! Runs the elections, checks a leader's majority, and says who leads. See `election` for the decisions.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{BoxStream, FuturesUnordered},
};
use insula_env::{
    Beat,
    clock::{Instant, sleep_until, timeout},
};
use insula_types::{NodeId, Term};
use tokio::sync::watch::{Receiver, Sender};

use super::{CORE_LIMIT, GroupState, Leadership, members};
use crate::{
    contacts::{age, is_quorum},
    election::{Duty, Seen, VoteState, decide},
    engine::Raft,
    error::chain_text,
    network::Caller,
    store::LogStore,
    timing::fit,
    transport::Class,
    wire::{Answer, Position, Request},
};

/// How long finishing a predecessor's change of voters may take before it is tried again.
const FINISH_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Watcher {
    caller: Caller,
    raft: Raft,
    log: LogStore,
    applied: Receiver<Option<Position>>,
    membership: Arc<tokio::sync::Mutex<()>>,
    leads: Sender<Leadership>,
    /// The state of the vote for which `spread` was drawn.
    drawn_for: Option<VoteState>,
    spread: f64,
    /// The term that this node leads, and since when.
    leading: Option<(u64, Instant)>,
    /// When the next heartbeat is due.
    beat_at: Option<Instant>,
    /// When this leader last looked whether its timers fit.
    fitted: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(
        caller: Caller,
        raft: Raft,
        (log, applied): (LogStore, Receiver<Option<Position>>),
        membership: Arc<tokio::sync::Mutex<()>>,
        leads: Sender<Leadership>,
    ) -> Self {
        let (drawn_for, leading, beat_at, fitted) = Default::default();
        Self { caller, raft, log, applied, membership, leads, drawn_for, spread: 0.0, leading, beat_at, fitted }
    }

    /// Until the group ends; then says why.
    pub(super) async fn run(mut self, state: Sender<GroupState>, is_stopping: Arc<AtomicBool>, beat: Beat) {
        let mut changes = self.raft.server_metrics();
        let failure = loop {
            let asked = self.now();
            let seen = timeout(CORE_LIMIT, Seen::ask(&self.raft)).await;
            // The log's syncs hold up openraft, or an entry's way to its commit: part of what the timers must allow for.
            let (now, ahead) = (self.now(), &self.caller.ahead);
            self.caller.contacts.appended(self.me(), age(now, asked).max(ahead.since(now)));
            if let Some(error) = ahead.error() {
                break Some(error);
            }
            let wake = match seen {
                Ok(Ok(seen)) => self.step(&seen).await,
                Ok(Err(_)) => break None,
                Err(_) => {
                    // Stalled, most likely by its disk: whatever it was, it does not lead now.
                    self.publish(None, None, false);
                    self.now()
                }
            };
            let is_ready = self.leads.borrow().is_me;
            let is_over = beat.idle(async {
                tokio::select! {
                    biased;
                    changed = changes.changed() => changed.is_err(),
                    _ = self.applied.changed(), if self.leading.is_some() && !is_ready => false,
                    () = sleep_until(wake) => false,
                }
            });
            if is_over.await {
                break None;
            }
        };
        self.publish(None, None, false);
        let why = match (failure, &self.raft.metrics().borrow().running_state) {
            (Some(error), _) => chain_text(&error),
            (None, Err(openraft::error::Fatal::StorageError(error))) => error.to_string(),
            (None, Err(openraft::error::Fatal::Stopped)) if is_stopping.load(Ordering::Relaxed) => String::new(),
            (None, Err(fatal)) => fatal.to_string(),
            (None, Ok(())) => "it panicked, see the log above".to_owned(),
        };
        if why.is_empty() {
            state.send_replace(GroupState::Stopped);
            return;
        }
        tracing::error!(group = %self.caller.config.group, error = %why, "group stopped on this node");
        state.send_replace(GroupState::Failed { why });
        self.caller.env.tasks.stop();
    }

    fn me(&self) -> u64 {
        self.caller.config.node.get()
    }

    fn now(&self) -> Instant {
        self.caller.env.clock.now()
    }

    /// Does what is to be done now; gives when to look again at the latest.
    async fn step(&mut self, seen: &Seen) -> Instant {
        self.caller.term.fetch_max(seen.term, Ordering::Relaxed);
        if self.drawn_for != Some(seen.state()) {
            self.drawn_for = Some(seen.state());
            self.spread = self.caller.env.rng.range(0, 1000) as f64 / 1000.0;
        }
        let (timers, now) = (self.caller.timing.now(), self.now());
        let is_short = self.caller.is_short.load(Ordering::Relaxed);
        let duty = decide(self.me(), seen, &timers, self.spread, is_short, now);
        if duty == Duty::Lead {
            return self.lead(seen).await;
        }
        if self.leading.take().is_some() {
            (self.beat_at, self.fitted) = (None, None);
            self.caller.timing.withdraw();
        }
        self.caller.contacts.mute(false);
        self.publish(Some(seen.term), seen.live_leader(self.me(), &timers, now), false);
        match duty {
            Duty::Follow(until) => until,
            Duty::Campaign => self.campaign(seen).await,
            // Only a message can change that; look now and then for the leader's lease.
            Duty::Idle | Duty::Lead => now + timers.election_max,
        }
    }

    /// Checks that a majority answers; finishes what a predecessor left half done.
    async fn lead(&mut self, seen: &Seen) -> Instant {
        let (timers, now) = (self.caller.timing.now(), self.now());
        let since = match self.leading {
            Some((term, since)) if term == seen.term => since,
            _ => {
                self.caller.contacts.forget_round_trips();
                self.fitted = Some(now);
                now
            }
        };
        self.leading = Some((seen.term, since));
        if self.caller.ahead.since(now) > timers.election_max {
            // It keeps silent (`network`), so others will elect one whose disk works.
            self.publish(Some(seen.term), None, false);
            return now + timers.heartbeat;
        }
        let heard = self.caller.contacts.quorum(self.me(), &seen.voters, since, now);
        let is_alone = age(now, heard) > timers.election_max;
        if self.caller.contacts.mute(is_alone) {
            tracing::warn!(group = %self.caller.config.group, term = seen.term, is_alone, "majority of voters");
        }
        let has_caught_up = self.applied.borrow().is_some_and(|at| at.term >= seen.term);
        let leader = (!is_alone).then(|| self.me());
        self.publish(Some(seen.term), leader, !is_alone && has_caught_up);
        if is_alone {
            // Whoever answers has been heard.
            self.ask(&seen.other_voters(self.me()), &Request::Ping, Class::Ping).collect::<Vec<_>>().await;
            self.beat_at = None;
            return self.now() + timers.heartbeat;
        }
        if seen.voters.len() > 1 && has_caught_up {
            self.finish_change();
        }
        self.fit_timers(seen).await;
        self.beat().await
    }

    /// Sends heartbeats when they are due; gives when the next one is.
    async fn beat(&mut self) -> Instant {
        let now = self.now();
        if let Some(at) = self.beat_at.filter(|at| *at > now) {
            return at;
        }
        self.raft.trigger().heartbeat().await.ok();
        let next = now + self.caller.timing.heartbeat();
        self.beat_at = Some(next);
        next
    }

    /// Lets the timers follow what was measured, and goes over to those that were announced.
    async fn fit_timers(&mut self, seen: &Seen) {
        let (timing, now) = (&self.caller.timing, self.now());
        if let Some(timers) = timing.due(now) {
            if let Err(error) = self.log.save_timers(timers).await {
                tracing::warn!(group = %self.caller.config.group, error = %chain_text(&error), "timers not kept");
                return;
            }
            tracing::info!(group = %self.caller.config.group, ?timers, "timers changed");
            timing.set(timers);
        }
        let Some(since) = self.fitted.filter(|since| age(now, *since) >= self.caller.config.retime_every) else {
            return;
        };
        self.fitted = Some(now);
        let contacts = &self.caller.contacts;
        let (others, mine) = (seen.other_voters(self.me()), BTreeSet::from([self.me()]));
        contacts.heard(self.me(), now);
        let measured = contacts.round_trip(&others, since).zip(contacts.round_trip(&mine, since));
        if let Some(timers) = measured.and_then(|(theirs, own)| fit(&timing.now(), theirs + own)) {
            tracing::info!(group = %self.caller.config.group, ?measured, ?timers, "changing the timers");
            timing.announce(timers, now);
        }
    }

    /// Asks who would vote for this node; campaigns if that is a majority.
    async fn campaign(&mut self, seen: &Seen) -> Instant {
        let timers = self.caller.timing.now();
        let request = Request::PreVote { last: seen.last };
        let mut granted = BTreeSet::from([self.me()]);
        let others = seen.other_voters(self.me());
        let mut answers = self.ask(&others, &request, Class::Vote);
        // The dead do not answer: to wait for all would let a turn pass.
        while !is_quorum(&seen.voters, &granted) {
            match answers.next().await {
                Some((node, Some(Answer::PreVoted { is_granted: true }))) => {
                    granted.insert(node);
                }
                Some(_) => {}
                None => return self.now() + self.caller.env.rng.jitter(timers.stagger),
            }
        }
        drop(answers);
        // Meanwhile another may have won, or the leader have been heard again.
        if !matches!(timeout(CORE_LIMIT, Seen::ask(&self.raft)).await, Ok(Ok(now)) if now.state() == seen.state()) {
            return self.now();
        }
        tracing::info!(group = %self.caller.config.group, term = seen.term + 1, "campaigning");
        self.raft.trigger().elect().await.ok();
        self.now() + timers.election_min
    }

    /// Asks several nodes at once; gives their answers as they come, none for those that do not.
    fn ask<'a>(
        &'a self,
        nodes: &'a BTreeSet<u64>,
        request: &'a Request,
        class: Class,
    ) -> BoxStream<'a, (u64, Option<Answer>)> {
        let limit = self.caller.timing.now().election_min / 2;
        let asked: FuturesUnordered<_> = nodes
            .iter()
            .map(|node| async move {
                let call = self.caller.call(*node, request, class, limit);
                (*node, timeout(limit, call).await.ok().and_then(Result::ok))
            })
            .collect();
        asked.boxed()
    }

    /// In the background, unless a change is under way.
    fn finish_change(&self) {
        let Ok(alone) = Arc::clone(&self.membership).try_lock_owned() else { return };
        let raft = self.raft.clone();
        self.caller.env.tasks.spawn("finish a change of voters", async move {
            match timeout(FINISH_LIMIT, members::finish(&raft)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::info!(%error, "change of voters not finished, trying again"),
                Err(_) => tracing::info!("change of voters not finished in time, trying again"),
            }
            drop(alone);
        });
    }

    /// Says who leads, if that is news. No term: as before.
    fn publish(&self, term: Option<u64>, leader: Option<u64>, is_me: bool) {
        let now = self.now();
        self.leads.send_if_modified(|known| {
            let term = term.map_or(known.term, Term);
            let news = Leadership { leader: leader.map(NodeId::new), term, is_me, since: known.since };
            let is_news = news != *known;
            if is_news {
                tracing::debug!(group = %self.caller.config.group, leader = ?news.leader, %term, is_me, "leadership");
                *known = Leadership { since: now, ..news };
            }
            is_news
        });
    }
}
