//! A whole region from one seed: machines with disks in memory, messages that are late, lost or cut, the real Raft
//! groups, state, controllers and agents over a runtime without containers, clients that write, read and deploy.
//!
//! The same seed gives the same run, told by a hash over every message and every outcome. First a phase of faults, in
//! which only safety is checked; then everything heals, and the region must come to rest as its definitions say.
//! Knows nothing of sockets, TLS, kernels and containers: the lab and the end-to-end tests are for those.
//!
//! ```text
//! plan (seed) ─► world ─┬─ machine × 3: disk, runtime, process: group · control · agent ─ net ─ …
//!                       ├─ clients ─► history ─┐
//!                       └─ watches ───────────►├─ checks ─► violations
//!                                  faults ─────┘
//! ```

mod checks;
mod clients;
mod follow;
mod harm;
mod machine;
mod net;
mod plan;
mod proposer;
mod quiet;
mod trace;
mod world;

use std::{collections::BTreeMap, time::Duration};

use insula_env::Rng;

/// What a run shall be like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Mixes entropy of the operating system into the run: the control of the trace hash, which must then differ.
    pub is_entropic: bool,
    /// Prints what happens.
    pub is_verbose: bool,
}

/// What a run was like.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// A hash over all that happened, with its times.
    pub trace: u64,
    /// What went wrong; nothing, one hopes.
    pub violations: Vec<String>,
    /// What was done, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// How long it was inside.
    pub virtual_time: Duration,
}

/// Runs the region of one seed to its end.
pub fn run(seed: u64, options: Options) -> Outcome {
    let rng = Rng::from_seed(seed);
    let quiet = quiet::Quiet::new(options.is_verbose);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    // openraft waits with an unfair `select!` in places, which draws when two things are ready at the same instant.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime without I/O needs nothing of the system");
    let mut outcome = quiet.watch(|| runtime.block_on(world::run(seed, rng, options)));
    outcome.violations.extend(quiet.errors());
    outcome
}
