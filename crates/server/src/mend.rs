//! Heals a group that a storage error has stopped on this node: as soon as the disk takes writes again, the server starts
//! again in its place and opens the group as after a crash. Until then the process goes on without the group: it follows
//! the copies of other nodes, and its instances and its edge notice nothing.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use futures::channel::oneshot;
use insula_env::{Beat, Disk, Env, Rng, beat, clock};
use insula_raft::{Group, GroupState};
use tokio::sync::watch;
use tracing::{info, warn};

/// Wait before the disk is tried for the first time; doubled for each start again that has not helped.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(300);
/// A server that has run for so long without such an error counts as healed.
const HEALED_AFTER: Duration = Duration::from_secs(600);
/// What is written to try the disk.
const TRIAL_BYTES: usize = 1 << 20;

/// What the healing of a node's groups takes.
#[derive(Clone)]
pub(crate) struct Mend {
    pub groups: [Group; 2],
    /// Where their files are.
    pub directory: PathBuf,
    /// Bytes that they need there.
    pub space: u64,
    /// Starts again in a row that have not helped.
    pub before: u32,
    pub disk: Arc<dyn Disk>,
    pub rng: Rng,
}

/// Starts to look out. The receiver gets the number of starts again in a row once the next one is due.
pub(crate) fn start(env: &Env, mend: Mend) -> watch::Receiver<Option<u32>> {
    let (tell, told) = watch::channel(None);
    let clock = env.clock.clone();
    let begun = clock.now();
    env.tasks.supervise("mend", beat::DISK, move |beat| {
        let (mut mend, tell, clock) = (mend.clone(), tell.clone(), clock.clone());
        async move {
            mend.until_failed(&beat).await;
            if begun + HEALED_AFTER <= clock.now() {
                mend.before = 0;
            }
            mend.until_writable(&beat).await;
            tell.send_replace(Some(mend.before.saturating_add(1)));
            beat.idle(std::future::pending()).await
        }
    });
    told
}

impl Mend {
    async fn until_failed(&self, beat: &Beat) {
        let failed = |state: &GroupState| matches!(state, GroupState::Failed { .. });
        let [mut region, mut global] = self.groups.each_ref().map(Group::state);
        beat.idle(async {
            let has_failed = tokio::select! {
                seen = region.wait_for(failed) => seen.is_ok(),
                seen = global.wait_for(failed) => seen.is_ok(),
            };
            // One was stopped, as at the end of the process.
            if !has_failed {
                std::future::pending().await
            }
        })
        .await;
    }

    async fn until_writable(&self, beat: &Beat) {
        let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(self.before)).min(WAIT_MAX);
        loop {
            beat.idle(clock::sleep(self.rng.jitter(wait))).await;
            match beat.idle(self.try_disk()).await {
                Ok(()) => return info!("the disk takes writes: the group that stopped is opened again"),
                Err(error) => warn!(%error, "a group has stopped here, and the disk takes no writes yet"),
            }
        }
    }

    /// Writes and syncs a file where the groups' are.
    async fn try_disk(&self) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        let (disk, directory, space) = (Arc::clone(&self.disk), self.directory.clone(), self.space);
        let job = Box::new(move || {
            let path = directory.join("trial");
            let written = disk.write_atomic(&path, &vec![0; TRIAL_BYTES]).and_then(|()| disk.remove(&path));
            let enough = written
                .and_then(|()| disk.free(&directory))
                .and_then(|free| if free >= space { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) });
            // Nobody listens when the server stops.
            tell.send(enough).ok();
        });
        self.disk.run(job).await;
        told.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use insula_env::{Clock, TaskGroup, memory::MemoryDisk};
    use insula_raft::{Class, Config, GroupId, Transport, TransportError};
    use insula_state::{Machine, RegionState, Replica};
    use insula_types::{Incarnation, NodeId};

    use super::*;
    use crate::machine::Replicated;

    struct NoWires;

    #[async_trait]
    impl Transport for NoWires {
        async fn send(
            &self,
            target: NodeId,
            _: GroupId,
            _: Bytes,
            _: Class,
            _: Duration,
        ) -> Result<Bytes, TransportError> {
            Err(TransportError::Late { target })
        }
    }

    async fn group(env: &Env, number: u16, directory: &str) -> Group {
        let config = Config::new(NodeId::new(1), GroupId(number), Incarnation(1), directory);
        let machine = Replicated(Machine::new(Replica::<RegionState>::new()));
        let group = Group::open(config, env.clone(), Arc::new(NoWires), machine).await.expect("opened");
        group.initialize_single().await.expect("founded");
        group.leadership().wait_for(|leadership| leadership.is_me).await.expect("leads");
        group
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_has_failed_is_due_once_the_disk_takes_writes_again() {
        let clock = Clock::real();
        let rng = Rng::from_seed(1);
        let disk = MemoryDisk::new(clock.clone(), rng.fork());
        let shared = || Arc::new(disk.clone()) as Arc<dyn Disk>;
        let env = Env { clock: clock.clone(), rng: rng.fork(), disk: shared(), tasks: TaskGroup::new("node") };
        let groups = [group(&env, 1, "state/region").await, group(&env, 2, "state/global").await];
        let mend = Mend {
            groups: groups.clone(),
            directory: "state".into(),
            space: 1 << 20,
            before: 1,
            disk: shared(),
            rng: rng.fork(),
        };
        let mut due = start(&env, mend);
        let patience = Duration::from_secs(60);
        clock::timeout(patience, due.changed()).await.expect_err("both groups run");

        disk.fail_syncs(true);
        let write = groups[1].propose(vec![0], Duration::from_secs(2)).await;
        assert!(write.is_err(), "{write:?}");
        groups[1].state().wait_for(|state| matches!(state, GroupState::Failed { .. })).await.expect("it fails");
        clock::timeout(patience, due.changed()).await.expect_err("the disk still fails");

        disk.fail_syncs(false);
        clock::timeout(patience, due.changed()).await.expect("it is tried").expect("looked out for");
        assert_eq!(*due.borrow(), Some(2));
    }
}
