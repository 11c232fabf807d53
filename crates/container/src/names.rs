//! The files by which a container knows names: `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`. Whatever its image has there
//! is covered.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::chown,
    path::Path,
};

use insula_types::InstanceId;

/// Their names, in `/etc` of a container as in the directory that they are written to.
pub(crate) const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
/// Where the node says whom to ask for names. The second has what systemd-resolved asks, when the first leads to that.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Writes them into `directory`, for the app's root to change.
pub(crate) fn write(directory: &Path, instance: InstanceId, address: Ipv4Addr, root: u32) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    // An instance cannot ask what listens on the node's own loopback.
    let mut resolvers =
        RESOLVERS.into_iter().filter_map(|path| fs::read_to_string(path).ok()).map(|text| reachable(&text));
    let resolver = resolvers.find(|text| text.lines().any(|line| line.starts_with("nameserver"))).unwrap_or_default();
    let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {instance}\n");
    for (name, text) in FILES.into_iter().zip([format!("{instance}\n"), hosts, resolver]) {
        let path = directory.join(name);
        fs::write(&path, text)?;
        chown(&path, Some(root), Some(root))?;
    }
    Ok(())
}

/// A `resolv.conf` without the servers that only the node itself can ask.
fn reachable(text: &str) -> String {
    let is_reachable = |line: &&str| {
        let server = line.trim().strip_prefix("nameserver").map(str::trim);
        server.is_none_or(|server| server.parse().is_ok_and(|address: IpAddr| !address.is_loopback()))
    };
    text.lines().filter(is_reachable).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_loopback_are_left_out() {
        let text =
            "# made by systemd\nnameserver 127.0.0.53\nnameserver\t9.9.9.9\nnameserver ::1\nsearch example.com\n";
        assert_eq!(reachable(text), "# made by systemd\nnameserver\t9.9.9.9\nsearch example.com\n");
    }
}
