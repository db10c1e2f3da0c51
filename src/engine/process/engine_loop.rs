//! The loop of the engine thread: what it does with each command, each outcome of a probe and each role
//! check.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{Id, JoinError};
use tokio::time::{Sleep, sleep_until};

use super::checks::Checks;
use super::command::{Command, HostSigns, Reports};
use super::route::RouteRequest;
use super::wanted_call::carry_out;
use crate::engine::active::ActiveConfig;
use crate::engine::cluster::{Client, ClientHandle};
use crate::engine::log::Log;
use crate::engine::probe::{Outcome, Prober};
use crate::engine::scheduler::follower::{Followed, Following};
use crate::engine::scheduler::{Scheduler, SchedulerEvent};
use crate::engine::verdicts::Patience;
use crate::sys::fork_mark::pid;
use crate::sys::relay::{self, relayed};
use crate::sys::thread::descriptor_limit;

mod role;

/// Probes may use at most a quarter of the process's descriptor limit, and checks on demand another
/// quarter: the rest is for the host's own connections. A probe or check has several connections only while those
/// of all probes and checks together are fewer than a quarter.
const DESCRIPTOR_SHARE: u64 = 4;

/// How many checks on demand run at the same time; more wait for their turn.
const CHECKS_MAX: usize = 1024;

/// The configuration that is served, and the log that belongs to it.
pub(super) type Serving = Option<(Arc<ActiveConfig>, Arc<Log>)>;

/// The timer of the next role check. It is set once per check and not moved with each event: while
/// the runtime has an earlier timer, the timers of deadlines cost no system call.
struct RoleTimer {
    sleep: Pin<Box<Sleep>>,
    /// The time of the last role check, and the pause after it, for which the timer is set.
    set_for: Option<(Instant, Duration)>,
}

impl RoleTimer {
    fn new() -> Self {
        Self {
            sleep: Box::pin(sleep_until(Instant::now().into())),
            set_for: None,
        }
    }
}

/// See the module's documentation.
pub(super) struct EngineLoop {
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
    /// Whether [`Command::Stop`] was the last of the commands Stop and Serve. It may have come before this thread, which
    /// a check on demand has started since. The thread ends when the checks on demand are done.
    stopped: bool,
    /// The configuration that was served until [`Command::Stop`]. This process keeps its role there if the
    /// engine was started again before the thread stopped.
    served: Option<Arc<ActiveConfig>>,
    /// When this process last checked its role.
    role_checked: Instant,
    /// How often the next role checks follow each other fast, see [`role::HANDOVER_TRIES`].
    handover_tries: u32,
    /// The observed heartbeats of the process that has the lease, while another process has it.
    patience: Patience,
}

impl EngineLoop {
    pub(super) fn new(signs: HostSigns, reports: Reports) -> Self {
        let prober = Arc::new(Prober::default());
        let stopped = !(reports.is_wanted)();
        let checks_at_once = descriptors_for(CHECKS_MAX);
        prober.limit_connections(descriptors_for(usize::MAX));
        Self {
            signs,
            reports,
            checks: Checks::new(prober.clone(), checks_at_once),
            prober,
            client: None,
            scheduler: None,
            following: None,
            nobody: Followed::default(),
            lock_failed: false,
            stopped,
            served: None,
            role_checked: Instant::now(),
            handover_tries: 0,
            patience: Patience::default(),
        }
    }

    /// Runs until the thread may end after [`Command::Stop`], or no sender of commands is left.
    pub(super) async fn run(
        mut self,
        commands: &mut UnboundedReceiver<Command>,
        serving: &mut Serving,
    ) {
        // After a panic the configuration of the last run is still served.
        self.check_role(serving.as_ref());
        let mut role_timer = RoleTimer::new();
        loop {
            self.set_timer(&mut role_timer, serving.as_ref());
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
                        self.client.take_if(|client| client.has_ended());
                        self.connect(&active, &log);
                        *serving = Some((active, log));
                        checks_role = true;
                    }
                    Some(Command::Check(request)) => {
                        self.checks.start(request);
                        continue;
                    }
                    Some(Command::Route(request)) => {
                        self.route(*request, serving.as_ref());
                        continue;
                    }
                    Some(Command::Store(request)) => {
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
                () = role_timer.sleep.as_mut() => checks_role = true,
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

    /// Connects to the store of a configuration, unless the connection to it is there.
    fn connect(&mut self, active: &Arc<ActiveConfig>, log: &Arc<Log>) {
        let goes_on = |client: &Client| client.goes_on_with(active, log);
        if !self.client.as_ref().is_some_and(goes_on) {
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

    /// The client for a request of this configuration. If a configuration with another store is served by now,
    /// there is none, and the request is answered without the store.
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
        self.handover_tries = role::HANDOVER_TRIES;
        let stopped = self.served.take();
        let before = serving.map(|(before, _)| before).or(stopped.as_ref());
        if let Some(before) = before
            && !before.shares_with(active)
        {
            self.give_up();
            before.leave_role(pid());
        }
    }
}

/// `wanted` connections, limited to [`DESCRIPTOR_SHARE`] of the descriptor limit; at least one.
fn descriptors_for(wanted: usize) -> usize {
    let share = usize::try_from(descriptor_limit() / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
    wanted.min(share).max(1)
}
