//! Which nodes an instance can go to: what it reserves, the runtime class and the labels that it asks for.

use insula_types::{
    ByteSize, Capacity, CpuMillis, LabelName, LabelValue, PlacementSpec, RuntimeName, ServiceRef, labels_text,
};

use crate::{
    PlaceError, Tightest, Wanted, WhyNot,
    index::{Index, Room, need},
};

/// Values of a label that are named where another was asked for.
const VALUES_NAMED_MAX: usize = 5;

/// What an instance asks of its node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    pub need: Capacity,
    pub runtime: Option<&'a RuntimeName>,
    pub placement: &'a PlacementSpec,
}

impl<'a> Filter<'a> {
    pub fn of(wanted: &Wanted<'a>) -> Self {
        Self { need: need(&wanted.resources), runtime: wanted.runtime, placement: wanted.placement }
    }

    /// Whether a node is one that was asked for, has it room or not.
    pub fn asks_for(&self, room: &Room<'_>) -> bool {
        room.has(self.runtime) && self.placement.require.iter().all(|(name, value)| room.is_labelled(name, value))
    }

    /// Whether a node takes one more.
    pub fn admits(&self, room: &Room<'_>) -> bool {
        room.is_open && room.fits(self.need) && self.asks_for(room)
    }

    /// Whether it asks for more than room.
    pub fn is_picky(&self) -> bool {
        self.runtime.is_some() || !self.placement.require.is_empty()
    }

    /// How many of the preferred labels a node lacks.
    pub fn missed(&self, room: &Room<'_>) -> usize {
        self.placement.prefer.iter().filter(|(name, value)| !room.is_labelled(name, value)).count()
    }

    /// What was asked of the node and holds, in words.
    pub fn reasons(&self, room: &Room<'_>) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(class) = self.runtime {
            reasons.push(format!("the node has the runtime {class}"));
        }
        let PlacementSpec { require, prefer, .. } = self.placement;
        if !require.is_empty() {
            reasons.push(format!("the node has what is required: {}", labels_text(require)));
        }
        if !prefer.is_empty() {
            let (has, lacks): (Vec<_>, Vec<_>) = prefer.iter().partition(|(name, value)| room.is_labelled(name, value));
            let said = |labels: Vec<(&LabelName, &LabelValue)>| {
                if labels.is_empty() { "nothing".to_owned() } else { labels_text(labels) }
            };
            reasons.push(format!("of what is preferred the node has {} and lacks {}", said(has), said(lacks)));
        }
        reasons
    }

    /// Why a node that an instance is bound to does not take it.
    pub fn why_not(&self, room: &Room<'_>) -> Option<WhyNot> {
        if let Some(class) = self.runtime.filter(|_| !room.has(self.runtime)) {
            return Some(WhyNot::NoRuntime(class.clone()));
        }
        if !self.asks_for(room) {
            return Some(WhyNot::NoLabel(self.lacking(room)));
        }
        let (cpu, memory) = self.short(room);
        match (cpu, memory) {
            (0, 0) => None,
            (0, _) => Some(WhyNot::Full(Tightest::Memory(ByteSize(memory)))),
            _ => Some(WhyNot::Full(Tightest::Cpu(CpuMillis(cpu)))),
        }
    }

    /// Says why nothing fits: the first filter that leaves no node, else the resource that lacks on most nodes, by what it
    /// lacks on the nearest of them.
    pub fn refuse(&self, index: &Index<'_>, service: &ServiceRef) -> PlaceError {
        let service = service.clone();
        let open: Vec<&Room<'_>> = index.rooms.iter().filter(|room| room.is_open).collect();
        if open.is_empty() {
            return PlaceError::NoNode { service, nodes: index.nodes, down: index.down, cordoned: index.cordoned };
        }
        let with_runtime: Vec<&Room<'_>> = open.iter().copied().filter(|room| room.has(self.runtime)).collect();
        if let Some(class) = self.runtime.filter(|_| with_runtime.is_empty()) {
            return PlaceError::NoRuntime { service, runtime: class.clone(), nodes: open.len() };
        }
        let rooms: Vec<&Room<'_>> = with_runtime.iter().copied().filter(|room| self.asks_for(room)).collect();
        if rooms.is_empty() {
            return self.refuse_by_label(service, &with_runtime);
        }
        let short: Vec<_> = rooms.iter().map(|room| self.short(room)).collect();
        let cpu: Vec<u32> = short.iter().map(|(cpu, _)| *cpu).filter(|short| *short > 0).collect();
        let memory: Vec<u64> = short.iter().map(|(_, memory)| *memory).filter(|short| *short > 0).collect();
        let tightest = if cpu.len() > memory.len() {
            Tightest::Cpu(CpuMillis(cpu.into_iter().min().unwrap_or(0)))
        } else {
            Tightest::Memory(ByteSize(memory.into_iter().min().unwrap_or(0)))
        };
        PlaceError::NoCapacity { service, nodes: rooms.len(), asked: self.asked(), tightest }
    }

    /// What lacks of each resource.
    fn short(&self, room: &Room<'_>) -> (u32, u64) {
        let (need, free) = (self.need, room.free);
        (need.cpu.0.saturating_sub(free.cpu.0), need.memory.0.saturating_sub(free.memory.0))
    }

    /// What a node has to have, for the end of "no room on any of 3 nodes".
    fn asked(&self) -> String {
        let runtime = self.runtime.map(|class| format!("the runtime {class}"));
        let labels = Some(labels_text(&self.placement.require)).filter(|text| !text.is_empty());
        let asked: Vec<String> = runtime.into_iter().chain(labels).collect();
        if asked.is_empty() { String::new() } else { format!(" with {}", asked.join(" and ")) }
    }

    /// The required labels that a node lacks.
    fn lacking(&self, room: &Room<'_>) -> String {
        labels_text(self.placement.require.iter().filter(|(name, value)| !room.is_labelled(name, value)))
    }

    /// Nothing has all of the required labels: names the one that no node has, or the node that lacks the fewest.
    fn refuse_by_label(&self, service: ServiceRef, rooms: &[&Room<'_>]) -> PlaceError {
        let require = &self.placement.require;
        let is_nowhere =
            |(name, value): &(&LabelName, &LabelValue)| !rooms.iter().any(|room| room.is_labelled(name, value));
        if let Some((name, value)) = require.iter().find(is_nowhere) {
            let mut values: Vec<&str> = rooms.iter().filter_map(|room| room.label(name)).collect();
            values.sort_unstable();
            values.dedup();
            let more = if values.len() > VALUES_NAMED_MAX { ", …" } else { "" };
            values.truncate(VALUES_NAMED_MAX);
            let others = match values.len() {
                0 => format!("no node has a label {name}"),
                _ => format!("{name} is {}{more}", values.join(", ")),
            };
            let label = labels_text([(name, value)]);
            return PlaceError::NoLabel { service, label, nodes: rooms.len(), others };
        }
        let lacks = |room: &&&Room<'_>| require.iter().filter(|(name, value)| !room.is_labelled(name, value)).count();
        let nearest = rooms.iter().min_by_key(lacks);
        let said = |room: &&Room<'_>| format!("{} comes nearest, and lacks {}", room.name, self.lacking(room));
        let nearest = nearest.map(said).unwrap_or_default();
        PlaceError::NoLabels { service, labels: labels_text(require), nodes: rooms.len(), nearest }
    }
}
