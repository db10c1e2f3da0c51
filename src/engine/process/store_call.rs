//! Calls of the store that run on the engine thread: changes of users' bindings by operators and hosts, and
//! the explanation of a route.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::check::{Check, Ticket};
use super::route::{Login, note_move, remember, remembered, user_of};
use super::routed::{Routed, UNAVAILABLE, without_store};
use crate::engine::active::ActiveConfig;
use crate::engine::cluster::ClientHandle;
use crate::engine::cluster::script::{
    Binding, FlushAnswer, FlushStep, Forget, Hold, LoginAnswer, MoveUser, Operated, Touch, Touched,
    UserDigest,
};
use crate::engine::config::{ClusterSettings, shortened};
use crate::engine::routing::{Filter, user_key};
use crate::engine::verdicts::{Event, EventKind, MoveReason};

/// A call, with users by their keys.
#[derive(Clone, Debug)]
pub enum StoreCall {
    Touch {
        keys: Vec<Vec<u8>>,
        node: String,
    },
    Move {
        key: Vec<u8>,
        node: String,
        keep: bool,
    },
    Forget {
        key: Vec<u8>,
    },
    Hold {
        key: Vec<u8>,
        duration: Duration,
    },
    /// `None`: the bindings that differ from rendezvous hashing.
    Flush {
        node: Option<String>,
        /// Bindings a second, at least 1.
        rate: u64,
    },
    Explain {
        key: Vec<u8>,
        filter: Filter,
    },
}

/// The result of a successful call.
#[derive(Clone, Debug)]
pub enum StoreDone {
    /// So many of the users are bound to the node.
    Touched(u64),
    /// The user's record now, and whether the user has left a node.
    Changed { record: Routed, has_left: bool },
    /// The release goes on in the background.
    Begun,
    /// The answer that a login would get now. `reason`: why there would be no server. `problem`: why the store does
    /// not answer; then it is the answer without the store.
    Explained {
        record: Routed,
        reason: Option<String>,
        problem: Option<String>,
    },
}

/// What a call has changed in the store; or the reason why it has changed nothing, one of those that
/// `docs/api.md` lists.
pub type StoreResult = Result<StoreDone, String>;

/// Why an operator does something, and who that is.
#[derive(Clone, Debug, Default)]
pub struct Author {
    pub reason: String,
    pub by: String,
}

/// A call on its way to the engine thread.
pub struct StoreRequest {
    pub(super) active: Arc<ActiveConfig>,
    settings: Arc<ClusterSettings>,
    call: StoreCall,
    author: Author,
    pub(super) ticket: Arc<Ticket>,
    result: Arc<OnceLock<StoreResult>>,
}

impl Check {
    /// The result of a call of the store. `None` while it is not known, and for another check.
    pub fn store_result(&self) -> Option<StoreResult> {
        let payload = self.payload.as_ref()?;
        let payload = payload.downcast_ref::<OnceLock<StoreResult>>()?;
        // The result is read first, the payload after it: the engine thread stores the payload
        // before it finishes the ticket.
        self.result()?.ok();
        // Without a payload the engine that was asked has ended, or this is a forked child.
        let result = payload.get().cloned();
        Some(result.unwrap_or_else(|| Err(UNAVAILABLE.to_owned())))
    }
}

/// The keys of users, each once, without those whose names have none.
pub fn keys_of<'u>(active: &ActiveConfig, users: impl Iterator<Item = &'u [u8]>) -> Vec<Vec<u8>> {
    let key = |user| user_key(user, &active.config.routing).map(|key| key.into_owned());
    let mut keys: Vec<Vec<u8>> = users.filter_map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

impl StoreRequest {
    /// A call, and the check that waits for it; also how long the store may take to answer.
    ///
    /// # Errors
    /// There is no store, or this machine does not know the node.
    pub fn new(
        active: &Arc<ActiveConfig>,
        call: StoreCall,
        author: Author,
    ) -> Result<(Self, Check, Duration), String> {
        let settings = active.config.cluster.clone();
        let settings = settings.ok_or_else(|| NO_STORE.to_owned())?;
        if let Some(node) = call.node()
            && !active.nodes().any(|known| *known.name == *node)
        {
            return Err(format!("unknown node {}", shortened(node)));
        }
        let (mut check, ticket) = Check::new();
        let result: Arc<OnceLock<StoreResult>> = Arc::default();
        check.payload = Some(result.clone());
        let pieces = u32::try_from(call.pieces()).unwrap_or(u32::MAX);
        let longest = settings.timeout.saturating_mul(pieces);
        let request = Self {
            active: active.clone(),
            settings,
            call,
            author,
            ticket,
            result,
        };
        Ok((request, check, longest))
    }
}

/// The reason of calls that need a store, where there is none.
pub const NO_STORE: &str = "no store";

/// How much longer than the store's timeout a caller in Lua waits. The engine ends the call after the
/// timeout, but on a machine under load the engine thread may be late by this much. A caller that gives up
/// earlier would report a call as failed that succeeds.
pub const SCHEDULING: Duration = Duration::from_secs(1);

impl StoreCall {
    /// The node that this machine has to know for the call; `None` where it needs none.
    fn node(&self) -> Option<&str> {
        match self {
            Self::Touch { node, .. } | Self::Move { node, .. } => Some(node),
            Self::Flush { node, .. } => node.as_deref(),
            Self::Forget { .. } | Self::Hold { .. } | Self::Explain { .. } => None,
        }
    }

    /// How many calls of a script it takes.
    fn pieces(&self) -> usize {
        match self {
            Self::Touch { keys, .. } => keys.len().div_ceil(Touch::MAX).max(1),
            _ => 1,
        }
    }
}

/// Answers a request that was not answered: the engine has ended, or could not be started. Otherwise the
/// caller would wait for ever.
impl Drop for StoreRequest {
    fn drop(&mut self) {
        if self.result.get().is_none() {
            let _ = self.result.set(self.unanswered(None));
        }
        self.ticket.finish(Ok(()));
    }
}

impl StoreRequest {
    /// Calls the store and finishes the ticket; then continues a release of bindings in the background. Runs
    /// on the engine thread.
    pub(super) async fn run(self, client: Option<ClientHandle>) {
        let done = self.answer(client.as_ref()).await;
        let goes_on = matches!(done, Ok(StoreDone::Begun));
        let _ = self.result.set(done);
        self.ticket.finish(Ok(()));
        if goes_on && let Some(client) = client {
            self.go_on(&client).await;
        }
    }

    /// Calls the store.
    ///
    /// # Errors
    /// As [`StoreResult`].
    pub async fn answer(&self, client: Option<&ClientHandle>) -> StoreResult {
        let done = match client {
            Some(client) => self.call(client).await,
            None => None,
        };
        done.unwrap_or_else(|| self.unanswered(client.and_then(ClientHandle::problem)))
    }

    /// The result if the store has not answered.
    ///
    /// # Errors
    /// Every call fails but an explanation, which says what a login gets without the store.
    fn unanswered(&self, problem: Option<String>) -> StoreResult {
        let StoreCall::Explain { key, filter } = &self.call else {
            return Err(UNAVAILABLE.to_owned());
        };
        let problem = Some(problem.unwrap_or_else(|| UNAVAILABLE.to_owned()));
        Ok(
            match without_store(&self.active, &self.settings, key, filter) {
                Ok(record) => StoreDone::Explained {
                    record,
                    reason: None,
                    problem,
                },
                Err(reason) => StoreDone::Explained {
                    record: Routed::default(),
                    reason: Some(reason),
                    problem,
                },
            },
        )
    }

    /// Finishes what [`StoreDone::Begun`] has begun. Returns how many bindings were released.
    pub async fn go_on(&self, client: &ClientHandle) -> u64 {
        match &self.call {
            StoreCall::Flush { node, rate } => self.flush(client, node.as_deref(), *rate).await,
            _ => 0,
        }
    }

    fn until(&self) -> Instant {
        Instant::now() + self.settings.timeout
    }

    fn user(&self, key: &[u8]) -> (UserDigest, [u64; 2]) {
        user_of(key, &self.settings)
    }

    /// `None` where the store does not answer.
    async fn call(&self, client: &ClientHandle) -> Option<StoreResult> {
        let retention = self.settings.retention;
        let Author { reason, by } = self.author.clone();
        match &self.call {
            StoreCall::Touch { keys, node } => self.touch(client, keys, node).await,
            StoreCall::Move { key, node, keep } => {
                let (digest, user) = self.user(key);
                let call = |deadline| MoveUser {
                    user: digest,
                    node: node.clone(),
                    keep: *keep,
                    reason,
                    by,
                    retention,
                    remembered: remembered(&self.active, user),
                    deadline,
                };
                let answer = client.call(self.until(), call).await.ok()?;
                let (binding, has_left) = self.changed(user, answer)?;
                if has_left {
                    note_move(&self.active, &binding, MoveReason::Operator);
                }
                Some(Ok(changed(binding, has_left)))
            }
            StoreCall::Forget { key } => {
                let (digest, user) = self.user(key);
                let call = |deadline| Forget {
                    user: digest,
                    reason,
                    by,
                    retention,
                    remembered: remembered(&self.active, user),
                    deadline,
                };
                let answer = client.call(self.until(), call).await.ok()?;
                let (binding, has_left) = self.changed(user, answer)?;
                if has_left {
                    self.note(format!("node:{}", binding.from), "user forgotten");
                }
                Some(Ok(changed(binding, has_left)))
            }
            StoreCall::Hold { key, duration } => {
                let (digest, user) = self.user(key);
                let call = |deadline| Hold {
                    user: digest,
                    duration: *duration,
                    reason,
                    by,
                    remembered: remembered(&self.active, user),
                    deadline,
                };
                let answer = client.call(self.until(), call).await.ok()?;
                if answer == Operated::UnknownNode {
                    return Some(Err("unknown node ?".to_owned()));
                }
                let (binding, has_left) = self.changed(user, answer)?;
                let to = if duration.is_zero() {
                    "hold ended"
                } else {
                    "user held"
                };
                let node = &binding.node;
                let subject = if node.is_empty() {
                    String::new()
                } else {
                    format!("node:{node}")
                };
                self.note(subject, to);
                Some(Ok(changed(binding, has_left)))
            }
            // The first step shows whether the store answers; it may release nothing.
            StoreCall::Flush { node, .. } => {
                let step = self.flush_step(node.as_deref(), "0", 0);
                client.call(self.until(), step).await.ok()?;
                let subject = node.as_ref().map(|node| format!("node:{node}"));
                self.note(subject.unwrap_or_default(), "flush");
                Some(Ok(StoreDone::Begun))
            }
            StoreCall::Explain { key, filter } => self.explain(client, key, filter).await,
        }
    }

    /// An event of what an operator has done.
    fn note(&self, subject: String, what: &str) {
        let event = Event::new(EventKind::Operator, subject).change("", what);
        let Author { reason, by } = &self.author;
        let event = event.reason(reason.as_str()).by(by.as_str());
        self.active.table.add_event(&event);
    }

    /// Remembers the record of an answer, so that this machine can write it again.
    fn changed(&self, user: [u64; 2], answer: Operated) -> Option<(Binding, bool)> {
        let Operated::Done { binding, has_left } = answer else {
            return None;
        };
        remember(&self.active, user, &binding);
        Some((binding, has_left))
    }

    async fn touch(
        &self,
        client: &ClientHandle,
        keys: &[Vec<u8>],
        node: &str,
    ) -> Option<StoreResult> {
        let mut count: u64 = 0;
        for keys in keys.chunks(Touch::MAX) {
            let standings = self.active.standings_of_all();
            let is_draining = standings
                .iter()
                .any(|one| *one.node.name == *node && one.drain_since_ms > 0);
            drop(standings);
            let call = |deadline| Touch {
                users: keys.iter().map(|key| self.user(key).0).collect(),
                node: node.to_owned(),
                retention: self.settings.retention,
                is_draining,
                deadline,
            };
            match client.call(self.until(), call).await.ok()? {
                Touched::Users(users) => count = count.saturating_add(users),
                Touched::Late { .. } => return None,
            }
        }
        Some(Ok(StoreDone::Touched(count)))
    }

    async fn explain(
        &self,
        client: &ClientHandle,
        key: &[u8],
        filter: &Filter,
    ) -> Option<StoreResult> {
        let login = Login::of(&self.active, &self.settings, key, filter);
        let degraded = login.degraded.clone();
        let machine = client.machine().to_owned();
        let make = |deadline| login.request(&self.active, &self.settings, machine, deadline, true);
        let (how, binding, reason) = match client.call(self.until(), make).await.ok()? {
            LoginAnswer::Late { .. } => return None,
            LoginAnswer::Bound(how, binding) => (super::route::how_name(how), binding, None),
            LoginAnswer::None {
                reason, binding, ..
            } => ("", binding, Some(reason)),
        };
        let degraded = degraded.contains(&binding.node);
        let record = super::route::routed(how, binding, degraded);
        Some(Ok(StoreDone::Explained {
            record,
            reason,
            problem: None,
        }))
    }

    fn flush_step(
        &self,
        node: Option<&str>,
        cursor: &str,
        limit: u64,
    ) -> impl FnOnce(u64) -> FlushStep {
        let Author { reason, by } = self.author.clone();
        let (node, cursor) = (node.map(str::to_owned), cursor.to_owned());
        let (prefix, retention) = (self.settings.prefix.clone(), self.settings.retention);
        move |deadline| FlushStep {
            cursor,
            prefix,
            node,
            limit,
            reason,
            by,
            retention,
            deadline,
        }
    }

    /// Releases bindings until none is left. A step that fails is repeated when the store may
    /// answer again. With each new connection the work begins anew: a cursor means nothing to another server, or to one
    /// that was restarted.
    async fn flush(&self, client: &ClientHandle, node: Option<&str>, rate: u64) -> u64 {
        /// The shortest pause between two steps: Redis answers logins meanwhile.
        const LEAST: Duration = Duration::from_millis(5);
        const AGAIN: Duration = Duration::from_secs(1);
        let limit = rate.div_ceil(10);
        let (mut cursor, mut connection) = ("0".to_owned(), client.connection_number());
        let mut released: u64 = 0;
        // Ends when another configuration is put in force: it may have another store.
        while self.active.table.epoch() == self.active.epoch {
            let step = self.flush_step(node, &cursor, limit);
            let answer = client.call(self.until(), step).await;
            let has_changed = client.connection_number() != connection;
            if has_changed {
                (cursor, connection) = ("0".to_owned(), client.connection_number());
            }
            let pause = match answer {
                Ok(FlushAnswer::Released { count, next }) => {
                    released = released.saturating_add(count);
                    match next {
                        _ if has_changed => {}
                        Some(next) => cursor = next,
                        None => break,
                    }
                    let ms = count.saturating_mul(1_000) / rate.max(1);
                    Duration::from_millis(ms).max(LEAST)
                }
                Ok(FlushAnswer::Late { .. }) | Err(_) => AGAIN,
            };
            tokio::time::sleep(pause).await;
        }
        released
    }
}

fn changed(binding: Binding, has_left: bool) -> StoreDone {
    let record = super::route::routed("", binding, false);
    StoreDone::Changed { record, has_left }
}
