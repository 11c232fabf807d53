//! The network: TCP and Unix sockets, always with a deadline on connect.

use std::{io, net::SocketAddr, path::Path, time::Duration};

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
