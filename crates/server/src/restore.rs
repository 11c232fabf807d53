//! `insula state check` and `insula state restore`: what is in a backup, and a new life of the states in it.
//!
//! A restore works on a node whose server is stopped. What always holds: until the last step the node's `home` knows the
//! life before; every step can be cut off and done again; the server does not start in between; nothing is deleted but
//! what an earlier attempt left half made.

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use insula_env::{Disk, Env, net};
use insula_identity::NodeDirectory;
use insula_raft::{Row, look};
use insula_state::{About, Archive, ArchiveError, Domain, GlobalState, Machine, RegionState, Replica, archive};
use insula_telemetry::chain;
use insula_types::{Incarnation, NodeId, Revision};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    config::{NodeConfig, Paths},
    home::{Home, ValueFile},
    lives::{GROUP_FILES, put_aside, remove_files},
    methods::StateName,
    node::group_config,
};

/// How long a server that runs here may take to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// What is in one part of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// What it says of itself.
    #[serde(flatten)]
    pub about: About,
    /// How many objects there are of each kind.
    pub objects: BTreeMap<&'static str, u64>,
}

/// Reads a whole backup and says what is in it, one entry for each state. Needs no node.
///
/// # Errors
/// [`Error::Archive`] when it cannot be restored by this version: damaged, cut short, newer, or not a backup.
pub fn check(file: &Path) -> Result<Vec<Contents>, Error> {
    read(file)?.into_iter().map(|part| Ok(Contents { objects: part.kinds(file)?, about: part.archive.about })).collect()
}

/// One state of a backup.
struct Part {
    state: StateName,
    archive: Archive,
}

fn read(path: &Path) -> Result<Vec<Part>, Error> {
    let failed = |source| Error::Archive { path: path.to_owned(), source: Box::new(source) };
    let input = File::open(path).map_err(|source| Error::File { attempt: "read", path: path.to_owned(), source })?;
    let (mut reader, mut parts) = (archive::Reader::new(BufReader::new(input)), Vec::<Part>::new());
    while let Some(archive) = reader.next_archive().map_err(failed)? {
        let state =
            [StateName::Region, StateName::Global].into_iter().find(|name| name.as_str() == archive.about.state);
        let state = state.ok_or_else(|| Error::NotHere {
            path: path.to_owned(),
            why: format!("it holds the state {:?}: expected region or global", archive.about.state),
        })?;
        if parts.iter().any(|other| other.state == state) {
            let why = format!("it holds the {} state twice: take one of them", state.as_str());
            return Err(Error::NotHere { path: path.to_owned(), why });
        }
        parts.push(Part { state, archive });
    }
    Ok(parts)
}

impl Part {
    fn failed(path: &Path) -> impl Fn(ArchiveError) -> Error {
        move |source| Error::Archive { path: path.to_owned(), source: Box::new(source) }
    }

    fn kinds(&self, path: &Path) -> Result<BTreeMap<&'static str, u64>, Error> {
        Ok(match self.state {
            StateName::Region => self.archive.objects::<RegionState>().map_err(Self::failed(path))?.kinds(),
            StateName::Global => self.archive.objects::<GlobalState>().map_err(Self::failed(path))?.kinds(),
        })
    }

    /// The rows of its new life.
    fn rows(
        &self,
        path: &Path,
        life: Incarnation,
        after: Revision,
    ) -> Result<(Revision, Vec<insula_state::Row>), Error> {
        let (after, at_ms) = (after.max(self.archive.about.revision), self.archive.about.taken_ms);
        let failed = Self::failed(path);
        Ok(match self.state {
            StateName::Region => self.archive.objects::<RegionState>().map_err(failed)?.into_rows(life, after, at_ms),
            StateName::Global => self.archive.objects::<GlobalState>().map_err(failed)?.into_rows(life, after, at_ms),
        })
    }
}

/// What a node's files of a state hold at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Present {
    /// There are none.
    Missing,
    /// They cannot be read.
    Unreadable {
        /// Why.
        why: String,
    },
    /// At least this revision.
    At(Revision),
}

/// One state that a restore would replace.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// What the backup says of itself.
    pub about: About,
    /// What the node has, which is put aside.
    pub present: Present,
}

/// A restore that can be carried out on this node.
pub struct Plan {
    file: PathBuf,
    parts: Vec<Part>,
    present: Vec<(Present, Option<Incarnation>)>,
    node: NodeId,
    home: Home,
    paths: Paths,
    env: Env,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan({} on {})", self.file.display(), self.node)
    }
}

/// What a restore is about to do, kept until it is done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Restoring {
    /// The new lives.
    lives: BTreeMap<StateName, Incarnation>,
}

/// Refuses to start a server between two steps of a restore.
pub(crate) fn refuse_half_done(paths: &Paths, disk: &Arc<dyn Disk>) -> Result<(), Error> {
    match ValueFile::new(paths.restoring(), Arc::clone(disk)).load::<Restoring>()? {
        Some(_) => Err(Error::HalfRestored),
        None => Ok(()),
    }
}

/// Reads a backup and looks at the node; changes nothing.
///
/// # Errors
/// [`Error::Running`], [`Error::Archive`], [`Error::NotHere`] and [`Error::Homeless`] when it cannot be restored here,
/// [`Error::File`].
pub async fn plan(config: &NodeConfig, file: &Path, env: &Env) -> Result<Plan, Error> {
    let (paths, disk) = (config.paths(), &env.disk);
    refuse_running(&paths, disk).await?;
    let directory = NodeDirectory::new(&paths.data(), Arc::clone(disk));
    let node = directory.load_key()?.id();
    let home: Home =
        ValueFile::new(paths.home(), Arc::clone(disk)).load()?.ok_or_else(|| Error::Homeless { path: paths.home() })?;
    let parts = read(file)?;
    let no = |why: String| Error::NotHere { path: file.to_owned(), why };
    for part in &parts {
        may_restore(part, &home, node, file)?.map_err(no)?;
    }
    if directory.load_region_authority()?.is_none() {
        return Err(no(
            "it holds no key of the region's CA: restore on a node that voted, or bring keys/ here first".into()
        ));
    }
    let mut present = Vec::new();
    for part in &parts {
        present.push(match part.state {
            StateName::Region => present_files::<RegionState>(disk, &paths.group("region")).await,
            StateName::Global => present_files::<GlobalState>(disk, &paths.group("global")).await,
        });
    }
    Ok(Plan { file: file.to_owned(), parts, present, node, home, paths, env: env.clone() })
}

/// A server that runs answers on its socket, or at least has the files of its groups open.
async fn refuse_running(paths: &Paths, disk: &Arc<dyn Disk>) -> Result<(), Error> {
    if net::connect_unix(&paths.api_socket(), CONNECT_LIMIT).await.is_ok() {
        return Err(Error::Running);
    }
    for state in [StateName::Region, StateName::Global] {
        let files = GROUP_FILES.map(|name| paths.group(state.as_str()).join(name));
        for path in files.into_iter().filter(|path| path.exists()) {
            match disk.open(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => return Err(Error::Running),
                Err(source) => return Err(Error::File { attempt: "open", path, source }),
            }
        }
    }
    Ok(())
}

/// Whether a part belongs to this node's cluster and region, and knows the node; else why not.
fn may_restore(part: &Part, home: &Home, node: NodeId, path: &Path) -> Result<Result<(), String>, Error> {
    let about = &part.archive.about;
    if about.cluster != home.cluster {
        return Ok(Err(format!("it is of cluster {}, this node of {}", about.cluster, home.cluster)));
    }
    if part.state == StateName::Global {
        part.kinds(path)?;
        return Ok(Ok(()));
    }
    if about.region != home.region {
        return Ok(Err(format!("it is of region {}, this node of {}", about.region, home.region)));
    }
    let state = part.archive.objects::<RegionState>().map_err(Part::failed(path))?.state();
    if !state.nodes.contains(&node) {
        let why = format!("node {node} was no member when it was taken: restore on one of the nodes that were");
        return Ok(Err(why));
    }
    Ok(Ok(()))
}

/// The present files of a state, and their life.
async fn present_files<D: Domain>(disk: &Arc<dyn Disk>, directory: &Path) -> (Present, Option<Incarnation>) {
    if GROUP_FILES.iter().any(|name| !directory.join(name).exists()) {
        return (Present::Missing, None);
    }
    let found = match look(disk, directory).await {
        Ok(found) => found,
        Err(error) => return (Present::Unreadable { why: chain(&error) }, None),
    };
    let mut machine = Machine::<D>::new(Replica::new());
    let rows = found.rows.into_iter().filter_map(|row| Some((row.key, row.value?)));
    match machine.load(rows) {
        Ok(()) => (Present::At(machine.revision()), found.incarnation),
        Err(error) => (Present::Unreadable { why: chain(&error) }, found.incarnation),
    }
}

impl Plan {
    /// What would be replaced by what.
    pub fn replaced(&self) -> Vec<Replaced> {
        let parts = self.parts.iter().zip(&self.present);
        parts
            .map(|(part, (present, _))| Replaced { about: part.archive.about.clone(), present: present.clone() })
            .collect()
    }

    /// Makes it so. Gives where the files of the life before are now.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Restore`]: call it again, the server does not start until it is done.
    pub async fn carry_out(mut self) -> Result<Vec<PathBuf>, Error> {
        let disk = Arc::clone(&self.env.disk);
        let journal = ValueFile::new(self.paths.restoring(), Arc::clone(&disk));
        let lives = self.lives(journal.load::<Restoring>()?.unwrap_or_default());
        journal.save(&lives)?;
        let mut kept = Vec::new();
        for (part, (present, _)) in self.parts.iter().zip(&self.present) {
            let (state, life) = (part.state, lives.lives.get(&part.state).copied().unwrap_or_default());
            let after = if let Present::At(revision) = present { *revision } else { Revision(0) };
            let (_, rows) = part.rows(&self.file, life, after)?;
            let made = self.paths.group(&format!("{}.new", state.as_str()));
            remove_files(&disk, &made)?;
            let mut config = group_config(state, self.node, &self.home, &self.paths);
            (config.incarnation, config.directory, config.must_exist) = (life, made.clone(), false);
            let rows = rows.into_iter().map(|row| Row { key: row.key, value: row.value }).collect();
            let restored = insula_raft::restore(&config, &disk, &self.env.rng, rows).await;
            restored.map_err(|source| Error::Restore { state: state.as_str(), source })?;
            kept.extend(put_aside(&disk, &self.paths, state, life)?);
            self.put_in_place(&made, state)?;
        }
        for (state, life) in &lives.lives {
            self.home.set_life(*state, *life);
            self.home.new.remove(state);
        }
        ValueFile::new(self.paths.home(), Arc::clone(&disk)).save(&self.home)?;
        journal.remove()?;
        Ok(kept)
    }

    /// A new life for each state: those of an attempt that was cut off, or one beyond all that are known. Not simply the
    /// next one: two restores on two nodes, a mistake, must not be taken for the same life.
    fn lives(&self, begun: Restoring) -> Restoring {
        let mut lives = begun;
        for (part, (_, found)) in self.parts.iter().zip(&self.present) {
            let known = [Some(self.home.life(part.state)), Some(part.archive.about.incarnation), *found];
            let greatest = known.into_iter().flatten().map(|life| life.0).max().unwrap_or_default();
            let step = self.env.rng.range(1, 1 << 16);
            lives.lives.entry(part.state).or_insert(Incarnation(greatest.saturating_add(step)));
        }
        lives
    }

    /// The directory of the files before is gone, or empty where an earlier attempt was cut off.
    fn put_in_place(&self, made: &Path, state: StateName) -> Result<(), Error> {
        let place = self.paths.group(state.as_str());
        let failed = |source| Error::File { attempt: "put in place", path: place.clone(), source };
        match std::fs::remove_dir(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        self.env.disk.rename(made, &place).map_err(failed)
    }
}
