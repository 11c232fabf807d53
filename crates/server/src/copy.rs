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

/// The file, and of which world it is.
#[derive(Clone)]
pub(crate) struct Copy {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    region: RegionName,
}

impl Copy {
    /// Beside the directory of the group, which is put aside when another life of it begins: what the world was before is all
    /// that a node knows then, its other regions and their gateways included.
    pub(crate) fn new(paths: &Paths, disk: Arc<dyn Disk>, home: &Home) -> Self {
        let path = paths.group(&format!("{}.copy", StateName::Global.as_str()));
        Self { path, disk, cluster: home.cluster.clone(), region: home.region.clone() }
    }

    /// Begins with what is on the disk, also of a life that is over: what others tell of a later one takes its place. What cannot
    /// be read is told, and does not count: others will tell it again. To be called before the replica knows where it belongs.
    pub(crate) fn load(&self, replica: &Replica<GlobalState>) {
        match self.read() {
            Ok(Some((revision, life, update))) => match replica.follow(update) {
                Ok(()) if replica.revision() == revision => {
                    info!(%revision, %life, "the global state is the one of this node's disk, until others tell what is new");
                }
                // The log has it, and more.
                Ok(()) | Err(_) => {}
            },
            Ok(None) => {}
            Err(why) => warn!(path = %self.path.display(), why, "this node's copy of the global state is of no use"),
        }
    }

    fn read(&self) -> Result<Option<(Revision, Incarnation, Update<GlobalState>)>, String> {
        let bytes = match self.disk.read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let archive = Reader::new(bytes.as_slice()).next_archive().map_err(|error| chain(&error))?;
        let Some(archive) = archive else { return Ok(None) };
        let about = &archive.about;
        if about.cluster != self.cluster {
            return Err(format!("it is of cluster {}", about.cluster));
        }
        let objects = archive.objects::<GlobalState>().map_err(|error| chain(&error))?.0;
        let revision = about.revision;
        Ok(Some((revision, about.incarnation, Update::Reset { revision, objects })))
    }

    fn write(&self, replica: &Replica<GlobalState>, taken_ms: u64) -> std::io::Result<Revision> {
        let (objects, revision, life) = replica.read_at(|state, revision| {
            (state.objects(), revision, state.origin().map(|(_, life)| life).unwrap_or_default())
        });
        let about = About {
            state: GlobalState::NAME.to_owned(),
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            incarnation: life,
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
                // What it begins with is what it read, unless a life that is over was turned back from.
                let mut written = Revision(0);
                loop {
                    let present = group.replica().revision();
                    if present != written && !group.raft().takes_part() {
                        match copy.write(group.replica(), time.wall_ms()) {
                            Ok(revision) => written = revision,
                            Err(error) => {
                                warn!(path = %copy.path.display(), %error, "the global state was not kept on the disk")
                            }
                        }
                    }
                    beat.idle(clock::sleep(WRITE_EVERY)).await;
                    if beat.idle(changed.wait_for(|now| *now != written)).await.is_err() {
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
    use crate::{home::ValueFile, lives};

    fn told(life: u64, revision: u64) -> Update<GlobalState> {
        let incarnation = Incarnation(life);
        let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation, created_ms: revision };
        let objects = vec![(GlobalKey::Meta, Revision(revision), GlobalObject::Meta(meta))];
        Update::Reset { revision: Revision(revision), objects }
    }

    /// The life, the revision and the mark of what a node begins with.
    fn begins(copy: &Copy) -> (u64, Option<(u64, u64)>) {
        let replica = Replica::new();
        copy.load(&replica);
        let of = |state: &GlobalState| state.meta.as_ref().map(|meta| (meta.incarnation.0, meta.created_ms));
        replica.read_at(|state, revision| (revision.0, of(state)))
    }

    #[test]
    fn a_node_begins_with_what_it_was_told() {
        let dir = tempfile::tempdir().expect("directory");
        let (paths, disk) = (Paths::new(dir.path()), Arc::new(RealDisk) as Arc<dyn Disk>);
        let of_home = |home: &Home| Copy::new(&paths, Arc::clone(&disk), home);
        let copy = of_home(&Home::for_tests(Incarnation(5)));
        assert_eq!(begins(&copy), (0, None), "nothing there");
        for revision in [7, 9] {
            let replica = Replica::new();
            replica.follow(told(5, revision)).expect("fits");
            assert_eq!(copy.write(&replica, 1).expect("written"), Revision(revision));
            assert_eq!(begins(&copy), (revision, Some((5, revision))));
        }
        let other = Home { cluster: ClusterId::new(2), ..Home::for_tests(Incarnation(5)) };
        assert_eq!(begins(&of_home(&other)), (0, None), "of another world");
        let mut bytes = disk.read(&copy.path).expect("there");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        disk.write_atomic(&copy.path, &bytes).expect("written");
        assert_eq!(begins(&copy), (0, None), "damaged");
    }

    /// The world was restored, and this node adopts its new life: what it knew must lead it there.
    #[test]
    fn a_copy_outlives_the_life_that_it_is_of_until_the_next_one_is_told() {
        let dir = tempfile::tempdir().expect("directory");
        let (paths, disk) = (Paths::new(dir.path()), Arc::new(RealDisk) as Arc<dyn Disk>);
        let file = ValueFile::new(paths.home(), Arc::clone(&disk));
        file.save(&Home::for_tests(Incarnation(5))).expect("home");
        let copy = || Copy::new(&paths, Arc::clone(&disk), &file.load().expect("readable").expect("there"));
        let replica = Replica::new();
        replica.follow(told(5, 9)).expect("fits");
        copy().write(&replica, 1).expect("written");
        disk.write_atomic(&paths.group("global").join("log.redb"), b"log").expect("written");
        let adopted = lives::Adopted::from([(StateName::Global, Incarnation(6))]);
        lives::adopt(&disk, &paths, &adopted).expect("adopted");
        assert_eq!(begins(&copy()), (9, Some((5, 9))));

        let (replica, home) = (Replica::new(), file.load::<Home>().expect("readable").expect("there"));
        copy().load(&replica);
        replica.belongs_to(&home.cluster, home.life(StateName::Global));
        replica.follow(told(5, 12)).expect_err("nobody tells of the life before any more");
        replica.follow(told(6, 3)).expect("whatever its revision");
        copy().write(&replica, 2).expect("written");
        assert_eq!(begins(&copy()), (3, Some((6, 3))));
    }
}
