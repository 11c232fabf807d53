//! What nodes say of leaders, and what their watches give.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, violation};
use crate::histories::record::{Group, Record};

/// Events that a node keeps for those who resume (`insula_state::event::EVENTS_MAX`): a watch that was away for longer
/// has a gap, and is not blamed for it.
const EVENTS_KEPT: usize = 1000;

/// A term has one leader, and no node goes back to an earlier term, whatever happens to it in between.
pub(super) fn terms(records: &[Record]) -> Result<(), Violation> {
    let mut leaders = BTreeMap::<(Group, u64), &str>::new();
    let mut latest = BTreeMap::<(&str, Group), (u64, u64)>::new();
    for record in records {
        let Record::Status { span, node, group, term, leader, .. } = record else { continue };
        // Before it has read its own state, a node knows no term.
        if *term == 0 {
            continue;
        }
        if let Some(leader) = leader {
            let known = *leaders.entry((*group, *term)).or_insert(leader);
            if known != leader {
                let detail = format!("{group:?} group, term {term}: {known}, and {leader} in the eyes of {node}");
                return Err(violation("a term has two leaders", detail));
            }
        }
        let (before, asked_us) = *latest.entry((node, *group)).or_insert((*term, span.end_us));
        if *term < before && span.start_us >= asked_us {
            let detail = format!("{group:?} group on {node}: term {before}, and {term} later");
            return Err(violation("a node went back to an earlier term", detail));
        }
        latest.insert((node, *group), ((*term).max(before), span.end_us));
    }
    Ok(())
}

/// The events of each watch have increasing ids, say the same as those of the others, and leave none out between the
/// first and the last.
pub(super) fn events(records: &[Record]) -> Result<(), Violation> {
    let mut texts = BTreeMap::<(u64, u16), &str>::new();
    let mut watches = BTreeMap::<&str, Vec<(u64, u16)>>::new();
    for record in records {
        let Record::Event { node, id, text } = record else { continue };
        let known = *texts.entry(*id).or_insert(text);
        if known != text {
            let detail = format!("event {id:?}: {known:?}, and {text:?} on {node}");
            return Err(violation("two watches differ", detail));
        }
        let seen = watches.entry(node).or_default();
        if seen.last().is_some_and(|last| last >= id) {
            let detail = format!("{node} gave {id:?} after {:?}", seen.last());
            return Err(violation("a watch went back", detail));
        }
        seen.push(*id);
    }
    for (node, seen) in watches {
        let (Some(first), Some(last)) = (seen.first(), seen.last()) else { continue };
        let own: BTreeSet<_> = seen.iter().collect();
        let missed: Vec<_> = texts.range(first..=last).filter(|(id, _)| !own.contains(id)).collect();
        if let Some((id, text)) = missed.first().filter(|_| missed.len() < EVENTS_KEPT) {
            let detail = format!("{node} left out {} events, the first {id:?}: {text}", missed.len());
            return Err(violation("a watch has a gap", detail));
        }
    }
    Ok(())
}
