//! Decides on region commands.

mod contents;
mod deployments;
mod hooks;
mod shortfalls;
mod volumes;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use insula_types::{
    Addresses, Agreed, Desired, InstanceId, InstanceStatus, LabelName, Labels, Level, Node, NodeHealth, NodeId, Phase,
    Placement, RegionalDefinition, Revision, RuntimeName, label::LABELS_MAX, text::shorten,
};

use super::{
    ControlLease, JoinToken, NodeDuty, NodeTrust, RUNTIMES_MAX, RegionCommand, RegionKey, RegionMeta, RegionObject,
    RegionReply, RegionState,
};
use crate::{
    Changes, Conflict, Domain, Rejection,
    event::{EVENTS_MAX, Event, EventId, EventKind},
};

/// From which level on an instance that fails again and again for the same reason is told of at growing intervals.
const REPEATS: Level = Level(6);
/// Longest reason in an event, in bytes.
pub(super) const WHY_LEN_MAX: usize = 300;
/// The least and the greatest time after which the same is told again, in milliseconds.
pub(super) const TOLD_AGAIN_AFTER_MS: (u64, u64) = (60_000, 3_600_000);
/// Most roots or CA certificates that a node reports.
const TRUST_MAX: usize = 8;

/// One command being decided.
pub(super) struct Apply<'a> {
    state: &'a RegionState,
    at_ms: u64,
    revision: Revision,
    out: &'a mut Changes<RegionState>,
    events: u16,
}

type Decision = Result<RegionReply, Rejection>;

impl<'a> Apply<'a> {
    pub(super) fn new(
        state: &'a RegionState,
        at_ms: u64,
        revision: Revision,
        out: &'a mut Changes<RegionState>,
    ) -> Self {
        Self { state, at_ms, revision, out, events: 0 }
    }

    pub(super) fn command(mut self, command: &RegionCommand) -> Decision {
        use RegionCommand as C;
        match command {
            C::Init { meta, node } => self.init(meta, node),
            C::CreateJoinToken(token) => self.create_join_token(token),
            C::ReportTrust { node, trust } => self.report_trust(*node, trust),
            C::BindKey { node, key_sha256 } => self.bind_key(*node, key_sha256),
            C::RemoveJoinToken { id } => {
                if !self.state.join_tokens.contains(id) {
                    return Err(Rejection::not_found(format!("there is no join token {id}")));
                }
                self.out.remove(RegionKey::JoinToken(id.clone()));
                Ok(RegionReply::Done)
            }
            C::RaiseLevel(agreed) => self.raise_level(agreed),
            C::SetAddresses { node, addresses } => self.set_addresses(*node, addresses),
            C::CreateVolume { volume, node, size } => self.create_volume(volume, *node, *size),
            C::GrowVolume { volume, size } => self.grow_volume(volume, *size),
            C::DeleteVolume { volume } => self.delete_volume(volume),
            C::ConfirmVolume { node, volume } => self.confirm_volume(*node, volume),
            C::ForgetVolume { node, volume } => self.forget_volume(*node, volume),
            C::SetRuntimes { node, runtimes } => self.set_runtimes(*node, runtimes),
            C::SetLabels { node, labels } => self.set_labels(*node, labels),
            C::AdvanceDeployment { app, release, state, why } => self.advance_deployment(app, *release, *state, why),
            C::AdvanceHook { app, release, service, hook, state, spent_ms, why } => {
                self.advance_hook((app, *release), (service, *hook), *state, *spent_ms, why)
            }
            C::SteerDeployment { app, release, steering } => self.steer_deployment(app, *release, *steering),
            C::Join { token, secret_hash, node } => self.join(token, secret_hash, node),
            C::UpdateNode { id, address, capacity, version } => {
                self.knows_enough(version)?;
                self.update_node(*id, |node| {
                    node.address = *address;
                    node.capacity = *capacity;
                    node.version.clone_from(version);
                })
            }
            C::SetNodeHealth { id, health } => self.set_health(*id, *health),
            C::Cordon { id, is_cordoned } => self.update_node(*id, |node| node.is_cordoned = *is_cordoned),
            C::RemoveNode { id, reason } => self.remove_node(*id, reason),
            C::SetNodeDuty { id, duty } => self.set_duty(*id, *duty),
            C::TakeOutNode { id, reason, expected, is_forced } => {
                self.take_out_node(*id, reason, *expected, *is_forced)
            }
            C::SetDefinition(definition) => self.set_definition_with(definition, &BTreeMap::new(), &[]),
            C::SetDefinitionWith { definition, contents, secrets } => {
                self.set_definition_with(definition, contents, secrets)
            }
            C::RemoveDefinition { app } => {
                if self.state.definitions.contains(app) {
                    self.out.remove(RegionKey::Definition(app.clone()));
                    self.forget_deployment(app);
                    self.refit(app, None);
                    self.forget_contents(app, None, &[]);
                    self.event(Event::new(self.at_ms, EventKind::Removed, format!("{app} was removed")).app(app));
                }
                Ok(RegionReply::Done)
            }
            C::Place(placements) => self.place(placements),
            C::SetDesired { instances, desired, reason } => self.set_desired(instances, *desired, reason),
            C::GiveWay { instances, to, node } => self.give_way(instances, to, *node),
            C::RemovePlacements(instances) => self.remove_placements(instances),
            C::ReportStatus { node, statuses } => self.report(*node, statuses),
            C::Note(event) => {
                let mut event = event.clone();
                event.at_ms = self.at_ms;
                self.event(event);
                Ok(RegionReply::Done)
            }
            C::TakeControl { node } => {
                self.node(*node)?;
                let epoch = self.state.control.map_or(1, |held| held.epoch + 1);
                self.out.put(RegionKey::Control, RegionObject::Control(ControlLease { epoch, node: *node }));
                Ok(RegionReply::Control { epoch })
            }
            C::Controlled { epoch, command } => match (self.state.control, &**command) {
                // One level is all that is ever made; refusing more bounds the recursion on bad input.
                (_, C::Controlled { .. }) => Err(Rejection::invalid("a controlled command within another")),
                (Some(held), command) if held.epoch == *epoch => self.command(command),
                (held, _) => Err(Rejection::conflict(
                    Conflict::Ours,
                    format!(
                        "control epoch {epoch} has ended, the present one is {}: another leader has taken over",
                        held.map_or(0, |held| held.epoch)
                    ),
                )),
            },
        }
    }

    fn init(&mut self, meta: &RegionMeta, node: &Node) -> Decision {
        if let Some(present) = &self.state.meta {
            return Err(Rejection::conflict(
                Conflict::Ours,
                format!("this state belongs to region {} already", present.region),
            ));
        }
        self.out.put(RegionKey::Meta, RegionObject::Meta(meta.clone()));
        if let Some(agreed) = Agreed::of_version(&node.version) {
            self.out.put(RegionKey::Level, RegionObject::Level(agreed));
        }
        self.add_node(node);
        Ok(RegionReply::Done)
    }

    fn raise_level(&mut self, agreed: &Agreed) -> Decision {
        if agreed.level <= self.state.level() {
            return Ok(RegionReply::Done);
        }
        if let Some(node) = self.state.behind(agreed.level).next() {
            let (name, level) = (&node.name, node.level());
            return Err(Rejection::conflict(
                Conflict::Ours,
                format!("node {name} knows no more than level {level}: upgrade it first"),
            ));
        }
        let text =
            format!("all nodes know level {0}: version {1} or later is needed now", agreed.level, agreed.version);
        self.event(Event::new(self.at_ms, EventKind::Note, text));
        self.out.put(RegionKey::Level, RegionObject::Level(agreed.clone()));
        Ok(RegionReply::Done)
    }

    /// Refuses a program that does not know all commands that may come.
    fn knows_enough(&self, version: &str) -> Result<(), Rejection> {
        let (version, level) = Level::split(version);
        match &self.state.agreed {
            Some(agreed) if level < agreed.level => Err(Rejection::forbidden(format!(
                "the region is at level {}, and this program ({version}) knows no more than level {level}: install \
                 version {} or later",
                agreed.level, agreed.version
            ))),
            _ => Ok(()),
        }
    }

    fn add_node(&mut self, node: &Node) {
        let node = Node { joined_ms: self.at_ms, health: NodeHealth::Up, ..node.clone() };
        let text = format!("node {} joined in {}", node.name, node.datacenter);
        self.event(Event::new(self.at_ms, EventKind::NodeJoined, text).node(node.id));
        self.out.put(RegionKey::Node(node.id), RegionObject::Node(node));
    }

    fn create_join_token(&mut self, token: &JoinToken) -> Decision {
        if self.state.join_tokens.contains(&token.id) {
            return Err(Rejection::conflict(Conflict::Ours, format!("there is a join token {} already", token.id)));
        }
        // Those that are of no more use make room. It takes a walk through all, so their number must double in between.
        if self.state.join_tokens.len().is_power_of_two() {
            let at_ms = self.at_ms;
            let ended = self.state.join_tokens.values().filter(|t| t.expires_ms <= at_ms || t.uses_left == 0);
            for old in ended {
                self.out.remove(RegionKey::JoinToken(old.id.clone()));
            }
        }
        self.out.put(RegionKey::JoinToken(token.id.clone()), RegionObject::JoinToken(token.clone()));
        Ok(RegionReply::Done)
    }

    fn join(&mut self, token: &str, secret_hash: &str, node: &Node) -> Decision {
        let known = self.state.join_tokens.get(&token.to_owned()).filter(|t| t.secret_hash == secret_hash);
        let Some(known) = known else {
            return Err(Rejection::forbidden("the join token is unknown: make a new one with `insula token create`"));
        };
        if known.expires_ms <= self.at_ms {
            return Err(Rejection::forbidden("the join token has expired: make a new one with `insula token create`"));
        }
        if self.state.tombstones.contains(&node.id) {
            return Err(Rejection::forbidden(format!(
                "node {} was removed and may not come back: empty its data directory and join as a new node",
                node.id
            )));
        }
        self.knows_enough(&node.version)?;
        // A machine that did not get the answer asks again with its id; that costs no further use.
        if let Some(present) = self.state.nodes.get(&node.id) {
            let text = format!("node {} is already a member, as {}", node.id, present.name);
            return if present.name == node.name {
                Ok(RegionReply::Done)
            } else {
                Err(Rejection::conflict(Conflict::Ours, text))
            };
        }
        if known.uses_left == 0 {
            return Err(Rejection::forbidden("the join token is used up: make a new one with `insula token create`"));
        }
        if let Some(namesake) = self.state.node_named(node.name.as_str()) {
            return Err(Rejection::conflict(
                Conflict::Ours,
                format!("the name {} belongs to node {}: choose another with --name", node.name, namesake.id),
            ));
        }
        let used = JoinToken { uses_left: known.uses_left - 1, ..known.clone() };
        self.out.put(RegionKey::JoinToken(used.id.clone()), RegionObject::JoinToken(used));
        self.add_node(node);
        Ok(RegionReply::Done)
    }

    fn node(&self, id: NodeId) -> Result<&'a Node, Rejection> {
        let state = self.state;
        state.nodes.get(&id).ok_or_else(|| Rejection::not_found(format!("there is no node {id} in this region")))
    }

    fn update_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) -> Decision {
        let present = self.node(id)?;
        let mut node = present.clone();
        change(&mut node);
        if node != *present {
            self.out.put(RegionKey::Node(id), RegionObject::Node(node));
        }
        Ok(RegionReply::Done)
    }

    fn set_health(&mut self, id: NodeId, health: NodeHealth) -> Decision {
        let node = self.node(id)?;
        if node.health.is_up() == health.is_up() {
            return Ok(RegionReply::Done);
        }
        let (kind, text) = if health.is_up() {
            (EventKind::NodeUp, format!("node {} is back", node.name))
        } else {
            (EventKind::NodeDown, format!("node {} is down: it did not renew its lease", node.name))
        };
        self.event(Event::new(self.at_ms, kind, text).node(id));
        if !health.is_up() {
            self.lose(id);
        }
        self.update_node(id, |node| node.health = health)
    }

    fn remove_node(&mut self, id: NodeId, reason: &str) -> Decision {
        let node = self.node(id)?;
        let count = self.state.placements_of(id).count();
        if count > 0 {
            return Err(Rejection::conflict(
                Conflict::NodeInUse,
                format!("{count} instances are on node {}: drain it first", node.name),
            ));
        }
        self.forget_node(id, reason);
        Ok(RegionReply::Done)
    }

    fn set_duty(&mut self, id: NodeId, duty: NodeDuty) -> Decision {
        let node = self.node(id)?;
        let (is_cordoned, is_draining) = (duty != NodeDuty::Serve, duty == NodeDuty::Drain);
        if (node.is_cordoned, node.is_draining) == (is_cordoned, is_draining) {
            return Ok(RegionReply::Done);
        }
        let what = match duty {
            NodeDuty::Serve => "takes new instances again",
            NodeDuty::Cordon => "is cordoned: it takes no new instances",
            NodeDuty::Drain => "is drained: what runs there is placed elsewhere",
        };
        let text = format!("node {} {what}", node.name);
        self.event(Event::new(self.at_ms, EventKind::Note, text).node(id));
        self.update_node(id, |node| {
            node.is_cordoned = is_cordoned;
            node.is_draining = is_draining;
        })
    }

    fn take_out_node(&mut self, id: NodeId, reason: &str, expected: Revision, is_forced: bool) -> Decision {
        let node = self.node(id)?;
        if self.state.nodes.revision(&id) != Some(expected) {
            return Err(Rejection::conflict(
                Conflict::NodeChanged,
                format!("node {} has changed since it was looked at", node.name),
            ));
        }
        let placed: Vec<InstanceId> = self.state.placements_of(id).map(|placement| placement.instance).collect();
        if !is_forced && !placed.is_empty() {
            let count = placed.len();
            return Err(Rejection::conflict(
                Conflict::NodeInUse,
                format!("{count} instances are on node {}: drain it first", node.name),
            ));
        }
        if !is_forced && node.health.is_up() {
            let text = format!("node {} is up: stop insula on it first, and wait until it is seen down", node.name);
            return Err(Rejection::conflict(Conflict::NodeIsUp, text));
        }
        if node.health.is_up() {
            self.lose(id);
        }
        self.remove_placements(&placed)?;
        let text = match placed.len() {
            0 => format!("node {} was removed: {reason}", node.name),
            count => format!("node {} was removed with {count} instances on it: {reason}", node.name),
        };
        self.event(Event::new(self.at_ms, EventKind::Note, text).node(id));
        if self.state.level() >= Level(3) {
            self.forget_node(id, reason);
        } else {
            // Programs of level 2 keep the rest.
            self.out.remove(RegionKey::Node(id));
            self.out.put(RegionKey::Tombstone(id), RegionObject::Tombstone(reason.to_owned()));
        }
        Ok(RegionReply::Done)
    }

    fn set_definition(&mut self, definition: &RegionalDefinition) -> Decision {
        let app = &definition.app;
        if let Some(present) = self.state.definitions.get(app) {
            if present.release > definition.release {
                return Err(Rejection::conflict(
                    Conflict::Ours,
                    format!("{app} is at release {} here, later than {}", present.release, definition.release),
                ));
            }
            if present == definition {
                return Ok(RegionReply::Done);
            }
        }
        self.begin_deployment(definition);
        let text = format!("{app} release {} was deployed here", definition.release);
        self.event(Event::new(self.at_ms, EventKind::Deployed, text).app(app));
        self.out.put(RegionKey::Definition(app.clone()), RegionObject::Definition(definition.clone()));
        self.forget_contents(app, Some(definition), &[]);
        self.refit(app, Some(definition));
        Ok(RegionReply::Done)
    }

    fn place(&mut self, placements: &[Placement]) -> Decision {
        for (index, placement) in placements.iter().enumerate() {
            let instance = placement.instance;
            let twice = placements[..index].iter().any(|earlier| earlier.instance == instance);
            if twice || self.state.placements.contains(&instance) {
                return Err(Rejection::conflict(Conflict::Ours, format!("instance {instance} exists already")));
            }
            self.node(placement.node)?;
            self.check_volumes(placement, &placements[..index])?;
            self.check_hook(placement)?;
        }
        for placement in placements {
            self.provide_volumes(placement);
            self.begin_hook(placement);
            let node = self.node(placement.node)?;
            let placed = Placement { placed_ms: self.at_ms, ..placement.clone() };
            let why = placed.reasons.first().map_or("", String::as_str);
            let text = format!("{} {} goes to node {}: {why}", placed.service, placed.instance, node.name);
            let event = Event::new(self.at_ms, EventKind::Placed, text);
            self.event(event.node(node.id).app(&placed.service.app).instance(placed.instance));
            self.out.put(RegionKey::Placement(placed.instance), RegionObject::Placement(placed));
        }
        self.fill(placements);
        Ok(RegionReply::Done)
    }

    fn set_desired(&mut self, instances: &[InstanceId], desired: Desired, reason: &str) -> Decision {
        for id in instances {
            let Some(placement) = self.state.placements.get(id).filter(|p| p.desired != desired) else { continue };
            let verb = match desired {
                Desired::Run => "shall run",
                Desired::Drain => "is drained",
                Desired::Stop => "is stopped",
            };
            let text = format!("{} {id} {verb}: {reason}", placement.service);
            let event = Event::new(self.at_ms, EventKind::Stopped, text).node(placement.node);
            self.event(event.app(&placement.service.app).instance(*id));
            let changed = Placement { desired, ..placement.clone() };
            self.out.put(RegionKey::Placement(*id), RegionObject::Placement(changed));
        }
        Ok(RegionReply::Done)
    }

    fn remove_placements(&mut self, instances: &[InstanceId]) -> Decision {
        let placed = instances.iter().filter_map(|id| self.state.placements.get(id));
        let apps: BTreeSet<_> = placed.filter(|one| one.spec.has_contents()).map(|one| &one.service.app).collect();
        for app in apps {
            self.forget_contents(app, self.state.definitions.get(app), instances);
        }
        for id in instances {
            if self.state.placements.contains(id) {
                self.out.remove(RegionKey::Placement(*id));
            }
            if self.state.statuses.contains(id) {
                self.out.remove(RegionKey::Status(*id));
            }
        }
        Ok(RegionReply::Done)
    }

    fn report(&mut self, node: NodeId, statuses: &[InstanceStatus]) -> Decision {
        self.node(node)?;
        for status in statuses {
            let Some(placement) = self.state.placements.get(&status.instance) else { continue };
            if placement.node != node || status.node != node {
                continue;
            }
            let before = self.state.statuses.get(&status.instance);
            if before == Some(status) {
                continue;
            }
            self.tell_change(placement, before, status);
            self.out.put(RegionKey::Status(status.instance), RegionObject::Status(status.clone()));
        }
        Ok(RegionReply::Done)
    }

    fn bind_key(&mut self, node: NodeId, key_sha256: &str) -> Decision {
        self.node(node)?;
        if key_sha256.len() != 64 {
            return Err(Rejection::invalid("the hash of a key has 64 hexadecimal digits"));
        }
        match self.state.keys.get(&node) {
            Some(present) if present == key_sha256 => {}
            Some(_) => {
                let text = format!("node {node} has another key: wipe this machine and join with a new id");
                return Err(Rejection::forbidden(text));
            }
            None => self.out.put(RegionKey::NodeKey(node), RegionObject::NodeKey(key_sha256.to_owned())),
        }
        Ok(RegionReply::Done)
    }

    fn report_trust(&mut self, node: NodeId, trust: &NodeTrust) -> Decision {
        self.node(node)?;
        if trust.roots.len().max(trust.authorities.len()) > TRUST_MAX {
            return Err(Rejection::invalid(format!("a node shows at most {TRUST_MAX} certificates of a kind")));
        }
        if self.state.trust.get(&node) != Some(trust) {
            self.out.put(RegionKey::Trust(node), RegionObject::Trust(trust.clone()));
        }
        Ok(RegionReply::Done)
    }

    fn set_addresses(&mut self, id: NodeId, addresses: &Addresses) -> Decision {
        let node = self.node(id)?;
        let addresses = addresses.clone().checked().map_err(|error| Rejection::invalid(error.to_string()))?;
        if let Some(present) = self.state.addresses.get(&id) {
            if present == &addresses && node.address == addresses.widest() {
                return Ok(RegionReply::Done);
            }
            if present.edition() > addresses.edition() {
                let (said, is) = (addresses.edition(), present.edition());
                return Err(Rejection::conflict(
                    Conflict::Ours,
                    format!("these are addresses number {said}, and {is} are known"),
                ));
            }
        }
        let (from, to) = (node.address, addresses.widest());
        if from != to {
            let text = format!("node {} is reached at {to} now, no longer at {from}", node.name);
            self.event(Event::new(self.at_ms, EventKind::Note, text).node(id));
        }
        self.out.put(RegionKey::Addresses(id), RegionObject::Addresses(addresses));
        self.update_node(id, |node| node.address = to)
    }

    fn set_runtimes(&mut self, id: NodeId, runtimes: &BTreeSet<RuntimeName>) -> Decision {
        self.node(id)?;
        if runtimes.len() > RUNTIMES_MAX {
            return Err(Rejection::invalid(format!("a node has at most {RUNTIMES_MAX} runtime classes")));
        }
        match self.state.runtimes.get(&id) {
            Some(present) if present == runtimes => {}
            Some(_) if runtimes.is_empty() => self.out.remove(RegionKey::Runtimes(id)),
            None if runtimes.is_empty() => {}
            _ => self.out.put(RegionKey::Runtimes(id), RegionObject::Runtimes(runtimes.clone())),
        }
        Ok(RegionReply::Done)
    }

    fn set_labels(&mut self, id: NodeId, labels: &Labels) -> Decision {
        self.node(id)?;
        if labels.len() > LABELS_MAX {
            return Err(Rejection::invalid(format!("a node has at most {LABELS_MAX} labels")));
        }
        if let Some(own) = labels.keys().find(|name| LabelName::OWN.contains(&name.as_str())) {
            return Err(Rejection::invalid(format!("every node has the label {own} of itself")));
        }
        match self.state.labels.get(&id) {
            Some(present) if present == labels => {}
            Some(_) if labels.is_empty() => self.out.remove(RegionKey::Labels(id)),
            None if labels.is_empty() => {}
            _ => self.out.put(RegionKey::Labels(id), RegionObject::Labels(labels.clone())),
        }
        Ok(RegionReply::Done)
    }

    /// Forgets what is known of a node that is removed.
    fn forget_node(&mut self, id: NodeId, reason: &str) {
        self.out.remove(RegionKey::Node(id));
        if self.state.keys.contains(&id) {
            self.out.remove(RegionKey::NodeKey(id));
        }
        if self.state.trust.contains(&id) {
            self.out.remove(RegionKey::Trust(id));
        }
        if self.state.addresses.contains(&id) {
            self.out.remove(RegionKey::Addresses(id));
        }
        if self.state.runtimes.contains(&id) {
            self.out.remove(RegionKey::Runtimes(id));
        }
        if self.state.labels.contains(&id) {
            self.out.remove(RegionKey::Labels(id));
        }
        self.out.put(RegionKey::Tombstone(id), RegionObject::Tombstone(reason.to_owned()));
    }

    /// Puts what users want to know of a new status into the events.
    fn tell_change(&mut self, placement: &Placement, before: Option<&InstanceStatus>, now: &InstanceStatus) {
        // A hook that has ended well is told by its deployment.
        let is_ready = now.is_ready && placement.hook.is_none();
        let was_ready = before.is_some_and(|status| status.is_ready) && placement.hook.is_none();
        let name = format!("{} {}", placement.service, placement.instance);
        let (kind, text) = if is_ready && !was_ready {
            (EventKind::Ready, format!("{name} is ready"))
        } else if now.phase == Phase::Backoff && before.is_none_or(|before| self.is_news(before, now)) {
            (EventKind::Restarting, format!("{name} will be started again: {}", self.why(now)))
        } else if was_ready && !is_ready {
            (EventKind::Unready, format!("{name} is not ready: {}", self.why(now)))
        } else {
            return;
        };
        let event = Event::new(self.at_ms, kind, text).node(placement.node);
        let event = event.app(&placement.service.app).instance(placement.instance);
        if self.state.level() < REPEATS || !self.was_just_told(&event) {
            self.event(event);
        }
    }

    /// Whether one that waits to be started again was doing something else before, or waits for another reason.
    fn is_news(&self, before: &InstanceStatus, now: &InstanceStatus) -> bool {
        before.phase != Phase::Backoff || self.state.level() >= REPEATS && before.message != now.message
    }

    fn why<'s>(&self, status: &'s InstanceStatus) -> Cow<'s, str> {
        match self.state.level() >= REPEATS {
            true => shorten(&status.message, WHY_LEN_MAX),
            false => Cow::Borrowed(&status.message),
        }
    }

    /// Whether the same was told of an instance before, and no longer ago than it has gone on then: what repeats itself is told after a
    /// minute, after two, four, eight, and each hour at last. One that gets ready is told of anew whenever something else was told since.
    fn was_just_told(&self, event: &Event) -> bool {
        let of_it = || self.state.events.values().rev().filter(|told| told.instance == event.instance);
        let is_same = |told: &&Event| (told.kind, &told.text) == (event.kind, &event.text);
        let mut same = match event.kind {
            EventKind::Restarting => of_it().filter(is_same).map(|told| told.at_ms).collect::<Vec<_>>(),
            EventKind::Ready | EventKind::Unready if of_it().next().is_some_and(|last| is_same(&last)) => return true,
            _ => return false,
        }
        .into_iter();
        let Some(last) = same.next() else { return false };
        let first = same.next_back().unwrap_or(last);
        let gone_on = last.saturating_sub(first);
        self.at_ms.saturating_sub(last) < gone_on.clamp(TOLD_AGAIN_AFTER_MS.0, TOLD_AGAIN_AFTER_MS.1)
    }

    fn event(&mut self, event: Event) {
        let id = EventId(self.revision, self.events);
        self.events = self.events.saturating_add(1);
        self.out.put(RegionKey::Event(id), RegionObject::Event(event));
        // One out for one in, once full.
        let kept = self.state.events.len();
        let index = usize::from(self.events) - 1;
        if kept + index >= EVENTS_MAX
            && let Some((oldest, _)) = self.state.events.iter().nth(index)
        {
            self.out.remove(RegionKey::Event(*oldest));
        }
    }
}
