//! Catalogs for the dataplane, at a pace that it can follow.

use std::time::Duration;

use insula_env::{Beat, clock};
use tokio::sync::watch;

/// Shortest time between two catalogs: what changes in between comes together.
const GAP: Duration = Duration::from_millis(20);

/// Pushes now, and after each change of any of them; of changes in quick succession the last state. Returns when there can be no
/// more.
pub(crate) async fn push_changes<A, B, C>(
    mut changed: watch::Receiver<A>,
    (mut world, mut digests): (watch::Receiver<B>, watch::Receiver<C>),
    beat: Beat,
    push: impl Fn(),
) {
    loop {
        changed.mark_unchanged();
        world.mark_unchanged();
        digests.mark_unchanged();
        push();
        clock::sleep(GAP).await;
        let next = async {
            tokio::select! {
                next = changed.changed() => next,
                next = world.changed() => next,
                next = digests.changed() => next,
            }
        };
        if beat.idle(next).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_change_comes_at_once_and_the_last_one_always() {
        let (state, pushed) = (watch::Sender::new(0_u32), RefCell::new(Vec::new()));
        let current = state.subscribe();
        let (world, digests) = (watch::Sender::new(()), watch::Sender::new(()));
        let others = (world.subscribe(), digests.subscribe());
        let pushing =
            push_changes(state.subscribe(), others, Beat::unwatched(), || pushed.borrow_mut().push(*current.borrow()));
        let changes = async {
            clock::sleep(Duration::from_secs(1)).await;
            state.send_replace(1);
            clock::sleep(Duration::from_millis(1)).await;
            assert_eq!(*pushed.borrow(), [0, 1], "no wait for a single change");
            clock::sleep(GAP).await;
            for other in [&world, &digests] {
                other.send_replace(());
                clock::sleep(GAP * 2).await;
            }
            assert_eq!(*pushed.borrow(), [0, 1, 1, 1], "what is new of other regions comes, too");
            pushed.borrow_mut().truncate(2);
            for change in 2..=100 {
                state.send_replace(change);
                clock::sleep(Duration::from_millis(1)).await;
            }
            clock::sleep(GAP).await;
            let pushed = pushed.borrow();
            assert_eq!(pushed.last(), Some(&100));
            assert!((6..=8).contains(&pushed.len()), "100 changes within 100 ms: {pushed:?}");
        };
        tokio::select! { () = pushing => unreachable!("the sender lives"), () = changes => {} }
    }
}
