//! Tokens: one pasteable line each. A join token says where a cluster is, how to know it, and carries a secret; an API
//! token is an id and a secret. State stores only the hash of a secret.

use std::{fmt, net::SocketAddr};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use insula_env::Rng;
use insula_types::{ClusterId, RegionName, TokenId, codec};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::{RootHash, Secret};

const JOIN_PREFIX: &str = "insula-join-1.";
const API_PREFIX: &str = "insula-api-1.";
/// Longest token that is looked at, in bytes; the longest of ours has about 700.
const TOKEN_LEN_MAX: usize = 4096;
/// Most addresses in a join token: enough for the voters of a region, short enough to paste.
const ADDRESSES_MAX: usize = 8;
const CHECKSUM_LEN: usize = 4;

/// Why a text is not a token. Never repeats the text: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not {what}: {why}")]
pub struct TokenError {
    what: &'static str,
    why: String,
}

impl TokenError {
    fn join(why: impl Into<String>) -> Self {
        Self { what: "a join token", why: why.into() }
    }

    fn api(why: impl Into<String>) -> Self {
        Self { what: "an API token", why: why.into() }
    }
}

/// What a new node needs to enter a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The region to join.
    pub region: RegionName,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// How the new node knows the cluster before it trusts anything.
    pub root: RootHash,
    /// Which token it is, for the list of tokens.
    pub id: TokenId,
    /// What proves that its bearer may join.
    pub secret: Secret,
    /// Where nodes of the region listen: 1 to 8.
    pub addresses: Vec<SocketAddr>,
}

/// The form within the line; short names keep it short, named fields let later versions add some.
#[derive(Serialize, Deserialize)]
struct JoinFields {
    r: RegionName,
    c: ClusterId,
    h: ByteArray<32>,
    i: TokenId,
    s: ByteArray<32>,
    a: Vec<SocketAddr>,
}

impl JoinToken {
    /// A token with a new id and a new secret.
    ///
    /// # Errors
    /// [`TokenError`] unless there are 1 to 8 addresses.
    pub fn new(
        region: RegionName,
        cluster: ClusterId,
        root: RootHash,
        addresses: Vec<SocketAddr>,
        rng: &Rng,
    ) -> Result<Self, TokenError> {
        check_addresses(&addresses)?;
        Ok(Self { region, cluster, root, id: TokenId::new(rng.next()), secret: Secret::random(rng), addresses })
    }

    /// The line to paste. It is a secret: whoever has it can join.
    pub fn reveal(&self) -> String {
        let bytes = |from: &[u8]| {
            let mut to = [0; 32];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            ByteArray::new(to)
        };
        let mut body = codec::encode(&JoinFields {
            r: self.region.clone(),
            c: self.cluster.clone(),
            h: bytes(&self.root.0),
            i: self.id,
            s: bytes(self.secret.as_bytes()),
            a: self.addresses.clone(),
        });
        let sum = checksum(&body);
        body.extend_from_slice(&sum);
        format!("{JOIN_PREFIX}{}", URL_SAFE_NO_PAD.encode(body))
    }

    /// Reads a pasted line.
    ///
    /// # Errors
    /// [`TokenError`], saying what is wrong without repeating the token.
    pub fn parse(line: &str) -> Result<Self, TokenError> {
        let line = line.trim();
        let body = line.strip_prefix(JOIN_PREFIX).ok_or_else(|| {
            TokenError::join(if line.starts_with("insula-join-") {
                "it was made by a newer version: upgrade this program"
            } else if line.starts_with(API_PREFIX) {
                "it is an API token; make one with `insula token create`"
            } else {
                "it begins with insula-join-1. and is one line"
            })
        })?;
        if body.len() > TOKEN_LEN_MAX {
            return Err(TokenError::join("it is too long"));
        }
        let damaged = || TokenError::join("it is cut or mistyped; paste the whole line");
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| damaged())?;
        let split = bytes.len().checked_sub(CHECKSUM_LEN).ok_or_else(damaged)?;
        let (fields, sum) = bytes.split_at(split);
        if checksum(fields) != sum {
            return Err(damaged());
        }
        let fields: JoinFields = codec::decode(fields).map_err(|_| TokenError::join("its fields do not read"))?;
        check_addresses(&fields.a)?;
        let secret = Secret::from_bytes(&*fields.s).ok_or_else(damaged)?;
        Ok(Self {
            region: fields.r,
            cluster: fields.c,
            root: RootHash(*fields.h),
            id: fields.i,
            secret,
            addresses: fields.a,
        })
    }

    /// What state stores.
    pub fn secret_hash(&self) -> String {
        self.secret.hash()
    }
}

fn check_addresses(addresses: &[SocketAddr]) -> Result<(), TokenError> {
    if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
        return Err(TokenError::join(format!("it has {} addresses, and 1 to {ADDRESSES_MAX} fit", addresses.len())));
    }
    Ok(())
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = digest::digest(&digest::SHA256, bytes);
    let mut sum = [0; CHECKSUM_LEN];
    sum.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    sum
}

/// What an API call shows: `insula-api-1.<id>.<secret>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Which token it is.
    pub id: TokenId,
    /// What proves its bearer.
    pub secret: Secret,
}

impl ApiToken {
    /// A new token.
    pub fn new(rng: &Rng) -> Self {
        Self { id: TokenId::new(rng.next()), secret: Secret::random(rng) }
    }

    /// The text to send. It is a secret.
    pub fn reveal(&self) -> String {
        format!("{API_PREFIX}{}.{}", self.id, URL_SAFE_NO_PAD.encode(self.secret.as_bytes()))
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError`], saying what is wrong without repeating the token.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let rest = text
            .trim()
            .strip_prefix(API_PREFIX)
            .filter(|rest| rest.len() <= TOKEN_LEN_MAX)
            .ok_or_else(|| TokenError::api("it begins with insula-api-1."))?;
        let damaged = || TokenError::api("it is cut or mistyped");
        let (id, secret) = rest.split_once('.').ok_or_else(damaged)?;
        let id = id.parse().map_err(|_| damaged())?;
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| damaged())?;
        Ok(Self { id, secret: Secret::from_bytes(&secret).ok_or_else(damaged)? })
    }

    /// What state stores.
    pub fn secret_hash(&self) -> String {
        self.secret.hash()
    }
}

impl fmt::Display for ApiToken {
    /// The public part only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use insula_env::Rng;
    use proptest::prelude::*;

    use super::*;

    fn token(seed: u64, count: usize) -> JoinToken {
        let address = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".parse().expect("address");
        JoinToken::new(
            "fra".parse().expect("region"),
            ClusterId::new(seed),
            RootHash([0xab; 32]),
            vec![address; count],
            &Rng::from_seed(seed),
        )
        .expect("token")
    }

    proptest! {
        #[test]
        fn tokens_survive_text(seed: u64, count in 1usize..=8) {
            let token = token(seed, count);
            let line = token.reveal();
            prop_assert!(line.len() < 1000 && !line.contains(char::is_whitespace));
            prop_assert_eq!(JoinToken::parse(&format!("  {line}\n")), Ok(token));
            let api = ApiToken::new(&Rng::from_seed(seed));
            prop_assert_eq!(ApiToken::parse(&api.reveal()), Ok(api));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(text: String, body in "[A-Za-z0-9_-]{0,400}", bytes: Vec<u8>) {
            let join = |body: &str| JoinToken::parse(&[JOIN_PREFIX, body].concat());
            prop_assert!(JoinToken::parse(&text).is_err());
            prop_assert!(join(&body).is_err());
            prop_assert!(ApiToken::parse(&text).is_err());
            prop_assert!(ApiToken::parse(&[API_PREFIX, &body].concat()).is_err());
            // With a right checksum, so that the fields are reached.
            let summed = [bytes.as_slice(), &checksum(&bytes)].concat();
            prop_assert!(join(&URL_SAFE_NO_PAD.encode(summed)).is_err());
        }

        #[test]
        fn a_cut_or_changed_token_is_refused(seed: u64, at in 14usize..200, letter in "[A-Za-z0-9]") {
            let line = token(seed, 1).reveal();
            prop_assume!(at < line.len() && line[at..=at] != letter);
            let mut changed = line.clone();
            changed.replace_range(at..=at, &letter);
            prop_assert!(JoinToken::parse(&changed).is_err());
            prop_assert!(JoinToken::parse(&line[..at]).is_err());
        }
    }

    #[test]
    fn errors_help_and_hide_the_token() {
        let check = |line: &str, expected: &str| {
            assert_eq!(JoinToken::parse(line).expect_err("refused").to_string(), expected);
        };
        check("hello", "this is not a join token: it begins with insula-join-1. and is one line");
        check("insula-join-2.abc", "this is not a join token: it was made by a newer version: upgrade this program");
        check("insula-join-1.abc", "this is not a join token: it is cut or mistyped; paste the whole line");
        let token = token(1, 1);
        assert!(!format!("{token:?}").contains(&hex::encode(&token.secret.as_bytes()[..4])));
        assert!(token.secret.matches(&token.secret_hash()));
        assert!(
            JoinToken::new(token.region, token.cluster, token.root, vec![], &Rng::from_seed(1)).is_err(),
            "no addresses"
        );
    }
}
