//! Bodies as instances write them: lengths, chunks, or everything until the end. Pure.

use bytes::{Buf, Bytes, BytesMut};

use super::head::Rubbish;

/// Bytes of the line before a chunk, and of a trailer line.
const LINE_MAX: usize = 4 << 10;
/// Bytes of all trailers. They are not passed on.
const TRAILERS_MAX: usize = 16 << 10;
const CHUNK_DIGITS_MAX: usize = 15;

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// So many bytes.
    Length(u64),
    /// Chunks, and where in them we are.
    Chunked(Place),
    /// All that comes.
    UntilClosed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Size,
    /// So many bytes of a chunk are to come.
    Data(u64),
    DataEnd,
    /// Behind the last chunk, after so many bytes of trailers.
    Trailers(usize),
    Over,
}

/// What is next of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// These bytes.
    Data(Bytes),
    /// Nothing before more is read.
    More,
    /// Nothing at all.
    End,
}

impl Decoder {
    pub(crate) fn chunked() -> Self {
        Self::Chunked(Place::Size)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Place::Over))
    }

    /// How many bytes are to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Chunked(Place::Over) => Some(0),
            _ => None,
        }
    }

    /// Takes what is next off the buffer.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Next, Rubbish> {
        loop {
            match self {
                Self::Length(0) | Self::Chunked(Place::Over) => return Ok(Next::End),
                Self::UntilClosed if buffer.is_empty() => return Ok(Next::More),
                Self::UntilClosed => return Ok(Next::Data(buffer.split().freeze())),
                Self::Length(left) => return Ok(data(buffer, left)),
                Self::Chunked(place) => match place {
                    Place::Data(left) => {
                        let next = data(buffer, left);
                        if *left == 0 {
                            *place = Place::DataEnd;
                        }
                        return Ok(next);
                    }
                    Place::Over => {}
                    Place::Size | Place::DataEnd | Place::Trailers(_) => {
                        let Some(line) = line(buffer)? else { return Ok(Next::More) };
                        *place = place.after(&line)?;
                    }
                },
            }
        }
    }
}

impl Place {
    /// Where we are after a line.
    fn after(self, line: &[u8]) -> Result<Self, Rubbish> {
        match self {
            Self::Size => {
                let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                let is_plain = size.len() <= CHUNK_DIGITS_MAX && size.iter().all(u8::is_ascii_hexdigit);
                let size = std::str::from_utf8(size).ok().filter(|_| is_plain);
                match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
                    Some(0) => Ok(Self::Trailers(0)),
                    Some(size) => Ok(Self::Data(size)),
                    None => Err(Rubbish::Chunk),
                }
            }
            Self::DataEnd if line.is_empty() => Ok(Self::Size),
            Self::Trailers(_) if line.is_empty() => Ok(Self::Over),
            Self::Trailers(bytes) if bytes + line.len() <= TRAILERS_MAX => Ok(Self::Trailers(bytes + line.len() + 2)),
            _ => Err(Rubbish::Chunk),
        }
    }
}

/// As much as there is, of so many bytes that are to come.
fn data(buffer: &mut BytesMut, left: &mut u64) -> Next {
    let len = (*left).min(buffer.len() as u64);
    if len == 0 {
        return Next::More;
    }
    *left -= len;
    Next::Data(buffer.split_to(len as usize).freeze())
}

/// A line without its end; none while it is not whole.
fn line(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Rubbish> {
    match buffer.iter().position(|byte| *byte == b'\n') {
        Some(end) if end <= LINE_MAX => {
            let mut line = buffer.split_to(end);
            buffer.advance(1);
            if line.last() == Some(&b'\r') {
                line.truncate(end - 1);
            }
            Ok(Some(line))
        }
        None if buffer.len() <= LINE_MAX => Ok(None),
        _ => Err(Rubbish::Chunk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything of a body that comes in pieces of such a size, and what is left in the buffer.
    fn all(mut decoder: Decoder, text: &str, piece: usize) -> Result<(String, String), Rubbish> {
        let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
        let mut pieces = text.as_bytes().chunks(piece);
        loop {
            match decoder.next(&mut buffer)? {
                Next::Data(bytes) => seen.extend_from_slice(&bytes),
                Next::End => break,
                Next::More => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => break,
                },
            }
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&seen), text(&buffer)))
    }

    #[test]
    fn pieces_make_no_difference() {
        let chunks = "5\r\nhello\r\n6;x=\"y\"\r\n world\r\n0\r\nx-sum: 1\r\n\r\n";
        for piece in 1..=chunks.len() {
            assert_eq!(all(Decoder::chunked(), chunks, piece), Ok(("hello world".to_owned(), String::new())));
            assert_eq!(all(Decoder::Length(3), "abc", piece), Ok(("abc".to_owned(), String::new())));
            assert_eq!(all(Decoder::UntilClosed, "abc", piece), Ok(("abc".to_owned(), String::new())));
        }
        let (seen, left) = all(Decoder::Length(3), "abcHTTP/1.1", 100).expect("good");
        assert_eq!((seen.as_str(), left.as_str()), ("abc", "HTTP/1.1"));
    }

    #[test]
    fn bad_chunks_are_refused() {
        for bad in
            ["zz\r\nabc\r\n", "-1\r\n", "+1\r\na\r\n", "1 2\r\n", "10000000000000000\r\n", "1\r\nab\r\n", "\r\n\r\n"]
        {
            assert_eq!(all(Decoder::chunked(), bad, 100), Err(Rubbish::Chunk), "{bad:?}");
        }
        assert_eq!(all(Decoder::chunked(), &"1".repeat(LINE_MAX + 2), 100), Err(Rubbish::Chunk));
        let trailers = format!("0\r\n{}", "x: 1\r\n".repeat(TRAILERS_MAX));
        assert_eq!(all(Decoder::chunked(), &trailers, 100), Err(Rubbish::Chunk));
    }
}
