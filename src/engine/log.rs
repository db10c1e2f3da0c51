//! Log lines of state changes: `time level event=… key=value …`, one line each.
//!
//! A probe never waits for a sink: lines go through a bounded queue to a thread of their
//! own, and are counted instead of kept where the sink is too slow.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::config::LogSink;
use crate::sys::own_descriptor::Guarded;
use crate::sys::signals::without_write_signals;
use crate::sys::stderr;
use crate::sys::thread::spawn_quiet;

/// Lines that may wait for the sink.
const QUEUE: usize = 1024;
const STACK: usize = 128 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// RFC 5424 §6.2.1, facility `daemon` (3).
    fn syslog_priority(self) -> u8 {
        let severity = match self {
            Self::Info => 6,
            Self::Warning => 4,
            Self::Error => 3,
        };
        3 * 8 + severity
    }
}

/// One line being put together.
#[must_use]
pub struct Line {
    /// When it was begun: a slow sink takes it later.
    at: SystemTime,
    level: Level,
    text: String,
}

impl Line {
    pub fn new(level: Level, event: &str) -> Self {
        Self {
            at: SystemTime::now(),
            level,
            text: format!("event={event}"),
        }
    }

    /// A value without blanks, as it is.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        // Writing to a String does not fail.
        let _ = write!(self.text, " {key}={value}");
        self
    }

    /// A value in quotes, control characters, quotes and backslashes escaped.
    pub fn quoted(mut self, key: &str, value: &str) -> Self {
        let _ = write!(self.text, " {key}=\"");
        for c in value.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                c if c.is_control() => self.text.extend(c.escape_default()),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        self
    }
}

/// A log of one process. Its thread starts with the first line and ends with the log.
pub struct Log {
    sink: LogSink,
    queue: Mutex<Option<SyncSender<Line>>>,
    dropped: AtomicU64,
}

impl Log {
    /// A log to `sink`.
    ///
    /// # Errors
    /// Where a file cannot be opened for appending.
    pub fn open(sink: &LogSink) -> io::Result<Self> {
        if let LogSink::File(path) = sink {
            open_file(path)?;
        }
        Ok(Self {
            sink: sink.clone(),
            queue: Mutex::new(None),
            dropped: AtomicU64::new(0),
        })
    }

    /// A log to the same sink for a process that inherited this one; nothing that a thread
    /// of the parent may have held is touched.
    pub fn after_fork(&self) -> Self {
        Self {
            sink: self.sink.clone(),
            queue: Mutex::new(None),
            dropped: AtomicU64::new(0),
        }
    }

    /// Writes a line from the calling thread, for calls that configure: they start no thread,
    /// since the host may fork after them. A line that would have to wait is lost.
    pub fn write_here(&self, line: &Line) {
        let ready = self.sink != LogSink::Stderr || stderr::has_room_for(full_line(line).len());
        if ready {
            let mut sink = Sink::new(self.sink.clone());
            sink.waits = false;
            without_write_signals(|| sink.write(line));
        }
    }

    /// Hands a line over. Never blocks on the sink.
    pub fn write(&self, line: Line) {
        if self.sink == LogSink::None {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_none() {
            *queue = start(self.sink.clone());
        }
        let Some(sender) = queue.as_ref() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let note = Line::new(Level::Warning, "log_lines_lost").with("count", lost);
            if sender.try_send(note).is_err() {
                self.dropped.fetch_add(lost, Ordering::Relaxed);
            }
        }
        match sender.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn start(sink: LogSink) -> Option<SyncSender<Line>> {
    let (sender, lines) = sync_channel(QUEUE);
    spawn_quiet("nb-log", STACK, move || {
        let mut sink = Sink::new(sink);
        while let Ok(line) = lines.recv() {
            sink.write(&line);
        }
    })
    .ok()?;
    Some(sender)
}

/// A sink and what is open for it.
struct Sink {
    kind: LogSink,
    file: Option<Guarded<File>>,
    socket: Option<Guarded<UnixDatagram>>,
    /// Whether a line waits for the logger to have room.
    waits: bool,
}

impl Sink {
    fn new(kind: LogSink) -> Self {
        Self {
            kind,
            file: None,
            socket: None,
            waits: true,
        }
    }

    fn write(&mut self, line: &Line) {
        // A sink that fails loses the line: there is nowhere else to say so.
        let _ = match &self.kind {
            LogSink::None => Ok(()),
            LogSink::Stderr => stderr::write_all(full_line(line).as_bytes()),
            LogSink::File(path) => write_file(&mut self.file, path, line),
            LogSink::Syslog => write_syslog(&mut self.socket, line, self.waits),
        };
    }
}

fn full_line(line: &Line) -> String {
    format!(
        "{} {} {}\n",
        humantime::format_rfc3339_millis(line.at),
        line.level.name(),
        line.text
    )
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        // A FIFO that nobody reads is an error, and does not hold up the caller until somebody
        // does; one whose reader is slow loses lines.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Appends to the file that bears the name now: it may have been rotated away.
fn write_file(file: &mut Option<Guarded<File>>, path: &PathBuf, line: &Line) -> io::Result<()> {
    let is_current = |file: &File| -> io::Result<bool> {
        let (opened, named) = (file.metadata()?, std::fs::metadata(path)?);
        Ok((opened.dev(), opened.ino()) == (named.dev(), named.ino()))
    };
    // The host may have closed it, too.
    let open = file.as_ref().and_then(|file| file.get().ok());
    if !open.is_some_and(|file| is_current(file).unwrap_or(false)) {
        *file = Some(Guarded::new(open_file(path)?)?);
    }
    match file {
        Some(file) => file.get()?.write_all(full_line(line).as_bytes()),
        None => Ok(()),
    }
}

/// A datagram as the system's logger takes it; it adds the time itself.
fn write_syslog(
    socket: &mut Option<Guarded<UnixDatagram>>,
    line: &Line,
    waits: bool,
) -> io::Result<()> {
    let text = format!(
        "<{}>nauthilus_backend[{}]: {} {}",
        line.level.syslog_priority(),
        std::process::id(),
        line.level.name(),
        line.text
    );
    if let Some(connected) = socket.as_ref().and_then(|socket| socket.get().ok())
        && connected.send(text.as_bytes()).is_ok()
    {
        return Ok(());
    }
    // The logger was restarted, or this is the first line.
    let fresh = UnixDatagram::unbound()?;
    fresh.set_nonblocking(!waits)?;
    fresh.connect("/dev/log")?;
    fresh.send(text.as_bytes())?;
    *socket = Some(Guarded::new(fresh)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn values_are_quoted_so_that_a_line_stays_one() {
        let line = Line::new(Level::Warning, "target_down")
            .with("target", "imap://10.0.0.1:993")
            .quoted("reason", "a \"b\" \\ c\nd")
            .with("after", 3);
        assert_eq!(
            line.text,
            r#"event=target_down target=imap://10.0.0.1:993 reason="a \"b\" \\ c\nd" after=3"#
        );
    }

    #[test]
    fn a_file_gets_whole_lines_and_survives_rotation() {
        let dir = std::env::temp_dir().join(format!("nb-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        let log = Log::open(&LogSink::File(path.clone())).unwrap();
        let wait_for = |path: &Path, needle: &str| {
            let end = Instant::now() + Duration::from_secs(5);
            while !std::fs::read_to_string(path).is_ok_and(|text| text.contains(needle)) {
                assert!(Instant::now() < end, "no {needle} in {}", path.display());
                std::thread::yield_now();
            }
        };
        log.write(Line::new(Level::Info, "first"));
        wait_for(&path, "info event=first\n");
        std::fs::rename(&path, dir.join("old")).unwrap();
        log.write(Line::new(Level::Error, "second"));
        wait_for(&path, "error event=second\n");
        let old = std::fs::read_to_string(dir.join("old")).unwrap();
        assert_eq!(old.lines().count(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(Log::open(&LogSink::File("/nonexistent/x".into())).is_err());
    }
}
