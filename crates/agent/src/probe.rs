//! Checks of instances, over the network and inside them.

pub(crate) mod exec;
mod grpc;
mod http;

use std::{fmt::Debug, io, net::SocketAddr};

use async_trait::async_trait;
use insula_container::Running;
use insula_env::{clock, net};
use insula_types::{Check, HealthSpec, ServiceSpec};

/// Asks an instance whether it is well.
#[async_trait]
pub trait Prober: Send + Sync + Debug {
    /// Asks what `health.check` says at `address`, within `health.timeout`.
    ///
    /// # Errors
    /// In words, unless the check passes.
    async fn probe(&self, address: SocketAddr, health: &HealthSpec) -> Result<(), String>;
}

/// Checks over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetworkProber;

#[async_trait]
impl Prober for NetworkProber {
    async fn probe(&self, address: SocketAddr, health: &HealthSpec) -> Result<(), String> {
        let asked = match &health.check {
            Check::Http(path) => format!("GET {path} on {address}"),
            Check::Tcp => format!("connect to {address}"),
            Check::Grpc(service) => format!("gRPC health of {service:?} on {address}"),
            Check::Exec(_) => return Err("a check inside the instance is not for the network".to_owned()),
        };
        match clock::timeout(health.timeout, ask(address, health)).await {
            Ok(Ok(Answer::Good)) => Ok(()),
            Ok(Ok(Answer::Bad(why))) => Err(format!("{asked} answered {why}")),
            Ok(Err(error)) => Err(format!("{asked}: {error}")),
            Err(_) => Err(format!("{asked}: no answer within {:?}", health.timeout)),
        }
    }
}

/// What an instance said.
enum Answer {
    Good,
    Bad(String),
}

async fn ask(address: SocketAddr, health: &HealthSpec) -> io::Result<Answer> {
    let stream = net::connect(address, health.timeout).await?;
    match &health.check {
        Check::Http(path) => http::ask(stream, address, path).await,
        Check::Grpc(service) => grpc::ask(stream, address, service).await,
        Check::Tcp | Check::Exec(_) => Ok(Answer::Good),
    }
}

/// The address that a check of this service goes to.
pub(crate) fn address(spec: &ServiceSpec, running: &Running) -> Option<SocketAddr> {
    running.endpoints.get(&spec.check_port()?.name).copied()
}

#[cfg(test)]
mod tests;
