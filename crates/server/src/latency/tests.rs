use std::sync::atomic::{AtomicUsize, Ordering};

use insula_env::{Beat, Env, Rng, clock};
use insula_state::{Domain, Replica, Update};
use insula_types::Revision;

use super::{choose::tests::name, *};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn targets(list: &[(u64, &str)]) -> Vec<Target> {
    let region = |region: &str| (!region.is_empty()).then(|| name(region));
    list.iter().map(|(id, of)| Target { node: NodeId::new(*id), region: region(of) }).collect()
}

/// Everybody that is a gateway is one of `others`.
fn set(map: &LatencyMap, list: &[(u64, &str)], others: &[u64]) {
    let targets = targets(list);
    let far = targets.iter().filter(|target| target.region.is_some()).map(|target| target.node);
    map.set(&targets, &far.chain(others.iter().copied().map(NodeId::new)).collect());
}

fn note(map: &LatencyMap, node: u64, outcomes: &[Option<u64>]) -> bool {
    outcomes.iter().fold(false, |_, outcome| map.note(NodeId::new(node), outcome.map(ms)))
}

fn far(map: &LatencyMap) -> Vec<(String, u64)> {
    map.regions().into_iter().map(|(region, time)| (region.to_string(), time.as_millis() as u64)).collect()
}

fn is(list: &[(&str, u64)]) -> Vec<(String, u64)> {
    list.iter().map(|(region, ms)| ((*region).to_owned(), *ms)).collect()
}

#[test]
fn a_region_is_as_far_as_the_nearest_of_its_gateways_that_answers() {
    let map = LatencyMap::default();
    assert_eq!(far(&map), []);
    set(&map, &[(1, ""), (31, "nrt"), (32, "nrt"), (41, "was"), (51, "sin")], &[]);
    assert_eq!(far(&map), [], "nothing is known yet");
    note(&map, 1, &[Some(1)]);
    note(&map, 31, &[Some(140), Some(150), Some(900)]);
    note(&map, 32, &[Some(160)]);
    note(&map, 41, &[None, Some(90)]);
    note(&map, 51, &[None, None, None]);
    assert_eq!(far(&map), is(&[("nrt", 150), ("was", 90)]));
    assert!(note(&map, 31, &[None, None, None]), "it is silent");
    assert_eq!(far(&map), is(&[("nrt", 160), ("was", 90)]));
    note(&map, 32, &[None, None, None]);
    assert_eq!(far(&map)[0], ("nrt".to_owned(), 150), "cut off, it is as far as it was");
}

#[test]
fn what_is_not_probed_any_more_counts_least_and_who_has_left_is_forgotten() {
    let map = LatencyMap::default();
    set(&map, &[(31, "nrt"), (32, "nrt")], &[]);
    note(&map, 31, &[Some(20)]);
    set(&map, &[(32, "nrt")], &[31]);
    assert_eq!(far(&map), is(&[("nrt", 20)]), "nothing else is known");
    note(&map, 32, &[Some(300)]);
    assert_eq!(far(&map), is(&[("nrt", 300)]));
    assert_eq!(map.tell(true).regions.len(), 1);
    set(&map, &[], &[]);
    assert_eq!(far(&map), []);
    // Its id is another region's by now.
    set(&map, &[(31, "was")], &[]);
    assert_eq!(far(&map), []);
}

#[test]
fn what_a_gateway_says_counts_where_this_node_does_not_look() {
    let map = LatencyMap::default();
    set(&map, &[(1, "")], &[]);
    let measured = |us| Measured { p50_us: Some(us), p99_us: Some(us), probes: 1, lost: 0 };
    let silent = Measured { probes: 3, lost: 3, ..Measured::default() };
    map.hear([(name("nrt"), measured(266_000)), (name("was"), silent)].into());
    assert_eq!(far(&map), is(&[("nrt", 266)]));
    let told = map.tell(true);
    assert_eq!(told.regions, [(name("nrt"), measured(266_000)), (name("was"), silent)]);
    assert_eq!(told.nodes, [], "it was not probed yet");
    set(&map, &[(1, ""), (31, "nrt")], &[]);
    assert_eq!(far(&map), [], "from now on it looks itself");
}

#[test]
fn nodes_that_are_clearly_farther_are_asked_later_and_silent_ones_last() {
    let map = LatencyMap::default();
    let order = |map: &LatencyMap| {
        let mut nodes = [31, 32, 33, 34, 35];
        map.nearest_first(&mut nodes, |node| NodeId::new(*node));
        nodes
    };
    assert_eq!(order(&map), [31, 32, 33, 34, 35], "nothing is known");
    set(&map, &[(31, "nrt"), (32, "nrt"), (33, "nrt"), (35, "nrt")], &[]);
    note(&map, 31, &[Some(280)]);
    note(&map, 32, &[None, None, None]);
    note(&map, 33, &[Some(268)]);
    note(&map, 35, &[Some(260)]);
    assert_eq!(order(&map), [33, 34, 35, 31, 32]);
}

#[test]
fn nodes_are_told_to_those_who_ask_for_them() {
    let map = LatencyMap::default();
    set(&map, &[(1, ""), (31, "nrt"), (32, "nrt")], &[]);
    note(&map, 1, &[Some(1), None]);
    note(&map, 31, &[Some(7)]);
    note(&map, 32, &[None]);
    let one = |ms: u64, probes, lost| Measured { p50_us: Some(ms * 1000), p99_us: Some(ms * 1000), probes, lost };
    assert_eq!(map.tell(true).nodes, [(NodeId::new(1), one(1, 2, 1))]);
    let told = map.tell(false);
    assert_eq!((told.regions, told.nodes), (vec![(name("nrt"), one(7, 1, 0))], vec![]));
}

/// Node 1 of region fra, which has so many members, in a world of these regions.
fn prober(members: u64, regions: &[(&str, &[u64])]) -> Prober {
    let env = Env::real("test");
    let (region, global) = (Replica::new(), Replica::new());
    let revision = Revision(1);
    region.follow(Update::Reset { revision, objects: choose::tests::region(1..=members).objects() }).expect("fits");
    global.follow(Update::Reset { revision, objects: choose::tests::world(regions).objects() }).expect("fits");
    let (node, name, map) = (NodeId::new(1), name("fra"), LatencyMap::default());
    Prober { node, name, map, region, global, clock: env.clock, rng: Rng::from_seed(1) }
}

/// Probes for so long; `measure` says how long a node takes to answer, if it does.
async fn probe_for(prober: &Prober, span: Duration, measure: impl Fn(u64) -> Option<Duration>) {
    let (under_way, beat) = (AtomicUsize::new(0), Beat::unwatched());
    let (measure, under_way) = (&measure, &under_way);
    let probing = prober.probe(&beat, |node| async move {
        assert!(under_way.fetch_add(1, Ordering::Relaxed) < 8, "too many at a time");
        let outcome = measure(node.get());
        clock::sleep(outcome.unwrap_or(Duration::from_secs(5))).await;
        under_way.fetch_sub(1, Ordering::Relaxed);
        outcome
    });
    clock::timeout(span, probing).await.expect_err("it does not end");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_keeps_nobody_else_waiting() {
    let prober = prober(9, &[("fra", &[1]), ("nrt", &[31, 32]), ("was", &[41, 42])]);
    probe_for(&prober, Duration::from_secs(2), |node| Some(ms(node))).await;
    let first = prober.map.tell(true);
    let seen = (first.nodes.len(), first.regions.len());
    assert_eq!(seen, (8, 2), "all are probed soon");
    // Half of them are off.
    probe_for(&prober, Duration::from_secs(600), |node| (node % 2 == 0).then(|| ms(node))).await;
    let told = prober.map.tell(true);
    for (node, measured) in &told.nodes {
        let (lost, probes) = (measured.lost, measured.probes);
        assert!((110..=120).contains(&probes), "{node}: {measured:?}");
        assert!(if node.get() % 2 == 0 { lost == 0 } else { lost + 3 > probes }, "{node}: {measured:?}");
    }
    assert_eq!(far(&prober.map), is(&[("nrt", 32), ("was", 42)]));
}

#[tokio::test(start_paused = true)]
async fn another_gateway_is_probed_instead_of_those_that_are_silent() {
    let prober = prober(1, &[("fra", &[1]), ("nrt", &[31, 32, 33, 34])]);
    probe_for(&prober, Duration::from_secs(60), |node| (node == 34).then(|| ms(266))).await;
    assert_eq!(far(&prober.map), is(&[("nrt", 266)]));
    let told = prober.map.tell(false).regions;
    assert_eq!((told[0].1.p50_us, told[0].1.lost), (Some(266_000), 0), "{told:?}");
    // Their absence is not for ever.
    probe_for(&prober, Duration::from_secs(180), |node| Some(ms(node))).await;
    assert_eq!(far(&prober.map), is(&[("nrt", 32)]), "the first two from here on");
}
