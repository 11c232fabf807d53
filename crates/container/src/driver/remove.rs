//! Taking instances away, and what crashes left of them.

use std::{fs, io, sync::Arc, time::Duration};

use insula_types::InstanceId;
use tracing::{info, warn};

use super::{NodeRuntime, observe::end_leftovers};
use crate::{
    Error, ObservedState, Runtime, cgroup,
    disk::blocking,
    logs, network,
    record::{self, Home},
    storage,
};

impl NodeRuntime {
    pub(super) async fn remove_locked(&self, instance: InstanceId) -> Result<(), Error> {
        if let Some((_, observed)) = self.observe(instance).await?
            && matches!(observed.state, ObservedState::Running(_))
        {
            return Err(Error::State { instance, why: "runs: it must be stopped before it is removed" });
        }
        self.discard(instance).await?;
        let mut state = self.0.state.lock();
        // The map's and our caller's: nobody else waits for it.
        if state.locks.get(&instance).is_some_and(|lock| Arc::strong_count(lock) == 2) {
            state.locks.remove(&instance);
        }
        Ok(())
    }

    /// Removes everything of an instance whose shim is gone, in an order that can be begun again: the directory, by
    /// which all else is found, goes last.
    pub(super) async fn discard(&self, instance: InstanceId) -> Result<(), Error> {
        let home = self.home(instance);
        let record = home.record()?;
        // A one-off instance wrote nothing itself, and what its command wrote went to the caller.
        let has_logs = record.as_ref().is_none_or(|record| !record.is_one_off);
        if let Some(record) = record {
            self.keep_pressure(instance, &record, &home).await;
            end_leftovers(&record, &home).await?;
            self.wait_for_thaw(instance, &record).await?;
            if let Some(cgroup) = &record.cgroup {
                cgroup::remove(cgroup).await.map_err(Error::file("remove the cgroup of", home.path()))?;
            }
            if record.is_container() {
                network::disconnect(instance, &home.netns()).await?;
            }
        }
        let (kept, now) = (self.0.kept_logs.clone(), self.0.env.clock.wall());
        blocking(&*self.0.env.disk, move || {
            let attempt = || {
                storage::give_up_layer(&home.layer_image(), &home.layer())?;
                let in_memory = [home.bundle(), home.state(), home.secrets()];
                for mounted in [home.rootfs(), home.shifted(), home.sysfs(), home.layer()].into_iter().chain(in_memory)
                {
                    network::unmount_all(&mounted)?;
                }
                unmount_volumes(&home)?;
                network::release(&home.netns())?;
                if let Some(name) = home.path().file_name().filter(|_| has_logs) {
                    logs::keep(home.path(), &kept.join(name))?;
                }
                logs::prune(&kept, now)?;
                remove_directory(home.path())
            };
            attempt().map_err(Error::file("remove", home.path()))
        })
        .await?;
        let mut state = self.0.state.lock();
        state.addresses.remove(&instance);
        state.ports.remove(&instance);
        state.users.release(instance);
        state.volumes.retain(|_, user| *user != instance);
        Ok(())
    }

    /// Removes what a crash left: directories without a record, cgroups and interfaces without a directory.
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        let mut known = Vec::new();
        for instance in record::instances(&self.0.instances)? {
            if self.home(instance).record()?.is_some() {
                known.push(instance);
            } else {
                info!(%instance, "a half-made instance is removed");
                self.discard(instance).await?;
            }
        }
        let parent = &self.0.config.cgroup_parent;
        for name in cgroup::children(parent) {
            if name.parse::<InstanceId>().is_ok_and(|instance| !known.contains(&instance)) {
                let cgroup = format!("{parent}/{name}");
                info!(cgroup, "a cgroup without an instance is removed");
                let removed = match cgroup::kill(&cgroup).await {
                    Ok(()) => cgroup::remove(&cgroup).await,
                    Err(error) => Err(error),
                };
                removed.map_err(Error::file("remove the cgroup", cgroup))?;
            }
        }
        if let Some(network) = &self.0.config.network {
            network::remove_strangers(network, &known)
                .await
                .map_err(|source| Error::Bridge { bridge: network.bridge.clone(), source })?;
        }
        Ok(())
    }

    /// Stops and removes every instance, then the bridge and the cgroup that held them: for a node that goes away
    /// (`insula dev`, the lab). Images and logs stay.
    ///
    /// # Errors
    /// The first that occurs; the rest is attempted all the same.
    pub async fn remove_all(&self) -> Result<(), Error> {
        let mut result = Ok(());
        let mut note = |instance: InstanceId, outcome: Result<(), Error>| {
            if let Err(error) = outcome {
                warn!(%instance, %error, "an instance cannot be removed");
                if result.is_ok() {
                    result = Err(error);
                }
            }
        };
        for instance in record::instances(&self.0.instances)? {
            let outcome = match self.stop(instance, Some("SIGKILL"), Duration::ZERO).await {
                Ok(()) => self.remove(instance).await,
                Err(error) => Err(error),
            };
            note(instance, outcome);
        }
        if let Some(network) = &self.0.config.network {
            let failed = |source| Error::Bridge { bridge: network.bridge.clone(), source };
            network::remove_bridge(&network.bridge).await.map_err(failed)?;
            self.remove_firewall().await.map_err(|error| failed(error.into()))?;
        }
        let parent = &self.0.config.cgroup_parent;
        cgroup::remove(parent).await.map_err(Error::file("remove the cgroup", parent))?;
        let runtime = self.clone();
        let closed = blocking(&*self.0.env.disk, move || runtime.0.layers.close()).await;
        closed.map_err(Error::file("remove layers in", &self.0.config.data_dir))?;
        result
    }
}

/// What is in a volume must be on the disk before the next instance gets it, so this waits where others do not.
fn unmount_volumes(home: &Home) -> io::Result<()> {
    storage::unmount(&home.by_way_of())?;
    match fs::read_dir(home.volumes()) {
        Ok(mut volumes) => volumes.try_for_each(|volume| storage::unmount(&volume?.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_directory(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
