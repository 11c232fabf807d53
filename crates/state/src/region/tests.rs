mod hooks;

use std::{collections::BTreeMap, sync::Arc};

use insula_types::{
    Addresses, Agreed, AppName, ByteSize, Capacity, ClusterId, ContentHash, Desired, FileSpec, Incarnation, InstanceId,
    Level, Node, NodeHealth, NodeId, Placement, PlacementSpec, RegionalDefinition, RegionalService, ReleaseNumber,
    RequestId, ServiceRef, ServiceSpec, VolumeRef, VolumeSpec, codec, label::LABELS_MAX,
};

use super::*;
use crate::{
    Machine, Outcome, RejectionCode, Replica,
    event::{EVENTS_MAX, Event, EventKind},
    seal,
};

mod conflicts;
mod told;

struct Region {
    replica: Arc<Replica<RegionState>>,
    machine: Machine<RegionState>,
    requests: u64,
}

fn node(id: u64, name: &str) -> Node {
    Node {
        id: NodeId::new(id),
        name: name.parse().expect("a name"),
        region: "fra".parse().expect("a name"),
        datacenter: "fra1".parse().expect("a name"),
        address: "10.0.0.1:7443".parse().expect("an address"),
        capacity: Capacity::default(),
        version: "0.1.0".into(),
        health: NodeHealth::Up,
        is_cordoned: false,
        is_draining: false,
        joined_ms: 0,
    }
}

impl Region {
    fn new() -> Self {
        let replica = Replica::new();
        let mut region = Self { machine: Machine::new(Arc::clone(&replica)), replica, requests: 0 };
        let meta = RegionMeta {
            cluster: ClusterId::new(1),
            region: "fra".parse().expect("a name"),
            incarnation: Incarnation(1),
        };
        region.at(0, &RegionCommand::Init { meta, node: Box::new(node(1, "n1")) }).expect("empty");
        region
    }

    fn at(&mut self, at_ms: u64, command: &RegionCommand) -> Result<RegionReply, Rejection> {
        self.requests += 1;
        let sealed = seal(RequestId(self.requests, 0), at_ms, codec::encode(command));
        let outcome: Outcome<RegionReply> =
            codec::decode(&self.machine.apply(&sealed).expect("decodes").replies[0]).expect("an outcome");
        outcome.result
    }

    /// All its nodes know a level, and have agreed on it.
    fn raise(&mut self, level: Level) {
        let version = format!("0.1.0+level.{level}");
        let nodes: Vec<Node> = self.replica.read(|state| state.nodes.values().cloned().collect());
        for Node { id, address, capacity, .. } in nodes {
            let version = version.clone();
            self.at(0, &RegionCommand::UpdateNode { id, address, capacity, version }).expect("a member");
        }
        self.at(0, &RegionCommand::RaiseLevel(Agreed { level, version })).expect("all know it");
    }

    fn token(&mut self, uses_left: u32) {
        let token = JoinToken { id: "t".into(), secret_hash: "7".into(), expires_ms: 1000, uses_left };
        self.at(0, &RegionCommand::CreateJoinToken(token)).expect("new");
    }
}

fn join(secret: u8, id: u64, name: &str) -> RegionCommand {
    RegionCommand::Join { token: "t".into(), secret_hash: secret.to_string(), node: Box::new(node(id, name)) }
}

#[test]
fn a_token_lets_in_as_many_as_it_says_and_no_longer() {
    let mut region = Region::new();
    region.token(1);
    let code = |result: Result<_, Rejection>| result.expect_err("refused").code;
    assert_eq!(code(region.at(1, &join(8, 2, "n2"))), RejectionCode::Forbidden, "wrong secret");
    assert_eq!(code(region.at(1, &join(7, 2, "n1"))), RejectionCode::Conflict, "name taken");
    region.at(1, &join(7, 2, "n2")).expect("good");
    region.at(1, &join(7, 2, "n2")).expect("asked again by the same node: answered, costs nothing");
    assert_eq!(code(region.at(1, &join(7, 3, "n3"))), RejectionCode::Forbidden, "used up");
    let mut region = Region::new();
    region.token(5);
    assert_eq!(code(region.at(1000, &join(7, 2, "n2"))), RejectionCode::Forbidden, "expired");
}

#[test]
fn tokens_that_have_ended_make_room() {
    let mut region = Region::new();
    for number in 0..100u64 {
        let token =
            JoinToken { id: number.to_string(), secret_hash: "7".into(), expires_ms: number + 10, uses_left: 1 };
        region.at(number, &RegionCommand::CreateJoinToken(token)).expect("new");
    }
    let ids = region.replica.read(|state| state.join_tokens.values().map(|token| token.id.clone()).collect::<Vec<_>>());
    assert!(ids.len() <= 2 * 10 && (90..100u64).all(|number| ids.contains(&number.to_string())), "{ids:?}");
}

#[test]
fn a_removed_node_never_comes_back() {
    let mut region = Region::new();
    region.token(5);
    region.at(1, &join(7, 2, "n2")).expect("good");
    region.at(2, &RegionCommand::RemoveNode { id: NodeId::new(2), reason: "wiped".into() }).expect("empty node");
    let refused = region.at(3, &join(7, 2, "n2")).expect_err("tombstoned");
    assert_eq!(refused.code, RejectionCode::Forbidden);
}

#[test]
fn a_node_is_taken_out_as_it_was_seen_and_with_what_is_on_it_only_when_forced() {
    let mut region = Region::new();
    region.token(5);
    region.at(1, &join(7, 2, "n2")).expect("good");
    let id = NodeId::new(2);
    let seen = |region: &Region| region.replica.read(|state| state.nodes.revision(&id).expect("a member"));
    let take_out = |expected, is_forced| RegionCommand::TakeOutNode { id, reason: "gone".into(), expected, is_forced };
    let first = seen(&region);
    let up = region.at(2, &take_out(first, false)).expect_err("it is up");
    assert!(up.message.contains("n2 is up"), "{}", up.message);
    region.at(3, &RegionCommand::SetNodeHealth { id, health: NodeHealth::Down { since_ms: 3 } }).expect("a member");
    let changed = region.at(4, &take_out(first, true)).expect_err("it has changed");
    assert_eq!(changed.code, RejectionCode::Conflict);
    region.at(5, &take_out(seen(&region), false)).expect("down and empty");
    assert_eq!(region.at(6, &join(7, 2, "n2")).expect_err("tombstoned").code, RejectionCode::Forbidden);
    region.at(7, &join(7, 3, "n2")).expect("the name is free again");
}

#[test]
fn a_duty_is_told_once() {
    let mut region = Region::new();
    let id = NodeId::new(1);
    let events = |region: &Region| region.replica.read(|state| state.events.len());
    let duties = |region: &Region| {
        region.replica.read(|state| state.nodes.get(&id).map(|node| (node.is_cordoned, node.is_draining)))
    };
    for (duty, expected) in
        [(NodeDuty::Drain, (true, true)), (NodeDuty::Cordon, (true, false)), (NodeDuty::Serve, (false, false))]
    {
        let before = events(&region);
        for _ in 0..2 {
            region.at(1, &RegionCommand::SetNodeDuty { id, duty }).expect("a member");
        }
        assert_eq!((duties(&region), events(&region)), (Some(expected), before + 1));
    }
}

#[test]
fn events_are_bounded_and_the_leaders_clock_never_goes_back() {
    let mut region = Region::new();
    for index in 0..EVENTS_MAX as u64 + 50 {
        let health = if index % 2 == 0 { NodeHealth::Down { since_ms: index } } else { NodeHealth::Up };
        let at_ms = if index % 3 == 0 { 1_000_000 - index } else { 1_000_000 + index };
        region.at(at_ms, &RegionCommand::SetNodeHealth { id: NodeId::new(1), health }).expect("a member");
    }
    region.replica.read(|state| {
        assert_eq!(state.events.len(), EVENTS_MAX);
        let times: Vec<_> = state.events.values().map(|event| event.at_ms).collect();
        assert!(times.is_sorted());
    });
}

#[test]
fn a_controller_that_was_replaced_decides_nothing() {
    let mut region = Region::new();
    let node = NodeId::new(1);
    let decide = |epoch, is_cordoned| RegionCommand::Controlled {
        epoch,
        command: Box::new(RegionCommand::Cordon { id: node, is_cordoned }),
    };
    let refused = region.at(1, &decide(0, true)).expect_err("nobody took control");
    assert_eq!(refused.code, RejectionCode::Conflict);
    assert_eq!(region.at(2, &RegionCommand::TakeControl { node }), Ok(RegionReply::Control { epoch: 1 }));
    assert_eq!(region.at(3, &decide(1, true)), Ok(RegionReply::Done));
    assert_eq!(region.at(4, &RegionCommand::TakeControl { node }), Ok(RegionReply::Control { epoch: 2 }));
    assert_eq!(region.at(5, &decide(1, false)).expect_err("fenced").code, RejectionCode::Conflict);
    assert!(region.replica.read(|state| state.nodes.get(&node).is_some_and(|node| node.is_cordoned)));
    let nested = RegionCommand::Controlled { epoch: 2, command: Box::new(decide(2, false)) };
    assert_eq!(region.at(6, &nested).expect_err("one level").code, RejectionCode::Invalid);
}

#[test]
fn a_node_says_what_it_trusts_and_takes_it_along_when_it_goes() {
    let mut region = Region::new();
    let report = |node, count| RegionCommand::ReportTrust {
        node: NodeId::new(node),
        trust: NodeTrust { roots: vec!["a".into(); count], authorities: vec!["b".into()] },
    };
    region.at(0, &report(1, 1)).expect("a member");
    region.at(0, &report(2, 1)).expect_err("no member");
    region.at(0, &report(1, 9)).expect_err("too many");
    assert_eq!(region.replica.read(|state| state.trust.len()), 1);
    region.at(0, &RegionCommand::RemoveNode { id: NodeId::new(1), reason: "gone".into() }).expect("empty");
    assert_eq!(region.replica.read(|state| state.trust.len()), 0);
}

#[test]
fn a_join_token_ends_at_once() {
    let mut region = Region::new();
    region.token(5);
    region.at(0, &RegionCommand::RemoveJoinToken { id: "t".into() }).expect("there");
    let refused = region.at(0, &join(7, 2, "n2")).expect_err("ended");
    assert_eq!(refused.code, RejectionCode::Forbidden);
    let refused = region.at(0, &RegionCommand::RemoveJoinToken { id: "t".into() }).expect_err("gone");
    assert_eq!(refused.code, RejectionCode::NotFound);
}

#[test]
fn a_node_is_one_key_for_life() {
    let mut region = Region::new();
    let bind = |node, digit: &str| RegionCommand::BindKey { node: NodeId::new(node), key_sha256: digit.repeat(64) };
    region.at(0, &bind(1, "a")).expect("first");
    region.at(0, &bind(1, "a")).expect("the same again");
    let code = |result: Result<_, Rejection>| result.expect_err("refused").code;
    assert_eq!(code(region.at(0, &bind(1, "b"))), RejectionCode::Forbidden, "a join replayed with another key");
    assert_eq!(code(region.at(0, &bind(2, "b"))), RejectionCode::NotFound);
    let short = RegionCommand::BindKey { node: NodeId::new(1), key_sha256: "a".into() };
    assert_eq!(code(region.at(0, &short)), RejectionCode::Invalid);
}

fn addresses(edition: u64, list: &str) -> RegionCommand {
    let list = list.split_whitespace().map(|text| text.parse().expect("an address")).collect();
    RegionCommand::SetAddresses { node: NodeId::new(1), addresses: Addresses::new(edition, list).expect("good ones") }
}

#[test]
fn the_latest_word_of_a_node_on_where_it_is_counts() {
    let mut region = Region::new();
    let reached = |region: &Region| {
        region.replica.read(|state| {
            let node = state.nodes.get(&NodeId::new(1)).expect("a member").clone();
            (node.address.to_string(), state.addresses_of(&node).list().len())
        })
    };
    assert_eq!(reached(&region), ("10.0.0.1:7443".to_owned(), 1));
    region.at(1, &addresses(4, "203.0.113.1:7443 datacenter=10.0.0.1:7443")).expect("newer");
    assert_eq!(reached(&region), ("203.0.113.1:7443".to_owned(), 2));
    let seen = region.machine.revision();
    region.at(2, &addresses(4, "203.0.113.1:7443 datacenter=10.0.0.1:7443")).expect("said again");
    assert_eq!(region.replica.read(|state| state.events.len()), 2, "it joined, and it moved");
    assert_eq!(region.machine.revision(), seen);
    let late = region.at(3, &addresses(3, "203.0.113.9:7443")).expect_err("on its way since before it moved");
    assert_eq!(late.code, RejectionCode::Conflict);
    assert_eq!(reached(&region), ("203.0.113.1:7443".to_owned(), 2));
    // A program that knows but one address says where it is: that is newer than the list.
    let Node { id, capacity, version, .. } = node(1, "n1");
    let update =
        RegionCommand::UpdateNode { id, address: "10.0.0.7:7443".parse().expect("an address"), capacity, version };
    region.at(4, &update).expect("known");
    assert_eq!(reached(&region), ("10.0.0.7:7443".to_owned(), 1));
    let unknown =
        RegionCommand::SetAddresses { node: NodeId::new(9), addresses: Addresses::single(([1, 1, 1, 1], 1).into()) };
    assert_eq!(region.at(5, &unknown).expect_err("no member").code, RejectionCode::NotFound);
}

#[test]
fn nothing_is_kept_of_a_removed_node_but_its_tombstone() {
    for level in [2, 3] {
        let mut region = Region::new();
        region.token(1);
        region.at(1, &join(7, 2, "n2")).expect("good");
        let id = NodeId::new(2);
        region.at(2, &RegionCommand::BindKey { node: id, key_sha256: "a".repeat(64) }).expect("a member");
        if level == 3 {
            let upgrade = |number: u64| {
                let Node { id, address, capacity, .. } = node(number, "n");
                RegionCommand::UpdateNode { id, address, capacity, version: "0.3.0+level.3".into() }
            };
            region.at(3, &upgrade(1)).expect("known");
            region.at(3, &upgrade(2)).expect("known");
            region.at(3, &RegionCommand::RaiseLevel(Agreed { level: Level(3), version: "0.3.0".into() })).expect("all");
            let addresses = Addresses::single(([10, 0, 0, 2], 7443).into()).with_edition(1);
            region.at(4, &RegionCommand::SetAddresses { node: id, addresses }).expect("a member");
        }
        let expected = region.replica.read(|state| state.nodes.revision(&id)).expect("a member");
        let gone = RegionCommand::TakeOutNode { id, reason: "gone".into(), expected, is_forced: true };
        region.at(5, &gone).expect("forced");
        region.replica.read(|state| {
            assert!(state.tombstones.contains(&id) && !state.nodes.contains(&id));
            // Programs of level 2 keep the key; all voters do the same.
            assert_eq!(state.keys.contains(&id), level == 2);
            assert!(!state.addresses.contains(&id));
        });
    }
}

fn with_volume(instance: u64, on: u64, slot: u32) -> Placement {
    let volume = VolumeSpec { name: "data".parse().expect("a name"), path: "/data".into(), size: ByteSize::mib(64) };
    Placement {
        instance: InstanceId::new(instance),
        service: ServiceRef::new("shop".parse().expect("a name"), "db".parse().expect("a name")),
        node: NodeId::new(on),
        release: ReleaseNumber(1),
        spec: ServiceSpec { volumes: vec![volume], ..ServiceSpec::default() },
        desired: Desired::Run,
        reasons: Vec::new(),
        placed_ms: 0,
        slot: Some(slot),
        hook: None,
    }
}

#[test]
fn a_volume_has_one_place_one_user_and_one_end() {
    use RegionCommand as C;
    let mut region = Region::new();
    region.token(9);
    region.at(1, &join(7, 2, "n2")).expect("good");
    let volume: VolumeRef = "shop/db/data.0".parse().expect("a volume");
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    let size = |mib| C::GrowVolume { volume: volume.clone(), size: ByteSize::mib(mib) };
    let refused = |result: Result<RegionReply, Rejection>| result.expect_err("refused").message;

    region.at(2, &C::CreateVolume { volume: volume.clone(), node: two, size: ByteSize::mib(16) }).expect("new");
    let again = C::CreateVolume { volume: volume.clone(), node: one, size: ByteSize::mib(16) };
    assert!(refused(region.at(3, &again)).contains("there is a volume shop/db/data.0 already, on node n2"));
    let beside = C::CreateVolume { volume: "shop/db/log.0".parse().expect("ok"), node: one, size: ByteSize::mib(16) };
    assert!(refused(region.at(3, &beside)).contains("must be there too"));
    assert!(refused(region.at(4, &size(8))).contains("never made smaller"));

    assert_eq!(refused(region.at(5, &C::Place(vec![with_volume(1, 1, 0)]))), "volume shop/db/data.0 is on node n2");
    let both = C::Place(vec![with_volume(1, 2, 0), with_volume(2, 2, 0)]);
    assert!(refused(region.at(5, &both)).contains("has slot 0 of shop/db already"));
    region.at(6, &C::Place(vec![with_volume(1, 2, 0)])).expect("where its volume is");
    let found = |region: &Region| region.replica.read(|state| state.volumes.get(&volume).cloned());
    assert_eq!(found(&region).expect("there").size, ByteSize::mib(64), "as large as its definition says");
    assert!(refused(region.at(7, &C::Place(vec![with_volume(2, 2, 0)]))).contains("has slot 0"));

    let confirm = |node| C::ConfirmVolume { node, volume: volume.clone() };
    assert_eq!(refused(region.at(8, &confirm(one))), "shop/db/data.0 is on node n2");
    region.at(8, &confirm(two)).expect("its node");
    assert!(found(&region).expect("there").is_made);
    let delete = C::DeleteVolume { volume: volume.clone() };
    let forget = |node| C::ForgetVolume { node, volume: volume.clone() };
    assert!(refused(region.at(9, &delete)).contains("uses shop/db/data.0"));
    assert!(refused(region.at(9, &forget(two))).contains("not one that node"), "nobody deleted it");
    region.at(10, &C::RemovePlacements(vec![InstanceId::new(1)])).expect("there");
    region.at(11, &delete).expect("unused");
    assert!(refused(region.at(12, &C::Place(vec![with_volume(3, 2, 0)]))).contains("is being deleted"));
    assert!(refused(region.at(12, &size(128))).contains("there is no volume"));
    refused(region.at(13, &forget(one)));
    region.at(14, &forget(two)).expect("its node");
    region.at(14, &forget(two)).expect("said twice");
    assert_eq!(found(&region), None);
}

#[test]
fn volumes_are_not_spoken_of_before_all_know_them() {
    let place = RegionCommand::Place(vec![with_volume(1, 1, 0)]);
    let delete = RegionCommand::DeleteVolume { volume: "shop/db/data.0".parse().expect("a volume") };
    for command in [place, delete] {
        assert_eq!(command.level(), Level(4));
    }
    let plain = Placement { slot: None, spec: ServiceSpec::default(), ..with_volume(1, 1, 0) };
    assert_eq!(RegionCommand::Place(vec![plain]).level(), Level::FIRST);
}

#[test]
fn nodes_say_which_runtime_classes_they_have() {
    let mut region = Region::new();
    let set = |node, names: &[String]| {
        let runtimes = names.iter().map(|name| name.parse().expect("a name")).collect();
        RegionCommand::SetRuntimes { node: NodeId::new(node), runtimes }
    };
    let known = |region: &Region| {
        region.replica.read(|state| state.runtimes.get(&NodeId::new(1)).map(|classes| format!("{classes:?}")))
    };
    let two = ["runsc", "kata"].map(str::to_owned);
    assert_eq!(set(1, &two).level(), Level(5));
    region.at(1, &set(1, &two)).expect("a member");
    assert_eq!(known(&region).as_deref(), Some(r#"{"kata", "runsc"}"#));
    let seen = region.machine.revision();
    region.at(2, &set(1, &two)).expect("said again");
    assert_eq!(region.machine.revision(), seen);
    let many: Vec<String> = (0..=RUNTIMES_MAX).map(|number| format!("r{number}")).collect();
    assert_eq!(region.at(3, &set(1, &many)).expect_err("too many").code, RejectionCode::Invalid);
    assert_eq!(region.at(3, &set(2, &two)).expect_err("no member").code, RejectionCode::NotFound);
    region.at(4, &set(1, &[])).expect("it has none any more");
    assert_eq!(known(&region), None);

    let spec = ServiceSpec { runtime: Some("runsc".parse().expect("a name")), ..ServiceSpec::default() };
    let placement = Placement { spec, ..with_volume(1, 1, 0) };
    assert_eq!(RegionCommand::Place(vec![placement]).level(), Level(5), "with a volume too");
}

#[test]
fn nodes_say_which_labels_they_have() {
    let mut region = Region::new();
    let labels = |names: &[&str]| {
        names.iter().map(|name| (name.parse().expect("a name"), "x".parse().expect("a value"))).collect()
    };
    let set = |node, names: &[&str]| RegionCommand::SetLabels { node: NodeId::new(node), labels: labels(names) };
    let known = |region: &Region| region.replica.read(|state| state.labels.get(&NodeId::new(1)).cloned());
    assert_eq!(set(1, &[]).level(), Level(6));
    region.at(1, &set(1, &["disk", "rack"])).expect("a member");
    assert_eq!(known(&region), Some(labels(&["disk", "rack"])));
    let seen = region.machine.revision();
    region.at(2, &set(1, &["rack", "disk"])).expect("said again");
    assert_eq!(region.machine.revision(), seen);
    let many: Vec<String> = (0..=LABELS_MAX).map(|number| format!("l{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for refused in [many.as_slice(), &["datacenter"], &["node"]] {
        assert_eq!(region.at(3, &set(1, refused)).expect_err("refused").code, RejectionCode::Invalid, "{refused:?}");
    }
    assert_eq!(region.at(3, &set(2, &["disk"])).expect_err("no member").code, RejectionCode::NotFound);
    region.at(4, &set(1, &[])).expect("it has none any more");
    assert_eq!(known(&region), None);
    region.at(5, &set(1, &["disk"])).expect("a member");
    region.at(6, &RegionCommand::RemoveNode { id: NodeId::new(1), reason: "gone".into() }).expect("there");
    assert_eq!(known(&region), None, "they go with the node");

    let placement = PlacementSpec { require: labels(&["disk"]), ..PlacementSpec::default() };
    let spec = ServiceSpec { placement, ..ServiceSpec::default() };
    assert_eq!(RegionCommand::Place(vec![Placement { spec, ..with_volume(1, 1, 0) }]).level(), Level(6));
}

#[test]
fn a_content_is_kept_while_a_definition_or_a_placement_names_it() {
    let mut region = Region::new();
    let app: AppName = "shop".parse().expect("a name");
    let spec = |content: &str| ServiceSpec {
        files: vec![FileSpec { path: "/etc/a".into(), mode: 0o644, content: ContentHash::of(content) }],
        ..ServiceSpec::default()
    };
    let define = |release: u64, content: &str, brought: &[&str]| {
        let service = RegionalService { spec: spec(content), scale: 1.into(), ..RegionalService::default() };
        let services = BTreeMap::from([("web".parse().expect("a name"), service)]);
        let definition =
            RegionalDefinition { app: app.clone(), release: ReleaseNumber(release), services, again_of: None };
        let contents = brought.iter().map(|content| (ContentHash::of(content), (*content).to_owned())).collect();
        RegionCommand::SetDefinitionWith { definition, contents, secrets: vec![] }
    };
    let kept = |region: &Region| region.replica.read(|state| state.contents.values().cloned().collect::<Vec<_>>());

    assert_eq!(region.at(1, &define(1, "one", &["two"])).expect_err("not brought").code, RejectionCode::Invalid);
    region.at(1, &define(1, "one", &["one", "more"])).expect("brought");
    assert_eq!(kept(&region), ["one"], "and nothing that nobody names");
    let placed = Placement { spec: spec("one"), slot: None, ..with_volume(1, 1, 0) };
    region.at(2, &RegionCommand::Place(vec![placed.clone()])).expect("placed");
    region.at(3, &define(2, "two", &["two"])).expect("the next release");
    assert_eq!(kept(&region).len(), 2, "an instance of the first is still there");
    region.at(4, &RegionCommand::RemovePlacements(vec![placed.instance])).expect("gone");
    assert_eq!(kept(&region), ["two"]);
    region.at(5, &define(3, "two", &[])).expect("the region has it");
    region.at(6, &RegionCommand::RemoveDefinition { app }).expect("there");
    assert!(kept(&region).is_empty());
}

#[test]
fn a_sealed_value_is_kept_while_a_definition_or_a_placement_names_it() {
    let mut region = Region::new();
    let app: AppName = "shop".parse().expect("a name");
    let key: SecretName = "KEY".parse().expect("a name");
    let spec = |version| ServiceSpec { secrets: BTreeMap::from([(key.clone(), version)]), ..ServiceSpec::default() };
    let define = |release: u64, version: u32, brought: &[u32]| {
        let service = RegionalService { spec: spec(version), scale: 1.into(), ..RegionalService::default() };
        let services = BTreeMap::from([("web".parse().expect("a name"), service)]);
        let definition =
            RegionalDefinition { app: app.clone(), release: ReleaseNumber(release), services, again_of: None };
        let secrets = brought.iter().map(|version| (key.clone(), *version, ByteBuf::from([*version as u8]))).collect();
        RegionCommand::SetDefinitionWith { definition, contents: BTreeMap::new(), secrets }
    };
    let kept = |region: &Region| region.replica.read(|state| state.secrets.values().cloned().collect::<Vec<_>>());

    assert_eq!(region.at(1, &define(1, 1, &[2])).expect_err("not brought").code, RejectionCode::Invalid);
    region.at(1, &define(1, 1, &[1, 2])).expect("brought");
    assert_eq!(kept(&region), [[1]], "and nothing that nobody names");
    let placed = Placement { spec: spec(1), slot: None, ..with_volume(1, 1, 0) };
    assert_eq!(placed.level(), Level(6));
    region.at(2, &RegionCommand::Place(vec![placed.clone()])).expect("placed");
    region.at(3, &define(2, 2, &[2])).expect("the next release");
    assert_eq!(kept(&region).len(), 2, "an instance of the first is still there");
    region.at(4, &RegionCommand::RemovePlacements(vec![placed.instance])).expect("gone");
    assert_eq!(kept(&region), [[2]]);
    region.at(6, &RegionCommand::RemoveDefinition { app }).expect("there");
    assert!(kept(&region).is_empty());
}
