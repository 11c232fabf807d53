//! The region state: nodes, what shall run, where it runs, and how it is.

mod apply;
mod command;

use std::collections::BTreeSet;

use insula_types::{
    Addresses, Agreed, AppName, ClusterId, ContentHash, Deployment, Incarnation, InstanceId, InstanceStatus, Labels,
    Level, Node, NodeId, Placement, RegionName, RegionalDefinition, Revision, RuntimeName, SecretName, SecretVersion,
    ServiceRef, Shortfall, Volume, VolumeRef,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use command::{NodeDuty, RegionCommand, RegionReply, Steering};

use crate::{
    Changes, Domain, Rejection, Table,
    event::{Event, EventId},
    level::NotYet,
};

/// What the region is; written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionMeta {
    /// The world that it is part of.
    pub cluster: ClusterId,
    /// Its name.
    pub region: RegionName,
    /// Which life of the state this is.
    pub incarnation: Incarnation,
}

/// Who acts as the region's controller. Each new holder gets the next epoch, and fences out the holders before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlLease {
    /// Counts the holders.
    pub epoch: u64,
    /// The holder.
    pub node: NodeId,
}

/// A credential with which machines join. The secret itself is known to its holder alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Names it; part of the pasteable line.
    pub id: String,
    /// SHA-256 of its secret, in hexadecimal digits.
    pub secret_hash: String,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// How many machines may still use it.
    pub uses_left: u32,
}

/// Most runtime classes of a node.
pub const RUNTIMES_MAX: usize = 16;

/// What a node trusts and shows, server and dataplane alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTrust {
    /// SHA-256 of the roots that it trusts, in hexadecimal digits; the active one first.
    pub roots: Vec<String>,
    /// SHA-256 of the region CA's certificates that it shows.
    pub authorities: Vec<String>,
}

/// Everything that a region knows.
#[derive(Debug, Default)]
pub struct RegionState {
    /// What the region is; none before `init`.
    pub meta: Option<RegionMeta>,
    /// Who acts as its controller; none before the first.
    pub control: Option<ControlLease>,
    /// Its nodes.
    pub nodes: Table<NodeId, Node>,
    /// Ids that may never come back, and why.
    pub tombstones: Table<NodeId, String>,
    /// Join tokens by id.
    pub join_tokens: Table<String, JoinToken>,
    /// What shall run.
    pub definitions: Table<AppName, RegionalDefinition>,
    /// How far apps are with the releases that shall run, since all programs know of that.
    pub deployments: Table<AppName, Deployment>,
    /// What is in the files of an app's instances, by its hash.
    pub contents: Table<(AppName, ContentHash), String>,
    /// Secrets of the app's instances by version, sealed to this region's key.
    pub secrets: Table<(AppName, SecretName, SecretVersion), ByteBuf>,
    /// Where it runs.
    pub placements: Table<InstanceId, Placement>,
    /// How it is.
    pub statuses: Table<InstanceId, InstanceStatus>,
    /// What happened.
    pub events: Table<EventId, Event>,
    /// What nodes trust, as they say.
    pub trust: Table<NodeId, NodeTrust>,
    /// SHA-256 of nodes' public keys, in hexadecimal digits: a node is its key pair (rule R9).
    pub keys: Table<NodeId, String>,
    /// Where nodes are reached that have said more than one address; see [`RegionState::addresses_of`].
    pub addresses: Table<NodeId, Addresses>,
    /// Runtime classes of nodes that have any.
    pub runtimes: Table<NodeId, BTreeSet<RuntimeName>>,
    /// Labels of nodes that have any, those aside that all have of themselves.
    pub labels: Table<NodeId, Labels>,
    /// What losses have taken of services and has not come back.
    pub shortfalls: Table<ServiceRef, Shortfall>,
    /// Volumes, used or not.
    pub volumes: Table<VolumeRef, Volume>,
    /// What the programs of all nodes have agreed on; none while it is the first level.
    pub agreed: Option<Agreed>,
}

impl RegionState {
    /// The placements of one node, in order of id.
    pub fn placements_of(&self, node: NodeId) -> impl Iterator<Item = &Placement> {
        self.placements.values().filter(move |placement| placement.node == node)
    }

    /// The node with that exact name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| node.name.as_str() == name)
    }

    /// Where a node is reached.
    pub fn addresses_of(&self, node: &Node) -> Addresses {
        // What an older program says of itself later is newer than the list.
        let listed = self.addresses.get(&node.id).filter(|listed| listed.widest() == node.address);
        listed.cloned().unwrap_or_else(|| Addresses::single(node.address))
    }

    /// The nodes whose programs know less than a level, in order of id. Those that are down count too: they come back.
    pub fn behind(&self, level: Level) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(move |node| node.level() < level)
    }

    /// Whether a machine with a program of this version shall be asked in. What all nodes know counts, and not only what
    /// they have agreed on: who came in while they are about to agree would meet what it does not know. `apply` does not
    /// ask, since the nodes may not be of one mind.
    ///
    /// # Errors
    /// [`Rejection`], saying what to install.
    pub fn takes_in(&self, version: &str) -> Result<(), Rejection> {
        let (version, level) = Level::split(version);
        match self.nodes.values().min_by_key(|node| node.level()) {
            Some(least) if level < least.level() => Err(Rejection::forbidden(format!(
                "all nodes know level {}, and this program ({version}) knows no more than level {level}: install version \
                 {} or later",
                least.level(),
                least.program()
            ))),
            _ => Ok(()),
        }
    }
}

/// Names an object of the region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RegionKey {
    /// [`RegionMeta`].
    Meta,
    /// A node.
    Node(NodeId),
    /// A removed node.
    Tombstone(NodeId),
    /// A join token.
    JoinToken(String),
    /// A definition.
    Definition(AppName),
    /// A placement.
    Placement(InstanceId),
    /// A status.
    Status(InstanceId),
    /// An event.
    Event(EventId),
    /// [`ControlLease`].
    Control,
    /// What a node trusts.
    Trust(NodeId),
    /// A node's key.
    NodeKey(NodeId),
    /// [`Agreed`].
    Level,
    /// Where a node is reached.
    Addresses(NodeId),
    /// A volume.
    Volume(VolumeRef),
    /// The runtime classes of a node.
    Runtimes(NodeId),
    /// The labels of a node.
    Labels(NodeId),
    /// A deployment.
    Deployment(AppName),
    /// What is in a file of an app.
    Content((AppName, ContentHash)),
    /// A value of a secret of an app.
    Secret((AppName, SecretName, SecretVersion)),
    /// What losses have taken of a service.
    Shortfall(ServiceRef),
}

/// An object of the region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "lives in change lists that are short; most of them are the large ones")]
pub enum RegionObject {
    /// What the region is.
    Meta(RegionMeta),
    /// A node.
    Node(Node),
    /// Why a node was removed.
    Tombstone(String),
    /// A join token.
    JoinToken(JoinToken),
    /// A definition.
    Definition(RegionalDefinition),
    /// A placement.
    Placement(Placement),
    /// A status.
    Status(InstanceStatus),
    /// An event.
    Event(Event),
    /// Who acts as controller.
    Control(ControlLease),
    /// What a node trusts.
    Trust(NodeTrust),
    /// SHA-256 of a node's public key.
    NodeKey(String),
    /// What the programs have agreed on.
    Level(Agreed),
    /// Where a node is reached.
    Addresses(Addresses),
    /// A volume.
    Volume(Volume),
    /// The runtime classes of a node.
    Runtimes(BTreeSet<RuntimeName>),
    /// The labels of a node.
    Labels(Labels),
    /// A deployment.
    Deployment(Deployment),
    /// What is in a file.
    Content(String),
    /// A value of a secret, sealed.
    Secret(ByteBuf),
    /// What losses have taken of a service.
    Shortfall(Shortfall),
}

impl Domain for RegionState {
    const NAME: &'static str = "region";
    type Command = RegionCommand;
    type Reply = RegionReply;
    type Key = RegionKey;
    type Object = RegionObject;

    fn apply(
        &self,
        command: &RegionCommand,
        at_ms: u64,
        revision: Revision,
        out: &mut Changes<Self>,
    ) -> Result<RegionReply, Rejection> {
        apply::Apply::new(self, at_ms, revision, out).command(command)
    }

    fn absorb(&mut self, revision: Revision, key: RegionKey, object: Option<RegionObject>) {
        use RegionKey as Key;
        use RegionObject as Object;
        macro_rules! set {
            ($table:ident, $key:expr, $kind:ident) => {
                match object {
                    Some(Object::$kind(value)) => self.$table.set(revision, $key, Some(value)),
                    None => self.$table.set(revision, $key, None),
                    // A key with an object of another kind cannot be made by `apply`; from a peer it is ignored (R2).
                    Some(_) => {}
                }
            };
        }
        match key {
            Key::Meta => {
                if let Some(Object::Meta(meta)) = object {
                    self.meta = Some(meta);
                }
            }
            Key::Control => {
                if let Some(Object::Control(control)) = object {
                    self.control = Some(control);
                }
            }
            Key::Level => {
                if let Some(Object::Level(agreed)) = object {
                    self.agreed = Some(agreed);
                }
            }
            Key::Node(id) => set!(nodes, id, Node),
            Key::Tombstone(id) => set!(tombstones, id, Tombstone),
            Key::JoinToken(id) => set!(join_tokens, id, JoinToken),
            Key::Definition(app) => set!(definitions, app, Definition),
            Key::Placement(id) => set!(placements, id, Placement),
            Key::Status(id) => set!(statuses, id, Status),
            Key::Event(id) => set!(events, id, Event),
            Key::Trust(id) => set!(trust, id, Trust),
            Key::NodeKey(id) => set!(keys, id, NodeKey),
            Key::Addresses(id) => set!(addresses, id, Addresses),
            Key::Volume(volume) => set!(volumes, volume, Volume),
            Key::Runtimes(id) => set!(runtimes, id, Runtimes),
            Key::Labels(id) => set!(labels, id, Labels),
            Key::Deployment(app) => set!(deployments, app, Deployment),
            Key::Content(id) => set!(contents, id, Content),
            Key::Secret(id) => set!(secrets, id, Secret),
            Key::Shortfall(service) => set!(shortfalls, service, Shortfall),
        }
    }

    fn objects(&self) -> Vec<(RegionKey, Revision, RegionObject)> {
        let mut all = Vec::new();
        all.extend(self.meta.iter().map(|meta| (RegionKey::Meta, Revision(0), RegionObject::Meta(meta.clone()))));
        all.extend(self.control.map(|control| (RegionKey::Control, Revision(0), RegionObject::Control(control))));
        all.extend(
            self.agreed.iter().map(|agreed| (RegionKey::Level, Revision(0), RegionObject::Level(agreed.clone()))),
        );
        macro_rules! add {
            ($table:ident, $kind:ident) => {
                all.extend(self.$table.rows().map(|(key, revision, value)| {
                    (RegionKey::$kind(key.clone()), revision, RegionObject::$kind(value.clone()))
                }));
            };
        }
        add!(nodes, Node);
        add!(tombstones, Tombstone);
        add!(join_tokens, JoinToken);
        add!(definitions, Definition);
        add!(placements, Placement);
        add!(statuses, Status);
        add!(events, Event);
        add!(trust, Trust);
        add!(keys, NodeKey);
        add!(addresses, Addresses);
        add!(volumes, Volume);
        add!(runtimes, Runtimes);
        add!(labels, Labels);
        add!(deployments, Deployment);
        add!(contents, Content);
        add!(secrets, Secret);
        add!(shortfalls, Shortfall);
        all
    }

    fn kind(key: &RegionKey) -> &'static str {
        match key {
            RegionKey::Meta => "region",
            RegionKey::Node(_) => "nodes",
            RegionKey::Tombstone(_) => "removed nodes",
            RegionKey::JoinToken(_) => "join tokens",
            RegionKey::Definition(_) => "definitions",
            RegionKey::Placement(_) => "placements",
            RegionKey::Status(_) => "statuses",
            RegionKey::Event(_) => "events",
            RegionKey::Control => "controller",
            RegionKey::Trust(_) => "trust of nodes",
            RegionKey::NodeKey(_) => "keys of nodes",
            RegionKey::Level => "level",
            RegionKey::Addresses(_) => "addresses of nodes",
            RegionKey::Volume(_) => "volumes",
            RegionKey::Runtimes(_) => "runtime classes of nodes",
            RegionKey::Labels(_) => "labels of nodes",
            RegionKey::Deployment(_) => "deployments",
            RegionKey::Content(_) => "contents of files",
            RegionKey::Secret(_) => "secrets, sealed",
            RegionKey::Shortfall(_) => "what losses have taken",
        }
    }

    fn set_incarnation(object: &mut RegionObject, incarnation: Incarnation) {
        if let RegionObject::Meta(meta) = object {
            meta.incarnation = incarnation;
        }
    }

    fn origin(&self) -> Option<(&ClusterId, Incarnation)> {
        self.meta.as_ref().map(|meta| (&meta.cluster, meta.incarnation))
    }

    fn needs(command: &RegionCommand) -> Level {
        command.level()
    }

    fn agreed(&self) -> Option<&Agreed> {
        self.agreed.as_ref()
    }

    fn admits(&self, command: &RegionCommand) -> Result<(), NotYet> {
        let needed = command.level();
        // Who agrees on a level needs no agreement but that all know it.
        let is_agreement = matches!(command, RegionCommand::RaiseLevel(_));
        if needed <= self.level() || is_agreement && self.behind(needed).next().is_none() {
            return Ok(());
        }
        let behind = self.behind(needed).map(|node| format!("node {}", node.name)).collect();
        Err(NotYet { state: Self::NAME.to_owned(), needed, agreed: self.level(), behind })
    }
}

#[cfg(test)]
mod tests;
