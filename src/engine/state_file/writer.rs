//! The thread that writes the state file: a slow disk must not delay probes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::file::SharedStateFile;
use crate::engine::log::{Level, Line, Log};
use crate::sys::thread::spawn_quiet;

const STACK: usize = 64 * 1024;

/// The name of the thread.
pub const WRITER_THREAD: &str = "nb-state";

/// The handle of the writing thread.
pub struct Writer {
    file: Arc<SharedStateFile>,
    contents: SyncSender<Content>,
    is_busy: Arc<AtomicBool>,
}

/// A content on its way to the disk.
struct Content {
    text: String,
    /// The value of [`SharedStateFile::term`] when it was made.
    term: u64,
    /// The log that an error goes to. A reload may change it.
    log: Arc<Log>,
    _busy: Busy,
}

/// Marks the thread as busy until it is dropped, also by a panic of the thread.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Writer {
    /// Starts the thread. It ends when the handle is dropped, after it has written the content that it has.
    ///
    /// # Errors
    /// The system allows no thread.
    pub fn start(file: &Arc<SharedStateFile>) -> io::Result<Self> {
        let (sender, contents) = sync_channel(1);
        let written = file.clone();
        spawn_quiet(WRITER_THREAD, STACK, move || write_all(&written, &contents))?;
        Ok(Self {
            file: file.clone(),
            contents: sender,
            is_busy: Arc::default(),
        })
    }

    /// Whether the thread has a content to write. It takes no further one meanwhile: by the time that the disk
    /// has room for that, there would be a newer one.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Hands over a content, unless the thread is busy. False where it is, or has ended.
    pub fn write(&self, text: String, log: &Arc<Log>) -> bool {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return false;
        }
        let content = Content {
            text,
            term: self.file.term(),
            log: log.clone(),
            _busy: Busy(self.is_busy.clone()),
        };
        self.contents.try_send(content).is_ok()
    }
}

fn write_all(file: &SharedStateFile, contents: &Receiver<Content>) {
    // The log that has a line about the present failure. Of several failures in a row only the first one is
    // logged; the next content is written all the same.
    let mut told: Option<Arc<Log>> = None;
    while let Ok(content) = contents.recv() {
        let Err(error) = file.write(content.term, &content.text) else {
            told = None;
            continue;
        };
        if !told.is_some_and(|log| Arc::ptr_eq(&log, &content.log)) {
            content.log.write(
                Line::new(Level::Error, "state_file_not_written")
                    .quoted("path", &file.path().display().to_string())
                    .quoted("reason", &error.to_string()),
            );
        }
        told = Some(content.log.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::engine::config::LogSink;
    use crate::engine::state_file::file::WriteRight;

    #[test]
    fn a_busy_thread_takes_no_content() {
        let dir = std::env::temp_dir().join(format!("nb-writer-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let file = Arc::new(SharedStateFile::open(&dir.join("state")).unwrap());
        assert_eq!(file.try_take_right(None), WriteRight::Ours);
        let log = Arc::new(Log::open(&LogSink::None).unwrap());
        let writer = Writer::start(&file).unwrap();
        let await_idle = || {
            let end = Instant::now() + Duration::from_secs(60);
            while writer.is_busy() {
                assert!(Instant::now() < end);
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        {
            // As while the disk is slow.
            let _writing = file.hold_work();
            assert!(writer.write("saved 1\n".to_owned(), &log));
            assert!(writer.is_busy());
            assert!(!writer.write("saved 2\n".to_owned(), &log));
            assert!(writer.is_busy());
        }
        await_idle();
        assert_eq!(file.load().unwrap().unwrap().saved_ms, 1);
        assert!(writer.write("saved 3\n".to_owned(), &log));
        await_idle();
        assert_eq!(file.load().unwrap().unwrap().saved_ms, 3);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
