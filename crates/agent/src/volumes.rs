//! Volumes of this node: made when the region sets them aside, made larger when it says so, deleted when somebody deleted
//! them. What is on the disk and not in the region's state is left alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use insula_container::{Error, Runtime, StoredVolume};
use insula_env::{Env, beat, clock};
use insula_state::RegionState;
use insula_types::{ByteSize, NodeId, Volume, VolumeRef};
use tracing::{info, warn};

use crate::{Parts, Reporter, chain, renew::changed};

/// Wait after something failed: a full disk, a region without a leader.
const RETRY_WAIT: Duration = Duration::from_secs(2);

/// What to do next with one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Make it, or make it larger.
    Make(ByteSize),
    /// Say that it is here.
    Confirm,
    /// Take it off the disk, and say so.
    Delete,
    /// It was here and is gone: somebody has to be told.
    Lost,
}

/// What the state and the disk make of each of this node's volumes.
fn steps(state: &RegionState, stored: &[StoredVolume], node: NodeId) -> BTreeMap<VolumeRef, Step> {
    let here: BTreeMap<&VolumeRef, ByteSize> = stored.iter().map(|one| (&one.volume, one.size)).collect();
    let step = |volume: &Volume, size: Option<ByteSize>| match size {
        _ if volume.is_deleted => Some(Step::Delete),
        Some(size) if size < volume.size => Some(Step::Make(volume.size)),
        Some(_) => (!volume.is_made).then_some(Step::Confirm),
        None if volume.is_made => Some(Step::Lost),
        None => Some(Step::Make(volume.size)),
    };
    let mine = state.volumes.iter().filter(|(_, volume)| volume.node == node);
    mine.filter_map(|(name, volume)| Some((name.clone(), step(volume, here.get(name).copied())?))).collect()
}

/// Starts looking after the volumes of this node.
pub(crate) fn start(env: &Env, parts: &Parts) {
    let (parts, rng) = (parts.clone(), env.rng.fork());
    env.tasks.supervise("volumes", beat::DISK, move |beat| {
        let (parts, rng) = (parts.clone(), rng.fork());
        async move {
            let mut revision = parts.region.replica().changed();
            let mut told = BTreeSet::new();
            loop {
                revision.mark_unchanged();
                let is_idle = parts.region.read(|state| state.volumes.is_empty());
                let is_done = is_idle || keep(&*parts.runtime, &*parts.reporter, &parts, &mut told).await;
                beat.alive();
                let wait = async {
                    if is_done {
                        changed(&mut revision).await;
                    } else {
                        clock::sleep(rng.jitter(RETRY_WAIT)).await;
                    }
                };
                beat.idle(wait).await;
            }
        }
    });
}

/// Takes one step with each. False when something is to be tried again.
async fn keep(runtime: &dyn Runtime, reporter: &dyn Reporter, parts: &Parts, told: &mut BTreeSet<VolumeRef>) -> bool {
    let stored = match runtime.volumes().await {
        Ok(stored) => stored,
        Err(error) => {
            warn!(error = %chain(&error), "the volumes of this node cannot be listed");
            return false;
        }
    };
    let steps = parts.region.read(|state| steps(state, &stored, parts.node));
    let mut is_done = true;
    for (volume, step) in steps {
        if step == Step::Lost {
            if told.insert(volume.clone()) {
                warn!(%volume, "a volume is not on this disk any more; what needs it is not started");
            }
            continue;
        }
        if let Err(error) = take(runtime, reporter, &volume, &step).await {
            warn!(%volume, ?step, error, "a volume is not yet as it has to be, trying on");
            is_done = false;
        }
    }
    is_done
}

async fn take(runtime: &dyn Runtime, reporter: &dyn Reporter, volume: &VolumeRef, step: &Step) -> Result<(), String> {
    let done = |result: Result<(), Error>| result.map_err(|error| chain(&error));
    match step {
        Step::Make(size) => {
            done(runtime.make_volume(volume, *size).await)?;
            info!(%volume, %size, "volume is on this disk");
        }
        Step::Delete => {
            done(runtime.delete_volume(volume).await)?;
            info!(%volume, "volume was deleted");
        }
        Step::Confirm | Step::Lost => {}
    }
    let is_here = *step != Step::Delete;
    reporter.report_volume(volume.clone(), is_here).await.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use insula_state::{
        Domain,
        region::{RegionKey, RegionObject},
    };
    use insula_types::Revision;

    use super::*;

    #[test]
    fn each_volume_gets_the_step_that_brings_it_nearer() {
        let me = NodeId::new(1);
        let name = |slot: u32| -> VolumeRef { format!("shop/db/data.{slot}").parse().expect("a volume") };
        let size = ByteSize::mib(64);
        let made = |node, is_made, is_deleted| Volume { node, size, created_ms: 0, is_made, is_deleted };
        let cases = [
            (made(me, false, false), None, Some(Step::Make(size))),
            (made(me, false, false), Some(size), Some(Step::Confirm)),
            (made(me, true, false), Some(size), None),
            (made(me, true, false), Some(ByteSize::mib(32)), Some(Step::Make(size))),
            (made(me, true, false), None, Some(Step::Lost)),
            (made(me, true, true), Some(size), Some(Step::Delete)),
            (made(me, true, true), None, Some(Step::Delete)),
            (made(NodeId::new(2), false, false), None, None),
        ];
        for (volume, here, expected) in cases {
            let mut state = RegionState::default();
            state.absorb(Revision(1), RegionKey::Volume(name(0)), Some(RegionObject::Volume(volume.clone())));
            // One that the state does not know is left alone.
            let stranger = StoredVolume { volume: name(9), size };
            let stored: Vec<_> =
                here.map(|size| StoredVolume { volume: name(0), size }).into_iter().chain([stranger]).collect();
            let found = steps(&state, &stored, me);
            assert_eq!(found.get(&name(0)), expected.as_ref(), "{volume:?} {here:?}");
            assert!(!found.contains_key(&name(9)));
        }
    }
}
