//! One dataplane takes over from another, as when the program is upgraded: it gets the listeners of the one before, and tells it
//! to end once it serves. Nobody who connects meanwhile is turned away. Should the new one fail before that, nothing has happened.
//!
//! ```text
//! new ──── connects ────────────────────────► old        run/takeover.sock
//!     ◄─── which program it is, listeners ───
//!     ──── "release", when it serves ────────►
//!     ◄─── "released": it accepts no more ────            and drains
//! ```
//! The form of these messages is for ever, since the two are never of one version.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    time::Duration,
};

use insula_env::{
    clock::{self, timeout},
    net::{self, TcpListener, UnixListener, UnixStream},
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tracing::debug;

/// Version of the messages, and bytes of the first: the version, then which program it is, then zeros.
const VERSION: u8 = 1;
const HELLO_LEN: usize = 65;
pub(crate) const LISTENERS: usize = 3;
/// One byte each.
const RELEASE: u8 = b'r';
const RELEASED: u8 = b'd';
/// How long a message may take: both are on this machine.
const MESSAGE_MAX: Duration = Duration::from_secs(2);
/// Wait after somebody who could not be served.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// What a dataplane listens on.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// Connections of other nodes.
    pub nodes: TcpListener,
    /// Connections of users.
    pub users: TcpListener,
    /// The server's catalogs.
    pub control: UnixListener,
}

impl Listeners {
    /// Whether they listen there.
    pub fn are_at(&self, nodes: SocketAddr, users: SocketAddr) -> bool {
        let is_at = |listener: &TcpListener, address| listener.local_addr().is_ok_and(|found| found == address);
        is_at(&self.nodes, nodes) && is_at(&self.users, users)
    }

    /// The same once more, to be offered.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn descriptors(&self) -> io::Result<[OwnedFd; LISTENERS]> {
        let Self { nodes, users, control } = self;
        let [nodes, users, control] =
            [nodes.as_fd(), users.as_fd(), control.as_fd()].map(|descriptor| descriptor.try_clone_to_owned());
        Ok([nodes?, users?, control?])
    }
}

/// A dataplane that serves, seen from the one that comes after it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// Which program it runs.
    pub program: String,
}

/// Which program a process runs: that of a file. Another file, or a later one in its place, is another.
///
/// # Errors
/// When the file cannot be looked at.
pub(crate) fn fingerprint(program: &Path) -> io::Result<String> {
    let file = fs::metadata(program)?;
    Ok(format!("{}:{}:{}.{}", file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

/// Asks the dataplane that serves, if there is one: which program it runs, and for its listeners.
///
/// # Errors
/// When it answers something else than it should. `NotFound` and `ConnectionRefused`: there is none.
pub(crate) async fn ask(socket: &Path) -> io::Result<(Predecessor, Listeners)> {
    let stream = net::connect_unix(socket, MESSAGE_MAX).await?;
    let (program, descriptors) = timeout(MESSAGE_MAX, hello(&stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let [nodes, users, control]: [OwnedFd; LISTENERS] =
        descriptors.try_into().map_err(|_| damaged("it has another number of listeners"))?;
    let tcp = |descriptor: OwnedFd| {
        let listener = std::net::TcpListener::from(descriptor);
        listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener))
    };
    let control = std::os::unix::net::UnixListener::from(control);
    control.set_nonblocking(true)?;
    let listeners = Listeners { nodes: tcp(nodes)?, users: tcp(users)?, control: UnixListener::from_std(control)? };
    Ok((Predecessor { stream, program }, listeners))
}

async fn hello(stream: &UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    stream
        .async_io(Interest::READABLE, || {
            let mut text = [0; HELLO_LEN];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            if received.bytes != HELLO_LEN || text[0] != VERSION {
                return Err(damaged("it speaks another version"));
            }
            let descriptors = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            let program = String::from_utf8_lossy(&text[1..]).trim_end_matches('\0').to_owned();
            Ok((program, descriptors.flatten().collect()))
        })
        .await
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the dataplane that serves cannot be taken over: {why}"))
}

impl Predecessor {
    /// Tells it to accept no more, and to end when its requests have; returns when it accepts no more.
    ///
    /// # Errors
    /// When it does not say so, as when it has ended meanwhile.
    pub async fn release(mut self) -> io::Result<()> {
        let released = timeout(MESSAGE_MAX, async {
            self.stream.write_all(&[RELEASE]).await?;
            self.stream.read_u8().await
        });
        match released.await.map_err(|_| io::ErrorKind::TimedOut)?? {
            RELEASED => Ok(()),
            _ => Err(damaged("it says something else than that it is released")),
        }
    }
}

/// What a dataplane offers to the one that comes after it.
#[derive(Debug)]
pub(crate) struct Offer {
    listener: UnixListener,
    program: String,
    descriptors: [OwnedFd; LISTENERS],
}

impl Offer {
    /// Offers listeners on a socket, which nobody else may serve.
    ///
    /// # Errors
    /// As the system says.
    pub fn new(socket: &Path, descriptors: [OwnedFd; LISTENERS]) -> io::Result<Self> {
        let program = fingerprint(Path::new("/proc/self/exe"))?;
        Ok(Self { listener: net::bind_unix(socket)?, program, descriptors })
    }

    /// Completes when a successor serves. It waits until [`Taken::let_go`] has been called.
    pub async fn taken(&self) -> Taken {
        loop {
            let outcome = async {
                let (mut stream, _) = self.listener.accept().await?;
                timeout(MESSAGE_MAX, self.greet(&stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
                // It may take its time to begin, and gives up by ending the connection.
                let word = stream.read_u8().await?;
                Ok::<_, io::Error>((word == RELEASE).then_some(stream))
            };
            match outcome.await {
                Ok(Some(stream)) => return Taken(stream),
                Ok(None) => debug!("somebody asked for the listeners in words that are not known"),
                Err(error) => {
                    debug!(%error, "somebody asked for the listeners and left");
                    // Or nobody can be accepted, for want of descriptors.
                    clock::sleep(FAILED_PAUSE).await;
                }
            }
        }
    }

    async fn greet(&self, stream: &UnixStream) -> io::Result<()> {
        let mut text = [0; HELLO_LEN];
        text[0] = VERSION;
        for (place, byte) in text[1..].iter_mut().zip(self.program.bytes()) {
            *place = byte;
        }
        stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS))];
                let descriptors =
                    [self.descriptors[0].as_fd(), self.descriptors[1].as_fd(), self.descriptors[2].as_fd()];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                    return Err(io::Error::other("no room for descriptors"));
                }
                let sent = sendmsg(stream, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
                if sent == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
            })
            .await
    }
}

/// A successor that serves already.
#[derive(Debug)]
pub(crate) struct Taken(UnixStream);

impl Taken {
    /// To be called when nothing is accepted any more here.
    pub async fn let_go(mut self, offer: Offer) {
        // The successor offers on the same path.
        drop(offer);
        if let Err(error) = self.0.write_all(&[RELEASED]).await {
            debug!(%error, "the successor has gone already");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn listeners(directory: &Path) -> Listeners {
        let any = "127.0.0.1:0".parse().expect("an address");
        Listeners {
            nodes: net::bind(any).await.expect("bind"),
            users: net::bind(any).await.expect("bind"),
            control: net::bind_unix(&directory.join("control.sock")).expect("bind"),
        }
    }

    #[tokio::test]
    async fn listeners_go_over_and_nobody_is_turned_away() {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("takeover.sock");
        assert_eq!(ask(&socket).await.expect_err("nobody").kind(), io::ErrorKind::NotFound);
        let old = listeners(directory.path()).await;
        let address = old.users.local_addr().expect("address");
        let offer = Offer::new(&socket, old.descriptors().expect("copied")).expect("offered");
        // Accepted by nobody yet.
        let mut waiting = net::connect(address, MESSAGE_MAX).await.expect("connect");

        let hands_over = async {
            let taken = offer.taken().await;
            drop(old);
            taken.let_go(offer).await;
        };
        let takes_over = async {
            let (looks_only, _) = ask(&socket).await.expect("served");
            assert_eq!(looks_only.program, fingerprint(Path::new("/proc/self/exe")).expect("a file"));
            drop(looks_only);
            let (predecessor, new) = ask(&socket).await.expect("still served");
            predecessor.release().await.expect("released");
            assert_eq!(new.users.local_addr().expect("address"), address);
            let (mut served, _) = new.users.accept().await.expect("the one that waited");
            served.write_all(b"x").await.expect("written");
            let next = Offer::new(&socket, new.descriptors().expect("copied")).expect("the path is free");
            (new, next)
        };
        let (_kept, _) = tokio::join!(takes_over, hands_over);
        assert_eq!(waiting.read_u8().await.expect("answered"), b'x');
        net::connect(address, MESSAGE_MAX).await.expect("and it goes on");
    }

    #[tokio::test]
    async fn a_successor_that_fails_changes_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("takeover.sock");
        let old = listeners(directory.path()).await;
        let offer = Offer::new(&socket, old.descriptors().expect("copied")).expect("offered");
        let fails = async {
            drop(ask(&socket).await.expect("served"));
            let mut stranger = net::connect_unix(&socket, MESSAGE_MAX).await.expect("connect");
            let mut hello = [0; HELLO_LEN];
            stranger.read_exact(&mut hello).await.expect("greeted");
            stranger.write_all(b"?").await.expect("written");
            let (predecessor, _listeners) = ask(&socket).await.expect("served");
            predecessor.release().await
        };
        let taken = async { offer.taken().await };
        let (released, taken) = tokio::join!(fails, async {
            let taken = taken.await;
            drop(taken);
        });
        let () = taken;
        assert!(released.is_err(), "it ended before it let go");
    }
}
