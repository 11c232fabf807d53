//! The checkers themselves, on histories made by hand: good ones pass, and each kind of bad one is told.

use super::*;
use crate::histories::record::{Op, Ret};

fn op(client: u64, start_us: u64, end_us: u64, op: Op, outcome: Outcome<Ret>) -> Record {
    Record::Register { register: 1, client, span: Span { start_us, end_us }, op, outcome }
}

fn read(release: u64, value: u64) -> Outcome<Ret> {
    Outcome::Ok(Ret::Read { release, value })
}

const fn written(release: u64) -> Outcome<Ret> {
    Outcome::Ok(Ret::Written(release))
}

const MISMATCH: Outcome<Ret> = Outcome::Ok(Ret::Mismatch);

fn judged(history: &[Record]) -> Verdict {
    register::judge(&history.iter().collect::<Vec<_>>())
}

#[test]
fn good_histories_are_linearizable() {
    let cas = |expect, value| Op::Cas { expect, value };
    let histories = [
        vec![],
        vec![
            op(1, 0, 1, Op::Read, read(0, 0)),
            op(1, 2, 3, Op::Write(7), written(1)),
            op(2, 4, 5, Op::Read, read(1, 7)),
        ],
        // Concurrent: the read may come first, or second.
        vec![
            op(1, 0, 9, Op::Write(7), written(1)),
            op(2, 1, 2, Op::Read, read(0, 0)),
            op(2, 3, 4, Op::Read, read(1, 7)),
        ],
        // One of two wins.
        vec![op(1, 0, 9, cas(0, 7), written(1)), op(2, 0, 9, cas(0, 8), MISMATCH)],
        // Unknown: done long after its caller gave up, or never.
        vec![
            op(1, 0, 1, Op::Write(7), Outcome::Unknown),
            op(2, 2, 3, Op::Read, read(0, 0)),
            op(1, 4, 5, Op::Read, read(1, 7)),
            op(2, 6, 7, Op::Write(8), Outcome::Unknown),
            op(1, 8, 9, Op::Write(9), written(2)),
        ],
        // Failed: as if it had never been.
        vec![op(1, 0, 1, Op::Write(7), Outcome::Failed), op(1, 2, 3, Op::Write(8), written(1))],
    ];
    for history in histories {
        assert_eq!(judged(&history), Verdict::Linearizable, "{history:?}");
    }
}

#[test]
fn bad_histories_are_told() {
    let cas = |expect, value| Op::Cas { expect, value };
    let histories = [
        ("stale read", vec![op(1, 0, 1, Op::Write(7), written(1)), op(2, 2, 3, Op::Read, read(0, 0))]),
        (
            "lost write",
            vec![
                op(1, 0, 1, Op::Write(7), written(1)),
                op(1, 2, 3, Op::Write(8), written(1)),
                op(2, 4, 5, Op::Read, read(1, 8)),
            ],
        ),
        ("both win", vec![op(1, 0, 9, cas(0, 7), written(1)), op(2, 0, 9, cas(0, 8), written(1))]),
        ("a mismatch that cannot be", vec![op(1, 0, 9, cas(0, 7), MISMATCH), op(2, 0, 9, Op::Read, read(0, 0))]),
        (
            "reads that disagree on the order",
            vec![
                op(1, 0, 9, Op::Write(7), Outcome::Unknown),
                op(2, 1, 2, Op::Read, read(1, 7)),
                op(3, 3, 4, Op::Read, read(0, 0)),
            ],
        ),
        ("a failed write is seen", vec![op(1, 0, 1, Op::Write(7), Outcome::Failed), op(1, 2, 3, Op::Read, read(1, 7))]),
        ("done twice", vec![op(1, 0, 1, Op::Write(7), written(1)), op(1, 2, 3, Op::Read, read(2, 7))]),
    ];
    for (what, history) in histories {
        assert_eq!(judged(&history), Verdict::Not, "{what}");
        let refs: Vec<_> = history.iter().collect();
        let said = register(1, &refs).expect_err("a violation").to_string();
        assert!(said.contains("register 1") && said.contains("client 1"), "{said}");
    }
}

#[test]
fn a_long_history_with_open_operations_is_judged_quickly() {
    let mut history = Vec::new();
    for turn in 0..12 {
        let at = turn * 10;
        history.push(op(1, at, at + 6, Op::Write(turn + 1), written(turn + 1)));
        history.push(op(2, at + 7, at + 9, Op::Read, read(turn + 1, turn + 1)));
        history.push(op(3, at + 7, at + 8, Op::Cas { expect: 99, value: 5 }, Outcome::Unknown));
    }
    assert_eq!(judged(&history), Verdict::Linearizable);
}

fn revision(start_us: u64, end_us: u64, is_write: bool, revision: u64) -> Record {
    Record::Revision { span: Span { start_us, end_us }, is_write, outcome: Outcome::Ok(revision) }
}

#[test]
fn revisions_follow_the_clock() {
    let good = [revision(0, 5, true, 4), revision(1, 9, true, 3), revision(6, 7, false, 4), revision(10, 11, false, 9)];
    assert_eq!(others(&good), Ok(()));
    for bad in [
        [revision(0, 1, true, 4), revision(2, 3, false, 3)],
        [revision(0, 1, true, 4), revision(2, 3, true, 4)],
        [revision(0, 1, false, 4), revision(2, 3, true, 4)],
    ] {
        assert_eq!(others(&bad).expect_err("told").what, "revisions of the region went back", "{bad:?}");
    }
}

#[test]
fn what_was_acknowledged_must_be_there() {
    let span = Span { start_us: 0, end_us: 1 };
    let again = |again| Record::Again { span, key: "k".to_owned(), first: 4, again };
    assert_eq!(others(&[again(4)]), Ok(()));
    assert_eq!(others(&[again(9)]).expect_err("told").what, "an acknowledged write to the region is lost");
    let kept = |is_kept| Record::Kept { id: "t".to_owned(), node: "n1".to_owned(), is_kept };
    assert_eq!(others(&[kept(true)]), Ok(()));
    assert_eq!(others(&[kept(false)]).expect_err("told").what, "an acknowledged member of the set is lost");
}

fn status(node: &str, at_us: u64, term: u64, leader: Option<&str>) -> Record {
    Record::Status {
        span: Span { start_us: at_us, end_us: at_us },
        node: node.to_owned(),
        group: Group::Region,
        term,
        leader: leader.map(str::to_owned),
        is_voter: true,
        has_stopped: false,
    }
}

#[test]
fn a_term_has_one_leader_and_never_comes_back() {
    let good = [status("n1", 1, 4, Some("n1")), status("n1", 2, 0, None), status("n1", 3, 5, Some("n2"))];
    assert_eq!(others(&good), Ok(()));
    let two = [status("n1", 1, 4, Some("n1")), status("n2", 2, 4, Some("n2"))];
    assert_eq!(others(&two).expect_err("told").what, "a term has two leaders");
    let back = [status("n1", 1, 5, None), status("n1", 2, 4, None)];
    assert_eq!(others(&back).expect_err("told").what, "a node went back to an earlier term");
}

#[test]
fn watches_agree_and_leave_nothing_out() {
    let event =
        |node: &str, id, text: &str| Record::Event { node: node.to_owned(), id: (id, 0), text: text.to_owned() };
    let full = |node| [event(node, 1, "a"), event(node, 2, "b"), event(node, 5, "c")];
    let late = [event("n2", 2, "b"), event("n2", 5, "c")];
    assert_eq!(others(&[&full("n1")[..], &late].concat()), Ok(()));
    for (what, other) in [
        ("a watch has a gap", vec![event("n2", 1, "a"), event("n2", 5, "c")]),
        ("two watches differ", vec![event("n2", 2, "x")]),
        ("a watch went back", vec![event("n2", 2, "b"), event("n2", 1, "a")]),
    ] {
        assert_eq!(others(&[&full("n1")[..], &other].concat()).expect_err("told").what, what);
    }
}

#[test]
fn the_longest_gap_counts_from_edge_to_edge() {
    let records = [revision(0, 10, true, 1), revision(0, 40, true, 2), revision(0, 90, false, 2)];
    let gap = |start_us, end_us| longest_gap_us(&records, Group::Region, Span { start_us, end_us });
    assert_eq!((gap(0, 50), gap(0, 100), gap(35, 45)), (30, 60, 5));
    assert_eq!(longest_gap_us(&records, Group::Global, Span { start_us: 3, end_us: 7 }), 4);
}
