//! The follower: takes verdicts from the state file that a process with another table writes.
//!
//! The file's verdict on a target is used as long as the writer keeps the file up to date and
//! probes the target with the same intervals and thresholds. Targets that are not in the file, and
//! all targets if the writer falls silent, are probed by this process, so that no verdict gets too
//! old. So are targets of which a probe here, which a script has requested, found something else than
//! the file says, until the file has a later result.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::active::{ActiveConfig, Covered};
use crate::engine::log::{Level, Line, Log};
use crate::engine::state_file::file::SharedStateFile;
use crate::engine::state_file::format::operator_line;
use crate::engine::state_file::{ANSWERED_WITHIN, saved::Saved};
use crate::engine::verdicts::{Operator, Slot};
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
    /// How many targets there are, equal ones counted once, and how many of them the file does not cover.
    targets: usize,
    uncovered: usize,
    /// The operators' settings in the file.
    known_operators: Vec<Operator>,
    /// The value of [`crate::engine::verdicts::VerdictTable::operators_version`] when the file last
    /// contained everything that operators have set here.
    operators: Option<u64>,
    /// That value, and the time, when the file's writer was last asked to take over what it does not contain.
    asked: Option<(u64, Instant)>,
    /// The number of the last request that the writer has answered.
    answered: u64,
    /// How many targets probed by this process were last logged.
    logged: usize,
    /// How often the file was read.
    #[cfg(test)]
    reads: usize,
}

impl Following {
    pub(in crate::engine) fn begin(active: &Arc<ActiveConfig>) -> Self {
        let followed: HashSet<Slot> = active.slots.iter().copied().collect();
        Self {
            active: active.clone(),
            read: None,
            number: None,
            heard: Instant::now(),
            patience: FIRST_WORD,
            settings_differ: false,
            password_is_newer: false,
            targets: followed.len(),
            uncovered: 0,
            known_operators: Vec::new(),
            operators: None,
            asked: None,
            answered: 0,
            followed: Arc::new(followed),
            logged: 0,
            #[cfg(test)]
            reads: 0,
        }
    }

    /// How often the file was read; None if the next poll reads it in any case.
    #[cfg(test)]
    pub(in crate::engine) fn reads(&self) -> Option<usize> {
        self.read.map(|_| self.reads)
    }

    pub(in crate::engine) fn is_of(&self, active: &Arc<ActiveConfig>) -> bool {
        Arc::ptr_eq(&self.active, active)
    }

    /// Polls the file and publishes new verdicts. Returns the targets that are probed elsewhere. `findings`:
    /// those of them of which a probe here has failed or has changed the verdict since the last poll.
    pub(in crate::engine) fn poll(&mut self, findings: &[Slot], log: &Log) -> Followed {
        if findings.iter().any(|slot| self.followed.contains(slot)) {
            let mut followed = HashSet::clone(&self.followed);
            followed.retain(|slot| !findings.contains(slot));
            self.set(followed);
        }
        self.read_anew();
        if self.heard.elapsed() > self.patience {
            self.cover(Covered::default());
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
        if self.read != Some(version) {
            // Two contents written within one tick of the file system's clock have the same version, so
            // a version that is too recent is read again. A content that is just being written fails to
            // load, and has another version when it is whole.
            self.read = version.is_settled().then_some(version);
            #[cfg(test)]
            {
                self.reads += 1;
            }
            let Ok(Some(saved)) = file.load() else {
                return;
            };
            self.take_over(&file, saved);
        }
        self.share_operators(&file);
    }

    /// Takes over a content of the file.
    fn take_over(&mut self, file: &SharedStateFile, saved: Saved) {
        let answered = saved.answer.as_ref().map_or(0, |answer| answer.number);
        if answered != self.answered {
            self.answered = answered;
            file.stop_asking();
        }
        self.active.learn_operators(&saved);
        self.operators = None;
        self.asked = None;
        if saved.is_within(self.active.config.state_max_age) {
            self.take_verdicts(file, &saved);
        }
        self.known_operators = saved.operators;
    }

    fn take_verdicts(&mut self, file: &SharedStateFile, saved: &Saved) {
        if self.number != Some((saved.number, saved.saved_ms)) {
            self.number = Some((saved.number, saved.saved_ms));
            self.heard = Instant::now();
            self.patience = SILENCE;
            file.set_silent(false);
        }
        let covered = self.active.follow(saved);
        self.settings_differ = false;
        self.password_is_newer = false;
        for slot in &self.active.slots {
            if let Some(known) = saved.targets.get(&self.active.table.hash(*slot))
                && !covered.targets.contains(slot)
            {
                let is_earlier = self.active.is_of_earlier_password(*slot, &known.record);
                self.password_is_newer |= is_earlier;
                self.settings_differ |= !is_earlier;
            }
        }
        self.cover(covered);
    }

    /// Asks the file's writer to take over what operators have set here and the file does not contain.
    fn share_operators(&mut self, file: &SharedStateFile) {
        let version = self.active.table.operators_version();
        let is_asked =
            |(asked, at): (u64, Instant)| asked == version && at.elapsed() < ANSWERED_WITHIN;
        if self.operators == Some(version) || self.asked.is_some_and(is_asked) {
            return;
        }
        let mut wanted = String::new();
        for operator in self.active.table.operators() {
            let mut known = self.known_operators.iter();
            let is_there = known.any(|one| operator.is_settled_by(one));
            let line = operator_line(&operator);
            if !is_there && wanted.len() + line.len() <= REQUEST {
                wanted.push_str(&line);
            }
        }
        if wanted.is_empty() {
            self.operators = Some(version);
        } else if file.ask(&wanted, self.answered) {
            self.asked = Some((version, Instant::now()));
        }
        // If another process's request is pending, the next poll tries again.
    }

    fn cover(&mut self, covered: Covered) {
        self.uncovered = self.targets.saturating_sub(covered.targets.len());
        let Covered { mut targets, ahead } = covered;
        targets.retain(|slot| !ahead.contains(slot));
        self.set(targets);
    }

    fn set(&mut self, followed: HashSet<Slot>) {
        if *self.followed != followed {
            self.followed = Arc::new(followed);
        }
    }

    /// Logs once that this process probes targets which the file does not cover, and why.
    fn log_once(&mut self, log: &Log) {
        let own = self.uncovered;
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
