//! One-off instances: each is made for one command, and goes with it.
//!
//! Nobody places them and nobody else looks after them: [`Runtime::list`] leaves them out, and what a crash leaves of them is
//! removed when the runtime is opened. Their first process is the shim's; the command runs beside it as others do (`exec`).

use std::{collections::btree_map::Entry, sync::Arc, time::Duration};

use futures::{FutureExt, future::join_all};
use insula_env::clock;
use insula_types::{DriverKind, ExecSpec, InstanceId, Resources};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{info, warn};

use super::NodeRuntime;
use crate::{Error, Exec, Exit, InstanceConfig, Runtime, record};

/// One-off instances of this node at a time. Each has an address, mounts and a shim besides what its command takes.
pub(super) const ONE_OFFS_MAX: usize = 16;
/// Wait before what could not be removed is removed again.
const RETRY: Duration = Duration::from_secs(5);

impl NodeRuntime {
    /// Makes an instance for one command, and runs that in it: with the image, environment, user, network, limits and
    /// restrictions of `config`, and without its volumes. Its image must be present, its id unused. The instance is stopped and
    /// removed when the command ends, or [`Exec::handle`] is dropped; [`Exec::exit`] tells after that. A time limit is the
    /// caller's.
    ///
    /// # Errors
    /// [`Error::Config`] of a service that is no container; [`Error::State`] while there are too many of them; as
    /// [`Runtime::start`] and [`Runtime::exec`]. Nothing is left then.
    pub async fn run(&self, config: &InstanceConfig, spec: &ExecSpec) -> Result<Exec, Error> {
        let instance = config.instance;
        spec.check().map_err(|error| Error::Exec { instance, why: error.to_string() })?;
        if config.spec.driver != DriverKind::Container {
            let why = "it is a plain process of its node: only containers get one-off instances".to_owned();
            return Err(Error::Config { instance, why });
        }
        let permit = Arc::clone(&self.0.one_offs).try_acquire_owned().map_err(|_| Error::State {
            instance,
            why: "is not made now: this node has 16 one-off instances already, the most that it may have",
        })?;
        let mut config = InstanceConfig { slot: None, ..config.clone() };
        config.spec.volumes.clear();
        config.spec.command.clone_from(&spec.command);
        let (runtime, spec) = (self.clone(), spec.clone());
        // Should the caller leave meanwhile, the command is dropped as soon as it runs, and all goes the usual way.
        self.finish(
            instance,
            "run a one-off instance",
            async move { runtime.make_one_off(&config, &spec, permit).await },
        )
        .await
    }

    async fn make_one_off(
        &self,
        config: &InstanceConfig,
        spec: &ExecSpec,
        permit: OwnedSemaphorePermit,
    ) -> Result<Exec, Error> {
        let instance = config.instance;
        let taken = Error::State { instance, why: "is there already: a one-off instance needs an id of its own" };
        if self.home(instance).path().exists() {
            return Err(taken);
        }
        match self.0.state.lock().one_offs.entry(instance) {
            Entry::Occupied(_) => return Err(taken),
            Entry::Vacant(free) => free.insert(config.spec.resources),
        };
        let made = Made { runtime: self.clone(), instance, _permit: permit };
        let begun = async {
            let lock = self.lock(instance).await;
            self.start_locked(config).await?;
            drop(lock);
            self.run_command(instance, spec).await
        };
        match begun.await {
            Ok(Exec { stdin, stdout, stderr, exit: end, handle }) => {
                let (tell, told) = oneshot::channel();
                self.0.env.tasks.spawn("look after a one-off instance", async move {
                    let end = end.await;
                    made.remove().await;
                    // Nobody may be waiting any more.
                    tell.send(end).ok();
                });
                let exit =
                    told.map(|end| end.unwrap_or_else(|_| Exit::Unseen("this node's agent is stopping".to_owned())));
                Ok(Exec { stdin, stdout, stderr, exit: exit.boxed(), handle })
            }
            Err(error) => {
                made.remove().await;
                Err(error)
            }
        }
    }

    /// Removes what an earlier life of the agent left of them: nobody waits for their commands any more.
    pub(super) async fn remove_one_offs(&self) -> Result<(), Error> {
        let mut found = Vec::new();
        for instance in record::instances(&self.0.instances)? {
            if self.home(instance).record()?.is_some_and(|record| record.is_one_off) {
                found.push(instance);
            }
        }
        join_all(found.into_iter().map(async |instance| match self.remove_one_off(instance).await {
            Ok(()) => info!(%instance, "a one-off instance of an earlier life is removed"),
            Err(error) => self.remove_in_time(instance, &error, None),
        }))
        .await;
        Ok(())
    }

    async fn remove_one_off(&self, instance: InstanceId) -> Result<(), Error> {
        self.stop(instance, Some("SIGKILL"), Duration::ZERO).await?;
        self.remove(instance).await
    }

    /// Tries on after a first failure.
    fn remove_in_time(&self, instance: InstanceId, error: &Error, made: Option<Made>) {
        warn!(%instance, %error, "a one-off instance cannot be removed yet, trying on");
        let runtime = self.clone();
        self.0.env.tasks.spawn("remove a one-off instance", async move {
            let _made = made;
            while runtime.remove_one_off(instance).await.is_err() {
                clock::sleep(RETRY).await;
            }
            info!(%instance, "the one-off instance is removed");
        });
    }

    /// What each one-off instance that is here reserves: nobody but this runtime knows of them.
    pub fn one_offs(&self) -> Vec<Resources> {
        self.0.state.lock().one_offs.values().copied().collect()
    }

    /// Whether somebody has made it for one command.
    pub(super) fn is_one_off(&self, instance: InstanceId) -> bool {
        self.0.state.lock().one_offs.contains_key(&instance)
    }
}

/// A one-off instance that this runtime has made, or is making.
struct Made {
    runtime: NodeRuntime,
    instance: InstanceId,
    _permit: OwnedSemaphorePermit,
}

impl Made {
    /// Returns after the first attempt.
    async fn remove(self) {
        let runtime = self.runtime.clone();
        if let Err(error) = runtime.remove_one_off(self.instance).await {
            runtime.remove_in_time(self.instance, &error, Some(self));
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.runtime.0.state.lock().one_offs.remove(&self.instance);
    }
}
