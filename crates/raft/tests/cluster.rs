//! Three nodes and more in one process: elections, losses, cuts, late comers, restarts. Time is virtual.

mod support;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use insula_env::{Clock, Disk, Rng, clock::sleep};
use insula_raft::{
    Config, GroupState, HandOverError, MembershipError, OpenError, ProposeError, ReadError, Row, Timers,
};
use insula_types::{Incarnation, NodeId};
use support::{Cluster, GROUP, LIMIT};

const SHORT: Duration = Duration::from_secs(1);

fn usual(_: &mut Config) {}

fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId::new).collect()
}

#[tokio::test(start_paused = true)]
async fn a_single_node_starts_once_and_comes_back() {
    let mut cluster = Cluster::start(1, usual).await;
    cluster.write("a=1").await;
    cluster.nodes[&1].group.initialize_single().await.expect("again changes nothing");
    cluster.restart(1).await;
    cluster.sees(1, "a", "1").await;
    cluster.write("a=2").await;
    let group = &cluster.nodes[&1].group;
    let reply = group.propose(b"a=3".to_vec(), SHORT).await.expect("proposed");
    assert_eq!(reply, b"2", "each command has its own reply");
    let too_large = group.propose(vec![b'x'; 2 << 20], SHORT).await;
    assert!(matches!(too_large, Err(ProposeError::TooLarge { .. })));
    assert_eq!(group.set_voters(&ids([]), SHORT).await, Err(MembershipError::Nobody));
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_replaced_within_the_budget() {
    let mut cluster = Cluster::start(3, usual).await;
    let mut outages = Vec::new();
    for round in 0..10 {
        cluster.write(&format!("before={round}")).await;
        let leader = cluster.leader().await;
        let start = Clock::real().now();
        let disk = cluster.kill(leader);
        cluster.write(&format!("after={round}")).await;
        outages.push(Clock::real().now() - start);
        cluster.open(leader, disk).await;
        cluster.sees(leader, "after", &round.to_string()).await;
    }
    outages.sort();
    assert!(outages[8] <= Duration::from_millis(1000), "p90 of leader loss to next write: {outages:?}");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_disturbs_nobody_when_it_comes_back() {
    let cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    let cut = if leader == 3 { 2 } else { 3 };
    cluster.wires.isolate(cut, &[1, 2, 3]);
    sleep(Duration::from_secs(8)).await;
    cluster.write("while=cut").await;
    let term = cluster.nodes[&leader].group.metrics().term;
    assert_eq!(cluster.nodes[&cut].group.leadership().borrow().leader, None, "it knows that it hears nobody");
    cluster.wires.heal();
    for count in 0..100 {
        assert_eq!(cluster.write(&format!("healed={count}")).await, 0);
        sleep(Duration::from_millis(10)).await;
    }
    cluster.sees(cut, "healed", "99").await;
    assert_eq!(cluster.nodes[&leader].group.metrics().term, term);
}

#[tokio::test(start_paused = true)]
async fn a_leader_alone_confirms_nothing_and_gives_way() {
    let cluster = Cluster::start(3, usual).await;
    let old = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    cluster.wires.isolate(old, &others);
    let group = &cluster.nodes[&old].group;
    assert_eq!(group.propose(b"lost=1".to_vec(), SHORT).await, Err(ProposeError::Unknown));
    assert_eq!(group.read_index(SHORT).await, Err(ReadError::NoQuorum));
    let new = cluster.leader_among(&others).await;
    assert!(!group.leadership().borrow().is_me);
    let group = &cluster.nodes[&new].group;
    group.propose(b"kept=1".to_vec(), SHORT).await.expect("the majority goes on");
    cluster.wires.heal();
    cluster.sees(old, "kept", "1").await;
    let index = cluster.nodes[&new].group.read_index(SHORT).await.expect("confirmed");
    cluster.nodes[&old].group.wait_applied(index, SHORT).await.expect("caught up");
    let refused = cluster.nodes[&old].group.propose(b"x=1".to_vec(), SHORT).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(NodeId::new(new)) }));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_not_heard_falls_silent_so_that_another_can_lead() {
    let cluster = Cluster::start(3, usual).await;
    let old = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    for other in &others {
        // Its heartbeats arrive, the answers do not.
        cluster.wires.cut(*other, old);
    }
    let new = cluster.leader_among(&others).await;
    cluster.nodes[&new].group.propose(b"a=1".to_vec(), SHORT).await.expect("the majority goes on");
    cluster.wires.heal();
    cluster.sees(old, "a", "1").await;
}

#[tokio::test(start_paused = true)]
async fn a_late_node_gets_a_snapshot_and_votes() {
    let mut cluster = Cluster::start(3, |config| {
        config.snapshot_every = 50;
        config.entries_kept = 5;
    })
    .await;
    let large = "v".repeat(20_000);
    for count in 0..200 {
        cluster.write(&format!("k{count}={large}{count}")).await;
    }
    let leader = cluster.leader().await;
    assert!(cluster.nodes[&leader].group.metrics().purged.is_some_and(|index| index > 50), "the log was dropped");
    cluster.add(4).await;
    let group = cluster.nodes[&leader].group.clone();
    group.set_voters(&ids([1, 2, 3, 4]), LIMIT).await.expect("added");
    group.set_voters(&ids([1, 2, 3, 4]), LIMIT).await.expect("again changes nothing");
    cluster.sees(4, "k0", &format!("{large}0")).await;
    cluster.sees(4, "k199", &format!("{large}199")).await;
    assert_eq!(cluster.nodes[&4].group.voters().len(), 4);
    cluster.restart(4).await;
    cluster.write("after=restart").await;
    cluster.sees(4, "after", "restart").await;
    cluster.sees(4, "k7", &format!("{large}7")).await;
}

#[tokio::test(start_paused = true)]
async fn voters_are_removed_the_leader_too() {
    let cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let group = &cluster.nodes[&leader].group;
    let rest: BTreeSet<NodeId> = others.iter().copied().map(NodeId::new).collect();
    let refused = cluster.nodes[&others[0]].group.set_voters(&rest, SHORT).await;
    assert_eq!(refused, Err(MembershipError::NotLeader { leader: Some(NodeId::new(leader)) }));
    group.set_voters(&rest, SHORT).await.expect("removed");
    let new = cluster.leader_among(&others).await;
    cluster.nodes[&new].group.propose(b"a=1".to_vec(), SHORT).await.expect("goes on");
    assert_eq!(cluster.nodes[&new].group.voters(), rest);
    cluster.nodes[&new].group.set_voters(&rest, SHORT).await.expect("again changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_group_shrinks_to_one_though_the_third_is_gone() {
    let mut cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.kill(others[1]);
    // One by one, the leader first, would leave the two others to decide, one of which is gone.
    let left = ids([others[0]]);
    cluster.nodes[&leader].group.set_voters(&left, LIMIT).await.expect("changed");
    assert_eq!(cluster.leader_among(&[others[0]]).await, others[0]);
    cluster.nodes[&others[0]].group.propose(b"a=1".to_vec(), SHORT).await.expect("goes on");
}

#[tokio::test(start_paused = true)]
async fn all_nodes_lose_power_under_load_and_keep_what_was_confirmed() {
    let mut cluster = Cluster::start(3, |config| {
        config.snapshot_every = 20;
        config.entries_kept = 5;
    })
    .await;
    for round in 0..8 {
        for count in 0..15 {
            cluster.write(&format!("k{count}={round}")).await;
        }
        let leader = cluster.leader().await;
        let group = cluster.nodes[&leader].group.clone();
        // Something is under way when the power goes.
        let pending = group.propose(format!("pending={round}").into_bytes(), SHORT);
        insula_env::clock::timeout(Duration::from_millis(round), pending).await.ok();
        let disks: Vec<_> = (1..=3).map(|id| (id, cluster.kill(id))).collect();
        for (id, disk) in disks {
            cluster.open(id, disk).await;
        }
        cluster.write("back=up").await;
        for id in 1..=3 {
            cluster.sees(id, "back", "up").await;
            for count in 0..15 {
                cluster.sees(id, &format!("k{count}"), &round.to_string()).await;
            }
        }
        cluster.write("back=down").await;
        for id in 1..=3 {
            cluster.sees(id, "back", "down").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_commands_share_few_syncs() {
    let cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[&leader];
    let before = node.disk.syncs();
    let writes = (0..1000).map(|count| {
        let group = node.group.clone();
        async move { group.propose(format!("k{count}={count}").into_bytes(), LIMIT).await }
    });
    for reply in futures::future::join_all(writes).await {
        reply.expect("committed");
    }
    let syncs = node.disk.syncs() - before;
    assert!(syncs < 60, "1000 commands took {syncs} syncs");
    assert_eq!(node.notes.0.lock().len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn followers_apply_a_command_when_the_leader_does_though_its_disk_is_the_slowest() {
    let cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    let delay = Duration::from_millis(5);
    cluster.nodes[&leader].disk.set_delay(delay, delay);
    for round in 0..20 {
        cluster.write(&format!("a={round}")).await;
        let confirmed = Clock::real().now();
        for node in cluster.nodes.keys() {
            cluster.sees(*node, "a", &round.to_string()).await;
        }
        let took = Clock::real().now() - confirmed;
        assert!(took <= Duration::from_millis(20), "round {round}: not before the next heartbeat: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_takes_as_long_as_the_disks_and_no_longer() {
    let cluster = Cluster::start(3, usual).await;
    cluster.write("a=1").await;
    let leader = cluster.leader().await;
    let (begun, stall) = (Clock::real().now(), Timers::default().heartbeat * 5 / 4);
    for node in cluster.nodes.values() {
        node.disk.stall_until(begun + stall);
    }
    cluster.nodes[&leader].group.propose(b"a=2".to_vec(), SHORT).await.expect("written");
    let took = begun.elapsed();
    assert!(took >= stall && took < stall * 6 / 5, "{took:?} for a stall of {stall:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_in_a_write_gives_way() {
    let cluster = Cluster::start(3, usual).await;
    cluster.write("a=1").await;
    let leader = cluster.leader().await;
    let begun = Clock::real().now();
    let stall = Duration::from_secs(15);
    cluster.nodes[&leader].disk.stall_until(begun + stall);
    let outcome = cluster.nodes[&leader].group.propose(b"a=2".to_vec(), SHORT).await;
    assert_eq!(outcome, Err(ProposeError::Unknown), "the others may have it");
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|node| *node != leader).collect();
    cluster.leader_among(&others).await;
    assert!(begun.elapsed() < stall / 3, "{:?}", begun.elapsed());
    cluster.write("a=3").await;
    assert!(begun.elapsed() < stall / 3, "{:?}", begun.elapsed());
    cluster.sees(leader, "a", "3").await;
    assert!(begun.elapsed() >= stall);
}

#[tokio::test(start_paused = true)]
async fn a_failing_sync_stops_the_group_and_nothing_else() {
    let mut cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    cluster.nodes[&leader].disk.fail_syncs(true);
    let group = cluster.nodes[&leader].group.clone();
    let outcome = group.propose(b"a=1".to_vec(), SHORT).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown | ProposeError::Stopped)), "{outcome:?}");
    let mut state = group.state();
    let failed = state.wait_for(|state| *state != GroupState::Running).await.expect("told").clone();
    assert!(matches!(&failed, GroupState::Failed { why } if why.contains("sync failed")), "{failed:?}");
    assert_eq!(group.propose(b"a=1".to_vec(), SHORT).await, Err(ProposeError::Stopped));
    cluster.write("b=1").await;
    cluster.restart(leader).await;
    cluster.sees(leader, "b", "1").await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_command_stops_the_group_and_says_so() {
    let cluster = Cluster::start(1, usual).await;
    let group = &cluster.nodes[&1].group;
    assert_eq!(group.propose(b"!".to_vec(), SHORT).await, Err(ProposeError::Unknown));
    let mut state = group.state();
    let failed = state.wait_for(|state| *state != GroupState::Running).await.expect("told").clone();
    assert!(matches!(&failed, GroupState::Failed { why } if why.contains("older than the leader")), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn strangers_and_noise_are_refused() {
    let cluster = Cluster::start(3, |config| config.admit = Arc::new(|_| false)).await;
    let noise = cluster.wires.ask(2, 1, b"noise".as_slice().into()).await;
    assert!(String::from_utf8_lossy(&noise).contains("Malformed"));
    // A well-formed ping of another incarnation, and one of a node that is no member.
    let ping = |incarnation: u64| {
        #[derive(serde::Serialize)]
        struct Frame {
            incarnation: u64,
            body: &'static str,
        }
        insula_types::codec::encode(&Frame { incarnation, body: "Ping" })
    };
    let answer = cluster.wires.ask(2, 1, ping(9).into()).await;
    assert!(String::from_utf8_lossy(&answer).contains("OtherIncarnation"));
    let answer = cluster.wires.ask(9, 1, ping(1).into()).await;
    assert!(String::from_utf8_lossy(&answer).contains("NotAMember"));
    let answer = cluster.wires.ask(2, 1, ping(1).into()).await;
    assert!(String::from_utf8_lossy(&answer).contains("Pong"));
}

#[tokio::test]
async fn a_group_on_a_real_disk_closes_its_files() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for round in 1..=3 {
        let mut config = Config::new(NodeId::new(1), GROUP, Incarnation(1), directory.path());
        config.snapshot_every = 2;
        let notes = support::Notes::default();
        let wires = Arc::new(NoWires);
        let env = insula_env::Env::real("test");
        let group = insula_raft::Group::open(config, env, wires, notes.clone()).await.expect("open");
        group.initialize_single().await.expect("initialize");
        let mut leadership = group.leadership();
        let is_led = leadership.wait_for(|leadership| leadership.is_me);
        insula_env::clock::timeout(LIMIT, is_led).await.expect("in time").expect("leads");
        group.propose(format!("k{round}=v").into_bytes(), LIMIT).await.expect("committed");
        assert_eq!(notes.0.lock().len(), round);
        group.shutdown().await;
        assert_eq!(*group.state().borrow(), GroupState::Stopped);
    }
    let other = Config::new(NodeId::new(1), GROUP, Incarnation(2), directory.path());
    let env = insula_env::Env::real("test");
    let refused = insula_raft::Group::open(other, env, Arc::new(NoWires), support::Notes::default()).await;
    assert!(matches!(refused, Err(OpenError::OtherIncarnation { .. })), "{refused:?}");
}

struct NoWires;

#[async_trait::async_trait]
impl insula_raft::Transport for NoWires {
    async fn send(
        &self,
        target: NodeId,
        _group: insula_raft::GroupId,
        _message: bytes::Bytes,
        _class: insula_raft::Class,
        _limit: Duration,
    ) -> Result<bytes::Bytes, insula_raft::TransportError> {
        Err(insula_raft::TransportError::Late { target })
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_former_leader_left_under_way_does_not_block_its_next_term() {
    let mut cluster = Cluster::start(3, |config| {
        config.snapshot_every = 10;
        config.entries_kept = 2;
    })
    .await;
    let old = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    cluster.wires.isolate(old, &others);
    let group = cluster.nodes[&old].group.clone();
    let lost = (0..4).map(|count| {
        let group = group.clone();
        async move {
            sleep(Duration::from_millis(count * 20)).await;
            group.propose(format!("lost{count}=1").into_bytes(), SHORT).await
        }
    });
    for outcome in futures::future::join_all(lost).await {
        assert_eq!(outcome, Err(ProposeError::Unknown));
    }
    cluster.leader_among(&others).await;
    for count in 0..60 {
        cluster.write(&format!("k={count}")).await;
    }
    cluster.wires.heal();
    cluster.sees(old, "k", "59").await;
    // It leads again, sooner or later.
    loop {
        let leader = cluster.leader().await;
        if leader == old {
            break;
        }
        cluster.restart(leader).await;
    }
    assert_eq!(group.propose(b"again=1".to_vec(), SHORT).await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_starts_again_does_not_answer_reads_from_before_its_last_writes() {
    let mut cluster = Cluster::start(3, usual).await;
    cluster.write("a=1").await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].group.metrics().term;
    let disks: Vec<_> = (1..=3).map(|id| (id, cluster.kill(id))).collect();
    for (id, disk) in disks {
        cluster.open(id, disk).await;
    }
    let leader = cluster.leader().await;
    let group = &cluster.nodes[&leader].group;
    assert!(group.metrics().term > term, "nobody leads on in the old term");
    let index = group.read_index(LIMIT).await.expect("confirmed");
    group.wait_applied(index, LIMIT).await.expect("applied");
    assert_eq!(cluster.nodes[&leader].notes.0.lock().get("a").map(String::as_str), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn reads_share_confirmations() {
    let cluster = Cluster::start(3, usual).await;
    cluster.write("a=1").await;
    let leader = cluster.leader().await;
    let group = &cluster.nodes[&leader].group;
    let before = cluster.wires.messages();
    let reads = (0..500).map(|_| group.read_index(SHORT));
    let indexes = futures::future::join_all(reads).await;
    assert!(indexes.iter().all(|index| *index == Ok(group.metrics().applied.expect("applied").index)), "{indexes:?}");
    let messages = cluster.wires.messages() - before;
    assert!(messages <= 10, "{messages} messages for 500 reads");
}

#[tokio::test(start_paused = true)]
async fn a_leader_hands_over_with_hardly_a_pause() {
    let cluster = Cluster::start(3, usual).await;
    for round in 0..10 {
        let leader = cluster.leader().await;
        cluster.write(&format!("before={round}")).await;
        let start = Clock::real().now();
        let next = cluster.nodes[&leader].group.hand_over(LIMIT).await.expect("handed over").expect("to somebody");
        assert_ne!(next, NodeId::new(leader));
        cluster.write(&format!("after={round}")).await;
        let took = Clock::real().now() - start;
        assert!(took <= Duration::from_millis(100), "round {round}: {took:?}");
        assert_eq!(cluster.leader().await, next.get());
        for node in cluster.nodes.keys() {
            cluster.sees(*node, "after", &round.to_string()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_nobody_can_follow_leads_on() {
    let cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    let group = &cluster.nodes[&leader].group;
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|node| *node != leader).collect();
    // Both are heard, and neither hears that it shall campaign.
    for other in &others {
        cluster.wires.cut(leader, *other);
    }
    assert_eq!(group.hand_over(Duration::from_millis(300)).await, Err(HandOverError::Late));
    cluster.wires.heal();
    cluster.write("a=1").await;
    let single = Cluster::start(1, usual).await;
    assert_eq!(single.nodes[&1].group.hand_over(LIMIT).await, Err(HandOverError::Nobody));
    single.write("a=1").await;
}

#[tokio::test(start_paused = true)]
async fn timers_change_while_running_and_outlive_a_restart() {
    let mut cluster = Cluster::start(3, usual).await;
    let far = Timers::for_round_trip(Duration::from_millis(300));
    let leader = cluster.leader().await;
    let follower = cluster.nodes.keys().copied().find(|node| *node != leader).expect("there are three");
    assert!(!cluster.nodes[&follower].group.set_timers(far), "only a leader can");
    assert!(cluster.nodes[&leader].group.set_timers(far));
    let start = Clock::real().now();
    while !cluster.nodes.values().all(|node| node.group.timers() == far) {
        cluster.write("a=1").await;
        sleep(Duration::from_millis(20)).await;
        assert!(Clock::real().now() - start < Duration::from_secs(10), "all go over");
    }
    assert_eq!(cluster.leader().await, leader, "nobody missed a heartbeat");
    cluster.restart(follower).await;
    assert_eq!(cluster.nodes[&follower].group.timers(), far);
    // And back, with the leader lost on the way.
    assert!(cluster.nodes[&leader].group.set_timers(Timers::default()));
    cluster.restart(leader).await;
    let next = cluster.leader().await;
    assert!(cluster.nodes[&next].group.set_timers(Timers::default()));
    let start = Clock::real().now();
    while !cluster.nodes.values().all(|node| node.group.timers() == Timers::default()) {
        sleep(Duration::from_millis(20)).await;
        assert!(Clock::real().now() - start < Duration::from_secs(20), "all go back");
    }
}

#[tokio::test(start_paused = true)]
async fn timers_follow_what_is_measured() {
    let cluster = Cluster::start(3, |config| config.retime_every = Duration::from_secs(20)).await;
    let slow = Duration::from_millis(120);
    for node in cluster.nodes.values() {
        node.disk.set_delay(slow, slow + Duration::from_millis(10));
    }
    let start = Clock::real().now();
    while cluster.nodes.values().any(|node| node.group.timers().heartbeat < 2 * slow) {
        cluster.write("a=1").await;
        assert!(
            Clock::real().now() - start < Duration::from_secs(120),
            "timers: {:?}",
            cluster.nodes[&1].group.timers()
        );
    }
}

#[cfg(not(feature = "planted-reused-id"))]
#[tokio::test(start_paused = true)]
async fn a_node_whose_files_are_gone_may_not_come_back_under_its_id() {
    let mut cluster = Cluster::start(3, |config| config.entries_kept = 1).await;
    cluster.tune = |config| config.must_exist = true;
    cluster.write("a=1").await;
    let disk = cluster.kill(2);
    disk.wipe();
    let refused = cluster.try_open(2, disk).await;
    assert!(matches!(refused, Err(OpenError::Gone { .. })), "{refused:?}");
    // The log is there and has been dropped up to somewhere; the state that held what it said is gone.
    cluster.nodes[&3].group.snapshot().await;
    cluster.write("a=2").await;
    while cluster.nodes[&3].group.metrics().purged.is_none() {
        cluster.write("a=3").await;
        cluster.nodes[&3].group.snapshot().await;
    }
    let disk = cluster.kill(3);
    disk.remove(Path::new("group/state.redb")).expect("removed");
    let refused = cluster.try_open(3, disk).await;
    assert!(matches!(refused, Err(OpenError::Gone { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restored_group_has_its_rows_leads_alone_and_takes_in_others() {
    fn second_life(config: &mut Config) {
        config.incarnation = Incarnation(2);
    }
    let mut cluster = Cluster::empty(second_life);
    let disk = cluster.disk();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut config = Config::new(NodeId::new(1), GROUP, Incarnation(2), "group");
    config.must_exist = true;
    let row = |key: &str| Row { key: key.into(), value: Some(b"old".to_vec()) };
    insula_raft::restore(&config, &shared, &Rng::from_seed(1), vec![row("a"), row("b")]).await.expect("restored");
    let found = insula_raft::look(&shared, Path::new("group")).await.expect("readable");
    assert_eq!((found.incarnation, found.rows), (Some(Incarnation(2)), vec![row("a"), row("b")]));

    cluster.open(1, disk).await;
    cluster.sees(1, "a", "old").await;
    assert_eq!(cluster.write("b=new").await, 0, "it leads alone");
    cluster.restart(1).await;
    cluster.write("c=new").await;
    for id in [2, 3] {
        cluster.add(id).await;
    }
    cluster.nodes[&1].group.set_voters(&ids([1, 2, 3]), LIMIT).await.expect("all vote");
    for id in [2, 3] {
        // What was only in the backup comes with a snapshot, what came later with the log.
        cluster.sees(id, "a", "old").await;
        cluster.sees(id, "b", "new").await;
    }
    cluster.kill(1);
    cluster.write("without=1").await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_is_nearly_full_hands_over_and_leads_when_nobody_else_can() {
    let cluster = Cluster::start(3, usual).await;
    let first = cluster.leader().await;
    cluster.write("before=1").await;
    cluster.nodes[&first].disk.fill(true);
    let full = Clock::real().now();
    while cluster.leader().await == first {
        assert!(full.elapsed() < Duration::from_secs(3), "node {first} still leads");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(*cluster.nodes[&first].group.state().borrow(), GroupState::Running, "what had its place is written");
    cluster.write("after=1").await;

    // The rest is full too: somebody has to lead all the same, and does not give way for ever.
    cluster.nodes.values().for_each(|node| node.disk.fill(true));
    sleep(Duration::from_secs(5)).await;
    cluster.leader().await;
    cluster.nodes.values().for_each(|node| node.disk.fill(false));
    cluster.write("room=1").await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_leader_hands_over_with_hardly_a_pause_too() {
    let cluster = Cluster::start(3, usual).await;
    let ms = Duration::from_millis;
    cluster.nodes.values().for_each(|node| node.disk.set_delay(ms(1), ms(4)));
    let writer = |number| {
        let cluster = &cluster;
        async move {
            for turn in 0_u32.. {
                cluster.write(&format!("w{number}={turn}")).await;
            }
        }
    };
    let hand_overs = async {
        for round in 0..40 {
            sleep(ms(30) + ms(round)).await;
            let leader = cluster.leader().await;
            let start = Clock::real().now();
            cluster.nodes[&leader].group.hand_over(LIMIT).await.expect("handed over");
            cluster.leader().await;
            let took = start.elapsed();
            assert!(took <= ms(150), "round {round}: {took:?}");
        }
    };
    tokio::select! {
        _ = futures::future::join_all((0..8).map(writer)) => {}
        () = hand_overs => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_nobody_waits_for_any_more_leaves_nothing_behind() {
    let cluster = Cluster::start(3, usual).await;
    let leader = cluster.leader().await;
    let group = &cluster.nodes[&leader].group;
    for other in cluster.nodes.keys().copied().filter(|node| *node != leader) {
        cluster.wires.cut(leader, other);
    }
    tokio::time::timeout(Duration::from_millis(50), group.hand_over(LIMIT)).await.expect_err("nobody can follow");
    cluster.wires.heal();
    group.propose(b"a=1".to_vec(), LIMIT).await.expect("it leads on, and takes commands");
}
