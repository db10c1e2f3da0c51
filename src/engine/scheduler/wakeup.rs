//! The wake-up timer: wakes the scheduler when the next probe is due.
//!
//! It uses a timer descriptor of the kernel (timerfd), which takes one system call to set and wakes
//! the thread once. The runtime's timers have a resolution of 1 ms, wake the thread several times
//! on the way to a distant time, and cost two system calls and a turn of the runtime's loop to set
//! to an earlier time.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::time::sleep_until;

use crate::sys::clock;
use crate::sys::readiness;
use crate::sys::timer::Timer;

pub(super) struct WakeupTimer {
    /// None if there was no descriptor left. The runtime's timers are used then.
    timer: Option<AsyncFd<Timer>>,
    set_for: Option<u64>,
}

impl WakeupTimer {
    /// Must be called in the runtime, which it registers the timer with.
    pub(super) fn new() -> Self {
        Self {
            timer: Timer::new().and_then(readiness::of_timer).ok(),
            set_for: None,
        }
    }

    /// Waits until `CLOCK_MONOTONIC` reaches `at_ns`. Cancel-safe.
    pub(super) async fn until(&mut self, at_ns: u64) {
        if at_ns <= clock::monotonic_ns() {
            return;
        }
        if self.set(at_ns) && poll_fn(|cx| self.poll_passed(cx, at_ns)).await.is_ok() {
            return;
        }
        let wait = at_ns.saturating_sub(clock::monotonic_ns());
        sleep_until((Instant::now() + Duration::from_nanos(wait)).into()).await;
    }

    /// Sets the timer, unless it is set for that time already. False if it cannot be set.
    fn set(&mut self, at_ns: u64) -> bool {
        let Some(timer) = &self.timer else {
            return false;
        };
        if self.set_for != Some(at_ns) {
            self.set_for = timer.get_ref().set(at_ns).is_ok().then_some(at_ns);
        }
        self.set_for.is_some()
    }

    fn poll_passed(&self, cx: &mut Context<'_>, at_ns: u64) -> Poll<std::io::Result<()>> {
        let Some(timer) = &self.timer else {
            return Poll::Ready(Err(std::io::ErrorKind::NotConnected.into()));
        };
        loop {
            match timer.poll_read_ready(cx) {
                // It may have expired for the time that it was set to before.
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
            if at_ns <= clock::monotonic_ns() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms_from_now(ms: u64) -> u64 {
        clock::monotonic_ns() + ms * 1_000_000
    }

    async fn without_descriptor(at_ns: u64) {
        let mut wakeup = WakeupTimer {
            timer: None,
            set_for: None,
        };
        wakeup.until(at_ns).await;
    }

    #[tokio::test]
    async fn it_goes_off_in_time_and_not_before() {
        let mut wakeup = WakeupTimer::new();
        for ms in [0, 1, 20, 1] {
            let at = ms_from_now(ms);
            wakeup.until(at).await;
            assert!(clock::monotonic_ns() >= at);
            assert!(clock::monotonic_ns() < at + 30_000_000_000);
        }
        let at = ms_from_now(5);
        without_descriptor(at).await;
        assert!(clock::monotonic_ns() >= at);
    }

    #[tokio::test]
    async fn what_it_was_set_for_before_counts_for_nothing() {
        let mut wakeup = WakeupTimer::new();
        // Where the machine stands still for so long, the wait ends before it is cancelled: then again.
        let mut is_cancelled = false;
        for _ in 0..8 {
            let wait = wakeup.until(ms_from_now(500));
            is_cancelled = tokio::time::timeout(Duration::from_millis(1), wait)
                .await
                .is_err();
            if is_cancelled {
                break;
            }
        }
        assert!(is_cancelled);
        // The time passes while nothing waits for it.
        std::thread::sleep(Duration::from_millis(510));
        tokio::task::yield_now().await;
        let at = ms_from_now(20);
        wakeup.until(at).await;
        assert!(clock::monotonic_ns() >= at);
        // A later time is replaced by an earlier one.
        let late = wakeup.until(ms_from_now(60_000));
        assert!(
            tokio::time::timeout(Duration::from_millis(5), late)
                .await
                .is_err()
        );
        let soon = wakeup.until(ms_from_now(5));
        assert!(
            tokio::time::timeout(Duration::from_secs(30), soon)
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_descriptor_that_the_host_took_is_done_without() {
        let mut wakeup = WakeupTimer::new();
        let fd = {
            use std::os::fd::AsRawFd;
            wakeup.timer.as_ref().unwrap().get_ref().as_raw_fd()
        };
        let other = std::fs::File::open("/dev/null").unwrap();
        crate::sys::timer::testing::replace(fd, &other);
        let at = ms_from_now(5);
        let done = tokio::time::timeout(Duration::from_secs(30), wakeup.until(at));
        assert!(done.await.is_ok());
        assert!(clock::monotonic_ns() >= at);
    }
}
