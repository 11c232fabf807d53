//! Ids of requests: what the client sent as `X-Request-Id`, where that is one, or one of ours.
//!
//! Always: an id is 8 to 64 signs that nobody can mistake for anything else, in headers, in logs and on terminals.

use http::{HeaderMap, HeaderName, HeaderValue};
use insula_env::{Rng, rng::RngCore};
use insula_types::{HttpRequestId, request::REQUEST_ID_LEN, text::write_base32};

/// Where an id stands, on the way to the instance and back to the client.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static(NAME);
/// The same as text.
pub(crate) const NAME: &str = "x-request-id";

const LEN_MAX: usize = *REQUEST_ID_LEN.end();

/// How ours begin, and how many signs follow, half of them from one draw each: a hundred bits, so that no two are the same on any edge.
const PREFIX: &[u8] = b"r-";
const DIGITS: usize = 20;

/// The id of a request. Held in place: what the client sent is a part of all that it sent, which is not to be kept for it.
#[derive(Clone, Copy)]
pub(crate) struct Id {
    text: [u8; LEN_MAX],
    len: u8,
}

impl Id {
    /// Takes signs of an id.
    pub(crate) fn new(of: &[u8]) -> Self {
        let mut text = [0; LEN_MAX];
        text[..of.len()].copy_from_slice(of);
        Self { text, len: of.len() as u8 }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("an id is ASCII")
    }

    pub(crate) fn value(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.as_bytes()).expect("signs of an id may stand in a header")
    }
}

/// Names requests.
pub(crate) struct Ids(Rng);

impl Ids {
    /// With a generator of its own, which asks the system for nothing any more.
    pub(crate) fn new(rng: &Rng) -> Self {
        let mut key = [0; 32];
        rng.fill(&mut key);
        Self(Rng::from_key(key))
    }

    /// The id of a request with these headers.
    pub(crate) fn of(&self, headers: &HeaderMap) -> Id {
        let mut said = headers.get_all(X_REQUEST_ID).iter();
        match (said.next(), said.next()) {
            (Some(said), None) if HttpRequestId::is_one(said.as_bytes()) => Id::new(said.as_bytes()),
            _ => self.next(),
        }
    }

    fn next(&self) -> Id {
        let (high, low) = self.0.with(|rng: &mut dyn RngCore| (rng.next_u64(), rng.next_u64()));
        let mut text = [0; PREFIX.len() + DIGITS];
        let (prefix, digits) = text.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX);
        let (first, second) = digits.split_at_mut(DIGITS / 2);
        write_base32(high, first);
        write_base32(low, second);
        Id::new(&text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn headers(said: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in said {
            headers.append(X_REQUEST_ID, HeaderValue::from_bytes(value).expect("a value"));
        }
        headers
    }

    #[test]
    fn what_the_client_sent_is_taken_where_it_is_an_id() {
        let ids = Ids::new(&Rng::from_seed(1));
        let of = |said: &[&[u8]]| ids.of(&headers(said)).as_str().to_owned();
        assert_eq!(of(&[b"0af76519-16cd.43_8448"]), "0af76519-16cd.43_8448");
        assert_eq!(of(&[&[b'x'; 64]]), "x".repeat(64));
        let long = [b'x'; 65];
        let bad: [&[&[u8]]; 7] = [
            &[],
            &[b""],
            &[b"1234567"],
            &[&long],
            &[b"with a space"],
            &[b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"],
            &[b"12345678", b"12345678"],
        ];
        for bad in bad {
            let ours = of(bad);
            assert!(ours.starts_with("r-") && ours.len() == 22, "{bad:?} became {ours}");
            assert!(HttpRequestId::is_one(ours.as_bytes()), "{ours}");
        }
    }

    #[test]
    fn ours_are_all_different() {
        let of_two_edges = [1, 2].map(|seed| Ids::new(&Rng::from_seed(seed)));
        let all: BTreeSet<String> = of_two_edges
            .iter()
            .flat_map(|ids| (0..10_000).map(|_| ids.of(&HeaderMap::new()).as_str().to_owned()))
            .collect();
        assert_eq!(all.len(), 20_000);
        // Each sign is drawn, so that half an id is not the same in all.
        for place in PREFIX.len()..PREFIX.len() + DIGITS {
            let signs: BTreeSet<u8> = all.iter().map(|id| id.as_bytes()[place]).collect();
            assert_eq!(signs.len(), 32, "at {place}");
        }
    }
}
