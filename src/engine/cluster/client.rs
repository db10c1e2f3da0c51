//! The connection of this process to Redis: kept open, and opened again after a failure.
//!
//! While Redis fails, a task of its own tries to connect once a second. A call fails at once meanwhile,
//! so that no login waits.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use redis::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::connection::{CONNECT_TIME, CallError, Connection};
use super::duplex::Dialler;
use super::machines::{Machine, machine_name};
use super::script::ScriptCall;
use super::traffic::READ_TIME;
use crate::engine::active::ActiveConfig;
use crate::engine::config::ClusterSettings;
use crate::engine::log::{Level, Line, Log};
use crate::engine::verdicts::{Event, EventKind, StoreState};
use crate::sys::clock::monotonic_us;
use crate::sys::relay::relayed;

/// The time between the starts of two attempts to connect. More than [`CONNECT_TIME`].
const EACH: Duration = Duration::from_secs(1);

/// The time between two registrations of this machine. A registration is valid for 10 s, so two may be
/// lost in a row.
const REGISTER_EVERY: Duration = Duration::from_secs(3);

/// The interval at which this process checks whether an operator has set something.
const CHECK_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone)]
enum Link {
    /// The first attempt is under way, or another configuration registers its nodes: calls wait for it.
    Connecting,
    Up(Arc<Connection>),
    Down(String),
}

/// The configuration that the client serves, and its log.
struct Served {
    active: Arc<ActiveConfig>,
    log: Arc<Log>,
}

struct Shared {
    settings: Arc<ClusterSettings>,
    link: watch::Sender<Link>,
    /// How many connections have been made.
    connections: AtomicU64,
    /// Notified when the connection has failed, or another configuration is served.
    changed: Notify,
    served: ArcSwap<Served>,
    /// The name that this machine is registered by; empty for a process that probes nothing and is not
    /// registered (see `visitor`).
    machine: String,
}

/// The client through which this process calls Redis. Must be made and used on the engine thread.
pub struct Client {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.keeper.abort();
        // A call in flight fails when this client ends. It must not record that the store is down: the
        // client that replaces this one uses the same table, and its connection may be good.
        let ended = Link::Down("another configuration is in force".to_owned());
        self.shared.link.send_replace(ended);
    }
}

impl Client {
    /// A client for the store of this configuration; `None` where it has none.
    pub fn of(active: &Arc<ActiveConfig>, log: &Arc<Log>) -> Option<Self> {
        Self::named(active, log, machine_name(active))
    }

    /// Like [`Client::of`], for a process that makes no probes, such as the command. It does not register:
    /// other machines would count its verdicts, and it has none.
    pub fn of_visitor(active: &Arc<ActiveConfig>, log: &Arc<Log>) -> Option<Self> {
        Self::named(active, log, String::new())
    }

    fn named(active: &Arc<ActiveConfig>, log: &Arc<Log>, machine: String) -> Option<Self> {
        let shared = Arc::new(Shared {
            settings: active.config.cluster.clone()?,
            link: watch::Sender::new(Link::Connecting),
            connections: AtomicU64::new(0),
            changed: Notify::new(),
            served: ArcSwap::from_pointee(Served {
                active: active.clone(),
                log: log.clone(),
            }),
            machine,
        });
        let keeper = tokio::spawn(relayed(keep(shared.clone())));
        Some(Self { shared, keeper })
    }

    /// Whether calls for that configuration can be made through this client: it is the one that is served, or
    /// has the same store and the same rules.
    pub fn serves(&self, active: &Arc<ActiveConfig>) -> bool {
        Arc::ptr_eq(&self.shared.served.load().active, active)
            || active.config.cluster.as_ref() == Some(&self.shared.settings)
    }

    /// Goes on with another configuration, over the same connection, if it has the same store and the same rules.
    /// New calls wait until its nodes are registered: otherwise another machine could take the node of a new
    /// binding for one that nobody knows.
    #[must_use]
    pub fn goes_on_with(&self, active: &Arc<ActiveConfig>, log: &Arc<Log>) -> bool {
        let shared = &self.shared;
        if Arc::ptr_eq(&shared.served.load().active, active) {
            return true;
        }
        if !self.serves(active) || shared.machine != machine_name(active) {
            return false;
        }
        shared.served.store(Arc::new(Served {
            active: active.clone(),
            log: log.clone(),
        }));
        shared.link.send_if_modified(|link| {
            let is_up = matches!(link, Link::Up(_));
            if is_up {
                *link = Link::Connecting;
            }
            is_up
        });
        shared.changed.notify_one();
        true
    }

    /// Whether the client could not even try to connect. Another one may succeed.
    pub fn has_ended(&self) -> bool {
        self.keeper.is_finished()
    }

    /// A handle for the task of a call.
    pub fn handle(&self) -> ClientHandle {
        ClientHandle(self.shared.clone())
    }
}

/// Calls scripts through the connection of a [`Client`].
#[derive(Clone)]
pub struct ClientHandle(Arc<Shared>);

impl ClientHandle {
    /// Runs the script that `make` returns for a deadline in Redis's clock, and waits for its answer
    /// until `until`.
    ///
    /// # Errors
    /// Redis fails, or does not answer in time. In the second case the connection stays open if the call was never sent,
    /// or if Redis has answered other calls meanwhile.
    pub async fn call<C: ScriptCall>(
        &self,
        until: std::time::Instant,
        make: impl FnOnce(u64) -> C,
    ) -> Result<C::Answer, CallError> {
        let shared = &self.0;
        let until = Instant::from_std(until);
        let connection = shared.connection(until).await?;
        let permit = timeout_at(until, connection.permit()).await;
        let _permit = permit.map_err(|_| late())??;
        let (begun, sent) = (Instant::now(), monotonic_us());
        if begun >= until {
            return Err(late());
        }
        let mut call = make(connection.clock.at(until.into_std()));
        let answer = run(shared, &connection, until, &mut call).await;
        shared
            .served
            .load()
            .active
            .table
            .observe_store(begun.elapsed());
        match answer {
            Ok(answer) => Ok(answer),
            Err(Missing::Late) => {
                shared.judge(&connection, sent);
                Err(late())
            }
            Err(Missing::Failed(error)) => {
                // Without memory Redis still answers the logins of users who are bound.
                if !error.is_want_of_memory() {
                    shared.fail(&connection, &error.0);
                }
                Err(error)
            }
        }
    }

    /// Why the store does not answer; `None` while it does, or while that is not known.
    pub fn problem(&self) -> Option<String> {
        match &*self.0.link.borrow() {
            Link::Down(reason) => Some(reason.clone()),
            // A call was late, and whether Redis answers at all is known in a moment.
            Link::Up(connection) if connection.traffic.is_judged() => Some(NO_ANSWER.to_owned()),
            Link::Connecting | Link::Up(_) => None,
        }
    }

    /// The number of the connection, which differs from that of each one before. Calls between which it has not
    /// changed went to one server.
    pub fn connection_number(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// The name of this machine in the store; empty for a process that does not register.
    pub fn machine(&self) -> &str {
        &self.0.machine
    }

    /// The time of Redis's clock, in microseconds since 1970.
    pub fn now(&self) -> u64 {
        match &*self.0.link.borrow() {
            Link::Up(connection) => connection.clock.now(),
            _ => crate::sys::clock::unix_ms().saturating_mul(1000),
        }
    }
}

impl Shared {
    async fn connection(&self, until: Instant) -> Result<Arc<Connection>, CallError> {
        let mut link = self.link.subscribe();
        let settled = timeout_at(
            until,
            link.wait_for(|link| !matches!(link, Link::Connecting)),
        );
        match settled.await {
            Ok(Ok(link)) => match &*link {
                Link::Up(connection) => Ok(connection.clone()),
                Link::Down(reason) => Err(CallError(reason.clone())),
                Link::Connecting => Err(CallError("not connected yet".to_owned())),
            },
            Ok(Err(_)) => Err(CallError("the engine has ended".to_owned())),
            Err(_) => Err(CallError("not connected yet".to_owned())),
        }
    }

    /// Finds out whether the server still answers, after a call that was sent at `sent`, in microseconds of
    /// `CLOCK_MONOTONIC`, has no answer in time. If it does not, the connection fails.
    fn judge(self: &Arc<Self>, connection: &Arc<Connection>, sent: u64) {
        if !connection.traffic.begin_judging() {
            return;
        }
        let (shared, connection) = (self.clone(), connection.clone());
        tokio::spawn(relayed(async move {
            let within = shared.settings.timeout;
            if connection.traffic.is_silent(sent, within).await {
                shared.fail(&connection, NO_ANSWER);
            }
            connection.traffic.end_judging();
        }));
    }

    /// Takes the connection out of use, if it still is in use.
    fn fail(&self, failed: &Arc<Connection>, reason: &str) {
        let is_used = |link: &Link| matches!(link, Link::Up(now) if Arc::ptr_eq(now, failed));
        self.down_if(is_used, reason);
    }

    fn down_if(&self, is_affected: impl Fn(&Link) -> bool, reason: &str) {
        let is_changed = self.link.send_if_modified(|link| {
            let is_affected = is_affected(link);
            if is_affected {
                *link = Link::Down(reason.to_owned());
            }
            is_affected
        });
        if is_changed {
            self.note_down(reason);
            self.changed.notify_one();
        }
    }

    fn is_machine(&self) -> bool {
        !self.machine.is_empty()
    }

    fn down(&self, reason: String) {
        self.note_down(&reason);
        self.link.send_replace(Link::Down(reason));
    }

    fn note_down(&self, reason: &str) {
        let served = self.served.load();
        let table = &served.active.table;
        if table.set_store_state(StoreState::Down) == StoreState::Down {
            return;
        }
        served
            .log
            .write(Line::new(Level::Error, "redis_down").quoted("reason", reason));
        let event = Event::new(EventKind::Cluster, "redis");
        table.add_event(&event.change("up", "down").reason(reason));
    }

    fn note_up(&self) {
        let served = self.served.load();
        let before = served.active.table.set_store_state(StoreState::Up);
        if before == StoreState::Up {
            return;
        }
        served.log.write(Line::new(Level::Info, "redis_up"));
        let from = if before == StoreState::Down {
            "down"
        } else {
            ""
        };
        let event = Event::new(EventKind::Cluster, "redis");
        served.active.table.add_event(&event.change(from, "up"));
    }
}

/// The reason of a call whose time is over.
const NO_ANSWER: &str = "no answer in time";

fn late() -> CallError {
    CallError(NO_ANSWER.to_owned())
}

/// Why a call has no answer.
enum Missing {
    /// Its time is over. Whether that is Redis's fault is another question.
    Late,
    Failed(CallError),
}

/// Runs a script that has its deadline, and waits for the answer until `until`. If Redis finds the deadline in the
/// past before that, its clock was set forward. Then the script runs once more, with a deadline in the new time.
async fn run<C: ScriptCall>(
    shared: &Shared,
    connection: &Connection,
    until: Instant,
    call: &mut C,
) -> Result<C::Answer, Missing> {
    let mut is_repeated = false;
    loop {
        let asked = monotonic_us();
        let (keys, arguments) = (call.keys(&shared.settings.prefix), call.arguments());
        let answer = run_until(connection, until, C::SOURCE, &keys, &arguments).await?;
        let answer = call.parse(answer).map_err(|bad| {
            Missing::Failed(CallError(format!(
                "unexpected answer of a script: {}",
                bad.0
            )))
        })?;
        let Some(now) = C::late(&answer).filter(|_| !is_repeated) else {
            return Ok(answer);
        };
        connection.clock.measured(asked, now);
        if Instant::now() >= until {
            return Err(Missing::Late);
        }
        call.set_deadline(connection.clock.at(until.into_std()));
        is_repeated = true;
    }
}

async fn run_until(
    connection: &Connection,
    until: Instant,
    source: &'static str,
    keys: &[Vec<u8>],
    arguments: &[Vec<u8>],
) -> Result<Value, Missing> {
    let mut running = pin!(connection.run(source, keys, arguments));
    let mut answer = timeout_at(until, running.as_mut()).await;
    if answer.is_err() && until.elapsed() > READ_TIME {
        // This process was stopped: the answer may have arrived meanwhile, and only has to be read.
        answer = timeout(READ_TIME, running).await;
    }
    match answer {
        Ok(answer) => answer.map_err(Missing::Failed),
        Err(_) => Err(Missing::Late),
    }
}

/// Keeps the connection open until the client is dropped.
async fn keep(shared: Arc<Shared>) {
    let mut machine = Machine::of(&shared.served.load().active);
    let settings = shared.settings.clone();
    let dialler = match Dialler::new(settings.tls, &settings.files) {
        Ok(dialler) => dialler,
        Err(reason) => {
            shared.down(reason);
            return;
        }
    };
    loop {
        let begun = Instant::now();
        match connect(&shared, &dialler, &mut machine).await {
            Ok(connection) => {
                // Counted first: a call that runs on this connection is followed by the new number.
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let lost = serve(&shared, &connection, &mut machine).await;
                // Calls that wait for the registration of another configuration get the reason, too.
                shared.down_if(|link| !matches!(link, Link::Down(_)), &lost.0);
            }
            Err(CallError(reason)) => shared.down(reason),
        }
        sleep_until(begun + EACH).await;
    }
}

/// Connects and registers this machine. A server that needs longer than `timeout` for one answer
/// counts as failing: no login could wait for it.
async fn connect(
    shared: &Shared,
    dialler: &Dialler,
    machine: &mut Machine,
) -> Result<Arc<Connection>, CallError> {
    let opened = Connection::open(&shared.settings, dialler);
    let connection = timeout(CONNECT_TIME, opened).await.map_err(|_| late())??;
    if shared.is_machine() {
        machine.forget_server();
        // The first call of a script may have to send its source, and is slower: it gets as much time as the
        // connection.
        register(shared, &connection, machine, CONNECT_TIME).await?;
    }
    measure(shared, &connection).await?;
    Ok(Arc::new(connection))
}

/// Registers this machine. Tries again if there is no answer in time although Redis answers: then it is this process
/// that is late.
async fn register(
    shared: &Shared,
    connection: &Connection,
    machine: &mut Machine,
    within: Duration,
) -> Result<(), CallError> {
    let served = shared.served.load_full();
    machine.follow(&served.active);
    machine.read_eviction_policy(connection).await;
    for _ in 0..2 {
        let sent = monotonic_us();
        let until = Instant::now() + within;
        let mut sync = machine.registration(connection.clock.at(until.into_std()));
        match run(shared, connection, until, &mut sync).await {
            // Some servers refuse the registration then, which Redis does not: logins need the connection.
            Err(Missing::Failed(error)) if error.is_want_of_memory() => return Ok(()),
            Err(Missing::Failed(error)) => return Err(error),
            Ok(answer) => return machine.learn(&served.log, answer),
            Err(Missing::Late) if connection.traffic.is_silent(sent, within).await => break,
            Err(Missing::Late) => {}
        }
    }
    Err(late())
}

/// Registers again and again until the connection fails; returns why. Before calls may use the connection, the nodes
/// of the configuration that is served are registered.
async fn serve(shared: &Shared, connection: &Arc<Connection>, machine: &mut Machine) -> CallError {
    let mut registered = Instant::now();
    let mut is_used = false;
    loop {
        let is_waited_for = match &*shared.link.borrow() {
            Link::Down(_) if is_used => return CallError("a call has failed".to_owned()),
            Link::Down(_) | Link::Connecting => true,
            Link::Up(_) => false,
        };
        if connection.is_closed() {
            return CallError("the connection was closed".to_owned());
        }
        let is_due = registered.elapsed() >= REGISTER_EVERY;
        if shared.is_machine() && (is_due || machine.has_news(&shared.served.load().active)) {
            registered = Instant::now();
            if let Err(error) = register(shared, connection, machine, shared.settings.timeout).await
            {
                return error;
            }
            // Another process may have lost its connection and ended. As long as it lives, it tells itself
            // that it has a connection again.
            if shared.served.load().active.table.is_store_down_outdated() {
                shared.note_up();
            }
            if is_due && let Err(error) = measure(shared, connection).await {
                return error;
            }
            if !machine.follows(&shared.served.load().active) {
                continue;
            }
        }
        if is_waited_for {
            shared.link.send_replace(Link::Up(connection.clone()));
            shared.note_up();
            is_used = true;
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
    }
}

/// Measures Redis's clock; tries again as [`register`] does.
async fn measure(shared: &Shared, connection: &Connection) -> Result<(), CallError> {
    let within = shared.settings.timeout;
    for _ in 0..2 {
        let sent = monotonic_us();
        if let Ok(measured) = timeout(within, connection.measure_clock()).await {
            measured?;
            let table = &shared.served.load().active.table;
            // For the time when Redis does not answer.
            table.note_store_clock(connection.clock.now());
            return Ok(());
        }
        if connection.traffic.is_silent(sent, within).await {
            break;
        }
    }
    Err(late())
}
