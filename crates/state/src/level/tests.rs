use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use insula_env::{Clock, Rng};
use insula_types::{Agreed, ClusterId, Incarnation, Node, NodeHealth, NodeId, RegionName, RequestId, codec};
use tokio::sync::watch;

use super::*;
use crate::{
    Domain, GlobalCommand, GlobalState, Leadership, Machine, MachineError, Outcome, ProposeError, Proposer,
    RegionCommand, RegionState, Rejection, RejectionCode, Replica, Row, Store,
    global::ClusterMeta,
    region::{JoinToken, NodeDuty, RegionMeta},
    seal,
};

/// A group of one: what is proposed is applied.
#[derive(Debug)]
struct Alone<D: Domain>(Mutex<Inner<D>>);

#[derive(Debug)]
struct Inner<D: Domain> {
    machine: Machine<D>,
    rows: Vec<Row>,
}

#[async_trait]
impl<D: Domain> Proposer for Alone<D> {
    async fn propose(&self, request: RequestId, command: Vec<u8>, _: Duration) -> Result<Vec<u8>, ProposeError> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = inner.machine.apply(&seal(request, 0, command)).map_err(|_| ProposeError::Unreadable)?;
        inner.rows.extend(applied.rows);
        Ok(applied.replies[0].clone())
    }

    async fn barrier(&self, _: Duration) -> Result<(), ProposeError> {
        Ok(())
    }

    async fn recall(&self, _: RequestId, _: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        Ok(None)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }
}

struct Group<D: Domain> {
    alone: Arc<Alone<D>>,
    store: Store<D>,
}

impl<D: Domain> Group<D> {
    fn new() -> Self {
        let replica = Replica::new();
        let inner = Inner { machine: Machine::new(Arc::clone(&replica)), rows: Vec::new() };
        let alone = Arc::new(Alone(Mutex::new(inner)));
        let store = Store::new(replica, Arc::clone(&alone) as _, Clock::simulated(0), Rng::from_seed(1));
        Self { alone, store }
    }

    async fn run(&self, command: D::Command) -> Result<D::Reply, ProposeError> {
        self.store.propose(&command, Duration::from_secs(1)).await.map(|committed| committed.reply)
    }

    /// What a program that knows no more than `known` makes of the stored rows.
    fn load(&self, known: u32) -> Result<(), MachineError> {
        let rows = self.alone.0.lock().unwrap_or_else(PoisonError::into_inner).rows.clone();
        let rows = rows.into_iter().filter_map(|row| Some((row.key, row.value?)));
        Machine::<D>::new(Replica::new()).knowing(Level(known)).load(rows)
    }
}

fn name() -> RegionName {
    "fra".parse().expect("a name")
}

fn node(id: u64, version: &str) -> Box<Node> {
    Box::new(Node {
        id: NodeId::new(id),
        name: format!("n{id}").parse().expect("a name"),
        region: name(),
        datacenter: "fra1".parse().expect("a name"),
        address: "10.0.0.1:7443".parse().expect("an address"),
        capacity: Default::default(),
        version: version.to_owned(),
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    })
}

fn agreed(level: u32) -> Agreed {
    Agreed { level: Level(level), version: format!("0.{level}.0") }
}

fn join(id: u64, version: &str) -> RegionCommand {
    RegionCommand::Join { token: "t".into(), secret_hash: "7".into(), node: node(id, version) }
}

fn upgrade(id: u64, version: &str) -> RegionCommand {
    let Node { id, address, capacity, version, .. } = *node(id, version);
    RegionCommand::UpdateNode { id, address, capacity, version }
}

fn cordon(id: u64) -> RegionCommand {
    RegionCommand::SetNodeDuty { id: NodeId::new(id), duty: NodeDuty::Cordon }
}

/// A region that was founded by a program of this version.
async fn region(version: &str) -> Group<RegionState> {
    let group = Group::new();
    let meta = RegionMeta { cluster: ClusterId::new(1), region: name(), incarnation: Incarnation(1) };
    group.run(RegionCommand::Init { meta, node: node(1, version) }).await.expect("empty");
    let token = JoinToken { id: "t".into(), secret_hash: "7".into(), expires_ms: u64::MAX, uses_left: 9 };
    group.run(RegionCommand::CreateJoinToken(token)).await.expect("new");
    group
}

fn not_yet<T: std::fmt::Debug>(result: Result<T, ProposeError>) -> NotYet {
    match result {
        Err(ProposeError::NotYet(why)) => why,
        other => panic!("it was not refused for its level: {other:?}"),
    }
}

fn rejection<T: std::fmt::Debug>(result: Result<T, ProposeError>) -> Rejection {
    match result {
        Err(ProposeError::Rejected(why)) => why,
        other => panic!("it was not rejected: {other:?}"),
    }
}

#[test]
fn it_says_whom_to_upgrade() {
    let text = |behind: usize| {
        let behind = (1..=behind).map(|number| format!("node n{number}")).collect();
        NotYet { state: "region".into(), needed: Level(3), agreed: Level(1), behind }.to_string()
    };
    let start = "this needs level 3 of all programs, and the region state is at level 1";
    assert_eq!(text(0), format!("{start}: all know it by now, so try again in a minute or two"));
    assert_eq!(text(2), format!("{start}: upgrade node n1, node n2 first"));
    assert_eq!(text(7), format!("{start}: upgrade node n1, node n2, node n3, node n4, node n5 and 2 more first"));
}

#[tokio::test]
async fn a_newer_command_waits_until_all_nodes_know_it() {
    let group = region("0.1.0").await;
    group.run(join(2, "0.1.0")).await.expect("as old as the region");
    group.run(upgrade(1, "0.2.0+level.2")).await.expect("a member");
    let why = not_yet(group.run(cordon(1)).await);
    assert_eq!((why.needed, why.agreed, why.behind), (Level(2), Level(1), vec!["node n2".to_owned()]));
    not_yet(group.run(RegionCommand::RaiseLevel(agreed(2))).await);

    group.run(upgrade(2, "0.2.0+level.2")).await.expect("a member");
    assert_eq!(not_yet(group.run(cordon(1)).await).behind, Vec::<String>::new(), "all know it, nobody has agreed");
    assert_eq!(not_yet(group.run(RegionCommand::RaiseLevel(agreed(3))).await).behind.len(), 2, "more than they know");
    group.run(RegionCommand::RaiseLevel(agreed(2))).await.expect("all know it");
    group.run(cordon(1)).await.expect("agreed");
    let controlled = RegionCommand::Controlled { epoch: 0, command: Box::new(cordon(1)) };
    assert_eq!(controlled.level(), Level(2), "it is what is in it that counts");
}

#[tokio::test]
async fn nobody_comes_in_who_knows_less_than_is_agreed() {
    let group = region("0.2.0+level.2").await;
    assert_eq!(group.store.read(RegionState::level), Level(2), "a new region begins with what its founder knows");
    let why = rejection(group.run(join(2, "0.1.0")).await);
    assert_eq!(why.code, RejectionCode::Forbidden);
    let text =
        "the region is at level 2, and this program (0.1.0) knows no more than level 1: install version 0.2.0 or later";
    assert_eq!(why.message, text);
    group.run(join(2, "0.3.0+level.3")).await.expect("it knows more");
    assert_eq!(rejection(group.run(upgrade(2, "0.1.0")).await).message, text, "a member neither");
}

#[tokio::test]
async fn nobody_is_asked_in_who_knows_less_than_all_do() {
    let group = region("0.1.0").await;
    let takes = |version: &'static str| group.store.read(|state| state.takes_in(version).map_err(|why| why.message));
    assert_eq!(takes("0.1.0"), Ok(()));
    group.run(upgrade(1, "0.2.0+level.2")).await.expect("a member");
    let text =
        "all nodes know level 2, and this program (0.1.0) knows no more than level 1: install version 0.2.0 or later";
    assert_eq!(takes("0.1.0"), Err(text.to_owned()), "they are about to agree");
    assert_eq!((takes("0.2.1+level.2"), takes("0.3.0+level.3")), (Ok(()), Ok(())));
}

#[tokio::test]
async fn the_level_never_falls_and_a_raise_that_came_too_late_is_refused() {
    let group = region("0.2.0+level.2").await;
    let revision = group.store.replica().revision();
    group.run(RegionCommand::RaiseLevel(agreed(2))).await.expect("reached already");
    assert_eq!(group.store.replica().revision(), revision, "changes nothing");
    // A node came in between the decision and the log: the log decides.
    let group = region("0.1.0").await;
    let raise = codec::encode(&RegionCommand::RaiseLevel(agreed(2)));
    let reply = group.alone.propose(RequestId(1, 1), raise, Duration::ZERO).await.expect("applied");
    let outcome: Outcome<crate::region::RegionReply> = codec::decode(&reply).expect("an outcome");
    assert_eq!(outcome.result.expect_err("n1 knows less").code, RejectionCode::Conflict);
    assert_eq!(group.store.read(RegionState::level), Level(1));
}

#[tokio::test]
async fn an_older_program_stops_in_words_at_what_it_does_not_know() {
    let group = region("0.2.0+level.2").await;
    let refused = group.load(1).expect_err("agreed on more").to_string();
    let text =
        "the region state is at level 2, and this program knows no more than level 1: install version 0.2.0 or later";
    assert_eq!(refused, text);
    group.load(2).expect("it knows enough");
    let mut old = Machine::<RegionState>::new(Replica::new()).knowing(Level(1));
    let command = codec::encode(&cordon(1));
    let refused = old.apply(&seal(RequestId(0, 1), 0, command)).expect_err("not known to it");
    assert!(matches!(refused, MachineError::TooOld { needed: Level(2), known: Level(1), .. }), "{refused}");
    assert_eq!(old.revision().0, 0);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_explained_by_the_level() {
    let replica = Replica::new();
    let mut old = Machine::<RegionState>::new(replica).knowing(Level(1));
    let strange = (b"o1".to_vec(), codec::encode(&(1, "FromTheFuture", 7)));
    let key = crate::region::RegionKey::Level;
    let object = crate::region::RegionObject::Level(agreed(9));
    let level = (b"o2".to_vec(), codec::encode(&(insula_types::Revision(1), &key, &object)));
    assert!(matches!(old.load([strange.clone()]), Err(MachineError::Row { .. })));
    assert!(matches!(old.load([strange, level]), Err(MachineError::TooOld { needed: Level(9), .. })));
}

#[tokio::test]
async fn the_world_agrees_on_what_all_regions_agreed_on() {
    let world: Group<GlobalState> = Group::new();
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    world.run(GlobalCommand::Init { meta, region: name(), agreed: None }).await.expect("empty");
    let retire = || GlobalCommand::RetireRoot { hash: "a".into() };
    assert_eq!(not_yet(world.run(retire()).await).behind, ["the nodes of region fra"]);
    let set = |level| GlobalCommand::SetRegionLevel { region: name(), agreed: agreed(level) };
    world.run(set(3)).await.expect("it is the only one");
    world.run(set(2)).await.expect("less than before is nothing new");
    assert_eq!(world.store.read(|world| world.agreed.clone()), Some(agreed(3)));
    assert_eq!(rejection(world.run(retire()).await).code, RejectionCode::NotFound, "proposed, and decided on");
    let other = GlobalCommand::SetRegionLevel { region: "was".parse().expect("a name"), agreed: agreed(3) };
    assert_eq!(rejection(world.run(other).await).code, RejectionCode::NotFound);
}

#[test]
fn the_least_region_decides() {
    use insula_types::Revision;

    use crate::{
        Changes,
        global::{GlobalKey, GlobalObject, Region},
    };
    let mut world = GlobalState::default();
    for other in ["fra", "was"] {
        let region: RegionName = other.parse().expect("a name");
        let object = GlobalObject::Region(Region::new(region.clone(), 0, None));
        world.absorb(Revision(1), GlobalKey::Region(region), Some(object));
    }
    let mut levels = Vec::new();
    for (region, level) in [("fra", 3), ("was", 2), ("was", 4)] {
        let command = GlobalCommand::SetRegionLevel { region: region.parse().expect("a name"), agreed: agreed(level) };
        let mut changes = Changes::new();
        world.apply(&command, 0, Revision(2), &mut changes).expect("there");
        for change in changes.into_vec() {
            world.absorb(Revision(2), change.key, change.object);
        }
        levels.push(world.level().0);
    }
    assert_eq!(levels, [1, 2, 3]);
    // While one has not said what it knows, the other cannot say what that may not understand.
    let mut world = GlobalState::default();
    for other in ["fra", "was"] {
        let region: RegionName = other.parse().expect("a name");
        let object = GlobalObject::Region(Region::new(region.clone(), 0, None));
        world.absorb(Revision(1), GlobalKey::Region(region), Some(object));
    }
    let command = GlobalCommand::SetRegionLevel { region: name(), agreed: agreed(2) };
    assert_eq!(world.admits(&command).expect_err("was").behind, ["the nodes of region was"]);
}
