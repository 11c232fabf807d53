//! Commands that are a node, or make one.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use insula_types::{
    AddressError, DatacenterName, LabelName, LabelValue, LabelValueError, NameError, NodeAddress, NodeName, RegionName,
};

/// `insula dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Where data is kept [default: ~/.local/share/insula/dev]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Where the edge listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub edge: SocketAddr,
    /// Where the API listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7480")]
    pub api: SocketAddr,
    /// Where the port between nodes listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443")]
    pub node: SocketAddr,
}

/// `insula init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Name of the first region
    #[arg(long)]
    pub region: RegionName,
    /// Where this machine stands and what it is called.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `insula join`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// The line that `insula token create` printed
    pub token: String,
    /// Where this machine stands and what it is called.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// A machine that becomes a node.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Name of the data centre
    #[arg(long)]
    pub datacenter: DatacenterName,
    /// Where other nodes reach this machine; the port is 7443 unless given. May be repeated: datacenter=ADDR is for nodes
    /// of the same data centre, region=ADDR for those of the region
    #[arg(long, required = true, value_name = "[SCOPE=]ADDR[:PORT]", value_parser = parse_advertise)]
    pub advertise: Vec<NodeAddress>,
    /// Name of the node [default: the machine's host name]
    #[arg(long)]
    pub name: Option<NodeName>,
    /// Where data is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/insula")]
    pub data: PathBuf,
    /// The configuration to write
    #[arg(long, value_name = "FILE", default_value = "/etc/insula/insula.toml")]
    pub config: PathBuf,
    /// How long certificates live [default: node=72h,region=365d,root=3650d]
    #[arg(long, value_name = "node=SPAN,…")]
    pub certificates: Option<String>,
    /// What services may ask for in `placement`, like disk=ssd; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
    pub label: Vec<(LabelName, LabelValue)>,
    /// Write no systemd unit
    #[arg(long)]
    pub no_service: bool,
}

/// `insula server`.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/insula/insula.toml")]
    pub config: PathBuf,
}

/// `insula dataplane`.
#[derive(Debug, Clone, Args)]
pub struct DataplaneArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/insula/insula.toml")]
    pub config: PathBuf,
}

/// Port between nodes unless given.
const NODE_PORT: u16 = 7443;

fn parse_label(text: &str) -> Result<(LabelName, LabelValue), String> {
    let (name, value) = text.split_once('=').ok_or("expected a name and a value, like disk=ssd")?;
    let name: LabelName = name.parse().map_err(|error: NameError| error.to_string())?;
    if LabelName::OWN.contains(&name.as_str()) {
        return Err(format!("every node has the label {name} of itself"));
    }
    Ok((name, value.parse().map_err(|error: LabelValueError| error.to_string())?))
}

fn parse_advertise(text: &str) -> Result<NodeAddress, String> {
    let (scope, address) = text.split_once('=').map_or(("world", text), |(scope, address)| (scope, address));
    let at = parse_node_address(address)?;
    format!("{scope}={at}").parse().map_err(|error: AddressError| error.to_string())
}

pub(super) fn parse_node_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| text.trim_matches(['[', ']']).parse().map(|address| SocketAddr::new(address, NODE_PORT)))
        .map_err(|_| "expected an address, with or without port, like 192.0.2.7 or [2001:db8::7]:7443".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_out_the_port() {
        for (text, address) in [
            ("192.0.2.7", "192.0.2.7:7443"),
            ("2001:db8::7", "[2001:db8::7]:7443"),
            ("[2001:db8::7]:1", "[2001:db8::7]:1"),
            ("region=192.0.2.7", "region=192.0.2.7:7443"),
            ("datacenter=[fd00::7]:1", "datacenter=[fd00::7]:1"),
        ] {
            assert_eq!(parse_advertise(text), Ok(address.parse().expect("address")));
        }
        for wrong in ["node-1", "city=192.0.2.7", "region=", "=192.0.2.7"] {
            assert!(parse_advertise(wrong).is_err(), "{wrong}");
        }
    }
}
