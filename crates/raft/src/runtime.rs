//! The runtime that openraft gets: its tasks belong to the group's `TaskGroup`, so that they are listed, stopped and
//! crashed with it, and its randomness comes from the group's `env::Rng`, so that a seed decides it.
//!
//! openraft starts tasks through associated functions without context. The context is therefore a thread-local that is
//! set while a future of the group is polled ([`Scope::enter`]) and handed on to every task started meanwhile.

use std::{
    cell::RefCell,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use insula_env::{Rng, TaskGroup, rng::RngCore};
use openraft::{AsyncRuntime, OptionalSend, async_runtime::AsyncOneshotSendExt};
use tokio::sync::oneshot;

/// Longest that a call of openraft to another node may take, whatever it asks for.
const CALL_LIMIT: Duration = Duration::from_secs(10);

thread_local! {
    static CURRENT: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// Whose tasks and randomness openraft uses.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) tasks: TaskGroup,
    pub(crate) rng: Rng,
}

impl Scope {
    /// Polls `future` with this scope as the current one.
    pub(crate) fn enter<F: Future>(self, future: F) -> Scoped<F> {
        Scoped { scope: Some(self), future: Box::pin(future) }
    }
}

/// A future that is polled inside a [`Scope`].
pub(crate) struct Scoped<F> {
    scope: Option<Scope>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = CURRENT.replace(self.scope.take());
        let polled = self.future.as_mut().poll(context);
        self.scope = CURRENT.replace(before);
        polled
    }
}

/// How openraft reaches tokio.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Runtime;

/// Why a task of openraft gave no result.
#[derive(Debug, thiserror::Error)]
pub enum TaskEnd {
    /// It panicked.
    #[error("the task panicked")]
    Panicked,
    /// It was stopped with its group.
    #[error("the task was stopped")]
    Stopped,
}

/// Waits for the result of a task of openraft.
pub struct TaskHandle<T>(oneshot::Receiver<Result<T, TaskEnd>>);

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskEnd>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context).map(|ended| ended.unwrap_or(Err(TaskEnd::Stopped)))
    }
}

/// The randomness of the current scope.
pub struct ScopedRng(Rng);

impl RngCore for ScopedRng {
    fn next_u32(&mut self) -> u32 {
        (self.0.next() >> 32) as u32
    }
    fn next_u64(&mut self) -> u64 {
        self.0.next()
    }
    fn fill_bytes(&mut self, buffer: &mut [u8]) {
        self.0.fill(buffer);
    }
    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), rand::Error> {
        self.0.fill(buffer);
        Ok(())
    }
}

/// The sending half of tokio's channel for one value.
pub struct OnceSender<T>(oneshot::Sender<T>);

impl<T: OptionalSend> AsyncOneshotSendExt<T> for OnceSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

impl<T> std::fmt::Debug for OnceSender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnceSender")
    }
}

impl AsyncRuntime for Runtime {
    type JoinError = TaskEnd;
    type JoinHandle<T: OptionalSend + 'static> = TaskHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = tokio::time::Instant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = ScopedRng;
    type OneshotSender<T: OptionalSend> = OnceSender<T>;
    type OneshotReceiver<T: OptionalSend> = oneshot::Receiver<T>;
    type OneshotReceiverError = oneshot::error::RecvError;

    fn spawn<T>(future: T) -> TaskHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (done, handle) = oneshot::channel();
        let watched = async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(output) => {
                    done.send(Ok(output)).ok();
                }
                Err(panic) => {
                    done.send(Err(TaskEnd::Panicked)).ok();
                    std::panic::resume_unwind(panic);
                }
            }
        };
        match CURRENT.with_borrow(Clone::clone) {
            Some(scope) => scope.tasks.clone().spawn("openraft", scope.enter(watched)),
            None => {
                #[allow(clippy::disallowed_methods, reason = "openraft's own test suite runs without a group")]
                drop(tokio::spawn(watched));
            }
        }
        TaskHandle(handle)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(deadline)
    }

    /// Openraft limits the calls that it makes by timers that are fixed when it starts. [`crate::network::Link`] limits
    /// them by the timers in use, so this is only the last resort.
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(duration.max(CALL_LIMIT), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(deadline, future)
    }

    fn is_panic(end: &TaskEnd) -> bool {
        matches!(end, TaskEnd::Panicked)
    }

    fn thread_rng() -> ScopedRng {
        ScopedRng(
            CURRENT.with_borrow(|scope| scope.as_ref().map(|scope| scope.rng.clone())).unwrap_or_else(Rng::from_os),
        )
    }

    fn oneshot<T>() -> (OnceSender<T>, oneshot::Receiver<T>)
    where
        T: OptionalSend,
    {
        let (sender, receiver) = oneshot::channel();
        (OnceSender(sender), receiver)
    }
}
