//! What the edges have counted of releases that are being tried, in the memory of the leader. Nothing of this is replicated: each renewal
//! brings all that an edge has counted since it began, so that a lost one, or another leader, loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use insula_types::{NodeId, ReleaseNumber, ServiceRef, Tally, Traffic, traffic::RELEASES_TOLD_MAX};

/// Lives of one node's edge of which is known what they counted: those that it has begun anew while a release is tried.
const LIVES_MAX: usize = 8;

/// By node: what the lives of its edge have counted, the present one last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counted(BTreeMap<NodeId, Vec<Traffic>>);

/// What instances of a release got, and what those of the one before it got meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Compared {
    pub new: Tally,
    pub old: Tally,
}

impl Counted {
    /// A node tells what its edge has counted.
    pub(crate) fn hear(&mut self, node: NodeId, traffic: &Traffic) {
        let mut traffic = traffic.clone();
        traffic.releases.truncate(RELEASES_TOLD_MAX);
        let lives = self.0.entry(node).or_default();
        match lives.iter_mut().find(|life| life.edge == traffic.edge) {
            Some(life) => *life = traffic,
            None => {
                lives.push(traffic);
                let excess = lives.len().saturating_sub(LIVES_MAX);
                lives.drain(..excess);
            }
        }
    }

    /// Forgets what is of nodes that are no members any more, and of services of which no release is tried any more.
    pub(crate) fn keep(&mut self, is_member: impl Fn(NodeId) -> bool, is_tried: impl Fn(&ServiceRef) -> bool) {
        self.0.retain(|node, lives| {
            lives.iter_mut().for_each(|life| life.releases.retain(|one| is_tried(&one.service)));
            lives.retain(|life| !life.releases.is_empty());
            is_member(*node) && !lives.is_empty()
        });
    }

    /// Compares the releases `new` of a service with `good` and what was before that, over the same while.
    pub(crate) fn compare(&self, service: &ServiceRef, new: &BTreeSet<ReleaseNumber>, good: ReleaseNumber) -> Compared {
        let of_lives = self.0.values().flatten().map(|life| compare_one(life, service, new, good));
        of_lives.fold(Compared::default(), |sum, one| Compared { new: sum.new + one.new, old: sum.old + one.old })
    }
}

fn compare_one(life: &Traffic, service: &ServiceRef, new: &BTreeSet<ReleaseNumber>, good: ReleaseNumber) -> Compared {
    let of_service = || life.releases.iter().filter(|one| one.service == *service);
    // The while begins with the first request to the first of them.
    let mut tried = of_service().filter(|one| new.contains(&one.release)).peekable();
    let Some(first) = tried.peek().copied() else { return Compared::default() };
    let before = |release| first.before.get(&release).copied().unwrap_or_default();
    let old = of_service().filter(|one| one.release <= good).map(|one| one.tally.since(before(one.release))).sum();
    Compared { new: tried.map(|one| one.tally).sum(), old }
}

#[cfg(test)]
mod tests {
    use insula_types::ReleaseTraffic;

    use super::*;

    fn service() -> ServiceRef {
        ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"))
    }

    fn tally(requests: u64, failed: u64) -> Tally {
        Tally { requests, failed }
    }

    fn counted(release: u64, tally: Tally, before: &[(u64, Tally)]) -> ReleaseTraffic {
        let before = before.iter().map(|(release, tally)| (ReleaseNumber(*release), *tally)).collect();
        ReleaseTraffic { service: service(), release: ReleaseNumber(release), tally, before }
    }

    fn compare(all: &Counted, new: &[u64]) -> Compared {
        all.compare(&service(), &new.iter().copied().map(ReleaseNumber).collect(), ReleaseNumber(6))
    }

    #[test]
    fn what_the_old_one_got_before_does_not_count_and_a_restart_takes_nothing_away() {
        let mut all = Counted::default();
        let node = NodeId::new;
        let old = counted(6, tally(1000, 90), &[]);
        all.hear(node(1), &Traffic { edge: 1, releases: vec![old.clone()] });
        assert_eq!(compare(&all, &[7]), Compared::default(), "nothing went to the new one yet");
        let new = counted(7, tally(10, 2), &[(6, tally(900, 89))]);
        let told = Traffic { edge: 1, releases: vec![old, new] };
        all.hear(node(1), &told);
        all.hear(node(1), &told);
        assert_eq!(compare(&all, &[7]), Compared { new: tally(10, 2), old: tally(100, 1) });
        // Its edge begins anew: what it has counted before stays, and is not counted twice when it comes late.
        let anew = vec![counted(6, tally(50, 0), &[]), counted(7, tally(5, 1), &[(6, tally(7, 0))])];
        all.hear(node(1), &Traffic { edge: 2, releases: anew });
        all.hear(node(1), &told);
        assert_eq!(compare(&all, &[7]), Compared { new: tally(15, 3), old: tally(143, 1) });
        let other = vec![counted(7, tally(1, 0), &[]), counted(8, tally(1, 1), &[(7, tally(1, 0))])];
        all.hear(node(2), &Traffic { edge: 3, releases: other });
        assert_eq!(compare(&all, &[7]).new, tally(16, 3), "release 8 is another one");
        assert_eq!(compare(&all, &[7, 8]).new, tally(17, 4));

        all.keep(|id| id == node(1), |_| true);
        assert_eq!(compare(&all, &[7]).new, tally(15, 3));
        all.keep(|_| true, |_| false);
        assert!(all.0.is_empty());
    }

    #[test]
    fn an_edge_that_begins_anew_all_the_time_fills_no_memory() {
        let mut all = Counted::default();
        for edge in 0..100 {
            let told = Traffic { edge, releases: vec![counted(7, tally(1, 1), &[]); RELEASES_TOLD_MAX + 1] };
            all.hear(NodeId::new(1), &told);
        }
        let lives = &all.0[&NodeId::new(1)];
        assert_eq!(lives.len(), LIVES_MAX);
        assert!(lives.iter().all(|life| life.releases.len() == RELEASES_TOLD_MAX));
    }
}
