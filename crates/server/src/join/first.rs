//! The first machine of a region: what a node of another region answers it, and what it makes of that. The region's CA is made
//! with its token and comes sealed to the token's secret; the machine signs its own certificate with it.

use std::{sync::Arc, time::Duration};

use insula_env::Env;
use insula_identity::{
    AllowAll, Credentials, JoinToken, Lifetimes, Material, NodeDirectory, NodeKey, RegionAuthority, RegionCaIdentity,
    root_hash,
};
use insula_rpc::{Code, JoinRequest, JoinResponse, Status};
use insula_state::{
    GlobalCommand, RegionCommand,
    global::{Founder, Gateway, Phase, founded},
    region::RegionMeta,
};
use insula_telemetry::chain;
use insula_types::{Agreed, Level, codec, text::utc};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{COMMIT_LIMIT, Extra, Joins, refused};
use crate::{
    Error,
    config::NodeConfig,
    gateways,
    home::{Home, ValueFile},
    init::{Founding, describe},
};

/// What the first machine of a region gets, beside roots.
#[derive(Serialize, Deserialize)]
pub(super) struct Founds {
    /// The key and the certificate of the region's CA, sealed to the secret of the token.
    sealed: ByteBuf,
    /// How other regions are reached.
    gateways: Vec<Gateway>,
}

impl std::fmt::Debug for Founds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Founds({} gateways, …)", self.gateways.len())
    }
}

/// How far two clocks may be apart: what one signs is valid at once by the other.
fn bears(lifetimes: &Lifetimes) -> Duration {
    lifetimes.backdate.min(lifetimes.node / 10)
}

/// Refuses a machine whose clock is too far from this one's, with both times.
fn check_clock(theirs_ms: u64, ours_ms: u64, bears: Duration) -> Result<(), Status> {
    let apart = Duration::from_millis(theirs_ms.abs_diff(ours_ms));
    if apart <= bears {
        return Ok(());
    }
    Err(Status::new(
        Code::FailedPrecondition,
        format!(
            "this machine's clock says {} UTC, and that of the node which was asked {} UTC: they are {} s apart, and \
             certificates bear {} s; let a time service set both, and run `insula join` again",
            utc(theirs_ms),
            utc(ours_ms),
            apart.as_secs(),
            bears.as_secs()
        ),
    ))
}

impl Joins {
    /// Answers a machine whose token is for another region than this node's: the first machine of that one.
    pub(super) async fn invited(&self, request: &JoinRequest) -> Result<JoinResponse, Status> {
        let Some(region) = &request.region else { return Err(Status::internal("a request without a region")) };
        if !self.groups.1.voters().contains(&self.node) {
            let why = "this node founds no regions: it does not vote in the global group";
            return Err(Status::retryable(Code::FailedPrecondition, why));
        }
        let secret =
            request.secret().ok_or_else(|| Status::new(Code::InvalidArgument, "the secret has a wrong length"))?;
        let key_sha256 = insula_identity::request_key_hash(&request.certificate_request)
            .map_err(|error| Status::new(Code::InvalidArgument, chain(&error)))?;
        let (token, now) = (request.token.to_string(), self.clock.wall_ms());
        check_clock(request.clock_ms.unwrap_or(now), now, bears(&self.lifetimes))?;
        let (version, level) = Level::split(&request.version);
        let agreed = Agreed { level, version: version.to_owned() };
        let founder = Founder { node: request.node, key_sha256 };
        let command = GlobalCommand::ClaimRegion { token, secret_hash: secret.hash(), founder, agreed };
        let committed = match self.global.propose(&command, COMMIT_LIMIT).await {
            Ok(committed) => committed,
            // Its token has had its use.
            Err(_) if self.is_there(region) => return Err(refused(founded(region, None).into())),
            Err(error) => return Err(refused(error)),
        };
        self.global.replica().wait_for(committed.revision).await;
        let answer = self.global.read(|global| {
            let invitation = global.invitations.get(region)?;
            let founds = Founds { sealed: invitation.sealed.clone(), gateways: self.gateways() };
            Some((invitation.incarnation, founds))
        });
        let Some((region_incarnation, founds)) = answer else {
            return Err(Status::new(Code::InvalidArgument, format!("the token is not for region {region}")));
        };
        let global_incarnation = self.home.global_incarnation;
        let extra = Extra { region_incarnation, global_incarnation, founds: Some(founds) };
        Ok(JoinResponse {
            chain: Vec::new(),
            roots: self.material.roots().iter().map(|root| ByteBuf::from(root.to_vec())).collect(),
            region: region.clone(),
            cluster: self.home.cluster.clone(),
            peers: Vec::new(),
            extra: codec::encode(&extra),
        })
    }

    fn is_there(&self, region: &insula_types::RegionName) -> bool {
        self.global.read(|global| global.regions.get(region).is_some_and(|region| region.phase != Phase::Joining))
    }

    /// Those of this region, as they are now, then those that others have told.
    fn gateways(&self) -> Vec<Gateway> {
        let voters = [self.groups.1.voters(), self.groups.0.voters()];
        let own = self.region.read(|region| gateways::of_region(region, &voters));
        let others = self.global.read(|global| gateways::of_others(global, &self.home.region));
        own.into_iter().chain(others).take(insula_state::global::GATEWAYS_MAX).collect()
    }

    /// Says what is wrong to a machine whose program is too old to found the region that its token is for.
    pub(super) fn refuse_founder(&self, command: &RegionCommand) -> Result<(), Status> {
        let RegionCommand::Join { token, node, .. } = command else { return Ok(()) };
        if self.global.read(|global| global.invitations.values().all(|invitation| invitation.token != *token)) {
            return Ok(());
        }
        let (version, level) = Level::split(&node.version);
        let why = format!(
            "the token founds a region, and this program ({version}, level {level}) cannot: install the version of the \
             other nodes"
        );
        Err(Status::new(Code::FailedPrecondition, why))
    }
}

/// Makes this machine the first node of its region, ready for its first start.
///
/// # Errors
/// [`Error::Join`] when what was answered does not fit the token; [`Error::Identity`], [`Error::File`].
pub(super) fn found(
    config: &NodeConfig,
    (token, key): (&JoinToken, &NodeKey),
    (response, extra, founds): (&JoinResponse, &Extra, &Founds),
    env: &Env,
) -> Result<(), Error> {
    let (paths, now) = (config.paths(), env.clock.wall());
    let directory = NodeDirectory::new(&paths.data(), Arc::clone(&env.disk));
    let unfit = |error: insula_identity::Error| Error::Join { region: token.region.to_string(), why: chain(&error) };
    let identity = RegionCaIdentity { cluster: token.cluster.clone(), region: token.region.clone() };
    let authority = RegionAuthority::unseal(&founds.sealed, &token.secret, &identity).map_err(unfit)?;
    let addresses = [config.advertise.widest().ip()];
    let chain_of = authority.issue_node(&key.request()?, key.id(), &addresses, &config.lifetimes(), now)?;
    let roots = response.roots();
    // By the root that the token names, whatever others were sent along.
    let pinned = roots.iter().filter(|root| root_hash(root) == token.root).cloned().collect();
    let credentials = Credentials { key: directory.load_key()?, chain: chain_of, roots: pinned };
    Material::new(&credentials, env.clock.clone(), Arc::new(AllowAll)).map_err(unfit)?;
    let home = Home {
        cluster: token.cluster.clone(),
        region: token.region.clone(),
        region_incarnation: extra.region_incarnation,
        global_incarnation: extra.global_incarnation,
        has_state: false,
        new: Default::default(),
        peers: Default::default(),
        own: None,
        known: Default::default(),
        gateways: founds.gateways.clone(),
    };
    let meta =
        RegionMeta { cluster: home.cluster.clone(), region: home.region.clone(), incarnation: home.region_incarnation };
    let founding = Founding { region: meta, node: describe(config, key.id()), cluster: None, token: None };
    directory.save_region_authority(&authority)?;
    ValueFile::new(paths.founding(), Arc::clone(&env.disk)).save(&founding)?;
    ValueFile::new(paths.home(), Arc::clone(&env.disk)).save(&home)?;
    // Last: with the certificates in place the node exists.
    directory.save_certificates(&credentials.chain, &roots)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_be_apart_as_far_as_certificates_bear() {
        let second = 1000;
        let now = 1_795_000_000 * second;
        let usual = bears(&Lifetimes::default());
        assert_eq!(usual, Duration::from_secs(300));
        for near in [now, now + 300 * second, now - 300 * second] {
            check_clock(near, now, usual).expect("near enough");
        }
        let said = check_clock(now + 301 * second, now, usual).expect_err("too far").message;
        assert!(
            said.contains("clock says 2026-11-18 11:11:41 UTC") && said.contains("2026-11-18 11:06:40 UTC"),
            "{said}"
        );
        assert!(said.contains("301 s apart") && said.contains("bear 300 s"), "{said}");
        check_clock(now - 301 * second, now, usual).expect_err("behind");
        let short = Lifetimes { node: Duration::from_secs(60), ..Lifetimes::default() };
        check_clock(now + 7 * second, now, bears(&short))
            .expect_err("certificates that live a minute bear six seconds");
    }
}
