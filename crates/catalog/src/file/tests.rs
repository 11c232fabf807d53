use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect;
use insula_env::RealDisk;
use insula_types::{ClusterId, Incarnation, InstanceId, NodeId, PortName, Revision, ServiceRef};

use super::*;
use crate::{CatalogInstance, CatalogNode, CatalogService, RouteTarget};

fn sample() -> Catalog {
    let own = NodeId::new(7);
    let port = PortName::new("http").unwrap();
    let service = ServiceRef::new("shop".parse().unwrap(), "web".parse().unwrap());
    let instance = CatalogInstance {
        node: own,
        is_ready: true,
        was_ready: true,
        is_draining: false,
        is_first: false,
        release: None,
        ports: BTreeMap::from([(port.clone(), 8080)]),
        h2c: BTreeSet::new(),
        endpoints: BTreeMap::from([(port.clone(), "10.1.0.2:8080".parse().unwrap())]),
    };
    let node = CatalogNode {
        name: "n1".parse().unwrap(),
        datacenter: "fra1".parse().unwrap(),
        address: "[2001:db8::1]:7443".parse().unwrap(),
        others: Vec::new(),
        is_up: true,
    };
    Catalog {
        incarnation: Incarnation(1),
        revision: Revision(42),
        nodes: BTreeMap::from([(own, node)]),
        services: BTreeMap::from([(
            service.clone(),
            CatalogService { instances: BTreeMap::from([(InstanceId::new(3), instance)]), first_weight: None },
        )]),
        routes: BTreeMap::from([(
            "shop.example".to_owned(),
            BTreeMap::from([("/".to_owned(), RouteTarget { service, port })]),
        )]),
        tombstones: BTreeSet::from([NodeId::new(9)]),
        ..Catalog::empty(ClusterId::new(1), "fra".parse().unwrap(), own)
    }
}

fn file(dir: &tempfile::TempDir) -> CatalogFile {
    CatalogFile::new(Arc::new(RealDisk), dir.path().join("catalog"))
}

#[tokio::test]
async fn what_is_stored_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    assert!(file.load().unwrap().is_none(), "there is none yet");
    file.store(Arc::new(sample())).await.unwrap();
    assert_eq!(file.load().unwrap(), Some(sample()));
}

/// Golden: these bytes were written by format 1 and must be read for ever. A change here is a change of the format.
#[test]
fn format_one() {
    let golden = expect![[r#"
        494e53554c41637400000001000000000000015d5394a55f3930156b58b836d039eaeb506ca0e4d63bb80a57f4fcf2a93b35
        d03989ab696e6361726e6174696f6e01a87265766973696f6e2aa7636c7573746572b0303030303030303030303030303030
        31a6726567696f6ea3667261a36f776e07a56e6f646573810784a46e616d65a26e31aa6461746163656e746572a466726131
        a76164647265737381a2563692dc001020010dccb8000000000000000000000001cd1d13a569735f7570c3a8736572766963
        65738182a3617070a473686f70a773657276696365a377656281a9696e7374616e636573810386a46e6f646507a869735f72
        65616479c3a97761735f7265616479c3ab69735f647261696e696e67c2a5706f72747381a468747470cd1f90a9656e64706f
        696e747381a46874747081a2563492940a010002cd1f90a6726f7574657381ac73686f702e6578616d706c6581a12f82a773
        65727669636582a3617070a473686f70a773657276696365a3776562a4706f7274a468747470aa746f6d6273746f6e657391
        09"#]];
    let hex = hex::encode(wrap(&sample()));
    let lines: Vec<_> = hex.as_bytes().chunks(100).map(|line| std::str::from_utf8(line).unwrap()).collect();
    golden.assert_eq(&lines.join("\n"));
    let bytes = hex::decode(golden.data.split_whitespace().collect::<String>()).unwrap();
    let body = unwrap(&bytes).unwrap_or_else(|_| panic!("the golden file is whole"));
    assert_eq!(codec::decode::<Catalog>(body).unwrap(), sample());
}

#[tokio::test]
async fn every_damage_is_found_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir);
    let whole = wrap(&sample());
    for cut in 0..whole.len() {
        assert!(matches!(unwrap(&whole[..cut]), Err(Fault::Damaged(_))), "cut to {cut} bytes");
    }
    std::fs::write(file.path(), &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(file.load(), Err(FileError::Damaged { .. })));
    for place in 0..whole.len() {
        let mut bent = whole.clone();
        bent[place] ^= 0x10;
        assert!(unwrap(&bent).is_err(), "byte {place}");
    }
    let mut newer = whole;
    newer[11] = 2;
    std::fs::write(file.path(), &newer).unwrap();
    let error = file.load().unwrap_err().to_string();
    assert!(error.ends_with("has format 2, this program reads up to 1"), "{error}");

    let mut unfit = sample();
    unfit.services.clear();
    std::fs::write(file.path(), wrap(&unfit)).unwrap();
    assert!(matches!(file.load(), Err(FileError::Unfit { .. })));
}
