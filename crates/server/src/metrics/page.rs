//! Samples, and how they are written: Prometheus's text format, version 0.0.4.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::{collections::BTreeMap, fmt::Write};

use super::families::{ALL, Family, named};

/// Content type of what [`Page::text`] gives.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is known at one moment: by metric, its samples by their labels.
#[derive(Debug, Default)]
pub(super) struct Page(BTreeMap<&'static str, BTreeMap<String, f64>>);

impl Page {
    /// Adds a sample. Values of labels come in the order of the metric's labels; given twice, they are added up.
    pub(super) fn add(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        assert_eq!(family.labels.len(), labels.len(), "labels of {}", family.name);
        *self.0.entry(family.name).or_default().entry(written(family.labels, labels)).or_default() += value;
    }

    /// Adds what another process has named itself, as `name` or `name{labels}`; what this one does not know of is left out.
    pub(super) fn add_named(&mut self, sample: &str, value: f64) {
        let (name, labels) = match sample.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_default()),
            None => (sample, ""),
        };
        let Some(family) = named(name) else { return };
        let keys = labels.split(',').filter_map(|label| label.split_once('=')).map(|(key, _)| key);
        if keys.eq(family.labels.iter().copied()) {
            self.0.entry(family.name).or_default().insert(labels.to_owned(), value);
        }
    }

    /// In Prometheus's text format.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for family in ALL {
            let Some(samples) = self.0.get(family.name) else { continue };
            let Family { name, kind, help, .. } = family;
            // Writing into memory does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
            for (labels, value) in samples {
                let _ = match labels.as_str() {
                    "" => writeln!(text, "{name} {value}"),
                    labels => writeln!(text, "{name}{{{labels}}} {value}"),
                };
            }
        }
        text
    }
}

/// Labels as they are written, without braces.
pub(super) fn written(names: &[&str], values: &[&str]) -> String {
    let label = |(name, value): (&&str, &&str)| {
        let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        format!("{name}=\"{value}\"")
    };
    names.iter().zip(values).map(label).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::metrics::families;

    #[test]
    fn samples_are_written_in_the_order_of_the_list() {
        let mut page = Page::default();
        page.add(&families::EDGE_REQUESTS, &[], 7.0);
        page.add(&families::RAFT_TERM, &["region"], 3.0);
        page.add(&families::RAFT_TERM, &["global"], 2.0);
        page.add(&families::INSTANCES, &["shop", "web", "running"], 1.0);
        page.add(&families::INSTANCES, &["shop", "web", "running"], 1.0);
        page.add(&families::BUILD, &["1.0 \"\\\n"], 1.0);
        page.add(&families::CPU_CAPACITY, &[], 1.5);
        page.add(&families::MEMORY_CAPACITY, &[], (24_604_904_u64 << 10) as f64);
        page.add_named("insula_edge_retries_total", 4.0);
        page.add_named("insula_edge_refused_total{app=\"hog\"}", 5.0);
        page.add_named("insula_edge_refused_total{node=\"n1\"}", 5.0);
        page.add_named("insula_edge_refused_total", 5.0);
        page.add_named("insula_of_a_later_version", 6.0);
        expect![[r##"
            # HELP insula_build_info Always 1; the label says which program runs.
            # TYPE insula_build_info gauge
            insula_build_info{version="1.0 \"\\\n"} 1
            # HELP insula_node_memory_capacity_bytes Memory of the node.
            # TYPE insula_node_memory_capacity_bytes gauge
            insula_node_memory_capacity_bytes 25195421696
            # HELP insula_node_cpu_capacity_cores Processors of the node.
            # TYPE insula_node_cpu_capacity_cores gauge
            insula_node_cpu_capacity_cores 1.5
            # HELP insula_instances Instances of the node by phase: pending, pulling, starting, running, backoff or stopped.
            # TYPE insula_instances gauge
            insula_instances{app="shop",service="web",phase="running"} 2
            # HELP insula_raft_term Term of the group, as this node knows it.
            # TYPE insula_raft_term gauge
            insula_raft_term{group="global"} 2
            insula_raft_term{group="region"} 3
            # HELP insula_edge_requests_total Requests to the edge, also those that no app is there for.
            # TYPE insula_edge_requests_total counter
            insula_edge_requests_total 7
            # HELP insula_edge_retries_total Requests that were sent once more, to another instance.
            # TYPE insula_edge_retries_total counter
            insula_edge_retries_total 4
            # HELP insula_edge_refused_total Requests to an app that were refused for the sake of other apps.
            # TYPE insula_edge_refused_total counter
            insula_edge_refused_total{app="hog"} 5
        "##]]
        .assert_eq(&page.text());
    }
}
