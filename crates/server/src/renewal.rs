//! Renews this node's certificate at half of its life (rule R6), here and in the dataplane, without a restart.

use std::time::Duration;

use insula_catalog::link::Link;
use insula_env::{Clock, Env, clock};
use insula_identity::{CertificateDer, Credentials, Lifetimes, Material, NodeDirectory};
use insula_rpc::{AddressBook, Peers};
use insula_telemetry::chain;
use insula_types::NodeId;
use serde_bytes::ByteBuf;
use tracing::{info, warn};

use crate::methods::{RenewCertificate, RenewCertificateRequest};

/// Longest sleep between two looks at the certificate: clocks jump.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Wait after a round in which no node signed; a twentieth of the certificate's life when that is less.
const RETRY_WAIT: Duration = Duration::from_secs(10);
/// How long one node may take to sign.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// What the renewal works with.
#[derive(Clone)]
pub(crate) struct Renewal {
    pub node: NodeId,
    pub material: Material,
    pub directory: NodeDirectory,
    pub peers: Peers,
    pub book: AddressBook,
    pub dataplane: Link,
    pub address: std::net::IpAddr,
    pub lifetimes: Lifetimes,
}

/// Starts the renewal.
pub(crate) fn start(env: &Env, renewal: Renewal) {
    let (time, rng) = (env.clock.clone(), env.rng.fork());
    env.tasks.supervise("certificate", move || {
        let (renewal, time, rng) = (renewal.clone(), time.clone(), rng.clone());
        async move {
            loop {
                let wait = renewal.material.renew_at().duration_since(time.wall()).unwrap_or_default();
                if !wait.is_zero() {
                    clock::sleep(wait.min(LOOK_EVERY)).await;
                } else if let Err(why) = renewal.renew(&time).await {
                    warn!(why, expires = ?renewal.material.expires(), "certificate not renewed, trying again");
                    clock::sleep(rng.jitter(RETRY_WAIT.min(renewal.material.life() / 20))).await;
                }
            }
        }
    });
}

impl Renewal {
    async fn renew(&self, time: &Clock) -> Result<(), String> {
        let text = |error: insula_identity::Error| chain(&error);
        let key = self.directory.load_key().map_err(text)?;
        let request = key.request().map_err(text)?;
        let certificates = match self.directory.load_region_authority().map_err(text)? {
            Some(authority) => authority
                .issue_node(&request, self.node, &[self.address], &self.lifetimes, time.wall())
                .map_err(text)?,
            None => self.ask(request).await?,
        };
        let credentials = Credentials { key, chain: certificates, roots: self.material.roots() };
        self.material.replace(&credentials).map_err(text)?;
        self.directory.save_certificates(&credentials.chain, &credentials.roots).map_err(text)?;
        if let Err(error) = self.dataplane.reload_identity().await {
            // It reads the files when it starts; one that runs is told again with the next renewal.
            warn!(error = %chain(&error), "the dataplane keeps its old certificate for now");
        }
        info!(expires = ?self.material.expires(), "certificate renewed");
        Ok(())
    }

    async fn ask(&self, request: Vec<u8>) -> Result<Vec<CertificateDer<'static>>, String> {
        let request = RenewCertificateRequest { request: ByteBuf::from(request) };
        let mut last = "no other node is known".to_owned();
        for node in self.book.nodes().into_iter().filter(|node| *node != self.node) {
            match self.peers.call::<RenewCertificate>(node, &request, CALL_LIMIT).await {
                Ok(answer) => return Ok(answer.chain.into_iter().map(|cert| cert.into_vec().into()).collect()),
                Err(status) => last = status.to_string(),
            }
        }
        Err(last)
    }
}
