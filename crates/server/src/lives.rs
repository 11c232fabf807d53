//! Lives of the groups. A restore begins a new one on one node; the others of the region, whose own life has no leader any
//! more, adopt it: they put their files aside, note the new life in `home`, and take part as if they were new.
//!
//! What always holds: a life is only left for a greater one that has a leader; a life that any node still sees led is not
//! left; the files of the life before are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use insula_env::{Beat, Clock, Disk, Env, Rng, beat, clock};
use insula_raft::Group;
use insula_rpc::{AddressBook, Peers};
use insula_types::{Incarnation, NodeId};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    Error,
    config::Paths,
    home::{Home, ValueFile},
    methods::{AskLives, AskLivesRequest, Life, Lives, StateName},
};

/// Time between two looks while this node's group has no leader. Others wait as long for a node that comes back.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a life must be without a leader, as far as this node and those that it asks know, before it is left. Far
/// longer than an election.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// How long a node whose files are gone waits for a life that it can adopt.
const WAIT_FOR: Duration = Duration::from_secs(60);
/// How long one node may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// Nodes asked at a time; the next ones the next time.
const ASKED_MAX: usize = 8;
/// Looks between two questions to a node of another region.
const FAR_EVERY: usize = 8;

/// The lives that this node shall go on in, where it is another.
pub(crate) type Adopted = BTreeMap<StateName, Incarnation>;

/// Asks other nodes of the region for the lives that they know.
#[derive(Clone)]
pub(crate) struct Census {
    pub node: NodeId,
    pub peers: Peers,
    pub book: AddressBook,
    pub clock: Clock,
    pub rng: Rng,
}

impl Census {
    /// What some of them say; who does not answer is passed over. `turn` chooses who is asked.
    async fn ask(&self, turn: usize) -> Vec<Lives> {
        let others: Vec<NodeId> = self.book.nodes().into_iter().filter(|other| *other != self.node).collect();
        let first = turn.wrapping_mul(ASKED_MAX) % others.len().max(1);
        let asked = others.iter().cycle().skip(first).take(others.len().min(ASKED_MAX));
        let answers = asked.map(|other| self.peers.call::<AskLives>(*other, &AskLivesRequest {}, ASK_LIMIT));
        join_all(answers).await.into_iter().flatten().collect()
    }

    /// What one of another region says, every now and then, of the global group: their regions' lives are their own.
    async fn ask_far(&self, turn: usize) -> Option<Life> {
        let far = self.book.speakers();
        let asked = far.get(turn / FAR_EVERY % far.len().max(1)).filter(|_| turn.is_multiple_of(FAR_EVERY))?;
        let answer = self.peers.call::<AskLives>(*asked, &AskLivesRequest {}, ASK_LIMIT).await;
        answer.ok().map(|lives| lives.of(StateName::Global))
    }

    /// For a node whose files of a state are gone: the greater life that others live in, once there is one.
    pub(crate) async fn wait_for_life(&self, state: StateName, own: Incarnation) -> Option<Incarnation> {
        let until = self.clock.now() + WAIT_FOR;
        warn!(state = state.as_str(), "the files of a state are gone: waiting for a restored one on another node");
        for turn in 0_usize.. {
            let answers: Vec<Life> = self.ask(turn).await.iter().map(|lives| lives.of(state)).collect();
            if let Some(life) = to_adopt(own, &answers) {
                return Some(life);
            }
            if self.clock.now() >= until {
                return None;
            }
            clock::sleep(self.rng.jitter(LOOK_EVERY)).await;
        }
        None
    }
}

/// The life to adopt instead of `own`, by what others say.
fn to_adopt(own: Incarnation, others: &[Life]) -> Option<Incarnation> {
    if others.iter().any(|life| life.incarnation == own && life.has_leader) {
        return None;
    }
    others.iter().filter(|life| life.has_leader && life.incarnation > own).map(|life| life.incarnation).max()
}

/// What this node says of the lives of its groups.
pub(crate) fn lives(region: &Group, global: &Group) -> Lives {
    Lives { region: life(region), global: life(global) }
}

fn life(group: &Group) -> Life {
    Life { incarnation: group.config().incarnation, has_leader: group.leadership().borrow().leader.is_some() }
}

/// Starts to look out for lives to adopt. The receiver gets them once; the server is then to [`adopt`] them and to
/// start again.
pub(crate) fn start(env: &Env, census: Census, region: Group, global: Group) -> watch::Receiver<Adopted> {
    let (tell, told) = watch::channel(Adopted::new());
    env.tasks.supervise("lives", beat::QUICK, move |beat| {
        look_out(census.clone(), [region.clone(), global.clone()], tell.clone(), beat)
    });
    told
}

async fn look_out(census: Census, groups: [Group; 2], tell: watch::Sender<Adopted>, beat: Beat) {
    let begun = census.clock.now();
    let mut alone_since = [begun; 2];
    for turn in 0_usize.. {
        beat.idle(clock::sleep(census.rng.jitter(LOOK_EVERY))).await;
        let own = lives(&groups[0], &groups[1]);
        let now = census.clock.now();
        let states = [StateName::Region, StateName::Global];
        // Who has a leader asks nobody.
        let answers = if own.region.has_leader && own.global.has_leader { Vec::new() } else { census.ask(turn).await };
        let far = if own.global.has_leader { None } else { census.ask_far(turn).await };
        let mut adopted = Adopted::new();
        for (state, since) in states.into_iter().zip(&mut alone_since) {
            let (own, mut others) = (own.of(state), answers.iter().map(|lives| lives.of(state)).collect::<Vec<_>>());
            others.extend(far.filter(|_| state == StateName::Global));
            let is_led = |life: &Life| life.has_leader && life.incarnation == own.incarnation;
            if own.has_leader || others.iter().any(is_led) {
                *since = now;
            } else if now.saturating_duration_since(*since) >= ALONE_FOR
                && let Some(life) = to_adopt(own.incarnation, &others)
            {
                adopted.insert(state, life);
            }
        }
        if !adopted.is_empty() {
            info!(?adopted, "the region goes on in another life: adopting it");
            tell.send_replace(adopted);
            return;
        }
    }
}

/// Puts the files of the lives before aside and notes the new ones. Its groups must be closed. Can be cut off anywhere and
/// done again.
///
/// # Errors
/// [`Error::File`] and [`Error::Damaged`].
pub(crate) fn adopt(disk: &Arc<dyn Disk>, paths: &Paths, adopted: &Adopted) -> Result<(), Error> {
    let file = ValueFile::new(paths.home(), Arc::clone(disk));
    let Some(mut home) = file.load::<Home>()? else { return Ok(()) };
    for (state, life) in adopted {
        if let Some(kept) = put_aside(disk, paths, *state, *life)? {
            info!(state = state.as_str(), kept = %kept.display(), "the files of the life before are kept");
        }
        home.set_life(*state, *life);
        home.new.insert(*state);
    }
    file.save(&home)
}

/// Puts the files of a state aside, before a life of it begins; says where they are. None: there were none, or an attempt
/// that was cut off has done it, and what it left behind is removed.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn put_aside(
    disk: &Arc<dyn Disk>,
    paths: &Paths,
    state: StateName,
    life: Incarnation,
) -> Result<Option<PathBuf>, Error> {
    let (from, to) = (paths.group(state.as_str()), paths.group(&format!("{}.before-{life}", state.as_str())));
    match disk.rename(&from, &to) {
        Ok(()) => Ok(Some(to)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            remove_files(disk, &from)?;
            Ok(None)
        }
        Err(source) => Err(Error::File { attempt: "put aside", path: from, source }),
    }
}

/// Removes the files of a group from a directory.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn remove_files(disk: &Arc<dyn Disk>, directory: &std::path::Path) -> Result<(), Error> {
    for name in GROUP_FILES {
        let path = directory.join(name);
        disk.remove(&path).map_err(|source| Error::File { attempt: "remove", path, source })?;
    }
    Ok(())
}

/// The files of a group in its directory.
pub(crate) const GROUP_FILES: [&str; 2] = ["log.redb", "state.redb"];

/// Groups whose files may be missing when they are opened: their life was adopted and is new to this node.
pub(crate) type New = BTreeSet<StateName>;

#[cfg(test)]
mod tests {
    use insula_env::RealDisk;

    use super::*;

    fn life(incarnation: u64, has_leader: bool) -> Life {
        Life { incarnation: Incarnation(incarnation), has_leader }
    }

    #[test]
    fn only_a_greater_life_with_a_leader_is_adopted() {
        let adopt = |others: &[Life]| to_adopt(Incarnation(5), others).map(|life| life.0);
        assert_eq!(adopt(&[]), None);
        assert_eq!(adopt(&[life(5, false), life(6, false)]), None, "nobody leads the greater one yet");
        assert_eq!(adopt(&[life(4, true), life(5, false)]), None, "a life before");
        assert_eq!(adopt(&[life(6, true), life(7, true), life(8, false)]), Some(7));
        assert_eq!(adopt(&[life(6, true), life(5, true)]), None, "its own still has a leader");
    }

    #[test]
    fn files_are_put_aside_once_however_often_it_is_cut_off() {
        let dir = tempfile::tempdir().expect("directory");
        let (disk, paths) = (Arc::new(RealDisk) as Arc<dyn Disk>, Paths::new(dir.path()));
        let file = ValueFile::new(paths.home(), Arc::clone(&disk));
        let adopted = Adopted::from([(StateName::Region, Incarnation(9))]);
        file.save(&Home::for_tests(Incarnation(5))).expect("home");
        let log = paths.group("region").join("log.redb");
        disk.write_atomic(&log, b"old").expect("write");
        adopt(&disk, &paths, &adopted).expect("adopted");
        // Cut off before `home` was written, a start made files of the life before anew.
        file.save(&Home::for_tests(Incarnation(5))).expect("home");
        disk.write_atomic(&log, b"empty").expect("write");
        adopt(&disk, &paths, &adopted).expect("adopted again");

        let kept = paths.group("region.before-9").join("log.redb");
        assert_eq!(disk.read(&kept).expect("kept"), b"old");
        assert!(disk.read(&log).is_err(), "nothing is in its place yet");
        let home: Home = file.load().expect("readable").expect("there");
        assert_eq!((home.region_incarnation, home.global_incarnation), (Incarnation(9), Incarnation(5)));
        assert_eq!(home.new, New::from([StateName::Region]));
    }
}
