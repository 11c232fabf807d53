//! What a node shall trust and show, as the global state says; and what it says of itself. Pure.

use std::fmt;

use insula_identity::{CertificateDer, root_hash};
use insula_state::{
    GlobalState,
    global::{RootState, TrustedRoot},
    region::NodeTrust,
};
use insula_types::RegionName;

/// Roots to trust, and certificates of the region's CA to show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Hash of the active root.
    pub active: String,
    /// The active one first.
    pub roots: Vec<CertificateDer<'static>>,
    /// Those for the region's CA, all for one key: of the active root first, then of the one that retires.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// What the nodes of a region shall trust and show; none while the state says nothing of it, as before the founding.
pub(crate) fn wanted(global: &GlobalState, region: &RegionName) -> Option<Wanted> {
    let mut roots: Vec<(&String, &TrustedRoot)> = global.roots.iter().collect();
    roots.sort_by_key(|(hash, root)| (rank(root.state), (*hash).clone()));
    let (active, first) = roots.first()?;
    let authorities: Vec<_> = roots
        .iter()
        // Nobody needs to show what leads to a root that not everybody trusts yet.
        .filter(|(_, root)| root.state != RootState::Trusted)
        .filter_map(|(_, root)| root.regions.get(region).map(|certificate| certificate.to_vec().into()))
        .collect();
    if first.state != RootState::Active || !first.regions.contains_key(region) {
        return None;
    }
    let active = (*active).clone();
    Some(Wanted {
        active,
        roots: roots.iter().map(|(_, root)| root.certificate.to_vec().into()).collect(),
        authorities,
    })
}

const fn rank(state: RootState) -> u8 {
    match state {
        RootState::Active => 0,
        RootState::Trusted => 1,
        RootState::Retiring => 2,
    }
}

impl Wanted {
    /// The chain of a node whose present chain begins with its own certificate.
    pub(crate) fn chain(&self, present: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
        present.iter().take(1).chain(&self.authorities).cloned().collect()
    }

    /// What a node says that has done so.
    pub(crate) fn told(&self) -> NodeTrust {
        let hashes = |certificates: &[CertificateDer<'_>]| certificates.iter().map(|one| hash(one)).collect();
        NodeTrust { roots: hashes(&self.roots), authorities: hashes(&self.authorities) }
    }
}

/// SHA-256 of a certificate in hexadecimal digits.
pub(crate) fn hash(certificate: &CertificateDer<'_>) -> String {
    root_hash(certificate).to_string()
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wanted({:?})", self.told())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use insula_state::{
        Domain,
        global::{GlobalKey, GlobalObject},
    };
    use insula_types::Revision;

    use super::*;

    fn state(roots: &[(u8, RootState, bool)]) -> Option<Wanted> {
        let region: RegionName = "fra".parse().expect("name");
        let mut global = GlobalState::default();
        for (number, state, has_region) in roots {
            let regions = if *has_region {
                BTreeMap::from([(region.clone(), vec![*number + 100].into())])
            } else {
                BTreeMap::new()
            };
            let root = TrustedRoot { certificate: vec![*number].into(), state: *state, regions, added_ms: 0 };
            let key = GlobalKey::Root(hash(&vec![*number].into()));
            global.absorb(Revision(1), key, Some(GlobalObject::Root(root)));
        }
        wanted(&global, &region)
    }

    fn told(roots: &[(u8, RootState, bool)]) -> Option<(Vec<u8>, Vec<u8>)> {
        let first = |all: Vec<CertificateDer<'_>>| all.iter().map(|one| one[0]).collect();
        state(roots).map(|wanted| (first(wanted.roots), first(wanted.authorities)))
    }

    #[test]
    fn the_active_root_comes_first_and_chains_lead_to_what_everybody_trusts() {
        use RootState::{Active, Retiring, Trusted};
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[(1, Active, true)]), Some((vec![1], vec![101])));
        assert_eq!(told(&[(1, Trusted, true), (2, Active, true)]), Some((vec![2, 1], vec![102])));
        assert_eq!(told(&[(1, Retiring, true), (2, Active, true)]), Some((vec![2, 1], vec![102, 101])));
        // A state that leaves the region without a certificate changes nothing.
        assert_eq!(told(&[(1, Active, false)]), None);
        assert_eq!(told(&[(1, Trusted, true)]), None);
    }
}
