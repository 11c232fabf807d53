//! What clients send, looked at before anything reads it as HTTP/1.1: whatever two readers could take for different
//! requests is refused here, since who reads it after us is not ours (request smuggling).
//!
//! Always: the bytes that pass hold heads whose lines end with CR LF and are not folded, with at most one length or the
//! one coding `chunked` and never both, and chunks whose sizes are plain. Follows heads and bodies by itself, so that
//! this does not hang on how they are read later. Left to others: everything else about a request.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use insula_env::clock::sleep;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::config::HEAD_BYTES_MAX;

/// Digits of a length, and hexadecimal digits of the size of a chunk: more than any body has.
const LENGTH_DIGITS_MAX: usize = 18;
const CHUNK_DIGITS_MAX: usize = 15;
/// Bytes of a chunk's line (extensions are taken and mean nothing), and of a trailer.
const CHUNK_LINE_MAX: usize = 4 << 10;
const TRAILER_BYTES_MAX: usize = 16 << 10;
/// A head and a body of no more than so many bytes together cost the kernel less as one piece than as two.
const JOINED_BYTES_MAX: usize = 2 << 10;
/// No head holds it, so that it is refused wherever it stands.
const POISON: u8 = 0;

/// Where in the stream of requests we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a head.
    Head,
    /// In a body, with so many bytes to come.
    Body(u64),
    /// In the line before a chunk.
    ChunkSize,
    /// In a chunk, with so many bytes to come.
    Chunk(u64),
    /// In the empty line behind a chunk.
    ChunkEnd,
    /// Behind the last chunk.
    Trailer,
}

/// How the body that follows a head is framed, as far as the head has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Something that could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request can be read in more than one way")]
pub(crate) struct Ambiguous;

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    place: Place,
    framing: Framing,
    /// The line that is being read, when it came in parts.
    line: Vec<u8>,
    /// Bytes of the head or trailer so far.
    bytes: usize,
    /// Lines of the head so far.
    lines: usize,
}

impl Guard {
    pub(crate) fn new() -> Self {
        Self { place: Place::Head, framing: Framing::None, line: Vec::new(), bytes: 0, lines: 0 }
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// Up to which of them they may be read.
    pub(crate) fn check(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.place {
                Place::Body(left) | Place::Chunk(left) => {
                    let passed = left.min(rest.len() as u64);
                    self.pass(left - passed);
                    passed as usize
                }
                _ => {
                    let end = rest.iter().position(|byte| *byte == b'\n');
                    let part = end.map_or(rest, |end| &rest[..=end]);
                    let is_good = if end.is_some() { self.end_line(part) } else { self.keep(part) };
                    // What came of the line before is incomplete without its end: it does no harm.
                    is_good.map_err(|Ambiguous| at + part.len() - 1)?;
                    part.len()
                }
            };
        }
        Ok(())
    }

    /// So many bytes of a body are still to come.
    fn pass(&mut self, left: u64) {
        self.place = match (self.place, left) {
            (Place::Body(_), 0) => Place::Head,
            (Place::Body(_), left) => Place::Body(left),
            (_, 0) => Place::ChunkEnd,
            (_, left) => Place::Chunk(left),
        };
    }

    fn bytes_max(&self) -> usize {
        match self.place {
            // Whoever reads heads has a limit, too, and a better answer to it.
            Place::Head => HEAD_BYTES_MAX * 2,
            Place::Trailer => TRAILER_BYTES_MAX,
            _ => CHUNK_LINE_MAX,
        }
    }

    /// Keeps a part of a line.
    fn keep(&mut self, part: &[u8]) -> Result<(), Ambiguous> {
        if self.bytes + self.line.len() + part.len() > self.bytes_max() {
            return Err(Ambiguous);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    /// Looks at a line, of which `part` is the end.
    fn end_line(&mut self, part: &[u8]) -> Result<(), Ambiguous> {
        if self.line.is_empty() {
            return self.line(part);
        }
        self.keep(part)?;
        let mut line = std::mem::take(&mut self.line);
        let outcome = self.line(&line);
        line.clear();
        self.line = line;
        outcome
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let line = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r')).ok_or(Ambiguous)?;
        self.bytes += line.len() + 2;
        if self.bytes > self.bytes_max() {
            return Err(Ambiguous);
        }
        match self.place {
            Place::Head => self.head_line(line),
            Place::ChunkSize => self.chunk_size(line),
            Place::ChunkEnd if line.is_empty() => self.turn_to(Place::ChunkSize),
            Place::Trailer if line.is_empty() => self.turn_to(Place::Head),
            Place::Trailer => header(line).map(|_| ()),
            Place::ChunkEnd | Place::Body(_) | Place::Chunk(_) => Err(Ambiguous),
        }
    }

    fn turn_to(&mut self, place: Place) -> Result<(), Ambiguous> {
        (self.place, self.bytes) = (place, 0);
        Ok(())
    }

    fn head_line(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        // Empty lines before a request are to be passed over (RFC 9112 section 2.2).
        if line.is_empty() && self.lines == 0 {
            return Ok(());
        }
        if line.is_empty() {
            let place = match self.framing {
                Framing::None | Framing::Length(0) => Place::Head,
                Framing::Length(length) => Place::Body(length),
                Framing::Chunked => Place::ChunkSize,
            };
            (self.framing, self.lines) = (Framing::None, 0);
            return self.turn_to(place);
        }
        self.lines += 1;
        if self.lines == 1 {
            return Ok(());
        }
        let (name, value) = header(line)?;
        let framing = match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => Framing::Length(length(value)?),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked") => {
                Framing::Chunked
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return Err(Ambiguous),
            _ => return Ok(()),
        };
        // Neither twice nor both, whether or not they agree.
        if self.framing != Framing::None {
            return Err(Ambiguous);
        }
        self.framing = framing;
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let is_plain =
            !digits.is_empty() && digits.len() <= CHUNK_DIGITS_MAX && digits.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(digits).ok().filter(|_| is_plain);
        match size.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            Some(0) => self.turn_to(Place::Trailer),
            Some(size) => self.turn_to(Place::Chunk(size)),
            None => Err(Ambiguous),
        }
    }
}

/// A header's name, and its value without the space around it.
fn header(line: &[u8]) -> Result<(&[u8], &[u8]), Ambiguous> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Ambiguous)?;
    let (name, value) = line.split_at(colon);
    // Covers folded lines, which begin with a space, and a space before the colon.
    if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_graphic()) {
        return Err(Ambiguous);
    }
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

fn length(value: &[u8]) -> Result<u64, Ambiguous> {
    let is_plain = !value.is_empty() && value.len() <= LENGTH_DIGITS_MAX && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_plain);
    text.and_then(|text| text.parse().ok()).ok_or(Ambiguous)
}

/// A client's connection of which, where it speaks HTTP/1.1, only requests are read that can be read in one way. In place of the
/// rest there is a byte that is refused wherever it stands, and then the end.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    /// What has been read of it already.
    begun: Bytes,
    guard: Option<Guard>,
    switched: Arc<AtomicBool>,
    is_over: bool,
    /// How long the client may take nothing of what waits for it, and what measures that while it is so.
    idle_max: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// Guards `inner` until `switched` says that the protocol is another one. `begun` has been read of it already.
    pub(crate) fn new(inner: S, begun: Bytes, switched: Arc<AtomicBool>, idle_max: Duration) -> Self {
        Self { inner, begun, guard: Some(Guard::new()), switched, is_over: false, idle_max, stuck: None }
    }

    /// One that speaks HTTP/2, where nothing can be read in two ways: only whether the client takes something is looked at.
    pub(crate) fn framed(inner: S, begun: Bytes, idle_max: Duration) -> Self {
        Self { guard: None, ..Self::new(inner, begun, Arc::default(), idle_max) }
    }

    /// What came of a write, or an error when nothing could be written for too long.
    fn unless_stuck<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let idle_max = self.idle_max;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(idle_max)));
        stuck.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if this.begun.is_empty() {
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        } else {
            buf.put_slice(&this.begun.split_to(this.begun.len().min(buf.remaining())));
        }
        if this.switched.load(Ordering::Relaxed) {
            this.guard = None;
        }
        let Some(guard) = &mut this.guard else { return Poll::Ready(Ok(())) };
        if let Err(good) = guard.check(&buf.filled()[before..]) {
            this.is_over = true;
            buf.set_filled(before + good + 1);
            if let Some(last) = buf.filled_mut().last_mut() {
                *last = POISON;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.unless_stuck(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut joined = [0; JOINED_BYTES_MAX];
        let written = match join(bufs, &mut joined) {
            Some(joined) => Pin::new(&mut self.inner).poll_write(cx, joined),
            None => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
        };
        self.unless_stuck(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// All of them one behind the other, where that fits.
fn join<'a>(bufs: &[io::IoSlice<'_>], into: &'a mut [u8; JOINED_BYTES_MAX]) -> Option<&'a [u8]> {
    let mut len = 0;
    for buf in bufs {
        into.get_mut(len..len + buf.len())?.copy_from_slice(buf);
        len += buf.len();
    }
    into.get(..len)
}

#[cfg(test)]
mod tests;
