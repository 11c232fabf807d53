//! Every metric there is, with its type, its labels and what it says: the list of docs/reference/metrics.md.

/// How a metric's value moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows, and begins at 0 with its process.
    Counter,
    /// It goes up and down.
    Gauge,
}

impl Kind {
    /// In Prometheus's text format.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// A metric.
#[derive(Debug)]
pub(super) struct Family {
    pub name: &'static str,
    pub kind: Kind,
    /// Names of its labels, in the order in which values are given. Their values are bounded by what is deployed.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) static $id: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them, in the order in which they are shown.
        pub(super) static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD: Gauge "insula_build_info" ["version"] "Always 1; the label says which program runs.";
    STARTED: Gauge "insula_server_start_time_seconds" [] "When this server was started, in seconds since 1970.";

    MEMORY_CAPACITY: Gauge "insula_node_memory_capacity_bytes" [] "Memory of the node.";
    MEMORY_ALLOCATABLE: Gauge "insula_node_memory_allocatable_bytes" [] "Memory that instances may be given: all but the reserve of a tenth.";
    MEMORY_ALLOCATED: Gauge "insula_node_memory_allocated_bytes" [] "Memory that instances placed on the node have asked for.";
    MEMORY_USED: Gauge "insula_node_memory_used_bytes" [] "Memory that is in use on the machine, by whomever.";
    CPU_CAPACITY: Gauge "insula_node_cpu_capacity_cores" [] "Processors of the node.";
    CPU_ALLOCATABLE: Gauge "insula_node_cpu_allocatable_cores" [] "Processors that instances may be given: all but the reserve of a tenth.";
    CPU_ALLOCATED: Gauge "insula_node_cpu_allocated_cores" [] "Processors that instances placed on the node have asked for.";
    DISK_SIZE: Gauge "insula_node_disk_size_bytes" [] "Size of the file system of the data directory.";
    DISK_FREE: Gauge "insula_node_disk_free_bytes" [] "What is free of the file system of the data directory.";
    CLOCK_AHEAD: Gauge "insula_node_clock_ahead_seconds" [] "How far the node's clock is ahead of the region leader's; missing until a leader has told.";
    IMAGES: Gauge "insula_images" [] "Images that are whole on the node.";
    IMAGES_BYTES: Gauge "insula_images_bytes" [] "Compressed layers of these images; a layer of several counts for each.";
    VOLUMES: Gauge "insula_volumes" [] "Volumes on the node.";
    VOLUMES_BYTES: Gauge "insula_volumes_bytes" [] "What is set aside for these volumes.";

    INSTANCES: Gauge "insula_instances" ["app", "service", "phase"] "Instances of the node by phase: pending, pulling, starting, running, backoff or stopped.";
    INSTANCES_READY: Gauge "insula_instances_ready" ["app", "service"] "Instances of the node that may get requests.";
    RESTARTS: Gauge "insula_instances_restarts" ["app", "service"] "How often the instances that are on the node now were started again; less when one of them goes.";

    RAFT_TERM: Gauge "insula_raft_term" ["group"] "Term of the group, as this node knows it.";
    RAFT_LOG: Gauge "insula_raft_last_log_index" ["group"] "Last entry of the node's log, committed or not.";
    RAFT_APPLIED: Gauge "insula_raft_applied_index" ["group"] "Last committed entry that is applied on the node.";
    RAFT_VOTERS: Gauge "insula_raft_voters" ["group"] "Voters of the group.";
    RAFT_LEADS: Gauge "insula_raft_is_leader" ["group"] "1 when this node leads the group.";
    RAFT_LED: Gauge "insula_raft_has_leader" ["group"] "1 when the node has heard a leader of the group lately.";
    RAFT_SINCE: Gauge "insula_raft_leadership_age_seconds" ["group"] "For how long the node has known what it knows of leader and term.";
    RAFT_CONTACT: Gauge "insula_raft_last_contact_seconds" ["group"] "How long ago a majority has answered this leader; missing where another node leads.";
    RAFT_FAILED: Gauge "insula_raft_failed" ["group"] "1 when a storage error has stopped the group on the node.";
    REVISION: Gauge "insula_state_revision" ["group"] "Revision of the node's copy of the state.";

    NODES: Gauge "insula_nodes" ["health"] "Nodes of the region whose lease holds (up) or has ended (down); on the region's leader only.";
    DEPLOYMENTS: Gauge "insula_deployments" ["state"] "Apps by the state of their last deployment: before, first, going, baking, after, done or failed; on the region's leader only.";
    UNREADY: Gauge "insula_services_short" [] "Services of the region that have fewer ready instances than wanted; on the region's leader only.";

    API_REQUESTS: Counter "insula_api_requests_total" ["class"] "Requests to this node's API by class of the status: 1xx to 5xx.";

    DATAPLANE_UP: Gauge "insula_dataplane_up" [] "1 when the node's dataplane answers; what follows comes from it, and is missing otherwise.";
    CATALOG_REVISION: Gauge "insula_catalog_revision" [] "Revision of the region's state that the dataplane routes by.";
    EDGE_CONNECTIONS: Gauge "insula_edge_connections" [] "Connections of clients that are open at the edge.";
    EDGE_CONNECTIONS_REFUSED: Counter "insula_edge_connections_refused_total" [] "Connections that were closed at once, since their client had its share.";
    EDGE_REQUESTS: Counter "insula_edge_requests_total" [] "Requests to the edge, also those that no app is there for.";
    EDGE_SERVICE_REQUESTS: Counter "insula_edge_service_requests_total" ["app", "service", "class"] "Requests to a service by class of the status that clients got: 1xx to 5xx.";
    EDGE_FAILURES: Counter "insula_edge_failures_total" ["cause"] "Requests that the edge answered itself, and answers that broke off, by cause.";
    EDGE_RETRIES: Counter "insula_edge_retries_total" [] "Requests that were sent once more, to another instance.";
    EDGE_RETRIES_REFUSED: Counter "insula_edge_retries_refused_total" [] "Requests that were not, since the budget of their app was used up.";
    EDGE_EJECTIONS: Counter "insula_edge_ejections_total" ["app", "service"] "How often an instance of a service was put out for a while, since it did not answer well.";
    EDGE_DIALS: Counter "insula_edge_dials_total" [] "Connections to instances that were tried.";
    EDGE_DIALS_FAILED: Counter "insula_edge_dials_failed_total" [] "Connections to instances that were not made.";
    EDGE_TUNNELS: Counter "insula_edge_tunnels_total" [] "Protocol switches, as of WebSockets.";
    EDGE_FLOODS: Counter "insula_edge_floods_total" [] "Connections closed since their client took back most of what it asked for.";
    EDGE_REFUSED: Counter "insula_edge_refused_total" ["app"] "Requests to an app that were refused for the sake of other apps.";
}

/// The metric of that name.
pub(super) fn named(name: &str) -> Option<&'static Family> {
    ALL.iter().copied().find(|family| family.name == name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fmt::Write};

    use expect_test::expect_file;

    use super::*;

    fn list() -> String {
        let mut text = "# Metrics\n\nWhat a node tells Prometheus; see docs/operations/metrics.md. Names, types and labels are kept, others may be added.\n\n\
                        | name | type | labels | |\n|---|---|---|---|\n"
            .to_owned();
        for family in ALL {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, help) = (family.name, family.kind.as_str(), family.help);
            writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("into memory");
        }
        text
    }

    #[test]
    fn the_list_is_the_one_that_is_published() {
        expect_file!["../../../../docs/reference/metrics.md"].assert_eq(&list());
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len(), "each once");
        for family in ALL {
            let name = family.name;
            assert!(name.starts_with("insula_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(family.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\', '|']), "{name}");
            assert!(
                !family.labels.iter().any(|label| label.contains("instance") || label.contains("address")),
                "{name}"
            );
        }
    }
}
