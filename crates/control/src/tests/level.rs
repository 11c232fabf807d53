//! The level of a region: when it is raised, and that the world learns of it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use insula_env::{Clock, Env, RealDisk, Rng, TaskGroup, clock};
use insula_state::{
    Domain, GlobalCommand, GlobalState, Leadership, Machine, ProposeError, Proposer, RegionCommand, RegionState,
    Replica, Store, global::ClusterMeta, seal,
};
use insula_types::{Agreed, ClusterId, Incarnation, Level, NodeId, RequestId, Term, codec};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::region::{Plain, node};
use crate::level::{Baking, reachable, start_levels};

/// Applies at once.
struct Alone {
    apply: Box<dyn Fn(RequestId, Vec<u8>) -> Vec<u8> + Send + Sync>,
    is_leader: watch::Sender<Leadership>,
}

impl std::fmt::Debug for Alone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Alone")
    }
}

#[async_trait]
impl Proposer for Alone {
    async fn propose(&self, request: RequestId, command: Vec<u8>, _: Duration) -> Result<Vec<u8>, ProposeError> {
        Ok((self.apply)(request, command))
    }
    async fn barrier(&self, _: Duration) -> Result<(), ProposeError> {
        Ok(())
    }
    async fn recall(&self, _: RequestId, _: Duration) -> Result<Option<Vec<u8>>, ProposeError> {
        Ok(None)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.is_leader.subscribe()
    }
}

fn say(plain: &mut Plain, id: u64, version: &str) {
    let node = node(id, "fra1");
    let version = version.to_owned();
    let update = RegionCommand::UpdateNode { id: node.id, address: node.address, capacity: node.capacity, version };
    plain.apply(0, &update).expect("a member");
}

#[test]
fn what_all_nodes_and_this_program_know_is_reachable() {
    let mut plain = Plain::new(3);
    let at = |plain: &Plain, known| {
        plain.replica.read(|state| reachable(state, Level(known)).map(|agreed| (agreed.level.0, agreed.version)))
    };
    assert_eq!(at(&plain, 9), None);
    say(&mut plain, 1, "0.2.0+level.2");
    say(&mut plain, 2, "0.2.1+level.2");
    assert_eq!(at(&plain, 9), None, "node 3 has said nothing");
    say(&mut plain, 3, "0.3.0+level.3");
    assert_eq!(at(&plain, 9), Some((2, "0.2.0".to_owned())));
    assert_eq!(at(&plain, 1), None, "this program itself is older");
    let agreed = Agreed { level: Level(2), version: "0.2.0".into() };
    plain.apply(0, &RegionCommand::RaiseLevel(agreed)).expect("all know it");
    assert_eq!(at(&plain, 9), None, "reached");
}

#[tokio::test(start_paused = true)]
async fn it_bakes_without_a_break() {
    let two = || Some(Agreed { level: Level(2), version: "0.2.0".into() });
    let second = Duration::from_secs(1);
    let start = Clock::simulated(0).now();
    let mut baking = Baking::default();
    let mut seen = Vec::new();
    // Seconds 0 to 2 it is reachable, at 3 it is not, from 4 on it is again.
    for at in 0..10 {
        let reachable = if at == 3 { None } else { two() };
        seen.push(baking.done(reachable, start + second * at, second * 4).is_some());
    }
    assert_eq!(seen, [false, false, false, false, false, false, false, false, true, true]);
}

#[tokio::test(start_paused = true)]
async fn the_leader_raises_the_region_and_tells_the_world() {
    const MINUTE: Duration = Duration::from_secs(60);
    let clock = Clock::simulated(1_000_000);
    let (rng, disk, tasks) = (Rng::from_seed(3), Arc::new(RealDisk), TaskGroup::new("test"));
    let env = Env { clock: clock.clone(), rng, disk, tasks };
    let plain = Arc::new(Mutex::new(Plain::new(2)));
    let global: Arc<Replica<GlobalState>> = Replica::new();
    let world = Mutex::new(Machine::new(Arc::clone(&global)));
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    let init = GlobalCommand::Init { meta, region: "fra".parse().expect("a name"), agreed: None };
    world.lock().apply(&seal(RequestId(1, 1), 0, codec::encode(&init))).expect("decodes");

    let lead = |is_me| watch::channel(Leadership { leader: Some(NodeId::new(1)), term: Term(1), is_me }).0;
    let applied = Arc::clone(&plain);
    let apply = Box::new(move |request, command| applied.lock().apply_bytes(request, 0, command));
    let of_region = Arc::new(Alone { apply, is_leader: lead(false) });
    let apply = Box::new(move |request, command| {
        world.lock().apply(&seal(request, 0, command)).expect("decodes").replies[0].clone()
    });
    let of_world = Arc::new(Alone { apply, is_leader: lead(false) });
    let replica = Arc::clone(&plain.lock().replica);
    let region = Store::<RegionState>::new(Arc::clone(&replica), of_region.clone(), clock.clone(), env.rng.fork());
    let world = Store::new(Arc::clone(&global), of_world, clock.clone(), env.rng.fork());
    start_levels(&env, region, world, MINUTE);
    let levels = || (replica.read(Domain::level).0, global.read(Domain::level).0);

    for id in 1..=2 {
        say(&mut plain.lock(), id, "0.2.0+level.2");
    }
    clock::sleep(MINUTE * 3).await;
    assert_eq!(levels(), (1, 1), "this node does not lead");
    of_region.is_leader.send_modify(|now| now.is_me = true);
    clock::sleep(MINUTE - Duration::from_secs(2)).await;
    assert_eq!(levels(), (1, 1), "not for long enough");
    clock::sleep(Duration::from_secs(6)).await;
    assert_eq!(levels(), (2, 2));
}
