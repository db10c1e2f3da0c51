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
use crate::engine::state_file::format::policy;
use crate::engine::verdicts::Slot;
use crate::sys::state_file::Version;

/// A prober that has just begun gets this long for its first word.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// A prober that has saved nothing for so long is not relied on any more.
pub(in crate::engine) const SILENCE: Duration = Duration::from_secs(15);

/// The targets that somebody else probes.
pub(in crate::engine) type Followed = Arc<HashSet<Slot>>;

/// What is known of the file's writer.
pub(in crate::engine) struct Following {
    active: Arc<ActiveConfig>,
    read: Option<Version>,
    /// When a good content was last a new one; at first, when following began.
    heard: Instant,
    patience: Duration,
    policy_differs: bool,
    followed: Followed,
    /// How many targets of this process the log was last told that it probes.
    mentioned: usize,
}

impl Following {
    pub(in crate::engine) fn begin(active: &Arc<ActiveConfig>) -> Self {
        Self {
            active: active.clone(),
            read: None,
            heard: Instant::now(),
            patience: FIRST_WORD,
            policy_differs: false,
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
        }
        self.mention(log);
        self.followed.clone()
    }

    fn read_anew(&mut self) {
        let Some(store) = &self.active.store else {
            return;
        };
        let Ok(version) = store.version() else {
            return;
        };
        if self.read == Some(version) {
            return;
        }
        // A content that is being written does not read; the next look finds it whole. Two
        // contents of one tick of the clock look the same from outside.
        let Ok(saved) = store.load(self.active.config.state_max_age) else {
            return;
        };
        self.read = version.is_settled().then_some(version);
        let Some(saved) = saved else {
            return;
        };
        self.heard = Instant::now();
        self.patience = SILENCE;
        self.policy_differs = saved.policy != policy(&self.active.config);
        if self.policy_differs {
            self.set(HashSet::new());
        } else {
            let followed = self.active.follow(&saved);
            self.set(followed);
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
        } else if self.policy_differs {
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
