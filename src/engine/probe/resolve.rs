//! Host names, resolved off the engine's thread.
//!
//! `getaddrinfo` blocks for as long as it likes and cannot be called off. Each look-up has
//! a thread of its own, a name has one look-up at a time, and their number is bounded. A
//! probe waits no longer than its deadline; where older addresses are known, a look-up
//! that is slow or fails for the moment does not stop it.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::error::{ProbeError, Stage};
use crate::sys::gate;
use crate::sys::thread::spawn_quiet;

/// How long addresses are used without asking again.
const TTL: Duration = Duration::from_secs(30);

/// How long a look-up may take before older addresses are used instead.
const PATIENCE: Duration = Duration::from_millis(500);

/// How old such addresses may be.
const STALE_MAX: Duration = Duration::from_secs(3600);

/// Look-ups at the same time; more wait for their turn.
const LOOKUPS_MAX: usize = 32;

/// Name service modules want room on the stack.
const LOOKUP_STACK: usize = 512 * 1024;

pub(super) type Answer = Result<Arc<[IpAddr]>, ProbeError>;

/// The names' addresses, in the order that `getaddrinfo` gives them (RFC 6724).
pub struct Resolver {
    names: Arc<Mutex<HashMap<String, Entry>>>,
    lookups: Arc<Semaphore>,
    ask: fn(&str) -> Answer,
}

#[derive(Default)]
struct Entry {
    known: Option<(Arc<[IpAddr]>, Instant)>,
    /// Until its answer comes, a look-up under way.
    pending: Option<watch::Receiver<Option<Answer>>>,
}

impl Entry {
    fn fresh(&self) -> Option<Arc<[IpAddr]>> {
        let (addresses, at) = self.known.as_ref()?;
        (at.elapsed() < TTL).then(|| addresses.clone())
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::asking(ask_system)
    }
}

impl Resolver {
    pub(super) fn asking(ask: fn(&str) -> Answer) -> Self {
        Self {
            names: Arc::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            ask,
        }
    }

    /// The addresses of `name` where they need not be asked for.
    pub fn known(&self, name: &str) -> Option<Arc<[IpAddr]>> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name)?.fresh()
    }

    /// The addresses of `name`, at least one.
    ///
    /// # Errors
    /// Stage `resolve`, or `internal` where no thread could be started to ask. The caller bounds
    /// the time.
    pub async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, ProbeError> {
        let (known, mut pending) = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = names.entry(name.to_owned()).or_default();
            if let Some(addresses) = entry.fresh() {
                return Ok(addresses);
            }
            let known = entry
                .known
                .as_ref()
                .filter(|(_, at)| at.elapsed() < STALE_MAX)
                .map(|(addresses, _)| addresses.clone());
            let pending = match &entry.pending {
                Some(pending) => pending.clone(),
                None => {
                    let started = self.start(name.to_owned());
                    entry.pending = Some(started.clone());
                    started
                }
            };
            (known, pending)
        };
        let answer = async {
            match pending.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or_else(|| Err(failure(""))),
                Err(_) => Err(failure("the look-up was given up")),
            }
        };
        match known {
            Some(known) => match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Err(error)) if !is_for_the_moment(&error) => Err(error),
                Ok(Ok(addresses)) => Ok(addresses),
                _ => Ok(known),
            },
            None => answer.await,
        }
    }

    /// Starts a look-up that lives on when the probe that asked does not.
    fn start(&self, name: String) -> watch::Receiver<Option<Answer>> {
        let (tell, told) = watch::channel(None);
        let (names, lookups, ask) = (self.names.clone(), self.lookups.clone(), self.ask);
        tokio::spawn(async move {
            let answer = match lookups.acquire_owned().await {
                Ok(turn) => look_up(name.clone(), turn, ask).await,
                Err(_) => Err(failure("the resolver is closed")),
            };
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = names.get_mut(&name) {
                entry.pending = None;
                if let Ok(addresses) = &answer {
                    entry.known = Some((addresses.clone(), Instant::now()));
                }
                if entry.known.is_none() {
                    names.remove(&name);
                }
            }
            drop(names);
            // Nobody listens any more where the probes' time was over.
            let _ = tell.send(Some(answer));
        });
        told
    }
}

async fn look_up(
    name: String,
    turn: tokio::sync::OwnedSemaphorePermit,
    ask: fn(&str) -> Answer,
) -> Answer {
    let (tell, told) = tokio::sync::oneshot::channel();
    spawn_quiet("nb-resolve", LOOKUP_STACK, move || {
        let answer = ask(&name);
        drop(turn);
        let _ = tell.send(answer);
    })
    .map_err(|e| ProbeError::new(Stage::Internal, format!("cannot start a thread: {e}")))?;
    told.await
        .unwrap_or_else(|_| Err(failure("the look-up failed")))
}

fn ask_system(name: &str) -> Answer {
    // Port 0 is never used: each probe has its own.
    let found =
        gate::look_up(|| (name, 0).to_socket_addrs()).map_err(|e| failure(plain_text(&e)))?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|a| a.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(failure("the name has no address"));
    }
    Ok(addresses.into())
}

/// `failed to lookup address information: Name or service not known` in our words.
fn plain_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.rsplit(": ").next().unwrap_or(&text).to_lowercase()
}

fn failure(reason: impl Into<String>) -> ProbeError {
    ProbeError::new(Stage::Resolve, reason)
}

/// `EAI_AGAIN` says that the name may well exist.
fn is_for_the_moment(error: &ProbeError) -> bool {
    error.stage == Stage::Internal || error.reason.contains("temporary failure")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_name_is_asked_for_once_by_many() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::asking(|_| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            Ok(Arc::from([IpAddr::from([127, 0, 0, 1])]))
        });
        let (a, b) = tokio::join!(resolver.resolve("x"), resolver.resolve("x"));
        assert_eq!(a, b);
        assert_eq!(a.unwrap().len(), 1);
        resolver.resolve("x").await.unwrap();
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_name_that_hangs_stops_no_other() {
        let resolver = Resolver::asking(|name| {
            if name == "slow" {
                std::thread::sleep(Duration::from_secs(2));
            }
            Ok(Arc::from([IpAddr::from([127, 0, 0, 1])]))
        });
        let quick = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            resolver.resolve("quick").await
        };
        tokio::select! {
            _ = resolver.resolve("slow") => panic!("the slow name came first"),
            found = quick => assert!(found.is_ok()),
        }
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::asking(|_| match ASKED.fetch_add(1, Ordering::Relaxed) {
            0 => Err(failure("name or service not known")),
            _ => Ok(Arc::from([IpAddr::from([127, 0, 0, 1])])),
        });
        let error = resolver.resolve("x").await.unwrap_err();
        assert_eq!(error.to_string(), "resolve: name or service not known");
        assert!(resolver.resolve("x").await.is_ok());
    }
}
