//! The engine of this process, which every Lua state and C caller in it shares.
//!
//! A fork copies the engine but not its threads. The first call in a child notices this by the fork
//! mark. It makes a new engine with the parent's configuration and verdict table, and never touches
//! or drops the inherited one: a lock in it may be held by a thread that does not exist in the
//! child.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | finds the engine of the calling process; holds its configuration, log and epoch |
//! | `configure.rs` | makes a configuration the active one |
//! | `running.rs` | starts and stops the engine thread, and sends it commands |
//! | `command.rs`, `reports.rs` | what the engine thread is told, and what it reports |
//! | `thread.rs`, `engine_loop.rs` | how the engine thread starts and ends, and its loop; `engine_loop/role.rs`: the role of this process |
//! | `calls.rs` | requests of scripts to the engine thread |
//! | `check.rs` | a check on demand, the ticket that its caller waits for, and its end after a fork |
//! | `checks.rs` | the checks that the engine thread makes, of which equal ones share a connection |
//! | `route.rs`, `routed.rs`, `routes.rs` | routes of users, with and without a store |
//! | `store_call.rs` | calls of the store for operators and hosts |

mod calls;
pub mod check;
mod checks;
pub mod command;
mod configure;
mod engine_loop;
#[cfg(test)]
mod model;
mod reports;
mod route;
pub mod routed;
mod routes;
mod running;
pub mod store_call;
mod thread;
pub mod wanted_call;

use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use once_cell::race::OnceBox;
use tokio::sync::mpsc::UnboundedSender;

use super::active::{ActiveConfig, Snapshot};
use super::config::LogSink;
use super::log::{Line, Log};
use super::state_file::file::SharedStateFile;
use crate::sys::fork_mark::{ForkMark, incarnation, pid};
use crate::sys::{clock, thread as threads};
use check::Ticket;
use command::{Command, HostSigns, Reports};
pub use configure::NotConfigured;
pub use routes::{Routes, count_selection};

/// The interval at which a blocking wait for first verdicts checks them.
const READY_POLL: Duration = Duration::from_millis(2);

/// How many configurations a process keeps in case the host gives up those after them. More are only
/// possible if workers do not use the module after a reload, or `init_by_lua` configures several times.
const EARLIER_MAX: usize = 4;

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();
/// The callbacks of the engine thread. They go to the current engine, not to the one that started
/// the thread.
const REPORTS: Reports = Reports {
    detach: |active| current().detach(active),
    stopped: |active| current().stopped(active),
    lost: |engine| current().lost(engine),
    is_running: || current().is_running(),
    is_wanted: || current().is_wanted(),
    restart: || current().restart(),
    may_end: |is_idle| current().may_end(is_idle),
};

static SIGNS: OnceBox<HostSigns> = OnceBox::new();

/// Stores what a host adapter knows of its process; only the first call has an effect.
pub fn set_host_signs(signs: HostSigns) {
    // Fails if another Lua state of the same host has set them before; they are the same.
    let _ = SIGNS.set(Box::new(signs));
}

fn signs() -> HostSigns {
    SIGNS.get().copied().unwrap_or(HostSigns {
        exiting: || false,
        takes_addresses_only: false,
    })
}

/// Whether a call may start the engine thread where it does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Allowed,
    /// In nginx's master, which never probes and must have no thread when it forks.
    Forbidden,
}

/// The engine of one process.
pub struct Process {
    pid: u64,
    /// Which process this is the engine of: see [`incarnation`].
    incarnation: u64,
    /// Changes with the configuration and when the engine thread starts or ends: readers cache
    /// lists by it.
    epoch: AtomicU64,
    active: ArcSwapOption<ActiveConfig>,
    log: ArcSwapOption<Log>,
    /// Whether the engine thread should run; false after `stop`.
    wanted: AtomicBool,
    running: AtomicBool,
    /// Whether the engine thread has ever run in this process.
    has_run: AtomicBool,
    /// When the system last refused a thread, in `CLOCK_MONOTONIC` nanoseconds; 0: the last start
    /// succeeded.
    refused_start_ns: AtomicU64,
    control: Mutex<Control>,
    /// The parent's engine. Never dropped: that would drop locks and channels that threads of the
    /// parent were using at the fork.
    _inherited: Option<ManuallyDrop<Arc<Self>>>,
}

#[derive(Default)]
struct Control {
    commands: Option<UnboundedSender<Command>>,
    /// Why the last start of the thread failed.
    start_error: Option<String>,
    /// Whether that reason was logged. Each call that needs the thread tries to start it again, and would
    /// log it again.
    is_refusal_logged: bool,
    /// The checks that were given to the thread; some may be done.
    checks: Vec<Weak<Ticket>>,
    /// What [`Process::give_up`] makes active again, the last one first: the configurations before those that
    /// are not in force, with their logs.
    earlier: Vec<(Arc<ActiveConfig>, Arc<Log>)>,
    /// The state files that this process has opened; some may be closed.
    state_files: Vec<Weak<SharedStateFile>>,
    /// When the file of [`configure::CONFIG_VARIABLE`] was last refused, and why.
    refused: Option<(Instant, NotConfigured)>,
}

/// The engine of the calling process.
pub fn current() -> Arc<Process> {
    find(&OfProcess)
}

/// Where a process finds its engine: a pointer that a fork copies, and a mark that the kernel wipes
/// in the child. A trait so that a test can run [`find`] under loom.
trait EnginePlace {
    type Engine;
    type Seen;
    fn is_marked(&self) -> bool;
    fn load(&self) -> (Self::Seen, Option<Self::Engine>);
    /// Whether this process made the engine, not a parent.
    fn is_own(&self, engine: &Self::Engine) -> bool;
    /// Sets the mark: the pointer is to this process's own engine.
    fn mark(&self, engine: &Self::Engine);
    /// Replaces the engine that was seen by a new one, unless another thread has done so.
    fn begin(&self, seen: Self::Seen);
}

fn find<P: EnginePlace>(place: &P) -> P::Engine {
    loop {
        // The mark is loaded first: it is only set once this process's engine is in place. In the
        // other order a thread could load the parent's engine, another thread could then replace it
        // and set the mark, and the first one would return the parent's engine.
        let is_marked = place.is_marked();
        let (seen, engine) = place.load();
        if let Some(engine) = engine {
            if is_marked {
                return engine;
            }
            if place.is_own(&engine) {
                place.mark(&engine);
                return engine;
            }
        }
        place.begin(seen);
    }
}

struct OfProcess;

impl EnginePlace for OfProcess {
    type Engine = Arc<Process>;
    type Seen = Guard<Option<Arc<Process>>>;

    fn is_marked(&self) -> bool {
        ForkMark::of_process().get() != 0
    }

    fn load(&self) -> (Self::Seen, Option<Arc<Process>>) {
        let seen = CURRENT.load();
        let engine = Option::clone(&seen);
        (seen, engine)
    }

    fn is_own(&self, engine: &Arc<Process>) -> bool {
        engine.incarnation == incarnation()
    }

    fn mark(&self, engine: &Arc<Process>) {
        ForkMark::of_process().raise(engine.epoch.load(Ordering::Acquire));
    }

    fn begin(&self, seen: Self::Seen) {
        threads::forget_refusals();
        let fresh = Arc::new(Process::after(seen.as_ref()));
        CURRENT.compare_and_swap(&seen, Some(fresh));
    }
}

impl Process {
    fn after(inherited: Option<&Arc<Self>>) -> Self {
        let epoch = inherited.map_or(1, |p| p.epoch.load(Ordering::Acquire) + 1);
        Self {
            pid: pid(),
            incarnation: incarnation(),
            epoch: AtomicU64::new(epoch),
            active: ArcSwapOption::new(inherited.and_then(|p| p.active.load_full())),
            log: ArcSwapOption::new(inherited.and_then(|p| {
                let log = p.log.load_full()?;
                Some(Arc::new(log.after_fork()))
            })),
            wanted: AtomicBool::new(inherited.is_none_or(|p| p.is_wanted())),
            running: AtomicBool::new(false),
            has_run: AtomicBool::new(false),
            refused_start_ns: AtomicU64::new(0),
            control: Mutex::default(),
            _inherited: inherited.cloned().map(ManuallyDrop::new),
        }
    }

    /// Readers compare it: while it stays the same, only verdicts can have changed.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Raises the epoch, so that readers drop what they have cached.
    fn advance(&self) {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        ForkMark::of_process().raise(epoch);
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The published generation; none before a configuration.
    pub fn generation(&self) -> Option<u64> {
        Some(self.active.load().as_ref()?.generation())
    }

    /// Warnings for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let active = self.active.load_full();
        let mut warnings = active.map_or_else(Vec::new, |active| active.config.warnings.clone());
        if let Some(log) = self.log.load_full() {
            warnings.extend(log.warnings());
        }
        if let Some(active) = self.active.load_full() {
            warnings.extend(active.cluster_warnings().iter().cloned());
        }
        warnings
    }

    /// Why the engine thread or one of its helpers could not be started when it was last needed.
    pub fn last_start_error(&self) -> Option<String> {
        let start_error = self.control().start_error.clone();
        start_error.or_else(threads::last_refusal)
    }

    /// Whether the engine thread runs in this process.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Whether this process is the one that probes.
    pub fn is_prober(&self) -> bool {
        self.is_running()
            && self
                .active
                .load()
                .as_ref()
                .is_some_and(|active| active.table.prober() == self.pid)
    }

    /// Logs a problem that may occur with every request: at most one line per second, to standard
    /// error where nothing is configured.
    pub fn log_seldom(&self, line: impl FnOnce() -> Line) {
        const INTERVAL_NS: u64 = 1_000_000_000;
        static LAST_NS: AtomicU64 = AtomicU64::new(0);
        let (now, last) = (clock::monotonic_ns(), LAST_NS.load(Ordering::Relaxed));
        let is_due = last == 0 || now.saturating_sub(last) >= INTERVAL_NS;
        let exchange = || LAST_NS.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        if !is_due || exchange().is_err() {
            return;
        }
        match self.log.load_full() {
            Some(log) => log.write(line()),
            None => {
                if let Ok(log) = Log::open(&LogSink::Stderr) {
                    log.write_here(&line());
                }
            }
        }
    }

    /// The active configuration. Starts the engine thread first where that is allowed.
    pub fn active(&self, start: Start) -> Option<Arc<ActiveConfig>> {
        self.start_if(start);
        self.active.load_full()
    }

    pub fn is_configured(&self) -> bool {
        self.active.load().is_some()
    }

    /// The alive targets; none before a configuration.
    pub fn snapshot(&self, start: Start) -> Snapshot {
        self.active(start)
            .map(|active| active.snapshot())
            .unwrap_or_default()
    }

    /// The alive targets, and the epoch for which readers may cache them. Returns epoch 0, which is
    /// never valid, if the engine thread should run but does not: the next call then comes here
    /// again and tries to start it.
    pub fn keepable_snapshot(&self, start: Start) -> (u64, Snapshot) {
        self.start_if(start);
        loop {
            let epoch = self.epoch();
            let snapshot = self.snapshot(Start::Forbidden);
            if self.should_run() && !self.is_running() {
                return (0, snapshot);
            }
            if self.epoch() == epoch {
                return (epoch, snapshot);
            }
        }
    }

    /// Why waiting for verdicts is in vain: this process does not probe, no call starts it, and no other process that
    /// shares the table probes. `None` if it is not, or if nothing is configured.
    pub fn why_not_probing(&self) -> Option<String> {
        if self.is_running() {
            return None;
        }
        let prober = self.active.load().as_ref()?.table.prober();
        // After `stop` the thread has the role until it has ended.
        if prober != 0 && prober != self.pid {
            return None;
        }
        if self.should_run() {
            self.control().start_error.clone()
        } else {
            Some("stopped".to_owned())
        }
    }

    /// Waits until every target has had a first verdict; false when the time is over.
    /// Blocks the calling thread.
    ///
    /// # Errors
    /// See [`Self::why_not_probing`].
    pub fn wait_ready(&self, at_most: Option<Duration>) -> Result<bool, String> {
        let end = at_most.and_then(|time| Instant::now().checked_add(time));
        loop {
            let ready = self
                .active(Start::Allowed)
                .is_none_or(|active| active.is_ready());
            if ready {
                return Ok(true);
            }
            if let Some(reason) = self.why_not_probing() {
                return Err(reason);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(false);
            }
            std::thread::sleep(READY_POLL);
        }
    }

    /// The current address of a configured host name.
    pub fn current_ip_of(&self, name: &str, port: u16) -> Option<IpAddr> {
        self.active.load().as_ref()?.current_ip_of(name, port)
    }
}

impl Control {
    fn note_earlier(&mut self, earlier: Option<(Arc<ActiveConfig>, Arc<Log>)>) {
        if earlier
            .as_ref()
            .is_none_or(|(before, _)| before.is_in_force())
        {
            self.earlier.clear();
        } else if self.earlier.len() == EARLIER_MAX {
            self.earlier.remove(0);
        }
        self.earlier.extend(earlier);
    }

    fn note_check(&mut self, ticket: &Arc<Ticket>) {
        // Finished checks are removed only when the vector is full, so that its length is bounded
        // by the number of checks under way.
        if self.checks.len() == self.checks.capacity() {
            self.checks.retain(|check| check.strong_count() > 0);
            self.checks.reserve(self.checks.len().max(16));
        }
        self.checks.push(Arc::downgrade(ticket));
    }

    fn serve(&self, active: Arc<ActiveConfig>, log: Arc<Log>) {
        if let Some(commands) = &self.commands {
            // Fails where the thread has ended; the next call that needs it starts another one.
            let _ = commands.send(Command::Serve(active, log));
        }
    }
}
