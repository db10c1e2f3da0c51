//! Applies the outcome of a probe to the target's health states, the verdict table and the log.
//!
//! Everything known about a target is in the verdict table, so that another process can continue
//! if this one ends.

use std::time::Duration;

use super::backoff;
use super::timer::{ProbeTimer, TimerKind};
use crate::engine::active::{ActiveConfig, shown_ip};
use crate::engine::log::{Level, Line, Log};
use crate::engine::probe::Outcome;
use crate::engine::probe::error::Stage;
use crate::engine::verdicts::health::{HealthState, Thresholds, Verdict};
use crate::engine::verdicts::{ProbeResult, Record, Sample};
use crate::sys::clock;
use crate::sys::fork_mark::pid;

/// How often a certificate that expires soon is logged, by all processes sharing a table together.
const CERTIFICATE_REMINDER: Duration = Duration::from_secs(24 * 3600);

/// What applying an outcome has changed.
pub(super) struct Effect {
    /// Whether the outcome was published. If not, the target has to be probed again.
    pub is_published: bool,
    /// Whether no further probe is needed at once: the outcome agrees with the verdict of the
    /// timer's health state, or is inconclusive.
    pub settled: bool,
    /// Whether the verdict has changed.
    pub turned: bool,
    /// The target's record after the outcome.
    pub record: Record,
}

impl ProbeTimer {
    /// The health state that counts this timer's outcomes.
    pub(super) fn health(&self, record: &Record) -> HealthState {
        match self.kind {
            TimerKind::Connect => record.connect,
            TimerKind::Deep => record.deep.unwrap_or_default(),
        }
    }

    /// Counts the outcome, publishes the new record and logs a changed verdict.
    pub(super) fn apply(&self, active: &ActiveConfig, outcome: &Outcome, log: &Log) -> Effect {
        let table = &active.table;
        let sample = Sample {
            took: outcome.elapsed,
            result: result_of(outcome),
        };
        let (before, after, reminder) = loop {
            let (seen, before) = table.read_seen(self.slot);
            // If this process was stopped for a while, another one may have taken over its role:
            // only the holder of the lease publishes. A configuration that was replaced meanwhile may
            // have changed the target, and what was found out about the old one does not count.
            if !table.has_lease(pid()) || table.epoch() != active.epoch {
                return Effect {
                    is_published: false,
                    settled: true,
                    turned: false,
                    record: before,
                };
            }
            let (after, reminder) = self.after(active, &before, outcome);
            let seen = (seen, &before);
            if active.publish(&self.target, self.slot, seen, &after, Some(sample)) {
                break (before, after, reminder);
            }
        };
        let details = outcome.tls.as_ref().and_then(|tls| tls.details.as_ref());
        if let Some(details) = details {
            table.note_tls(self.slot, details);
        }
        let stage = outcome.result.as_ref().err().map(|error| error.stage);
        let protocol = self.target.protocol;
        table.count_probe(protocol, sample.result, stage, outcome.elapsed);
        if outcome.is_conclusive() {
            for (stage, took) in &outcome.stages {
                table.observe(protocol, Some(*stage), *took);
            }
            if outcome.stages.is_empty() {
                table.observe(protocol, Some(Stage::Connect), outcome.elapsed);
            }
        }
        if let Some(line) = self.change(&before, &after) {
            log.write(line);
        }
        if let Some(line) = reminder {
            log.write(line);
            if let Some(left) = active.certificate_ends_within(&after) {
                active.note_certificate(&self.target, left);
            }
        }
        let good = outcome.result.is_ok();
        // Compared with the health state of this timer only, because the outcome says nothing about the
        // verdict of the target's other timer.
        let settled = match self.health(&after).verdict {
            _ if !outcome.is_conclusive() => true,
            Verdict::Alive => good,
            Verdict::Dead => !good,
            Verdict::Unknown => false,
        };
        Effect {
            is_published: true,
            settled,
            turned: after.verdict() != before.verdict(),
            record: after,
        }
    }

    /// The record after the outcome, and the log line if the certificate expires soon.
    fn after(
        &self,
        active: &ActiveConfig,
        before: &Record,
        outcome: &Outcome,
    ) -> (Record, Option<Line>) {
        let mut after = before.clone();
        // A process with another configuration may have stored the record.
        after.fit(self.target.has_deep_timer());
        after.probes += 1;
        // How long an inconclusive probe took says nothing of the server.
        if outcome.is_conclusive() {
            after.latency = Some(outcome.elapsed);
        }
        if let Some(facts) = &outcome.tls {
            after.not_after = facts.not_after.or(after.not_after);
        }
        match &outcome.result {
            Ok(()) => {
                if self.speaks_for_all(before) {
                    after.error = None;
                }
                after.address = outcome.address.or(after.address);
            }
            Err(error) if outcome.is_conclusive() => {
                after.error = Some(backoff::explained(before.error.as_deref(), error));
                after.failures += 1;
            }
            // The reason why the server's last probe failed is kept, so that a dead server is not shown as
            // dead for want of descriptors here, or for a login that came too soon.
            Err(error) => {
                let is_own = |text: &String| text.starts_with(Stage::Internal.name());
                after.error = before.error.clone().filter(|text| !is_own(text));
                after.error.get_or_insert_with(|| error.to_string());
            }
        }
        if outcome.is_conclusive() {
            self.step_health(&mut after, outcome, active.thresholds(&self.target));
        }
        if after.verdict() != before.verdict() {
            after.since_ms = clock::unix_ms();
            after.changes += 1;
        }
        let reminder = self.certificate_reminder(active, &after);
        if reminder.is_some() {
            after.certificate_logged_ms = clock::unix_ms();
        }
        (after, reminder)
    }

    /// Whether a good probe of this timer clears the target's error. A connect probe does not,
    /// while the target's deep probes fail.
    fn speaks_for_all(&self, record: &Record) -> bool {
        self.kind == TimerKind::Deep || record.deep.is_none_or(|deep| deep.failures == 0)
    }

    fn step_health(&self, record: &mut Record, outcome: &Outcome, thresholds: Thresholds) {
        let failure = outcome.result.as_ref().err();
        let refusals = failure.map_or(0, |error| backoff::refusals_after(self.refusals, error));
        let good = failure.is_none();
        let step = |health: HealthState| HealthState {
            refusals,
            ..health.step(good, thresholds)
        };
        match self.kind {
            TimerKind::Connect => record.connect = step(record.connect),
            TimerKind::Deep => {
                record.deep = Some(step(record.deep.unwrap_or_default()));
                // A successful dialogue implies a successful connect.
                if good {
                    record.connect = step(record.connect);
                }
            }
        }
    }

    /// The log line for a changed verdict.
    fn change(&self, before: &Record, after: &Record) -> Option<Line> {
        let (was, is) = (before.verdict(), after.verdict());
        if was == is {
            return None;
        }
        let line = match is {
            Verdict::Unknown => return None,
            Verdict::Alive => Line::new(Level::Info, "target_up")
                .with("target", self.target.key())
                .with("ip", shown_ip(&self.target, after.address)),
            Verdict::Dead => Line::new(Level::Warning, "target_down")
                .with("target", self.target.key())
                .quoted("reason", after.error.as_deref().unwrap_or("unknown")),
        };
        let health = self.health(after);
        let count = match is {
            Verdict::Dead => health.failures,
            _ => health.successes,
        };
        Some(line.with("after", count).with("was", was.name()))
    }

    /// The log line if the certificate expires soon, once a day. The time of the last one is in
    /// the table, so that another process or a new configuration does not repeat it.
    fn certificate_reminder(&self, active: &ActiveConfig, record: &Record) -> Option<Line> {
        let left = active.certificate_ends_within(record)?;
        let logged = record.certificate_logged_ms;
        // A time in the future was written while the clock was wrong, and does not count.
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

fn result_of(outcome: &Outcome) -> ProbeResult {
    match &outcome.result {
        _ if !outcome.is_conclusive() => ProbeResult::Inconclusive,
        Ok(()) => ProbeResult::Good,
        Err(_) => ProbeResult::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::active::StartState;
    use crate::engine::config::{Config, LogSink};
    use crate::engine::probe::StageTimes;
    use crate::engine::probe::error::{Evidence, ProbeError};

    const TOOK: Duration = Duration::from_millis(7);

    /// What is known of a target after outcomes with these results, each of which took as many
    /// milliseconds longer than the one before.
    fn after(results: &[Result<(), ProbeError>]) -> Record {
        after_record(&Record::default(), results)
    }

    /// The same for a target with this record.
    fn after_record(record: &Record, results: &[Result<(), ProbeError>]) -> Record {
        let text = "backend_server_monitoring: {log: none, backend_servers: [
            {protocol: imap, host: 127.0.0.1, port: 1}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active =
            ActiveConfig::succeed(None, config, pid(), true, StartState::default()).unwrap();
        assert!(active.table.claim_lease(pid(), None).unwrap().is_ours());
        let (slot, target) = (active.slots[0], &active.config.targets[0]);
        active.table.write(slot, record, false);
        let timer = ProbeTimer::new(slot, TimerKind::Connect, target, 0.5);
        let log = Log::open(&LogSink::None).unwrap();
        for (result, times) in results.iter().zip(1..) {
            let outcome = Outcome {
                result: result.clone(),
                address: None,
                elapsed: TOOK * times,
                stages: StageTimes::new(),
                tls: None,
            };
            assert!(timer.apply(&active, &outcome, &log).is_published);
        }
        active.table.read(slot)
    }

    /// No probe of this configuration would ever change that health state.
    #[test]
    fn the_health_state_of_a_timer_that_the_target_has_not_is_no_part_of_the_verdict() {
        let dead = HealthState {
            verdict: Verdict::Dead,
            ..HealthState::default()
        };
        let record = Record {
            deep: Some(dead),
            ..Record::default()
        };
        assert_eq!(record.verdict(), Verdict::Dead);
        let record = after_record(&record, &[Ok(()), Ok(()), Ok(())]);
        assert_eq!((record.verdict(), record.deep), (Verdict::Alive, None));
    }

    #[test]
    fn the_record_says_whether_the_password_was_refused() {
        let refusals = |error: ProbeError| after(&[Err(error)]).connect.refusals;
        let refused = |stage: Stage| ProbeError {
            login_refused: true,
            ..ProbeError::new(stage, "refused")
        };
        assert_eq!(refusals(refused(Stage::Auth)), 1);
        // HTTP's 401 has another stage.
        assert_eq!(refusals(refused(Stage::Http)), 1);
        let for_now = ProbeError::new(Stage::Auth, "refused: -ERR [SYS/TEMP] later");
        assert_eq!(refusals(for_now), 0);
    }

    /// Logs in as the scheduler would at a server that demands five seconds from one attempt to the next, and
    /// has just seen one, from this record on until the target is alive. Returns how long that took and the
    /// number of logins.
    fn until_alive(keys: &str, record: &Record) -> (Duration, usize) {
        const SECOND: u64 = 1_000_000_000;
        let text = format!(
            "backend_server_monitoring: {{log: none, fast_interval: 1s, {keys}, backend_servers: [
            {{protocol: pop3, host: 127.0.0.1, port: 1, deep_check: true, test_username: a, test_password: b}}]}}"
        );
        let config = Arc::new(Config::from_yaml(&text, &|_| None).unwrap());
        let active =
            ActiveConfig::succeed(None, config, pid(), true, StartState::default()).unwrap();
        assert!(active.table.claim_lease(pid(), None).unwrap().is_ours());
        let (slot, target) = (active.slots[0], &active.config.targets[0]);
        active.table.write(slot, record, false);
        let mut timer = ProbeTimer::new(slot, TimerKind::Connect, target, 0.5);
        let log = Log::open(&LogSink::None).unwrap();
        let first = clock::monotonic_ns();
        let mut now = first;
        let mut attempted = now;
        for logins in 1..1000 {
            timer.note_start(&active.table, now);
            let is_too_soon = now - std::mem::replace(&mut attempted, now) < 5 * SECOND;
            let too_soon = ProbeError {
                login_refused: true,
                evidence: Evidence::Nothing,
                ..ProbeError::new(Stage::Auth, "refused: -ERR [LOGIN-DELAY] wait")
            };
            let outcome = Outcome {
                result: if is_too_soon { Err(too_soon) } else { Ok(()) },
                address: None,
                elapsed: TOOK,
                stages: StageTimes::new(),
                tls: None,
            };
            let after = timer.apply(&active, &outcome, &log).record;
            timer.note_login(&outcome);
            if after.verdict() == Verdict::Alive {
                return (Duration::from_nanos(now - first), logins);
            }
            (now, timer.gathered) = timer.next_due(&after);
        }
        panic!("never alive");
    }

    #[test]
    fn a_server_that_demands_a_delay_between_logins_is_alive_in_time() {
        let fails = |verdict: Verdict| Record {
            probes: 1,
            connect: HealthState {
                verdict,
                failures: 1,
                ..HealthState::default()
            },
            ..Record::default()
        };
        let keys = "connect_interval: 6s, recovery_threshold: 3";
        for (start, record) in [
            ("initial_state: dead", Record::default()),
            ("failure_threshold: 2", fails(Verdict::Unknown)),
            ("initial_state: dead", fails(Verdict::Dead)),
        ] {
            let (took, logins) = until_alive(&format!("{keys}, {start}"), &record);
            assert!(took < Duration::from_secs(30), "{start}: {took:?}");
            assert!(logins <= 8, "{start}: {logins} logins");
        }
    }

    #[test]
    fn what_this_process_lacked_says_nothing_of_the_server() {
        let refused = || Err(ProbeError::new(Stage::Connect, "connection refused"));
        let lack = |text: &str| Err(ProbeError::new(Stage::Internal, text.to_owned()));
        let record = after(&[refused(), lack("too many open files")]);
        assert_eq!(record.error.as_deref(), Some("connect: connection refused"));
        assert_eq!(record.latency, Some(TOOK));
        assert_eq!((record.probes, record.failures), (2, 1));
        // Without a failure of the server, the reason why nothing was found out is shown.
        let record = after(&[Ok(()), lack("one"), lack("two")]);
        assert_eq!(record.error.as_deref(), Some("internal: two"));
        assert_eq!(record.latency, Some(TOOK));
        let record = after(&[lack("one"), refused()]);
        assert_eq!(record.error.as_deref(), Some("connect: connection refused"));
        assert_eq!(record.latency, Some(2 * TOOK));
    }
}
