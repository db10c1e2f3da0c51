//! The state file in use: read when a configuration names it, written by the prober, looked
//! at by processes that wait for that role.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use super::state::{FILE_MAX, Saved, decode};
use crate::sys::clock;
use crate::sys::state_file::{StateFile, Version};
use crate::sys::thread::spawn_quiet;

const WRITER_STACK: usize = 64 * 1024;

/// An open state file.
pub struct Store {
    path: PathBuf,
    file: Arc<StateFile>,
}

impl Store {
    /// # Errors
    /// `state_file: cannot use /path: why`.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = StateFile::open(path)
            .map_err(|e| format!("state_file: cannot use {}: {e}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says, unless it is new or older than `max_age`.
    ///
    /// # Errors
    /// Why its content is not used, for a log line.
    pub fn load(&self, max_age: Duration) -> Result<Option<Saved>, String> {
        let content = self.file.read(FILE_MAX).map_err(|e| e.to_string())?;
        if content.is_empty() {
            return Ok(None);
        }
        let saved = decode(&content)?;
        let age = clock::unix_ms().checked_sub(saved.saved_ms);
        // A time in the future is no age to go by.
        Ok(age.filter(|&age| age <= clock::ms(max_age)).map(|_| saved))
    }

    /// Takes the right to probe for all who share the file, or makes sure of it.
    ///
    /// # Errors
    /// See [`StateFile::try_lock`].
    pub fn try_lead(&self) -> io::Result<bool> {
        self.file.try_lock()
    }

    pub fn step_down(&self) {
        self.file.unlock();
    }

    /// # Errors
    /// See [`StateFile::version`].
    pub fn version(&self) -> io::Result<Version> {
        self.file.version()
    }

    /// A thread that writes what it is handed: a disk may be slow, a probe must not be.
    /// It ends with its handle.
    pub fn writer(&self) -> Option<Writer> {
        let (sender, contents) = sync_channel::<String>(1);
        let file = self.file.clone();
        spawn_quiet("nb-state", WRITER_STACK, move || {
            while let Ok(content) = contents.recv() {
                // The next content is another try.
                let _ = file.write(content.as_bytes());
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
