//! The state file in use: read when a configuration names it, written by the prober, looked
//! at by processes that wait for that role.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::format::{FILE_MAX, Saved, decode};
use crate::engine::log::{Level, Line, Log};
use crate::sys::clock;
use crate::sys::state_file::{StateFile, Version};
use crate::sys::thread::spawn_quiet;

const WRITER_STACK: usize = 64 * 1024;

/// A content that does not read may be one that is being written: so often it is read again,
const READ_AGAIN: u32 = 5;
/// after so long.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// A state file, by its name: where that comes to name another file, it is that one.
pub struct Store {
    path: PathBuf,
    /// No lock: a child may be forked while a thread is here.
    file: ArcSwap<StateFile>,
    /// How often the name was found to mean another file.
    moves: AtomicU64,
}

/// Who may write the file, and probes for all who share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    Ours,
    Theirs,
    /// The file cannot be used: who wants probes makes them himself.
    Nobodys,
}

impl Store {
    /// # Errors
    /// `state_file: cannot use /path: why`.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = StateFile::open(path)
            .map_err(|e| format!("state_file: cannot use {}: {e}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: ArcSwap::from_pointee(file),
            moves: AtomicU64::new(0),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that bears the name now: it may have been removed or replaced, or the host
    /// may have closed it. Where the name cannot be opened, the one there was.
    fn file(&self) -> Arc<StateFile> {
        let file = self.file.load_full();
        if !file.is_at(&self.path)
            && let Ok(fresh) = StateFile::open(&self.path)
        {
            self.file.store(Arc::new(fresh));
            self.moves.fetch_add(1, Ordering::AcqRel);
            return self.file.load_full();
        }
        file
    }

    /// What the file says, unless it is new or older than `max_age`.
    ///
    /// # Errors
    /// Why its content is not used, for a log line.
    pub fn load(&self, max_age: Duration) -> Result<Option<Saved>, String> {
        let content = self
            .file()
            .read(FILE_MAX)
            .map_err(|e| format!("cannot be read: {e}"))?;
        if content.is_empty() {
            return Ok(None);
        }
        let saved = decode(&content)?;
        let age = clock::unix_ms().checked_sub(saved.saved_ms);
        // A time in the future is no age to go by.
        Ok(age.filter(|&age| age <= clock::ms(max_age)).map(|_| saved))
    }

    /// The same, sure not to have met a writer at work. Blocks for a moment where the
    /// content does not read.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn load_settled(&self, max_age: Duration) -> Result<Option<Saved>, String> {
        for _ in 0..READ_AGAIN {
            match self.load(max_age) {
                Ok(saved) => return Ok(saved),
                Err(_) => std::thread::sleep(READ_AGAIN_AFTER),
            }
        }
        self.load(max_age)
    }

    /// Takes the right to probe for all who share the file, or makes sure of it.
    pub fn try_lead(&self) -> Lead {
        let mut file = self.file();
        loop {
            match file.try_lock() {
                Ok(true) => {}
                Ok(false) => return Lead::Theirs,
                Err(_) => return Lead::Nobodys,
            }
            // The lock on a file that has lost its name in the meantime is worth nothing.
            let now = self.file();
            if Arc::ptr_eq(&now, &file) {
                return Lead::Ours;
            }
            file = now;
        }
    }

    /// Changes when the name means another file, which knows nothing yet.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    pub fn step_down(&self) {
        self.file.load().unlock();
    }

    /// # Errors
    /// See [`StateFile::version`].
    pub fn version(&self) -> std::io::Result<Version> {
        self.file().version()
    }

    /// A thread that writes what it is handed: a disk may be slow, a probe must not be.
    /// It ends with its handle, once it has written what it was handed last.
    pub fn writer(self: &Arc<Self>, log: Arc<Log>) -> Option<Writer> {
        let (sender, contents) = sync_channel::<String>(1);
        let store = self.clone();
        spawn_quiet("nb-state", WRITER_STACK, move || {
            let mut failing = false;
            while let Ok(content) = contents.recv() {
                // The next content is another try.
                let written = store.file.load().write(content.as_bytes());
                if let (Err(e), false) = (&written, failing) {
                    log.write(
                        Line::new(Level::Error, "state_file_not_written")
                            .quoted("path", &store.path.display().to_string())
                            .quoted("reason", &e.to_string()),
                    );
                }
                failing = written.is_err();
            }
        })
        .ok()?;
        Some(Writer(sender))
    }
}

/// Hands contents to the writing thread.
pub struct Writer(SyncSender<String>);

impl Writer {
    /// False where the last content is still being written.
    pub fn write(&self, content: String) -> bool {
        self.0.try_send(content).is_ok()
    }
}
