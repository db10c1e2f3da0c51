//! Log lines: `time level event=… key=value …`, one line per event.
//!
//! A probe never waits for a sink: lines go through a bounded queue to a thread of their own. Lines
//! that the queue has no room for or that the sink refuses are lost and counted. `status()` shows
//! how many were lost; where a file or syslog refuses a line, the first refusal is also reported on
//! standard error.

mod sinks;

use std::fmt::{self, Write as _};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

use self::sinks::{LogFile, Syslog};
use super::config::LogSink;
use crate::sys::signals::without_write_signals;
use crate::sys::stderr;
use crate::sys::thread::spawn_quiet;

/// How many lines may wait for the sink.
const QUEUE: usize = 1024;
const STACK: usize = 128 * 1024;

/// The longest value in quotes, in characters. Reasons have a few hundred, with a path more.
const LONGEST: usize = 1024;

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

/// A log line that is being built.
#[must_use]
pub struct Line {
    /// When the line was created; a slow sink may write it later.
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

    /// Adds a value that needs no quotes: it must not contain blanks.
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        // Writing to a String does not fail.
        let _ = write!(self.text, " {key}={value}");
        self
    }

    /// Adds a value in quotes; control characters, quotes and backslashes are escaped, so that the
    /// line stays one line. A value may be from a peer: only its first [`LONGEST`] characters are taken.
    pub fn quoted(mut self, key: &str, value: &str) -> Self {
        let _ = write!(self.text, " {key}=\"");
        for c in value.chars().take(LONGEST) {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                c if c.is_control() => self.text.extend(c.escape_default()),
                c => self.text.push(c),
            }
        }
        if value.chars().nth(LONGEST).is_some() {
            self.text.push_str("...");
        }
        self.text.push('"');
        self
    }
}

/// A log of one process. Its thread starts with the first line and ends with the log.
pub struct Log {
    sink: Arc<Sink>,
    losses: Arc<Losses>,
    queue: Mutex<Option<SyncSender<Line>>>,
    /// How many lines the queue had no room for since the last `log_lines_lost` line.
    dropped: AtomicU64,
}

/// An open sink.
enum Sink {
    None,
    Stderr,
    File(LogFile),
    Syslog(Syslog),
}

/// Counts lost lines.
#[derive(Default)]
struct Losses {
    count: AtomicU64,
    /// How many of them [`Log::take_lost`] has returned.
    taken: AtomicU64,
    /// Why the last one was lost.
    reason: ArcSwapOption<String>,
    is_told: AtomicBool,
}

impl Losses {
    fn add(&self, reason: &str) {
        self.count.fetch_add(1, Ordering::AcqRel);
        if self.reason.load().as_deref().map(String::as_str) != Some(reason) {
            self.reason.store(Some(Arc::new(reason.to_owned())));
        }
    }
}

impl Log {
    /// Opens a log to `sink`.
    ///
    /// # Errors
    /// Where a file cannot be opened for appending.
    pub fn open(sink: &LogSink) -> io::Result<Self> {
        let sink = match sink {
            LogSink::None => Sink::None,
            LogSink::Stderr => Sink::Stderr,
            LogSink::File(path) => Sink::File(LogFile::open(path)?),
            LogSink::Syslog => Sink::Syslog(Syslog::open()),
        };
        Ok(Self::to(Arc::new(sink)))
    }

    fn to(sink: Arc<Sink>) -> Self {
        Self {
            sink,
            losses: Arc::default(),
            queue: Mutex::new(None),
            dropped: AtomicU64::new(0),
        }
    }

    /// A log to the same sink for a forked child. It does not touch the inherited queue, whose lock
    /// a thread of the parent may have held at the fork.
    pub fn after_fork(&self) -> Self {
        Self::to(self.sink.clone())
    }

    /// Opens the log file again if it was rotated, where this process may.
    pub fn reopen(&self) {
        if let Sink::File(file) = &*self.sink {
            file.refresh();
        }
    }

    /// How many lines this process has lost.
    pub fn lost(&self) -> u64 {
        self.losses.count.load(Ordering::Acquire)
    }

    /// How many lines were lost since the last call.
    pub fn take_lost(&self) -> u64 {
        let count = self.lost();
        count.saturating_sub(self.losses.taken.swap(count, Ordering::AcqRel))
    }

    /// Counts the lines that the log before this one has lost as lost by this one, and those of them that were
    /// taken as taken.
    pub fn inherit_losses(&self, before: &Self) {
        let count = before.lost();
        if count > 0 {
            let taken = before.losses.taken.swap(count, Ordering::AcqRel);
            self.losses.taken.fetch_add(taken, Ordering::AcqRel);
            self.losses.count.fetch_add(count, Ordering::AcqRel);
            self.losses.reason.store(before.losses.reason.load_full());
        }
    }

    /// Warnings for the operator: a sink that cannot be used, and lost lines.
    pub fn warnings(&self) -> Vec<String> {
        let sink = match &*self.sink {
            Sink::None | Sink::Stderr => None,
            Sink::File(file) => file.warning(),
            Sink::Syslog(syslog) => syslog.warning(),
        };
        let lost = self.lost();
        let losses = (lost > 0).then(|| {
            let reason = self.losses.reason.load();
            let reason = reason.as_deref().map_or("", String::as_str);
            format!("log: {lost} lines of this process were lost: {reason}")
        });
        sink.into_iter().chain(losses).collect()
    }

    /// Writes a line on the calling thread. For calls that configure: they must not start a thread,
    /// since the host may fork after them. Never blocks for longer than other processes take to append to the
    /// same file, at most a second: a line that would have to wait is lost.
    pub fn write_here(&self, line: &Line) {
        without_write_signals(|| put(&self.sink, &self.losses, line, false));
    }

    /// Queues a line for the log's thread. Never waits for the sink; where the queue is full the
    /// line is lost.
    pub fn write(&self, line: Line) {
        if matches!(*self.sink, Sink::None) {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_none() {
            *queue = start(self.sink.clone(), self.losses.clone());
        }
        let Some(sender) = queue.as_ref() else {
            self.losses.add("the system allows no thread to write them");
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
                self.losses
                    .add("they came faster than they could be written");
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn start(sink: Arc<Sink>, losses: Arc<Losses>) -> Option<SyncSender<Line>> {
    let (sender, lines) = sync_channel(QUEUE);
    spawn_quiet("nb-log", STACK, move || {
        while let Ok(line) = lines.recv() {
            put(&sink, &losses, &line, true);
        }
    })
    .ok()?;
    Some(sender)
}

/// Writes a line to its sink, and counts it if that fails. `waits`: whether it may block until the
/// sink has room.
fn put(sink: &Sink, losses: &Losses, line: &Line, waits: bool) {
    let done = match sink {
        Sink::None => Ok(()),
        Sink::Stderr => {
            let text = full_line(line);
            if waits || stderr::has_room_for(text.len()) {
                stderr::write_all(text.as_bytes())
            } else {
                Err(io::Error::other("nobody reads standard error"))
            }
        }
        Sink::File(file) => file.write(&full_line(line), waits),
        Sink::Syslog(syslog) => syslog.write(&datagram(line), waits),
    };
    let Err(error) = done else {
        return;
    };
    losses.add(&error.to_string());
    let name = match sink {
        Sink::None | Sink::Stderr => return,
        Sink::File(file) => file.name(),
        Sink::Syslog(_) => "syslog".to_owned(),
    };
    if !losses.is_told.swap(true, Ordering::AcqRel) {
        let text = format!("nauthilus_backend: log lines to {name} are lost: {error}\n");
        if stderr::has_room_for(text.len()) {
            // A failure is ignored: there is no other place to report it.
            let _ = stderr::write_all(text.as_bytes());
        }
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

/// A line as a syslog datagram, without a time, which the logger adds.
fn datagram(line: &Line) -> String {
    format!(
        "<{}>nauthilus_backend[{}]: {} {}",
        line.level.syslog_priority(),
        std::process::id(),
        line.level.name(),
        line.text
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;
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
    fn a_long_value_is_cut() {
        let line = |count| Line::new(Level::Warning, "first").quoted("reason", &"é".repeat(count));
        let shown = |text: &str| format!("event=first reason=\"{text}\"");
        assert_eq!(line(LONGEST).text, shown(&"é".repeat(LONGEST)));
        let cut = shown(&("é".repeat(LONGEST) + "..."));
        assert_eq!(line(LONGEST + 1).text, cut);
        assert_eq!(line(1_000_000).text, cut);
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

    #[test]
    fn a_rotated_file_that_cannot_be_opened_again_goes_on_where_it_was() {
        let dir = std::env::temp_dir().join(format!("nb-log-stale-{}", std::process::id()));
        let folder = dir.join("log\n");
        std::fs::create_dir_all(&folder).unwrap();
        let log = Log::open(&LogSink::File(folder.join("x"))).unwrap();
        assert_eq!(log.warnings(), Vec::<String>::new());
        // The path stops working, as for a process that has lost the right to enter the folder.
        std::fs::rename(&folder, dir.join("old")).unwrap();
        log.write_here(&Line::new(Level::Info, "second"));
        let text = std::fs::read_to_string(dir.join("old/x")).unwrap();
        assert!(text.ends_with("info event=second\n"));
        let warning = log.warnings().remove(0);
        assert!(
            warning.starts_with("log: /") && warning.contains(r"/log\n/x cannot be opened again"),
            "{warning}"
        );
        assert!(!folder.exists());
        assert_eq!(log.lost(), 0);
        // Once the path works again, the file is opened again.
        std::fs::create_dir(&folder).unwrap();
        log.reopen();
        assert_eq!(log.warnings(), Vec::<String>::new());
        log.write_here(&Line::new(Level::Info, "third"));
        let text = std::fs::read_to_string(folder.join("x")).unwrap();
        assert!(text.ends_with("info event=third\n"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_line_without_room_is_lost_and_counted() {
        let log = Log::open(&LogSink::File("/dev/full".into())).unwrap();
        log.write_here(&Line::new(Level::Info, "first"));
        log.write_here(&Line::new(Level::Info, "second"));
        assert_eq!((log.lost(), log.take_lost(), log.take_lost()), (2, 2, 0));
        let warning = log.warnings().remove(0);
        assert!(
            warning.contains("2 lines") && warning.contains("No space left"),
            "{warning}"
        );
        // A configuration replaces the log before the metrics have counted the third lost line. The new log
        // reports that line to the metrics, and the warning counts all three.
        log.write_here(&Line::new(Level::Info, "third"));
        let next = Log::open(&LogSink::None).unwrap();
        next.inherit_losses(&log);
        assert_eq!((log.take_lost(), next.take_lost()), (0, 1));
        assert!(next.warnings().remove(0).contains("3 lines"));
    }
}
