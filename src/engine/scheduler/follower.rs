//! Following a prober of another family through the state file.
//!
//! What the file says of a target is taken for as long as its writer keeps it up to date and
//! judges by the same rules. Targets that it says nothing of, and all of them where it falls
//! silent, are for this process to probe: no target is left to an old verdict.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::active::ActiveConfig;
use crate::engine::log::{Level, Line, Log};
use crate::engine::state_file::file::Store;
use crate::engine::state_file::format::operator_line;
use crate::engine::state_file::saved::Saved;
use crate::engine::verdicts::Slot;
use crate::sys::state_file::Version;

/// A prober that has just begun gets this long for its first word.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// A prober that has saved nothing for so long is not relied on any more: it saves every 5 s, and
/// within 15 s another one has taken over.
const SILENCE: Duration = Duration::from_secs(12);

/// What one request may hold, in bytes: the rest goes with the next.
const REQUEST: usize = 8 * 1024;

/// The targets that somebody else probes.
pub(in crate::engine) type Followed = Arc<HashSet<Slot>>;

/// What is known of the file's writer.
pub(in crate::engine) struct Following {
    active: Arc<ActiveConfig>,
    read: Option<Version>,
    /// Number and time of the last content that said something new.
    number: Option<(u64, u64)>,
    /// When a good content was last a new one; at first, when following began.
    heard: Instant,
    patience: Duration,
    /// Whether there are targets that its writer probes in another way.
    settings_differ: bool,
    followed: Followed,
    /// [`crate::engine::verdicts::VerdictTable::operators_version`] when all that operators have
    /// set here was last in the file, too.
    operators: Option<u64>,
    /// The last request that its writer has answered.
    answered: u64,
    /// How many targets of this process the log was last told that it probes.
    mentioned: usize,
}

impl Following {
    pub(in crate::engine) fn begin(active: &Arc<ActiveConfig>) -> Self {
        Self {
            active: active.clone(),
            read: None,
            number: None,
            heard: Instant::now(),
            patience: FIRST_WORD,
            settings_differ: false,
            operators: None,
            answered: 0,
            followed: Arc::new(active.slots.iter().copied().collect()),
            mentioned: 0,
        }
    }

    pub(in crate::engine) fn is_of(&self, active: &Arc<ActiveConfig>) -> bool {
        Arc::ptr_eq(&self.active, active)
    }

    /// Publishes what the file says where it says anything new; the targets that are
    /// probed by its writer.
    pub(in crate::engine) fn look(&mut self, log: &Log) -> Followed {
        self.read_anew();
        if self.heard.elapsed() > self.patience {
            self.set(HashSet::new());
            if let Some(store) = &self.active.store {
                // The next look for a role takes the writer's part over.
                store.set_silent(self.patience == SILENCE);
            }
        }
        self.mention(log);
        self.followed.clone()
    }

    fn read_anew(&mut self) {
        let Some(store) = self.active.store.clone() else {
            return;
        };
        let Ok(version) = store.version() else {
            return;
        };
        let is_set_here = self.operators != Some(self.active.table.operators_version());
        if self.read == Some(version) && !is_set_here {
            return;
        }
        // A content that is being written does not read; the next look finds it whole. Two
        // contents of one tick of the clock look the same from outside.
        let Ok(saved) = store.load() else {
            return;
        };
        let is_new = self.read != Some(version);
        self.read = version.is_settled().then_some(version);
        let Some(saved) = saved else {
            return;
        };
        self.share_operators(&store, &saved);
        if !is_new || !saved.is_within(self.active.config.state_max_age) {
            return;
        }
        if self.number != Some((saved.number, saved.saved_ms)) {
            self.number = Some((saved.number, saved.saved_ms));
            self.heard = Instant::now();
            self.patience = SILENCE;
            store.set_silent(false);
        }
        let followed = self.active.follow(&saved);
        let known = |slot: &Slot| saved.targets.contains_key(&self.active.table.hash(*slot));
        let differs = |slot: &&Slot| known(slot) && !followed.contains(slot);
        self.settings_differ = self.active.slots.iter().any(|slot| differs(&slot));
        self.set(followed);
    }

    /// Takes over what operators have set elsewhere, and asks the file's writer for what was set
    /// here.
    fn share_operators(&mut self, store: &Store, saved: &Saved) {
        let answered = saved.answer.as_ref().map_or(0, |answer| answer.number);
        if answered != self.answered {
            self.answered = answered;
            store.stop_asking();
        }
        self.active.recall_operators(saved);
        let version = self.active.table.operators_version();
        let mut wanted = String::new();
        for operator in self.active.table.operators() {
            let is_there = saved
                .operators
                .iter()
                .any(|one| operator.is_settled_by(one));
            let line = operator_line(&operator);
            if !is_there && wanted.len() + line.len() <= REQUEST {
                wanted.push_str(&line);
            }
        }
        if wanted.is_empty() {
            self.operators = Some(version);
        } else {
            // Where another's request is in the way, the next look tries again.
            store.ask(&wanted, self.answered);
        }
    }

    fn set(&mut self, followed: HashSet<Slot>) {
        if *self.followed != followed {
            self.followed = Arc::new(followed);
        }
    }

    /// Says once that this process probes beside another one, and why.
    fn mention(&mut self, log: &Log) {
        let all: HashSet<Slot> = self.active.slots.iter().copied().collect();
        let own = all.len().saturating_sub(self.followed.len());
        if own == self.mentioned {
            return;
        }
        self.mentioned = own;
        let Some(store) = self.active.store.as_ref().filter(|_| own > 0) else {
            return;
        };
        let reason = if self.heard.elapsed() > self.patience {
            "the process that keeps the file has written nothing of use to it"
        } else if self.settings_differ {
            "the process that keeps the file has other intervals or thresholds"
        } else {
            "the process that keeps the file has other targets"
        };
        log.write(
            Line::new(Level::Warning, "state_file_not_shared")
                .quoted("path", &store.path().display().to_string())
                .with("targets_probed_here", own)
                .quoted("reason", reason),
        );
    }
}
