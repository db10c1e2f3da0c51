//! The engine thread: it checks whether this process is the prober, runs the scheduler while this
//! process probes, and makes checks on demand.
//!
//! Of the processes that share a verdict table one probes: the holder of the table's lease (see
//! `verdicts/lease.rs`). The others read the table and try for the lease at intervals. Where
//! several tables share a state file, the holder of the file's lock probes for all of them;
//! `EngineLoop::follow` is what the lease holders of the other tables do.

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

use super::checks::{CheckRequest, Checks};
use super::route::RouteRequest;
use super::store_call::StoreRequest;
use super::wanted_call::carry_out;
use crate::engine::active::{ActiveConfig, Role};
use crate::engine::cluster::{Client, ClientHandle};
use crate::engine::log::{Level, Line, Log};
use crate::engine::probe::panics::outlived;
use crate::engine::probe::{Outcome, Prober};
use crate::engine::scheduler::follower::{Followed, Following};
use crate::engine::scheduler::schedule::{CHECK_WAITS_NS, check_at};
use crate::engine::scheduler::{Scheduler, SchedulerEvent};
use crate::engine::state_file::ANSWERED_WITHIN;
use crate::engine::verdicts::{Counter, Patience, Standby, takeover_time};
use crate::sys::clock;
use crate::sys::fork_mark::pid;
use crate::sys::gate;
use crate::sys::relay::{self, Relay, relayed};
use crate::sys::stderr;
use crate::sys::thread::{descriptor_limit, spawn_quiet};

/// The size of the stack in bytes: several times what OpenSSL and the resolver need.
const STACK: usize = 1024 * 1024;

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

/// The prober makes at least this many role checks, each with a heartbeat, within the time after which
/// another process takes over.
const CHECKS_WITHIN: u32 = 8;

/// Probes may use at most a quarter of the process's descriptor limit, and checks on demand another
/// quarter: the rest is for the host's own connections.
const DESCRIPTOR_SHARE: u64 = 4;

/// How many checks on demand run at the same time; more wait for their turn.
const CHECKS_MAX: usize = 1024;

/// A stopped thread stays for this long, so that a stop and start in a row reuses it. A process
/// must never have two engine threads: its locks belong to the process and would not keep them
/// apart.
const LINGER: Duration = Duration::from_millis(50);

/// The pause after a panic of the engine loop, so that one that repeats does not use up a
/// processor.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The pause before a restart after the host has closed the engine's descriptors.
const RESTART_WHEN_LOST: Duration = Duration::from_millis(100);

pub(super) enum Command {
    /// A configuration to serve from now on.
    Serve(Arc<ActiveConfig>, Arc<Log>),
    Check(CheckRequest),
    Route(Box<RouteRequest>),
    Store(Box<StoreRequest>),
    Stop,
}

/// The callbacks of the engine thread.
#[derive(Clone, Copy)]
pub(super) struct Reports {
    /// The host closed the descriptor of the table's lock: this process must go on in a table of
    /// its own.
    pub detach: fn(&Arc<ActiveConfig>),
    /// The thread no longer serves this configuration.
    pub stopped: fn(&ActiveConfig),
    /// The host closed the descriptors of the engine thread with this command channel: the thread
    /// does nothing any more.
    pub lost: fn(&WeakUnboundedSender<Command>),
    /// Start another thread in place of one that was lost.
    pub restart: fn(),
    /// Whether the thread may end now: if the closure returns true, it has nothing to do, and gets
    /// no further command.
    pub may_end: fn(&dyn Fn() -> bool) -> bool,
}

/// The facts about its process that the host adapter gives to the engine.
#[derive(Clone, Copy)]
pub struct HostSigns {
    /// Whether the process is about to exit and must leave probing to others.
    pub exiting: fn() -> bool,
    /// Whether the host takes addresses only: a name without one is not listed.
    pub takes_addresses_only: bool,
}

/// Starts the engine thread. It ends after [`Command::Stop`] when it has been idle for [`LINGER`],
/// or when the returned sender is dropped.
///
/// # Errors
/// Where the system allows no thread or descriptor.
pub(super) fn spawn(signs: HostSigns, reports: Reports) -> io::Result<UnboundedSender<Command>> {
    let (sender, commands) = unbounded_channel();
    let engine = sender.downgrade();
    // Made before the runtime, so that its descriptor has the lowest number of all: a host that
    // closes all descriptors in ascending order closes it first, and the relay notices before the
    // runtime's are gone.
    let relay = Relay::new(move || {
        gate::goes_to_sleep();
        stderr::host_closes_descriptors();
        (reports.lost)(&engine);
        // The host may still be closing descriptors, and would close those of the new thread too.
        std::thread::sleep(RESTART_WHEN_LOST);
        (reports.restart)();
    })?;
    // This thread counts as inside the OpenSSL gate from unpark to park. A fork or an exit of the host waits
    // meanwhile, so that it never happens during an OpenSSL call.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(|| {
            gate::goes_to_sleep();
            relay::halt_if_lost();
        })
        .on_thread_unpark(|| {
            relay::halt_if_lost();
            gate::wakes_up();
        })
        .build()?;
    gate::install();
    relay::halt_if_lost_in_panics();
    spawn_quiet("nb-engine", STACK, move || {
        relay.adopt_thread();
        gate::wakes_up();
        runtime.spawn(relay.clone().run());
        // A task, not the runtime's root future: waking the root future costs two system calls.
        let engine = runtime.spawn(relayed(live(signs, reports, commands)));
        // An error would be a panic, which `live` has contained.
        let _ = runtime.block_on(engine);
        // Dropping the runtime closes descriptors, which must still be ours.
        relay::halt_if_lost();
        drop(runtime);
        gate::goes_to_sleep();
    })?;
    Ok(sender)
}

/// Runs the engine loop until it ends, and again after a panic. A panic only loses the probes and
/// checks in flight.
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

/// The timer of the next role check. It is set once per check and not moved with each event: while
/// the runtime has an earlier timer, the timers of deadlines cost no system call.
struct RoleCheck {
    sleep: Pin<Box<Sleep>>,
    /// The time of the last role check, and the pause after it, for which the timer is set.
    set_for: Option<(Instant, Duration)>,
}

impl RoleCheck {
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
    /// The connection to the store of the configuration that is served.
    client: Option<Client>,
    scheduler: Option<Scheduler>,
    /// Set while the process that probes uses another table.
    following: Option<Following>,
    /// The empty set of targets that are probed elsewhere.
    nobody: Followed,
    lock_failed: bool,
    stopped: bool,
    /// The configuration that was served until [`Command::Stop`]. This process keeps its role there if the
    /// engine was started again before the thread stopped.
    served: Option<Arc<ActiveConfig>>,
    /// When this process last checked its role.
    role_checked: Instant,
    /// The observed heartbeats of the process that has the lease, while another process has it.
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
            client: None,
            scheduler: None,
            following: None,
            nobody: Followed::default(),
            lock_failed: false,
            stopped: false,
            served: None,
            role_checked: Instant::now(),
            patience: Patience::default(),
        }
    }

    async fn run(mut self, commands: &mut UnboundedReceiver<Command>, serving: &mut Serving) {
        // After a panic the configuration of the last run is still served.
        self.check_role(serving.as_ref());
        let mut role_check = RoleCheck::new();
        loop {
            self.set_timer(&mut role_check, serving.as_ref());
            let event = async {
                match &mut self.scheduler {
                    Some(scheduler) => scheduler.event().await,
                    None => std::future::pending().await,
                }
            };
            let mut checks_role = false;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Serve(active, log)) => {
                        self.stopped = false;
                        self.adopt(&active, serving.as_ref());
                        self.client = None;
                        self.connect(&active, &log);
                        *serving = Some((active, log));
                        checks_role = true;
                    }
                    Some(Command::Check(request)) => {
                        self.stopped = false;
                        self.checks.start(request);
                        continue;
                    }
                    Some(Command::Route(request)) => {
                        self.stopped = false;
                        self.route(*request, serving.as_ref());
                        continue;
                    }
                    Some(Command::Store(request)) => {
                        self.stopped = false;
                        let client = self.client_for(&request.active, serving.as_ref());
                        tokio::spawn(relayed(request.run(client)));
                        continue;
                    }
                    Some(Command::Stop) => {
                        self.client = None;
                        self.stop(serving);
                        self.stopped = true;
                        self.role_checked = Instant::now();
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
                () = role_check.sleep.as_mut() => checks_role = true,
            }
            // After `stop` the thread stays until the checks on demand are done: callers wait for
            // them.
            let is_idle = || commands.is_empty() && self.checks.is_idle();
            if self.stopped && (self.reports.may_end)(&is_idle) {
                break;
            }
            // The next configuration is in the queue already. The scheduler is not ended before it
            // arrives, so that it can keep the probes in flight.
            let is_replaced = |(active, _): &(Arc<ActiveConfig>, _)| {
                active.table.epoch() != active.epoch && !commands.is_empty()
            };
            if !checks_role && serving.as_ref().is_some_and(is_replaced) {
                continue;
            }
            if checks_role || self.must_check_role(serving.as_ref()) {
                self.check_role(serving.as_ref());
            }
            if let Some(scheduler) = &mut self.scheduler {
                scheduler.handle_reports();
                scheduler.probe_due();
                scheduler.save();
            }
            self.start_calls(serving.as_ref());
        }
        self.stop(serving);
    }

    /// Handles the outcome of a probe. A failure may come from the host closing our descriptors:
    /// then `halt_if_lost` never returns, and the failure is not counted against the target.
    fn complete(&mut self, completed: Result<(Id, Outcome), JoinError>) {
        let succeeded = matches!(&completed, Ok((_, outcome)) if outcome.result.is_ok());
        if !succeeded {
            relay::halt_if_lost();
        }
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.complete(completed);
        }
    }

    fn stop(&mut self, serving: &mut Serving) {
        self.give_up();
        if let Some((active, _)) = serving.take() {
            (self.reports.stopped)(&active);
            self.served = Some(active);
        }
    }

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
            (None, Some((active, _))) => standby_pause(active),
            // Without a configuration there is no role to check.
            (None, None) => Duration::from_secs(3600),
        }
    }

    /// Sets the timer of the next role check. With a pause of 250 ms or more the check may be
    /// delayed further so that it shares a wake-up with a probe, see [`check_at`].
    fn set_timer(
        &self,
        role_check: &mut RoleCheck,
        serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>,
    ) {
        let pause = self.pause(serving);
        let set_for = Some((self.role_checked, pause));
        if role_check.set_for == set_for {
            return;
        }
        role_check.set_for = set_for;
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
        role_check.sleep.set(sleep_until(at.into()));
    }

    /// Whether a prober has to check its role before it probes on.
    fn must_check_role(&self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) -> bool {
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

    /// Connects to the store of a configuration, unless that is done.
    fn connect(&mut self, active: &Arc<ActiveConfig>, log: &Arc<Log>) {
        let is_served = |client: &Client| client.serves(active);
        if !self.client.as_ref().is_some_and(is_served) {
            self.client = Client::of(active, log);
        }
    }

    /// Routes a user as a task of its own.
    fn route(&mut self, request: RouteRequest, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) {
        let client = self.client_for(&request.active, serving);
        tokio::spawn(relayed(request.run(client)));
    }

    /// Begins the call of the store that a request in the state file asks for.
    fn start_calls(&mut self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) {
        let Some(scheduler) = &mut self.scheduler else {
            return;
        };
        let Some((wanted, reply)) = scheduler.take_call() else {
            return;
        };
        let active = scheduler.active.clone();
        let client = self.client_for(&active, serving);
        tokio::spawn(relayed(async move {
            let done = carry_out(&active, wanted, client.as_ref()).await;
            let (line, goes_on) = match done {
                Ok((line, goes_on)) => (Ok(vec![line]), goes_on),
                Err(reason) => (Err(reason), None),
            };
            reply.give_lines(line);
            if let (Some(request), Some(client)) = (goes_on, client) {
                request.go_on(&client).await;
            }
        }));
    }

    /// The client for a request of this configuration. If another configuration is served by now, there is
    /// none, and the request is answered without the store.
    fn client_for(
        &mut self,
        active: &Arc<ActiveConfig>,
        serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>,
    ) -> Option<ClientHandle> {
        if let Some((active, log)) = serving {
            self.connect(active, log);
        }
        let client = self.client.as_ref();
        client
            .filter(|client| client.serves(active))
            .map(Client::handle)
    }

    /// Prepares for a new configuration. CA files may have changed, so they are trusted anew and
    /// TLS sessions are forgotten. A role under another table or state file is given back.
    fn adopt(
        &mut self,
        active: &Arc<ActiveConfig>,
        serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>,
    ) {
        self.prober.use_files(active.config.tls_files.clone());
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.forget_sessions();
        }
        self.lock_failed = false;
        let stopped = self.served.take();
        let before = serving.map(|(before, _)| before).or(stopped.as_ref());
        if let Some(before) = before
            && !before.shares_with(active)
        {
            self.give_up();
            before.leave_role(pid());
        }
    }

    /// Checks the role of this process: takes it, keeps it, or gives it up.
    fn check_role(&mut self, serving: Option<&(Arc<ActiveConfig>, Arc<Log>)>) {
        self.role_checked = Instant::now();
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
                active.add_late_events();
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

    /// Ends the scheduler. Lease and locks are kept; `leave_role` gives them back.
    fn give_up(&mut self) {
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
        let followed = following.poll(log);
        self.following = Some(following);
        self.scheduler(active, log, &followed).keep_file(false);
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
        scheduler
    }
}

/// A quarter of `fast_interval`, so that a prober that ends is replaced before its targets miss a
/// probe; within [`STANDBY_MIN`] and [`STANDBY_MAX`].
fn standby_pause(active: &ActiveConfig) -> Duration {
    (active.config.policy.fast_interval / 4).clamp(STANDBY_MIN, STANDBY_MAX)
}

/// `wanted` connections, limited to [`DESCRIPTOR_SHARE`] of the descriptor limit; at least one.
fn descriptors_for(wanted: usize) -> usize {
    let share = usize::try_from(descriptor_limit() / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
    wanted.min(share).max(1)
}
