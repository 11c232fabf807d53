//! The network: TCP and Unix sockets, always with a deadline on connect.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt as _};
pub use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connects within `limit`, without Nagle's delay.
///
/// # Errors
/// As the system says, or `TimedOut`.
#[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {address} within {limit:?}")))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// How long one address may try alone before the next one is tried beside it (RFC 8305, section 5).
pub const NEXT_AFTER: Duration = Duration::from_millis(250);

/// Tries addresses in their order, each once the one before has failed or had [`NEXT_AFTER`] for itself. The first that
/// works wins; the others are given up.
///
/// # Errors
/// Of the last one that failed; none when there is no address.
pub async fn first_of<T, E, F>(
    addresses: &[SocketAddr],
    mut attempt: impl FnMut(SocketAddr) -> F,
) -> Result<(SocketAddr, T), Option<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.iter().copied();
    let mut trying = FuturesUnordered::new();
    let mut why = None;
    loop {
        let next = waiting.next();
        if let Some(address) = next {
            let attempt = attempt(address);
            trying.push(async move { (address, attempt.await) });
        }
        let alone = if next.is_some() && waiting.len() > 0 { NEXT_AFTER } else { Duration::MAX };
        match crate::clock::timeout(alone, trying.next()).await {
            Ok(Some((address, Ok(won)))) => return Ok((address, won)),
            Ok(Some((_, Err(error)))) => why = Some(error),
            Ok(None) => return Err(why),
            Err(_) => {}
        }
    }
}

/// Listens on `address`.
///
/// # Errors
/// As the system says.
#[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Connects to a Unix socket within `limit`.
///
/// # Errors
/// As the system says, or `TimedOut`.
#[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub async fn connect_unix(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    tokio::time::timeout(limit, UnixStream::connect(path)).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {} within {limit:?}", path.display()))
    })?
}

/// Listens on a Unix socket, replacing one that a dead process left. Mode 0600: its owner only.
///
/// # Errors
/// As the system says; `AddrInUse` when a living process answers there.
#[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("a process answers on {}", path.display())));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, clock};

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// What each port does: answers or fails after so many milliseconds.
    async fn race(ports: &[(u16, u64, bool)]) -> (Result<u16, Option<u16>>, u64) {
        let addresses: Vec<_> = ports.iter().map(|(port, ..)| at(*port)).collect();
        let clock = Clock::simulated(0);
        let begun = clock.now();
        let won = first_of(&addresses, |address| async move {
            let (port, after, works) = *ports.iter().find(|(port, ..)| *port == address.port()).expect("one of them");
            clock::sleep(Duration::from_millis(after)).await;
            if works { Ok(()) } else { Err(port) }
        });
        (won.await.map(|(address, ())| address.port()), (clock.now() - begun).as_millis() as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_address_that_works_wins() {
        assert_eq!(race(&[]).await, (Err(None), 0));
        assert_eq!(race(&[(1, 200, true), (2, 0, true)]).await, (Ok(1), 200), "the nearest has time for itself");
        assert_eq!(race(&[(1, 900_000, false), (2, 10, true)]).await, (Ok(2), 260), "but does not hold up the next");
        assert_eq!(race(&[(1, 10, false), (2, 10, false), (3, 10, true)]).await, (Ok(3), 30), "failures lose no time");
        assert_eq!(race(&[(1, 400, true), (2, 900_000, true)]).await, (Ok(1), 400), "late, and still the first");
        assert_eq!(race(&[(1, 300, false), (2, 10, false)]).await, (Err(Some(1)), 300));
    }
}
