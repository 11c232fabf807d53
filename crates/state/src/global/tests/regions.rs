use insula_types::{Agreed, NodeId, RegionSet};

use super::*;
use crate::Domain;

fn region(text: &str) -> RegionName {
    text.parse().expect("a name")
}

fn agreed(level: u32) -> Agreed {
    Agreed { level: Level(level), version: "1.2.3".into() }
}

/// Region fra at level 6, with an active root.
fn founded() -> World {
    let mut world = World::new();
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(1), created_ms: 0 };
    world.run(&GlobalCommand::Init { meta, region: region("fra"), agreed: Some(agreed(6)) }).expect("empty");
    let (certificate, regions) = (ByteBuf::from([1]), BTreeMap::from([(region("fra"), ByteBuf::from([2]))]));
    let root = TrustedRoot { certificate, state: RootState::Active, regions, added_ms: 0 };
    world.run(&GlobalCommand::AddRoot { hash: "r".into(), root }).expect("the first");
    world
}

fn invitation(token: &str, expires_ms: u64) -> Box<Invitation> {
    Box::new(Invitation {
        token: token.into(),
        secret_hash: format!("hash of {token}"),
        expires_ms,
        sealed: ByteBuf::from([7; 100]),
        incarnation: Incarnation(5),
        founder: None,
    })
}

fn invite(name: &str, token: &str, expires_ms: u64) -> GlobalCommand {
    GlobalCommand::InviteRegion {
        region: region(name),
        continent: "asia".parse().ok(),
        root: "r".into(),
        certificate: ByteBuf::from([3]),
        invitation: invitation(token, expires_ms),
    }
}

fn founder(node: u64) -> Founder {
    Founder { node: NodeId::new(node), key_sha256: format!("key of {node}") }
}

fn claim(token: &str, node: u64, level: u32) -> GlobalCommand {
    let secret_hash = format!("hash of {token}");
    GlobalCommand::ClaimRegion { token: token.into(), secret_hash, founder: founder(node), agreed: agreed(level) }
}

fn gateways(name: &str, count: u64) -> GlobalCommand {
    let gateway = |node| Gateway { node: NodeId::new(node), addresses: vec![([192, 0, 2, 1], 7443).into()] };
    GlobalCommand::SetGateways { region: region(name), gateways: (1..=count).map(gateway).collect(), nodes: 9 }
}

/// Regions with how far they are, invitations, and whose CAs the root has signed.
fn seen(world: &World) -> (Vec<(String, Phase)>, Vec<String>, Vec<String>) {
    world.replica.read(|state| {
        let regions = state.regions.values().map(|region| (region.name.to_string(), region.phase));
        let signed = state.roots.values().flat_map(|root| root.regions.keys().map(ToString::to_string));
        (regions.collect(), state.invitations.values().map(|one| one.token.clone()).collect(), signed.collect())
    })
}

fn fra_alone() -> (Vec<(String, Phase)>, Vec<String>, Vec<String>) {
    (vec![("fra".into(), Phase::Serving)], vec![], vec!["fra".into()])
}

#[test]
fn a_region_is_invited_founded_and_serves() {
    let mut world = founded();
    world.run(&invite("nrt", "t1", 100)).expect("a new one");
    let both = vec![("fra".into(), Phase::Serving), ("nrt".into(), Phase::Joining)];
    assert_eq!(seen(&world), (both, vec!["t1".into()], vec!["fra".into(), "nrt".into()]));
    let early = world.run(&gateways("nrt", 1)).expect_err("nobody has founded it");
    assert_eq!(early.code, RejectionCode::Forbidden);

    world.run(&claim("t1", 1, 6)).expect("the first that asks");
    world.run(&claim("t1", 1, 6)).expect("the same again, since it may not have got the answer");
    let why = world.run(&claim("t1", 2, 6)).expect_err("another machine");
    assert_eq!(why.code, RejectionCode::Forbidden);
    assert!(
        why.message.contains("region nrt was founded meanwhile by n-") && why.message.contains("made there"),
        "{why}"
    );
    assert_eq!(seen(&world).1, ["t1"], "its key is kept until it serves");

    world.run(&gateways("nrt", 2)).expect("founded");
    let serving = vec![("fra".into(), Phase::Serving), ("nrt".into(), Phase::Serving)];
    assert_eq!(seen(&world), (serving, vec![], vec!["fra".into(), "nrt".into()]));
    world.replica.read(|state| {
        let nrt = state.regions.get(&region("nrt")).expect("there");
        assert_eq!((nrt.gateways.len(), nrt.nodes, nrt.continent.clone()), (2, Some(9), "asia".parse().ok()));
    });
    let late = world.run(&claim("t1", 1, 6)).expect_err("the token has had its use");
    assert_eq!(late.code, RejectionCode::Forbidden);
    assert_eq!(world.run(&gateways("was", 1)).expect_err("no such").code, RejectionCode::NotFound);
    assert_eq!(world.run(&gateways("fra", 9)).expect_err("too many").code, RejectionCode::Invalid);
}

#[test]
fn a_name_is_given_once_and_an_unused_invitation_can_be_ended() {
    let mut world = founded();
    let refused = |world: &mut World, command: &GlobalCommand| world.run(command).expect_err("refused").message;
    assert!(refused(&mut world, &invite("fra", "t1", 100)).contains("there is a region fra already"));
    world.run(&invite("nrt", "t1", 100)).expect("a new one");
    let said = refused(&mut world, &invite("nrt", "t2", 100));
    assert!(said.contains("insula token rm t1"), "{said}");
    let end = |token: &str| GlobalCommand::RemoveInvitation { token: token.into() };
    assert_eq!(world.run(&end("t2")).expect_err("no such").code, RejectionCode::NotFound);
    world.run(&end("t1")).expect("there");
    assert_eq!(seen(&world), fra_alone());
    // One that a machine has founded, and that never served, goes in the same way.
    world.run(&invite("nrt", "t3", 100)).expect("free again");
    world.run(&claim("t3", 1, 6)).expect("the first that asks");
    let key = GlobalCommand::SetSealingKey { region: region("nrt"), key: ByteBuf::from([1]) };
    world.run(&key).expect("its founder says so");
    world.run(&end("t3")).expect("there");
    assert_eq!(seen(&world), fra_alone());
    assert_eq!(world.replica.read(|state| state.sealing_keys.iter().count()), 0);
}

#[test]
fn what_nobody_used_in_time_goes_with_the_next_invitation() {
    let mut world = founded();
    world.run(&invite("nrt", "t1", 100)).expect("a new one");
    world.run(&invite("was", "t2", 100)).expect("another");
    world.run(&claim("t2", 1, 6)).expect("in time");
    world.at_ms = 100;
    let late = world.run(&claim("t1", 1, 6)).expect_err("its time is over");
    assert!(late.message.contains("has expired"), "{late}");
    world.run(&claim("t2", 1, 6)).expect("it has founded the region already");
    world.run(&invite("nrt", "t3", 200)).expect("the one before has lapsed");
    world.run(&invite("sin", "t4", 200)).expect("another");
    assert_eq!(seen(&world).1, ["t3", "t4", "t2"]);
    assert_eq!(seen(&world).2, ["fra", "nrt", "sin", "was"]);
    world.at_ms = 200;
    world.run(&invite("hnd", "t5", 300)).expect("another");
    assert_eq!(seen(&world).1, ["t5", "t2"], "what a machine has founded stays");
    assert_eq!(seen(&world).2, ["fra", "hnd", "was"]);
}

#[test]
fn a_new_region_is_the_youngest_whatever_clocks_say() {
    let mut world = founded();
    world.at_ms = 50;
    world.run(&invite("nrt", "t1", 100)).expect("a new one");
    // A state that was restored may begin before what it has.
    world.at_ms = 0;
    world.run(&invite("ams", "t2", 100)).expect("another");
    let created = |name| world.replica.read(|state| state.regions.get(&region(name)).map(|region| region.created_ms));
    assert!(created("fra") < created("nrt") && created("nrt") < created("ams"), "{:?}", created("ams"));
    let usual = world.replica.read(|state| state.regions_for(&RegionSet::Usual));
    assert_eq!(usual, [region("fra")].into());
}

#[test]
fn nobody_is_invited_between_two_roots() {
    let mut world = founded();
    let (certificate, regions) = (ByteBuf::from([8]), BTreeMap::from([(region("fra"), ByteBuf::from([9]))]));
    let root = TrustedRoot { certificate, state: RootState::Trusted, regions, added_ms: 0 };
    world.run(&GlobalCommand::AddRoot { hash: "s".into(), root }).expect("the next");
    let refused = world.run(&invite("nrt", "t1", 100)).expect_err("which root would sign it?");
    assert_eq!(refused.code, RejectionCode::Conflict);
}

#[test]
fn what_was_sealed_to_a_region_that_did_not_come_to_be_goes_with_it() {
    let mut world = founded();
    world.run(&invite("nrt", "t1", 100)).expect("a new one");
    world.run(&claim("t1", 9, 6)).expect("the first");
    let (app, name) = ("shop".parse().expect("a name"), "KEY".parse().expect("a name"));
    for name in ["fra", "nrt"] {
        let key = ByteBuf::from([5; 32]);
        world.run(&GlobalCommand::SetSealingKey { region: region(name), key }).expect("the first of its region");
    }
    let sealed = ["fra", "nrt"].map(|name| (region(name), ByteBuf::from([1; 64]))).into();
    world.run(&GlobalCommand::SetSecret { app, name, sealed, by: "me".into() }).expect("set");
    let regions = |world: &World| {
        world.replica.read(|state| {
            let values = state.secrets.values().flat_map(|secret| secret.versions.values());
            values.flat_map(|value| value.sealed.keys().map(ToString::to_string)).collect::<Vec<_>>()
        })
    };
    assert_eq!(regions(&world), ["fra", "nrt"]);
    world.run(&GlobalCommand::RemoveInvitation { token: "t1".into() }).expect("it is there");
    assert_eq!(regions(&world), ["fra"]);
}

#[test]
fn there_are_so_many_regions_and_no_more() {
    let mut world = founded();
    for number in 1..REGIONS_MAX {
        world.run(&invite(&format!("r{number}"), &format!("t{number}"), 100)).expect("a new one");
    }
    let why = world.run(&invite("nrt", "t", 100)).expect_err("one too many");
    assert_eq!((why.code, why.message.contains("64 regions")), (RejectionCode::Invalid, true));
    world.at_ms = 100;
    world.run(&invite("nrt", "t", 200)).expect("those before have lapsed");
}

#[test]
fn bad_invitations_are_refused() {
    let mut world = founded();
    let mut other_root = invite("nrt", "t", 100);
    if let GlobalCommand::InviteRegion { root, .. } = &mut other_root {
        *root = "x".into();
    }
    assert_eq!(world.run(&other_root).expect_err("not the active one").code, RejectionCode::Conflict);
    let change = |with: fn(&mut Invitation)| {
        let mut command = invite("nrt", "t", 100);
        if let GlobalCommand::InviteRegion { invitation, .. } = &mut command {
            with(invitation);
        }
        command
    };
    let no_key = change(|invitation| invitation.sealed.clear());
    let founded = change(|invitation| invitation.founder = Some(founder(1)));
    for command in [no_key, founded] {
        assert_eq!(world.run(&command).expect_err("none").code, RejectionCode::Invalid);
    }
    assert_eq!(seen(&world), fra_alone());
    let wrong = GlobalCommand::ClaimRegion {
        token: "t".into(),
        secret_hash: "guessed".into(),
        founder: founder(1),
        agreed: agreed(6),
    };
    world.run(&invite("nrt", "t", 100)).expect("a good one");
    assert_eq!(world.run(&wrong).expect_err("another secret").code, RejectionCode::Forbidden);
}

#[test]
fn a_region_that_nobody_has_founded_holds_back_no_level_and_an_old_program_founds_none() {
    let mut world = founded();
    world.run(&invite("nrt", "t", 100)).expect("a new one");
    let raise = |name: &str, level| GlobalCommand::SetRegionLevel { region: region(name), agreed: agreed(level) };
    world.run(&raise("fra", 7)).expect("there");
    assert_eq!(world.replica.read(GlobalState::level), Level(7), "nobody waits for a region without a node");
    let why = world.run(&claim("t", 1, 6)).expect_err("it knows less than has been agreed on");
    assert!(why.message.contains("install version 1.2.3 or later"), "{why}");
    world.run(&claim("t", 1, 7)).expect("it knows as much");
    world.run(&raise("fra", 8)).expect("there");
    assert_eq!(world.replica.read(GlobalState::level), Level(7), "from now on it counts");
    assert_eq!(invite("nrt", "t", 100).level(), Level(6));
}
