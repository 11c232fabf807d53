//! One request as it is kept: small, and written into the place of an older one, so that keeping it asks for no memory.

use std::{net::IpAddr, ops::Range, time::Duration};

use insula_types::{
    InstanceId, NodeId, RequestRecord, RequestTry, ServiceRef, name::LABEL_LEN_MAX, request::REQUEST_ID_LEN,
};

use super::{SLOW, Why};
use crate::{config::TRIES_MAX, metrics::Cause};

/// Longest texts that are kept, in bytes; the rest is cut off. The path is without the query, which may hold secrets.
const METHOD_LEN_MAX: usize = 16;
const HOST_LEN_MAX: usize = 128;
const PATH_LEN_MAX: usize = 128;
const SAID_LEN_MAX: usize = 192;

const TEXTS: usize = 7;
/// Longest of each text, in the order of [`Text`].
const LENS_MAX: [usize; TEXTS] =
    [*REQUEST_ID_LEN.end(), METHOD_LEN_MAX, HOST_LEN_MAX, PATH_LEN_MAX, LABEL_LEN_MAX, LABEL_LEN_MAX, SAID_LEN_MAX];

/// Bytes of one record at most.
const TEXT_BYTES_MAX: usize = {
    let (mut sum, mut at) = (0, 0);
    while at < TEXTS {
        sum += LENS_MAX[at];
        at += 1;
    }
    sum
};
pub(super) const BYTES_MAX: usize = size_of::<Record>() + TEXT_BYTES_MAX;
const _: () = assert!(BYTES_MAX * (super::LAST_MAX + super::ODD_MAX) < 5 << 20, "docs/operations/edge.md says so");

#[derive(Clone, Copy)]
enum Text {
    Id,
    Method,
    Host,
    Path,
    App,
    Service,
    Said,
}

/// A try on an instance.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Try {
    pub instance: InstanceId,
    pub node: NodeId,
    /// Why it gave no answer.
    pub why: Option<Why>,
}

/// Tries of a request, in order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tries {
    all: [Try; TRIES_MAX as usize],
    len: u8,
}

impl Tries {
    pub(super) fn begin(&mut self, instance: InstanceId, node: NodeId) {
        if let Some(place) = self.all.get_mut(usize::from(self.len)) {
            *place = Try { instance, node, why: None };
            self.len += 1;
        }
    }

    /// The last of them has failed.
    pub(super) fn fail(&mut self, why: Why) {
        if let Some(last) = self.all[..usize::from(self.len)].last_mut() {
            last.why = Some(why);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Try> {
        self.all[..usize::from(self.len)].iter()
    }
}

/// What is of a fixed size.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    /// Counts the requests of the edge.
    pub number: u64,
    pub came_ms: u64,
    pub client: IpAddr,
    pub tries: Tries,
    /// None: the client went away before there was an answer.
    pub status: Option<u16>,
    pub cause: Option<Cause>,
    pub took: Duration,
}

impl Facts {
    fn answered_ms(&self) -> u64 {
        self.came_ms.saturating_add(self.took.as_millis() as u64)
    }
}

/// One request.
pub(super) struct Record {
    facts: Facts,
    /// All texts behind each other, and where each of them ends.
    text: Vec<u8>,
    ends: [u16; TEXTS],
}

/// What is said of a request in texts.
pub(super) struct Said<'a> {
    pub id: &'a [u8],
    pub method: &'a str,
    pub host: &'a [u8],
    pub path: &'a str,
    pub service: Option<&'a ServiceRef>,
    pub text: &'a str,
}

impl Record {
    fn empty() -> Self {
        let facts = Facts {
            number: 0,
            came_ms: 0,
            client: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            tries: Tries::default(),
            status: None,
            cause: None,
            took: Duration::ZERO,
        };
        Self { facts, text: Vec::new(), ends: [0; TEXTS] }
    }

    /// Takes the place of what was here.
    pub(super) fn write(&mut self, facts: Facts, said: &Said<'_>) {
        self.facts = facts;
        self.text.clear();
        let (app, service) = said.service.map_or(("", ""), |service| (service.app.as_str(), service.service.as_str()));
        let texts = [
            said.id,
            said.method.as_bytes(),
            said.host,
            said.path.as_bytes(),
            app.as_bytes(),
            service.as_bytes(),
            said.text.as_bytes(),
        ];
        // No more than is needed: the most that a place has ever held is bounded, and twice that would not be.
        self.text.reserve_exact(texts.iter().zip(LENS_MAX).map(|(text, len_max)| text.len().min(len_max)).sum());
        for ((text, len_max), end) in texts.into_iter().zip(LENS_MAX).zip(&mut self.ends) {
            self.text.extend_from_slice(&text[..text.len().min(len_max)]);
            *end = self.text.len() as u16;
        }
    }

    /// Becomes what the other is.
    pub(super) fn copy(&mut self, other: &Self) {
        (self.facts, self.ends) = (other.facts, other.ends);
        self.text.clear();
        self.text.reserve_exact(other.text.len());
        self.text.extend_from_slice(&other.text);
    }

    pub(super) fn is_odd(&self) -> bool {
        let Facts { cause, status, tries, took, .. } = &self.facts;
        // What is nobody's is refused at once: whoever asks for much of it shall not make the edge forget what apps did.
        let is_of_app = !self.part(Text::App).is_empty();
        is_of_app && cause.is_some() || status.is_some_and(|status| status >= 500) || tries.len > 1 || *took > SLOW
    }

    pub(super) fn break_off(&mut self) {
        self.facts.cause = Some(Cause::BodyBrokenOff);
    }

    pub(super) const fn number(&self) -> u64 {
        self.facts.number
    }

    pub(super) const fn came_ms(&self) -> u64 {
        self.facts.came_ms
    }

    pub(super) fn id(&self) -> &[u8] {
        self.part(Text::Id)
    }

    fn part(&self, text: Text) -> &[u8] {
        let at = text as usize;
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[Range { start: usize::from(begin), end: usize::from(self.ends[at]) }]
    }

    /// As it is told.
    pub(super) fn read(&self) -> RequestRecord {
        let Facts { came_ms, client, tries, status, cause, took, .. } = &self.facts;
        let name = |part| std::str::from_utf8(self.part(part)).ok();
        let service = name(Text::App)
            .zip(name(Text::Service))
            .and_then(|(app, service)| Some(ServiceRef::new(app.parse().ok()?, service.parse().ok()?)));
        let tries = tries.iter().map(|one| RequestTry {
            instance: one.instance,
            node: one.node,
            failure: one.why.map(|why| why.text().to_owned()),
        });
        let text = match cause {
            Some(Cause::BodyBrokenOff) => "the answer broke off behind its head".to_owned(),
            _ => visible(self.part(Text::Said), true),
        };
        RequestRecord {
            came_ms: *came_ms,
            client: *client,
            method: visible(self.part(Text::Method), false),
            host: visible(self.part(Text::Host), false),
            path: visible(self.part(Text::Path), false),
            service,
            tries: tries.collect(),
            status: *status,
            cause: cause.map(|cause| cause.name().to_owned()),
            text: Some(text).filter(|text| !text.is_empty()),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// As visible signs of ASCII: other bytes as `%` and two hexadecimal digits, as in addresses.
fn visible(bytes: &[u8], has_spaces: bool) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, byte| {
        match byte {
            b'!'..=b'~' => text.push(char::from(*byte)),
            b' ' if has_spaces => text.push(' '),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

/// The last so many.
pub(super) struct Ring {
    records: Vec<Record>,
    /// Where the next goes, once all places are taken.
    next: usize,
    most: usize,
    /// Everything that was answered after this is here, in milliseconds since 1970; none: everything that ever was.
    forgot_ms: Option<u64>,
}

impl Ring {
    pub(super) const fn new(most: usize) -> Self {
        Self { records: Vec::new(), next: 0, most, forgot_ms: None }
    }

    /// The place of the next, with what was there before.
    pub(super) fn next(&mut self) -> &mut Record {
        let at = self.next;
        self.next = (at + 1) % self.most;
        match self.records.get(at) {
            // Not all come in the order in which they were answered.
            Some(old) => self.forgot_ms = self.forgot_ms.max(Some(old.facts.answered_ms())),
            None => self.records.push(Record::empty()),
        }
        &mut self.records[at]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    pub(super) fn find(&mut self, number: u64) -> Option<&mut Record> {
        // The newest first: most questions are about it.
        let (newer, older) = self.records.split_at_mut(self.next);
        newer.iter_mut().rev().chain(older.iter_mut().rev()).find(|record| record.facts.number == number)
    }

    /// Something of this time is not here.
    pub(super) fn forget(&mut self, at_ms: u64) {
        self.forgot_ms = self.forgot_ms.max(Some(at_ms));
    }

    pub(super) const fn forgot_ms(&self) -> Option<u64> {
        self.forgot_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_no_more_than_its_longest_texts() {
        for step in 1..40 {
            let (mut record, mut copied) = (Record::empty(), Record::empty());
            // Each a little longer than the one before, as a vector that grows by itself would double for.
            for len in (0..=200).step_by(step) {
                let text = "x".repeat(len);
                let (id, host) = (text.as_bytes(), text.as_bytes());
                let facts = record.facts;
                record.write(facts, &Said { id, method: &text, host, path: &text, service: None, text: &text });
                copied.copy(&record);
            }
            for record in [&record, &copied] {
                let (len, capacity) = (record.text.len(), record.text.capacity());
                assert!(len > TEXT_BYTES_MAX / 2 && capacity <= TEXT_BYTES_MAX, "{len} bytes in {capacity}");
            }
        }
    }
}
