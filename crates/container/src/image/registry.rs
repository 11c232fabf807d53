//! The client that speaks with a registry.

use std::time::Duration;

use oci_client::client::{Client, ClientConfig, ClientProtocol};

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest silence of a registry.
const READ_MAX: Duration = Duration::from_secs(30);

/// Why there can be no client. Images that other nodes have can be fetched all the same.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("this node has no certificates of authorities to check it by: apt-get install ca-certificates")]
pub(super) struct NoAuthorities;

/// Speaks plain HTTP only with `insecure` registries, and with those on loopback.
///
/// # Errors
/// [`NoAuthorities`], for every registry: the client's library cannot be without them.
pub(super) fn client(registry: &str, insecure: &[String]) -> Result<Client, NoAuthorities> {
    // The library panics when there are none.
    if rustls_native_certs::load_native_certs().certs.is_empty() {
        return Err(NoAuthorities);
    }
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let is_loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_insecure = is_loopback || insecure.iter().any(|listed| listed == registry);
    Ok(Client::new(ClientConfig {
        protocol: if is_insecure { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT_MAX),
        read_timeout: Some(READ_MAX),
        user_agent: concat!("insula/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    }))
}
