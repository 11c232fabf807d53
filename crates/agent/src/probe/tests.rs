use std::time::Duration;

use bytes::Bytes;
use insula_container::Exit;
use insula_env::net::{TcpListener, TcpStream};
use insula_types::InstanceId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn health(check: Check, ms: u64) -> HealthSpec {
    HealthSpec {
        check,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(ms),
        grace: Duration::from_secs(1),
        unhealthy_after: 1,
        restart_after: None,
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = net::bind("127.0.0.1:0".parse().expect("address")).await.expect("bind");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[tokio::test]
async fn http_is_asked_of_a_real_socket() {
    let (listener, address) = listen().await;
    let serve = async {
        for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 500 No\r\n\r\n", "nonsense"] {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = [0; 256];
            let len = stream.read(&mut request).await.expect("request");
            assert!(request[..len].starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).await.expect("answer");
        }
        let _silent = listener.accept().await.expect("accept");
        std::future::pending::<()>().await;
    };
    let ask = async {
        let check = |ms| health(Check::Http("/healthz".to_owned()), ms);
        assert_eq!(NetworkProber.probe(address, &check(5000)).await, Ok(()));
        let bad = NetworkProber.probe(address, &check(5000)).await;
        assert_eq!(bad, Err(format!("GET /healthz on {address} answered 500")));
        assert!(NetworkProber.probe(address, &check(5000)).await.expect_err("nonsense").contains("status line"));
        assert!(NetworkProber.probe(address, &check(50)).await.expect_err("silent").contains("no answer within"));
    };
    tokio::select! { () = serve => {}, () = ask => {} }
}

#[tokio::test]
async fn tcp_is_well_while_connections_are_taken() {
    let (listener, address) = listen().await;
    assert_eq!(NetworkProber.probe(address, &health(Check::Tcp, 5000)).await, Ok(()));
    drop(listener);
    let refused = NetworkProber.probe(address, &health(Check::Tcp, 5000)).await.expect_err("nobody listens");
    assert!(refused.starts_with(&format!("connect to {address}: ")), "{refused}");
}

/// How the server below answers.
enum Said {
    Message(&'static [u8]),
    Status(&'static str),
    Http(u16),
}

async fn answer(stream: TcpStream, said: Said) {
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    let (request, mut respond) = connection.accept().await.expect("a request").expect("a good one");
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let mut trailers = ::http::HeaderMap::new();
    let mut head = ::http::Response::new(());
    let body: &[u8] = match said {
        Said::Message(bytes) => bytes,
        Said::Http(status) => {
            *head.status_mut() = ::http::StatusCode::from_u16(status).expect("a status");
            b""
        }
        Said::Status(_) => b"",
    };
    let status = if let Said::Status(status) = said { status } else { "0" };
    trailers.insert("grpc-status", status.parse().expect("a header"));
    let mut stream = respond.send_response(head, false).expect("a head");
    stream.send_data(Bytes::from_static(body), false).expect("a body");
    stream.send_trailers(trailers).expect("trailers");
    // Drives the connection until the other side has seen enough.
    while connection.accept().await.is_some() {}
}

#[tokio::test]
async fn grpc_is_asked_of_a_real_server() {
    let (listener, address) = listen().await;
    let cases = [
        (Said::Message(&[0, 0, 0, 0, 2, 8, 1]), None),
        (Said::Message(&[0, 0, 0, 0, 2, 8, 2]), Some("NOT_SERVING")),
        (Said::Message(&[0; 2000]), Some("too long")),
        (Said::Message(b""), Some("no answer to a health check")),
        (Said::Status("12"), Some("gRPC status 12")),
        (Said::Http(404), Some("HTTP status 404")),
    ];
    let check = health(Check::Grpc("shop.v1.Cart".to_owned()), 5000);
    for (said, expected) in cases {
        let serve = async {
            answer(listener.accept().await.expect("accept").0, said).await;
            std::future::pending::<()>().await;
        };
        let result =
            tokio::select! { () = serve => unreachable!(), result = NetworkProber.probe(address, &check) => result };
        match (expected, result) {
            (None, result) => assert_eq!(result, Ok(())),
            (Some(part), Err(why)) => assert!(why.contains(part), "{why}"),
            (Some(part), Ok(())) => panic!("{part}: passed"),
        }
    }
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("answer");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = serve => unreachable!(),
        result = NetworkProber.probe(address, &check) => { result.expect_err("no HTTP/2"); }
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_in_the_instance_says_how_it_is() {
    let runtime = crate::testing::FakeRuntime::new(insula_env::Clock::simulated(1));
    let instance = InstanceId::new(1);
    let ask = async || exec::ask(&runtime, instance, &["ask".to_owned()], Duration::from_secs(1)).await;
    assert!(ask().await.expect_err("no command runs").contains("no command runs in it"));
    runtime.set_answer(instance, Some(Exit::Code(0)), "all is well");
    assert_eq!(ask().await, Ok(()));
    runtime.set_answer(instance, Some(Exit::Code(2)), "no connection\n");
    assert_eq!(ask().await, Err("ask ended with exit code 2: no connection".to_owned()));
    runtime.set_answer(instance, Some(Exit::Code(1)), &"x".repeat(10_000));
    assert_eq!(ask().await.expect_err("it fails").len(), "ask ended with exit code 1: ".len() + 256);
    runtime.set_answer(instance, None, "");
    assert_eq!(ask().await, Err("ask did not end within 1s".to_owned()));
}
