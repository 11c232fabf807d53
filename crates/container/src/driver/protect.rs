//! Keeps the firewall as it has to be: for the addresses that are in use, and whatever others do to it.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use insula_env::{Beat, beat, clock};
use insula_types::InstanceId;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket, protocols::NETLINK_NETFILTER};
use tracing::warn;

use super::NodeRuntime;
use crate::{Error, disk::blocking, firewall};

/// Where the kernel tells of changes to nftables (`NFNLGRP_NFTABLES`, linux/netfilter/nfnetlink.h).
const CHANGES: u32 = 7;
/// Changes come in bursts, and a tool that fights for its own rules must not make us fight.
const SETTLE: Duration = Duration::from_secs(1);

/// What is known of the rules in the kernel.
#[derive(Debug, Default)]
pub(super) enum Written {
    #[default]
    Unknown,
    /// For instances with addresses up to this one.
    UpTo(Ipv4Addr),
    /// The runtime is at its end.
    Removed,
}

impl NodeRuntime {
    /// Returns when the firewall is there for an instance, whose address is taken: nearly always at once.
    pub(super) async fn admit(&self, instance: InstanceId) -> Result<(), Error> {
        self.renew_firewall().await.map_err(|error| Error::Network {
            instance,
            attempt: "protect others from it".to_owned(),
            source: error.into(),
        })
    }

    async fn renew_firewall(&self) -> io::Result<()> {
        let Some(network) = self.0.config.network.clone() else { return Ok(()) };
        let mut written = Arc::clone(&self.0.firewall).lock_owned().await;
        let highest = self.0.state.lock().addresses.values().max().copied();
        let last = firewall::last(&network, highest.unwrap_or(network.subnet.gateway()));
        match *written {
            Written::Removed => return Ok(()),
            Written::UpTo(earlier) if earlier >= last => return Ok(()),
            Written::UpTo(_) | Written::Unknown => *written = Written::Unknown,
        }
        // Held until all is written, also when nobody waits for it any more: what is written last must be the latest.
        let work = move || {
            firewall::apply(&network.bridge, &firewall::rules(&network, last))?;
            *written = Written::UpTo(last);
            Ok(())
        };
        blocking(&*self.0.env.disk, work).await
    }

    /// Puts the rules back when somebody else has changed them.
    async fn check_firewall(&self) -> io::Result<()> {
        let Some(network) = &self.0.config.network else { return Ok(()) };
        let mut written = self.0.firewall.lock().await;
        if let Written::UpTo(last) = *written {
            let (bridge, rules) = (network.bridge.clone(), firewall::rules(network, last));
            if blocking(&*self.0.env.disk, move || firewall::is_in_place(&bridge, &rules)).await {
                return Ok(());
            }
            warn!(table = %network.bridge, "somebody changed our tables of nftables, they are put back");
            *written = Written::Unknown;
        }
        drop(written);
        self.renew_firewall().await
    }

    /// Takes the rules away, for good.
    pub(super) async fn remove_firewall(&self) -> io::Result<()> {
        let Some(network) = &self.0.config.network else { return Ok(()) };
        let mut written = Arc::clone(&self.0.firewall).lock_owned().await;
        *written = Written::Removed;
        let bridge = network.bridge.clone();
        let work = move || {
            let _held = written;
            firewall::remove(&bridge)
        };
        match blocking(&*self.0.env.disk, work).await {
            // Without the program there are none.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Starts what keeps it.
    pub(super) fn keep_firewall(&self) {
        if self.0.config.network.is_none() {
            return;
        }
        let runtime = self.clone();
        self.0.env.tasks.supervise("keep the firewall", beat::DISK, move |beat| {
            let runtime = runtime.clone();
            async move {
                if let Err(error) = runtime.watch_firewall(beat).await {
                    warn!(%error, "the firewall of instances cannot be kept; none is started meanwhile");
                }
            }
        });
    }

    /// Until something fails.
    async fn watch_firewall(&self, beat: Beat) -> io::Result<()> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(CHANGES)?;
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            beat.alive();
            self.check_firewall().await?;
            // What was changed meanwhile waits in the socket. Too much of it (`ENOBUFS`) is news as well.
            buffer.clear();
            beat.idle(socket.recv(&mut buffer)).await.or_else(|error| match error.raw_os_error() {
                Some(libc::ENOBUFS) => Ok(()),
                _ => Err(error),
            })?;
            clock::sleep(SETTLE).await;
        }
    }
}
