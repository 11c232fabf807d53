//! The time that a client has for a head.
//!
//! hyper makes a timer for each head and drops it with that. Registering and removing one takes a lock that all connections share;
//! moving the one that is there takes none. So each connection keeps its own.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use insula_env::clock::{self, sleep_until};
use parking_lot::Mutex;

/// The timer that a connection keeps from one head to the next.
type Kept = Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>;

/// Timers of one connection.
#[derive(Debug, Default)]
pub(super) struct HeadTimer(Kept);

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        let sleep = match self.0.lock().take() {
            Some(mut kept) => {
                kept.as_mut().reset(deadline.into());
                kept
            }
            None => Box::pin(sleep_until(deadline.into())),
        };
        Box::pin(HeadSleep { sleep: Some(sleep), kept: Arc::clone(&self.0) })
    }

    fn now(&self) -> std::time::Instant {
        clock::now().into()
    }
}

struct HeadSleep {
    /// Until it is dropped.
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    kept: Kept,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().map_or(Poll::Ready(()), |sleep| sleep.as_mut().poll(cx))
    }
}

impl Drop for HeadSleep {
    fn drop(&mut self) {
        *self.kept.lock() = self.sleep.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_ends_when_the_next_head_is_late() {
        let timer = HeadTimer::default();
        let begun = clock::now();
        drop(timer.sleep(TIME));
        clock::sleep(TIME / 2).await;
        timer.sleep(TIME).await;
        assert_eq!((clock::now() - begun).as_secs(), 15);
        // One that has ended is good for another head.
        timer.sleep(TIME).await;
        assert_eq!((clock::now() - begun).as_secs(), 25);
        // An earlier end than that of the one before is kept to as well.
        drop(timer.sleep(TIME));
        timer.sleep(TIME / 10).await;
        assert_eq!((clock::now() - begun).as_secs(), 26);
    }

    #[tokio::test(start_paused = true)]
    async fn one_timer_serves_all_heads() {
        let timer = HeadTimer::default();
        let of = |sleep: &Kept| sleep.lock().as_ref().map(|kept| std::ptr::from_ref(&**kept).addr());
        drop(timer.sleep(TIME));
        let first = of(&timer.0);
        assert!(first.is_some());
        drop(timer.sleep(TIME));
        assert_eq!(of(&timer.0), first);
    }
}
