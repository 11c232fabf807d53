//! What this process knows of its region's members: where each is reached, which were removed, and the file that lets it
//! start without anybody to ask.
//!
//! Where a node is reached it says itself, in a list with a number that it counts up. The lists are in the region's state,
//! and nodes hand them on to each other ([`crate::whereabouts`]), which also works when so many have moved that nobody
//! leads. Whichever way it came, the list with the greatest number is in force.

use std::{collections::BTreeMap, sync::Arc};

use insula_env::{Env, beat};
use insula_identity::Tombstones;
use insula_rpc::{AddressBook, Peers};
use insula_state::{RegionState, Replica, global::Gateway};
use insula_telemetry::chain;
use insula_types::{Addresses, DatacenterName, Node, NodeAddress, NodeId, Scope};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    Error,
    home::{Home, ValueFile},
};

/// No node moves so often: greater numbers are mistakes, and would be in force for ever.
const EDITION_MAX: u64 = 1 << 48;

/// Where the members of the region are. Clones share it.
#[derive(Clone)]
pub(crate) struct Members(Arc<Inner>);

struct Inner {
    node: NodeId,
    datacenter: DatacenterName,
    region: Arc<Replica<RegionState>>,
    book: AddressBook,
    /// Told when an address has changed: connections are made anew.
    peers: Vec<Peers>,
    home: Mutex<Home>,
    /// Held while the file is written, which may take long: nobody who only asks waits for that.
    file: Mutex<ValueFile>,
    own: watch::Sender<Addresses>,
    /// Counts what was heard from others before the state had it.
    heard: watch::Sender<u64>,
}

impl Members {
    /// What `home` knows, and the addresses of the node's configuration: under another number when they are others than
    /// before. A disk that takes no writes keeps no node from starting: the next start gives the same list the same number.
    pub(crate) fn open(
        (node, datacenter): (NodeId, DatacenterName),
        configured: &Addresses,
        region: &Arc<Replica<RegionState>>,
        (book, peers): (AddressBook, Vec<Peers>),
        (mut home, file): (Home, ValueFile),
    ) -> Self {
        let before = home.own.clone();
        let own = match &before {
            Some(own) if own.list() == configured.list() => own.clone(),
            before => configured.clone().with_edition(before.as_ref().map_or(0, Addresses::edition) + 1),
        };
        home.own = Some(own.clone());
        if home.own != before
            && let Err(error) = file.save(&home)
        {
            warn!(error = %chain(&error), "this node's addresses were not kept");
        }
        let members = Self(Arc::new(Inner {
            node,
            datacenter,
            region: Arc::clone(region),
            book,
            peers,
            home: Mutex::new(home),
            file: Mutex::new(file),
            own: watch::channel(own).0,
            heard: watch::channel(0).0,
        }));
        members.refresh();
        members
    }

    /// Follows the region's members.
    pub(crate) fn start(&self, env: &Env, tombstones: Tombstones) {
        let members = self.clone();
        env.tasks.supervise("members", beat::DISK, move |beat| {
            let (members, tombstones) = (members.clone(), tombstones.clone());
            async move {
                let mut changed = members.0.region.changed();
                loop {
                    tombstones.set(members.0.region.read(|state| state.tombstones.iter().map(|(id, _)| *id).collect()));
                    members.refresh();
                    if beat.idle(changed.changed()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }

    /// Where this node is reached, and every change of it.
    pub(crate) fn own(&self) -> watch::Receiver<Addresses> {
        self.0.own.subscribe()
    }

    /// Changes when something was heard that the state does not have.
    pub(crate) fn heard(&self) -> watch::Receiver<u64> {
        self.0.heard.subscribe()
    }

    /// This node is reached elsewhere from now on. Says whether that is new.
    ///
    /// # Errors
    /// [`Error::File`] when the list cannot be kept; then it does not count.
    pub(crate) fn move_to(&self, list: &[NodeAddress]) -> Result<bool, Error> {
        let present = self.0.own.borrow().clone();
        if present.list() == list {
            return Ok(false);
        }
        let moved = Addresses::new(present.edition() + 1, list.to_vec()).map_err(Error::Addresses)?;
        self.set_own(moved)?;
        info!(addresses = %text(list), "this node is reached elsewhere now");
        Ok(true)
    }

    /// Another list of this node's is known under this number: this node's own word counts, so it gets a greater one.
    pub(crate) fn outdo(&self, edition: u64) {
        let present = self.0.own.borrow().clone();
        if edition < EDITION_MAX
            && edition >= present.edition()
            && let Err(error) = self.set_own(present.with_edition(edition + 1))
        {
            warn!(error = %chain(&error), "this node's addresses stay under an older number for now");
        }
    }

    fn set_own(&self, own: Addresses) -> Result<(), Error> {
        let file = self.0.file.lock();
        let changed = Home { own: Some(own.clone()), ..self.0.home.lock().clone() };
        file.save(&changed)?;
        self.0.home.lock().own = Some(own.clone());
        self.0.own.send_replace(own);
        Ok(())
    }

    /// All that this node knows, to be told to others.
    pub(crate) fn tell(&self) -> Vec<(NodeId, Addresses)> {
        let home = self.0.home.lock();
        let others = home.others().into_iter();
        others.chain([(self.0.node, self.0.own.borrow().clone())]).collect()
    }

    /// Takes what another node knows: of members only, and of each only what is newer.
    pub(crate) fn hear(&self, told: Vec<(NodeId, Addresses)>) {
        let mut newer = BTreeMap::new();
        for (node, addresses) in told {
            let Ok(addresses) = addresses.checked() else { continue };
            if node == self.0.node {
                if addresses.list() != self.0.own.borrow().list() {
                    self.outdo(addresses.edition());
                }
            } else if addresses.edition() <= EDITION_MAX {
                newer.insert(node, addresses);
            }
        }
        if self.take(&newer) {
            self.0.heard.send_modify(|count| *count += 1);
        }
    }

    /// Keeps where other regions are reached, for a start without a copy of the global state.
    pub(crate) fn keep_gateways(&self, gateways: Vec<Gateway>) {
        let file = self.0.file.lock();
        let present = self.0.home.lock().clone();
        if present.gateways == gateways {
            return;
        }
        let changed = Home { gateways: gateways.clone(), ..present };
        match file.save(&changed) {
            Ok(()) => self.0.home.lock().gateways = gateways,
            Err(error) => {
                warn!(error = %chain(&error), "the gateways of other regions were not kept; a restart may use older ones")
            }
        }
    }

    /// What the state says now.
    fn refresh(&self) {
        self.take(&BTreeMap::new());
    }

    /// Puts together what the state says, what was known, and what was heard just now. Says whether the last was of use.
    fn take(&self, heard: &BTreeMap<NodeId, Addresses>) -> bool {
        let mut home = self.0.home.lock();
        let before = home.others();
        let (stated, places) = self.0.region.read(|state| {
            let others = || state.nodes.values().filter(|other| other.id != self.0.node);
            let stated: BTreeMap<_, _> = others().map(|other| (other.id, state.addresses_of(other))).collect();
            let place = |other: &Node| (other.datacenter == self.0.datacenter, other.address);
            let places: BTreeMap<_, _> = others().map(|other| (other.id, place(other))).collect();
            (stated, places)
        });
        // Nothing yet (or a lone node): what the file says may be all there is to go by.
        let mut present = if stated.is_empty() { before.clone() } else { stated };
        let mut is_news = false;
        for (node, addresses) in &mut present {
            for other in [before.get(node), heard.get(node)].into_iter().flatten() {
                if other.edition() > addresses.edition() {
                    *addresses = other.clone();
                }
            }
            is_news |= heard.get(node) == Some(addresses) && before.get(node) != Some(addresses);
        }
        let entry = |(node, addresses): (&NodeId, &Addresses)| {
            let (is_near, stated) = places.get(node).copied().unzip();
            let shared = if is_near == Some(true) { Scope::Datacenter } else { Scope::Region };
            let mut ordered = addresses.within(shared);
            // Of a program that does not number its addresses: nobody can tell whether it is older.
            ordered.extend(stated.filter(|stated| addresses.list().iter().all(|known| known.at != *stated)));
            (*node, ordered)
        };
        self.0.book.set(present.iter().map(entry).collect());
        if present == before {
            return false;
        }
        for (node, addresses) in &present {
            if before.get(node).is_some_and(|known| known != addresses) {
                info!(%node, addresses = %text(addresses.list()), "a member is reached elsewhere");
                self.0.peers.iter().for_each(|peers| peers.forget(*node));
            }
        }
        home.set_others(present);
        drop(home);
        let file = self.0.file.lock();
        // What is there now: another change may have come meanwhile.
        let kept = self.0.home.lock().clone();
        if let Err(error) = file.save(&kept) {
            warn!(error = %chain(&error), "the list of members was not kept; a restart uses the older one");
        }
        is_news
    }
}

fn text(list: &[NodeAddress]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Where the members are, before a state is open: as the file says, by addresses that are good for the whole region.
pub(crate) fn book(home: &Home) -> BTreeMap<NodeId, Vec<std::net::SocketAddr>> {
    home.others().iter().map(|(node, addresses)| (*node, addresses.within(Scope::Region))).collect()
}

#[cfg(test)]
mod tests {
    use insula_env::RealDisk;
    use insula_state::{
        Machine,
        region::{RegionCommand, RegionMeta},
        seal,
    };
    use insula_types::{Incarnation, NodeHealth, RequestId, codec};

    use super::*;

    fn listed(edition: u64, text: &str) -> Addresses {
        let list = text.split_whitespace().map(|one| one.parse().expect("an address")).collect();
        Addresses::new(edition, list).expect("good ones")
    }

    /// Node 1 of a region of two, both in one data centre.
    struct World {
        dir: tempfile::TempDir,
        region: Arc<Replica<RegionState>>,
        machine: Machine<RegionState>,
        book: AddressBook,
        requests: u64,
    }

    impl World {
        fn new() -> Self {
            let region = Replica::new();
            let world = Self {
                dir: tempfile::tempdir().expect("directory"),
                machine: Machine::new(Arc::clone(&region)),
                region,
                book: AddressBook::default(),
                requests: 0,
            };
            let file = world.file();
            file.save(&Home::for_tests(Incarnation(1))).expect("home");
            world
        }

        fn file(&self) -> ValueFile {
            ValueFile::new(self.dir.path().join("home"), Arc::new(RealDisk))
        }

        fn apply(&mut self, command: &RegionCommand) {
            self.requests += 1;
            let sealed = seal(RequestId(self.requests, 0), 0, codec::encode(command));
            self.machine.apply(&sealed).expect("decodes");
        }

        /// What the first node says of itself founds the region; the second one joins.
        fn found(&mut self) {
            let node = |id: u64| Node {
                id: NodeId::new(id),
                name: format!("n{id}").parse().expect("a name"),
                region: "fra".parse().expect("a name"),
                datacenter: "fra1".parse().expect("a name"),
                address: ([10, 0, 0, id as u8], 7443).into(),
                capacity: Default::default(),
                version: "0.1.0".into(),
                health: NodeHealth::Up,
                is_cordoned: false,
                is_draining: false,
                joined_ms: 0,
            };
            let meta = RegionMeta {
                cluster: insula_types::ClusterId::new(1),
                region: "fra".parse().expect("a name"),
                incarnation: Incarnation(1),
            };
            self.apply(&RegionCommand::Init { meta, node: Box::new(node(1)) });
            let token = insula_state::region::JoinToken {
                id: "t".into(),
                secret_hash: "7".into(),
                expires_ms: 1000,
                uses_left: 1,
            };
            self.apply(&RegionCommand::CreateJoinToken(token));
            let node = Box::new(node(2));
            self.apply(&RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node });
        }

        fn open(&self, configured: &str) -> Members {
            let home = self.file().load().expect("readable").expect("there");
            let place = (NodeId::new(1), "fra1".parse().expect("a name"));
            let reached = (self.book.clone(), Vec::new());
            Members::open(place, &listed(0, configured), &self.region, reached, (home, self.file()))
        }

        fn way(&self) -> String {
            let way = self.book.get(NodeId::new(2));
            way.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        }
    }

    #[test]
    fn another_list_in_the_configuration_gets_a_greater_number() {
        let world = World::new();
        let numbered = |configured| world.open(configured).own().borrow().edition();
        assert_eq!(numbered("10.0.0.1:7443"), 1);
        assert_eq!(numbered("10.0.0.1:7443"), 1);
        assert_eq!(numbered("10.0.0.9:7443"), 2);
        let members = world.open("10.0.0.9:7443");
        assert!(!members.move_to(listed(0, "10.0.0.9:7443").list()).expect("kept"), "said again");
        assert!(members.move_to(listed(0, "10.0.0.1:7443").list()).expect("kept"));
        assert_eq!(numbered("10.0.0.1:7443"), 3, "and it is kept");
    }

    #[test]
    fn gateways_of_other_regions_are_kept_for_the_next_start() {
        let mut world = World::new();
        world.found();
        let members = world.open("10.0.0.1:7443");
        let gateways = vec![Gateway { node: NodeId::new(9), addresses: vec![([192, 0, 2, 9], 7443).into()] }];
        members.keep_gateways(gateways.clone());
        members.move_to(listed(0, "10.0.0.7:7443").list()).expect("kept");
        let home: Home = world.file().load().expect("readable").expect("there");
        assert_eq!(home.gateways, gateways, "and what is written later does not take them away");
    }

    #[test]
    fn a_node_starts_although_its_disk_takes_no_writes() {
        let world = World::new();
        let home: Home = world.file().load().expect("readable").expect("there");
        let nowhere = ValueFile::new(world.dir.path().join("home/below/a/file"), Arc::new(RealDisk));
        let place = (NodeId::new(1), "fra1".parse().expect("a name"));
        let reached = (world.book.clone(), Vec::new());
        let members =
            Members::open(place, &listed(0, "10.0.0.1:7443"), &world.region, reached, (home.clone(), nowhere));
        assert_eq!(members.own().borrow().edition(), 1);
        assert!(members.move_to(listed(0, "10.0.0.9:7443").list()).is_err(), "a move that is not kept does not count");
        assert_eq!(*members.own().borrow(), listed(1, "10.0.0.1:7443"));
        assert_eq!(world.file().load::<Home>().expect("readable"), Some(home));
    }

    #[test]
    fn the_greatest_number_is_in_force_whichever_way_it_came() {
        let mut world = World::new();
        world.found();
        let (members, two) = (world.open("10.0.0.1:7443"), NodeId::new(2));
        assert_eq!(world.way(), "10.0.0.2:7443");
        let heard = members.heard();
        members.hear(vec![(two, listed(3, "203.0.113.2:7443 datacenter=10.9.0.2:7443"))]);
        assert_eq!(world.way(), "10.9.0.2:7443 203.0.113.2:7443 10.0.0.2:7443", "the state's word is the last resort");
        assert!(heard.has_changed().expect("open"));
        members.hear(vec![(two, listed(2, "192.0.2.2:7443")), (NodeId::new(8), listed(9, "192.0.2.8:7443"))]);
        assert_eq!(world.book.nodes(), [two], "nobody gets in by hearsay");
        assert!(world.way().starts_with("10.9.0.2:7443"), "{}", world.way());
        // It is in the file, too.
        let reopened = world.open("10.0.0.1:7443");
        assert!(world.way().starts_with("10.9.0.2:7443"), "{}", world.way());
        let addresses = listed(4, "10.7.0.2:7443");
        world.apply(&RegionCommand::SetAddresses { node: two, addresses });
        reopened.refresh();
        assert_eq!(world.way(), "10.7.0.2:7443");
        reopened.hear(vec![(two, listed(EDITION_MAX + 1, "192.0.2.2:7443"))]);
        assert_eq!(world.way(), "10.7.0.2:7443", "a number that nobody can reach by counting");
    }

    #[test]
    fn a_node_has_the_last_word_on_itself() {
        let mut world = World::new();
        world.found();
        let (members, own) = (world.open("10.0.0.1:7443"), NodeId::new(1));
        members.hear(vec![(own, listed(6, "192.0.2.1:7443"))]);
        assert_eq!(*members.own().borrow(), listed(7, "10.0.0.1:7443"));
        members.hear(vec![(own, listed(6, "10.0.0.1:7443"))]);
        assert_eq!(members.own().borrow().edition(), 7, "the same list needs no greater number");
        assert_eq!(members.tell().len(), 2);
    }
}
