//! `insula cordon`, `uncordon`, `drain` and `node rm`.

use insula_api::{
    Client,
    wire::{Node, NodeAddress, NodeDuty, NodeState, Volume},
};
use insula_env::clock;
use insula_types::NodeId;

use super::show::node_key;
use crate::{
    Exit, Failure,
    args::{DrainArgs, NodeFindArgs, NodeRmArgs},
    output::{confirm, say, say_json},
};

pub async fn set_duty(client: &Client, key: &str, duty: NodeDuty) -> Result<(), Failure> {
    let node = client.set_node_duty(node_key(key)?, duty).await?.value;
    let what = match duty {
        NodeDuty::Serve => "takes new instances",
        NodeDuty::Cordon => "keeps what it runs and takes no new instances",
        NodeDuty::Drain => "gives away what it runs",
    };
    say(&format!("node {} {what}\n", node.name))
}

pub async fn drain(client: &Client, args: &DrainArgs) -> Result<(), Failure> {
    let node = client.node(node_key(&args.node)?).await?.value;
    if !args.yes {
        ask_above_a_third(client, &node, "drained").await?;
    }
    // By id from here on: exactly the node that was shown (rule R8).
    let id = node.id.to_string();
    let drained = client.set_node_duty(&id, NodeDuty::Drain).await?;
    if args.detach {
        return say(&format!("node {} is drained: {} to move\n", node.name, instances(drained.value.instances)));
    }
    let emptied = async {
        let (mut seen, mut left) = (drained.revision, drained.value.instances);
        say(&format!("node {}: {} to move\n", node.name, instances(left)))?;
        while left > 0 {
            let bound = bound_there(client, node.id).await?;
            if bound.len() >= left as usize {
                return Err(stays(&node, &bound));
            }
            let now = client.node_after(&id, seen).await?;
            if !now.value.is_draining {
                return Err(Failure::new(Exit::Conflict, format!("somebody gave node {} work again", node.name)));
            }
            if now.value.instances != left {
                left = now.value.instances;
                say(&format!("node {}: {} left\n", node.name, instances(left)))?;
            }
            seen = now.revision;
        }
        say(&format!("node {} is drained: nothing runs there, `insula uncordon` gives it work again\n", node.name))
    };
    match clock::timeout(args.wait, emptied).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unfinished(client, &node).await),
    }
}

/// The volumes with which instances are placed on a node: these cannot go elsewhere.
async fn bound_there(client: &Client, node: NodeId) -> Result<Vec<Volume>, Failure> {
    let mut bound = client.volumes().await?.items;
    bound.retain(|volume| volume.node == node && volume.instance.is_some());
    // One instance may have several.
    bound.sort_by_key(|volume| volume.instance);
    bound.dedup_by_key(|volume| volume.instance);
    Ok(bound)
}

/// That a node is drained of what can be drained.
fn stays(node: &Node, bound: &[Volume]) -> Failure {
    let text = format!(
        "node {} is not empty: {} stay there with data that is nowhere else; all else is gone",
        node.name,
        instances(bound.len() as u32)
    );
    let mut failure = Failure::new(Exit::Conflict, text);
    for volume in bound {
        let instance = volume.instance.map(|instance| instance.to_string()).unwrap_or_default();
        failure = failure.hint(&format!("{instance} has {}", volume.volume));
    }
    failure
        .hint("`insula stop APP/SERVICE` ends all instances of a service; `insula uncordon` gives the node work again")
}

/// What is still there when the wait is over, and why that may be.
async fn unfinished(client: &Client, node: &Node) -> Failure {
    let mut failure =
        Failure::new(Exit::TimedOut, format!("node {} is not empty yet; it goes on being drained", node.name));
    if let Ok(all) = client.instances(None).await {
        for left in all.items.iter().filter(|instance| instance.node == node.id) {
            failure = failure.hint(&format!("{}/{} {}: {}", left.app, left.service, left.id, left.state.as_str()));
        }
    }
    failure.hint("an instance goes once its replacement is ready; `insula events` says what finds no place")
}

pub async fn remove(client: &Client, args: &NodeRmArgs) -> Result<(), Failure> {
    let node = client.node(node_key(&args.node)?).await?.value;
    if !args.yes {
        if args.force && (node.instances > 0 || node.state == NodeState::Up) {
            let up = if node.state == NodeState::Up { "is up" } else { "is down" };
            let shown = format!(
                "node {} ({}) {up} and has {}. They are started elsewhere; what only this node holds is lost. \
                 Its id may never come back.",
                node.name,
                node.id,
                instances(node.instances)
            );
            confirm(&shown, "its name to go on", node.name.as_str())?;
        } else {
            ask_above_a_third(client, &node, "removed").await?;
        }
    }
    let gone = client.remove_node(&node, args.force).await?.value;
    say(&format!("node {} ({}) is removed for ever\n", gone.name, gone.id))
}

pub async fn reload(client: &Client, json: bool) -> Result<(), Failure> {
    let reloaded = client.reload().await?;
    if json {
        return say_json(&reloaded);
    }
    let verb = if reloaded.is_moved { "is reached now" } else { "is reached as before" };
    let mut out = format!("this node {verb} at {}\n", addresses(&reloaded.addresses));
    if !reloaded.needs_restart.is_empty() {
        let keys = reloaded.needs_restart.join(", ");
        out.push_str(&format!("changed and not in force before a restart of the server: {keys}\n"));
    }
    say(&out)
}

pub async fn find(client: &Client, args: &NodeFindArgs) -> Result<(), Failure> {
    let found = client.find(args.address).await?;
    if args.json.json {
        return say_json(&found);
    }
    let name = found.name.map_or_else(|| found.node.to_string(), |name| format!("{name} ({})", found.node));
    say(&format!("{} is node {name}; both know now what the other knew\n", args.address))
}

/// The addresses of a node in one line.
pub fn addresses(list: &[NodeAddress]) -> String {
    let one = |known: &NodeAddress| insula_types::NodeAddress { scope: known.scope, at: known.address }.to_string();
    list.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Asks again when, with this one, more than a third of the nodes are out of use (rule R8).
async fn ask_above_a_third(client: &Client, node: &Node, what: &str) -> Result<(), Failure> {
    let nodes = client.nodes().await?.items;
    let out = out_of_use(&nodes, node);
    if out * 3 <= nodes.len() {
        return Ok(());
    }
    let shown = format!("With node {} {what}, {out} of {} nodes are out of use.", node.name, nodes.len());
    confirm(&shown, "its name to go on", node.name.as_str())
}

/// How many nodes are down, cordoned or drained once this one is.
fn out_of_use(nodes: &[Node], node: &Node) -> usize {
    let is_out = |other: &&Node| other.is_cordoned || other.state != NodeState::Up;
    1 + nodes.iter().filter(|other| other.id != node.id).filter(is_out).count()
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}
