//! Host and path → service. Pure.

use std::{borrow::Cow, net::Ipv6Addr};

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
    #[error("the Host header is not the host of the request target")]
    Differs,
}

/// The host that a request is for, in lower case, without port and final dot. An absolute target says the same as the
/// header: it would win (RFC 9112 section 3.2.2), and not everybody knows that.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap, version: Version) -> Result<Cow<'a, str>, HostError> {
    let mut values = headers.get_all(header::HOST).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(HostError::Several);
    }
    if first.is_none() && !matches!(version, Version::HTTP_10 | Version::HTTP_2) {
        return Err(HostError::Missing);
    }
    let header = first.map(|value| normal(value.to_str().map_err(|_| HostError::Malformed)?)).transpose()?;
    match (uri.authority().map(|authority| normal(authority.as_str())).transpose()?, header) {
        (Some(target), Some(header)) if target != header => Err(HostError::Differs),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(HostError::Missing),
    }
}

fn normal(text: &str) -> Result<Cow<'_, str>, HostError> {
    // As nearly all are written.
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if !text.is_empty() && !text.ends_with('.') && text.bytes().all(is_plain) {
        return Ok(Cow::Borrowed(text));
    }
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
    if !name.is_empty() && (is_name(&name) || is_address(&name)) {
        Ok(Cow::Owned(name))
    } else {
        Err(HostError::Malformed)
    }
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
