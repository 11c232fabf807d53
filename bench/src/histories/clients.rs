//! The clients: they use registers, sets, reads and watches through every node at once, and write down what they see.
//!
//! A register is used for a few seconds by all of its clients, then by none: whether a history can be put in an order
//! takes exponentially long to find out in its length. Much later it is read once more, and then removed.

mod observers;
mod region;
mod registers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use insula_env::{Clock, Rng, TaskGroup, clock::Instant};
use tokio::sync::{mpsc, watch};

use super::{
    call::Caller,
    record::{Record, Span},
};
use crate::writes::Insula;

/// Registers in use at a time.
const REGISTERS: u64 = 2;

/// What all clients share.
#[derive(Clone)]
pub(super) struct World {
    insula: Insula,
    context: String,
    nodes: Vec<SocketAddr>,
    tasks: TaskGroup,
    rng: Rng,
    /// Between two operations of a client, on average.
    pause: Duration,
    clock: Clock,
    begun: Instant,
    begun_us: u64,
    records: mpsc::Sender<Record>,
    /// Becomes true when clients shall come to their end.
    is_over: watch::Receiver<bool>,
}

/// Starts all clients; the channel closes when they have come to their end, which [`watch::Sender`] asks for.
///
/// # Errors
/// When the line is no context.
pub fn start(
    context: &str,
    nodes: &[SocketAddr],
    seed: u64,
    pause: Duration,
    tasks: &TaskGroup,
) -> anyhow::Result<(mpsc::Receiver<Record>, watch::Sender<bool>)> {
    let (records, receiver) = mpsc::channel(4096);
    let (end, is_over) = watch::channel(false);
    let clock = Clock::real();
    let world = World {
        insula: Insula::new(context)?,
        context: context.to_owned(),
        nodes: nodes.to_vec(),
        tasks: tasks.clone(),
        rng: Rng::from_seed(seed),
        pause,
        begun: clock.now(),
        begun_us: clock.wall_ms() * 1000,
        clock,
        records,
        is_over,
    };
    for slot in 0..REGISTERS {
        let slot = Arc::new(registers::Slot::new(slot, &world));
        for first in 0..nodes.len() {
            tasks.spawn("register", registers::run(world.clone(), Arc::clone(&slot), first));
        }
        tasks.spawn("janitor", registers::tidy(world.clone(), slot));
    }
    let kept = Arc::default();
    for first in 0..nodes.len() {
        tasks.spawn("region", region::run(world.clone(), first, Arc::clone(&kept)));
        tasks.spawn("statuses", observers::statuses(world.clone(), first));
        tasks.spawn("events", observers::events(world.clone(), first));
    }
    tasks.spawn("members", observers::members(world));
    Ok((receiver, end))
}

impl World {
    fn caller(&self) -> Caller {
        Caller::new(&self.insula, &self.nodes, &self.tasks)
    }

    fn is_over(&self) -> bool {
        *self.is_over.borrow()
    }

    /// Microseconds since 1970 that never go back.
    fn now_us(&self) -> u64 {
        self.begun_us + self.begun.elapsed().as_micros() as u64
    }

    /// Does something and says when.
    async fn timed<T>(&self, work: impl Future<Output = T>) -> (Span, T) {
        let start_us = self.now_us();
        let done = work.await;
        (Span { start_us, end_us: self.now_us() }, done)
    }

    /// Writes something down; false when nobody reads any more.
    async fn note(&self, record: Record) -> bool {
        self.records.send(record).await.is_ok()
    }

    async fn pause(&self) {
        insula_env::clock::sleep(self.rng.jitter(self.pause)).await;
    }

    fn key(&self) -> String {
        format!("{:016x}{:016x}", self.rng.next(), self.rng.next())
    }
}
