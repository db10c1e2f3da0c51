//! Files and syslog as sinks of log lines. They are opened when the log is configured and inherited
//! by forked processes: a process that has dropped its privileges or changed its root directory may
//! not be able to open them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::engine::config::shown_path;
use crate::sys::append_lock::{AppendFile, AppendLock};
use crate::sys::own_descriptor::Guarded;
use crate::sys::process::root_directory;

const DEV_LOG: &str = "/dev/log";

/// How long a line waits for other processes that append to the file, and closing the file for other
/// threads. An append takes microseconds, but the system may suspend a process in the middle of one.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// A file to which lines are appended. It has no mutex: a child that is forked while a thread holds
/// it would block for ever.
pub(super) struct LogFile {
    path: PathBuf,
    file: ArcSwap<AppendFile>,
    /// The root directory in which the path was opened, by device and inode.
    root: Option<(u64, u64)>,
    /// Why the path could not be opened again after it had come to name another file.
    stale: ArcSwapOption<String>,
}

impl LogFile {
    /// # Errors
    /// Where the path cannot be opened for appending.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: ArcSwap::from_pointee(append_to(path)?),
            root: root_directory(),
            stale: ArcSwapOption::const_empty(),
        })
    }

    pub(super) fn name(&self) -> String {
        shown_path(&self.path)
    }

    /// Why the path could not be opened again, for the operator.
    pub(super) fn warning(&self) -> Option<String> {
        self.stale.load().as_deref().cloned()
    }

    /// Opens the file again where the path names another one, as after a rotation. Where that
    /// fails, lines go on to the one that is open, and [`LogFile::warning`] says so.
    pub(super) fn refresh(&self) {
        if self.is_current() {
            if self.stale.load().is_some() {
                self.stale.store(None);
            }
            return;
        }
        let opened = if self.root == root_directory() {
            append_to(&self.path)
        } else {
            Err(io::Error::other(
                "the process has another root directory now",
            ))
        };
        match opened {
            Ok(file) => {
                self.file.store(Arc::new(file));
                self.stale.store(None);
            }
            Err(error) if self.stale.load().is_none() => {
                let text = format!(
                    "log: {} cannot be opened again ({error}): lines go on to the file that was open",
                    shown_path(&self.path)
                );
                self.stale.store(Some(Arc::new(text)));
            }
            Err(_) => {}
        }
    }

    /// Whether the open file is still the one that the path names.
    fn is_current(&self) -> bool {
        let open = self.file.load();
        let Ok(opened) = open.get().and_then(File::metadata) else {
            // The host has closed it.
            return false;
        };
        if self.root != root_directory() {
            // The path cannot be compared under another root directory. A file without a link was
            // deleted.
            return opened.nlink() > 0;
        }
        let same = |named: Metadata| (named.dev(), named.ino()) == (opened.dev(), opened.ino());
        std::fs::metadata(&self.path).is_ok_and(same)
    }

    /// Appends a line, whole or not at all. `waits`: whether it may be written without the lock, after
    /// a long wait for a process that was stopped while it had it.
    ///
    /// # Errors
    /// Where there is no room for the whole line, or the file cannot be used, or other processes have
    /// its lock.
    pub(super) fn write(&self, line: &str, waits: bool) -> io::Result<()> {
        self.refresh();
        let open = self.file.load();
        let file = open.get()?;
        if !file.metadata()?.is_file() {
            return append_to_stream(file, line.as_bytes());
        }
        let _lock = match AppendLock::take(&open, LOCK_PATIENCE) {
            Ok(lock) => Some(lock),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && !waits => {
                return Err(io::Error::other("another process has the file locked"));
            }
            // The file system has no locks, or a process was stopped while it had the lock. That it
            // was in the middle of a line without room then is unlikely.
            Err(_) => None,
        };
        append_line(file, line.as_bytes())
    }
}

fn append_to(path: &Path) -> io::Result<AppendFile> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        // With O_NONBLOCK opening a FIFO that nobody reads fails at once instead of blocking, and
        // lines to a FIFO with a slow reader are lost instead of delaying the writer.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    AppendFile::new(file, LOCK_PATIENCE)
}

/// Appends a line to a FIFO or a device.
fn append_to_stream(file: &File, line: &[u8]) -> io::Result<()> {
    if file.metadata()?.file_type().is_fifo() && line.len() > libc::PIPE_BUF {
        // Longer writes are not atomic: the pipe may take only a part of the line.
        return Err(io::Error::other("the line is too long for a pipe"));
    }
    match write_once(file, line)? {
        wrote if wrote == line.len() => Ok(()),
        _ => Err(io::Error::other("no room for the whole line")),
    }
}

/// Appends a line to a regular file. The caller has the file's lock: without it, a line that another
/// process appends between the comparison of the length and `set_len` would be cut off as well, and
/// its writer would not count it as lost.
fn append_line(mut file: &File, line: &[u8]) -> io::Result<()> {
    let wrote = write_once(file, line)?;
    if wrote == line.len() {
        return Ok(());
    }
    // A full disk took only a part of the line. It is cut off again, unless a program that does not
    // take the lock has appended to the file since.
    let end = file.stream_position()?;
    let part = u64::try_from(wrote).unwrap_or(u64::MAX);
    if file.metadata()?.len() == end {
        file.set_len(end.saturating_sub(part))?;
    }
    Err(io::Error::other("no room for the whole line"))
}

/// One call of the system: a second one would put what other programs append into the line.
fn write_once(mut file: &File, line: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(line) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            wrote => return wrote,
        }
    }
}

/// The system's logger.
#[derive(Default)]
pub(super) struct Syslog {
    /// Connected when the log was configured. A blocking socket, only used by the log's own thread.
    socket: ArcSwapOption<Guarded<UnixDatagram>>,
    /// Whether the last attempt to reach the logger failed.
    missing: AtomicBool,
}

impl Syslog {
    /// Connects to the logger. A missing logger is no error: it may be started later.
    pub(super) fn open() -> Self {
        let syslog = Self::default();
        match connect(true) {
            Ok(socket) => syslog.socket.store(Some(Arc::new(socket))),
            Err(_) => syslog.missing.store(true, Ordering::Release),
        }
        syslog
    }

    pub(super) fn warning(&self) -> Option<String> {
        let missing = self.missing.load(Ordering::Acquire);
        missing.then(|| format!("log: syslog: there is no {DEV_LOG}: lines are lost"))
    }

    /// Sends a datagram to the logger. Blocks while the logger has no room if `waits`.
    ///
    /// # Errors
    /// Where there is no logger, or no room for a line that does not wait.
    pub(super) fn write(&self, datagram: &str, waits: bool) -> io::Result<()> {
        let bytes = datagram.as_bytes();
        if !waits {
            // The socket of the log's thread is a blocking one, so another one is opened.
            let sent = connect(false).and_then(|socket| socket.get()?.send(bytes));
            self.missing.store(sent.is_err(), Ordering::Release);
            return sent.map(drop);
        }
        if let Some(open) = &*self.socket.load()
            && open.get().and_then(|socket| socket.send(bytes)).is_ok()
        {
            self.missing.store(false, Ordering::Release);
            return Ok(());
        }
        // The logger was restarted, or the host has closed the socket.
        let sent = connect(true).and_then(|fresh| {
            fresh.get()?.send(bytes)?;
            self.socket.store(Some(Arc::new(fresh)));
            Ok(())
        });
        self.missing.store(sent.is_err(), Ordering::Release);
        sent
    }
}

fn connect(waits: bool) -> io::Result<Guarded<UnixDatagram>> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(!waits)?;
    socket
        .connect(DEV_LOG)
        .map_err(|e| io::Error::new(e.kind(), format!("{DEV_LOG}: {e}")))?;
    Guarded::new(socket)
}
