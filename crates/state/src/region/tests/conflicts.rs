//! Each conflict that a caller of the API can meet says which it is.

use super::*;
use crate::Conflict;

#[test]
fn volumes_and_nodes_say_what_stands_against_a_command() {
    use RegionCommand as C;
    let mut region = Region::new();
    region.token(9);
    region.at(1, &join(7, 2, "n2")).expect("good");
    region.raise(Level(6));
    let volume: VolumeRef = "shop/db/data.0".parse().expect("a volume");
    let (one, two) = (NodeId::new(1), NodeId::new(2));
    let create = |volume: &VolumeRef, node| C::CreateVolume { volume: volume.clone(), node, size: ByteSize::mib(16) };
    region.at(2, &create(&volume, two)).expect("new");
    region.at(2, &C::Place(vec![with_volume(1, 2, 0)])).expect("where its volume is");
    let seen = region.replica.read(|state| state.nodes.revision(&two)).expect("a member");
    let take_out = |expected| C::TakeOutNode { id: two, reason: String::new(), expected, is_forced: false };
    let beside: VolumeRef = "shop/db/log.0".parse().expect("a volume");
    for (command, expected) in [
        (create(&volume, one), Conflict::VolumeExists),
        (create(&beside, one), Conflict::VolumeElsewhere),
        (C::GrowVolume { volume: volume.clone(), size: ByteSize::mib(1) }, Conflict::VolumeNotSmaller),
        (C::DeleteVolume { volume: volume.clone() }, Conflict::VolumeInUse),
        (take_out(Revision(0)), Conflict::NodeChanged),
        (take_out(seen), Conflict::NodeInUse),
        (C::ConfirmVolume { node: one, volume: volume.clone() }, Conflict::Ours),
    ] {
        let refused = region.at(3, &command).expect_err("refused");
        assert_eq!((refused.code, refused.conflict), (RejectionCode::Conflict, Some(expected)), "{command:?}");
    }
    region.at(4, &C::RemovePlacements(vec![InstanceId::new(1)])).expect("there");
    assert_eq!(region.at(5, &take_out(seen)).expect_err("it is up").conflict, Some(Conflict::NodeIsUp));
}
