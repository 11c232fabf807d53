//! OCI runtimes of the node's: what the shim is told of one, and the end of what one has left.

use std::{io, process::Stdio, time::Duration};

use insula_env::clock;
use insula_types::InstanceId;
use tokio::process::Command;

use crate::{
    Error, RuntimeClass,
    record::Home,
    shim::protocol::{Config, OciRuntime, Work},
};

/// How long one may take to end a container. A sandbox that does not answer is given up by its runtime after some seconds.
const DELETE_MAX: Duration = Duration::from_secs(30);
/// Of what it says when it fails, so much is told, in bytes.
const WHY_LEN_MAX: usize = 2048;

impl From<&RuntimeClass> for OciRuntime {
    fn from(class: &RuntimeClass) -> Self {
        Self { path: class.path.to_string_lossy().into_owned(), arguments: class.arguments.clone() }
    }
}

/// Ends and forgets the container of an instance whose shim is gone, if a runtime of the node's has ever made it. Its processes may
/// be in no cgroup of ours, and only that runtime knows which they are.
pub(crate) async fn delete(instance: InstanceId, home: &Home) -> Result<(), Error> {
    let Some(Config { work: Work::Container { id, runtime: Some(runtime), .. }, .. }) = home.read("shim.json")? else {
        return Ok(());
    };
    let failed = |why: String| Error::Runtime { instance, path: runtime.path.clone(), why };
    let child = Command::new(&runtime.path)
        .args(&runtime.arguments)
        .arg("--root")
        .arg(home.join("state"))
        .arg("--log")
        .arg(home.join("runtime.log"))
        .args(["delete", "--force", &id])
        .env_clear()
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let child = match child {
        // Without the program nothing can be asked of it. What is in the cgroup is ended all the same.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::warn!(%instance, runtime = runtime.path, "a runtime is gone that may have left processes");
            return Ok(());
        }
        child => child.map_err(|error| failed(error.to_string()))?,
    };
    let output = clock::timeout(DELETE_MAX, child.wait_with_output())
        .await
        .map_err(|_| failed(format!("it did not end within {DELETE_MAX:?}")))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = &output.stderr[output.stderr.len().saturating_sub(WHY_LEN_MAX)..];
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(said).trim())))
}
