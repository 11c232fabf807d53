//! The dataplane's end of the port: accepts, looks, keeps mesh connections and hands the others over.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use insula_env::{
    Beat, Env, beat,
    net::{self, TcpListener, TcpStream, UnixStream},
};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tracing::{debug, warn};

use super::{handed, peek::peek};
use crate::Protocol;

/// Connections that are being looked at. Beyond it new ones wait in the kernel's queue, at most as long as a look takes.
const PEEKING_MAX: usize = 512;
/// Connections that wait to be handed over or to be taken by the mesh.
const WAITING_MAX: usize = 256;
/// How long connecting to the server may take; it is on this machine.
const SERVER_CONNECT_MAX: Duration = Duration::from_secs(1);
/// After a failed accept (no descriptors left): time for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sorts the connections of the port between nodes.
pub struct Dispatcher {
    mesh: mpsc::Receiver<(TcpStream, SocketAddr)>,
    address: SocketAddr,
}

impl Dispatcher {
    /// Takes over `listener`; connections that are not for the mesh go to the server that listens on `port_socket`.
    /// While there is none they are closed, and peers try again.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(listener: TcpListener, port_socket: &Path, env: &Env) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (to_mesh, mesh) = mpsc::channel(WAITING_MAX);
        let (to_server, for_server) = mpsc::channel(WAITING_MAX);
        let (listener, env_of_accept) = (Arc::new(listener), env.clone());
        env.tasks.supervise("port accept", beat::QUICK, move |beat| {
            accept(Arc::clone(&listener), to_mesh.clone(), to_server.clone(), env_of_accept.clone(), beat)
        });
        let (for_server, path) = (Arc::new(Mutex::new(for_server)), port_socket.to_owned());
        env.tasks.supervise("port hand over", beat::QUICK, move |beat| {
            hand_over(Arc::clone(&for_server), path.clone(), beat)
        });
        Ok(Self { mesh, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next mesh connection, at its first byte. `None` when the task group has been stopped.
    pub async fn next_mesh(&mut self) -> Option<(TcpStream, SocketAddr)> {
        self.mesh.recv().await
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dispatcher({})", self.address)
    }
}

async fn accept(
    listener: Arc<TcpListener>,
    to_mesh: mpsc::Sender<(TcpStream, SocketAddr)>,
    to_server: mpsc::Sender<(Protocol, TcpStream)>,
    env: Env,
    beat: Beat,
) {
    let peeking = Arc::new(Semaphore::new(PEEKING_MAX));
    loop {
        let Ok(permit) = beat.idle(Arc::clone(&peeking).acquire_owned()).await else { return };
        let (stream, peer) = match beat.idle(listener.accept()).await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accept on the port between nodes");
                insula_env::clock::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (to_mesh, to_server) = (to_mesh.clone(), to_server.clone());
        env.tasks.spawn("port peek", async move {
            let protocol = peek(&stream).await;
            drop(permit);
            let is_full = match protocol {
                Ok(Protocol::Mesh) => to_mesh.try_send((stream, peer)).is_err(),
                Ok(protocol) => to_server.try_send((protocol, stream)).is_err(),
                Err(error) => {
                    debug!(%peer, %error, "connection refused");
                    return;
                }
            };
            if is_full {
                warn!(%peer, "connection closed: too many wait");
            }
        });
    }
}

/// Hands connections to the server, one after the other, over one Unix connection that is made anew when it fails.
async fn hand_over(waiting: Arc<Mutex<mpsc::Receiver<(Protocol, TcpStream)>>>, path: PathBuf, beat: Beat) {
    // Free at once: the run before has been dropped.
    let mut waiting = waiting.lock().await;
    let mut server: Option<UnixStream> = None;
    while let Some((protocol, stream)) = beat.idle(waiting.recv()).await {
        let handed = match stream.into_std() {
            Ok(stream) => hand_one(&mut server, &path, protocol, &OwnedFd::from(stream)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = handed {
            debug!(%protocol, %error, "connection closed: the server is not there");
        }
    }
}

async fn hand_one(
    server: &mut Option<UnixStream>,
    path: &Path,
    protocol: Protocol,
    descriptor: &OwnedFd,
) -> io::Result<()> {
    // The known server may have been started anew; only a fresh connection proves that there is one.
    if let Some(known) = server.take().filter(|known| !has_ended(known))
        && handed::send(&known, protocol, descriptor).await.is_ok()
    {
        *server = Some(known);
        return Ok(());
    }
    let fresh = net::connect_unix(path, SERVER_CONNECT_MAX).await?;
    handed::send(&fresh, protocol, descriptor).await?;
    *server = Some(fresh);
    Ok(())
}

/// The server never writes, so anything but "nothing to read" is its end.
fn has_ended(server: &UnixStream) -> bool {
    !matches!(server.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
