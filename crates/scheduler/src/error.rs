//! Why an instance has no node.

use std::fmt;

use insula_types::{ByteSize, CpuMillis, RuntimeName, ServiceRef};

/// The resource that lacks on most nodes, and by how much on the node that comes nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tightest {
    /// CPU time, in thousandths of a CPU.
    Cpu(CpuMillis),
    /// Memory, in bytes.
    Memory(ByteSize),
}

impl fmt::Display for Tightest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(short) => write!(f, "cpu is {short} short"),
            // Rounded up: whoever frees as much as is said shall have enough.
            Self::Memory(short) => write!(f, "memory is {} short", ByteSize::mib(short.0.div_ceil(1 << 20))),
        }
    }
}

/// Why a node does not take an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// It is down, or no member any more.
    Down,
    /// It takes no new instances.
    Cordoned,
    /// It lacks this.
    Full(Tightest),
    /// It does not have this runtime class.
    NoRuntime(RuntimeName),
    /// It lacks these labels, which are required.
    NoLabel(String),
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("that node is down: bring it back"),
            Self::Cordoned => f.write_str("that node takes no new instances: uncordon it"),
            Self::NoRuntime(class) => {
                write!(f, "that node has no runtime {class}: {REMEDY}")
            }
            Self::NoLabel(labels) => write!(f, "that node has not {labels}: {LABEL_REMEDY}"),
            Self::Full(tightest) => {
                write!(f, "{tightest} there: lower the resources of the service, or move others away")
            }
        }
    }
}

/// What helps where a runtime class lacks.
const REMEDY: &str = "set it up in runtime.classes of a node's configuration, or name another runtime";

/// What helps where a label lacks.
const LABEL_REMEDY: &str = "set it in labels of a node's configuration, or require another";

/// Why an instance has no node. A later round may find one: nothing here is for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// No node takes new instances.
    #[error(
        "place an instance of {service}: none of {nodes} nodes takes new ones ({down} down, {cordoned} cordoned): \
         bring one back, uncordon one, or add a node"
    )]
    NoNode {
        /// What was to be placed.
        service: ServiceRef,
        /// Nodes of the region.
        nodes: usize,
        /// Of these, how many are down.
        down: usize,
        /// Of those that are up, how many are cordoned.
        cordoned: usize,
    },
    /// Nodes take new instances, but none has the room.
    #[error(
        "place an instance of {service}: no room on any of {nodes} nodes{asked}, {tightest} on the nearest: \
         lower its resources or its scale, or add a node"
    )]
    NoCapacity {
        /// What was to be placed.
        service: ServiceRef,
        /// Nodes that take new instances and have what it asks for.
        nodes: usize,
        /// What it asks for, as the end of a phrase; empty: nothing.
        asked: String,
        /// What lacks.
        tightest: Tightest,
    },
    /// Nodes take new instances, but none has the runtime class.
    #[error(
        "place an instance of {service}: no node has the runtime {runtime}, of {nodes} that take new ones: {REMEDY}"
    )]
    NoRuntime {
        /// What was to be placed.
        service: ServiceRef,
        /// What lacks.
        runtime: RuntimeName,
        /// Nodes that take new instances.
        nodes: usize,
    },
    /// Nodes take new instances, but none has one of the labels that it requires.
    #[error(
        "place an instance of {service}: no node has the label {label}, of {nodes} that take new ones ({others}): {LABEL_REMEDY}"
    )]
    NoLabel {
        /// What was to be placed.
        service: ServiceRef,
        /// What lacks.
        label: String,
        /// Nodes that take new instances.
        nodes: usize,
        /// Which values there are.
        others: String,
    },
    /// Nodes have each of the labels that it requires, but none has all.
    #[error(
        "place an instance of {service}: no node has all of {labels}, of {nodes} that take new ones; {nearest}: \
         {LABEL_REMEDY}"
    )]
    NoLabels {
        /// What was to be placed.
        service: ServiceRef,
        /// What is required.
        labels: String,
        /// Nodes that take new instances.
        nodes: usize,
        /// The node that lacks the fewest, and what it lacks.
        nearest: String,
    },
    /// It can go to one node alone, and that one does not take it.
    #[error("place an instance of {service}: {to}, and {why}")]
    Bound {
        /// What was to be placed.
        service: ServiceRef,
        /// Why there is no other.
        to: String,
        /// Why that node does not take it.
        why: WhyNot,
    },
}
