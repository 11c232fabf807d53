//! Reads events, and resumes where it was when a connection or a node is lost.

use http::{HeaderValue, Method, header::HeaderName};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use insula_env::clock;

use super::{Call, Client, ClientError, PAUSE};
use crate::{
    Problem,
    router::EVENTS_ALIVE,
    wire::{Event, EventCursor},
};

/// Longest line of a stream in bytes; an event is a sentence.
const LINE_LEN_MAX: usize = 64 << 10;

/// Events in their order, each once, over as many connections as it takes.
pub struct EventReader {
    client: Client,
    follow: bool,
    /// The last event given, or where to begin.
    after: Option<EventCursor>,
    stream: Option<(Incoming, Frames)>,
    failures: u32,
}

/// Connections that may fail one after the other, without an event between, before the reader gives up. With the
/// pauses between them that is a minute: a region without power for longer is worth telling.
const FAILURES_MAX: u32 = 32;

impl EventReader {
    pub(super) fn new(client: Client, after: Option<EventCursor>, follow: bool) -> Self {
        Self { client, follow, after, stream: None, failures: 0 }
    }

    /// The next event; none at the end, which a follower does not see.
    ///
    /// # Errors
    /// [`ClientError`] when the node refuses, when a line makes no sense, or when no node can be reached for about a
    /// minute.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => {
                    self.failures = 0;
                    self.after = Some(event.id);
                    return Ok(Some(event));
                }
                Ok(None) if !self.follow => return Ok(None),
                Err(error) if !self.follow || !is_passing(&error) || self.failures >= FAILURES_MAX => {
                    return Err(error);
                }
                Ok(None) | Err(_) => {
                    self.stream = None;
                    let pause = PAUSE.0.saturating_mul(1 << self.failures.min(4)).min(PAUSE.1);
                    self.failures += 1;
                    clock::sleep(self.client.env.rng.jitter(pause)).await;
                }
            }
        }
    }

    /// The next event of the present connection, a new one when there is none.
    async fn step(&mut self) -> Result<Option<Event>, ClientError> {
        let call = self.call();
        let (body, frames) = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let response = self.client.send(&call).await?;
                self.stream.insert((response.into_body(), Frames::default()))
            }
        };
        loop {
            while let Some(frame) = frames.next() {
                if let Some(event) = read(&frame)?
                    && self.after.is_none_or(|after| event.id > after)
                {
                    return Ok(Some(event));
                }
            }
            // A node that has gone silent is found by the missing signs of life.
            let limit = EVENTS_ALIVE * 3;
            let frame = clock::timeout(limit, body.frame())
                .await
                .map_err(|_| ClientError::TimedOut { what: call.path.clone(), limit })?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(ClientError::CutOff { what: call.path, source: source.into() }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        frames
                            .add(&data)
                            .map_err(|why| ClientError::CutOff { what: call.path.clone(), source: why.into() })?;
                    }
                }
            }
        }
    }

    fn call(&self) -> Call {
        let mut call = self.client.call(Method::GET, format!("/v1/events?follow={}", self.follow));
        if let Some(after) = self.after {
            let value = HeaderValue::try_from(after.to_string()).expect("digits and a dot");
            call.headers.push((HeaderName::from_static("last-event-id"), value));
        }
        call
    }
}

fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::CutOff { .. } | ClientError::TimedOut { .. } => true,
        ClientError::Problem(problem) => problem.may_pass,
        ClientError::Unreadable { .. } | ClientError::Request { .. } => false,
    }
}

fn read(frame: &Frame) -> Result<Option<Event>, ClientError> {
    let unreadable = |source| ClientError::Unreadable { what: "/v1/events".to_owned(), source };
    if frame.data.is_empty() {
        return Ok(None);
    }
    if frame.kind == "problem" {
        let problem: Problem = serde_json::from_str(&frame.data).map_err(unreadable)?;
        return Err(problem.into());
    }
    serde_json::from_str(&frame.data).map(Some).map_err(unreadable)
}

/// One message of a `text/event-stream`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    kind: String,
    data: String,
}

/// Splits bytes into messages (HTML Living Standard, section 9.2.6), as far as our own server writes them.
#[derive(Default)]
struct Frames {
    line: Vec<u8>,
    frame: Frame,
    done: std::collections::VecDeque<Frame>,
}

impl Frames {
    fn add(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ if self.line.len() + self.frame.data.len() >= LINE_LEN_MAX => return Err("a message is too long"),
                _ => self.line.push(*byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            if frame != Frame::default() {
                self.done.push_back(frame);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.frame.kind = value.to_owned(),
            "data" => {
                if !self.frame.data.is_empty() {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            _ => {}
        }
    }

    fn next(&mut self) -> Option<Frame> {
        self.done.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let text = ": alive\n\nid: 1.0\ndata: {\"a\":\ndata: 1}\n\nevent: problem\r\ndata: x\r\n\r\n";
        let expected = [
            Frame { kind: String::new(), data: "{\"a\":\n1}".to_owned() },
            Frame { kind: "problem".to_owned(), data: "x".to_owned() },
        ];
        for size in 1..text.len() {
            let mut frames = Frames::default();
            for piece in text.as_bytes().chunks(size) {
                frames.add(piece).expect("short");
            }
            assert_eq!(frames.done, expected, "cut every {size} bytes");
        }
        assert!(Frames::default().add(&vec![b'x'; LINE_LEN_MAX + 1]).is_err());
    }
}
