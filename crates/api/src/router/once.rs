//! Idempotency keys: what is sent again under its key is done once, and a key is good for one request of one caller.
//!
//! A key and its caller give the first half of a request's id, what is asked the second; the replicated states refuse a second
//! half that differs (`insula_state`). Beside that each listener keeps the last answers, so that a request that is repeated
//! there is answered as before, byte for byte, and a key that was used for a change of the other state is noticed.
//! Nothing of a secret gets here: its body is not looked at, and an answer that shows one is not kept.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use insula_types::RequestId;

use super::{asked, bearer};
use crate::{Answer, Caller, Code, Problem};

/// Longest key in bytes.
const KEY_LEN_MAX: usize = 128;
/// Requests that are remembered, the oldest going first: retries come within minutes, and people change little.
const REMEMBERED_MAX: usize = 1024;
/// Longest answer that is kept in bytes; of a longer one its request is remembered alone.
const ANSWER_LEN_MAX: usize = 16 << 10;

/// What a row says about its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Once {
    /// Longest body in bytes.
    pub(super) body_len_max: usize,
    /// What must not be looked at, or kept.
    pub(super) hides: Hides,
}

/// Where a request has a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hides {
    Nothing,
    /// In its body: a hash of it that is stored could be guessed at, so the key is bound to method and path.
    Body,
    /// In its answer.
    Answer,
}

/// The requests of one listener that were done under keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// By caller and key.
    requests: BTreeMap<u64, Done>,
    /// The oldest first.
    order: VecDeque<u64>,
}

#[derive(Debug, Clone)]
struct Done {
    /// What was asked.
    asked: u64,
    answer: Option<Bytes>,
}

impl Answers {
    /// What was answered to the same request; none: nothing that is kept.
    fn recall(&self, request: RequestId) -> Answer<Option<Bytes>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.requests.get(&request.0) {
            Some(done) if done.asked != request.1 => Err(Problem::new(
                Code::IdempotencyKeyReused,
                "you used this Idempotency-Key for another method, path, If-Match or body: take a new key for each request",
            )),
            found => Ok(found.and_then(|done| done.answer.clone())),
        }
    }

    fn keep(&self, request: RequestId, answer: Option<Bytes>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.requests.insert(request.0, Done { asked: request.1, answer }).is_none() {
            kept.order.push_back(request.0);
        }
        while kept.order.len() > REMEMBERED_MAX {
            if let Some(oldest) = kept.order.pop_front() {
                kept.requests.remove(&oldest);
            }
        }
    }
}

/// Lets a request with a key through once.
pub(super) async fn once(State((once, answers)): State<(Once, Answers)>, request: Request, next: Next) -> Response {
    match through(once, &answers, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn through(once: Once, answers: &Answers, request: Request, next: Next) -> Answer<Response> {
    let (mut parts, mut body) = request.into_parts();
    let Some(key) = key(&parts.headers)? else { return Ok(next.run(Request::from_parts(parts, body)).await) };
    let mut bytes = Bytes::new();
    if once.hides != Hides::Body {
        bytes = asked::bytes(body, once.body_len_max).await?;
        body = Body::from(bytes.clone());
    }
    let caller = *parts.extensions.get::<Caller>().ok_or_else(asked::unauthenticated)?;
    let id = request_id(caller, key.as_bytes(), &parts, &bytes);
    if let Some(answer) = answers.recall(id)? {
        return Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], answer).into_response());
    }
    parts.extensions.insert(id);
    let response = next.run(Request::from_parts(parts, body)).await;
    // What was refused may be asked again: the states remember what they have decided.
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    if once.hides == Hides::Answer {
        answers.keep(id, None);
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let answer = to_bytes(body, usize::MAX).await.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    answers.keep(id, Some(answer.clone()).filter(|answer| answer.len() <= ANSWER_LEN_MAX));
    Ok(Response::from_parts(head, Body::from(answer)))
}

fn key(headers: &HeaderMap) -> Answer<Option<HeaderValue>> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    if (1..=KEY_LEN_MAX).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic) {
        return Ok(Some(key.clone()));
    }
    let said = format!("Idempotency-Key: expected 1 to {KEY_LEN_MAX} letters, digits and signs of ASCII");
    Err(Problem::new(Code::InvalidRequest, said))
}

/// Who asks under which key, then what is asked: the first 64 bits of a SHA-256 each.
fn request_id(caller: Caller, key: &[u8], parts: &Parts, body: &[u8]) -> RequestId {
    let caller = match caller {
        Caller::Root => "root".to_owned(),
        Caller::Token(Some(id)) => id.to_string(),
        Caller::Token(None) => bearer(&parts.headers).unwrap_or_default().to_owned(),
    };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let expected = parts.headers.get(header::IF_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
    RequestId(
        hash([caller.as_bytes(), key]),
        hash([parts.method.as_str().as_bytes(), target.as_bytes(), expected, body]),
    )
}

/// Each part with its length, so that no two lists of parts look alike.
fn hash<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let first = hash.finish().as_ref().first_chunk().copied().expect("SHA-256 has 32 bytes");
    u64::from_be_bytes(first)
}
