//! Looks how full the disk is. A leader whose disk is nearly full hands over while it still can, and a node whose disk is
//! lets others campaign first.

use std::{sync::atomic::Ordering, time::Duration};

use futures::channel::oneshot;
use insula_env::{Beat, clock::sleep};

use super::Group;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a successor may take.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// Looks between two attempts to hand over: nobody else may have had space.
const LOOKS_PER_ATTEMPT: u32 = 10;

/// Until the group stops.
pub(super) async fn watch(group: Group, beat: Beat) {
    for look in 0_u32.. {
        beat.idle(sleep(LOOK_EVERY)).await;
        let is_short = beat.idle(is_short(&group)).await;
        let was_short = group.0.caller.is_short.swap(is_short, Ordering::Relaxed);
        if is_short != was_short {
            tracing::warn!(group = %group.0.config.group, is_short, "space for the group's files");
        }
        let is_due = !was_short || look.is_multiple_of(LOOKS_PER_ATTEMPT);
        if is_short && is_due && group.0.leadership.borrow().is_me {
            match beat.idle(group.hand_over(HAND_OVER_LIMIT)).await {
                Ok(_) => {}
                Err(error) => tracing::warn!(group = %group.0.config.group, %error, "leading on with a full disk"),
            }
        }
    }
}

/// Whether less is left than a group needs to go on for a while. A disk that does not say counts as empty.
async fn is_short(group: &Group) -> bool {
    let (disk, config) = (group.0.env.disk.clone(), group.0.config.clone());
    let (tell, told) = oneshot::channel();
    let look = Box::new(move || {
        let free = disk.free(&config.directory).unwrap_or(u64::MAX);
        // Nobody listens when the group has stopped.
        tell.send(free < config.space_min).ok();
    });
    group.0.env.disk.run(look).await;
    told.await.unwrap_or(false)
}
