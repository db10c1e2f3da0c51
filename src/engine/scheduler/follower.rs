//! The follower: takes verdicts from the state file that a process with another table writes.
//!
//! The file's verdict on a target is used as long as the writer keeps the file up to date and
//! probes the target with the same intervals and thresholds. Targets that are not in the file, and
//! all targets if the writer falls silent, are probed by this process, so that no verdict gets too
//! old.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::active::ActiveConfig;
use crate::engine::log::{Level, Line, Log};
use crate::engine::state_file::file::SharedStateFile;
use crate::engine::state_file::format::operator_line;
use crate::engine::state_file::saved::Saved;
use crate::engine::verdicts::Slot;
use crate::sys::state_file::Version;

/// How long a follower that has just begun waits for the first new content of the file.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// If the writer has saved nothing for this long, its verdicts are not used any more. It saves
/// every 5 s, and within 15 s another process has taken over.
const SILENCE: Duration = Duration::from_secs(12);

/// The longest request to the file's writer, in bytes. What does not fit goes into the next one.
const REQUEST: usize = 8 * 1024;

/// The targets that are probed elsewhere.
pub(in crate::engine) type Followed = Arc<HashSet<Slot>>;

/// What a follower knows about the state file and its writer.
pub(in crate::engine) struct Following {
    active: Arc<ActiveConfig>,
    read: Option<Version>,
    /// Number and time of the last new content.
    number: Option<(u64, u64)>,
    /// When new content was last read; at first, when following began.
    heard: Instant,
    patience: Duration,
    /// Whether the writer probes a target of ours with other intervals or thresholds.
    settings_differ: bool,
    /// Whether the writer has not probed a target of ours since its password was changed here.
    password_is_newer: bool,
    followed: Followed,
    /// The value of [`crate::engine::verdicts::VerdictTable::operators_version`] when the file last
    /// contained everything that operators have set here.
    operators: Option<u64>,
    /// The number of the last request that the writer has answered.
    answered: u64,
    /// How many targets probed by this process were last logged.
    logged: usize,
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
            password_is_newer: false,
            operators: None,
            answered: 0,
            followed: Arc::new(active.slots.iter().copied().collect()),
            logged: 0,
        }
    }

    pub(in crate::engine) fn is_of(&self, active: &Arc<ActiveConfig>) -> bool {
        Arc::ptr_eq(&self.active, active)
    }

    /// Polls the file and publishes new verdicts. Returns the targets that its writer probes.
    pub(in crate::engine) fn poll(&mut self, log: &Log) -> Followed {
        self.read_anew();
        if self.heard.elapsed() > self.patience {
            self.set(HashSet::new());
            if let Some(file) = &self.active.state_file {
                // At its next role check this process takes over from the writer.
                file.set_silent(self.patience == SILENCE);
            }
        }
        self.log_once(log);
        self.followed.clone()
    }

    fn read_anew(&mut self) {
        let Some(file) = self.active.state_file.clone() else {
            return;
        };
        let Ok(version) = file.version() else {
            return;
        };
        let is_set_here = self.operators != Some(self.active.table.operators_version());
        if self.read == Some(version) && !is_set_here {
            return;
        }
        // Content that is just being written fails to load; the next poll reads it. Two contents
        // written within one tick of the file system's clock have the same version, so a version
        // that is too recent is read again.
        let Ok(saved) = file.load() else {
            return;
        };
        let is_new = self.read != Some(version);
        self.read = version.is_settled().then_some(version);
        let Some(saved) = saved else {
            return;
        };
        self.share_operators(&file, &saved);
        if !is_new || !saved.is_within(self.active.config.state_max_age) {
            return;
        }
        if self.number != Some((saved.number, saved.saved_ms)) {
            self.number = Some((saved.number, saved.saved_ms));
            self.heard = Instant::now();
            self.patience = SILENCE;
            file.set_silent(false);
        }
        let followed = self.active.follow(&saved);
        self.settings_differ = false;
        self.password_is_newer = false;
        for slot in &self.active.slots {
            if let Some(known) = saved.targets.get(&self.active.table.hash(*slot))
                && !followed.contains(slot)
            {
                let is_earlier = self.active.is_of_earlier_password(*slot, &known.record);
                self.password_is_newer |= is_earlier;
                self.settings_differ |= !is_earlier;
            }
        }
        self.set(followed);
    }

    /// Takes over what operators have set elsewhere, and asks the file's writer to take over what
    /// was set here.
    fn share_operators(&mut self, file: &SharedStateFile, saved: &Saved) {
        let answered = saved.answer.as_ref().map_or(0, |answer| answer.number);
        if answered != self.answered {
            self.answered = answered;
            file.stop_asking();
        }
        self.active.learn_operators(saved);
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
            // If another process's request is pending, the next poll tries again.
            file.ask(&wanted, self.answered);
        }
    }

    fn set(&mut self, followed: HashSet<Slot>) {
        if *self.followed != followed {
            self.followed = Arc::new(followed);
        }
    }

    /// Logs once that this process probes targets beside the file's writer, and why.
    fn log_once(&mut self, log: &Log) {
        let all: HashSet<Slot> = self.active.slots.iter().copied().collect();
        let own = all.len().saturating_sub(self.followed.len());
        if own == self.logged {
            return;
        }
        self.logged = own;
        let Some(file) = self.active.state_file.as_ref().filter(|_| own > 0) else {
            return;
        };
        let reason = if self.heard.elapsed() > self.patience {
            "the process that keeps the file has written nothing of use to it"
        } else if self.settings_differ {
            "the process that keeps the file has other intervals or thresholds"
        } else if self.password_is_newer {
            "the process that keeps the file has not probed since the password was changed here"
        } else {
            "the process that keeps the file has other targets"
        };
        log.write(
            Line::new(Level::Warning, "state_file_not_shared")
                .quoted("path", &file.path().display().to_string())
                .with("targets_probed_here", own)
                .quoted("reason", reason),
        );
    }
}
