//! What edges remember of requests that they have answered, as it is told to whoever asks by the id of one. Carried by the link to the
//! dataplane and by rpc, never replicated.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{InstanceId, NodeId, ServiceRef};

/// Shortest and longest id of a request, in bytes.
pub const REQUEST_ID_LEN: std::ops::RangeInclusive<usize> = 8..=64;

/// Names a request that came to an edge, as `X-Request-Id` says it: 8 to 64 letters, digits, hyphens, dots and underscores. Given by the
/// client, or else by the edge; clients may give one to several.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpRequestId(String);

/// A text that names no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no id of a request: expected 8 to 64 letters, digits, hyphens, dots and underscores, as in the X-Request-Id of an answer"
)]
pub struct HttpRequestIdError;

impl HttpRequestId {
    /// Whether a text is one.
    pub fn is_one(text: &[u8]) -> bool {
        let is_sign = |sign: &u8| sign.is_ascii_alphanumeric() || b"-._".contains(sign);
        REQUEST_ID_LEN.contains(&text.len()) && text.iter().all(is_sign)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HttpRequestId {
    type Error = HttpRequestIdError;

    fn try_from(text: String) -> Result<Self, HttpRequestIdError> {
        if Self::is_one(text.as_bytes()) { Ok(Self(text)) } else { Err(HttpRequestIdError) }
    }
}

impl FromStr for HttpRequestId {
    type Err = HttpRequestIdError;

    fn from_str(text: &str) -> Result<Self, HttpRequestIdError> {
        text.to_owned().try_into()
    }
}

impl From<HttpRequestId> for String {
    fn from(id: HttpRequestId) -> Self {
        id.0
    }
}

impl fmt::Display for HttpRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HttpRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What an edge remembers of the requests with an id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Remembered {
    /// Those that came last first, and not all where there are many.
    pub found: Vec<RequestRecord>,
    /// How many there are beside these.
    pub more: u64,
    /// Since when the edge remembers every request, in milliseconds since 1970 by its clock.
    pub since_ms: u64,
    /// Since when it remembers those that were refused, failed, tried more than once or slow.
    pub odd_since_ms: u64,
}

/// What became of a request. What it holds of the client's is bounded, and made of visible ASCII signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// When it came, in milliseconds since 1970 by the edge's clock.
    pub came_ms: u64,
    /// Who asked the edge, which may be a proxy.
    pub client: IpAddr,
    /// What was asked, beginnings where that is long.
    pub method: String,
    /// See above; empty where none was said.
    pub host: String,
    /// Without the query, which may hold secrets.
    pub path: String,
    /// The service that it was for; none: no route led to one.
    pub service: Option<ServiceRef>,
    /// Instances that it was sent to, in order.
    pub tries: Vec<RequestTry>,
    /// What the client was told, or was to be told, as a status of HTTP; none: it went away before there was an answer.
    pub status: Option<u16>,
    /// Why it failed, as the cause in `insula_edge_failures_total`; none: an instance gave all of the answer, or there was none.
    pub cause: Option<String>,
    /// The same in words, as the client was told.
    pub text: Option<String>,
    /// Until the head of the answer, in microseconds.
    pub took_us: u64,
}

/// A try of a request on an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestTry {
    /// The instance.
    pub instance: InstanceId,
    /// Its node.
    pub node: NodeId,
    /// Why it gave no answer, as in: it `took no connection`; none: it did, or none was waited for.
    pub failure: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn an_id_is_short_and_plain() {
        for good in ["12345678", "0af7651916cd43dd8448eb211c80319c", "f8d3-.._X", &"x".repeat(64)] {
            assert_eq!(good.parse::<HttpRequestId>().expect(good).as_str(), good);
        }
        for bad in
            ["", "1234567", &"x".repeat(65), "has a space", "\u{1b}[31mred!", "ümlaute-sind", "a/b/c/d/e", "12345678\n"]
        {
            assert_eq!(bad.parse::<HttpRequestId>(), Err(HttpRequestIdError), "{bad:?}");
        }
        // Nor does one come from another node.
        assert!(codec::decode::<HttpRequestId>(&codec::encode("\u{1b}[31mred!")).is_err());
    }
}
