use insula_types::{Agreed, AppName, ClusterId, Incarnation, ServiceName};

use super::*;
use crate::{
    Conflict, GlobalCommand, GlobalState, RejectionCode, Update,
    global::{ClusterMeta, GlobalKey, GlobalObject, GlobalReply},
};

fn machine() -> (Arc<Replica<GlobalState>>, Machine<GlobalState>) {
    let replica = Replica::new();
    (Arc::clone(&replica), Machine::new(replica))
}

fn init() -> GlobalCommand {
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    GlobalCommand::Init { meta, region: "fra".parse().expect("a name"), agreed: None }
}

fn deploy(app: &str) -> GlobalCommand {
    GlobalCommand::Deploy {
        app: AppName::new(app).expect("a name"),
        services: BTreeMap::new(),
        scale: BTreeMap::from([(ServiceName::new("web").expect("a name"), 1.into())]),
        expect: None,
        updates: BTreeMap::new(),
        contents: BTreeMap::new(),
        tags: BTreeMap::new(),
        regions: BTreeMap::new(),
        priorities: BTreeMap::new(),
        overrides: BTreeMap::new(),
        regional_scale: BTreeMap::new(),
    }
}

fn run(machine: &mut Machine<GlobalState>, request: u64, command: &GlobalCommand) -> (Outcome<GlobalReply>, Vec<Row>) {
    let applied = machine.apply(&seal(RequestId(0, request), request, codec::encode(command))).expect("decodes");
    (codec::decode(&applied.replies[0]).expect("an outcome"), applied.rows)
}

fn outcome(machine: &mut Machine<GlobalState>, request: RequestId, command: &GlobalCommand) -> Outcome<GlobalReply> {
    let applied = machine.apply(&seal(request, 1, codec::encode(command))).expect("decodes");
    let outcome: Outcome<GlobalReply> = codec::decode(&applied.replies[0]).expect("an outcome");
    let is_reused = outcome.result.as_ref().is_err_and(|why| why.code == RejectionCode::Reused);
    assert!(!is_reused || applied.rows.is_empty(), "what is refused so leaves nothing");
    outcome
}

#[test]
fn who_asks_later_is_told_what_became_of_a_request() {
    let (replica, mut machine) = machine();
    let (_, mut rows) = run(&mut machine, 1, &init());
    let (deployed, more) = run(&mut machine, 2, &deploy("shop"));
    rows.extend(more);
    let told = |replica: &Replica<GlobalState>, request| {
        let outcome = replica.outcome(RequestId(0, request))?;
        Some(codec::decode::<Outcome<GlobalReply>>(&outcome).expect("an outcome"))
    };
    assert_eq!(told(&replica, 2), Some(deployed.clone()));
    assert_eq!(told(&replica, 3), None, "nobody asked for that");
    // After a restart, too, and by those alone who decide.
    let again = Replica::new();
    let rows = rows.into_iter().filter_map(|row| Some((row.key, row.value?)));
    Machine::new(Arc::clone(&again)).load(rows).expect("its own rows");
    assert_eq!(told(&again, 2), Some(deployed));
    Machine::new(Arc::clone(&again));
    assert_eq!(told(&again, 2), None, "one that begins anew remembers nothing");
}

#[test]
fn a_key_is_good_for_one_request_once_all_programs_know_that() {
    let founded = |agreed: Option<Level>| {
        let (_, mut machine) = machine();
        let GlobalCommand::Init { meta, region, .. } = init() else { unreachable!("made above") };
        let agreed = agreed.map(|level| Agreed { level, version: "0.1.0".to_owned() });
        outcome(&mut machine, RequestId(1, 1), &GlobalCommand::Init { meta, region, agreed }).result.expect("founded");
        let first = outcome(&mut machine, RequestId(7, 1), &deploy("shop"));
        first.result.as_ref().expect("deployed");
        (machine, first)
    };
    let (mut machine, first) = founded(Some(NAMESAKES));
    for asked in [0, 2, u64::MAX] {
        let other = outcome(&mut machine, RequestId(7, asked), &deploy("blog"));
        assert_eq!(other.result.expect_err("the key is another's").code, RejectionCode::Reused);
        assert_eq!(other.revision, first.revision, "nothing was done");
    }
    assert_eq!(outcome(&mut machine, RequestId(7, 1), &deploy("blog")), first, "the first one sent again");
    for other_key in [6, 8] {
        outcome(&mut machine, RequestId(other_key, 1), &deploy("blog")).result.expect("another key");
    }
    for older in [None, Some(Level(5))] {
        let (mut machine, _) = founded(older);
        outcome(&mut machine, RequestId(7, 2), &deploy("blog")).result.expect("as older programs decide");
    }
}

#[test]
fn a_conflict_says_which_it_is_once_all_programs_know_that() {
    let conflict = |agreed: Option<Level>| {
        let (_, mut machine) = machine();
        let GlobalCommand::Init { meta, region, .. } = init() else { unreachable!("made above") };
        let agreed = agreed.map(|level| Agreed { level, version: "0.1.0".to_owned() });
        run(&mut machine, 1, &GlobalCommand::Init { meta, region, agreed }).0.result.expect("founded");
        let mut late = deploy("shop");
        if let GlobalCommand::Deploy { expect, .. } = &mut late {
            *expect = Some(insula_types::ReleaseNumber(3));
        }
        let refused = outcome(&mut machine, RequestId(2, 2), &late).result.expect_err("another release");
        assert_eq!(refused.code, RejectionCode::Conflict);
        refused.conflict
    };
    assert_eq!(conflict(Some(CONFLICTS)), Some(Conflict::ReleaseChanged));
    for older in [None, Some(Level(5))] {
        assert_eq!(conflict(older), None, "as older programs remember it");
    }
}

/// A stand-in for the disk: rows put and removed in order.
fn store(disk: &mut BTreeMap<Vec<u8>, Vec<u8>>, rows: Vec<Row>) {
    for row in rows {
        match row.value {
            Some(value) => disk.insert(row.key, value),
            None => disk.remove(&row.key),
        };
    }
}

#[test]
fn a_command_takes_effect_once_and_only_changes_count() {
    let (_, mut machine) = machine();
    assert_eq!(run(&mut machine, 1, &init()).0.revision, Revision(1));
    let (first, _) = run(&mut machine, 2, &deploy("shop"));
    let (again, rows) = run(&mut machine, 2, &deploy("shop"));
    assert_eq!(first, again);
    assert!(rows.is_empty(), "a repeated request stores nothing");
    let (same, _) = run(&mut machine, 3, &deploy("shop"));
    assert_eq!(same.revision, first.revision, "the same definition changes nothing");
    assert_eq!(same.result, Ok(GlobalReply::Deployed { release: insula_types::ReleaseNumber(1), is_new: false }));
    let (refused, _) = run(&mut machine, 4, &init());
    assert_eq!(refused.result.expect_err("founded already").code, RejectionCode::Conflict);
    assert_eq!(refused.revision, Revision(2));
}

#[test]
fn the_commands_of_an_entry_do_what_they_do_alone() {
    let commands = [init(), deploy("shop"), deploy("shop"), deploy("blog")];
    let sealed: Vec<_> = commands
        .iter()
        .enumerate()
        .map(|(at, command)| seal(RequestId(0, at as u64 % 3), 7, codec::encode(command)))
        .collect();
    let (one_by_one, mut machine) = machine();
    let mut disk = BTreeMap::new();
    let mut replies = Vec::new();
    for sealed in &sealed {
        let applied = machine.apply(sealed).expect("decodes");
        store(&mut disk, applied.rows);
        replies.extend(applied.replies);
    }
    let (together, mut machine) = self::machine();
    let applied = machine.apply_all(sealed.iter().map(Vec::as_slice)).expect("decodes");
    let mut disk_together = BTreeMap::new();
    store(&mut disk_together, applied.rows);
    assert_eq!((applied.replies, disk_together), (replies, disk));
    assert_eq!((together.digest(), together.revision()), (one_by_one.digest(), machine.revision()));
}

#[test]
fn a_copy_that_misses_something_takes_over_all_of_an_entry_at_once() {
    let (full, mut machine) = machine();
    for (request, command) in [init(), deploy("shop"), deploy("blog"), deploy("wiki")].iter().enumerate() {
        run(&mut machine, request as u64, command);
    }
    let behind = Replica::new();
    let batch = |revision| Batch { revision: Revision(revision), changes: Vec::new() };
    behind.publish(vec![batch(3), batch(4)], &machine.state);
    assert_eq!((behind.revision(), behind.digest()), (full.revision(), full.digest()));
}

#[test]
fn stored_rows_give_the_same_state_and_the_same_memory_of_requests() {
    let (replica, mut machine) = machine();
    let mut disk = BTreeMap::new();
    for (request, command) in [init(), deploy("shop"), deploy("blog")].iter().enumerate() {
        store(&mut disk, run(&mut machine, request as u64, command).1);
    }
    let (copy, mut loaded) = self::machine();
    loaded.load(disk).expect("own rows");
    assert_eq!(copy.digest(), replica.digest());
    assert_eq!(loaded.revision(), machine.revision());
    let before = run(&mut machine, 1, &deploy("shop"));
    assert_eq!(run(&mut loaded, 1, &deploy("shop")).0, before.0, "a retry after a restart is still recognised");
}

#[test]
fn forgotten_requests_leave_no_rows() {
    let (_, mut machine) = machine();
    let mut disk = BTreeMap::new();
    for request in 0..REQUESTS_MAX as u64 + 10 {
        store(&mut disk, run(&mut machine, request, &deploy("shop")).1);
    }
    let kept = disk.keys().filter(|key| key.first() == Some(&REQUEST_PREFIX)).count();
    assert_eq!(kept, REQUESTS_MAX);
}

#[test]
fn unreadable_commands_and_rows_are_errors_and_change_nothing() {
    let (replica, mut machine) = machine();
    run(&mut machine, 1, &init());
    let before = replica.digest();
    machine.apply(b"\xc1 no envelope").expect_err("garbage");
    let unknown = seal(RequestId(9, 9), 0, codec::encode("FromTheFuture"));
    machine.apply(&unknown).expect_err("a command of a newer version");
    let known = seal(RequestId(9, 8), 0, codec::encode(&deploy("shop")));
    let (told, mut other) = self::machine();
    other.apply_all([known.as_slice(), unknown.as_slice()]).expect_err("behind one that is known");
    assert_eq!(told.revision(), Revision(0), "nobody is told of half an entry");
    machine.load([(b"o?".to_vec(), b"\xc1".to_vec())]).expect_err("a damaged row");
    assert_eq!(replica.digest(), before);
    assert_eq!(machine.revision(), Revision(1));
}

#[tokio::test]
async fn a_watch_has_no_gaps_and_resumes() {
    let (replica, mut machine) = machine();
    let follower: Arc<Replica<GlobalState>> = Replica::new();
    let mut watch = replica.watch(None);
    for request in 0..5 {
        run(&mut machine, request, &deploy(&format!("app-{request}")));
    }
    follower.follow(watch.next().await).expect("a reset first");
    let resume = follower.revision();
    run(&mut machine, 10, &deploy("late"));
    assert!(matches!(watch.next().await, Update::Batch(batch) if batch.revision == resume.next()));
    // A new watch from the same place delivers the same batch; the other one is dropped.
    let mut resumed = replica.watch(Some(resume));
    follower.follow(resumed.next().await).expect("it follows");
    assert_eq!(follower.digest(), replica.digest());
    // Far behind what is kept: a reset, not a gap.
    for request in 0..crate::replica::BATCHES_MAX as u64 + 10 {
        run(&mut machine, 100 + request, &deploy(&format!("b{request}")));
    }
    let mut late = replica.watch(Some(resume));
    let update = late.next().await;
    assert!(matches!(update, Update::Reset { .. }));
    follower.follow(update).expect("it follows");
    assert_eq!(follower.digest(), replica.digest());
}

/// A copy of a life of a cluster at a revision, marked with both.
fn whole(cluster: u64, life: u64, revision: u64) -> Update<GlobalState> {
    let (cluster, incarnation) = (ClusterId::new(cluster), Incarnation(life));
    let meta = ClusterMeta { cluster, incarnation, created_ms: revision };
    let objects = vec![(GlobalKey::Meta, Revision(revision), GlobalObject::Meta(meta))];
    Update::Reset { revision: Revision(revision), objects }
}

#[test]
fn a_copy_follows_its_own_cluster_and_never_a_life_that_is_over() {
    let replica: Arc<Replica<GlobalState>> = Replica::new();
    let shown = || replica.read_at(|state, revision| (state.meta.as_ref().map(|meta| meta.incarnation.0), revision.0));
    let mut changed = replica.changed();
    replica.belongs_to(&ClusterId::new(1), Incarnation(5));
    let refused = |update, why: &str| {
        let before = shown();
        assert_eq!(replica.follow(update).expect_err("refused").to_string(), why);
        assert_eq!(shown(), before);
    };
    let over = "it is of life 4, which is over: this node knows of life 5";
    refused(whole(1, 4, 9), over);
    let (ours, other) = (ClusterId::new(1), ClusterId::new(2));
    let foreign = format!("it is of cluster {other}, and this node of cluster {ours}");
    refused(whole(2, 6, 9), &foreign);
    let nothing = || Update::Reset { revision: Revision(9), objects: Vec::new() };
    refused(nothing(), "it is of an unknown life, which is over: this node knows of life 5");
    replica.follow(whole(1, 5, 9)).expect("its own");
    replica.follow(whole(1, 5, 8)).expect("a node that lags behind");
    assert_eq!(shown(), (Some(5), 9), "but it does not turn back");
    replica.follow(whole(1, 7, 3)).expect("a later life");
    assert_eq!(shown(), (Some(7), 3), "whatever its revision");
    assert!(changed.has_changed().expect("open"));
    changed.mark_unchanged();
    refused(whole(1, 6, 99), "it is of life 6, which is over: this node knows of life 7");
    refused(whole(2, 8, 99), &foreign);
    assert!(!changed.has_changed().expect("open"));
}

#[test]
fn the_log_of_a_later_life_takes_the_place_of_a_copy_that_is_ahead_of_it() {
    let (replica, mut machine) = machine();
    replica.follow(whole(1, 0, 99)).expect("fits");
    run(&mut machine, 1, &init());
    assert_eq!(replica.revision(), machine.revision());
    assert_eq!(replica.read(|state| state.meta.as_ref().map(|meta| meta.incarnation)), Some(Incarnation(1)));
}

#[test]
fn a_log_that_starts_behind_a_followed_copy_does_not_turn_it_back() {
    let (leader, mut leading) = machine();
    let sealed: Vec<_> = [init(), deploy("shop"), deploy("blog")]
        .iter()
        .enumerate()
        .map(|(request, command)| seal(RequestId(0, request as u64), 0, codec::encode(command)))
        .collect();
    for command in &sealed {
        leading.apply(command).expect("decodes");
    }
    // The copy of a node that follows; then it becomes a voter, and its log begins at the first command.
    let (follower, mut voting) = machine();
    follower
        .follow(Update::Reset { revision: leader.revision(), objects: leader.read(Domain::objects) })
        .expect("it follows");
    for command in &sealed {
        voting.apply(command).expect("decodes");
        assert_eq!(follower.revision(), leader.revision(), "never back");
    }
    assert_eq!(voting.revision(), leading.revision(), "the log decided the same");
    let next = seal(RequestId(0, 9), 0, codec::encode(&deploy("late")));
    leading.apply(&next).expect("decodes");
    voting.apply(&next).expect("decodes");
    assert_eq!(follower.digest(), leader.digest());
    assert_eq!(follower.revision(), leader.revision());
}
