//! Who may ask what of this node: the one place. What is not listed here is refused.
//!
//! | protocol, method | caller |
//! |---|---|
//! | `join` | anybody who shows a join token's secret; see [`crate::join`] |
//! | `mesh` | nodes of the region; each stream is authorized by the receiver; see `insula_mesh` |
//! | `raft`, `bulk` | members of the region ([`admits`]): a leader knows of a new voter before others do |
//! | `rpc`, streams of `bulk` | as [`RULES`] says, and for `propose` as [`may_propose`] says of each command |
//!
//! Removed nodes may ask nothing. Nodes of other regions that the global state lists may ask what concerns the global state and
//! their own region: which of their nodes were removed is not known here, so it is their region's CA that decides who is a
//! node. Everything that is decided for users, whose roles the API of
//! the asking node has checked, may come from every member: a node is trusted with the roles of its users. What only
//! controllers decide comes from voters, which alone can lead; a node reports only of itself.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use insula_identity::{NodeIdentity, RegionAuthority};
use insula_rpc::{Caller, Code, Handler, Method, Status};
use insula_state::{GlobalCommand, RegionCommand, event::Event};
use insula_types::{NodeId, RegionName};

use crate::methods::{
    AskDigest, AskImages, AskLatency, AskLives, AskRequests, Barrier, FetchBlob, ListImages, ListSnapshots,
    MakeSnapshot, MeasureUse, OpenSecrets, Propose, ReadDigests, ReadLogs, Recall, Relay, RemoveImage, RemoveSnapshot,
    Renew, RenewCertificate, RestoreSnapshot, SendInput, StartExec, StartOneOff, StateName, TakeAuthority,
    TellAddresses, WatchState,
};

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Every member of the region.
    Member,
    /// Whoever proves to be a voter by the key that it brings; see [`is_own_authority`]. A node that is about to vote
    /// cannot know yet who votes; when it does, the caller must be one of them.
    KeyHolder,
}

/// One method of the `rpc` protocol.
pub(crate) struct Rule {
    pub id: u16,
    pub name: &'static str,
    pub who: Who,
    /// Nodes of other regions may call it too, about the global state.
    pub is_for_world: bool,
}

const fn rule<M: Method>(who: Who) -> Rule {
    Rule { id: M::ID, name: M::NAME, who, is_for_world: false }
}

const fn world<M: Method>() -> Rule {
    Rule { id: M::ID, name: M::NAME, who: Who::Member, is_for_world: true }
}

/// Every method of the `rpc` protocol.
pub(crate) const RULES: &[Rule] = &[
    // Further limited by the state and by the command: see `may_ask_of` and `may_propose`.
    world::<Propose>(),
    world::<Barrier>(),
    world::<Recall>(),
    // Of these three only. For another node only from voters: see `may_relay`.
    world::<Relay>(),
    // Of its own lease: the node is the caller.
    rule::<Renew>(Who::Member),
    world::<WatchState>(),
    rule::<TakeAuthority>(Who::KeyHolder),
    rule::<ReadLogs>(Who::Member),
    // For the identity that the caller has proven.
    rule::<RenewCertificate>(Who::Member),
    // Tells only which life is led.
    world::<AskLives>(),
    // A wrong word costs a connection: who answers at an address must prove to be the node.
    rule::<TellAddresses>(Who::Member),
    // Every member may have to run any image of the region. Also over `bulk`.
    rule::<FetchBlob>(Who::Member),
    rule::<AskImages>(Who::Member),
    rule::<ListImages>(Who::Member),
    // For the asking node's API, which has checked the caller's role and that no release needs it.
    rule::<RemoveImage>(Who::Member),
    // For the asking node's API, which has checked the caller's role.
    rule::<StartExec>(Who::Member),
    // The same; what is run is the service as this node knows it.
    rule::<StartOneOff>(Who::Member),
    // Only to commands that the same node has begun.
    rule::<SendInput>(Who::Member),
    // For the asking node's API, which has checked the caller's role.
    rule::<ListSnapshots>(Who::Member),
    rule::<MakeSnapshot>(Who::Member),
    rule::<RestoreSnapshot>(Who::Member),
    rule::<RemoveSnapshot>(Who::Member),
    // Numbers that a viewer may see.
    rule::<MeasureUse>(Who::Member),
    // What a viewer may see who knows the id.
    rule::<AskRequests>(Who::Member),
    // How far regions are; of its nodes only its own are told.
    world::<AskLatency>(),
    // Of what is placed on the caller.
    rule::<OpenSecrets>(Who::Member),
    // How many instances of its services are ready: what their clients see.
    world::<AskDigest>(),
    rule::<ReadDigests>(Who::Member),
];

/// What this node knows of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its certificate is of this node's region.
    pub is_of_region: bool,
    /// The global state lists its region; none before this node has that.
    pub is_of_world: Option<bool>,
    /// It was removed.
    pub is_removed: bool,
    /// The region's state lists it; none before this node has a state.
    pub is_member: Option<bool>,
    /// It votes in the region; none while this node knows no voters.
    pub is_voter: Option<bool>,
}

/// Whether a caller may call a method at all.
///
/// # Errors
/// [`Status`]: of an unknown method, of a caller that may not, or (retryable) of one that is not known yet.
pub(crate) fn may_call(method: u16, caller: &NodeIdentity, own: &RegionName, standing: Standing) -> Result<(), Status> {
    let rule = RULES.iter().find(|rule| rule.id == method).ok_or_else(|| Status::unknown_method(method))?;
    let node = caller.node;
    if !standing.is_of_region {
        let (theirs, name) = (&caller.region, rule.name);
        return match (rule.is_for_world, standing.is_of_world) {
            (true, Some(true)) => Ok(()),
            // It may have been added a moment ago, and this node lag behind.
            (true, _) => Err(Status::retryable(
                Code::PermissionDenied,
                format!("region {theirs} is not known as one of this cluster here"),
            )),
            (false, _) => {
                Err(Status::permission_denied(format!("region {theirs} may not call {name} of region {own}")))
            }
        };
    }
    if standing.is_removed {
        return Err(Status::permission_denied(format!("{node} was removed from region {own}")));
    }
    match (rule.who, standing) {
        (Who::KeyHolder, Standing { is_voter: Some(false), .. }) => {
            Err(Status::permission_denied(format!("{} is only for voters, and {node} does not vote", rule.name)))
        }
        (Who::KeyHolder, _) | (Who::Member, Standing { is_member: Some(true), .. }) => Ok(()),
        // It may have joined a moment ago, and this node lag behind.
        (Who::Member, Standing { is_member: Some(false), .. }) => Err(Status::retryable(
            Code::PermissionDenied,
            format!("{node} is not known as a member of region {own} here"),
        )),
        (Who::Member, Standing { is_member: None, .. }) => {
            Err(Status::retryable(Code::FailedPrecondition, "this node does not know its region's members yet"))
        }
    }
}

/// Who asks for something about a state: a node, and of which region it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asking {
    pub node: NodeId,
    pub region: RegionName,
}

/// Whether a caller may ask anything about a state of this node: other regions only about the global one.
///
/// # Errors
/// [`Status`] for others.
pub(crate) fn may_ask_of(state: StateName, asking: &Asking, own: &RegionName) -> Result<(), Status> {
    if state == StateName::Global || asking.region == *own {
        return Ok(());
    }
    Err(Status::permission_denied(format!("region {} may not ask of the state of region {own}", asking.region)))
}

/// Messages of Raft groups, from nodes of this region alone: all voters of both groups of a node are of its region.
pub(crate) struct OwnRegion {
    pub region: RegionName,
    pub groups: Arc<dyn Handler>,
}

#[async_trait]
impl Handler for OwnRegion {
    async fn call(&self, caller: &Caller, method: u16, body: Bytes) -> Result<Bytes, Status> {
        may_send_messages(&caller.identity, &self.region)?;
        self.groups.call(caller, method, body).await
    }
}

/// Whether a caller may send messages of Raft groups to a node of region `own`, if the group admits it.
///
/// # Errors
/// [`Status`] for other regions.
pub(crate) fn may_send_messages(caller: &NodeIdentity, own: &RegionName) -> Result<(), Status> {
    if caller.region == *own {
        return Ok(());
    }
    Err(Status::permission_denied(format!("region {} has no voters in the groups of region {own}", caller.region)))
}

/// Whether a caller votes in a group whose voters are all of region `own`. A node's id alone says nothing: each region's CA gives
/// its nodes the ids that it likes.
pub(crate) fn is_voter(asking: &Asking, own: &RegionName, voters: &BTreeSet<NodeId>) -> bool {
    asking.region == *own && voters.contains(&asking.node)
}

/// Whether a node may send messages of Raft groups; it has shown a certificate of the cluster.
pub(crate) fn admits(is_removed: bool, is_known: bool) -> bool {
    !is_removed && is_known
}

/// Whether a key is that of the CA which signed this node: whoever brings it holds it, as only voters do.
///
/// # Errors
/// [`Status`] when it is another region's or another key.
pub(crate) fn is_own_authority(own: &NodeIdentity, own_ca: &[u8], brought: &RegionAuthority) -> Result<(), Status> {
    let issued = brought.identity();
    if issued.region != own.region || issued.cluster != own.cluster {
        return Err(Status::permission_denied("the key is another region's"));
    }
    if !brought.is_key_of(&own_ca.into()) {
        return Err(Status::permission_denied("the key is not that of the CA that signed this node"));
    }
    Ok(())
}

/// Longest text of an event that a node which does not vote may add, in bytes.
const NOTE_LEN_MAX: usize = 512;

/// Who may propose a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proposer {
    /// Any member, for its API's callers.
    Member,
    /// The node that the command is about.
    Only(NodeId),
    /// A member of the region of those that vote; of another one none.
    MemberHere,
    /// A voter; in another region, whose voters are not known here, any node.
    VoterThere,
    /// A voter.
    Voter,
    /// A voter, or the node that the command is about.
    VoterOr(NodeId),
    /// A voter, of itself.
    VoterOnly(NodeId),
    /// The leader itself, without a call.
    Nobody,
}

fn proposer_of_region(command: &RegionCommand) -> Proposer {
    use RegionCommand as C;
    match command {
        C::Init { .. } => Proposer::Nobody,
        C::ReportStatus { node, .. }
        | C::ReportTrust { node, .. }
        | C::SetAddresses { node, .. }
        | C::SetRuntimes { node, .. }
        | C::SetLabels { node, .. }
        | C::ConfirmVolume { node, .. }
        | C::ForgetVolume { node, .. }
        | C::UpdateNode { id: node, .. } => Proposer::Only(*node),
        C::CreateJoinToken(_)
        | C::RemoveJoinToken { .. }
        | C::Cordon { .. }
        | C::SetNodeDuty { .. }
        | C::RemoveNode { .. }
        | C::CreateVolume { .. }
        | C::GrowVolume { .. }
        | C::DeleteVolume { .. }
        | C::SteerDeployment { .. }
        | C::TakeOutNode { .. } => Proposer::Member,
        C::TakeControl { node } => Proposer::VoterOnly(*node),
        // What a node saw itself, in a few words; the rest is for controllers.
        C::Note(Event { node: Some(node), text, .. }) if text.len() <= NOTE_LEN_MAX => Proposer::VoterOr(*node),
        C::Note(_) => Proposer::Voter,
        // Voters take machines in; controllers run on leaders.
        C::Join { .. }
        | C::BindKey { .. }
        | C::SetNodeHealth { .. }
        | C::SetDefinition(_)
        | C::SetDefinitionWith { .. }
        | C::RemoveDefinition { .. }
        | C::Place(_)
        | C::SetDesired { .. }
        | C::GiveWay { .. }
        | C::RemovePlacements(_)
        | C::RaiseLevel(_)
        | C::AdvanceDeployment { .. }
        | C::AdvanceHook { .. }
        | C::Controlled { .. } => Proposer::Voter,
    }
}

fn proposer_of_global(command: &GlobalCommand) -> Proposer {
    use GlobalCommand as C;
    match command {
        C::Init { .. } => Proposer::Nobody,
        C::Deploy { .. }
        | C::Rollback { .. }
        | C::Scale { .. }
        | C::Restart { .. }
        | C::SetStopped { .. }
        | C::RemoveApp { .. }
        | C::SetSecret { .. }
        | C::RemoveSecret { .. }
        | C::PutApiToken(_)
        | C::RemoveApiToken { .. }
        | C::RemoveInvitation { .. } => Proposer::Member,
        // Refused by the API while a member lags behind: which it sees of its own region.
        C::RetireRoot { .. } => Proposer::MemberHere,
        // Only voters hold the keys with which roots are made and used.
        C::AddRoot { .. } | C::SetRegionAuthority { .. } | C::ActivateRoot { .. } => Proposer::Voter,
        // The same: the root signs a region's CA, and who takes a machine in has checked its token.
        C::InviteRegion { .. } | C::ClaimRegion { .. } => Proposer::Voter,
        // By the region's leader, and by a node with the key of its CA.
        C::SetRegionLevel { .. } | C::SetSealingKey { .. } | C::SealForRegion { .. } => Proposer::VoterThere,
        // The same; a leader need not vote in the global group, whose other voters know it as a member.
        C::ReportOutcome { .. } | C::SetGateways { .. } => Proposer::Member,
    }
}

/// Whether a member may propose a region command. `is_voter`: whether it votes in the region.
///
/// # Errors
/// [`Status`], saying who may.
pub(crate) fn may_propose_region(node: NodeId, is_voter: bool, command: &RegionCommand) -> Result<(), Status> {
    may_propose(node, is_voter, proposer_of_region(command))
}

/// The region that a global command is about, when it is what the region says of itself.
fn region_of(command: &GlobalCommand) -> Option<&RegionName> {
    use GlobalCommand as C;
    match command {
        C::SetRegionLevel { region, .. }
        | C::ReportOutcome { region, .. }
        | C::SetSealingKey { region, .. }
        | C::SetGateways { region, .. } => Some(region),
        _ => None,
    }
}

/// The same for a global command, which may come from another region than this node's `own`. `is_voter`: whether the node
/// votes in the global group.
///
/// # Errors
/// [`Status`], saying who may.
pub(crate) fn may_propose_global(
    asking: &Asking,
    own: &RegionName,
    is_voter: bool,
    command: &GlobalCommand,
) -> Result<(), Status> {
    if let Some(about) = region_of(command).filter(|about| **about != asking.region) {
        let Asking { node, region } = asking;
        return Err(Status::permission_denied(format!("{node} of region {region} may not speak for region {about}")));
    }
    let proposer = match proposer_of_global(command) {
        Proposer::VoterThere if asking.region != *own => Proposer::Member,
        Proposer::VoterThere => Proposer::Voter,
        Proposer::MemberHere if asking.region == *own => Proposer::Member,
        Proposer::MemberHere => Proposer::Voter,
        other => other,
    };
    may_propose(asking.node, is_voter, proposer)
}

/// For whom a caller asks a leader: itself, or another whose request it brings, which is for voters.
///
/// # Errors
/// [`Status`] for others.
pub(crate) fn may_relay(caller: Asking, is_voter: bool, asking: Option<Asking>) -> Result<Asking, Status> {
    match asking {
        Some(other) if other != caller && !is_voter => Err(Status::permission_denied(format!(
            "{} does not vote and may not bring what {} asks",
            caller.node, other.node
        ))),
        other => Ok(other.unwrap_or(caller)),
    }
}

fn may_propose(node: NodeId, is_voter: bool, proposer: Proposer) -> Result<(), Status> {
    match proposer {
        Proposer::Member => Ok(()),
        Proposer::Only(about) | Proposer::VoterOnly(about) if about != node => {
            Err(Status::permission_denied(format!("{node} may not speak for {about}")))
        }
        Proposer::Only(_) => Ok(()),
        Proposer::VoterOr(about) if is_voter || about == node => Ok(()),
        Proposer::Voter | Proposer::VoterThere | Proposer::MemberHere | Proposer::VoterOnly(_) if is_voter => Ok(()),
        Proposer::Voter
        | Proposer::VoterThere
        | Proposer::MemberHere
        | Proposer::VoterOnly(_)
        | Proposer::VoterOr(_) => {
            Err(Status::retryable(Code::PermissionDenied, format!("this is for voters to decide, and {node} is none")))
        }
        Proposer::Nobody => Err(Status::permission_denied("only a founding node proposes this, to itself")),
    }
}

#[cfg(test)]
mod tests;
