//! The engine's thread: it elects the prober, keeps a watch for each target while this
//! process is the one that probes, and makes checks on demand.
//!
//! One process of a family probes: the one that holds the verdict table's lock, which the
//! kernel releases when that process dies. The others look at the table and try for the
//! lock from time to time. Where a state file is shared, the same goes for the families that
//! share it; `follow` says what a family does that does not hold the file's lock.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::AbortHandle;

use super::check::{Checks, Request};
use super::config::Config;
use super::follow::{Followed, Following};
use super::log::{Level, Line, Log};
use super::probe::tls::SessionSlot;
use super::probe::{Prober, Resumption};
use super::service::{Role, Service};
use super::state::encode;
use super::store::{Store, Writer};
use super::target::Target;
use super::verdicts::{Slot, VerdictTable};
use super::watch::{Shared, Timer, Watch};
use crate::sys::exit_gate;
use crate::sys::fork_mark::pid;
use crate::sys::thread::{descriptor_limit, spawn_quiet};

/// OpenSSL and a resolver's answer fit many times over.
const STACK: usize = 1024 * 1024;
const WAKER_STACK: usize = 64 * 1024;

/// How often the prober makes sure that it still is the one, and that the host is not
/// about to exit.
const REASSURE: Duration = Duration::from_millis(100);

/// How often the prober makes sure that all watches run.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How often the state file is written where no verdict changes; well within what its
/// readers take for silence.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Saving takes at most this share of the engine's time, however often verdicts change.
const SAVE_SHARE: u32 = 10;

/// How often a process that reads the state file looks at it.
const FOLLOW: Duration = Duration::from_millis(50);

/// Between two tries of a process in waiting for the prober's role.
const STANDBY_MIN: Duration = Duration::from_millis(10);
const STANDBY_MAX: Duration = Duration::from_millis(250);

/// First probes are spread so that this many start in a second, at most over the interval.
const FIRST_PROBES_PER_SECOND: u32 = 100;

/// The share of the process's descriptors that probes may hold, and as many for checks: the
/// host's own connections come first.
const DESCRIPTOR_SHARE: u64 = 4;

/// Checks on demand at the same time; more wait for their turn.
const CHECKS_MAX: usize = 1024;

/// How long a stopped thread waits to be started again. A process never has two: they would
/// both hold its locks.
const LINGER: Duration = Duration::from_millis(50);

/// After a panic of the engine's own.
const RESTART_AFTER: Duration = Duration::from_secs(1);

pub(super) enum Command {
    /// A configuration to serve from now on.
    Serve(Arc<Service>, Arc<Log>),
    Check(Request),
    Stop,
}

/// What the engine's thread tells its process.
#[derive(Clone, Copy)]
pub(super) struct Reports {
    /// The host closed what the processes of a family share: this one must go on by itself.
    pub detach: fn(&Arc<Service>),
    /// The thread serves this no longer.
    pub stopped: fn(&Service),
    /// Whether the thread may end now; it gets no further command where it may. It says
    /// whether it has none.
    pub may_end: fn(&dyn Fn() -> bool) -> bool,
}

/// What the host adapter tells the engine of its process.
#[derive(Clone, Copy)]
pub struct HostSigns {
    /// Whether the process is about to exit and must leave probing to others.
    pub exiting: fn() -> bool,
}

/// Starts the engine's thread. It ends some time after [`Command::Stop`], or with its sender.
///
/// # Errors
/// Where the system allows no thread or descriptor.
pub(super) fn spawn(
    signs: HostSigns,
    reports: Reports,
) -> std::io::Result<UnboundedSender<Command>> {
    // Whatever uses OpenSSL runs between two parks of this thread.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(exit_gate::leave)
        .on_thread_unpark(exit_gate::enter)
        .build()?;
    exit_gate::install();
    let (sender, mut commands) = unbounded_channel();
    spawn_quiet("nb-engine", STACK, move || {
        exit_gate::enter();
        let mut serving = None;
        loop {
            let monitor = Monitor::new(signs, reports);
            let run = monitor.run(&mut commands, &mut serving);
            if catch_unwind(AssertUnwindSafe(|| runtime.block_on(run))).is_ok() {
                break;
            }
            if let Some((_, log)) = &serving {
                log.write(Line::new(Level::Error, "engine_panicked"));
            }
            std::thread::sleep(RESTART_AFTER);
        }
        drop((runtime, serving));
        exit_gate::leave();
    })?;
    Ok(sender)
}

type Serving = Option<(Arc<Service>, Arc<Log>)>;

struct Monitor {
    signs: HostSigns,
    reports: Reports,
    prober: Arc<Prober>,
    checks: Checks,
    lead: Option<Lead>,
    /// While a process of another family probes.
    following: Option<Following>,
    /// What a prober follows: nobody.
    nobody: Followed,
    lock_failed: bool,
    stopped: bool,
}

/// The prober's role and what comes with it, also where others see to some of the targets.
struct Lead {
    service: Arc<Service>,
    followed: Followed,
    watches: HashMap<(Slot, Timer), Running>,
    turns: HashMap<Slot, Turn>,
    waker: Waker,
    /// The configuration that the watches were last fitted to, and when.
    fitted: Option<(Arc<Service>, Instant)>,
    /// Set by watches when a verdict changed.
    turned: Arc<AtomicBool>,
    /// Where this process keeps the state file.
    saving: Option<Saving>,
}

/// When the state file was last written, and by what.
struct Saving {
    store: Arc<Store>,
    writer: Option<Writer>,
    /// [`Store::moves`] of the last time.
    moves: u64,
    at: Option<Instant>,
    /// How long it took to put the last content together.
    took: Duration,
}

/// What a target's timers share, and what is kept of it while it stays the same.
#[derive(Default)]
struct Turn {
    turn: Arc<Mutex<()>>,
    sessions: Arc<SessionSlot>,
}

struct Running {
    target: Arc<Target>,
    policy: Arc<Config>,
    followed: bool,
    bell: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Monitor {
    fn new(signs: HostSigns, reports: Reports) -> Self {
        let prober = Arc::new(Prober::default());
        Self {
            signs,
            reports,
            checks: Checks::new(prober.clone(), descriptors_for(CHECKS_MAX)),
            prober,
            lead: None,
            following: None,
            nobody: Followed::default(),
            lock_failed: false,
            stopped: false,
        }
    }

    async fn run(mut self, commands: &mut UnboundedReceiver<Command>, serving: &mut Serving) {
        // Where a panic ended the last run, its configuration is served on.
        self.elect(serving.as_ref());
        loop {
            let pause = self.pause(serving.as_ref());
            let woken = async {
                match &self.lead {
                    Some(lead) => lead.waker.bell.notified().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Serve(service, log)) => {
                        self.stopped = false;
                        self.adopt(&service, serving.as_ref());
                        *serving = Some((service, log));
                    }
                    Some(Command::Check(request)) => {
                        self.stopped = false;
                        self.checks.start(request);
                        continue;
                    }
                    Some(Command::Stop) => {
                        self.stop(serving);
                        self.stopped = true;
                        continue;
                    }
                    None => break,
                },
                () = woken => {}
                () = tokio::time::sleep(pause) => {}
            }
            if self.stopped && (self.reports.may_end)(&|| commands.is_empty()) {
                break;
            }
            self.elect(serving.as_ref());
            self.heed_reports();
            self.save();
        }
        self.stop(serving);
    }

    fn stop(&mut self, serving: &mut Serving) {
        self.give_up();
        if let Some((service, _)) = serving.take() {
            (self.reports.stopped)(&service);
        }
    }

    fn pause(&self, serving: Option<&(Arc<Service>, Arc<Log>)>) -> Duration {
        match (&self.lead, serving) {
            _ if self.stopped => LINGER,
            _ if self.following.is_some() => FOLLOW,
            (Some(_), _) => REASSURE,
            (None, Some((service, _))) => {
                (service.config.fast_interval / 4).clamp(STANDBY_MIN, STANDBY_MAX)
            }
            // Only checks on demand.
            (None, None) => Duration::from_secs(3600),
        }
    }

    /// A new configuration: files that it names may have changed with it.
    fn adopt(&mut self, service: &Arc<Service>, serving: Option<&(Arc<Service>, Arc<Log>)>) {
        self.prober.forget_tls_contexts();
        self.lock_failed = false;
        if let Some((before, _)) = serving
            && !before.shares_with(service)
        {
            self.give_up();
            before.leave_role(pid());
        }
    }

    /// Takes the prober's role, keeps it, or gives it up.
    fn elect(&mut self, serving: Option<&(Arc<Service>, Arc<Log>)>) {
        let Some((service, log)) = serving else {
            return;
        };
        let may = !(self.signs.exiting)() && service.table.epoch() == service.epoch;
        if !may {
            if self.lead.is_some() {
                self.give_up();
                service.leave_role(pid());
            }
            return;
        }
        match service.take_role(pid()) {
            Ok(Role::Prober) => {
                self.following = None;
                let nobody = self.nobody.clone();
                self.watch(service, log, &nobody);
                if let Some(lead) = &mut self.lead {
                    lead.keep_file(log);
                }
            }
            Ok(Role::Reader) => self.follow(service, log),
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
                if error.kind() == std::io::ErrorKind::NotConnected {
                    (self.reports.detach)(service);
                }
            }
        }
    }

    /// Ends the watches; their lock stays where another role needs it.
    fn give_up(&mut self) {
        self.lead = None;
        self.following = None;
    }

    /// Publishes what the prober of another family has saved, and probes what it does not.
    fn follow(&mut self, service: &Arc<Service>, log: &Arc<Log>) {
        let mut following = match self.following.take() {
            Some(following) if following.is_of(service) => following,
            _ => {
                service.table.repair();
                Following::begin(service)
            }
        };
        let followed = following.look(log);
        self.following = Some(following);
        self.watch(service, log, &followed);
        if let Some(lead) = &mut self.lead {
            lead.saving = None;
        }
        if service.slots.iter().all(|slot| followed.contains(slot)) {
            service.table.silence(pid());
        } else {
            service.table.announce(pid());
        }
    }

    /// Hands the state to the file's writer, at once after a change of a verdict.
    fn save(&mut self) {
        let Some(lead) = &mut self.lead else {
            return;
        };
        let Some(saving) = &mut lead.saving else {
            return;
        };
        let Some(writer) = &saving.writer else {
            return;
        };
        let moves = saving.store.moves();
        let since = saving.at.map(|at| at.elapsed());
        if since.is_some_and(|since| since < saving.took * SAVE_SHARE) {
            return;
        }
        let turned = lead.turned.swap(false, Ordering::AcqRel) || moves != saving.moves;
        let every = SAVE_EVERY.min(lead.service.config.state_max_age / 4);
        if !turned && since.is_some_and(|since| since < every) {
            return;
        }
        let started = Instant::now();
        let content = encode(&lead.service);
        saving.took = started.elapsed();
        if writer.write(content) {
            saving.at = Some(Instant::now());
            saving.moves = moves;
        } else {
            lead.turned.store(true, Ordering::Release);
        }
    }

    /// Starts the watches that are missing, ends those that are too many. Targets that are
    /// `followed` are only probed when somebody reports trouble.
    fn watch(&mut self, service: &Arc<Service>, log: &Arc<Log>, followed: &Followed) {
        let lead = self.lead.get_or_insert_with(|| Lead {
            service: service.clone(),
            followed: followed.clone(),
            watches: HashMap::new(),
            turns: HashMap::new(),
            waker: Waker::start(service.table.clone()),
            fitted: None,
            turned: Arc::default(),
            saving: None,
        });
        if !lead.needs_a_look(service, followed) {
            return;
        }
        let limit = descriptors_for(service.config.max_concurrent_probes);
        let shared = Arc::new(Shared {
            prober: self.prober.clone(),
            permits: Arc::new(Semaphore::new(limit)),
            log: log.clone(),
            turned: lead.turned.clone(),
            bell: lead.waker.bell.clone(),
        });
        lead.followed = followed.clone();
        lead.fit(service, &shared);
    }

    /// Rings for targets that somebody reported since the last look.
    fn heed_reports(&self) {
        let Some(lead) = &self.lead else {
            return;
        };
        for slot in lead.turns.keys() {
            if !lead.service.table.take_reports(*slot) {
                continue;
            }
            for timer in [Timer::Connect, Timer::Deep] {
                if let Some(running) = lead.watches.get(&(*slot, timer)) {
                    running.bell.notify_one();
                }
            }
        }
    }
}

impl Lead {
    /// Whether the configuration is another one than before, or a watch may have ended
    /// (which only a panic of its own brings about).
    fn needs_a_look(&self, service: &Arc<Service>, followed: &Followed) -> bool {
        !Arc::ptr_eq(&self.followed, followed)
            || self.fitted.as_ref().is_none_or(|(fitted, at)| {
                !Arc::ptr_eq(fitted, service) || at.elapsed() > LOOK_AGAIN
            })
    }

    /// Sees that the state file is written from now on, where there is one.
    fn keep_file(&mut self, log: &Arc<Log>) {
        let store = self.service.store.as_ref();
        let kept = self.saving.as_ref().map(|saving| &saving.store);
        let same = match (store, kept) {
            (Some(store), Some(kept)) => Arc::ptr_eq(store, kept),
            (store, kept) => store.is_none() && kept.is_none(),
        };
        if !same {
            self.saving = store.map(|store| Saving {
                writer: store.writer(log.clone()),
                moves: store.moves(),
                store: store.clone(),
                at: None,
                took: Duration::ZERO,
            });
        }
    }

    fn fit(&mut self, service: &Arc<Service>, shared: &Arc<Shared>) {
        let wanted: HashMap<(Slot, Timer), Arc<Target>> = timers(service)
            .map(|(slot, timer, target)| ((slot, timer), target.clone()))
            .collect();
        self.watches.retain(|key, running| {
            wanted
                .get(key)
                .is_some_and(|target| running.still_does(target, &service.config))
                && running.followed == self.followed.contains(&key.0)
        });
        self.turns
            .retain(|slot, _| wanted.contains_key(&(*slot, Timer::Connect)));
        if self
            .fitted
            .as_ref()
            .is_some_and(|(fitted, _)| !Arc::ptr_eq(fitted, service))
        {
            // A resumed session would go on trusting what the CA files no longer say.
            self.turns.values().for_each(|turn| turn.sessions.clear());
        }
        let count = u32::try_from(wanted.len().max(1)).unwrap_or(u32::MAX);
        let window = first_window(service, count);
        let mut position = 0;
        for (slot, timer, target) in timers(service) {
            position += 1;
            if self.watches.contains_key(&(slot, timer)) {
                continue;
            }
            let offset = window.mul_f64((f64::from(position) - fastrand::f64()) / f64::from(count));
            let turn = self.turns.entry(slot).or_default();
            let bell = Arc::new(Notify::new());
            let watch = Watch {
                service: service.clone(),
                target: target.clone(),
                slot,
                timer,
                followed: self.followed.contains(&slot),
                shared: shared.clone(),
                turn: turn.turn.clone(),
                bell: bell.clone(),
                resumption: Resumption {
                    slot: turn.sessions.clone(),
                    full_every: service.config.tls_full_handshake_interval,
                },
                first_due: Instant::now() + offset,
            };
            let running = Running {
                target: target.clone(),
                policy: service.config.clone(),
                followed: self.followed.contains(&slot),
                bell,
                task: tokio::spawn(watch.run()).abort_handle(),
            };
            self.watches.insert((slot, timer), running);
        }
        self.fitted = Some((service.clone(), Instant::now()));
        self.service = service.clone();
    }
}

impl Running {
    /// Whether this watch does what the configuration asks for the target.
    fn still_does(&self, target: &Arc<Target>, config: &Arc<Config>) -> bool {
        !self.task.is_finished()
            && (Arc::ptr_eq(&self.policy, config)
                || (self.target == *target && same_policy(&self.policy, config)))
    }
}

/// Whether two configurations differ in nothing but their targets.
fn same_policy(a: &Config, b: &Config) -> bool {
    let policy = |config: &Config| Config {
        targets: Vec::new(),
        ..config.clone()
    };
    policy(a) == policy(b)
}

/// The timers that a configuration wants, one or two for each slot.
fn timers(service: &Service) -> impl Iterator<Item = (Slot, Timer, &Arc<Target>)> {
    let pairs = service.slots.iter().zip(&service.config.targets);
    pairs.flat_map(|(slot, target)| {
        let deep = service
            .has_deep_timer(target)
            .then_some((*slot, Timer::Deep, target));
        std::iter::once((*slot, Timer::Connect, target)).chain(deep)
    })
}

/// The time over which first probes are spread: short for a few targets, so that the first
/// verdicts come soon, at most the interval.
fn first_window(service: &Service, count: u32) -> Duration {
    let paced = Duration::from_secs(1) * count / FIRST_PROBES_PER_SECOND;
    paced
        .max(service.config.fast_interval)
        .min(service.config.connect_interval)
}

/// How many connections may be open at once for a purpose that wants `wanted`.
fn descriptors_for(wanted: usize) -> usize {
    let share = usize::try_from(descriptor_limit() / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
    wanted.min(share).max(1)
}

/// A thread that sleeps on the table's wake word and rings a bell in the runtime.
struct Waker {
    bell: Arc<Notify>,
    stop: Arc<AtomicBool>,
    table: Arc<VerdictTable>,
}

impl Waker {
    /// Without a thread to spare the bell stays silent: reports are then seen at the next
    /// reassurance.
    fn start(table: Arc<VerdictTable>) -> Self {
        let waker = Self {
            bell: Arc::new(Notify::new()),
            stop: Arc::new(AtomicBool::new(false)),
            table,
        };
        let (bell, stop, table) = (waker.bell.clone(), waker.stop.clone(), waker.table.clone());
        let spawned = spawn_quiet("nb-wake", WAKER_STACK, move || {
            loop {
                let seen = table.wakes();
                if stop.load(Ordering::Acquire) {
                    break;
                }
                bell.notify_one();
                table.wait_for_wake(seen, Duration::from_secs(60));
            }
        });
        drop(spawned);
        waker
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.table.wake_prober();
    }
}
