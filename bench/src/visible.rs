//! When nodes show a change: a watcher at each node reads the scale of a service over and over, a changer at one sets it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use insula_api::wire::{App, ScaleBody};
use insula_env::{Clock, TaskGroup, clock};
use insula_types::{Scale, ServiceRef};
use serde::{Deserialize, Serialize};

use crate::writes::Insula;

/// Between two reads of a watcher: how exact it is.
const READ_EVERY: Duration = Duration::from_millis(10);

/// Something that was seen or done. A line of JSON in the output of `insula-bench visible`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// The scale that the node shows, or that was asked for.
    pub scale: u32,
    /// When a change was sent; of a sight the same as `at_ms`. Wall time in milliseconds since 1970.
    pub sent_ms: u64,
    /// When it was seen, or confirmed.
    pub at_ms: u64,
}

/// One connection to a node's API.
pub struct Node {
    insula: Insula,
    service: ServiceRef,
    connection: SendRequest<Full<Bytes>>,
}

impl Node {
    /// Connects; the connection is a task of the group.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(context: &str, target: SocketAddr, service: ServiceRef, tasks: &TaskGroup) -> Result<Self> {
        let insula = Insula::new(context)?;
        let connection = insula.connect(target, tasks).await?;
        Ok(Self { insula, service, connection })
    }

    async fn answer(&mut self, request: http::Request<Full<Bytes>>) -> Result<Bytes> {
        self.connection.ready().await?;
        let (head, body) = self.connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        ensure!(head.status.is_success(), "{}: {}", head.status, String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// The scale that the node shows, as it knows it by itself.
    async fn shown(&mut self) -> Result<u32> {
        let request = http::Request::get(format!("/v1/apps/{}", self.service.app));
        let request = self.insula.head(request).body(Full::default())?;
        let app: App = serde_json::from_slice(&self.answer(request).await?)?;
        let scale = &app.definition["services"][self.service.service.as_str()]["scale"];
        scale.as_u64().and_then(|scale| u32::try_from(scale).ok()).with_context(|| format!("scale {scale}"))
    }

    /// Sees changes of the scale until it fails, or `see` says that it is enough.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn watch(mut self, mut see: impl FnMut(Sight) -> bool) -> Result<()> {
        let (clock, mut last) = (Clock::real(), None);
        loop {
            let scale = self.shown().await?;
            if last.replace(scale) != Some(scale) {
                let at_ms = clock.wall_ms();
                if !see(Sight { scale, sent_ms: at_ms, at_ms }) {
                    return Ok(());
                }
            }
            clock::sleep(READ_EVERY).await;
        }
    }

    /// Sets the scale.
    ///
    /// # Errors
    /// When the node refuses, or does not answer.
    pub async fn set(&mut self, scale: u32) -> Result<Sight> {
        let clock = Clock::real();
        let sent_ms = clock.wall_ms();
        let path = format!("/v1/apps/{}/services/{}/scale", self.service.app, self.service.service);
        let request = self.insula.head(http::Request::put(path));
        let request = request
            .header(http::header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", format!("visible/{sent_ms}"));
        let body = ScaleBody { scale: Scale::Count(scale), region: None };
        self.answer(request.body(Full::from(serde_json::to_vec(&body)?))?).await?;
        Ok(Sight { scale, sent_ms, at_ms: clock.wall_ms() })
    }
}
