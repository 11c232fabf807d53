//! Copies bytes both ways until both ends are done. Holds one bounded buffer a direction; an end in one direction is
//! passed on as such (half-close); an error ends both; so does idleness.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use insula_env::clock::sleep;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits;

/// How often idleness is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Relays between `a` and `b`.
pub(crate) async fn relay<A, B>(a: A, b: B, idle: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let bytes = AtomicU64::new(0);
    let (mut a, mut b) = (Counted { inner: a, bytes: &bytes }, Counted { inner: b, bytes: &bytes });
    let size = limits::BUFFER_BYTES;
    tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, size, size) => copied.map(|_| ()),
        error = watch(&bytes, idle) => Err(error),
    }
}

/// Completes when nothing has been read for `idle`.
async fn watch(bytes: &AtomicU64, idle: Duration) -> io::Error {
    let look = LOOK_EVERY.min(idle);
    let (mut seen, mut quiet) = (bytes.load(Ordering::Relaxed), Duration::ZERO);
    loop {
        sleep(look).await;
        let now = bytes.load(Ordering::Relaxed);
        quiet = if now == seen { quiet + look } else { Duration::ZERO };
        seen = now;
        if quiet >= idle {
            return io::Error::new(io::ErrorKind::TimedOut, "no byte has passed for too long");
        }
    }
}

/// Counts what is read.
struct Counted<'a, S> {
    inner: S,
    bytes: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.bytes.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn half_close_is_passed_on_and_idleness_ends_it() {
        let (mut left, a) = tokio::io::duplex(64);
        let (b, mut right) = tokio::io::duplex(64);
        let relayed = relay(a, b, Duration::from_secs(60));
        let talk = async {
            left.write_all(b"question").await.expect("write");
            left.shutdown().await.expect("half-close");
            let mut heard = String::new();
            right.read_to_string(&mut heard).await.expect("read to the end");
            assert_eq!(heard, "question");
            right.write_all(b"answer").await.expect("the other direction is still open");
            drop(right);
            heard.clear();
            left.read_to_string(&mut heard).await.expect("read the answer");
            assert_eq!(heard, "answer");
        };
        let (outcome, ()) = tokio::join!(relayed, talk);
        outcome.expect("a clean end");

        let (_left, a) = tokio::io::duplex(64);
        let (b, _right) = tokio::io::duplex(64);
        let error = relay(a, b, Duration::from_secs(60)).await.expect_err("idle");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
