//! Deadlines that allow for a pause of the process.
//!
//! Job control, a debugger or the migration of a virtual machine may stop a process for any time.
//! When it goes on, every deadline has passed although the server's answer may be waiting to be
//! read. So a deadline that is noticed more than [`LATE`] after its end is renewed, once.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::sys::{gate, relay};

/// A running process notices the end of a deadline earlier than this.
const LATE: Duration = Duration::from_millis(100);

/// A point in time by which work has to be done. It is registered with the runtime at the first
/// poll, so work that never waits does not pay for a timer.
pub(super) struct Deadline {
    end: Instant,
    limit: Duration,
    renewed: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            end: Instant::now() + limit,
            limit,
            renewed: false,
            sleep: None,
        }
    }

    /// Moves the end to `limit` from now, unless it is earlier already.
    pub(super) fn shorten(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        if end < self.end {
            self.end = end;
            self.limit = limit;
        }
    }

    /// Ready once the deadline has passed.
    pub(super) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let passed = self.poll_sleep(cx);
        if passed.is_pending() || self.renewed || self.end.elapsed() < LATE {
            return passed;
        }
        self.renewed = true;
        self.end = Instant::now() + self.limit;
        self.poll_sleep(cx)
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = self.end;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if sleep.deadline() != end {
            sleep.as_mut().reset(end);
        }
        sleep.as_mut().poll(cx)
    }
}

/// The output of `work`, or None if it takes longer than `limit`.
pub(super) async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut deadline = Deadline::new(limit);
    poll_fn(|cx| {
        // With many probes in flight this thread does not sleep between their steps: let a
        // waiting fork or exit of the host pass here.
        gate::give_way();
        relay::halt_if_lost();
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => deadline.poll_passed(cx).map(|()| None),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Instant as Clock;

    use tokio::sync::oneshot;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn work_in_time_is_done_and_other_work_is_given_up() {
        assert_eq!(within(LIMIT, async { 7 }).await, Some(7));
        let begun = Clock::now();
        assert!(within(LIMIT, std::future::pending::<()>()).await.is_none());
        assert!(begun.elapsed() >= LIMIT);
    }

    /// Blocks the thread, as if the process were stopped.
    fn pause() {
        std::thread::sleep(LIMIT * 2);
    }

    #[tokio::test]
    async fn a_deadline_that_passed_in_a_pause_is_set_anew() {
        let (tell, told) = oneshot::channel();
        let work = async {
            tokio::time::sleep(LIMIT / 20).await;
            pause();
            // The answer arrives only after the pause.
            told.await
        };
        let answer = async {
            tokio::time::sleep(LIMIT / 10).await;
            tokio::task::yield_now().await;
            tell.send(7).unwrap();
        };
        let (done, ()) = tokio::join!(within(LIMIT, work), answer);
        assert_eq!(done.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn but_once_only() {
        let begun = Clock::now();
        let work = async {
            loop {
                tokio::time::sleep(LIMIT / 20).await;
                pause();
            }
        };
        assert!(within::<_>(LIMIT, work).await.is_none());
        assert!(begun.elapsed() < LIMIT * 200);
    }

    #[tokio::test]
    async fn a_deadline_is_only_brought_forward() {
        let mut deadline = Deadline::new(LIMIT * 100);
        deadline.shorten(LIMIT * 200);
        deadline.shorten(Duration::ZERO);
        let begun = Clock::now();
        poll_fn(|cx| deadline.poll_passed(cx)).await;
        assert!(begun.elapsed() < LIMIT * 100);
    }
}
