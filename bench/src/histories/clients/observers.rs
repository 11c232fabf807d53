//! Those who watch: the events of each node, each node's word on who leads, and a set of API tokens that must all be
//! there at the end.

use std::time::Duration;

use http::Method;
use insula_api::{Client, Code, Context, wire::NodeStatus};
use insula_env::{Env, clock};
use serde_json::{Value, json};

use super::World;
use crate::{
    histories::{
        call::{Call, Caller},
        record::{Group, Outcome, Record},
    },
    writes::Insula,
};

/// Between two looks at a node's status, and between two new members of the set.
const STATUS_EVERY: Duration = Duration::from_millis(250);
const MEMBER_EVERY: Duration = Duration::from_secs(1);
/// How long a watch may take to start again.
const WATCH_AGAIN: Duration = Duration::from_millis(500);
/// How long a node may take at the end to show what it has.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);

/// Asks one node all the time how it sees its groups.
pub(super) async fn statuses(world: World, node: usize) {
    let Some(address) = world.nodes.get(node).copied() else { return };
    let mut caller = world.caller();
    while !world.is_over() {
        clock::sleep(STATUS_EVERY).await;
        let (span, answer) = world.timed(caller.attempt(address, &Call::get("/v1/status"))).await;
        let Outcome::Ok(Ok(answer)) = answer else { continue };
        let Ok(status) = serde_json::from_value::<NodeStatus>(answer) else { continue };
        for seen in status.groups {
            let has_stopped = format!("the {} group has stopped", seen.group);
            let record = Record::Status {
                span,
                node: status.name.to_string(),
                group: if seen.group == "region" { Group::Region } else { Group::Global },
                term: seen.term.0,
                leader: seen.leader.and_then(|leader| leader.name).map(|name| name.to_string()),
                is_voter: seen.is_voter,
                has_stopped: status.problems.iter().any(|problem| problem.starts_with(&has_stopped)),
            };
            if !world.note(record).await {
                return;
            }
        }
    }
}

/// Watches the events of one node, and resumes whenever it is lost.
pub(super) async fn events(world: World, node: usize) {
    let Some(address) = world.nodes.get(node).copied() else { return };
    let Ok(context) = world.context.parse::<Context>() else { return };
    let context = Context { addresses: vec![address.to_string()], ..context };
    let Ok(client) = Client::from_context(Env { tasks: world.tasks.clone(), ..Env::real("events") }, &context) else {
        return;
    };
    let mut after = None;
    let mut is_over = world.is_over.clone();
    while !world.is_over() {
        let mut reader = client.events(after, true);
        loop {
            let next = tokio::select! {
                next = reader.next() => next,
                _ = is_over.wait_for(|is_over| *is_over) => return,
            };
            let Ok(Some(event)) = next else { break };
            after = Some(event.id);
            let id = (event.id.revision.0, event.id.place);
            if !world.note(Record::Event { node: address.to_string(), id, text: event.text }).await {
                return;
            }
        }
        clock::sleep(WATCH_AGAIN).await;
    }
}

/// Adds to the set; at the end asks every node for every member that was acknowledged.
pub(super) async fn members(world: World) {
    let mut caller = world.caller();
    let mut acknowledged = Vec::new();
    let mut is_over = world.is_over.clone();
    while !world.is_over() {
        tokio::select! {
            () = clock::sleep(MEMBER_EVERY) => {}
            _ = is_over.wait_for(|is_over| *is_over) => break,
        }
        let body = json!({ "name": "member", "role": "viewer", "ttl_ms": 24 * 3600 * 1000 });
        let call = Call::change(Method::POST, "/v1/tokens/api", &world.key(), &body);
        let first = world.rng.range(0, world.nodes.len() as u64 - 1) as usize;
        let Some(node) = world.nodes.get(first).copied() else { return };
        // Not sent again: only the first answer has the secret.
        let (span, answer) = world.timed(caller.attempt(node, &call)).await;
        let outcome = match answer {
            Outcome::Ok(Ok(answer)) => {
                let text = |key: &str| answer.get(key).and_then(Value::as_str).map(str::to_owned);
                match (text("id"), text("context")) {
                    (Some(id), Some(context)) => {
                        acknowledged.push((id, context));
                        Outcome::Ok(())
                    }
                    // Made by a request that was given up meanwhile, whose answer had the secret.
                    _ => Outcome::Unknown,
                }
            }
            Outcome::Ok(Err(problem)) if matches!(problem.code, Code::NoLeader | Code::Unauthorized) => Outcome::Failed,
            Outcome::Failed => Outcome::Failed,
            _ => Outcome::Unknown,
        };
        let id = acknowledged.last().map_or_else(String::new, |(id, _)| id.clone());
        if !world.note(Record::Member { span, id, outcome }).await {
            return;
        }
    }
    for (id, context) in acknowledged {
        let Ok(insula) = Insula::new(&context) else { continue };
        let mut caller = Caller { insula, ..world.caller() };
        for node in world.nodes.clone() {
            let is_kept = is_kept(&world, &mut caller, node).await;
            if !world.note(Record::Kept { id: id.clone(), node: node.to_string(), is_kept }).await {
                return;
            }
        }
    }
}

/// Whether a node knows the caller's token; asks again before it claims a loss.
async fn is_kept(world: &World, caller: &mut Caller, node: std::net::SocketAddr) -> bool {
    let until = world.clock.now() + SHOWN_WITHIN;
    loop {
        if matches!(caller.attempt(node, &Call::get("/v1/status")).await, Outcome::Ok(Ok(_))) {
            return true;
        }
        if world.clock.now() > until {
            return false;
        }
        clock::sleep(STATUS_EVERY).await;
    }
}
