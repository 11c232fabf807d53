//! Reads requests: path, query, headers, body; each with its bounds, each refusal a problem.

use std::{fmt::Display, str::FromStr};

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequestParts, Query, RawPathParams},
};
use bytes::Bytes;
use http::{HeaderMap, Uri, header, request::Parts};
use insula_types::{ReleaseNumber, RequestId, Revision};
use serde::de::DeserializeOwned;

use super::{
    Shared,
    query::{Consistency, ReadQuery},
};
use crate::{Answer, Caller, Code, Problem, ReadOptions, wire::EventCursor};

/// Everything of a request but its body.
pub(super) struct Asked {
    caller: Caller,
    request: Option<RequestId>,
    uri: Uri,
    headers: HeaderMap,
    path: Vec<(String, String)>,
}

impl FromRequestParts<Shared> for Asked {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Answer<Self> {
        let params = RawPathParams::from_request_parts(parts, shared)
            .await
            .map_err(|error| Problem::new(Code::InvalidRequest, format!("the path: {error}")))?;
        let caller = *parts.extensions.get::<Caller>().ok_or_else(unauthenticated)?;
        Ok(Self {
            caller,
            request: parts.extensions.get::<RequestId>().copied(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            path: params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        })
    }
}

impl Asked {
    /// Who asks.
    pub(super) const fn caller(&self) -> Caller {
        self.caller
    }

    /// The headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A part of the path as a value of ours.
    pub(super) fn name<T: FromStr<Err: Display>>(&self, key: &str) -> Answer<T> {
        let text = self.path.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value);
        text.parse().map_err(|error: T::Err| Problem::new(Code::InvalidRequest, error.to_string()))
    }

    pub(super) fn query<T: DeserializeOwned>(&self) -> Answer<T> {
        query(&self.uri)
    }

    pub(super) fn read(&self) -> Answer<ReadOptions> {
        let query: ReadQuery = self.query()?;
        Ok(ReadOptions {
            wait: query.wait,
            is_linearizable: matches!(query.consistency, Some(Consistency::Linearizable)),
        })
    }

    /// The name that the request has by its idempotency key, if it has one.
    pub(super) const fn request(&self) -> Option<RequestId> {
        self.request
    }

    /// The release in `If-Match: "3"`.
    pub(super) fn expected(&self) -> Answer<Option<ReleaseNumber>> {
        Ok(self.if_match("a release")?.map(ReleaseNumber))
    }

    /// The revision in `If-Match: "41"`.
    pub(super) fn expected_revision(&self) -> Answer<Option<Revision>> {
        Ok(self.if_match("a revision")?.map(Revision))
    }

    fn if_match(&self, of: &str) -> Answer<Option<u64>> {
        let Some(value) = self.headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        let number = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let problem = || format!("If-Match: expected the number of {of}, like \"3\"");
        number.map(Some).ok_or_else(|| Problem::new(Code::InvalidRequest, problem()))
    }

    /// Where a client that reconnects by itself resumes.
    pub(super) fn last_event(&self) -> Answer<Option<EventCursor>> {
        let Some(value) = self.headers.get("last-event-id") else { return Ok(None) };
        let cursor = value.to_str().unwrap_or_default().parse();
        cursor.map(Some).map_err(|why| Problem::new(Code::InvalidRequest, format!("Last-Event-ID: {why}")))
    }
}

/// What a query says.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Answer<T> {
    match Query::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Err(Problem::new(Code::InvalidRequest, format!("the query: {cause}")))
        }
    }
}

/// Of a request that got here on no way that there is.
pub(super) fn unauthenticated() -> Problem {
    Problem::new(Code::Unauthorized, "the request was not authenticated")
}

/// A body, at most so long.
pub(super) async fn bytes(body: Body, most: usize) -> Answer<Bytes> {
    // Known before it comes.
    if body.size_hint().lower() > most as u64 {
        return Err(too_large(most));
    }
    axum::body::to_bytes(body, most).await.map_err(|error| {
        let is_too_long = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .any(|error| error.is::<http_body_util::LengthLimitError>());
        if is_too_long {
            too_large(most)
        } else {
            Problem::new(Code::InvalidRequest, format!("the body ended early: {error}"))
        }
    })
}

fn too_large(most: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("at most {most} bytes are read here"))
}

/// A body of text, at most so long.
pub(super) async fn body(body: Body, most: usize) -> Answer<String> {
    String::from_utf8(bytes(body, most).await?.into())
        .map_err(|_| Problem::new(Code::InvalidRequest, "the body is not UTF-8"))
}

/// A body in JSON.
pub(super) async fn json_body<T: DeserializeOwned>(from: Body) -> Answer<T> {
    json_body_of(from, super::BODY_LEN_MAX).await
}

/// A body in JSON, at most so long.
pub(super) async fn json_body_of<T: DeserializeOwned>(from: Body, most: usize) -> Answer<T> {
    let text = body(from, most).await?;
    serde_json::from_str(&text).map_err(|error| Problem::new(Code::InvalidRequest, format!("the body: {error}")))
}
