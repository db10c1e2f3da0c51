//! One target's life under the monitor: when it is probed, and what an outcome does.
//!
//! A probe is due an interval after the last one started, give or take 5 %, and sooner
//! while the target is dead or its last probe failed. What is known is in the verdict
//! table, so that another process can go on where this one stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, Semaphore};

use super::health::Verdict;
use super::log::{Level, Line, Log};
use super::probe::{Depth, Outcome, Prober, Resumption};
use super::service::{Service, shown_ip};
use super::target::Target;
use super::verdicts::{Record, Slot};
use crate::sys::clock;

/// How far from its interval a probe may be due, either way.
const JITTER: f64 = 0.05;

/// A certificate that ends soon is logged this often, by whichever process probes.
const CERTIFICATE_REMINDER: Duration = Duration::from_secs(24 * 3600);

/// Which of a target's timers this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Timer {
    /// The only one, or that of connect probes where deep ones have their own.
    Connect,
    /// Deep probes, where `deep_interval` is another than `connect_interval`.
    Deep,
}

/// What all watches of a process share.
pub(super) struct Shared {
    pub prober: Arc<Prober>,
    pub permits: Arc<Semaphore>,
    pub log: Arc<Log>,
    /// Set when a verdict changed, for whoever saves them, and rung then.
    pub turned: Arc<AtomicBool>,
    pub bell: Arc<Notify>,
}

/// One timer of one target.
pub(super) struct Watch {
    pub service: Arc<Service>,
    pub target: Arc<Target>,
    pub slot: Slot,
    pub timer: Timer,
    /// Another family's prober sees to the target; here it is only probed when the bell rings.
    pub followed: bool,
    pub shared: Arc<Shared>,
    /// Held while a probe of the target is under way: it has one at a time.
    pub turn: Arc<Mutex<()>>,
    /// Rung when somebody wants a probe now.
    pub bell: Arc<Notify>,
    pub resumption: Resumption,
    /// When a target that was never probed has its first one.
    pub first_due: Instant,
}

impl Watch {
    /// Probes for as long as it is polled.
    pub(super) async fn run(self) {
        let mut hurry = false;
        loop {
            if !hurry {
                tokio::select! {
                    () = self.is_due() => {}
                    () = self.bell.notified() => hurry = true,
                }
            }
            hurry = self.probe(hurry).await;
        }
    }

    async fn is_due(&self) {
        if self.followed {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(self.due().into()).await;
    }

    fn due(&self) -> Instant {
        let record = self.service.table.read(self.slot);
        let started_ns = match self.timer {
            Timer::Connect => record.connect_started_ns,
            Timer::Deep => record.deep_started_ns,
        };
        if started_ns == 0 {
            return self.first_due;
        }
        let since = Duration::from_nanos(clock::monotonic_ns().saturating_sub(started_ns));
        let now = Instant::now();
        now + jittered(self.interval(&record)).saturating_sub(since)
    }

    fn interval(&self, record: &Record) -> Duration {
        let config = &self.service.config;
        let (gate, interval) = match self.timer {
            Timer::Connect => (record.connect, config.connect_interval),
            Timer::Deep => (record.deep.unwrap_or_default(), config.deep_interval),
        };
        if gate.wants_fast_probe() {
            config.fast_interval.min(interval)
        } else {
            interval
        }
    }

    fn depth(&self) -> Depth {
        let has_own = self.service.has_deep_timer(&self.target);
        match self.timer {
            Timer::Deep => Depth::Deep,
            Timer::Connect if self.target.deep_check && !has_own => Depth::Deep,
            Timer::Connect => Depth::Connect,
        }
    }

    /// One probe; true where the next one should follow at once: somebody reported
    /// trouble, and one failure is not yet a verdict.
    async fn probe(&self, hurried: bool) -> bool {
        let turn = self.turn.clone();
        let _turn = turn.lock().await;
        let Ok(_permit) = self.shared.permits.clone().acquire_owned().await else {
            return false;
        };
        self.note_start();
        let outcome = {
            // Boxed: a watch is small while it sleeps, which is nearly always.
            let probe = Box::pin(self.shared.prober.run(
                &self.target,
                self.depth(),
                Some(&self.resumption),
            ));
            super::panics::contained(probe).await
        };
        let settled = self.apply(&outcome);
        hurried && !settled
    }

    fn note_start(&self) {
        let now = clock::monotonic_ns().max(1);
        let mut record = self.service.table.read(self.slot);
        match self.timer {
            Timer::Connect => record.connect_started_ns = now,
            Timer::Deep => record.deep_started_ns = now,
        }
        self.service.table.write(self.slot, &record, false);
    }

    /// Moves the gates and publishes; true where the outcome agrees with the verdict.
    fn apply(&self, outcome: &Outcome) -> bool {
        let before = self.service.table.read(self.slot);
        let mut after = before.clone();
        after.probes += 1;
        after.latency = Some(outcome.elapsed);
        if let Some(facts) = &outcome.tls {
            after.not_after = facts.not_after.or(after.not_after);
        }
        let good = outcome.result.is_ok();
        match &outcome.result {
            Ok(()) => {
                if self.speaks_for_all(&before) {
                    after.error = None;
                }
                after.address = outcome.address.or(after.address);
            }
            Err(error) => {
                after.error = Some(error.to_string());
                after.failures += u64::from(outcome.is_conclusive());
            }
        }
        if outcome.is_conclusive() {
            self.step_gates(&mut after, good);
        }
        if after.verdict() != before.verdict() {
            after.since_ms = clock::unix_ms();
        }
        let reminder = self.certificate_reminder(&after);
        if reminder.is_some() {
            after.certificate_logged_ms = clock::unix_ms();
        }
        self.service
            .publish(&self.target, self.slot, &before, &after);
        if after.verdict() != before.verdict() {
            self.shared.turned.store(true, Ordering::Release);
            self.shared.bell.notify_one();
        }
        self.log_change(&before, &after);
        if let Some(line) = reminder {
            self.shared.log.write(line);
        }
        match after.verdict() {
            _ if !outcome.is_conclusive() => true,
            Verdict::Alive => good,
            Verdict::Dead => !good,
            Verdict::Unknown => false,
        }
    }

    /// Whether a good probe leaves nothing to complain of: one that only connects says
    /// nothing of a dialogue that fails.
    fn speaks_for_all(&self, record: &Record) -> bool {
        self.timer == Timer::Deep || record.deep.is_none_or(|deep| deep.failures == 0)
    }

    fn step_gates(&self, record: &mut Record, good: bool) {
        let thresholds = self.service.thresholds();
        let step = |gate: super::health::Gate| gate.step(good, thresholds);
        match self.timer {
            Timer::Connect => record.connect = step(record.connect),
            Timer::Deep => {
                record.deep = Some(step(record.deep.unwrap_or_default()));
                // Whoever speaks the protocol has answered the phone.
                if good {
                    record.connect = step(record.connect);
                }
            }
        }
    }

    fn log_change(&self, before: &Record, after: &Record) {
        let (was, is) = (before.verdict(), after.verdict());
        if was == is {
            return;
        }
        let line = match is {
            Verdict::Unknown => return,
            Verdict::Alive => Line::new(Level::Info, "target_up")
                .with("target", self.target.key())
                .with("ip", shown_ip(&self.target, after.address)),
            Verdict::Dead => Line::new(Level::Warning, "target_down")
                .with("target", self.target.key())
                .quoted("reason", after.error.as_deref().unwrap_or("unknown")),
        };
        let count = match (is, self.timer) {
            (Verdict::Dead, Timer::Connect) => after.connect.failures,
            (Verdict::Dead, Timer::Deep) => after.deep.unwrap_or_default().failures,
            (_, Timer::Connect) => after.connect.successes,
            (_, Timer::Deep) => after.deep.unwrap_or_default().successes,
        };
        self.shared
            .log
            .write(line.with("after", count).with("was", was.name()));
    }

    /// The line that says that the certificate ends soon, once a day. When it was last
    /// written is in the table, so that neither another process nor another configuration
    /// says it again.
    fn certificate_reminder(&self, record: &Record) -> Option<Line> {
        let left = self.service.certificate_ends_within(record)?;
        let logged = record.certificate_logged_ms;
        // A time in the future is that of a clock that was wrong.
        let is_recent = clock::unix_ms()
            .checked_sub(logged)
            .is_some_and(|ago| ago < clock::ms(CERTIFICATE_REMINDER));
        if is_recent {
            return None;
        }
        let line = Line::new(Level::Warning, "certificate_expires")
            .with("target", self.target.key())
            .with("days_left", left.as_secs() / 86_400);
        Some(line)
    }
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_five_percent() {
        let all: Vec<_> = (0..1000)
            .map(|_| jittered(Duration::from_secs(100)).as_secs_f64())
            .collect();
        assert!(all.iter().all(|s| (95.0..=105.0).contains(s)));
        assert!(all.iter().any(|s| *s < 97.0) && all.iter().any(|s| *s > 103.0));
    }
}
