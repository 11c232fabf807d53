//! How long the certificates live that this node issues or, as the first node, founds the cluster with.

use std::{str::FromStr, time::Duration};

use insula_identity::Lifetimes;
use insula_types::definition::parse_duration;
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(86_400);
/// Shortest life of a node's certificate: times in certificates are whole seconds, and a renewal needs some.
const NODE_MIN: Duration = Duration::from_secs(4);
/// Longest life of a node's certificate: what a stolen disk is good for.
const NODE_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Longest life of a region's CA.
const REGION_MAX: Duration = Duration::from_secs(3653 * 86_400);
/// Longest life of a root.
const ROOT_MAX: Duration = Duration::from_secs(10_958 * 86_400);

/// Lives of certificates: whole numbers with a unit, `s`, `m`, `h` or `d`. A node's is set where it is signed, so give
/// all nodes of a region the same; `region` and `root` count when a CA or a root is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatesConfig {
    /// Of a node's certificate: from 4 s to 90 days. It is renewed at half of it.
    pub node: String,
    /// Of a region's CA: at least as long as a node's, at most 10 years.
    pub region: String,
    /// Of the cluster's root: at least as long as a region's, at most 30 years.
    pub root: String,
}

impl Default for CertificatesConfig {
    fn default() -> Self {
        Self { node: "72h".into(), region: "365d".into(), root: "3650d".into() }
    }
}

impl CertificatesConfig {
    /// The lives, checked.
    ///
    /// # Errors
    /// Text that is no span of time, or a span out of bounds, naming the key and what would be valid.
    pub fn lifetimes(&self) -> Result<Lifetimes, String> {
        let node = life("node", &self.node, NODE_MIN, NODE_MAX)?;
        let region = life("region", &self.region, node, REGION_MAX)?;
        let root = life("root", &self.root, region, ROOT_MAX)?;
        Ok(Lifetimes { root, region, node, ..Lifetimes::default() })
    }
}

/// `node=72h,region=365d,root=3650d`, in any order; what is left out has its default.
impl FromStr for CertificatesConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for part in text.split(',') {
            let expected = || format!("{part:?} is not a life: write node=72h,region=365d,root=3650d");
            let (key, value) = part.split_once('=').ok_or_else(expected)?;
            let place = match key {
                "node" => &mut config.node,
                "region" => &mut config.region,
                "root" => &mut config.root,
                _ => return Err(expected()),
            };
            value.clone_into(place);
        }
        config.lifetimes()?;
        Ok(config)
    }
}

fn life(key: &str, text: &str, low: Duration, high: Duration) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let found = match days {
        Some(days) => DAY * days,
        None => parse_duration(text).map_err(|error| format!("certificates.{key}: {error}, or 365d"))?,
    };
    if (low..=high).contains(&found) {
        return Ok(found);
    }
    let (low, high) = (told(low), told(high));
    Err(format!("certificates.{key}: found {text}, expected from {low} to {high}"))
}

fn told(span: Duration) -> String {
    match span.as_secs() {
        seconds if seconds.is_multiple_of(DAY.as_secs()) => format!("{}d", seconds / DAY.as_secs()),
        seconds => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_rules() {
        let lifetimes = CertificatesConfig::default().lifetimes().expect("valid");
        assert_eq!(lifetimes, Lifetimes::default());
        assert_eq!(lifetimes.node, DAY * 3);
        assert_eq!(lifetimes.region, DAY * 365);
    }

    #[test]
    fn lives_are_bounded_and_ordered() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<CertificatesConfig>().expect_err(text);
            assert!(error.contains(expected), "{error}");
        };
        assert!("node=4s,region=60s,root=10m".parse::<CertificatesConfig>().is_ok());
        check("node=3s", "certificates.node: found 3s, expected from 4s to 90d");
        check("node=91d", "certificates.node: found 91d");
        check("node=6s,region=5s", "certificates.region: found 5s, expected from 6s to 3653d");
        check("root=364d", "certificates.root: found 364d, expected from 365d");
        check("leaf=4s", "write node=72h");
        check("node", "write node=72h");
        check("node=soon", "certificates.node: ");
    }
}
