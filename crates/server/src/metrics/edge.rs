//! What the dataplane tells its server by name, beside the plain counters of the edge.

use std::collections::BTreeMap;

use insula_edge::ServiceCounts;
use insula_types::ServiceRef;

use super::{
    families::{EDGE_EJECTIONS, EDGE_FAILURES, EDGE_SERVICE_REQUESTS, Family},
    page::{Page, written},
};

/// How the edge names its counters of failures.
const FAILED: (&str, &str) = ("insula_edge_failed_", "_total");

/// What was counted of services, as the dataplane tells it.
pub(crate) fn named(services: BTreeMap<ServiceRef, ServiceCounts>) -> impl Iterator<Item = (String, u64)> {
    services.into_iter().flat_map(|(service, counts)| {
        let (app, service) = (service.app.to_string(), service.service.to_string());
        let sample =
            |family: &Family, values: &[&str]| format!("{}{{{}}}", family.name, written(family.labels, values));
        let classes = counts.classes.into_iter().filter(|(_, count)| *count > 0);
        let requests = classes.map(|(class, count)| (sample(&EDGE_SERVICE_REQUESTS, &[&app, &service, class]), count));
        let ejections = (counts.ejections > 0).then(|| (sample(&EDGE_EJECTIONS, &[&app, &service]), counts.ejections));
        requests.chain(ejections).collect::<Vec<_>>()
    })
}

/// Requests of services that the dataplane has told of: all, and those that clients got a status from 500 on for.
pub(crate) fn requests(stats: &BTreeMap<String, u64>) -> BTreeMap<ServiceRef, (u64, u64)> {
    let label = |text: &str, name: &str| -> Option<String> {
        Some(text.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.to_owned())
    };
    let read = |name: &str| {
        let labels = name.strip_prefix(EDGE_SERVICE_REQUESTS.name)?.strip_prefix('{')?;
        let (app, service) = (label(labels, "app")?.parse().ok()?, label(labels, "service")?.parse().ok()?);
        Some((ServiceRef::new(app, service), label(labels, "class")? == "5xx"))
    };
    let mut found = BTreeMap::<ServiceRef, (u64, u64)>::new();
    for ((service, is_failed), count) in stats.iter().filter_map(|(name, count)| Some((read(name)?, *count))) {
        let sum = found.entry(service).or_default();
        sum.0 += count;
        sum.1 += if is_failed { count } else { 0 };
    }
    found
}

/// What the dataplane has told, as this process shows it.
pub(super) fn read(stats: &BTreeMap<String, u64>, page: &mut Page) {
    for (name, value) in stats {
        let value = *value as f64;
        match name.strip_prefix(FAILED.0).and_then(|cause| cause.strip_suffix(FAILED.1)) {
            Some(cause) => page.add(&EDGE_FAILURES, &[cause], value),
            None => page.add_named(name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dataplane_names_is_shown() {
        let service = ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"));
        let classes = [("1xx", 0), ("2xx", 5), ("3xx", 0), ("4xx", 0), ("5xx", 2)];
        let mut stats: BTreeMap<String, u64> =
            named(BTreeMap::from([(service, ServiceCounts { classes, ejections: 1 })])).collect();
        let shop = ServiceRef::new("shop".parse().expect("a name"), "web".parse().expect("a name"));
        assert_eq!(requests(&stats), BTreeMap::from([(shop, (7, 2))]));
        // Every plain counter that the edge has is known here.
        let plain = insula_edge::Metrics::default().read();
        let count = plain.len();
        stats.extend(plain);
        let mut page = Page::default();
        read(&stats, &mut page);
        let text = page.text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples.len(), count + 3, "{text}");
        for sample in [
            "insula_edge_service_requests_total{app=\"shop\",service=\"web\",class=\"2xx\"} 5",
            "insula_edge_service_requests_total{app=\"shop\",service=\"web\",class=\"5xx\"} 2",
            "insula_edge_ejections_total{app=\"shop\",service=\"web\"} 1",
            "insula_edge_failures_total{cause=\"connect\"} 0",
        ] {
            assert!(samples.contains(&sample), "{sample}: {text}");
        }
    }
}
