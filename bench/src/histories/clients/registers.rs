//! Registers of the global group: an app each, its value in the environment of its one service, which has no instance.

use std::{sync::Arc, time::Duration};

use http::{Method, header};
use insula_api::Code;
use insula_env::clock::{self, Instant};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{REGISTERS, World};
use crate::histories::{
    call::{Call, Caller},
    record::{Op, Outcome, Record, Ret},
};

/// Operations on a register, and how long it is used.
const OPS_MAX: u32 = 36;
const USED_FOR: Duration = Duration::from_secs(4);
/// A register is read for the last time when its slot has had so many others: no operation on it is on its way then.
const READ_AGAIN_AFTER: u64 = 60;
/// How often the janitor looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The client number of the janitor.
const JANITOR: u64 = 99;

/// A place for one register after the other.
pub(super) struct Slot {
    number: u64,
    now: Mutex<Use>,
}

struct Use {
    count: u64,
    ops: u32,
    since: Instant,
}

impl Slot {
    pub(super) fn new(number: u64, world: &World) -> Self {
        Self { number, now: Mutex::new(Use { count: 0, ops: 0, since: world.clock.now() }) }
    }

    /// The register to use next.
    fn take(&self, now: Instant) -> u64 {
        let mut used = self.now.lock();
        if used.ops >= OPS_MAX || now - used.since > USED_FOR {
            *used = Use { count: used.count + 1, ops: 0, since: now };
        }
        used.ops += 1;
        self.register(used.count)
    }

    fn register(&self, count: u64) -> u64 {
        count * REGISTERS + self.number
    }

    fn count(&self) -> u64 {
        self.now.lock().count
    }
}

fn app(register: u64) -> String {
    format!("register-{register}")
}

/// One client: begins at the node `first`.
pub(super) async fn run(world: World, slot: Arc<Slot>, first: usize) {
    let mut caller = world.caller();
    let (mut last, mut seen) = (0, 0);
    while !world.is_over() {
        world.pause().await;
        let register = slot.take(world.clock.now());
        if register != last {
            (last, seen) = (register, 0);
        }
        let value = world.rng.range(1, 1 << 50);
        let op = match world.rng.range(0, 9) {
            0..=3 => Op::Read,
            4..=6 => Op::Write(value),
            _ => Op::Cas { expect: seen, value },
        };
        let (span, outcome) = world.timed(act(&mut caller, &world, first, register, op)).await;
        if let Outcome::Ok(Ret::Read { release, .. } | Ret::Written(release)) = outcome {
            seen = release;
        }
        let client = slot.number * 10 + first as u64;
        if !world.note(Record::Register { register, client, span, op, outcome }).await {
            return;
        }
    }
}

/// Reads registers long after, and removes them.
pub(super) async fn tidy(world: World, slot: Arc<Slot>) {
    let mut caller = world.caller();
    let mut next = 0;
    loop {
        // At the end the others have let go of the slot.
        let is_over = world.is_over() && Arc::strong_count(&slot) == 1;
        let until = if is_over { slot.count() + 1 } else { slot.count().saturating_sub(READ_AGAIN_AFTER) };
        while next < until {
            let register = slot.register(next);
            let first = (next % world.nodes.len() as u64) as usize;
            let (span, outcome) = world.timed(act(&mut caller, &world, first, register, Op::Read)).await;
            if outcome == Outcome::Failed || outcome == Outcome::Unknown {
                break;
            }
            next += 1;
            if !world.note(Record::Register { register, client: JANITOR, span, op: Op::Read, outcome }).await {
                return;
            }
            let path = format!("/v1/apps/{}", app(register));
            // What cannot be removed stays: nobody uses it.
            caller.decide(first, &Call::change(Method::DELETE, path, &world.key(), &Value::Null)).await;
        }
        if is_over && next >= until {
            return;
        }
        clock::sleep(LOOK_EVERY).await;
    }
}

async fn act(caller: &mut Caller, world: &World, first: usize, register: u64, op: Op) -> Outcome<Ret> {
    let path = format!("/v1/apps/{}", app(register));
    let (call, is_conditional) = match op {
        Op::Read => (Call::get(format!("{path}?consistency=linearizable")), false),
        Op::Write(value) => (deploy(&path, world, register, value), false),
        Op::Cas { expect, value } => {
            let mut call = deploy(&path, world, register, value);
            call.headers.push((header::IF_MATCH, format!("\"{expect}\"")));
            (call, true)
        }
    };
    match caller.decide(first, &call).await {
        Outcome::Ok(Ok(answer)) => understand(op, &answer).map_or(Outcome::Unknown, Outcome::Ok),
        Outcome::Ok(Err(problem)) => match problem.code {
            Code::NoSuchApp if op == Op::Read => Outcome::Ok(Ret::Read { release: 0, value: 0 }),
            Code::ReleaseChanged if is_conditional => Outcome::Ok(Ret::Mismatch),
            _ => {
                eprintln!("{} of {path}: {problem}", call.method);
                Outcome::Failed
            }
        },
        Outcome::Failed => Outcome::Failed,
        Outcome::Unknown => Outcome::Unknown,
    }
}

fn deploy(path: &str, world: &World, register: u64, value: u64) -> Call {
    let service = json!({ "runtime": "process", "command": ["true"], "scale": 0, "env": { "V": value.to_string() } });
    let body = json!({ "app": app(register), "services": { "v": service } });
    Call::change(Method::PUT, path, &world.key(), &body)
}

fn understand(op: Op, answer: &Value) -> Option<Ret> {
    let release = answer["release"].as_u64()?;
    if op != Op::Read {
        return Some(Ret::Written(release));
    }
    let value = answer["definition"]["services"]["v"]["env"]["V"].as_str()?.parse().ok()?;
    Some(Ret::Read { release, value })
}
