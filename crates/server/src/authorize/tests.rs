use std::collections::BTreeSet;

use insula_types::{Addresses, ClusterId, Desired, NodeHealth};

use super::*;

const ME: u64 = 1;

fn identity(region: &str, node: u64) -> NodeIdentity {
    NodeIdentity { cluster: ClusterId::new(1), region: region.parse().expect("name"), node: NodeId::new(node) }
}

/// Kinds of callers, in the order of the table below.
fn callers() -> [(&'static str, NodeIdentity, Standing); 7] {
    let member = Standing { is_of_region: true, is_removed: false, is_member: Some(true), is_voter: Some(false) };
    let voter = Standing { is_voter: Some(true), ..member };
    [
        ("voter", identity("fra", 2), voter),
        ("member", identity("fra", 3), member),
        ("stranger", identity("fra", 4), Standing { is_member: Some(false), ..member }),
        ("removed", identity("fra", 5), Standing { is_removed: true, is_member: Some(false), ..member }),
        ("removed voter", identity("fra", 5), Standing { is_removed: true, ..voter }),
        ("other region", identity("was", 6), Standing { is_of_region: false, ..member }),
        ("unknown", identity("fra", 7), Standing { is_member: None, is_voter: None, ..member }),
    ]
}

/// Who is allowed: y, or why not: n for good, r for now.
const TABLE: &[(u16, &str)] = &[
    // method, voter member stranger removed removed-voter other-region unknown
    (Propose::ID, "yyrnnnr"),
    (Barrier::ID, "yyrnnnr"),
    (Recall::ID, "yyrnnnr"),
    (Relay::ID, "yyrnnnr"),
    (Renew::ID, "yyrnnnr"),
    (WatchState::ID, "yyrnnnr"),
    (TakeAuthority::ID, "ynnnnny"),
    (ReadLogs::ID, "yyrnnnr"),
    (RenewCertificate::ID, "yyrnnnr"),
    (AskLives::ID, "yyrnnnr"),
    (TellAddresses::ID, "yyrnnnr"),
    (FetchBlob::ID, "yyrnnnr"),
    (AskImages::ID, "yyrnnnr"),
    (ListImages::ID, "yyrnnnr"),
    (RemoveImage::ID, "yyrnnnr"),
    (StartExec::ID, "yyrnnnr"),
    (StartOneOff::ID, "yyrnnnr"),
    (SendInput::ID, "yyrnnnr"),
    (ListSnapshots::ID, "yyrnnnr"),
    (MakeSnapshot::ID, "yyrnnnr"),
    (RestoreSnapshot::ID, "yyrnnnr"),
    (RemoveSnapshot::ID, "yyrnnnr"),
    (MeasureUse::ID, "yyrnnnr"),
    (AskRequests::ID, "yyrnnnr"),
    (OpenSecrets::ID, "yyrnnnr"),
];

fn told(outcome: Result<(), Status>) -> char {
    match outcome {
        Ok(()) => 'y',
        Err(status) if status.retryable => 'r',
        Err(_) => 'n',
    }
}

#[test]
fn each_method_is_for_whom_the_table_says() {
    let own: RegionName = "fra".parse().expect("name");
    for (method, expected) in TABLE {
        for ((kind, caller, standing), expected) in callers().into_iter().zip(expected.chars()) {
            let outcome = may_call(*method, &caller, &own, standing);
            assert_eq!(told(outcome.clone()), expected, "method {method}, {kind}: {outcome:?}");
        }
    }
    let listed: BTreeSet<u16> = TABLE.iter().map(|(method, _)| *method).collect();
    assert_eq!(listed, RULES.iter().map(|rule| rule.id).collect(), "every rule is in the table");
    for (_, caller, standing) in callers() {
        let error = may_call(999, &caller, &own, standing).expect_err("not listed");
        assert_eq!(error.code, Code::UnknownMethod);
    }
}

#[test]
fn only_voters_bring_what_others_ask() {
    let [me, other] = [1, 2].map(NodeId::new);
    let allowed = |is_voter, asking| may_relay(me, is_voter, asking).ok();
    assert_eq!([allowed(false, None), allowed(true, None)], [Some(me); 2]);
    assert_eq!([allowed(false, Some(me)), allowed(false, Some(other))], [Some(me), None]);
    assert_eq!(allowed(true, Some(other)), Some(other));
}

#[test]
fn each_command_is_proposed_by_whom_the_table_says() {
    use RegionCommand as C;
    let me = NodeId::new(ME);
    let other = NodeId::new(9);
    let statuses = Vec::new;
    let trust = || insula_state::region::NodeTrust { roots: Vec::new(), authorities: Vec::new() };
    let update = |id| C::UpdateNode {
        id,
        address: "127.0.0.1:1".parse().expect("address"),
        capacity: insula_types::Capacity::default(),
        version: String::new(),
    };
    let health = C::SetNodeHealth { id: me, health: NodeHealth::Up };
    let note = |about: Option<NodeId>, text: &str| {
        let event = Event::new(0, insula_state::event::EventKind::Note, text);
        C::Note(Event { node: about, ..event })
    };
    // By a voter, by another member; both are node 1.
    let table: Vec<(C, &str)> = vec![
        (C::ReportStatus { node: me, statuses: statuses() }, "yy"),
        (C::ReportStatus { node: other, statuses: statuses() }, "nn"),
        (C::ReportTrust { node: me, trust: trust() }, "yy"),
        (C::ReportTrust { node: other, trust: trust() }, "nn"),
        (C::SetAddresses { node: me, addresses: Addresses::single(([127, 0, 0, 1], 1).into()) }, "yy"),
        (C::SetAddresses { node: other, addresses: Addresses::single(([127, 0, 0, 1], 1).into()) }, "nn"),
        (C::RemoveJoinToken { id: "t".into() }, "yy"),
        (C::BindKey { node: me, key_sha256: String::new() }, "yr"),
        (update(me), "yy"),
        (update(other), "nn"),
        (C::TakeControl { node: me }, "yr"),
        (C::TakeControl { node: other }, "nn"),
        (C::Cordon { id: other, is_cordoned: true }, "yy"),
        (C::RemoveNode { id: other, reason: String::new() }, "yy"),
        (C::Place(Vec::new()), "yr"),
        (C::RemovePlacements(Vec::new()), "yr"),
        (C::SetDesired { instances: Vec::new(), desired: Desired::Stop, reason: String::new() }, "yr"),
        (C::RemoveDefinition { app: "shop".parse().expect("name") }, "yr"),
        (health.clone(), "yr"),
        (note(Some(me), "it is so"), "yy"),
        (note(Some(other), "it is so"), "yr"),
        (note(None, "it is so"), "yr"),
        (note(Some(me), &"so ".repeat(200)), "yr"),
        (C::Controlled { epoch: 1, command: Box::new(health) }, "yr"),
        // What a node may report it may not hide inside a controller's decision.
        (C::Controlled { epoch: 1, command: Box::new(update(me)) }, "yr"),
    ];
    for (command, expected) in table {
        let found: String =
            [true, false].map(|is_voter| told(may_propose_region(me, is_voter, &command))).into_iter().collect();
        assert_eq!(found, expected, "{command:?}");
    }
    let remove = GlobalCommand::RemoveApiToken { id: "t".into() };
    assert_eq!(told(may_propose_global(me, false, &remove)), 'y');
    let activate = GlobalCommand::ActivateRoot { hash: "a".into() };
    assert_eq!([true, false].map(|is_voter| told(may_propose_global(me, is_voter, &activate))), ['y', 'r']);
    let meta = insula_state::global::ClusterMeta {
        cluster: ClusterId::new(1),
        incarnation: insula_types::Incarnation(1),
        created_ms: 0,
    };
    let found = GlobalCommand::Init { meta, region: "fra".parse().expect("name"), agreed: None };
    assert_eq!(told(may_propose_global(me, true, &found)), 'n');
}

#[test]
fn raft_is_for_members_that_were_not_removed() {
    assert!(admits(false, true));
    assert!(!admits(true, true) && !admits(false, false) && !admits(true, false));
}

#[test]
fn only_the_key_of_the_own_ca_is_taken() {
    use insula_identity::{Lifetimes, RootAuthority};
    let (now, lifetimes) = (insula_env::Clock::real().wall(), Lifetimes::default());
    let root = |cluster| RootAuthority::create(ClusterId::new(cluster), &lifetimes, now).expect("root");
    let (home, foreign) = (root(1), root(2));
    let region = |root: &RootAuthority, name: &str| {
        root.issue_region(&name.parse().expect("name"), &lifetimes, now).expect("region CA")
    };
    let (own, impostor) = (region(&home, "fra"), region(&home, "fra"));
    let me = identity("fra", ME);
    assert!(is_own_authority(&me, own.certificate(), &own).is_ok());
    for wrong in [impostor, region(&home, "was"), region(&foreign, "fra")] {
        let error = is_own_authority(&me, own.certificate(), &wrong).expect_err("another key");
        assert_eq!(error.code, Code::PermissionDenied);
    }
}
