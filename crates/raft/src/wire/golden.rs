//! What has been sent and stored by any version so far must be read by all later ones: `golden.txt` has one line for each
//! shape, its kind and its bytes in hexadecimal digits. Lines are added, never changed.

use std::fmt::{Debug, Write as _};

use super::*;

const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// The samples of one kind are written as some line says, and every line of the kind can be read.
fn check<T: Serialize + de::DeserializeOwned + PartialEq + Debug>(kind: &str, samples: &[T]) {
    let lines: Vec<&str> = GOLDEN.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')).collect();
    let read: Vec<T> = lines.iter().map(|line| codec::decode(&bytes(line)).expect("an old shape is read")).collect();
    let encoded = samples.iter().map(|sample| hex(&codec::encode(sample)));
    let new: Vec<String> = encoded.filter(|line| !lines.contains(&line.as_str())).collect();
    let new: String = new.iter().map(|line| format!("{kind} {line}\n")).collect();
    assert!(new.is_empty(), "new shapes: add these lines to golden.txt\n{new}");
    for sample in samples {
        assert!(read.contains(sample), "{sample:?} is read as something else");
    }
}

fn entry(payload: Payload) -> Entry {
    Entry { at: Position { term: 3, index: 4 }, payload }
}

fn samples() -> (Vote, Membership, Vec<Entry>) {
    let members =
        Membership { voters: vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes: BTreeSet::from([1, 2, 3]) };
    let commands = Payload::Commands(vec![Blob(Bytes::from_static(b"one")), Blob(Bytes::from_static(b"two"))]);
    let entries = vec![entry(Payload::Blank), entry(commands), entry(Payload::Membership(members.clone()))];
    (Vote { term: 3, node: Some(1), committed: true }, members, entries)
}

#[test]
fn what_is_stored_is_read_for_ever() {
    let (vote, membership, entries) = samples();
    check("vote", &[vote, Vote { node: None, committed: false, ..vote }]);
    check("entry", &entries);
    check("membership", &[StoredMembership { at: Some(Position { term: 3, index: 4 }), membership }]);
    check("timers", &[Timers::default()]);
}

#[test]
fn what_is_sent_is_read_for_ever() {
    let (vote, membership, entries) = samples();
    let at = Some(Position { term: 3, index: 3 });
    let blob = || Blob(Bytes::from_static(b"rows"));
    let meta = SnapshotMeta { last: at, membership: StoredMembership { at, membership } };
    let frame = |body| Frame { incarnation: Incarnation(7), body };
    check(
        "request",
        &[
            Request::Append { vote, previous: at, entries, commit: at, timers: Some(Timers::default()) },
            Request::Append { vote, previous: None, entries: Vec::new(), commit: None, timers: None },
            Request::Vote { vote, last: at, is_handed_over: true },
            Request::PreVote { last: at },
            Request::Ping,
            Request::SnapshotBegin { vote, meta, transfer: 9 },
            Request::SnapshotRows { transfer: 9, rows: vec![(blob(), blob())], chain: blob() },
            Request::SnapshotEnd { transfer: 9, chain: blob() },
            Request::TakeOver { term: 3, last: at },
        ]
        .map(frame),
    );
    let frame = |body| Frame { incarnation: Incarnation(7), body };
    check(
        "answer",
        &[
            Answer::Appended,
            Answer::AppendedTo(at),
            Answer::Conflict,
            Answer::HigherVote(vote),
            Answer::Voted { vote, is_granted: true, last: at },
            Answer::PreVoted { is_granted: true },
            Answer::Pong,
            Answer::Taken { vote },
            Answer::Refused(Refusal::OtherIncarnation),
            Answer::Refused(Refusal::NotAMember),
            Answer::Refused(Refusal::Malformed),
            Answer::Refused(Refusal::Busy),
            Answer::Refused(Refusal::Stopped),
            Answer::Refused(Refusal::OtherTransfer),
            Answer::Refused(Refusal::Damaged),
            Answer::TakingOver { is_campaigning: true },
        ]
        .map(frame),
    );
}
