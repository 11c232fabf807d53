//! The outside world as arguments: clock, randomness, disk, network, tasks.
//!
//! Everything above takes these from here, so that a simulation can run whole regions from one seed. `clippy.toml`
//! turns away the direct ways. Time is tokio's: a paused runtime gives virtual time to all of Insula at once.

pub mod beat;
pub mod clock;
pub mod disk;
#[cfg(feature = "memory-disk")]
pub mod memory;
pub mod net;
#[cfg(feature = "planted-deadlock")]
mod planted;
pub mod rng;
pub mod tasks;
pub mod watchdog;

pub use beat::Beat;
pub use clock::Clock;
pub use disk::{BlockFile, Disk, RealDisk};
pub use rng::Rng;
pub use tasks::{BeatInfo, Rule, TaskGroup, TaskInfo};

/// What a component gets of the world. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Env {
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Durable files.
    pub disk: std::sync::Arc<dyn Disk>,
    /// Where this component's tasks run.
    pub tasks: TaskGroup,
}

impl Env {
    /// The real world, with an empty task group of that name.
    pub fn real(name: &'static str) -> Self {
        Self {
            clock: Clock::real(),
            rng: Rng::from_os(),
            disk: std::sync::Arc::new(RealDisk),
            tasks: TaskGroup::new(name),
        }
    }
}
