//! What is on the node of instances that are not there any more: mounts, loop devices, interfaces, cgroups, processes,
//! directories, reservations. Looks only; `remove` takes away. Downloads and imports that go on are no concern of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use insula_types::InstanceId;

use super::{NodeRuntime, exec::EXECS_MAX};
use crate::{
    Error, cgroup,
    disk::blocking,
    network,
    record::{self, Record},
    shim, storage,
};

/// Leftovers that are told, at most.
const TOLD_MAX: usize = 100;

/// What is there of one kind, before it is known whose it is.
struct Found {
    mounts: Vec<PathBuf>,
    loops: Vec<PathBuf>,
    cgroups: Vec<String>,
    shims: Vec<shim::Process>,
}

impl NodeRuntime {
    /// What belongs to no instance, one line each, at most 100. An instance that is being started or removed at the same time
    /// owns all that it may have.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Bridge`]: something cannot be looked at.
    pub async fn leftovers(&self) -> Result<Vec<String>, Error> {
        let mut known = self.known()?;
        let runtime = self.clone();
        let found = blocking(&*self.0.env.disk, move || runtime.find()).await?;
        let links = match &self.0.config.network {
            Some(network) => network::links(network)
                .await
                .map_err(|source| Error::Bridge { bridge: network.bridge.clone(), source })?,
            None => Vec::new(),
        };
        // Those that came or went meanwhile are in one of both.
        known.append(&mut self.known()?);
        let mut told = Vec::new();
        told.extend(known.iter().filter(|(_, one)| one.is_half_made()).map(|(instance, _)| {
            format!("directory {} has no record of an instance", self.home(*instance).path().display())
        }));
        let is_given_up = |(instance, one): &(&InstanceId, &Known)| one.is_one_off() && !self.is_one_off(**instance);
        told.extend(known.iter().filter(is_given_up).map(|(instance, _)| format!("one-off instance {instance}")));
        let veths: BTreeSet<String> = known.keys().map(|instance| network::veth(*instance)).collect();
        told.extend(links.into_iter().filter(|link| !veths.contains(link)).map(|link| format!("interface {link}")));
        self.judge_mounts(&found.mounts, &known, &mut told);
        self.judge_loops(&found.loops, &known, &mut told);
        self.judge_cgroups(&found.cgroups, &known, &mut told);
        self.judge_shims(&found.shims, &known, &mut told);
        self.judge_reservations(&known, &mut told);
        told.truncate(TOLD_MAX);
        Ok(told)
    }

    fn known(&self) -> Result<BTreeMap<InstanceId, Known>, Error> {
        let mut known = BTreeMap::new();
        for instance in record::instances(&self.0.instances)? {
            let lock = self.try_lock(instance);
            let record = self.home(instance).record()?;
            known.insert(instance, Known { record, is_changing: lock.is_none() });
        }
        Ok(known)
    }

    /// Blocks.
    fn find(&self) -> Result<Found, Error> {
        let mountinfo = "/proc/thread-self/mountinfo";
        let mounts = fs::read_to_string(mountinfo).map_err(Error::file("read", mountinfo))?;
        // The fifth field; space, tab, newline and backslash are written in octal (proc_pid_mountinfo(5)).
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(plain(path)));
        let is_ours = |path: &PathBuf| path.starts_with(&self.0.config.data_dir);
        let loops = storage::loop_files().map_err(Error::file("list loop devices of", &self.0.config.data_dir))?;
        Ok(Found {
            mounts: mounts.filter(is_ours).collect(),
            loops: loops.into_iter().filter(is_ours).collect(),
            cgroups: cgroup::children(&self.0.config.cgroup_parent),
            shims: shim::processes(&self.0.config.data_dir),
        })
    }

    fn judge_mounts(&self, mounts: &[PathBuf], known: &BTreeMap<InstanceId, Known>, told: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        for mount in mounts {
            let owner = self.owner(mount).and_then(|instance| Some((self.home(instance), known.get(&instance)?)));
            let is_well = match owner {
                Some((_, one)) if one.is_changing => true,
                // Two of its mounts are for the time of the start only.
                Some((home, _)) => *mount != home.shifted() && *mount != home.by_way_of() && seen.insert(mount),
                None => !mount.starts_with(&self.0.instances) && *mount != self.0.config.data_dir.join("shifted"),
            };
            if !is_well {
                told.push(format!("mount {}", mount.display()));
            }
        }
    }

    fn judge_loops(&self, loops: &[PathBuf], known: &BTreeMap<InstanceId, Known>, told: &mut Vec<String>) {
        let mut used: BTreeSet<PathBuf> = known.keys().map(|instance| self.home(*instance).layer_image()).collect();
        let volumes = known.values().filter_map(|one| one.record.as_ref()).flat_map(|record| record.config.volumes());
        used.extend(volumes.map(|(volume, _)| self.0.volumes.image(&volume)));
        for file in loops {
            // Each once.
            if !used.remove(file) && !self.0.layers.is_ahead(file) {
                told.push(format!("loop device of {}", file.display()));
            }
        }
    }

    fn judge_cgroups(&self, cgroups: &[String], known: &BTreeMap<InstanceId, Known>, told: &mut Vec<String>) {
        let parent = &self.0.config.cgroup_parent;
        let has_commands = self.0.execs.available_permits() < EXECS_MAX;
        for name in cgroups {
            let Ok(instance) = name.parse::<InstanceId>() else { continue };
            let cgroup = format!("{parent}/{name}");
            match known.get(&instance) {
                None => told.push(format!("cgroup {cgroup}")),
                Some(one) if one.is_changing || has_commands => {}
                Some(_) => told.extend(cgroup::owns(&cgroup).into_iter().map(|own| format!("cgroup {cgroup}/{own}"))),
            }
        }
    }

    fn judge_shims(&self, shims: &[shim::Process], known: &BTreeMap<InstanceId, Known>, told: &mut Vec<String>) {
        let has_commands = self.0.execs.available_permits() < EXECS_MAX;
        for process in shims {
            let owner = self.owner(&process.home).and_then(|instance| known.get(&instance));
            let is_well = owner.is_some_and(|one| one.is_changing || has_commands || !process.is_exec);
            if !is_well {
                told.push(format!("shim {} of {}", process.pid.as_raw_nonzero(), process.home.display()));
            }
        }
    }

    fn judge_reservations(&self, known: &BTreeMap<InstanceId, Known>, told: &mut Vec<String>) {
        let state = self.0.state.lock();
        let is_stray = |instance: &&InstanceId| !known.contains_key(instance) && !state.locks.contains_key(instance);
        told.extend(state.addresses.keys().filter(is_stray).map(|instance| format!("address of {instance}")));
        told.extend(state.ports.keys().filter(is_stray).map(|instance| format!("ports of {instance}")));
        told.extend(state.volumes.values().filter(is_stray).map(|instance| format!("reserved volume of {instance}")));
    }

    /// The instance in whose directory something is.
    fn owner(&self, path: &Path) -> Option<InstanceId> {
        path.strip_prefix(&self.0.instances).ok()?.iter().next()?.to_str()?.parse().ok()
    }
}

/// An instance that has a directory.
struct Known {
    record: Option<Record>,
    /// Somebody changes it now.
    is_changing: bool,
}

impl Known {
    fn is_half_made(&self) -> bool {
        self.record.is_none() && !self.is_changing
    }

    fn is_one_off(&self) -> bool {
        !self.is_changing && self.record.as_ref().is_some_and(|record| record.is_one_off)
    }
}

/// A path without what the kernel writes in octal.
fn plain(path: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn names_of_mounts_are_read_as_they_are() {
        assert_eq!(plain(r"/var/lib/a\040b\134c"), r"/var/lib/a b\c");
    }
}
