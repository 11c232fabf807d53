//! Whether the disk of this node is so full that nothing can be started on it: told to the region's leader with each renewal.

use std::{path::PathBuf, time::Duration};

use insula_env::{Env, beat, clock};
use tokio::sync::{oneshot, watch};

/// Less than this is full, in bytes. What leads a group hands over at the same measure, and an instance writes more to begin.
const FREE_MIN: u64 = 64 << 20;
/// Time between two looks: as often as leases are renewed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at the disk of a directory. One that does not say is not full.
pub(crate) fn follow(env: &Env, directory: PathBuf) -> watch::Receiver<bool> {
    let (tell, told) = watch::channel(false);
    let disk = env.disk.clone();
    env.tasks.supervise("space", beat::QUICK, move |beat| {
        let (tell, disk, directory) = (tell.clone(), disk.clone(), directory.clone());
        async move {
            loop {
                let (reply, free) = oneshot::channel();
                let (here, asked) = (directory.clone(), disk.clone());
                let look = Box::new(move || {
                    // Nobody listens when the loop was made anew.
                    reply.send(asked.free(&here).unwrap_or(u64::MAX)).ok();
                });
                // A disk that stalls answers late, and says nothing of how full it is.
                beat.idle(disk.run(look)).await;
                let is_full = beat.idle(free).await.is_ok_and(|free| free < FREE_MIN);
                if tell.send_replace(is_full) != is_full {
                    tracing::warn!(is_full, "space on the disk for instances");
                }
                beat.idle(clock::sleep(LOOK_EVERY)).await;
            }
        }
    });
    told
}
