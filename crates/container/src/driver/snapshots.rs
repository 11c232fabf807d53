//! Snapshots of volumes, and who may do what with a volume at the same time.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use insula_env::clock;
use insula_types::{ByteSize, InstanceId, SnapshotName, VolumeRef};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tracing::{info, warn};

use super::NodeRuntime;
use crate::{
    Error, StoredSnapshot,
    disk::blocking,
    record::{self, Home},
    shim::{self, protocol::FROZEN_MAX},
    storage,
};

/// How long the removal of an instance waits for a volume of it that stands still; the rest is for a slow disk.
const THAW_WAIT: Duration = FROZEN_MAX.saturating_mul(2);

/// Time between two looks at what an earlier life left.
const THAW_LOOK: Duration = Duration::from_millis(5);

/// What is being done with a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It is copied while an instance has it, and cannot be unmounted.
    Still,
    /// Its file is copied, replaced or deleted: no instance may get it.
    Alone,
    /// It is made, or made larger.
    Changing,
}

/// What is being done with which volumes, one thing with each.
pub(super) type Holds = watch::Sender<BTreeMap<VolumeRef, Held>>;

/// Ends with its drop.
pub(super) struct Hold {
    runtime: NodeRuntime,
    volume: VolumeRef,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.runtime.0.held.send_modify(|held| {
            held.remove(&self.volume);
        });
    }
}

impl NodeRuntime {
    /// Makes a snapshot of a volume, also while an instance uses it: that one cannot write meanwhile, for eight seconds at most.
    /// Goes on when the caller stops waiting.
    ///
    /// # Errors
    /// [`Error::File`], whose source says by its kind whether the volume is not here (`NotFound`), the name is taken
    /// (`AlreadyExists`), something else is done with the volume (`ResourceBusy`), the disk gets too full (`StorageFull`) or it
    /// takes too long (`TimedOut`). Then nothing of it is here.
    pub async fn make_snapshot(&self, volume: &VolumeRef, snapshot: &SnapshotName) -> Result<StoredSnapshot, Error> {
        let (runtime, volume, snapshot) = (self.clone(), volume.clone(), snapshot.clone());
        let attempt = "make a snapshot of the volume";
        self.to_the_end(attempt, &volume.clone(), async move {
            let _room = runtime.take_turn()?;
            let (hold, user) = runtime.hold(&volume, None)?;
            let mounted = user.map(|user| runtime.home(user).volumes().join(volume.name.as_str()));
            let (snapshots, shim) = (runtime.0.snapshots.clone(), runtime.0.shim.clone());
            let (now, of, name) = (runtime.0.env.clock.wall(), volume.clone(), snapshot.clone());
            let begin = move || snapshots.begin(&of, &name, mounted.as_deref(), &shim, now);
            let half = blocking(&*runtime.0.env.disk, begin).await?;
            drop(hold);
            let made = blocking(&*runtime.0.env.disk, move || half.finish()).await?;
            info!(%volume, %snapshot, used = %made.used, "a snapshot was made");
            Ok(made)
        })
        .await
    }

    /// Puts what is in a snapshot into its volume, which no instance may have; what was in it before is lost. It gets `size` bytes
    /// if those are more than the snapshot has. Goes on when the caller stops waiting.
    ///
    /// # Errors
    /// As [`NodeRuntime::make_snapshot`]. Then the volume is as it was.
    pub async fn restore_snapshot(
        &self,
        volume: &VolumeRef,
        snapshot: &SnapshotName,
        size: ByteSize,
    ) -> Result<(), Error> {
        let (runtime, volume, snapshot) = (self.clone(), volume.clone(), snapshot.clone());
        let attempt = "restore the volume";
        self.to_the_end(attempt, &volume.clone(), async move {
            let _room = runtime.take_turn()?;
            let (_hold, _) = runtime.hold(&volume, Some(Held::Alone))?;
            let (snapshots, of, name) = (runtime.0.snapshots.clone(), volume.clone(), snapshot.clone());
            blocking(&*runtime.0.env.disk, move || snapshots.restore(&of, &name, size)).await?;
            info!(%volume, %snapshot, "a volume was restored from a snapshot");
            // It may have been lost.
            runtime.0.made.send_replace(());
            Ok(())
        })
        .await
    }

    /// The snapshots on this node's disk, ordered by volume and name.
    ///
    /// # Errors
    /// [`Error::File`].
    pub async fn snapshots(&self) -> Result<Vec<StoredSnapshot>, Error> {
        let (snapshots, path) = (self.0.snapshots.clone(), self.0.volumes.directory());
        let listed = blocking(&*self.0.env.disk, move || snapshots.list()).await;
        listed.map_err(Error::file("list the snapshots in", path))
    }

    /// Deletes a snapshot, and gives what it was.
    ///
    /// # Errors
    /// [`Error::File`], of the kind `NotFound` when it is not here.
    pub async fn delete_snapshot(&self, volume: &VolumeRef, snapshot: &SnapshotName) -> Result<StoredSnapshot, Error> {
        let (snapshots, of, name) = (self.0.snapshots.clone(), volume.clone(), snapshot.clone());
        let gone = blocking(&*self.0.env.disk, move || snapshots.remove(&of, &name)).await;
        let gone = gone.map_err(self.on_volume("delete the snapshot of", volume))?;
        info!(%volume, %snapshot, "a snapshot was deleted");
        Ok(gone)
    }

    /// Notes that something is done with a volume. `None`: whatever lets it be copied now. Also gives the instance that has
    /// it, which is none where it has to be held alone.
    pub(super) fn hold(&self, volume: &VolumeRef, how: Option<Held>) -> io::Result<(Hold, Option<InstanceId>)> {
        let busy = |why: String| Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        // Locked until it is held: an instance that starts now looks at both.
        let state = self.0.state.lock();
        let user = state.volumes.get(volume).copied();
        let how = how.unwrap_or(if user.is_some() { Held::Still } else { Held::Alone });
        if let (Held::Alone, Some(user)) = (how, user) {
            return busy(format!("instance {user} has it"));
        }
        let is_free = self.0.held.send_if_modified(|held| {
            let is_free = !held.contains_key(volume);
            held.entry(volume.clone()).or_insert(how);
            is_free
        });
        if !is_free {
            return busy(format!("{volume} is being copied, restored or changed: try again when that is done"));
        }
        Ok((Hold { runtime: self.clone(), volume: volume.clone() }, user))
    }

    /// Whether an instance may not get a volume now.
    pub(super) fn is_held_alone(&self, volume: &VolumeRef) -> bool {
        self.0.held.borrow().get(volume) == Some(&Held::Alone)
    }

    /// Waits until the volumes of an instance can be unmounted.
    pub(super) async fn wait_for_thaw(&self, instance: InstanceId, record: &record::Record) -> Result<(), Error> {
        let mut held = self.0.held.subscribe();
        let is_still = |held: &BTreeMap<VolumeRef, Held>| {
            record.config.volumes().any(|(volume, _)| held.get(&volume) == Some(&Held::Still))
        };
        match clock::timeout(THAW_WAIT, held.wait_for(|held| !is_still(held))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::State { instance, why: "waits: its volume is being copied" }),
        }
    }

    /// Thaws what an earlier life left frozen, before anything waits for it. What froze it ends with that life, unless it was
    /// killed too.
    pub(super) async fn thaw_all(&self) -> Result<(), Error> {
        let ended = async {
            while shim::is_any_freezing(&self.0.config.data_dir) {
                clock::sleep(THAW_LOOK).await;
            }
        };
        clock::timeout(THAW_WAIT, ended).await.ok();
        for instance in record::instances(&self.0.instances)? {
            let directory = Home::new(&self.0.instances, instance).volumes();
            let Ok(volumes) = std::fs::read_dir(&directory) else { continue };
            for volume in volumes.flatten() {
                let path = volume.path();
                if storage::thaw(&path, &directory).map_err(Error::file("thaw", &path))? {
                    warn!(%instance, volume = %path.display(), "a volume was left frozen, and is thawed");
                }
            }
        }
        Ok(())
    }

    /// One copy at a time: each keeps the disk busy, and what is free is counted only once.
    fn take_turn(&self) -> io::Result<OwnedSemaphorePermit> {
        Arc::clone(&self.0.copies).try_acquire_owned().map_err(|_| {
            let why = "another volume of this node is being copied: try again when that is done";
            io::Error::new(io::ErrorKind::QuotaExceeded, why)
        })
    }

    async fn to_the_end<R: Send + 'static>(
        &self,
        attempt: &'static str,
        volume: &VolumeRef,
        work: impl Future<Output = io::Result<R>> + Send + 'static,
    ) -> Result<R, Error> {
        let (done, result) = oneshot::channel();
        self.0.env.tasks.spawn(attempt, async move {
            done.send(work.await).ok();
        });
        let stopped = |_| io::Error::new(io::ErrorKind::Interrupted, "the runtime is being stopped");
        let outcome = result.await.map_err(stopped).flatten();
        outcome.map_err(self.on_volume(attempt, volume))
    }
}
