//! Host and path → service. Pure.

use std::net::Ipv6Addr;

use http::{HeaderMap, Uri, Version, header, uri::Authority};
use insula_catalog::{Catalog, RouteTarget};

/// Why a request has no single host that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("a Host header is missing")]
    Missing,
    #[error("there is more than one Host header")]
    Several,
    #[error("the Host header is not a host name")]
    Malformed,
}

/// The host that a request is for, in lower case, without port and final dot. An absolute target wins over the header
/// (RFC 9112 section 3.2.2).
pub(crate) fn host(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<String, HostError> {
    let mut values = headers.get_all(header::HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(HostError::Several);
    }
    if first.is_none() && version != Version::HTTP_10 {
        return Err(HostError::Missing);
    }
    if let Some(authority) = uri.authority() {
        return normal(authority.as_str());
    }
    let value = first.ok_or(HostError::Missing)?;
    normal(value.to_str().map_err(|_| HostError::Malformed)?)
}

fn normal(text: &str) -> Result<String, HostError> {
    let authority: Authority = text.trim().parse().map_err(|_| HostError::Malformed)?;
    if authority.as_str().contains('@') {
        return Err(HostError::Malformed);
    }
    // The parser takes any digits for a port.
    let port = authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':'));
    if port.is_some_and(|port| !port.is_empty() && port.parse::<u16>().is_err()) {
        return Err(HostError::Malformed);
    }
    let name = authority.host().strip_suffix('.').unwrap_or(authority.host()).to_ascii_lowercase();
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let is_address = |name: &str| {
        name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).is_some_and(|n| n.parse::<Ipv6Addr>().is_ok())
    };
    if !name.is_empty() && (is_name(&name) || is_address(&name)) { Ok(name) } else { Err(HostError::Malformed) }
}

/// The route with the longest prefix of `path`, on whole segments.
pub(crate) fn find<'a>(catalog: &'a Catalog, host: &str, path: &str) -> Option<&'a RouteTarget> {
    let paths = catalog.routes.get(host)?;
    paths.iter().filter(|(prefix, _)| covers(prefix, path)).max_by_key(|(prefix, _)| prefix.len()).map(|(_, t)| t)
}

/// Whether `prefix` covers `path`: `/a` covers `/a` and `/a/b`, not `/ab`; `/a/` does as `/a`, but for `/a` itself.
fn covers(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests;
