//! Decides when the verdicts are written to the state file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::requests::{Reply, ReplySlot, carry_out};
use crate::engine::active::ActiveConfig;
use crate::engine::log::Log;
use crate::engine::state_file::call::WantedCall;
use crate::engine::state_file::file::{SharedStateFile, Writer};
use crate::engine::state_file::format::encode;
use crate::engine::state_file::saved::RequestAnswer;

/// How often the state file is written if no verdict changes. Well below the 12 s after which
/// followers take the writer for silent.
const EVERY: Duration = Duration::from_secs(5);

/// How long a content has the reply to a request. Whoever asked waits 2 s for it.
const REPLY_STAYS: Duration = Duration::from_secs(10);

/// Saving takes at most one part in this many of the engine thread's time, however often verdicts
/// change.
const SHARE: u32 = 10;

/// Writes the state file of this process's active configuration.
pub(super) struct Saver {
    file: Arc<SharedStateFile>,
    writer: Option<Writer>,
    /// The value of [`SharedStateFile::moves`] at the last save.
    moves: u64,
    at: Option<Instant>,
    /// How long it took to encode the last content.
    took: Duration,
    /// Whether there is something to save at once: a verdict has changed, for example, or the last
    /// save has failed.
    turned: bool,
    /// The value of [`crate::engine::verdicts::VerdictTable::operators_version`] at the last save.
    operators: u64,
    /// The answer to the last request that was handled, without its reply.
    answer: Option<RequestAnswer>,
    /// That reply.
    reply: Option<Arc<ReplySlot>>,
    /// When it was given.
    answered_at: Instant,
    /// The number of the request that is being handled, and where its reply will be.
    pending: Option<(u64, Arc<ReplySlot>)>,
    /// A call of the store that the engine thread has not taken yet.
    call: Option<(WantedCall, Reply)>,
    /// Lines in the file that this version does not know. They are written back.
    unknown: Vec<String>,
}

impl Saver {
    /// Reads the present file first, to keep its operator settings, its last answer and its unknown
    /// lines.
    pub(super) fn begin(
        active: &ActiveConfig,
        file: &Arc<SharedStateFile>,
        log: &Arc<Log>,
    ) -> Self {
        let saved = file.load().ok().flatten().unwrap_or_default();
        active.learn_operators(&saved);
        Self {
            writer: file.writer(log.clone()),
            moves: file.moves(),
            file: file.clone(),
            at: None,
            took: Duration::ZERO,
            turned: true,
            operators: active.table.operators_version(),
            answer: saved.answer.map(RequestAnswer::without_reply),
            reply: None,
            answered_at: Instant::now(),
            pending: None,
            call: None,
            unknown: saved.unknown,
        }
    }

    pub(super) fn is_to(&self, file: &Arc<SharedStateFile>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    /// Records that a verdict has changed.
    pub(super) fn note_turn(&mut self) {
        self.turned = true;
    }

    /// Whether something waits to be saved at once.
    pub(super) fn is_pending(&self) -> bool {
        self.turned && self.writer.is_some()
    }

    /// Hands the state to the file's writer thread if a save is due: at once after a change of a
    /// verdict, unless the last save was so long that [`SHARE`] demands a pause.
    pub(super) fn save(&mut self, active: &ActiveConfig) {
        self.finish_request();
        let Some(writer) = &self.writer else {
            return;
        };
        let moves = self.file.moves();
        let operators = active.table.operators_version();
        self.turned |= moves != self.moves || operators != self.operators;
        let since = self.at.map(|at| at.elapsed());
        let rest = self.took * SHARE;
        let every = EVERY.min(active.config.state_max_age / 4);
        let wanted = if self.turned { rest } else { every.max(rest) };
        if since.is_some_and(|since| since < wanted) {
            return;
        }
        let started = Instant::now();
        if self.answered_at.elapsed() > REPLY_STAYS {
            self.reply = None;
        }
        let reply = self.reply.as_ref().and_then(|slot| slot.lines());
        let reply = reply.unwrap_or_default();
        let content = encode(
            &active.config,
            &active.table,
            &active.slots,
            self.answer.as_ref().map(|answer| (answer, reply)),
            &self.unknown,
        );
        self.took = started.elapsed();
        if writer.write(content) {
            self.at = Some(Instant::now());
            self.moves = moves;
            self.operators = operators;
            self.turned = false;
        } else {
            self.turned = true;
        }
    }

    /// Begins to carry out a new request, unless one is being carried out. `done` is notified when
    /// the reply is there; [`Saver::save`] then writes it.
    pub(super) fn answer_requests(&mut self, active: &Arc<ActiveConfig>, done: &Arc<Notify>) {
        if self.pending.is_some() {
            return;
        }
        let answered = self.answer.as_ref().map_or(0, |answer| answer.number);
        let Some(request) = self.file.request(answered) else {
            return;
        };
        let (slot, call) = carry_out(active, &request.body, done);
        self.pending = Some((request.number, slot));
        self.call = call;
    }

    /// A call of the store that a request asks for, and the right to reply to it.
    pub(super) fn take_call(&mut self) -> Option<(WantedCall, Reply)> {
        self.call.take()
    }

    #[cfg(test)]
    pub(super) fn is_answering(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes over the reply to the request that is being handled, if it is there.
    fn finish_request(&mut self) {
        let Some((number, slot)) = &self.pending else {
            return;
        };
        let Some(replied) = slot.replied() else {
            return;
        };
        let text = match replied {
            Ok(_) => "ok".to_owned(),
            Err(reason) => format!("error {reason}"),
        };
        self.answer = Some(RequestAnswer {
            number: *number,
            text,
            reply: Vec::new(),
        });
        self.reply = self.pending.take().map(|(_, slot)| slot);
        self.answered_at = Instant::now();
        self.turned = true;
    }
}
