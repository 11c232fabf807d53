//! What `fuzz/` needs of the insides: reads messages and log records as they come from peers and disks.

use std::collections::BTreeSet;

use insula_types::{Incarnation, codec};

use crate::{
    Timers, engine,
    wire::{
        Answer, Blob, Entry, Membership, Payload, Position, Request, SnapshotMeta, StoredMembership, Vote, decode,
        encode,
    },
};

/// Messages and records of several kinds.
pub fn seeds() -> Vec<Vec<u8>> {
    let (at, life) = (Position { term: 3, index: 9 }, Incarnation(5));
    let vote = Vote { term: 3, node: Some(7), committed: true };
    let nodes = BTreeSet::from([1, 2, 3]);
    let membership = Membership { voters: vec![nodes.clone()], nodes };
    let commands = Payload::Commands(vec![Blob(b"one".as_slice().into()), Blob(b"two".as_slice().into())]);
    let entries: Vec<Entry> = [Payload::Blank, commands, Payload::Membership(membership.clone())]
        .into_iter()
        .map(|payload| Entry { at, payload })
        .collect();
    let mut seeds: Vec<Vec<u8>> = entries.iter().map(codec::encode).collect();
    let blob = || Blob(vec![7; 32].into());
    let meta = SnapshotMeta { last: Some(at), membership: StoredMembership { at: Some(at), membership } };
    let requests = [
        Request::Append { vote, previous: Some(at), entries, commit: Some(at), timers: Some(Timers::default()) },
        Request::Vote { vote, last: Some(at), is_handed_over: true },
        Request::PreVote { last: None },
        Request::Ping,
        Request::SnapshotBegin { vote, meta, transfer: 1 },
        Request::SnapshotRows { transfer: 1, rows: vec![(blob(), blob())], chain: blob() },
        Request::SnapshotEnd { transfer: 1, chain: blob() },
    ];
    seeds.extend(requests.iter().map(|request| encode(life, request).to_vec()));
    seeds
}

/// Reads an input as a request, an answer and a log record.
///
/// # Errors
/// When what was read does not survive its own writing.
pub fn messages(input: &[u8]) -> Result<(), String> {
    if let Ok(frame) = decode::<Request>(input) {
        let again = decode::<Request>(&encode(frame.incarnation, &frame.body));
        if again.as_ref().ok() != Some(&frame) {
            return Err(format!("{frame:?} is read back as {again:?}"));
        }
    }
    drop(decode::<Answer>(input));
    if let Ok(entry) = codec::decode::<Entry>(input) {
        let again = Entry::from(&engine::Entry::from(entry.clone()));
        if again != entry {
            return Err(format!("{entry:?} comes back from the engine as {again:?}"));
        }
    }
    Ok(())
}
