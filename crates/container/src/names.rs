//! The files by which a container knows names: `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf`. They are written into its root
//! before it starts, in place of what the image has there; a mount for each would take a millisecond.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use insula_types::InstanceId;
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, mkdirat, openat, openat2, unlinkat},
    io::Errno,
};

/// Where the node says whom to ask for names. The second has what systemd-resolved asks, when the first leads to that.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Writes them into a mounted root, for the app's root to change. `first` is that one's id on the node.
pub(crate) fn write(rootfs: &Path, instance: InstanceId, address: Ipv4Addr, first: u32) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(first)), Some(Gid::from_raw(first)));
    let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Links in the image lead to its own directories, never to the node's.
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = || openat2(&root, "etc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), inside);
    let etc = match open() {
        Err(Errno::NOENT) => {
            mkdirat(&root, "etc", Mode::from_raw_mode(0o755))?;
            let made = open()?;
            fchmod(&made, Mode::from_raw_mode(0o755))?;
            fchown(&made, owner.0, owner.1)?;
            made
        }
        other => other?,
    };
    // An instance cannot ask what listens on the node's own loopback.
    let mut resolvers =
        RESOLVERS.into_iter().filter_map(|path| fs::read_to_string(path).ok()).map(|text| reachable(&text));
    let resolver = resolvers.find(|text| text.lines().any(|line| line.starts_with("nameserver"))).unwrap_or_default();
    let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {instance}\n");
    for (name, text) in [("hostname", format!("{instance}\n")), ("hosts", hosts), ("resolv.conf", resolver)] {
        match unlinkat(&etc, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&etc, name, flags, Mode::from_raw_mode(0o644))?);
        fchown(&file, owner.0, owner.1)?;
        // Whatever this process's umask is.
        fchmod(&file, Mode::from_raw_mode(0o644))?;
        file.write_all(text.as_bytes())?;
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
