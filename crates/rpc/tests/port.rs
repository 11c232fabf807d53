//! The port: dispatch by ALPN with handed descriptors, servers and dataplanes that come and go, bad callers.

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{EchoMethod, WhoAmI, World, tombstones, until, within};
use insula_env::net;
use insula_identity::{AllowAll, Material};
use insula_rpc::{Code, ConnectError, Protocol, Settings, connect};
use insula_types::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn each_protocol_goes_where_it_belongs() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    for protocol in [Protocol::Rpc, Protocol::Raft] {
        let link = connect(two.address, protocol, &one.material, Some(two.id()), LIMIT).await.expect("connect");
        assert_eq!(link.caller.identity, two.material.identity());
        assert_eq!((link.version, link.program.as_str()), (1, insula_rpc::PROGRAM_VERSION));
    }
    assert_eq!(two.mesh.load(Ordering::SeqCst), 0);
    // The test's dataplane takes the mesh connection and closes it.
    connect(two.address, Protocol::Mesh, &one.material, Some(two.id()), LIMIT).await.expect_err("closed");
    until("mesh connection", || two.mesh.load(Ordering::SeqCst) == 1).await;
    // Nothing there speaks bulk.
    connect(two.address, Protocol::Bulk, &one.material, None, LIMIT).await.expect_err("closed");
}

#[tokio::test]
async fn a_server_can_be_absent_and_come_back() {
    let world = World::new(1);
    let (one, mut two) = (world.node().await, world.node().await);
    let peers = one.peers(&[&two], Settings::default());
    let echo = async |text: &str| peers.call::<EchoMethod>(two.id(), &text.to_owned(), LIMIT).await;
    assert_eq!(echo("before").await.expect("answer"), "before");
    two.stop_server().await;
    until("broken connection", || !peers.is_connected(two.id())).await;
    let status = within("refusal", echo("absent")).await.expect_err("no server");
    assert!(status.retryable, "{status:?}");
    // The dataplane goes on meanwhile.
    connect(two.address, Protocol::Mesh, &one.material, None, LIMIT).await.expect_err("closed by the test's dataplane");
    until("mesh connection", || two.mesh.load(Ordering::SeqCst) == 1).await;

    two.start_server(Settings::default());
    let id = two.id();
    within("answer of the new server", async {
        while peers.call::<EchoMethod>(id, &"again".to_owned(), LIMIT).await.is_err() {
            insula_env::clock::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn control_connections_outlive_the_dataplane() {
    let world = World::new(1);
    let (one, mut two) = (world.node().await, world.node().await);
    let peers = one.peers(&[&two], Settings::default());
    let id = two.id();
    let mut stream = peers.stream_raw(id, common::FLOOD, bytes::Bytes::new(), LIMIT).await.expect("stream");
    stream.next().await.expect("open").expect("item");
    two.restart_dataplane().await;
    for _ in 0..200 {
        within("item", stream.next()).await.expect("open").expect("the same connection goes on");
    }
    // And new ones come through the new dataplane.
    let other = one.peers(&[&two], Settings::default());
    let link = within("new connection", async {
        loop {
            match other.call::<EchoMethod>(id, &"new".to_owned(), LIMIT).await {
                Ok(answer) => return answer,
                Err(_) => insula_env::clock::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await;
    assert_eq!(link, "new");
}

#[tokio::test]
async fn garbage_and_slow_callers_do_not_hold_up_others() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let dial = || net::connect(two.address, LIMIT);
    let mut garbage = dial().await.expect("connect");
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("send");
    // Half a record, and then the end.
    let mut cut = dial().await.expect("connect");
    cut.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await.expect("send");
    cut.shutdown().await.expect("end");
    // A record longer than any hello.
    let mut long = dial().await.expect("connect");
    let record = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x40, 0][..], &vec![0; 16_000]].concat();
    long.write_all(&record).await.ok();
    // Says nothing, or one byte at a time.
    let mut silent = dial().await.expect("connect");
    let mut slow = dial().await.expect("connect");
    slow.write_all(&[0x16]).await.expect("send");
    for stream in [&mut garbage, &mut cut, &mut long] {
        let closed = within("closed", stream.read(&mut [0; 1])).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    let peers = one.peers(&[&two], Settings::default());
    assert_eq!(peers.call::<WhoAmI>(two.id(), &(), LIMIT).await.expect("answer"), one.id());
    slow.write_all(&[3]).await.expect("still open");
    for stream in [&mut silent, &mut slow] {
        let closed = within("closed after the limit", stream.read(&mut [0; 1])).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

#[tokio::test]
async fn strangers_are_refused() {
    let world = World::new(1);
    let node = world.node().await;
    let (stranger, _) = World::new(2).material();
    let refused = async |material: &Material, expected: Option<NodeId>| {
        connect(node.address, Protocol::Rpc, material, expected, LIMIT).await.expect_err("refused")
    };
    assert!(matches!(refused(&stranger, None).await, ConnectError::Tls { .. }));
    let (friend, _) = world.material();
    assert!(matches!(refused(&friend, Some(NodeId::new(1))).await, ConnectError::Tls { .. }));
    // Its certificate has ended: the server's refusal shows when the client greets.
    let old = world.credentials_for(Duration::ZERO);
    let old = Material::new(&old, world.env.clock.clone(), std::sync::Arc::new(AllowAll)).expect("material");
    assert!(matches!(refused(&old, None).await, ConnectError::Tls { .. } | ConnectError::Hello { .. }));

    // Removed: refused when it connects, and cut when it is connected.
    let peers = world.node().await.peers(&[&node], Settings::default());
    let caller = peers.call::<WhoAmI>(node.id(), &(), LIMIT).await.expect("answer");
    node.tombstones.set(tombstones(&[caller]));
    until("cut", || !peers.is_connected(node.id())).await;
    let status = within("refusal", peers.call::<WhoAmI>(node.id(), &(), LIMIT)).await.expect_err("removed");
    assert_eq!(status.code, Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn a_removed_node_is_cut_at_once_whoever_called_whom() {
    let world = World::new(1);
    let (removed, node) = (world.node().await, world.node().await);
    let (inward, outward) =
        (removed.peers(&[&node], Settings::default()), node.peers(&[&removed], Settings::default()));
    let flood = bytes::Bytes::new;
    let mut streams = [
        inward.stream_raw(node.id(), common::FLOOD, flood(), LIMIT).await.expect("stream"),
        outward.stream_raw(removed.id(), common::FLOOD, flood(), LIMIT).await.expect("stream"),
    ];
    let hanging = outward.call_raw(removed.id(), common::HANG, flood(), LIMIT);
    let cutting = async {
        until("the call runs", || removed.echo.running.load(Ordering::SeqCst) == 2).await;
        node.tombstones.set(tombstones(&[removed.id()]));
    };
    let clock = world.env.clock.clone();
    let begun = clock.now();
    let (hung, ()) = tokio::join!(hanging, cutting);
    let status = hung.expect_err("cut");
    assert!(status.message.contains("was removed from its region"), "{status}");
    for stream in &mut streams {
        within("the stream's end", async { while let Some(Ok(_)) = stream.next().await {} }).await;
    }
    until("both ends let go", || node.echo.is_idle() && removed.echo.is_idle()).await;
    assert!(clock.now() - begun < Duration::from_secs(2));
    assert!(!outward.is_connected(removed.id()) && !inward.is_connected(node.id()));
}
