//! What is there, and waiting for its end.

use std::{fs, time::Duration};

use futures::future::OptionFuture;
use insula_env::clock;
use insula_types::InstanceId;
use rustix::process::{Pid, Signal, kill_process};
use tracing::{info, warn};

use super::{NodeRuntime, REMOVED_MAX};
use crate::{
    Ended, Error, Exit, Observed, ObservedState, Pressure, Running, cgroup,
    disk::blocking,
    network, oci, pressure,
    record::{self, DIRECTORY_VARIABLE, Home, Record},
    shim::{
        self, Answer,
        protocol::{self, Request},
    },
};

/// Wait before a shim that could not be asked is asked again.
const RETRY: Duration = Duration::from_secs(1);

impl NodeRuntime {
    /// The instance as the disk and its shim tell it. A shim that is gone without a word takes its instance with it.
    pub(super) async fn observe(&self, instance: InstanceId) -> Result<Option<(Record, Observed)>, Error> {
        let home = self.home(instance);
        let Some(record) = home.record()? else { return Ok(None) };
        let state = match exit_of(&home)? {
            Some(ended) => ObservedState::Ended(ended),
            None => match shim::ask(instance, &home, &Request::Status).await? {
                Answer::Reply(protocol::Reply { running: Some(running), .. }) => ObservedState::Running(Running {
                    pid: running.pid.unsigned_abs(),
                    started_ms: running.started_ms,
                    endpoints: record.endpoints(),
                }),
                Answer::Reply(_) | Answer::Gone => ObservedState::Ended(self.find_end(&home, &record).await?),
            },
        };
        let config_hash = record.config.hash();
        Ok(Some((record, Observed { instance, config_hash, state })))
    }

    /// What the instance lacks, or takes too much of, or did at its end; none when it is not here.
    pub(super) async fn pressure(&self, instance: InstanceId) -> Option<Pressure> {
        let home = self.home(instance);
        let record = home.record().ok()??;
        let log_lines_dropped = match shim::ask(instance, &home, &Request::Status).await.ok()? {
            Answer::Reply(reply) => reply.log_lines_dropped,
            Answer::Gone => 0,
        };
        let pressure = blocking(&*self.0.env.disk, move || pressure::read(&record, &home)).await;
        Some(Pressure { log_lines_dropped, ..pressure })
    }

    /// Keeps what an instance lacked for the next who asks, before that can no longer be read.
    pub(super) async fn keep_pressure(&self, instance: InstanceId, record: &Record, home: &Home) {
        if record.is_one_off || !record.is_container() {
            return;
        }
        let (record, home) = (record.clone(), home.clone());
        let pressure = blocking(&*self.0.env.disk, move || pressure::read(&record, &home)).await;
        let removed = &mut self.0.state.lock().removed;
        if removed.len() == REMOVED_MAX {
            removed.pop_front();
        }
        removed.push_back((instance, pressure));
    }

    /// The shim does not answer any more: it has written down the end, or was killed.
    async fn find_end(&self, home: &Home, record: &Record) -> Result<Ended, Error> {
        if let Some(ended) = exit_of(home)? {
            return Ok(ended);
        }
        end_leftovers(record, home).await?;
        let why = match home.read::<protocol::Running>("running.json")? {
            Some(_) => "its shim was killed, or the machine was restarted",
            None => "it was never started",
        };
        Ok(Ended { exit: Exit::Unseen(why.to_owned()), is_oom_killed: false, at_ms: 0 })
    }

    /// Reserves what living and ended instances hold, and waits for the end of the living.
    pub(super) async fn take_over(&self) -> Result<(), Error> {
        for instance in record::instances(&self.0.instances)? {
            let Some(record) = self.home(instance).record()? else { continue };
            {
                let mut state = self.0.state.lock();
                state.addresses.extend(record.address.map(|address| (instance, address)));
                if let Some(first) = record.users {
                    state.users.keep(&record.config.service.app, instance, first);
                }
                state.volumes.extend(record.config.volumes().map(|(volume, _)| (volume, instance)));
                if !record.is_container() {
                    state.ports.insert(instance, record.ports.values().copied().collect());
                }
            }
            let grouped = OptionFuture::from(record.address.map(|address| network::set_group(instance, address))).await;
            if let Some(Err(error)) = grouped {
                warn!(%instance, %error, "an interface cannot be put into its group: the firewall drops what it says");
            }
            let state = match self.observe(instance).await {
                Ok(observed) => observed.map(|(_, observed)| observed.state),
                // One instance that is in trouble does not keep the others from being looked after.
                Err(error) => {
                    warn!(%instance, %error, "an instance cannot be observed");
                    self.watch(instance);
                    continue;
                }
            };
            if let Some(ObservedState::Running(running)) = state {
                info!(%instance, pid = running.pid, "instance taken over");
                if let Some(Err(error)) = OptionFuture::from(record.cgroup.as_deref().map(cgroup::end_owns)).await {
                    warn!(%instance, %error, "commands of an earlier life cannot be ended");
                }
                self.watch(instance);
            }
        }
        Ok(())
    }

    /// Tells [`crate::Runtime::ended`] when the instance ends. Once per instance, however often it is called.
    pub(super) fn watch(&self, instance: InstanceId) {
        if !self.0.state.lock().watched.insert(instance) {
            return;
        }
        let runtime = self.clone();
        self.0.env.tasks.spawn("wait for the end of an instance", async move {
            let home = runtime.home(instance);
            loop {
                match shim::ask_for_end(instance, &home, &Request::Wait).await {
                    Ok(Answer::Reply(protocol::Reply { exit: Some(exit), .. })) => {
                        info!(%instance, exit = %Ended::from(exit).exit, "instance ended");
                        break;
                    }
                    Ok(_) => match runtime.observe(instance).await {
                        Ok(Some((_, Observed { state: ObservedState::Running(_), .. }))) => {}
                        Ok(_) => break,
                        Err(error) => warn!(%instance, %error, "what a killed shim left cannot be ended yet"),
                    },
                    Err(error) => warn!(%instance, %error, "a shim cannot be asked"),
                }
                clock::sleep(RETRY).await;
            }
            runtime.0.state.lock().watched.remove(&instance);
            runtime.0.ended.send_modify(|count| *count += 1);
        });
    }
}

fn exit_of(home: &Home) -> Result<Option<Ended>, Error> {
    Ok(home.read::<protocol::Exit>("exit.json")?.map(Ended::from))
}

impl From<protocol::Exit> for Ended {
    fn from(exit: protocol::Exit) -> Self {
        let way = match (exit.code, exit.signal) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unseen("its shim did not see how it ended".to_owned()),
        };
        Self { exit: way, is_oom_killed: exit.is_oom_killed, at_ms: exit.at_ms }
    }
}

/// Ends what a killed shim left running.
pub(super) async fn end_leftovers(record: &Record, home: &Home) -> Result<(), Error> {
    oci::delete(record.config.instance, home).await?;
    match &record.cgroup {
        Some(cgroup) => cgroup::kill(cgroup).await.map_err(Error::file("end the processes of", home.path())),
        None => {
            end_processes(home);
            Ok(())
        }
    }
}

/// A process that its shim no longer looks after died with it; this is for its children. They are told by what is in
/// their environment: the directory, since another node on this machine may have an instance of the same name.
fn end_processes(home: &Home) {
    let mark = format!("{DIRECTORY_VARIABLE}={}", home.path().display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let (Some(pid), Ok(environment)) = (pid, fs::read(entry.path().join("environ"))) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}
