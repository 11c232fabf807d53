//! Calls and streams between nodes over real sockets: many at once, deadlines, slow receivers, silent peers, old age.

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{Count, EchoMethod, FAIL, FLOOD, HANG, PANIC, Proxy, WhoAmI, World, until, within};
use insula_rpc::{AddressBook, BODY_LEN_MAX, Code, Peers, Protocol, Settings};
use insula_types::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_share_one_connection() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let peers = one.peers(&[&two], Settings::default());
    let id = two.id();
    let mut calls = JoinSet::new();
    for number in 0..1000 {
        let peers = peers.clone();
        calls.spawn(async move {
            let text = format!("{number}").repeat(1 + number % 7);
            let answer = peers.call::<EchoMethod>(id, &text, LIMIT).await.expect("answer");
            assert_eq!(answer, text);
        });
    }
    within("all answers", async {
        while let Some(call) = calls.join_next().await {
            call.expect("as expected");
        }
    })
    .await;
    let tasks = world.env.tasks.list();
    assert_eq!(tasks.iter().filter(|task| &*task.name == "rpc connection").count(), 1, "one connection");
    until("measured round trip", || peers.round_trip(id).is_some()).await;
}

#[tokio::test]
async fn a_node_can_call_itself() {
    let world = World::new(1);
    let one = world.node().await;
    let peers = one.peers(&[], Settings::default());
    peers.set_local(one.echo.clone());
    assert_eq!(peers.call::<WhoAmI>(one.id(), &(), LIMIT).await.expect("answer"), one.id());
    let mut numbers = peers.stream::<Count>(one.id(), &3, LIMIT).await.expect("stream");
    for expected in 0..3 {
        assert_eq!(numbers.next().await, Some(Ok(expected)));
    }
    assert_eq!(numbers.next().await, None);
}

#[tokio::test]
async fn failures_say_what_and_whether_to_retry() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let peers = one.peers(&[&two], Settings::default());
    let call_within =
        async |method, limit| peers.call_raw(two.id(), method, Bytes::new(), limit).await.expect_err("fails");
    let call = async |method| call_within(method, LIMIT).await;
    let status = call(FAIL).await;
    assert_eq!((status.code, status.retryable, status.detail), (Code::Conflict, false, vec![1, 2]));
    assert_eq!(call(999).await.code, Code::UnknownMethod);
    assert_eq!(call(EchoMethod::ID_).await.code, Code::InvalidArgument);
    assert_eq!(call(PANIC).await.code, Code::Internal);
    assert_eq!(call_within(HANG, Duration::from_millis(200)).await.code, Code::DeadlineExceeded);
    until("the server dropped the call", || two.echo.is_idle()).await;
    // The connection is as good as before.
    assert_eq!(peers.call::<WhoAmI>(two.id(), &(), LIMIT).await.expect("answer"), one.id());

    let mut stream = peers.stream_raw(two.id(), 999, Bytes::new(), LIMIT).await.expect("stream");
    let status = stream.next().await.expect("an error").expect_err("unknown");
    assert_eq!(status.code, Code::UnknownMethod);
    assert!(stream.next().await.is_none());

    let unknown = NodeId::new(7);
    let status = peers.call::<WhoAmI>(unknown, &(), LIMIT).await.expect_err("unknown node");
    assert_eq!((status.code, status.retryable), (Code::Unavailable, true));
    assert!(status.message.contains("address"), "{status}");
    let status = peers
        .call_raw(two.id(), EchoMethod::ID_, Bytes::from(vec![0; BODY_LEN_MAX + 1]), LIMIT)
        .await
        .expect_err("too long");
    assert_eq!(status.code, Code::ResourceExhausted);
}

trait IdOf {
    const ID_: u16;
}
impl<M: insula_rpc::Method> IdOf for M {
    const ID_: u16 = M::ID;
}

#[tokio::test]
async fn the_largest_body_goes_through_without_looking_like_silence() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let peers = one.peers(&[&two], Settings::default());
    let text = "x".repeat(BODY_LEN_MAX - 16);
    let limit = Duration::from_secs(60);
    assert!(peers.call::<EchoMethod>(two.id(), &text, limit).await.expect("answer") == text);
}

#[tokio::test]
async fn giving_up_stops_the_work_at_the_peer() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let peers = one.peers(&[&two], Settings::default());
    {
        let call = peers.call_raw(two.id(), HANG, Bytes::new(), LIMIT);
        tokio::select! {
            _ = call => panic!("never answers"),
            () = until("started", || !two.echo.is_idle()) => {}
        }
    }
    until("the call is dropped", || two.echo.is_idle()).await;
    let stream = peers.stream_raw(two.id(), HANG, Bytes::new(), LIMIT).await.expect("stream");
    until("started", || !two.echo.is_idle()).await;
    drop(stream);
    until("the stream is dropped", || two.echo.is_idle()).await;
    assert!(peers.is_connected(two.id()));
}

#[tokio::test]
async fn streams_are_bounded_and_slow_receivers_are_cut() {
    let world = World::new(1);
    let (one, mut two) = (world.node().await, world.node().await);
    two.stop_server().await;
    let settings =
        Settings { stream_window: 1024 * 1024, stream_stall_max: Duration::from_millis(300), ..Settings::default() };
    two.start_server(settings);
    let peers = one.peers(&[&two], settings);
    // Far more than the window goes through when it is taken.
    let mut numbers = peers.stream::<Count>(two.id(), &40_000, LIMIT).await.expect("stream");
    for expected in 0..40_000 {
        assert_eq!(numbers.next().await, Some(Ok(expected)));
    }
    assert_eq!(numbers.next().await, None);

    let mut slow = peers.stream_raw(two.id(), FLOOD, Bytes::new(), LIMIT).await.expect("stream");
    until("cut", || two.echo.flood_end.lock().expect("lock").is_some()).await;
    let sent = two.echo.flooded.load(std::sync::atomic::Ordering::SeqCst);
    assert!(sent <= 16, "{sent} items of 64 KiB were sent into a window of 1 MiB");
    // What was sent is still there, then the reason.
    let mut taken = 0;
    let status = loop {
        match slow.next().await.expect("not ended well") {
            Ok(_) => taken += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(taken, sent);
    assert_eq!((status.code, status.retryable), (Code::ResourceExhausted, true));
    assert_eq!(peers.call::<WhoAmI>(two.id(), &(), LIMIT).await.expect("others go on"), one.id());
}

#[tokio::test]
async fn round_trips_are_measured_without_calls() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let proxy = Proxy::start(two.address, &world.env).await;
    let book = AddressBook::default();
    book.insert(two.id(), vec![proxy.address]);
    let settings = Settings {
        ping_interval: Duration::from_millis(50),
        connect_max: Duration::from_millis(300),
        ..Settings::default()
    };
    let peers = Peers::with_settings(one.material.clone(), book, Protocol::Rpc, world.env.clone(), settings);
    let measure = async || peers.measure(two.id(), LIMIT, Duration::from_millis(500)).await;
    let took = measure().await.expect("an answer");
    assert!(took < LIMIT && peers.round_trip(two.id()).is_some(), "{took:?}");
    proxy.stall();
    // One answer may be under way.
    let status = within("silence", async {
        loop {
            if let Err(status) = measure().await {
                return status;
            }
        }
    });
    assert_eq!(status.await.code, Code::DeadlineExceeded);
    proxy.resume();
    within("it answers again", async { while measure().await.is_err() {} }).await;
    assert_eq!(peers.measure(NodeId::new(77), LIMIT, LIMIT).await.expect_err("nobody").code, Code::Unavailable);
}

#[tokio::test]
async fn a_silent_peer_is_found_and_calls_fail_at_once() {
    let world = World::new(1);
    let (one, mut two) = (world.node().await, world.node().await);
    two.stop_server().await;
    let settings = Settings {
        ping_interval: Duration::from_millis(50),
        silence_max: Duration::from_millis(400),
        connect_max: Duration::from_millis(500),
        ..Settings::default()
    };
    two.start_server(settings);
    let proxy = Proxy::start(two.address, &world.env).await;
    let book = AddressBook::default();
    book.insert(two.id(), vec![proxy.address]);
    let peers = Peers::with_settings(one.material.clone(), book, Protocol::Rpc, world.env.clone(), settings);
    let (id, clock) = (two.id(), world.env.clock.clone());
    assert_eq!(peers.call::<WhoAmI>(id, &(), LIMIT).await.expect("answer"), one.id());
    let mut watch = peers.stream_raw(id, HANG, Bytes::new(), LIMIT).await.expect("stream");
    until("started", || !two.echo.is_idle()).await;

    proxy.stall();
    let start = clock.now();
    let (call, item) = tokio::join!(peers.call_raw(id, HANG, Bytes::new(), LIMIT), watch.next());
    let took = clock.now() - start;
    assert_eq!(call.expect_err("lost").code, Code::ConnectionLost);
    let status = item.expect("an error").expect_err("lost");
    assert!(status.retryable && status.message.contains("no byte for"), "{status}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    until("the server found it too", || two.echo.is_idle()).await;
    // While it is silent, calls fail by the limit of connecting, then at once by the back-off.
    let status = within("failure", peers.call::<WhoAmI>(id, &(), LIMIT)).await.expect_err("still silent");
    assert_eq!(status.code, Code::Unavailable);
    proxy.resume();
    within("reconnected", async {
        while peers.call::<WhoAmI>(id, &(), LIMIT).await.is_err() {
            insula_env::clock::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_old_connection_is_replaced_without_losing_calls() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let settings = Settings {
        ping_interval: Duration::from_millis(20),
        age_max: Duration::from_millis(100),
        age_grace: Duration::from_millis(200),
        ..Settings::default()
    };
    let peers = one.peers(&[&two], settings);
    let seen = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut watch = peers.stream_raw(two.id(), HANG, Bytes::new(), LIMIT).await.expect("stream");
    let status = within("cut by age", async {
        loop {
            tokio::select! {
                item = watch.next() => return item.expect("an error").expect_err("cut"),
                answer = peers.call::<WhoAmI>(two.id(), &(), LIMIT) => {
                    answer.expect("no call is lost");
                    seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            }
        }
    })
    .await;
    assert!(status.retryable && status.message.contains("greatest age"), "{status}");
    assert!(seen.load(std::sync::atomic::Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_cut() {
    let world = World::new(1);
    let (one, two) = (world.node().await, world.node().await);
    let too_long = u32::MAX.to_be_bytes().to_vec();
    let unknown_kind = [&9u32.to_be_bytes()[..], &[200; 9]].concat();
    // An answer, which only callees send.
    let out_of_turn = [&9u32.to_be_bytes()[..], &[2; 9]].concat();
    for bytes in [too_long, unknown_kind, out_of_turn] {
        let link = insula_rpc::connect(two.address, Protocol::Rpc, &one.material, Some(two.id()), LIMIT);
        let mut stream = link.await.expect("connect").stream;
        stream.write_all(&bytes).await.expect("send");
        let closed = within("closed", stream.read(&mut [0; 1])).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

#[tokio::test]
async fn a_node_that_has_moved_is_reached_at_once() {
    let world = World::new(1);
    let settings = Settings { connect_max: Duration::from_millis(400), ..Settings::default() };
    let (one, two) = (world.node().await, world.node().await);
    let before = insula_env::net::bind(([127, 0, 0, 1], 0).into()).await.expect("a listener");
    let book = AddressBook::default();
    book.insert(two.id(), vec![before.local_addr().expect("address")]);
    let peers = Peers::with_settings(one.material.clone(), book.clone(), Protocol::Rpc, world.env.clone(), settings);
    let call = peers.call::<WhoAmI>(two.id(), &(), Duration::from_millis(100)).await;
    assert!(call.is_err(), "nobody speaks there");
    let (mut attempt, _) = before.accept().await.expect("the attempt");

    let waiting = tokio::join!(peers.call::<WhoAmI>(two.id(), &(), LIMIT), async {
        book.insert(two.id(), vec![two.address]);
        peers.forget(two.id());
    });
    assert_eq!(waiting.0.expect("who waits for the attempt gets another"), one.id());
    // The attempt of before ends, and does no harm.
    tokio::io::copy(&mut attempt, &mut tokio::io::sink()).await.ok();
    assert!(peers.is_connected(two.id()));
    assert_eq!(peers.call::<WhoAmI>(two.id(), &(), LIMIT).await.expect("answer"), one.id());
}
