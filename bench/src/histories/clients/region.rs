//! The region group: join tokens are written, nodes are read; each says the revision that it gave. What was
//! acknowledged is sent again under its key at times, and must then give the revision that it gave.

use std::{collections::VecDeque, sync::Arc};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::World;
use crate::histories::{
    call::{Call, Caller},
    record::{Outcome, Record},
};

/// Acknowledged writes that are remembered: fewer than the outcomes that the state remembers.
const KEPT_MAX: usize = 2048;
/// How long a token is good for: only as long as makes a list of some length.
const TTL_MS: u64 = 60_000;

/// Acknowledged writes: key and revision.
pub(super) type Kept = Mutex<VecDeque<(String, u64)>>;

/// One client: begins at the node `first`.
pub(super) async fn run(world: World, first: usize, kept: Arc<Kept>) {
    let mut caller = world.caller();
    while !world.is_over() {
        world.pause().await;
        let record = match world.rng.range(0, 9) {
            0..=3 => {
                let call = Call::get("/v1/nodes?consistency=linearizable");
                let (span, outcome) = world.timed(revision(&mut caller, first, &call)).await;
                Record::Revision { span, is_write: false, outcome }
            }
            4..=5 => match again(&world, &mut caller, first, &kept).await {
                Some(record) => record,
                None => continue,
            },
            _ => {
                let key = world.key();
                let (span, outcome) = world.timed(revision(&mut caller, first, &create(&key))).await;
                if let Outcome::Ok(revision) = outcome {
                    let mut kept = kept.lock();
                    kept.push_back((key, revision));
                    if kept.len() > KEPT_MAX {
                        kept.pop_front();
                    }
                }
                Record::Revision { span, is_write: true, outcome }
            }
        };
        if !world.note(record).await {
            return;
        }
    }
    // Nothing that was acknowledged may be gone at the end.
    let left = if first == 0 { std::mem::take(&mut *kept.lock()) } else { VecDeque::new() };
    for (key, revision) in left {
        if let Some(record) = ask_again(&world, &mut caller, first, key, revision).await
            && !world.note(record).await
        {
            return;
        }
    }
}

fn create(key: &str) -> Call {
    Call::change(Method::POST, "/v1/tokens/join", key, &json!({ "ttl_ms": TTL_MS, "uses": 1 }))
}

async fn revision(caller: &mut Caller, first: usize, call: &Call) -> Outcome<u64> {
    match caller.decide(first, call).await {
        Outcome::Ok(Ok(answer)) => answer.get("revision").and_then(Value::as_u64).map_or(Outcome::Unknown, Outcome::Ok),
        Outcome::Ok(Err(problem)) => {
            eprintln!("{} {}: {problem}", call.method, call.path);
            Outcome::Failed
        }
        Outcome::Failed => Outcome::Failed,
        Outcome::Unknown => Outcome::Unknown,
    }
}

async fn again(world: &World, caller: &mut Caller, first: usize, kept: &Kept) -> Option<Record> {
    let (key, revision) = {
        let kept = kept.lock();
        let index = world.rng.range(0, kept.len().checked_sub(1)? as u64);
        kept.get(index as usize)?.clone()
    };
    ask_again(world, caller, first, key, revision).await
}

async fn ask_again(world: &World, caller: &mut Caller, first: usize, key: String, was: u64) -> Option<Record> {
    let (span, outcome) = world.timed(revision(caller, first, &create(&key))).await;
    let Outcome::Ok(again) = outcome else { return None };
    Some(Record::Again { span, key, first: was, again })
}
