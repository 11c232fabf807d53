//! The version handshake: the first bytes after TLS, from both sides. Its own form never changes but by added fields.

use std::{io, ops::RangeInclusive, time::Duration};

use insula_identity::NodeIdentity;
use insula_types::codec;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of this program, shown to peers.
pub const PROGRAM_VERSION: &str = if cfg!(feature = "upgrade-probe") {
    concat!(env!("CARGO_PKG_VERSION"), "+probe")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Longest hello in bytes; ours have about 150, and later versions may add fields.
const HELLO_LEN_MAX: usize = 4096;

/// What each side says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Lowest version of the protocol that it speaks.
    pub(crate) version_min: u16,
    /// Highest version.
    pub(crate) version_max: u16,
    /// Who it is; must agree with its certificate.
    pub(crate) identity: NodeIdentity,
    /// Version of its program, for messages only.
    pub(crate) program: String,
    /// How often it pings as a caller.
    #[serde(default)]
    pub(crate) ping_ms: u32,
}

impl Hello {
    pub(crate) fn new(versions: &RangeInclusive<u16>, identity: NodeIdentity, ping: Duration) -> Self {
        Self {
            version_min: *versions.start(),
            version_max: *versions.end(),
            identity,
            program: PROGRAM_VERSION.to_owned(),
            ping_ms: u32::try_from(ping.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

/// Why two programs do not talk.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The connection ended or was refused; a refusal of our certificate shows here.
    #[error("exchange hellos with the peer")]
    Io(#[from] io::Error),
    /// Not a hello.
    #[error("the peer's hello does not read: {0}")]
    Malformed(String),
    /// No common version.
    #[error(
        "no common protocol version: this program ({ours_program}) speaks {ours:?}, the peer's ({theirs_program}) {theirs:?}; \
         upgrade the older one"
    )]
    Versions {
        /// Ours.
        ours: RangeInclusive<u16>,
        /// Our program.
        ours_program: String,
        /// The peer's.
        theirs: RangeInclusive<u16>,
        /// The peer's program.
        theirs_program: String,
    },
    /// The hello names another node than the certificate.
    #[error("the peer's hello says {said}, its certificate {proven}")]
    Identity {
        /// What it said.
        said: NodeIdentity,
        /// What it proved.
        proven: NodeIdentity,
    },
}

/// Sends ours, reads the peer's, and agrees on the highest common version.
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    ours: &Hello,
    proven: &NodeIdentity,
) -> Result<(u16, Hello), HelloError> {
    let body = codec::encode(ours);
    let len = u16::try_from(body.len()).map_err(|_| HelloError::Malformed("ours is too long".to_owned()))?;
    stream.write_all(&[&len.to_be_bytes()[..], &body].concat()).await?;
    stream.flush().await?;

    let len = usize::from(stream.read_u16().await?);
    if len > HELLO_LEN_MAX {
        return Err(HelloError::Malformed(format!("it has {len} bytes")));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    let theirs: Hello = codec::decode(&body).map_err(|error| HelloError::Malformed(error.to_string()))?;
    if theirs.identity != *proven {
        return Err(HelloError::Identity { said: theirs.identity, proven: proven.clone() });
    }
    Ok((agree(ours, &theirs)?, theirs))
}

pub(crate) fn agree(ours: &Hello, theirs: &Hello) -> Result<u16, HelloError> {
    let highest = ours.version_max.min(theirs.version_max);
    if highest >= ours.version_min.max(theirs.version_min) {
        return Ok(highest);
    }
    Err(HelloError::Versions {
        ours: ours.version_min..=ours.version_max,
        ours_program: ours.program.clone(),
        theirs: theirs.version_min..=theirs.version_max,
        theirs_program: theirs.program.chars().take(64).collect(),
    })
}

#[cfg(test)]
mod tests {
    use insula_types::{ClusterId, NodeId};

    use super::*;

    fn identity(node: u64) -> NodeIdentity {
        NodeIdentity { cluster: ClusterId::new(1), region: "fra".parse().expect("name"), node: NodeId::new(node) }
    }

    fn hello(versions: RangeInclusive<u16>, node: u64) -> Hello {
        Hello::new(&versions, identity(node), Duration::ZERO)
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        let check = |ours, theirs, expected: Option<u16>| {
            assert_eq!(agree(&hello(ours, 1), &hello(theirs, 2)).ok(), expected);
        };
        check(1..=1, 1..=1, Some(1));
        check(1..=3, 2..=5, Some(3));
        check(2..=5, 1..=3, Some(3));
        check(1..=2, 3..=4, None);
        check(3..=4, 1..=2, None);
    }

    #[tokio::test]
    async fn both_sides_say_why_they_do_not_talk() {
        let (mut one, mut two) = tokio::io::duplex(8192);
        let (ours, theirs) = (hello(1..=1, 1), hello(2..=3, 2));
        let (id_one, id_two) = (identity(1), identity(2));
        let (left, right) = tokio::join!(exchange(&mut one, &ours, &id_two), exchange(&mut two, &theirs, &id_one));
        let text = left.expect_err("no common version").to_string();
        assert!(
            text.contains("speaks 1..=1") && text.contains("2..=3") && text.contains("upgrade the older"),
            "{text}"
        );
        assert!(matches!(right, Err(HelloError::Versions { .. })));
    }

    #[tokio::test]
    async fn a_hello_that_lies_or_is_garbage_is_refused() {
        let (mut one, mut two) = tokio::io::duplex(8192);
        let (ours, theirs, proven) = (hello(1..=1, 1), hello(1..=1, 3), identity(2));
        let (left, _) = tokio::join!(exchange(&mut one, &ours, &proven), exchange(&mut two, &theirs, &ours.identity));
        assert!(matches!(left, Err(HelloError::Identity { .. })));

        for garbage in [&b"\x00\x02ab"[..], b"\xff\xffab"] {
            let (mut one, mut two) = tokio::io::duplex(8192);
            two.write_all(garbage).await.expect("send");
            let error = exchange(&mut one, &ours, &proven).await.expect_err("garbage");
            assert!(matches!(error, HelloError::Malformed(_)), "{error}");
        }
    }
}
