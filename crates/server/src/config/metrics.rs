//! Where metrics are served.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The port of the metrics, unless configured.
pub const PORT_METRICS: u16 = 9480;

/// Where metrics are served, if at all: `"127.0.0.1:9480"` or `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MetricsListener {
    /// At this address, in plain HTTP.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

impl Default for MetricsListener {
    fn default() -> Self {
        Self::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT_METRICS))
    }
}

impl fmt::Display for MetricsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

impl FromStr for MetricsListener {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            text => text.parse().map(Self::At).map_err(|_| {
                format!("metrics: found {text:?}, expected an address with a port, like \"127.0.0.1:{PORT_METRICS}\", or \"off\"")
            }),
        }
    }
}

impl TryFrom<String> for MetricsListener {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MetricsListener> for String {
    fn from(listener: MetricsListener) -> Self {
        listener.to_string()
    }
}
