//! Decides when the verdicts are written to the state file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::requests::{Reply, ReplySlot, carry_out};
use super::thread_start::ThreadStart;
use crate::engine::active::ActiveConfig;
use crate::engine::log::Log;
use crate::engine::state_file::call::WantedCall;
use crate::engine::state_file::file::SharedStateFile;
use crate::engine::state_file::format::encode;
use crate::engine::state_file::saved::RequestAnswer;
use crate::engine::state_file::writer::{WRITER_THREAD, Writer};

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
    /// None while the system refuses the thread.
    writer: Option<Writer>,
    writer_start: ThreadStart,
    /// The value of [`SharedStateFile::moves`] at the last save.
    moves: u64,
    at: Option<Instant>,
    /// How long it took to encode the last content.
    took: Duration,
    /// Whether there is something to save at once, a changed verdict for example.
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
    pub(super) fn begin(active: &ActiveConfig, file: &Arc<SharedStateFile>, log: &Log) -> Self {
        let saved = file.load().ok().flatten().unwrap_or_default();
        active.learn_operators(&saved);
        let mut saver = Self {
            writer: None,
            writer_start: ThreadStart::new(WRITER_THREAD),
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
        };
        saver.start_writer(log);
        saver
    }

    /// Starts the thread that writes the file, unless it runs or the system has just refused it.
    pub(super) fn start_writer(&mut self, log: &Log) {
        if self.writer.is_none() {
            let file = &self.file;
            self.writer = self.writer_start.attempt(log, || Writer::start(file));
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
    /// verdict, unless the last save was so long that [`SHARE`] demands a pause. While the thread is busy
    /// nothing is encoded: on a slow disk that would take all of the engine thread's time.
    pub(super) fn save(&mut self, active: &ActiveConfig, log: &Arc<Log>) {
        self.finish_request();
        let moves = self.file.moves();
        let operators = active.table.operators_version();
        self.turned |= moves != self.moves || operators != self.operators;
        let Some(writer) = self.writer.as_ref().filter(|writer| !writer.is_busy()) else {
            return;
        };
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
        self.at = Some(Instant::now());
        if writer.write(content, log) {
            self.moves = moves;
            self.operators = operators;
            self.turned = false;
        } else {
            // It has ended, by a panic; the next role check starts another one.
            self.writer = None;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::active::StartState;
    use crate::engine::config::{Config, LogSink};
    use crate::engine::state_file::file::WriteRight;
    use crate::sys::fork_mark::pid;

    #[test]
    fn nothing_is_encoded_while_the_disk_is_slow() {
        let dir = std::env::temp_dir().join(format!("nb-saver-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let file = Arc::new(SharedStateFile::open(&dir.join("state")).unwrap());
        assert_eq!(file.try_take_right(None), WriteRight::Ours);
        let text = "backend_server_monitoring: {log: none, backend_servers: [
            {protocol: imap, host: 127.0.0.1, port: 1}]}";
        let config = Arc::new(Config::from_yaml(text, &|_| None).unwrap());
        let active =
            ActiveConfig::succeed(None, config, pid(), true, StartState::default()).unwrap();
        let log = Arc::new(Log::open(&LogSink::None).unwrap());
        let mut saver = Saver::begin(&active, &file, &log);
        let writing = file.hold_work();
        saver.save(&active, &log);
        let first = saver.at;
        assert!(first.is_some());
        for _ in 0..100 {
            saver.note_turn();
            saver.save(&active, &log);
        }
        assert_eq!(saver.at, first);
        assert!(saver.is_pending());
        drop(writing);
        // What has changed meanwhile is written once there is room for it.
        let end = Instant::now() + Duration::from_secs(60);
        while saver.is_pending() {
            assert!(Instant::now() < end);
            saver.save(&active, &log);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(saver.at > first);
        drop(saver);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
