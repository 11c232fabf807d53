//! Switched protocols (WebSocket): once an instance has agreed, bytes pass both ways until either end is done.

use std::sync::Arc;

use http::Extensions;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tracing::debug;

use crate::{
    instances::InFlight,
    metrics::{Metrics, add},
    upstream::Connection,
};

/// Bytes held for each direction.
const BUFFER_BYTES: usize = 16 << 10;

/// The client's half of a switch, taken from its request before that is consumed.
pub(crate) type ClientHalf = hyper::upgrade::OnUpgrade;

/// Takes the client's half of a request that has one.
pub(crate) fn client_half(extensions: &mut Extensions) -> Option<ClientHalf> {
    extensions.remove()
}

/// Ties the two halves together, once both sides have seen the 101.
pub(crate) fn tunnel(
    client: ClientHalf,
    instance: Connection,
    in_flight: InFlight,
    metrics: &Arc<Metrics>,
) -> impl Future<Output = ()> + Send + use<> {
    add(&metrics.tunnels);
    async move {
        let _in_flight = in_flight;
        let mut client = match client.await {
            Ok(client) => TokioIo::new(client),
            Err(error) => return debug!(%error, "a protocol switch failed"),
        };
        let (mut instance, said) = instance.into_stream();
        let copied = async {
            client.write_all(&said).await?;
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut instance, BUFFER_BYTES, BUFFER_BYTES).await
        };
        if let Err(error) = copied.await {
            debug!(%error, "a tunnel ended");
        }
    }
}
