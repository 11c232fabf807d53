//! Keeps the dataplane running: starts it, adopts one that runs, starts it again when it ends.
//!
//! The dataplane outlives the server: it gets a session of its own and is left alone when the server stops. A server
//! that starts looks whether somebody answers on the dataplane's socket before it starts another.

mod end;

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use insula_env::{Beat, Env, beat, clock, net};
use tokio::process::{Child, Command};
use tracing::{info, warn};

pub(crate) use end::end_all;

use crate::{program, takeover};

/// Wait between an end of the dataplane and its next start, and between looks at an adopted one.
const RESTART_WAIT: Duration = Duration::from_millis(100);
/// How often an adopted dataplane, whose end nobody tells us, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the look may take: a connect on this machine.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// How long a dataplane may take until it has taken over from another.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(20);

/// Starts the supervision of the dataplane of this node.
pub(crate) fn start(env: &Env, config: &Path, socket: PathBuf, takeover: PathBuf) {
    let config = config.to_owned();
    env.tasks
        .supervise("dataplane", beat::QUICK, move |beat| keep(config.clone(), socket.clone(), takeover.clone(), beat));
}

async fn keep(config: PathBuf, socket: PathBuf, takeover: PathBuf, beat: Beat) {
    loop {
        if answers(&socket).await {
            if let Err(error) = beat.idle(replace(&config, &takeover)).await {
                warn!(%error, "the dataplane that is running is left as it is");
            }
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

/// Lets a dataplane of this program take over from one of another program, as after an upgrade. Without effect when the one that is
/// running is of this program.
async fn replace(config: &Path, takeover: &Path) -> io::Result<()> {
    let own = takeover::fingerprint(&program::path()?)?;
    let (running, _) = takeover::ask(takeover).await?;
    if running.program == own {
        info!("a dataplane is running already");
        return Ok(());
    }
    drop(running);
    let mut child = spawn(config)?;
    info!(pid = child.id(), "a dataplane of this program takes over from the one that is running");
    let taken = async {
        loop {
            clock::sleep(LOOK_EVERY).await;
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("the one that was to take over ended with {status}")));
            }
            if takeover::ask(takeover).await.is_ok_and(|(running, _)| running.program == own) {
                return Ok(());
            }
        }
    };
    let outcome = clock::timeout(TAKEOVER_LIMIT, taken).await;
    outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).inspect_err(|_| {
        // Ended already when it failed by itself.
        child.start_kill().ok();
    })
}

/// Whether a dataplane takes connections. One that is cut off by the server's own end counts on the next look.
async fn answers(socket: &Path) -> bool {
    net::connect_unix(socket, LOOK_LIMIT).await.is_ok()
}

fn spawn(config: &Path) -> io::Result<Child> {
    let mut command = Command::new(program::path()?);
    command.arg("dataplane").arg("--config").arg(config);
    command.stdin(Stdio::null()).kill_on_drop(false);
    // A session of its own: what is sent to the server's process group (Ctrl-C, a service manager) does not reach it.
    // SAFETY: setsid is async-signal-safe (signal-safety(7)) and touches no memory of ours.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    command.spawn()
}
