//! Reads the protocol's name out of a TLS ClientHello that stays in the socket's buffer.

use std::{io, time::Duration};

use insula_env::clock::timeout;
use rustix::net::{RecvFlags, recv};
use rustls::server::Acceptor;
use tokio::{io::Interest, net::TcpStream};

use crate::Protocol;

/// Longest ClientHello in bytes; ours have about 300, with post-quantum keys 1,500.
const HELLO_LEN_MAX: usize = 8 * 1024;
/// Limit until the whole ClientHello has come. Far peers need two round trips, slow-loris attackers get no more.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(3);

/// Why a connection is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeekError {
    #[error("peek at the connection")]
    Io(#[from] io::Error),
    #[error("no whole TLS ClientHello within {HELLO_WAIT_MAX:?}")]
    Slow,
    #[error("the connection ended before its TLS ClientHello was whole")]
    Ended,
    #[error("it does not begin with a TLS ClientHello")]
    Garbage,
    #[error("its TLS ClientHello is longer than {HELLO_LEN_MAX} bytes")]
    TooLong,
    #[error("it offers none of our protocols")]
    Unknown,
}

/// What the first bytes of a connection tell.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Partial,
    Protocol(Protocol),
    Unknown,
    Garbage,
}

/// Waits for the ClientHello and gives the first of our protocols that it offers. Takes nothing from the stream.
pub(crate) async fn peek(stream: &TcpStream) -> Result<Protocol, PeekError> {
    timeout(HELLO_WAIT_MAX, look(stream)).await.unwrap_or(Err(PeekError::Slow))
}

async fn look(stream: &TcpStream) -> Result<Protocol, PeekError> {
    let mut seen_len = 0;
    let mut buffer = vec![0; HELLO_LEN_MAX];
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let peeked = stream.try_io(Interest::READABLE, || {
            let (len, _) = recv(stream, &mut buffer[..], RecvFlags::PEEK)?;
            // What was seen before does not count as readable, so that the next wait is for more.
            if len <= seen_len && len != 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(len) }
        });
        match peeked {
            Ok(0) => return Err(PeekError::Ended),
            Ok(len) => seen_len = len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return Err(PeekError::Ended);
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        match inspect(&buffer[..seen_len]) {
            Seen::Protocol(protocol) => return Ok(protocol),
            Seen::Unknown => return Err(PeekError::Unknown),
            Seen::Garbage => return Err(PeekError::Garbage),
            Seen::Partial if seen_len >= HELLO_LEN_MAX => return Err(PeekError::TooLong),
            Seen::Partial => {}
        }
    }
}

/// Looks at the first bytes of a connection with rustls's own parser.
fn inspect(mut bytes: &[u8]) -> Seen {
    // Refused here so that other protocols do not wait for a length that they never meant.
    if bytes.first().is_some_and(|kind| *kind != 0x16) {
        return Seen::Garbage;
    }
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        match acceptor.read_tls(&mut bytes) {
            Ok(0) | Err(_) => return Seen::Garbage,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let protocol = hello.alpn().into_iter().flatten().find_map(Protocol::from_alpn);
                return protocol.map_or(Seen::Unknown, Seen::Protocol);
            }
            Ok(None) => {}
            Err(_) => return Seen::Garbage,
        }
    }
    Seen::Partial
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::port::tests::client_hello;

    #[test]
    fn a_hello_is_read_once_it_is_whole() {
        for protocol in Protocol::ALL {
            let hello = client_hello(protocol.alpn());
            for cut in 0..hello.len() {
                assert_eq!(inspect(&hello[..cut]), Seen::Partial, "{cut} bytes");
            }
            assert_eq!(inspect(&hello), Seen::Protocol(protocol));
        }
        assert_eq!(inspect(&client_hello(b"h2")), Seen::Unknown);
        assert_eq!(inspect(b"GET / HTTP/1.1\r\n"), Seen::Garbage);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, at: prop::sample::Index, to: u8) {
            inspect(&bytes);
            inspect(&[&[0x16, 3, 1], bytes.as_slice()].concat());
            let mut hello = client_hello(b"insula-rpc/1");
            let at = at.index(hello.len());
            hello[at] = to;
            inspect(&hello);
        }
    }
}
