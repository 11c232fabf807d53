//! Requests that the node's edge refused for the sake of other apps: from the dataplane to the agent, among its statistics.

use std::{collections::BTreeMap, sync::Arc};

use futures::FutureExt;
use insula_agent::pressure::Refused;
use insula_catalog::link::Link;
use insula_types::AppName;

const PREFIX: &str = "insula_edge_refused_total{app=\"";
const SUFFIX: &str = "\"}";

/// As the dataplane tells it.
pub(crate) fn named(refused: BTreeMap<AppName, u64>) -> impl Iterator<Item = (String, u64)> {
    refused.into_iter().map(|(app, count)| (format!("{PREFIX}{app}{SUFFIX}"), count))
}

/// As the agent asks for it. Nothing while the dataplane does not answer, or is of an older version.
pub(crate) fn asked_of(dataplane: &Link) -> Refused {
    let dataplane = dataplane.clone();
    Arc::new(move || {
        let dataplane = dataplane.clone();
        async move { dataplane.stats().await.map(read).unwrap_or_default() }.boxed()
    })
}

fn read(stats: BTreeMap<String, u64>) -> BTreeMap<AppName, u64> {
    let app = |name: &str| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok();
    stats.into_iter().filter_map(|(name, count)| Some((app(&name)?, count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_tells_the_other_reads() {
        let refused: BTreeMap<AppName, u64> = [("hog".parse().expect("a name"), 7)].into();
        let mut stats: BTreeMap<String, u64> = named(refused.clone()).collect();
        assert_eq!(stats["insula_edge_refused_total{app=\"hog\"}"], 7);
        stats.insert("insula_edge_requests_total".to_owned(), 9);
        stats.insert(format!("{PREFIX}not a name{SUFFIX}"), 9);
        assert_eq!(read(stats), refused);
    }
}
