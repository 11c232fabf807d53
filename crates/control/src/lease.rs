//! Leases of the nodes, in the memory of the leader. Nothing of this is replicated: a new leader gives everyone a full
//! lease from its election, so that losing a leader never makes a node look dead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_env::clock::Instant;
use insula_types::{Load, NodeId, Renewal, Revision, ServiceRef};

use crate::traffic::Counted;

/// How long a lease holds: five renewals of 500 ms. Four may be lost or late, and a silent node is still replaced well
/// within the 8 s that a replacement may take (2.5 s here, up to 2 s for an election, the rest for the start).
pub const LEASE: Duration = Duration::from_millis(2500);

/// A leader that did not look at its leases for so long was paused itself, and cannot tell who was silent meanwhile.
pub const STALL: Duration = Duration::from_millis(1250);

/// Renewals in a row after which a node that was down is up again: not for a single one that slipped through.
pub const RENEWALS_UNTIL_UP: u32 = 3;

/// One node's lease.
#[derive(Debug, Clone, Copy)]
struct Lease {
    ends: Instant,
    /// Renewals since it last began.
    renewals: u32,
    load: Load,
    acknowledged: Revision,
    is_disk_full: bool,
}

/// All leases.
#[derive(Debug, Clone)]
pub struct LeaseTable {
    leases: BTreeMap<NodeId, Lease>,
    looked_at: Instant,
    /// Whether renewals were refused at some time since it was looked at.
    is_doubted: bool,
    /// What came with renewals of what the edges have counted.
    counted: Counted,
}

impl LeaseTable {
    /// The table of a new leader: everyone in `up` holds a full lease from `now`.
    pub fn begin(now: Instant, up: impl IntoIterator<Item = NodeId>) -> Self {
        let mut table =
            Self { leases: BTreeMap::new(), looked_at: now, is_doubted: false, counted: Counted::default() };
        for node in up {
            table.grant(now, node);
        }
        table
    }

    /// A full lease for a node that has not asked for it. Without effect when it has one that runs or ran out.
    pub fn grant(&mut self, now: Instant, node: NodeId) {
        self.leases.entry(node).or_insert(Lease {
            ends: now + LEASE,
            renewals: 0,
            load: Load::default(),
            acknowledged: Revision(0),
            is_disk_full: false,
        });
    }

    /// A node renewed its lease. True when that is worth a look: it came back, acknowledged something new, or its disk is
    /// full or is not any more.
    pub fn renew(&mut self, now: Instant, node: NodeId, renewal: &Renewal) -> bool {
        let before = self.leases.get(&node).copied();
        let renewals = match before {
            Some(lease) if lease.ends > now => lease.renewals.saturating_add(1),
            _ => 1,
        };
        let acknowledged = renewal.catalog_revision;
        let (load, is_disk_full) = (renewal.load, renewal.is_disk_full);
        self.leases.insert(node, Lease { ends: now + LEASE, renewals, load, acknowledged, is_disk_full });
        if let Some(traffic) = &renewal.traffic {
            self.counted.hear(node, traffic);
        }
        let is_same = |lease: Lease| lease.acknowledged == acknowledged && lease.is_disk_full == is_disk_full;
        renewals == RENEWALS_UNTIL_UP || !before.is_some_and(is_same)
    }

    /// Nobody can renew: the leader is not sure that it leads. However short that was, the nodes have to find it again.
    pub fn doubt(&mut self) {
        self.is_doubted = true;
    }

    /// To be called often. After a stall of the leader itself, or doubt, everyone who held a lease gets a full one again.
    pub fn look(&mut self, now: Instant) {
        let is_doubted = std::mem::take(&mut self.is_doubted);
        if is_doubted || now.saturating_duration_since(self.looked_at) > STALL {
            let looked_at = self.looked_at;
            for lease in self.leases.values_mut().filter(|lease| lease.ends > looked_at) {
                lease.ends = lease.ends.max(now + LEASE);
            }
        }
        self.looked_at = now;
    }

    /// Forgets nodes that are no members any more, and what was counted of services of which no release is tried any more.
    pub fn keep(&mut self, is_member: impl Fn(NodeId) -> bool, is_tried: impl Fn(&ServiceRef) -> bool) {
        self.leases.retain(|node, _| is_member(*node));
        self.counted.keep(is_member, is_tried);
    }

    /// What the edges have counted.
    pub(crate) const fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Whether the node holds a lease.
    pub fn is_live(&self, now: Instant, node: NodeId) -> bool {
        self.leases.get(&node).is_some_and(|lease| lease.ends > now)
    }

    /// Whether the node has told this leader of late what its edge has counted, as far as there is anything.
    pub(crate) fn has_told(&self, now: Instant, node: NodeId) -> bool {
        self.leases.get(&node).is_some_and(|lease| lease.ends > now && lease.renewals > 0)
    }

    /// Whether the node has renewed often enough to be taken for up again.
    pub fn is_steady(&self, now: Instant, node: NodeId) -> bool {
        self.leases.get(&node).is_some_and(|lease| lease.ends > now && lease.renewals >= RENEWALS_UNTIL_UP)
    }

    /// Whether every node that holds a lease routes by `revision` or a later one.
    pub fn is_acknowledged(&self, now: Instant, revision: Revision) -> bool {
        self.leases.values().all(|lease| lease.ends <= now || lease.acknowledged >= revision)
    }

    /// The nodes on whose disks nothing can be started.
    pub(crate) fn full(&self) -> BTreeSet<NodeId> {
        self.leases.iter().filter(|(_, lease)| lease.is_disk_full).map(|(node, _)| *node).collect()
    }

    /// When the next lease ends, if nobody renews.
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        self.leases.values().map(|lease| lease.ends).filter(|ends| *ends > now).min()
    }

    /// What the nodes said of their load.
    pub fn loads(&self) -> BTreeMap<NodeId, Load> {
        self.leases.iter().map(|(node, lease)| (*node, lease.load)).collect()
    }
}
