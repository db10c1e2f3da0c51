//! The role of this process: when it is checked, and how the process becomes the prober, follows another
//! one, or gives up.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::{EngineLoop, RoleTimer, descriptors_for};
use crate::engine::active::{ActiveConfig, Role};
use crate::engine::log::{Level, Line, Log};
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::follower::{Followed, Following};
use crate::engine::scheduler::schedule::{CHECK_WAITS_NS, check_at};
use crate::engine::state_file::ANSWERED_WITHIN;
use crate::engine::verdicts::{Counter, Patience, Standby, takeover_time};
use crate::sys::clock;
use crate::sys::fork_mark::pid;

/// The interval of the prober's role check. Whether the host is about to exit is checked after
/// every event, not only then.
const REASSURE: Duration = Duration::from_millis(250);

/// A role check finds a request in the state file, possibly after a delay of its wake-up, and the save
/// after it writes the answer. Both together must take less than half of the promised time.
const _: () = assert!(
    2 * (REASSURE.as_nanos() + CHECK_WAITS_NS as u128 + SAVE_AGAIN.as_nanos())
        <= ANSWERED_WITHIN.as_nanos()
);

/// The interval at which saving is tried again while a content waits to be written.
const SAVE_AGAIN: Duration = Duration::from_millis(100);

/// The interval at which a reader polls the state file.
const FOLLOW: Duration = Duration::from_millis(50);

/// The pause between two tries of a waiting process to become the prober.
const STANDBY_MIN: Duration = Duration::from_millis(10);
const STANDBY_MAX: Duration = Duration::from_millis(250);

/// A process that begins to serve a configuration tries so often with [`STANDBY_MIN`] between: the prober of
/// the configuration before gives up its role within milliseconds.
pub(super) const HANDOVER_TRIES: u32 = 20;

/// The prober makes at least this many role checks, each with a heartbeat, within the time after which
/// another process takes over.
const CHECKS_WITHIN: u32 = 8;

/// A stopped thread stays for this long, so that a stop and start in a row reuses it. A process
/// must never have two engine threads: its locks belong to the process and would not keep them
/// apart.
const LINGER: Duration = Duration::from_millis(50);

impl EngineLoop {
    fn pause(&self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) -> Duration {
        match (&self.scheduler, serving) {
            _ if self.stopped => LINGER,
            _ if self.following.is_some() => FOLLOW,
            (Some(scheduler), _) if scheduler.is_saving_pending() => SAVE_AGAIN,
            (Some(scheduler), _) => {
                // The heartbeat has to move often enough that waiting processes do not count this
                // one as stopped.
                let within = takeover_time(scheduler.active.config.policy.fast_interval);
                REASSURE.min(within / CHECKS_WITHIN)
            }
            (None, Some(_)) if self.handover_tries > 0 => STANDBY_MIN,
            (None, Some((active, _))) => standby_pause(active),
            // Without a configuration there is no role to check.
            (None, None) => Duration::from_secs(3600),
        }
    }

    /// Sets the timer of the next role check. With a pause of 250 ms or more the check may be
    /// delayed further so that it shares a wake-up with a probe, see [`check_at`].
    pub(super) fn set_timer(
        &self,
        role_timer: &mut RoleTimer,
        serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>,
    ) {
        let pause = self.pause(serving);
        let set_for = Some((self.role_checked, pause));
        if role_timer.set_for == set_for {
            return;
        }
        role_timer.set_for = set_for;
        let mut at = self.role_checked + pause;
        if pause >= REASSURE {
            let now = clock::monotonic_ns();
            let wait = clock::ns(at.saturating_duration_since(Instant::now()));
            let next_due = self.scheduler.as_ref().and_then(Scheduler::next_due);
            let check_ns = check_at(now + wait, next_due);
            at = Instant::now() + Duration::from_nanos(check_ns.saturating_sub(now));
        }
        // The timer is replaced, not reset: tokio would still wake up at the old time of one that
        // is put off.
        role_timer.sleep.set(sleep_until(at.into()));
    }

    /// Whether a prober has to check its role before it probes on.
    pub(super) fn must_check_role(&self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) -> bool {
        let every = if self.following.is_some() {
            FOLLOW
        } else {
            REASSURE
        };
        let is_over = |(active, _): &(Arc<ActiveConfig>, _)| !self.may_probe(active);
        self.scheduler.is_some()
            && (self.role_checked.elapsed() >= every || serving.is_some_and(is_over))
    }

    /// Whether this process may probe, according to the shared table. Makes no system call.
    fn may_probe(&self, active: &ActiveConfig) -> bool {
        let is_taken_over = self.scheduler.is_some() && !active.table.has_lease(pid());
        !(self.signs.exiting)() && active.table.epoch() == active.epoch && !is_taken_over
    }

    /// Checks the role of this process: takes it, keeps it, or gives it up.
    pub(super) fn check_role(&mut self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) {
        self.role_checked = Instant::now();
        let Some((active, log)) = serving else {
            return;
        };
        let pause = self.pause(serving);
        self.handover_tries = self.handover_tries.saturating_sub(1);
        if (self.reports.is_running)() && !(self.signs.exiting)() {
            let mut standby = standby(&mut self.patience, active, pause);
            active.come_into_force(pid(), Some(&mut standby));
        }
        active.end_settings();
        match log.take_lost() {
            0 => {}
            lost => active.table.count(Counter::LogLinesLost, lost),
        }
        if !self.may_probe(active) {
            if self.scheduler.is_some() {
                self.give_up();
                active.leave_role(pid());
            }
            return;
        }
        let mut standby = standby(&mut self.patience, active, pause);
        match active.take_role(pid(), Some(&mut standby)) {
            Ok(Role::Prober) => {
                self.following = None;
                active.add_late_events();
                let nobody = self.nobody.clone();
                let scheduler = self.scheduler(active, log, &nobody);
                scheduler.keep_file(true);
                scheduler.log_panic();
            }
            Ok(Role::Reader) => self.follow(active, log),
            Ok(Role::Waiting) => self.give_up(),
            Err(error) => {
                self.give_up();
                if !self.lock_failed {
                    self.lock_failed = true;
                    log.write(
                        Line::new(Level::Error, "prober_lock_lost")
                            .quoted("reason", &error.to_string()),
                    );
                }
                if error.kind() == io::ErrorKind::NotConnected {
                    (self.reports.detach)(active);
                }
            }
        }
    }

    /// Ends the scheduler. Lease and locks are kept; `leave_role` gives them back.
    pub(super) fn give_up(&mut self) {
        self.scheduler = None;
        self.following = None;
    }

    /// Publishes the verdicts that the prober of another table has saved, and probes the targets that it
    /// does not probe.
    fn follow(&mut self, active: &Arc<ActiveConfig>, log: &Arc<Log>) {
        let mut following = match self.following.take() {
            Some(following) if following.is_of(active) => following,
            _ => Following::begin(active),
        };
        let findings = self.scheduler.as_mut().map(Scheduler::take_own_findings);
        let followed = following.poll(&findings.unwrap_or_default(), log);
        self.following = Some(following);
        let scheduler = self.scheduler(active, log, &followed);
        scheduler.keep_file(false);
        scheduler.log_panic();
        let probes = !active.slots.iter().all(|slot| followed.contains(slot));
        active.table.set_probing(pid(), probes);
    }

    /// The scheduler, fitted to the configuration. Targets that are `followed` are probed
    /// elsewhere; here they are only probed when a report comes.
    fn scheduler(
        &mut self,
        active: &Arc<ActiveConfig>,
        log: &Arc<Log>,
        followed: &Followed,
    ) -> &mut Scheduler {
        let scheduler = self
            .scheduler
            .get_or_insert_with(|| Scheduler::begin(active, log, &self.prober));
        scheduler.fit(active, log, followed, descriptors_for);
        scheduler.start_missing_threads();
        scheduler
    }
}

fn standby<'a>(patience: &'a mut Patience, active: &ActiveConfig, pause: Duration) -> Standby<'a> {
    Standby {
        patience,
        pause,
        within: takeover_time(active.config.policy.fast_interval),
    }
}

/// A quarter of `fast_interval`, so that a prober that ends is replaced before its targets miss a
/// probe; within [`STANDBY_MIN`] and [`STANDBY_MAX`].
fn standby_pause(active: &ActiveConfig) -> Duration {
    (active.config.policy.fast_interval / 4).clamp(STANDBY_MIN, STANDBY_MAX)
}
