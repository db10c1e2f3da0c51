//! Whether a server still answers: when something was written to it and when something came back.
//!
//! That one call has no answer in time is no sign of a failing server: this process may have been stopped
//! meanwhile, or have had so many calls of its own that this one was sent too late. So the server is
//! judged by its silence alone, and only after this process has read what there is to read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::sys::clock::monotonic_us;

/// How long what has arrived gets to be read before the silence is judged.
pub(super) const READ_TIME: Duration = Duration::from_millis(2);

/// How often the judgement is put off, by a quarter of the time each, because this thread woke late. A thread that
/// always wakes late has to notice a server that fails, too.
const DELAYS: u32 = 4;

/// What went through a stream. Used on the engine thread only.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// How often something came.
    heard: AtomicU64,
    /// When something last came, in microseconds of `CLOCK_MONOTONIC`; 0: never.
    heard_at: AtomicU64,
    /// When something was first written after that; 0: nothing was.
    written_at: AtomicU64,
    /// Whether a call was late and the server is being judged.
    is_judged: AtomicBool,
}

impl Traffic {
    pub(super) fn note_read(&self) {
        self.heard.fetch_add(1, Relaxed);
        self.heard_at.store(monotonic_us(), Relaxed);
        self.written_at.store(0, Relaxed);
    }

    pub(super) fn note_written(&self) {
        if self.written_at.load(Relaxed) == 0 {
            self.written_at.store(monotonic_us(), Relaxed);
        }
    }

    /// Returns whether the caller has to judge the server: nobody does at present. It calls
    /// [`Traffic::end_judging`] afterwards.
    pub(super) fn begin_judging(&self) -> bool {
        !self.is_judged.swap(true, Relaxed)
    }

    pub(super) fn is_judged(&self) -> bool {
        self.is_judged.load(Relaxed)
    }

    pub(super) fn end_judging(&self) {
        self.is_judged.store(false, Relaxed);
    }

    /// For a call that was sent at `sent`, in microseconds of `CLOCK_MONOTONIC`, and has no answer: waits until
    /// something comes back, or nothing has for the time `within`. Returns whether the server is silent.
    pub(super) async fn is_silent(&self, sent: u64, within: Duration) -> bool {
        let heard = self.heard.load(Relaxed);
        let heard_at = self.heard_at.load(Relaxed);
        let since = match self.written_at.load(Relaxed) {
            // Something came since the call was sent, and perhaps its own answer, just too late. If there is more to
            // come, a later call finds out.
            0 if heard_at >= sent => return false,
            0 => sent,
            written => written,
        };
        let silent = Duration::from_micros(monotonic_us().saturating_sub(since));
        // In the past where this thread has been kept from looking.
        let now = Instant::now();
        let mut due = (now + within).checked_sub(silent).unwrap_or(now);
        for _ in 0..=DELAYS {
            sleep_until(due.max(Instant::now() + READ_TIME)).await;
            if self.heard.load(Relaxed) != heard {
                return false;
            }
            if due.elapsed() <= within / 8 + READ_TIME * 2 {
                return true;
            }
            due = Instant::now() + within / 4;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(1);

    fn ago(time: Duration) -> u64 {
        monotonic_us().saturating_sub(u64::try_from(time.as_micros()).unwrap())
    }

    #[tokio::test]
    async fn a_server_is_silent_when_nothing_came_for_the_time_since_the_first_unanswered_write() {
        let traffic = Traffic::default();
        traffic.note_read();
        let began = Instant::now();
        traffic.note_written();
        assert!(traffic.is_silent(monotonic_us(), WITHIN).await);
        assert!(
            began.elapsed() >= WITHIN - READ_TIME,
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test]
    async fn a_server_that_answers_anything_is_not_silent() {
        let traffic = Traffic::default();
        traffic.note_written();
        let (silent, ()) = tokio::join!(traffic.is_silent(monotonic_us(), WITHIN), async {
            tokio::time::sleep(WITHIN / 64).await;
            traffic.note_read();
        });
        assert!(!silent);
    }

    #[tokio::test]
    async fn a_server_whose_answer_came_too_late_is_not_silent() {
        let traffic = Traffic::default();
        let sent = monotonic_us();
        traffic.note_written();
        traffic.note_read();
        assert!(!traffic.is_silent(sent, WITHIN).await);
    }

    #[tokio::test]
    async fn a_thread_that_comes_late_reads_before_it_judges() {
        let traffic = Traffic::default();
        // Something was written long ago: this thread was stopped since. The answer is read a moment later.
        traffic.written_at.store(ago(WITHIN * 3), Relaxed);
        let (silent, ()) = tokio::join!(traffic.is_silent(ago(WITHIN * 3), WITHIN), async {
            tokio::time::sleep(WITHIN / 16).await;
            traffic.note_read();
        });
        assert!(!silent);
    }
}
