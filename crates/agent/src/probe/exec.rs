//! Inside the instance: a command that returns 0.

use std::time::Duration;

use insula_container::{Exec, ExecStdout, Exit, Runtime};
use insula_env::clock;
use insula_types::{ExecSpec, InstanceId};
use tokio::io::AsyncReadExt;

/// Of what a failed command wrote, so much is told.
const SAID_LEN_MAX: u64 = 256;

/// Runs the command; what it started ends with it, at the latest after `limit`.
pub(crate) async fn ask(
    runtime: &dyn Runtime,
    instance: InstanceId,
    command: &[String],
    limit: Duration,
) -> Result<(), String> {
    let spec = ExecSpec { command: command.to_vec(), terminal: None, has_input: false };
    let program = command.first().map_or("", String::as_str);
    let run = async {
        let begun = runtime.exec(instance, &spec).await;
        let Exec { stdout, stderr, exit, handle, .. } = begun.map_err(|error| crate::chain(&error))?;
        let (exit, out, errors) = tokio::join!(exit, head(Some(stdout)), head(stderr));
        drop(handle);
        if exit == Exit::Code(0) {
            return Ok(());
        }
        let said = if errors.trim().is_empty() { out } else { errors };
        let colon = if said.trim().is_empty() { "" } else { ": " };
        Err(format!("{program} ended with {exit}{colon}{}", said.trim()))
    };
    match clock::timeout(limit, run).await {
        Ok(result) => result,
        Err(_) => Err(format!("{program} did not end within {limit:?}")),
    }
}

/// The beginning of what is written; the rest is read and forgotten, so that nobody waits to write it.
async fn head(output: Option<ExecStdout>) -> String {
    let Some(mut output) = output else { return String::new() };
    let mut bytes = Vec::new();
    (&mut output).take(SAID_LEN_MAX).read_to_end(&mut bytes).await.ok();
    tokio::io::copy(&mut output, &mut tokio::io::sink()).await.ok();
    String::from_utf8_lossy(&bytes).into_owned()
}
