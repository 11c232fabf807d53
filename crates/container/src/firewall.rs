//! What instances can reach: the world, and what asks them. Not each other, not the node's own ports, not the addresses at
//! which clouds give a machine its secrets; and nobody outside reaches them but through the edge.
//!
//! Two tables of nftables are ours, named like the bridge: `inet` for what is routed, `bridge` for who may say to be whom.
//! They are written as a whole, in one transaction, and name no instance: every interface is in a group that is its address
//! as a number, and a set has the addresses with their groups. So instances come and go without a change; only when more
//! addresses are in use than ever before, the next ones are written as well. When somebody else changes rules, they are
//! looked at again (rule R19).
//!
//! ```text
//!   instance ─ veth ─ [bridge: is it its own address?] ─ insula0 ─┬─ to_node: refused, but for answers
//!                                                                 └─ through: not to instances, not to metadata ─ out: masqueraded
//! ```

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use crate::{
    config::NetworkConfig,
    network::{VETH_PREFIX, group},
};

/// Where clouds and their agents answer: link-local, and Amazon's in IPv6.
const METADATA_V4: &str = "169.254.0.0/16";
const METADATA_V6: &str = "fd00:ec2::/32";

/// Addresses that are written at once: a start waits for nft only when it takes the first of so many.
const STEP: u32 = 256;

/// What comes before those who may say to be whom.
const ELEMENTS: &str = "elements = {";

/// The last address that rules are written for when the highest in use is this.
pub(crate) fn last(config: &NetworkConfig, highest: Ipv4Addr) -> Ipv4Addr {
    let first = u32::from(config.subnet.gateway());
    let steps = u32::from(highest).saturating_sub(first) / STEP + 1;
    Ipv4Addr::from(first.saturating_add(steps.saturating_mul(STEP) - 1))
}

/// Both tables, for instances with addresses up to `last`, written as `nft -s list` shows them.
pub(crate) fn rules(config: &NetworkConfig, last: Ipv4Addr) -> String {
    let (bridge, gateway, subnet) = (&config.bridge, config.subnet.gateway(), config.subnet);
    let refuse = "reject with icmpx admin-prohibited";
    // What the edge says to an instance needs no memory of its connections: only what begins one is refused.
    let mut text = format!(
        r#"table inet {bridge} {{
	chain untracked_in {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{bridge}" ip daddr {gateway} meta l4proto tcp notrack
	}}

	chain untracked_out {{
		type filter hook output priority raw; policy accept;
		oifname "{bridge}" ip saddr {gateway} meta l4proto tcp notrack
	}}

	chain to_node {{
		type filter hook input priority filter; policy accept;
		iifname != "{bridge}" accept
		tcp flags syn / fin,syn,rst,ack reject with tcp reset
		ct state established,related,untracked accept
		{refuse}
	}}

	chain through {{
		type filter hook forward priority filter; policy accept;
		oifname "{bridge}" ct state established,related accept
		oifname "{bridge}" {refuse}
		iifname "{bridge}" ip daddr {METADATA_V4} {refuse}
		iifname "{bridge}" ip6 daddr {METADATA_V6} {refuse}
	}}

	chain out {{
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr {subnet} oifname != "{bridge}" masquerade
	}}
}}
table bridge {bridge} {{
	set sources {{
		type devgroup . ipv4_addr
"#
    );
    let elements: Vec<String> = subnet.addresses().take_while(|address| *address <= last).map(element).collect();
    writeln!(text, "\t\t{ELEMENTS} {} }}", elements.join(",\n\t\t\t     ")).ok();
    text + &format!(
        r#"	}}

	chain from_instances {{
		type filter hook prerouting priority filter; policy accept;
		iifname != "{VETH_PREFIX}*" accept
		iifgroup . ip saddr @sources accept
		iifgroup . arp saddr ip @sources accept
		drop
	}}
}}
"#
    )
}

/// Who may say to be whom: the one interface of a group, and its address.
fn element(address: Ipv4Addr) -> String {
    format!("{} . {address}", group(address))
}

/// Puts the rules in place of those that are there. Blocks.
pub(crate) fn apply(bridge: &str, rules: &str) -> io::Result<()> {
    // The world is reached through the node.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    nft(&["-f", "-"], &(removal(bridge) + rules)).map(drop)
}

/// Takes both tables away; fine when they are not there. Blocks.
pub(crate) fn remove(bridge: &str) -> io::Result<()> {
    nft(&["-f", "-"], &removal(bridge)).map(drop)
}

/// Whether the tables are as they were written. Blocks.
pub(crate) fn is_in_place(bridge: &str, rules: &str) -> bool {
    let list = |family| nft(&["-s", "list", "table", family, bridge], "");
    // A table that is gone cannot be listed.
    let there = list("inet").and_then(|inet| Ok(inet + &list("bridge")?));
    there.is_ok_and(|there| words(&there) == words(rules))
}

/// What is said, whatever the spaces. The kernel keeps the elements of the set in an order of its own, so they are put in ours;
/// that of rules means something.
fn words(listing: &str) -> Vec<String> {
    let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let Some((before, (elements, after))) =
        listing.split_once(ELEMENTS).and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
    else {
        return split(listing);
    };
    let mut elements: Vec<String> = elements.split(',').map(|element| split(element).join(" ")).collect();
    elements.sort_unstable();
    [split(before), elements, split(after)].concat()
}

/// nftables has no "delete if it is there" before 1.0.8: made first, it is.
fn removal(bridge: &str) -> String {
    let family = |family| format!("table {family} {bridge}\ndelete table {family} {bridge}\n");
    family("inet") + &family("bridge")
}

fn nft(arguments: &[&str], input: &str) -> io::Result<String> {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "there is no program nft: apt-get install nftables"),
        _ => error,
    })?;
    // It reads all of it before it says anything; one that ended early says why.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() {
        written?;
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("nft: {}", said.lines().next().unwrap_or("it says nothing"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_for_many_addresses_at_once() {
        let config =
            |subnet: &str| NetworkConfig { bridge: "insula0".to_owned(), subnet: subnet.parse().expect("valid") };
        let (small, large) = (config("10.77.0.0/29"), config("10.77.0.0/16"));
        let (first, far) = (Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 1, 1));
        let text = rules(&small, last(&small, first));
        assert!(text.contains("ip saddr 10.77.0.0/29 oifname != \"insula0\" masquerade"), "{text}");
        assert!(text.contains("{ 172818434 . 10.77.0.2,\n") && text.contains(" 172818438 . 10.77.0.6 }\n"), "{text}");
        assert_eq!(last(&large, first), Ipv4Addr::new(10, 77, 1, 0));
        assert_eq!(last(&large, far), Ipv4Addr::new(10, 77, 2, 0));
        let text = rules(&large, last(&large, far));
        assert!(text.contains(" . 10.77.2.0 }\n") && !text.contains("10.77.2.1"), "{text}");
    }

    #[test]
    fn the_order_of_instances_means_nothing_and_that_of_rules_does() {
        let listed = "set sources {\n elements = { \"b\" . 10.0.0.3,\n\t \"a\" . 10.0.0.2 }\n}\n accept\n drop";
        for (other, is_same) in [
            ("set sources { elements = { \"a\" . 10.0.0.2, \"b\" . 10.0.0.3 } } accept drop", true),
            ("set sources { elements = { \"a\" . 10.0.0.3, \"b\" . 10.0.0.2 } } accept drop", false),
            ("set sources { elements = { \"a\" . 10.0.0.2 } } accept drop", false),
            ("set sources { } accept drop", false),
            ("set sources { elements = { \"a\" . 10.0.0.2, \"b\" . 10.0.0.3 } } drop accept", false),
        ] {
            assert_eq!(words(listed) == words(other), is_same, "{other}");
        }
    }
}
