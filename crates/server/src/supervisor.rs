//! Keeps the dataplane running: starts it, adopts one that runs, starts it again when it ends.
//!
//! The dataplane outlives the server: it gets a session of its own and is left alone when the server stops. A server
//! that starts looks whether somebody answers on the dataplane's socket before it starts another.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use insula_env::{Beat, Env, beat, clock, net};
use tokio::process::{Child, Command};
use tracing::{info, warn};

use crate::program;

/// Wait between an end of the dataplane and its next start, and between looks at an adopted one.
const RESTART_WAIT: Duration = Duration::from_millis(100);
/// How often an adopted dataplane, whose end nobody tells us, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the look may take: a connect on this machine.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Starts the supervision of the dataplane of this node.
pub(crate) fn start(env: &Env, config: &Path, socket: PathBuf) {
    let config = config.to_owned();
    env.tasks.supervise("dataplane", beat::QUICK, move |beat| keep(config.clone(), socket.clone(), beat));
}

async fn keep(config: PathBuf, socket: PathBuf, beat: Beat) {
    loop {
        if answers(&socket).await {
            info!("a dataplane is running already: left as it is");
            while answers(&socket).await {
                beat.idle(clock::sleep(LOOK_EVERY)).await;
            }
            warn!("the dataplane ended");
        } else {
            match spawn(&config) {
                Ok(mut child) => {
                    info!(pid = child.id(), "dataplane started");
                    match beat.idle(child.wait()).await {
                        Ok(status) => warn!(%status, "the dataplane ended"),
                        Err(error) => warn!(%error, "cannot wait for the dataplane"),
                    }
                }
                Err(error) => warn!(%error, "cannot start the dataplane"),
            }
        }
        beat.idle(clock::sleep(RESTART_WAIT)).await;
    }
}

/// Whether a dataplane takes connections. One that is cut off by the server's own end counts on the next look.
async fn answers(socket: &Path) -> bool {
    net::connect_unix(socket, LOOK_LIMIT).await.is_ok()
}

fn spawn(config: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(program::path()?);
    command.arg("dataplane").arg("--config").arg(config);
    command.stdin(Stdio::null()).kill_on_drop(false);
    // A session of its own: what is sent to the server's process group (Ctrl-C, a service manager) does not reach it.
    // SAFETY: setsid is async-signal-safe (signal-safety(7)) and touches no memory of ours.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(std::io::Error::from));
    }
    command.spawn()
}
