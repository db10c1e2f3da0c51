//! The attempts to connect to the addresses of one name that are under way at the same time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::connection_limit::{ConnectionLimit, CountedConnection};
use crate::sys::relay::halt_if_lost;

/// The most attempts of one probe at a time. RFC 8305 bounds them by nothing but their delay; without a bound a name with
/// many addresses that do not answer would take a descriptor for each of them. With eight, and the usual delay of
/// 250 ms, each attempt has at least two seconds, in which a lost SYN is sent a second time (RFC 6298 §2).
const AT_ONCE: usize = 8;

/// Attempts in the order in which they were begun. If there are as many as allowed, the oldest one is given up for the
/// next, but not before it has had its share of the time: an address is not passed over only because the
/// process has few descriptors.
pub(in crate::engine) struct Attempts<F> {
    under_way: VecDeque<Attempt<F>>,
    /// One for each attempt under way but one, which is the probe's own connection.
    further: Vec<CountedConnection>,
    limit: ConnectionLimit,
    share: Duration,
}

struct Attempt<F> {
    begun: Instant,
    connecting: Pin<Box<F>>,
}

impl<F: Future> Attempts<F> {
    /// `time` is what all `addresses` have together.
    pub(in crate::engine) fn new(
        limit: &ConnectionLimit,
        time: Duration,
        addresses: usize,
    ) -> Self {
        let addresses = u32::try_from(addresses).unwrap_or(u32::MAX);
        Self {
            under_way: VecDeque::new(),
            further: Vec::new(),
            limit: limit.clone(),
            // One share more than there are addresses, so that the last one too has its whole share.
            share: time / addresses.saturating_add(1),
        }
    }

    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Begins an attempt, if one more may be under way now.
    pub(in crate::engine) fn begin(&mut self, attempt: impl FnOnce() -> F) -> bool {
        loop {
            let is_alone = self.under_way.is_empty();
            let may_be_more = !is_alone && self.under_way.len() < AT_ONCE;
            let further = may_be_more.then(|| self.limit.hold_further()).flatten();
            if is_alone || further.is_some() {
                self.further.extend(further);
                self.under_way.push_back(Attempt {
                    begun: Instant::now(),
                    connecting: Box::pin(attempt()),
                });
                return true;
            }
            if !self.until_room().is_zero() {
                return false;
            }
            // Its socket is closed: make sure that the host has not closed it before.
            halt_if_lost();
            self.remove(0);
        }
    }

    /// How long it takes until the oldest attempt has had its share.
    pub(in crate::engine) fn until_room(&self) -> Duration {
        let oldest = self.under_way.front();
        oldest.map_or(Duration::ZERO, |oldest| {
            self.share.saturating_sub(oldest.begun.elapsed())
        })
    }

    /// The result of the attempt that ends next; None if none is under way.
    pub(in crate::engine) async fn next(&mut self) -> Option<F::Output> {
        poll_fn(|cx| {
            if self.under_way.is_empty() {
                return Poll::Ready(None);
            }
            for (at, attempt) in self.under_way.iter_mut().enumerate() {
                if let Poll::Ready(ended) = attempt.connecting.as_mut().poll(cx) {
                    self.remove(at);
                    return Poll::Ready(Some(ended));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn remove(&mut self, at: usize) {
        self.under_way.remove(at);
        self.further
            .truncate(self.under_way.len().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Pending, pending};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn begun(attempts: &mut Attempts<Pending<()>>, count: usize) -> usize {
        (0..count).filter(|_| attempts.begin(pending)).count()
    }

    #[test]
    fn no_more_are_under_way_than_one_probe_may_have() {
        let limit = ConnectionLimit::default();
        let mut patient = Attempts::new(&limit, LONG, 100);
        assert_eq!(begun(&mut patient, 100), AT_ONCE);
        assert!(patient.until_room() > Duration::ZERO);
        // Those that have had their share make room.
        let mut hurried = Attempts::new(&limit, Duration::ZERO, 100);
        assert_eq!(begun(&mut hurried, 100), 100);
        assert_eq!(hurried.under_way.len(), AT_ONCE);
        // One of each is the connection of the probe itself.
        assert_eq!(limit.held(), 2 * (AT_ONCE - 1));
        drop((patient, hurried));
        assert_eq!(limit.held(), 0);
    }

    #[test]
    fn without_descriptors_one_is_under_way_at_a_time() {
        let limit = ConnectionLimit::default();
        limit.set(0);
        let mut patient = Attempts::new(&limit, LONG, 2);
        assert_eq!(begun(&mut patient, 2), 1);
        let mut hurried = Attempts::new(&limit, Duration::ZERO, 2);
        assert_eq!(begun(&mut hurried, 2), 2);
        assert_eq!(hurried.under_way.len(), 1);
    }

    #[tokio::test]
    async fn the_one_that_ends_is_returned() {
        let mut attempts = Attempts::new(&ConnectionLimit::default(), LONG, 3);
        assert_eq!(attempts.next().await, None);
        for ends in [false, true, false] {
            let attempt = async move {
                if !ends {
                    pending::<()>().await;
                }
                ends
            };
            attempts.begin(|| attempt);
        }
        assert_eq!(attempts.next().await, Some(true));
        assert_eq!(attempts.under_way.len(), 2);
    }
}
