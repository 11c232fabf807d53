//! SPIFFE names (<https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>): the cluster is the trust
//! domain, the path says region and node. Reading is strict: what is not exactly one of our forms is refused.

use std::{fmt, str::FromStr};

use insula_types::{ClusterId, NodeId, RegionName};

/// What every SPIFFE name begins with.
pub const TRUST_SCHEME: &str = "spiffe://";

/// A text that is not one of our SPIFFE names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not the SPIFFE name of {what}: expected {expected}")]
pub struct SpiffeError {
    what: &'static str,
    found: String,
    expected: &'static str,
}

/// A node, as its certificate names it: `spiffe://<cluster>/region/<region>/node/<node>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its region, for life.
    pub region: RegionName,
    /// Its id, bound to its key.
    pub node: NodeId,
}

/// A region's CA: `spiffe://<cluster>/region/<region>/ca`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionCaIdentity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its region.
    pub region: RegionName,
}

/// The name of a cluster's root CA: `spiffe://<cluster>/ca`.
pub fn root_uri(cluster: &ClusterId) -> String {
    format!("{TRUST_SCHEME}{cluster}/ca")
}

/// The cluster whose root CA has this name.
pub(crate) fn parse_root_uri(found: &str) -> Result<ClusterId, SpiffeError> {
    let error = || SpiffeError { what: "a root CA", found: shorten(found), expected: "spiffe://<cluster>/ca" };
    found
        .strip_prefix(TRUST_SCHEME)
        .and_then(|rest| rest.strip_suffix("/ca"))
        .and_then(|cluster| cluster.parse().ok())
        .ok_or_else(error)
}

/// Splits `spiffe://<cluster>/region/<region>/<rest>`.
fn parse_regional(found: &str) -> Option<(ClusterId, RegionName, &str)> {
    let (cluster, path) = found.strip_prefix(TRUST_SCHEME)?.split_once('/')?;
    let (region, rest) = path.strip_prefix("region/")?.split_once('/')?;
    Some((cluster.parse().ok()?, region.parse().ok()?, rest))
}

/// Keeps an error readable when a peer sent a very long name.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

impl fmt::Display for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TRUST_SCHEME}{}/region/{}/node/{}", self.cluster, self.region, self.node)
    }
}

impl FromStr for NodeIdentity {
    type Err = SpiffeError;
    fn from_str(found: &str) -> Result<Self, SpiffeError> {
        parse_regional(found)
            .and_then(|(cluster, region, rest)| {
                let node = rest.strip_prefix("node/")?.parse().ok()?;
                Some(Self { cluster, region, node })
            })
            .ok_or_else(|| SpiffeError {
                what: "a node",
                found: shorten(found),
                expected: "spiffe://<cluster>/region/<region>/node/<node>",
            })
    }
}

impl fmt::Display for RegionCaIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TRUST_SCHEME}{}/region/{}/ca", self.cluster, self.region)
    }
}

impl FromStr for RegionCaIdentity {
    type Err = SpiffeError;
    fn from_str(found: &str) -> Result<Self, SpiffeError> {
        parse_regional(found)
            .filter(|(_, _, rest)| *rest == "ca")
            .map(|(cluster, region, _)| Self { cluster, region })
            .ok_or_else(|| SpiffeError {
                what: "a region CA",
                found: shorten(found),
                expected: "spiffe://<cluster>/region/<region>/ca",
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(cluster: u64, region: &str, node: u64) -> NodeIdentity {
        NodeIdentity {
            cluster: ClusterId::new(cluster),
            region: region.parse().expect("region"),
            node: NodeId::new(node),
        }
    }

    proptest! {
        #[test]
        fn names_survive_text(cluster: u64, node: u64, region in "[a-z][a-z0-9]{0,20}") {
            let identity = identity(cluster, &region, node);
            prop_assert_eq!(identity.to_string().parse(), Ok(identity.clone()));
            let ca = RegionCaIdentity { cluster: identity.cluster.clone(), region: identity.region };
            prop_assert_eq!(ca.to_string().parse(), Ok(ca));
            prop_assert_eq!(parse_root_uri(&root_uri(&identity.cluster)), Ok(identity.cluster));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(text: String) {
            prop_assert!(text.parse::<NodeIdentity>().is_err());
            prop_assert!(text.parse::<RegionCaIdentity>().is_err());
            prop_assert!(parse_root_uri(&text).is_err());
        }
    }

    #[test]
    fn only_the_exact_form_is_taken() {
        let good = identity(1, "fra", 2).to_string();
        for bad in [
            good.to_uppercase(),
            format!("{good}/"),
            format!("{good}?x"),
            format!(" {good}"),
            good.replace("spiffe", "https"),
            good.replace("/region/", "//region/"),
            good.replace("/node/", "/node/../node/"),
            good.replace("fra", "fra/x"),
            good.replace("fra", ""),
        ] {
            assert!(bad.parse::<NodeIdentity>().is_err(), "{bad}");
        }
    }
}
