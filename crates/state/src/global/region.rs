//! The regions of the world, and how one comes to be.
//!
//! ```text
//! (none) ── InviteRegion ──► Joining, not founded ── ClaimRegion ──► Joining, founded by one machine ── SetGateways ──► Serving
//!                            Joining ── RemoveInvitation, or its time is over before it was founded ──► (none)
//! ```
//! The key of a region that joins is in its invitation, sealed to the secret of its token. The invitation goes when the
//! region serves, or is not founded in time: nothing that opens with a token outlives the token's use.

use std::net::SocketAddr;

use insula_types::{ADDRESSES_MAX, Agreed, ContinentName, Incarnation, Level, NodeId, RegionName};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{GlobalCommand, GlobalKey, GlobalObject, GlobalReply, GlobalState, RootState, TrustedRoot, root};
use crate::{Changes, Conflict, Domain, Rejection};

/// Most regions of a world.
pub const REGIONS_MAX: usize = 64;
/// Most gateways that a region tells of.
pub const GATEWAYS_MAX: usize = 8;
/// Longest sealed key of a region's CA, in bytes; ours have about 1,000.
const SEALED_KEY_LEN_MAX: usize = 8 * 1024;

/// A region of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// When it was added, milliseconds since 1970.
    pub created_ms: u64,
    /// What the programs of its nodes have agreed on; none while it is the first level.
    #[serde(default)]
    pub agreed: Option<Agreed>,
    /// On which continent it is, where somebody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continent: Option<ContinentName>,
    /// How far it is in its life.
    #[serde(default, skip_serializing_if = "Phase::is_serving")]
    pub phase: Phase,
    /// By which of its nodes other regions reach it, the best first; at most [`GATEWAYS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<Gateway>,
    /// How many nodes it has, as it said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Whether it runs services that name no regions. While no region does, the first one runs them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_default: bool,
}

impl Region {
    /// A region that serves.
    pub const fn new(name: RegionName, created_ms: u64, agreed: Option<Agreed>) -> Self {
        Self {
            name,
            created_ms,
            agreed,
            continent: None,
            phase: Phase::Serving,
            gateways: Vec::new(),
            nodes: None,
            is_default: false,
        }
    }

    /// The level that its nodes have agreed on.
    pub fn level(&self) -> Level {
        self.agreed.as_ref().map_or(Level::FIRST, |agreed| agreed.level)
    }
}

/// How far a region is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It runs what it is told to.
    #[default]
    Serving,
    /// Its first machine has not said yet that it runs.
    Joining,
    /// It gives up what it runs.
    Leaving,
}

impl Phase {
    /// The usual one, which is not written down.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    const fn is_serving(&self) -> bool {
        matches!(self, Self::Serving)
    }
}

/// A node by which other regions reach a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Which.
    pub node: NodeId,
    /// Its addresses for everybody, in the order in which they are tried.
    pub addresses: Vec<SocketAddr>,
}

/// What lets one machine found a region.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Id of its token.
    pub token: String,
    /// SHA-256 of the token's secret, in hexadecimal digits.
    pub secret_hash: String,
    /// When it ends, unless the region was founded, milliseconds since 1970.
    pub expires_ms: u64,
    /// The region CA's key and certificate, sealed to the token's secret.
    pub sealed: ByteBuf,
    /// The first life of the region's state.
    pub incarnation: Incarnation,
    /// Who founds the region.
    #[serde(default)]
    pub founder: Option<Founder>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation({}, founder {:?})", self.token, self.founder)
    }
}

/// The machine that founds a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founder {
    /// Its node.
    pub node: NodeId,
    /// SHA-256 of its public key, in hexadecimal digits.
    pub key_sha256: String,
}

type Decision = Result<GlobalReply, Rejection>;

/// Decides on a command about regions.
pub(super) fn decide(
    state: &GlobalState,
    at_ms: u64,
    command: &GlobalCommand,
    out: &mut Changes<GlobalState>,
) -> Decision {
    match command {
        GlobalCommand::InviteRegion { region, continent, root, certificate, invitation } => {
            let region = Region { continent: continent.clone(), ..joining(state, region, at_ms) };
            invite(state, at_ms, region, (root, certificate), invitation, out)
        }
        GlobalCommand::ClaimRegion { token, secret_hash, founder, agreed } => {
            claim(state, at_ms, (token, secret_hash), founder, agreed, out)
        }
        GlobalCommand::RemoveInvitation { token } => remove(state, token, out),
        GlobalCommand::SetGateways { region, gateways, nodes } => set_gateways(state, region, gateways, *nodes, out),
        _ => Err(Rejection::invalid("it is no command about regions")),
    }
}

/// A region that nobody has founded. It holds back no level: it knows what its founder's program will know. It is younger than all
/// others, whatever clocks say: apps that name no regions are the oldest one's.
fn joining(state: &GlobalState, name: &RegionName, at_ms: u64) -> Region {
    let youngest = state.regions.values().map(|region| region.created_ms).max();
    let created_ms = at_ms.max(youngest.map_or(0, |youngest| youngest.saturating_add(1)));
    Region { phase: Phase::Joining, ..Region::new(name.clone(), created_ms, state.agreed.clone()) }
}

fn put(out: &mut Changes<GlobalState>, region: Region) {
    out.put(GlobalKey::Region(region.name.clone()), GlobalObject::Region(region));
}

/// Takes away all that there is of regions that did not come to be. Gives the roots without them.
fn forget(state: &GlobalState, regions: &[&RegionName], out: &mut Changes<GlobalState>) -> Vec<(String, TrustedRoot)> {
    for region in regions {
        out.remove(GlobalKey::Region((*region).clone()));
        out.remove(GlobalKey::Invitation((*region).clone()));
        if state.sealing_keys.contains(region) {
            out.remove(GlobalKey::SealingKey((*region).clone()));
        }
    }
    // What was sealed to its key opens with no other, should another region have the name one day.
    for (id, secret) in state.secrets.iter() {
        let mut secret = secret.clone();
        let sealed = secret.versions.values_mut().map(|value| &mut value.sealed);
        let before: usize = sealed
            .map(|sealed| {
                let len = sealed.len();
                sealed.retain(|region, _| !regions.contains(&region));
                len - sealed.len()
            })
            .sum();
        if before > 0 {
            out.put(GlobalKey::Secret(id.clone()), GlobalObject::Secret(secret));
        }
    }
    let mut roots: Vec<_> = state.roots.iter().map(|(hash, root)| (hash.clone(), root.clone())).collect();
    for (hash, root) in &mut roots {
        let before = root.regions.len();
        root.regions.retain(|region, _| !regions.contains(&region));
        if root.regions.len() < before {
            out.put(GlobalKey::Root(hash.clone()), GlobalObject::Root(root.clone()));
        }
    }
    roots
}

fn invite(
    state: &GlobalState,
    at_ms: u64,
    region: Region,
    (hash, certificate): (&str, &ByteBuf),
    invitation: &Invitation,
    out: &mut Changes<GlobalState>,
) -> Decision {
    root::check(certificate)?;
    if invitation.sealed.is_empty() || invitation.sealed.len() > SEALED_KEY_LEN_MAX || invitation.founder.is_some() {
        return Err(Rejection::invalid(
            "this is no invitation: its key has a wrong length, or somebody has founded it",
        ));
    }
    let name = &region.name;
    let lapsed = |other: &Invitation| other.founder.is_none() && other.expires_ms <= at_ms;
    if let Some(present) = state.regions.get(name) {
        match state.invitations.get(name) {
            Some(other) if lapsed(other) => {}
            Some(other) => {
                let token = &other.token;
                return Err(Rejection::conflict(
                    Conflict::RegionExists,
                    format!(
                        "region {name} is being added with token {token}: use that one, or end it with `insula token rm \
                         {token}` and try again"
                    ),
                ));
            }
            None => {
                return Err(Rejection::conflict(
                    Conflict::RegionExists,
                    format!(
                        "there is a region {} already: a further machine joins it with a token that is made on a node of \
                         it (`insula token create`)",
                        present.name
                    ),
                ));
            }
        }
    }
    if state.roots.len() > 1 {
        return Err(Rejection::conflict(
            Conflict::RootOutOfTurn,
            "one root is being put in place of another: end that first (`insula ca status`)",
        ));
    }
    let gone: Vec<&RegionName> =
        state.invitations.iter().filter(|(_, other)| lapsed(other)).map(|(name, _)| name).collect();
    if state.regions.iter().count() - gone.len() >= REGIONS_MAX {
        return Err(Rejection::invalid(format!("there are {REGIONS_MAX} regions, the most that a cluster may have")));
    }
    let roots = forget(state, &gone, out);
    let root = roots.into_iter().find(|(known, root)| known == hash && root.state == RootState::Active);
    let Some((hash, mut root)) = root else {
        return Err(Rejection::conflict(Conflict::RootOutOfTurn, format!("root {hash} is not the active one")));
    };
    root.regions.insert(name.clone(), certificate.clone());
    out.put(GlobalKey::Root(hash), GlobalObject::Root(root));
    out.put(GlobalKey::Invitation(name.clone()), GlobalObject::Invitation(invitation.clone()));
    put(out, region);
    Ok(GlobalReply::Done)
}

fn claim(
    state: &GlobalState,
    at_ms: u64,
    (token, secret_hash): (&str, &str),
    founder: &Founder,
    agreed: &Agreed,
    out: &mut Changes<GlobalState>,
) -> Decision {
    let known = state.invitations.iter().find(|(_, known)| known.token == token && known.secret_hash == secret_hash);
    let Some((name, invitation)) = known else {
        return Err(Rejection::forbidden(
            "the token is unknown, or was ended: make another with `insula token create --region NAME`",
        ));
    };
    match &invitation.founder {
        // It did not get the answer, and asks again.
        Some(present) if present == founder => return Ok(GlobalReply::Done),
        Some(present) => return Err(founded(name, Some(present.node))),
        None if invitation.expires_ms <= at_ms => {
            return Err(Rejection::forbidden(format!(
                "the token has expired: make another with `insula token create --region {name}`"
            )));
        }
        None => {}
    }
    if agreed.level < state.level() {
        let Agreed { level, version } = state.agreed.clone().unwrap_or_else(|| agreed.clone());
        return Err(Rejection::forbidden(format!(
            "the cluster is at level {level}, and this program ({}) knows no more than level {}: install version \
             {version} or later",
            agreed.version, agreed.level
        )));
    }
    let invitation = Invitation { founder: Some(founder.clone()), ..invitation.clone() };
    out.put(GlobalKey::Invitation(name.clone()), GlobalObject::Invitation(invitation));
    let region = state.regions.get(name).cloned().unwrap_or_else(|| joining(state, name, at_ms));
    put(out, Region { agreed: Some(agreed.clone()), ..region });
    Ok(GlobalReply::Done)
}

/// What a machine is told that comes too late to found a region.
pub fn founded(region: &RegionName, by: Option<NodeId>) -> Rejection {
    let by = by.map_or_else(String::new, |node| format!(" by {node}"));
    Rejection::forbidden(format!(
        "region {region} was founded meanwhile{by}: this machine needs a token that is made there (`insula token create` on \
         a node of {region})"
    ))
}

fn remove(state: &GlobalState, token: &str, out: &mut Changes<GlobalState>) -> Decision {
    let Some((name, _)) = state.invitations.iter().find(|(_, known)| known.token == token) else {
        return Err(Rejection::not_found(format!("there is no token {token} with which a region is founded")));
    };
    forget(state, &[name], out);
    Ok(GlobalReply::Done)
}

fn set_gateways(
    state: &GlobalState,
    name: &RegionName,
    gateways: &[Gateway],
    nodes: u32,
    out: &mut Changes<GlobalState>,
) -> Decision {
    let Some(present) = state.regions.get(name) else {
        return Err(Rejection::not_found(format!("there is no region {name}")));
    };
    let is_good = |gateway: &Gateway| (1..=ADDRESSES_MAX).contains(&gateway.addresses.len());
    if gateways.len() > GATEWAYS_MAX || !gateways.iter().all(is_good) {
        return Err(Rejection::invalid(format!(
            "a region has up to {GATEWAYS_MAX} gateways of 1 to {ADDRESSES_MAX} addresses each"
        )));
    }
    let invitation = state.invitations.get(name);
    if invitation.is_some_and(|invitation| invitation.founder.is_none()) {
        return Err(Rejection::forbidden(format!("nobody has founded region {name} yet")));
    }
    if invitation.is_some() {
        out.remove(GlobalKey::Invitation(name.clone()));
    }
    let phase = if present.phase == Phase::Joining { Phase::Serving } else { present.phase };
    let region = Region { phase, gateways: gateways.to_vec(), nodes: Some(nodes), ..present.clone() };
    if region != *present {
        put(out, region);
    }
    Ok(GlobalReply::Done)
}
