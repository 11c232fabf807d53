use insula_types::{AppName, RequestId};
use proptest::prelude::*;

use super::*;
use crate::{
    GlobalCommand, GlobalState, Machine, Replica,
    global::{App, ClusterMeta, GlobalKey, GlobalObject},
    seal,
};

/// An archive of format 1, in hexadecimal digits: read by every later version.
const GOLDEN: &str = include_str!("golden.txt");

fn about() -> About {
    About {
        state: "global".to_owned(),
        cluster: ClusterId::new(1),
        region: "fra".parse().expect("a name"),
        incarnation: Incarnation(7),
        revision: Revision(9),
        is_confirmed: true,
        version: "0.1.0".to_owned(),
        taken_ms: 1_790_000_000_000,
    }
}

type Item = (GlobalKey, Revision, GlobalObject);

fn meta() -> Item {
    let meta = ClusterMeta { cluster: ClusterId::new(1), incarnation: Incarnation(7), created_ms: 5 };
    (GlobalKey::Meta, Revision(1), GlobalObject::Meta(meta))
}

fn app(name: &str, revision: u64) -> Item {
    let name = AppName::new(name).expect("a name");
    let app = App::new(name.clone(), Default::default(), BTreeMap::new());
    (GlobalKey::App(name), Revision(revision), GlobalObject::App(app))
}

fn written(objects: Vec<Item>) -> Vec<u8> {
    Writer::<GlobalState>::new(&about(), objects).flatten().collect()
}

fn read(bytes: &[u8]) -> Result<Vec<Archive>, ArchiveError> {
    let (mut reader, mut archives) = (Reader::new(bytes), Vec::new());
    while let Some(archive) = reader.next_archive()? {
        archives.push(archive);
    }
    Ok(archives)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_format_stays() {
    let objects = vec![meta(), app("shop", 9)];
    assert_eq!(hex(&written(objects.clone())), GOLDEN.trim(), "written as ever");
    let golden: Vec<u8> = (0..GOLDEN.trim().len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&GOLDEN[at..at + 2], 16).expect("hexadecimal digits"))
        .collect();
    let archives = read(&golden).expect("a whole archive");
    assert_eq!(archives[0].about, about());
    assert_eq!(archives[0].objects::<GlobalState>().expect("known objects").0, objects);
}

#[test]
fn a_file_has_one_archive_after_the_other() {
    let bytes = [written(vec![meta()]), written(vec![app("shop", 2)])].concat();
    let archives = read(&bytes).expect("both");
    assert_eq!(archives.len(), 2);
    assert_eq!(archives[1].objects::<GlobalState>().expect("known").kinds(), BTreeMap::from([("apps", 1)]));
    assert!(matches!(read(&[bytes, b"more".to_vec()].concat()), Err(ArchiveError::Foreign { .. })));
    assert!(matches!(read(b""), Err(ArchiveError::Foreign { at: 0 })), "an empty file is no backup");
}

#[test]
fn every_cut_and_every_changed_byte_is_seen() {
    let whole = written(vec![meta(), app("shop", 9)]);
    for length in 1..whole.len() {
        let error = read(&whole[..length]).expect_err("cut");
        assert!(matches!(error, ArchiveError::CutShort { at } if at == length as u64), "{length}: {error}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        read(&changed).expect_err("changed");
    }
    let mut newer = whole;
    newer[MAGIC.len() + 3] = 2;
    assert!(matches!(read(&newer), Err(ArchiveError::Newer { found: 2 })));
}

#[test]
fn what_a_later_version_wrote_is_named() {
    let mut bytes = Writer::<GlobalState>::new(&about(), Vec::new()).piece;
    put_frame(&mut bytes, OBJECT, &codec::encode(&(1, "FromTheFuture", "x")));
    let digest = Sha256::digest(&bytes);
    put_frame(&mut bytes, END, &[&1_u64.to_be_bytes()[..], &digest].concat());
    let archives = read(&bytes).expect("it is whole");
    let error = archives[0].objects::<GlobalState>().expect_err("unknown");
    assert!(error.to_string().contains("older than 0.1.0"), "{error}");
}

#[test]
fn restored_rows_give_the_state_in_a_new_life() {
    let replica = Replica::<GlobalState>::new();
    let mut machine = Machine::new(replica.clone());
    let GlobalObject::Meta(meta) = meta().2 else { unreachable!("made above") };
    let init = GlobalCommand::Init { meta, region: "fra".parse().expect("a name"), agreed: None };
    machine.apply(&seal(RequestId(0, 1), 3, codec::encode(&init))).expect("decodes");
    let bytes = written(replica.read(Domain::objects));
    let objects = read(&bytes).expect("whole")[0].objects::<GlobalState>().expect("known");

    let (revision, rows) = objects.into_rows(Incarnation(8), replica.revision(), 4);
    let copy = Replica::<GlobalState>::new();
    let mut restored = Machine::new(copy.clone());
    restored.load(rows.into_iter().filter_map(|row| Some((row.key, row.value?)))).expect("own rows");
    assert_eq!((restored.revision(), revision), (revision, Revision(REVISIONS_PER_LIFE)));
    let incarnation = copy.read(|state| state.meta.as_ref().map(|meta| meta.incarnation));
    assert_eq!(incarnation, Some(Incarnation(8)));
    assert_eq!(copy.read(|state| state.regions.clone()), replica.read(|state| state.regions.clone()));
    assert_eq!(next_life(Revision(REVISIONS_PER_LIFE + 5)), Revision(2 * REVISIONS_PER_LIFE));
    assert_eq!(next_life(Revision(u64::MAX)), Revision(u64::MAX), "no panic on input");
}

proptest! {
    #[test]
    fn what_is_written_is_read(names in prop::collection::btree_map("[a-z]{1,12}", 1..1_000_000_u64, 0..400)) {
        let objects: Vec<Item> = names.iter().map(|(name, revision)| app(name, *revision)).collect();
        let archives = read(&written(objects.clone())).expect("whole");
        prop_assert_eq!(&archives[0].objects::<GlobalState>().expect("known").0, &objects);
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..600), is_dressed in any::<bool>()) {
        let mut bytes = if is_dressed { written(Vec::new())[..16].to_vec() } else { Vec::new() };
        bytes.extend(noise);
        prop_assert!(read(&bytes).is_err());
    }
}
