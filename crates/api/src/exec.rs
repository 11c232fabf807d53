//! A command in an instance, between its caller and the API: an HTTP/1.1 connection that became a stream of frames.
//!
//! `POST /v1/instances/{instance}/exec` with a definition of the command in JSON and `Upgrade: insula-exec/1`; a refusal is a
//! problem as everywhere, 101 means that the command runs. `POST /v1/apps/{app}/services/{service}/run` is the same for an
//! instance that is made for the command: after 101 its image may have to come, [`insula_types::ExecOutput::Started`] says that
//! the command runs, and [`insula_types::ExecOutput::Failed`] without that why it does not. Then frames go both ways ([`frame`]). Nothing is buffered beyond a
//! few frames: who does not read holds up who writes. Either side ends the session by closing the connection.

pub mod frame;

use std::time::Duration;

use bytes::BytesMut;
use http::HeaderValue;
use insula_env::clock;
use insula_types::{ExecInput, ExecOutput};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
};

use self::frame::Frame;

/// What the connection becomes. The number is that of the frames, which changes only when they become others.
pub const PROTOCOL: HeaderValue = HeaderValue::from_static("insula-exec/1");
/// Frames that wait in one direction.
pub const WAITING_MAX: usize = 2;
/// How often an idle side says that it is there.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// After how long without a byte the other side counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the other side may take to close after this one has.
const LINGER_MAX: Duration = Duration::from_secs(5);
/// How much is read at once.
const READ_LEN: usize = 64 << 10;

/// A command that runs, as its caller has it. Dropping either end of it ends the command.
#[derive(Debug)]
pub struct ExecSession {
    /// What goes to it.
    pub input: mpsc::Sender<ExecInput>,
    /// What comes from it; [`ExecOutput::Exit`] or [`ExecOutput::Failed`] is the last. The end without either: the
    /// connection was lost.
    pub output: mpsc::Receiver<ExecOutput>,
}

/// The other side of an [`ExecSession`].
#[derive(Debug)]
pub struct ExecFar {
    /// What comes from the caller.
    pub input: mpsc::Receiver<ExecInput>,
    /// What goes to the caller.
    pub output: mpsc::Sender<ExecOutput>,
}

impl ExecSession {
    /// Both sides of a session.
    #[must_use]
    pub fn new() -> (Self, ExecFar) {
        let ((input, far_input), (far_output, output)) = (mpsc::channel(WAITING_MAX), mpsc::channel(WAITING_MAX));
        (Self { input, output }, ExecFar { input: far_input, output: far_output })
    }
}

/// Carries frames over `io` until the other side closes or is silent. When the channel of those that go out closes, or
/// `last_word` gives a frame to end with, this side closes, and waits for a moment for the other to do so.
pub(crate) async fn carry<Out: Frame, In: Frame>(
    io: impl AsyncRead + AsyncWrite,
    outgoing: mpsc::Receiver<Out>,
    incoming: mpsc::Sender<In>,
    last_word: impl Future<Output = Out>,
) {
    let (reader, writer) = tokio::io::split(io);
    let mut reader = std::pin::pin!(read(reader, incoming));
    tokio::select! {
        () = &mut reader => return,
        () = write(writer, outgoing, last_word) => {}
    }
    // The system throws away what is still on its way to a side that has not read all that was sent by it.
    clock::timeout(LINGER_MAX, reader).await.ok();
}

async fn read<In: Frame>(mut from: ReadHalf<impl AsyncRead>, incoming: mpsc::Sender<In>) {
    let mut buffer = BytesMut::new();
    loop {
        loop {
            match frame::decode::<In>(&mut buffer) {
                // What nobody takes any more is thrown away: it must not keep the other direction from ending well.
                Ok(Some(frame)) => drop(incoming.send(frame).await),
                Ok(None) => break,
                // Whoever sends this does not speak our language.
                Err(_) => return,
            }
        }
        buffer.reserve(READ_LEN);
        match clock::timeout(SILENCE_MAX, from.read_buf(&mut buffer)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return,
        }
    }
}

async fn write<Out: Frame>(
    mut to: WriteHalf<impl AsyncWrite>,
    mut outgoing: mpsc::Receiver<Out>,
    last_word: impl Future<Output = Out>,
) {
    let mut last_word = std::pin::pin!(last_word);
    let mut buffer = BytesMut::new();
    let mut is_last = false;
    while !is_last {
        tokio::select! {
            next = outgoing.recv() => match next {
                Some(frame) => frame::encode(&frame, &mut buffer),
                None => break,
            },
            frame = &mut last_word => {
                frame::encode(&frame, &mut buffer);
                is_last = true;
            }
            () = clock::sleep(ALIVE_EVERY) => frame::encode_alive(&mut buffer),
        }
        if to.write_all_buf(&mut buffer).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use insula_types::ExecExit;

    use super::*;

    #[tokio::test]
    async fn who_does_not_read_holds_up_who_writes() {
        let (near, far) = tokio::io::duplex(1024);
        let (mut session, client) = ExecSession::new();
        let (server, ours) = ExecSession::new();
        let run = async {
            tokio::join!(
                carry(near, client.input, client.output, pending()),
                carry(far, server.output, server.input, pending()),
            );
        };
        let talk = async {
            let data = || ExecOutput::Stdout(vec![7; 60_000]);
            let mut sent = 0;
            while clock::timeout(Duration::from_millis(50), ours.output.send(data())).await.is_ok() {
                sent += 1;
                assert!(sent < 10, "everything is taken, and nobody reads");
            }
            for _ in 0..sent {
                assert_eq!(session.output.recv().await, Some(data()));
            }
            ours.output.send(ExecOutput::Exit(ExecExit::Code(3))).await.expect("taken");
            drop(ours);
            assert_eq!(session.output.recv().await, Some(ExecOutput::Exit(ExecExit::Code(3))));
            assert_eq!(session.output.recv().await, None);
        };
        clock::timeout(Duration::from_secs(10), async { tokio::join!(run, talk) }).await.expect("in time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_side_is_lost_and_an_idle_one_is_not() {
        let (near, far) = tokio::io::duplex(1024);
        let (session, client) = ExecSession::new();
        let (server, ours) = ExecSession::new();
        let idle = async {
            tokio::join!(
                carry(near, client.input, client.output, pending()),
                carry(far, server.output, server.input, pending()),
            );
        };
        clock::timeout(SILENCE_MAX * 10, idle).await.expect_err("it goes on");
        drop((session, ours));
        let (near, _silent) = tokio::io::duplex(1024);
        let (_session, client) = ExecSession::new();
        clock::timeout(SILENCE_MAX * 2, carry(near, client.input, client.output, pending())).await.expect("it ends");
    }
}
