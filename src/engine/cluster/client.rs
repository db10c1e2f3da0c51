//! The connection of this process to Redis: kept open, and opened again after a failure.
//!
//! While Redis fails, a task of its own tries to connect once a second. A call fails at once meanwhile,
//! so that no login waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::connection::{CONNECT_TIME, CallError, Connection};
use super::duplex::Dialler;
use super::machines::{Machine, machine_name};
use super::script::ScriptCall;
use crate::engine::active::ActiveConfig;
use crate::engine::config::ClusterSettings;
use crate::engine::log::{Level, Line, Log};
use crate::engine::verdicts::{Event, EventKind, StoreState};
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
    /// The first attempt is under way: calls wait for it.
    Connecting,
    Up(Arc<Connection>),
    Down(String),
}

struct Shared {
    settings: Arc<ClusterSettings>,
    link: watch::Sender<Link>,
    /// Notified when a call has failed.
    failed: Notify,
    active: Arc<ActiveConfig>,
    log: Arc<Log>,
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
            failed: Notify::new(),
            active: active.clone(),
            log: log.clone(),
            machine,
        });
        let keeper = tokio::spawn(relayed(keep(shared.clone())));
        Some(Self { shared, keeper })
    }

    /// Whether this is the client of that configuration.
    pub fn serves(&self, active: &Arc<ActiveConfig>) -> bool {
        Arc::ptr_eq(&self.shared.active, active)
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
    /// Redis fails, or has not answered in time.
    pub async fn call<C: ScriptCall>(
        &self,
        until: std::time::Instant,
        make: impl FnOnce(u64) -> C,
    ) -> Result<C::Answer, CallError> {
        let shared = &self.0;
        let until = Instant::from_std(until);
        let connection = shared.connection(until).await?;
        let begun = Instant::now();
        let call = make(connection.clock.at(until.into_std()));
        let answer = timeout_at(until, connection.run(&call, &shared.settings.prefix)).await;
        shared.active.table.observe_store(begun.elapsed());
        let answer = answer.unwrap_or_else(|_| Err(CallError("no answer in time".to_owned())));
        // Without memory Redis still answers the logins of users who are bound.
        if let Err(error) = &answer
            && !error.is_want_of_memory()
        {
            shared.fail(&connection, &error.0);
        }
        answer
    }

    /// Why the store does not answer; `None` while it does, or while that is not known.
    pub fn problem(&self) -> Option<String> {
        match &*self.0.link.borrow() {
            Link::Down(reason) => Some(reason.clone()),
            Link::Connecting | Link::Up(_) => None,
        }
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

    /// Takes the connection out of use, if it still is in use.
    fn fail(&self, failed: &Arc<Connection>, reason: &str) {
        let is_failed = |link: &Link| matches!(link, Link::Up(now) if Arc::ptr_eq(now, failed));
        let is_changed = self.link.send_if_modified(|link| {
            let is_in_use = is_failed(link);
            if is_in_use {
                *link = Link::Down(reason.to_owned());
            }
            is_in_use
        });
        if is_changed {
            self.note_down(reason);
            self.failed.notify_one();
        }
    }

    fn is_machine(&self) -> bool {
        !self.machine.is_empty()
    }

    fn is_up(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Up(_))
    }

    fn down(&self, reason: String) {
        self.note_down(&reason);
        self.link.send_replace(Link::Down(reason));
    }

    fn note_down(&self, reason: &str) {
        if self.active.table.set_store_state(StoreState::Down) == StoreState::Down {
            return;
        }
        self.log
            .write(Line::new(Level::Error, "redis_down").quoted("reason", reason));
        let event = Event::new(EventKind::Cluster, "redis");
        self.active
            .table
            .add_event(&event.change("up", "down").reason(reason));
    }

    fn note_up(&self) {
        let before = self.active.table.set_store_state(StoreState::Up);
        if before == StoreState::Up {
            return;
        }
        self.log.write(Line::new(Level::Info, "redis_up"));
        let from = if before == StoreState::Down {
            "down"
        } else {
            ""
        };
        let event = Event::new(EventKind::Cluster, "redis");
        self.active.table.add_event(&event.change(from, "up"));
    }
}

/// Keeps the connection open until the client is dropped.
async fn keep(shared: Arc<Shared>) {
    let mut machine = Machine::of(&shared.active);
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
                shared.link.send_replace(Link::Up(connection.clone()));
                shared.note_up();
                let lost = serve(&shared, &connection, &mut machine).await;
                shared.fail(&connection, &lost.0);
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
    let late = || CallError("no answer in time".to_owned());
    let opened = Connection::open(&shared.settings, dialler);
    let connection = timeout(CONNECT_TIME, opened).await.map_err(|_| late())??;
    if shared.is_machine() {
        machine.forget_server();
        machine.read_eviction_policy(&connection).await;
        // The first call of a script may have to send its source, and is slower: it gets as much time as the
        // connection.
        register(shared, &connection, machine, CONNECT_TIME).await?;
    }
    timeout(shared.settings.timeout, connection.measure_clock())
        .await
        .map_err(|_| late())??;
    Ok(Arc::new(connection))
}

async fn register(
    shared: &Shared,
    connection: &Connection,
    machine: &mut Machine,
    within: Duration,
) -> Result<(), CallError> {
    let until = Instant::now() + within;
    let sync = machine.registration(&shared.active, connection.clock.at(until.into_std()));
    let answer = timeout_at(until, connection.run(&sync, &shared.settings.prefix)).await;
    let answer = answer.unwrap_or_else(|_| Err(CallError("no answer in time".to_owned())));
    match answer {
        // Some servers refuse the registration then, which Redis does not: logins need the connection.
        Err(error) if error.is_want_of_memory() => Ok(()),
        Err(error) => Err(error),
        Ok(answer) => machine.learn(&shared.active, &shared.log, answer),
    }
}

/// Registers again and again until the connection fails; returns why.
async fn serve(shared: &Shared, connection: &Connection, machine: &mut Machine) -> CallError {
    let mut registered = Instant::now();
    loop {
        tokio::select! {
            () = shared.failed.notified() => {}
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
        if !shared.is_up() {
            return CallError("a call has failed".to_owned());
        }
        if connection.is_closed() {
            return CallError("the connection was closed".to_owned());
        }
        if !shared.is_machine() {
            continue;
        }
        let is_due = registered.elapsed() >= REGISTER_EVERY;
        if is_due || machine.has_news(&shared.active) {
            registered = Instant::now();
            machine.read_eviction_policy(connection).await;
            let within = shared.settings.timeout;
            if let Err(error) = register(shared, connection, machine, within).await {
                return error;
            }
            // Another process may have lost its connection and ended. As long as it lives, it tells itself
            // that it has a connection again.
            if shared.active.table.is_store_down_outdated() {
                shared.note_up();
            }
            if is_due && let Err(error) = measure(shared, connection).await {
                return error;
            }
        }
    }
}

async fn measure(shared: &Shared, connection: &Connection) -> Result<(), CallError> {
    timeout(shared.settings.timeout, connection.measure_clock())
        .await
        .map_err(|_| CallError("no answer in time".to_owned()))?
}
