use std::collections::BTreeSet;

use insula_types::{Addresses, ClusterId, Desired, NodeHealth};

use super::*;

const ME: u64 = 1;

fn asking(region: &str, node: u64) -> Asking {
    Asking { node: NodeId::new(node), region: region.parse().expect("name") }
}

fn identity(region: &str, node: u64) -> NodeIdentity {
    NodeIdentity { cluster: ClusterId::new(1), region: region.parse().expect("name"), node: NodeId::new(node) }
}

/// Kinds of callers, in the order of the table below.
fn callers() -> [(&'static str, NodeIdentity, Standing); 9] {
    let (is_of_region, is_of_world) = (true, Some(true));
    let member =
        Standing { is_of_region, is_of_world, is_removed: false, is_member: Some(true), is_voter: Some(false) };
    let far = Standing { is_of_region: false, is_member: Some(false), ..member };
    let voter = Standing { is_voter: Some(true), ..member };
    [
        ("voter", identity("fra", 2), voter),
        ("member", identity("fra", 3), member),
        ("stranger", identity("fra", 4), Standing { is_member: Some(false), ..member }),
        ("removed", identity("fra", 5), Standing { is_removed: true, is_member: Some(false), ..member }),
        ("removed voter", identity("fra", 5), Standing { is_removed: true, ..voter }),
        ("other region", identity("was", 6), far),
        ("unlisted region", identity("nrt", 6), Standing { is_of_world: Some(false), ..far }),
        ("unknown region", identity("nrt", 6), Standing { is_of_world: None, ..far }),
        ("unknown", identity("fra", 7), Standing { is_member: None, is_voter: None, ..member }),
    ]
}

/// Who is allowed: y, or why not: n for good, r for now.
const TABLE: &[(u16, &str)] = &[
    // method, voter member stranger removed removed-voter other-region unlisted-region unknown-region unknown
    (Propose::ID, "yyrnnyrrr"),
    (Barrier::ID, "yyrnnyrrr"),
    (Recall::ID, "yyrnnyrrr"),
    (Relay::ID, "yyrnnyrrr"),
    (Renew::ID, "yyrnnnnnr"),
    (WatchState::ID, "yyrnnyrrr"),
    (TakeAuthority::ID, "ynnnnnnny"),
    (ReadLogs::ID, "yyrnnnnnr"),
    (RenewCertificate::ID, "yyrnnnnnr"),
    (AskLives::ID, "yyrnnyrrr"),
    (TellAddresses::ID, "yyrnnnnnr"),
    (FetchBlob::ID, "yyrnnnnnr"),
    (AskImages::ID, "yyrnnnnnr"),
    (ListImages::ID, "yyrnnnnnr"),
    (RemoveImage::ID, "yyrnnnnnr"),
    (StartExec::ID, "yyrnnnnnr"),
    (StartOneOff::ID, "yyrnnnnnr"),
    (SendInput::ID, "yyrnnnnnr"),
    (ListSnapshots::ID, "yyrnnnnnr"),
    (MakeSnapshot::ID, "yyrnnnnnr"),
    (RestoreSnapshot::ID, "yyrnnnnnr"),
    (RemoveSnapshot::ID, "yyrnnnnnr"),
    (MeasureUse::ID, "yyrnnnnnr"),
    (AskRequests::ID, "yyrnnnnnr"),
    (AskLatency::ID, "yyrnnyrrr"),
    (OpenSecrets::ID, "yyrnnnnnr"),
    (AskDigest::ID, "yyrnnyrrr"),
    (ReadDigests::ID, "yyrnnnnnr"),
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
    let [me, other] = [1, 2].map(|node| asking("fra", node));
    let far = asking("was", 1);
    let allowed = |is_voter, asking| may_relay(me.clone(), is_voter, asking).ok();
    assert_eq!([allowed(false, None), allowed(true, None)], [Some(me.clone()), Some(me.clone())]);
    assert_eq!([allowed(false, Some(me.clone())), allowed(false, Some(other.clone()))], [Some(me.clone()), None]);
    assert_eq!(allowed(true, Some(other.clone())), Some(other));
    assert_eq!(allowed(false, Some(far.clone())), None, "nobody says that it is of another region");
    assert_eq!(allowed(true, Some(far.clone())), Some(far));
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
}

#[test]
fn each_global_command_is_proposed_by_whom_the_table_says() {
    use GlobalCommand as C;
    use insula_state::global::{ApiToken, ClusterMeta, Founder, Invitation, ReleaseOutcome, Role};
    let own: RegionName = "fra".parse().expect("name");
    let app = || "shop".parse().expect("name");
    let agreed = || insula_types::Agreed { level: insula_types::Level(6), version: "1".into() };
    let invitation = Invitation {
        token: "t".into(),
        secret_hash: String::new(),
        expires_ms: 1,
        sealed: Default::default(),
        incarnation: insula_types::Incarnation(1),
        founder: None,
    };
    let token =
        ApiToken { id: "t".into(), name: "ci".into(), role: Role::Viewer, secret_hash: String::new(), expires_ms: 1 };
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: insula_types::Incarnation(1), created_ms: 0 };
    let outcome = || ReleaseOutcome { state: insula_types::DeploymentState::Done, why: String::new(), at_ms: 0 };
    let of = |name: &str| -> Vec<C> {
        let region = || -> RegionName { name.parse().expect("name") };
        vec![
            C::SetRegionLevel { region: region(), agreed: agreed() },
            C::SetSealingKey { region: region(), key: Default::default() },
            C::ReportOutcome {
                app: app(),
                release: insula_types::ReleaseNumber(1),
                region: region(),
                outcome: outcome(),
            },
            C::SetGateways { region: region(), gateways: Vec::new(), nodes: 1 },
        ]
    };
    let founder = Founder { node: NodeId::new(ME), key_sha256: String::new() };
    // By a voter of the global group and by another member, both of fra; by a node of was, and one of nrt.
    let mut table: Vec<(C, &str)> = vec![
        (C::RemoveApp { app: app() }, "yyyy"),
        (C::Scale { app: app(), service: "web".parse().expect("name"), scale: 1.into(), region: None }, "yyyy"),
        (C::SetStopped { app: app(), service: None, is_stopped: true }, "yyyy"),
        (C::RemoveSecret { app: app(), name: "KEY".parse().expect("name") }, "yyyy"),
        (C::PutApiToken(token), "yyyy"),
        (C::RemoveApiToken { id: "t".into() }, "yyyy"),
        (C::RemoveInvitation { token: "t".into() }, "yyyy"),
        (C::ActivateRoot { hash: "a".into() }, "yrrr"),
        (C::RetireRoot { hash: "a".into() }, "yyrr"),
        (
            C::InviteRegion {
                region: "sin".parse().expect("name"),
                continent: None,
                root: "a".into(),
                certificate: Default::default(),
                invitation: Box::new(invitation),
            },
            "yrrr",
        ),
        (C::ClaimRegion { token: "t".into(), secret_hash: String::new(), founder, agreed: agreed() }, "yrrr"),
        (C::Init { meta, region: own.clone(), agreed: None }, "nnnn"),
        // Of whichever region has the values, for any other.
        (C::SealForRegion { region: "nrt".parse().expect("name"), values: Vec::new() }, "yryy"),
    ];
    table.extend(of("fra").into_iter().zip(["yrnn", "yrnn", "yynn", "yynn"]));
    table.extend(of("was").into_iter().zip(["nnyn"; 4]));
    for (command, expected) in table {
        let callers = [("fra", true), ("fra", false), ("was", false), ("nrt", false)];
        let found: String = callers
            .iter()
            .map(|(region, is_voter)| told(may_propose_global(&asking(region, ME), &own, *is_voter, &command)))
            .collect();
        assert_eq!(found, expected, "{command:?}");
    }
}

#[test]
fn other_regions_ask_of_the_global_state_alone() {
    let own: RegionName = "fra".parse().expect("name");
    let told = |region, state| told(may_ask_of(state, &asking(region, ME), &own));
    assert_eq!([told("fra", StateName::Region), told("fra", StateName::Global)], ['y', 'y']);
    assert_eq!([told("was", StateName::Region), told("was", StateName::Global)], ['n', 'y']);
}

#[test]
fn only_nodes_of_the_own_region_vote() {
    let own: RegionName = "fra".parse().expect("name");
    let voters = [NodeId::new(ME)].into();
    assert!(is_voter(&asking("fra", ME), &own, &voters));
    assert!(!is_voter(&asking("fra", ME + 1), &own, &voters));
    assert!(!is_voter(&asking("was", ME), &own, &voters), "another region's CA may give any id");
    let told = |region| told(may_send_messages(&identity(region, ME), &own));
    assert_eq!([told("fra"), told("was")], ['y', 'n']);
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
