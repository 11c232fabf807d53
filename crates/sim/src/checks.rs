//! What must always hold. Everything that happens is told here; what is wrong is kept with its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use insula_env::TaskGroup;
use insula_raft::{Group, GroupState, OpenError};
use insula_state::{Domain, RegionState, Replica, replica::Update};
use insula_types::{NodeId, Revision, Term, codec};
use parking_lot::Mutex;

use crate::{
    net::machine_of,
    trace::{Trace, fnv},
};

/// Kept at most; one is enough to fail.
const VIOLATIONS_MAX: usize = 10;

/// Collects. Clones share it.
#[derive(Clone)]
pub(crate) struct Checks(Arc<Inner>);

struct Inner {
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    violations: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    leaders: BTreeMap<Term, NodeId>,
    /// Hash of the changes that made a revision.
    batches: BTreeMap<Revision, u64>,
    /// Hash of the whole state at a revision, where some copy was taken.
    digests: BTreeMap<Revision, u64>,
    /// Serials whose write was confirmed.
    confirmed: BTreeSet<u64>,
    /// Serials that were ever sent.
    sent: BTreeSet<u64>,
    /// Serials that a finished linearizable read has seen.
    seen: BTreeSet<u64>,
    /// Whether disks fail by order, so that a group may be unable to open.
    has_failing_disk: BTreeSet<u64>,
}

/// What was known when a read began.
pub(crate) struct Began(BTreeSet<u64>);

impl Checks {
    pub(crate) fn new(trace: Trace) -> Self {
        Self(Arc::new(Inner { trace, state: Mutex::default() }))
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.0.trace
    }

    pub(crate) fn violation(&self, what: impl std::fmt::Display) {
        let at = self.0.trace.elapsed().as_secs_f64();
        let text = format!("at {at:.3} s: {what}");
        self.0.trace.event(&format!("VIOLATION {text}"));
        let mut state = self.0.state.lock();
        if state.violations.len() < VIOLATIONS_MAX {
            state.violations.push(text);
        }
    }

    pub(crate) fn has_violations(&self) -> bool {
        !self.0.state.lock().violations.is_empty()
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.0.state.lock().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn result(&self) -> (Vec<String>, BTreeMap<&'static str, u64>) {
        let state = self.0.state.lock();
        (state.violations.clone(), state.counts.clone())
    }

    /// Disks that fail by order may keep a group from opening; others may not.
    pub(crate) fn set_failing_disk(&self, machine: u64, is_failing: bool) {
        let mut state = self.0.state.lock();
        if is_failing {
            state.has_failing_disk.insert(machine);
        } else {
            state.has_failing_disk.remove(&machine);
        }
    }

    pub(crate) fn has_failing_disk(&self, machine: u64) -> bool {
        self.0.state.lock().has_failing_disk.contains(&machine)
    }

    pub(crate) fn may_not_open(&self, node: NodeId, error: &OpenError) {
        self.0.trace.event(&format!("{node} cannot open its group: {error}"));
        if !self.has_failing_disk(machine_of(node)) {
            self.violation(format!("{node} cannot open its group: {error:?}"));
        }
    }

    fn may_not_fail(&self, node: NodeId, why: &str) {
        self.0.trace.event(&format!("the group on {node} stopped: {why}"));
        if !self.has_failing_disk(machine_of(node)) {
            self.violation(format!("the group on {node} stopped: {why}"));
        }
    }

    /// A write is on its way.
    pub(crate) fn sent(&self, serial: u64) {
        self.0.state.lock().sent.insert(serial);
    }

    /// A write was confirmed.
    pub(crate) fn confirmed(&self, serial: u64) {
        self.0.trace.event(&format!("confirmed {serial}"));
        self.0.state.lock().confirmed.insert(serial);
        self.count("writes confirmed");
    }

    /// A linearizable read begins: all that was confirmed, or read, until now must be in it.
    pub(crate) fn read_begins(&self) -> Began {
        let state = self.0.state.lock();
        Began(state.confirmed.union(&state.seen).copied().collect())
    }

    /// It has ended.
    pub(crate) fn read_ends(&self, node: NodeId, began: &Began, found: &BTreeSet<u64>) {
        self.0.trace.event(&format!("{node} read {} serials", found.len()));
        self.count("linearizable reads");
        let missing: Vec<u64> = began.0.difference(found).copied().take(5).collect();
        if !missing.is_empty() {
            self.violation(format!("stale read on {node}: serials {missing:?} were confirmed or read before it began"));
        }
        let mut state = self.0.state.lock();
        let invented: Vec<u64> = found.difference(&state.sent).copied().take(5).collect();
        state.seen.extend(found);
        drop(state);
        if !invented.is_empty() {
            self.violation(format!("{node} read serials that nobody wrote: {invented:?}"));
        }
    }

    /// At the end: everything that was confirmed is there.
    pub(crate) fn all_kept(&self, node: NodeId, found: &BTreeSet<u64>) {
        let lost: Vec<u64> = self.0.state.lock().confirmed.difference(found).copied().take(5).collect();
        if !lost.is_empty() {
            self.violation(format!("confirmed writes are lost on {node}: {lost:?}"));
        }
    }

    /// Follows what a node applies and whether it leads, until its tasks end.
    pub(crate) fn follow(&self, tasks: &TaskGroup, node: NodeId, replica: &Arc<Replica<RegionState>>, group: &Group) {
        let (checks, replica) = (self.clone(), Arc::clone(replica));
        tasks.spawn("check the state", async move { checks.follow_state(node, &replica).await });
        let (checks, mut state) = (self.clone(), group.state());
        tasks.spawn("check the group", async move {
            let ended = state.wait_for(|state| *state != GroupState::Running).await.map(|state| state.clone());
            if let Ok(GroupState::Failed { why }) = ended {
                checks.may_not_fail(node, &why);
            }
        });
        let (checks, mut leadership) = (self.clone(), group.leadership());
        tasks.spawn("check the leader", async move {
            loop {
                let now = *leadership.borrow_and_update();
                if now.is_me {
                    checks.leads(node, now.term);
                }
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn leads(&self, node: NodeId, term: Term) {
        self.0.trace.event(&format!("{node} leads term {term}"));
        let other = *self.0.state.lock().leaders.entry(term).or_insert(node);
        if other != node {
            self.violation(format!("term {term} has two leaders, {other} and {node}"));
        }
        self.count("terms led");
    }

    async fn follow_state(&self, node: NodeId, replica: &Arc<Replica<RegionState>>) {
        let mut watch = replica.watch(None);
        let mut at: Option<Revision> = None;
        loop {
            match watch.next().await {
                Update::Reset { revision, objects } => {
                    let digest = fnv(0, &codec::encode(&objects));
                    self.same_state(node, revision, digest);
                    at = Some(revision);
                }
                Update::Batch(batch) => {
                    if at.map(Revision::next) != Some(batch.revision) {
                        self.violation(format!("a watch on {node} went from revision {at:?} to {}", batch.revision));
                    }
                    at = Some(batch.revision);
                    self.same_batch(node, batch.revision, fnv(0, &codec::encode(&*batch)));
                }
            }
        }
    }

    fn same_batch(&self, node: NodeId, revision: Revision, hash: u64) {
        self.0.trace.bytes(&revision.0.to_be_bytes());
        let known = *self.0.state.lock().batches.entry(revision).or_insert(hash);
        if known != hash {
            self.violation(format!("revision {revision} on {node} has other changes than elsewhere, or than before"));
        }
    }

    fn same_state(&self, node: NodeId, revision: Revision, digest: u64) {
        let known = *self.0.state.lock().digests.entry(revision).or_insert(digest);
        if known != digest {
            self.violation(format!("the state on {node} at revision {revision} differs from another copy of it"));
        }
    }

    /// Compares a whole copy with all others of its revision.
    pub(crate) fn copy(&self, node: NodeId, replica: &Replica<RegionState>) -> Revision {
        let (revision, digest) =
            replica.read_at(|state, revision| (revision, fnv(0, &codec::encode(&state.objects()))));
        self.same_state(node, revision, digest);
        revision
    }
}
