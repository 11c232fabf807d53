//! Takes away images that nobody needs: after a day, or at once when the disk gets full. What may have to run in the region
//! is only taken away while others have it: the last two copies stay.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use insula_agent::copies;
use insula_container::{ImageRef, StoredImage, config::DISK_FREE_MIN};
use insula_env::{Clock, Disk, Env, beat, clock};
use insula_state::{GlobalState, Replica};
use insula_telemetry::chain;
use tracing::{info, warn};

use super::Census;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// The first look: a node that has just started is to learn first what it shall keep.
const FIRST_AFTER: Duration = Duration::from_secs(120);
/// An image that was not needed here for so long goes.
const UNUSED_MAX: Duration = Duration::from_secs(24 * 3600);
/// One that was needed so recently stays, also on a full disk: it may be about to be started.
const RECENT: Duration = Duration::from_secs(600);
/// Parts of a pull that broke off are kept for so long, for the next attempt.
const PARTS_KEPT: Duration = Duration::from_secs(3600);

/// Looks after the images of this node.
#[derive(Clone)]
pub(crate) struct Collector {
    pub census: Census,
    pub global: Arc<Replica<GlobalState>>,
    pub clock: Clock,
    /// The data directory.
    pub directory: PathBuf,
}

/// Starts it.
pub(crate) fn start(env: &Env, collector: Collector) {
    let (disk, rng) = (Arc::clone(&env.disk), env.rng.fork());
    env.tasks.supervise("image collection", beat::QUICK, move |beat| {
        let (collector, disk, rng) = (collector.clone(), Arc::clone(&disk), rng.fork());
        async move {
            let mut wait = FIRST_AFTER;
            loop {
                beat.idle(clock::sleep(rng.jitter(wait))).await;
                beat.idle(collector.collect(&disk)).await;
                wait = LOOK_EVERY;
            }
        }
    });
}

impl Collector {
    /// One look.
    async fn collect(&self, disk: &Arc<dyn Disk>) {
        let others = super::of_live_releases(Arc::clone(&self.global))();
        let census = &self.census;
        let mine = census.region.read(|region| copies::kept_by(region, &others, census.node));
        let (kept, free): (Vec<_>, Vec<_>) = match census.runtime.images() {
            Ok(found) => found.into_iter().partition(|one| one.instances > 0 || mine.contains(&one.image.to_string())),
            Err(error) => return warn!(error = %chain(&error), "images cannot be listed"),
        };
        for image in kept {
            if let Err(error) = census.runtime.note_image(&image.image) {
                warn!(error = %chain(&error), image = %image.image, "the use of an image cannot be noted");
            }
        }
        let space = disk.free(&self.directory).unwrap_or(u64::MAX);
        let mut doomed = Vec::new();
        for image in doomed_of(free, self.clock.wall(), space) {
            if self.is_dispensable(&image).await {
                info!(%image, "an image goes that nobody here needs");
                doomed.push(image);
            }
        }
        match census.runtime.remove_images(&doomed, PARTS_KEPT).await {
            Ok(0) => {}
            Ok(freed) => info!(freed, images = doomed.len(), "images were taken away"),
            Err(error) => warn!(error = %chain(&error), "images cannot be taken away"),
        }
    }

    /// Whether the region can do without this copy.
    async fn is_dispensable(&self, image: &ImageRef) -> bool {
        let counted = self.census.count(vec![image.to_string()]).await;
        let is_live = super::of_live_releases(Arc::clone(&self.global))().contains(&image.to_string());
        // This node is not among those that were asked: it shall not keep it.
        !is_live || counted.iter().all(|copies| copies.present >= copies.wanted)
    }
}

/// Which of the images that are not needed here go now, the longest unneeded first.
fn doomed_of(mut images: Vec<StoredImage>, now: SystemTime, mut space: u64) -> Vec<ImageRef> {
    let unused = |image: &StoredImage| now.duration_since(image.used).unwrap_or_default();
    images.sort_by_key(|image| image.used);
    images.retain(|image| {
        let is_old = unused(image) >= UNUSED_MAX;
        let is_in_the_way = space < DISK_FREE_MIN && unused(image) >= RECENT;
        if is_old || is_in_the_way {
            // Unpacked it is larger; the next look sees what it really gave.
            space = space.saturating_add(image.size_bytes.unwrap_or_default());
        }
        is_old || is_in_the_way
    });
    images.into_iter().map(|image| image.image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn image(number: u64, used: SystemTime) -> StoredImage {
        let image = format!("registry.example/shop@sha256:{number:064x}").parse().expect("a name");
        StoredImage { image, size_bytes: Some(1 << 30), used, instances: 0 }
    }

    fn gone(images: &[StoredImage], now: SystemTime, space: u64) -> Vec<usize> {
        let doomed = doomed_of(images.to_vec(), now, space);
        doomed.iter().filter_map(|one| images.iter().position(|image| image.image == *one)).collect()
    }

    #[test]
    fn what_was_not_needed_for_a_day_goes() {
        let now = Clock::real().wall();
        let images = [image(1, now - HOUR), image(2, now - HOUR * 25), image(3, now + HOUR)];
        assert_eq!(gone(&images, now, u64::MAX), [1], "a clock that went back keeps what is newer than now");
    }

    #[test]
    fn a_full_disk_takes_the_longest_unneeded_and_nothing_recent() {
        let now = Clock::real().wall();
        let images = [image(1, now - HOUR), image(2, now - HOUR * 3), image(3, now - HOUR * 2), image(4, now)];
        assert_eq!(gone(&images, now, DISK_FREE_MIN), Vec::<usize>::new());
        assert_eq!(gone(&images, now, DISK_FREE_MIN - 1), [1], "one is enough");
        assert_eq!(gone(&images, now, 0), [1, 2], "two are enough");
        assert_eq!(gone(&images[..2], now, 0), [1, 0]);
        assert_eq!(gone(&images[3..], now, 0), Vec::<usize>::new(), "it may be about to start");
    }
}
