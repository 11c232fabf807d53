//! Handing connections from the dataplane to the server: a header and a descriptor (SCM_RIGHTS) over a Unix socket. The
//! header's form is for ever, since the two processes are upgraded apart.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use insula_env::{Beat, Env, TaskGroup, beat, clock::timeout, net};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};
use tracing::{debug, warn};

use crate::Protocol;

/// Version and protocol, then zeros for later use.
const HEADER_LEN: usize = 4;
const HEADER_VERSION: u8 = 1;
/// How long handing one connection over may take: the server only has to be alive.
const SEND_MAX: Duration = Duration::from_secs(2);
/// Connections that have been handed and not yet taken.
const WAITING_MAX: usize = 256;
/// Dataplanes that may be connected at once: one, and one more while it is replaced.
const SENDERS_MAX: usize = 4;

/// A connection that was handed over, still at its very first byte.
#[derive(Debug)]
pub struct Handed {
    /// What it offers to speak.
    pub protocol: Protocol,
    /// The connection.
    pub stream: TcpStream,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// Hands a connection over. An error says that the server did not get it.
pub(crate) async fn send(to: &UnixStream, protocol: Protocol, descriptor: &OwnedFd) -> io::Result<()> {
    let header = [HEADER_VERSION, protocol.code(), 0, 0];
    let work = to.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let descriptors = [descriptor.as_fd()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let sent = sendmsg(to, &[IoSlice::new(&header)], &mut control, SendFlags::NOSIGNAL)?;
        if sent == header.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    });
    timeout(SEND_MAX, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Takes one connection. `None`: the sender has gone.
async fn receive(from: &UnixStream) -> io::Result<Option<(u8, u8, OwnedFd)>> {
    from.async_io(Interest::READABLE, || {
        let mut header = [0; HEADER_LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(from, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a handed connection is not whole");
        if received.bytes != HEADER_LEN {
            return Err(damaged());
        }
        Ok(Some((header[0], header[1], descriptor.ok_or_else(damaged)?)))
    })
    .await
}

/// The server's end: listens on the Unix socket, takes what dataplanes hand over. Dataplanes come and go.
#[derive(Debug)]
pub struct HandedReceiver {
    waiting: mpsc::Receiver<Handed>,
}

impl HandedReceiver {
    /// Listens on `path`, replacing a socket that a dead server left.
    ///
    /// # Errors
    /// As the system says; `AddrInUse` when a living server listens there.
    pub fn bind(path: &Path, env: &Env) -> io::Result<Self> {
        let listener = net::bind_unix(path)?;
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let tasks = env.tasks.clone();
        let listener = Arc::new(listener);
        env.tasks.supervise("handed connections", beat::QUICK, move |beat| {
            listen(Arc::clone(&listener), queue.clone(), tasks.clone(), beat)
        });
        Ok(Self { waiting })
    }

    /// The next connection. `None` when the task group has been stopped.
    pub async fn next(&mut self) -> Option<Handed> {
        self.waiting.recv().await
    }
}

async fn listen(listener: Arc<UnixListener>, queue: mpsc::Sender<Handed>, tasks: TaskGroup, beat: Beat) {
    /// After a failed accept (no descriptors left): time for some to be closed.
    const PAUSE: Duration = Duration::from_millis(100);
    let senders = Arc::new(Semaphore::new(SENDERS_MAX));
    loop {
        let Ok(permit) = beat.idle(Arc::clone(&senders).acquire_owned()).await else { return };
        match beat.idle(listener.accept()).await {
            Ok((from, _)) => {
                let queue = queue.clone();
                tasks.spawn("handed connections of a dataplane", async move {
                    take_all(&from, &queue).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "accept a dataplane");
                insula_env::clock::sleep(PAUSE).await;
            }
        }
    }
}

/// Takes connections from one dataplane until it goes.
async fn take_all(from: &UnixStream, queue: &mpsc::Sender<Handed>) {
    loop {
        let (version, protocol, descriptor) = match receive(from).await {
            Ok(Some(handed)) => handed,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "take a handed connection");
                return;
            }
        };
        let Some(protocol) = Protocol::from_code(protocol).filter(|_| version == HEADER_VERSION) else {
            // From a newer dataplane; the peer tries again or takes another protocol.
            warn!(version, protocol, "handed connection of an unknown kind");
            continue;
        };
        match open(descriptor) {
            Ok((stream, peer)) => {
                if queue.send(Handed { protocol, stream, peer }).await.is_err() {
                    return;
                }
            }
            // Most often: the peer has gone meanwhile.
            Err(error) => debug!(%error, "open a handed connection"),
        }
    }
}

fn open(descriptor: OwnedFd) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = std::net::TcpStream::from(descriptor);
    stream.set_nonblocking(true)?;
    let peer = stream.peer_addr()?;
    Ok((TcpStream::from_std(stream)?, peer))
}
