//! The engine's thread: it elects the prober, keeps a watch for each target while this
//! process is the one that probes, and makes checks on demand.
//!
//! One process of a family probes: the one that holds the verdict table's lock, which the
//! kernel releases when that process dies. The others look at the table and try for the
//! lock from time to time. Where a state file is shared, the same goes for the families that
//! share it; `follow` says what a family does that does not hold the file's lock.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::task::{Id, JoinError};
use tokio::time::{Sleep, sleep_until};

use super::check::{CheckRequest, Checks};
use crate::engine::active::{ActiveConfig, Role};
use crate::engine::log::{Level, Line, Log};
use crate::engine::probe::panics::outlived;
use crate::engine::probe::{Outcome, Prober};
use crate::engine::scheduler::follower::{Followed, Following};
use crate::engine::scheduler::schedule::check_at;
use crate::engine::scheduler::{Scheduler, SchedulerEvent};
use crate::engine::verdicts::{Counter, Patience, Standby, takeover_time};
use crate::sys::clock;
use crate::sys::fork_mark::pid;
use crate::sys::gate;
use crate::sys::relay::{self, Relay, relayed};
use crate::sys::stderr;
use crate::sys::thread::{descriptor_limit, spawn_quiet};

/// OpenSSL and a resolver's answer fit many times over.
const STACK: usize = 1024 * 1024;

/// How often the prober makes sure that it still is the one. Whether the host is about to
/// exit it asks before each probe.
const REASSURE: Duration = Duration::from_millis(250);

/// Between two tries to save what waits to be written.
const SAVE_AGAIN: Duration = Duration::from_millis(100);

/// How often a process that reads the state file looks at it.
const FOLLOW: Duration = Duration::from_millis(50);

/// Between two tries of a process in waiting for the prober's role.
const STANDBY_MIN: Duration = Duration::from_millis(10);
const STANDBY_MAX: Duration = Duration::from_millis(250);

/// Looks of the prober, and of those in waiting, within the time that a takeover may take.
const LOOKS_WITHIN: u32 = 8;

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

/// After the host has closed the engine's descriptors.
const RESTART_WHEN_LOST: Duration = Duration::from_millis(100);

pub(super) enum Command {
    /// A configuration to serve from now on.
    Serve(Arc<ActiveConfig>, Arc<Log>),
    Check(CheckRequest),
    Stop,
}

/// What the engine's thread tells its process.
#[derive(Clone, Copy)]
pub(super) struct Reports {
    /// The host closed what the processes of a family share: this one must go on by itself.
    pub detach: fn(&Arc<ActiveConfig>),
    /// The thread serves this no longer.
    pub stopped: fn(&ActiveConfig),
    /// The host closed the descriptors of the engine's thread that takes its commands from here:
    /// it does nothing any more.
    pub lost: fn(&WeakUnboundedSender<Command>),
    /// Another thread is to take over from one that was lost.
    pub restart: fn(),
    /// Whether the thread may end now; it gets no further command where it may. It says
    /// whether it has none.
    pub may_end: fn(&dyn Fn() -> bool) -> bool,
}

/// What the host adapter tells the engine of its process.
#[derive(Clone, Copy)]
pub struct HostSigns {
    /// Whether the process is about to exit and must leave probing to others.
    pub exiting: fn() -> bool,
    /// Whether the host takes addresses only: a name without one is not listed.
    pub takes_addresses_only: bool,
}

/// Starts the engine's thread. It ends some time after [`Command::Stop`], or with its sender.
///
/// # Errors
/// Where the system allows no thread or descriptor.
pub(super) fn spawn(signs: HostSigns, reports: Reports) -> io::Result<UnboundedSender<Command>> {
    let (sender, commands) = unbounded_channel();
    let engine = sender.downgrade();
    // Before the runtime's, so that it has the lowest number: a host that closes one descriptor
    // after the other begins with it.
    let relay = Relay::new(move || {
        gate::goes_to_sleep();
        stderr::host_closes_descriptors();
        (reports.lost)(&engine);
        // A host that closes one descriptor after the other may not have come to its end.
        std::thread::sleep(RESTART_WHEN_LOST);
        (reports.restart)();
    })?;
    // Whatever uses OpenSSL runs between two parks of this thread.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(|| {
            gate::goes_to_sleep();
            relay::hold_on();
        })
        .on_thread_unpark(|| {
            relay::hold_on();
            gate::wakes_up();
        })
        .build()?;
    gate::install();
    relay::hold_on_in_panics();
    spawn_quiet("nb-engine", STACK, move || {
        relay.adopt_thread();
        gate::wakes_up();
        runtime.spawn(relay.clone().run());
        // A task of the runtime: what wakes the runtime's root future costs two system calls.
        let engine = runtime.spawn(relayed(live(signs, reports, commands)));
        // It ends without a panic of its own.
        let _ = runtime.block_on(engine);
        // That closes descriptors.
        relay::hold_on();
        drop(runtime);
        gate::goes_to_sleep();
    })?;
    Ok(sender)
}

/// The thread's whole life. A panic of the engine's own ends no more than what was under way.
async fn live(signs: HostSigns, reports: Reports, mut commands: UnboundedReceiver<Command>) {
    let mut serving = None;
    loop {
        let run = EngineLoop::new(signs, reports).run(&mut commands, &mut serving);
        if outlived(Box::pin(run)).await.is_ok() {
            break;
        }
        if let Some((_, log)) = &serving {
            log.write(Line::new(Level::Error, "engine_panicked"));
        }
        tokio::time::sleep(RESTART_AFTER).await;
    }
}

type Serving = Option<(Arc<ActiveConfig>, Arc<Log>)>;

/// The next look. It is set once for each: as long as the runtime has a timer that is sooner,
/// those of deadlines cost no system call.
struct Look {
    sleep: Pin<Box<Sleep>>,
    /// When the last one was, and how long to wait after that.
    set_for: Option<(Instant, Duration)>,
}

impl Look {
    fn new() -> Self {
        Self {
            sleep: Box::pin(sleep_until(Instant::now().into())),
            set_for: None,
        }
    }
}

struct EngineLoop {
    signs: HostSigns,
    reports: Reports,
    prober: Arc<Prober>,
    checks: Checks,
    scheduler: Option<Scheduler>,
    /// While a process of another family probes.
    following: Option<Following>,
    /// What a prober follows: nobody.
    nobody: Followed,
    lock_failed: bool,
    stopped: bool,
    /// When it last made sure of its role.
    looked: Instant,
    /// While another process of the family has the role.
    patience: Patience,
}

impl EngineLoop {
    fn new(signs: HostSigns, reports: Reports) -> Self {
        let prober = Arc::new(Prober::default());
        Self {
            signs,
            reports,
            checks: Checks::new(prober.clone(), descriptors_for(CHECKS_MAX)),
            prober,
            scheduler: None,
            following: None,
            nobody: Followed::default(),
            lock_failed: false,
            stopped: false,
            looked: Instant::now(),
            patience: Patience::default(),
        }
    }

    async fn run(mut self, commands: &mut UnboundedReceiver<Command>, serving: &mut Serving) {
        // Where a panic ended the last run, its configuration is served on.
        self.elect(serving.as_ref());
        let mut look = Look::new();
        loop {
            self.set(&mut look, serving.as_ref());
            let event = async {
                match &mut self.scheduler {
                    Some(scheduler) => scheduler.event().await,
                    None => std::future::pending().await,
                }
            };
            let mut looks = false;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Serve(active, log)) => {
                        self.stopped = false;
                        self.adopt(&active, serving.as_ref());
                        *serving = Some((active, log));
                        looks = true;
                    }
                    Some(Command::Check(request)) => {
                        self.stopped = false;
                        self.checks.start(request);
                        continue;
                    }
                    Some(Command::Stop) => {
                        self.stop(serving);
                        self.stopped = true;
                        self.looked = Instant::now();
                        continue;
                    }
                    None => break,
                },
                event = event => {
                    if let Some(scheduler) = &self.scheduler {
                        scheduler.active.table.beat();
                    }
                    if let SchedulerEvent::Completed(completed) = event {
                        self.complete(completed);
                    }
                }
                () = look.sleep.as_mut() => looks = true,
            }
            // A check that somebody waits for is no part of what was stopped.
            let is_idle = || commands.is_empty() && self.checks.is_idle();
            if self.stopped && (self.reports.may_end)(&is_idle) {
                break;
            }
            // What replaces this configuration is on its way, and keeps what is under way.
            let is_replaced = |(active, _): &(Arc<ActiveConfig>, _)| {
                active.table.epoch() != active.epoch && !commands.is_empty()
            };
            if !looks && serving.as_ref().is_some_and(is_replaced) {
                continue;
            }
            if looks || self.must_look(serving.as_ref()) {
                self.elect(serving.as_ref());
            }
            if let Some(scheduler) = &mut self.scheduler {
                scheduler.handle_reports();
                scheduler.probe_due();
                scheduler.save();
            }
        }
        self.stop(serving);
    }

    /// What came of a probe. One that failed because the host closed its descriptors says
    /// nothing of its target.
    fn complete(&mut self, completed: Result<(Id, Outcome), JoinError>) {
        let succeeded = matches!(&completed, Ok((_, outcome)) if outcome.result.is_ok());
        if !succeeded {
            relay::hold_on();
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.complete(completed);
        }
    }

    fn stop(&mut self, serving: &mut Serving) {
        self.give_up();
        if let Some((active, _)) = serving.take() {
            (self.reports.stopped)(&active);
        }
    }

    fn pause(&self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) -> Duration {
        match (&self.scheduler, serving) {
            _ if self.stopped => LINGER,
            _ if self.following.is_some() => FOLLOW,
            (Some(scheduler), _) if scheduler.is_saving_pending() => SAVE_AGAIN,
            (Some(scheduler), _) => {
                // Others must not take the time between two of its looks for a long silence.
                let within = takeover_time(scheduler.active.config.policy.fast_interval);
                REASSURE.min(within / LOOKS_WITHIN)
            }
            (None, Some((active, _))) => standby_pause(active),
            // Only checks on demand.
            (None, None) => Duration::from_secs(3600),
        }
    }

    /// Sets when to look again: where there is no haste, when probes may be due as well.
    fn set(&self, look: &mut Look, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) {
        let pause = self.pause(serving);
        let set_for = Some((self.looked, pause));
        if look.set_for == set_for {
            return;
        }
        look.set_for = set_for;
        let mut at = self.looked + pause;
        if pause >= REASSURE {
            let now = clock::monotonic_ns();
            let wait = clock::ns(at.saturating_duration_since(Instant::now()));
            let next_due = self.scheduler.as_ref().and_then(Scheduler::next_due);
            let look_ns = check_at(now + wait, next_due);
            at = Instant::now() + Duration::from_nanos(look_ns.saturating_sub(now));
        }
        // A new one: to put off the old one would leave a wake-up at its time.
        look.sleep.set(sleep_until(at.into()));
    }

    /// Whether a prober has to make sure of its role before it probes on.
    fn must_look(&self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) -> bool {
        let every = if self.following.is_some() {
            FOLLOW
        } else {
            REASSURE
        };
        let is_over = |(active, _): &(Arc<ActiveConfig>, _)| !self.may_probe(active);
        self.scheduler.is_some() && (self.looked.elapsed() >= every || serving.is_some_and(is_over))
    }

    /// Whether this process is to probe at all, by what costs nothing to ask.
    fn may_probe(&self, active: &ActiveConfig) -> bool {
        let is_taken_over = self.scheduler.is_some() && !active.table.has_lease(pid());
        !(self.signs.exiting)() && active.table.epoch() == active.epoch && !is_taken_over
    }

    /// A new configuration: files that it names may have changed with it.
    fn adopt(
        &mut self,
        active: &Arc<ActiveConfig>,
        serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>,
    ) {
        self.prober.trust(active.config.authorities.clone());
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.forget_sessions();
        }
        self.lock_failed = false;
        if let Some((before, _)) = serving
            && !before.shares_with(active)
        {
            self.give_up();
            before.leave_role(pid());
        }
    }

    /// Takes the prober's role, keeps it, or gives it up.
    fn elect(&mut self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) {
        self.looked = Instant::now();
        let Some((active, log)) = serving else {
            return;
        };
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
        let mut standby = Standby {
            patience: &mut self.patience,
            pause: standby_pause(active),
            within: takeover_time(active.config.policy.fast_interval),
        };
        match active.take_role(pid(), Some(&mut standby)) {
            Ok(Role::Prober) => {
                self.following = None;
                let nobody = self.nobody.clone();
                self.scheduler(active, log, &nobody).keep_file(true);
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

    /// Ends the watches; their lock stays where another role needs it.
    fn give_up(&mut self) {
        self.scheduler = None;
        self.following = None;
    }

    /// Publishes what the prober of another family has saved, and probes what it does not.
    fn follow(&mut self, active: &Arc<ActiveConfig>, log: &Arc<Log>) {
        let mut following = match self.following.take() {
            Some(following) if following.is_of(active) => following,
            _ => Following::begin(active),
        };
        let followed = following.look(log);
        self.following = Some(following);
        self.scheduler(active, log, &followed).keep_file(false);
        let probes = !active.slots.iter().all(|slot| followed.contains(slot));
        active.table.set_probing(pid(), probes);
    }

    /// The prober's role, fitted to the configuration. Targets that are `followed` are only
    /// probed when somebody reports trouble.
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
        scheduler
    }
}

/// Between two tries of a process in waiting for the prober's role.
fn standby_pause(active: &ActiveConfig) -> Duration {
    (active.config.policy.fast_interval / 4).clamp(STANDBY_MIN, STANDBY_MAX)
}

/// How many connections may be open at once for a purpose that wants `wanted`.
fn descriptors_for(wanted: usize) -> usize {
    let share = usize::try_from(descriptor_limit() / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
    wanted.min(share).max(1)
}
