//! Roots and region CAs: what there is, and the steps of their replacement. Each step can be asked for again after it was
//! cut off. The order, and what protects it: docs/design/identity.md.

use std::time::UNIX_EPOCH;

use insula_api::{
    Answer, Code, Problem,
    wire::{CaNode, CaRoot, CaRootState, CaStatus, RecoveryBody, RootAdded, RootBody, RootChanged, Versioned},
};
use insula_identity::{NextRoot, RecoveryKey, RegionAuthority, RootAuthority, validity};
use insula_state::{
    Committed, GlobalCommand,
    global::{GlobalReply, RootState, TrustedRoot},
};
use insula_telemetry::chain;
use insula_types::NodeHealth;
use serde_bytes::ByteBuf;

use super::NodeApi;
use crate::{founding::first_root, membership::give_authority, trust};

fn internal(error: impl std::error::Error + 'static) -> Problem {
    Problem::new(Code::Internal, chain(&error))
}

fn conflict(text: impl Into<String>) -> Problem {
    Problem::new(Code::Conflict, text)
}

impl NodeApi {
    pub(super) fn ca_status(&self) -> Versioned<CaStatus> {
        let own = &self.config.region;
        self.global.replica().read_at(|global, revision| {
            let mut roots: Vec<_> = global.roots.iter().map(|(hash, root)| describe(hash, root)).collect();
            roots.sort_by_key(|root| root.state != CaRootState::Active);
            let wanted = trust::wanted(global, own).map(|wanted| wanted.told());
            let nodes = self.region.read(|region| {
                let node = |node: &insula_types::Node| {
                    let told = region.trust.get(&node.id);
                    CaNode {
                        node: node.id,
                        name: node.name.clone(),
                        is_up: node.health == NodeHealth::Up,
                        roots: told.map_or_else(Vec::new, |told| told.roots.clone()),
                        is_current: told.is_some() && told == wanted.as_ref(),
                    }
                };
                region.nodes.values().map(node).collect()
            });
            Versioned { revision, value: CaStatus { roots, nodes } }
        })
    }

    /// The region CA's key, and the root's, which `recovery_key` opens.
    fn open_keys(&self, recovery_key: &str) -> Answer<(RegionAuthority, RootAuthority)> {
        let root = self.open_root(recovery_key)?;
        let authority = self.directory.load_region_authority().map_err(internal)?;
        Ok((authority.ok_or_else(|| self.keeps_no_keys())?, root))
    }

    /// The root's key, which `recovery_key` opens.
    pub(super) fn open_root(&self, recovery_key: &str) -> Answer<RootAuthority> {
        let sealed = self.directory.load_sealed_root().map_err(internal)?.ok_or_else(|| self.keeps_no_keys())?;
        let key =
            RecoveryKey::parse(recovery_key).map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))?;
        RootAuthority::unseal(&sealed, &key).map_err(|error| Problem::new(Code::Forbidden, error.to_string()))
    }

    fn keeps_no_keys(&self) -> Problem {
        let own = &self.config.name;
        let voters = self.global_group.raft().voters();
        let name = |node| self.region.read(|region| region.nodes.get(node).map(|node| node.name.to_string()));
        let names = voters.iter().filter_map(name).collect::<Vec<_>>();
        if !names.is_empty() {
            return conflict(format!("{own} keeps no keys: ask a node that votes: {}", names.join(", ")));
        }
        let first = self.global.read(|global| {
            let oldest = global.regions.values().min_by_key(|region| region.created_ms);
            oldest.map_or_else(|| self.config.region.clone(), |region| region.name.clone())
        });
        conflict(format!(
            "{own} keeps no root key, since it does not vote in the global group: ask a node of region {first} that does \
             (`insula status` says so there)"
        ))
    }

    /// Commits a step.
    async fn step(&self, command: &GlobalCommand) -> Answer<Committed<GlobalReply>> {
        self.change(&self.global, None, command).await
    }

    /// A cluster of an earlier version has no root in its state: then this node's is the first.
    pub(super) async fn ensure_first_root(&self) -> Answer<()> {
        if self.global.read(|global| global.roots.is_empty()) {
            let first = first_root(&self.material).map_err(|why| Problem::new(Code::Internal, why))?;
            self.step(&first).await?;
        }
        Ok(())
    }

    pub(super) async fn certify_region_anew(&self, body: RecoveryBody) -> Answer<Versioned<RootChanged>> {
        let _alone = self.authority.lock().await;
        let (authority, root) = self.open_keys(&body.recovery_key)?;
        self.ensure_first_root().await?;
        let hash = root.hash().to_string();
        let state = self.global.read(|global| global.roots.get(&hash).map(|root| root.state));
        if state != Some(RootState::Active) {
            return Err(conflict(format!("the key is that of root {hash}, which is not the active one")));
        }
        let lifetimes = self.config.lifetimes();
        let certificate = root.certify_region(&authority, &lifetimes, self.clock.wall()).map_err(internal)?;
        let region = self.config.region.clone();
        let certificate = ByteBuf::from(certificate.to_vec());
        let command = GlobalCommand::SetRegionAuthority { root: hash.clone(), region, certificate };
        let revision = self.step(&command).await?.revision;
        Ok(Versioned { revision, value: RootChanged { root: hash } })
    }

    /// Makes the next root. Its sealed key is on every voter before anybody trusts it. Asked for again, another one takes
    /// its place, so that an answer that was lost, and with it a recovery key, blocks nothing.
    pub(super) async fn make_next_root(&self, body: RecoveryBody) -> Answer<Versioned<RootAdded>> {
        let _alone = self.authority.lock().await;
        let (authority, present) = self.open_keys(&body.recovery_key)?;
        self.ensure_first_root().await?;
        if self.global.read(|global| global.regions.len()) > 1 {
            return Err(conflict("the roots of a cluster of several regions cannot be replaced yet"));
        }
        let (lifetimes, now) = (self.config.lifetimes(), self.clock.wall());
        let next = RootAuthority::create(present.cluster().clone(), &lifetimes, now).map_err(internal)?;
        let recovery_key = RecoveryKey::random(&self.rng);
        let certificate = next.certify_region(&authority, &lifetimes, now).map_err(internal)?;
        let hash = next.hash().to_string();
        let sealed = next.seal(&recovery_key).map_err(internal)?;
        self.directory.save_next_root(&NextRoot { root: hash.clone(), sealed }).map_err(internal)?;
        for voter in self.global_group.raft().voters().into_iter().filter(|voter| *voter != self.node) {
            give_authority(&self.directory, &self.rpc, voter, true).await.map_err(|error| {
                Problem::new(Code::NodeUnreachable, format!("voter {voter} did not take the new root's key: {error}"))
            })?;
        }
        let root = TrustedRoot {
            certificate: ByteBuf::from(next.certificate().to_vec()),
            state: RootState::Trusted,
            regions: [(self.config.region.clone(), ByteBuf::from(certificate.to_vec()))].into(),
            added_ms: 0,
        };
        let revision = self.step(&GlobalCommand::AddRoot { hash: hash.clone(), root }).await?.revision;
        let value = RootAdded { root: hash, recovery_key: recovery_key.reveal() };
        Ok(Versioned { revision, value })
    }

    pub(super) async fn use_root(&self, body: RootBody) -> Answer<Versioned<RootChanged>> {
        let _alone = self.authority.lock().await;
        let hash = body.root;
        let state = self.global.read(|global| global.roots.get(&hash).map(|root| root.state));
        if state == Some(RootState::Trusted) {
            let next = self.directory.load_next_root().map_err(internal)?;
            if next.is_none_or(|next| next.root != hash) {
                let text = "the sealed key of this root is not on this node: ask a node that votes, or make another";
                return Err(conflict(text));
            }
            // One that is down learns of the new root from chains that lead to both.
            self.refuse_while("does not trust it yet", |node| node.is_up && !node.roots.contains(&hash))?;
        }
        let revision = self.step(&GlobalCommand::ActivateRoot { hash: hash.clone() }).await?.revision;
        Ok(Versioned { revision, value: RootChanged { root: hash } })
    }

    pub(super) async fn end_root(&self, body: RootBody) -> Answer<Versioned<RootChanged>> {
        let hash = body.root;
        if self.global.read(|global| global.roots.get(&hash).is_some_and(|root| root.state == RootState::Retiring)) {
            // Also those that are down: without the old root they would find nobody whom they trust.
            self.refuse_while("has no chain to the new root yet (one that never comes back: remove it)", |node| {
                !node.is_current
            })?;
        }
        let revision = self.step(&GlobalCommand::RetireRoot { hash: hash.clone() }).await?.revision;
        Ok(Versioned { revision, value: RootChanged { root: hash } })
    }

    fn refuse_while(&self, why: &str, is_behind: impl Fn(&CaNode) -> bool) -> Answer<()> {
        let behind: Vec<_> = self.ca_status().value.nodes.into_iter().filter(is_behind).collect();
        if behind.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = behind.iter().map(|node| node.name.as_str()).collect();
        Err(conflict(format!("{} {why}", names.join(", "))))
    }
}

fn describe(hash: &str, root: &TrustedRoot) -> CaRoot {
    let ends = |certificate: &ByteBuf| {
        let until = validity(&certificate.to_vec().into()).map_or(UNIX_EPOCH, |(_, until)| until);
        until.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
    };
    CaRoot {
        sha256: hash.to_owned(),
        state: match root.state {
            RootState::Trusted => CaRootState::Trusted,
            RootState::Active => CaRootState::Active,
            RootState::Retiring => CaRootState::Retiring,
        },
        expires_ms: ends(&root.certificate),
        regions: root.regions.iter().map(|(region, certificate)| (region.clone(), ends(certificate))).collect(),
    }
}
