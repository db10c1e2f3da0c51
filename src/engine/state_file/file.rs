//! The open state file: read when a configuration names it, written by the prober, and polled by
//! processes that publish what the prober of another table saves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::content::{newest, write_content};
use super::format::read_file;
use super::request::{CommandRequest, CommandRequests};
use super::saved::Saved;
use super::work::Work;
use crate::engine::config::shown_path;
use crate::sys::fork_mark::pid;
use crate::sys::process::root_directory;
use crate::sys::state_file::{Part, StateFile, Version};

/// How many times a content that does not read is read again: it may be one that is being written.
const READ_AGAIN: u32 = 5;
/// The pause before each of these reads.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// How long a content waits for another thread of this process that still writes: 10 s.
const WORK_TRIES: u32 = 1000;
const WORK_PAUSE: Duration = Duration::from_millis(10);

/// A state file by its path. Where the path comes to name another file, that one is used from then
/// on, unless the process has another root directory then.
pub struct SharedStateFile {
    path: PathBuf,
    /// The root directory in which the path was opened.
    root: Option<(u64, u64)>,
    /// Not a mutex: a child that is forked while a thread holds it would block for ever.
    file: ArcSwap<StateFile>,
    /// How often the path was found to name another file.
    moves: AtomicU64,
    /// Whether the file's writer has saved nothing for so long that it counts as stopped.
    silent: AtomicBool,
    /// The id of this process while it has the right to write, else 0. A child inherits its
    /// parent's id, which is not its own.
    writer_pid: AtomicU64,
    /// The number of the content that this process wrote last, or that was the newest when it took
    /// the right to write.
    written: AtomicU64,
    /// How often this process has given the right to write back. A content that was queued before
    /// is not written after it: the file may have a newer one by then.
    terms: AtomicU64,
    /// The state of the writing thread.
    work: Work,
    requests: CommandRequests,
}

/// Who has the right to write the file, and probes for all processes that share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteRight {
    Ours,
    Theirs,
    /// The file cannot be locked: this process probes all the same, and saves nothing.
    Nobodys,
}

impl SharedStateFile {
    /// # Errors
    /// `state_file: cannot use /path: why`.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = StateFile::open(path)
            .map_err(|e| format!("state_file: cannot use {}: {e}", shown_path(path)))?;
        Ok(Self {
            path: path.to_owned(),
            root: root_directory(),
            file: ArcSwap::from_pointee(file),
            moves: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            writer_pid: AtomicU64::new(0),
            written: AtomicU64::new(0),
            terms: AtomicU64::new(0),
            work: Work::default(),
            requests: CommandRequests::default(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `path` names this file, in whatever spelling. A second [`SharedStateFile`] of one file would
    /// close its descriptor at some time, and with it the process loses all locks of the file.
    pub fn is_at(&self, path: &Path) -> bool {
        self.path == path || self.file.load().is_at(path)
    }

    /// The file that the path names now. It is opened again where the path names another file or
    /// the host has closed the descriptor. Where that fails, or the process has another root
    /// directory now, the file that was open is used on.
    fn file(&self) -> Arc<StateFile> {
        let file = self.file.load_full();
        if !file.is_at(&self.path)
            && self.root == root_directory()
            && let Ok(fresh) = StateFile::open(&self.path)
        {
            self.file.store(Arc::new(fresh));
            self.moves.fetch_add(1, Ordering::AcqRel);
            return self.file.load_full();
        }
        file
    }

    /// The content of the file; `None` where none was ever written to it.
    ///
    /// # Errors
    /// Why the content cannot be used, for a log line.
    pub fn load(&self) -> Result<Option<Saved>, String> {
        let file = self.file();
        read_file(|offset, length| file.read_at(offset, length))
    }

    /// Reads the file like [`SharedStateFile::load`], and again up to 5 times at intervals of 5 ms where its
    /// content does not read, which may be because it is being written. Blocks the calling thread
    /// meanwhile.
    ///
    /// # Errors
    /// As [`SharedStateFile::load`].
    pub fn load_settled(&self) -> Result<Option<Saved>, String> {
        for _ in 0..READ_AGAIN {
            match self.load() {
                Ok(saved) => return Ok(saved),
                Err(_) => std::thread::sleep(READ_AGAIN_AFTER),
            }
        }
        self.load()
    }

    // === The right to write ===

    /// Takes the right to write the file and to probe for all processes that share it, or verifies
    /// that this process still has it.
    ///
    /// The kernel keeps the writer's lock while its holder is stopped. The holder counts as stopped
    /// where it is `displaced` (the process from which the lease of the table was taken) or where
    /// the file has been silent for too long. A second lock, the deputy's, then gives the same
    /// right. The stopped process, when it runs again, finds a newer content than its own in the
    /// file and gives the writer's lock back.
    pub fn try_take_right(&self, displaced: Option<u64>) -> WriteRight {
        let mut file = self.file();
        loop {
            let has_right = match file.try_lock(Part::Writer) {
                Ok(true) => self.may_keep_lock(&file),
                Ok(false) => self.may_be_deputy(&file, displaced),
                Err(_) => {
                    self.writer_pid.store(0, Ordering::Release);
                    return WriteRight::Nobodys;
                }
            };
            if !has_right {
                self.writer_pid.store(0, Ordering::Release);
                self.release(&file);
                return WriteRight::Theirs;
            }
            // The path may have come to name another file since: a lock on the old one keeps nobody
            // from writing the new one.
            let now = self.file();
            if Arc::ptr_eq(&now, &file) {
                self.work.keep_lock();
                if !self.is_writer() {
                    self.written.store(newest(&file), Ordering::Release);
                    self.writer_pid.store(pid(), Ordering::Release);
                    // It has itself what it asked the writer before it for, and would otherwise
                    // keep all others from asking.
                    self.requests.leave(&file);
                }
                self.set_silent(false);
                return WriteRight::Ours;
            }
            file = now;
        }
    }

    fn may_keep_lock(&self, file: &StateFile) -> bool {
        // A deputy that has written since means that this process was stopped: it gives the
        // writer's lock back, and the deputy takes it with its next role check.
        let may = file.holder(Part::Deputy).is_none()
            || self.silent.load(Ordering::Acquire)
            || (self.is_writer() && !self.is_overtaken(file));
        if may {
            file.unlock(Part::Deputy);
        }
        may
    }

    fn may_be_deputy(&self, file: &StateFile, displaced: Option<u64>) -> bool {
        let is_one = self.is_writer() && !self.is_overtaken(file);
        let is_displaced = || displaced.is_some_and(|pid| file.holder(Part::Writer) == Some(pid));
        (is_one || self.silent.load(Ordering::Acquire) || is_displaced())
            && file.try_lock(Part::Deputy).unwrap_or(false)
    }

    /// Whether another process holds a right to write and has written since this one did.
    fn is_overtaken(&self, file: &StateFile) -> bool {
        let has_rival = [Part::Writer, Part::Deputy]
            .into_iter()
            .any(|part| file.holder(part).is_some());
        has_rival && newest(file) > self.written.load(Ordering::Acquire)
    }

    /// Changes when the path names another file: that one is new and has to be written at once.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Records whether the file's writer has been silent for longer than a running writer ever is.
    /// [`SharedStateFile::try_take_right`] then makes this process the deputy.
    pub fn set_silent(&self, is_silent: bool) {
        self.silent.store(is_silent, Ordering::Release);
    }

    /// Gives the right to write back. Where the writing thread is in the middle of a content the
    /// locks are released when it is done: another process that wrote before would mix its content
    /// with this one's.
    pub fn step_down(&self) {
        self.writer_pid.store(0, Ordering::Release);
        self.release(&self.file.load());
    }

    fn release(&self, file: &StateFile) {
        self.terms.fetch_add(1, Ordering::AcqRel);
        if !self.work.leave_lock() {
            file.unlock(Part::Writer);
            file.unlock(Part::Deputy);
        }
    }

    /// The process id of the other process that has the right to write; 0 where it cannot be seen, as
    /// that of a process in another container. `None` where no other process has the right.
    pub fn other_writer(&self) -> Option<u64> {
        let file = self.file.load();
        // While there is a deputy, the holder of the writer's lock is stopped.
        let parts = [Part::Deputy, Part::Writer];
        parts.into_iter().find_map(|part| file.holder(part))
    }

    /// Whether this process had the right to write at its last role check.
    pub fn is_writer(&self) -> bool {
        self.writer_pid.load(Ordering::Acquire) == pid()
    }

    /// # Errors
    /// See [`StateFile::version`].
    pub fn version(&self) -> std::io::Result<Version> {
        self.file().version()
    }

    // === Writing ===

    /// The number of this term; see [`SharedStateFile::write`].
    pub(super) fn term(&self) -> u64 {
        self.terms.load(Ordering::Acquire)
    }

    /// Writes a content that was queued in this term. Does nothing where this process has no right
    /// to write, or has given it back since.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where another thread of this process does not finish.
    pub(super) fn write(&self, term: u64, content: &str) -> std::io::Result<()> {
        let working = self.begin_work()?;
        let file = &working.file;
        // Another process may have taken over while this one was stopped.
        let may_write = self.is_writer() && !self.is_overtaken(file);
        if may_write && self.term() == term {
            let number = write_content(file, content)?;
            self.written.store(number, Ordering::Release);
        }
        Ok(())
    }

    /// Waits until no other thread of this process writes, such as that of an earlier configuration.
    fn begin_work(&self) -> std::io::Result<Working<'_>> {
        for _ in 0..WORK_TRIES {
            if self.work.begin() {
                return Ok(Working {
                    work: &self.work,
                    file: self.file.load_full(),
                });
            }
            std::thread::sleep(WORK_PAUSE);
        }
        Err(std::io::Error::new(
            std::io::ErrorKind::WouldBlock,
            "another thread of this process still writes it",
        ))
    }

    /// Keeps the writing thread from its work until the result is dropped.
    #[cfg(test)]
    pub(in crate::engine) fn hold_work(&self) -> impl Sized {
        self.begin_work().unwrap()
    }

    // === Requests ===

    /// The request that waits for an answer, if its number is higher than `answered`. The request
    /// of a process that has ended is removed, unless it means the same at any time.
    pub fn request(&self, answered: u64) -> Option<CommandRequest> {
        self.requests.read(&self.file.load(), answered)
    }

    /// Writes a request for the file's writer, or keeps waiting where this process's last one is
    /// not answered yet. `answered`: the number of the last request that was answered. False where
    /// another process's request occupies the place, or it cannot be written.
    pub fn ask(&self, body: &str, answered: u64) -> bool {
        self.requests.ask(&self.file.load(), body, answered)
    }

    /// The number of the request that this process wrote last.
    pub fn asked(&self) -> u64 {
        self.requests.asked()
    }

    /// Gives the place of the request back to other processes.
    pub fn stop_asking(&self) {
        self.requests.leave(&self.file.load());
    }
}

/// The writing thread at work. Ends the work also where writing panics: no content would be
/// written any more, and the locks would never be given back.
struct Working<'a> {
    work: &'a Work,
    file: Arc<StateFile>,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if self.work.end() {
            self.file.unlock(Part::Writer);
            self.file.unlock(Part::Deputy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> (PathBuf, SharedStateFile) {
        let dir = std::env::temp_dir().join(format!("nb-store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let store = SharedStateFile::open(&dir.join("state")).unwrap();
        (dir, store)
    }

    fn now(store: &SharedStateFile) -> u64 {
        store.term()
    }

    #[test]
    fn a_content_from_before_the_right_was_given_back_is_not_written() {
        let (dir, store) = store("term");
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        let queued = now(&store);
        store.step_down();
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        store.write(queued, "saved 1\n").unwrap();
        assert_eq!(store.load(), Ok(None));
        store.write(now(&store), "saved 2\n").unwrap();
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 2);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_content_waits_for_another_thread_that_writes() {
        let (dir, store) = store("work");
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        let busy = store.begin_work().unwrap();
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| store.write(now(&store), "saved 1\n"));
            std::thread::sleep(2 * WORK_PAUSE);
            drop(busy);
            writing.join().unwrap().unwrap();
        });
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 1);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_work_ends_where_writing_panics() {
        let (dir, store) = store("panic");
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        let panicking = std::panic::AssertUnwindSafe(|| {
            let _working = store.begin_work().unwrap();
            panic!("while writing");
        });
        assert!(std::panic::catch_unwind(panicking).is_err());
        store.write(now(&store), "saved 1\n").unwrap();
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 1);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn another_spelling_of_the_path_names_the_same_file() {
        let (dir, store) = store("spelling");
        assert!(store.is_at(&dir.join("state")));
        assert!(store.is_at(&dir.join("../").join(dir.file_name().unwrap()).join("state")));
        assert!(!store.is_at(&dir.join("other")));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn contents_are_written_in_turn_and_the_last_good_one_counts() {
        let (dir, store) = store("turn");
        assert_eq!(store.load(), Ok(None));
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        for ms in [1, 22_222_222, 3] {
            store.write(now(&store), &format!("saved {ms}\n")).unwrap();
            assert_eq!(store.load().unwrap().unwrap().saved_ms, ms);
        }
        // The content before is still there: it is used when the newest one is damaged.
        let path = dir.join("state");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(8).rposition(|w| w == b"saved 3\n").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 22_222_222);
        store.write(now(&store), "saved 4\n").unwrap();
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 4);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn nothing_is_written_without_the_right_to() {
        let (dir, store) = store("right");
        store.write(now(&store), "saved 1\n").unwrap();
        assert_eq!(store.load(), Ok(None));
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        store.step_down();
        store.write(now(&store), "saved 1\n").unwrap();
        assert_eq!(store.load(), Ok(None));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_lock_is_given_back_when_the_writer_is_done() {
        let work = Work::default();
        assert!(!work.leave_lock());
        assert!(work.begin());
        assert!(!work.begin());
        assert!(work.leave_lock() && work.leave_lock());
        assert!(work.end());
        // The right was taken again before the writer was done.
        assert!(work.begin() && work.leave_lock());
        work.keep_lock();
        assert!(!work.end());
        assert!(!work.leave_lock());
    }

    #[test]
    fn foreign_bytes_are_made_anew_and_version_1_is_read_until_then() {
        let (dir, store) = store("foreign");
        let path = dir.join("state");
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        for content in [vec![0; 100_000], b"#!/bin/sh\n".to_vec()] {
            std::fs::write(&path, content).unwrap();
            assert!(store.load().is_err());
            store.write(now(&store), "saved 7\n").unwrap();
            assert_eq!(store.load().unwrap().unwrap().saved_ms, 7);
        }
        let body = "nauthilus_backend state 1\nsaved 5\n";
        let old = format!(
            "{body}sha256 {}\n",
            super::super::text::hex_sum(body.as_bytes())
        );
        std::fs::write(&path, &old).unwrap();
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 5);
        store.write(now(&store), "saved 8\n").unwrap();
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 8);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_request_waits_until_it_is_answered() {
        let (dir, store) = store("request");
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        assert!(store.request(0).is_none());
        assert!(store.ask("operator what=\"node:a\" state=drain\n", 0));
        assert_eq!(store.load(), Ok(None));
        let request = store.request(0).unwrap();
        assert_eq!(request.body, "operator what=\"node:a\" state=drain\n");
        assert!(store.request(request.number).is_none());
        // Contents do not overwrite the request, nor the request the contents.
        store.write(now(&store), "saved 1\n").unwrap();
        assert_eq!(store.request(0).unwrap(), request);
        assert!(store.ask("another\n", request.number));
        assert_eq!(store.load().unwrap().unwrap().saved_ms, 1);
        assert!(store.request(request.number).unwrap().number > request.number);
        store.stop_asking();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn whoever_becomes_the_writer_asks_for_nothing_any_more() {
        let (dir, store) = store("promoted");
        assert!(store.ask("operator what=\"node:a\" state=drain\n", 0));
        assert_eq!(store.try_take_right(None), WriteRight::Ours);
        assert_eq!(store.request(0).unwrap().body, "");
        assert!(!store.requests.is_asking(1));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
