//! What happened, as a stream that can be taken up again where it was left.

use std::sync::Arc;

use futures::{StreamExt, stream};
use insula_api::{EventStream, Events, wire};
use insula_state::{RegionState, Replica, event::EventId};
use insula_types::Revision;

use super::NodeApi;

impl NodeApi {
    pub(super) fn stream_events(&self, asked: Events) -> EventStream {
        let from = asked.since.map(|cursor| EventId(cursor.revision, cursor.place));
        let replica = Arc::clone(self.region.replica());
        let (kept, last) = after(&replica, from);
        let first = stream::iter(kept.into_iter().map(Ok));
        if !asked.follow {
            return first.boxed();
        }
        let rest = stream::unfold((replica, last), |(replica, last)| async move {
            let mut changed = replica.changed();
            loop {
                let (fresh, now) = after(&replica, last);
                if !fresh.is_empty() {
                    return Some((stream::iter(fresh.into_iter().map(Ok)), (replica, now)));
                }
                // The sender lives as long as the replica.
                changed.changed().await.ok()?;
            }
        });
        first.chain(rest.flatten()).boxed()
    }
}

/// The events after `last`, and the id of the newest one.
fn after(replica: &Replica<RegionState>, last: Option<EventId>) -> (Vec<wire::Event>, Option<EventId>) {
    replica.read(|region| {
        let from = last.map_or(EventId(Revision(0), 0), |EventId(revision, place)| match place.checked_add(1) {
            Some(next) => EventId(revision, next),
            None => EventId(revision.next(), 0),
        });
        let events: Vec<_> = region.events.from(from).map(|(id, _, event)| (*id, describe(*id, event))).collect();
        let newest = events.last().map(|(id, _)| *id).or(last);
        (events.into_iter().map(|(_, event)| event).collect(), newest)
    })
}

fn describe(id: EventId, event: &insula_state::event::Event) -> wire::Event {
    let kind = serde_json::to_value(event.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    wire::Event {
        id: wire::EventCursor { revision: id.0, place: id.1 },
        at_ms: event.at_ms,
        kind: kind.unwrap_or_default(),
        text: event.text.clone(),
        node: event.node,
        app: event.app.clone(),
        instance: event.instance,
    }
}
