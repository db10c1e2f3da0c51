//! Opening, locking, reading and writing the state file, which outlives the process and is shared
//! by processes that were not forked from one another.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::access;
use super::clock;
use super::own_descriptor::OwnDescriptor;

/// An open state file.
pub struct StateFile(OwnDescriptor);

/// What the title of every version of the format begins with.
pub const TITLE: &str = "nauthilus_backend state ";

/// How much of a file is looked at before it is used. A new file has zeros in place of the title
/// until its first content is written.
const FIRST_PAGE: usize = 4096;

/// The locks of a state file. Each is a record lock on one byte, which the kernel releases when the
/// holder dies. Earlier versions of this module lock the whole file, and so hold all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The right to write the content.
    Writer,
    /// The same right, for a process that stands in while the holder of `Writer` is stopped
    /// (SIGSTOP, a debugger) and so keeps its lock without writing.
    Deputy,
    /// The right to write to the part of the file that holds requests.
    Requests,
}

impl Part {
    fn byte(self) -> libc::off_t {
        match self {
            Self::Writer => 0,
            Self::Deputy => 1,
            Self::Requests => 2,
        }
    }
}

/// Tells whether the content has changed, without reading it: the file's modification time, size,
/// device and inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version {
    modified: (i64, i64),
    size: i64,
    file: (u64, u64),
}

/// Two contents written within this time may have the same modification time: file systems take it
/// from a clock that advances in steps, of at most 10 ms, and this leaves a margin.
const TICK_MS: u64 = 50;

impl Version {
    /// Whether any content that is written from now on gets a different version.
    pub fn is_settled(&self) -> bool {
        let (seconds, nanos) = self.modified;
        let ms = u64::try_from(seconds.saturating_mul(1000) + nanos / 1_000_000).unwrap_or(0);
        clock::unix_ms().abs_diff(ms) > TICK_MS
    }
}

impl StateFile {
    /// Opens the file, or creates it with mode 0600.
    ///
    /// # Errors
    /// The system's error. The path is a symbolic link, or no regular file. The file belongs to
    /// another user than root or the one that runs this process (a process of root may use any
    /// user's). Its group or others may write it. It has a second hard link. It holds something
    /// else than a state.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Self::open_unvetted(path, libc::O_CREAT)?;
        file.vet()?;
        file.vet_content()?;
        file.keep_from_others()?;
        Ok(file)
    }

    /// Whether [`StateFile::open`] would open the file, or create it. Creates and changes nothing.
    ///
    /// # Errors
    /// As [`StateFile::open`].
    pub fn check(path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Err(io::Error::other("a file expected, got a directory"));
        }
        match Self::open_unvetted(path, 0) {
            Ok(file) => file.vet().and_then(|()| file.vet_content()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => access::may_create(path),
            Err(error) => Err(error),
        }
    }

    fn open_unvetted(path: &Path, further_flags: libc::c_int) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| io::Error::other("the path holds a NUL"))?;
        let flags = libc::O_RDWR
            | libc::O_CLOEXEC
            | libc::O_NOFOLLOW
            | libc::O_NONBLOCK
            | libc::O_NOCTTY
            | further_flags;
        // SAFETY: `name` is a C string that lives during the call, which opens a new descriptor.
        let fd = unsafe { libc::open(name.as_ptr(), flags, 0o600) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::ELOOP) => io::Error::other("a link, which is not followed"),
                _ => error,
            });
        }
        Ok(Self(OwnDescriptor::adopt(fd)?))
    }

    /// Refuses a file that another user could have put there or can change.
    fn vet(&self) -> io::Result<()> {
        let stat = self.stat()?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(io::Error::other("no regular file"));
        }
        // SAFETY: the call takes no arguments and cannot fail.
        let user = unsafe { libc::geteuid() };
        if user != 0 && stat.st_uid != user && stat.st_uid != 0 {
            return Err(io::Error::other("it belongs to another user"));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(io::Error::other("others may write it"));
        }
        if stat.st_nlink > 1 {
            return Err(io::Error::other("it has a second name (a hard link)"));
        }
        Ok(())
    }

    /// Refuses a file of somebody else's, which would be overwritten.
    fn vet_content(&self) -> io::Result<()> {
        let page = self.read_at(0, FIRST_PAGE)?;
        let is_new = page.iter().all(|&byte| byte == 0);
        if is_new || page.starts_with(TITLE.as_bytes()) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "no state file, and it would be overwritten: a new file expected, or one that begins with \"{}\"",
            TITLE.trim_end()
        )))
    }

    fn keep_from_others(&self) -> io::Result<()> {
        let stat = self.stat()?;
        if stat.st_mode & 0o077 != 0 {
            // If the system refuses, others can read the verdicts, which is harmless.
            // SAFETY: the call takes no pointers, and the descriptor was just opened by `open`.
            unsafe { libc::fchmod(self.0.raw(), 0o600) };
        }
        Ok(())
    }

    /// Whether the path still names this file and the host has not closed the descriptor.
    pub fn is_at(&self, path: &Path) -> bool {
        match (self.stat(), std::fs::symlink_metadata(path)) {
            (Ok(mine), Ok(named)) => (mine.st_dev, mine.st_ino) == (named.dev(), named.ino()),
            _ => false,
        }
    }

    fn stat(&self) -> io::Result<libc::stat> {
        let fd = self.0.check()?;
        // SAFETY: a `stat` holds only integers, for which all-zero is a valid value.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` has room for what the call writes, and `fd` was checked to be ours.
        match unsafe { libc::fstat(fd, &raw mut stat) } {
            0 => Ok(stat),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes a lock for this process, or confirms that the process still has it. False if another
    /// process has it.
    ///
    /// # Errors
    /// `NotConnected` if the host has closed the descriptor; else the system's error.
    pub fn try_lock(&self, part: Part) -> io::Result<bool> {
        self.0.try_lock_byte(part.byte())
    }

    pub fn unlock(&self, part: Part) {
        self.0.unlock_byte(part.byte());
    }

    /// The id of the other process that has a lock; 0 if that process is in a PID namespace in
    /// which it has no id for this one. None if no other process has the lock.
    pub fn holder(&self, part: Part) -> Option<u64> {
        self.0.holder_of_byte(part.byte())
    }

    /// The version of the present content.
    ///
    /// # Errors
    /// See [`StateFile::try_lock`].
    pub fn version(&self) -> io::Result<Version> {
        let stat = self.stat()?;
        Ok(Version {
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            size: stat.st_size,
            file: (stat.st_dev, stat.st_ino),
        })
    }

    /// Reads `length` bytes from `offset` on, or fewer if the file ends before.
    ///
    /// # Errors
    /// See [`StateFile::try_lock`].
    pub fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let fd = self.0.check()?;
        let mut content = Vec::new();
        let mut chunk = [0_u8; 16 * 1024];
        while content.len() < length {
            let at = offset_of(offset, content.len())?;
            let wanted = chunk.len().min(length - content.len());
            // SAFETY: `chunk` has room for `wanted` bytes, and `fd` was checked to be ours.
            let read = unsafe { libc::pread(fd, chunk.as_mut_ptr().cast(), wanted, at) };
            let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
            if read == 0 {
                break;
            }
            content.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
        Ok(content)
    }

    /// Writes into the present file. A new file that replaces it would need a directory that is
    /// writable, and would not have the locks.
    ///
    /// # Errors
    /// See [`StateFile::try_lock`]; also a full disk, or a file larger than a limit.
    pub fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        let fd = self.0.check()?;
        let mut written = 0;
        while let Some(rest) = content.get(written..).filter(|rest| !rest.is_empty()) {
            let at = offset_of(offset, written)?;
            // SAFETY: the pointer and the length are those of `rest`, which the call only reads,
            // and `fd` was checked to be ours.
            let wrote = unsafe { libc::pwrite(fd, rest.as_ptr().cast(), rest.len(), at) };
            written += match usize::try_from(wrote) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => wrote,
                Err(_) => return Err(io::Error::last_os_error()),
            };
        }
        Ok(())
    }

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// See [`StateFile::try_lock`].
    pub fn length(&self) -> io::Result<u64> {
        let length = self.stat()?.st_size;
        u64::try_from(length).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Truncates the file to `length` bytes, or extends it with zeros.
    ///
    /// # Errors
    /// See [`StateFile::try_lock`].
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        let fd = self.0.check()?;
        // SAFETY: the call takes no pointers, and `fd` was checked to be ours.
        match unsafe { libc::ftruncate(fd, offset_of(length, 0)?) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Waits until the written bytes are on the disk. The older content may be overwritten only
    /// after that: a machine that fails before would be left with neither.
    ///
    /// # Errors
    /// See [`StateFile::try_lock`]; also an error of the disk.
    pub fn sync(&self) -> io::Result<()> {
        let fd = self.0.check()?;
        // SAFETY: the call takes no pointers, and `fd` was checked to be ours.
        match unsafe { libc::fdatasync(fd) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn offset_of(offset: u64, further: usize) -> io::Result<libc::off_t> {
    let further = u64::try_from(further).unwrap_or(u64::MAX);
    libc::off_t::try_from(offset.saturating_add(further))
        .map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("nb-state-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_new_file_is_its_owners_alone_and_keeps_what_is_written() {
        let dir = folder("new");
        let path = dir.join("state");
        let file = StateFile::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        file.write_at(0, b"a longer text").unwrap();
        let before = file.version().unwrap();
        file.write_at(2, b"short").unwrap();
        file.set_length(7).unwrap();
        file.sync().unwrap();
        assert_ne!(file.version().unwrap(), before);
        assert_eq!(file.read_at(0, 100).unwrap(), b"a short");
        assert_eq!(file.read_at(2, 3).unwrap(), b"sho");
        assert_eq!(file.read_at(20, 3).unwrap(), b"");
        assert_eq!(file.length().unwrap(), 7);
        for part in [Part::Writer, Part::Deputy, Part::Requests] {
            assert!(file.try_lock(part).unwrap());
            // A process's own lock is not reported: it does not conflict with itself.
            assert_eq!(file.holder(part), None);
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn links_folders_and_files_that_others_write_are_refused() {
        let dir = folder("bad");
        let link = dir.join("link");
        std::fs::write(dir.join("victim"), b"").unwrap();
        symlink(dir.join("victim"), &link).unwrap();
        assert!(StateFile::open(&link).is_err());
        assert!(StateFile::open(&dir).is_err());
        let open = dir.join("open");
        std::fs::write(&open, b"").unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(StateFile::open(&open).is_err());
        assert!(StateFile::open(&dir.join("missing/state")).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_of_somebody_elses_is_refused_and_left_as_it_is() {
        let dir = folder("foreign");
        let path = dir.join("state");
        let opens = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let mode = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(&path, mode).unwrap();
            let is_good = StateFile::check(&path).is_ok();
            assert_eq!(StateFile::open(&path).is_ok(), is_good);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if is_good { 0o600 } else { 0o644 });
            assert_eq!(std::fs::read(&path).unwrap(), content);
            is_good
        };
        for content in [
            &b"a"[..],
            b"#!/bin/sh\n",
            b"nauthilus_backend\n",
            b"\0\xff\x01",
        ] {
            assert!(!opens(content), "{content:?}");
        }
        let mut behind = vec![0; FIRST_PAGE];
        behind[FIRST_PAGE - 1] = 1;
        assert!(!opens(&behind));
        // New, or a request was the first thing to be written to it; of both versions; damaged.
        let mut asked = vec![0; FIRST_PAGE];
        asked.extend_from_slice(b"request 1 0 e3b0\n");
        for content in [
            &b""[..],
            &asked,
            b"nauthilus_backend state 1\nsaved 1\n",
            b"nauthilus_backend state 2   \n\xff",
        ] {
            assert!(opens(content), "{content:?}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
