//! Where a node is reached, in its configuration: one address, or a list of them, each with who can use it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use insula_types::{AddressError, Addresses, NodeAddress, Scope};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The addresses of a node: `"192.0.2.7:7443"`, or `["datacenter=10.0.0.7:7443", "192.0.2.7:7443"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise(Addresses);

impl Advertise {
    /// A list of addresses.
    ///
    /// # Errors
    /// [`AddressError`], saying what is wrong.
    pub fn new(list: Vec<NodeAddress>) -> Result<Self, AddressError> {
        Addresses::new(0, list).map(Self)
    }

    /// The addresses, under the number 0.
    pub fn addresses(&self) -> &Addresses {
        &self.0
    }

    /// The one for those who know but one.
    pub fn widest(&self) -> SocketAddr {
        self.0.widest()
    }

    /// Where to listen for all of them: everywhere, with IPv6 when one of them needs it.
    pub(super) fn listen(&self) -> SocketAddr {
        let needs_v6 = self.0.list().iter().any(|address| address.at.is_ipv6());
        let everywhere = if needs_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        SocketAddr::new(everywhere, self.widest().port())
    }
}

impl From<SocketAddr> for Advertise {
    fn from(at: SocketAddr) -> Self {
        Self(Addresses::single(at))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    One(String),
    Several(Vec<String>),
}

impl Serialize for Advertise {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = match self.0.list() {
            [only @ NodeAddress { scope: Scope::World, .. }] => Text::One(only.to_string()),
            several => Text::Several(several.iter().map(ToString::to_string).collect()),
        };
        text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Advertise {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let texts = match Text::deserialize(deserializer) {
            Ok(Text::One(text)) => vec![text],
            Ok(Text::Several(texts)) => texts,
            Err(_) => return Err(D::Error::custom("expected an address like \"192.0.2.7:7443\", or a list of them")),
        };
        let list: Result<Vec<NodeAddress>, _> = texts.iter().map(|text| text.parse()).collect();
        list.and_then(Self::new).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct File {
        advertise: Advertise,
    }

    fn read(value: &str) -> Result<Advertise, toml::de::Error> {
        toml::from_str(&format!("advertise = {value}")).map(|file: File| file.advertise)
    }

    #[test]
    fn one_address_or_several() {
        for (value, listen) in [
            ("\"192.0.2.7:7443\"", "0.0.0.0:7443"),
            ("[\"datacenter=10.0.0.7:1\", \"192.0.2.7:7443\"]", "0.0.0.0:7443"),
            ("[\"region=10.0.0.7:7443\", \"region=[fd00::7]:7443\"]", "[::]:7443"),
        ] {
            let advertise = read(value).expect(value);
            assert_eq!(advertise.listen().to_string(), listen);
            let written = toml::to_string(&File { advertise: advertise.clone() }).expect("plain values");
            let again: File = toml::from_str(&written).expect("what it wrote");
            assert_eq!(again.advertise, advertise);
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        for (value, why) in [
            ("7443", "expected an address like"),
            ("\"n1.example:7443\"", "not an address with port"),
            ("[]", "0 addresses"),
            ("[\"datacenter=10.0.0.7:1\"]", "other data centres"),
        ] {
            let error = read(value).expect_err(value).to_string();
            assert!(error.contains(why), "{value}: {error}");
        }
    }
}
