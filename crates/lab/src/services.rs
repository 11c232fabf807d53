//! What is not ours in a lab: the image registry, in the services' network.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    process::Stdio,
    time::Duration,
};

use crate::{
    Error, Process,
    config::{REGISTRY_PORT, SERVICES_ADDRESS},
    error::Attempt,
    network,
    process::{MEMBER_VARIABLE, leave_behind, wait_until},
    state::Files,
};

/// How long the registry may take until it answers.
const REGISTRY_UP_WITHIN: Duration = Duration::from_secs(30);
/// How long one attempt to reach it may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Address of the registry, as it stands in image references.
pub fn registry() -> SocketAddr {
    SocketAddr::from((SERVICES_ADDRESS, REGISTRY_PORT))
}

/// Starts the registry and waits until it answers.
pub(crate) fn start_registry(files: &Files, services: Process) -> Result<Process, Error> {
    let dir = files.services();
    let (storage, config, log) = (dir.join("registry"), dir.join("registry.yml"), dir.join("registry.log"));
    fs::create_dir_all(&storage).attempt(|| format!("make {}", storage.display()))?;
    let settings = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {}\nlog:\n  level: warn\n",
        storage.display(),
        registry()
    );
    fs::write(&config, settings).attempt(|| format!("write {}", config.display()))?;
    let output = File::create(&log).attempt(|| format!("make {}", log.display()))?;
    let errors = output.try_clone().attempt(|| format!("open {}", log.display()))?;
    let mut command = network::inside(services, "docker-registry");
    command.arg("serve").arg(&config).env(MEMBER_VARIABLE, files.dir());
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    let child = leave_behind(&mut command).spawn().attempt(|| "start docker-registry".to_owned())?;
    let process = Process::of(child.id() as i32)
        .ok_or_else(|| Error::Command { command: "docker-registry".to_owned(), said: "it ended at once".to_owned() })?;
    network::within(services, || {
        wait_until(REGISTRY_UP_WITHIN, "the image registry to answer", &log, || {
            TcpStream::connect_timeout(&registry(), CONNECT_WITHIN).is_ok()
        })
    })?;
    Ok(process)
}
