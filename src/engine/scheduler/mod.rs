//! The scheduler: decides when which target is probed. There is one probe timer per target and kind
//! of probe.
//!
//! All timers run in one task of the engine thread. A probe that needs no waiting completes within
//! that task; any other one continues in its own task. The number of these is bounded by
//! `max_concurrent_probes`.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | what the scheduler has, and what it waits for |
//! | `fit.rs` | makes the timers of a configuration |
//! | `probes.rs` | begins the probes that are due, and decides when the next ones are |
//! | `timer.rs`, `schedule.rs`, `backoff.rs` | one timer, and when it is due |
//! | `queue.rs` | the timers that are due and wait for a free slot |
//! | `outcome.rs` | applies an outcome to the target's record |
//! | `reports.rs`, `requests.rs` | what scripts and operators ask for |
//! | `follower.rs`, `saver.rs` | reads and writes the state file |
//! | `notifier.rs`, `wakeup.rs` | what wakes the scheduler |
//! | `thread_start.rs` | starts a helper thread, again if the system refuses it |
//! | `panic_log.rs` | logs when panic begins and ends |

mod backoff;
mod fit;
pub(in crate::engine) mod follower;
mod notifier;
mod outcome;
mod panic_log;
mod probes;
mod queue;
#[cfg(test)]
mod reload_tests;
mod reports;
#[cfg(test)]
mod request_tests;
mod requests;
mod saver;
pub(in crate::engine) mod schedule;
mod thread_start;
mod timer;
mod wakeup;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use super::active::ActiveConfig;
use super::log::Log;
use super::probe::{LingeringConnections, Outcome, Prober};
use super::state_file::call::WantedCall;
use super::verdicts::Slot;
use crate::sys::{clock, gate};
use follower::Followed;
use notifier::Notifier;
use panic_log::PanicLog;
use queue::{ReadyQueue, Slots};
pub(in crate::engine) use requests::Reply;
use saver::Saver;
use timer::ProbeTimer;
use wakeup::WakeupTimer;

/// A probe that takes longer than this is slow, see `queue`.
const SLOW_AFTER: Duration = Duration::from_millis(500);

/// Probes the targets of the active configuration. A process has one while it has the prober's role
/// or follows the state file.
pub(super) struct Scheduler {
    pub active: Arc<ActiveConfig>,
    log: Arc<Log>,
    prober: Arc<Prober>,
    /// The targets that are probed elsewhere. Here they are probed only when a script reports
    /// trouble.
    followed: Followed,
    /// Targets that are probed elsewhere and of which a probe here has failed or has changed the verdict.
    own_findings: Vec<Slot>,
    timers: Vec<ProbeTimer>,
    /// When waiting timers are due, in `CLOCK_MONOTONIC` nanoseconds, and their index in `timers`;
    /// the soonest first.
    due: BTreeSet<(u64, usize)>,
    wakeup: WakeupTimer,
    /// Timers that are due and wait for a free slot.
    ready: ReadyQueue,
    /// The tasks of probes in flight.
    in_flight: JoinSet<Outcome>,
    /// The index in `timers` for each of these tasks, unless its probe was cancelled.
    tasks: HashMap<Id, usize>,
    /// How many of these tasks probe slow targets.
    slow_tasks: usize,
    /// The tasks of prompt targets and when they started, in `CLOCK_MONOTONIC` nanoseconds, the
    /// oldest first. Some of them have completed.
    prompt_tasks: VecDeque<(u64, Id)>,
    /// How many probes in flight and lingering connections there may be in total.
    limit: usize,
    lingering: Arc<LingeringConnections>,
    notifier: Notifier,
    panic_log: PanicLog,
    /// The value of [`super::verdicts::VerdictTable::wakes`] when reports were last handled.
    wakes_seen: Option<u32>,
    /// Present if this process writes the state file.
    saver: Option<Saver>,
}

/// What the scheduler waits for.
pub(super) enum SchedulerEvent {
    /// A probe is due.
    Due,
    /// Another thread or process notified the scheduler.
    Notified,
    /// A probe has completed.
    Completed(Result<(Id, Outcome), JoinError>),
}

impl Scheduler {
    pub(super) fn begin(active: &Arc<ActiveConfig>, log: &Arc<Log>, prober: &Arc<Prober>) -> Self {
        Self {
            active: active.clone(),
            log: log.clone(),
            prober: prober.clone(),
            followed: Followed::default(),
            own_findings: Vec::new(),
            timers: Vec::new(),
            due: BTreeSet::new(),
            wakeup: WakeupTimer::new(),
            ready: ReadyQueue::default(),
            in_flight: JoinSet::new(),
            tasks: HashMap::new(),
            slow_tasks: 0,
            prompt_tasks: VecDeque::new(),
            limit: 0,
            lingering: Arc::default(),
            notifier: Notifier::begin(active.table.clone(), log),
            panic_log: PanicLog::of_table(&active.table),
            wakes_seen: None,
            saver: None,
        }
    }

    /// Waits for the next event. Cancel-safe.
    pub(super) async fn event(&mut self) -> SchedulerEvent {
        if self.may_start() {
            // More timers are ready than fit in one batch. A fork or an exit of the host must not
            // wait for the remaining batches.
            gate::give_way();
            tokio::task::yield_now().await;
            return SchedulerEvent::Due;
        }
        let next = match (self.due.first(), self.gives_way_at()) {
            (Some((due, _)), Some(at)) => Some(at.min(*due)),
            (due, at) => due.map(|(due, _)| *due).or(at),
        };
        let due = async {
            match next {
                Some(at) => self.wakeup.until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => SchedulerEvent::Due,
            () = self.notifier.notify.notified() => SchedulerEvent::Notified,
            Some(completed) = self.in_flight.join_next_with_id() => SchedulerEvent::Completed(completed),
        }
    }

    /// When the next probe is due, in `CLOCK_MONOTONIC` nanoseconds.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    fn may_start(&self) -> bool {
        self.ready.may_start(self.slots())
    }

    fn slots(&self) -> Slots {
        Slots {
            limit: self.limit,
            taken: self.tasks.len() + self.lingering.count(),
            slow: self.slow_tasks,
        }
    }

    /// When the oldest prompt probe in flight has to give up its slot, in `CLOCK_MONOTONIC`
    /// nanoseconds. None unless all slots are taken and a prompt target waits.
    fn gives_way_at(&self) -> Option<u64> {
        if !self.ready.is_held_up(self.slots()) {
            return None;
        }
        let is_running = |(_, task): &&(u64, Id)| self.tasks.contains_key(task);
        let (started, _) = self.prompt_tasks.iter().find(is_running)?;
        Some(started + clock::ns(SLOW_AFTER))
    }

    /// The targets that are probed elsewhere and of which a probe here has failed or has changed the verdict
    /// since the last call.
    pub(super) fn take_own_findings(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.own_findings)
    }

    /// Starts the helper threads that the system has refused so far.
    pub(super) fn start_missing_threads(&mut self) {
        self.notifier.start(&self.log);
        if let Some(saver) = &mut self.saver {
            saver.start_writer(&self.log);
        }
    }

    /// Starts or stops writing the state file. It is written if the configuration names one and
    /// `is_ours`, that is, this process is its writer.
    pub(super) fn keep_file(&mut self, is_ours: bool) {
        let file = self.active.state_file.as_ref().filter(|_| is_ours);
        let same = match (file, &self.saver) {
            (Some(file), Some(saver)) => saver.is_to(file),
            (file, saver) => file.is_none() && saver.is_none(),
        };
        if !same {
            self.saver = file.map(|file| Saver::begin(&self.active, file, &self.log));
        }
        if let Some(saver) = &mut self.saver {
            saver.answer_requests(&self.active, &self.notifier.notify);
        }
    }

    /// A call of the store that a request in the state file asks for, and the right to reply to it.
    pub(super) fn take_call(&mut self) -> Option<(WantedCall, Reply)> {
        self.saver.as_mut()?.take_call()
    }

    /// Whether a request in the state file is being carried out.
    #[cfg(test)]
    fn is_answering(&self) -> bool {
        self.saver.as_ref().is_some_and(Saver::is_answering)
    }

    /// Whether the state file waits to be written.
    pub(super) fn is_saving_pending(&self) -> bool {
        self.saver.as_ref().is_some_and(Saver::is_pending)
    }

    /// Logs when panic begins and ends. The role check calls this, not each changed verdict: panic also depends on
    /// operators and on the configuration, and in an outage thousands of verdicts change, while this reads all
    /// targets.
    pub(super) fn log_panic(&mut self) {
        self.panic_log.update(&self.active, &self.log);
    }

    pub(super) fn save(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.save(&self.active, &self.log);
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        for timer in &self.timers {
            self.cancel(timer);
        }
    }
}
