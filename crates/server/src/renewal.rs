//! Keeps this node's identity good, here and in the dataplane, without a restart: renews its certificate at half of its
//! life (rule R6), and follows the roots and CA certificates of the global state. One task for both, since both write
//! the same files.

use std::time::Duration;

use insula_catalog::link::Link;
use insula_env::{Beat, Clock, Env, clock};
use insula_identity::{CertificateDer, Credentials, Lifetimes, Material, NodeDirectory};
use insula_rpc::{AddressBook, Peers};
use insula_state::{GlobalState, RegionCommand, RegionState, Store, region::NodeTrust};
use insula_telemetry::chain;
use insula_types::{Addresses, NodeId};
use serde_bytes::ByteBuf;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    methods::{RenewCertificate, RenewCertificateRequest},
    trust::{self, Wanted},
};

/// Longest sleep between two looks at the certificate: clocks jump.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Wait after a round in which no node signed; a twentieth of the certificate's life when that is less.
const RETRY_WAIT: Duration = Duration::from_secs(10);
/// Wait before what the cluster trusts is taken over again.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);
/// How long this node's word on what it trusts may take to be committed.
const REPORT_LIMIT: Duration = Duration::from_secs(4);
/// How long one node may take to sign.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A turn asks one node, then writes files and tells the dataplane, which may take 20 s: one that takes a minute hangs.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// What the renewal works with.
#[derive(Clone)]
pub(crate) struct Renewal {
    pub node: NodeId,
    pub material: Material,
    pub directory: NodeDirectory,
    pub peers: Peers,
    pub book: AddressBook,
    pub dataplane: Link,
    pub addresses: watch::Receiver<Addresses>,
    pub lifetimes: Lifetimes,
    pub region: Store<RegionState>,
    pub global: Store<GlobalState>,
}

/// Starts the renewal.
pub(crate) fn start(env: &Env, renewal: Renewal) {
    let (time, rng) = (env.clock.clone(), env.rng.fork());
    env.tasks.supervise("certificate", TURN_LIMIT, move |beat| {
        let (renewal, time, rng) = (renewal.clone(), time.clone(), rng.clone());
        async move {
            let mut changed = renewal.global.replica().changed();
            let mut in_dataplane = None;
            loop {
                changed.mark_unchanged();
                let mut longest = LOOK_EVERY;
                if let Err(why) = renewal.follow(&mut in_dataplane).await {
                    warn!(why, "what the cluster trusts was not taken over yet, trying again");
                    longest = FOLLOW_WAIT;
                }
                let wait = renewal.material.renew_at().duration_since(time.wall()).unwrap_or_default();
                if wait.is_zero()
                    && let Err(why) = renewal.renew(&time, &beat).await
                {
                    warn!(why, expires = ?renewal.material.expires(), "certificate not renewed, trying again");
                    beat.idle(clock::sleep(rng.jitter(RETRY_WAIT.min(renewal.material.life() / 20)))).await;
                } else if !wait.is_zero() {
                    // Either way there is another look: the end of the watch is the end of the process.
                    let _ = beat.idle(clock::timeout(wait.min(longest), changed.changed())).await;
                }
            }
        }
    });
}

impl Renewal {
    /// Takes over roots and CA certificates of the global state: on disk, here, in the dataplane; then says so.
    async fn follow(&self, in_dataplane: &mut Option<NodeTrust>) -> Result<(), String> {
        let text = |error: insula_identity::Error| chain(&error);
        let region = self.material.identity().region;
        let Some(wanted) = self.global.read(|global| trust::wanted(global, &region)) else { return Ok(()) };
        let present = self.material.chain();
        let credentials = Credentials {
            key: self.directory.load_key().map_err(text)?,
            chain: wanted.chain(&present),
            roots: wanted.roots.clone(),
        };
        if credentials.chain != present || credentials.roots != self.material.roots() {
            // Refuses what does not fit together; then the last known good stays.
            self.material.replace(&credentials).map_err(text)?;
            self.directory.save_certificates(&credentials.chain, &credentials.roots).map_err(text)?;
            info!(roots = wanted.roots.len(), root = wanted.active, "trust taken over");
        }
        self.keep_authority(&wanted).map_err(text)?;
        let told = wanted.told();
        if in_dataplane.as_ref() != Some(&told) {
            self.dataplane.reload_identity().await.map_err(|error| chain(&error))?;
            *in_dataplane = Some(told.clone());
        }
        if self.region.read(|region| region.nodes.contains(&self.node) && region.trust.get(&self.node) != Some(&told)) {
            let report = RegionCommand::ReportTrust { node: self.node, trust: told };
            self.region.propose(&report, REPORT_LIMIT).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// On a node that holds keys: the region's CA goes on under its new certificate, the next root becomes the root.
    fn keep_authority(&self, wanted: &Wanted) -> Result<(), insula_identity::Error> {
        if let (Some(authority), Some(certificate)) =
            (self.directory.load_region_authority()?, wanted.authorities.first())
            && authority.certificate() != certificate
        {
            self.directory.save_region_authority(&authority.with_certificate(certificate.clone())?)?;
        }
        self.directory.promote_next_root(&wanted.active)
    }

    async fn renew(&self, time: &Clock, beat: &Beat) -> Result<(), String> {
        let text = |error: insula_identity::Error| chain(&error);
        let key = self.directory.load_key().map_err(text)?;
        let request = key.request().map_err(text)?;
        let certificates = match self.directory.load_region_authority().map_err(text)? {
            Some(authority) => {
                let address = self.addresses.borrow().widest().ip();
                authority.issue_node(&request, self.node, &[address], &self.lifetimes, time.wall()).map_err(text)?
            }
            None => self.ask(request, beat).await?,
        };
        let region = self.material.identity().region;
        let chain_of = match self.global.read(|global| trust::wanted(global, &region)) {
            Some(wanted) => wanted.chain(&certificates),
            None => certificates,
        };
        let credentials = Credentials { key, chain: chain_of, roots: self.material.roots() };
        self.material.replace(&credentials).map_err(text)?;
        self.directory.save_certificates(&credentials.chain, &credentials.roots).map_err(text)?;
        if let Err(error) = self.dataplane.reload_identity().await {
            // It reads the files when it starts; one that runs is told again with the next renewal.
            warn!(error = %chain(&error), "the dataplane keeps its old certificate for now");
        }
        info!(expires = ?self.material.expires(), "certificate renewed");
        Ok(())
    }

    async fn ask(&self, request: Vec<u8>, beat: &Beat) -> Result<Vec<CertificateDer<'static>>, String> {
        let request = RenewCertificateRequest { request: ByteBuf::from(request) };
        let mut last = "no other node is known".to_owned();
        for node in self.book.nodes().into_iter().filter(|node| *node != self.node) {
            beat.alive();
            match self.peers.call::<RenewCertificate>(node, &request, CALL_LIMIT).await {
                Ok(answer) => return Ok(answer.chain.into_iter().map(|cert| cert.into_vec().into()).collect()),
                Err(status) => last = status.to_string(),
            }
        }
        Err(last)
    }
}
