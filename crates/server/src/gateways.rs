//! Gateways: by which of its nodes other regions reach a region. Each region's leader tells the world of its own; every node
//! knows those of the others, apart from the members of its region.

use std::{collections::BTreeSet, time::Duration};

use insula_env::{Env, beat, clock};
use insula_raft::Group;
use insula_rpc::{AddressBook, Peers};
use insula_state::{
    Domain, GlobalCommand, GlobalState, RegionState, Store,
    global::{GATEWAYS_MAX, Gateway, Phase, Region},
};
use insula_types::{Level, Node, NodeId, RegionName, Scope};
use tracing::{debug, info};

use crate::latency::LatencyMap;
use crate::members::Members;

/// Time between two looks at what the world is told.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at which gateways are nearest.
const ORDER_EVERY: Duration = Duration::from_secs(10);
/// How long telling it may take; it is tried again.
const TELL_LIMIT: Duration = Duration::from_secs(5);
/// From this level on there are several regions.
const WORLDS: Level = Level(6);

/// The gateways of a region: nodes that everybody may reach, first those that vote in the first group of `voters`, then those
/// that do in the second, then the oldest. One that is down stays: it will be back, or be removed.
pub(crate) fn of_region(state: &RegionState, voters: &[BTreeSet<NodeId>; 2]) -> Vec<Gateway> {
    let rank = |node: &Node| voters.iter().position(|voters| voters.contains(&node.id)).unwrap_or(voters.len());
    let mut nodes: Vec<&Node> = state.nodes.values().collect();
    nodes.sort_by_key(|node| (rank(node), node.joined_ms, node.id));
    let gateway = |node: &Node| Gateway { node: node.id, addresses: state.addresses_of(node).within(Scope::World) };
    nodes.into_iter().map(gateway).filter(|gateway| !gateway.addresses.is_empty()).take(GATEWAYS_MAX).collect()
}

/// The gateways of all other regions, those of the oldest region first.
pub(crate) fn of_others(state: &GlobalState, own: &RegionName) -> Vec<Gateway> {
    let mut others: Vec<_> = state.regions.values().filter(|region| region.name != *own).collect();
    others.sort_by_key(|region| (region.created_ms, &region.name));
    others.into_iter().flat_map(|region| region.gateways.iter().cloned()).collect()
}

/// The region that was there first.
fn oldest(state: &GlobalState) -> Option<&Region> {
    state.regions.values().min_by_key(|region| (region.created_ms, &region.name))
}

/// What the world does not know yet of a region's gateways.
fn untold(region: &RegionState, global: &GlobalState, voters: &[BTreeSet<NodeId>; 2]) -> Option<GlobalCommand> {
    let told = global.regions.get(&region.meta.as_ref()?.region)?;
    let (gateways, nodes) = (of_region(region, voters), region.nodes.iter().count() as u32);
    let is_told = told.gateways == gateways && told.nodes == Some(nodes) && told.phase != Phase::Joining;
    let command = GlobalCommand::SetGateways { region: told.name.clone(), gateways, nodes };
    (!is_told && global.level() >= WORLDS).then_some(command)
}

/// Tells the world of this region's gateways, while this node leads the region.
pub(crate) fn tell(
    env: &Env,
    (region, global): (Store<RegionState>, Store<GlobalState>),
    (region_group, global_group): (Group, Group),
) {
    let rng = env.rng.fork();
    env.tasks.supervise("gateways", beat::QUICK, move |beat| {
        let (region, global, rng) = (region.clone(), global.clone(), rng.clone());
        let groups = [global_group.clone(), region_group.clone()];
        async move {
            loop {
                let is_leader = region.leadership().borrow().is_me;
                let voters = || groups.each_ref().map(Group::voters);
                let news = region.read(|region| global.read(|global| untold(region, global, &voters())));
                if let Some(news) = news.filter(|_| is_leader)
                    && let Err(error) = beat.idle(global.propose(&news, TELL_LIMIT)).await
                {
                    debug!(%error, "the world was not told of the region's gateways, trying again");
                }
                beat.idle(clock::sleep(rng.jitter(LOOK_EVERY))).await;
            }
        }
    });
}

/// Puts the gateways of other regions into the address book; `first` as long as the state names none. Of those that are believed
/// the nearest come first.
pub(crate) fn note(
    global: &GlobalState,
    own: &RegionName,
    first: &[Gateway],
    (book, map): (&AddressBook, &LatencyMap),
) -> Vec<NodeId> {
    let stated = of_others(global, own);
    // All voters of the global group are in the oldest region. Gateways of others can be anything that their region says.
    let (mut known, speakers) = match stated.is_empty() {
        true => (first.to_vec(), first.len()),
        false => {
            (stated, oldest(global).filter(|region| region.name != *own).map_or(0, |region| region.gateways.len()))
        }
    };
    map.nearest_first(&mut known[..speakers], |gateway| gateway.node);
    book.set_gateways(known.into_iter().map(|gateway| (gateway.node, gateway.addresses)).collect(), speakers)
}

/// The gateways to keep on the disk, for a start without a global state: those whose word counts. None where there are none: of the
/// oldest region itself, and as long as the state says nothing.
fn to_keep(global: &GlobalState, own: &RegionName) -> Option<Vec<Gateway>> {
    let oldest = oldest(global).filter(|region| region.name != *own)?;
    Some(oldest.gateways.clone()).filter(|gateways| !gateways.is_empty())
}

/// Follows them.
pub(crate) fn follow(
    env: &Env,
    global: Store<GlobalState>,
    (own, first): (RegionName, Vec<Gateway>),
    (book, map, peers, members): (AddressBook, LatencyMap, Vec<Peers>, Members),
) {
    let rng = env.rng.fork();
    env.tasks.supervise("gateways of others", beat::DISK, move |beat| {
        let (global, own, first) = (global.clone(), own.clone(), first.clone());
        let (book, map, peers, rng, members) = (book.clone(), map.clone(), peers.clone(), rng.clone(), members.clone());
        async move {
            let mut changed = global.replica().changed();
            loop {
                for node in global.read(|global| note(global, &own, &first, (&book, &map))) {
                    info!(%node, "a gateway of another region is reached elsewhere, or is none any more");
                    peers.iter().for_each(|peers| peers.forget(node));
                }
                if let Some(gateways) = global.read(|global| to_keep(global, &own)) {
                    members.keep_gateways(gateways);
                }
                let news = clock::timeout(rng.jitter(ORDER_EVERY), changed.changed());
                if let Ok(Err(_)) = beat.idle(news).await {
                    return;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use insula_state::{
        global::{GlobalKey, GlobalObject},
        region::{RegionKey, RegionMeta, RegionObject},
    };
    use insula_types::{Addresses, Agreed, ClusterId, Incarnation, NodeHealth, Revision};

    use super::*;

    fn name(text: &str) -> RegionName {
        text.parse().expect("a name")
    }

    /// Region fra with so many nodes; those in `near` have no address for everybody.
    fn region(nodes: u64, near: &[u64]) -> RegionState {
        let mut state = RegionState::default();
        let meta = RegionMeta { cluster: ClusterId::new(1), region: name("fra"), incarnation: Incarnation(1) };
        state.absorb(Revision(1), RegionKey::Meta, Some(RegionObject::Meta(meta)));
        for id in 1..=nodes {
            let address = ([192, 0, 2, id as u8], 7443).into();
            let node = Node {
                id: NodeId::new(id),
                name: format!("n{id}").parse().expect("a name"),
                region: name("fra"),
                datacenter: "fra1".parse().expect("a name"),
                address,
                capacity: Default::default(),
                version: "0.1.0".into(),
                health: NodeHealth::Up,
                is_cordoned: false,
                is_draining: false,
                joined_ms: id,
            };
            state.absorb(Revision(1), RegionKey::Node(node.id), Some(RegionObject::Node(node)));
            let scope = if near.contains(&id) { "region=" } else { "" };
            let list = vec![format!("{scope}{address}").parse().expect("an address")];
            let addresses = Addresses::new(1, list).expect("good ones");
            state.absorb(Revision(1), RegionKey::Addresses(NodeId::new(id)), Some(RegionObject::Addresses(addresses)));
        }
        state
    }

    fn voters(global: &[u64], region: &[u64]) -> [BTreeSet<NodeId>; 2] {
        [global, region].map(|ids| ids.iter().copied().map(NodeId::new).collect())
    }

    fn ids(gateways: &[Gateway]) -> Vec<u64> {
        gateways.iter().map(|gateway| gateway.node.get()).collect()
    }

    #[test]
    fn gateways_are_those_that_vote_first_and_have_an_address_for_everybody() {
        let found = |nodes, near: &[u64], voters: &_| ids(&of_region(&region(nodes, near), voters));
        assert_eq!(found(3, &[], &voters(&[], &[])), [1, 2, 3]);
        assert_eq!(found(4, &[], &voters(&[4], &[3, 4])), [4, 3, 1, 2]);
        assert_eq!(found(4, &[4], &voters(&[4], &[3, 4])), [3, 1, 2]);
        assert_eq!(found(12, &[], &voters(&[12], &[])), [12, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn the_world_is_told_what_it_does_not_know() {
        let (state, none) = (region(2, &[]), voters(&[], &[]));
        let mut world = GlobalState::default();
        let mut told = Region::new(name("fra"), 1, None);
        let put = |world: &mut GlobalState, region: &Region| {
            world.absorb(
                Revision(1),
                GlobalKey::Region(region.name.clone()),
                Some(GlobalObject::Region(region.clone())),
            );
        };
        put(&mut world, &told);
        assert_eq!(untold(&state, &world, &none), None, "nobody knows the command yet");
        let agreed = Agreed { level: WORLDS, version: "1".into() };
        world.absorb(Revision(1), GlobalKey::Level, Some(GlobalObject::Level(agreed)));
        let Some(GlobalCommand::SetGateways { gateways, nodes: 2, .. }) = untold(&state, &world, &none) else {
            panic!("nothing to tell");
        };
        told.gateways = gateways;
        told.nodes = Some(2);
        put(&mut world, &told);
        assert_eq!(untold(&state, &world, &none), None, "it is known");
        assert!(untold(&state, &world, &voters(&[2], &[])).is_some(), "another one comes first");
        assert!(untold(&region(3, &[]), &world, &none).is_some(), "another node");
        told.phase = Phase::Joining;
        put(&mut world, &told);
        assert!(untold(&state, &world, &none).is_some(), "a region that joins says that it serves");
    }

    #[test]
    fn what_is_kept_are_the_gateways_of_the_oldest_region_alone() {
        let gateway = |id: u64| Gateway { node: NodeId::new(id), addresses: vec![([192, 0, 2, 1], 7443).into()] };
        let mut world = GlobalState::default();
        assert_eq!(to_keep(&world, &name("nrt")), None, "the state says nothing");
        for (region, created_ms, gateways) in [("fra", 3, vec![]), ("nrt", 5, vec![4]), ("was", 7, vec![1, 2])] {
            let gateways = gateways.into_iter().map(gateway).collect();
            let region = Region { gateways, ..Region::new(name(region), created_ms, None) };
            world.absorb(Revision(1), GlobalKey::Region(region.name.clone()), Some(GlobalObject::Region(region)));
        }
        assert_eq!(to_keep(&world, &name("nrt")), None, "what was known stays");
        let fra = Region { gateways: vec![gateway(3)], ..Region::new(name("fra"), 3, None) };
        world.absorb(Revision(2), GlobalKey::Region(fra.name.clone()), Some(GlobalObject::Region(fra)));
        assert_eq!(to_keep(&world, &name("nrt")), Some(vec![gateway(3)]));
        assert_eq!(to_keep(&world, &name("fra")), None, "its own");
    }

    #[test]
    fn other_regions_are_reached_by_what_the_state_says_or_by_what_came_with_the_token() {
        let (book, map, own) = (AddressBook::default(), LatencyMap::default(), name("nrt"));
        let gateway =
            |id: u64| Gateway { node: NodeId::new(id), addresses: vec![([192, 0, 2, id as u8], 7443).into()] };
        let mut world = GlobalState::default();
        let known = |world: &GlobalState| {
            note(world, &own, &[gateway(9)], (&book, &map));
            book.speakers().into_iter().map(NodeId::get).collect::<Vec<_>>()
        };
        assert_eq!(known(&world), [9], "as long as the state says nothing");
        for (region, created_ms, gateways) in [("was", 7, vec![1, 2]), ("fra", 3, vec![3]), ("nrt", 5, vec![4])] {
            let gateways = gateways.into_iter().map(gateway).collect();
            let region = Region { gateways, ..Region::new(name(region), created_ms, None) };
            world.absorb(Revision(1), GlobalKey::Region(region.name.clone()), Some(GlobalObject::Region(region)));
        }
        assert_eq!(known(&world), [3], "those of the oldest region alone are believed");
        assert!([1, 2, 3].iter().all(|id| !book.get(NodeId::new(*id)).is_empty()), "and all are reached");
        assert_eq!(book.get(NodeId::new(4)), [], "but its own, which are members");
        note(&world, &name("fra"), &[], (&book, &map));
        assert_eq!(book.speakers(), [], "nobody else speaks for the oldest region's group");
        assert_eq!(book.nodes(), [], "they are no members");
    }
}
