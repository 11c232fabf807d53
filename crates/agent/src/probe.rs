//! Readiness checks by HTTP.

use std::{fmt::Debug, net::SocketAddr};

use async_trait::async_trait;
use insula_container::Running;
use insula_env::{clock, net};
use insula_types::{HealthSpec, ServiceSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest beginning of an answer that is looked at: a status line is far shorter.
const STATUS_LINE_LEN_MAX: usize = 1024;

/// Asks an instance whether it is ready.
#[async_trait]
pub trait Prober: Send + Sync + Debug {
    /// GETs `health.http` from `address`, within `health.timeout`.
    ///
    /// # Errors
    /// In words, unless the answer's status is from 200 to 399.
    async fn probe(&self, address: SocketAddr, health: &HealthSpec) -> Result<(), String>;
}

/// Checks over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpProber;

#[async_trait]
impl Prober for HttpProber {
    async fn probe(&self, address: SocketAddr, health: &HealthSpec) -> Result<(), String> {
        match clock::timeout(health.timeout, get_status(address, health)).await {
            Ok(Ok(200..=399)) => Ok(()),
            Ok(Ok(status)) => Err(format!("GET {} answered {status}", health.http)),
            Ok(Err(error)) => Err(format!("GET {} on {address}: {error}", health.http)),
            Err(_) => Err(format!("GET {} on {address}: no answer within {:?}", health.http, health.timeout)),
        }
    }
}

/// The address that a check of this service goes to.
pub(crate) fn address(spec: &ServiceSpec, health: &HealthSpec, running: &Running) -> Option<SocketAddr> {
    let port = health.port.as_ref().or_else(|| spec.http_port().map(|port| &port.name))?;
    running.endpoints.get(port).copied()
}

/// A request of our own making is all that is needed, and bounds what an instance can make the agent hold.
async fn get_status(address: SocketAddr, health: &HealthSpec) -> std::io::Result<u16> {
    let mut stream = net::connect(address, health.timeout).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: insula-health\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        health.http
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(STATUS_LINE_LEN_MAX);
    while !answer.contains(&b'\n') && answer.len() < STATUS_LINE_LEN_MAX {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    status(&answer)
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer is no HTTP/1 status line"))
}

/// The code of a status line (RFC 9112 section 4).
fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.split(|byte| *byte == b'\n').next()?).ok()?;
    let code = line.strip_prefix("HTTP/1.")?.get(1..)?.strip_prefix(' ')?.get(..3)?;
    code.parse().ok().filter(|code| (100..600).contains(code))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn status_lines_are_read() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nx: y"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for bad in
            [&b""[..], b"HTTP/2 200", b"HTTP/1.1 2", b"HTTP/1.1 abc", b"SSH-2.0-x\r\n", b"HTTP/1.1 999 x", b"\xff\n"]
        {
            assert_eq!(status(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn checks_a_real_socket() {
        let health = |ms| HealthSpec {
            http: "/healthz".into(),
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(ms),
            grace: Duration::from_secs(1),
            unhealthy_after: 1,
        };
        let listener = net::bind("127.0.0.1:0".parse().expect("address")).await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let serve = async {
            for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 500 No\r\n\r\n", "nonsense"] {
                let (mut stream, _) = listener.accept().await.expect("accept");
                let mut request = [0; 256];
                let len = stream.read(&mut request).await.expect("request");
                assert!(request[..len].starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"));
                stream.write_all(answer.as_bytes()).await.expect("answer");
            }
            let _silent = listener.accept().await.expect("accept");
            std::future::pending::<()>().await;
        };
        let ask = async {
            assert_eq!(HttpProber.probe(address, &health(5000)).await, Ok(()));
            assert_eq!(HttpProber.probe(address, &health(5000)).await, Err("GET /healthz answered 500".into()));
            assert!(HttpProber.probe(address, &health(5000)).await.expect_err("nonsense").contains("status line"));
            assert!(HttpProber.probe(address, &health(50)).await.expect_err("silent").contains("no answer within"));
        };
        tokio::select! { () = serve => {}, () = ask => {} }
    }
}
