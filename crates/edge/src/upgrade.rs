//! Switched protocols (WebSocket): once an instance has agreed, bytes pass both ways until either end is done.

use std::sync::Arc;

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use insula_env::TaskGroup;
use tracing::debug;

use crate::{
    instances::InFlight,
    metrics::{Metrics, add},
};

/// Bytes held for each direction.
const BUFFER_BYTES: usize = 16 << 10;

/// The client's half of a switch, taken from its request before that is consumed.
pub(crate) type ClientHalf = hyper::upgrade::OnUpgrade;

/// Takes the client's half.
pub(crate) fn client_half<B>(request: &mut Request<B>) -> ClientHalf {
    hyper::upgrade::on(request)
}

/// Ties the two halves together, after both sides have seen the 101.
pub(crate) fn tunnel<B>(
    client: ClientHalf,
    response: &mut Response<B>,
    in_flight: InFlight,
    metrics: &Arc<Metrics>,
    tasks: &TaskGroup,
) {
    let instance = hyper::upgrade::on(response);
    add(&metrics.tunnels);
    tasks.spawn("edge tunnel", async move {
        let _in_flight = in_flight;
        let (client, instance) = match tokio::try_join!(client, instance) {
            Ok(both) => both,
            Err(error) => return debug!(%error, "a protocol switch failed"),
        };
        let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
        let copied =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut instance, BUFFER_BYTES, BUFFER_BYTES).await;
        if let Err(error) = copied {
            debug!(%error, "a tunnel ended");
        }
    });
}
