//! The global state on the disk of a node that follows it, so that a region starts with what the world has told it although
//! nobody of another region is reached. A node that takes part in the global group has it in its log, and needs no copy.

use std::{path::PathBuf, sync::Arc, time::Duration};

use insula_env::{Disk, Env, beat, clock};
use insula_state::{
    Domain, GlobalState, Replica, Update,
    archive::{About, Reader, Writer},
};
use insula_telemetry::chain;
use insula_types::{ClusterId, Incarnation, RegionName, Revision};
use tracing::{info, warn};

use crate::{config::Paths, group::StateGroup, home::Home, methods::StateName};

/// Least time between two writes: what was told within it is told again after a restart.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// The file, and of which life of which world it is.
#[derive(Clone)]
pub(crate) struct Copy {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    region: RegionName,
    incarnation: Incarnation,
}

impl Copy {
    /// Beside the files of the group: it is put aside with them when another life begins.
    pub(crate) fn new(paths: &Paths, disk: Arc<dyn Disk>, home: &Home) -> Self {
        let path = paths.group(StateName::Global.as_str()).join("copy");
        let (cluster, region) = (home.cluster.clone(), home.region.clone());
        Self { path, disk, cluster, region, incarnation: home.life(StateName::Global) }
    }

    /// Begins with what is on the disk. What cannot be read is told, and does not count: others will tell it again.
    pub(crate) fn load(&self, replica: &Replica<GlobalState>) {
        match self.read() {
            Ok(Some((revision, update))) => {
                replica.follow(update);
                info!(%revision, "the global state is the one of this node's disk, until others tell what is new");
            }
            Ok(None) => {}
            Err(why) => warn!(path = %self.path.display(), why, "this node's copy of the global state is of no use"),
        }
    }

    fn read(&self) -> Result<Option<(Revision, Update<GlobalState>)>, String> {
        let bytes = match self.disk.read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let archive = Reader::new(bytes.as_slice()).next_archive().map_err(|error| chain(&error))?;
        let Some(archive) = archive else { return Ok(None) };
        let about = &archive.about;
        if (&about.cluster, about.incarnation) != (&self.cluster, self.incarnation) {
            return Err(format!("it is of life {} of cluster {}", about.incarnation, about.cluster));
        }
        let objects = archive.objects::<GlobalState>().map_err(|error| chain(&error))?.0;
        let revision = about.revision;
        Ok(Some((revision, Update::Reset { revision, objects })))
    }

    fn write(&self, replica: &Replica<GlobalState>, taken_ms: u64) -> std::io::Result<Revision> {
        let (objects, revision) = replica.read_at(|state, revision| (state.objects(), revision));
        let about = About {
            state: GlobalState::NAME.to_owned(),
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            incarnation: self.incarnation,
            revision,
            is_confirmed: false,
            version: insula_rpc::PROGRAM_VERSION.to_owned(),
            taken_ms,
        };
        let bytes: Vec<u8> = Writer::<GlobalState>::new(&about, objects).flatten().collect();
        self.disk.write_atomic(&self.path, &bytes)?;
        Ok(revision)
    }

    /// Keeps it up to date while the group's log does not.
    pub(crate) fn keep(self, env: &Env, group: &Arc<StateGroup<GlobalState>>) {
        let (group, time) = (Arc::clone(group), env.clock.clone());
        env.tasks.supervise("copy of the world", beat::DISK, move |beat| {
            let (copy, group, time) = (self.clone(), Arc::clone(&group), time.clone());
            async move {
                let mut changed = group.replica().changed();
                let mut written = Revision(0);
                loop {
                    let present = group.replica().revision();
                    if present > written && !group.raft().takes_part() {
                        match copy.write(group.replica(), time.wall_ms()) {
                            Ok(revision) => written = revision,
                            Err(error) => {
                                warn!(path = %copy.path.display(), %error, "the global state was not kept on the disk")
                            }
                        }
                    }
                    beat.idle(clock::sleep(WRITE_EVERY)).await;
                    if beat.idle(changed.wait_for(|now| *now > written)).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use insula_env::RealDisk;
    use insula_state::global::{ClusterMeta, GlobalKey, GlobalObject};

    use super::*;

    fn told(revision: u64) -> Update<GlobalState> {
        let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(5), created_ms: revision };
        let objects = vec![(GlobalKey::Meta, Revision(revision), GlobalObject::Meta(meta))];
        Update::Reset { revision: Revision(revision), objects }
    }

    /// The revision and the mark of what a node begins with.
    fn begins(copy: &Copy) -> (u64, Option<u64>) {
        let replica = Replica::new();
        copy.load(&replica);
        replica.read_at(|state, revision| (revision.0, state.meta.as_ref().map(|meta| meta.created_ms)))
    }

    #[test]
    fn a_node_begins_with_what_it_was_told_in_this_life() {
        let dir = tempfile::tempdir().expect("directory");
        let (paths, disk) = (Paths::new(dir.path()), Arc::new(RealDisk) as Arc<dyn Disk>);
        let of_life = |life| Copy::new(&paths, Arc::clone(&disk), &Home::for_tests(Incarnation(life)));
        let copy = of_life(5);
        assert_eq!(begins(&copy), (0, None), "nothing there");
        for revision in [7, 9] {
            let replica = Replica::new();
            replica.follow(told(revision));
            assert_eq!(copy.write(&replica, 1).expect("written"), Revision(revision));
            assert_eq!(begins(&copy), (revision, Some(revision)));
        }
        assert_eq!(begins(&of_life(6)), (0, None), "of the life before");
        let mut bytes = disk.read(&copy.path).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        disk.write_atomic(&copy.path, &bytes).expect("written");
        assert_eq!(begins(&copy), (0, None), "damaged");
    }
}
