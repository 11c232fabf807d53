//! Commands inside containers, each looked after by a shim of its own (`--exec` in [`protocol`]). It goes when this side does.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::Pin,
    process::Stdio,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt;
use insula_env::clock;
use insula_types::{ExecSpec, InstanceId, WindowSize};
use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{
        AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Interest, ReadBuf,
        unix::AsyncFd,
    },
    net::{UnixStream, unix::pipe},
    process::{Child, Command},
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
};
use tracing::warn;

use super::NodeRuntime;
use crate::{
    Error, Exec, ExecHandle, ExecOrder, ExecStdin, ExecStdout, Exit, Observed, ObservedState, cgroup,
    record::Home,
    shim::protocol::{self, EXEC_LEN_MAX, Reply, Request, VERSION},
};

/// Commands in instances of this node at a time. Each takes a shim and some descriptors.
pub(super) const EXECS_MAX: usize = 64;
/// How long a command may take to begin.
const START_MAX: Duration = Duration::from_secs(20);
/// Between HUP and KILL for a command that nobody waits for any more.
const HANG_UP: Duration = Duration::from_secs(2);
/// How long its shim may take to end after that.
const END_MAX: Duration = Duration::from_secs(10);
/// Longest line from a shim in bytes.
const REPLY_LEN_MAX: u64 = 16 << 10;
/// Every terminal of ours shows what xterm shows; every terminal description that images have knows it.
const TERMINAL: (&str, &str) = ("TERM", "xterm");

impl NodeRuntime {
    pub(super) async fn run_command(&self, instance: InstanceId, spec: &ExecSpec) -> Result<Exec, Error> {
        let failed = |why: String| Error::Exec { instance, why };
        let state = |why| Error::State { instance, why };
        spec.check().map_err(|error| failed(error.to_string()))?;
        let home = self.home(instance);
        let cgroup = self.cgroup_to_enter(instance).await?;
        let permit = Arc::clone(&self.0.execs)
            .try_acquire_owned()
            .map_err(|_| state("cannot be entered now: 64 commands run in instances of this node already"))?;
        let own = cgroup::make_own(&cgroup, || self.0.exec_number.fetch_add(1, Ordering::Relaxed))
            .map_err(Error::file("make a cgroup in that of", home.path()))?;
        let shim = clock::timeout(START_MAX, self.start_exec(&home, spec, &own)).await;
        match shim.unwrap_or_else(|_| Err(format!("it did not begin within {START_MAX:?}"))) {
            Ok(shim) => shim.serve(self, instance, own.own, spec, permit).map_err(|error| failed(error.to_string())),
            Err(why) => {
                cgroup::end_own(&own.own).await.map_err(Error::file("remove the cgroup", own.own))?;
                Err(failed(why))
            }
        }
    }

    /// The cgroup of a container that runs.
    async fn cgroup_to_enter(&self, instance: InstanceId) -> Result<String, Error> {
        let state = |why| Error::State { instance, why };
        // One that is being started or removed is neither here nor there.
        let _lock = self.try_lock(instance).ok_or_else(|| state("is being started or removed"))?;
        let (record, observed) = self.observe(instance).await?.ok_or_else(|| state("is not on this node"))?;
        if !record.is_container() {
            return Err(state("is a plain process: only containers can be entered"));
        }
        match (observed, record.cgroup) {
            (Observed { state: ObservedState::Running(_), .. }, Some(cgroup)) => Ok(cgroup),
            _ => Err(state("does not run")),
        }
    }

    async fn start_exec(&self, home: &Home, spec: &ExecSpec, own: &cgroup::Own) -> Result<Shim, String> {
        let exec = protocol::Exec {
            version: VERSION,
            command: spec.command.clone(),
            env: spec.terminal.map(|_| (TERMINAL.0.to_owned(), TERMINAL.1.to_owned())).into_iter().collect(),
            terminal: spec.terminal.map(|size| (size.rows, size.columns)),
            has_input: spec.has_input,
            enter_cgroups: own.enter.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            own_cgroup: own.own.to_string_lossy().into_owned(),
            hang_up_ms: HANG_UP.as_millis() as u64,
        };
        let mut line = serde_json::to_vec(&exec).map_err(|error| error.to_string())?;
        line.push(b'\n');
        if line.len() > EXEC_LEN_MAX {
            return Err("the command is too long".to_owned());
        }
        let (mut stream, theirs) = UnixStream::pair().map_err(|error| format!("make a socket: {error}"))?;
        let theirs: OwnedFd =
            theirs.into_std().and_then(blocking).map_err(|error| format!("set up a socket: {error}"))?.into();
        let child = Command::new(&self.0.shim)
            .arg("--exec")
            .arg(home.path())
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("start {}: {error}", self.0.shim.display()))?;
        let lost = |error: io::Error| format!("speak with its shim: {error}");
        stream.write_all(&line).await.map_err(lost)?;
        let (reply, descriptors) = first_reply(&stream).await.map_err(lost)?;
        match reply {
            Reply { running: Some(_), .. } => Ok(Shim { stream, child, descriptors }),
            Reply { error: Some(error), .. } => Err(error),
            _ => Err("its shim ended without a word".to_owned()),
        }
    }
}

fn blocking(stream: std::os::unix::net::UnixStream) -> io::Result<std::os::unix::net::UnixStream> {
    stream.set_nonblocking(false).map(|()| stream)
}

/// A line, and the descriptors that come with it.
async fn first_reply(stream: &UnixStream) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let (mut line, mut descriptors) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let (bytes, mut came) = stream.async_io(Interest::READABLE, || receive(stream)).await?;
        descriptors.append(&mut came);
        line.extend_from_slice(&bytes);
        if bytes.is_empty() || line.len() as u64 > REPLY_LEN_MAX {
            return Ok((Reply::default(), Vec::new()));
        }
    }
    Ok((serde_json::from_slice(&line)?, descriptors))
}

fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let came = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let came = came.collect();
    Ok((bytes[..received.bytes].to_vec(), came))
}

/// A shim whose command runs.
struct Shim {
    stream: UnixStream,
    child: Child,
    /// The terminal; or output, errors and, when there is one, input.
    descriptors: Vec<OwnedFd>,
}

impl Shim {
    /// Gives the command to the caller, and looks after its shim.
    fn serve(
        self,
        runtime: &NodeRuntime,
        instance: InstanceId,
        own: PathBuf,
        spec: &ExecSpec,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<Exec> {
        let missing = || io::Error::other("its shim gave too few descriptors");
        let mut descriptors = self.descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(missing);
        let mut terminal = None;
        let (stdin, stdout, stderr): (Option<ExecStdin>, ExecStdout, Option<ExecStdout>) = if spec.terminal.is_some() {
            let shared = Terminal::open(next()?)?;
            terminal = Some(shared.clone());
            (Some(Box::new(shared.clone())), Box::new(shared), None)
        } else {
            let stdout = Box::new(pipe::Receiver::from_owned_fd(next()?)?);
            let stderr = Box::new(pipe::Receiver::from_owned_fd(next()?)?);
            let stdin = spec.has_input.then(|| next().and_then(pipe::Sender::from_owned_fd)).transpose()?;
            (stdin.map(|stdin| Box::new(stdin) as ExecStdin), stdout, Some(stderr))
        };
        let (handle, orders) = ExecHandle::new();
        let (tell, told) = oneshot::channel();
        let work = LookAfter { instance, stream: self.stream, child: self.child, own, terminal, _permit: permit };
        runtime.0.env.tasks.spawn("look after a command", work.run(orders, tell));
        let exit = told.map(|end| end.unwrap_or_else(|_| Exit::Unseen("this node's agent is stopping".to_owned())));
        Ok(Exec { stdin, stdout, stderr, exit: exit.boxed(), handle })
    }
}

/// Brings orders to a shim, and its word on the end to whoever waits.
struct LookAfter {
    instance: InstanceId,
    stream: UnixStream,
    child: Child,
    own: PathBuf,
    terminal: Option<Terminal>,
    _permit: OwnedSemaphorePermit,
}

impl LookAfter {
    async fn run(mut self, orders: mpsc::Receiver<ExecOrder>, tell: oneshot::Sender<Exit>) {
        let exit = self.hear_end(orders).await;
        // Keeps a command that still runs from waiting for more; its shim hangs up.
        self.terminal = None;
        drop(self.stream);
        if clock::timeout(HANG_UP + END_MAX, self.child.wait()).await.is_err() {
            self.child.start_kill().ok();
            self.child.wait().await.ok();
        }
        // Nothing is left to do here unless the shim was killed.
        if let Err(error) = cgroup::end_own(&self.own).await {
            warn!(instance = %self.instance, %error, "what a command left cannot be ended");
        }
        // Nobody may be waiting any more.
        tell.send(exit).ok();
    }

    async fn hear_end(&mut self, mut orders: mpsc::Receiver<ExecOrder>) -> Exit {
        let (read, mut write) = self.stream.split();
        let mut lines = BufReader::new(read.take(REPLY_LEN_MAX));
        let mut line = Vec::new();
        loop {
            tokio::select! {
                read = lines.read_until(b'\n', &mut line) => {
                    let reply = read.ok().and_then(|_| serde_json::from_slice::<Reply>(&line).ok());
                    return match reply.and_then(|reply| reply.exit) {
                        Some(exit) => crate::Ended::from(exit).exit,
                        None => Exit::Unseen("its shim was killed".to_owned()),
                    };
                }
                order = orders.recv() => match order {
                    Some(ExecOrder::Resize(size)) => {
                        if let Some(terminal) = &self.terminal {
                            terminal.resize(size).ok();
                        }
                    }
                    Some(ExecOrder::Signal(signal)) => {
                        let mut line = serde_json::to_vec(&Request::Signal { signal: signal.get() }).unwrap_or_default();
                        line.push(b'\n');
                        // A shim that is gone is noticed above.
                        write.write_all(&line).await.ok();
                    }
                    None => return Exit::Unseen("nobody waited for its end".to_owned()),
                },
            }
        }
    }
}

/// The other side of a command's terminal. It ends when nobody has the terminal open any more.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn open(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        // SAFETY: it is owned, and so open and the same for as long as this lives.
        Ok(Self(Arc::new(unsafe { AsyncFd::register(descriptor) }?)))
    }

    fn resize(&self, size: WindowSize) -> io::Result<()> {
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let read = guard.try_io(|terminal| Ok(rustix::io::read(terminal, buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // The kernel's word for the end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|terminal| Ok(rustix::io::write(terminal, bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
