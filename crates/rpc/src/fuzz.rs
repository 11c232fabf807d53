//! What `fuzz/` needs of the insides: reads as a peer's bytes are read. An error is a finding.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use insula_identity::NodeIdentity;
use insula_types::{ClusterId, NodeId, codec};

use crate::{
    frame::{Frame, Mode},
    hello::{Hello, agree},
    status::Status,
};

/// One frame of each kind.
pub fn frame_seeds() -> Vec<Vec<u8>> {
    let (call, body) = (7, Bytes::from_static(b"a body"));
    let frames = [
        Frame::Request { call, method: 3, mode: Mode::Unary { deadline_ms: 500 }, body: body.clone() },
        Frame::Request { call, method: 4, mode: Mode::Stream { window: 65_536 }, body: body.clone() },
        Frame::Response { call, body: body.clone() },
        Frame::Failed { call, status: Status::internal("why") },
        Frame::Cancel { call },
        Frame::Item { call, body },
        Frame::End { call },
        Frame::Credit { call, bytes: 1000 },
        Frame::Ping { id: 1 },
        Frame::Pong { id: 1 },
    ];
    frames.into_iter().map(write).collect()
}

fn write(frame: Frame) -> Vec<u8> {
    let mut head = BytesMut::new();
    let body = frame.encode(&mut head);
    [&head[..], &body].concat()
}

/// Reads frames until the bytes end or do not read.
///
/// # Errors
/// When a frame does not survive its own writing.
pub fn frames(input: &[u8]) -> Result<(), String> {
    let mut buffer = BytesMut::from(input);
    while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
        let mut again = BytesMut::from(&write(frame.clone())[..]);
        match Frame::decode(&mut again) {
            Ok(Some(read)) if read == frame => {}
            other => return Err(format!("{frame:?} is read back as {other:?}")),
        }
    }
    Ok(())
}

/// A first message.
pub fn hello_seeds() -> Vec<Vec<u8>> {
    vec![codec::encode(&own())]
}

fn own() -> Hello {
    let region = "fra".parse().expect("a label");
    let identity = NodeIdentity { cluster: ClusterId::new(1), region, node: NodeId::new(1) };
    Hello::new(&(1..=3), identity, Duration::from_millis(250))
}

/// Reads a first message and agrees with it.
///
/// # Errors
/// When the version that was agreed on is not one of both.
pub fn hello(input: &[u8]) -> Result<(), String> {
    let Ok(theirs) = codec::decode::<Hello>(input) else { return Ok(()) };
    let ours = own();
    match agree(&ours, &theirs) {
        Ok(version) if version < theirs.version_min || version > theirs.version_max => {
            Err(format!("agreed on {version} with {theirs:?}"))
        }
        _ => Ok(()),
    }
}
