//! Writes answers: JSON, problem details, streams.

use std::convert::Infallible;

use axum::{
    Json,
    body::Body,
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures::StreamExt;
use http::{
    HeaderValue,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
};
use serde::Serialize;

use super::EVENTS_ALIVE;
use crate::{Answer, Code, EventStream, LogStream, Problem};

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
