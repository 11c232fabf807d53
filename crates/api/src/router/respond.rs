//! Writes answers: JSON, problem details, streams.

use std::{convert::Infallible, future::ready, time::Duration};

use axum::{
    Json,
    body::Body,
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{
    HeaderValue,
    header::{CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use insula_env::clock;
use serde::Serialize;

use super::EVENTS_ALIVE;
use crate::{Answer, BodyStream, Code, EventStream, LogStream, Problem};

/// How much of a body, and for how long, is read after it was refused.
const REFUSED_BYTES_MAX: u64 = 64 << 20;
const REFUSED_LIMIT: Duration = Duration::from_secs(10);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == Code::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(super) fn json<T: Serialize>(answer: Answer<T>) -> Response {
    match answer {
        Ok(value) => Json(value).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Reads what is not wanted, for a while.
pub(super) async fn read_on<E>(mut body: impl Stream<Item = Result<Bytes, E>> + Unpin) {
    let all = async {
        let mut read = 0;
        while let Some(Ok(piece)) = body.next().await {
            read += piece.len() as u64;
            if read > REFUSED_BYTES_MAX {
                break;
            }
        }
    };
    // Who sends for longer may miss the answer.
    clock::timeout(REFUSED_LIMIT, all).await.ok();
}

/// Tells a problem to a caller that is still sending. Its bytes are read on for a while: a connection that is closed on them
/// may take the answer away.
pub(super) fn while_it_comes(problem: Problem, body: BodyStream) -> Response {
    let said = Bytes::from(text(&problem));
    let rest = stream::once(read_on(body)).filter_map(|()| ready(None));
    let mut response = problem.into_response();
    *response.body_mut() = Body::from_stream(stream::iter([Ok::<_, Infallible>(said)]).chain(rest));
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}

pub(super) fn log(answer: Answer<LogStream>) -> Response {
    streamed(answer, "text/plain; charset=utf-8")
}

pub(super) fn archive(answer: Answer<LogStream>) -> Response {
    streamed(answer, "application/octet-stream")
}

fn streamed(answer: Answer<LogStream>, kind: &'static str) -> Response {
    match answer {
        Ok(stream) => ([(CONTENT_TYPE, HeaderValue::from_static(kind))], Body::from_stream(stream)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

pub(super) fn events(answer: Answer<EventStream>) -> Response {
    let stream = match answer {
        Ok(stream) => stream,
        Err(problem) => return problem.into_response(),
    };
    let frames = stream.map(|item| {
        let frame = match item {
            Ok(event) => sse::Event::default().id(event.id.to_string()).data(text(&event)),
            Err(problem) => sse::Event::default().event("problem").data(text(&problem)),
        };
        Ok::<_, Infallible>(frame)
    });
    Sse::new(frames).keep_alive(KeepAlive::new().interval(EVENTS_ALIVE)).into_response()
}

fn text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("wire types serialize into memory without error")
}
