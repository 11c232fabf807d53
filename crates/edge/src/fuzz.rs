//! What `fuzz/` needs of the insides: reads what clients and instances send. An error is a finding.

use bytes::BytesMut;
use http::Method;

use crate::{
    guard::Guard,
    upstream::{
        body::Next,
        head::{self, Rubbish},
    },
};

/// Streams of requests, good and bad.
pub fn request_seeds() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 31\r\n\r\nGET /hidden HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n1f;x=y\r\nGET /hidden HTTP/1.1\r\nhost: a\r\n\r\n\r\n0\r\nx-sum: 1\r\n\r\n\
         GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 0\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nx: 1\r\n content-length: 5\r\nx\n: 2\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// A reader that is less strict than it should be, as there are behind edges.
#[derive(Debug, Clone, Copy)]
struct Reader {
    /// A lone LF ends a line; else it is a part of it.
    lone_lf_ends: bool,
    /// Of two lengths the last counts; else the first.
    last_length_counts: bool,
    /// A length counts more than a coding.
    length_wins: bool,
    /// Spaces around a name are no part of it.
    trims_names: bool,
    /// Lines that begin with a space belong to the one before; else they are headers, too.
    folds: bool,
}

impl Reader {
    fn all() -> impl Iterator<Item = Self> {
        (0..32_u8).map(|bits| {
            let is_set = |bit: u8| bits & (1 << bit) != 0;
            Self {
                lone_lf_ends: is_set(0),
                last_length_counts: is_set(1),
                length_wins: is_set(2),
                trims_names: is_set(3),
                folds: is_set(4),
            }
        })
    }

    /// The next line without its end, and what is behind it.
    fn line<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let is_end = |at: usize| bytes[at] == b'\n' && (self.lone_lf_ends || (at > 0 && bytes[at - 1] == b'\r'));
        let end = (0..bytes.len()).find(|at| is_end(*at))?;
        let line = &bytes[..end];
        Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
    }

    /// Where heads end, as it sees it.
    fn ends(&self, all: &[u8]) -> Vec<usize> {
        let (mut ends, mut rest) = (Vec::new(), all);
        while let Some((behind, length)) = self.head(rest) {
            ends.push(all.len() - behind.len());
            let next = match length {
                Some(length) => behind.get(usize::try_from(length).unwrap_or(usize::MAX)..),
                None => self.chunks(behind),
            };
            let Some(next) = next else { break };
            rest = next;
        }
        ends
    }

    /// What is behind a head, and the length of its body; none when that goes in chunks.
    fn head<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], Option<u64>)> {
        let (mut line, mut rest) = self.line(bytes)?;
        while line.is_empty() {
            (line, rest) = self.line(rest)?;
        }
        let (mut length, mut is_chunked) = (None, false);
        loop {
            (line, rest) = self.line(rest)?;
            if line.is_empty() {
                break;
            }
            if self.folds && line.first().is_some_and(u8::is_ascii_whitespace) {
                continue;
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], String::from_utf8_lossy(&line[colon + 1..]));
            let name = if self.trims_names { name.trim_ascii() } else { name };
            if name.eq_ignore_ascii_case(b"content-length") && (length.is_none() || self.last_length_counts) {
                length = value.trim().trim_start_matches('+').parse().ok();
            }
            is_chunked |=
                name.eq_ignore_ascii_case(b"transfer-encoding") && value.to_ascii_lowercase().contains("chunked");
        }
        let in_chunks = is_chunked && !(self.length_wins && length.is_some());
        Some((rest, if in_chunks { None } else { Some(length.unwrap_or(0)) }))
    }

    /// What is behind a body in chunks.
    fn chunks<'a>(&self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        loop {
            let (line, rest) = self.line(bytes)?;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).unwrap_or(0);
            if size == 0 {
                bytes = rest;
                break;
            }
            bytes = self.line(rest.get(size..)?)?.1;
        }
        loop {
            let (line, rest) = self.line(bytes)?;
            bytes = rest;
            if line.is_empty() {
                return Some(bytes);
            }
        }
    }
}

/// How much of a stream of requests passes when it comes in pieces of that size.
fn passes(input: &[u8], piece: usize) -> Result<(), usize> {
    let mut guard = Guard::new();
    let mut begin = 0;
    for part in input.chunks(piece) {
        guard.check(part).map_err(|good| begin + good)?;
        begin += part.len();
    }
    Ok(())
}

/// Reads a stream of requests; tells how it ended.
///
/// # Errors
/// When it depends on the pieces in which it comes, or when readers disagree about the requests in what has passed.
pub fn requests(input: &[u8]) -> Result<String, String> {
    let whole = passes(input, input.len().max(1));
    for piece in [1, 2, 7] {
        let in_pieces = passes(input, piece);
        if in_pieces != whole {
            return Err(format!("{in_pieces:?} in pieces of {piece}, and {whole:?} as a whole"));
        }
    }
    let passed = &input[..whole.err().unwrap_or(input.len())];
    let mut seen: Option<(Reader, Vec<usize>)> = None;
    for reader in Reader::all() {
        let ends = reader.ends(passed);
        match &seen {
            Some((other, others)) if *others != ends => {
                return Err(format!("{reader:?} sees heads end at {ends:?}, {other:?} at {others:?}"));
            }
            Some(_) => {}
            None => seen = Some((reader, ends)),
        }
    }
    let heads = seen.map_or(0, |(_, ends)| ends.len());
    let end = if whole.is_ok() { "then the end" } else { "then something odd" };
    Ok(format!("{}heads {end}", heads.min(9)))
}

/// Streams of responses, good and bad.
pub fn response_seeds() -> Vec<Vec<u8>> {
    [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x\r\nx: 1\r\n\r\nhello",
        "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a\r\nhello\r\n0\r\nx: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nbytes",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Status, body and end of a response that comes in pieces of that size.
fn response(input: &[u8], piece: usize) -> Result<(Option<u16>, Vec<u8>, bool), Rubbish> {
    let (mut buffer, mut pieces) = (BytesMut::new(), input.chunks(piece));
    let mut head = loop {
        if let Some(head) = head::take(&mut buffer, &Method::GET)? {
            break head;
        }
        match pieces.next() {
            Some(piece) => buffer.extend_from_slice(piece),
            None => return Ok((None, Vec::new(), false)),
        }
    };
    let mut body = Vec::new();
    loop {
        match head.body.next(&mut buffer)? {
            Next::Data(bytes) => body.extend_from_slice(&bytes),
            Next::End => return Ok((Some(head.status.as_u16()), body, true)),
            Next::More => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Ok((Some(head.status.as_u16()), body, false)),
            },
        }
    }
}

/// Reads a response; tells what it was.
///
/// # Errors
/// When that depends on the pieces in which it comes.
pub fn responses(input: &[u8]) -> Result<String, String> {
    let whole = response(input, input.len().max(1));
    for piece in [1, 2, 7] {
        let in_pieces = response(input, piece);
        if in_pieces != whole {
            return Err(format!("{in_pieces:?} in pieces of {piece}, and {whole:?} as a whole"));
        }
    }
    Ok(match whole {
        Ok((status, _, is_whole)) => format!("{} whole {is_whole}", status.unwrap_or(0) / 100),
        Err(why) => why.to_string(),
    })
}
