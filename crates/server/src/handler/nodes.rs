//! Changes what nodes do, and removes them.

use insula_api::{
    Answer, Code, Problem, RemoveNodeRequest,
    handler::NodeKey,
    wire::{FindBody, Found, Node, NodeDuty, NodeRemoved, Reloaded, Versioned},
};
use insula_state::{RegionCommand, region};
use insula_telemetry::chain;
use insula_types::RequestId;

use super::{
    NodeApi,
    cluster::{find_node, shown},
};
use crate::{Error, config::NodeConfig, whereabouts::FindError};

/// What the tombstone of a node says that was removed by command.
const REASON: &str = "removed by command";

impl NodeApi {
    pub(super) async fn set_duty(
        &self,
        key: &NodeKey,
        duty: NodeDuty,
        request: Option<RequestId>,
    ) -> Answer<Versioned<Node>> {
        let id = self.region.read(|state| find_node(state, key).map(|node| node.id))?;
        let duty = match duty {
            NodeDuty::Serve => region::NodeDuty::Serve,
            NodeDuty::Cordon => region::NodeDuty::Cordon,
            NodeDuty::Drain => region::NodeDuty::Drain,
        };
        self.change(&self.region, request, &RegionCommand::SetNodeDuty { id, duty }).await.map_err(of_node)?;
        self.show_node(&NodeKey::Id(id))
    }

    pub(super) async fn take_out_node(&self, request: RemoveNodeRequest) -> Answer<Versioned<NodeRemoved>> {
        let RemoveNodeRequest { node, expected, is_forced, request } = request;
        let removed = self.region.read(|state| {
            let node = find_node(state, &node)?;
            let instances = u32::try_from(state.placements_of(node.id).count()).unwrap_or(u32::MAX);
            Ok::<_, Problem>(NodeRemoved { id: node.id, name: node.name.clone(), instances })
        })?;
        let command = RegionCommand::TakeOutNode { id: removed.id, reason: REASON.to_owned(), expected, is_forced };
        let committed = self.change(&self.region, request, &command).await.map_err(of_node)?;
        Ok(Versioned { revision: committed.revision, value: removed })
    }
}

/// This node itself: what it takes over from its configuration while it runs, and who it is looking for.
impl NodeApi {
    pub(super) fn take_over_configuration(&self) -> Answer<Reloaded> {
        let refused = |error: &Error| Problem::new(Code::InvalidRequest, chain(error));
        let now = NodeConfig::read(&self.config_path).map_err(|error| refused(&error))?;
        let addresses = now.advertise.addresses();
        let is_moved = self.whereabouts.members.move_to(addresses.list()).map_err(|error| refused(&error))?;
        Ok(Reloaded { addresses: shown(addresses), is_moved, needs_restart: self.config.differs_for_good(&now) })
    }

    pub(super) async fn find_other(&self, body: FindBody) -> Answer<Found> {
        let node = self.whereabouts.find(body.address).await.map_err(|error| {
            let code = match error {
                FindError::Nobody(_) => Code::NodeUnreachable,
                FindError::Useless { .. } => Code::Conflict,
            };
            Problem::new(code, error.to_string())
        })?;
        let name = self.region.read(|state| state.nodes.get(&node).map(|node| node.name.clone()));
        Ok(Found { node, name })
    }
}

/// What is not found here is a node.
fn of_node(problem: Problem) -> Problem {
    match problem.code {
        Code::NoSuchApp => Problem { code: Code::NoSuchNode, ..problem },
        _ => problem,
    }
}
