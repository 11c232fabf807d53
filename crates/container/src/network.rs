//! The network of a container: a namespace of its own, kept by a file, and a veth pair to the node's bridge.
//!
//! Every step can be repeated, and taking away what is not there is fine. The node's own namespace is the one that the
//! calling thread is in.

use std::{
    fs::{self, File},
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use futures::{StreamExt, TryStreamExt, future::Either};
use insula_types::InstanceId;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use tokio::sync::oneshot;

use crate::{Error, config::NetworkConfig, error::Source};

/// Name of the interface inside.
const INSIDE: &str = "eth0";
/// What the names of our interfaces on the node begin with; the instance's digits follow. At most 15 bytes in all.
pub(crate) const VETH_PREFIX: &str = "ins-";

/// `ENODEV`: what netlink says of a link that is not there.
const NO_DEVICE: i32 = 19;

type NetResult<T> = Result<T, Source>;

/// A connection to the kernel of one network namespace; its driver is polled along with the work.
async fn with_netlink<R, F: Future<Output = NetResult<R>>>(
    opened: io::Result<(impl Future<Output = ()>, Handle)>,
    work: impl FnOnce(Handle) -> F,
) -> NetResult<R> {
    let (driver, handle) = opened?;
    let (driver, work) = (std::pin::pin!(driver), std::pin::pin!(work(handle)));
    match futures::future::select(work, driver).await {
        Either::Left((result, _)) => result,
        Either::Right(((), _)) => Err("the netlink connection ended".into()),
    }
}

fn netlink() -> io::Result<(impl Future<Output = ()>, Handle)> {
    rtnetlink::new_connection().map(|(driver, handle, _)| (driver, handle))
}

/// Name of the node's end of the pair.
pub(crate) fn veth(instance: InstanceId) -> String {
    format!("{VETH_PREFIX}{}", instance.to_string().trim_start_matches("i-"))
}

/// The group that the interface of an address is in, by which the firewall knows it: the address itself as a number, since
/// people give names to small ones.
pub(crate) fn group(address: Ipv4Addr) -> u32 {
    address.into()
}

/// Makes the bridge, with the gateway's address, and brings it up.
pub(crate) async fn ensure_bridge(config: &NetworkConfig) -> NetResult<()> {
    with_netlink(netlink(), |netlink| async move {
        let index = match link_index(&netlink, &config.bridge).await? {
            Some(index) => index,
            None => {
                netlink.link().add(LinkBridge::new(&config.bridge).build()).execute().await?;
                link_index(&netlink, &config.bridge).await?.ok_or("the bridge vanished")?
            }
        };
        let address = IpAddr::V4(config.subnet.gateway());
        netlink.address().add(index, address, config.subnet.prefix()).replace().execute().await?;
        Ok(netlink.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?)
    })
    .await
}

/// Makes the namespace and connects it. `netns` is the file that keeps it, `sysfs` where its `/sys` is mounted.
pub(crate) async fn connect(
    config: &NetworkConfig,
    instance: InstanceId,
    (netns, sysfs): (&Path, &Path),
    address: Ipv4Addr,
) -> Result<(), Error> {
    let failed = |attempt: &str| {
        let attempt = attempt.to_owned();
        move |source: Source| Error::Network { instance, attempt, source }
    };
    let inside = make_namespace(netns, sysfs).await.map_err(failed("make its namespace"))?;
    let file = File::open(netns).map_err(|error| failed("open its namespace")(error.into()))?;
    with_netlink(netlink(), |netlink| add_veth(netlink, config, (instance, address), &file))
        .await
        .map_err(failed("add its interface to the bridge"))?;
    with_netlink(Ok(inside), |netlink| set_up_inside(netlink, config, address))
        .await
        .map_err(failed("set up its interface"))
}

/// Makes a network namespace and keeps it by a bind mount. Done in a thread of its own, which stays in the new
/// namespace and ends; the netlink connection opened there belongs to that namespace wherever it is used.
async fn make_namespace(netns: &Path, sysfs: &Path) -> NetResult<(impl Future<Output = ()> + use<>, Handle)> {
    let (netns, sysfs) = (netns.to_owned(), sysfs.to_owned());
    let runtime = tokio::runtime::Handle::current();
    let (done, result) = oneshot::channel();
    let work = move || -> io::Result<_> {
        File::create(&netns)?;
        // SAFETY: the flag gives this thread another network namespace; no memory or descriptor is concerned.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        mount_bind("/proc/thread-self/ns/net", &netns)?;
        // Shows the devices of the namespace in which it is mounted; root of a user namespace may not mount it there.
        fs::create_dir_all(&sysfs)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        mount("sysfs", &sysfs, "sysfs", flags, None)?;
        // Ports below 1024 are no privilege where nobody else listens.
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
        let _context = runtime.enter();
        netlink()
    };
    #[allow(clippy::disallowed_methods, reason = "unshare moves the thread that calls it")]
    std::thread::spawn(move || done.send(work()).ok());
    Ok(result.await??)
}

async fn add_veth(
    netlink: Handle,
    config: &NetworkConfig,
    (instance, address): (InstanceId, Ipv4Addr),
    netns: &File,
) -> NetResult<()> {
    let bridge = link_index(&netlink, &config.bridge)
        .await?
        .ok_or_else(|| format!("there is no bridge {}: was it removed?", config.bridge))?;
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(INSIDE)
        .address(hardware_address(address).to_vec())
        .setns_by_fd(netns.as_fd().as_raw_fd())
        .build();
    let pair = LinkVeth::new(&veth(instance), INSIDE)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge)
        .link_group(group(address))
        .up()
        .build();
    netlink.link().add(pair).execute().await?;
    // Ports that are isolated reach the bridge itself, and not each other.
    let port = link_index(&netlink, &veth(instance)).await?.ok_or("its interface vanished")?;
    Ok(netlink.link().set_port(LinkBridgePort::new(port).isolated(true).build()).execute().await?)
}

/// Puts the interface of an instance that runs into its group: earlier versions did not. Fine when it is not there.
pub(crate) async fn set_group(instance: InstanceId, address: Ipv4Addr) -> NetResult<()> {
    with_netlink(netlink(), |netlink| async move {
        let Some(index) = link_index(&netlink, &veth(instance)).await? else { return Ok(()) };
        let grouped = LinkUnspec::new_with_index(index).link_group(group(address)).build();
        Ok(netlink.link().set(grouped).execute().await?)
    })
    .await
}

/// The interface's own address goes with the IP address: whoever knew an earlier owner of that reaches this one at once, and
/// not only when the neighbour table forgets. Locally administered (IEEE 802, section 8.4).
fn hardware_address(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, b'i', a, b, c, d]
}

async fn set_up_inside(netlink: Handle, config: &NetworkConfig, address: Ipv4Addr) -> NetResult<()> {
    let lo = link_index(&netlink, "lo").await?.ok_or("there is no loopback")?;
    netlink.link().set(LinkUnspec::new_with_index(lo).up().build()).execute().await?;
    let eth = link_index(&netlink, INSIDE).await?.ok_or("the interface did not arrive")?;
    netlink.address().add(eth, IpAddr::V4(address), config.subnet.prefix()).execute().await?;
    netlink.link().set(LinkUnspec::new_with_index(eth).up().build()).execute().await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(config.subnet.gateway()).build();
    Ok(netlink.route().add(route).execute().await?)
}

/// Takes the interface and the namespace away.
pub(crate) async fn disconnect(instance: InstanceId, netns: &Path) -> Result<(), Error> {
    let name = veth(instance);
    with_netlink(netlink(), |netlink| async move { remove_link(&netlink, &name).await })
        .await
        .map_err(|source| Error::Network { instance, attempt: "remove its interface".to_owned(), source })?;
    release(netns).map_err(Error::file("unmount", netns))
}

/// Unmounts and removes the file that keeps a namespace.
pub(crate) fn release(netns: &Path) -> io::Result<()> {
    unmount_all(netns)?;
    match fs::remove_file(netns) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unmounts everything at `path`; fine when nothing is.
pub(crate) fn unmount_all(path: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, not there; without root nothing was mounted.
            Err(Errno::INVAL | Errno::NOENT | Errno::PERM) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Our interfaces on the bridge.
pub(crate) async fn links(config: &NetworkConfig) -> NetResult<Vec<String>> {
    with_netlink(netlink(), |netlink| async move {
        let Some(bridge) = link_index(&netlink, &config.bridge).await? else { return Ok(Vec::new()) };
        let links: Vec<LinkMessage> = netlink.link().get().execute().try_collect().await?;
        let on_bridge = links.iter().filter(|link| link.attributes.contains(&LinkAttribute::Controller(bridge)));
        let names = on_bridge.flat_map(|link| &link.attributes).filter_map(|attribute| match attribute {
            LinkAttribute::IfName(name) if name.starts_with(VETH_PREFIX) => Some(name.clone()),
            _ => None,
        });
        Ok(names.collect())
    })
    .await
}

/// Removes our interfaces that belong to none of these instances.
pub(crate) async fn remove_strangers(config: &NetworkConfig, known: &[InstanceId]) -> NetResult<()> {
    for name in links(config).await? {
        if !known.iter().any(|instance| veth(*instance) == name) {
            with_netlink(netlink(), |netlink| async move { remove_link(&netlink, &name).await }).await?;
        }
    }
    Ok(())
}

/// Removes the bridge; fine when there is none.
pub(crate) async fn remove_bridge(bridge: &str) -> NetResult<()> {
    with_netlink(netlink(), |netlink| async move { remove_link(&netlink, bridge).await }).await
}

async fn remove_link(netlink: &Handle, name: &str) -> NetResult<()> {
    let Some(index) = link_index(netlink, name).await? else { return Ok(()) };
    match netlink.link().del(index).execute().await {
        Err(error) if !is_missing(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

async fn link_index(netlink: &Handle, name: &str) -> NetResult<Option<u32>> {
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    match links.next().await {
        Some(Ok(link)) => Ok(Some(link.header.index)),
        Some(Err(error)) if is_missing(&error) => Ok(None),
        Some(Err(error)) => Err(error.into()),
        None => Ok(None),
    }
}

fn is_missing(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -NO_DEVICE)
}
