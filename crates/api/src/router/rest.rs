//! Reads on what a caller is still sending when its request has been refused, for a while: a connection that is closed on it may take
//! the answer away (RFC 9112, section 9.6).

use std::{
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use insula_env::clock;
use parking_lot::Mutex;

/// How much is read, and for how long. Who sends more may miss the answer.
const BYTES_MAX: u64 = 64 << 20;
const LIMIT: Duration = Duration::from_secs(10);

/// Answers; behind a refusal, reads what nobody has read of the request.
pub(super) async fn read_rest(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let rest = Rest(Arc::new(Mutex::new(body)));
    let response = next.run(Request::from_parts(parts, Body::new(rest.clone()))).await;
    let is_refused = response.status().is_client_error() || response.status().is_server_error();
    if !is_refused || rest.is_end_stream() {
        return response;
    }
    let (mut parts, said) = response.into_parts();
    // Its end comes later than that of what is said.
    parts.headers.remove(CONTENT_LENGTH);
    let nothing = stream::once(read_on(rest)).filter_map(|()| ready(None));
    Response::from_parts(parts, Body::from_stream(said.into_data_stream().chain(nothing)))
}

async fn read_on(mut rest: Rest) {
    let all = async {
        let mut read = 0;
        while let Some(Ok(frame)) = rest.frame().await {
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if read > BYTES_MAX {
                break;
            }
        }
    };
    clock::timeout(LIMIT, all).await.ok();
}

/// A request's body, of which somebody may read the rest when the endpoint has let go of it.
#[derive(Clone)]
struct Rest(Arc<Mutex<Body>>);

impl HttpBody for Rest {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.lock().size_hint()
    }
}
