//! Clients that speak HTTP/2: many requests on a connection, all in the task of that connection.
//!
//! Always: what a client may have open, buffered and in its heads is bounded; whoever takes back most of what it asks for, or gives
//! no sign of life while something is open, is let go, as is a stream of which the client takes nothing. Left to `h2`: frames that
//! come in floods (SETTINGS and PING are answered before more is read, CONTINUATION and tiny or empty DATA are counted, as are
//! streams that are reset before anybody has seen them), and everything about frames that are wrong.

mod stream;

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use h2::{
    Ping, PingPong, Reason, RecvStream,
    server::{self, Connection, SendResponse},
};
use http::{Request, header};
use insula_env::clock::{Instant, sleep, sleep_until, timeout};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use self::stream::Ended;
use crate::{
    clients::Admitted,
    config::HEAD_BYTES_MAX,
    forward::{Shared, Visitor},
    guard::Guarded,
    headers,
    incoming::ClientBody,
    metrics::add,
};

/// Streams that one connection may have open.
const STREAMS_MAX: u32 = 100;
/// Bytes of a request, and of all requests of a connection, that may wait for their instance.
const WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of a response that may wait to be written.
const SEND_BYTES_MAX: usize = 64 << 10;
/// How often a client is asked for a sign of life while something is open, and how long that may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WAIT: Duration = Duration::from_secs(20);
/// Requests that a client may take back at once, and the share of all that it may take back beyond that: no more than half. Each is
/// work for an instance (CVE-2023-44487).
const TAKEN_BACK_MAX: u32 = 100;
const TAKEN_BACK_SHARE: u32 = 2;
/// What is taken back later than this was wanted.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Serves a client's connection until it ends, or until some time after `leaving` says that it shall. An error is the client's.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    stream: Guarded<S>,
    visitor: &Arc<Visitor>,
    admitted: &Admitted,
    leaving: &CancellationToken,
) -> io::Result<()> {
    let idle_max = shared.config.request_head;
    let handshake = server::Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buffer_size(SEND_BYTES_MAX)
        .handshake::<_, Bytes>(stream);
    let mut connection = timeout(idle_max, handshake).await?.map_err(io::Error::other)?;
    let pings = connection.ping_pong();
    let open = Open { since: shared.env.clock.now(), taken_back: 0, all: 0, is_flooded: false };
    converse(shared, &mut connection, pings, visitor, admitted, leaving, open).await
}

/// What is known of a connection's requests.
struct Open {
    /// Since when nothing has been open.
    since: Instant,
    taken_back: u32,
    all: u32,
    /// The client has been told that it takes back too many; what it had open ends meanwhile.
    is_flooded: bool,
}

impl Open {
    /// A request has ended like this. Whether with it the client has taken back too many.
    fn is_flood(&mut self, ended: Ended) -> bool {
        self.all = self.all.saturating_add(1);
        if matches!(ended, Ended::TakenBack { after } if after < AT_ONCE) {
            self.taken_back += 1;
        }
        let is_flood = self.taken_back > TAKEN_BACK_MAX && self.taken_back > self.all / TAKEN_BACK_SHARE;
        is_flood && !std::mem::replace(&mut self.is_flooded, true)
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    connection: &mut Connection<Guarded<S>, Bytes>,
    pings: Option<PingPong>,
    visitor: &Arc<Visitor>,
    admitted: &Admitted,
    leaving: &CancellationToken,
    mut open: Open,
) -> io::Result<()> {
    let mut streams = FuturesUnordered::new();
    let mut silent = pin!(silent(pings));
    let mut is_going = false;
    loop {
        let idle_until = open.since + shared.config.request_head;
        tokio::select! {
            // Streams first: what they write goes out in the same turn.
            biased;
            Some(ended) = streams.next(), if !streams.is_empty() => {
                if open.is_flood(ended) {
                    add(&shared.metrics.floods);
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    is_going = true;
                }
                if streams.is_empty() {
                    open.since = shared.env.clock.now();
                }
            }
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted.map_err(io::Error::other)?;
                admitted.spoke();
                streams.push(answer(Arc::clone(shared), Arc::clone(visitor), request, respond));
            }
            () = leaving.cancelled(), if !is_going => {
                is_going = true;
                connection.graceful_shutdown();
            }
            () = &mut silent, if !streams.is_empty() => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the client gives no sign of life"));
            }
            () = sleep_until(idle_until), if streams.is_empty() => {
                if is_going {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not go"));
                }
                is_going = true;
                open.since = shared.env.clock.now();
                connection.graceful_shutdown();
            }
        }
    }
}

/// Ends when the other side gives no sign of life.
async fn silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_EVERY).await;
        let asked = pings.send_ping(Ping::opaque()).is_ok();
        let pong = std::future::poll_fn(|cx| pings.poll_pong(cx));
        if !asked || !matches!(timeout(PONG_WAIT, pong).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Answers one request.
fn answer(
    shared: Arc<Shared>,
    visitor: Arc<Visitor>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> impl Future<Output = Ended> + Send {
    let (mut parts, body) = request.into_parts();
    headers::join_cookies(&mut parts.headers);
    if parts.headers.contains_key(header::EXPECT) && !body.is_end_stream() {
        let go_on = http::Response::builder().status(http::StatusCode::CONTINUE).body(());
        // It fails only when there is no stream any more.
        go_on.ok().and_then(|go_on| respond.send_informational(go_on).ok());
    }
    let body = ClientBody::of_stream(body, &parts.headers);
    stream::answer(shared, visitor, Request::from_parts(parts, body), respond)
}
