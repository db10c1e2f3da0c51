//! Looks up host names on threads of their own.
//!
//! `getaddrinfo` may block for a long time and cannot be cancelled, so each look-up runs on its own
//! thread. A name has one look-up at a time, and the number of look-ups is bounded. A probe waits
//! no longer than its deadline. If older addresses are known, the probe uses them when a look-up
//! is slow, fails temporarily or cannot be made.

mod ask;
pub mod origin;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use self::ask::{LookupAnswer, LookupFailure, ask_on_hosts_thread, ask_system};
use super::error::{ProbeError, Stage};
use crate::engine::target::HostName;
use crate::sys::own_table::LOOKUP_STACK;
use crate::sys::relay::relayed;
use crate::sys::thread::spawn_quiet;

/// How long addresses are used without a new look-up, as long as the server answers there.
const TTL: Duration = Duration::from_secs(30);

/// If the addresses of a name do not answer, the name is looked up again, but not sooner than this
/// after its last answer. So a name whose server is down is looked up at most once a second.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The longest that a probe waits for a look-up before it uses older addresses.
const PATIENCE: Duration = Duration::from_millis(500);

/// The most look-ups at the same time; others wait.
const LOOKUPS_MAX: usize = 32;

/// The most names that no target of the configuration has: scripts may check any number of names. About
/// 200 kB.
const OTHERS_MAX: usize = 1024;

/// Looks up and caches addresses of names, in `getaddrinfo`'s order (RFC 6724).
pub struct Resolver {
    names: Arc<Mutex<Names>>,
    lookups: Arc<Semaphore>,
    ask: fn(&HostName) -> LookupAnswer,
}

#[derive(Default)]
struct Names {
    entries: HashMap<HostName, Entry>,
    /// How many of them targets of the configuration have.
    configured: usize,
}

#[derive(Default)]
struct Entry {
    /// Whether a target of the configuration has the name: then it is not dropped.
    is_configured: bool,
    /// The last addresses, and when a look-up returned them; None: they come from
    /// [`Resolver::configure`].
    known: Option<(Arc<[IpAddr]>, Option<Instant>)>,
    /// The look-up in progress, if any.
    pending: Option<Pending>,
}

/// A look-up in progress.
#[derive(Clone)]
struct Pending {
    answer: watch::Receiver<Option<LookupAnswer>>,
    /// Whether it had to wait because too many others were in progress.
    was_queued: bool,
}

impl Entry {
    fn fresh(&self) -> Option<Arc<[IpAddr]>> {
        let (addresses, at) = self.known.as_ref()?;
        (at.as_ref()?.elapsed() < TTL).then(|| addresses.clone())
    }
}

impl Names {
    /// The entry of a name, which is made if there is none. None if [`OTHERS_MAX`] names that no target
    /// has are being looked up.
    fn entry(&mut self, name: &HostName) -> Option<&mut Entry> {
        if self.others() >= OTHERS_MAX && !self.entries.contains_key(name) {
            // Some more, so that the next names find room.
            self.drop_others(OTHERS_MAX / 4 * 3);
            if self.others() >= OTHERS_MAX {
                return None;
            }
        }
        Some(self.entries.entry(name.clone()).or_default())
    }

    /// How many names no target has.
    fn others(&self) -> usize {
        self.entries.len().saturating_sub(self.configured)
    }

    /// Drops names that no target has, those first that were looked up longest ago, until `most` are
    /// left. Names that are being looked up stay.
    fn drop_others(&mut self, most: usize) {
        let excess = self.others().saturating_sub(most);
        if excess == 0 {
            return;
        }
        let idle = |entry: &Entry| !entry.is_configured && entry.pending.is_none();
        let mut oldest: Vec<(Option<Instant>, HostName)> = self
            .entries
            .iter()
            .filter(|(_, entry)| idle(entry))
            .map(|(name, entry)| (entry.known.as_ref().and_then(|(_, at)| *at), name.clone()))
            .collect();
        oldest.sort_unstable_by_key(|(at, _)| *at);
        for (_, name) in oldest.iter().take(excess) {
            self.entries.remove(name);
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::asking(ask_system)
    }
}

impl Resolver {
    pub(in crate::engine::probe) fn asking(ask: fn(&HostName) -> LookupAnswer) -> Self {
        Self {
            names: Arc::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            ask,
        }
    }

    /// Sets the names that the targets of the configuration have, each with addresses that were found
    /// elsewhere: when the configuration was read, or by an earlier process. Such addresses are used
    /// only if a look-up fails or is slow.
    pub fn configure<'n>(&self, names: impl Iterator<Item = (&'n HostName, Vec<IpAddr>)>) {
        let mut all = self.lock();
        for entry in all.entries.values_mut() {
            entry.is_configured = false;
        }
        for (name, addresses) in names {
            let entry = all.entries.entry(name.clone()).or_default();
            entry.is_configured = true;
            if entry.known.is_none() && !addresses.is_empty() {
                entry.known = Some((addresses.into(), None));
            }
        }
        all.configured = all.entries.values().filter(|e| e.is_configured).count();
        all.drop_others(OTHERS_MAX);
    }

    /// The addresses of `name`, if the last look-up is recent enough to need no new one.
    pub fn known(&self, name: &HostName) -> Option<Arc<[IpAddr]>> {
        self.lock().entries.get(name)?.fresh()
    }

    /// The addresses of `name`, at least one. They may be up to 30 seconds old, or older if a new
    /// look-up fails temporarily or is slow.
    ///
    /// # Errors
    /// Stage `resolve` if the name has no address, or if no name server could answer and no address
    /// is known; stage `internal` if this process could not ask and no address is known, or if too many
    /// names are being looked up. The caller bounds the time.
    pub async fn resolve(&self, name: &HostName) -> Result<Arc<[IpAddr]>, ProbeError> {
        self.resolve_within(name, PATIENCE, &mut None).await
    }

    /// The same for a probe that can wait at most `patience` before it needs older addresses.
    /// `lacked` is set while the look-up waits for others of this process, which a timeout then does
    /// not blame on the name.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    pub async fn resolve_within(
        &self,
        name: &HostName,
        patience: Duration,
        lacked: &mut Option<ProbeError>,
    ) -> Result<Arc<[IpAddr]>, ProbeError> {
        let (known, pending) = {
            let mut names = self.lock();
            let entry = names.entry(name).ok_or_else(|| too_many(OTHERS_MAX))?;
            if let Some(addresses) = entry.fresh() {
                return Ok(addresses);
            }
            let known = entry.known.as_ref().map(|(addresses, _)| addresses.clone());
            (known, self.pending(name, entry))
        };
        if pending.was_queued {
            *lacked = Some(too_many(LOOKUPS_MAX));
        }
        let answer = answered(pending.answer);
        let found = match known {
            Some(known) => match tokio::time::timeout(patience.min(PATIENCE), answer).await {
                Ok(Err(error @ LookupFailure::NoAddress(_))) => Err(error.into()),
                Ok(Ok(addresses)) => Ok(addresses),
                _ => Ok(known),
            },
            None => answer.await.map_err(ProbeError::from),
        };
        *lacked = None;
        found
    }

    /// Looks `name` up again, because its known addresses do not answer. None if the last look-up
    /// is less than a second old, or the new one fails. The caller bounds the time.
    pub async fn resolve_again(&self, name: &HostName) -> Option<Arc<[IpAddr]>> {
        let pending = {
            let mut names = self.lock();
            let entry = names.entry(name)?;
            let is_new = |at: &Instant| at.elapsed() < AGAIN_AFTER;
            let answered = entry.known.as_ref().and_then(|(_, at)| at.as_ref());
            if answered.is_some_and(is_new) {
                return None;
            }
            self.pending(name, entry)
        };
        answered(pending.answer).await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The look-up in progress, or a new one.
    fn pending(&self, name: &HostName, entry: &mut Entry) -> Pending {
        if let Some(pending) = &entry.pending {
            return pending.clone();
        }
        let started = self.start(name.clone());
        entry.pending = Some(started.clone());
        started
    }

    /// Starts a look-up that goes on when the probe that asked has timed out, so that the next
    /// probe finds its answer.
    fn start(&self, name: HostName) -> Pending {
        let (tell, told) = watch::channel(None);
        let (names, lookups, ask) = (self.names.clone(), self.lookups.clone(), self.ask);
        let turn = lookups.clone().try_acquire_owned().ok();
        let was_queued = turn.is_none();
        // `relayed`, because the look-up's thread wakes this task.
        tokio::spawn(relayed(async move {
            let turn = match turn {
                Some(turn) => Some(turn),
                None => lookups.acquire_owned().await.ok(),
            };
            let answer = match turn {
                Some(turn) => look_up(name.clone(), turn, ask).await,
                None => Err(given_up()),
            };
            let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = names.entries.get_mut(&name) {
                entry.pending = None;
                if let Ok(addresses) = &answer {
                    entry.known = Some((addresses.clone(), Some(Instant::now())));
                }
                if entry.known.is_none() && !entry.is_configured {
                    names.entries.remove(&name);
                }
            }
            drop(names);
            // An error means that the probes that asked have timed out.
            let _ = tell.send(Some(answer));
        }));
        Pending {
            answer: told,
            was_queued,
        }
    }
}

/// Looks `name` up on the calling thread, which is the host's, and blocks it. None if the name has
/// no address or the look-up fails.
pub fn resolve_here(name: &HostName) -> Option<Arc<[IpAddr]>> {
    ask_on_hosts_thread(name).ok()
}

async fn answered(mut pending: watch::Receiver<Option<LookupAnswer>>) -> LookupAnswer {
    match pending.wait_for(Option::is_some).await {
        Ok(answer) => answer.clone().unwrap_or_else(|| Err(given_up())),
        Err(_) => Err(given_up()),
    }
}

async fn look_up(
    name: HostName,
    turn: tokio::sync::OwnedSemaphorePermit,
    ask: fn(&HostName) -> LookupAnswer,
) -> LookupAnswer {
    let (tell, told) = tokio::sync::oneshot::channel();
    spawn_quiet("nb-resolve", LOOKUP_STACK, move || {
        let answer = ask(&name);
        drop(turn);
        let _ = tell.send(answer);
    })
    .map_err(|e| LookupFailure::OwnLack(format!("cannot start a thread: {e}")))?;
    told.await.unwrap_or_else(|_| Err(given_up()))
}

fn too_many(most: usize) -> ProbeError {
    let reason = format!("more than {most} names are being looked up");
    ProbeError::new(Stage::Internal, reason)
}

/// The failure for a look-up whose thread or task ended without an answer.
fn given_up() -> LookupFailure {
    LookupFailure::OwnLack("the look-up was given up".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn name(text: &str) -> HostName {
        HostName::new(text)
    }

    #[tokio::test]
    async fn a_name_is_asked_for_once_by_many() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::asking(|_| {
            ASKED.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            Ok(Arc::from([HERE]))
        });
        let name = name("x");
        let (a, b) = tokio::join!(resolver.resolve(&name), resolver.resolve(&name));
        assert_eq!(a, b);
        assert_eq!(a.unwrap().len(), 1);
        resolver.resolve(&name).await.unwrap();
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_name_that_hangs_stops_no_other() {
        static MAY_ANSWER: AtomicBool = AtomicBool::new(false);
        let resolver = Resolver::asking(|name| {
            while name.as_str() == "slow" && !MAY_ANSWER.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(Arc::from([HERE]))
        });
        let (slow, quick) = (name("slow"), name("quick"));
        let quick = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            resolver.resolve(&quick).await
        };
        tokio::select! {
            _ = resolver.resolve(&slow) => panic!("the slow name came first"),
            found = quick => assert!(found.is_ok()),
        }
        MAY_ANSWER.store(true, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::asking(|_| match ASKED.fetch_add(1, Ordering::Relaxed) {
            0 => Err(LookupFailure::NoAddress(
                "name or service not known".to_owned(),
            )),
            _ => Ok(Arc::from([HERE])),
        });
        let error = resolver.resolve(&name("x")).await.unwrap_err();
        assert_eq!(error.to_string(), "resolve: name or service not known");
        assert!(resolver.resolve(&name("x")).await.is_ok());
    }

    #[tokio::test]
    async fn a_name_with_a_trailing_dot_is_asked_for_with_it() {
        let resolver = Resolver::asking(|name| match name.query().as_str() {
            "imap.prod.test." => Ok(Arc::from([HERE])),
            _ => Err(LookupFailure::NoAddress("completed".to_owned())),
        });
        assert!(resolver.resolve(&name("imap.prod.test.")).await.is_ok());
        assert!(resolver.resolve(&name("imap.prod.test")).await.is_err());
    }

    #[tokio::test]
    async fn addresses_that_are_known_stand_in_for_what_cannot_be_found_out() {
        let resolver = Resolver::asking(|name| match name.as_str() {
            "gone" => Err(LookupFailure::NoAddress("no".to_owned())),
            "for-now" => Err(LookupFailure::ForNow("no".to_owned())),
            _ => Err(LookupFailure::OwnLack("no".to_owned())),
        });
        let stage = |answer: Result<_, ProbeError>| answer.map_err(|error| error.stage.name());
        assert_eq!(stage(resolver.resolve(&name("gone")).await), Err("resolve"));
        assert_eq!(
            stage(resolver.resolve(&name("for-now")).await),
            Err("resolve")
        );
        assert_eq!(
            stage(resolver.resolve(&name("lack")).await),
            Err("internal")
        );
        let names = ["gone", "for-now", "lack"].map(name);
        resolver.configure(names.iter().map(|name| (name, vec![HERE])));
        assert_eq!(stage(resolver.resolve(&name("gone")).await), Err("resolve"));
        for text in ["for-now", "lack"] {
            assert_eq!(*resolver.resolve(&name(text)).await.unwrap(), [HERE]);
        }
    }

    #[tokio::test]
    async fn a_look_up_that_waits_for_others_says_nothing_of_its_name() {
        static MAY_ANSWER: AtomicBool = AtomicBool::new(false);
        let resolver = Resolver::asking(|_| {
            while !MAY_ANSWER.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(Arc::from([HERE]))
        });
        let a_while = Duration::from_millis(5);
        let lack_of = async |text: &str| {
            let mut lacked = None;
            let name = name(text);
            let resolving = resolver.resolve_within(&name, PATIENCE, &mut lacked);
            let in_time = tokio::time::timeout(a_while, resolving).await.is_ok();
            (in_time, lacked.map(|lacked| lacked.stage))
        };
        for number in 0..LOOKUPS_MAX {
            assert_eq!(lack_of(&number.to_string()).await, (false, None));
        }
        let (in_time, lacked) = lack_of("queued").await;
        assert_eq!((in_time, lacked), (false, Some(Stage::Internal)));
        MAY_ANSWER.store(true, Ordering::Relaxed);
        let mut lacked = None;
        let queued = name("queued");
        let patience = Duration::from_secs(60);
        let found = resolver.resolve_within(&queued, patience, &mut lacked);
        assert!(found.await.is_ok() && lacked.is_none());
    }

    /// A probe with a short timeout needs the rest of it to connect.
    #[tokio::test(start_paused = true)]
    async fn a_probe_with_less_patience_gets_the_known_addresses_sooner() {
        let resolver = Resolver::asking(|_| {
            std::thread::sleep(Duration::from_secs(2));
            Err(LookupFailure::ForNow("no".to_owned()))
        });
        for (patience, waits) in [(50, 50), (5000, 500)] {
            let name = name(&format!("x{patience}"));
            resolver.configure([(&name, vec![HERE])].into_iter());
            let begun = tokio::time::Instant::now();
            let patience = Duration::from_millis(patience);
            let found = resolver.resolve_within(&name, patience, &mut None).await;
            assert_eq!(*found.unwrap(), [HERE]);
            let waited = begun.elapsed();
            assert!(waited.as_millis().abs_diff(waits) <= 1, "{waited:?}");
        }
    }

    #[tokio::test]
    async fn what_has_just_been_answered_is_not_asked_for_again() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let resolver = Resolver::asking(|_| {
            let last = u8::try_from(ASKED.fetch_add(1, Ordering::Relaxed)).unwrap();
            Ok(Arc::from([IpAddr::from([10, 0, 0, last])]))
        });
        let name = name("moved");
        assert_eq!(
            *resolver.resolve(&name).await.unwrap(),
            [IpAddr::from([10, 0, 0, 0])]
        );
        assert_eq!(resolver.resolve_again(&name).await, None);
        let long_ago = Instant::now().checked_sub(AGAIN_AFTER * 2).unwrap();
        if let Some((_, at)) = &mut resolver.lock().entries.get_mut(&name).unwrap().known {
            *at = Some(long_ago);
        }
        let again = resolver.resolve_again(&name).await;
        assert_eq!(*again.unwrap(), [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(
            *resolver.resolve(&name).await.unwrap(),
            [IpAddr::from([10, 0, 0, 1])]
        );
    }

    #[tokio::test]
    async fn names_that_no_target_has_are_dropped_when_they_are_many() {
        let resolver = Resolver::asking(|name| match name.as_str() {
            "unknown" => Err(LookupFailure::NoAddress("no".to_owned())),
            _ => Ok(Arc::from([HERE])),
        });
        let of_targets = ["target", "unknown"].map(name);
        let configure = || resolver.configure(of_targets.iter().map(|name| (name, Vec::new())));
        configure();
        for name in &of_targets {
            let _ = resolver.resolve(name).await;
        }
        for number in 0..OTHERS_MAX + 10 {
            resolver.resolve(&name(&number.to_string())).await.unwrap();
            assert!(resolver.lock().entries.len() <= OTHERS_MAX + of_targets.len());
        }
        let has = |name: &HostName| resolver.lock().entries.contains_key(name);
        assert!(has(&of_targets[0]) && !has(&name("0")));
        let last = name(&(OTHERS_MAX + 9).to_string());
        assert!(has(&last));
        // Names that a configuration has no more count with the others.
        let many: Vec<HostName> = (0..OTHERS_MAX + 10)
            .map(|number| name(&format!("old{number}")))
            .collect();
        resolver.configure(many.iter().map(|name| (name, vec![HERE])));
        assert!(resolver.lock().entries.len() >= many.len());
        configure();
        assert!(resolver.lock().entries.len() <= OTHERS_MAX + of_targets.len());
        assert!(has(&last));
    }

    #[tokio::test]
    async fn more_names_than_can_be_looked_up_are_refused() {
        static MAY_ANSWER: AtomicBool = AtomicBool::new(false);
        let resolver = Resolver::asking(|_| {
            while !MAY_ANSWER.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(Arc::from([HERE]))
        });
        let target = name("target");
        resolver.configure([(&target, Vec::new())].into_iter());
        for number in 0..OTHERS_MAX {
            let name = name(&number.to_string());
            assert!(resolver.resolve(&name).now_or_never().is_none());
        }
        let one_more = name("one-more");
        let refused = resolver.resolve(&one_more).now_or_never();
        let error = refused.unwrap().unwrap_err();
        assert_eq!(error.stage, Stage::Internal, "{error}");
        assert!(resolver.resolve_again(&one_more).await.is_none());
        // A target's name is looked up in its turn.
        assert!(resolver.resolve(&target).now_or_never().is_none());
        MAY_ANSWER.store(true, Ordering::Relaxed);
        assert!(resolver.resolve(&target).await.is_ok());
        assert!(resolver.resolve(&one_more).await.is_ok());
    }
}
