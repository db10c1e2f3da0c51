//! The engine of this process, which every Lua state and C caller in it shares.
//!
//! A fork copies the engine but not its threads. The first call in a child notices this by the fork
//! mark. It makes a new engine with the parent's configuration and verdict table, and never touches
//! or drops the inherited one: a lock in it may be held by a thread that does not exist in the
//! child.

pub mod check;
#[cfg(test)]
mod model;
mod reports;
mod route;
pub mod routed;
mod routes;
pub mod store_call;
pub mod thread;

use std::mem::ManuallyDrop;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use once_cell::race::OnceBox;
use tokio::sync::mpsc::UnboundedSender;

use super::active::{ActiveConfig, KnownNames, Snapshot, State};
use super::config::{CheckDefaults, Config, LogSink, Value, target_from_value};
use super::log::{Level, Line, Log};
use super::probe::resolve::origin;
use super::request::secret_names;
use super::routing::Filter;
use super::state_file::file::Store;
use super::target::{Host, Target};
use crate::sys::clock;
use crate::sys::copies;
use crate::sys::fork_mark::{ForkMark, incarnation, pid};
use crate::sys::{stderr, thread as threads};
use check::{Check, CheckRequest, Ticket};
pub use routes::Routes;
use store_call::{Author, StoreCall, StoreRequest};
use thread::{Command, HostSigns, Reports, spawn};

/// The environment variable with the path of a YAML file, for hosts that do not call `configure`.
pub const CONFIG_VARIABLE: &str = "NAUTHILUS_BACKEND_CONFIG";

/// For this long after a file was refused it is not read again, or each request would read it.
const REREAD_AFTER: Duration = Duration::from_secs(1);

/// For this long after the system refused a thread, calls do not try to start the engine thread by
/// themselves.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The interval at which a blocking wait for first verdicts checks them.
const READY_POLL: Duration = Duration::from_millis(2);

/// Why the engine thread has ended.
const CLOSED_BY_HOST: &str = "the host closed the descriptors of the engine, which starts again";

static CURRENT: ArcSwapOption<Process> = ArcSwapOption::const_empty();
/// The callbacks of the engine thread. They go to the current engine, not to the one that started
/// the thread.
const REPORTS: Reports = Reports {
    detach: |active| current().detach(active),
    stopped: |active| current().stopped(active),
    lost: |engine| current().lost(engine),
    restart: || current().restart(),
    may_end: |is_idle| current().may_end(is_idle),
};

static SIGNS: OnceBox<HostSigns> = OnceBox::new();

/// Stores what a host adapter knows of its process; only the first call has an effect.
pub fn set_host_signs(signs: HostSigns) {
    // Fails where another Lua state of the same host has set the same signs before.
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
    /// Whether the log has that line already; each call that needs the thread tries again.
    is_refusal_logged: bool,
    /// The checks that were given to the thread; some may be done.
    checks: Vec<Weak<Ticket>>,
    /// When the file of [`CONFIG_VARIABLE`] was last refused, and why.
    refused: Option<(Instant, String)>,
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
    fn look(&self) -> (Self::Seen, Option<Self::Engine>);
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
        let (seen, engine) = place.look();
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

    fn look(&self) -> (Self::Seen, Option<Arc<Process>>) {
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
            wanted: AtomicBool::new(inherited.is_none_or(|p| p.wanted.load(Ordering::Acquire))),
            running: AtomicBool::new(false),
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

    /// Replaces the active configuration. Targets that did not change keep their records. `head`:
    /// see [`ActiveConfig::succeed`].
    ///
    /// # Errors
    /// One line that names the key, or the other copy of this library that holds the engine of
    /// the process. The old configuration then runs on.
    pub fn configure(&self, config: Config, head: bool) -> Result<(), String> {
        copies::claim()?;
        origin::remember();
        let is_required = signs().takes_addresses_only;
        let names = if head {
            KnownNames::look_up(&config, is_required)
        } else {
            KnownNames::none(is_required)
        };
        let done = self.put_in_force(config, head, names);
        if done.is_err() && !self.is_configured() {
            copies::give_up();
        }
        done
    }

    fn put_in_force(&self, config: Config, head: bool, names: KnownNames) -> Result<(), String> {
        let control = self.control();
        let before = self.active.load_full();
        if let Some(same) = before.as_ref().filter(|b| *b.config == config) {
            self.wanted.store(true, Ordering::Release);
            if head {
                same.set_names(names);
            }
            if let Some(log) = self.log.load_full() {
                log.reopen();
                // Served again so that the files that the configuration names are read again.
                control.serve(same.clone(), log);
            }
            return Ok(());
        }
        let sink_changed = before.as_ref().is_none_or(|b| b.config.log != config.log);
        stderr::remember();
        let log = match self.log.load_full() {
            Some(log) if !sink_changed => {
                log.reopen();
                log
            }
            _ => Arc::new(open_log(&config.log).map_err(|e| config.origin.of_log(&e))?),
        };
        let mut state = recall(before.as_deref(), &config, &log)?;
        state.names = names;
        let active = ActiveConfig::succeed(before.as_deref(), Arc::new(config), pid(), head, state)
            .map_err(|e| format!("cannot share memory with forked processes: {e}"))?;
        let active = Arc::new(active);
        secret_names::set_exposed(&active.config.expose_attributes);
        if let Some(replaced) = self.log.swap(Some(log.clone()))
            && !Arc::ptr_eq(&replaced, &log)
        {
            log.inherit_losses(&replaced);
        }
        self.active.store(Some(active.clone()));
        self.wanted.store(true, Ordering::Release);
        for warning in &active.config.warnings {
            log.write_here(
                &Line::new(Level::Warning, "configuration_warning").quoted("reason", warning),
            );
        }
        control.serve(active, log);
        self.advance();
        Ok(())
    }

    /// Reads the file that `NAUTHILUS_BACKEND_CONFIG` names, where nothing was configured.
    ///
    /// # Errors
    /// Why the file was refused. It is not read again within a second.
    pub fn configure_from_environment(&self) -> Result<(), String> {
        if self.is_configured() {
            return Ok(());
        }
        let Some(path) = std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()) else {
            return Ok(());
        };
        if let Some((at, reason)) = &self.control().refused
            && at.elapsed() < REREAD_AFTER
        {
            return Err(reason.clone());
        }
        let read = Config::from_file(Path::new(&path), &|name| std::env::var(name).ok());
        let done = read
            .and_then(Config::with_files)
            .map_err(|e| e.to_string())
            .and_then(|config| self.configure(config, false));
        done.map_err(|reason| {
            let reason = format!("{CONFIG_VARIABLE}: {reason}");
            self.control().refused = Some((Instant::now(), reason.clone()));
            reason
        })
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
            warnings.extend(active.cluster_notes().warnings.clone());
        }
        warnings
    }

    /// Why the engine thread or one of its helpers could not be started when it was last needed.
    pub fn last_start_error(&self) -> Option<String> {
        let start_error = self.control().start_error.clone();
        start_error.or_else(threads::last_refusal)
    }

    /// Starts the engine thread unless it runs. Without a configuration it only makes checks on
    /// demand.
    ///
    /// # Errors
    /// Where the system allows no thread or descriptor, or another copy of this library holds
    /// the engine of the process.
    pub fn start(&self) -> Result<(), String> {
        copies::claim()?;
        self.wanted.store(true, Ordering::Release);
        let done = self.ensure_running();
        if done.is_err() && !self.is_configured() {
            copies::give_up();
        }
        done
    }

    /// Stops the engine thread of this process until [`Process::start`] or a new configuration.
    pub fn stop(&self) {
        let control = self.control();
        self.wanted.store(false, Ordering::Release);
        self.running.store(false, Ordering::Release);
        if let Some(commands) = &control.commands {
            // Fails where the thread has ended already.
            let _ = commands.send(Command::Stop);
        }
        drop(control);
        self.advance();
    }

    /// Whether the engine thread runs in this process.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
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

    fn log_restart(&self) {
        if let Some(log) = self.log.load_full() {
            log.write(
                Line::new(Level::Warning, "engine_restarted").quoted("reason", CLOSED_BY_HOST),
            );
        }
    }

    fn ensure_running(&self) -> Result<(), String> {
        if self.is_running() {
            return Ok(());
        }
        let mut control = self.control();
        let commands = match control.commands.take().filter(|c| !c.is_closed()) {
            Some(commands) => commands,
            None => self.start_thread(&mut control)?,
        };
        control.commands = Some(commands);
        if let (Some(active), Some(log)) = (self.active.load_full(), self.log.load_full()) {
            // The role is taken here, not by the thread, so that `status()` shows it when this call
            // returns.
            if active.table.epoch() == active.epoch && !(signs().exiting)() {
                let _ = active.take_role(self.pid, None);
            }
            control.serve(active, log);
            self.running.store(true, Ordering::Release);
            drop(control);
            self.advance();
        }
        Ok(())
    }

    /// Starts the engine thread if it may and should run. Where the system refuses a thread, the
    /// last verdicts stand and a later call tries again, at most once per second.
    fn start_if(&self, start: Start) {
        if start == Start::Forbidden || self.is_running() || !self.should_run() {
            return;
        }
        let now = clock::monotonic_ns();
        let refused_at = self.refused_start_ns.load(Ordering::Relaxed);
        if refused_at != 0 && now.saturating_sub(refused_at) < clock::ns(RESTART_AFTER) {
            return;
        }
        let refused = self.ensure_running().is_err();
        self.refused_start_ns
            .store(if refused { now } else { 0 }, Ordering::Relaxed);
    }

    /// Whether there is a configuration and `stop` was not called since.
    fn should_run(&self) -> bool {
        self.wanted.load(Ordering::Acquire) && self.is_configured()
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

    /// Waits until every target has had a first verdict; false when the time is over.
    /// Blocks the calling thread.
    pub fn wait_ready(&self, at_most: Option<Duration>) -> bool {
        let end = at_most.and_then(|time| Instant::now().checked_add(time));
        loop {
            let ready = self
                .active(Start::Allowed)
                .is_none_or(|active| active.is_ready());
            if ready {
                return true;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            std::thread::sleep(READY_POLL);
        }
    }

    /// Makes a target from the description of a check. What the description leaves out comes from
    /// the configuration: timeouts, and the settings of a configured target at the same address.
    ///
    /// # Errors
    /// Those of [`target_from_value`].
    pub fn target_for_check(&self, value: &Value, extra: &[&str]) -> Result<Target, String> {
        // A refused file is reported by calls that need servers; a check works without a
        // configuration.
        let _ = self.configure_from_environment();
        let active = self.active(Start::Forbidden);
        let configured = |host: &Host, port: u16| {
            let host = host.to_string();
            let target = active.as_ref()?.targets_at(&host, port).next()?;
            Some(target.clone())
        };
        let defaults = CheckDefaults {
            timeouts: active
                .as_ref()
                .map(|active| active.config.timeouts)
                .unwrap_or_default(),
            helo_name: active
                .as_ref()
                .and_then(|active| active.config.helo_name.clone()),
            configured: &configured,
        };
        target_from_value(value, &defaults, extra).map_err(|e| e.to_string())
    }

    /// Starts a check on the engine thread. Where the thread cannot be started, the check has
    /// failed when this returns.
    pub fn check(&self, target: Arc<Target>, coalesce: bool) -> Check {
        let (check, ticket) = Check::new();
        let request = CheckRequest {
            target,
            coalesce,
            ticket: ticket.clone(),
        };
        if let Err(reason) = self.send(Command::Check(request)) {
            ticket.finish(Err(format!("internal: {reason}")));
        }
        check
    }

    /// Begins to route a user. Without a store the route is done when this returns.
    ///
    /// # Errors
    /// The name has no key.
    pub fn start_route(
        &self,
        active: &Arc<ActiveConfig>,
        user: &[u8],
        filter: Filter,
    ) -> Result<Check, String> {
        let (check, request) = route::begin(active, user, filter)?;
        if let Some(request) = request {
            // Where the system allows no engine thread, the request is dropped, which answers it.
            let _ = self.send(Command::Route(request));
        }
        Ok(check)
    }

    /// Begins a call of the store; also says for how long it may take at most.
    ///
    /// # Errors
    /// There is no store, or this machine does not know the node.
    pub fn start_store_call(
        &self,
        active: &Arc<ActiveConfig>,
        call: StoreCall,
        author: Author,
    ) -> Result<(Check, Duration), String> {
        let (request, check, longest) = StoreRequest::new(active, call, author)?;
        // Where the system allows no engine thread, the request is dropped, which answers it.
        let _ = self.send(Command::Store(Box::new(request)));
        Ok((check, longest))
    }

    fn send(&self, command: Command) -> Result<(), String> {
        let mut control = self.control();
        let open = control.commands.as_ref().is_some_and(|c| !c.is_closed());
        if !open {
            control.commands = Some(self.start_thread(&mut control)?);
        }
        match &command {
            Command::Check(request) => control.note_check(&request.ticket),
            Command::Route(request) => control.note_check(&request.ticket),
            Command::Store(request) => control.note_check(&request.ticket),
            Command::Serve(..) | Command::Stop => {}
        }
        match &control.commands {
            Some(commands) => commands
                .send(command)
                .map_err(|_| "the monitor's thread has ended".to_owned()),
            None => Err("the monitor's thread is missing".to_owned()),
        }
    }

    fn start_thread(&self, control: &mut Control) -> Result<UnboundedSender<Command>, String> {
        let started = spawn(signs(), REPORTS).map_err(|e| {
            format!(
                "cannot start the monitor's thread: {}",
                threads::explain_refusal(&e)
            )
        });
        control.start_error = started.as_ref().err().cloned();
        match &started {
            Ok(_) => control.is_refusal_logged = false,
            Err(reason) => {
                if let Some(log) = self.log.load_full()
                    && !std::mem::replace(&mut control.is_refusal_logged, true)
                {
                    // Written here: the log may have no thread either.
                    log.write_here(
                        &Line::new(Level::Error, "engine_not_started").quoted("reason", reason),
                    );
                }
            }
        }
        started
    }

    /// The current address of a configured host name.
    pub fn current_ip_of(&self, name: &str) -> Option<IpAddr> {
        self.active.load().as_ref()?.current_ip_of(name)
    }
}

impl Control {
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

/// Opens the state file of a configuration and reads it; uses the file that is open where the path
/// is the same. A content that cannot be used is logged, and replaced with the first content that
/// is saved.
fn recall(before: Option<&ActiveConfig>, config: &Config, log: &Log) -> Result<State, String> {
    let Some(path) = &config.state_file else {
        return Ok(State::default());
    };
    let open = before.and_then(|b| b.store.clone());
    let store = match open.filter(|store| store.is_at(path)) {
        Some(store) => store,
        None => Arc::new(Store::open(path).map_err(|e| config.origin.of_state_file(&e))?),
    };
    let saved = store.load_settled().unwrap_or_else(|reason| {
        log.write_here(
            &Line::new(Level::Warning, "state_file_rejected")
                .quoted("path", &path.display().to_string())
                .quoted("reason", &reason),
        );
        None
    });
    Ok(State {
        store: Some(store),
        saved,
        names: KnownNames::default(),
    })
}

fn open_log(sink: &LogSink) -> Result<Log, String> {
    Log::open(sink).map_err(|e| match sink {
        LogSink::File(path) => format!("log: cannot append to {}: {e}", path.display()),
        _ => format!("log: {e}"),
    })
}
